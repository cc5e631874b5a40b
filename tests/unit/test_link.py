"""The link emulator: its statistics against theory, its order and timing exactly."""

import random
from dataclasses import replace
from itertools import pairwise
from math import sqrt

import pytest

from relay.lab.link import (
    MAX_IN_FLIGHT,
    GilbertElliott,
    Link,
    LinkConfig,
    LinkProfile,
    bursts,
    packet_size,
    seeded,
)

MS = 1_000_000
S = 1000 * MS
SEEDS = [1, 2, 3]


def carry(link: Link[int], count: int, spacing_ns: int, size: int = 1000) -> list[tuple[int, int]]:
    """Send `count` datagrams at a steady pace; (time out, number) of each that comes out, in order."""
    out: list[tuple[int, int]] = []
    for number in range(count):
        now_ns = number * spacing_ns
        out += link.poll(now_ns)
        link.send(now_ns, size, number)
    while (deadline := link.deadline()) is not None:
        out += link.poll(deadline)
    return out


def make(profile: LinkProfile, seed: int = 1) -> Link[int]:
    return Link(profile, random.Random(seed))


def burst_lengths(arrived: list[int], count: int) -> list[int]:
    edges = [-1, *arrived, count]
    return [b - a - 1 for a, b in pairwise(edges) if b - a > 1]


def test_a_default_link_is_perfect() -> None:
    link = make(LinkConfig())
    assert carry(link, 100, MS) == [(n * MS, n) for n in range(100)]
    assert (link.counters.sent, link.counters.delivered, link.counters.lost) == (100, 100, 0)
    assert link.counters.sent_bytes == 100_000


def test_delay_is_exact_and_nothing_comes_early() -> None:
    link = make(LinkConfig(delay_ms=50))
    link.send(7, 1000, 0)
    assert link.deadline() == 50 * MS + 7
    assert link.poll(50 * MS + 6) == []
    assert link.in_flight() == 1
    assert link.poll(50 * MS + 7) == [(50 * MS + 7, 0)]
    assert link.deadline() is None


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("loss", [0.01, 0.3, 0.9])
def test_random_loss_has_its_ratio_and_no_memory(loss: float, seed: int) -> None:
    count = 50_000
    link = make(LinkConfig(loss=loss), seed)
    arrived = [n for _, n in carry(link, count, MS)]
    assert abs(link.counters.lost_random / count - loss) < 4 * sqrt(loss * (1 - loss) / count)
    lengths = burst_lengths(arrived, count)
    mean = 1 / (1 - loss)  # geometric, standard deviation sqrt(loss) / (1 - loss)
    assert abs(sum(lengths) / len(lengths) - mean) < 4 * sqrt(loss) / (1 - loss) / sqrt(len(lengths)) + 1e-9


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("loss", "mean_burst"), [(0.3, 4.0), (0.03, 8.0), (0.5, 1.0)])
def test_bursts_have_their_ratio_and_length(loss: float, mean_burst: float, seed: int) -> None:
    count = 100_000
    link = make(LinkConfig(loss=bursts(loss, mean_burst)), seed)
    arrived = [n for _, n in carry(link, count, MS)]
    chain = bursts(loss, mean_burst)
    memory = 1 - chain.p_good_bad - chain.p_bad_good
    sigma = sqrt(loss * (1 - loss) / count * (1 + memory) / (1 - memory))
    assert (
        abs(link.counters.lost_random / count - loss) < 4 * sigma + 1e-4
    )  # the chain starts in the good state
    lengths = burst_lengths(arrived, count)
    spread = sqrt(mean_burst * (mean_burst - 1) / len(lengths))
    assert abs(sum(lengths) / len(lengths) - mean_burst) < 4 * spread + 1e-9


