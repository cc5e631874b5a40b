"""SDP for RTP (RFC 8866): what a source's description says about its media, and a description for players.

One payload type a media section, the first on its m= line. Read are c=, m= and the attributes rtpmap, fmtp,
rtcp (RFC 3605), rtcp-mux (RFC 5761) and rtcp-fb (RFC 4585); everything else is skipped, since it changes
nothing about receiving RTP. Media that cannot be received as described are an error that names the line,
never left out.
"""

import ipaddress
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from relay.errors import RelayError
from relay.wire.messages import FMTP_CHARS_MAX, TRACKS_MAX

MAX_BYTES: Final = 1 << 16
"""Longest description that is read, in bytes of UTF-8."""

_STATIC: Final = {0: "PCMU/8000", 8: "PCMA/8000", 33: "MP2T/90000"}  # RFC 3551 section 6
_LIKE_RTCP: Final = range(64, 96)  # with the marker bit these are RTCP's packet types, RFC 5761 section 4
_LAST_PORT: Final = 65534  # RTCP is on the next
_CODEC = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,31}/[1-9][0-9]{0,7}(/[1-9][0-9]?)?", re.ASCII)
_NUMBER = re.compile(r"[0-9]{1,5}", re.ASCII)
_NAME = re.compile(r"(?=.{1,253}$)([A-Za-z0-9_-]{1,63}\.)*(?![0-9]+$)[A-Za-z0-9_-]{1,63}", re.ASCII)


class SdpError(RelayError, ValueError):
    """A session description that cannot be used. `line` counts from 1; 0 is the description as a whole."""

    def __init__(self, line: int, sentence: str) -> None:
        self.line = line
        super().__init__(f"line {line}: {sentence}" if line else sentence)


@dataclass(frozen=True, slots=True)
class Media:
    """One RTP session of a description."""

    kind: str
    """"video", "audio", or "av" for a multiplex of both (MP2T)."""
    address: str
    """Where RTP is sent to: an IP address without brackets, or a host name."""
    port: int
    """UDP port of RTP."""
    rtcp_port: int
    """UDP port of RTCP: the next one, RTP's own where the two are multiplexed, or as a=rtcp says."""
    payload_type: int
    codec: str
    """As in a=rtpmap: "H264/90000", "opus/48000/2"."""
    fmtp: str = ""
    """Format parameters as in a=fmtp; empty when there are none."""
    fir: bool = False
    """By a=rtcp-fb, key frames are asked for by FIR (RFC 5104) and not by PLI."""


@dataclass(frozen=True, slots=True)
class Sdp:
    """A session description."""

    name: str
    """The session's name, s=; "-" stands for none."""
    media: tuple[Media, ...]


class Track(Protocol):
    """What `write` wants to know about a track; as in `Media`."""

    @property
    def kind(self) -> str: ...
    @property
    def codec(self) -> str: ...
    @property
    def payload_type(self) -> int: ...
    @property
    def fmtp(self) -> str: ...


def parse(text: str) -> Sdp:
    """Read a session description of at most 64 KB. Raises SdpError."""
    if len(text) > MAX_BYTES or len(text.encode(errors="replace")) > MAX_BYTES:
        raise SdpError(0, f"a session description has at most {MAX_BYTES} bytes")
    description = _Description()
    for number, line in enumerate(re.split("\r?\n", text), start=1):
        if line:
            description.read(number, line)
    return description.result()


class _Section:
    """An m= line and what follows it, until its last line is known."""

    def __init__(self, line: int, value: str, address: str | None) -> None:
        fields = value.split(" ")
        if len(fields) < 4:
            raise SdpError(line, "m= wants: media, port, protocol, payload type")
        self.line = line
        self.type, port, protocol, payload_type = fields[:4]
        if self.type not in ("audio", "video"):
            raise SdpError(line, f"media {self.type!r} is not carried, only audio and video")
        if protocol not in ("RTP/AVP", "RTP/AVPF"):
            raise SdpError(line, f"protocol {protocol!r} is not carried, only RTP/AVP and RTP/AVPF")
        self.port = _number(line, "port", port, range(1, _LAST_PORT + 1))
        self.payload_type = _number(line, "payload type", payload_type, range(128))
        if self.payload_type in _LIKE_RTCP:
            raise SdpError(line, f"payload type {self.payload_type} cannot be told from RTCP (RFC 5761)")
        self.address = address
        self.codec = _STATIC.get(self.payload_type)
        self.fmtp = ""
        self.rtcp_port = self.port + 1
        self.multiplexed = False
        self.feedback: set[str] = set()

    def rtpmap(self, line: int, value: str) -> None:
        if (codec := self._own(line, "rtpmap", value)) is None:
            return
        if not _CODEC.fullmatch(codec):
            raise SdpError(
                line, f"a=rtpmap wants a codec such as H264/90000 or opus/48000/2, not {codec[:64]!r}"
            )
        self.codec = codec

    def format_parameters(self, line: int, value: str) -> None:
        if (fmtp := self._own(line, "fmtp", value)) is None:
            return
        if len(fmtp) > FMTP_CHARS_MAX or not fmtp.isprintable():
            raise SdpError(line, f"a=fmtp wants printable text of at most {FMTP_CHARS_MAX} characters")
        self.fmtp = fmtp

    def rtcp(self, line: int, value: str) -> None:
        self.rtcp_port = _number(line, "RTCP port", value.partition(" ")[0], range(1, 65536))

    def multiplex(self, _line: int, _value: str) -> None:
        self.multiplexed = True

    def feedback_message(self, line: int, value: str) -> None:
        payload_type, _, message = value.partition(" ")
        if (
            payload_type == "*"
            or _number(line, "payload type", payload_type, range(128)) == self.payload_type
        ):
            self.feedback.add(message.strip(" "))

    def _own(self, line: int, name: str, value: str) -> str | None:
        """What the attribute says about this section's payload type; None when it is about another."""
        payload_type, space, rest = value.partition(" ")
        rest = rest.strip(" ")
        if not space or not rest:
            raise SdpError(line, f"a={name} wants a payload type and a value")
        return rest if _number(line, "payload type", payload_type, range(128)) == self.payload_type else None

    def result(self) -> Media:
        if self.address is None:
            raise SdpError(self.line, "this media has no c= line, and neither has the session")
        if self.codec is None:
            raise SdpError(self.line, f"payload type {self.payload_type} wants a line a=rtpmap")
        return Media(
            kind="av" if _is_multiplex(self.codec) else self.type,
            address=self.address,
            port=self.port,
            rtcp_port=self.port if self.multiplexed else self.rtcp_port,
            payload_type=self.payload_type,
            codec=self.codec,
            fmtp=self.fmtp,
            fir="ccm fir" in self.feedback and "nack pli" not in self.feedback,
        )


