"""Streams across several hops: an edge, its region, other regions, and edges where they leave."""

import random
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from relay.core.noise import public_key
from relay.lab.link import LinkConfig
from relay.wire.messages import Subscribe
from tests.sim.fleet import SECOND, VIDEO, Encoder, Fleet, NodeSpec, Player
from tests.sim.test_feedback import Camera, Viewer

HOSTS = {
    "edge": "10.0.0.1",
    "a": "10.0.1.1",
    "b": "10.0.1.2",
    "c": "10.0.1.3",
    "out": "10.0.0.2",
    "rival": "10.0.0.3",
}
PER_SECOND = SECOND // VIDEO.interval_ns
LOSSY = LinkConfig(delay_ms=20, loss=0.1)
CLEAN = LinkConfig(delay_ms=20)


def region(name: str, others: Iterable[str], edges: Iterable[str] = (), **spec: Any) -> NodeSpec:
    """Of two regions, the one whose name comes later calls the other."""
    calls = tuple(other for other in others if other < name)
    called_by = (*(other for other in others if other > name), *edges)
    return NodeSpec(name, HOSTS[name], calls=calls, called_by=called_by, role="region", **spec)


def chain(seed: int, link: LinkConfig = LOSSY, **spec: Any) -> Fleet:
    """edge -> a -> b -> out, where it is played."""
    fleet = Fleet(
        seed,
        [
            region("a", ["b"], ["edge"], **spec),
            region("b", ["a"], ["out"], **spec),
            NodeSpec("edge", HOSTS["edge"], calls=("a",), ingest=(VIDEO,), **spec),
            NodeSpec("out", HOSTS["out"], calls=("b",), egress=(VIDEO,), **spec),
        ],
    )
    for x, y in (("edge", "a"), ("a", "b"), ("b", "out")):
        fleet.link(HOSTS[x], HOSTS[y], link)
    fleet.start_all()
    return fleet


def encode(
    fleet: Fleet, seconds: int, *, first: int = 0, to: str = "edge", host: str = "10.0.0.8"
) -> Encoder:
    return Encoder(
        fleet.network,
        VIDEO,
        start_ns=fleet.now_ns,
        count=seconds * PER_SECOND,
        first=first,
        ssrc=1 + first,
        edge=HOSTS[to],
        address=(host, 5000 + first % 1000),
    )


def source_sent(fleet: Fleet, name: str, peer: str) -> int:
    return int(fleet.hop_status(name, peer)["source_packets"])


def end(fleet: Fleet) -> None:
    for node in fleet.nodes.values():
        node.shards.close()
        assert node.shards.slabs_in_use == 0


@pytest.mark.seeds(1, 2)
def test_three_hops_that_lose_a_tenth_each_lose_nothing(seed: int) -> None:
    fleet = chain(seed)
    player = Player(fleet.network, VIDEO)
    fleet.run(3)
    encode(fleet, 8)
    fleet.run(10)
    assert player.missing(range(8 * PER_SECOND)) == []
    assert player.steps() == {1}
    out = fleet.stream("out")
    assert [node["node"] for node in out["path"]] == ["edge", "a", "b", "out"]
    track = out["tracks"][0]
    assert track["lost_packets"] == track["duplicate_packets"] == 0
    assert fleet.stream("b")["tracks"][0]["relayed_packets"] == 8 * PER_SECOND
    # Each relay has mended its own hop: the last one has lost what its own link lost, no more.
    for name, peer in (("a", "edge"), ("b", "a"), ("out", "b")):
        hop = fleet.hop_status(name, peer)
        assert 0.05 < hop["loss_ratio"]["receive"] < 0.15
        assert hop["recovered_packets"] > 0.05 * 8 * PER_SECOND
    end(fleet)


