"""What two nodes say to each other beside media: layouts of handshake datagrams and control frames, and
the protocol's constants.

All integers are big-endian. Sealing, MAC checks of what arrives and everything that happens per packet
are the packet plane's. docs/protocol.md is the specification.
"""

import struct
from dataclasses import dataclass
from enum import IntEnum

import msgpack

from relay.wire.fields import NODE_NAME_CHARS_MAX, U8, U32, WireError, integer, items, text, unpack_map
from relay.wire.messages import NODE_RECORD_BYTES_MAX

# --- constants: unit in the name or beside it, where the number comes from ---

MS = 1_000_000
"""Nanoseconds in a millisecond; every time below is in nanoseconds."""
SECOND = 1_000 * MS

VERSION = 1
"""Version of the hop protocol, in the first two bytes of a handshake datagram and negotiated inside its
payload."""
CIPHER_CHACHA20_POLY1305 = 1
"""Every node takes it; what two nodes use unless both prefer the same other one."""
CIPHER_AES_256_GCM = 2
CIPHER_NAMES = {CIPHER_CHACHA20_POLY1305: "ChaCha20-Poly1305", CIPHER_AES_256_GCM: "AES-256-GCM"}

PROLOGUE = b"edge-relay hop 1"
MAC1_LABEL = b"mac1----"
COOKIE_LABEL = b"cookie--"
PATH_LABEL = b"edge-relay path "

HEADER_BYTES = 16
TAG_BYTES = 16
MAC_BYTES = 16
MACS_BYTES = 2 * MAC_BYTES
SALT_BYTES = 24
INITIATION_HEADER_BYTES = 8
RESPONSE_HEADER_BYTES = 12
COOKIE_REPLY_BYTES = 8 + SALT_BYTES + MAC_BYTES + TAG_BYTES

HANDSHAKE_PAYLOAD_BYTES = 256
"""Bytes of a handshake payload before sealing, at most; an initiation is always padded to it, so that no
response is longer."""

PATHS_MAX = 4
"""Paths of a session: two uplinks and two addresses of the peer, or four uplinks."""

RETRY_MIN = 100 * MS
"""Least time between two initiations; at most 1.5 RTT otherwise. 30 % loss each way fails every second
attempt."""
RETRY_FAST = 2 * SECOND
"""How long an attempt keeps that pace before it backs off."""
RETRY_BACKOFF = 1.5
RETRY_MAX = 5 * SECOND
RETRY_JITTER = 0.2
"""Share of the interval that is random, once backing off: nodes that lost the same region do not return
in step."""
HALF_OPEN_MAX = 8
"""Handshakes of one peer waiting for their second message, each way. At RETRY_MIN this spans an RTT of
800 ms; the backoff covers more."""
HALF_OPEN_LIFE = 15 * SECOND

REKEY_INITIATOR = 120 * SECOND
REKEY_RESPONDER = 140 * SECOND
"""Age of keys at which the side that made them, and then the other, starts a new handshake (WireGuard,
section 6.1, in spirit)."""
REJECT = 180 * SECOND
"""Age at which keys are dropped."""
SIMULTANEOUS = 5 * SECOND
"""Two handshakes in opposite directions that finish this close together are one simultaneous opening."""
COOKIE_LIFE = 120 * SECOND

SUSPECT = 3 * SECOND
"""Silence that starts a handshake: 12 reports of an idle hop lost, 5e-7 at 30 % loss."""
SUSPECT_SENDING = 500 * MS
"""The same while media is sent, which is reported on every 10 ms: a peer that was started anew is known again
within a second. Longer than a stall of the event loop by 200 ms; a handshake too many costs a kilobyte."""
SILENT = 15 * SECOND
"""Silence that changes the state of the session."""
CONFIRM_RETRY_MIN = 20 * MS
"""Least time between key confirmations, half an RTT otherwise, until the peer's first packet under the
new keys."""
CONFIRM_RETRY_MAX = 200 * MS
CONFIRM_GIVE_UP = 2 * SECOND
"""Keys that the peer has not taken after that are replaced by another handshake."""

