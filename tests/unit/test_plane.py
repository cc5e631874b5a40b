"""The packet plane without sockets: ports, ingest, egress, datagrams of a hop, a counter a refusal."""

import struct

import pytest

from relay_ext.control import (
    EVENT_ADDRESS,
    EVENT_CONFIRMED,
    EVENT_CONTROL,
    EVENT_SOURCE,
    PORT_EGRESS,
    PORT_HOP,
    PORT_RTCP,
    PORT_RTP,
    Plane,
)
from relay_ext.rtp import build_rr
from tests.unit.plane_world import (
    CLOCK,
    CONTROL,
    ENCODER,
    HOP,
    MS,
    OTHER,
    OUT,
    OUT_SSRC,
    OUT_TIME,
    PEER,
    PLAYER,
    PLAYER_RTCP,
    RTCP,
    RTP,
    SOURCE,
    Peer,
    add_egress,
    add_track,
    inner,
    new_plane,
    numbers,
    receive,
    rtp,
    sender_report,
)


@pytest.fixture
def plane() -> Plane:
    return new_plane()


def ingest_stats(plane: Plane, track: int) -> dict[str, int]:
    """The counters that are not zero."""
    return {name: n for name, n in plane.track_stats(track)["ingest"].items() if n}


def counted(plane: Plane) -> dict[str, int]:
    return {name: n for name, n in plane.stats().items() if n and name != "slabs_in_use"}


# ---- ports -------------------------------------------------------------------------------------


@pytest.mark.parametrize("port", [50, 4095, 4096, 65535])
def test_a_port_that_nobody_set(plane: Plane, port: int) -> None:
    assert receive(plane, 0, rtp(1), port=port) == []
    assert counted(plane) == {"unknown_port": 1}


def test_a_closed_port(plane: Plane) -> None:
    track = add_track(plane, ingest=True)
    plane.close_port(RTP)
    assert receive(plane, 0, rtp(1)) == []
    assert counted(plane) == {"unknown_port": 1}
    plane.remove_track(track)


def test_an_egress_port_takes_nothing(plane: Plane) -> None:
    receive(plane, 0, b"", bytes(100), build_rr(1), port=OUT)
    assert counted(plane) == {"receiver_not_rtcp": 2, "receiver_reports": 1}


def test_ports_are_checked(plane: Plane) -> None:
    track = add_track(plane)
    for port, kind, of in (
        (4096, PORT_HOP, None),
        (5, 0, None),
        (5, PORT_EGRESS + 1, None),
        (5, PORT_RTP, None),
        (5, PORT_RTCP, None),
        (5, PORT_HOP, track),
    ):
        with pytest.raises(ValueError):
            plane.set_port(port, kind, of)
    with pytest.raises(ValueError):
        plane.close_port(4096)
    with pytest.raises(KeyError):
        plane.set_port(5, PORT_RTP, 99)


# ---- ingest ------------------------------------------------------------------------------------


def test_what_is_taken_is_played(plane: Plane) -> None:
    track = add_track(plane, ingest=True)
    assert numbers(receive(plane, 0, rtp(1), rtp(2), rtp(3))) == [1, 2, 3]
    assert ingest_stats(plane, track) == {"packets": 3, "bytes": 48, "sources": 1}
    (event,) = plane.drain_events()
    assert (event.kind, event.a, event.b, event.address) == (EVENT_SOURCE, track, 0x1234, ENCODER)


REFUSED: list[tuple[str, bytes]] = [
    ("not_rtp", b""),
    ("not_rtp", b"\x80"),
    ("not_rtp", b"\x40" + rtp(2)[1:]),
    ("not_rtp", b"\x8f" + rtp(2)[1:]),
    ("not_rtp", b"\x90" + rtp(2)[1:12] + b"\0\0\xff\xff"),
    ("payload_type", rtp(2, pt=97)),
    ("too_long", rtp(2, payload=bytes(2032 - 15))),
    ("held", rtp(20_000)),
    ("not_rtcp", b"\x80\xc8"),
    ("not_rtcp", sender_report()[:-4]),
    ("not_rtcp", b"\x80\xc8" + bytes(3000)),
]


