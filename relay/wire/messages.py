"""The control messages of a hop: msgpack maps with string keys, carried one by one by the reliable channel.

Unknown fields are ignored, so that a newer peer may add some; an unknown kind is told apart from a wrong
message (`UnknownMessage`), so that it can be counted and passed over. docs/protocol.md, section Messages,
is the specification; `coding` packs them.
"""

from dataclasses import dataclass
from enum import IntEnum

from relay.wire.fields import WireError
from relay.wire.health import Digest, Summary
from relay.wire.paths import HopsBefore, HopsBehind

MESSAGE_BYTES_MAX = 1024
"""Bytes of one packed message: with the frame's header and the seal it fits the smallest datagram."""
CODEC_CHARS_MAX = 64
FMTP_CHARS_MAX = 1024
REASON_CHARS_MAX = 200
TRACKS_MAX = 16
"""Tracks of one publication."""
BUDGET_MS_MAX = 60_000
"""Milliseconds that a publication may ask for."""
PATH_NODES_MAX = 3
"""Nodes that a stream has passed before the hop that it is offered on: its origin and two relays."""
CATALOGUE_ENTRIES_MAX = 64
"""Streams on one page."""
FINGERPRINT_BYTES = 8
"""Of a key, where the whole of it is not needed."""
NODE_RECORD_BYTES_MAX = 200
"""A signed node record (core/record.py), in a message or in a handshake."""
RECORDS_MAX = 4
"""Records in one message: as many of the longest as fit."""

TRACK_KINDS = ("video", "audio", "av")


class UnknownMessage(WireError):
    """A well-formed message of a kind that this version does not know."""


class Kind(IntEnum):
    """The value under "t". Only ever appended to."""

    PUBLISH = 1
    PUBLISH_OK = 2
    PUBLISH_REFUSED = 3
    UNPUBLISH = 4
    KEY_FRAME_REQUEST = 5
    DIGEST = 6
    SUMMARY = 7
    REVOCATIONS = 8
    RECORDS = 9
    LIST_VERSION = 10
    ANNOUNCE = 11
    ASK = 12
    CATALOGUE = 13
    SUBSCRIBE = 14
    UNSUBSCRIBE = 15
    UNAVAILABLE = 16
    ASK_REGIONS = 17
    REGIONS = 18
    GOODBYE = 19
    HOPS_BEFORE = 20
    HOPS_BEHIND = 21
    MOVE = 22


@dataclass(frozen=True, slots=True)
class Track:
    """One track of a publication."""

    alias: int
    """Names the track in inner headers: 0..255, unique in its publication."""
    kind: str
    """"video", "audio", or "av" for a multiplex such as MPEG-TS."""
    codec: str
    """As in SDP's rtpmap: "H264/90000", "opus/48000/2"."""
    payload_type: int
    """RTP payload type at the origin, 0..127."""
    clock_rate: int
    """RTP clock in Hz."""
    fmtp: str = ""
    """SDP format parameters, as given by the source; empty when there are none."""


@dataclass(frozen=True, slots=True)
class Publish:
    """The sender offers a stream: its packets may follow as soon as this is acknowledged by PublishOk."""

    stream: str
    """The stream's name in the fleet, 1..64 printable characters."""
    alias: int
    """Names the stream in inner headers from this sender, 0..65535."""
    epoch: int
    """Publication epoch, 0..255: tells a stream's new publication from its old one."""
    budget_ms: int
    """What repair on this hop may add beyond propagation, milliseconds."""
    tracks: tuple[Track, ...]
    path: tuple[str, ...] = ()
    """Names of the nodes that the stream has passed, the one that it entered at first, the sender last."""
    behind_ms: int = 0
    """The repair budgets of the hops before this one, together."""
    rtt_ms: int = 0
    """The longest round trip of the hops before this one."""
    latency_ms: int = 0
    """What is left of the stream's latency for this hop and those after it, propagation included; 0: no
    limit."""
    serial: int = 0
    """How often the node that it enters at has sent it elsewhere, 32 bits; of what a region sends on, 0."""
    lost: bool = False
    """Nothing comes of it to the sender now; what comes will be sent."""
    standby: bool = False
    """It is sent to another region, and held back here until this one asks for it."""


@dataclass(frozen=True, slots=True)
class PublishOk:
    """The receiver takes the publication. Said again when `beyond` has changed."""

    alias: int
    epoch: int
    beyond: tuple[int, ...] = ()
    """Round-trip times in ms of the hops that the stream takes after the receiver, on the longest way."""