CHALLENGE_BYTES = 8
CHALLENGE_FIRST = 20 * MS
"""Between the first two challenges of an address: media waits for the answer, and the first is often lost."""
CHALLENGE_BACKOFF = 1.5
CHALLENGE_RETRY = 100 * MS
"""What the interval grows to, or to one RTT if that is longer."""
CHALLENGE_TRIES = 12
"""0.51^12: one rebinding in 3,000 needs a second round at 30 % loss each way."""
CHALLENGE_ADDRESSES_MAX = 4
"""Unproven addresses of one peer that are challenged at a time."""

RESEND_MIN = 20 * MS
"""Least time before a control message is sent again, half an RTT otherwise."""
RESEND_MAX = 200 * MS
RESEND_BACKOFF = 1.25
CHANNEL_QUEUE_MAX = 64
"""Unacknowledged control messages, sent or waiting."""
CHANNEL_FLIGHT_MAX = 33
"""Messages in flight: the oldest unacknowledged one and the 32 that an acknowledgement's bitmap can
name."""

MTU_BASE = 1232
"""UDP payload bytes that every path is taken to carry: IPv6's least MTU of 1280 less 40 and 8."""
MTU_SIZES = (1272, 1312, 1352, 1392, 1412, 1432, 1452, 1472)
"""UDP payload bytes worth a search: tunnels (1392..1432), PPPoE, Ethernet with IPv6 (1452) and with IPv4
(1472)."""
MTU_MAX_IPV6 = 1452
MTU_MAX_IPV4 = 1472
MTU_TRIES = 12
"""Probes of one size before it counts as too large: 0.51^12 = 3e-4 at 30 % loss each way (RFC 8899 takes
3, for links without loss)."""
MTU_PROBE_INTERVAL = 100 * MS
"""Least time between probes, one RTT otherwise."""
MTU_RAISE = 600 * SECOND
"""Between a finished search and the next (RFC 8899 section 5.1.1, PMTU_RAISE_TIMER)."""
MTU_CONFIRM = 30 * SECOND
"""Between confirmations that the size found still passes (RFC 8899 section 5.1.1, CONFIRMATION_TIMER)."""


# --- handshake datagrams ---


class DatagramType(IntEnum):
    """First byte of every datagram of a hop. Only ever appended to."""

    INITIATION = 1
    RESPONSE = 2
    COOKIE_REPLY = 3
    SOURCE = 4
    REPAIR = 5
    REPORT = 6
    CONTROL = 7


_INITIATION = struct.Struct(">BBHI")
_RESPONSE = struct.Struct(">BBHII")
_COOKIE_REPLY = struct.Struct(">B3xI")


@dataclass(frozen=True, slots=True)
class Initiation:
    """A datagram of type 1 in its parts."""

    sender_index: int
    noise: bytes


@dataclass(frozen=True, slots=True)
class Response:
    """A datagram of type 2 in its parts."""

    sender_index: int
    receiver_index: int
    noise: bytes


@dataclass(frozen=True, slots=True)
class CookieReply:
    """A datagram of type 3 in its parts."""

    receiver_index: int
    salt: bytes
    sealed: bytes


def encode_initiation(initiation: Initiation) -> bytes:
    """Everything before mac1."""
    return _INITIATION.pack(DatagramType.INITIATION, VERSION, 0, initiation.sender_index) + initiation.noise


def encode_response(response: Response) -> bytes:
    """Everything before mac1."""
    head = _RESPONSE.pack(DatagramType.RESPONSE, VERSION, 0, response.sender_index, response.receiver_index)
    return head + response.noise


def decode_handshake(datagram: bytes) -> Initiation | Response | CookieReply:
    """The parts of a handshake datagram, MACs left off (the packet plane has checked them). Raises
    WireError."""
    kind = datagram[0] if datagram else 0
    if kind == DatagramType.COOKIE_REPLY and len(datagram) == COOKIE_REPLY_BYTES:
        _, index = _COOKIE_REPLY.unpack_from(datagram)
        return CookieReply(index, datagram[8 : 8 + SALT_BYTES], datagram[8 + SALT_BYTES :])
    head = {DatagramType.INITIATION: INITIATION_HEADER_BYTES, DatagramType.RESPONSE: RESPONSE_HEADER_BYTES}
    if kind not in head or len(datagram) < head[DatagramType(kind)] + MACS_BYTES:
        raise WireError("not a handshake datagram")
    if datagram[1] != VERSION:
        raise WireError(f"handshake version {datagram[1]}, {VERSION} is spoken here")
    if kind == DatagramType.INITIATION:
        _, _, _, sender = _INITIATION.unpack_from(datagram)
        return Initiation(sender, datagram[INITIATION_HEADER_BYTES:-MACS_BYTES])
    _, _, _, sender, receiver = _RESPONSE.unpack_from(datagram)
    return Response(sender, receiver, datagram[RESPONSE_HEADER_BYTES:-MACS_BYTES])


