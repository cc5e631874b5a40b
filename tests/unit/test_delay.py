"""delay: the floor, the drifting line and the histogram with forgetting, against slow oracles."""

import math
import random

import pytest

from relay_ext.delay import Delays

MS = 1_000_000
SECOND = 1000 * MS
FORGET = 10 * SECOND
TAIL = 1e-3


def beyond(samples: list[tuple[int, int]], now_ns: int, edge_ns: int) -> float:
    """The share of the weight of (ns, delay) samples that lies at `edge_ns` or more, by the definition."""
    weights = [math.exp((at - now_ns) / FORGET) for at, _ in samples]
    over = [w for w, (_, delay) in zip(weights, samples, strict=True) if delay >= edge_ns]
    return math.fsum(over) / math.fsum(weights)


@pytest.mark.parametrize("seed", range(6))
def test_the_quantile_is_that_of_all_samples_weighted_by_age(seed: int) -> None:
    rng = random.Random(seed)
    d = Delays()
    samples: list[tuple[int, int]] = []
    now, scale = SECOND, 20.0
    for i in range(6000):
        now += rng.choice([1, 2, 5, 20]) * MS
        scale = rng.uniform(1, 200) if i % 1500 == 0 else scale
        delay = int(rng.expovariate(1 / scale) * MS)
        samples.append((now, delay))
        d.add_delay(now, delay)
        if i % 500 == 499:
            edge = d.quantile_ns
            if edge < 1024 * MS:
                assert beyond(samples, now, edge) <= TAIL * 1.01, f"seed {seed}"
            assert beyond(samples, now, edge - MS) >= TAIL * 0.99, f"seed {seed}"


def test_few_samples_show_their_longest() -> None:
    d = Delays()
    assert (d.samples, d.quantile_ns) == (0, MS)
    for i in range(900):
        d.add_delay(SECOND + i, 77 * MS if i == 5 else 0)
    assert d.quantile_ns == 78 * MS
    assert d.samples == pytest.approx(900)
    for i in range(200):
        d.add_delay(SECOND + 900 + i, 0)
    assert d.quantile_ns == MS  # one in more than a thousand


def test_what_is_longer_than_the_histogram_or_negative_is_held_at_its_ends() -> None:
    d = Delays()
    d.add_delay(SECOND, -5)
    assert d.quantile_ns == MS
    d.add_delay(SECOND, 1 << 60)
    assert d.quantile_ns == 1024 * MS


@pytest.mark.parametrize("rate", [5, 50, 400])
def test_forgetting_goes_by_time_not_by_packets(rate: int) -> None:
    """After long delays in all samples, the quantile is down in 7 time constants, and up in a few samples."""
    d = Delays()
    now = SECOND
    for _ in range(100 * rate):
        now += SECOND // rate
        d.add_delay(now, 150 * MS)
    since = now
    while d.quantile_ns > 10 * MS:
        now += SECOND // rate
        d.add_delay(now, 2 * MS)
    assert (now - since) / SECOND == pytest.approx(69, abs=2)
    count = 0
    while d.quantile_ns < 80 * MS:
        now += SECOND // rate
        d.add_delay(now, 80 * MS)
        count += 1
    assert count <= max(5, 0.012 * rate)


def test_months_without_an_overflow_and_after_silence_only_what_is_new() -> None:
    d = Delays()
    now = SECOND
    for _ in range(3000):  # the weight is rescaled several hundred times
        now += 40 * SECOND
        d.add_delay(now, 300 * MS)
        assert d.samples < 2
    d.add_delay(now + 10**16, 4 * MS)
    for _ in range(3):
        d.add_delay(now + 10**16, 4 * MS)
    assert d.quantile_ns == 5 * MS
    assert d.samples == pytest.approx(4)


def test_the_floor_takes_a_shorter_path_at_once_and_a_longer_one_in_two_windows() -> None:
    d = Delays()
    for i in range(300):
        d.add_transit(SECOND + 10 * i * MS, (50 + i % 7) * MS)
    assert d.floor_ns == 50 * MS
    d.add_transit(4010 * MS, 20 * MS)
    assert d.floor_ns == 20 * MS
    now = 4010 * MS
    while d.floor_ns == 20 * MS:
        now += 10 * MS
        d.add_transit(now, 70 * MS)
    assert SECOND <= now - 4010 * MS <= 2.1 * SECOND
    assert d.floor_ns == 70 * MS


@pytest.mark.parametrize("ppm", [-200, -20, 0, 50, 200])
@pytest.mark.parametrize("seed", [1, 2])
def test_drift_is_measured_under_jitter_and_taken_out(ppm: int, seed: int) -> None:
    rng = random.Random(seed)
    d = Delays()
    worst = 0.0
    for i in range(20 * 300):
        now = SECOND + i * 50 * MS
        jitter = int(min(rng.expovariate(1 / (5 * MS)), 100 * MS))
        above = d.add_transit(now, -(10**15) + now * ppm // 10**6 + jitter)
        assert above >= 0, f"seed {seed}"
        if i > 20 * 60:
            worst = max(worst, abs(above - jitter))
    assert d.drift == pytest.approx(ppm / 1e6, abs=10e-6), f"seed {seed}"
    assert worst <= 0.6 * MS, f"seed {seed}"


def test_a_step_of_the_path_is_no_drift() -> None:
    d = Delays()
    assert d.drift is None
    for i in range(1200):
        now = SECOND + i * 100 * MS
        d.add_transit(now, now // 20_000 + (30 * MS if i > 600 else 0))
    assert d.drift == pytest.approx(50e-6, abs=2e-6)
