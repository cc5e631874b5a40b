"""What goes wrong with the links and the regions of a fleet in the course of a day, drawn at random.

None of it comes from what the nodes do: it is a script, the same for every node that looks at it. All of it
is modelled, with the rates of `Rates`; they are far above what a good network has, so that a day shows more
trouble than a month. Begins and ends are whole seconds.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from math import cos, pi
from random import Random

from relay.lab.world import City, World

DAY_S = 86_400
STEP_S = 900
"""How often load and congestion follow the time of day."""
LOSS_MAX = 0.9


@dataclass(frozen=True, slots=True)
class Rates:
    """How often a day something begins, by what it happens to."""

    crashes: float = 1.0
    """Of a region: it is gone at once, and comes back as a new process after 20 to 120 s."""
    drains: float = 0.5
    """Of a region: it refuses streams for 10 min and is then started anew within 5 s."""
    bursts: float = 4.0
    """Of a pair of cities: 2 to 30 % of random loss, for 2 min on average."""
    shifts: float = 1.0
    """Of a pair: 10 to 80 ms longer one way, for 10 to 60 min."""
    cuts: float = 0.2
    """Of a pair: nothing comes through in one direction, one time in three in both, for 5 to 300 s."""
    partitions: float = 2.0
    """Of the fleet: a continent is cut off from all others, for 1 to 10 min."""
    flaps: float = 0.2
    """Of an edge: its access is gone for 1 to 8 s, 3 to 10 times in a row, 10 to 60 s apart."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """A link from a city to a region, from `start_s` on; the city's own access comes on top."""

    start_s: int
    delay_ms: float
    """One way, without a queue."""
    queue_ms: float = 0.0
    jitter_ms: float = 0.0
    loss_ratio: float = 0.0
    up: bool = True
    """Whether anything comes through to the region,"""
    down: bool = True
    """and from it."""
    why: str = ""
    """What has stopped it."""
    draining: bool = False
    load: float = 0.0
    """Of the region, of 1."""
    process: int = 0
    """How often the region's process was started anew."""

    @property
    def alive(self) -> bool:
        return self.up and self.down


@dataclass(frozen=True, slots=True)
class Spell:
    """Something is wrong from `start_s` until before `end_s`."""

    kind: str
    start_s: int
    end_s: int
    size: float = 0.0


def _shape(longitude: float, at_s: int) -> float:
    """How busy people are, 0 to 1: most at nine in the evening, least twelve hours off."""
    return (1 + cos(2 * pi * ((at_s / 3600 + longitude / 15 - 21) / 24))) / 2


