"""What becomes of a stream when the region that its edge sends it to dies, stops, is cut off or comes back,
in virtual time."""

from typing import Any

import pytest

from relay.core.noise import public_key
from relay.lab.link import LinkConfig
from tests.sim.fleet import MS, VIDEO, Fleet, NodeSpec, Player
from tests.sim.test_failover import DEAD, FAR, NEAR, Board, board
from tests.sim.test_relaying import HOSTS, PER_SECOND, encode, end, region, source_sent

GAP_MS = 120
"""Silence, or two reports that do not come; messages to the second region and from there to the viewer's."""


STANDBYS = {"edge": "c", "b": "c", "c": "edge"}
"""Whom each could send the stream to, or have it from, instead of a."""


def moving(seed: int, seconds: int, **spec: Any) -> tuple[Fleet, Player]:
    """edge -> a -> b -> out, where it is played; the edge could send it to c, which is farther. Media has
    flowed for four of so many seconds."""
    fleet = Fleet(
        seed,
        [
            region("a", ["b", "c"], ["edge"], **spec),
            region("b", ["a", "c"], ["out"], **spec),
            region("c", ["a", "b"], ["edge", "rival"], **spec),
            NodeSpec("edge", HOSTS["edge"], calls=("a", "c"), ingest=(VIDEO,), **spec),
            NodeSpec("rival", HOSTS["rival"], calls=("c",), **spec),
            NodeSpec("out", HOSTS["out"], calls=("b",), egress=(VIDEO,), **spec),
        ],
        Board,
    )
    for x, y in (("edge", "a"), ("a", "b"), ("a", "c"), ("b", "c"), ("b", "out"), ("rival", "c")):
        fleet.link(HOSTS[x], HOSTS[y], NEAR)
    fleet.link(HOSTS["edge"], HOSTS["c"], FAR)
    fleet.start_all()
    player = Player(fleet.network, VIDEO)
    fleet.run(3)
    encode(fleet, seconds)
    fleet.run(4)
    assert path(fleet) == ["edge", "a", "b", "out"]
    standbys = {name: fleet.stream(name)["standby"] for name in ("edge", "b", "c")}
    assert standbys == {name: {"peer": peer, "armed": True} for name, peer in STANDBYS.items()}
    assert source_sent(fleet, "edge", "c") == source_sent(fleet, "c", "b") == 0, "held back"
    return fleet, player


def path(fleet: Fleet) -> list[str]:
    return [node["node"] for node in fleet.stream("out")["path"]]


def holders(fleet: Fleet) -> set[bytes | None]:
    """Who has the stream, as the regions that run say."""
    directories = [node.machine.directory for node in fleet.nodes.values()]
    return {directory.holder("studio") for directory in directories if directory is not None}


def goes_on(player: Player, seconds: int, gap_ms: float = GAP_MS) -> None:
    """Every packet came, once and in order."""
    assert player.indices() == list(range(seconds * PER_SECOND))
    assert player.longest_gap_ns() <= gap_ms * MS


def at(fleet: Fleet, name: str) -> None:
    assert holders(fleet) == {public_key(fleet.key(name))}
    assert path(fleet) == ["edge", name, "b", "out"]


@pytest.mark.seeds(1, 2)
def test_its_region_is_killed(seed: int) -> None:
    fleet, player = moving(seed, 10)
    fleet.stop("a")
    fleet.run(8)
    goes_on(player, 10)
    at(fleet, "c")
    end(fleet)


@pytest.mark.parametrize("way", [("edge", "a"), ("a", "edge")])
def test_one_direction_of_the_link_to_its_region_dies(seed: int, way: tuple[str, str]) -> None:
    fleet, player = moving(seed, 10)
    fleet.network.set_link(HOSTS[way[0]], HOSTS[way[1]], DEAD)
    fleet.run(8)
    goes_on(player, 10)
    at(fleet, "c")
    end(fleet)


def test_its_region_is_stopped_goes_on_and_gives_way(seed: int) -> None:
    """As by SIGSTOP. It has believed all the time that the stream is its own."""
    fleet, player = moving(seed, 12)
    board(fleet, "a").stop_for(3)
    fleet.run(2.9)
    assert path(fleet) == ["edge", "c", "b", "out"]
    fleet.run(7)
    goes_on(player, 12)
    at(fleet, "c")
    [entry] = fleet.nodes["a"].machine.directory.own.values()
    assert entry.standby, "the edge has offered it again, and holds it back"
    end(fleet)


def test_a_link_that_comes_and_goes(seed: int) -> None:
    """Dead for a second, every four: it is gone back to once in all that time."""
    fleet, player = moving(seed, 34)
    for _ in range(7):
        fleet.link(HOSTS["edge"], HOSTS["a"], DEAD)
        fleet.run(1)
        fleet.link(HOSTS["edge"], HOSTS["a"], NEAR)
        fleet.run(3)
    fleet.run(4)
    goes_on(player, 34)
    at(fleet, "c")
    assert fleet.nodes["edge"].machine.streams.streams["studio"].serial <= 4
    end(fleet)


def test_it_goes_back_when_the_dwell_is_over(seed: int) -> None:
    fleet, player = moving(seed, 34)
    fleet.link(HOSTS["edge"], HOSTS["a"], DEAD)
    fleet.run(3)
    fleet.link(HOSTS["edge"], HOSTS["a"], NEAR)
    fleet.link(HOSTS["edge"], HOSTS["c"], LinkConfig(delay_ms=60))
    fleet.run(29)
    goes_on(player, 34)
    at(fleet, "a")
    end(fleet)


