"""`relay bench`: runs the measurements one after the other and prints what they come to."""

import json
import resource
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from relay.bench import capacity, kernels, machine
from relay.bench.report import Report, Scenario, as_json, as_text
from relay.bench.rig import Rig, forwarder, full_hop, rig
from relay.errors import RelayError
from relay.services.ciphers import fastest_first
from relay.wire.hop import CIPHER_NAMES


@dataclass(frozen=True)
class Effort:
    """How long to measure; the defaults keep the whole below half a minute."""

    kernel_seconds: float = 0.2
    cipher_seconds: float = 0.5
    first_seconds: float = 0.5
    load_seconds: float = 1.3
    tries: int = 3


@dataclass(frozen=True)
class _Plan:
    name: str
    streams: int
    fan: int
    first_pps: float
    """Packets/s in of the first load: light for the smallest board."""
    build: Callable[[Rig, int], None]


EFFORT = Effort()
FILES: Final = 512
"""Open files that the widest load, 200 receivers, cannot do without."""


@dataclass
class _Bench:
    effort: Effort
    progress: Callable[[str], None]
    heat: list[machine.Heat] = field(default_factory=lambda: [machine.heat()])
    receive_buffer: int = 0

    def measured(self, plan: _Plan, network_mbps: int | None) -> Scenario:
        self.progress(plan.name)
        effort = self.effort
        with rig(plan.streams, plan.fan, plan.build) as made:
            loads = capacity.search(
                made.offer, plan.first_pps, effort.first_seconds, effort.load_seconds, effort.tries
            )
            self.receive_buffer = made.receive_buffer
        self.heat.append(machine.heat())
        return Scenario(
            plan.name, plan.fan, tuple(capacity.judge(loads, plan.fan, network_mbps)), tuple(loads)
        )


def allow_files(n: int) -> None:
    """Lets this process have `n` open files. Raises RelayError where it may not."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < n:
        if hard != resource.RLIM_INFINITY and hard < n:
            raise RelayError(f"the bench needs {n} open files and may have {hard}: run `ulimit -n {n}` first")
        resource.setrlimit(resource.RLIMIT_NOFILE, (n, hard))


def measure(effort: Effort, progress: Callable[[str], None] = lambda what: None) -> Report:
    """Measures everything, in about the time that `effort` adds up to. Raises OSError, RelayError."""
    allow_files(FILES)
    facts = machine.read()
    bench = _Bench(effort, progress)
    progress("GF(2^8) kernels and ciphers")
    regions = kernels.gf256_kernels(effort.kernel_seconds)
    ciphers = kernels.ciphers(effort.cipher_seconds)
    chosen = fastest_first(time.thread_time_ns)[0]  # as a node does when it starts
    plans = (
        _Plan("plain RTP, 1 to 1", 50, 1, 5000, forwarder),
        _Plan("plain RTP, 1 to 50", 4, 50, 500, forwarder),
        _Plan("full hop", 50, 1, 2000, full_hop(chosen)),
    )
    scenarios = tuple(bench.measured(plan, facts.network_mbps) for plan in plans)
    return Report(
        facts,
        scenarios,
        tuple(regions),
        tuple(ciphers),
        CIPHER_NAMES[chosen],
        tuple(bench.heat),
        bench.receive_buffer,
    )


def main(args: Namespace) -> int:
    """`args.json`: print one JSON object in place of the table."""
    watched = sys.stderr.isatty()

    def progress(what: str) -> None:
        if watched:
            print(f"measuring: {what}", file=sys.stderr)

    report = measure(EFFORT, progress)
    print(
        json.dumps(as_json(report), indent=2) if args.json else as_text(report), end="\n" if args.json else ""
    )
    return 0
