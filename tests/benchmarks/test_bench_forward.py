"""What a packet costs to forward, beside a C loop with recvmmsg, UDP_GRO and gathered UDP_SEGMENT sends.

Costs are CPU time of the forwarding process (user and system) over packets forwarded, the programs taken in
turns, median of ROUNDS. Whatever takes the command line of c_loop/forward.c can be added to `forwarders`.
"""

import json
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROUNDS = 5
SECONDS = 2
LISTEN_PORT, TO_PORT = 21000, 22000
LIMIT = 2.0  # times the C loop's cost a packet


@dataclass(frozen=True)
class Load:
    """`rate` packets/s come in over `ports` ports, in bursts of one stream, to `fan` receivers each."""

    ports: int
    fan: int
    rate: int
    burst: int

    def __str__(self) -> str:
        return f"{self.ports}x{self.fan}-{self.rate}pps-burst{self.burst}"


@dataclass(frozen=True)
class Run:
    cpu_ns: float  # a packet that was received
    lost: int
    delay_us: dict[str, float]


def forwarders(programs: Path) -> dict[str, list[str]]:
    return {
        "c": [str(programs / "forward")],
        "relay": [sys.executable, "-m", "tests.benchmarks.forward_plane"],
    }


def cpu_clock(pid: int) -> int:
    """The clock of a process's CPU time (clock_getcpuclockid(3)): ns, where /proc counts in 10 ms."""
    return (~pid << 3) | 2


def start(command: list[str], *arguments: int) -> subprocess.Popen[str]:
    child = subprocess.Popen(
        [*command, *map(str, arguments)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    return child


def measure(forwarder: list[str], program: Path, load: Load) -> Run:
    with start(forwarder, LISTEN_PORT, load.ports, TO_PORT, load.fan) as forward:
        clock = cpu_clock(forward.pid)
        try:
            arguments = (LISTEN_PORT, load.ports, load.rate, SECONDS, load.burst, TO_PORT, load.fan)
            with start([str(program)], *arguments) as sender:
                before = time.clock_gettime_ns(clock)
                out, _ = sender.communicate("\n")
                spent = time.clock_gettime_ns(clock) - before
        finally:
            forward.kill()
    result: dict[str, Any] = json.loads(out)
    return Run(spent / result["received"], result["expected"] - result["received"], result["delay_us"])


def in_turns(programs: Path, load: Load) -> dict[str, list[Run]]:
    runs: dict[str, list[Run]] = {name: [] for name in forwarders(programs)}
    for _ in range(ROUNDS):
        for name, command in forwarders(programs).items():
            runs[name].append(measure(command, programs / "load", load))
    return runs


def median_cost(runs: list[Run]) -> float:
    return statistics.median(run.cpu_ns for run in runs)


@pytest.mark.parametrize(
    "load",
    [Load(20, 1, 60_000, 100), Load(20, 1, 60_000, 4), Load(20, 1, 30_000, 100), Load(1, 50, 400, 20)],
    ids=str,
)
def test_cost_of_forwarding(
    benchmark: Any, programs: Path, load: Load, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = benchmark.pedantic(in_turns, args=(programs, load), rounds=1, iterations=1)
    ratio = median_cost(runs["relay"]) / median_cost(runs["c"])
    with capsys.disabled():
        print(f"\n{load}: relay / C loop = {ratio:.2f}")
        for name, results in runs.items():
            delays = {
                q: statistics.median(run.delay_us[q] for run in results) for q in ("p50", "p99", "p99.9")
            }
            print(
                f"  {name:6} {median_cost(results):6.0f} CPU ns a packet, "
                + ", ".join(f"{q} {delay:.0f} us" for q, delay in delays.items())
                + f", {sum(run.lost for run in results)} lost"
            )
    benchmark.extra_info.update(ratio=ratio, cpu_ns={name: median_cost(r) for name, r in runs.items()})
    assert ratio <= LIMIT
