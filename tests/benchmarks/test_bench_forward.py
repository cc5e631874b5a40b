"""What a packet costs to forward and how long it takes, beside a C loop with recvmmsg, UDP_GRO and gathered
UDP_SEGMENT sends (c_loop/forward.c).

Costs are CPU time of the forwarding process (user and system) over packets received, the programs taken in
turns, median of ROUNDS; a ratio is the median of the rounds' ratios. Delays are those of c_loop/load.c.
"""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.peers.program import cpu_clock

ROUNDS = 5
SECONDS = 1
LISTEN_PORT, TO_PORT = 21000, 22000
LIMIT = 2.0  # times the cost that a cost is compared with
RSS_LIMIT = 120_000  # kB, P7 of the targets
PLANE = [sys.executable, "-m", "tests.benchmarks.forward_plane"]
NODE = [sys.executable, "-m", "tests.benchmarks.forward_node"]
QUANTILES = ("p50", "p99", "p99.9")


@dataclass(frozen=True)
class Load:
    """`rate` packets/s come in over `ports` ports, in bursts of one stream, to `fan` receivers each.

    The receiving thread rests `rest_us` after each turn, in microseconds; ingest ports are `step` apart.
    """

    ports: int
    fan: int
    rate: int
    burst: int
    rest_us: int = 0
    step: int = 1

    def __str__(self) -> str:
        return f"{self.ports}x{self.fan}-{self.rate}pps-burst{self.burst}"


@dataclass(frozen=True)
class Program:
    """A forwarder with the command line of c_loop/forward.c, `options` after it, and the load it gets."""

    command: list[str]
    load: Load
    options: tuple[int, ...] = ()


@dataclass(frozen=True)
class Run:
    cpu_ns: float  # a packet that was received
    lost: int
    delay_us: dict[str, float]
    resident_kb: int


def resident_kb(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1])


def start(command: list[str], *arguments: int) -> subprocess.Popen[str]:
    child = subprocess.Popen(
        [*command, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    return child


def measure(program: Program, sender: Path) -> Run:
    load = program.load
    with start(program.command, LISTEN_PORT, load.ports, TO_PORT, load.fan, *program.options) as forward:
        clock = cpu_clock(forward.pid)
        try:
            arguments = (LISTEN_PORT, load.ports, load.rate, SECONDS, load.burst, TO_PORT, load.fan)
            with start([str(sender)], *arguments, load.rest_us, load.step) as sending:
                before = time.clock_gettime_ns(clock)
                out, _ = sending.communicate("\n")
                spent = time.clock_gettime_ns(clock) - before
            resident = resident_kb(forward.pid)
        finally:
            forward.kill()
    result: dict[str, Any] = json.loads(out)
    lost = result["expected"] - result["received"]
    return Run(spent / result["received"], lost, result["delay_us"], resident)


def in_turns(programs: Mapping[str, Program], sender: Path) -> dict[str, list[Run]]:
    runs: dict[str, list[Run]] = {name: [] for name in programs}
    for _ in range(ROUNDS):
        for name, program in programs.items():
            runs[name].append(measure(program, sender))
    return runs


def cost(runs: list[Run]) -> float:
    return statistics.median(run.cpu_ns for run in runs)


def ratio(runs: dict[str, list[Run]], name: str) -> float:
    """Cost of `name` over that of the first program, median of the rounds."""
    first = next(iter(runs.values()))
    return statistics.median(own.cpu_ns / other.cpu_ns for own, other in zip(runs[name], first, strict=True))


def row(runs: dict[str, list[Run]], name: str) -> str:
    own = runs[name]
    delays = {q: statistics.median(run.delay_us[q] for run in own) for q in QUANTILES}
    return (
        f"  {name:14} {cost(own):6.0f} CPU ns a packet, ratio {ratio(runs, name):.2f}; "
        + ", ".join(f"{q} {delay:.0f}" for q, delay in delays.items())
        + f" us; {sum(run.lost for run in own)} lost, {max(run.resident_kb for run in own)} kB resident"
    )


def compare(
    benchmark: Any,
    c_programs: Path,
    capsys: pytest.CaptureFixture[str],
    title: str,
    programs: Mapping[str, Program],
) -> dict[str, list[Run]]:
    """Runs the programs in turns and prints a line for each; the ratios are to the first."""
    runs: dict[str, list[Run]] = benchmark.pedantic(
        in_turns, args=(programs, c_programs / "load"), rounds=1, iterations=1
    )
    with capsys.disabled():
        print(f"\n{title}", *(row(runs, name) for name in runs), sep="\n")
    benchmark.extra_info.update({name: cost(own) for name, own in runs.items()})
    return runs


@pytest.mark.parametrize(
    "load",
    [Load(20, 1, 60_000, 100), Load(20, 1, 60_000, 4), Load(20, 1, 30_000, 100), Load(1, 50, 400, 20)],
    ids=str,
)
def test_cost_of_forwarding(
    benchmark: Any, c_programs: Path, load: Load, capsys: pytest.CaptureFixture[str]
) -> None:
    """P1 and P2 of the targets."""
    programs = {"C loop": Program([str(c_programs / "forward")], load), "relay": Program(PLANE, load)}
    runs = compare(benchmark, c_programs, capsys, str(load), programs)
    assert ratio(runs, "relay") <= LIMIT


def test_delay_at_half_load(benchmark: Any, c_programs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """P3: pictures of 25 packets. The receiving thread rests, since here it competes for the same cores."""
    load = Load(20, 1, 30_000, 25, rest_us=1000)
    programs = {
        "C loop": Program([str(c_programs / "forward")], load),
        "relay": Program(PLANE, load),
        "coalesce_us=0": Program(PLANE, load, (0,)),
    }
    compare(benchmark, c_programs, capsys, f"{load}, delay", programs)


def test_a_hundred_streams(benchmark: Any, c_programs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """P7: a node with 100 streams of 2 Mb/s, beside one with one stream of as many packets in such bursts."""
    one, hundred = (Load(n, 1, 20_800, 7, step=2) for n in (1, 100))
    programs = {"1 stream": Program(NODE, one), "100 streams": Program(NODE, hundred)}
    runs = compare(benchmark, c_programs, capsys, f"{hundred}, a node", programs)
    assert ratio(runs, "100 streams") <= LIMIT
    assert max(r.resident_kb for r in runs["100 streams"]) <= RSS_LIMIT


@pytest.mark.parametrize(
    "load", [Load(20, 1, 60_000, 4, rest_us=1000), Load(20, 1, 20_000, 1, rest_us=1000)], ids=str
)
def test_coalescing(benchmark: Any, c_programs: Path, load: Load, capsys: pytest.CaptureFixture[str]) -> None:
    """What waiting for a batch saves, and what it costs in delay."""
    programs = {f"{us} us": Program(PLANE, load, (us,)) for us in (0, 50, 100, 200, 400)}
    compare(benchmark, c_programs, capsys, f"{load}, coalescing", programs)
