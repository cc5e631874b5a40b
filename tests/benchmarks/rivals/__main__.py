"""Residual loss, bytes and delay of programs that repair loss, over the same seeded links, as Markdown.

    python -m tests.benchmarks.rivals [--seconds N] [--jobs N] [--only TEXT]... [--link TEXT]...

A run is a process of its own with the encoder, the player and the link; `--jobs` of them run side by side.
Media starts a second after the first packet came through. A late packet counts as delivered if the program
delivers it.
"""

import argparse
import multiprocessing
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed

from relay.lab.link import GilbertElliott, bursts
from tests.benchmarks.peers.__main__ import machine
from tests.benchmarks.rivals.cell import RATE, Row, Terms, run
from tests.benchmarks.rivals.marks import BYTES
from tests.benchmarks.rivals.programs import RIVALS, Rival
from tests.benchmarks.rivals.report import doubts, markdown

RTT_MS = 100
BUDGETS_MS = (200, 400)
LINKS: dict[str, float | GilbertElliott] = {
    "10 % random": 0.1,
    "20 % random": 0.2,
    "30 % random": 0.3,
    "30 % in bursts of 4": bursts(0.3, 4),
}


def chosen(options: argparse.Namespace) -> Iterator[tuple[Rival, Terms]]:
    """All runs, link by link."""
    for link, loss in LINKS.items():
        if options.link and not any(text in link for text in options.link):
            continue
        for rival in RIVALS:
            if options.only and not any(text.lower() in rival.name.lower() for text in options.only):
                continue
            for budget_ms in options.budget or BUDGETS_MS:
                yield rival, Terms(link, loss, RTT_MS, budget_ms, options.seconds, options.seed)


def note(number: int, total: int, row: Row) -> None:
    name = f"{row.terms.link}, {row.name}, {row.terms.budget_ms} ms"
    print(f"{number}/{total} {name}: {row.failure or row.outcome}", file=sys.stderr, flush=True)


def versions(rivals: list[Rival]) -> str:
    found = {rival.name.partition(",")[0]: rival.version() for rival in rivals}
    return ", ".join(f"{name} {version}".strip() for name, version in found.items())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60, help="of media, a run (60)")
    parser.add_argument("--seed", type=int, default=1, help="of the losses (1)")
    parser.add_argument("--jobs", type=int, default=max(1, 2 * (os.cpu_count() or 1)), help="at a time")
    parser.add_argument("--only", action="append", metavar="TEXT", help="programs whose names contain this")
    parser.add_argument("--link", action="append", metavar="TEXT", help="links whose names contain this")
    parser.add_argument("--budget", action="append", type=int, metavar="MS", help="200 and 400")
    options = parser.parse_args()
    runs = list(chosen(options))
    if not runs:
        parser.error("nothing is left to run")
    with ProcessPoolExecutor(options.jobs, multiprocessing.get_context("spawn")) as pool:
        futures = [pool.submit(run, RIVALS.index(rival), terms) for rival, terms in runs]
        for number, future in enumerate(as_completed(futures), 1):
            note(number, len(runs), future.result())
        rows = [future.result() for future in futures]
    print(machine().rpartition(";")[0])
    print(versions([rival for rival, _ in runs]))
    print(f"{RATE} packets/s of {BYTES} bytes for {options.seconds:g} s, RTT {RTT_MS}, seed {options.seed}\n")
    print("\n".join(markdown(rows)))
    print("\n" + "\n".join(doubts(rows)), flush=True)
    return int(any(row.outcome is None for row in rows))


if __name__ == "__main__":
    sys.exit(main())
