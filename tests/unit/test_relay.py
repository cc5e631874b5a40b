"""A track that comes from one peer and is sent to others: what is sent on, once, and behind which header."""

import struct
from dataclasses import dataclass

import pytest

from relay.services.shards import Shards
from relay_ext.control import Plane
from relay_ext.rlc_encoder import Encoder
from relay_ext.seal import SealKey
from relay_ext.shards import join
from tests.unit.plane_world import (
    DISCARDABLE,
    FIRST,
    HOP,
    IS_RTCP,
    KEY_FRAME,
    KEYS,
    LAST,
    MS,
    PEER,
    SOURCE,
    START,
    WHOLE,
    Datagram,
    Peer,
    add_track,
    inner,
    numbers,
    open_ports,
    rtp,
    sender_report,
    set_repair,
)

NEXT = ("198.51.100.3", 7400)
STREAM, TRACK, EPOCH = 5, 3, 9
FRAME_START, FRAME_END = 0x40, 0x80


@dataclass(frozen=True)
class Symbol:
    """What the next peer was sent."""

    stream: int
    track: int
    epoch: int
    flags: int
    hops: int
    seq: int
    time: int
    age: int
    priority: int
    gap: int
    payload: bytes


class Next(Peer):
    """A second peer: its local index is 11, its instance another."""

    def __init__(self, plane: Plane) -> None:
        self.plane = plane
        self.hop = plane.add_hop(HOP)
        self._open = SealKey(1, KEYS[0], False)
        set_repair(plane, self.hop)
        plane.set_path(self.hop, 0, address=NEXT)
        plane.add_keys(self.hop, 0, 11, 12, KEYS[0], KEYS[1], 1, 1, 78)
        plane.use_keys(11)

    def symbols(self, datagrams: list[Datagram]) -> list[Symbol]:
        found = []
        for plaintext in self.opened(datagrams, SOURCE, NEXT):
            fields = struct.unpack_from(">HHBBBBIIHBB", plaintext)
            payload = plaintext[20:-4]
            assert fields[0] == len(payload)
            found.append(Symbol(*fields[1:], payload))
        return found


class World:
    """A track from `peer` to `next`; with two shards, the track on the first and the peers as told."""

    def __init__(self, count: int = 1, *, peer: int = 0, to: int = 0, age_max_us: int = 10**9) -> None:
        self.shards = Shards(bytes(32), count, slabs=4096)
        for plane in self.shards.planes:
            open_ports(plane)
        if count > 1:
            join(self.shards.planes)
        self.peer = Peer(self.shards.planes[peer])
        self.next = Next(self.shards.planes[to])
        self.track = add_track(self.shards.planes[0])
        self.peer.plane.add_route(self.peer.hop, 1, 0, 7, self.track)
        self.add_feed(age_max_us)
        self.esi = 0

    def add_feed(self, age_max_us: int = 10**9) -> None:
        self.shards.planes[0].add_feed(self.track, self.next.hop, STREAM, TRACK, EPOCH, age_max_us=age_max_us)

    def send(self, now_ns: int, *symbols: bytes) -> list[Datagram]:
        """In datagrams of the peer's; what leaves the node then."""
        datagrams = []
        for symbol in symbols:
            datagrams.append(self.peer.source(symbol, self.esi))
            self.esi += 1
        return self.receive(now_ns, *datagrams)

    def receive(self, now_ns: int, *datagrams: bytes) -> list[Datagram]:
        out = self.peer.send(now_ns, *datagrams)
        for _ in range(3 if len(self.shards) > 1 else 0):
            for plane in self.shards.planes:
                out += plane.poll(now_ns)[0]
        return out

    def stats(self) -> dict[str, int]:
        stats = self.shards.planes[0].track_stats(self.track)
        names = ("received", "late", "duplicate", "relayed", "expired", "too_many_hops")
        return {name: stats[name] for name in names if stats[name]}

    def close(self) -> None:
        self.shards.close()
        for plane in self.shards.planes:
            plane.poll(10**10)
        assert self.shards.slabs_in_use == 0


