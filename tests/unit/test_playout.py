"""A track's ring and its playout, fed by a peer: what is stored, in which order it leaves, and when."""

import random

import pytest

from tests.unit.plane_world import (
    FIRST,
    IS_RTCP,
    LAST,
    MS,
    OUT_SEQ,
    PLAYER,
    PLAYER_RTCP,
    START,
    WHOLE,
    Pair,
    Peer,
    add_track,
    even,
    inner,
    new_plane,
    numbers,
    rtp,
    sender_report,
)

HOLD = 100 * MS
TRANSIT = 50 * MS
"""Between the origin's clock and ours, for a packet that comes without delay."""


class Line:
    """One track that a peer sends; packets are given by number, with the moment they left the origin at."""

    def __init__(self, slabs: int = 4096) -> None:
        self.plane = new_plane(slabs)
        self.peer = Peer(self.plane)
        self.track = add_track(self.plane, hold_ms=HOLD // MS)
        self.plane.add_route(self.peer.hop, 1, 0, 7, self.track)
        self.esi = 0

    def symbol(self, now_ns: int, symbol: bytes) -> list[int]:
        self.esi += 1
        return numbers(self.peer.send(now_ns, self.peer.source(symbol, self.esi)))

    def packet(
        self, now_ns: int, seq: int, *, left_ns: int | None = None, flags: int = 0, gap: int = 0
    ) -> list[int]:
        """The numbers that are released when packet `seq` comes."""
        left = now_ns - TRANSIT if left_ns is None else left_ns
        time = left // 100_000
        return self.symbol(now_ns, inner(rtp(seq), seq, time=time, flags=WHOLE | flags, gap=gap))

    def poll(self, now_ns: int) -> list[int]:
        return numbers(self.plane.poll(now_ns)[0])

    def stats(self, *names: str) -> tuple[int, ...]:
        stats = self.plane.track_stats(self.track)
        return tuple(stats[name] for name in names)

    def close(self) -> None:
        self.plane.close()
        assert self.plane.slabs_in_use == 0


@pytest.fixture
def line() -> Line:
    line = Line()
    assert line.packet(1000 * MS, 10, flags=START) == [10]
    return line


def test_in_order_leaves_at_once(line: Line) -> None:
    assert line.packet(1010 * MS, 11) == [11]
    assert line.packet(1020 * MS, 12) == [12]
    assert line.stats("received", "delivered", "lost", "held") == (3, 3, 0, 0)
    line.close()


def test_a_hole_is_filled(line: Line) -> None:
    assert line.packet(1020 * MS, 12) == []
    assert line.packet(1030 * MS, 13) == []
    assert line.packet(1090 * MS, 11, left_ns=960 * MS) == [11, 12, 13]
    assert line.stats("lost", "late", "held") == (0, 0, 0)
    line.close()


def test_a_hole_is_given_up_at_the_deadline_of_the_packet_behind_it(line: Line) -> None:
    assert line.packet(1020 * MS, 13) == []
    assert line.packet(1030 * MS, 14) == []
    deadline = 1020 * MS + HOLD
    assert line.poll(deadline - 1) == []
    assert line.plane.poll(deadline - 1)[1] == deadline
    assert line.poll(deadline) == [13, 14]
    assert line.stats("lost", "late", "held") == (2, 0, 0)
    assert line.packet(deadline + MS, 12, left_ns=960 * MS) == []
    assert line.stats("lost", "late", "duplicate") == (2, 1, 0)
    line.close()


def test_the_deadline_counts_from_the_origin_time_not_from_the_arrival(line: Line) -> None:
    """What was repaired late waits no longer than what came in time."""
    assert line.packet(1080 * MS, 12, left_ns=960 * MS) == []  # 70 ms beyond the least transit time
    assert line.poll(1010 * MS + HOLD - 1) == []
    assert line.poll(1010 * MS + HOLD) == [12]
    line.close()


def test_what_the_origin_never_got_is_waited_for_shortly(line: Line) -> None:
    assert line.packet(1020 * MS, 13, gap=2) == []
    assert line.poll(1040 * MS - 1) == []
    assert line.poll(1040 * MS) == [13]
    assert line.packet(1060 * MS, 17, gap=2) == []  # 14 was sent, so repair may bring it
    assert line.poll(1080 * MS) == []
    assert line.poll(1060 * MS + HOLD) == [17]
    line.close()


def test_without_the_first_packet_the_order_is_made_at_the_deadline() -> None:
    line = Line()
    assert line.packet(1000 * MS, 12) == []
    assert line.packet(1001 * MS, 11) == []
    assert line.poll(1000 * MS + HOLD) == []  # 11 comes first, and left the origin later
    assert line.poll(1001 * MS + HOLD) == [11, 12]
    assert line.stats("lost") == (0,)
    line.close()


def test_a_first_packet_that_is_overtaken_still_starts() -> None:
    line = Line()
    assert line.packet(1000 * MS, 11) == []
    assert line.packet(1001 * MS, 10, flags=START) == [10, 11]
    line.close()


def test_what_the_source_reordered_before_the_first_packet_is_not_lost() -> None:
    line = Line()
    assert line.packet(1000 * MS, 9) == []
    assert line.packet(1001 * MS, 10, flags=START) == []
    assert line.poll(1000 * MS + HOLD) == [9, 10]
    assert line.stats("held") == (0,)
    line.close()


def test_a_second_start_changes_nothing(line: Line) -> None:
    assert line.packet(1010 * MS, 12, flags=START) == []
    assert line.packet(1011 * MS, 11) == [11, 12]
    line.close()


def test_numbers_wrap() -> None:
    line = Line()
    first = 2**32 - 3
    assert line.packet(1000 * MS, first, flags=START) == [first]
    assert line.packet(1010 * MS, 0) == []
    assert line.packet(1011 * MS, 2**32 - 1) == []
    assert line.packet(1012 * MS, 2**32 - 2) == [2**32 - 2, 2**32 - 1, 0]
    assert line.packet(1013 * MS, 1) == [1]
    assert line.stats("lost", "resets") == (0, 0)
    line.close()


@pytest.mark.parametrize("before_ms", [0, 10, 20, 1_000, 9_990])
def test_times_wrap(before_ms: int) -> None:
    """The origin's 32 bits of 100 us end after five days; here so long after the first packet."""
    line = Line()
    start = 2**32 * 100_000 + TRANSIT - before_ms * MS
    assert line.packet(start, 10, flags=START) == [10]
    assert line.packet(start + 20 * MS, 12) == []
    assert line.poll(start + 20 * MS + HOLD - 1) == []
    assert line.poll(start + 20 * MS + HOLD) == [12]
    for i in range(1, 1200):
        now = start + 20 * MS + i * 10 * MS
        line.poll(now)
        assert line.packet(now, 12 + i) == [12 + i]
        assert line.stats("added_delay_ns") == (0,)
    line.close()


@pytest.mark.parametrize("ppm", [-200, 200])
def test_an_hour_of_drift_changes_neither_order_nor_deadlines(ppm: int) -> None:
    """At 200 ppm the clocks end 720 ms apart, seven times the hold."""
    line = Line()
    seq, worst, start = 0, 0, 10_000 * MS
    for i in range(0, 3600 * 5):
        now = start + i * 200 * MS
        left = now - TRANSIT - (now - start) * ppm // 10**6
        if i % 500 == 499:  # a hole that stays
            seq += 1
            assert line.packet(now, seq + 1, left_ns=left) == []
            assert line.poll(now + HOLD - 600_000) == []
            assert line.poll(now + HOLD + 100_000) == [seq + 1]
        else:
            flags = START if i == 0 else 0
            assert line.packet(now, seq + 1, left_ns=left, flags=flags) == [seq + 1]
        seq += 1
        if i > 5 * 60:
            worst = max(worst, line.stats("added_delay_ns")[0])
    assert worst <= MS // 2
    plane_stats = line.plane.track_stats(line.track)
    assert plane_stats["drift"] == pytest.approx(ppm / 1e6, abs=3e-6)
    assert (plane_stats["lost"], plane_stats["late"]) == (36, 0)
    line.close()


@pytest.mark.parametrize("step_ms", [-50, 50, 90, 300])
def test_another_path_is_followed_within_two_seconds(step_ms: int) -> None:
    """Deadlines count from the new path's transit time; on the way there holes wait less, never longer."""
    line = Line()
    seq, now = 9, 1000 * MS
    path = TRANSIT + 400 * MS
    for step in (0, step_ms * MS):
        path += step
        for i in range(250):
            now += 10 * MS
            seq += 1
            flags = START if seq == 10 else 0
            assert line.packet(now, seq, left_ns=now - path, flags=flags) == [seq]
            if step and i == 3:  # at once after the step
                seq += 1
                out = line.packet(now, seq + 1, left_ns=now - path)
                assert out or line.poll(now + HOLD) == [seq + 1]
                seq += 1
    assert line.packet(now, seq + 2, left_ns=now - path) == []
    assert line.poll(now + HOLD - 1) == []
    assert line.poll(now + HOLD) == [seq + 2]
    line.close()


def test_an_outage_is_no_time_in_which_a_hole_could_be_mended() -> None:
    """A packet is lost, and 20 ms later everything for 300 ms: more than is waited for holes otherwise."""
    link = even(20)

    def fate(now_ns: int, data: bytes) -> int | None:
        source = data[0] == 4 and pair.sent - 1 == 498
        return None if source or 500 < pair.sent <= 530 else link(now_ns, data)

    def back(now_ns: int, data: bytes) -> int | None:
        return None if 500 < pair.sent <= 530 else link(now_ns, data)

    pair = Pair(fate, back, budget_ms=500)
    pair.sent = 0
    for i in range(600):
        pair.sent += 1
        pair.ingest(rtp(i))
        pair.run(pair.now + 10 * MS)
        if i == 498:
            assert pair.planes[1].track_stats(pair.tracks[1])["target_ns"] < 300 * MS
    pair.run(pair.now + 600 * MS)
    assert pair.numbers() == list(range(600))
    pair.close()


@pytest.mark.parametrize("seed", [1, 2])
def test_a_hole_is_waited_for_three_rounds_of_repair_on_a_link_without_loss(seed: int) -> None:
    """What is lost for good, repairs and all, stops the rest for three times an RTT
    and 20 ms, and its own length."""
    rng = random.Random(seed)
    gone = {rng.randrange(50 * i, 50 * i + 40) for i in range(2, 12)}
    link = even(20)

    def fate(now_ns: int, data: bytes) -> int | None:
        source = data[0] == 4 and pair.sent - 1 in gone
        return None if source or data[0] == 5 else link(now_ns, data)

    pair = Pair(fate, even(20), budget_ms=500)
    early = pair.planes[1].track_stats(pair.tracks[1])["target_ns"]
    assert early == 500 * MS  # nothing is known yet
    pair.sent = 0
    for i in range(700):  # the last hole is not at the end: silence might be an outage
        pair.sent += 1
        pair.ingest(rtp(i))
        pair.run(pair.now + 10 * MS)
    pair.run(pair.now + 600 * MS)
    assert pair.numbers() == [i for i in range(700) if i not in gone], f"seed {seed}"
    delays = {n: at - 10 * MS * n for (at, _), n in zip(pair.played, pair.numbers(), strict=True)}
    settled = [delay for n, delay in delays.items() if n >= 350]  # there are samples enough
    rtt = pair.planes[1].hop_link(pair.hops[1]).rtt_ns
    target = pair.planes[1].track_stats(pair.tracks[1])["target_ns"]
    assert target == 3 * (rtt + 20 * MS) + 1 * MS, f"seed {seed}"
    assert max(settled) <= 20 * MS + target + 20 * MS, f"seed {seed}"
    assert max(delays.values()) <= 20 * MS + 500 * MS, f"seed {seed}"
    pair.close()


def test_duplicates(line: Line) -> None:
    assert line.packet(1010 * MS, 12) == []
    for now, seq in ((1011, 12), (1012, 10)):  # waiting, released
        assert line.packet(now * MS, seq) == []
    assert line.stats("duplicate", "late", "received") == (2, 0, 2)
    line.close()


@pytest.mark.parametrize("order", [(FIRST, LAST), (LAST, FIRST)])
def test_two_parts_are_one_packet(line: Line, order: tuple[int, int]) -> None:
    packet = rtp(11, payload=random.Random(1).randbytes(1400))
    parts = {FIRST: packet[:700], LAST: packet[700:]}
    time = 9700
    assert line.symbol(1020 * MS, inner(parts[order[0]], 11, time=time, flags=order[0])) == []
    assert line.symbol(1021 * MS, inner(parts[order[0]], 11, time=time, flags=order[0])) == []
    assert line.stats("duplicate", "received") == (1, 1)
    line.esi += 1
    symbol = inner(parts[order[1]], 11, time=time, flags=order[1])
    out = line.peer.send(1022 * MS, line.peer.source(symbol, line.esi))
    assert [data[12:] for _, to, data in out if to == PLAYER] == [packet[12:]]
    assert line.stats("duplicate", "received") == (1, 2)
    line.close()


def test_half_a_packet_is_given_up(line: Line) -> None:
    assert line.symbol(1010 * MS, inner(rtp(11), 11, time=9600, flags=FIRST)) == []
    assert line.packet(1010 * MS, 12) == []
    assert line.poll(1010 * MS + HOLD) == [12]
    assert line.stats("lost", "held") == (1, 0)
    line.close()


def test_parts_that_do_not_fit_together(line: Line) -> None:
    half = rtp(11) + bytes(1200)
    assert line.symbol(1010 * MS, inner(half, 11, time=9600, flags=FIRST)) == []
    assert line.symbol(1010 * MS, inner(half, 11, time=9600, flags=LAST)) == []
    assert line.stats("no_memory", "received") == (1, 1)
    assert line.packet(1010 * MS, 12) == []
    assert line.poll(1010 * MS + HOLD) == [12]
    line.close()


@pytest.mark.parametrize("jump", [2048, 5000, 2**31 - 1, 2**31, 2**31 + 1, -2048, -5000])
def test_jumps_empty_the_ring(line: Line, jump: int) -> None:
    assert line.packet(1010 * MS, 12) == []  # waits for 11 when the jump comes
    seq = 11 + jump
    assert line.packet(1020 * MS, seq) == []
    assert line.stats("resets", "held") == (1, 1)
    assert line.poll(1020 * MS + HOLD) == [seq % 2**32]
    assert line.packet(1130 * MS, seq + 1) == [(seq + 1) % 2**32]
    line.close()


def test_a_fast_track_fills_the_ring_behind_a_hole_and_loses_only_the_hole(line: Line) -> None:
    out = [n for i in range(2000) for n in line.packet(1010 * MS + i * 10_000, 12 + i)]  # all within the hold
    out += line.poll(1030 * MS + HOLD)
    assert out == list(range(12, 2012))
    assert line.stats("lost", "resets", "held") == (1, 0, 0)
    line.close()


def test_a_gap_of_a_ring_and_more_releases_what_waits(line: Line) -> None:
    assert line.packet(1010 * MS, 12) == []
    assert line.packet(1020 * MS, 11 + 1500) == [12]
    assert line.poll(1020 * MS + HOLD) == [1511]
    assert line.stats("lost", "resets") == (1 + 1498, 0)
    line.close()


@pytest.mark.parametrize("jump", [-1, -1024, -2047])
def test_what_is_a_little_old_is_late(line: Line, jump: int) -> None:
    assert line.packet(1010 * MS, 12) == []
    assert line.packet(1020 * MS, 11 + jump, left_ns=960 * MS) == []
    duplicate = jump == -1  # packet 10
    assert line.stats("resets", "late", "duplicate") == (0, not duplicate, duplicate)
    line.close()


def test_jumps_before_the_first_release() -> None:
    """Half the number space away: neither walked slot by slot nor mistaken for a neighbour."""
    line = Line()
    line.packet(1000 * MS, 10)
    line.packet(1000 * MS, 20)
    line.packet(1000 * MS, 10 + 2**31)
    assert line.stats("resets", "held") == (1, 1)
    assert line.poll(1000 * MS + HOLD) == [10 + 2**31]
    line.close()


def test_a_restart_goes_on_where_the_receiver_is(line: Line) -> None:
    line.packet(1010 * MS, 11)
    line.packet(1020 * MS, 13)
    line.plane.restart_track(line.track)
    assert line.stats("held") == (0,)
    line.esi += 1
    symbol = inner(rtp(70_000, ssrc=99), 70_000, time=12_345, flags=WHOLE | START)
    out = line.peer.send(1030 * MS, line.peer.source(symbol, line.esi))
    (packet,) = [data for _, to, data in out if to == PLAYER]
    assert int.from_bytes(packet[2:4], "big") == OUT_SEQ + 12  # 11 left as OUT_SEQ + 11
    line.close()


def test_what_is_not_rtp_is_counted(line: Line) -> None:
    for seq, payload in ((11, b""), (12, b"\x80"), (13, bytes(100)), (14, rtp(14))):
        line.symbol(1010 * MS, inner(payload, seq, time=9600))
    assert line.stats("malformed", "delivered", "received") == (3, 2, 5)
    line.close()


def test_a_sender_report_of_the_origin_sets_the_clock(line: Line) -> None:
    ntp = 4_000_000_000 << 32
    line.symbol(1010 * MS, inner(sender_report(ntp=ntp, time=11 * 225), 10, flags=IS_RTCP))
    line.symbol(1010 * MS, inner(b"no report", 10, flags=IS_RTCP))
    line.esi += 1
    out = line.peer.send(1020 * MS, line.peer.source(inner(rtp(11), 11, time=9700), line.esi))
    (report,) = [data for _, to, data in out if to == PLAYER_RTCP]
    assert int.from_bytes(report[8:16], "big") == ntp
    line.close()


@pytest.mark.parametrize("seed", range(5))
def test_random_arrivals_leave_in_order_each_once(seed: int) -> None:
    """What is delayed within the hold leaves, in order; beyond it: late, never out of order."""
    rng = random.Random(seed)
    line = Line()
    start = 2**32 - 200
    arrivals = []
    for i in range(600):
        for _ in range(rng.choice([0, 1, 1, 1, 2])):
            extra = rng.choice([0, 0, rng.randrange(90), 99, rng.choice([99, 150])])
            arrivals.append((1000 + 5 * i + extra, i))
    arrivals.append((1000, 0))
    in_time = {i for at, i in arrivals if at - 1000 - 5 * i < HOLD // MS}
    out: list[int] = []
    for at, i in sorted(arrivals):
        out += line.poll(at * MS)
        flags = START if i == 0 else 0
        out += line.packet(at * MS, start + i, left_ns=(1000 + 5 * i) * MS - TRANSIT, flags=flags)
    out += line.poll(10_000 * MS)
    got = [(n - start) % 2**32 for n in out]
    assert got == sorted(set(got)), f"seed {seed}"
    assert in_time <= set(got), f"seed {seed}"
    received, delivered, lost, late, duplicate = line.stats(
        "received", "delivered", "lost", "late", "duplicate"
    )
    assert delivered == received == len(got), f"seed {seed}"
    assert lost == got[-1] + 1 - len(got), f"seed {seed}"
    assert received + late + duplicate == len(arrivals), f"seed {seed}"
    line.close()


def test_no_slab_left(line: Line) -> None:
    small = Line(slabs=6)
    for i in range(20):
        small.packet((1000 + i) * MS, 2 * i)
    assert small.plane.stats()["slabs_exhausted"] > 0
    assert small.plane.slabs_in_use <= 6
    small.close()
    line.close()
