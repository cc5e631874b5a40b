"""The links that the hop is held to, in virtual time, as a table: `python -m relay.lab.grid`."""

import argparse
import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial

from relay.lab.crossing import AUDIO, VIDEO, Outcome, Terms, cross, together
from relay.lab.link import LinkConfig, bursts

HEADER = (
    "| | link | budget | packets | residual loss | repair overhead | all in | added delay mean / p99 "
    "| p/(1-p) | target: residual, overhead, delay | met |"
)

PROBE = 8_000
"""Packets of the run that tells how long the others will take."""


@dataclass(frozen=True, slots=True)
class Target:
    """What a cell must reach. Ratios; None: nothing is asked."""

    residual: float
    overhead: float | None = None
    all_in: float | None = None
    mean_ms: float | None = None
    p99_ms: float | None = None

    def missed(self, got: Outcome) -> list[str]:
        """Which parts are not met."""
        figures = (
            ("residual loss", got.residual_ratio, self.residual),
            ("repair overhead", got.repair_ratio, self.overhead),
            ("all in", got.all_in_ratio, self.all_in),
            ("mean delay", got.mean_ms, self.mean_ms),
            ("p99 delay", got.p99_ms, self.p99_ms),
        )
        return [name for name, value, most in figures if most is not None and value > most]

    def times(self, factor: float) -> "Target":
        """So many times worse in every part."""
        asked = {name: most for name, most in asdict(self).items() if most is not None}
        return Target(**{name: most * factor for name, most in asked.items()})

    def __str__(self) -> str:
        parts = [f"{self.residual:.0e}" if self.residual else "0"]
        parts += [f"{self.overhead:.0%}"] if self.overhead is not None else []
        parts += [f"all in {self.all_in:.0%}"] if self.all_in is not None else []
        parts += [f"mean {self.mean_ms:g} ms"] if self.mean_ms is not None else []
        parts += [f"p99 {self.p99_ms:g} ms"] if self.p99_ms is not None else []
        return ", ".join(parts)


@dataclass(frozen=True, slots=True)
class Cell:
    """A link with a budget, and what must be reached there."""

    name: str
    text: str
    terms: Terms
    target: Target


def _random(loss: float, rtt_ms: float) -> LinkConfig:
    return LinkConfig(delay_ms=rtt_ms / 2, loss=loss)


LOSSY = _random(0.3, 100)
BURSTS = LinkConfig(delay_ms=50, loss=bursts(0.3, 4))
OUTAGES = LinkConfig(delay_ms=35, loss=bursts(0.03, 8), outage_every_s=30, outage_ms=300)
CELLS = (
    Cell("W1", "30 % random, RTT 100", Terms(LOSSY, 200), Target(1e-4, 0.65, mean_ms=20, p99_ms=140)),
    Cell("W2", "30 % random, RTT 100", Terms(LOSSY, 250), Target(3e-5, 0.60)),
    Cell("W3", "30 % random, RTT 100", Terms(LOSSY, 150), Target(5e-4, 0.75)),
    Cell("W4", "30 % random, RTT 200", Terms(_random(0.3, 200), 400), Target(1e-4, 0.62)),
    Cell("W5", "30 % in bursts of 4, RTT 100", Terms(BURSTS, 250), Target(3e-4, 0.90)),
    Cell("W6", "10 % random, RTT 100", Terms(_random(0.1, 100), 200), Target(1e-5, 0.22)),
    Cell("W7", "no loss, RTT 100", Terms(_random(0, 100), 200), Target(0, 0.01, all_in=0.09, mean_ms=0.5)),
    Cell("W8", "W1, audio beside the video: audio", Terms(LOSSY, 200, (VIDEO, AUDIO)), Target(1e-4)),
    Cell("W10", "outages of 300 ms, 3 % in bursts of 8, RTT 70", Terms(OUTAGES, 400), Target(0)),
)
"""W9, capacity that halves, is no matter of repair: `relay.lab.capacity`."""


def row(cell: Cell, got: Outcome) -> str:
    """A line of the table; `lost` are those that somebody could have asked for in time."""
    shannon = cell.terms.loss_ratio / (1 - cell.terms.loss_ratio)
    lost = f"{got.lost}" + (f"; {got.beyond_help} beyond help" if got.beyond_help else "")
    missed = cell.target.missed(got)
    return (
        f"| {cell.name} | {cell.text} | {cell.terms.budget_ms} ms | {got.packets} "
        f"| {got.residual_ratio:.1e} ({lost}) | {got.repair_ratio:.1%} | {got.all_in_ratio:.1%} "
        f"| {got.mean_ms:.1f} / {got.p99_ms:.0f} ms | {shannon:.1%} | {cell.target} "
        f"| {'yes' if not missed else 'no: ' + ', '.join(missed)} |"
    )


def outcomes(terms: Sequence[Terms], *, packets: int, seeds: int, jobs: int) -> Iterator[Outcome]:
    """Of each of the terms, all seeds together, in their order, as soon as they are there."""
    each = [(t, seed) for t in terms for seed in range(1, seeds + 1)]
    with ProcessPoolExecutor(jobs) as pool:
        run = pool.map(partial(_cross, packets), each)
        for _ in terms:
            yield together([next(run) for _ in range(seeds)])


def _cross(packets: int, run: tuple[Terms, int]) -> Outcome:
    return cross(run[0], packets=packets, seed=run[1])


def add_size(parser: argparse.ArgumentParser, packets: int, seeds: int) -> None:
    """The options of every table and picture that is made of runs."""
    parser.add_argument("--packets", type=int, default=packets, help=f"of video, a seed ({packets})")
    parser.add_argument("--seeds", type=int, default=seeds, help=f"1 to this ({seeds})")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (one a CPU)")


def begin_table(header: str) -> None:
    print(f"{header}\n{'|---' * (header.count('|') - 1)}|", flush=True)


def add_choice(parser: argparse.ArgumentParser) -> None:
    """The options of every table of CELLS."""
    names = [cell.name for cell in CELLS]
    parser.add_argument(
        "--only", nargs="+", choices=names, default=names, metavar="CELL", help="W1 W6: these alone"
    )
    parser.add_argument("--check", action="store_true", help="exit status 1 if a target is missed")


def foretell(cells: Sequence[Cell], *, packets: int, seeds: int, jobs: int) -> str:
    """What is to be done and how long it will take, by a short run of the first cell."""
    started = time.process_time()
    cross(cells[0].terms, packets=PROBE, seed=0)
    minutes = (time.process_time() - started) / PROBE * packets * seeds * len(cells) / jobs / 60
    return (
        f"{len(cells)} cells, {seeds} seeds of {packets} packets each, {jobs} processes: "
        f"about {minutes:.0f} min on an idle machine"
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m relay.lab.grid", description=__doc__)
    add_size(parser, 1_000_000, 5)
    add_choice(parser)
    options = parser.parse_args()
    cells = [cell for cell in CELLS if cell.name in options.only]
    size = {"packets": options.packets, "seeds": options.seeds, "jobs": options.jobs}
    print(foretell(cells, **size), file=sys.stderr)
    begin_table(HEADER)
    met = True
    for cell, got in zip(cells, outcomes([c.terms for c in cells], **size), strict=True):
        print(row(cell, got), flush=True)
        met = met and not cell.target.missed(got)
    return 0 if met or not options.check else 1


if __name__ == "__main__":
    sys.exit(main())
