"""Several paths to a peer: which there are, and what each carries.

The packet plane follows two orders of the paths, one for source packets and one for repair, and passes over
what does not get through at the moment; here is what the orders follow from. docs/uplinks.md has the reasons.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import exp, sqrt

from relay.core.actions import Address
from relay.core.path import Way
from relay.core.repair import REPORT_SLACK_NS
from relay.core.routing import clearly_better, cost_ms
from relay.seq import distance
from relay.wire.hop import MS, PATHS_MAX, SECOND

DWELL_NS = 2 * SECOND
"""A path must be clearly better for so long before source packets move to it."""
LOSS_USELESS = 0.5
"""A path that loses more than this is no help: repair would have to be sent twice and more."""
CORRELATION_NS = 10 * SECOND
"""Time constant with which the correlation of losses forgets: 200 samples of 50 ms have an error of 0.07."""


@dataclass(frozen=True, slots=True)
class Uplink:
    """A socket of this node from which peers are called."""

    socket: int
    """The number by which the packet plane knows it."""
    name: str
    host: str | None = None
    """The address that it is bound to; None: any."""

    def reaches(self, address: Address) -> bool:
        """Whether the address is of a family that the socket can send to."""
        return self.host is None or (":" in self.host) == (":" in address[0])


def ways(taken: Mapping[int, Way], addresses: Sequence[Address], uplinks: Sequence[Uplink]) -> dict[int, Way]:
    """The paths to a peer with these addresses, by number; those of `taken` that stay keep theirs.

    The first uplink has a path to the peer's first address and one to its second; where there are more, each
    takes every second one in turn. Every further uplink has one path, which takes all of them in turn.
    """
    wanted: list[Way] = []
    for i, uplink in enumerate(uplinks):
        near = tuple(address for address in addresses if uplink.reaches(address))
        shares = (near[0::2], near[1::2]) if i == 0 else (near,)
        wanted += [Way(share, uplink.socket) for share in shares if share]
    del wanted[PATHS_MAX:]
    kept = {number: way for number, way in taken.items() if way in wanted}
    free = (number for number in range(PATHS_MAX) if number not in kept)
    return kept | {
        number: way for way, number in zip((w for w in wanted if w not in kept.values()), free, strict=False)
    }


@dataclass(frozen=True, slots=True)
class Measured:
    """What is known of a path. Times in nanoseconds."""

    id: int
    socket: int
    alive: bool
    """It gets through."""
    rtt_ns: int
    rtt_min_ns: int
    queue_ns: int
    jitter_ns: int
    loss_ratio: float
    reported_highest: int
    """Highest counter that the peer has received on it, low 32 bits."""
    reported_received: int
    """Datagrams that it has received, in all."""

    @property
    def cost_ms(self) -> float:
        return cost_ms(
            self.rtt_ns / MS, self.rtt_min_ns / MS, self.queue_ns / MS, self.jitter_ns / MS, self.loss_ratio
        )


Order = tuple[int, ...]
"""Every path number once, the best first."""
IN_TURN: Order = tuple(range(PATHS_MAX))


class Correlation:
    """How far the losses of pairs of paths come at the same time: the correlation of the shares that they
    lose between two looks, with forgetting."""

    def __init__(self) -> None:
        self._last: dict[int, tuple[int, int]] = {}
        self._sums: dict[tuple[int, int], tuple[float, ...]] = {}
        """Of a pair a < b: n, a, b, a^2, b^2, ab."""
        self._looked_ns = 0

    def look(self, now_ns: int, paths: Sequence[Measured]) -> None:
        keep = exp(-(now_ns - self._looked_ns) / CORRELATION_NS)
        self._looked_ns = now_ns
        lost = {path.id: share for path in paths if (share := self._share(path)) is not None}
        for a, b in combinations(sorted(lost), 2):
            x, y = lost[a], lost[b]
            sample = 1.0, x, y, x * x, y * y, x * y
            before = self._sums.get((a, b), (0.0,) * 6)
            self._sums[a, b] = tuple(keep * old + new for old, new in zip(before, sample, strict=True))

    def _share(self, path: Measured) -> float | None:
        """Of the datagrams that the peer could have received since the last look, those that it did not."""
        highest, received = self._last.get(path.id, (path.reported_highest, path.reported_received))
        self._last[path.id] = path.reported_highest, path.reported_received
        sent = distance(highest, path.reported_highest)
        arrived = distance(received, path.reported_received)
        return None if sent <= 0 else min(max(1 - arrived / sent, 0.0), 1.0)

    def between(self, a: int, b: int) -> float:
        """0 to 1; 0 also where nothing is known, and for losses that avoid each other."""
        n, x, y, xx, yy, xy = self._sums.get((min(a, b), max(a, b)), (0.0,) * 6)
        spread = (n * xx - x * x) * (n * yy - y * y)
        return min(max((n * xy - x * y) / sqrt(spread), 0.0), 1.0) if spread > 1e-9 else 0.0


class Preference:
    """The orders for one peer.

    Source packets take the path with the lowest cost, and stay until another is clearly better for DWELL_NS.
    Repair takes, of the other paths that are of use, one of another uplink first, and of those the one that
    is least likely to lose it when the source packet was lost; the source's own path only where no other is
    of use.
    """

    def __init__(self) -> None:
        self._source: int | None = None
        self._better_since_ns: int | None = None
        self._correlation = Correlation()

    def look(self, now_ns: int, paths: Sequence[Measured], budget_ns: int) -> tuple[Order, Order]:
        """The orders for source packets and for repair, from what is known now. `budget_ns`: delay that
        repair may add."""
        self._correlation.look(now_ns, paths)
        alive = sorted((path for path in paths if path.alive), key=lambda p: (p.rtt_ns == 0, p.cost_ms, p.id))
        if not alive:
            return IN_TURN, IN_TURN
        source = self._choose(now_ns, alive)
        others = sorted(
            (path for path in alive if path is not source and _useful(path, source, alive, budget_ns)),
            key=lambda path: (path.socket == source.socket, self._chance(path, source), path.id),
        )
        return _whole([source, *alive]), _whole([*others, source, *alive])

    def _choose(self, now_ns: int, alive: Sequence[Measured]) -> Measured:
        best = alive[0]
        held = next((path for path in alive if path.id == self._source), best)
        if not clearly_better(best.cost_ms, held.cost_ms) or best.rtt_ns == 0:
            self._better_since_ns = None
        elif self._better_since_ns is None:
            self._better_since_ns = now_ns
        elif now_ns - self._better_since_ns >= DWELL_NS:
            held, self._better_since_ns = best, None
        self._source = held.id
        return held

    def _chance(self, path: Measured, source: Measured) -> float:
        """Of repair being lost there, when the source packet was lost."""
        return path.loss_ratio + self._correlation.between(path.id, source.id) * (1 - path.loss_ratio)


def _useful(path: Measured, source: Measured, alive: Sequence[Measured], budget_ns: int) -> bool:
    """Whether repair on that path comes in time: on request, or unasked where a request takes too long on any
    path; and often enough."""
    fastest_ns = min(p.rtt_ns for p in alive)
    in_time = (fastest_ns + path.rtt_ns) // 2 + REPORT_SLACK_NS <= budget_ns
    no_requests = (fastest_ns + source.rtt_ns) // 2 + REPORT_SLACK_NS > budget_ns
    unasked = no_requests and (path.rtt_ns - source.rtt_ns) // 2 <= budget_ns // 2
    return path.loss_ratio <= LOSS_USELESS and (in_time or unasked)


def _whole(first: Sequence[Measured]) -> Order:
    """These in their order, then all others."""
    return tuple(dict.fromkeys([*(path.id for path in first), *IN_TURN]))
