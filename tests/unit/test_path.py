"""Two planes over a link in virtual time, keys set directly: what a hop carries, and what it measures."""

import random
import struct

import pytest

from tests.unit.plane_world import (
    FIRST,
    LAST,
    MS,
    REPAIR,
    REPORT,
    SOURCE,
    Fate,
    Pair,
    Peer,
    even,
    inner,
    new_plane,
    rtp,
    set_repair,
)


def test_what_goes_in_comes_out() -> None:
    pair = Pair(even(50), even(50))
    pair.stream(200, 5)
    assert pair.numbers() == list(range(200))
    sent, received = pair.planes[0].hop_stats(pair.hops[0]), pair.planes[1].hop_stats(pair.hops[1])
    assert sent["source_sent"] == received["source_received"] == 200
    assert sent["repair_sent"] == received["recovered"] == 0
    assert sum(pair.planes[1].hop_delays(pair.hops[1])) == 200
    assert pair.planes[1].hop_delays(pair.hops[1])[0] == 200
    pair.close()


@pytest.mark.parametrize("rtt_ms", [1, 40, 200])
def test_rtt(rtt_ms: float) -> None:
    pair = Pair(even(rtt_ms / 4), even(rtt_ms * 3 / 4))
    pair.stream(400, 5)
    for plane, hop in zip(pair.planes, pair.hops, strict=True):
        link = plane.hop_link(hop)
        assert abs(link.rtt_ns - rtt_ms * MS) <= MS // 100
        assert abs(link.rtt_min_ns - rtt_ms * MS) <= MS // 100
        assert link.jitter_ns <= MS // 10  # arrival times are told in units of 100 us
    pair.close()


def test_jitter_and_queue_show() -> None:
    rng = random.Random(7)
    pair = Pair(lambda now, data: int((20 + rng.random() * 20) * MS), even(20), budget_ms=100)
    pair.stream(600, 5)
    link = pair.planes[0].hop_link(pair.hops[0])
    assert 4 * MS < link.jitter_ns < 10 * MS  # mean distance of two uniform delays: 20 / 3 ms
    assert 7 * MS < link.queue_delay_ns < 13 * MS  # their mean, less the least
    pair.close()


@pytest.mark.parametrize(("loss", "seed"), [(0.0, 1), (0.05, 2), (0.3, 3), (0.6, 4)])
def test_the_loss_estimate_against_truth(loss: float, seed: int) -> None:
    sent = lost = 0
    rng = random.Random(seed)

    def fate(now_ns: int, data: bytes) -> int | None:
        nonlocal sent, lost
        sent += now_ns > 3000 * MS
        gone = rng.random() < loss
        lost += gone and now_ns > 3000 * MS
        return None if gone else 20 * MS

    pair = Pair(fate, even(20))
    for i in range(2500):
        pair.ingest(rtp(i))
        pair.run(pair.now + 2 * MS)
    link = pair.planes[0].hop_link(pair.hops[0])
    assert link.loss_settled
    # The larger of two averages: biased upwards by the spread of the shorter one, over about 125 packets.
    truth = lost / sent
    spread = 3 * (loss * (1 - loss) / 125) ** 0.5
    assert truth - spread / 3 - 0.001 <= link.loss_ratio <= truth + spread + 0.001, f"seed {seed}"
    assert link.loss_burst < 0.15
    received = pair.planes[1].hop_stats(pair.hops[1])["receive_loss_ratio"]
    assert abs(received - loss) < 0.05
    pair.close()


def test_bursts_show() -> None:
    rng = random.Random(5)
    bad = False

    def fate(now_ns: int, data: bytes) -> int | None:
        nonlocal bad
        bad = rng.random() < (0.75 if bad else 0.08)  # rho = 1 - 0.08 - 0.25
        return None if bad else 20 * MS

    pair = Pair(fate, even(20))
    pair.stream(2000, 2)
    assert 0.5 < pair.planes[0].hop_link(pair.hops[0]).loss_burst < 0.8
    pair.close()


