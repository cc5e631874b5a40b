"""What follows from the health of nodes: what is wrong, what that costs a stream, when peers must hear of it,
and how many nodes are told of as one.

Sans-IO. A fact that is not known raises no alarm and clears none of another fact; of the facts that every
node can have (`EXPECTED`), each that is missing costs a little, so that a node that says nothing never looks
better than one that says that it is well.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from relay.wire.health import RATIO, Digest, Summary

SECOND_NS = 1_000_000_000
LIFE_NS = 3 * SECOND_NS
"""A digest, or a reading of the board, that is older says nothing any more."""
MISSED_RATIO = 0.01
"""The board is read once a second; so many readings may fail to reach a peer within theirs. What is known
there is then two seconds old at most, but for less than 1 % of the time."""
SENDS_MAX = 4
"""Digests a second and peer, at most: for 32 % of loss."""
CHANGE_SENDS = 4
CHANGE_SPACING_NS = 100_000_000
"""How often a change is told, and how far apart, whatever the loss: changes are rare."""

RISE = 1 / 4
FALL = 1 / 32
"""Weights of a new measurement: on an idle link it comes from a dozen datagrams, and its noise must not make
us send less."""

UNKNOWN = Digest()
UNKNOWN_MS = 2.0
"""What each missing fact of `EXPECTED` costs: together less than moves a stream (`routing.BETTER_MS`)."""
EXPECTED = ("headroom_permille", "loop_lag_ms", "memory_available_permille")


@dataclass(frozen=True, slots=True)
class Rule:
    """When a fact is an alarm, and what it costs a stream to go through that node."""

    alarm: str
    fact: str
    raised: float
    """The alarm is raised at this value and cleared at `cleared`: noise between them is no change."""
    cleared: float
    worst: float
    """Where the whole penalty is reached, from nothing at `raised`; if it is below that, less is worse."""
    penalty_ms: float

    def severity(self, value: float) -> float:
        """From 0, at `raised`, to 1."""
        if self.worst == self.raised:
            return float(value >= self.raised)
        return min(max((value - self.raised) / (self.worst - self.raised), 0.0), 1.0)

    def holds(self, value: float, before: bool) -> bool:
        """Whether the alarm stands, given whether it stood before."""
        less_is_worse = self.worst < self.raised
        edge = self.cleared if before else self.raised
        if value == edge:
            return not before
        return value < edge if less_is_worse else value > edge


RULES = (
    Rule("draining", "draining", 1, 0, 1, 1000.0),
    Rule("little headroom", "headroom_permille", 200, 300, 0, 0.0),
    Rule("event loop late", "loop_lag_ms", 100, 50, 1000, 20.0),
    Rule("hot", "temperature_c", 75, 70, 90, 10.0),
    Rule("throttled", "throttled", 1, 0, 1, 20.0),
    Rule("under-voltage", "under_voltage", 1, 0, 1, 20.0),
    Rule("memory pressure", "memory_pressure_permille", 100, 50, 500, 50.0),
    Rule("memory short", "memory_available_permille", 100, 150, 20, 50.0),
    Rule("kernel drops packets", "backlog_drops_per_s", 10, 1, 500, 50.0),
    Rule("sockets overflow", "udp_drops_per_s", 10, 1, 500, 50.0),
    Rule("network card errors", "nic_errors_per_s", 10, 1, 500, 50.0),
    Rule("disk errors", "disk_errors", 1, 0, 1, 0.0),
    Rule("disk read-only", "disk_read_only", 1, 0, 1, 0.0),
    Rule("disk full", "disk_free_permille", 50, 100, 0, 0.0),
    Rule("record ends", "record_left_permille", 250, 300, 0, 0.0),
)
"""The costs are judgements, not measurements: below `BETTER_MS` a fault settles a tie, at 20 ms it outweighs
a detour of that length. What does not touch media (disk, record) costs nothing. Load costs in routing."""


@dataclass(frozen=True, slots=True)
class Penalty:
    """Why a stream had better go elsewhere, and how many milliseconds of detour that is worth."""

    reason: str
    ms: float


def penalties(digest: Digest) -> tuple[Penalty, ...]:
    """Everything that is wrong with a node, or unknown where it should be known; some of it for nothing."""
    found = []
    for rule in RULES:
        value = getattr(digest, rule.fact)
        if value is not None and rule.holds(value, before=False):
            found.append(Penalty(rule.alarm, round(rule.penalty_ms * rule.severity(value), 3)))
    missing = [fact for fact in EXPECTED if getattr(digest, fact) is None]
    names = (fact.rpartition("_")[0].replace("_", " ") for fact in missing)
    return (*found, *(Penalty(f"{name} unknown", UNKNOWN_MS) for name in names))


def alarms(digest: Digest, before: frozenset[str] = frozenset()) -> frozenset[str]:
    """The alarms that stand, given those that stood before: each has two thresholds."""
    standing = set()
    for rule in RULES:
        value = getattr(digest, rule.fact)
        if value is not None and rule.holds(value, rule.alarm in before):
            standing.add(rule.alarm)
    return frozenset(standing)


def headroom_permille(*loads_permille: int | None) -> int | None:
    """What is left under the highest of the loads that are known."""
    known = [load for load in loads_permille if load is not None]
    return RATIO - max(known) if known else None


def sends_per_second(loss_ratio: float) -> int:
    """So many that all of one second are lost with a probability of at most MISSED_RATIO."""
    loss = min(max(loss_ratio, 1e-6), 0.99)
    return min(math.ceil(math.log(MISSED_RATIO) / math.log(loss)), SENDS_MAX)


def summary_of(digests: Iterable[Digest], nodes: int) -> Summary:
    """Many nodes as one; `digests` are those that are known of `nodes`."""
    known = list(digests)

    def values(fact: str) -> list[int]:
        return [value for value in (getattr(d, fact) for d in known) if value is not None]

    def median(fact: str) -> int | None:
        ordered = sorted(values(fact))
        return ordered[(len(ordered) - 1) // 2] if ordered else None

    return Summary(
        nodes=nodes,
        known=len(known),
        draining=sum(d.draining is True for d in known),
        ailing=sum(bool(alarms(d)) for d in known),
        streams=sum(values("streams")),
        headroom_median_permille=median("headroom_permille"),
        headroom_worst_permille=min(values("headroom_permille"), default=None),
        thread_load_median_permille=median("thread_load_permille"),
        thread_load_worst_permille=max(values("thread_load_permille"), default=None),
        loop_lag_worst_ms=max(values("loop_lag_ms"), default=None),
        temperature_median_c=median("temperature_c"),
        temperature_worst_c=max(values("temperature_c"), default=None),
        memory_available_worst_permille=min(values("memory_available_permille"), default=None),
    )


@dataclass(slots=True)
class Heard:
    """What a peer last said of itself and of the nodes behind it, and when that arrived."""

    digest: Digest | None = None
    digest_ns: int = 0
    summary: Summary | None = None
    summary_ns: int = 0

    def take(self, now_ns: int, state: Digest | Summary) -> None:
        if isinstance(state, Digest):
            self.digest, self.digest_ns = state, now_ns
        else:
            self.summary, self.summary_ns = state, now_ns

    def forget(self) -> None:
        self.digest = self.summary = None

    def fresh(self, now_ns: int) -> bool:
        """Whether the digest still says something."""
        return self.digest is not None and now_ns - self.digest_ns < LIFE_NS

    def known(self, now_ns: int) -> Digest:
        """The digest; nothing is known where it is missing or too old."""
        return self.digest if self.digest and self.fresh(now_ns) else UNKNOWN


class Watch:
    """The node's own digest over time: tells what peers must hear of at once."""

    def __init__(self) -> None:
        self.digest = UNKNOWN
        self._alarms: frozenset[str] = frozenset()

    def update(self, digest: Digest) -> bool:
        """Whether an alarm was raised or cleared, or another program runs now."""
        standing = alarms(digest, self._alarms)
        changed = standing != self._alarms
        self._alarms, self.digest = standing, digest
        return changed