@pytest.mark.parametrize(("reason", "packet"), REFUSED)
def test_each_refusal_has_its_counter(plane: Plane, reason: str, packet: bytes) -> None:
    track = add_track(plane, ingest=True)
    receive(plane, 0, rtp(1))
    before = plane.slabs_in_use
    assert receive(plane, MS, packet) == []
    assert ingest_stats(plane, track) == {"packets": 1, "bytes": 16, "sources": 1, reason: 1}
    assert plane.slabs_in_use == before


def test_the_longest_packet(plane: Plane) -> None:
    add_track(plane, ingest=True)
    packet = rtp(1, payload=bytes(2032 - 16))
    assert [len(data) for _, _, data in receive(plane, 0, packet)] == [2032]


def test_a_jump_is_confirmed_by_the_next_packet(plane: Plane) -> None:
    track = add_track(plane, ingest=True)
    assert numbers(receive(plane, 0, rtp(1), rtp(20_000))) == [1]
    out = receive(plane, MS, rtp(20_001))
    out += plane.poll(500 * MS)[0]
    assert numbers(out) == [20_001]
    assert ingest_stats(plane, track)["held"] == 1


def test_an_ingest_port_latches_and_lets_go_after_two_seconds(plane: Plane) -> None:
    track = add_track(plane, ingest=True)
    assert numbers(receive(plane, 0, rtp(1))) == [1]
    assert numbers(receive(plane, 10 * MS, rtp(1, ssrc=5), source=OTHER)) == []
    assert numbers(receive(plane, 20 * MS, rtp(2))) == [2]
    assert numbers(receive(plane, 2020 * MS, rtp(3, ssrc=5), source=OTHER)) == []
    assert numbers(receive(plane, 2020 * MS + 1, rtp(4, ssrc=5), source=OTHER)) == [4]
    assert numbers(receive(plane, 2030 * MS, rtp(3))) == []
    assert ingest_stats(plane, track) == {"packets": 3, "bytes": 48, "sources": 2, "other_source": 3}
    assert plane.track_stats(track)["source"] == OTHER
    assert [(e.kind, e.b, e.address) for e in plane.drain_events()] == [
        (EVENT_SOURCE, 0x1234, ENCODER),
        (EVENT_SOURCE, 5, OTHER),
    ]


def test_a_source_that_was_silent_comes_back(plane: Plane) -> None:
    track = add_track(plane, ingest=True)
    receive(plane, 0, rtp(1))
    assert numbers(receive(plane, 60_000 * MS, rtp(2))) == [2]
    assert ingest_stats(plane, track)["sources"] == 1


def test_an_encoder_restarts_with_another_ssrc(plane: Plane) -> None:
    """The receiver sees one SSRC, unbroken numbers, and time as it passed here."""
    add_track(plane, ingest=True)
    out = receive(plane, 1000 * MS, rtp(5), rtp(6))
    out += receive(plane, 1100 * MS, rtp(900, ssrc=9, time=77), rtp(901, ssrc=9, time=77 + 225))
    heads = [struct.unpack(">HII", data[2:12]) for _, to, data in out if to == PLAYER]
    seqs, times, ssrcs = zip(*heads, strict=True)
    assert ssrcs == (OUT_SSRC,) * 4
    assert [(s - seqs[0]) % 2**16 for s in seqs] == [0, 1, 2, 3]
    assert times[0] == 5 * 225 + OUT_TIME
    assert times[1] - times[0] == times[3] - times[2] == 225
    assert times[2] - times[1] == CLOCK // 10


