"""What a hop survives: restarts, other addresses, an hour's absence, new keys, small MTUs, IPv6."""

from dataclasses import replace

import pytest

from relay.lab.link import LinkConfig
from relay.wire import hop
from tests.sim.fleet import (
    AUDIO,
    EDGE,
    ENCODER,
    HOP_PORT,
    MS,
    REGION,
    SECOND,
    VIDEO,
    Encoder,
    Fleet,
    Player,
    edge_and_region,
)

LOSSLESS, LOSSY = LinkConfig(delay_ms=50), LinkConfig(delay_ms=50, loss=0.3)
LINKS = pytest.mark.parametrize("link", [LOSSLESS, LOSSY], ids=["no loss", "30% loss"])
START_NS = 5 * SECOND


def stream_video(fleet: Fleet, seconds: float) -> Player:
    """A player, and an encoder from START_NS on."""
    player = Player(fleet.network, VIDEO)
    Encoder(fleet.network, VIDEO, start_ns=START_NS, count=int(seconds * SECOND / VIDEO.interval_ns))
    return player


def first_after(player: Player, at_ns: int) -> int:
    """How long after `at_ns` the first packet that was sent later arrived, in ns."""
    sent = (at_ns - START_NS) // VIDEO.interval_ns
    return min(p.at_ns for p in player.packets if p.index > sent) - at_ns


@LINKS
def test_an_edge_that_restarts_continues_the_sequence(seed: int, link: LinkConfig) -> None:
    fleet = edge_and_region(seed, link)
    player = stream_video(fleet, 12)
    fleet.network.run(10 * SECOND)
    fleet.stop("edge")
    fleet.run(0.5)
    down_ns = fleet.now_ns
    fleet.start("edge")
    fleet.run(10)
    assert first_after(player, down_ns) < (0.4 if link is LOSSLESS else 1.5) * SECOND
    packets = player.packets
    assert len({p.ssrc for p in packets}) == 1
    assert len({(p.timestamp - p.index * VIDEO.step) & 0xFFFFFFFF for p in packets}) == 1
    if link is LOSSLESS:
        assert player.steps() == {1}
    # What is missing came in while no edge was there, or was lost on the link when the edge went.
    sent_ns = [START_NS + index * VIDEO.interval_ns for index in player.missing(range(packets[-1].index))]
    assert sent_ns[0] >= (10 * SECOND if link is LOSSLESS else 9.7 * SECOND)
    assert sent_ns[-1] <= down_ns + (0.3 if link is LOSSLESS else 1.5) * SECOND
    assert fleet.stream("region")["source"] == "hop:edge"


@LINKS
def test_a_region_that_restarts_gets_the_stream_again(seed: int, link: LinkConfig) -> None:
    fleet = edge_and_region(seed, link)
    player = stream_video(fleet, 20)
    fleet.network.run(10 * SECOND)
    fleet.stop("region")
    fleet.run(0.5)
    fleet.start("region")
    up_ns = fleet.now_ns
    fleet.run(16)
    # The edge notices by SUSPECT_SENDING, counted from the last packet of the old process.
    assert first_after(player, up_ns) < (0.5 if link is LOSSLESS else 1) * SECOND
    late = [p for p in player.packets if p.at_ns > up_ns]
    got = {p.index for p in late}
    assert len(set(range(late[0].index, 8000)) - got) <= (0 if link is LOSSLESS else 8)
    assert fleet.hop("edge", "region").session.state == "connected"


@LINKS
def test_a_new_address_of_the_edge_is_proven_and_followed(seed: int, link: LinkConfig) -> None:
    fleet = edge_and_region(seed, link)
    player = stream_video(fleet, 15)
    fleet.network.run(10 * SECOND)
    new = ("198.51.100.7", 1025)
    fleet.network.rebind((EDGE, HOP_PORT), new)
    fleet.run(2 if link is LOSSY else 0.5)
    assert fleet.hop("region", "edge").session.address == new
    fleet.run(12)
    missing = player.missing(range(6000))
    assert len(missing) <= (0 if link is LOSSLESS else 8)
    others = [i for i in missing if not 9.7 * SECOND < START_NS + i * VIDEO.interval_ns < 12 * SECOND]
    assert len(others) <= 3
    assert player.longest_gap_ns() < 250 * MS
    assert fleet.hop("region", "edge").session.handshakes == 1


def test_a_region_that_moves_is_found_again(seed: int) -> None:
    """The edge only knows the old address; the region's packets show it the new one."""
    fleet = edge_and_region(seed, LOSSLESS)
    player = stream_video(fleet, 10)
    fleet.network.run(10 * SECOND)
    fleet.network.rebind((REGION, HOP_PORT), ("198.51.100.9", 40_000))
    fleet.run(8)
    assert fleet.hop("edge", "region").session.address == ("198.51.100.9", 40_000)
    assert player.longest_gap_ns() < 500 * MS
    assert len(player.missing(range(2500, 4000))) == 0


