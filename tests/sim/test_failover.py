"""What happens to a stream when a link, a process or a region dies, stops, starves or comes back, in virtual
time. `relay.lab.failover` has the gaps as a distribution."""

from typing import Any

import pytest

from relay.lab.failover import CASES, DAYS, Case, Day, day_row, fail, gap_row
from relay.lab.link import LinkConfig
from relay.lab.network import Received, Sent
from relay.lab.virtual import VirtualNode
from tests.sim.fleet import MS, SECOND, VIDEO, Fleet, NodeSpec, Player
from tests.sim.test_relaying import HOSTS, PER_SECOND, encode, end, region

NEAR, FAR, DEAD = LinkConfig(delay_ms=10), LinkConfig(delay_ms=25), LinkConfig(loss=1.0)
GAP_MS = 40 + 50 + 25
"""Silence, the way to the second region and back, and what its queue and ours may add."""


class Board(VirtualNode):
    """It can be stopped, as by SIGSTOP, and so can the event loop alone."""

    stopped = stalled = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._waiting: list[Received] = []
        super().__init__(*args, **kwargs)

    def stop_for(self, seconds: float) -> None:
        """All of it; what comes meanwhile waits in the socket."""
        self._for(seconds, "stopped")

    def stall_for(self, seconds: float) -> None:
        """Python; the packet plane goes on."""
        self._for(seconds, "stalled")

    def _for(self, seconds: float, what: str) -> None:
        setattr(self, what, True)

        def go_on() -> None:
            setattr(self, what, False)
            self.network.wake(self)

        self.network.at(self.network.now_ns + int(seconds * SECOND), go_on)

    def receive(self, now_ns: int, datagrams: list[Received]) -> None:
        if self.stopped:
            self._waiting += datagrams
            return
        super().receive(now_ns, datagrams)

    def poll(self, now_ns: int) -> tuple[list[Sent], int | None]:
        if self.stopped:
            return [], None
        waiting, self._waiting = self._waiting, []
        if waiting:
            super().receive(now_ns, waiting)
        return super().poll(now_ns)

    def _decide(self, now_ns: int) -> int:
        return now_ns + SECOND if self.stalled else super()._decide(now_ns)

    def _handle(self, now_ns: int) -> None:
        if not self.stalled:
            super()._handle(now_ns)


def two_ways(seed: int, near: LinkConfig = NEAR, far: LinkConfig = FAR, **spec: Any) -> Fleet:
    """edge -> a -> b -> out, where it is played, and a -> c -> out, which takes longer."""
    fleet = Fleet(
        seed,
        [
            region("a", ["b", "c"], ["edge"], **spec),
            region("b", ["a", "c"], ["out"], **spec),
            region("c", ["a", "b"], ["out"], **spec),
            NodeSpec("edge", HOSTS["edge"], calls=("a",), ingest=(VIDEO,), **spec),
            NodeSpec("out", HOSTS["out"], calls=("b", "c"), egress=(VIDEO,), **spec),
        ],
        Board,
    )
    for x, y in (("edge", "a"), ("a", "b"), ("a", "c"), ("b", "c")):
        fleet.link(HOSTS[x], HOSTS[y], NEAR)
    fleet.link(HOSTS["b"], HOSTS["out"], near)
    fleet.link(HOSTS["c"], HOSTS["out"], far)
    fleet.start_all()
    return fleet


def playing(seed: int, seconds: int, **spec: Any) -> tuple[Fleet, Player]:
    """Media has flowed for four of so many seconds."""
    fleet = two_ways(seed, **spec)
    player = Player(fleet.network, VIDEO)
    fleet.run(3)
    encode(fleet, seconds)
    fleet.run(4)
    out = fleet.stream("out")
    assert out["source"] == "hop:b" and out["standby"] == {"peer": "c", "armed": True}
    assert [to["held"] for to in fleet.stream("c")["sent_to"]] == [True]
    return fleet, player


def board(fleet: Fleet, name: str) -> Board:
    node = fleet.nodes[name]
    assert isinstance(node, Board)
    return node


