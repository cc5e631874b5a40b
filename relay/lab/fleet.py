"""A fleet over a day of failures, in virtual time, as tables and a picture: `python -m relay.lab.fleet`.

Edges (`roaming`) and the regions' directories (`agreement`) decide as nodes do; the net between them is
modelled (`world`, `weather`). docs/fleet.md says what is real and what is not. Equal seeds give equal
results, with any number of processes.
"""

import argparse
import os
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import cache, partial
from math import log10
from pathlib import Path

from relay.core.routing import clearly_better
from relay.lab import between
from relay.lab.agreement import Agreement, Regions
from relay.lab.detour import Detours, survey
from relay.lab.picture import COLOURS, Panel, line, svg, text
from relay.lab.roaming import Diary, Edge, Gap
from relay.lab.traffic import (
    DIGEST_BYTES,
    IDLE_BYTES_PER_S,
    MOVE_BYTES,
    OPENING_BYTES,
    SUMMARY_BYTES,
    regions_bytes,
)
from relay.lab.weather import STEP_S, Rates, Weather
from relay.lab.world import World

HOUR_S = 3600
CHUNK = 8
"""Edges that a process takes at a time."""
FORCED = ("crash", "partition", "cut", "access")
GAP_P95_MS = 300.0
"""Of the gaps that a standby ends, wherever it is; what is asked for one 200 ms away."""
CHANGES_MAX = 1.0
"""Changes of the route for cost alone, of an edge in an hour, on average."""
CURVE_POINTS = 200
ASK_S = 60
"""Between two questions for regions (services/regions)."""
EDGE_HOUR_S = 0.045
"""Of one core of a virtual machine; with it, a day's run says how long it will take."""