def test_rtcp_on_either_port(plane: Plane) -> None:
    track = add_track(plane, ingest=True)
    plane.set_port(RTCP, PORT_RTCP, track)
    receive(plane, 0, sender_report(ntp=1 << 32, time=225))  # nobody is followed yet
    receive(plane, 0, rtp(1))
    receive(plane, 0, sender_report(ntp=7 << 32, time=225))
    beside = (ENCODER[0], ENCODER[1] + 1)
    receive(plane, 0, sender_report(ntp=8 << 32, time=225), port=RTCP, source=beside)
    receive(plane, 0, sender_report(), port=RTCP, source=OTHER)
    receive(plane, 0, sender_report(ssrc=99), port=RTCP, source=beside)  # of another SSRC: of no use
    receive(plane, 0, rtp(1), port=RTCP, source=beside)
    assert ingest_stats(plane, track) == {
        "packets": 1, "bytes": 16, "sources": 1, "reports": 4, "other_source": 1, "not_rtcp": 1,
    }  # fmt: skip
    out = receive(plane, 1000 * MS, rtp(2, time=225 + CLOCK))
    (report,) = [data for _, to, data in out if to == PLAYER_RTCP]
    ssrc, ntp, time = struct.unpack(">IQI", report[4:20])
    assert (ssrc, ntp, time) == (OUT_SSRC, 9 << 32, 225 + CLOCK + OUT_TIME)


def test_a_report_before_the_first_packet_is_heeded(plane: Plane) -> None:
    track = add_track(plane, ingest=True)
    plane.set_port(RTCP, PORT_RTCP, track)
    peer = Peer(plane)
    plane.add_feed(track, peer.hop, 5, 1, 9)
    beside = (ENCODER[0], ENCODER[1] + 1)
    receive(plane, 0, sender_report(ntp=7 << 32, time=225), port=RTCP, source=OTHER)
    receive(plane, 0, sender_report(ntp=8 << 32, time=225), port=RTCP, source=beside)
    sent = peer.opened(receive(plane, 1 * MS, rtp(1)), SOURCE)
    assert len(sent) == 2 and (8 << 32).to_bytes(8, "big") in sent[1]
    out = receive(plane, 1000 * MS, rtp(2, time=225 + CLOCK))
    (report,) = [data for _, to, data in out if to == PLAYER_RTCP]
    assert struct.unpack(">IQI", report[4:20]) == (OUT_SSRC, 9 << 32, 225 + CLOCK + OUT_TIME)
    # A peer that comes later is told as well, though the next report may be 6 s away.
    plane.remove_feed(track, peer.hop)
    plane.add_feed(track, peer.hop, 5, 1, 10)
    sent = peer.opened(receive(plane, 1001 * MS, rtp(3, time=226 + CLOCK)), SOURCE)
    assert len(sent) == 2 and (8 << 32).to_bytes(8, "big") in sent[1]


def test_a_report_of_another_host_or_ssrc_is_not_heeded(plane: Plane) -> None:
    track = add_track(plane, ingest=True)
    plane.set_port(RTCP, PORT_RTCP, track)
    for other, source in ((0x1234, OTHER), (99, ENCODER)):
        receive(plane, 0, sender_report(ssrc=other, ntp=7 << 32), port=RTCP, source=source)
        out = receive(plane, 0, rtp(1)) + receive(plane, 1000 * MS, rtp(2))
        assert [to for _, to, _ in out if to == PLAYER_RTCP] == []
        receive(plane, 0, b"nothing")


def test_without_an_origin_report_one_is_made_up_after_seven_seconds(plane: Plane) -> None:
    add_track(plane, ingest=True)
    sent = {}
    for i in range(10):
        out = receive(plane, (1000 + 1000 * i) * MS, rtp(i, time=CLOCK * i))
        sent[i] = [struct.unpack(">QI", data[8:20]) for _, to, data in out if to == PLAYER_RTCP]
    assert [len(sent[i]) for i in range(10)] == [0] * 7 + [1, 1, 1]
    assert sent[7] == [(8 << 32, CLOCK * 7 + OUT_TIME)]
    assert sent[8] == [(9 << 32, CLOCK * 8 + OUT_TIME)]


