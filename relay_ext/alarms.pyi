"""A day of datagrams in a second, for what `silence` makes of them."""

def false_alarms(
    *,
    seconds: float,
    packets_per_second: float,
    on_seconds: float,
    off_seconds: float,
    good_bad: float,
    bad_good: float,
    jitter_ms: float,
    seed: int,
) -> tuple[int, int]:
    """How often a peer that sends all the time counts as silent, and how many datagrams it sends.

    Media flows for `on_seconds`, then pauses for `off_seconds` (0: never), and so on; heartbeats and reports
    as a hop sends them. Each datagram takes a step of a chain of two states with those probabilities, and is
    lost in the bad one; `good_bad` = p and `bad_good` = 1 - p lose each by itself. Delay varies between 0 and
    `jitter_ms`, drawn anew after each `jitter_ms`.
    """