class Weather:
    """Of a world, for so many hours. Equal seeds give equal weather."""

    def __init__(self, world: World, hours: float, rates: Rates) -> None:
        self.world = world
        self.end_s = round(hours * 3600)
        self.rates = rates
        chance = world.chance("partitions")
        isles = sorted({c.continent for c in world.regions})
        self.partitions = [
            (chance.choice(isles), Spell("partition", at_s, at_s + chance.randint(60, 600)))
            for at_s in self._times(chance, self.rates.partitions)
        ]
        self.regional = cache(self._regional)
        self.conditions = cache(self._conditions)

    def _times(self, chance: Random, per_day: float) -> Iterator[int]:
        at_s = 0.0
        while per_day and (at_s := at_s + chance.expovariate(per_day / DAY_S)) < self.end_s:
            yield int(at_s)

    def _regional(self, region: City) -> tuple[Spell, ...]:
        """What happens to a region, in the order in which it begins."""
        chance = self.world.chance("region", region.name)
        spells = [
            Spell("crash", at_s, at_s + chance.randint(20, 120))
            for at_s in self._times(chance, self.rates.crashes)
        ]
        for at_s in self._times(chance, self.rates.drains):
            spells += [Spell("drain", at_s, at_s + 600), Spell("crash", at_s + 600, at_s + 605)]
        return tuple(sorted(spells, key=lambda spell: spell.start_s))

    def _between(self, a: City, b: City) -> list[Spell]:
        """What happens to a pair of cities."""
        chance = self.world.chance("pair", self.world.pair(a, b))
        spells = [
            Spell("burst", at_s, at_s + 1 + round(chance.expovariate(1 / 120)), chance.uniform(0.02, 0.3))
            for at_s in self._times(chance, self.rates.bursts)
        ]
        spells += [
            Spell("shift", at_s, at_s + chance.randint(600, 3600), chance.uniform(10, 80))
            for at_s in self._times(chance, self.rates.shifts)
        ]
        for at_s in self._times(chance, self.rates.cuts):
            way = chance.choice(("there", "back", "both"))
            spells.append(Spell(way, at_s, at_s + chance.randint(5, 300)))
        for isle, spell in self.partitions:
            if (a.continent == isle) is not (b.continent == isle):
                spells.append(spell)
        return spells

    def _conditions(self, home: City, region: City) -> tuple[Conditions, ...]:
        """Of the link between a city and a region, one after another; the first begins at 0."""
        spells = [*self._between(home, region), *self.regional(region)]
        calm = self._calm(home, region)
        times = {t for s in spells for t in (s.start_s, s.end_s)} | set(range(0, self.end_s, STEP_S))
        found: list[Conditions] = []
        for at_s in sorted(t for t in times if t < self.end_s):
            now = [spell for spell in spells if spell.start_s <= at_s < spell.end_s]
            process = sum(s.kind == "crash" and s.end_s <= at_s for s in spells)
            here = self._with(replace(calm(at_s), process=process), now, forth=home.name < region.name)
            if not found or replace(here, start_s=found[-1].start_s) != found[-1]:
                found.append(here)
        return tuple(found)

    def _calm(self, home: City, region: City) -> Callable[[int], Conditions]:
        """The link by the time of day, with nothing wrong. One pair in five is congested in the evening."""
        chance = self.world.chance("calm", self.world.pair(home, region))
        delay_ms = self.world.delay_ms(home, region)
        jitter_ms = chance.uniform(0.1, 1.0)
        loss = min(chance.lognormvariate(-8.5, 1.5), 0.01)  # median 0.02 %
        queue_ms, congestion = (
            (chance.uniform(3, 20), chance.uniform(0, 0.01)) if chance.random() < 0.2 else (0, 0)
        )
        busy = self.world.chance("load", region.name).uniform(0.3, 0.6)

        def at(at_s: int) -> Conditions:
            step_s = at_s // STEP_S * STEP_S
            evening = max(_shape(home.longitude, step_s) - 0.5, 0) * 2
            load = 0.1 + busy * _shape(region.longitude, step_s)
            return Conditions(
                start_s=at_s,
                delay_ms=delay_ms,
                queue_ms=queue_ms * evening,
                jitter_ms=jitter_ms + queue_ms * evening / 8,
                loss_ratio=loss + congestion * evening,
                load=round(load, 3),
            )

        return at

    def _with(self, calm: Conditions, spells: list[Spell], *, forth: bool) -> Conditions:
        """`forth`: the pair's "there" is the way to the region."""
        here = calm
        for spell in spells:
            match spell.kind:
                case "burst":
                    here = replace(here, loss_ratio=min(here.loss_ratio + spell.size, LOSS_MAX))
                case "shift":
                    here = replace(here, delay_ms=here.delay_ms + spell.size)
                case "drain":
                    here = replace(here, draining=True)
                case "there" | "back" | "both":
                    up = spell.kind == ("back" if forth else "there")
                    down = spell.kind == ("there" if forth else "back")
                    here = replace(here, up=here.up and up, down=here.down and down, why="cut")
                case _:
                    here = replace(here, up=False, down=False, why=spell.kind)
        return here

    def flaps(self, edge: int) -> tuple[Spell, ...]:
        """When an edge's access is gone."""
        chance = self.world.chance("flaps", edge)
        found = []
        for start_s in self._times(chance, self.rates.flaps):
            at_s = start_s
            for _ in range(chance.randint(3, 10)):
                found.append(Spell("access", at_s, at_s + chance.randint(1, 8)))
                at_s = found[-1].end_s + chance.randint(10, 60)
        return tuple(sorted(found, key=lambda spell: spell.start_s))


def at(conditions: tuple[Conditions, ...], second: int) -> Conditions:
    """Those of that second."""
    return conditions[bisect_right(conditions, second, key=lambda c: c.start_s) - 1]
