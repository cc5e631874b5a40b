"""A plane's state goes to another plane in the middle of what it does, and nothing that is seen from outside
changes: the run is, bit for bit and at the same times, the one without."""

import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from relay_ext import handover
from relay_ext.control import PORT_RTCP, Plane
from relay_ext.shards import join
from tests.unit.plane_world import (
    CLOCK,
    HOP,
    MS,
    RTCP,
    RTP,
    START,
    WHOLE,
    Pair,
    Peer,
    add_egress,
    add_track,
    even,
    inner,
    new_plane,
    numbers,
    receive,
    rtp,
    sender_report,
)

SLABS = 4096


def successor(plane: Plane, now_ns: int) -> Plane:
    """A plane that goes on where this one is; this one is gone."""
    state = handover.save(plane)
    assert handover.save(plane) == state  # saving changes nothing
    new = Plane(bytes(32), slabs=SLABS, now_ns=now_ns)
    handover.reserve(new, len(state) % 4)  # fewer, as many or more than there are
    handover.load(new, state)
    assert new.slabs_in_use == plane.slabs_in_use
    assert new.stats() == plane.stats()
    plane.close()
    return new


def crossing(seed: int, every_ms: int | None, **options: Any) -> tuple[list[Any], ...]:
    """400 packets/s over a link that loses 30 % each way; both planes are handed over so often."""
    pair = Pair(even(50, 0.3, seed), even(50, 0.3, seed + 1), proactive=0.5, **options)
    for i in range(600):
        pair.ingest(rtp(i, payload=bytes([i & 255]) * (200 + i % 900)))
        pair.run(pair.now + 2_500_000)
        if every_ms is not None and i * 2.5 % every_ms == 0:
            pair.planes = tuple(successor(plane, pair.now) for plane in pair.planes)
    pair.run(pair.now + 600 * MS)
    stats = [plane.hop_stats(hop) for plane, hop in zip(pair.planes, pair.hops, strict=True)]
    delays = [pair.planes[1].hop_delays(pair.hops[1]), pair.planes[1].track_delays(pair.tracks[1])]
    tracks = [plane.track_stats(track) for plane, track in zip(pair.planes, pair.tracks, strict=True)]
    outcome = pair.played, pair.reports, stats, delays, tracks
    pair.close()
    return outcome


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("every_ms", [5, 95, 500])
def test_a_lossy_crossing_goes_on_as_if_nothing_had_happened(seed: int, every_ms: int) -> None:
    assert crossing(seed, every_ms) == crossing(seed, None)


def test_what_waits_for_its_turn() -> None:
    """A hop that carries less than there is: the pacer's queue goes along, and what it has dropped."""

    def run(hand_over: bool) -> tuple[list[Any], dict[str, Any]]:
        pair = Pair(even(20), even(20))
        pair.planes[0].set_params(
            pair.hops[0],
            proactive=0.0,
            max_overhead=1.0,
            send_budget_ns=200 * MS,
            receive_budget_ns=200 * MS,
            pace_bps=1_500_000,
        )
        for i in range(300):
            pair.ingest(rtp(i, payload=bytes(1000)))
            pair.run(pair.now + 2_500_000)
            if hand_over and i % 10 == 0:
                pair.planes = (successor(pair.planes[0], pair.now), pair.planes[1])
        pair.run(pair.now + 600 * MS)
        outcome = pair.played, pair.planes[0].hop_stats(pair.hops[0])
        pair.close()
        return outcome

    plain = run(False)
    assert plain[1]["dropped_overflow"] or plain[1]["dropped_media"]
    assert run(True) == plain


def test_an_ingest_port_follows_the_same_source() -> None:
    def run(hand_over: Callable[[Plane, int], Plane]) -> tuple[list[Any], dict[str, Any]]:
        plane = new_plane(SLABS)
        track = add_track(plane, ingest=True)
        add_egress(plane, track)  # a second one
        plane.set_port(RTCP, PORT_RTCP, track)
        out = receive(plane, 0, sender_report(ntp=5 << 32, time=100), port=RTCP)
        for i in range(65530, 65530 + 20):  # across the end of RTP's 16 bits
            plane = hand_over(plane, i * MS)
            out += receive(plane, i * MS, rtp(i))
            out += receive(plane, i * MS, rtp(i + 5), source=("192.0.2.200", 1))
        out += receive(plane, 70_000 * MS, rtp(7, ssrc=9, time=CLOCK))  # it began anew
        stats = plane.track_stats(track)
        assert stats["ingest"]["other_source"] == 20
        plane.close()
        return out, stats

    assert run(successor) == run(lambda plane, now_ns: plane)


