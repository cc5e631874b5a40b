"""What each hop of a stream may spend of its latency, and what it leaves to the hops behind it."""

from collections.abc import Sequence

LEAST_MS = 20
"""Of any hop: two report intervals. Less repairs nothing."""
RTT_LEAST_MS = 10.0
"""A hop counts with no less: its repair takes a report interval, however short it is."""
TELL_RATIO = 0.25
"""A round trip is told anew when it has changed by this share of itself and by RTT_LEAST_MS."""


def share(latency_ms: float, rtt_ms: float, beyond: Sequence[float] = ()) -> int:
    """Repair budget of this hop in ms, beyond propagation: its part of `latency_ms`, which is left for it
    and the hops beyond, whose round trips are `beyond`, all in ms.

    What propagation leaves is divided in proportion to the round trips, since a repair takes at least one.
    """
    weights = [max(rtt, RTT_LEAST_MS) for rtt in (rtt_ms, *beyond)]
    left = latency_ms - (rtt_ms + sum(beyond)) / 2
    return max(int(left * weights[0] / sum(weights)), LEAST_MS)


def left(latency_ms: float, rtt_ms: float, budget_ms: float) -> int:
    """What the hops beyond may take, in ms, after one with such a round trip and repair budget; at least one,
    since 0 would stand for no limit."""
    return max(int(latency_ms - rtt_ms / 2 - budget_ms), 1)


def worth_telling(told: Sequence[float], now: Sequence[float]) -> bool:
    """Whether round trips beyond are so different from those last told that budgets should change."""
    return len(told) != len(now) or any(
        abs(a - b) > max(TELL_RATIO * a, RTT_LEAST_MS) for a, b in zip(told, now, strict=True)
    )