# --- handshake payloads ---


@dataclass(frozen=True, slots=True)
class Hello:
    """What each side says inside the handshake. A response names exactly one version and one cipher, out
    of those offered."""

    instance: int
    """Random 64 bits, drawn once by each process: a new one means that the peer has started anew."""
    number: int
    """Counts the initiations of this instance to this peer, 32 bits; a response repeats the number that
    it answers."""
    path: int
    """Path id, 0..255."""
    name: str
    """The node's name; empty when its record says it."""
    versions: tuple[int, ...] = (VERSION,)
    ciphers: tuple[int, ...] = (CIPHER_CHACHA20_POLY1305,)
    """Best first: the order in which the node measured them to be fast."""
    record: bytes = b""
    """The node's signed record, when it has one."""


_LENGTH = struct.Struct(">H")


def encode_hello(hello: Hello, *, pad: bool) -> bytes:
    """Length, map, and zeros up to HANDSHAKE_PAYLOAD_BYTES when `pad`. Raises WireError when it does not
    fit."""
    fields: dict[str, object] = {
        "i": hello.instance,
        "n": hello.number,
        "p": hello.path,
        "v": hello.versions,
        "c": hello.ciphers,
    }
    if hello.name:
        fields["name"] = hello.name
    if hello.record:
        fields["record"] = hello.record
    packed: bytes = msgpack.packb(fields)
    data = _LENGTH.pack(len(packed)) + packed
    if len(data) > HANDSHAKE_PAYLOAD_BYTES:
        raise WireError(f"a handshake payload of {len(data)} bytes, {HANDSHAKE_PAYLOAD_BYTES} allowed")
    return data.ljust(HANDSHAKE_PAYLOAD_BYTES, b"\0") if pad else data


def decode_hello(payload: bytes) -> Hello:
    """Raises WireError."""
    if not _LENGTH.size <= len(payload) <= HANDSHAKE_PAYLOAD_BYTES:
        raise WireError("a handshake payload of the wrong size")
    (length,) = _LENGTH.unpack_from(payload)
    packed = payload[_LENGTH.size : _LENGTH.size + length]
    if len(packed) != length or any(payload[_LENGTH.size + length :]):
        raise WireError("a handshake payload with a wrong length or padding")
    fields = unpack_map(packed, HANDSHAKE_PAYLOAD_BYTES)
    record = fields.get("record", b"")
    if not isinstance(record, bytes) or len(record) > NODE_RECORD_BYTES_MAX:
        raise WireError(f"record must be at most {NODE_RECORD_BYTES_MAX} bytes")
    return Hello(
        instance=integer(fields, "i", 0, 2**64 - 1),
        number=integer(fields, "n", 0, U32),
        path=integer(fields, "p", 0, U8),
        name=text(fields, "name", NODE_NAME_CHARS_MAX, empty=True),
        versions=_small_integers(fields, "v"),
        ciphers=_small_integers(fields, "c"),
        record=record,
    )


def _small_integers(fields: dict[str, object], key: str) -> tuple[int, ...]:
    values = items(fields, key, 8)
    return tuple(integer({key: value}, key, 0, U8) for value in values)


# --- control frames (plaintext of a type 7 datagram) ---


class FrameKind(IntEnum):
    """First byte of a control frame. Only ever appended to."""

    KEEPALIVE = 1
    RELIABLE = 2
    ACK = 3
    PATH_CHALLENGE = 4
    PATH_RESPONSE = 5
    MTU_PROBE = 6
    MTU_ACK = 7
    LATEST = 8


@dataclass(frozen=True, slots=True)
class Keepalive:
    """Says that the sender is there and holds these keys."""

    answer: bool
    """The receiver is asked to send a keep-alive back: the sender waits for a first packet under these
    keys."""


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """Which reliable messages have arrived."""

    next: int
    """The message number expected next: all before it have arrived (32-bit serial number)."""
    bitmap: int
    """Bit i (1 << i) says that number next + 1 + i has arrived."""