def whole(player: Player, seconds: int) -> None:
    """Every packet came, once and in order."""
    assert player.indices() == list(range(seconds * PER_SECOND))
    assert player.steps() == {1}


def silences(fleet: Fleet) -> int:
    return fleet.nodes["out"].shards.stats()["silences"]


# ---- what dies ---------------------------------------------------------------------------------


@pytest.mark.seeds(1, 2)
def test_a_region_is_killed(seed: int) -> None:
    fleet, player = playing(seed, 12)
    fleet.stop("b")
    fleet.run(10)
    whole(player, 12)
    assert player.longest_gap_ns() <= GAP_MS * MS
    out = fleet.stream("out")
    assert (out["source"], out["standby"], out["takeovers"]) == ("hop:c", None, 1)
    takeover = out["takeover"]
    assert (takeover["left"], takeover["taken"]) == ("b", "c") and 40 <= takeover["silent_ms"] <= 45
    end(fleet)


def test_nothing_comes_through_from_the_region(seed: int) -> None:
    """Of two directions of a link one dies: what is sent the other way arrives. When it is back, the region
    is not gone back to before the dwell is over, and then without a gap."""
    fleet, player = playing(seed, 24)
    fleet.network.set_link(HOSTS["b"], HOSTS["out"], DEAD)
    fleet.run(4)
    assert fleet.stream("out")["source"] == "hop:c"
    fleet.network.set_link(HOSTS["b"], HOSTS["out"], NEAR)
    fleet.run(8)
    out = fleet.stream("out")
    assert (out["source"], out["standby"], out["takeovers"]) == ("hop:c", {"peer": "b", "armed": True}, 1)
    fleet.run(10)
    whole(player, 24)
    assert player.longest_gap_ns() <= GAP_MS * MS
    out = fleet.stream("out")
    assert (out["source"], out["standby"], out["takeovers"]) == ("hop:b", {"peer": "c", "armed": True}, 2)
    end(fleet)


def test_nothing_comes_through_to_the_region(seed: int) -> None:
    """The media does; reports, and requests for repair, do not."""
    fleet, player = playing(seed, 12)
    fleet.network.set_link(HOSTS["out"], HOSTS["b"], DEAD)
    fleet.run(10)
    whole(player, 12)
    assert player.longest_gap_ns() <= GAP_MS * MS
    end(fleet)


def test_the_region_is_stopped_and_goes_on(seed: int) -> None:
    """As by SIGSTOP. What it still sends then has come long before."""
    fleet, player = playing(seed, 14)
    board(fleet, "b").stop_for(3)
    fleet.run(12)
    whole(player, 14)
    assert player.longest_gap_ns() <= GAP_MS * MS
    assert fleet.stream("out")["takeovers"] == 1
    end(fleet)


def test_the_viewers_own_edge_is_stopped_and_blames_nobody(seed: int) -> None:
    fleet, player = playing(seed, 8)
    board(fleet, "out").stop_for(0.3)
    fleet.run(6)
    whole(player, 8)
    assert silences(fleet) == 0 and fleet.stream("out")["source"] == "hop:b"
    end(fleet)


def test_a_node_that_starves(seed: int) -> None:
    """The region gets its processor for a moment, then for 30 ms not: it is alive, and stays what it is."""
    fleet, player = playing(seed, 12)
    b = board(fleet, "b")
    for _ in range(100):
        b.stop_for(0.03)
        fleet.run(0.05)
    fleet.run(5)
    whole(player, 12)
    assert silences(fleet) == 0 and fleet.stream("out")["source"] == "hop:b"
    end(fleet)


def test_a_link_that_comes_and_goes_is_left_once(seed: int) -> None:
    """Dead for a second, every four: what comes back is not gone back to."""
    fleet, player = playing(seed, 40)
    for _ in range(8):
        fleet.link(HOSTS["b"], HOSTS["out"], DEAD)
        fleet.run(1)
        fleet.link(HOSTS["b"], HOSTS["out"], NEAR)
        fleet.run(3)
    fleet.run(6)
    whole(player, 40)
    assert fleet.stream("out")["takeovers"] == 1
    end(fleet)


