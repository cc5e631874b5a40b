"""Queue from one-way delays between clocks that do not agree and drift."""

import random

import pytest

from relay_ext.transit import Transit

MS = 1_000_000
SECOND = 1000 * MS


def feed(
    t: Transit,
    seconds: float,
    *,
    start_s: float = 0,
    delay_ms: float = 50,
    queue_ms: float = 0,
    jitter_ms: float = 0,
    ppm: float = 0,
    offset_us: int = 0,
    seed: int = 1,
) -> list[float]:
    """A datagram every 10 ms; the queue in ms after each."""
    rng = random.Random(seed)
    out = []
    for i in range(int(seconds * 100)):
        sent_ns = int((start_s + i / 100) * SECOND)
        at_ns = sent_ns + int((delay_ms + queue_ms + rng.random() * jitter_ms) * MS)
        peer_us = int(at_ns / 1000 * (1 + ppm * 1e-6)) + offset_us
        out.append(t.add(at_ns + 50 * MS, sent_ns, peer_us & 0xFFFFFFFF) / MS)
    return out


@pytest.mark.parametrize("offset_us", [0, 2**31 - 1000, 2**32 - 60_000, 123_456_789])
def test_the_clocks_need_not_agree_and_may_wrap(offset_us: int) -> None:
    t = Transit()
    assert max(feed(t, 10, offset_us=offset_us)) <= 0.01
    queue = feed(t, 5, start_s=10, queue_ms=40, offset_us=offset_us)
    assert queue[20:] == pytest.approx([40] * 480, abs=0.01)


@pytest.mark.parametrize("ppm", [-200, -50, 50, 200])
@pytest.mark.parametrize("jitter_ms", [0, 30])
def test_drift_is_no_queue(ppm: float, jitter_ms: float) -> None:
    t = Transit()
    first = feed(t, 60, ppm=ppm, jitter_ms=jitter_ms)
    later = feed(t, 600, start_s=60, ppm=ppm, jitter_ms=jitter_ms, seed=2)
    assert max(first) <= 12 + jitter_ms  # until it is known
    assert max(later) <= jitter_ms + 1
    assert t.drift * 1e6 == pytest.approx(ppm, abs=5 + jitter_ms)


def test_a_queue_is_seen_for_a_minute_and_does_not_tilt_the_clock() -> None:
    t = Transit()
    feed(t, 70, ppm=100)
    assert min(feed(t, 50, start_s=70, queue_ms=40, ppm=100)[20:]) > 38
    assert t.drift * 1e6 == pytest.approx(100, abs=5)
    assert min(feed(t, 40, start_s=120, queue_ms=40, ppm=100)[-100:]) < 15  # by then it is the path


def test_a_path_that_becomes_shorter_is_followed_at_once() -> None:
    t = Transit()
    feed(t, 20, delay_ms=80)
    assert max(feed(t, 5, start_s=20, delay_ms=30)) <= 0.01
    assert min(feed(t, 5, start_s=25, delay_ms=80)[10:]) == pytest.approx(50, abs=0.01)


def test_single_late_packets_do_not_show() -> None:
    t = Transit()
    rng = random.Random(3)
    for i in range(3000):
        sent_ns = i * 5 * MS
        arrived_ns = sent_ns + (150 if rng.random() < 0.1 else 50) * MS
        queue_ns = t.add(sent_ns + 200 * MS, sent_ns, arrived_ns // 1000)
        assert queue_ns <= MS or i < 10
