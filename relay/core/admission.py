"""Whether a node can take another stream or subscription, and what it gives up when it has taken too many.

u is how much of the node is in use: the highest of its measured loads, and beside it what those will add that
were let in during the last seconds, before that can be measured. At REFUSE nobody else is let in. At SHED
what is there is cut back, a step at a time (`Step`), and given back once the measured load has been below
REFUSE for a while; a step that had to be taken again is given back ever more slowly.

Sans-IO: `observe` and `look` are given the time in ns, once a second or so.
"""

import math
from collections import Counter
from collections.abc import Mapping
from enum import IntEnum
from typing import Any, Final

SECOND: Final = 1_000_000_000

REFUSE: Final = 0.80
"""u at which nobody is let in any more."""
SHED: Final = 0.90
"""Measured load at which the next step is taken."""
SETTLE: Final = 0.85
"""What sending viewers away aims at: between the two, so that it neither goes on nor is undone at once."""

LIFE_NS: Final = 3 * SECOND
"""A measured load that is older says nothing any more (as core/health.LIFE_NS)."""
START_NS: Final = SECOND // 2
"""Media flows so long after it was let in: a round trip or two."""
RESERVE_NS: Final = 3 * SECOND
"""Where no reading comes, what was let in is forgotten after this."""
SHARE_MIN: Final = 0.0005
"""What anything takes at least: bookkeeping, if nothing else."""
BPS: Final = 2e6
PER_BPS: Final = 0.01 / BPS
"""Where nothing was measured at the start either: a stream of 2 Mb/s takes 1 %, as on a small board."""
LEARN: Final = 0.05
"""A load below this is mostly the node itself, and tells little of what a bit costs."""
LEARN_SHARE: Final = 1 / 4
"""Weight of a new measurement of that."""

STEP_NS: Final = 2 * SECOND
"""Between two steps: what the last one has brought must have been measured."""
CALM_NS, CALM_MAX_NS = 10 * SECOND, 320 * SECOND
"""The load has to be low for so long until a step is given back; twice as long whenever that was too soon."""
SOON_NS: Final = 30 * SECOND
"""A step that is needed again so soon was given back too soon."""
FORGET_NS: Final = 600 * SECOND
"""After so long without another step that is forgotten."""


class Step(IntEnum):
    """What is given up, each with all before it."""

    NONE = 0
    REPAIR = 1
    """Repair beyond what the measured loss needs on average."""
    FRAMES = 2
    """Frames to which no other refers."""
    VIEWERS = 3
    """The newest subscriptions."""