def test_a_wall_clock_that_jumps(seed: int) -> None:
    """Time is monotonic wherever something is decided by it."""
    fleet, player = playing(seed, 8)
    for i, node in enumerate(fleet.nodes.values()):
        node.wall_s = (-1) ** i * 1e9
    fleet.run(6)
    whole(player, 8)
    assert silences(fleet) == 0 and fleet.stream("out")["takeovers"] == 0
    end(fleet)


# ---- the event loop ----------------------------------------------------------------------------


def test_stalls_of_event_loops_are_no_failures(seed: int) -> None:
    fleet, player = playing(seed, 8)
    for name in ("a", "b", "c", "out", "edge"):
        board(fleet, name).stall_for(0.2)
        fleet.run(0.4)
    fleet.run(4)
    whole(player, 8)
    assert silences(fleet) == 0 and fleet.stream("out")["source"] == "hop:b"
    end(fleet)


def test_a_failure_while_event_loops_are_stalled(seed: int) -> None:
    """The switch is the packet planes' alone, at both ends."""
    fleet, player = playing(seed, 12)
    board(fleet, "out").stall_for(1)
    board(fleet, "c").stall_for(1)
    fleet.stop("b")
    fleet.run(0.9)
    assert player.packets[-1].at_ns > fleet.now_ns - 50 * MS
    fleet.run(9)
    whole(player, 12)
    assert player.longest_gap_ns() <= GAP_MS * MS
    assert fleet.stream("out")["source"] == "hop:c"
    end(fleet)


# ---- what is chosen ----------------------------------------------------------------------------


def test_a_move_to_a_better_region_costs_nothing(seed: int) -> None:
    """Make before break: the stream comes from both for a while."""
    fleet, player = playing(seed, 14, near=LinkConfig(delay_ms=40), far=LinkConfig(delay_ms=55))
    fleet.link(HOSTS["c"], HOSTS["out"], LinkConfig(delay_ms=15))
    fleet.run(12)
    out = fleet.stream("out")
    assert (out["source"], out["standby"]) == ("hop:c", {"peer": "b", "armed": True})
    assert out["takeovers"] == 1 and out["takeover"]["silent_ms"] is None
    whole(player, 14)
    assert player.longest_gap_ns() <= 5 * MS
    end(fleet)


def test_the_second_region_is_lost_before_the_first(seed: int) -> None:
    """Without a standby the stream goes on, and once there is one again it is used."""
    fleet, player = playing(seed, 30)
    fleet.stop("c")
    fleet.run(4)
    fleet.start("c")
    fleet.run(8)
    assert fleet.stream("out")["standby"] == {"peer": "c", "armed": True}
    fleet.stop("b")
    fleet.run(16)
    whole(player, 30)
    assert player.longest_gap_ns() <= GAP_MS * MS
    end(fleet)


def test_with_several_threads(seed: int) -> None:
    """Where hops and tracks are of different threads, the services switch."""
    fleet, player = playing(seed, 12, threads=2)
    fleet.stop("b")
    fleet.run(10)
    whole(player, 12)
    assert player.longest_gap_ns() <= GAP_MS * MS
    assert fleet.stream("out")["source"] == "hop:c"
    end(fleet)


# ---- the targets -------------------------------------------------------------------------------


@pytest.mark.seeds(1, 2, 3, 4)
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.name} {case.text}")
def test_gaps(seeds: tuple[int, ...], case: Case) -> None:
    line, met = gap_row(case, [fail(case, seed) for seed in seeds])
    assert met, line


@pytest.mark.parametrize("day", DAYS, ids=lambda day: f"{day.text} {day.flow}")
def test_days_without_a_false_alarm(seed: int, day: Day) -> None:
    line, met = day_row(day, [day.alarms(seed)])
    assert met, line
