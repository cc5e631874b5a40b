"""A track that is held back for a peer which has it from another, and what happens when that peer asks."""

import struct

import pytest

from relay_ext.control import EVENT_CONTROL, Plane
from tests.unit.plane_world import (
    CONTROL,
    ENCODER,
    MS,
    RTP,
    SOURCE,
    START,
    Peer,
    add_track,
    new_plane,
    rtp,
)
from tests.unit.test_handover import successor

TAKE_OVER = 9
FIRST = 10
"""Origin sequence of the first packet."""


def held(plane: Plane) -> tuple[Peer, int]:
    peer = Peer(plane)
    track = add_track(plane, ingest=True, egress=False)
    plane.add_feed(track, peer.hop, 1, 0, 7)
    plane.hold_feed(track, peer.hop)
    return peer, track


def ingest(plane: Plane, peer: Peer, now_ns: int, number: int) -> list[int]:
    """Origin sequences of what the peer is sent then."""
    return sequences(peer, plane.receive(now_ns, [(RTP, ENCODER, rtp(number))]))


def sequences(peer: Peer, out: list[tuple[int, tuple[str, int], bytes]]) -> list[int]:
    return [int.from_bytes(symbol[8:12], "big") for symbol in peer.opened(out, SOURCE)]


def take_over(peer: Peer, *entries: tuple[int, int, int, int]) -> bytes:
    packed = b"".join(struct.pack(">HBBI", *entry) for entry in entries)
    return peer.seal(CONTROL, bytes((TAKE_OVER, len(entries))) + packed)


def test_what_is_missing_is_sent_once_and_then_what_comes() -> None:
    plane = new_plane()
    peer, _ = held(plane)
    for i in range(20):
        assert ingest(plane, peer, i * MS, i) == []
    ask = take_over(peer, (1, 0, 7, FIRST + 15)), take_over(peer, (1, 0, 7, FIRST + 15))
    out = peer.send(20 * MS, ask[0])
    assert sequences(peer, out) == [FIRST + i for i in range(15, 20)]
    ages = [int.from_bytes(symbol[16:18], "big") for symbol in peer.opened(out, SOURCE)]
    assert ages == [50, 40, 30, 20, 10], "what it waited for here counts, in units of 100 us"
    assert [symbol[6] & START for symbol in peer.opened(out, SOURCE)] == [START, 0, 0, 0, 0]
    assert sequences(peer, peer.send(21 * MS, ask[1])) == []
    assert ingest(plane, peer, 22 * MS, 20) == [FIRST + 20]
    assert plane.stats()["released"] == 1
    plane.close()
    assert plane.slabs_in_use == 0


def test_at_pythons_word_the_newest_is_sent_and_the_rest_is_kept_for_who_asks() -> None:
    plane = new_plane()
    peer, track = held(plane)
    for i in range(20):
        ingest(plane, peer, i * 5 * MS, i)
    plane.poll(100 * MS)
    plane.resume_feed(track, peer.hop, 22_000)
    assert sequences(peer, plane.poll(100 * MS)[0]) == [FIRST + i for i in range(16, 20)]
    plane.resume_feed(track, peer.hop, 22_000)
    assert sequences(peer, plane.poll(100 * MS)[0]) == [], "once"
    assert ingest(plane, peer, 101 * MS, 20) == [FIRST + 20]
    out = peer.send(102 * MS, take_over(peer, (1, 0, 7, FIRST + 12)))
    assert sequences(peer, out) == [FIRST + i for i in range(12, 21)]
    assert plane.stats()["released"] == 1
    assert sequences(peer, peer.send(103 * MS, take_over(peer, (1, 0, 7, FIRST)))) == []
    plane.close()
    assert plane.slabs_in_use == 0


@pytest.mark.parametrize("end", ["release", "remove", "hold"])
def test_what_is_kept_for_who_may_ask_goes_when_nobody_may(end: str) -> None:
    plane = new_plane()
    peer, track = held(plane)
    for i in range(20):
        ingest(plane, peer, i * MS, i)
    plane.resume_feed(track, peer.hop, 0)
    if end == "release":
        plane.release_feed(track, peer.hop)
    elif end == "remove":
        plane.remove_feed(track, peer.hop)
    else:
        plane.hold_feed(track, peer.hop)
        plane.release_feed(track, peer.hop)
    plane.poll(500 * MS)
    assert plane.slabs_in_use < 5
    plane.close()
    assert plane.slabs_in_use == 0