@dataclass(frozen=True, slots=True)
class PublishRefused:
    """The receiver does not take the publication, and says why."""

    alias: int
    epoch: int
    reason: str
    instead: str = ""
    """Name of a region that has room for it, as far as the receiver knows; empty: none."""
    serial: int = 0
    """That of the same publisher's later publication elsewhere, which stands in the way; 0: none does."""


@dataclass(frozen=True, slots=True)
class Unpublish:
    """The publication has ended, and why."""

    alias: int
    epoch: int
    reason: str


@dataclass(frozen=True, slots=True)
class KeyFrameRequest:
    """The receiver of a publication needs a key frame of one of its tracks."""

    alias: int
    epoch: int
    track: int
    """The track's alias."""


@dataclass(frozen=True, slots=True)
class RevocationList:
    """The newest list of revoked keys that the sender has; the receiver checks it and passes it on."""

    signed: bytes
    """As the fleet's key has signed it (core/record.py)."""


@dataclass(frozen=True, slots=True)
class Records:
    """Records that were signed anew: of the receiver, or of any node if it is a region."""

    records: tuple[bytes, ...]
    """As the fleet's key has signed them (core/record.py)."""


@dataclass(frozen=True, slots=True)
class ListVersion:
    """The sender is a region, and this is the state of its list of streams (core/directory.py)."""

    version: int
    """Of the list: changes since the process began, 32 bits."""
    stamp: int
    """The highest that it has seen, 32 bits."""


@dataclass(frozen=True, slots=True)
class Announce:
    """A stream is published at the sender, or no longer is."""

    stream: str
    version: int
    """Of the list, with this change."""
    stamp: int
    """Of the publication; 0: it has ended."""
    publisher: bytes = b""
    """Fingerprint of the key of the node that it enters at (core/record.py), 8 bytes; empty: not known."""
    serial: int = 0
    standby: bool = False
    """Both as in Publish."""


@dataclass(frozen=True, slots=True)
class Ask:
    """The sender wants the receiver's whole list."""


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    """As in Announce."""

    stream: str
    stamp: int
    publisher: bytes = b""
    serial: int = 0
    standby: bool = False


@dataclass(frozen=True, slots=True)
class Catalogue:
    """A page of the sender's list."""

    version: int
    page: int
    """Counted from 0."""
    last: bool
    entries: tuple[CatalogueEntry, ...]


@dataclass(frozen=True, slots=True)
class Subscribe:
    """The sender wants to be offered this stream, now or when it comes. Said again with another `standby`, it
    changes that alone."""

    stream: str
    standby: bool = False
    """It has the stream from another peer: it is to be sent nothing until it asks for it."""
    since: tuple[int, ...] = ()
    """Of each track, in the order of the publication, the first origin sequence that it has not got: what was
    kept from there on is to be sent, too. Empty: nothing that was kept."""


@dataclass(frozen=True, slots=True)
class Unsubscribe:
    """The sender no longer wants it."""

    stream: str


@dataclass(frozen=True, slots=True)
class Unavailable:
    """The stream cannot be offered to a subscriber now."""

    stream: str
    kept: bool
    """The subscription stands, and the stream will be offered when it comes."""
    reason: str
    instead: str = ""
    """As in PublishRefused."""


@dataclass(frozen=True, slots=True)
class Move:
    """The receiver is to send the stream elsewhere, or ask for it elsewhere: the sender goes on with it until
    then, if it can."""

    stream: str
    reason: str
    instead: str = ""
    """As in PublishRefused."""


@dataclass(frozen=True, slots=True)
class AskRegions:
    """The sender wants to know which regions the receiver knows."""


@dataclass(frozen=True, slots=True)
class Regions:
    """Some of the regions that the sender is or speaks with; several messages tell of all of them."""

    records: tuple[bytes, ...]
    """As the fleet's key has signed them (core/record.py)."""


@dataclass(frozen=True, slots=True)
class Goodbye:
    """The sender gives up the session and will call again when it wants one; it is not to be called."""


Health = Digest | Summary
State = Health | HopsBefore | HopsBehind
"""Messages of which only the last counts: they travel in frames of their own, not in the reliable channel."""
Message = (
    KeyFrameRequest
    | Publish
    | PublishOk
    | PublishRefused
    | RevocationList
    | Records
    | Unpublish
    | ListVersion
    | Announce
    | Ask
    | Catalogue
    | Subscribe
    | Unsubscribe
    | Unavailable
    | Move
    | AskRegions
    | Regions
    | Goodbye
    | State
)