@dataclass(frozen=True, slots=True)
class Size:
    """Of a run."""

    edges: int = 1000
    regions: int = 20
    hours: float = 24.0
    seed: int = 1
    rates: Rates = field(default_factory=Rates)


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of a run, all edges together."""

    size: Size
    diaries: tuple[Diary, ...]
    agreement: Agreement
    detours: Detours

    @property
    def edge_days(self) -> float:
        return self.size.edges * self.size.hours / 24

    def gaps(self, *, standby: bool) -> list[Gap]:
        """With another region that took over, or with none to go to."""
        return [gap for diary in self.diaries for gap in diary.gaps if gap.standby is standby]

    def moves(self) -> Counter[str]:
        """By cause, without those of an edge's first minutes, when it gets to know the regions."""
        return Counter(m.cause for diary in self.diaries for m in diary.moves if m.at_s >= STEP_S)

    @property
    def most_changes(self) -> int:
        """For cost, of one edge within one hour."""
        hours = Counter(
            (diary.number, move.at_s // HOUR_S)
            for diary in self.diaries
            for move in diary.moves
            if move.cause == "cost" and move.at_s >= STEP_S
        )
        return max(hours.values(), default=0)

    @property
    def excess_ms(self) -> list[float]:
        """What the streams' regions cost more than the best ones, of all edges and times, sorted."""
        return sorted(ms for diary in self.diaries for ms in diary.excess_ms)

    def edge_bytes_per_s(self) -> list[float]:
        """Control traffic of each edge, both ways, sorted."""
        return sorted(control_bytes(d, self.size.regions) / (self.size.hours * HOUR_S) for d in self.diaries)

    def region_bytes_per_s(self) -> tuple[float, float]:
        """Of a region on average: with its edges, and with the other regions."""
        edges = sum(self.edge_bytes_per_s()) / self.size.regions
        others = (self.size.regions - 1) * (IDLE_BYTES_PER_S + 2 * (DIGEST_BYTES + SUMMARY_BYTES))
        lists = 2 * self.agreement.bytes / self.size.regions / (self.size.hours * HOUR_S)
        return edges, others + lists


def control_bytes(diary: Diary, regions: int) -> float:
    """What an edge and its regions said to each other."""
    counts = diary.counts
    return (
        counts["session seconds"] * IDLE_BYTES_PER_S
        + counts["digests"] * 2 * DIGEST_BYTES
        + counts["sessions"] * OPENING_BYTES
        + len(diary.moves) * MOVE_BYTES
        + counts["seconds"] / ASK_S * regions_bytes(regions)
    )


# ---- the run --------------------------------------------------------------------------------------


@cache
def _weather(size: Size) -> Weather:
    """One a process."""
    return Weather(World(size.seed, size.regions), size.hours, size.rates)


def _roam(size: Size, numbers: Sequence[int]) -> list[Diary]:
    weather = _weather(size)
    homes = weather.world.homes(size.edges)
    return [Edge(number, homes[number], weather).run() for number in numbers]


def run(size: Size, jobs: int = 1) -> Outcome:
    """The edges in several processes, then their regions."""
    weather = _weather(size)
    homes = weather.world.homes(size.edges)
    numbers = sorted(range(size.edges), key=lambda number: (homes[number].name, number))
    chunks = [numbers[i : i + CHUNK] for i in range(0, size.edges, CHUNK)]
    if jobs == 1:
        diaries = [diary for chunk in chunks for diary in _roam(size, chunk)]
    else:
        with ProcessPoolExecutor(jobs) as pool:
            diaries = [diary for found in pool.map(partial(_roam, size), chunks) for diary in found]
    diaries.sort(key=lambda diary: diary.number)
    for publisher, viewer in zip(diaries[::2], diaries[1::2], strict=False):
        viewer.gaps += between.gaps(weather, publisher, viewer)
    return Outcome(size, tuple(diaries), Regions(weather, diaries).run(), survey(weather))


def missed(got: Outcome) -> list[str]:
    """What a run has to keep to, and does not."""
    hours = got.size.edges * got.size.hours
    checks = (
        ("gap with a standby", at_share(sorted(g.ms for g in got.gaps(standby=True)), 0.95) <= GAP_P95_MS),
        ("changes for cost", got.moves()["cost"] <= CHANGES_MAX * hours),
        ("false alarms", sum(d.false_alarms for d in got.diaries) < got.edge_days),
        ("regions agree", not got.agreement.counts["not agreed"]),
    )
    return [name for name, kept in checks if not kept]


# ---- the tables -----------------------------------------------------------------------------------


def at_share(ordered: Sequence[float], share: float) -> float:
    """The value below which that share of the sorted values lies."""
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else 0.0


def spread(values: Iterable[float], digits: int = 0) -> str:
    ordered = sorted(values)
    if not ordered:
        return "- | - | -"
    return " | ".join(
        f"{v:.{digits}f}" for v in (at_share(ordered, 0.5), at_share(ordered, 0.95), ordered[-1])
    )


def gap_rows(got: Outcome) -> list[str]:
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    for diary in got.diaries:
        side = "publisher" if diary.publishes else "viewer"
        for gap in diary.gaps:
            found[gap.cause, side if gap.standby else "none left"].append(gap.ms)
    rows = [
        "| what failed | who takes over | gaps an edge and day | p50 | p95 | longest, ms |",
        "|---|---|---|---|---|---|",
    ]
    for (cause, who), values in sorted(found.items()):
        how = "no other region in reach" if who == "none left" else f"the {who}'s next region"
        rows.append(f"| {cause} | {how} | {len(values) / got.edge_days:.2f} | {spread(values)} |")
    return rows


def figure_rows(got: Outcome) -> list[str]:
    """Route changes, distance from the best region, bytes."""
    moves, excess, each = got.moves(), got.excess_ms, got.edge_bytes_per_s()
    forced = sum(moves[cause] for cause in FORCED) / got.edge_days
    back = moves["way back"] / got.edge_days
    near = sum(not clearly_better(0, ms) for ms in excess) / max(len(excess), 1)
    to_edges, to_regions = got.region_bytes_per_s()
    hours = got.size.edges * got.size.hours
    alarms = sum(diary.false_alarms for diary in got.diaries)
    rows = (
        (
            "route changes for cost, an edge and hour",
            f"{moves['cost'] / hours:.3f}; most of one edge in one hour: {got.most_changes}",
        ),
        ("route changes by drain, an edge and day", f"{moves['drain'] / got.edge_days:.2f}"),
        (
            "route changes by failure, an edge and day",
            f"{forced:.2f}, and {back:.2f} where only the way back was dead",
        ),
        (
            "time at a region within 10 ms of the best",
            f"{near:.1%}; beyond the best at p99: {at_share(excess, 0.99):.0f} ms",
        ),
        ("false alarms expected by random loss, an edge and day", f"{alarms / got.edge_days:.1e}"),
        (
            "control traffic of an edge, bytes/s both ways",
            f"{at_share(each, 0.5):.0f}, at most {each[-1]:.0f}",
        ),
        ("of a region, bytes/s both ways", f"{to_edges:.0f} with edges, {to_regions:.0f} with regions"),
    )
    return ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)]


def agreement_rows(got: Outcome) -> list[str]:
    agreement = got.agreement
    rows = ["| until | times | p50 | p95 | longest, s |", "|---|---|---|---|---|"]
    found = {
        "all regions agree after a partition": agreement.partitions_s,
        "all regions agree after one was started anew": agreement.restarts_s,
    }
    names = {
        "cost": "it moved for cost",
        "drain": "a drain",
        "crash": "a crash",
        "cut": "a cut",
        "partition": "a partition",
    }
    for cause, name in names.items():
        found[f"the new region has the stream's name after {name}"] = agreement.taken_s.get(cause, [])
    return rows + [f"| {what} | {len(s)} | {spread(s, 1)} |" for what, s in found.items() if s]