def test_what_came_is_sent_on_at_once_behind_a_header_of_this_hop() -> None:
    w = World()
    flags = WHOLE | START | KEY_FRAME | DISCARDABLE | FRAME_START | FRAME_END
    out = w.send(MS, inner(rtp(1), 2**32 - 1, time=77, flags=flags, gap=3, hops=1))
    (symbol,) = w.next.symbols(out)
    assert symbol == Symbol(STREAM, TRACK, EPOCH, flags, 2, 2**32 - 1, 77, 0, 1, 3, rtp(1))
    (symbol,) = w.next.symbols(w.send(2 * MS, inner(rtp(2), 0, time=87, flags=WHOLE)))
    assert (symbol.flags, symbol.seq, symbol.payload) == (WHOLE, 0, rtp(2))
    assert w.stats() == {"received": 2, "relayed": 2}
    w.close()


def test_order_is_not_waited_for_and_nothing_is_sent_twice() -> None:
    w = World()
    symbols = [inner(rtp(i), i, flags=WHOLE | START) for i in range(5)]
    out = w.send(MS, *(symbols[i] for i in (0, 3, 4, 3, 1, 0, 2)))
    assert [s.seq for s in w.next.symbols(out)] == [0, 3, 4, 1, 2]
    assert numbers(out) == [0, 1, 2, 3, 4]
    assert w.stats() == {"received": 5, "relayed": 5, "duplicate": 2}
    w.close()


def test_what_is_too_late_for_playout_here_is_sent_on_once() -> None:
    w = World()
    w.send(MS, inner(rtp(0), 0, flags=WHOLE | START), inner(rtp(2), 2, time=10))
    w.peer.plane.poll(500 * MS)
    assert w.peer.plane.track_stats(w.track)["lost"] == 1
    out = w.send(501 * MS, *[inner(rtp(1), 1, time=5)] * 2)
    assert [s.seq for s in w.next.symbols(out)] == [1]
    assert w.stats() == {"received": 2, "late": 1, "duplicate": 1, "relayed": 3}
    w.close()


def test_two_parts_are_sent_on_as_one_packet() -> None:
    w = World()
    packet = rtp(1, payload=bytes(range(200)))
    parts = [inner(packet[:110], 1, flags=FIRST | KEY_FRAME), inner(packet[110:], 1, flags=LAST | KEY_FRAME)]
    for first in (0, 1):
        out = w.send(MS, parts[first])
        assert w.next.symbols(out) == []
        (symbol,) = w.next.symbols(w.send(2 * MS, parts[1 - first]))
        assert symbol.payload == packet and symbol.flags & ~START == WHOLE | KEY_FRAME
        w.peer.plane.restart_track(w.track)
    w.close()


def test_age_is_the_time_that_repair_took_here_and_before() -> None:
    w = World()
    symbols = [inner(rtp(i), i, flags=WHOLE | START) for i in range(3)]
    aged = symbols[1][:16] + (250).to_bytes(2, "big") + symbols[1][18:]
    encoder = Encoder(8, 0)
    for symbol in (symbols[0], aged, symbols[2]):
        encoder.add(symbol)
    coded = encoder.encode(0, 3, 1)
    assert coded is not None
    w.receive(MS, w.peer.source(symbols[0], 0), w.peer.source(symbols[2], 2))
    out = w.receive(31 * MS, w.peer.repair(0, 3, 1, coded))
    (sent,) = w.next.symbols(out)
    assert (sent.seq, sent.age) == (1, 250 + 300)
    w.close()


def test_what_is_too_old_for_the_peer_is_counted_and_not_sent() -> None:
    w = World(age_max_us=20_000)
    symbol = inner(rtp(1), 1, flags=WHOLE | START)
    aged = [symbol[:16] + age.to_bytes(2, "big") + symbol[18:] for age in (200, 201)]
    out = w.send(MS, aged[0], aged[1][:8] + (2).to_bytes(4, "big") + aged[1][12:])
    assert [s.seq for s in w.next.symbols(out)] == [1]
    assert numbers(out) == [1, 1]  # it is played here
    assert w.stats() == {"received": 2, "relayed": 2, "expired": 1}
    w.close()


