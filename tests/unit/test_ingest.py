"""What an ingest node says of each packet, in the inner header's flags, and what it says to the encoder."""

import pytest

from relay_ext.control import EVENT_KEY_ASKED, PORT_RTCP, PORT_RTP, Event, Plane
from relay_ext.payload import Kind
from relay_ext.rtp import build_fir, build_pli, build_remb, build_rr
from relay_ext.shards import join
from tests.unit.plane_world import (
    CLOCK,
    DISCARDABLE,
    ENCODER,
    FRAME_END,
    FRAME_START,
    KEY_FRAME,
    MS,
    OTHER,
    OUT,
    OUT_SSRC,
    PEER,
    PLAYER,
    PLAYER_RTCP,
    RTCP,
    RTP,
    SOURCE,
    START,
    WHOLE,
    Datagram,
    Peer,
    add_track,
    inner,
    new_plane,
    open_ports,
    receive,
    rtp,
    sender_report,
)
from tests.unit.test_payload import CLIPS, clip, frames
from tests.unit.test_payload import rtp as payload_rtp

FRAME = FRAME_START | FRAME_END
OWN = 0x0BADCAFE
"""The node's SSRC towards the encoder."""
REPORT = build_rr(OWN)
LONG = rtp(1, payload=bytes(1000))
SLICE, IDR = b"\x41x", b"\x65x"


class Ingest:
    """A track that is sent to a peer."""

    def __init__(self, kind: Kind = Kind.H264) -> None:
        self.plane = new_plane()
        self.peer = Peer(self.plane)
        self.plane.set_path(self.peer.hop, 0, datagram_max=1472)
        self.track = self.plane.add_track(
            clock_rate=CLOCK, hold_us=20_000, payload_type=96, kind=kind, ssrc=OWN
        )
        self.plane.set_port(RTP, PORT_RTP, self.track)
        self.plane.set_port(RTCP, PORT_RTCP, self.track)
        self.plane.add_feed(self.track, self.peer.hop, 1, 0, 7)

    def flags(self, *packets: bytes) -> list[int]:
        """Of the symbols that the peer gets, but for those that every packet may have."""
        mine = [bytes([p[0], p[1] & 0x80 | 96]) + p[2:] for p in packets]
        symbols = self.peer.opened(receive(self.plane, MS, *mine), SOURCE)
        return [s[6] & ~(WHOLE | START) for s in symbols]

    def count(self, name: str) -> int:
        n: int = self.plane.track_stats(self.track)["ingest"][name]
        return n

    def said(self, *, fir: bool = False, rate: int | None = None) -> list[Datagram]:
        """To the encoder."""
        if rate is None:
            self.plane.ask_key_frame(self.track, fir)
        else:
            self.plane.offer_rate(self.track, rate)
        return [d for d in self.plane.poll(MS)[0] if d[1] != PEER]


# ---- flags -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "kind", "letters"), CLIPS)
def test_a_clip(name: str, kind: Kind, letters: str) -> None:
    w = Ingest(kind)
    for frame, letter in zip(frames(clip(name)), letters, strict=True):
        flags = w.flags(*frame)
        assert {f & ~FRAME for f in flags} == {{"K": KEY_FRAME, "d": DISCARDABLE, "-": 0}[letter]}
        assert [bool(f & FRAME_START) for f in flags] == [True] + [False] * (len(frame) - 1)
        assert [bool(f & FRAME_END) for f in flags] == [False] * (len(frame) - 1) + [True]
    assert w.count("payload_malformed") == 0
    assert w.plane.track_stats(w.track)["key_frames"] == letters.count("K")


def test_a_transport_stream() -> None:
    """Nothing says where a frame ends but the start of the next; eleven begin in eight packets.

    One of those has the end of a key frame as well, and counts as its beginning.
    """
    w = Ingest(Kind.MP2T)
    flags = w.flags(*clip("mp2t"))
    assert sum(bool(f & FRAME_START) for f in flags) == 8
    assert not any(f & FRAME_END for f in flags)
    assert w.plane.track_stats(w.track)["key_frames"] == 3


def test_what_is_not_known_has_frames_and_no_more() -> None:
    w = Ingest(Kind.GENERIC)
    assert w.flags(
        payload_rtp(IDR, 1, 0, False), payload_rtp(IDR, 2, 0), payload_rtp(IDR, 3, 9)
    ) == [FRAME_START, FRAME_END, FRAME]  # fmt: skip
    assert Ingest(Kind.AUDIO).flags(payload_rtp(IDR, 1, 0, False)) == [FRAME]


def test_a_packet_out_of_order_begins_and_ends_nothing() -> None:
    """Its frame has begun; whether it is key is known of the last frame, else by the packet alone."""
    w = Ingest()
    packets = [payload_rtp(IDR, 1, 0, False), payload_rtp(IDR, 2, 0), payload_rtp(SLICE, 3, 9, False)]
    packets += [payload_rtp(SLICE, 4, 9)]
    first, second, third, fourth = packets
    assert w.flags(second, first, fourth, third, second) == [
        FRAME | KEY_FRAME,
        KEY_FRAME,
        FRAME,
        0,
        KEY_FRAME,
    ]