@pytest.mark.parametrize("seed", SEEDS)
def test_both_states_of_the_chain_have_a_loss(seed: int) -> None:
    count = 100_000
    chain = GilbertElliott(p_good_bad=0.1, p_bad_good=0.3, good_loss=0.02, bad_loss=0.5)
    link = make(LinkConfig(loss=chain), seed)
    carry(link, count, MS)
    expected = 0.75 * 0.02 + 0.25 * 0.5
    sigma = sqrt(expected * (1 - expected) / count * 1.6 / 0.4)  # an upper bound: memory 0.6 in full
    assert abs(link.counters.lost_random / count - expected) < 4 * sigma


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("spacing_ns", [MS // 10, MS, 20 * MS, 45 * MS])
def test_jitter_varies_the_delay_and_never_reorders(spacing_ns: int, seed: int) -> None:
    count = 20_000
    link = make(LinkConfig(delay_ms=50, jitter_ms=30), seed)
    out = carry(link, count, spacing_ns)
    assert [n for _, n in out] == list(range(count))
    assert link.counters.reordered == 0
    delays = [t - n * spacing_ns for t, n in out]
    assert 50 * MS <= min(delays) < 51 * MS
    assert 79 * MS < max(delays) <= 80 * MS


def test_jitter_of_dense_and_of_sparse_traffic_has_its_mean() -> None:
    # Dense: the delay is max(U, V - T) of uniform U, V (this and the last draw) and T (time since this draw),
    # whose mean is 13/24. Sparse: each datagram has a draw of its own.
    for spacing_ns, count, expected in ((MS // 10, 600_000, 13 / 24), (45 * MS, 10_000, 0.5)):
        link = make(LinkConfig(jitter_ms=30), seed=5)
        delays = [t - n * spacing_ns for t, n in carry(link, count, spacing_ns)]
        draws = count * min(1.0, spacing_ns / (30 * MS))
        assert abs(sum(delays) / count / (30 * MS) - expected) < 4 * 0.3 / sqrt(draws) + 0.005


@pytest.mark.parametrize("seed", SEEDS)
def test_an_overloaded_bottleneck_delays_by_its_queue_and_drops_the_tail(seed: int) -> None:
    # 1000 bytes every ms are 8 Mb/s, the link carries 6 Mb/s: a quarter is dropped.
    config = LinkConfig(delay_ms=10, rate_bps=6e6, queue_ms=40)
    link = make(config, seed)
    out = carry(link, 10_000, MS)
    serialisation = 8000 / 6e6 * S
    settled = [t - n * MS for t, n in out if n > 1000]
    assert max(settled) <= 10 * MS + 40 * MS + serialisation + 1
    assert min(settled) >= 10 * MS + 40 * MS - 2
    assert link.counters.lost_queue == link.counters.lost
    assert abs(link.counters.lost_queue - 2500) < 40  # less what the queue holds
    gaps = {b - a for (a, _), (b, _) in pairwise(out)}
    assert max(gaps) - min(gaps) <= 1 and abs(min(gaps) - serialisation) <= 1


def test_below_its_rate_a_bottleneck_only_serialises() -> None:
    link = make(LinkConfig(rate_bps=16e6))
    assert carry(link, 10, MS) == [(n * MS + MS // 2, n) for n in range(10)]


def test_what_is_lost_in_the_air_has_used_the_bottleneck() -> None:
    link = make(LinkConfig(rate_bps=6e6, queue_ms=40, loss=1.0))
    assert carry(link, 10_000, MS) == []
    assert abs(link.counters.lost_queue - 2500) < 40


@pytest.mark.parametrize(("factor", "sixth_ns"), [(0.5, 11 * MS), (2.0, 3.5 * MS), (None, 1 * MS)])
def test_the_queue_leaves_at_the_new_rate_when_capacity_changes(
    factor: float | None, sixth_ns: float
) -> None:
    before = LinkConfig(rate_bps=8e6)
    after = replace(before, rate_bps=None if factor is None else 8e6 * factor)
    link = make([(0, before), (0.001, after)])  # 1 ms in: the first of six has just left
    for number in range(6):
        link.send(0, 1000, number)
    out = [link.poll(t) for t in range(0, 20 * MS, MS // 2)]
    flat = [entry for batch in out for entry in batch]
    assert [n for _, n in flat] == list(range(6))
    assert flat[0][0] == MS
    assert flat[-1][0] == sixth_ns


def test_a_rate_that_rises_never_reorders_what_jitter_delayed() -> None:
    slow = LinkConfig(rate_bps=4e5, jitter_ms=30, queue_ms=1000)
    link = make(
        [(0, slow), (0.1, replace(slow, rate_bps=4e7)), (0.2, slow), (0.3, replace(slow, rate_bps=None))]
    )
    out = carry(link, 400, MS)
    assert [n for _, n in out] == sorted(n for _, n in out)
    assert [t for t, _ in out] == sorted(t for t, _ in out)
    assert link.counters.reordered == 0


def test_a_profile_changes_the_link_at_its_times() -> None:
    link = make([(0, LinkConfig()), (0.1, LinkConfig(loss=1.0)), (0.2, LinkConfig(delay_ms=5))])
    out = carry(link, 300, MS)
    assert [n for _, n in out] == [*range(100), *range(200, 300)]
    assert out[-1][0] == 304 * MS


def test_configure_starts_a_profile_at_the_present() -> None:
    link = Link[int](LinkConfig(outages=((0, 1),)), random.Random(1), start_ns=S)
    assert not link.send(S, 1000, 0)
    link.configure(S + 5, LinkConfig(outages=((1, 2),)))
    assert link.send(S + 5, 1000, 1)
    assert not link.send(2 * S + 5, 1000, 2)
    assert link.send(3 * S + 5, 1000, 3)


@pytest.mark.parametrize("times", [[], [1.0], [0.0, 2.0, 1.0], [0.0, 1.0, 1.0]])
def test_a_profile_that_does_not_begin_at_zero_and_ascend_is_refused(times: list[float]) -> None:
    with pytest.raises(ValueError, match="profile times"):
        make([(at_s, LinkConfig()) for at_s in times])


def test_outages_listed_and_regular_lose_what_is_sent_in_them() -> None:
    config = LinkConfig(outages=((0.5, 0.6), (0.1, 0.2), (0.15, 0.3)), outage_every_s=1, outage_ms=50)
    link = make(config)
    gone = set(range(3000)) - {n for _, n in carry(link, 3000, MS)}
    assert gone == {*range(100, 300), *range(500, 600), *range(1000, 1050), *range(2000, 2050)}
    assert link.counters.lost_outage == len(gone)


@pytest.mark.parametrize("seed", SEEDS)
def test_reordering_holds_back_its_share(seed: int) -> None:
    count = 20_000
    link = make(LinkConfig(delay_ms=5, reorder=0.1, reorder_ms=10), seed)
    out = carry(link, count, MS)
    assert sorted(n for _, n in out) == list(range(count))
    held = [n for t, n in out if t == (n + 15) * MS]
    assert len(held) + sum(t == (n + 5) * MS for t, n in out) == count
    assert abs(len(held) / count - 0.1) < 4 * sqrt(0.09 / count)
    assert 0 <= len(held) - link.counters.reordered <= 10  # the last ones have nothing to overtake them


@pytest.mark.parametrize("seed", SEEDS)
def test_duplicates_follow_the_first_copy(seed: int) -> None:
    count = 20_000
    link = make(LinkConfig(delay_ms=5, duplicate=0.05), seed)
    out = carry(link, count, MS)
    assert [n for _, n in out] == sorted(n for _, n in out)
    assert link.counters.delivered == len(out) == count + link.counters.duplicated
    assert abs(link.counters.duplicated / count - 0.05) < 4 * sqrt(0.05 * 0.95 / count)
    assert link.counters.reordered == 0


def test_what_exceeds_the_mtu_vanishes() -> None:
    link = make(LinkConfig(mtu_bytes=1500))
    assert link.send(0, 1500, 0)
    assert not link.send(0, 1501, 1)
    assert link.counters.lost_mtu == 1


def test_memory_is_bounded() -> None:
    link = make(LinkConfig(delay_ms=1000))
    for number in range(MAX_IN_FLIGHT + 10):
        link.send(0, 1000, number)
    assert link.in_flight() == MAX_IN_FLIGHT
    assert link.counters.lost_queue == 10


EVERYTHING = LinkConfig(
    delay_ms=20,
    jitter_ms=10,
    loss=bursts(0.2, 3),
    rate_bps=7.5e6,
    reorder=0.02,
    reorder_ms=15,
    duplicate=0.01,
    outage_every_s=2,
    outage_ms=100,
)


@pytest.mark.parametrize("seed", SEEDS)
def test_everything_at_once_adds_up(seed: int) -> None:
    link = make([(0, EVERYTHING), (3, replace(EVERYTHING, rate_bps=3e6)), (6, EVERYTHING)], seed)
    out = carry(link, 10_000, MS)
    counters = link.counters
    assert len(out) == counters.delivered == counters.sent - counters.lost + counters.duplicated
    assert [t for t, _ in out] == sorted(t for t, _ in out)
    assert min(counters.lost_random, counters.lost_queue, counters.lost_outage, counters.reordered) > 0


def test_equal_seeds_give_equal_fates() -> None:
    first, again, other = (carry(make(EVERYTHING, seed), 5000, MS) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_runs_that_differ_in_delay_lose_the_same_datagrams() -> None:
    plain = {n for _, n in carry(make(LinkConfig(loss=0.3)), 5000, MS)}
    varied = {
        n for _, n in carry(make(LinkConfig(loss=0.3, jitter_ms=10, reorder=0.1, duplicate=0.1)), 5000, MS)
    }
    assert plain == varied


def test_the_generator_of_a_link_depends_on_seed_and_name() -> None:
    draws = {seeded(seed, name).random() for seed in (1, 2) for name in ("up", "down")}
    assert len(draws) == 4
    assert seeded(1, "up").random() in draws


def test_packet_size_counts_ip_and_udp_headers() -> None:
    assert packet_size(1200, "192.0.2.1") == 1228
    assert packet_size(1200, "2001:db8::1") == 1248


@pytest.mark.parametrize(
    "wrong",
    [
        {"delay_ms": -1},
        {"jitter_ms": float("nan")},
        {"queue_ms": float("inf")},
        {"loss": 1.1},
        {"reorder": -0.1},
        {"duplicate": 2},
        {"rate_bps": 0},
        {"mtu_bytes": 0},
        {"outages": ((2, 1),)},
        {"outage_every_s": 1, "outage_ms": 1000},
        {"outage_ms": 1},
    ],
)
def test_a_value_out_of_range_is_refused_by_its_name(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong)).removesuffix("s").split("_")[0]):
        LinkConfig(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(("loss", "mean_burst"), [(1.0, 4), (-0.1, 4), (0.3, 0.5), (0.9, 2)])
def test_bursts_that_no_chain_has_are_refused(loss: float, mean_burst: float) -> None:
    with pytest.raises(ValueError, match="loss"):
        bursts(loss, mean_burst)


def test_a_chain_with_a_wrong_probability_is_refused() -> None:
    with pytest.raises(ValueError, match="p_bad_good"):
        GilbertElliott(p_good_bad=0.1, p_bad_good=1.5)
