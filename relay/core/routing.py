"""Which peer a stream is sent to: the one with the lowest measured cost, left only for one that is clearly
better for a while, or when it fails.

A `Router` decides for one stream. It compares costs as they are and as they are on average over SMOOTH_NS,
so that neither noise nor a short dip is a reason for a change. After a change it stays for DWELL_NS, which
doubles with each further change up to DWELL_MAX_NS: whatever comes and goes is changed to ever more rarely.
Each FORGET_NS without a change takes one doubling back. A peer that cannot be used any more is left at once,
and that counts as a change, too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from math import exp

from relay.core.admission import REFUSE
from relay.core.health import UNKNOWN, penalties
from relay.wire.health import RATIO, Digest

MS = 1_000_000
SECOND = 1000 * MS

LOAD_MS = 5.0
"""Cost of a node that is half loaded; it grows as queues do, with u / (1 - u)."""

FULL_PERMILLE = round((1 - REFUSE) * RATIO)
"""Headroom of a node that lets nobody in."""

BETTER_MS = 10.0
"""A change is worth making only for a cost lower by this many milliseconds..."""
BETTER_RATIO = 0.15
"""...and by this share of the present cost,"""
BETTER_NS = 2 * SECOND
"""for so long."""
DWELL_NS, DWELL_MAX_NS = 15 * SECOND, 300 * SECOND
"""A peer is kept for so long after a change: after one, and after many."""
FORGET_NS = 600 * SECOND
"""Twice the longest dwell, so that changes as rare as that can make are still remembered."""
SMOOTH_NS = 5 * SECOND
"""Time constant of the average. Noise of +-10 ms a look, one a second, is left with a deviation of 1.8 ms."""


def terms_ms(
    rtt_ms: float, min_rtt_ms: float, queue_ms: float, jitter_ms: float, loss_ratio: float
) -> dict[str, float]:
    """What makes up the cost of a link, in milliseconds by name: propagation, queue, jitter, and one and a
    half round trips for each packet that is lost."""
    loss = min(loss_ratio, 0.95)
    return {
        "propagation": min_rtt_ms / 2,
        "queue": queue_ms,
        "jitter": 4 * jitter_ms,
        "loss": 1.5 * rtt_ms * loss / (1 - loss),
    }


def cost_ms(rtt_ms: float, min_rtt_ms: float, queue_ms: float, jitter_ms: float, loss_ratio: float) -> float:
    """Milliseconds that a link costs a viewer."""
    return sum(terms_ms(rtt_ms, min_rtt_ms, queue_ms, jitter_ms, loss_ratio).values())


@lru_cache(maxsize=256)
def health_terms_ms(health: Digest) -> Mapping[str, float]:
    """What a peer's own state is worth in milliseconds of detour: its load, and whatever is wrong with it.
    Kept, since every stream looks at every digest once a second."""
    headroom = health.headroom_permille
    load = 0.0 if headroom is None else min(1 - headroom / RATIO, 0.99)
    return {"load": LOAD_MS * load / (1 - load)} | {of.reason: of.ms for of in penalties(health) if of.ms}


def clearly_better(cost: float, held: float) -> bool:
    """Whether a cost is so much lower than that of what is in use that a change is worth it."""
    return held - cost >= BETTER_MS and held - cost >= BETTER_RATIO * held


@dataclass(frozen=True, slots=True)
class Candidate:
    """A peer that could take a stream, and what was measured of it. Delays in milliseconds."""

    peer: str
    connected: bool
    refused: str = ""
    """Why it does not take the stream, if it has said so."""
    suggested: bool = False
    """One that does not take it has named this one instead."""
    rtt_ms: float = 0.0
    """0: not measured yet."""
    min_rtt_ms: float = 0.0
    queue_ms: float = 0.0
    """Relative one-way delay less its minimum."""
    jitter_ms: float = 0.0
    loss_ratio: float = 0.0
    settled: bool = True
    """Whether it was measured for long enough to know its loss."""
    rests: str = ""
    """Why there is no session with it now, although there could be; what was measured is of the last one."""
    health: Digest = UNKNOWN
    cost_ms: float = field(init=False, compare=False)
    """Milliseconds that the hop costs a viewer, and what the peer's load and health are worth in detour."""

    def __post_init__(self) -> None:
        """Summed once: each look compares it many times."""
        object.__setattr__(self, "cost_ms", sum(self.terms_ms.values()))

    @property
    def usable(self) -> bool:
        return self.connected and not self.refused

    @property
    def full(self) -> bool:
        """Whether it says that it has no room: it would refuse."""
        headroom = self.health.headroom_permille
        return self.health.draining is True or (headroom is not None and headroom <= FULL_PERMILLE)

    @property
    def roomy(self) -> bool:
        """Whether it says that it has room."""
        return self.health.headroom_permille is not None and not self.full

    @property
    def terms_ms(self) -> dict[str, float]:
        """What makes up the cost, in milliseconds by name."""
        link = terms_ms(self.rtt_ms, self.min_rtt_ms, self.queue_ms, self.jitter_ms, self.loss_ratio)
        return {**link, **health_terms_ms(self.health)}


