"""The hops of each stream, from where it enters to where it leaves, as far as this node is told of them.

Every node measures the hop that a stream comes over. Once a second it tells those that it sends the stream to
of the hops up to itself, and the node that the stream comes from of the hop to itself and those behind. Like
`hops`, without I/O of its own.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

from relay.core.figures import Counters, Meter, tree
from relay.services.hops import ACTIVE_TICK_NS, Hop, Hops
from relay.services.shards import Shards
from relay.services.stream import Publication, Stream
from relay.wire.coding import encode
from relay.wire.paths import BEFORE_MAX, MILLION, UNKNOWN, HopFigures, HopsBefore, HopsBehind, TreeHop

TICK_NS = 1_000_000_000
REST_NS = 3600 * TICK_NS
"""Until the next look while no stream comes or goes over a hop: one that begins comes with a poll of its
own."""
TOLD_PER_TICK = 256
"""Messages a second, at most: with more peers and streams, each is told less often."""
TOLD_AT_ONCE = 16
"""More would keep the event loop from what peers ask: the next ones at the hops' next look."""
LIFE_NS = 15 * TICK_NS
"""What was told is forgotten after this."""

Status = dict[str, Any]


class Told(NamedTuple):
    """What a peer has told of a stream."""

    at_ns: int
    message: HopsBefore | HopsBehind


