"""What an RTP stream is made of, whether a configuration, an SDP file or a peer says so."""

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from relay.config import Address, RtpIngest
from relay.wire import messages, sdp


@dataclass(frozen=True, slots=True)
class TrackFormat:
    """One track of a stream."""

    kind: str
    """"video", "audio", or "av" for both in one."""
    codec: str
    """As in SDP's rtpmap, "H264/90000"."""
    payload_type: int
    clock_rate: int
    """Hz."""
    fmtp: str = ""

    def message(self, alias: int) -> messages.Track:
        return messages.Track(alias, self.kind, self.codec, self.payload_type, self.clock_rate, self.fmtp)


@dataclass(frozen=True, slots=True)
class TrackSource:
    """A track that enters here, and where."""

    format: TrackFormat
    listen: Address
    """RTP, and RTCP that is multiplexed with it."""
    rtcp_port: int
    """RTCP of its own; `listen`'s where the two are always multiplexed."""
    fir: bool = False
    """Its encoder is asked for key frames by FIR, not by PLI."""


def format_of(track: messages.Track) -> TrackFormat:
    """The format that a peer's publication gives."""
    return TrackFormat(track.kind, track.codec, track.payload_type, track.clock_rate, track.fmtp)


def sources_of(ingest: RtpIngest, read: Callable[[Path], str]) -> tuple[TrackSource, ...]:
    """The tracks of an `[[ingest.rtp]]`, from its SDP file where it names one.

    Raises OSError and sdp.SdpError for a file that cannot be used.
    """
    if ingest.sdp is None:
        return tuple(
            TrackSource(
                TrackFormat(t.kind, t.codec, t.payload_type, t.clock_rate), t.listen, t.listen.port + 1
            )
            for t in ingest.tracks
        )
    return tuple(
        TrackSource(
            TrackFormat(m.kind, m.codec, m.payload_type, int(m.codec.split("/")[1]), m.fmtp or ""),
            Address(_listener(m.address), m.port),
            m.rtcp_port,
            m.fir,
        )
        for m in sdp.parse(read(ingest.sdp)).media
    )


def _listener(destination: str) -> str:
    """Where to listen for what an encoder sends to an address, an IP literal or a host name.

    Behind NAT, or by a name, that is no address of this machine; so all of its family are listened on. Only a
    loopback address is taken as it is written: what it describes cannot come from elsewhere.
    """
    try:
        ip = ipaddress.ip_address(destination)
    except ValueError:
        return "0.0.0.0"
    if ip.is_loopback:
        return destination
    return "::" if ip.version == 6 else "0.0.0.0"
