"""Capacity that changes over time: profiles of a link's rate.

A trace is a tuple of (seconds since its start, bits per second), the first at 0, ascending; a rate of 0 is a
gap. `profile` makes a `LinkProfile` of it. Traces come from `lte`, a seeded generator, or from `mahimahi`,
which reads the packet delivery opportunities that the emulator of that name records on real networks.
"""

import random
from collections.abc import Iterable
from dataclasses import replace
from math import exp, sqrt

from relay.lab.link import LinkConfig, LinkProfile

Trace = tuple[tuple[float, float], ...]

STEP_S = 0.1
"""Length of a step of `lte` and `mahimahi`."""
GAP_BPS = 1000.0
"""What a link does in a gap: a packet there takes until the gap ends."""
_OPPORTUNITY_BITS = 1504 * 8  # bytes that one line of a mahimahi trace allows

_SHADOW_SIGMA, _SHADOW_S = 0.35, 5.0  # log-normal shadowing, and the time in which it is forgotten
_FADING_SIGMA, _FADING_S = 0.25, 0.3  # what is left of fast fading and of scheduling in averages of 100 ms
_EDGE_SHARE, _EDGE_S, _CENTRE_S = 0.35, 4.0, 20.0  # the cell's edge: its rate, stays there and in between
_HANDOVER_S = 45.0  # mean time between handovers
_HANDOVER_GAP_S, _FAILURE_GAP_S, _FAILURE_SHARE = (0.03, 0.15), (0.3, 0.8), 0.1


def profile(base: LinkConfig, trace: Trace) -> LinkProfile:
    """`base` with the rate of the trace; it stays as it is after the last step.

    Give `base` a `queue_bytes`: a queue counted in time would shrink with the rate.
    """
    return [(at_s, replace(base, rate_bps=max(bps, GAP_BPS))) for at_s, bps in trace]


def lte(seed: int, seconds: float, mean_bps: float) -> Trace:
    """A synthetic uplink of a phone that moves: its capacity in steps of 100 ms, `mean_bps` on average.

    No recording was used. The rate is the product of log-normal shadowing and fading, each a first-order
    autoregressive process, and of a Markov chain that goes to the edge of the cell (35 % of the rate) and
    back. Every 45 s on average comes a handover: a gap of 30 to 150 ms, or of 300 to 800 ms for one in ten,
    where the connection is lost and made again. The form follows what Winstein et al. describe (Sprout, NSDI
    2013: rates that wander over an order of magnitude within seconds, with outages); the figures are ours.
    """
    rng = random.Random(f"lte/{seed}")
    shadow, fading = rng.gauss(0, _SHADOW_SIGMA), rng.gauss(0, _FADING_SIGMA)
    edge = False
    rates = []
    for _ in range(max(1, round(seconds / STEP_S))):
        shadow = _wander(rng, shadow, _SHADOW_SIGMA, _SHADOW_S)
        fading = _wander(rng, fading, _FADING_SIGMA, _FADING_S)
        if rng.random() < STEP_S / (_EDGE_S if edge else _CENTRE_S):
            edge = not edge
        rates.append(exp(shadow + fading) * (_EDGE_SHARE if edge else 1.0))
    scale = mean_bps * len(rates) / sum(rates)
    return _with_gaps(rng, [(i * STEP_S, rate * scale) for i, rate in enumerate(rates)])


def mahimahi(lines: Iterable[str]) -> Trace:
    """The trace of a mahimahi file: a line a packet of 1504 bytes, the time in ms at which it may go.

    Raises ValueError for a line that is no whole number, for times that go back, and for a file without any.
    """
    counts = [0]
    last = 0
    for number, line in enumerate(lines, 1):
        at_ms = int(line)
        if at_ms < last:
            raise ValueError(f"line {number}: {at_ms} comes after {last}")
        last = at_ms
        step = int(at_ms / (STEP_S * 1000))
        counts += [0] * (step + 1 - len(counts))
        counts[step] += 1
    if not any(counts):
        raise ValueError("no packet delivery opportunities")
    return tuple((i * STEP_S, n * _OPPORTUNITY_BITS / STEP_S) for i, n in enumerate(counts))


def gaps(trace: Trace) -> list[tuple[float, float]]:
    """(start, end) in seconds of the steps of a trace in which nothing passes."""
    ends = [at_s for at_s, _ in trace[1:]]
    return [(at_s, end_s) for (at_s, bps), end_s in zip(trace, ends, strict=False) if bps <= GAP_BPS]


def _wander(rng: random.Random, value: float, sigma: float, memory_s: float) -> float:
    kept = exp(-STEP_S / memory_s)
    return kept * value + sqrt(1 - kept * kept) * rng.gauss(0, sigma)


def _with_gaps(rng: random.Random, steps: list[tuple[float, float]]) -> Trace:
    """Handovers, each at the start of a step."""
    cut: list[tuple[float, float]] = []
    gap_end_s, resumed = 0.0, True
    for at_s, bps in steps:
        if at_s >= gap_end_s and at_s and rng.random() < STEP_S / _HANDOVER_S:
            bounds = _FAILURE_GAP_S if rng.random() < _FAILURE_SHARE else _HANDOVER_GAP_S
            gap_end_s, resumed = at_s + rng.uniform(*bounds), False
            cut.append((at_s, 0.0))
        if resumed:
            cut.append((at_s, bps))
        elif gap_end_s < at_s + STEP_S:
            cut.append((max(gap_end_s, at_s), bps))
            resumed = True
    return tuple(cut)