@LINKS
def test_reconnects_by_itself_after_an_hour_away(seed: int, link: LinkConfig) -> None:
    fleet = edge_and_region(seed, link)
    player = stream_video(fleet, 3)
    fleet.network.run(10 * SECOND)
    fleet.link(EDGE, REGION, LinkConfig(loss=1.0))
    fleet.run(3600)
    assert {fleet.hop(*ends).session.state for ends in (("edge", "region"), ("region", "edge"))} == {
        "connecting"
    }
    fleet.link(EDGE, REGION, link)
    back_ns = fleet.now_ns
    Encoder(
        fleet.network, VIDEO, start_ns=back_ns, count=12_000, first=10_000, address=(ENCODER, 5100), ssrc=7
    )
    fleet.run(33)
    later = [p for p in player.packets if p.index >= 10_000]
    # It calls every 5 s at last, and each time has an even chance at 30 % loss each way.
    assert later[0].at_ns - back_ns < (6 if link is LOSSLESS else 25) * SECOND
    assert len(set(range(later[0].index, 22_000)) - {p.index for p in later}) <= 4
    assert len({p.ssrc for p in player.packets}) == 1


@pytest.mark.parametrize("loss", [0.0, 0.1])
def test_new_keys_every_two_minutes_lose_nothing(seed: int, loss: float) -> None:
    fleet = edge_and_region(seed, LinkConfig(delay_ms=20, loss=loss), tracks=(AUDIO,), budget_ms=300)
    player = Player(fleet.network, AUDIO)
    Encoder(fleet.network, AUDIO, start_ns=START_NS, count=50 * 240)
    fleet.run(250)
    assert player.missing(range(50 * 240)) == []
    assert player.steps() == {1}
    edge, region = fleet.hop("edge", "region").session, fleet.hop("region", "edge").session
    assert (edge.handshakes, region.handshakes) == (3, 3)
    assert (edge.state, region.state) == ("connected", "connected")


@pytest.mark.parametrize(
    ("mtu_bytes", "loss", "datagram"),
    [(1500, 0.3, 1472), (1400, 0.0, 1352), (1400, 0.3, 1352), (1280, 0.3, 1232)],
)
def test_rtp_of_1472_bytes_crosses_whole(seed: int, mtu_bytes: int, loss: float, datagram: int) -> None:
    large = replace(VIDEO, size=1472)
    fleet = edge_and_region(seed, LinkConfig(delay_ms=50, loss=loss, mtu_bytes=mtu_bytes), tracks=(large,))
    player = Player(fleet.network, large)
    Encoder(
        fleet.network, large, start_ns=20 * SECOND, count=4000
    )  # finding 1352 takes 3 sizes of 12 probes each
    fleet.run(33)
    assert fleet.hop("edge", "region").session.mtu == datagram
    assert len(player.missing(range(4000))) <= (1 if loss else 0)
    assert {len(p.payload) for p in player.packets} == {1460}


CHACHA, AES = hop.CIPHER_CHACHA20_POLY1305, hop.CIPHER_AES_256_GCM


def test_the_cipher_is_what_both_nodes_find_fast(seed: int) -> None:
    fleet = edge_and_region(seed, LOSSY, ciphers=(AES, CHACHA))
    player = stream_video(fleet, 20)
    fleet.network.run(15 * SECOND)
    assert ciphers_in_use(fleet) == ["AES-256-GCM"] * 2
    assert len(player.missing(range(9 * SECOND // VIDEO.interval_ns))) <= 4
    fleet.stop("region")  # and comes back on a board without AES instructions
    fleet.start("region", ciphers=(CHACHA, AES))
    fleet.run(15)
    assert ciphers_in_use(fleet) == ["ChaCha20-Poly1305"] * 2
    sent = 20 * SECOND // VIDEO.interval_ns
    assert len(player.missing(range(sent - 800, sent))) <= 1


def ciphers_in_use(fleet: Fleet) -> list[str]:
    return [fleet.hop_status(*ends)["cipher"] for ends in (("edge", "region"), ("region", "edge"))]


def test_ipv6_from_the_encoder_to_the_player(seed: int) -> None:
    hosts = ("2001:db8::1", "2001:db8::2", "2001:db8::9")
    fleet = edge_and_region(seed, LOSSY, hosts=hosts)
    player = Player(fleet.network, VIDEO, host=hosts[2])
    Encoder(fleet.network, VIDEO, start_ns=START_NS, count=4000, address=("2001:db8::8", 5000), edge=hosts[0])
    fleet.run(18)
    assert len(player.missing(range(4000))) <= 4
    assert fleet.hop("edge", "region").session.mtu == 1452
    assert fleet.hop_status("region", "edge")["paths"][0]["address"] == "[2001:db8::1]:7400"
