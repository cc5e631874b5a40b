"""A stream of a node and its tracks: what `streams` and `feedback` know of them."""

from dataclasses import dataclass, field

from relay.config import RtpDestination
from relay.core.keyframes import PEER, KeyFrames
from relay.core.routing import Candidate, Choice
from relay.media.rtp import TrackFormat, TrackSource
from relay.services.hops import Hop

NOT_CHOSEN = Choice(None, "not yet chosen")


@dataclass(slots=True)
class Track:
    """A track in the packet plane."""

    id: int
    format: TrackFormat
    alias: int
    keys: KeyFrames = field(default_factory=lambda: KeyFrames(PEER))
    ports: tuple[int, ...] = ()
    fir: bool = False
    """Its encoder is asked for key frames by FIR, not by PLI."""
    egresses: dict[RtpDestination, int] = field(default_factory=dict)
    bytes_seen: int = 0
    bitrate_bps: float = 0.0
    peak_bps: float = 0.0
    """The highest bitrate of its source: what it is taken to need."""
    target_bps: float | None = None
    """What the hop that it is sent over leaves it; None: not known."""
    broken_looks: int = 0
    """For so many looks in a row packets were missing for good and no key frame had come since."""
    key_requests: int = 0
    """Key frames asked for of the peer that it comes from."""


@dataclass(slots=True)
class Stream:
    name: str
    alias: int
    """Given by the node that it enters at."""
    epoch: int
    latency_ms: int | None = None
    budget_ms: int = 0
    """Repair budget that its publisher gave it; 0 where it enters here."""
    tracks: list[Track] = field(default_factory=list)
    sources: tuple[TrackSource, ...] = ()
    """How it enters here; empty when it comes from a peer."""
    source: Hop | None = None
    """The peer it comes from."""
    route: Hop | None = None
    """The peer that it is sent, or offered, to."""
    accepted: bool = False
    offered: bool = False
    choice: Choice = NOT_CHOSEN
    candidates: list[Candidate] = field(default_factory=list)
    refusals: dict[str, tuple[str, int]] = field(default_factory=dict)
    """By peer: the reason, and until when it holds (ns)."""

    @property
    def enters_here(self) -> bool:
        return bool(self.sources)