def detour_rows(got: Outcome) -> list[str]:
    d = got.detours
    rows = (
        ("45 pairs of the published measurement", d.measured, ""),
        ("pairs of regions of this map", d.calm, ""),
        ("the same over the day", d.day, ""),
        ("the same while the direct way loses 2 % or is 10 ms longer", d.troubled, ""),
        ("publisher and viewer anywhere", d.views, d.views_chosen),
        (
            "the same while the way between their regions is in trouble or dead",
            d.views_troubled,
            d.views_troubled_chosen,
        ),
    )
    head = ["| where | a third region pays | another of the viewer's three pays |", "|---|---|---|"]
    return [*head, *(f"| {name} | {via} | {own} |" for name, via, own in rows)]


# ---- the picture ----------------------------------------------------------------------------------


def picture(got: Outcome) -> str:
    """How long gaps are, and when routes change."""
    return svg(900, 380, [*_gap_panel(got), *_move_panel(got)])


def _gap_panel(got: Outcome) -> Iterator[str]:
    """The share of gaps that are no longer than so much."""
    panel = Panel((1, 5.5), (0, 1), 60, 420)
    lengths = [(e, name) for e, name in enumerate(("10 ms", "100 ms", "1 s", "10 s", "100 s"), 1)]
    yield from panel.axes(
        "gaps of an edge's hop", "length", lengths, [(s / 4, f"{s * 25} %") for s in range(5)]
    )
    sides: dict[str, list[float]] = {
        f"a {side}'s, its next region takes over": [
            gap.ms for d in got.diaries if d.publishes is publishes for gap in d.gaps if gap.standby
        ]
        for side, publishes in (("viewer", False), ("publisher", True))
    }
    sides["no other region in reach"] = [gap.ms for gap in got.gaps(standby=False)]
    for i, (name, values) in enumerate(sides.items()):
        ordered = sorted(values)
        shares = [(n / CURVE_POINTS, at_share(ordered, n / CURVE_POINTS)) for n in range(CURVE_POINTS + 1)]
        if ordered:
            yield from panel.curve([(log10(max(ms, 10)), share) for share, ms in shares], COLOURS[i])
        yield from _legend(196, 56 + 18 * i, name, COLOURS[i])


def _move_panel(got: Outcome) -> Iterator[str]:
    """Route changes over the day, by their causes."""
    bins = max(round(got.size.hours * HOUR_S / STEP_S), 1)
    counts = {name: [0] * bins for name in ("cost", "drain", "failure")}
    for diary in got.diaries:
        for move in diary.moves:
            name = "failure" if move.cause in FORCED else move.cause
            if name in counts and move.at_s >= STEP_S:
                counts[name][min(move.at_s // STEP_S, bins - 1)] += 1
    most = max(max(of) for of in counts.values()) or 1
    panel = Panel((0, got.size.hours), (0, most), 540, 880)
    hours = [(got.size.hours * i / 6, f"{got.size.hours * i / 6:g}") for i in range(7)]
    steps = [(most * i / 4, f"{most * i / 4:.0f}") for i in range(5)]
    yield from panel.axes("route changes in a quarter of an hour", "hours, UTC", hours, steps)
    for i, (name, of) in enumerate(counts.items()):
        points = [((n + 0.5) * STEP_S / HOUR_S, float(count)) for n, count in enumerate(of)]
        yield from panel.curve(points, COLOURS[i])
        yield from _legend(790, 56 + 18 * i, name, COLOURS[i])


def _legend(x: int, y: int, name: str, colour: str) -> Iterator[str]:
    yield line([(x, y), (x + 20, y)], colour, 3)
    yield text(x + 27, y + 4, name, "start")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m relay.lab.fleet", description=__doc__)
    parser.add_argument("--edges", type=int, default=1000)
    parser.add_argument("--regions", type=int, default=20, help="2 to 20 (20)")
    parser.add_argument("--hours", type=float, default=24.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (one a CPU)")
    parser.add_argument("--picture", type=Path, help="where an SVG goes")
    parser.add_argument("--check", action="store_true", help="exit status 1 if a target is missed")
    options = parser.parse_args()
    size = Size(options.edges, options.regions, options.hours, options.seed)
    minutes = size.edges * size.hours * EDGE_HOUR_S / options.jobs / 60
    print(f"{size.edges} edges, {size.hours:g} h: about {minutes:.0f} min", file=sys.stderr)
    started = time.monotonic()
    got = run(size, options.jobs)
    for rows in (gap_rows(got), figure_rows(got), agreement_rows(got), detour_rows(got)):
        print("\n".join(rows), end="\n\n")
    if options.picture:
        options.picture.write_text(picture(got))
    print(f"{time.monotonic() - started:.0f} s, {options.jobs} processes", file=sys.stderr)
    if parts := missed(got):
        print(f"seed {size.seed} misses: {', '.join(parts)}", file=sys.stderr)
    return 1 if parts and options.check else 0


if __name__ == "__main__":
    sys.exit(main())
