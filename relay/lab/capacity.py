"""A link whose capacity changes in mid-run: its queue, and what comes through.

Cell W9: 30 % random loss, capacity that halves and comes back. `python -m relay.lab.capacity` in virtual
time, with `--real` on real sockets.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, Self

from relay.lab.crossing import EDGE, LEAD_NS, REGION, SECOND, TAIL_NS, VIDEO, Terms, nodes, stream
from relay.lab.link import Link, LinkConfig, packet_size
from relay.lab.network import Network
from relay.lab.real import Crossing, Watch, by_itself, crossing, play

SETTLE_NS = SECOND
"""After a change of the capacity; a phase is judged from then on."""
SAMPLE_NS = 5_000_000
WIRE_BYTES = packet_size(16 + 20 + VIDEO.packet_bytes + 4 + 16, EDGE)
"""An RTP packet on the link: IP and UDP, the datagram's header and tag, the inner header, the ESI."""
LINK = LinkConfig(delay_ms=50, loss=0.3, queue_ms=1000)
BUDGET_MS = 200
QUEUE_P95_MS = 100.0
"""The most that a phase may have."""
GOODPUT_SHARE = 0.85
"""The least that the phase of half the capacity may have."""


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of the run with one capacity."""

    seconds: float
    bps: float


W9 = (Phase(10, 8e6), Phase(20, 4e6), Phase(20, 8e6))
"""The media needs about 7 Mb/s with its repair, so there is room for 57 % of it in between."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a phase came to from SETTLE_NS on."""

    phase: Phase
    queue_p95_ms: float
    queue_max_ms: float
    sent_share: float
    """Of the capacity."""
    goodput_share: float
    """Of capacity x (1 - loss), by played packets as they are on the link: 1 with ideal repair."""
    rtp_share: float
    """The same by bytes of RTP, so that headers count as loss too."""
    played: float
    """Packets played over packets offered."""
    last_played: float
    """The same of the last second."""


@dataclass(frozen=True, slots=True)
class Sample:
    """The link at a moment."""

    at_ns: int
    queue_ns: int
    sent_bytes: int

    @classmethod
    def of(cls, link: Link[Any], now_ns: int) -> Self:
        return cls(now_ns, link.queue_ns(now_ns), link.counters.sent_bytes)


def run(phases: Sequence[Phase] = W9, *, link: LinkConfig = LINK, seed: int = 1) -> list[Outcome]:
    """One outcome a phase. The encoder does not follow: what does not fit is dropped before the hop."""
    network = Network(seed)
    nodes(network, Terms(link, BUDGET_MS), seed)
    ends = [LEAD_NS + round(at_s * SECOND) for at_s in _ends_s(phases)]
    changes = zip([0, *ends[:-1]], phases, strict=True)
    network.set_link(EDGE, REGION, [(at_ns / SECOND, replace(link, rate_bps=p.bps)) for at_ns, p in changes])
    player = stream(network, VIDEO, ends[-1] - LEAD_NS)
    samples: list[Sample] = []
    up = network.link(EDGE, REGION)
    while network.now_ns < ends[-1]:
        network.run(network.now_ns + SAMPLE_NS)
        samples.append(Sample.of(up, network.now_ns))
    network.run(network.now_ns + TAIL_NS)
    played = [LEAD_NS + number * VIDEO.interval_ns for number, came in enumerate(player.came) if came]
    return _outcomes(phases, [LEAD_NS, *ends], samples, played, up)


async def measure(phases: Sequence[Phase], seed: int, directory: Path) -> list[Outcome]:
    """The same on real sockets. Raises RelayError when the nodes do not connect."""
    terms = Terms(LINK, BUDGET_MS)
    seconds = [0.0, *_ends_s(phases)]
    watch = Watch(terms)
    async with crossing(terms, seconds=seconds[-1], seed=seed, directory=directory, watch=watch) as run:
        begun_ns = time.monotonic_ns()
        run.link.set_link(
            "up", [(at_s, replace(LINK, rate_bps=p.bps)) for at_s, p in zip(seconds, phases, strict=False)]
        )
        starts = [begun_ns + round(at_s * SECOND) for at_s in seconds]
        samples, _ = await asyncio.gather(_sampled(run, starts[-1]), play(terms, run.tracks))
        (track,) = run.tracks
        played = [at for at, came in zip(track.sent_ns, track.tally.came, strict=True) if came]
        return _outcomes(phases, starts, samples, played, run.link.link("up"))


