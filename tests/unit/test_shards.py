"""Packet planes that are joined: what crosses from one to another, and what if an end goes."""

import pytest

from relay.services.shards import Shards
from relay_ext.control import Plane
from relay_ext.shards import SHARDS_MAX, join, shard_of
from tests.unit.plane_world import (
    ENCODER,
    MS,
    PEER,
    RTP,
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
)

CAPACITY = 1024


class World:
    """Two shards; a peer on the second. Datagrams are handed over as `poll` of the next shard finds them."""

    def __init__(self, count: int = 2) -> None:
        self.shards = Shards(bytes(32), count, slabs=4096)
        for plane in self.shards.planes:
            open_ports(plane)
        join(self.shards.planes)
        self.first, self.second = self.shards.planes[:2]
        self.peer = Peer(self.second)

    def ingest(self, *sequence: int, now_ns: int = MS) -> list[Datagram]:
        """Packets of these numbers arrive at the first shard; what the second sends for them."""
        self.first.receive(now_ns, [(RTP, ENCODER, rtp(i)) for i in sequence])
        return self.second.poll(now_ns)[0]

    def stats(self, shard: int, name: str) -> int:
        return self.shards.planes[shard].stats()[name]

    def close(self) -> None:
        self.shards.close()
        for plane in self.shards.planes:
            plane.poll(10**9)
        assert self.shards.slabs_in_use == 0


def ingested(world: World) -> int:
    """A track of the first shard that is sent to the peer of the second."""
    track = add_track(world.first, ingest=True)
    world.first.add_feed(track, world.peer.hop, 1, 0, 7)
    return track


def sources(datagrams: list[Datagram]) -> int:
    return sum(to == PEER and data[0] == SOURCE for _, to, data in datagrams)


def test_ids_name_their_shard() -> None:
    w = World(4)
    ids = [add_track(plane) for plane in w.shards.planes for _ in range(3)]
    assert [shard_of(i) for i in ids] == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert len(set(ids)) == 12 and all(w.shards.of(i).track_stats(i)["received"] == 0 for i in ids)
    assert w.shards.least_used(ids[:9]) == 3 and w.shards.least_used([]) == 0
    w.close()


def test_a_track_is_sent_to_a_peer_of_another_shard() -> None:
    w = World()
    ingested(w)
    assert not w.second.mail_waits
    w.first.receive(MS, [(RTP, ENCODER, rtp(i)) for i in range(5)])
    assert w.second.mail_waits and not w.first.mail_waits
    sent, _ = w.second.poll(MS)
    opened = w.peer.opened(sent, SOURCE)
    assert [symbol[20:-4] for symbol in opened] == [rtp(i) for i in range(5)]
    assert [int.from_bytes(symbol[8:12], "big") for symbol in opened] == list(range(10, 15))
    assert not w.second.mail_waits
    assert w.stats(0, "mail_sent") == 5
    w.close()


def test_a_track_takes_packets_from_a_peer_of_another_shard() -> None:
    w = World()
    track = add_track(w.first)
    w.second.add_route(w.peer.hop, 1, 0, 7, track)
    flags = [WHOLE | START, *[WHOLE] * 4]
    w.peer.send(MS, *[w.peer.source(inner(rtp(i), i, flags=flags[i]), i) for i in range(5)])
    assert numbers(w.first.poll(MS)[0]) == [0, 1, 2, 3, 4]
    assert sum(w.second.hop_delays(w.peer.hop)) == 5
    assert w.first.track_stats(track)["received"] == 5
    w.close()


def test_a_full_queue_drops_and_counts() -> None:
    w = World()
    ingested(w)
    batch = [(RTP, ENCODER, rtp(i)) for i in range(CAPACITY + 10)]
    w.first.receive(MS, batch)
    assert w.stats(0, "mail_dropped") == 10
    assert w.stats(0, "mail_sent") == CAPACITY
    sent: list[Datagram] = []
    turns = 0
    while w.second.mail_waits:
        out, deadline = w.second.poll(MS)
        assert deadline == MS or not w.second.mail_waits  # it asks for another turn at once
        sent += out
        turns += 1
    assert sources(sent) == CAPACITY and turns == 4
    assert sources(w.ingest(CAPACITY + 10)) == 1  # and goes on
    w.close()


def test_the_order_is_kept() -> None:
    w = World()
    ingested(w)
    sent = [d for i in range(3000) for d in w.ingest(i)]
    opened = w.peer.opened(sent, SOURCE)
    assert [int.from_bytes(symbol[8:12], "big") for symbol in opened] == list(range(10, 3010))
    w.close()