def test_until_reports_exist_loss_is_assumed() -> None:
    pair = Pair(even(20), even(20))
    assert pair.planes[0].hop_link(pair.hops[0]).loss_assumed == 0.3
    pair.stream(100, 5)
    link = pair.planes[0].hop_link(pair.hops[0])
    assert (link.loss_assumed, link.loss_settled) == (0.3, False)
    pair.close()


@pytest.mark.parametrize(("proactive", "budget_ms", "seed"), [(0.0, 400, 1), (0.6, 200, 2), (1.0, 30, 3)])
def test_lost_packets_are_repaired(proactive: float, budget_ms: int, seed: int) -> None:
    """Reactively, both ways at once, proactively alone; ESIs wrap on the way."""
    pair = Pair(even(25, 0.3, seed), even(25, 0.3, seed + 10), budget_ms=budget_ms, proactive=proactive)
    pair.stream(1000, 5)
    got = pair.numbers()
    assert got == sorted(got)
    residual = 1 - len(got) / 1000
    assert residual <= (0.06 if budget_ms == 30 else 0.002), f"seed {seed}: {residual}"
    stats = pair.planes[1].hop_stats(pair.hops[1])
    assert stats["recovered"] > 200
    assert stats["repair_refused"] == stats["bad_inner"] == stats["unknown_track"] == 0
    sent = pair.planes[0].hop_stats(pair.hops[0])
    assert sent["repair_bytes"] <= sent["source_bytes"]
    assert (sent["reactive_sent"] > 0) == (budget_ms > 50)
    pair.close()


@pytest.mark.parametrize("max_overhead", [0.0, 0.1, 0.25])
def test_overhead_is_bounded_whatever_is_asked_for(max_overhead: float) -> None:
    pair = Pair(even(25, 0.3), even(25))
    set_repair(pair.planes[0], pair.hops[0], proactive=5.0, max_overhead=max_overhead)
    pair.stream(500, 5)
    sent = pair.planes[0].hop_stats(pair.hops[0])
    longest = 20 + 16 + 100
    assert sent["repair_bytes"] <= max_overhead * sent["source_bytes"] + longest
    assert sent["overhead_limited"] > 0
    pair.close()


def test_long_packets_are_split_until_the_path_carries_them() -> None:
    """1472 bytes, as ffmpeg sends them, cross in two symbols; in one when a larger datagram is proven."""
    pair = Pair(even(25, 0.2), even(25), budget_ms=300, proactive=0.3)
    payload = random.Random(1).randbytes(1472 - 16)
    pair.stream(300, 5, payload)
    sent = pair.planes[0].hop_stats(pair.hops[0])
    assert sent["source_sent"] == 600
    assert [data[12:] for _, data in pair.played] == [rtp(i, payload=payload)[12:] for i in range(300)]
    pair.planes[0].set_path(pair.hops[0], 0, datagram_max=1600)
    pair.stream(50, 5, payload, first=300)
    assert pair.planes[0].hop_stats(pair.hops[0])["source_sent"] == 650
    assert pair.numbers() == list(range(350))
    pair.planes[0].set_path(pair.hops[0], 0, datagram_max=1232)
    pair.stream(50, 5, payload, first=350)
    assert pair.planes[0].hop_stats(pair.hops[0])["source_sent"] == 750
    assert pair.numbers() == list(range(400))
    pair.close()


@pytest.mark.parametrize("size", [16, 1171, 1172, 1173, 2031, 2032])
@pytest.mark.parametrize("datagram_max", [1232, 1472, 2000])
def test_no_datagram_is_longer_than_the_path_carries(size: int, datagram_max: int) -> None:
    longest = 0

    def fate(now_ns: int, data: bytes) -> int:
        nonlocal longest
        longest = max(longest, len(data))
        return MS

    pair = Pair(fate, even(1), proactive=1.0)
    pair.planes[0].set_path(pair.hops[0], 0, datagram_max=datagram_max)
    pair.stream(5, 5, random.Random(size).randbytes(size - 16))
    assert pair.numbers() == list(range(5))
    assert longest <= datagram_max
    assert pair.planes[0].hop_stats(pair.hops[0])["too_long"] == 0
    pair.close()