_ATTRIBUTES: Final[dict[str, Callable[[_Section, int, str], None]]] = {
    "rtpmap": _Section.rtpmap,
    "fmtp": _Section.format_parameters,
    "rtcp": _Section.rtcp,
    "rtcp-mux": _Section.multiplex,
    "rtcp-fb": _Section.feedback_message,
}


class _Description:
    """What has been read so far, line by line."""

    def __init__(self) -> None:
        self._started = False
        self._name = "-"
        self._address: str | None = None
        self._sections: list[_Section] = []

    def read(self, number: int, line: str) -> None:
        kind, equals, value = line.partition("=")
        if not equals or len(kind) != 1 or not kind.islower() or not kind.isascii():
            raise SdpError(number, "every line wants the form x=value, x being one small letter")
        if not self._started and line != "v=0":
            raise SdpError(number, "a session description starts with v=0")
        self._started = True
        match kind:
            case "s":
                self._name = value
            case "c" if self._sections:
                self._sections[-1].address = _connection(number, value)
            case "c":
                self._address = _connection(number, value)
            case "m" if len(self._sections) == TRACKS_MAX:
                raise SdpError(number, f"a stream has at most {TRACKS_MAX} tracks")
            case "m":
                self._sections.append(_Section(number, value, self._address))
            case "a" if self._sections:
                attribute, _, value = value.partition(":")
                if handler := _ATTRIBUTES.get(attribute):
                    handler(self._sections[-1], number, value)

    def result(self) -> Sdp:
        if not self._sections:
            raise SdpError(0, "a session description wants at least one m= line")
        return Sdp(self._name, tuple(section.result() for section in self._sections))


def _number(line: int, what: str, text: str, allowed: range) -> int:
    if not _NUMBER.fullmatch(text) or int(text) not in allowed:
        raise SdpError(line, f"{what} {text[:16]!r} is not a number from {allowed[0]} to {allowed[-1]}")
    return int(text)


def _connection(line: int, value: str) -> str:
    """The address of a c= line, RFC 8866 section 5.7."""
    fields = value.split(" ")
    if len(fields) != 3 or fields[0] != "IN" or fields[1] not in ("IP4", "IP6"):
        raise SdpError(line, "c= wants: IN, IP4 or IP6, one address")
    host = fields[2].partition("/")[0]  # a multicast address goes on with a TTL
    if (family := _family(host)) is None or family != fields[1]:
        raise SdpError(line, f"{host[:64]!r} is not an address of kind {fields[1]}")
    if host != fields[2] or (not _NAME.fullmatch(host) and ipaddress.ip_address(host).is_multicast):
        raise SdpError(line, f"{fields[2][:64]!r} is not one unicast address, and others are not received")
    return host


def _family(host: str) -> str | None:
    """SDP's address type of an IP literal or a host name; None when it is neither."""
    if _NAME.fullmatch(host):
        return "IP4"
    try:
        return f"IP{ipaddress.ip_address(host).version}"
    except ValueError:
        return None


def _is_multiplex(codec: str) -> bool:
    return codec.partition("/")[0].upper() == "MP2T"


def write(name: str, tracks: Sequence[Track], host: str, port: int) -> str:
    """A description for a player at `host` that takes the first track at `port`, the others every 2 ports.

    Raises SdpError for what SDP cannot say: a port beyond 65534, a host or text that would break its lines.
    """
    last = port + 2 * (len(tracks) - 1)
    if port < 1 or last > _LAST_PORT:
        raise SdpError(0, f"{len(tracks)} tracks from port {port} on want ports beyond 1 to {_LAST_PORT}")
    if (family := _family(host)) is None:
        raise SdpError(0, f"{host[:64]!r} is not a host")
    origin = f"IN {family} {host}"
    lines = ["v=0", f"o=- 0 0 {origin}", f"s={name}", f"c={origin}", "t=0 0"]
    for i, track in enumerate(tracks):
        lines += _section(track, port + 2 * i)
    if not all(line.isprintable() for line in lines):
        raise SdpError(0, "a name or a format parameter has characters that cannot be printed")
    return "".join(f"{line}\r\n" for line in lines)


def _section(track: Track, port: int) -> Iterable[str]:
    yield f"m={'audio' if track.kind == 'audio' else 'video'} {port} RTP/AVP {track.payload_type}"
    yield f"a=rtpmap:{track.payload_type} {track.codec}"
    if track.fmtp:
        yield f"a=fmtp:{track.payload_type} {track.fmtp}"
