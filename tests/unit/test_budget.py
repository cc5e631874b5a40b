"""How a stream's latency is shared out over its hops."""

import pytest

from relay.core.budget import LEAST_MS, left, share, worth_telling


@pytest.mark.parametrize(
    ("latency_ms", "rtt_ms", "beyond", "budget_ms"),
    [
        (400, 100, (), 350),  # one hop has it all
        (400, 0, (), 400),
        (100, 190, (), LEAST_MS),
        (400, 100, (100,), 150),  # equal hops: equal shares of what propagation leaves
        (
            500,
            20,
            (160, 20),
            40,
        ),  # two short hops and one across an ocean: 400 ms in proportion to the round trips
        (500, 160, (20,), 364),
        (430, 0, (20,), 140),  # unknown or short counts as 10 ms
        (10, 0, (0, 0), LEAST_MS),
    ],
)
def test_shares(latency_ms: int, rtt_ms: float, beyond: tuple[int, ...], budget_ms: int) -> None:
    assert share(latency_ms, rtt_ms, beyond) == budget_ms


@pytest.mark.parametrize("rtts", [(20, 80, 20), (100,), (5, 5, 5), (100, 20)])
@pytest.mark.parametrize("latency_ms", [400, 1000, 4000])
def test_hop_by_hop_the_shares_add_up_to_the_latency(rtts: tuple[int, ...], latency_ms: int) -> None:
    rest, total = latency_ms, 0.0
    for i, rtt in enumerate(rtts):
        budget = share(rest, rtt, rtts[i + 1 :])
        total += budget + rtt / 2
        rest = left(rest, rtt, budget)
    assert latency_ms - 2 * len(rtts) <= total <= latency_ms


def test_what_is_left_is_never_no_limit() -> None:
    assert left(100, 100, 90) == 1


def test_small_changes_of_a_round_trip_are_not_told() -> None:
    assert not worth_telling((), ()) and worth_telling((), (20,)) and worth_telling((20, 10), (20,))
    assert not worth_telling((20,), (29,)) and worth_telling((20,), (31,))
    assert not worth_telling((100,), (125,)) and worth_telling((100,), (70,))
