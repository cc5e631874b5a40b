"""What a node knows of the hops that a stream takes: of the one that leads to it by its own counters, of the
others by what the nodes there have measured. Sans-IO."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from relay.wire.fields import U32
from relay.wire.paths import BEHIND_MAX, MILLION, HopFigures, HopsBehind, TreeHop

WINDOW_NS = 10_000_000_000
"""Figures are of the last one to two of these."""
DEPTH_MAX = 3
"""Hops of a path, at most."""
TREE_BYTES_MAX = 900
"""Of the hops in one message, each with its node's name."""
TREE_HOP_BYTES = 26
"""A packed hop without the name, at most."""


def percentile(histogram: Sequence[float], share: float) -> float | None:
    """Upper edge (ms) of the slot where that share of a histogram of 1 ms slots is reached; None: empty."""
    total = sum(histogram)
    if not total:
        return None
    seen = 0.0
    for slot, count in enumerate(histogram):
        seen += count
        if seen >= share * total:
            return float(slot + 1)
    raise AssertionError("the shares of a histogram add up to one")


@dataclass(frozen=True, slots=True)
class Counters:
    """Of a hop that media is received from, since the processes at both ends began."""

    at_ns: int
    sent: int
    """Datagrams, on all paths."""
    arrived: int
    received: int
    """Source packets."""
    recovered: int
    unrecovered: int
    delays: Sequence[int]
    """Histogram of the delay that the hop added, 1 ms a slot."""


class Meter:
    """Figures of one hop, from counters that are shown to it again and again."""

    def __init__(self) -> None:
        self.figures = HopFigures()
        self._older: Counters | None = None
        self._newer: Counters | None = None

    def look(self, now: Counters, rtt_ns: int) -> None:
        """`rtt_ns` is 0 as long as it is not known."""
        if self._older is None or self._newer is None or now.sent < self._newer.sent:  # another process
            self._older = self._newer = now
        elif now.at_ns - self._newer.at_ns >= WINDOW_NS:
            self._older, self._newer = self._newer, now
        then = self._older
        delays = [b - a for a, b in zip(then.delays, now.delays, strict=True)]
        p50, p99 = (percentile(delays, share) for share in (0.5, 0.99))
        sent, missing = now.sent - then.sent, now.unrecovered - then.unrecovered
        whole = now.received - then.received + now.recovered - then.recovered + missing
        self.figures = HopFigures(
            round(rtt_ns / 100_000) if rtt_ns else None,
            _ppm(sent - (now.arrived - then.arrived), sent),
            _ppm(missing, whole),
            None if p50 is None else int(p50),
            None if p99 is None else int(p99),
        )


def _ppm(part: int, whole: int) -> int | None:
    """What has come out of order can make the part negative for a moment."""
    return max(round(MILLION * part / whole), 0) if whole > 0 else None


# ---- the tree behind a node ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Branch:
    hop: TreeHop
    above: "_Branch | None"
    depth: int


def tree(stream: str, root: TreeHop, children: Iterable[HopsBehind]) -> HopsBehind:
    """The hop to this node, and those behind it as its children tell of them: the nearest and then the worst
    ones, as many as there is room for."""
    top = _Branch(root, None, 0)
    branches, nodes = [top], 1
    for child in children:
        nodes += child.nodes
        told: list[_Branch] = []
        for i, hop in enumerate(child.hops):
            above = told[hop.parent] if i else top
            told.append(_Branch(hop, above, above.depth + 1))
        branches += [branch for branch in told if branch.depth <= DEPTH_MAX]
    branches.sort(key=_order)
    places = {id(branch): i for i, branch in enumerate(branches)}
    hops: list[TreeHop] = []
    room = TREE_BYTES_MAX
    for branch in branches[:BEHIND_MAX]:
        room -= len(branch.hop.node.encode()) + TREE_HOP_BYTES
        if room < 0:
            break
        hops.append(replace(branch.hop, parent=places[id(branch.above)] if branch.above else 0))
    return HopsBehind(stream, min(nodes, U32), tuple(hops))


def _order(branch: _Branch) -> tuple[int, int, int, str]:
    figures = branch.hop.figures
    return branch.depth, -(figures.residual_ppm or 0), -(figures.delay_p99_ms or 0), branch.hop.node
