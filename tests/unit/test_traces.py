"""Capacity traces: what they promise of themselves, and what a link makes of them."""

from itertools import pairwise

import pytest

from relay.lab import traces
from relay.lab.link import Link, LinkConfig, seeded

MS = 1_000_000
SECONDS, MEAN_BPS = 600, 10e6
SEEDS = [1, 2, 3]


def mean_bps(trace: traces.Trace, seconds: float) -> float:
    ends = [at_s for at_s, _ in trace[1:]] + [seconds]
    return sum(bps * (end_s - at_s) for (at_s, bps), end_s in zip(trace, ends, strict=True)) / seconds


@pytest.mark.parametrize("seed", SEEDS)
def test_lte_keeps_its_mean_and_wanders(seed: int) -> None:
    trace = traces.lte(seed, SECONDS, MEAN_BPS)
    times = [at_s for at_s, _ in trace]
    rates = sorted(bps for _, bps in trace if bps)
    assert times[0] == 0
    assert all(a < b for a, b in pairwise(times))
    assert mean_bps(trace, SECONDS) == pytest.approx(MEAN_BPS, rel=0.02)  # less what the gaps take
    assert rates[len(rates) // 20] < 0.5 * MEAN_BPS
    assert rates[-len(rates) // 20] > 1.5 * MEAN_BPS
    lengths = [end_s - start_s for start_s, end_s in traces.gaps(trace)]
    assert 3 <= len(lengths) <= 30
    assert min(lengths) >= 0.03
    assert max(lengths) <= 0.8 + 1e-9


def test_lte_depends_on_nothing_but_the_seed() -> None:
    assert traces.lte(1, 60, MEAN_BPS) == traces.lte(1, 60, MEAN_BPS) != traces.lte(2, 60, MEAN_BPS)


def test_mahimahi_counts_opportunities_in_steps() -> None:
    trace = traces.mahimahi(["0", "0", "99", "100", "350"])
    bps = 1504 * 8 / traces.STEP_S
    assert [rate for _, rate in trace] == [3 * bps, bps, 0, bps]
    assert [at_s for at_s, _ in trace] == pytest.approx([0, 0.1, 0.2, 0.3])
    assert traces.gaps(trace)[0] == pytest.approx((0.2, 0.3))


@pytest.mark.parametrize("lines", [[], ["5", "4"], ["x"]])
def test_mahimahi_refuses_what_is_no_trace(lines: list[str]) -> None:
    with pytest.raises(ValueError):
        traces.mahimahi(lines)


def test_nothing_passes_in_a_gap_and_what_waited_comes_after_it() -> None:
    trace = ((0.0, 8e6), (1.0, 0.0), (1.5, 8e6))
    link: Link[int] = Link(traces.profile(LinkConfig(queue_bytes=1_000_000), trace), seeded(1, "x"))
    out: list[tuple[int, int]] = []
    for i in range(200):  # 1000 bytes every 10 ms, 1 ms each at the full rate
        out += link.poll(i * 10 * MS)
        assert link.send(i * 10 * MS, 1000, i)
    while (deadline := link.deadline()) is not None:
        out += link.poll(deadline)
    assert [number for _, number in out] == list(range(200))
    assert not [at for at, _ in out if 1000 * MS < at < 1500 * MS]
    assert next(at for at, number in out if number == 100) == pytest.approx(1501 * MS, abs=0.2 * MS)
    assert out[-1][0] == 1991 * MS


def test_a_queue_in_bytes_holds_as_much_at_any_rate() -> None:
    for bps in (1e5, 1e7):
        link: Link[int] = Link(LinkConfig(rate_bps=bps, queue_bytes=10_000), seeded(1, "x"))
        assert sum(link.send(0, 1000, i) for i in range(50)) == 10
        assert link.counters.lost_queue == 40
    with pytest.raises(ValueError, match="queue_bytes"):
        LinkConfig(queue_bytes=0)