def test_streams_that_are_passed_on() -> None:
    """Routes, feeds and keys of a node between two peers, and what it has received already."""

    def run(hand_over: Callable[[Plane, int], Plane]) -> tuple[list[Any], dict[str, Any]]:
        plane = new_plane(SLABS)
        peer = Peer(plane)
        track = add_track(plane)
        plane.add_route(peer.hop, 1, 0, 7, track)
        to = plane.add_hop(HOP)
        plane.set_path(to, 0, address=("198.51.100.3", 7400))
        plane.add_keys(to, 0, 3, 4, bytes(32), bytes(32), 2, 1, 5)
        plane.use_keys(3)
        plane.add_feed(track, to, 9, 0, 1, age_max_us=10**6)
        out = []
        for i in range(40):
            datagram = peer.source(inner(rtp(i), i, time=i * 10, flags=WHOLE if i else WHOLE | START), i)
            peer.plane = plane = hand_over(plane, i * MS)
            out += peer.send(i * MS, datagram)
            peer.plane = plane = hand_over(plane, i * MS)
            assert peer.send(i * MS, datagram) == []
        stats = plane.hop_stats(peer.hop)
        assert stats["replayed"] == 40 and plane.hop_stats(to)["source_sent"] == 40
        assert len(numbers(out)) == 40
        plane.close()
        return out, stats

    assert run(successor) == run(lambda plane, now_ns: plane)


def test_what_goes_on_can_be_changed_and_removed() -> None:
    plane = new_plane(SLABS)
    peer = Peer(plane)
    track = add_track(plane, ingest=True)
    egress = add_egress(plane, track)
    plane.add_feed(track, peer.hop, 1, 0, 1)
    plane = successor(plane, 0)
    other = plane.add_track(clock_rate=CLOCK, hold_us=0)
    assert other not in (track, peer.hop, egress) and plane.add_hop(HOP) not in (other, track)
    plane.remove_egress(egress)
    plane.remove_feed(track, peer.hop)
    plane.drop_keys(1)
    plane.remove_hop(peer.hop)
    plane.remove_track(track)
    assert receive(plane, 0, rtp(1), port=RTP) == []
    plane.close()
    assert plane.slabs_in_use == 0


# ---- what is refused ----------------------------------------------------------------------------


def test_a_state_that_is_cut_short() -> None:
    pair = Pair(even(50, 0.3, 1), even(50, 0.3, 2))
    for i in range(100):
        pair.ingest(rtp(i, payload=bytes(50)))
        pair.run(pair.now + 2_500_000)
    state = handover.save(pair.planes[1])
    pair.close()
    ends = {*range(0, 2000, 7), *range(2000, len(state), 1999), len(state) - 1}
    for end in sorted(ends):
        with pytest.raises(ValueError, match=r"cut short|another format"):
            handover.load(Plane(bytes(32), slabs=SLABS), state[:end])
    with pytest.raises(ValueError, match="longer"):
        handover.load(Plane(bytes(32), slabs=SLABS), state + b"\0")


def test_another_format_or_memory_of_another_size() -> None:
    state = handover.save(new_plane(SLABS))
    with pytest.raises(ValueError, match="another format"):
        handover.load(Plane(bytes(32), slabs=SLABS), bytes([state[0] + 1]) + state[1:])
    with pytest.raises(ValueError, match="another format"):
        handover.load(Plane(bytes(32), slabs=SLABS // 2), state)


def test_one_of_several_shards() -> None:
    planes = [Plane(bytes(32), shard=i) for i in (0, 1)]
    join(planes)
    with pytest.raises(ValueError, match="shares its streams"):
        handover.save(planes[0])


LAYOUT = "6d55fda94633533b"
CARRIED = (
    *("base", "delay", "egress", "feed", "formats", "inner", "ingest", "pacer", "path", "peer", "plane"),
    *("playout", "reorder", "ring", "rlc", "rlc_encoder", "rtp", "seal", "slab", "transit"),
)


def test_the_format_has_a_number_of_its_own() -> None:
    """Another layout or another size of what is carried is another format: give it the next number
    (handover.FORMAT), and its digest here."""
    block = re.compile(r"^(?:ctypedef struct|cdef struct|cdef enum)\b.*?(?=^\S|\Z)", re.MULTILINE | re.DOTALL)
    layout = []
    for name in CARRIED:
        text = (Path(handover.__file__).parent / f"{name}.pxd").read_text()
        text = re.sub(r"#.*", "", text)
        layout += [" ".join(found.split()) for found in block.findall(text)]
    digest = hashlib.sha256("\n".join(layout).encode()).hexdigest()[:16]
    assert (handover.FORMAT, digest) == (1, LAYOUT)