async def _sampled(run: Crossing, end_ns: int) -> list[Sample]:
    samples: list[Sample] = []
    while (now_ns := time.monotonic_ns()) < end_ns:
        samples.append(Sample.of(run.link.link("up"), now_ns))
        await asyncio.sleep(SAMPLE_NS / SECOND)
    return samples


def _real(seed: int) -> list[Outcome]:
    """W9 in a process of its own."""
    return by_itself(partial(measure, W9, seed))


def _ends_s(phases: Sequence[Phase]) -> list[float]:
    return list(accumulate(phase.seconds for phase in phases))


def _outcomes(
    phases: Sequence[Phase], starts: Sequence[int], samples: list[Sample], played: list[int], up: Link[Any]
) -> list[Outcome]:
    """`starts` has the beginning of each phase and the end of the last one."""
    loss = up.counters.lost_random / up.counters.sent
    return [
        _judge(phase, [s for s in samples if a + SETTLE_NS <= s.at_ns < b], played, loss)
        for phase, (a, b) in zip(phases, pairwise(starts), strict=True)
    ]


def _judge(phase: Phase, samples: list[Sample], played: list[int], loss: float) -> Outcome:
    """`samples` are of this phase; `played` has the times at which the packets that arrived had entered."""
    first_ns, end_ns = samples[0].at_ns, samples[-1].at_ns
    waits = sorted(s.queue_ns for s in samples)
    seconds = (end_ns - first_ns) / SECOND
    carried = phase.bps / 8 * seconds
    got = sum(first_ns <= at_ns < end_ns for at_ns in played)
    last = sum(end_ns - SECOND <= at_ns < end_ns for at_ns in played)
    return Outcome(
        phase=phase,
        queue_p95_ms=waits[int(0.95 * len(waits))] / 1e6,
        queue_max_ms=waits[-1] / 1e6,
        sent_share=(samples[-1].sent_bytes - samples[0].sent_bytes) / carried,
        goodput_share=got * WIRE_BYTES / (carried * (1 - loss)),
        rtp_share=got * VIDEO.packet_bytes / (carried * (1 - loss)),
        played=got / (seconds * VIDEO.packets_per_second),
        last_played=last / VIDEO.packets_per_second,
    )


def missed(outcomes: Sequence[Outcome]) -> list[str]:
    """Which parts of the target a run of W9 does not meet."""
    queues = [f"queue at {o.phase.bps / 1e6:g} Mb/s" for o in outcomes if o.queue_p95_ms > QUEUE_P95_MS]
    _, halved, _ = outcomes
    return queues + (["goodput"] if halved.goodput_share < GOODPUT_SHARE else [])


def _each(seeds: Sequence[int], *, real: bool) -> Iterator[list[Outcome]]:
    """Of each seed, as soon as it is there; one at a time, as each has a link to keep time for."""
    if not real:
        yield from (run(seed=seed) for seed in seeds)
        return
    with ProcessPoolExecutor(1, max_tasks_per_child=1) as pool:
        yield from pool.map(_real, seeds)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m relay.lab.capacity", description=__doc__)
    parser.add_argument("--seeds", type=int, default=5, help="1 to this (5)")
    parser.add_argument("--real", action="store_true", help="on real sockets, a minute a seed")
    parser.add_argument("--check", action="store_true", help="exit status 1 if a run misses the target")
    options = parser.parse_args()
    print("| seed | capacity | queue p95, max | sent | goodput | RTP | played, at last |")
    print("|---|---|---|---|---|---|---|")
    met = True
    seeds = range(1, options.seeds + 1)
    for seed, outcomes in zip(seeds, _each(seeds, real=options.real), strict=True):
        for got in outcomes:
            print(
                f"| {seed} | {got.phase.bps / 1e6:g} Mb/s "
                f"| {got.queue_p95_ms:.0f}, {got.queue_max_ms:.0f} ms "
                f"| {got.sent_share:.0%} | {got.goodput_share:.1%} | {got.rtp_share:.1%} "
                f"| {got.played:.1%}, {got.last_played:.1%} |",
                flush=True,
            )
        if parts := missed(outcomes):
            met = False
            print(f"seed {seed} misses: {', '.join(parts)}", file=sys.stderr)
    return 0 if met or not options.check else 1


if __name__ == "__main__":
    sys.exit(main())
