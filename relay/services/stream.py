"""A stream of a node, its tracks and its publications: what the services know of them."""

from dataclasses import dataclass, field

from relay.config import RtpDestination
from relay.core.keyframes import PEER, KeyFrames
from relay.core.routing import Candidate, Choice, Router
from relay.media.rtp import TrackFormat, TrackSource
from relay.services.hops import Hop
from relay.wire.messages import Publish

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
class Publication:
    """A stream as it is offered, and then sent, to one peer."""

    hop: Hop
    alias: int
    epoch: int
    offered: Publish | None = None
    """What the peer was last told; None: nothing yet, or it is to be told again."""
    accepted: bool = False
    beyond: tuple[int, ...] = ()
    """Round-trip times, ms, of the hops that it takes after the peer."""
    kept_until_ns: int | None = None
    """It was held back before, and the peer may still ask for what it has not got; None: no longer."""


@dataclass(slots=True)
class Standby:
    """Another peer that a stream can come from at once, when the one that it comes from falls silent."""

    hop: Hop
    since_ns: int
    """It has been asked, or has lost the stream."""
    offer: Publish | None = None
    """What it said of the stream; None: nothing yet."""
    flows: bool = False
    """It sends the stream, too, which came from there until now, and will be told to hold it back."""

    @property
    def ready(self) -> bool:
        """Whether it has the stream."""
        return self.offer is not None and not self.offer.lost

    @property
    def armed(self) -> bool:
        return self.ready and not self.flows


@dataclass(frozen=True, slots=True)
class Takeover:
    """A stream came from one peer, and comes from another since."""

    at_ns: int
    left: str
    taken: str
    why: str
    silent_ms: int | None = None
    """For how long nothing had come; None: that was not why."""


@dataclass(slots=True)
class Stream:
    name: str
    alias: int
    """Of its source: given by this node where it enters here, by the peer that it comes from otherwise."""
    epoch: int
    latency_ms: int | None = None
    """Of a stream that enters here."""
    tracks: list[Track] = field(default_factory=list)
    sources: tuple[TrackSource, ...] = ()
    """How it enters here; empty when it comes from a peer."""
    source: Hop | None = None
    """The peer it comes from."""
    offer: Publish | None = None
    """What that peer said of it."""
    route: Hop | None = None
    """The peer that a stream which enters here is sent, or offered, to."""
    serial: int = 0
    """How often another peer was chosen: the regions believe the one that was told the highest."""
    spare: Hop | None = None
    """The region that it is offered to as well, and held back for."""
    leaving: tuple[Hop, int] | None = None
    """The peer of `route` before, and until when (ns) it is still sent to: make before break."""
    backup: Standby | None = None
    """The edge that publishes it at another region, and offers it here, too."""
    superseded: bool = False
    """The edge that it comes from publishes it at another region by now."""
    router: Router = field(default_factory=Router)
    choice: Choice = NOT_CHOSEN
    candidates: list[Candidate] = field(default_factory=list)
    refusals: dict[str, tuple[str, int]] = field(default_factory=dict)
    """By peer: the reason, and until when it holds (ns)."""
    suggested: str = ""
    """The region that one which did not take it has named instead."""
    beyond_told: tuple[int, ...] = ()
    """What that peer was told of `beyond`."""
    asked: Hop | None = None
    """The region that it is subscribed at."""
    waits: str = ""
    """Why it has not come from there."""
    moving: Hop | None = None
    """The region that it is to come from as soon as that is ready, better than the one that it comes from."""
    standby: Standby | None = None
    second: Router = field(default_factory=Router)
    """Chooses the standby."""
    takeover: Takeover | None = None
    """The last one."""
    takeovers: int = 0
    unconfirmed: bool = False
    """The packet plane has asked the peer to send it; that peer's services are to be told, too."""
    subscribers: dict[int, Hop] = field(default_factory=dict)
    """Peers that asked for it, by hop."""
    held: set[int] = field(default_factory=set)
    """Of them those that have it from another peer and want nothing of it now."""
    told: dict[int, str] = field(default_factory=dict)
    """Why subscribers have not got it, as they were told; by hop."""
    publications: dict[int, Publication] = field(default_factory=dict)
    """By hop."""

    @property
    def enters_here(self) -> bool:
        return bool(self.sources)

    @property
    def flows(self) -> bool:
        """Whether there has been media in the last second or two."""
        return any(track.bitrate_bps > 0 for track in self.tracks)

    @property
    def elsewhere(self) -> bool:
        """Whether there is another peer than that of `route` that it could be sent to."""
        return any(c.usable for c in self.candidates if self.route is None or c.peer != self.route.name)

    @property
    def live(self) -> bool:
        """Whether there is anything to send on."""
        return self.enters_here or self.source is not None

    @property
    def lost(self) -> bool:
        """Whether nothing comes of it from the peer that it comes from, or to that."""
        return self.source is not None and (
            self.source.quiet_ns is not None or (self.offer is not None and self.offer.lost)
        )

    @property
    def pulled(self) -> bool:
        """Whether it comes from a region that was asked for it."""
        return self.source is not None and self.source is self.asked

    @property
    def backed(self) -> bool:
        """Whether it comes from the edge that publishes it at another region."""
        return self.backup is not None and self.source is self.backup.hop

    @property
    def published_here(self) -> bool:
        """Whether it enters the fleet's regions at this node, if that is one."""
        taken = self.source is not None and not (self.pulled or self.backed or self.superseded)
        return self.enters_here or taken

    @property
    def accepted(self) -> bool:
        """Whether the peer of `route` takes it."""
        sent = self.publications.get(self.route.id) if self.route else None
        return sent is not None and sent.accepted

    @property
    def passed_on(self) -> bool:
        """Whether other regions have it from here."""
        return any(hop.is_region and hop.id not in self.held for hop in self.subscribers.values())

    @property
    def budget_ms(self) -> int:
        """Repair budget that its publisher gave it; 0 where it enters here."""
        return self.offer.budget_ms if self.offer else 0

    @property
    def path(self) -> tuple[str, ...]:
        """The nodes that it has passed, without this one."""
        if self.source is None or self.offer is None:
            return ()
        return self.offer.path or (self.source.name,)

    @property
    def beyond(self) -> tuple[int, ...]:
        """Round-trip times, ms, of the hops that it takes from here, on the longest way."""
        ways = [(round(p.hop.link.rtt_ns / 1e6), *p.beyond) for p in self.publications.values() if p.accepted]
        return max(ways, key=lambda way: (sum(way), len(way)), default=())
