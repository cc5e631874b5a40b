"""What an edge measures of a region: modelled by the conditions of the link, with the edge's access on top,
and noise; and when it takes silence for a failure.
"""

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from random import Random

from relay.core.nearest import KEEP
from relay.core.routing import Candidate, clearly_better
from relay.lab.weather import Conditions
from relay.wire.health import RATIO, Digest

SAMPLES = 32
"""Measurements drawn for a link and its conditions; a look takes one of them."""
WINDOW_S = 2
"""What is measured is of so many seconds, and so lasts as long."""
IDLE_DATAGRAMS, MEDIA_DATAGRAMS = 12, 800
"""Datagrams that the loss of WINDOW_S is measured on, without and with a stream of 400 packets/s."""

FAR_MS = 1e9
"""Costs more than any region."""

SPACING_MS = 2.5
"""Between two packets of the stream."""
REPORT_MS = 10.0
"""Between two reports of its receiver."""
SILENCE_MIN_MS, SILENCE_MAX_MS = 40.0, 400.0
LONGEST_MS = 30_000.0
"""The rule of relay_ext/silence.pyx: three times the longest gap of so long, within these bounds."""

ACCESS = (
    ("fibre", 0.60, (0.5, 2.0), (0.1, 0.5), 0.0),
    ("cable", 0.25, (4, 10), (0.5, 2.0), 0.001),
    ("radio", 0.15, (10, 25), (2.0, 5.0), 0.01),
)
"""How edges are connected: share of them; delay one way and jitter in ms, drawn between two values; loss,
drawn up to one."""


def longest_gap_ms(loss_ratio: float, jitter_ms: float, spacing_ms: float) -> float:
    """The longest run of random losses that is to be expected once in LONGEST_MS, and what jitter adds."""
    loss = min(max(loss_ratio, 1e-6), 0.99)
    runs = LONGEST_MS / spacing_ms * (1 - loss)
    return spacing_ms * (1 + int(math.log(max(runs, 1)) / -math.log(loss))) + 4 * jitter_ms


def silence_ms(loss_ratio: float, jitter_ms: float, spacing_ms: float) -> float:
    """After which a receiver, or a sender that gets reports, gives a hop up."""
    asked_ms = max(SILENCE_MIN_MS, 3 * longest_gap_ms(loss_ratio, jitter_ms, spacing_ms))
    return min(asked_ms, SILENCE_MAX_MS)


def false_alarms_per_s(loss_ratio: float) -> float:
    """Expected, by random loss alone: a run as long as SILENCE_MIN_MS, which is also three times as long as
    the longest of the n in LONGEST_MS. Where lengths fall off exponentially, that is 6 of (n+1)(n+2)(n+3)."""
    runs_per_s = loss_ratio * (1 - loss_ratio) * 1000 / SPACING_MS
    n = runs_per_s * LONGEST_MS / 1000
    least = math.pow(loss_ratio, SILENCE_MIN_MS / SPACING_MS - 1)
    return runs_per_s * min(least, 6 / ((n + 1) * (n + 2) * (n + 3)))


@dataclass(frozen=True, slots=True)
class Access:
    """What an edge's own line adds to every link."""

    kind: str
    delay_ms: float
    jitter_ms: float
    loss_ratio: float


def access(chance: Random) -> Access:
    kind, _, delay, jitter, loss = chance.choices(ACCESS, [share for _, share, *_ in ACCESS])[0]
    return Access(kind, chance.uniform(*delay), chance.uniform(*jitter), chance.uniform(0, loss))