@pytest.mark.seeds(1)
@pytest.mark.parametrize("name", ["edge", "a", "b", "out"])
def test_a_node_of_the_path_is_started_anew(seed: int, name: str) -> None:
    """Without a word; media flows again once its neighbours call it, who only receive from it after 3 s of
    silence, and the player goes on with its sequence."""
    fleet = chain(seed)
    player = Player(fleet.network, VIDEO)
    fleet.run(3)
    encode(fleet, 8)
    fleet.run(2)
    fleet.stop(name)
    stopped_ns = fleet.now_ns
    fleet.run(0.2)
    fleet.start(name)
    fleet.run(7)
    after = [p for p in player.packets if p.at_ns > stopped_ns + SECOND // 2]
    assert after[0].at_ns - stopped_ns < (4 * SECOND if name in ("a", "b") else SECOND)
    indices = [p.index for p in after[PER_SECOND // 2 :]]
    assert indices == list(range(indices[0], 8 * PER_SECOND)), "soon nothing is lost"
    if name != "out":
        assert max(player.steps()) < 40, "what was on its way is missing, no more"
    end(fleet)


def test_who_comes_late_gets_the_stream_and_who_leaves_ends_it(seed: int) -> None:
    fleet = chain(seed, CLEAN)
    out = fleet.nodes["out"]
    fleet.specs["out"] = NodeSpec("out", HOSTS["out"], calls=("b",))
    out.machine.reload(fleet.now_ns, fleet.config("out"))
    player = Player(fleet.network, VIDEO)
    fleet.run(2)
    encode(fleet, 6)
    fleet.run(2)
    assert source_sent(fleet, "a", "b") == 0, "nobody wants it"
    fleet.specs["out"] = NodeSpec("out", HOSTS["out"], calls=("b",), egress=(VIDEO,))
    out.machine.reload(fleet.now_ns, fleet.config("out"))
    fleet.network.wake(out)
    asked_ns = fleet.now_ns
    fleet.run(2)
    assert player.packets[0].at_ns - asked_ns < 300_000_000
    assert player.steps() == {1}
    fleet.specs["out"] = NodeSpec("out", HOSTS["out"], calls=("b",))
    out.machine.reload(fleet.now_ns, fleet.config("out"))
    fleet.network.wake(out)
    fleet.run(0.2)
    sent = {pair: source_sent(fleet, *pair) for pair in (("edge", "a"), ("a", "b"), ("b", "out"))}
    fleet.run(1)
    assert source_sent(fleet, "b", "out") == sent["b", "out"]
    assert source_sent(fleet, "a", "b") == sent["a", "b"], "the upstream copy has ended too"
    assert source_sent(fleet, "edge", "a") > sent["edge", "a"]
    for name in ("b", "out"):
        assert not fleet.nodes[name].machine.streams.streams
    end(fleet)


def test_a_subscriber_is_told_that_there_is_nothing_yet_and_gets_it_when_there_is(seed: int) -> None:
    fleet = chain(seed, CLEAN)
    player = Player(fleet.network, VIDEO)
    fleet.stop("edge")
    fleet.run(25)
    assert fleet.stream("out")["waits"] == "b: it is not published"
    assert fleet.stream("b")["waits"] == "it is not published"
    fleet.start("edge")
    fleet.run(1)
    encode(fleet, 2)
    fleet.run(3)
    assert player.missing(range(2 * PER_SECOND)) == []
    end(fleet)


@pytest.mark.parametrize("at", ["a", "b"])
def test_of_two_edges_that_publish_one_name_the_first_keeps_it(seed: int, at: str) -> None:
    fleet = chain(seed, CLEAN)
    fleet.specs["rival"] = NodeSpec("rival", HOSTS["rival"], calls=(at,), ingest=(VIDEO,))
    fleet.specs[at] = region(
        at, ["b" if at == "a" else "a"], ["edge", "rival"] if at == "a" else ["out", "rival"]
    )
    fleet.link(HOSTS["rival"], HOSTS[at], CLEAN)
    fleet.nodes[at].machine.reload(fleet.now_ns, fleet.config(at))
    player = Player(fleet.network, VIDEO)
    fleet.run(2)
    fleet.start("rival")
    encode(fleet, 8)
    encode(fleet, 20, first=100_000, to="rival", host="10.0.0.7")
    fleet.run(8.5)
    assert player.missing(range(8 * PER_SECOND)) == [] and max(player.indices()) < 8 * PER_SECOND
    told = fleet.stream("rival")["route"]["candidates"][0]["refused"]
    assert told == ("another node publishes a stream of that name" if at == "a" else "it is published at a")
    edge = fleet.nodes["edge"]
    fleet.specs["edge"] = NodeSpec("edge", HOSTS["edge"], calls=("a",))
    edge.machine.reload(fleet.now_ns, fleet.config("edge"))
    fleet.network.wake(edge)
    fleet.run(8)
    assert max(player.indices()) > 100_000, "the second has it once the first has gone"
    end(fleet)


def test_a_name_taken_on_both_sides_of_a_partition_is_given_back_by_one(seed: int) -> None:
    fleet = chain(seed, CLEAN)
    fleet.specs["rival"] = NodeSpec("rival", HOSTS["rival"], calls=("b",), ingest=(VIDEO,))
    fleet.specs["b"] = region("b", ["a"], ["out", "rival"])
    fleet.link(HOSTS["rival"], HOSTS["b"], CLEAN)
    fleet.stop("b")
    fleet.link(HOSTS["a"], HOSTS["b"], LinkConfig(delay_ms=20, loss=1.0))
    for name in ("b", "rival"):
        fleet.start(name)
    player = Player(fleet.network, VIDEO)
    fleet.run(3)
    encode(fleet, 20)
    encode(fleet, 20, first=100_000, to="rival", host="10.0.0.7")
    fleet.run(4)
    assert min(player.indices()) >= 100_000, "each side has its own"
    fleet.link(HOSTS["a"], HOSTS["b"], CLEAN)
    fleet.run(15)
    [holder] = {fleet.nodes[name].machine.directory.view()["studio"] for name in ("a", "b")}
    loser = "edge" if holder == public_key(fleet.key("b")) else "rival"
    assert fleet.stream(loser)["route"]["candidates"][0]["refused"].startswith("it is published at")
    fleet.run(1)
    last = player.indices()[-PER_SECOND:]
    assert all((index < 100_000) == (loser == "rival") for index in last)
    end(fleet)


def three_regions(seed: int, link: LinkConfig = CLEAN) -> Fleet:
    """edge publishes at a; every region plays it, and out asks c for it too."""
    fleet = Fleet(
        seed,
        [
            region("a", ["b", "c"], ["edge"], egress=(VIDEO,), player="10.0.2.1"),
            region("b", ["a", "c"], egress=(VIDEO,), player="10.0.2.2"),
            region("c", ["a", "b"], ["out"], egress=(VIDEO,), player="10.0.2.3"),
            NodeSpec("edge", HOSTS["edge"], calls=("a",), ingest=(VIDEO,)),
            NodeSpec("out", HOSTS["out"], calls=("c",), egress=(VIDEO,)),
        ],
    )
    for x, y in (("edge", "a"), ("a", "b"), ("a", "c"), ("b", "c"), ("c", "out")):
        fleet.link(HOSTS[x], HOSTS[y], link)
    fleet.start_all()
    return fleet


def test_one_copy_a_pair_of_regions_whatever_wants_it(seed: int) -> None:
    fleet = three_regions(seed)
    players = [
        Player(fleet.network, VIDEO, host) for host in ("10.0.2.1", "10.0.2.2", "10.0.2.3", "10.0.0.9")
    ]
    fleet.run(3)
    encode(fleet, 3)
    fleet.run(4)
    for player in players:
        assert player.missing(range(3 * PER_SECOND)) == [] and player.steps() == {1}
    for pair in (("edge", "a"), ("a", "b"), ("a", "c"), ("c", "out")):
        assert source_sent(fleet, *pair) == 3 * PER_SECOND
    for pair in (("b", "c"), ("c", "b"), ("b", "a"), ("c", "a"), ("a", "edge")):
        assert source_sent(fleet, *pair) == 0
    end(fleet)


def test_a_region_that_drains_is_left_by_its_edges_and_gives_its_streams_back(seed: int) -> None:
    fleet = Fleet(
        seed,
        [
            region("a", ["b", "c"], ["edge"]),
            region("b", ["a", "c"], ["edge", "out"]),
            region("c", ["a", "b"], ["out"]),
            NodeSpec("edge", HOSTS["edge"], calls=("a", "b"), ingest=(VIDEO,)),
            NodeSpec("out", HOSTS["out"], calls=("b", "c"), egress=(VIDEO,)),
        ],
    )
    for x, y in (
        ("edge", "a"),
        ("edge", "b"),
        ("a", "b"),
        ("a", "c"),
        ("b", "c"),
        ("b", "out"),
        ("c", "out"),
    ):
        far = (x, y) in (("edge", "b"), ("b", "out"))
        fleet.link(HOSTS[x], HOSTS[y], LinkConfig(delay_ms=40 if far else 10))
    fleet.start_all()
    player = Player(fleet.network, VIDEO)
    fleet.run(3)
    encode(fleet, 12)
    fleet.run(3)
    assert [node["node"] for node in fleet.stream("out")["path"]] == ["edge", "a", "c", "out"]
    for name in ("c", "a"):
        node = fleet.nodes[name]
        node.machine.streams.drain(fleet.now_ns)
        fleet.network.wake(node)
        fleet.run(4)  # who goes is sent to for two seconds more
        assert not node.machine.streams.busy
    assert [node["node"] for node in fleet.stream("out")["path"]] == ["edge", "b", "out"]
    assert player.packets[-1].at_ns > fleet.now_ns - SECOND
    assert player.longest_gap_ns() < SECOND
    end(fleet)


def test_a_latency_is_shared_out_over_the_hops(seed: int) -> None:
    fleet = chain(seed, latency_ms=700)
    fleet.link(HOSTS["a"], HOSTS["b"], LinkConfig(delay_ms=80, loss=0.1))
    player = Player(fleet.network, VIDEO)
    fleet.run(8)
    encode(fleet, 5)
    fleet.run(7)
    assert len(player.missing(range(5 * PER_SECOND))) <= 1
    budgets = {
        pair: fleet.stream(pair[0])["sent_to"][0] for pair in (("edge", "a"), ("a", "b"), ("b", "out"))
    }
    edge, middle, last = (budget["budget_ms"] for budget in budgets.values())
    assert 80 <= edge <= 125 and 340 <= middle <= 410 and 80 <= last <= 125
    assert 680 <= edge + middle + last + 120 <= 710
    assert budgets["edge", "a"]["hops_beyond"] == 2 and budgets["a", "b"]["hops_beyond"] == 1
    sent = fleet.now_ns
    delays = [p.at_ns - (sent - 7 * SECOND + p.index * VIDEO.interval_ns) for p in player.packets]
    assert max(delays) <= 720_000_000
    end(fleet)


@pytest.mark.parametrize("threads", [1, 2])
def test_media_goes_back_to_no_node_that_it_has_passed(seed: int, threads: int) -> None:
    """Regions that misbehave: each asks the other for what it has from there, and offers it back."""
    fleet = three_regions(seed)
    for name in ("b", "c"):
        fleet.stop(name)
        fleet.start(name, threads=threads)
    fleet.run(3)
    encode(fleet, 4)
    fleet.run(1)
    for asking, asked in (("a", "b"), ("a", "c"), ("b", "c"), ("c", "b")):
        hops = fleet.nodes[asking].machine.hops
        hops.send(fleet.now_ns, fleet.hop(asking, asked), Subscribe("studio"))
        fleet.network.wake(fleet.nodes[asking])
    fleet.run(2)
    for pair in (("b", "a"), ("c", "a")):
        assert source_sent(fleet, *pair) == 0, "it has passed there"
    for name in ("b", "c"):
        assert fleet.stream(name)["source"] == "hop:a"
        sent = {p["peer"]: p["accepted"] for p in fleet.stream(name)["sent_to"]}
        assert not any(sent[peer] for peer in sent if peer != "out"), "it was not asked for"
    fleet.run(2)
    end(fleet)


def test_a_partition_between_regions_heals(seed: int) -> None:
    fleet = chain(seed, CLEAN)
    player = Player(fleet.network, VIDEO)
    fleet.run(3)
    encode(fleet, 60)
    fleet.run(2)
    fleet.link(HOSTS["a"], HOSTS["b"], LinkConfig(delay_ms=20, loss=1.0))
    fleet.run(26)
    assert fleet.stream("out")["waits"] == "b: it is not published", "and who waits is told"
    fleet.link(HOSTS["a"], HOSTS["b"], CLEAN)
    healed_ns = fleet.now_ns
    fleet.run(8)
    after = [p for p in player.packets if p.at_ns > healed_ns]
    assert after[0].at_ns - healed_ns < 6 * SECOND
    assert player.steps() == {1}
    end(fleet)


def test_an_edge_is_no_relay(seed: int) -> None:
    fleet = chain(seed, CLEAN)
    fleet.run(3)
    hops = fleet.nodes["b"].machine.hops
    hops.send(fleet.now_ns, fleet.hop("b", "out"), Subscribe("studio"))
    fleet.network.wake(fleet.nodes["b"])
    fleet.run(1)
    assert fleet.stream("out")["sent_to"] == []
    assert fleet.stream("out")["source"] == "hop:b"
    end(fleet)


@pytest.mark.seeds(1, 2)
def test_whatever_happens_it_ends_well(seed: int) -> None:
    """Nodes that die and come back, links that are cut, egresses that come and go; then all is as it was."""
    fleet = three_regions(seed)
    rng = random.Random(seed)
    links = (("edge", "a"), ("a", "b"), ("a", "c"), ("b", "c"), ("c", "out"))
    encoder = encode(fleet, 120)
    for _ in range(15):
        x, y = rng.choice(links)
        match rng.randrange(4):
            case 0 if x in fleet.nodes:
                fleet.stop(x)
            case 1:
                fleet.link(HOSTS[x], HOSTS[y], LinkConfig(delay_ms=20, loss=rng.choice((0.3, 1.0))))
            case 2:
                fleet.link(HOSTS[x], HOSTS[y], CLEAN)
            case _ if y in fleet.nodes:
                egress = rng.choice(((), (VIDEO,)))
                fleet.specs[y] = replace(fleet.specs[y], egress=egress)
                fleet.nodes[y].machine.reload(fleet.now_ns, fleet.config(y))
                fleet.network.wake(fleet.nodes[y])
        fleet.run(rng.choice((0.05, 0.5, 3, 10)))
        for name in set(HOSTS) & set(fleet.specs) - set(fleet.nodes):
            fleet.start(name)
    for x, y in links:
        fleet.link(HOSTS[x], HOSTS[y], CLEAN)
    for name in ("a", "b", "c", "out"):
        fleet.specs[name] = replace(fleet.specs[name], egress=(VIDEO,))
        fleet.nodes[name].machine.reload(fleet.now_ns, fleet.config(name))
    fleet.run(25)
    fleet.network.detach(encoder.source)
    fleet.run(5)
    hosts = ("10.0.2.1", "10.0.2.2", "10.0.2.3", "10.0.0.9")
    players = [Player(fleet.network, VIDEO, host) for host in hosts]
    encode(fleet, 2, first=100_000, host="10.0.0.7")
    before = {pair: source_sent(fleet, *pair) for pair in links}
    fleet.run(4)
    for player in players:
        assert player.missing(range(100_000, 100_000 + 2 * PER_SECOND)) == []
    sent = {pair: source_sent(fleet, *pair) - before[pair] for pair in links}
    assert set(sent.values()) == {0, 2 * PER_SECOND} and sent["b", "c"] == 0, "one copy a pair"
    end(fleet)


def test_a_wish_for_a_key_frame_goes_back_to_the_encoder(seed: int) -> None:
    fleet = chain(seed)
    viewer = Viewer(fleet.network)
    camera = Camera(fleet.network, (HOSTS["edge"], VIDEO.listen))
    fleet.run(6)
    assert len(viewer.keys) == 1 and not camera.asked
    viewer.ask()
    fleet.run(2)
    assert len(camera.asked) == 1 and len(viewer.keys) == 2
    requests = [fleet.stream(name)["tracks"][0]["key_frame_requests"] for name in ("out", "b", "a", "edge")]
    assert requests == [1, 1, 1, 1]
    end(fleet)