def test_a_region_that_dies_while_event_loops_are_stalled(seed: int) -> None:
    """The packet planes of the regions ask, and that of the edge answers."""
    fleet, player = moving(seed, 10)
    for name in ("edge", "b", "c", "out"):
        board(fleet, name).stall_for(1)
    fleet.stop("a")
    fleet.run(0.9)
    assert player.packets[-1].at_ns > fleet.now_ns - 100 * MS
    fleet.run(7)
    goes_on(player, 10)
    at(fleet, "c")
    end(fleet)


def test_with_several_threads(seed: int) -> None:
    """Where hops and tracks are of different threads the services ask."""
    fleet, player = moving(seed, 8, threads=2)
    fleet.stop("a")
    fleet.run(6)
    goes_on(player, 8)
    at(fleet, "c")
    end(fleet)


def test_a_region_that_drains_is_left_without_a_gap(seed: int) -> None:
    fleet, player = moving(seed, 10)
    a = fleet.nodes["a"]
    a.machine.streams.drain(fleet.now_ns)
    fleet.network.wake(a)
    fleet.run(8)
    goes_on(player, 10, gap_ms=40)
    at(fleet, "c")
    assert not a.machine.streams.busy
    end(fleet)


@pytest.mark.parametrize("both", [False, True])
def test_the_link_between_two_regions_dies(seed: int, both: bool) -> None:
    """The stream's region and the viewer's: it comes by way of the third, straight from the edge, which sends
    it to both. When the link is back, and the dwell over, so is the stream."""
    fleet, player = moving(seed, 34)
    for x, y in (("a", "b"), ("b", "a"))[: 1 + both]:
        fleet.network.set_link(HOSTS[x], HOSTS[y], DEAD)
    fleet.run(8)
    assert path(fleet) == ["edge", "c", "b", "out"]
    assert fleet.stream("c")["source"] == "hop:edge"
    fleet.link(HOSTS["a"], HOSTS["b"], NEAR)
    fleet.run(24)
    goes_on(player, 34)
    at(fleet, "a")
    sent = source_sent(fleet, "edge", "c")
    fleet.run(0.5)
    assert source_sent(fleet, "edge", "c") == sent, "held back again"
    end(fleet)


def test_the_link_to_the_second_region_dies(seed: int) -> None:
    """Its viewers, if it had some, would have the stream from the edge; those of others see nothing of it."""
    fleet, player = moving(seed, 24)
    fleet.link(HOSTS["a"], HOSTS["c"], DEAD)
    fleet.run(5)
    assert fleet.stream("c")["source"] == "hop:edge" and path(fleet) == ["edge", "a", "b", "out"]
    fleet.link(HOSTS["a"], HOSTS["c"], NEAR)
    fleet.run(17)
    assert fleet.stream("c")["source"] == "hop:a" and fleet.stream("c")["standby"]["armed"]
    goes_on(player, 24, gap_ms=20)
    end(fleet)


def test_regions_that_are_parted_agree_on_where_it_went(seed: int) -> None:
    """The viewer's region does not hear that the stream has moved until the regions can speak again."""
    fleet, player = moving(seed, 40)
    fleet.link(HOSTS["b"], HOSTS["c"], DEAD)
    fleet.run(1)
    fleet.stop("a")
    fleet.run(2)
    assert fleet.stream("edge")["route"]["chosen"] == "c"
    fleet.start("a")
    fleet.run(3)
    fleet.link(HOSTS["b"], HOSTS["c"], NEAR)
    fleet.run(8)
    assert player.packets[-1].at_ns > fleet.now_ns - 100 * MS
    fleet.run(16)  # until the dwells are over
    at(fleet, "a")
    end(fleet)


def test_another_edge_does_not_get_the_name_meanwhile(seed: int) -> None:
    fleet, player = moving(seed, 20)
    fleet.specs["rival"] = NodeSpec("rival", HOSTS["rival"], calls=("c",), ingest=(VIDEO,))
    fleet.stop("rival")
    fleet.start("rival")
    encode(fleet, 20, first=100_000, to="rival", host="10.0.0.7")
    fleet.run(4)
    fleet.stop("a")
    fleet.run(8)
    fleet.start("a")
    fleet.run(6)
    goes_on(player, 20)
    at(fleet, "c")
    end(fleet)


def test_an_edge_that_is_started_anew_is_not_behind_itself(seed: int) -> None:
    """Its serial is a low one again, at a region that knows the higher one of another, which cannot hear that
    the edge's process has ended."""
    fleet, player = moving(seed, 8)
    fleet.nodes["edge"].machine.streams.streams["studio"].serial = 9
    fleet.run(1.5)
    fleet.stop("edge")
    fleet.link(HOSTS["edge"], HOSTS["a"], DEAD)
    fleet.start("edge")
    fleet.run(4)
    encode(fleet, 2, first=100_000, host="10.0.0.7")
    fleet.run(3)
    at(fleet, "c")
    assert fleet.nodes["edge"].machine.streams.streams["studio"].serial > 9
    last = range(100_000 + PER_SECOND, 100_000 + 2 * PER_SECOND)
    assert player.indices()[-PER_SECOND:] == list(last)
    end(fleet)
