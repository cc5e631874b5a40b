"""How much proactive repair a hop sends: the rule of docs/loss.md, at its corners and by simulation."""

import random
from itertools import pairwise
from math import sqrt

import pytest

from relay.core.repair import LOSS_MAX, Link, proactive_ratio

MS = 1_000_000


def ratio(
    loss: float = 0.3, *, burst: float = 0.0, rtt_ms: int = 100, budget_ms: int = 200, pps: float = 400.0
) -> float:
    return proactive_ratio(Link(loss, burst, rtt_ms * MS, budget_ms * MS, pps))


def test_without_loss_nothing_is_sent() -> None:
    assert ratio(0.0) == 0.0
    assert ratio(-0.1) == 0.0


@pytest.mark.parametrize("budget_ms", [1, 50, 100, 120])
def test_no_time_for_a_round_trip(budget_ms: int) -> None:
    """The mean and three standard deviations, over the packets of the window with its repair."""
    n = min(budget_ms * 0.4, 128) / 0.7
    worst = min(0.3 + 3 * sqrt(0.21 / n), 0.75)
    assert ratio(budget_ms=budget_ms) == pytest.approx(worst / (1 - worst))


@pytest.mark.parametrize(("budget_ms", "factor"), [(150, 1.3), (200, 1.15), (250, 1.0), (1000, 1.0)])
def test_time_for_reactive_repair(budget_ms: int, factor: float) -> None:
    assert ratio(budget_ms=budget_ms) == pytest.approx(factor * 0.3 / 0.7)


def test_bursts_take_reports_too_so_that_more_is_sent_unasked() -> None:
    assert ratio(budget_ms=400, burst=0.6) == pytest.approx(1.2 * ratio(budget_ms=400))
    assert ratio(budget_ms=150, burst=0.6) == ratio(budget_ms=150)


@pytest.mark.parametrize("loss", [0.01, 0.1, 0.3, 0.5])
def test_it_falls_with_the_budget_and_has_no_step(loss: float) -> None:
    ratios = [ratio(loss, budget_ms=b) for b in range(60, 400)]
    assert all(a >= b for a, b in pairwise(ratios))
    # Steeper between "alone" and "one reactive round", where 30 ms make all the difference.
    assert all(a - b < max(ratios) / 8 for a, b in pairwise(ratios))


def test_it_grows_with_loss_and_bursts() -> None:
    for budget_ms in (50, 135, 200, 400):
        by_loss = [ratio(p / 100, budget_ms=budget_ms) for p in range(1, 70)]
        assert all(a < b or b == 3 for a, b in pairwise(by_loss))
    assert ratio(budget_ms=50, burst=0.5) > ratio(budget_ms=50)


def test_it_is_a_finite_ratio_whatever_is_measured() -> None:
    rng = random.Random(1)
    for _ in range(2000):
        link = Link(
            rng.choice([0.0, 1.0, rng.random()]),
            rng.choice([0.0, 0.9, rng.uniform(0, 0.9)]),
            rng.choice([0, 1, rng.randrange(10_000 * MS)]),
            rng.choice([0, rng.randrange(60_000 * MS)]),
            rng.choice([0.0, rng.uniform(0, 1e5)]),
        )
        assert 0 <= proactive_ratio(link) <= 1.3 * LOSS_MAX / (1 - LOSS_MAX), link


def test_alone_it_covers_all_but_a_few_windows() -> None:
    """Three standard deviations: at most 1 % of windows of 128 symbols lose more than their repair mends."""
    rng = random.Random(3)
    share = ratio(budget_ms=100, pps=4000.0)
    repair = int(128 * share)
    short = 0
    for _ in range(3000):
        lost = sum(rng.random() < 0.3 for _ in range(128 + repair))
        short += lost > repair
    assert short <= 30