class Admission:
    """One of a node. `share_per_bps`: what a bit a second takes of it, until the loads have told."""

    def __init__(self, share_per_bps: float = PER_BPS) -> None:
        self.step = Step.NONE
        self.refused: Counter[str] = Counter()
        """Joins that were refused, by a word for the reason."""
        self.sent_away = 0
        """Subscriptions that were told to go elsewhere, or ended, to shed load."""
        self._load: float | None = None
        self._load_ns = 0
        self._window_ns = SECOND
        """What the last reading covers."""
        self._terms: dict[str, float] = {}
        self._flow_bps = 0.0
        self._flows = 0
        self._mean_bps = 0.0
        """Of the last second: what has come in its course counts half."""
        self._start_per_bps = share_per_bps
        self._card_per_bps = 0.0
        self._per_bps: float | None = None
        """As the loads have told."""
        self._reserved: dict[object, tuple[int, float]] = {}
        """By what was let in: when, and its share."""
        self._stepped_ns = 0
        self._given_back_ns: int | None = None
        self._low_ns: int | None = None
        """Since when the load has been low."""
        self._calm_ns = CALM_NS

    # ---- what is measured --------------------------------------------------------------------

    def observe(self, now_ns: int, terms: Mapping[str, float | None], card_mbps: float | None = None) -> None:
        """The loads that were measured, 0 to 1, by name, and the speed of the network card; None is
        unknown."""
        self._card_per_bps = 1e-6 / card_mbps if card_mbps else 0.0
        self._terms = {name: load for name, load in terms.items() if load is not None}
        self._load, self._window_ns = max(self._terms.values(), default=None), now_ns - self._load_ns
        self._load_ns = now_ns
        if self._load is not None and self._load >= LEARN and self._mean_bps > 0:
            per_bps = self._load / self._mean_bps
            before = per_bps if self._per_bps is None else self._per_bps
            self._per_bps = before + LEARN_SHARE * (per_bps - before)

    def carries(self, flow_bps: float, flows: int) -> None:
        """What the node carries: bits a second, in and out, of so many streams in and out. Once a second."""
        self._mean_bps = (self._flow_bps + flow_bps) / 2
        self._flow_bps, self._flows = flow_bps, flows

    def measured(self, now_ns: int) -> float | None:
        """The highest load; None: not known."""
        return self._load if now_ns - self._load_ns < LIFE_NS else None

    def terms(self, now_ns: int) -> dict[str, float]:
        """What u is made of: the measured loads, as far as they are known, and what is reserved."""
        known = self._terms if self.measured(now_ns) is not None else {}
        return {**known, "reserved": self.reserved(now_ns)}

    def reserved(self, now_ns: int) -> float:
        """What those will add that were let in a moment ago: as much as the last reading cannot have seen."""
        added = 0.0
        for key, (at_ns, share) in list(self._reserved.items()):
            unseen = self._unseen(at_ns) if now_ns - at_ns < RESERVE_NS else 0.0
            added += share * unseen
            if unseen == 0:
                del self._reserved[key]
        return added

    def _unseen(self, at_ns: int) -> float:
        """The part of the last reading's time in which what was let in then did not flow yet."""
        seen_ns = self._load_ns - (at_ns + START_NS)
        return min(max(1 - seen_ns / max(self._window_ns, 1), 0.0), 1.0)

    def u(self, now_ns: int) -> float:
        """How much of the node is in use; a load that is not known counts for nothing."""
        return min((self.measured(now_ns) or 0.0) + self.reserved(now_ns), 1.0)

    def status(self, now_ns: int) -> dict[str, Any]:
        """What is shown of it."""
        return {
            "u": round(self.u(now_ns), 4),
            "terms": {name: round(load, 4) for name, load in self.terms(now_ns).items()},
            "shedding": self.step.name.lower(),
            "refused": dict(self.refused),
            "sent_away": self.sent_away,
        }

    def full(self, now_ns: int) -> bool:
        return self.u(now_ns) >= REFUSE

    # ---- who is let in -----------------------------------------------------------------------

    def join(self, now_ns: int, key: object, bps: float | None = None) -> str:
        """Let in what will bring so many bits a second (None: as much as others do), under a key that is its
        own; or say why not."""
        u = self.u(now_ns)
        if u >= REFUSE:
            term, load = max(self.terms(now_ns).items(), key=lambda of: of[1])
            return f"this node is {u:.0%} loaded, {load:.0%} of it {term}"
        self.reserve(now_ns, key, bps)
        return ""

    def reserve(self, now_ns: int, key: object, bps: float | None = None) -> None:
        """Count with what comes in any case."""
        self._reserved[key] = now_ns, self._share(bps)

    def _share(self, bps: float | None) -> float:
        """Of the node, that so many bits a second will take."""
        if bps is None:
            bps = self._flow_bps / self._flows if self._flow_bps else BPS
        unknown = max(self._start_per_bps, self._card_per_bps)
        return max(bps * (unknown if self._per_bps is None else self._per_bps), SHARE_MIN)

    # ---- what is given up --------------------------------------------------------------------

    def look(self, now_ns: int) -> int:
        """Take a step or give one back, if it is time to; how many subscriptions to send away now."""
        load = self.measured(now_ns)
        if load is None:
            return 0
        self._low_ns = None if load >= REFUSE else now_ns if self._low_ns is None else self._low_ns
        if load >= SHED and now_ns - self._stepped_ns >= STEP_NS:
            return self._worsen(now_ns, load)
        if self.step and self._low_ns is not None and now_ns - self._low_ns >= self._calm_ns:
            self.step = Step(self.step - 1)
            self._given_back_ns = self._low_ns = now_ns
        return 0

    def _worsen(self, now_ns: int, load: float) -> int:
        before_ns, self._stepped_ns = self._stepped_ns, now_ns
        if self._given_back_ns is not None and now_ns - self._given_back_ns < SOON_NS:
            self._calm_ns = min(2 * self._calm_ns, CALM_MAX_NS)
        elif now_ns - before_ns >= FORGET_NS:
            self._calm_ns = CALM_NS
        self._given_back_ns = None
        self.step = Step(min(self.step + 1, Step.VIEWERS))
        return math.ceil((load - SETTLE) / self._share(None)) if self.step is Step.VIEWERS else 0