@dataclass(frozen=True, slots=True)
class Verdict:
    """A candidate, the average that it was judged by, and why it was chosen or was not."""

    candidate: Candidate
    average_ms: float | None
    """None: not measured."""
    why: str


@dataclass(frozen=True, slots=True)
class Choice:
    peer: str | None
    why: str
    now_ns: int = 0
    ranked: tuple[Candidate, ...] = ()
    """The cheapest first."""
    averages: Mapping[str, tuple[float, int]] = field(default_factory=dict)
    better_ns: Mapping[str, int] = field(default_factory=dict)
    dwells_ns: int = 0
    """The router's state, from which reasons are made when somebody asks for them. It replaces its
    dictionaries, and never changes them."""

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """One for each candidate, the cheapest first."""
        return tuple(Verdict(c, self._average(c), self._why(c)) for c in self.ranked)

    def _average(self, c: Candidate) -> float | None:
        return self.averages[c.peer][0] if c.peer in self.averages else None

    def _why(self, c: Candidate) -> str:
        if c.peer == self.peer:
            return self.why
        if not c.usable or self.peer is None:
            return _why_unusable(c)
        if not c.rtt_ms:
            return "not measured yet"
        dearer = self.averages[c.peer][0] - self.averages.get(self.peer, (0.0, 0))[0]
        if dearer >= 0:
            return f"{dearer:.1f} ms dearer than {self.peer}"
        return f"better by {-dearer:.1f} ms{self._but(c)}"

    def _but(self, c: Candidate) -> str:
        """Why it is not changed to."""
        if c.peer not in self.better_ns:
            slight = ", not by 10 ms and 15 %" if c.settled else ", loss not known yet"
            return ", but it has no room" if c.full else slight
        if self.dwells_ns:
            return f", dwell: {self.dwells_ns / SECOND:.0f} s left"
        since = (self.now_ns - self.better_ns[c.peer]) / SECOND
        return f" for {since:.1f} s of {BETTER_NS / SECOND:.0f} s"


