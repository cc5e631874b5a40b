"""What happens to a viewer whose region lives but gets the stream no longer: the link between two regions is
dead, or the region that has the stream. In virtual time; the fleet is that of test_failover."""

import pytest

from relay.lab.link import LinkConfig
from tests.sim.fleet import MS, VIDEO, Fleet, NodeSpec, Player
from tests.sim.test_failover import DEAD, NEAR, Board, board, playing, whole
from tests.sim.test_relaying import HOSTS, PER_SECOND, encode, end

GAP_MS = 40 + 10 + 50 + 25
"""Silence between the regions, the word of it to the edge, the way to its second region and back, and what
queues may add."""
AGAIN_MS = 50 + 10 + 25 + 50 + 620
"""From when it flows again to the second region: until that looks and says so, the way there and back, and
as long as playout may wait for what nobody has."""


def cut(fleet: Fleet, source: str, to: str) -> None:
    fleet.network.set_link(HOSTS[source], HOSTS[to], DEAD)


def mend(fleet: Fleet, source: str, to: str) -> None:
    fleet.network.set_link(HOSTS[source], HOSTS[to], NEAR)


def told(fleet: Fleet, name: str) -> tuple[str, dict[str, object] | None, int]:
    """Where a viewer's stream comes from, its standby, and how often that was changed."""
    out = fleet.stream(name)
    return out["source"], out["standby"], out["takeovers"]


@pytest.mark.seeds(1, 2)
def test_nothing_comes_through_from_the_region_that_has_it(seed: int) -> None:
    """Longer than a dwell lasts: the region is nearer, but is not gone back to before it has the stream."""
    fleet, player = playing(seed, 58)
    cut(fleet, "a", "b")
    fleet.run(1)
    assert told(fleet, "out") == ("hop:c", {"peer": "b", "armed": False}, 1)
    takeover = fleet.stream("out")["takeover"]
    assert (takeover["left"], takeover["why"]) == ("b", "nothing comes to b")
    fleet.run(34)
    assert told(fleet, "out") == ("hop:c", {"peer": "b", "armed": False}, 1)
    mend(fleet, "a", "b")
    fleet.run(20)
    assert told(fleet, "out") == ("hop:b", {"peer": "c", "armed": True}, 2)
    whole(player, 58)
    assert player.longest_gap_ns() <= GAP_MS * MS
    end(fleet)


def test_nothing_comes_through_to_the_region_that_has_it(seed: int) -> None:
    """The media does; reports, and requests for repair, do not."""
    fleet, player = playing(seed, 10)
    cut(fleet, "b", "a")
    fleet.run(8)
    whole(player, 10)
    assert player.longest_gap_ns() <= GAP_MS * MS
    end(fleet)


def test_a_link_that_comes_and_goes_is_left_once(seed: int) -> None:
    fleet, player = playing(seed, 40)
    for _ in range(8):
        cut(fleet, "a", "b")
        fleet.run(1)
        mend(fleet, "a", "b")
        fleet.run(3)
    assert fleet.stream("out")["takeovers"] == 1
    fleet.run(6)
    whole(player, 40)
    end(fleet)


def test_the_second_region_loses_it_and_is_not_taken(seed: int) -> None:
    """What it has lost it cannot send: the edge waits for the first one when that is lost, too."""
    fleet, player = playing(seed, 20)
    cut(fleet, "a", "c")
    fleet.run(1)
    assert told(fleet, "out") == ("hop:b", {"peer": "c", "armed": False}, 0)
    cut(fleet, "a", "b")
    fleet.run(1)
    assert told(fleet, "out") == ("hop:b", {"peer": "c", "armed": False}, 0)
    mend(fleet, "a", "c")
    mended_ns = fleet.now_ns
    fleet.run(8)
    assert told(fleet, "out") == ("hop:c", {"peer": "b", "armed": False}, 1)
    after = [packet for packet in player.packets if packet.at_ns > mended_ns]
    assert after[0].at_ns - mended_ns <= AGAIN_MS * MS
    assert len(after) > 7 * PER_SECOND
    end(fleet)


