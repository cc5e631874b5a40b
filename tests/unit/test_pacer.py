"""What leaves a hop that carries less than there is: in what order, at what pace, and what does not."""

import random

import pytest

from relay_ext.pacer import Pacer

MS = 1_000_000
SECOND = 1000 * MS
KEY, DISCARDABLE, RTCP, FIRST_SENT, START, END = 0x04, 0x08, 0x10, 0x20, 0x40, 0x80
AUDIO, VIDEO = 2, 1
RATE = 125_000.0  # bytes/s: 1 Mb/s
Sent = tuple[int, int, int, int, int]
"""Sequence, stream, track, flags, gap."""


def run(pacer: Pacer, from_ns: int, until_ns: int, step_ns: int = MS) -> list[tuple[int, Sent]]:
    """What leaves in that time, each with its moment."""
    out = []
    for now_ns in range(from_ns, until_ns, step_ns):
        out += [(now_ns, sent) for sent in pacer.take(now_ns)]
    return out


def seqs(sent: list[tuple[int, Sent]], track: int = 0) -> list[int]:
    return [s[0] for _, s in sent if s[2] == track]


def put_frame(pacer: Pacer, now_ns: int, first: int, packets: int, flags: int = 0) -> int:
    """A whole frame; returns the sequence after it."""
    for i in range(packets):
        ends = (START if i == 0 else 0) | (END if i == packets - 1 else 0)
        pacer.put(now_ns, first + i, flags=flags | ends, size=1000)
    return first + packets