class Pace:
    """When to send to one peer: so often a second, on a grid that all peers share, and in quick repetition
    after a change."""

    def __init__(self) -> None:
        self.due_ns = 0
        self._loss_ratio: float | None = None
        self._quick = 0

    def change(self, now_ns: int) -> None:
        """Something is to be known at once."""
        self._quick = CHANGE_SENDS
        self.due_ns = min(self.due_ns, now_ns)

    def sent(self, now_ns: int, loss_ratio: float | None) -> None:
        """A digest went out, on a link of that loss (None: not measured)."""
        if loss_ratio is not None and self._loss_ratio is not None:
            share = RISE if loss_ratio > self._loss_ratio else FALL
            self._loss_ratio += share * (loss_ratio - self._loss_ratio)
        else:
            self._loss_ratio = loss_ratio
        sends = sends_per_second(self._loss_ratio or 0.0)
        second_ns, within_ns = now_ns // SECOND_NS * SECOND_NS, now_ns % SECOND_NS
        slot = within_ns * sends // SECOND_NS + 1
        self.due_ns = second_ns - (-slot * SECOND_NS // sends)  # rounded up, so that it is after now
        self._quick = max(self._quick - 1, 0)
        if self._quick:
            self.due_ns = min(self.due_ns, now_ns + CHANGE_SPACING_NS)