def test_loss_before_ingest_is_waited_for_20_ms(plane: Plane) -> None:
    track = add_track(plane, ingest=True, hold_ms=200)
    assert numbers(receive(plane, 0, rtp(1), rtp(3))) == [1]
    assert plane.poll(20 * MS - 1) == ([], 20 * MS)
    assert numbers(plane.poll(20 * MS)[0]) == [3]
    assert plane.track_stats(track)["lost"] == 1


# ---- egress ------------------------------------------------------------------------------------


def test_egress_rewrites_the_header_and_nothing_else(plane: Plane) -> None:
    track = add_track(plane, egress=False, ingest=True)
    egress = plane.add_egress(
        track,
        OUT,
        ("2001:db8::1", 7),
        ("2001:db8::1", 8),
        ssrc=1,
        seq=0,
        timestamp=0,
        cname=b"",
        payload_type=101,
    )
    add_egress(plane, track)
    extended = b"\x91\xe0" + rtp(9)[2:12] + b"CSRC" + b"\xbe\xde\0\1\x10\xaa\0\0" + b"payload"
    out = receive(plane, 0, extended)
    by_address = {to: (port, data) for port, to, data in out}
    assert by_address["2001:db8::1", 7] == (
        OUT,
        b"\x91\xe5\0\x0a" + extended[4:8] + b"\0\0\0\1" + extended[12:],
    )
    assert by_address[PLAYER][1][12:] == extended[12:]
    assert plane.egress_stats(egress) == {"packets": 1, "bytes": len(extended), "reports": 0}
    plane.remove_egress(egress)
    assert [to for _, to, _ in receive(plane, 0, rtp(10))] == [PLAYER]


def test_egress_added_later_starts_there(plane: Plane) -> None:
    track = add_track(plane, ingest=True, egress=False)
    receive(plane, 0, rtp(1), rtp(2))
    add_egress(plane, track)
    assert numbers(receive(plane, 0, rtp(3))) == [3]


def test_more_egresses_than_the_send_queue_holds(plane: Plane) -> None:
    """What does not fit is dropped and counted; nothing is written past the queue's end."""
    track = add_track(plane, ingest=True, egress=False)
    for _ in range(2100):
        add_egress(plane, track)
    assert len(receive(plane, 0, rtp(1))) == 2048
    assert plane.stats()["tx_overflow"] == 52
    assert len(receive(plane, 0, rtp(2))) == 2048
    plane.close()
    assert plane.slabs_in_use == 0


# ---- hop datagrams -----------------------------------------------------------------------------


def test_datagrams_of_no_session(plane: Plane) -> None:
    Peer(plane)
    for data in (b"", b"\4", bytes([4]) + bytes(14)):
        receive(plane, 0, data, port=HOP, source=PEER)
    assert counted(plane) == {"short_datagrams": 3}
    receive(plane, 0, b"\0" + bytes(99), b"\x08" + bytes(99), b"\xff" + bytes(99), port=HOP, source=PEER)
    assert counted(plane) == {"short_datagrams": 3, "bad_type": 3}
    receive(plane, 0, b"\4\0\0\0\0\0\0\7" + bytes(99), port=HOP, source=PEER)
    assert counted(plane) == {"short_datagrams": 3, "bad_type": 3, "unknown_index": 1}


def test_replayed_and_forged(plane: Plane) -> None:
    peer = Peer(plane)
    datagram = peer.source(inner(b"x", 1), 1)
    for i in range(len(datagram)):
        if i in range(4, 16):  # index and counter: another session, another nonce
            continue
        changed = bytearray(datagram)
        changed[i] ^= 4 if i == 0 else 1  # type 4 becomes 0, no hop type
        peer.send(0, bytes(changed))
    stats = plane.hop_stats(peer.hop)
    assert stats["forged"] == len(datagram) - 13
    assert plane.stats()["bad_type"] == 1
    peer.send(0, datagram, datagram, datagram)
    for n in (16, 31):
        peer.send(0, datagram[:n])
    peer.send(0, datagram + bytes(2032))
    stats = plane.hop_stats(peer.hop)
    assert (stats["source_received"], stats["replayed"], stats["short_datagrams"]) == (1, 2, 3)
    plane.close()
    assert plane.slabs_in_use == 0