@pytest.mark.parametrize("back", ["b", "c"])
def test_both_regions_lose_it_and_one_gets_it_again(seed: int, back: str) -> None:
    fleet, player = playing(seed, 20)
    for name in ("b", "c"):
        cut(fleet, "a", name)
    fleet.run(5)
    before = told(fleet, "out")[2]
    assert before <= 1, "nobody goes to and fro"
    mend(fleet, "a", back)
    mended_ns = fleet.now_ns
    fleet.run(6)
    assert told(fleet, "out")[0] == f"hop:{back}"
    assert told(fleet, "out")[2] <= before + 1
    after = [packet for packet in player.packets if packet.at_ns > mended_ns]
    assert after[0].at_ns - mended_ns <= AGAIN_MS * MS
    assert len(after) > 5 * PER_SECOND
    end(fleet)


@pytest.mark.seeds(1, 2)
def test_the_region_that_has_it_is_stopped_and_goes_on(seed: int) -> None:
    """As by SIGSTOP: all others lose the stream, and nobody goes to and fro between them."""
    fleet, player = playing(seed, 20)
    board(fleet, "a").stop_for(3)
    fleet.run(3)
    assert fleet.stream("out")["takeovers"] <= 1
    fleet.run(15)
    assert fleet.stream("out")["takeovers"] <= 2
    assert player.longest_gap_ns() <= 3000 * MS + AGAIN_MS * MS
    assert player.indices()[-10 * PER_SECOND :] == list(range(10 * PER_SECOND, 20 * PER_SECOND))
    end(fleet)


def spread(seed: int) -> Fleet:
    """edge -> a -> b, c or d -> out, where it is played; d is the farthest."""
    hosts = HOSTS | {"d": "10.0.1.4"}
    middle = {"b": 10, "c": 25, "d": 40}
    fleet = Fleet(
        seed,
        [
            NodeSpec("a", hosts["a"], called_by=("b", "c", "d", "edge"), role="region"),
            *(
                NodeSpec(name, hosts[name], calls=("a",), called_by=("out",), role="region")
                for name in middle
            ),
            NodeSpec("edge", hosts["edge"], calls=("a",), ingest=(VIDEO,)),
            NodeSpec("out", hosts["out"], calls=tuple(middle), egress=(VIDEO,)),
        ],
        Board,
    )
    fleet.link(hosts["edge"], hosts["a"], NEAR)
    for name, delay_ms in middle.items():
        fleet.link(hosts["a"], hosts[name], NEAR)
        fleet.link(hosts[name], hosts["out"], LinkConfig(delay_ms=delay_ms))
    fleet.start_all()
    return fleet


def test_the_second_region_falls_out_and_the_third_steps_in(seed: int) -> None:
    """A region that has lost the stream is no standby where there is another one."""
    fleet = spread(seed)
    player = Player(fleet.network, VIDEO)
    fleet.run(3)
    encode(fleet, 12)
    fleet.run(3)
    assert told(fleet, "out") == ("hop:b", {"peer": "c", "armed": True}, 0)
    cut(fleet, "a", "c")
    fleet.run(2)
    assert told(fleet, "out") == ("hop:b", {"peer": "d", "armed": True}, 0)
    cut(fleet, "a", "b")
    fleet.run(8)
    assert told(fleet, "out")[0] == "hop:d"
    whole(player, 12)
    assert player.longest_gap_ns() <= (GAP_MS + 30) * MS
    end(fleet)


def test_two_regions_lose_it_at_once_and_the_third_is_found(seed: int) -> None:
    fleet = spread(seed)
    player = Player(fleet.network, VIDEO)
    fleet.run(3)
    encode(fleet, 12)
    fleet.run(3)
    cut(fleet, "a", "b")
    cut(fleet, "a", "c")
    fleet.run(10)
    assert told(fleet, "out")[0] == "hop:d"
    assert player.longest_gap_ns() <= 1500 * MS, "d is asked at the next look"
    assert player.indices()[-5 * PER_SECOND :] == list(range(7 * PER_SECOND, 12 * PER_SECOND))
    end(fleet)