def test_the_rate_over_time_and_in_bursts() -> None:
    pacer = Pacer(RATE)
    sent = []
    for now_ms in range(2000):
        if now_ms % 4 == 0:  # 2 Mb/s
            pacer.put(now_ms * MS, now_ms // 4, size=1000)
        sent += run(pacer, now_ms * MS, now_ms * MS + 1)
    assert 1.9 * RATE <= 1000 * len(sent) <= 2.1 * RATE
    for start in range(0, 2000, 50):
        burst = [s for at_ns, s in sent if start * MS <= at_ns < (start + 5) * MS]
        assert 1000 * len(burst) <= 1.2 * RATE * 0.010 + 1000  # 5 ms of the peak, and what comes in meanwhile


def test_what_is_spent_on_repair_is_not_there_for_media() -> None:
    pacer = Pacer(RATE)
    sent = 0
    for now_ms in range(2000):
        pacer.put(now_ms * MS, now_ms, size=1000)
        for _ in pacer.take(now_ms * MS):
            pacer.spend(500)
            sent += 1
    assert sent == pytest.approx(2 * RATE / 1500, rel=0.05)


def test_without_a_limit_everything_leaves_at_once() -> None:
    pacer = Pacer(0.0)
    for i in range(500):
        pacer.put(0, i)
    assert [s[0] for s in pacer.take(0)] == list(range(500))
    assert pacer.deadline(0) is None


def test_audio_and_sender_reports_go_first_and_each_track_in_order() -> None:
    pacer = Pacer(RATE)
    for i in range(20):
        pacer.put(0, i, track=0)
        pacer.put(0, i, track=1, priority=AUDIO, size=100)
    pacer.put(0, 5, track=0, flags=RTCP, size=60)
    sent = run(pacer, 0, 50 * MS)
    assert seqs(sent, 1) == list(range(20))
    assert [s for _, s in sent[:21] if s[2] == 0] == [(5, 1, 0, RTCP, 0)]
    assert seqs(sent)[1:] == sorted(seqs(sent)[1:])


def test_audio_is_complete_while_video_and_repair_want_ten_times_the_rate() -> None:
    """64 kb/s of audio with its headers, in 100 kb/s."""
    pacer = Pacer(12_500.0)
    audio, video = [], 0
    for now_ms in range(10_000):
        if now_ms % 20 == 0:
            pacer.put(now_ms * MS, now_ms // 20, track=1, priority=AUDIO, size=160)
        if now_ms % 10 == 0:
            pacer.put(now_ms * MS, now_ms // 10, size=1200)
        for at_ns, sent in run(pacer, now_ms * MS, now_ms * MS + 1):
            if sent[2] == 1:
                audio.append((sent[0], at_ns))
            else:
                video += 1
    assert [seq for seq, _ in audio] == list(range(500))
    assert max(at_ns - seq * 20 * MS for seq, at_ns in audio) <= 60 * MS
    assert video > 20


@pytest.mark.parametrize("seed", range(5))
def test_frames_leave_whole_or_not_at_all(seed: int) -> None:
    """A group of key, reference and discardable frames at twice the rate."""
    rng = random.Random(seed)
    pacer = Pacer(RATE)
    frames: dict[int, tuple[int, int, int]] = {}  # first sequence -> packets, flags, group
    seq = group = 0
    sent: list[tuple[int, Sent]] = []
    for i in range(300):
        now_ns = i * 33 * MS
        flags = KEY if i % 30 == 0 else DISCARDABLE if i % 2 else 0
        group += flags == KEY
        packets = 20 if flags == KEY else rng.randint(2, 14)
        frames[seq] = (packets, flags, group)
        seq = put_frame(pacer, now_ns, seq, packets, flags)
        sent += run(pacer, now_ns, now_ns + 33 * MS)
    sent += run(pacer, 300 * 33 * MS, 310 * 33 * MS)
    got = set(seqs(sent))
    assert len(got) == len(sent), f"seed {seed}"
    broken: set[int] = set()
    for first, (packets, flags, of) in frames.items():
        kept = len(got & set(range(first, first + packets)))
        assert kept in (0, packets), f"seed {seed}: part of a frame"
        if flags == 0 and not kept:
            broken.add(of)
        elif flags != KEY and kept:
            assert of not in broken, f"seed {seed}: a frame without what it refers to"
    keys = [first for first, (_, flags, _) in frames.items() if flags == KEY]
    assert all(first in got for first in keys)
    stats = pacer.stats
    assert stats["dropped_frames"] > 100 and stats["dropped_discardable"] > 0 and stats["dropped_key"] == 0
    assert 1000 * len(sent) <= RATE * 10.2


def test_discardable_frames_go_before_those_that_others_need() -> None:
    pacer = Pacer(RATE)
    seq = put_frame(pacer, 0, 0, 3, KEY)
    sent = run(pacer, 0, 33 * MS)
    for i in range(1, 60):  # 20 % too much, of which half is discardable
        seq = put_frame(pacer, i * 33 * MS, seq, 5, DISCARDABLE if i % 2 else 0)
        sent += run(pacer, i * 33 * MS, (i + 1) * 33 * MS)
    assert pacer.stats["dropped_discardable"] > 0
    assert pacer.stats["dropped_media"] == 0
    assert pacer.wanted() == []


def test_a_dropped_reference_asks_for_a_key_frame_once_and_waits_for_it() -> None:
    pacer = Pacer(RATE)
    seq = put_frame(pacer, 0, 0, 1, KEY)
    for i in range(20):  # five times too much
        seq = put_frame(pacer, i * 33 * MS, seq, 20)
        run(pacer, i * 33 * MS, (i + 1) * 33 * MS)
    assert pacer.wanted() == [(1, 0)]
    for i in range(20, 25):
        seq = put_frame(pacer, i * 33 * MS, seq, 4)
        assert not [s for s in run(pacer, i * 33 * MS, (i + 1) * 33 * MS) if s[1][0] >= seq - 4]
    assert pacer.wanted() == []
    key = seq
    seq = put_frame(pacer, 25 * 33 * MS, seq, 4, KEY)
    assert seqs(run(pacer, 25 * 33 * MS, 27 * 33 * MS)) == list(range(key, seq))


def test_frames_of_which_nothing_is_known_are_dropped_each_by_itself() -> None:
    """No key frame has been seen: there may be none, as in a transport stream."""
    pacer = Pacer(RATE)
    seq = 0
    sent = []
    for i in range(100):  # 1.5 times too much
        seq = put_frame(pacer, i * 33 * MS, seq, 6)
        sent += run(pacer, i * 33 * MS, (i + 1) * 33 * MS)
    assert 0.6 <= len(sent) / seq <= 0.72
    assert {at_ns // (200 * MS) for at_ns, _ in sent} == set(range(17))  # never a pause
    assert pacer.wanted() == []


def test_a_stream_whose_key_frame_does_not_come_goes_on_after_two_seconds() -> None:
    """Intra refresh after a start: the picture mends itself."""
    pacer = Pacer(RATE)
    seq = put_frame(pacer, 0, 0, 60, KEY)
    seq = put_frame(pacer, 33 * MS, seq, 10)
    run(pacer, 0, 600 * MS)
    assert pacer.stats["dropped_frames"] == 1
    for at_ms, passes in ((1500, False), (2700, True), (2800, True)):
        first = seq
        seq = put_frame(pacer, at_ms * MS, seq, 2)
        sent = run(pacer, at_ms * MS, (at_ms + 60) * MS)
        assert seqs(sent) == (list(range(first, seq)) if passes else [])


def test_what_was_dropped_is_told_by_the_gap_of_the_next_packet() -> None:
    pacer = Pacer(RATE, budget_ns=200 * MS)
    pacer.put(0, 0, flags=FIRST_SENT)
    pacer.put(0, 3, gap=2)
    run_late = pacer.take(60 * MS)  # both older than a quarter of the budget
    assert run_late == []
    pacer.put(60 * MS, 4)
    assert pacer.take(61 * MS) == [(4, 1, 0, FIRST_SENT, 4)]
    for i in range(400):
        pacer.put(62 * MS, 5 + i)
    assert pacer.take(200 * MS) == []
    pacer.put(200 * MS, 405)
    assert pacer.take(201 * MS) == [(405, 1, 0, 0, 255)]


def test_memory_is_bounded_and_nothing_is_lost_of_it() -> None:
    pacer = Pacer(1.0)
    for i in range(3000):
        pacer.put(0, i, flags=START | END)
        pacer.put(0, i, track=1, priority=AUDIO)
    assert pacer.waiting == pacer.slabs_in_use == 2048
    assert pacer.stats["dropped_overflow"] == 2 * (3000 - 1024)
    pacer.set(SECOND, 0.0)
    pacer.take(SECOND)
    assert pacer.waiting == pacer.slabs_in_use == 0


@pytest.mark.parametrize("seed", range(5))
def test_any_input_keeps_the_order_and_the_books(seed: int) -> None:
    rng = random.Random(seed)
    pacer = Pacer(RATE)
    now_ns = put = taken = 0
    last: dict[tuple[int, int], int] = {}
    for i in range(20_000):
        now_ns += rng.choice([0, 0, MS, 5 * MS, 300 * MS])
        action = rng.random()
        if action < 0.6:
            pacer.put(
                now_ns, i, stream=rng.randrange(100), track=rng.randrange(4), epoch=rng.randrange(2),
                flags=rng.randrange(256) & ~RTCP, priority=1, size=rng.randrange(1, 2000),
            )  # fmt: skip
            put += 1
        elif action < 0.62:
            pacer.set(now_ns, rng.choice([0.0, 1.0, 1e4, 1e6, 1e9]), rng.choice([0, MS, 200 * MS, SECOND]))
        elif action < 0.65:
            pacer.spend(rng.choice([0, 1500, 2**31]))
        else:
            for seq, stream, track, _, _ in pacer.take(now_ns):
                assert last.get((stream, track), -1) < seq, f"seed {seed}"
                last[stream, track] = seq
                taken += 1
            deadline = pacer.deadline(now_ns)
            assert (deadline is None) == (pacer.waiting == 0)
            assert deadline is None or now_ns <= deadline <= now_ns + SECOND + 1
    stats = pacer.stats
    dropped = sum(stats[f"dropped_{name}"] for name in ("audio", "key", "discardable", "media"))
    assert put == taken + dropped + pacer.waiting, f"seed {seed}"
    assert pacer.slabs_in_use == pacer.waiting


def test_frames_that_can_be_spared_are_dropped_whole_and_told_of_though_nothing_waits() -> None:
    pacer = Pacer(0.0)
    pacer.set(0, 0.0, spare_frames=True)
    sent: list[Sent] = []
    seq = 0
    for i, flags in enumerate((KEY, DISCARDABLE, 0, DISCARDABLE, DISCARDABLE, 0)):
        seq = put_frame(pacer, i * 20 * MS, seq, 3, flags)
        sent += pacer.take(i * 20 * MS)
    assert [(s[0], s[4]) for s in sent] == [
        (0, 0),
        (1, 0),
        (2, 0),
        (6, 3),
        (7, 0),
        (8, 0),
        (15, 6),
        (16, 0),
        (17, 0),
    ]
    pacer.set(SECOND, 0.0)
    put_frame(pacer, SECOND, seq, 3, DISCARDABLE)
    assert [s[0] for s in pacer.take(SECOND)] == [18, 19, 20]
    assert not any(s[3] & KEY for s in sent[3:])
