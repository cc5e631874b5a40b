"""A link whose capacity changes in mid-run, in virtual time: its queue, and what comes through.

Cell W9: 30 % random loss, capacity that halves and comes back. `python -m relay.lab.capacity`.
"""

import argparse
import base64
import random
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from relay.config import Config, parse
from relay.core.noise import public_key
from relay.lab.link import LinkConfig, packet_size
from relay.lab.network import Network
from relay.lab.virtual import Sink, Source, VirtualNode

EDGE, REGION, ENCODER, PLAYER = "10.0.0.1", "10.0.0.2", "10.0.0.8", "10.0.0.9"
SECOND = 1_000_000_000
LEAD_S = 2
"""Seconds to connect in, before media flows."""
SETTLE_S = 1.0
"""After a change of the capacity; a phase is judged from then on."""
SAMPLE_NS = 5_000_000
PACKETS_PER_SECOND, PACKET_BYTES, RTP_HEADER = 400, 1200, 12
INTERVAL_NS = SECOND // PACKETS_PER_SECOND
WIRE_BYTES = packet_size(16 + 20 + PACKET_BYTES + 4 + 16, EDGE)
"""An RTP packet on the link: IP and UDP, the datagram's header and tag, the inner header, the ESI."""
LINK = LinkConfig(delay_ms=50, loss=0.3, queue_ms=1000)


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of the run with one capacity."""

    seconds: float
    bps: float


W9 = (Phase(10, 8e6), Phase(20, 4e6), Phase(20, 8e6))
"""The media needs about 7 Mb/s with its repair, so there is room for 57 % of it in between."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a phase came to from SETTLE_S on."""

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


def run(
    phases: Sequence[Phase] = W9, *, link: LinkConfig = LINK, budget_ms: int = 200, seed: int = 1
) -> list[Outcome]:
    """One outcome a phase. The encoder does not follow: what does not fit is dropped before the hop."""
    network = Network(seed)
    keys = random.Random(seed).randbytes(64)
    edge, region = _configurations(keys[:32], keys[32:], budget_ms)
    starts = [LEAD_S + sum(p.seconds for p in phases[:i]) for i in range(len(phases) + 1)]
    capacities = zip([0.0, *starts[1:]], phases, strict=False)
    network.set_link(EDGE, REGION, [(at_s, replace(link, rate_bps=p.bps)) for at_s, p in capacities])
    network.set_link(REGION, EDGE, link)
    VirtualNode(network, REGION, region, static=keys[32:], seed=seed + 1)
    VirtualNode(network, EDGE, edge, static=keys[:32], seed=seed + 2)
    player = Sink(network, (PLAYER, 6004))
    Sink(network, (PLAYER, 6005))
    count = int((starts[-1] - LEAD_S) * PACKETS_PER_SECOND)
    lead_ns = LEAD_S * SECOND
    Source(
        network,
        (ENCODER, 5000),
        (EDGE, 5004),
        _packet,
        start_ns=lead_ns,
        interval_ns=INTERVAL_NS,
        count=count,
    )
    samples: list[Sample] = []
    up = network.link(EDGE, REGION)
    while network.now_ns < starts[-1] * SECOND:
        network.run(network.now_ns + SAMPLE_NS)
        samples.append(Sample(network.now_ns, up.queue_ns(network.now_ns), up.counters.sent_bytes))
    network.run(network.now_ns + SECOND)
    numbers = (int.from_bytes(data[RTP_HEADER : RTP_HEADER + 8], "big") for _, data in player.packets)
    played = [lead_ns + number * INTERVAL_NS for number in numbers]
    loss = up.counters.lost_random / up.counters.sent
    return [
        _judge(phase, [s for s in samples if (a + SETTLE_S) * SECOND <= s.at_ns < b * SECOND], played, loss)
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
        rtp_share=got * PACKET_BYTES / (carried * (1 - loss)),
        played=got / (seconds * PACKETS_PER_SECOND),
        last_played=last / PACKETS_PER_SECOND,
    )


def _packet(i: int) -> bytes:
    header = struct.pack("!BBHII", 0x80, 96, i & 0xFFFF, i * 225 & 0xFFFFFFFF, 0x1234)
    return header + i.to_bytes(8, "big").ljust(PACKET_BYTES - RTP_HEADER, b"\xaa")


def _configurations(edge_key: bytes, region_key: bytes, budget_ms: int) -> tuple[Config, Config]:
    def config(name: str, peer: str, key: bytes, media: str) -> Config:
        public = base64.b64encode(public_key(key)).decode()
        return parse(
            f"""
            [node]
            name = "{name}"
            [hop]
            listen = "0.0.0.0:7400"
            budget_ms = {budget_ms}
            [[hop.peers]]
            public_key = "{public}"
            {peer}
            {media}
            """,
            {},
        )

    track = '{ kind = "video", listen = "0.0.0.0:5004", payload_type = 96, codec = "H264/90000" }'
    ingest = f'[[ingest.rtp]]\nstream = "studio"\ntracks = [ {track} ]'
    egress = f'[[egress.rtp]]\nstream = "studio"\nto = [ {{ kind = "video", address = "{PLAYER}:6004" }} ]'
    return (
        config("edge", f'name = "region"\naddress = "{REGION}:7400"', region_key, ingest),
        config("region", 'name = "edge"', edge_key, egress),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5, help="runs (5)")
    parser.add_argument("--first", type=int, default=1, help="the first seed (1)")
    options = parser.parse_args()
    print("| seed | capacity | queue p95, max | sent | goodput | RTP | played, at last |")
    print("|---|---|---|---|---|---|---|")
    for seed in range(options.first, options.first + options.seeds):
        for got in run(seed=seed):
            print(
                f"| {seed} | {got.phase.bps / 1e6:g} Mb/s "
                f"| {got.queue_p95_ms:.0f}, {got.queue_max_ms:.0f} ms "
                f"| {got.sent_share:.0%} | {got.goodput_share:.0%} | {got.rtp_share:.0%} "
                f"| {got.played:.1%}, {got.last_played:.1%} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
