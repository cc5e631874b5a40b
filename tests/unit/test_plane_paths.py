"""Which path the packet plane takes, from the reports of a peer that the test plays."""

import struct
from collections import Counter

import pytest

from relay_ext.control import EVENT_UNREACHED, PORT_HOP
from relay_ext.seal import SealKey
from tests.unit.plane_world import (
    CONTROL,
    MS,
    REPAIR,
    REPORT,
    RTP,
    SOURCE,
    Datagram,
    add_track,
    new_plane,
    receive,
    rtp,
    set_repair,
)

ADDRESSES = (("198.51.100.2", 7400), ("198.51.100.3", 7400), ("198.51.100.4", 7400))
IN_TURN = (0, 1, 2, 3)
SECOND = 1000 * MS


def key(path: int, way: int) -> bytes:
    return bytes([2 * path + way]) * 32


class TwoPaths:
    """A plane that sends to a peer over paths 0 and 1, from ports 10 and 11. One packet every 2.5 ms; every
    10 ms the peer reports what it got. `cut` holds the paths on which nothing gets there."""

    def __init__(self, paths: int = 2, *, proactive: float = 0.0) -> None:
        self.now = SECOND
        self.plane = new_plane(now_ns=self.now)
        self.hop = self.plane.add_hop(0)
        set_repair(self.plane, self.hop, proactive=proactive)
        for path in range(paths):
            self.plane.set_port(10 + path, PORT_HOP)
            self.plane.set_path(self.hop, path, address=ADDRESSES[path], port=10 + path)
            self.plane.add_keys(
                self.hop, path, 100 + path, 200 + path, key(path, 0), key(path, 1), 1, path + 1, 77
            )
            self.plane.use_keys(100 + path)
        self.track = add_track(self.plane, ingest=True, egress=False)
        self.plane.add_feed(self.track, self.hop, 1, 0, 7)
        self.cut: set[int] = set()
        self.counters = Counter[int]()
        self.got: dict[int, tuple[int, int, int]] = {}
        """Of a path: highest counter, datagrams, and when the last one came."""
        self.sent: list[tuple[int, int]] = []
        """(path, type) of what the plane sent since it was last looked at."""
        self.number = 0

    def taken(self, out: list[Datagram]) -> None:
        for port, address, data in out:
            path = ADDRESSES.index(address)
            assert port == 10 + path
            self.sent.append((path, data[0]))
            if path not in self.cut:
                _, count, _ = self.got.get(path, (0, 0, 0))
                self.got[path] = int.from_bytes(data[8:16], "big"), count + 1, self.now

    def run(self, ms: int, *, on: tuple[int, ...] = (0, 1), report: bool = True) -> Counter[tuple[int, int]]:
        """So much time, with reports on these paths; what was sent, by path and type."""
        self.sent.clear()
        for _ in range(ms // 10):
            for _ in range(4):
                self.taken(receive(self.plane, self.now, rtp(self.number, payload=bytes(1000))))
                self.number += 1
                self.taken(self.plane.poll(self.now)[0])
                self.now += 2_500_000
            for path in on if report else ():
                self.report(path)
        return Counter(self.sent)

    def report(
        self, path: int, *, ago_ms: int = 0, others: bytes | None = None, count: int | None = None
    ) -> None:
        """A report on a path, written `ago_ms` ago by the peer's clock."""
        if others is None:
            others = b"".join(
                struct.pack(">BxxxII", i, (self.now - at) // 1000, highest)
                for i, (highest, _, at) in self.got.items()
                if i != path
            )
        highest, received, at = self.got.get(path, (0, 0, self.now))
        clock = (self.now - ago_ms * MS) // 1000
        data = struct.pack(
            ">BBHIIIIIIIIHBB",
            path, 1 if path in self.got else 0, 0, clock, (self.now - at) // 1000, highest, received, 0, 0,
            0, 0, 0, 0, len(others) // 12 if count is None else count,
        )  # fmt: skip
        self.send(path, data + others)

    def send(self, path: int, plaintext: bytes) -> None:
        header = struct.pack(">BBHIQ", REPORT, 0, 0, 100 + path, self.counters[path])
        sealed = SealKey(1, key(path, 1), True).seal(self.counters[path], header, plaintext)
        self.counters[path] += 1
        self.taken(self.plane.receive(self.now, [(10 + path, ADDRESSES[path], header + sealed)]))

    def opened(self, path: int, data: bytes) -> bytes:
        return SealKey(1, key(path, 0), False).open(int.from_bytes(data[8:16], "big"), data[:16], data[16:])

    def roles(self) -> dict[int, str]:
        return {path.id: path.role for path in self.plane.hop_link(self.hop).paths}


def carried(sent: Counter[tuple[int, int]], kind: int) -> set[int]:
    return {path for path, of in sent if of == kind}


def test_the_orders_say_what_takes_which_path() -> None:
    w = TwoPaths(proactive=0.5)
    w.run(300)  # until there is more to spend than what is kept for answers
    sent = w.run(100)
    assert carried(sent, SOURCE) == carried(sent, REPAIR) == {0}
    w.plane.set_orders(w.hop, (1, 0, 2, 3), IN_TURN)
    sent = w.run(100)
    assert (carried(sent, SOURCE), carried(sent, REPAIR), carried(sent, REPORT)) == ({1}, {0}, {0, 1})
    assert w.roles() == {0: "repair", 1: "source"}
    w.plane.set_orders(w.hop, (3, 2, 1, 0), (2, 1, 0, 3))  # without keys: passed over
    sent = w.run(100)
    assert carried(sent, SOURCE) == carried(sent, REPAIR) == {1}
    assert w.roles() == {0: "standby", 1: "source+repair"}


@pytest.mark.parametrize("orders", [((0, 1, 2), IN_TURN), (IN_TURN, (0, 1, 2, 2)), (IN_TURN, (1, 2, 3, 4))])
def test_an_order_has_every_path_once(orders: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    w = TwoPaths()
    with pytest.raises(ValueError, match="once"):
        w.plane.set_orders(w.hop, *orders)


def test_a_port_is_one_of_the_planes() -> None:
    w = TwoPaths()
    for port in (-1, 4096):
        with pytest.raises(ValueError, match="ports"):
            w.plane.set_path(w.hop, 0, port=port)


def test_each_report_tells_of_every_path() -> None:
    w = TwoPaths()
    w.run(50)
    reports = {}
    for _, address, data in w.plane.poll(w.now + 30 * MS)[0]:
        if data[0] == REPORT:
            path = ADDRESSES.index(address)
            reports[path] = w.opened(path, data)
    assert {path: (plain[0], plain[39]) for path, plain in reports.items()} == {0: (0, 1), 1: (1, 1)}
    for path, plain in reports.items():
        other, _, highest = struct.unpack(">BxxxII", plain[-12:])
        assert (other, highest) == (1 - path, w.counters[1 - path] - 1)


def test_a_path_that_nobody_has_reported_on_is_used_last() -> None:
    w = TwoPaths()
    w.plane.set_orders(w.hop, (1, 0, 2, 3), (1, 0, 2, 3))
    w.cut = {1}
    w.run(100)
    assert carried(w.run(100), SOURCE) == {0}
    assert w.roles() == {0: "source+repair", 1: "dead"}
    w.cut = set()
    w.run(50)
    assert w.roles() == {0: "standby", 1: "source+repair"}


def test_a_path_that_dies_is_left_at_once_and_taken_again_after_a_while() -> None:
    w = TwoPaths()
    w.run(500)
    w.cut = {0}
    w.run(50)
    assert w.roles()[0] == "source+repair"
    w.run(50)  # 60 ms of silence, and 20 ms in which a report could have been late
    assert w.roles() == {0: "dead", 1: "source+repair"}
    assert carried(w.run(500), SOURCE) == {1}
    w.cut = set()
    w.run(250)
    assert w.roles()[0] == "dead"
    w.run(100)
    assert w.roles() == {0: "source+repair", 1: "standby"}


def test_reports_on_one_path_are_enough_to_know_that_another_is_alive() -> None:
    w = TwoPaths()
    w.run(500)
    w.run(500, on=(1,))
    assert w.roles() == {0: "source+repair", 1: "standby"}
    w.cut = {0}
    w.run(150, on=(1,))
    assert w.roles()[0] == "dead"


def test_silence_of_all_paths_changes_nothing() -> None:
    w = TwoPaths()
    w.run(500)
    assert carried(w.run(1000, report=False), SOURCE) == {0}


def unreached(w: TwoPaths) -> list[tuple[int, int]]:
    return [(e.a, e.b) for e in w.plane.drain_events() if e.kind == EVENT_UNREACHED]


@pytest.mark.parametrize("heard", [True, False])
def test_a_peer_that_nothing_gets_to_is_told_of_whether_it_is_heard_or_not(heard: bool) -> None:
    w = TwoPaths()
    w.plane.watch_echo(w.hop, True)
    w.run(4000)
    w.cut = {0}
    w.run(1000)
    assert unreached(w) == [], "the other path gets there"
    w.cut = {0, 1}
    w.run(100, report=heard)
    [(hop, silent_ms)] = unreached(w)
    assert hop == w.hop and 40 <= silent_ms <= 60
    w.run(500, report=heard)
    assert unreached(w) == [], "once"
    w.cut = set()
    w.run(100)
    w.cut = {0, 1}
    w.run(300)
    assert len(unreached(w)) == 1 and w.plane.stats()["unreached"] == 2
    w.plane.watch_echo(w.hop, False)
    w.run(1000)
    assert unreached(w) == []
    w.plane.close()


def test_who_watches_for_an_echo_sends_and_is_sent_reports_all_the_time() -> None:
    w = TwoPaths()
    w.run(200)
    before = w.got[0][1]
    w.plane.watch_echo(w.hop, True)
    for _ in range(100):
        w.now += 10 * MS
        w.taken(w.plane.poll(w.now)[0])
        w.report(0)
    assert 50 <= w.got[0][1] - before <= 110
    for _, address, data in w.plane.poll(w.now + 20 * MS)[0]:
        if data[0] == REPORT and address == ADDRESSES[0]:
            assert w.opened(0, data)[1] & 4, "the peer is to be heard all the time"


def test_a_path_that_has_lost_its_keys_is_left() -> None:
    w = TwoPaths()
    w.run(200)
    w.plane.drop_keys(100)
    assert carried(w.run(100), SOURCE) == {1}
    assert w.roles() == {1: "source+repair"}


def test_a_long_death_is_not_forgotten_with_the_history() -> None:
    w = TwoPaths()
    w.run(500)
    w.cut = {0}
    w.run(90_000, on=(1,))  # more than 8,192 datagrams
    w.plane.set_orders(w.hop, IN_TURN, IN_TURN)
    assert w.roles()[0] == "dead"


def test_claims_about_other_paths_are_checked() -> None:
    w = TwoPaths()
    w.run(200)
    before = w.plane.hop_stats(w.hop)
    other = struct.pack(">BxxxII", 1, 0, 0)
    for others, count in ((other * 4, 4), (other[:11], 1), (other, 0), (other, 2), (b"", 1), (other, 255)):
        w.report(0, others=others, count=count)
    after = w.plane.hop_stats(w.hop)
    assert after["bad_report"] - before["bad_report"] == 6
    never = [struct.pack(">BxxxII", path, 0xFFFFFFFF, 0x80000000) for path in (0, 1, 2, 3, 4, 255)]
    for claim in never:
        w.report(0, others=claim)
        w.now += MS
    assert w.roles() == {0: "source+repair", 1: "standby"}
    assert w.plane.hop_stats(w.hop)["bad_report"] == after["bad_report"]


def test_an_older_view_that_comes_on_a_slower_path_is_not_heeded() -> None:
    w = TwoPaths()
    w.run(500)
    dead = struct.pack(">BxxxII", 0, 500_000, 0)
    w.report(1, ago_ms=60, others=dead)
    assert w.roles()[0] == "source+repair"
    w.now += 20 * MS
    w.report(1, others=dead)
    assert w.roles()[0] == "dead"


def test_after_a_pause_of_half_an_hour_the_peers_clock_has_wrapped() -> None:
    w = TwoPaths()
    w.run(200)
    w.now += 40 * 60 * SECOND
    w.run(500)
    w.cut = {0}
    w.run(200)
    assert w.roles()[0] == "dead"


def test_symbols_fit_both_paths_and_repair_that_does_not_takes_the_sources() -> None:
    w = TwoPaths(proactive=1.0)
    w.plane.set_path(w.hop, 0, datagram_max=1472)
    w.plane.set_path(w.hop, 1, datagram_max=1472)
    w.plane.set_orders(w.hop, IN_TURN, (1, 0, 2, 3))
    w.run(300)
    big = rtp(w.number, payload=bytes(1300))
    sent = Counter(data[0] for _, _, data in receive(w.plane, w.now, big, port=RTP))
    assert sent == {SOURCE: 1, REPAIR: 1}
    w.plane.set_path(w.hop, 1, datagram_max=1232)
    out = receive(w.plane, w.now, rtp(w.number + 1, payload=bytes(1300)), port=RTP)
    assert [data[0] for _, _, data in out if data[0] == SOURCE] == [SOURCE] * 2, "it is cut in two"
    assert {address for _, address, data in out if data[0] == REPAIR} == {ADDRESSES[0]}
    assert w.plane.hop_stats(w.hop)["too_long"] == 0


def test_control_frames_go_where_they_are_told() -> None:
    w = TwoPaths()
    w.run(50)
    w.plane.send_control(w.hop, 1, None, b"\x01" + bytes(8))
    assert [(a, d[0]) for _, a, d in w.plane.poll(w.now)[0] if d[0] == CONTROL] == [(ADDRESSES[1], CONTROL)]