@dataclass(frozen=True, slots=True)
class Reliable:
    """One message of the reliable channel, with an acknowledgement for the other direction."""

    number: int
    ack: Acknowledgement
    message: bytes


@dataclass(frozen=True, slots=True)
class PathChallenge:
    """Asks for the same token back, from the address that this was sent to."""

    token: bytes


@dataclass(frozen=True, slots=True)
class PathResponse:
    token: bytes


@dataclass(frozen=True, slots=True)
class MtuProbe:
    """Padded so that the UDP payload is `size` bytes."""

    probe: int
    """Chosen by the sender, 16 bits, so that an answer to an older probe of another size is not taken for
    this one's."""
    size: int


@dataclass(frozen=True, slots=True)
class MtuAck:
    probe: int
    size: int


@dataclass(frozen=True, slots=True)
class Latest:
    """A message that may get lost, and of whose kind only the last one sent counts."""

    number: int
    """Counts the frames of this kind that were sent to this instance of the peer (32-bit serial number)."""
    message: bytes


Frame = Keepalive | Reliable | Acknowledgement | PathChallenge | PathResponse | MtuProbe | MtuAck | Latest

CONTROL_BYTES_MIN = HEADER_BYTES + 1 + CHALLENGE_BYTES + TAG_BYTES
"""Bytes of the smallest control datagram, which is also a challenge's size: any datagram pays for the
challenge that it causes."""

_KEEPALIVE = struct.Struct(">BB7x")
_ACK = struct.Struct(">BII")
_RELIABLE = struct.Struct(">BIII")
_LATEST = struct.Struct(">BI")
_MTU = struct.Struct(">BHH4x")


def encode_frame(frame: Frame) -> bytes:  # noqa: PLR0911 - one line a kind
    """The plaintext of a control datagram."""
    match frame:
        case Keepalive(answer):
            return _KEEPALIVE.pack(FrameKind.KEEPALIVE, answer)
        case Acknowledgement(next_number, bitmap):
            return _ACK.pack(FrameKind.ACK, next_number, bitmap)
        case Reliable(number, ack, message):
            return _RELIABLE.pack(FrameKind.RELIABLE, number, ack.next, ack.bitmap) + message
        case PathChallenge(token):
            return bytes([FrameKind.PATH_CHALLENGE]) + token
        case PathResponse(token):
            return bytes([FrameKind.PATH_RESPONSE]) + token
        case MtuProbe(probe, size):
            return _MTU.pack(FrameKind.MTU_PROBE, probe, size)
        case MtuAck(probe, size):
            return _MTU.pack(FrameKind.MTU_ACK, probe, size)
        case Latest(number, message):
            return _LATEST.pack(FrameKind.LATEST, number) + message


def decode_frame(data: bytes) -> Frame:
    """The frame in an authenticated control datagram; padding after fixed layouts is ignored. Raises
    WireError."""
    try:
        kind = FrameKind(data[0])
        if kind == FrameKind.KEEPALIVE:
            return Keepalive(bool(_KEEPALIVE.unpack_from(data)[1] & 1))
        if kind == FrameKind.ACK:
            return Acknowledgement(*_ACK.unpack_from(data)[1:])
        if kind == FrameKind.RELIABLE:
            _, number, *ack = _RELIABLE.unpack_from(data)
            return Reliable(number, Acknowledgement(*ack), data[_RELIABLE.size :])
        if kind == FrameKind.LATEST:
            return Latest(_LATEST.unpack_from(data)[1], data[_LATEST.size :])
        if kind in (FrameKind.PATH_CHALLENGE, FrameKind.PATH_RESPONSE):
            token = struct.unpack_from(f">x{CHALLENGE_BYTES}s", data)[0]
            return PathChallenge(token) if kind == FrameKind.PATH_CHALLENGE else PathResponse(token)
        _, probe, size = _MTU.unpack_from(data)
        return MtuProbe(probe, size) if kind == FrameKind.MTU_PROBE else MtuAck(probe, size)
    except (struct.error, ValueError, IndexError) as error:
        raise WireError("not a control frame") from error