@pytest.mark.parametrize("gone", ["hop", "feed", "track"])
def test_what_is_under_way_when_an_end_goes(gone: str) -> None:
    w = World()
    track = ingested(w)
    w.first.receive(MS, [(RTP, ENCODER, rtp(i)) for i in range(3)])
    hop = w.peer.hop
    if gone == "hop":
        w.shards.remove_hop(hop)
        again = w.second.add_hop(0)
        assert again != hop
    elif gone == "feed":
        w.first.remove_feed(track, hop)
    else:
        w.shards.remove_track(track)
    sent, _ = w.second.poll(MS)
    assert sources(sent) == (0 if gone == "hop" else 3)
    assert w.stats(1, "mail_unknown") == (3 if gone == "hop" else 0)
    w.ingest(3)
    assert w.stats(0, "mail_sent") == 3
    w.close()


@pytest.mark.parametrize("gone", ["hop", "route", "track"])
def test_what_was_received_when_an_end_goes(gone: str) -> None:
    w = World()
    track, hop = add_track(w.first), w.peer.hop
    w.second.add_route(hop, 1, 0, 7, track)
    w.peer.send(MS, w.peer.source(inner(rtp(0), 0), 0))
    if gone == "hop":
        w.shards.remove_hop(hop)
    elif gone == "route":
        w.second.remove_route(hop, track)
        w.second.remove_route(hop, track)
        w.peer.send(MS, w.peer.source(inner(rtp(1), 1), 1))
        assert w.second.hop_stats(hop)["unknown_track"] == 1
    else:
        w.shards.remove_track(track)
        add_track(w.first)
        w.peer.send(MS, w.peer.source(inner(rtp(1), 1), 1))
        assert w.second.hop_stats(hop)["unknown_track"] == 1
    w.first.poll(200 * MS)
    assert w.stats(0, "mail_unknown") == (1 if gone == "track" else 0)
    w.close()


def test_a_route_that_is_set_again_takes_the_place_of_the_one_before() -> None:
    w = World()
    track = add_track(w.first)
    for alias in (1, 1, 2):
        w.second.add_route(w.peer.hop, alias, 0, 7, track)
    w.peer.send(MS, w.peer.source(inner(rtp(0), 0, stream=1), 0))
    w.peer.send(MS, w.peer.source(inner(rtp(1), 1, stream=2), 1))
    assert w.second.hop_stats(w.peer.hop)["unknown_track"] == 1
    assert w.stats(1, "mail_sent") == 1
    w.close()


def test_sender_reports_cross_as_well() -> None:
    w = World()
    ingested(w)
    w.ingest(0)
    w.first.receive(2 * MS, [(RTP, ENCODER, sender_report())])
    sent, _ = w.second.poll(2 * MS)
    [symbol] = w.peer.opened(sent, SOURCE)
    assert symbol[6] & 0x10  # INNER_RTCP
    track = add_track(w.first)
    w.second.add_route(w.peer.hop, 1, 0, 7, track)
    w.peer.send(3 * MS, w.peer.source(inner(symbol[20:-4], 0, flags=WHOLE | 0x10), 0))
    w.first.poll(3 * MS)
    assert w.first.track_stats(track)["received"] == 0
    assert w.stats(1, "mail_sent") == 1
    w.close()


def test_slabs_that_run_out_are_counted() -> None:
    planes = [Plane(bytes(32), slabs=slabs, shard=i) for i, slabs in enumerate((4096, 2))]
    join(planes)
    first, second = planes
    for plane in planes:
        open_ports(plane)
    track = add_track(second, hold_ms=1000)
    peer = Peer(first)
    first.add_route(peer.hop, 1, 0, 7, track)
    for i in range(1, 6):  # behind a hole, so that playout holds them
        peer.send(MS, peer.source(inner(rtp(i), 2 * i), i))
        second.poll(MS)
    assert second.stats()["mail_no_memory"] == 3
    for plane in planes:
        plane.close()
        assert plane.slabs_in_use == 0


def test_what_is_not_joined_has_no_others() -> None:
    alone = Plane(bytes(32), shard=1)
    track = add_track(alone)
    with pytest.raises(KeyError):
        alone.add_feed(track, 16, 1, 0, 7)
    with pytest.raises(KeyError):
        alone.add_route(alone.add_hop(0), 1, 0, 7, 16)
    alone.close()


def test_shards_are_a_power_of_two_and_joined_once() -> None:
    planes = [Plane(bytes(32), slabs=16, shard=i) for i in range(3)]
    for wrong in ([], planes, planes[1:2], [planes[0], planes[2]]):
        with pytest.raises(ValueError, match="shards are 1, 2, 4"):
            join(wrong)
    join(planes[:1])
    join(planes[:2])
    with pytest.raises(RuntimeError, match="joined once"):
        join(planes[:2])
    with pytest.raises(ValueError, match="16 shards at most"):
        Plane(bytes(32), shard=SHARDS_MAX)