class Paths:
    """`streams` are those of the node, `leaves` says of which there is an egress; `hops` is None for a plain
    forwarder."""

    def __init__(
        self,
        shards: Shards,
        hops: Hops | None,
        streams: dict[str, Stream],
        *,
        name: str,
        leaves: Callable[[str], bool],
    ) -> None:
        self._shards = shards
        self._hops = hops
        self._streams = streams
        self._name = name
        self._leaves = leaves
        self._meters: dict[int, Meter] = {}
        """By hop that a stream comes over."""
        self._told: dict[tuple[str, int], Told] = {}
        """By stream and hop."""
        self._tick_ns = 0
        self._tell_ns = 0
        self._untold = 0
        """Messages of this second that have not been sent."""
        self._turn = 0

    # ---- what peers say ----------------------------------------------------------------------

    def on_message(self, now_ns: int, hop: Hop, message: HopsBefore | HopsBehind) -> None:
        stream = self._streams.get(message.stream)
        before = isinstance(message, HopsBefore)
        if stream is None or (stream.source is not hop if before else hop.id not in stream.publications):
            hop.drops["hops unasked"] += 1
            return
        self._told[stream.name, hop.id] = Told(now_ns, message)

    # ---- what peers are told -----------------------------------------------------------------

    def poll(self, now_ns: int) -> int:
        """Measure, and tell peers what is due; returns the next deadline in ns."""
        if now_ns >= self._tick_ns:
            self._tick_ns = now_ns // TICK_NS * TICK_NS + TICK_NS
            self._told = {of: told for of, told in self._told.items() if now_ns - told.at_ns < LIFE_NS}
            self._measure(now_ns)
            self._untold = TOLD_PER_TICK
        if self._untold and now_ns >= self._tell_ns:
            self._tell(now_ns)
        if not any(stream.source or stream.publications for stream in self._streams.values()):
            return now_ns + REST_NS
        return self._tell_ns if self._untold else self._tick_ns

    def _measure(self, now_ns: int) -> None:
        sources = {stream.source.id: stream.source for stream in self._streams.values() if stream.source}
        self._meters = {of: self._meters.get(of) or Meter() for of in sources}
        for of, meter in self._meters.items():
            plane = self._shards.of(of)
            stats = plane.hop_stats(of)
            counters = Counters(
                at_ns=now_ns,
                sent=sum(path["receive_highest"] for path in stats["paths"]),
                arrived=sum(path["receive_count"] for path in stats["paths"]),
                received=stats["source_received"],
                recovered=stats["recovered"],
                unrecovered=stats["unrecovered"],
                delays=plane.hop_delays(of),
            )
            meter.look(counters, sources[of].link.rtt_ns)

    def _tell(self, now_ns: int) -> None:
        due = list(self._due()) if self._hops else []
        self._untold = min(self._untold, len(due))
        self._turn %= max(len(due), 1)
        told = (due[self._turn :] + due[: self._turn])[: min(self._untold, TOLD_AT_ONCE)]
        for hop, make in told:
            if self._hops is not None and hop.connected:
                self._hops.send_state(now_ns, hop, make())
        self._turn += len(told)
        self._untold -= len(told)
        self._tell_ns = now_ns // ACTIVE_TICK_NS * ACTIVE_TICK_NS + ACTIVE_TICK_NS

    def _due(self) -> Iterator[tuple[Hop, Callable[[], bytes]]]:
        """Everybody who is told something, and what: each message is packed once, and only if it is sent."""
        for stream in self._streams.values():
            if stream.source is None:
                continue
            yield stream.source, Packed(partial(self.behind, stream))
            before = Packed(partial(self._told_behind, stream))
            for sent in stream.publications.values():
                if sent.accepted:
                    yield sent.hop, before

    def _told_behind(self, stream: Stream) -> HopsBefore:
        return HopsBefore(stream.name, self.before(stream)[:BEFORE_MAX])

    # ---- what is known -----------------------------------------------------------------------

    def before(self, stream: Stream) -> tuple[HopFigures, ...]:
        """The hops that a stream has taken to this node."""
        if stream.source is None:
            return ()
        told = self._told.get((stream.name, stream.source.id))
        count = len(stream.path) - 1
        known = told.message.hops if told and isinstance(told.message, HopsBefore) else ()
        own = self._meters[stream.source.id].figures if stream.source.id in self._meters else UNKNOWN
        return (*(known if len(known) == count else (UNKNOWN,) * count), own)

    def behind(self, stream: Stream) -> HopsBehind:
        """The hop to this node and those behind it."""
        before = self.before(stream)
        root = TreeHop(self._name, 0, self._leaves(stream.name), before[-1] if before else UNKNOWN)
        sent = [p for p in stream.publications.values() if p.accepted]
        return tree(stream.name, root, [self._child(stream, p) for p in sent])

    def _child(self, stream: Stream, sent: Publication) -> HopsBehind:
        told = self._told.get((stream.name, sent.hop.id))
        if told is not None and isinstance(told.message, HopsBehind):
            return told.message
        link = sent.hop.link
        figures = HopFigures(
            round(link.rtt_ns / 100_000) if link.rtt_ns else None,
            round(link.loss_ratio * MILLION) if link.loss_settled else None,
        )
        return HopsBehind(stream.name, 1, (TreeHop(sent.hop.name, 0, False, figures),))

    # ---- what is shown -----------------------------------------------------------------------

    def status(self, stream: Stream) -> Status:
        """The nodes that a stream has passed, this one last, each with the hop that leads there; and the hops
        behind this one."""
        nodes = (*stream.path, self._name)
        figures = (UNKNOWN, *self.before(stream))
        behind = self.behind(stream)
        return {
            "path": [{"node": node, **_figures(of)} for node, of in zip(nodes, figures, strict=True)],
            "behind": {
                "nodes": behind.nodes - 1,
                "hops": [
                    {
                        "from": behind.hops[hop.parent].node,
                        "node": hop.node,
                        "leaves": hop.leaves,
                        **_figures(hop.figures),
                    }
                    for hop in behind.hops[1:]
                ],
            },
            "leaves": self._leaves(stream.name),
        }


class Packed:
    """A message that is packed when it is first wanted."""

    def __init__(self, make: Callable[[], HopsBefore | HopsBehind]) -> None:
        self._make = make
        self._packed: bytes | None = None

    def __call__(self) -> bytes:
        if self._packed is None:
            self._packed = encode(self._make())
        return self._packed


def _figures(of: HopFigures) -> Status:
    """One way takes half of both."""
    return {
        "delay_ms": None if of.rtt_100us is None else of.rtt_100us / 20,
        "loss_ratio": None if of.loss_ppm is None else of.loss_ppm / MILLION,
        "residual_ratio": None if of.residual_ppm is None else of.residual_ppm / MILLION,
        "added_delay_ms": {"p50": of.delay_p50_ms, "p99": of.delay_p99_ms},
    }
