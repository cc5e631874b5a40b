"""With which of many regions there is a session: the scheduler by itself, with a network of costs."""

import random
from collections.abc import Mapping
from itertools import pairwise

import pytest

from relay.core.nearest import AGAIN_NS, AT_ONCE, GIVE_UP_NS, KEEP, SECOND, SPREAD, Nearest, Sight
from relay.core.routing import Candidate

TICKS_TO_MEASURE = 3
"""A session that is so many seconds old has measured its region."""


class World:
    """Regions at fixed costs, in ms; one that costs None does not answer."""

    def __init__(self, seed: int, costs: Mapping[str, float | None], fixed: tuple[str, ...] = ()) -> None:
        self.costs = dict(costs)
        self.fixed = fixed
        self.used: set[str] = set()
        self.nearest = Nearest(random.Random(seed).randbytes)
        self.open: dict[str, int] = dict.fromkeys(fixed, 0)
        self.opened: dict[str, list[int]] = {name: [] for name in costs}
        self.now_s = 0

    def sight(self, name: str) -> Sight:
        candidate = None
        if name in self.open:
            cost, age = self.costs[name], self.now_s - self.open[name]
            candidate = Candidate(name, False)
            if cost is not None and age >= TICKS_TO_MEASURE:
                candidate = Candidate(name, True, rtt_ms=2 * cost, min_rtt_ms=2 * cost)
        return Sight(name in self.fixed, name in self.used, candidate)

    def run(self, seconds: int) -> None:
        for _ in range(seconds):
            sights = {name: self.sight(name) for name in self.costs}
            wanted = self.nearest.look(self.now_s * SECOND, sights)
            for name in wanted - self.open.keys():
                self.opened[name].append(self.now_s)
            self.open = {name: self.open.get(name, self.now_s) for name in wanted}
            assert len(self.open) <= KEEP + AT_ONCE + len(self.fixed) + len(self.used)
            self.now_s += 1

    @property
    def kept(self) -> set[str]:
        return {name for name, known in self.nearest.known.items() if known.kept}


def twenty(seed: int) -> dict[str, float | None]:
    costs = [10.0 + 12 * i for i in range(20)]
    random.Random(seed).shuffle(costs)
    return {f"r{i:02}": cost for i, cost in enumerate(costs)}


def best(costs: Mapping[str, float | None]) -> set[str]:
    known = {name: cost for name, cost in costs.items() if cost is not None}
    return set(sorted(known, key=lambda name: known[name])[:KEEP])


@pytest.mark.parametrize("seed", range(5))
def test_all_are_measured_and_the_best_three_are_kept(seed: int) -> None:
    world = World(seed, twenty(seed), fixed=("r00", "r01"))
    world.run(60)
    assert world.kept == best(world.costs), f"seed {seed}"
    assert all(known.candidate for known in world.nearest.known.values())
    world.run(600)
    for name in world.costs.keys() - world.kept - set(world.fixed):
        times = world.opened[name][1:]
        gaps = [b - a for a, b in pairwise(times)]
        least, most = (AGAIN_NS * (1 + way * SPREAD) / SECOND for way in (-1, 1))
        assert all(least <= gap <= most + 10 for gap in gaps), f"seed {seed}, {name}: {gaps}"
    # Apart from those kept, a session a region and minute, of four seconds each.
    sessions = sum(len(times) for times in world.opened.values())
    assert sessions < 20 + 15 * 1.3 * 11, f"seed {seed}"


def test_one_that_is_a_little_better_displaces_nobody() -> None:
    costs = {"a": 20.0, "b": 30.0, "c": 40.0, "d": 100.0}
    world = World(1, costs)
    world.run(30)
    assert world.kept == {"a", "b", "c"}
    world.costs["d"] = 35.0
    world.run(120)
    assert world.kept == {"a", "b", "c"}
    world.costs["d"] = 12.0
    world.run(120)
    assert world.kept == {"a", "b", "d"}


def test_when_the_best_becomes_worse_or_ends_all_others_are_measured_at_once() -> None:
    world = World(2, twenty(2))
    world.run(60)
    near = min(best(world.costs), key=lambda name: world.costs[name] or 0)
    for cost in (200.0, None):
        for name in world.kept:
            world.costs[name] = cost
        before = {name: len(times) for name, times in world.opened.items()}
        rest = world.costs.keys() - world.kept
        world.run(40)
        assert all(len(world.opened[name]) > before[name] for name in rest)
        assert world.kept == best(world.costs)
        assert near not in world.kept


def test_one_that_does_not_answer_is_tried_again_and_has_no_cost() -> None:
    world = World(3, {"a": 20.0, "dead": None})
    world.run(GIVE_UP_NS // SECOND + 2)
    assert "dead" not in world.open
    known = world.nearest.known["dead"]
    assert known.candidate is None and known.measured_ns == SECOND + GIVE_UP_NS
    world.costs["dead"] = 5.0
    world.run(90)
    assert world.kept == {"a", "dead"}


def test_what_carries_a_stream_keeps_its_session_and_what_is_gone_is_forgotten() -> None:
    world = World(4, {"a": 20.0, "b": 21.0, "c": 22.0, "far": 300.0})
    world.run(30)
    assert "far" not in world.open
    world.used = {"far"}
    world.run(30)
    assert "far" in world.open and "far" not in world.kept
    del world.costs["far"]
    world.used.clear()
    world.run(1)
    assert "far" not in world.nearest.known