def duplicating(fate: Fate) -> tuple[Fate, list[bytes]]:
    seen: list[bytes] = []

    def record(now_ns: int, data: bytes) -> int | None:
        seen.append(data)
        return fate(now_ns, data)

    return record, seen


def test_what_is_replayed_changes_nothing() -> None:
    fate, seen = duplicating(even(10))
    pair = Pair(fate, even(10), proactive=0.5)
    pair.stream(100, 5)
    before = pair.planes[1].hop_stats(pair.hops[1])
    for data in seen:
        assert pair.planes[1].receive(pair.now, [(0, pair.ADDRESSES[0], data)]) == []
    after = pair.planes[1].hop_stats(pair.hops[1])
    assert {n for n in after if after[n] != before[n]} == {"replayed"}
    assert after["replayed"] - before["replayed"] == len(seen)
    pair.close()


def test_a_new_process_of_the_peer_begins_anew() -> None:
    """Its ESIs and counters start again; what was received of the old one does not stand in the way."""
    plane = new_plane()
    peer = Peer(plane)
    track = plane.add_track(clock_rate=90_000, hold_us=100_000)
    plane.add_route(peer.hop, 1, 0, 7, track)
    peer.send(0, *(peer.source(inner(rtp(i), i, flags=FIRST | LAST), i + 5000) for i in range(10)))
    plane.add_keys(peer.hop, 0, 9, 2, *((bytes(range(32)), bytes(range(32, 64)))), 1, 2, 78)
    peer.counter = 0
    esi = struct.pack(">I", 3)
    peer.send(MS, peer.seal(SOURCE, inner(rtp(100), 100) + esi, index=9))
    stats = plane.hop_stats(peer.hop)
    assert (stats["source_received"], stats["bad_inner"], stats["duplicate"]) == (11, 0, 0)
    assert stats["paths"][0]["receive_count"] == 1
    assert stats["receive_loss_ratio"] == 0.0
    plane.use_keys(9)
    report = peer.opened(plane.poll(50 * MS)[0], REPORT)[-1]
    assert struct.unpack(">IIH", report[28:38])[1:] == (3, 0)  # highest ESI, nothing missing
    plane.close()
    assert plane.slabs_in_use == 0


def test_received_loss_counts_from_the_first_datagram_seen() -> None:
    """A node that restarts meets counters that are far along."""
    plane = new_plane()
    peer = Peer(plane)
    peer.counter = 1_000_000
    peer.send(0, *(peer.source(inner(b"x", i), i) for i in range(10)))
    assert plane.hop_stats(peer.hop)["receive_loss_ratio"] == 0.0
    peer.counter += 10
    peer.send(0, peer.source(inner(b"x", 11), 11))
    assert plane.hop_stats(peer.hop)["receive_loss_ratio"] == pytest.approx(10 / 21)
    plane.close()


# ---- reports that lie --------------------------------------------------------------------------


