"""Whether a path through one other region pays: its cost beside the direct one's, by the cost function that
routes are chosen by (docs/fleet.md).

A path through a third region pays when it is clearly better, by 10 ms and 15 %, as for any other change. The
region in between costs its load; what its second hop adds in repair is in the cost of that hop's loss.
"""

from dataclasses import dataclass, replace
from functools import cache
from itertools import combinations

from relay.core.nearest import KEEP
from relay.core.routing import BETTER_MS, BETTER_RATIO, LOAD_MS, clearly_better, cost_ms
from relay.lab.weather import STEP_S, Conditions, Weather, at
from relay.lab.world import CITIES, City, measured

FAR_MS = 1e6
"""Of a link that is dead."""
VIEWS, VIEWS_A_STEP = 4000, 400
"""Pairs of a publisher and a viewer that are looked at, with nothing wrong and every STEP_S."""


@dataclass(slots=True)
class Share:
    """So many of so many."""

    some: int = 0
    of: int = 0

    def count(self, hit: bool) -> None:
        self.some += hit
        self.of += 1

    def __str__(self) -> str:
        return f"{self.some} of {self.of} ({self.some / self.of:.1%})" if self.of else "none of none"


@dataclass(slots=True)
class Detours:
    """How often a path through one other region is clearly better than the direct one."""

    measured: Share
    """Pairs of cities of the published measurement, with nothing wrong."""
    measured_extra_ms: float
    """By how much the direct way between half of those would have to become longer for it to pay, one way."""
    calm: Share
    """Pairs of regions of the map, with nothing wrong."""
    day: Share
    """Pairs at all times of the day, every STEP_S, where the direct way is alive."""
    troubled: Share
    """Of those, where the direct way loses 2 % or is 10 ms longer than at best."""
    views: Share
    """A publisher and a viewer anywhere, with nothing wrong: through a third region, with three relays,"""
    views_chosen: Share
    """or where the viewer takes the best of its three regions by the whole path, with two relays."""
    views_troubled: Share
    """The same while the direct way between their regions is in trouble or dead."""
    views_troubled_chosen: Share


def hop_ms(now: Conditions) -> float:
    """The cost of a link; not of the node at its end."""
    if not now.alive:
        return FAR_MS
    rtt_ms = 2 * (now.delay_ms + now.queue_ms)
    return cost_ms(rtt_ms, 2 * now.delay_ms, now.queue_ms, now.jitter_ms, now.loss_ratio)


def load_ms(now: Conditions) -> float:
    return LOAD_MS * now.load / (1 - now.load)


def by_measurement() -> tuple[Share, float]:
    """Of the published round trips, without load, loss and jitter."""
    rtts = {frozenset(pair): rtt for pair, rtt in measured().items()}
    names = sorted({name for pair in rtts for name in pair})
    share, extra_ms = Share(), []
    for pair, rtt in rtts.items():
        a, b = pair
        via = min(rtts[frozenset((a, c))] + rtts[frozenset((c, b))] for c in names if c not in pair)
        share.count(clearly_better(via / 2, rtt / 2))
        extra_ms.append(max(via / 2 + BETTER_MS, via / 2 / (1 - BETTER_RATIO)) - rtt / 2)
    return share, sorted(extra_ms)[len(extra_ms) // 2]


def best_via(costs: dict[tuple[str, str], float], loads: dict[str, float], a: str, b: str) -> float:
    """The least cost from `a` through one other region to `b`."""
    ways = (costs[a, c] + loads[c] + costs[c, b] for c in loads if c not in (a, b))
    return min(ways, default=FAR_MS)


def in_trouble(now: Conditions, best: Conditions) -> bool:
    return not now.alive or now.loss_ratio >= 0.02 or now.delay_ms >= best.delay_ms + 10


def survey(weather: Weather) -> Detours:
    """Of all pairs of regions, and of pairs of edges drawn at random."""
    regions = weather.world.regions
    pairs = [(a, b) for a in regions for b in regions]
    links = {(a.name, b.name): weather.conditions(a, b) for a, b in pairs}
    best = {pair: min(of, key=lambda c: c.delay_ms) for pair, of in links.items()}
    found = Detours(*by_measurement(), *(Share() for _ in range(7)))
    views = Views(weather)
    calm = {pair: hop_ms(replace(c, queue_ms=0.0, loss_ratio=0.0)) for pair, c in best.items()}
    loads = {region.name: load_ms(best[regions[0].name, region.name]) for region in regions}
    for a, b in combinations(loads, 2):
        found.calm.count(clearly_better(best_via(calm, loads, a, b), calm[a, b]))
    for third, other in (views.gains(calm, loads, *views.draw()) for _ in range(VIEWS)):
        found.views.count(third)
        found.views_chosen.count(other)
    for at_s in range(0, weather.end_s, STEP_S):
        now = {pair: at(of, at_s) for pair, of in links.items()}
        costs = {pair: hop_ms(c) for pair, c in now.items()}
        loads = {region.name: load_ms(now[regions[0].name, region.name]) for region in regions}
        bad = {pair for pair, c in now.items() if c.why in ("", "cut") and in_trouble(c, best[pair])}
        for pair in combinations(loads, 2):
            if now[pair].alive:
                pays = clearly_better(best_via(costs, loads, *pair), costs[pair])
                found.day.count(pays)
                if pair in bad:
                    found.troubled.count(pays)
        for publisher, viewer in (views.draw() for _ in range(VIEWS_A_STEP)):
            if (views.near(publisher)[0][1], views.near(viewer)[0][1]) in bad:
                third, other = views.gains(costs, loads, publisher, viewer)
                found.views_troubled.count(third)
                found.views_troubled_chosen.count(other)
    return found


class Views:
    """Pairs of a publisher and a viewer, drawn by the size of their cities, each with its nearest regions."""

    def __init__(self, weather: Weather) -> None:
        self._world = weather.world
        self._chance = weather.world.chance("views")
        self.near = cache(self._near)

    def draw(self) -> tuple[City, City]:
        publisher, viewer = self._chance.choices(CITIES, [c.people for c in CITIES], k=2)
        return publisher, viewer

    def _near(self, home: City) -> list[tuple[float, str]]:
        return sorted((self._world.delay_ms(home, r), r.name) for r in self._world.regions)[:KEEP]

    def gains(
        self, costs: dict[tuple[str, str], float], loads: dict[str, float], publisher: City, viewer: City
    ) -> tuple[bool, bool]:
        """Whether a third region pays, and whether another of the viewer's regions does."""
        (first_ms, a), mine = self.near(publisher)[0], self.near(viewer)
        (last_ms, b), first_ms = mine[0], first_ms + loads[a]
        between = {name: 0.0 if name == a else costs[a, name] + loads[name] for _, name in mine}
        direct_ms = first_ms + between[b] + last_ms
        via_ms = FAR_MS if a == b else first_ms + best_via(costs, loads, a, b) + loads[b] + last_ms
        other_ms = min(first_ms + between[name] + ms for ms, name in mine)
        return clearly_better(via_ms, direct_ms), clearly_better(other_ms, direct_ms)