class Pool:
    """What can be measured of a region while its conditions last, and which of it at each second."""

    __slots__ = ("high", "low", "salt", "samples")

    def __init__(self, samples: list[Candidate], salt: int = 0) -> None:
        self.samples = samples
        self.salt = salt
        costs = [c.cost_ms for c in samples]
        self.low, self.high = min(costs), max(costs)

    def at(self, second: int) -> Candidate:
        """Equal for WINDOW_S, then another one, as if at random."""
        if len(self.samples) == 1:
            return self.samples[0]
        mixed = (second // WINDOW_S + self.salt) * 0x9E3779B1 & 0xFFFFFFFF
        mixed = (mixed ^ mixed >> 15) * 0x85EBCA77 & 0xFFFFFFFF
        return self.samples[(mixed >> 13) % SAMPLES]


class Rest:
    """A region without a session, as it was when it had one; made only when somebody looks."""

    __slots__ = ("_measured", "_shown")

    def __init__(self, measured: Candidate) -> None:
        self._measured = measured
        self._shown: Candidate | None = None

    @property
    def low(self) -> float:
        return self._measured.cost_ms

    high = low

    def at(self, second: int) -> Candidate:
        if self._shown is None:
            self._shown = replace(self._measured, connected=False, rests="rests")
        return self._shown


Source = Pool | Rest


@dataclass(frozen=True, slots=True)
class Quiet:
    """What the looks that are left out would see, and whether they would do anything."""

    kept: list[Source]
    others: list[Source]
    """With sessions."""
    resting_ms: float
    """The least cost of all others."""
    held: Source
    load_ms: float
    """Of that, the part which does not count against rivals (core/routing)."""
    rivals: list[Source]
    """What the stream could go over instead."""
    reference_ms: float | None
    """`Nearest`'s."""

    def until(self, now_s: int, then_s: int) -> int:
        """The first second before `then_s` that does; else that. Within WINDOW_S all are the same."""
        if len(self.kept) < KEEP and (self.others or self.resting_ms < FAR_MS):
            return now_s + 1
        kept = min(p.low for p in self.kept), min(p.high for p in self.kept), max(p.high for p in self.kept)
        others_ms = min([self.resting_ms, *(p.low for p in self.others)])
        rivals_ms = min((p.low for p in self.rivals), default=FAR_MS)
        if not self._moves(kept, others_ms, rivals_ms, self.held.high - self.load_ms):
            return then_s
        second = now_s + 1
        while second < then_s:
            costs = [p.at(second).cost_ms for p in self.kept]
            others_ms = min([self.resting_ms, *(p.at(second).cost_ms for p in self.others)])
            rivals_ms = min((p.at(second).cost_ms for p in self.rivals), default=FAR_MS)
            best_ms = min(costs)
            held_ms = self.held.at(second).cost_ms - self.load_ms
            if self._moves((best_ms, best_ms, max(costs)), others_ms, rivals_ms, held_ms):
                return second
            second += WINDOW_S - second % WINDOW_S
        return then_s

    def _moves(
        self, kept: tuple[float, float, float], others_ms: float, rivals_ms: float, held_ms: float
    ) -> bool:
        """`kept`: the least and the greatest that their best may cost, and their worst."""
        best_ms, best_most_ms, worst_ms = kept
        return (
            self.reference_ms is None
            or best_ms < self.reference_ms
            or clearly_better(self.reference_ms, best_most_ms)
            or clearly_better(others_ms, worst_ms)
            or clearly_better(rivals_ms, held_ms)
        )


def measure(draw: Random, line: Access, name: str, now: Conditions, *, media: bool) -> Candidate:
    """One measurement; `media`: on the packets of the stream."""
    jitter_ms = now.jitter_ms + line.jitter_ms
    min_rtt_ms = 2 * (now.delay_ms + line.delay_ms) + draw.uniform(0, 0.2)
    queue_ms = now.queue_ms * draw.uniform(0.8, 1.2) + jitter_ms * draw.random()
    loss = 1 - (1 - now.loss_ratio) * (1 - line.loss_ratio)
    if media:
        deviation = math.sqrt(loss * (1 - loss) / MEDIA_DATAGRAMS)
        loss = max(loss + deviation * draw.gauss(0, 1), 0.0)
    else:
        loss = _lost(draw.random(), loss, IDLE_DATAGRAMS) / IDLE_DATAGRAMS
    return Candidate(
        peer=name,
        connected=True,
        rtt_ms=min_rtt_ms + 2 * queue_ms,
        min_rtt_ms=min_rtt_ms,
        queue_ms=queue_ms,
        jitter_ms=jitter_ms * draw.uniform(0.7, 1.3),
        loss_ratio=loss,
        health=_digest(now.draining, now.load),
    )


def true_ms(line: Access, now: Conditions) -> float:
    """The cost without noise. A region that does not take streams costs more than any."""
    if not now.alive or now.draining:
        return FAR_MS
    rtt_ms = 2 * (now.delay_ms + line.delay_ms)
    return Candidate(
        peer="",
        connected=True,
        rtt_ms=rtt_ms,
        min_rtt_ms=rtt_ms,
        queue_ms=now.queue_ms,
        jitter_ms=now.jitter_ms + line.jitter_ms,
        loss_ratio=now.loss_ratio + line.loss_ratio,
        health=_digest(now.draining, now.load),
    ).cost_ms


def _lost(chance: float, loss_ratio: float, packets: int) -> int:
    """How many of so many packets are lost: the binomial distribution, inverted at `chance`."""
    lost, here = 0, (1 - loss_ratio) ** packets
    while chance > here and lost < packets:
        chance -= here
        lost += 1
        here *= (packets - lost + 1) / lost * loss_ratio / (1 - loss_ratio)
    return lost


@lru_cache(maxsize=1024)
def _digest(draining: bool, load: float) -> Digest:
    """What a region says of itself."""
    return Digest(
        draining=draining,
        headroom_permille=RATIO - round(load * RATIO),
        loop_lag_ms=1,
        memory_available_permille=500,
    )