def test_a_late_packet_of_the_source_before_leaves_the_new_one_as_it_is() -> None:
    w = Ingest()
    w.flags(payload_rtp(SLICE, 1, 0), payload_rtp(SLICE, 3, 9))
    assert w.flags(
        payload_rtp(IDR, 1, 0, False, ssrc=2), payload_rtp(SLICE, 2, 9), payload_rtp(IDR, 2, 0, ssrc=2)
    ) == [FRAME_START | KEY_FRAME, 0, FRAME_END | KEY_FRAME]


def test_what_is_not_of_its_format_is_counted_and_passed_on() -> None:
    w = Ingest()
    assert w.flags(payload_rtp(b"\x00x", 1, 0, False), payload_rtp(SLICE, 2, 0)) == [FRAME_START, FRAME_END]
    assert w.count("payload_malformed") == 1


def test_flags_cross_to_a_peer_of_another_shard() -> None:
    planes = [Plane(bytes(32), slabs=4096, shard=i) for i in range(2)]
    join(planes)
    for plane in planes:
        open_ports(plane)
    peer = Peer(planes[1])
    track = planes[0].add_track(clock_rate=CLOCK, hold_us=0, payload_type=96, kind=Kind.H264)
    planes[0].set_port(RTP, PORT_RTP, track)
    planes[0].add_feed(track, peer.hop, 1, 0, 7)
    receive(planes[0], MS, payload_rtp(IDR, 1, 0))
    (symbol,) = peer.opened(planes[1].poll(MS)[0], SOURCE)
    assert symbol[6] == WHOLE | START | FRAME | KEY_FRAME


def test_both_parts_of_a_long_packet_have_its_flags() -> None:
    w = Ingest()
    assert w.flags(payload_rtp(IDR + bytes(1500), 1, 0)) == 2 * [FRAME | KEY_FRAME]


# ---- what is said to the encoder ---------------------------------------------------------------


def test_nothing_is_said_before_there_is_a_source() -> None:
    w = Ingest()
    assert w.said() == [] and w.said(rate=1) == []
    receive(w.plane, 0, sender_report(), port=RTCP)
    assert w.said() == []


def test_the_port_after_rtp_until_rtcp_has_come() -> None:
    w = Ingest()
    receive(w.plane, 0, LONG)
    assert w.said() == [(RTCP, (ENCODER[0], ENCODER[1] + 1), REPORT + build_pli(OWN, 0x1234))]
    assert w.said(rate=10**6) == []  # it may not be listening at all
    listening = (ENCODER[0], 7777)
    receive(w.plane, 0, sender_report(), port=RTCP, source=listening)
    assert w.said() == [(RTCP, listening, REPORT + build_pli(OWN, 0x1234))]
    assert w.said(rate=10**6) == [(RTCP, listening, REPORT + build_remb(OWN, 10**6, [0x1234]))]
    receive(w.plane, 0, sender_report(), port=RTP, source=ENCODER)  # RFC 5761
    assert w.said()[0][:2] == (RTP, ENCODER)
    assert (w.count("key_requests"), w.count("rate_offers")) == (3, 1)


def test_no_more_than_came_from_there() -> None:
    """The address of a source is taken on trust."""
    w = Ingest()
    receive(w.plane, 0, rtp(1, payload=bytes(100)))  # 116 bytes: two of 40 are paid for
    assert [len(w.said()) for _ in range(3)] == [1, 1, 0]
    receive(w.plane, 0, rtp(2, payload=bytes(100)))
    assert len(w.said()) == 1
    receive(w.plane, 0, rtp(3, ssrc=9))  # another source begins anew
    assert w.said() == []


def test_where_rtcp_is_multiplexed() -> None:
    w = Ingest()
    track = add_track(w.plane, egress=False)
    w.plane.set_port(40, PORT_RTP, track)
    receive(w.plane, 0, LONG, port=40)
    w.plane.ask_key_frame(track)
    assert [d[:2] for d in w.plane.poll(0)[0] if d[1] != PEER] == [(40, ENCODER)]


def test_full_intra_requests_are_numbered() -> None:
    w = Ingest()
    receive(w.plane, 0, LONG)
    commands = [data for _ in range(3) for _, _, data in w.said(fir=True)]
    assert commands == [REPORT + build_fir(OWN, 0x1234, n) for n in (1, 2, 3)]