def test_a_forged_datagram_confirms_nothing_and_moves_no_address(plane: Plane) -> None:
    peer = Peer(plane)
    good = peer.seal(CONTROL, b"frame")
    elsewhere = ("203.0.113.1", 1)
    plane.receive(5 * MS, [(HOP, elsewhere, good[:-1] + bytes([good[-1] ^ 1]))])
    assert plane.drain_events() == []
    plane.receive(200 * MS, [(HOP, elsewhere, good)])
    assert [(e.kind, e.a, e.b, e.address) for e in plane.drain_events()] == [
        (EVENT_CONTROL, peer.hop, 1, elsewhere),
        (EVENT_CONFIRMED, peer.hop, 1, elsewhere),
        (EVENT_ADDRESS, peer.hop, 0, elsewhere),
    ]


def symbol_errors() -> list[tuple[str, bytes]]:
    whole = inner(rtp(1), 1)
    return [
        ("bad_inner", whole + b"x"),
        ("bad_inner", whole[:-1]),
        ("unknown_track", inner(rtp(1), 1, stream=2)),
        ("unknown_track", inner(rtp(1), 1, track=1)),
        ("stale_epoch", inner(rtp(1), 1, epoch=6)),
        ("too_many_hops", inner(rtp(1), 1, hops=4)),
        ("short_datagrams", b"nothing"),
    ]


@pytest.mark.parametrize(("reason", "symbol"), symbol_errors())
def test_each_refused_symbol_has_its_counter(plane: Plane, reason: str, symbol: bytes) -> None:
    peer = Peer(plane)
    track = add_track(plane)
    plane.add_route(peer.hop, 1, 0, 7, track)
    before = plane.hop_stats(peer.hop)
    peer.send(0, peer.source(symbol, 1))
    after = plane.hop_stats(peer.hop)
    changed = {n for n in after if isinstance(after[n], int) and after[n] != before[n]}
    assert reason in changed
    assert plane.track_stats(track)["received"] == 0


def test_control_frames_reach_python_and_back(plane: Plane) -> None:
    peer = Peer(plane)
    peer.send(3 * MS, peer.seal(CONTROL, b"frame"), peer.seal(CONTROL, b""))
    event = plane.drain_events()[0]
    assert event == (EVENT_CONTROL, 3 * MS, peer.hop, 1, 0, 16 + 5 + 16, PEER, b"frame")
    assert plane.hop_stats(peer.hop)["short_datagrams"] == 1
    plane.send_control(peer.hop, 0, None, b"answer")
    plane.send_control(peer.hop, 0, OTHER, b"probe", pad_to=1400)
    out = plane.poll(3 * MS)[0]
    assert peer.opened(out, CONTROL) == [b"answer"]
    assert [len(data) for _, to, data in out if to == OTHER] == [1400]
    for path, frame, pad in ((4, b"x", 0), (0, bytes(2001), 0), (0, b"x", 2033)):
        with pytest.raises(ValueError):
            plane.send_control(peer.hop, path, None, frame, pad)


def test_datagrams_of_python_go_out_as_they_are(plane: Plane) -> None:
    plane.send_datagram(HOP, ("fe80::1%3", 9), b"hello")
    assert plane.poll(0)[0] == [(HOP, ("fe80::1%3", 9), b"hello")]
    for address, data, error in (
        (OTHER, bytes(2033), ValueError),
        (("nowhere.example", 1), b"", OSError),
        (("1.2.3.4", 65536), b"", ValueError),
    ):
        with pytest.raises(error):
            plane.send_datagram(HOP, address, data)