class Router:
    """Sans-IO: `choose` is given the time in ns and what is known of all candidates, once a second or
    oftener."""

    def __init__(self) -> None:
        self._averages: dict[str, tuple[float, int]] = {}
        """By peer: milliseconds, and as of when."""
        self._better_ns: dict[str, int] = {}
        """Since when each peer has been clearly better than the one that is held."""
        self._last: str | None = None
        """What was chosen last."""
        self._changed_ns = 0
        self._changes = 0
        """Those that are not forgotten; the last one was at `_changed_ns`."""

    def choose(self, now_ns: int, candidates: Sequence[Candidate], current: str | None) -> Choice:
        """The peer for the stream, which `current` has now, if any."""
        ranked = self._rank(now_ns, candidates)
        usable = [c for c in ranked if c.usable]
        if not usable:
            self._better_ns = {}
            why = "; ".join(f"{c.peer}: {c.refused or _why_unusable(c)}" for c in candidates)
            return self._choice(now_ns, None, why or "no peer with an address is configured", ranked)
        held = next((c for c in usable if c.peer == current), None)
        target = self._challenger(now_ns, usable, held) if held else self._first(usable)
        if target is not held:
            self._better_ns = {}
        self._note(now_ns, target.peer)
        return self._choice(now_ns, target, self._why(usable, target, held), ranked)

    def _rank(self, now_ns: int, candidates: Sequence[Candidate]) -> list[Candidate]:
        """The cheapest first, by what is known up to now; those that were not measured last."""
        averages = {}
        for c in candidates:
            if c.rtt_ms:
                before, at_ns = self._averages.get(c.peer, (c.cost_ms, now_ns))
                share = 1 - exp(-(now_ns - at_ns) / SMOOTH_NS)
                averages[c.peer] = (before + share * (c.cost_ms - before), now_ns)
        self._averages = averages
        return sorted(candidates, key=lambda c: (c.peer not in averages, self._cost(c), c.peer))

    def _cost(self, of: Candidate) -> float:
        return self._averages.get(of.peer, (0.0, 0))[0]

    def _first(self, usable: Sequence[Candidate]) -> Candidate:
        """With none held: the cheapest with room, or what was suggested if that is hardly dearer."""
        cheapest = next((c for c in usable if not c.full), usable[0])
        suggested = next((c for c in usable if c.suggested and not c.full), cheapest)
        return cheapest if clearly_better(self._cost(cheapest), self._cost(suggested)) else suggested

    def _challenger(self, now_ns: int, usable: Sequence[Candidate], held: Candidate) -> Candidate:
        """The best of those that have been clearly better for long enough; else the one that is held."""
        better = {
            c.peer: self._better_ns.get(c.peer, now_ns)
            for c in usable
            if c.rtt_ms and c.settled and not c.full and self._better(c, held)
        }
        self._better_ns = better
        if self._dwells_ns(now_ns) > 0:
            return held
        return next((c for c in usable if now_ns - better.get(c.peer, now_ns) >= BETTER_NS), held)

    def _better(self, c: Candidate, held: Candidate) -> bool:
        """Now, and on average. The load of the one that is held does not count: all its streams see that and
        would leave at once. It lets nobody else in, and sends away who is too many (core/admission)."""
        load_ms = held.terms_ms["load"]
        now, average = held.cost_ms - load_ms, self._cost(held) - load_ms
        return clearly_better(c.cost_ms, now) and clearly_better(self._cost(c), average)

    def _note(self, now_ns: int, peer: str) -> None:
        if peer == self._last:
            return
        if self._last is not None:
            self._changes = self._remembered(now_ns) + 1
            self._changed_ns = now_ns
        self._last = peer

    def _remembered(self, now_ns: int) -> int:
        return max(self._changes - (now_ns - self._changed_ns) // FORGET_NS, 0)

    def _dwells_ns(self, now_ns: int) -> int:
        """For how much longer what is held is kept."""
        if not self._changes:
            return 0
        dwell_ns = min(DWELL_NS << min(self._changes - 1, 16), DWELL_MAX_NS)
        return max(self._changed_ns + dwell_ns - now_ns, 0)

    # ---- what it says --------------------------------------------------------------------------

    def _why(self, usable: Sequence[Candidate], target: Candidate, held: Candidate | None) -> str:
        cost = f"{self._cost(target):.1f} ms"
        if held is not None and target is not held:
            return f"{cost} instead of {held.peer}'s {self._cost(held):.1f} ms"
        if held is None and target is not usable[0]:
            why = "suggested" if target.suggested else "lowest cost with room"
            return f"{why}, {cost}; {usable[0].peer} has {self._cost(usable[0]):.1f} ms"
        if target is usable[0]:
            rest = f"; next is {usable[1].peer} at {self._cost(usable[1]):.1f} ms" if len(usable) > 1 else ""
            return f"lowest cost, {cost}{rest}"
        return f"kept at {cost}; {usable[0].peer} has {self._cost(usable[0]):.1f} ms"

    def _choice(self, now_ns: int, chosen: Candidate | None, why: str, ranked: Sequence[Candidate]) -> Choice:
        peer, dwells_ns = chosen.peer if chosen else None, self._dwells_ns(now_ns)
        return Choice(peer, why, now_ns, tuple(ranked), self._averages, self._better_ns, dwells_ns)


def _why_unusable(c: Candidate) -> str:
    return f"refused: {c.refused}" if c.refused else c.rests or "not connected"