def test_another_source_is_not_told_at_the_address_of_the_one_before() -> None:
    w = Ingest()
    receive(w.plane, 0, LONG)
    receive(w.plane, 0, sender_report(), port=RTCP, source=(ENCODER[0], 7777))
    receive(w.plane, 3000 * MS, rtp(1, ssrc=9, payload=bytes(1000)), source=OTHER)
    assert w.said(rate=1) == []
    assert w.said() == [(RTCP, (OTHER[0], OTHER[1] + 1), REPORT + build_pli(OWN, 9))]


def test_a_bitrate_beyond_32_bits() -> None:
    w = Ingest()
    receive(w.plane, 0, LONG, sender_report())
    ((_, _, data),) = w.said(rate=10**10)
    assert data == REPORT + build_remb(OWN, 10**10, [0x1234])


# ---- what the receivers of an egress say -------------------------------------------------------


def asks(plane: Plane, now_ns: int, data: bytes, source: tuple[str, int] = PLAYER_RTCP) -> list[Event]:
    assert receive(plane, now_ns, data, port=OUT, source=source) == []
    return plane.drain_events()


def test_a_player_asks() -> None:
    plane = new_plane()
    track = add_track(plane)
    pli = build_rr(5) + build_pli(5, OUT_SSRC)
    fir = build_rr(5) + build_fir(5, OUT_SSRC, 1)
    assert [(e.kind, e.a) for e in asks(plane, MS, pli)] == [(EVENT_KEY_ASKED, track)]
    assert asks(plane, 2 * MS, fir) == []  # 100 ms apart
    assert [e.a for e in asks(plane, 101 * MS, fir, PLAYER)] == [track]
    stats = plane.stats()
    assert (stats["receiver_reports"], stats["receiver_asks"], stats["receiver_unknown"]) == (3, 3, 0)


def test_only_who_is_sent_to_can_ask() -> None:
    plane = new_plane()
    add_track(plane)
    ask = build_pli(5, OUT_SSRC)
    assert asks(plane, MS, ask, OTHER) == asks(plane, MS, ask, ("2001:db8::1", 6005)) == []
    assert asks(plane, MS, build_pli(OUT_SSRC, OUT_SSRC + 1024)) == []  # of the same chain
    assert asks(plane, MS, build_rr(5) + ask[:8]) == asks(plane, MS, b"\x81") == []
    assert plane.stats()["receiver_unknown"] == 3
    assert plane.stats()["receiver_not_rtcp"] == 2


def test_an_egress_that_is_gone_is_not_found() -> None:
    """Egresses of one SSRC's low bits share a chain."""
    plane = new_plane()
    track = add_track(plane, egress=False)
    ids = {
        ssrc: plane.add_egress(track, OUT, PLAYER, PLAYER_RTCP, ssrc=ssrc, seq=0, timestamp=0, cname=b"")
        for ssrc in (7, 1031, 2055)
    }
    for now, gone in enumerate((1031, 2055, 7)):
        plane.remove_egress(ids.pop(gone))
        found = {ssrc for ssrc in (7, 1031, 2055) if asks(plane, (1 + 200 * now) * MS, build_pli(5, ssrc))}
        assert found == set(ids)
    plane.close()


def test_a_flood_of_wishes_fills_no_other_queue() -> None:
    plane = new_plane()
    track = add_track(plane, egress=False)
    for ssrc in range(100):
        plane.add_egress(track, OUT, PLAYER, PLAYER_RTCP, ssrc=ssrc, seq=0, timestamp=0, cname=b"")
    receive(plane, MS, *(build_pli(5, ssrc) for ssrc in range(100)), port=OUT, source=PLAYER_RTCP)
    assert len(plane.drain_events()) == 64
    assert plane.stats()["asks_dropped"] == 36


# ---- a picture that is broken ------------------------------------------------------------------


def test_a_picture_is_broken_until_the_next_key_frame() -> None:
    plane = new_plane()
    track = add_track(plane, hold_ms=20)
    peer = Peer(plane)
    plane.add_route(peer.hop, 1, 0, 7, track)

    def play(*sequence: tuple[int, int]) -> bool:
        for seq, flags in sequence:
            peer.send(seq * MS, peer.source(inner(rtp(seq), seq, time=seq * 10, flags=WHOLE | flags), seq))
        plane.poll((sequence[-1][0] + 50) * MS)
        broken: bool = plane.track_stats(track)["broken"]
        return broken

    assert not play((1, FRAME), (3, FRAME))  # a track without key frames, for all that is known
    assert not play((100, FRAME | KEY_FRAME), (101, FRAME))
    assert play((103, FRAME))
    assert play((200, FRAME), (201, FRAME_END | KEY_FRAME))  # whose beginning is missing
    assert not play((202, FRAME_START | KEY_FRAME), (203, FRAME_END | KEY_FRAME))
    assert not play((205, FRAME | KEY_FRAME))  # nothing that follows needs what is missing
    assert plane.track_stats(track)["key_frames"] == 3
    assert play((207, FRAME))
    plane.restart_track(track)
    assert not plane.track_stats(track)["broken"]
