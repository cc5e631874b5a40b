"""Nodes with several shards in virtual time: a stream on one, its hop on another."""

from dataclasses import replace

import pytest

from relay.lab.link import LinkConfig
from tests.sim.fleet import EDGE, REGION, REGION_2, SECOND, VIDEO, Encoder, Fleet, NodeSpec, Player

START_NS = 2 * SECOND
PER_SECOND = SECOND // VIDEO.interval_ns
LOSSY = LinkConfig(delay_ms=20, loss=0.3)


@pytest.mark.seeds(1, 2)
def test_a_stream_crosses_to_the_shard_of_its_hop(seed: int) -> None:
    """The edge's first peer is never there, so that the one that takes the stream is on the second shard."""
    fleet = Fleet(
        seed,
        [
            NodeSpec("absent", REGION_2, called_by=("edge",)),
            NodeSpec("region", REGION, called_by=("absent", "edge"), egress=(VIDEO,), threads=2),
            NodeSpec("edge", EDGE, calls=("absent", "region"), ingest=(VIDEO,), threads=2),
        ],
    )
    fleet.link(EDGE, REGION, LOSSY)
    for name in ("region", "edge"):
        fleet.start(name)
    player = Player(fleet.network, VIDEO)
    Encoder(fleet.network, VIDEO, start_ns=START_NS, count=4 * PER_SECOND)
    fleet.run(8)
    assert len(player.missing(range(4 * PER_SECOND))) <= 1
    assert fleet.nodes["edge"].shards.stats()["mail_sent"] >= 4 * PER_SECOND
    assert fleet.nodes["region"].shards.stats()["mail_sent"] == 0  # it is received on its hop's shard
    assert fleet.hop_status("region", "edge")["recovered_packets"] > PER_SECOND
    for name in ("region", "edge"):
        first, second = fleet.nodes[name].shards.planes
        assert second.stats()["unknown_index"] == first.stats()["unknown_index"] == 0


@pytest.mark.seeds(1, 2)
def test_a_stream_stays_on_its_shard_when_another_peer_publishes_it(seed: int) -> None:
    fleet = Fleet(
        seed,
        [
            NodeSpec("region", REGION, called_by=("edge", "rival"), egress=(VIDEO,), threads=4),
            NodeSpec("edge", EDGE, calls=("region",), ingest=(VIDEO,)),
            NodeSpec("rival", REGION_2, calls=("region",), ingest=(VIDEO,)),
        ],
    )
    fleet.link(EDGE, REGION, LOSSY)
    fleet.link(REGION_2, REGION, LOSSY)
    fleet.start("region")
    fleet.start("edge")
    fleet.run(1)
    fleet.start("rival")
    player = Player(fleet.network, VIDEO)
    Encoder(fleet.network, VIDEO, start_ns=START_NS, count=2 * PER_SECOND)
    fleet.run(5)
    edge = fleet.nodes["edge"]
    fleet.specs["edge"] = replace(fleet.specs["edge"], ingest=())
    edge.machine.reload(fleet.now_ns, fleet.config("edge"))
    fleet.network.wake(edge)
    fleet.run(7)
    assert fleet.stream("region")["source"] == "hop:rival"
    before = len(player.packets)
    Encoder(
        fleet.network,
        VIDEO,
        start_ns=fleet.now_ns,
        count=2 * PER_SECOND,
        edge=REGION_2,
        address=("10.0.0.7", 5000),
    )
    fleet.run(4)
    assert before >= 2 * PER_SECOND - 1 and len(player.packets) - before >= 2 * PER_SECOND - 1
    assert player.steps() == {1}, "the player sees one sequence"
    stats = fleet.nodes["region"].shards.stats()
    assert stats["mail_sent"] >= 2 * PER_SECOND and stats["mail_unknown"] == stats["mail_dropped"] == 0
    delays = fleet.hop_status("region", "rival")["added_delay_ms"]
    assert delays["p50"] <= 2 and 30 < delays["p99"] < 200
    fleet.run(3)
    for node in fleet.nodes.values():
        node.shards.close()
        assert node.shards.slabs_in_use == 0
