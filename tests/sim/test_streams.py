"""Streams from encoder to player: sources that change, sender reports, routes, names, plain forwarding."""

import struct
from dataclasses import replace
from itertools import pairwise

import pytest

from relay.lab.link import LinkConfig
from relay_ext import rtp as rtp_ext
from tests.sim.fleet import (
    AUDIO,
    EDGE,
    ENCODER,
    MS,
    REGION,
    REGION_2,
    SECOND,
    TRANSPORT,
    VIDEO,
    Encoder,
    Fleet,
    Media,
    NodeSpec,
    Player,
    Script,
    edge_and_region,
    payload_of,
    rtp,
)

START_NS = 2 * SECOND
ENCODER_AT = (ENCODER, 5000)
PER_SECOND = SECOND // VIDEO.interval_ns


# ---- sources ----------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", [0.0, 0.3])
def test_an_encoder_restart_leaves_one_unbroken_stream(seed: int, loss: float) -> None:
    fleet = edge_and_region(seed, LinkConfig(delay_ms=50, loss=loss))
    player = Player(fleet.network, VIDEO)
    old = Encoder(
        fleet.network, VIDEO, start_ns=START_NS, count=1000, ssrc=0xA, seq=65_000, timestamp=2**32 - 9000
    )
    fleet.run(5)
    fleet.network.detach(old.source)
    Encoder(
        fleet.network,
        VIDEO,
        start_ns=fleet.now_ns,
        count=1000,
        first=1000,
        ssrc=0xB,
        seq=31_337,
        timestamp=777_777,
    )
    fleet.run(5)
    packets = player.packets
    assert len(player.missing(range(2000))) <= (2 if loss else 0)
    assert len({(p.seq - p.index) & 0xFFFF for p in packets}) == 1
    assert len({p.ssrc for p in packets}) == 1
    before = {(p.timestamp - p.index * VIDEO.step) & 0xFFFFFFFF for p in packets if p.index < 1000}
    after = {(p.timestamp - (p.index - 1000) * VIDEO.step) & 0xFFFFFFFF for p in packets if p.index >= 1000}
    assert len(before) == len(after) == 1
    # 3 s lie between the first packets of the two; the origin time counts in 100 us.
    assert (after.pop() - before.pop()) & 0xFFFFFFFF == pytest.approx(3 * 90_000, abs=9)
    assert fleet.stream("edge")["tracks"][0]["source_changes"] == 2


def test_a_second_source_is_ignored_and_taken_after_two_seconds_of_silence(seed: int) -> None:
    fleet = edge_and_region(seed)
    player = Player(fleet.network, VIDEO)
    Encoder(fleet.network, VIDEO, start_ns=START_NS, count=1000, ssrc=1)
    other = ("10.0.0.7", 5000)
    Encoder(fleet.network, VIDEO, start_ns=3 * SECOND, count=3000, first=5000, ssrc=2, address=other)
    fleet.run(12)
    track = fleet.stream("edge")["tracks"][0]
    taken = [p for p in player.packets if p.index >= 5000]
    assert player.missing(range(1000)) == []
    silent_ns = START_NS + 999 * VIDEO.interval_ns + 2 * SECOND
    assert taken[0].index - 5000 == (silent_ns - 3 * SECOND) // VIDEO.interval_ns + 1
    assert track["drops"]["other_source"] == taken[0].index - 5000
    assert track["source_address"] == "10.0.0.7 port 5000"
    assert len(taken) == 3000 - track["drops"]["other_source"]
    assert player.steps() == {1}
    assert len({p.ssrc for p in player.packets}) == 1


def test_other_payload_types_are_counted_and_dropped(seed: int) -> None:
    fleet = edge_and_region(seed)
    player = Player(fleet.network, VIDEO)
    to = (EDGE, VIDEO.listen)
    script = [
        (START_NS + i * MS, ENCODER_AT, to, rtp(i, 0, 5, payload_of(i, 100), 96 if i % 2 else 97))
        for i in range(10)
    ]
    Script(fleet.network, script)
    fleet.run(4)
    assert player.indices() == [1, 3, 5, 7, 9]
    assert fleet.stream("edge")["tracks"][0]["drops"]["payload_type"] == 5


