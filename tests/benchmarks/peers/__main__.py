"""CPU time that forwarders spend on a packet of the same paced RTP load, in turns, as Markdown.

    python -m tests.benchmarks.peers [--rounds N] [--seconds N] [--load NAME]... [--only TEXT]...

Each forwarder first gets the full load once; one that loses packets is tried again with half of it, and so
on. The C loop and the relay run at every rate that is in use, so that all ratios compare like with like.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from relay.lab.receiver import free_port
from tests.benchmarks.peers.forwarders import C_LOOP, FORWARDERS, PROGRAMS, RELAY, Forwarder, Setting
from tests.benchmarks.peers.program import PeerError, Program
from tests.benchmarks.peers.report import Row, Run, markdown

HERE = Path(__file__).parent
BYTES = 1200  # of an RTP packet; load.c
REFERENCES = (C_LOOP, RELAY)
TOLERATED_LOSS = 0.002  # of a run at a rate that a forwarder holds
TOLERATED_DELAY_US = 500_000  # p99; more is a backlog that only the end of the load ends
HALVINGS = 3
SETTLE_STEP, SETTLE_STEPS, SETTLE_SHARE = 0.1, 20, 0.02  # s; so many at most; of a core


@dataclass(frozen=True)
class Load:
    """`rate` packets/s come in, `burst` of one stream at a time, and go to `fan` receivers each."""

    kind: str
    streams: int
    fan: int
    rate: int
    burst: int

    def __str__(self) -> str:
        return (
            f"{self.streams} to {self.streams * self.fan}, {self.rate * self.fan:,} packets/s out, "
            f"bursts of {self.burst}"
        )


LOADS = {
    "frames": Load("streams", 20, 1, 60_000, 100),
    "paced": Load("streams", 20, 1, 60_000, 4),
    "fan-out": Load("fan-out", 1, 50, 400, 20),
}


def build(directory: Path) -> None:
    compiler = shutil.which("cc")
    if compiler is None:
        raise PeerError("needs a C compiler: apt-get install gcc")
    sources = {path.stem: path for place in (HERE, HERE.parent / "c_loop") for path in place.glob("*.c")}
    for name in PROGRAMS:
        command = [compiler, "-O2", "-Wall", "-Wextra", "-pthread", "-o", str(directory / name)]
        subprocess.run([*command, str(sources[name])], check=True)


Entry = tuple[Forwarder, Load, Row]
FAILURES = (PeerError, OSError, ValueError)


def cpu_seconds(programs: Iterable[Program]) -> float:
    return sum(program.cpu_seconds() for program in programs)


def settled(programs: Sequence[Program]) -> float:
    """CPU seconds once starting has come to its end: a program may forward before it has."""
    before = cpu_seconds(programs)
    for _ in range(SETTLE_STEPS):
        time.sleep(SETTLE_STEP)
        now = cpu_seconds(programs)
        if now - before < SETTLE_SHARE * SETTLE_STEP:
            break
        before = now
    return now


def measure(forwarder: Forwarder, load: Load, directory: Path, seconds: int) -> Run:
    """Raises PeerError when the forwarder does not start, or does not reach every receiver."""
    with ExitStack() as stack:
        first = free_port(Setting.ports(load.streams, load.fan))
        setting = Setting(directory, load.streams, load.fan, first, stack)
        running = forwarder.start(setting)
        numbers = (0, load.streams, load.rate, seconds, load.burst, setting.out_port, load.fan)
        ports = (0, 1, setting.source_port, running.channel, *running.inputs)
        command = [str(directory / "load"), *map(str, (*numbers, *ports))]
        sender = stack.enter_context(
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        )
        stack.callback(sender.kill)
        assert sender.stdin is not None and sender.stdout is not None
        sender.stdin.write("\n")
        sender.stdin.flush()
        said = [sender.stdout.readline().strip() for _ in range(2)]
        for program in running.programs:
            program.check()
        if said != ["ready", "warm 0"]:
            raise PeerError(f"receivers that got nothing, of {load.streams * load.fan}: {said[-1][5:]}")
        before = settled(running.programs)
        out, _ = sender.communicate("\n")
        spent = cpu_seconds(running.programs) - before
    result = json.loads(out)
    if result["received"] == 0:
        raise PeerError("nothing came through")
    return Run(spent, result["expected"], result["received"], result["delay_us"]["p99"])


def rate_of(forwarder: Forwarder, load: Load, directory: Path) -> Load:
    """The highest of the rates that it holds without loss. Raises PeerError when there is none."""
    for halvings in range(HALVINGS + 1):
        at = replace(load, rate=load.rate >> halvings)
        for _ in range(2):  # twice, since a busy machine loses packets too
            run = measure(forwarder, at, directory, 1)
            loss = 1 - run.received / run.expected
            if loss <= TOLERATED_LOSS and run.p99_us <= TOLERATED_DELAY_US:
                return at
    raise PeerError(
        f"loses {loss:.1%}, delays by {run.p99_us / 1000:.0f} ms at {at.rate * at.fan:,} packets/s"
    )


def prepare(forwarders: Iterable[Forwarder], load: Load, directory: Path) -> Iterator[Entry]:
    """The rate of each, or why it has none."""
    for forwarder in forwarders:
        row = Row(forwarder.name, forwarder.version())
        try:
            at = rate_of(forwarder, load, directory)
        except FAILURES as error:
            at, row.failure = load, str(error)
        row.rate = at.rate * at.fan
        note(f"{row.name}: {row.failure or f'{row.rate} packets/s'}")
        yield forwarder, at, row


def compare(
    load: Load, forwarders: Sequence[Forwarder], directory: Path, rounds: int, seconds: int
) -> list[Row]:
    """All forwarders in turns, `rounds` times."""
    table = list(prepare([f for f in forwarders if load.kind in f.loads], load, directory))
    known = {(row.name, row.rate) for _, _, row in table}
    for rate in sorted({at.rate for _, at, row in table if not row.failure}, reverse=True):
        for forwarder in FORWARDERS:
            if forwarder.name in REFERENCES and (forwarder.name, rate * load.fan) not in known:
                table.append((forwarder, replace(load, rate=rate), Row(forwarder.name, rate=rate * load.fan)))
    for number in range(rounds):
        for forwarder, at, row in table:
            if row.failure:
                continue
            try:
                row.runs.append(measure(forwarder, at, directory, seconds))
            except FAILURES as error:
                row.failure = f"in round {number + 1}: {error}"
                row.runs.clear()
        note(f"round {number + 1} of {rounds}")
    return sorted((row for _, _, row in table), key=lambda row: (bool(row.failure), -row.rate))


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def machine() -> str:
    names = {
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith(("model name", "Model"))
    }
    return (
        f"{', '.join(sorted(names)) or platform.machine()}, {os.cpu_count()} cores, "
        f"Linux {platform.release()}, Python {platform.python_version()}; "
        f"RTP packets of {BYTES} bytes over loopback"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=2, help="of load, a forwarder and round")
    parser.add_argument("--load", action="append", choices=LOADS, help="all when left out")
    parser.add_argument(
        "--only", action="append", help="forwarders whose names contain this, and the C loop and the relay"
    )
    options = parser.parse_args()
    chosen = [
        forwarder
        for forwarder in FORWARDERS
        if not options.only
        or forwarder.name in REFERENCES
        or any(text.lower() in forwarder.name.lower() for text in options.only)
    ]
    with tempfile.TemporaryDirectory(prefix="bench-peers-") as name:
        directory = Path(name)
        build(directory)
        print(machine())
        for load in (LOADS[key] for key in options.load or LOADS):
            note(f"-- {load}")
            rows = compare(load, chosen, directory, options.rounds, options.seconds)
            print(f"\n{load}; {options.rounds} rounds of {options.seconds} s, median (range):\n")
            print("\n".join(markdown(rows, REFERENCES)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