class Reported:
    """A plane that sends 40 symbols to a peer, whose reports the test writes."""

    def __init__(self, *, max_overhead: float = 1.0) -> None:
        self.plane = new_plane()
        self.peer = Peer(self.plane)
        set_repair(self.plane, self.peer.hop, max_overhead=max_overhead)
        track = self.plane.add_track(clock_rate=90_000, hold_us=0, payload_type=96)
        self.plane.set_port(1, 2, track)
        self.plane.add_feed(track, self.peer.hop, 1, 0, 7)
        for i in range(40):
            self.plane.receive((100 + i) * MS, [(1, ("192.0.2.1", 1), rtp(i, payload=bytes(100)))])
        self.next_counter = self.plane.hop_stats(self.peer.hop)["paths"][0]["sent_packets"]

    def report(
        self,
        now_ns: int,
        *,
        path: int = 0,
        flags: int = 3,
        deficit: int = 0,
        delay_us: int = 0,
        highest: int | None = None,
        received: int = 40,
        runs: int = 0,
        next_esi: int = 0,
        oldest: int = 0,
        bitmap: str = "",
        bits: int | None = None,
        arrivals: list[tuple[int, int]] | None = None,
        tail: bytes = b"",
    ) -> int:
        """The number of repair packets that it brings about."""
        highest = self.next_counter - 1 if highest is None else highest
        arrivals = arrivals or []
        data = struct.pack(
            ">BBHIIIIIIIIHBB",
            path, flags, deficit, now_ns // 1000 % 2**32, delay_us, highest, received, runs, next_esi,
            oldest, 40, len(bitmap) if bits is None else bits, len(arrivals), 0,
        )  # fmt: skip
        packed = int(bitmap.ljust(-(-len(bitmap) // 8) * 8, "0") or "0", 2)
        data += packed.to_bytes(-(-len(bitmap) // 8), "big")
        data += b"".join(struct.pack(">HH", *a) for a in arrivals) + tail
        return len(self.peer.opened(self.peer.send(now_ns, self.peer.seal(REPORT, data)), REPAIR))

    def stats(self, *names: str) -> tuple[int, ...]:
        stats = self.plane.hop_stats(self.peer.hop)
        return tuple(stats[name] for name in names)


def test_a_report_asks_for_repair() -> None:
    r = Reported()
    assert r.report(150 * MS, deficit=2, oldest=10, bitmap="10001") > 2
    assert r.stats("reports_received", "bad_report") == (1, 0)
    assert r.report(160 * MS) == 0


def test_each_wrong_report_is_counted() -> None:
    r = Reported()
    wrong: list[dict[str, object]] = [
        {"path": 1},
        {"bits": 1025},
        {"bits": 9, "bitmap": "1"},
        {"tail": b"x"},
        {"arrivals": [(0, 0)] * 33},
    ]
    for fields in wrong:
        assert r.report(150 * MS, deficit=5, **fields) == 0  # type: ignore[arg-type]
    assert r.stats("bad_report", "reports_received") == (len(wrong), 0)
    for invalid in ({"highest": r.next_counter}, {"highest": 2**31}, {"delay_us": 10**6}):
        assert r.report(150 * MS, deficit=5, oldest=0, bitmap="1", **invalid) == 0
    assert r.stats("bad_report", "reports_received") == (len(wrong), 0)
    assert r.plane.hop_stats(r.peer.hop)["paths"][0]["reports_invalid"] == 3


def test_a_lie_about_what_is_missing_stays_within_the_overhead() -> None:
    for overhead in (0.0, 0.5, 1.0):
        r = Reported(max_overhead=overhead)
        for i in range(50):
            r.report((150 + i) * MS, deficit=65535, oldest=0, bitmap="1" * 1024, received=0, runs=2**32 - 1)
        assert r.stats("reports_received") == (50,)
        repair, source = r.stats("repair_bytes", "source_bytes")
        assert repair <= overhead * source + 136


def test_what_was_never_sent_or_comes_too_late_is_not_repaired() -> None:
    r = Reported()
    assert r.report(150 * MS, deficit=9, oldest=40, bitmap="1111") == 0
    assert r.report(160 * MS, deficit=9, oldest=2**31, bitmap="1111") == 0
    assert r.report(400 * MS, deficit=9, oldest=0, bitmap="1111") == 0  # the budget is 200 ms


def test_an_older_report_is_passed_over() -> None:
    r = Reported()
    r.peer.counter = 10
    r.report(150 * MS)
    r.peer.counter = 5
    assert r.report(160 * MS, deficit=2, oldest=10, bitmap="1") == 0
    assert r.stats("reports_received", "bad_report") == (1, 0)


def test_loss_of_a_liar_stays_a_ratio() -> None:
    r = Reported()
    rng = random.Random(11)
    for i in range(300):
        received, runs = rng.randrange(2**32), rng.randrange(2**32)
        arrivals = [(rng.randrange(2**16), rng.randrange(2**16)) for _ in range(32)]
        r.report((150 + 41 * i) * MS, received=received, runs=runs, delay_us=0, arrivals=arrivals)
        link = r.plane.hop_link(r.peer.hop)
        assert 0 <= link.loss_ratio <= 1
        assert 0 <= link.loss_burst <= 0.9
    r.plane.close()
    assert r.plane.slabs_in_use == 0
