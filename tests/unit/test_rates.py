"""A controller a path, and what they leave to repair."""

import pytest

from relay.core.congestion import LEAST_BPS
from relay.services.rates import Rates
from relay_ext.control import Link, PathState

MS = 1_000_000
MBPS = 1e6


class World:
    """A hop whose paths carry `bps` each; `queued` of them have a standing queue."""

    def __init__(self, **roles: str) -> None:
        self.rates = Rates(1.0)
        self.now_ns = 1000 * MS
        self.roles = {int(name[1:]): role for name, role in roles.items()}
        self.sent = dict.fromkeys(self.roles, 0)
        self.link = self.links()

    def links(self, bps: dict[int, float] | None = None, queued: tuple[int, ...] = ()) -> Link:
        bps = bps or {}
        paths = tuple(
            PathState(
                path, role, 0, 50 * MS, 50 * MS, 0, 0, 0.1, 0.0, True, 0, 0,
                80 * MS if path in queued else 0, bps.get(path, 0.0), 0.1, self.now_ns, self.sent[path],
            )
            for path, role in self.roles.items()
        )  # fmt: skip
        return Link(
            50 * MS, 50 * MS, 0, 0, 0.1, 0.1, 0.0, True, 0, self.now_ns, 0, 0, 0, 0, 0.1, 50 * MS, paths
        )

    def run(self, seconds: float, bps: dict[int, float], queued: tuple[int, ...] = ()) -> None:
        for _ in range(int(seconds * 20)):
            self.now_ns += 50 * MS
            for path, rate in bps.items():
                self.sent[path] += int(rate / 8 * 0.05)
            link = self.links(bps, queued)
            self.rates.look(self.now_ns, self.link, link, sending=True, elapsed_s=0.05)
            self.link = link


def test_without_a_queue_nothing_is_limited_and_the_target_is_ahead_of_what_is_sent() -> None:
    world = World(p0="source+repair")
    world.run(5, {0: 4 * MBPS})
    assert world.rates.congestion.pace_bps == 0
    assert world.rates.target_bps == pytest.approx(1.5 * 4 * MBPS, rel=0.05)
    assert world.rates.media_bps(0.5) == pytest.approx(world.rates.target_bps / 1.5)


def test_source_packets_are_paced_to_the_path_that_they_take() -> None:
    world = World(p0="source", p1="repair")
    world.run(5, {0: 4 * MBPS, 1: MBPS})
    world.run(1, {0: 4 * MBPS, 1: MBPS}, queued=(0,))
    assert LEAST_BPS <= world.rates.congestion.pace_bps < 4 * MBPS
    assert world.rates.controllers[1].limit_bps is None
    assert world.rates.repair(world.link, 200)[1] == 1.0  # the other path has room
    assert world.rates.media_bps(0.5) == world.rates.congestion.target_bps  # which repair takes nothing of


def test_repair_on_a_path_of_its_own_takes_no_more_than_that_carries() -> None:
    world = World(p0="source", p1="repair")
    world.run(5, {0: 4 * MBPS, 1: MBPS})
    world.run(1, {0: 4 * MBPS, 1: MBPS}, queued=(1,))
    limit = world.rates.controllers[1].limit_bps
    assert world.rates.congestion.pace_bps == 0
    assert limit is not None and limit < MBPS
    ratio, most = world.rates.repair(world.link, 200)
    assert most == pytest.approx(limit / (4 * MBPS), rel=0.05) and ratio <= most


def test_when_source_packets_move_their_new_path_sets_the_pace() -> None:
    world = World(p0="source", p1="repair")
    world.run(5, {0: 4 * MBPS, 1: MBPS})
    world.run(1, {0: 4 * MBPS, 1: MBPS}, queued=(0,))
    world.roles = {0: "dead", 1: "source+repair"}
    world.run(1, {1: 4 * MBPS})
    assert world.rates.congestion is world.rates.controllers[1]
    assert world.rates.congestion.pace_bps == 0
    assert world.rates.target_bps == world.rates.controllers[1].target_bps


def test_a_node_that_spares_repair_sends_what_the_loss_needs_and_little_more() -> None:
    world = World(p0="source+repair")
    world.run(5, {0: 4 * MBPS})
    ratio, most = world.rates.repair(world.link, 60)  # less than a round trip: all of it is proactive
    assert ratio > 0.2 and most == 1.0
    world.rates.sparing = True
    assert world.rates.repair(world.link, 60) == (pytest.approx(1 / 9), pytest.approx(0.17))
    begun = world.link._replace(loss_ratio=0.0, loss_assumed=0.3)  # too few packets to know
    assert world.rates.repair(begun, 60) == (pytest.approx(3 / 7), pytest.approx(0.64))
    world.rates.sparing = False
    assert world.rates.repair(world.link, 60) == (ratio, most)