def test_sequence_numbers_that_jump_and_go_back_do_not_break_the_stream(seed: int) -> None:
    fleet = edge_and_region(seed)
    player = Player(fleet.network, VIDEO)
    seqs = [*range(65_530, 65_536), *range(20), *range(40_000, 40_020), *range(100, 120)]
    to = (EDGE, VIDEO.listen)
    script = [
        (START_NS + i * 5 * MS, ENCODER_AT, to, rtp(s, i * 450, 5, payload_of(i, 100)))
        for i, s in enumerate(seqs)
    ]
    Script(fleet.network, script)
    fleet.run(4)
    # The first packet of a jump is held until a second one confirms it.
    assert player.missing(range(len(seqs))) == [26, 46]
    assert player.steps() == {1}
    assert fleet.stream("edge")["tracks"][0]["drops"]["held"] == 2


@pytest.mark.parametrize("loss", [0.0, 0.3])
def test_several_tracks_cross_together(seed: int, loss: float) -> None:
    tracks = (VIDEO, AUDIO, TRANSPORT)
    fleet = edge_and_region(seed, LinkConfig(delay_ms=50, loss=loss), tracks=tracks)
    players = [Player(fleet.network, m) for m in tracks]
    for i, m in enumerate(tracks):
        Encoder(
            fleet.network,
            m,
            start_ns=START_NS,
            count=5 * SECOND // m.interval_ns,
            address=(ENCODER, 5000 + i),
            ssrc=i,
        )
    fleet.run(9)
    for m, player in zip(tracks, players, strict=True):
        assert player.missing(range(5 * SECOND // m.interval_ns)) == []
        assert player.steps() == {1}
        assert {p.payload_type for p in player.packets} == {m.payload_type}
        assert {len(p.payload) for p in player.packets} == {m.size - 12}


# ---- RTCP -------------------------------------------------------------------------------------

NTP_START = (3_900_000_000 << 32) | 0x12345678


def sender_report(ssrc: int, ntp: int, timestamp: int) -> bytes:
    return struct.pack(">BBHIQIII", 0x80, 200, 6, ssrc, ntp, timestamp, 0, 0)


def cname(compound: bytes) -> str:
    """Of the SDES packet behind a sender report without blocks (RFC 3550, 6.5)."""
    sdes = compound[28:]
    assert (sdes[0], sdes[1], 4 * (struct.unpack_from(">H", sdes, 2)[0] + 1)) == (0x81, 202, len(sdes))
    assert (sdes[4:8], sdes[8]) == (compound[4:8], 1)
    return sdes[10 : 10 + sdes[9]].decode()


@pytest.mark.parametrize("rtcp_port", [VIDEO.listen, VIDEO.listen + 1], ids=["muxed", "next port"])
@pytest.mark.parametrize("peers", [True, False], ids=["over a hop", "plain forwarder"])
def test_sender_reports_carry_the_origins_clock_and_own_counts(
    seed: int, rtcp_port: int, peers: bool
) -> None:
    if peers:
        fleet = edge_and_region(seed)
    else:
        fleet = Fleet(seed, [NodeSpec("edge", EDGE, ingest=(VIDEO,), egress=(VIDEO,))])
        fleet.start_all()
    player = Player(fleet.network, VIDEO)
    base = 2**32 - 90_000
    Encoder(fleet.network, VIDEO, start_ns=START_NS, count=10 * PER_SECOND, ssrc=0xABC, timestamp=base)
    # Twice a second the encoder says which NTP time belongs to which RTP time. Its clock runs 1 % fast, which
    # shows whose mapping it is that arrives.
    offsets = [200 * i + 7 for i in range(20)]
    reports = [
        sender_report(0xABC, NTP_START + (i << 31) * 101 // 100, base + n) for i, n in enumerate(offsets)
    ]
    script = [
        (START_NS + i * SECOND // 2 + 1, (ENCODER, 5001), (EDGE, rtcp_port), r) for i, r in enumerate(reports)
    ]
    Script(fleet.network, script)
    fleet.run(13)
    packets = player.packets
    assert len(player.rtcp) >= 9
    for at_ns, compound in player.rtcp:
        report = rtp_ext.parse_rtcp(compound).report
        assert report is not None
        sent = [p for p in packets if p.at_ns <= at_ns]
        assert report.ssrc == packets[0].ssrc
        assert report.rtp_timestamp == sent[-1].timestamp
        assert report.packets == len(sent)
        assert report.octets == sum(len(p.payload) for p in sent)
        assert cname(compound) == "studio"
        ticks_in = base + sent[-1].index * VIDEO.step
        mapped = [
            NTP_START + (i << 31) * 101 // 100 + ((ticks_in - (base + n)) << 32) // 90_000
            for i, n in enumerate(offsets)
        ]
        assert report.ntp in mapped


def test_without_reports_of_the_encoder_tracks_are_aligned_by_origin_time(seed: int) -> None:
    tracks = (VIDEO, AUDIO)
    fleet = edge_and_region(seed, tracks=tracks)
    players = [Player(fleet.network, m) for m in tracks]
    for i, m in enumerate(tracks):
        Encoder(
            fleet.network,
            m,
            start_ns=START_NS,
            count=10 * SECOND // m.interval_ns,
            address=(ENCODER, 5000 + i),
        )
    fleet.run(13)
    starts = []
    for player, rate in zip(players, (90_000, 48_000), strict=True):
        assert player.rtcp[0][0] >= player.packets[0].at_ns + 3 * SECOND
        report = rtp_ext.parse_rtcp(player.rtcp[0][1]).report
        assert report is not None
        first = (report.rtp_timestamp - player.packets[0].timestamp) & 0xFFFFFFFF
        starts.append(
            (report.ntp / 2**32) - first / rate
        )  # the NTP time of packet 0, sent at the same moment
    assert starts[0] == pytest.approx(starts[1], abs=0.0003)


# ---- routes and names -------------------------------------------------------------------------


def two_regions(seed: int, near_ms: float, far_ms: float) -> tuple[Fleet, dict[str, Player]]:
    fleet = Fleet(
        seed,
        [
            NodeSpec("near", REGION, called_by=("edge",), egress=(VIDEO,)),
            NodeSpec("far", REGION_2, called_by=("edge",), egress=(VIDEO,), player="10.0.0.10"),
            NodeSpec("edge", EDGE, calls=("far", "near"), ingest=(VIDEO,)),
        ],
    )
    fleet.link(EDGE, REGION, LinkConfig(delay_ms=near_ms))
    fleet.link(EDGE, REGION_2, LinkConfig(delay_ms=far_ms))
    fleet.start_all()
    players = {"near": Player(fleet.network, VIDEO), "far": Player(fleet.network, VIDEO, host="10.0.0.10")}
    return fleet, players


@pytest.mark.parametrize(("near_ms", "far_ms"), [(20, 100), (60, 80)])
def test_the_edge_sends_to_the_cheaper_region_and_to_the_other_when_it_dies(
    seed: int, near_ms: float, far_ms: float
) -> None:
    fleet, players = two_regions(seed, near_ms, far_ms)
    Encoder(fleet.network, VIDEO, start_ns=START_NS, count=30 * PER_SECOND)
    fleet.run(8)
    route = fleet.stream("edge")["route"]
    assert route["chosen"] == "near"
    assert {c["peer"]: c["cost_ms"] for c in route["candidates"]} == {
        "near": pytest.approx(near_ms, abs=1),
        "far": pytest.approx(far_ms, abs=1),
    }
    assert players["near"].missing(range(6 * PER_SECOND - 100)) == []
    assert players["far"].packets == []
    fleet.stop("near")
    died_ns = fleet.now_ns
    fleet.run(20)
    assert fleet.stream("edge")["route"]["chosen"] == "far"
    assert players["far"].packets[0].at_ns - died_ns < 0.5 * SECOND  # 340 and 360 ms
    got = players["far"].indices()
    assert got == list(range(got[0], got[-1] + 1))


def test_the_routes_choice_does_not_flap_while_hops_connect(
    seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    """A hop whose RTT has not been measured is not taken for one that costs nothing."""
    with caplog.at_level("INFO", logger="relay.stream"):
        fleet, _ = two_regions(seed, 20, 100)
        fleet.stop("far")
        fleet.run(5)
        fleet.start("far")
        fleet.run(10)
    assert fleet.hop("edge", "far").session.state == "connected"
    routes = [r.fields["to"] for r in caplog.records if r.getMessage() == "stream_route"]  # type: ignore[attr-defined]
    assert routes == ["near"]


def test_a_second_publisher_of_a_name_is_refused_with_the_reason_until_it_is_free(seed: int) -> None:
    fleet = Fleet(
        seed,
        [
            NodeSpec("region", REGION, called_by=("edge", "rival"), egress=(VIDEO,)),
            NodeSpec("edge", EDGE, calls=("region",), ingest=(VIDEO,)),
            NodeSpec("rival", REGION_2, calls=("region",), ingest=(VIDEO,)),
        ],
    )
    fleet.link(EDGE, REGION, LinkConfig(delay_ms=20))
    fleet.link(REGION_2, REGION, LinkConfig(delay_ms=40))
    player = Player(fleet.network, VIDEO)
    fleet.start_all()
    Encoder(fleet.network, VIDEO, start_ns=START_NS, count=20 * PER_SECOND)
    Encoder(
        fleet.network,
        VIDEO,
        start_ns=START_NS,
        count=20 * PER_SECOND,
        first=100_000,
        edge=REGION_2,
        address=(ENCODER, 5100),
    )
    fleet.run(4)
    route = fleet.stream("rival")["route"]
    assert route["chosen"] is None
    assert route["why"] == "region: another node publishes a stream of that name"
    assert max(player.indices()) < 100_000
    edge = fleet.nodes["edge"]
    fleet.specs["edge"] = replace(fleet.specs["edge"], ingest=())
    edge.machine.reload(fleet.now_ns, fleet.config("edge"))
    fleet.network.wake(edge)
    fleet.run(1)
    assert fleet.stream("region")["source"] is None
    fleet.run(6)  # the rival asks again 5 s after the refusal, at its next look
    assert fleet.stream("region")["source"] == "hop:rival"
    indices = player.indices()
    switch = next(i for i, index in enumerate(indices) if index >= 100_000)
    assert min(indices[switch:]) >= 100_000
    assert player.steps() == {1}
    assert len({p.ssrc for p in player.packets}) == 1


# ---- plain forwarding -------------------------------------------------------------------------


def forwarder(seed: int, link: LinkConfig, media: Media = VIDEO) -> tuple[Fleet, Player]:
    """One node without peers; `link` is the one from the encoder to it."""
    fleet = Fleet(seed, [NodeSpec("node", EDGE, ingest=(media,), egress=(media,))])
    fleet.network.set_link(ENCODER, EDGE, link)
    fleet.start_all()
    return fleet, Player(fleet.network, media)


def test_a_plain_forwarder_passes_packets_on_at_once(seed: int) -> None:
    fleet, player = forwarder(seed, LinkConfig())
    Encoder(fleet.network, VIDEO, start_ns=START_NS, count=2000)
    fleet.run(8)
    assert player.indices() == list(range(2000))
    assert [p.at_ns for p in player.packets] == [START_NS + i * VIDEO.interval_ns for i in range(2000)]
    assert player.steps() == {1}


@pytest.mark.parametrize("reorder_ms", [3, 10, 18])
def test_reordering_on_the_way_to_the_node_is_repaired(seed: int, reorder_ms: float) -> None:
    fleet, player = forwarder(seed, LinkConfig(delay_ms=5, reorder=0.05, reorder_ms=reorder_ms))
    Encoder(fleet.network, VIDEO, start_ns=START_NS, count=2000)
    fleet.run(8)
    assert fleet.network.link(ENCODER, EDGE).counters.reordered > 50
    assert player.indices() == list(range(2000))
    assert player.steps() == {1}
    delays = [p.at_ns - START_NS - p.index * VIDEO.interval_ns for p in player.packets]
    assert max(delays) <= (5 + reorder_ms) * MS


def test_packets_lost_before_the_node_delay_the_others_by_20_ms_at_most(seed: int) -> None:
    fleet, player = forwarder(seed, LinkConfig(delay_ms=5, loss=0.05))
    Encoder(fleet.network, VIDEO, start_ns=START_NS, count=2000)
    fleet.run(8)
    lost = fleet.network.link(ENCODER, EDGE).counters.lost_random
    assert len(player.missing(range(2000))) == lost
    assert fleet.stream("node")["tracks"][0]["lost_packets"] in (
        lost,
        lost - 1,
    )  # nobody misses the last packet
    indices, seqs = player.indices(), [p.seq for p in player.packets]
    assert [(b - a) & 0xFFFF for a, b in pairwise(seqs)] == [b - a for a, b in pairwise(indices)]
    assert max(p.at_ns - START_NS - p.index * VIDEO.interval_ns for p in player.packets) <= 26 * MS


def test_jitter_loses_nothing_in_a_plain_forwarder(seed: int) -> None:
    fleet, player = forwarder(seed, LinkConfig(delay_ms=5, jitter_ms=40))
    Encoder(fleet.network, VIDEO, start_ns=START_NS, count=4000)
    fleet.run(15)
    assert player.indices() == list(range(4000))
    assert player.steps() == {1}


@pytest.mark.parametrize(("loss", "missing"), [(0.0, 0), (0.1, 8)])
def test_jitter_on_a_hop(seed: int, loss: float, missing: int) -> None:
    """Jitter takes its part of the budget: at a mean RTT of 140 ms, 200 ms leave one round, not two."""
    fleet = edge_and_region(seed, LinkConfig(delay_ms=50, jitter_ms=40, loss=loss))
    player = Player(fleet.network, VIDEO)
    Encoder(fleet.network, VIDEO, start_ns=START_NS, count=4000)
    fleet.run(15)
    assert len(player.missing(range(4000))) <= missing
    assert player.indices() == sorted(player.indices())
    if not loss:
        assert player.steps() == {1}