def test_age_saturates() -> None:
    w = World()
    symbol = inner(rtp(1), 1, flags=WHOLE | START)
    (sent,) = w.next.symbols(w.send(MS, symbol[:16] + b"\xff\xff" + symbol[18:]))
    assert sent.age == 65535
    w.close()


def test_after_three_relays_nothing_is_sent_on() -> None:
    w = World()
    out = w.send(MS, inner(rtp(1), 1, hops=3, flags=WHOLE | START), inner(rtp(2), 2, hops=4))
    assert w.next.symbols(out) == [] and numbers(out) == [1]
    assert w.stats() == {"received": 1, "too_many_hops": 1}
    assert w.peer.plane.hop_stats(w.peer.hop)["too_many_hops"] == 1
    w.close()


def test_sender_reports_are_sent_on_and_told_to_peers_that_come_later() -> None:
    w = World()
    report = sender_report(ntp=77, time=225)
    (first, told) = w.next.symbols(
        w.send(MS, inner(rtp(0), 0, flags=WHOLE | START), inner(report, 0, flags=WHOLE | IS_RTCP, time=5))
    )
    assert (first.flags, told.flags) == (WHOLE | START, WHOLE | IS_RTCP)
    assert (told.hops, told.time, told.payload) == (1, 5, report)
    w.peer.plane.remove_feed(w.track, w.next.hop)
    assert w.next.symbols(w.send(2 * MS, inner(rtp(1), 1))) == []
    w.add_feed()
    (packet, told) = w.next.symbols(w.send(3 * MS, inner(rtp(2), 2)))
    assert (packet.flags, packet.seq) == (WHOLE | START, 2)
    assert told.flags == WHOLE | IS_RTCP and told.payload[4:20] == report[4:20]
    assert len(w.next.symbols(w.send(4 * MS, inner(rtp(3), 3)))) == 1
    w.close()


@pytest.mark.parametrize(("peer", "to"), [(1, 0), (0, 1), (1, 1), (1, 2)])
def test_across_shards(peer: int, to: int) -> None:
    w = World(4, peer=peer, to=to)
    symbols = [inner(rtp(i), i, flags=WHOLE | START) for i in range(5)]
    report = inner(sender_report(), 2, flags=WHOLE | IS_RTCP)
    out = w.send(MS, symbols[0], symbols[2], symbols[2], report, symbols[1])
    sent = w.next.symbols(out)
    assert [(s.seq, s.hops, s.flags & IS_RTCP) for s in sent] == [
        (0, 1, 0),
        (2, 1, 0),
        (2, 1, IS_RTCP),
        (1, 1, 0),
    ]
    assert numbers(out) == [0, 1, 2]
    assert w.stats() == {"received": 3, "relayed": 3, "duplicate": 1}
    w.close()


def test_one_copy_of_the_payload_serves_all_peers() -> None:
    w = World()
    others = []
    for i in range(3):
        hop = w.peer.plane.add_hop(HOP)
        w.peer.plane.set_path(hop, 0, address=("198.51.100.9", 7000 + i))
        w.peer.plane.add_keys(hop, 0, 21 + i, 22, KEYS[0], KEYS[1], 1, 1, 80 + i)
        w.peer.plane.use_keys(21 + i)
        w.peer.plane.add_feed(w.track, hop, i, 0, 0)
        others.append(hop)
    before = w.shards.slabs_in_use
    out = w.send(MS, inner(rtp(1), 1, flags=WHOLE | START))
    assert len({to for _, to, data in out if data[0] == SOURCE}) == 4
    assert (
        w.shards.slabs_in_use == before + 1
    )  # datagrams are gone; encoders, decoder and ring share the rest
    assert PEER not in {to for _, to, data in out if data[0] == SOURCE}
    w.close()
