"""With which regions a node keeps a session, of those that it may call: with the best three, and with each of
the others for some seconds now and then, to measure it.

An idle session wakes a node ten times a second or so, so there cannot be one with each of many regions for
ever; what was measured is remembered with its age. A region that is in a node's configuration keeps its
session in any case, as does one that carries a stream.

Sans-IO: `look` is given the time in ns and what there is, once a second or so, and says which sessions there
should be.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from relay.core.routing import Candidate, clearly_better

MS = 1_000_000
SECOND = 1000 * MS

KEEP = 3
"""Sessions kept: one in use, one to go to when that fails, and one more where those two share their fate."""
AT_ONCE = 3
"""Regions measured at the same time."""
AGAIN_NS = 60 * SECOND
"""Between two measurements of a region, spread by +-SPREAD so that nodes started together drift apart."""
SPREAD = 0.2
GIVE_UP_NS = 5 * SECOND
"""A region from which nothing has been measured for so long, with a session, does not answer."""
ALARM_NS = 10 * SECOND
"""Between two times that all are measured anew since those kept have become worse."""


@dataclass(frozen=True, slots=True)
class Sight:
    """A region that may be called."""

    fixed: bool = False
    """It is in the configuration."""
    used: bool = False
    """It carries a stream."""
    candidate: Candidate | None = None
    """What its session measures; None: there is no session."""


@dataclass(slots=True)
class Known:
    """What is remembered of a region."""

    due_ns: int
    """When to measure it next, if there is no session."""
    candidate: Candidate | None = None
    """As last measured; None: never, or it did not answer."""
    measured_ns: int | None = None
    """When that was, or when it was found not to answer."""
    opened_ns: int | None = None
    """Since when there has been a session."""
    told: bool = False
    """That session has measured the region, or shown that it does not answer."""
    kept: bool = False


class Nearest:
    """`random_bytes` gives so many random bytes."""

    def __init__(self, random_bytes: Callable[[int], bytes]) -> None:
        self.known: dict[str, Known] = {}
        self._random_bytes = random_bytes
        self.reference_ms: float | None = None
        """Least cost of those kept, when all others were measured."""
        self._alarm_ns = 0
        """Not before then are all measured anew."""

    def look(self, now_ns: int, sights: Mapping[str, Sight], suggested: Collection[str] = ()) -> set[str]:
        """The regions that there should be a session with, from now on. What is suggested is measured at
        once."""
        if self.known.keys() != sights.keys():
            self.known = {name: self.known.get(name) or Known(now_ns) for name in sights}
        for name, sight in sights.items():
            self.measured(now_ns, name, sight.candidate)
        self._keep()
        self._alarm(now_ns)
        wanted = {name for name, s in sights.items() if s.fixed or s.used or self.known[name].kept}
        probed = {name for name, known in self.known.items() if known.opened_ns is not None} - wanted
        for name in sorted(probed):  # equal random bytes give equal looks
            if self.known[name].told:
                self.rests(now_ns, name)
                probed.remove(name)
        return wanted | probed | set(self.due(now_ns, len(probed))) | (sights.keys() & suggested)

    def rests(self, now_ns: int, name: str) -> None:
        """A region has told what it was asked for; its session ends."""
        known = self.known[name]
        known.due_ns, known.opened_ns, known.told = now_ns + self._interval_ns(), None, False

    def due(self, now_ns: int, probed: int) -> list[str]:
        """Regions to measure from now on, while so many others are being measured."""
        due = [name for name, k in self.known.items() if k.opened_ns is None and k.due_ns <= now_ns]
        due.sort(key=lambda name: (self._cost(name) is not None, self._cost(name) or 0.0, name))
        return due[: max(AT_ONCE - probed, 0)]

    def measured(self, now_ns: int, name: str, candidate: Candidate | None) -> None:
        """What the session with a region shows; None: there is none."""
        known = self.known[name]
        if candidate is None:
            known.opened_ns, known.told = None, False
            return
        if known.opened_ns is None:
            known.opened_ns = now_ns
        if candidate.connected and candidate.settled and candidate.rtt_ms:
            known.candidate, known.measured_ns, known.told = candidate, now_ns, True
        elif now_ns - max(known.measured_ns or 0, known.opened_ns) >= GIVE_UP_NS:
            known.candidate, known.measured_ns, known.told = None, now_ns, True

    def _cost(self, name: str) -> float | None:
        candidate = self.known[name].candidate
        return candidate.cost_ms if candidate else None

    def _keep(self) -> None:
        """The best three. One goes for another that is clearly better, or when it does not answer."""
        costs = {name: known.candidate.cost_ms for name, known in self.known.items() if known.candidate}
        order = [name for _, name in sorted(zip(costs.values(), costs, strict=True))]
        kept = [name for name in order if self.known[name].kept][:KEEP]
        for name in [name for name in order if name not in kept]:
            if len(kept) == KEEP:
                worst = max(kept, key=lambda name: (costs[name], name))
                if not clearly_better(costs[name], costs[worst]):
                    break
                kept.remove(worst)
            kept.append(name)
        for name, known in self.known.items():
            known.kept = name in kept

    def _alarm(self, now_ns: int) -> None:
        """All others are due at once when the best one is clearly worse than it was, or has come or gone."""
        best = min((k.candidate.cost_ms for k in self.known.values() if k.kept and k.candidate), default=None)
        reference = self.reference_ms
        if best is not None and reference is not None and not clearly_better(reference, best):
            self.reference_ms = min(best, reference)
        elif (best is not None or reference is not None) and now_ns >= self._alarm_ns:
            self.reference_ms, self._alarm_ns = best, now_ns + ALARM_NS
            for known in self.known.values():
                known.due_ns = min(known.due_ns, now_ns)

    def _interval_ns(self) -> int:
        share = int.from_bytes(self._random_bytes(2), "big") / 0xFFFF * 2 - 1
        return round(AGAIN_NS * (1 + SPREAD * share))
