"""How much proactive repair a hop sends; reactive repair is the packet plane's.

docs/loss.md has the derivation.
"""

from dataclasses import dataclass
from math import sqrt

REPORT_SLACK_NS = 20_000_000
"""What a report cycle takes beyond the round trip: two report intervals."""
WINDOW_SYMBOLS = 128
"""Symbols that a proactive repair packet covers, at most."""
LOSS_MAX = 0.75
"""Loss beyond which no ratio is worth its bytes."""
MIDDLE_FACTOR = 1.3
"""Times p/(1-p), where one reactive round fits the budget but a second does not."""
BURST_FACTOR = 1 / 3
"""Times rho, added to 1 where two rounds fit: reports are lost in bursts too, and what is sent unasked must
do while none is heard."""


@dataclass(frozen=True, slots=True)
class Link:
    """What the proactive ratio follows from."""

    loss_ratio: float
    """What repair counts on: the larger of the averages over 250 ms and 2 s; 0..1."""
    loss_burst: float
    """rho = 1 - P(good to bad) - P(bad to good), 0..0.9; 0: losses are independent."""
    rtt_ns: int
    budget_ns: int
    """Delay that repair may add beyond propagation."""
    packets_per_second: float
    """Source packets."""


def deviation(loss_ratio: float, packets: float, burst: float) -> float:
    """Of the loss of so many packets, that of `Link.loss_burst` taken into account."""
    alone = sqrt(loss_ratio * (1 - loss_ratio) / max(packets, 1.0))
    return alone * sqrt((1 + burst) / (1 - burst))


def proactive_ratio(link: Link) -> float:
    """Repair packets to send per source packet, before any report.

    With no time for a round trip, proactive repair alone must do: the expected loss plus three standard
    deviations over the window. With time for two rounds it only has to cover the mean. Between, linear.
    """
    loss = min(link.loss_ratio, LOSS_MAX)
    mean = loss / (1 - loss)
    if loss <= 0:
        return 0.0
    covered = min(link.budget_ns * 1e-9 * link.packets_per_second, WINDOW_SYMBOLS) * (1 + mean)
    worst = min(loss + 3 * deviation(loss, covered, link.loss_burst), LOSS_MAX)
    alone = worst / (1 - worst)
    one_round = link.rtt_ns + REPORT_SLACK_NS
    if link.budget_ns <= one_round or link.rtt_ns == 0:
        return alone
    middle, two_rounds = 1.5 * link.rtt_ns, 2.5 * link.rtt_ns
    if link.budget_ns < middle:
        share = (link.budget_ns - one_round) / (middle - one_round)
        return alone + share * (MIDDLE_FACTOR * mean - alone)
    share = min((link.budget_ns - middle) / (two_rounds - middle), 1.0)
    asked_for = 1 + BURST_FACTOR * link.loss_burst
    return mean * (MIDDLE_FACTOR + share * (asked_for - MIDDLE_FACTOR))