def test_a_feed_is_changed_without_forgetting_what_is_kept() -> None:
    plane = new_plane()
    peer, track = held(plane)
    for i in range(3):
        ingest(plane, peer, i * MS, i)
    plane.set_feed(track, peer.hop, age_max_us=1_500)
    out = peer.send(3 * MS, take_over(peer, (1, 0, 7, FIRST)))
    assert sequences(peer, out) == [FIRST + 2], "what is older is of no use to the peer now"
    plane.close()


def test_half_a_second_is_kept_while_somebody_may_ask() -> None:
    plane = new_plane()
    peer, track = held(plane)
    for i in range(400):
        ingest(plane, peer, i * 5 * MS, i)
    assert 100 <= plane.slabs_in_use <= 103
    plane.release_feed(track, peer.hop)
    assert plane.slabs_in_use < 5
    assert ingest(plane, peer, 2000 * MS, 400) == [FIRST + 400], "Python's word sends nothing again"
    plane.hold_feed(track, peer.hop)
    assert ingest(plane, peer, 2005 * MS, 401) == []
    plane.hold_feed(track, peer.hop)
    assert ingest(plane, peer, 2010 * MS, 402) == []
    plane.release_feed(track, peer.hop, FIRST + 402)
    assert sequences(peer, plane.poll(2011 * MS)[0]) == [FIRST + 402], "but for what it says is missing"
    plane.hold_feed(track, peer.hop)
    plane.remove_feed(track, peer.hop)
    plane.close()
    assert plane.slabs_in_use == 0


def test_packets_on_their_way_come_before_those_that_are_kept() -> None:
    plane = new_plane(slabs=64)
    peer, _ = held(plane)
    for i in range(200):
        ingest(plane, peer, i * MS, i)
    assert plane.slabs_in_use <= 34 and plane.stats()["slabs_exhausted"] == 0
    plane.close()


@pytest.mark.parametrize(
    ("content", "counter"),
    [
        (b"", "take_over_malformed"),
        (b"\x01", "take_over_malformed"),
        (b"\x02" + bytes(8), "take_over_malformed"),
        (b"\xff" + bytes(8), "take_over_malformed"),
        (b"\x01" + struct.pack(">HBBI", 2, 0, 7, 0), "take_over_unknown"),
        (b"\x01" + struct.pack(">HBBI", 1, 1, 7, 0), "take_over_unknown"),
        (b"\x01" + struct.pack(">HBBI", 1, 0, 8, 0), "take_over_unknown"),
    ],
)
def test_what_is_wrong_or_not_sent_there_is_counted(content: bytes, counter: str) -> None:
    plane = new_plane()
    peer, _ = held(plane)
    ingest(plane, peer, 0, 0)
    out = peer.send(MS, peer.seal(CONTROL, bytes((TAKE_OVER,)) + content))
    assert sequences(peer, out) == []
    assert EVENT_CONTROL not in [event.kind for event in plane.drain_events()], "Python is not asked"
    stats = plane.stats()
    assert (stats[counter], stats["released"]) == (1, 0)
    assert ingest(plane, peer, 2 * MS, 1) == []
    plane.close()


def test_a_standby_ends_with_what_it_is_of() -> None:
    plane = new_plane()
    track = add_track(plane)
    first, second = plane.add_hop(0), plane.add_hop(0)
    plane.watch_hop(first, True)
    plane.add_standby(track, first, second, 1, 0, 7)
    with pytest.raises(ValueError):
        plane.add_standby(track, first, second, 1, 0, 7)
    assert plane.has_standby(track)
    plane.remove_hop(second)
    assert not plane.has_standby(track)
    plane.remove_standby(track)
    third = plane.add_hop(0)
    plane.add_standby(track, first, third, 1, 0, 7)
    plane.remove_hop(first)
    plane.poll(1000 * MS)
    plane.add_standby(track, third, third, 1, 0, 7)
    plane.remove_track(track)
    plane.close()


def test_who_is_ready_is_ready_in_the_next_process() -> None:
    plane = new_plane()
    peer, track = held(plane)
    other = plane.add_hop(0)
    plane.watch_hop(peer.hop, True)
    plane.add_standby(track, peer.hop, other, 3, 1, 9)
    ingest(plane, peer, 0, 0)
    after = successor(plane, MS)
    assert after.slabs_in_use == 1
    assert after.has_standby(track)
    peer.plane = after
    assert sequences(peer, after.receive(2 * MS, [(RTP, ENCODER, rtp(1))])) == []
    assert sequences(peer, peer.send(3 * MS, take_over(peer, (1, 0, 7, FIRST)))) == [FIRST, FIRST + 1]
    after.close()
    assert after.slabs_in_use == 0
