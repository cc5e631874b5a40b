"""The lossy hop in virtual time: an edge, a link, a region, a row a link. `python -m relay.lab.cells`.

Both nodes run the code that a real node runs; only sockets and time are emulated.
"""

import argparse
import base64
import random
import struct
from dataclasses import dataclass

from relay.config import parse
from relay.core.noise import public_key
from relay.lab.link import GilbertElliott, LinkConfig, bursts
from relay.lab.network import Network
from relay.lab.virtual import Sink, Source, VirtualNode
from relay.services.status import percentile

EDGE, REGION, ENCODER, PLAYER = "10.0.0.1", "10.0.0.2", "10.0.0.8", "10.0.0.9"
SECOND = 1_000_000_000
LEAD_S = 2
"""Seconds to connect in, before media flows."""
TAIL_S = 3
RTP_HEADER = 12


@dataclass(frozen=True, slots=True)
class Cell:
    """A link, and the budget that repair has on it."""

    name: str
    loss: float | GilbertElliott
    rtt_ms: float
    budget_ms: int


CELLS = (
    Cell("30 % random, RTT 100", 0.3, 100, 200),
    Cell("30 % random, RTT 100", 0.3, 100, 250),
    Cell("30 % random, RTT 100", 0.3, 100, 150),
    Cell("30 % random, RTT 200", 0.3, 200, 400),
    Cell("30 % in bursts of 4, RTT 100", bursts(0.3, 4), 100, 250),
    Cell("10 % random, RTT 100", 0.1, 100, 200),
    Cell("no loss, RTT 100", 0.0, 100, 200),
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run of a cell came to. Ratios are of media packets or of media bytes."""

    packets: int
    lost: int
    overhead_ratio: float
    all_in_ratio: float
    """Every byte the edge sent on the hop over the media's, less one."""
    p50_ms: float | None
    p99_ms: float | None

    @property
    def residual_ratio(self) -> float:
        return self.lost / self.packets


def _configurations(cell: Cell, seed: int) -> tuple[tuple[bytes, str], tuple[bytes, str]]:
    keys = random.Random(seed).randbytes(64)
    edge_key, region_key = keys[:32], keys[32:]

    def text(name: str, peer: str, key: bytes, rest: str) -> str:
        public = base64.b64encode(public_key(key)).decode()
        return f"""
            [node]
            name = "{name}"
            [hop]
            listen = "0.0.0.0:7400"
            budget_ms = {cell.budget_ms}
            [[hop.peers]]
            public_key = "{public}"
            {peer}
            {rest}
        """

    track = '{ kind = "video", listen = "0.0.0.0:5004", payload_type = 96, codec = "H264/90000" }'
    ingest = f'[[ingest.rtp]]\nstream = "studio"\ntracks = [ {track} ]'
    egress = f'[[egress.rtp]]\nstream = "studio"\nto = [ {{ kind = "video", address = "{PLAYER}:6004" }} ]'
    edge = text("edge", f'name = "region"\naddress = "{REGION}:7400"', region_key, ingest)
    return (edge_key, edge), (region_key, text("region", 'name = "edge"', edge_key, egress))


def run(cell: Cell, *, seconds: float, packets_per_second: int, packet_bytes: int, seed: int) -> Outcome:
    """Send RTP through a cell and count what arrives, bit for bit."""
    network = Network(seed)
    (edge_key, edge_text), (region_key, region_text) = _configurations(cell, seed)
    link = LinkConfig(delay_ms=cell.rtt_ms / 2, loss=cell.loss)
    network.set_link(EDGE, REGION, link)
    network.set_link(REGION, EDGE, link)
    region = VirtualNode(network, REGION, parse(region_text, {}), static=region_key, seed=seed + 1)
    edge = VirtualNode(network, EDGE, parse(edge_text, {}), static=edge_key, seed=seed + 2)
    player = Sink(network, (PLAYER, 6004))
    Sink(network, (PLAYER, 6005))

    def packet(i: int) -> bytes:
        header = struct.pack("!BBHII", 0x80, 96, i & 0xFFFF, i * 225 & 0xFFFFFFFF, 0x1234)
        return header + i.to_bytes(8, "big").ljust(packet_bytes - RTP_HEADER, b"\xaa")

    count = int(seconds * packets_per_second)
    interval_ns = SECOND // packets_per_second
    Source(
        network,
        (ENCODER, 5000),
        (EDGE, 5004),
        packet,
        start_ns=LEAD_S * SECOND,
        interval_ns=interval_ns,
        count=count,
    )
    network.run(int((LEAD_S + seconds + TAIL_S) * SECOND))
    payloads = {data[RTP_HEADER:] for _, data in player.packets}
    intact = sum(packet(i)[RTP_HEADER:] in payloads for i in range(count))
    assert region.machine.hops is not None
    [hop] = region.machine.hops.hops
    delays = region.shards.of(hop).hop_delays(hop)
    out = edge.machine.hop_statuses()[0]
    sent_bytes = sum(path["sent_bytes"] for path in out["paths"])
    return Outcome(
        packets=count,
        lost=count - intact,
        overhead_ratio=out["overhead_ratio"],
        all_in_ratio=sent_bytes / (count * packet_bytes) - 1,
        p50_ms=percentile(delays, 0.5),
        p99_ms=percentile(delays, 0.99),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600, help="of media a cell (600)")
    parser.add_argument("--rate", type=int, default=400, help="packets a second (400)")
    parser.add_argument("--bytes", type=int, default=1200, help="an RTP packet (1200)")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    print("| link | budget | packets | residual loss | repair overhead | all in | added delay p50 / p99 |")
    print("|---|---|---|---|---|---|---|")
    for cell in CELLS:
        got = run(
            cell,
            seconds=options.seconds,
            packets_per_second=options.rate,
            packet_bytes=options.bytes,
            seed=options.seed,
        )
        print(
            f"| {cell.name} | {cell.budget_ms} ms | {got.packets} | {got.residual_ratio:.1e} ({got.lost}) "
            f"| {got.overhead_ratio:.1%} | {got.all_in_ratio:.1%} | {got.p50_ms:.0f} / {got.p99_ms:.0f} ms |",
            flush=True,
        )


if __name__ == "__main__":
    main()
