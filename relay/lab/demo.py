"""`relay demo`: an edge, a lossy link, a region, live media through all three, and what became of it."""

import argparse
import asyncio
import base64
import json
import logging
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from relay.config import Config, parse
from relay.core.keys import private_key_file
from relay.core.noise import public_key
from relay.errors import RelayError
from relay.lab.frames import FrameCount, compare
from relay.lab.link import LinkConfig
from relay.lab.proxy import Proxy
from relay.lab.receiver import Receiver, free_port
from relay.lab.source import AUDIO, VIDEO, Source
from relay.log import configure
from relay.media.rtp import TrackFormat
from relay.node import Node, run_on_loop

STREAM = "demo"
HOST = "127.0.0.1"
PORTS = 13
"""UDP ports that a demo takes, in a row; the last two are TCP."""
CONNECT_SECONDS = 20.0
QUIET_SECONDS = 1.5
ROUND_TRIPS = 2.5
"""The hop's budget in round trips, so that a second reactive repair still comes in time."""
HEADER = "  TIME  LINK LOSS  REPAIRED  RESIDUAL  OVERHEAD  DELAY P50/P99  FRAMES/S"
HEADER_EVERY = 20


@dataclass(frozen=True, slots=True)
class Ports:
    """The ports of a demo, from the first on."""

    first: int

    @property
    def video(self) -> int:
        return self.first

    @property
    def audio(self) -> int:
        return self.first + 2

    @property
    def player(self) -> int:
        return self.first + 4

    @property
    def edge(self) -> int:
        return self.first + 8

    @property
    def region(self) -> int:
        return self.first + 9

    @property
    def link(self) -> int:
        return self.first + 10

    @property
    def edge_ops(self) -> int:
        return self.first + 11

    @property
    def region_ops(self) -> int:
        return self.first + 12


def _track(track: TrackFormat, port: int) -> str:
    return (
        f'{{ kind = "{track.kind}", listen = "{HOST}:{port}", '
        f'payload_type = {track.payload_type}, codec = "{track.codec}" }}'
    )


def _destination(track: TrackFormat, port: int) -> str:
    return f'{{ kind = "{track.kind}", address = "{HOST}:{port}" }}'


def _configurations(options: argparse.Namespace, ports: Ports, directory: Path) -> tuple[str, str]:
    """The edge's and the region's TOML; their new keys are written into the directory."""
    private = {name: os.urandom(32) for name in ("edge", "region")}
    public = {name: base64.b64encode(public_key(key)).decode() for name, key in private.items()}
    files = {name: directory / f"{name}.key" for name in private}
    for name, file in files.items():
        file.touch(mode=0o600)
        file.write_text(private_key_file(private[name]))
    budget_ms = min(max(200, round(ROUND_TRIPS * options.rtt)), 5000)
    overhead = 0.0 if options.no_repair else 1.0

    def node(name: str, hop: int, ops: int) -> str:
        return f"""
            [node]
            name = "{name}"
            [ops]
            listen = "{HOST}:{ops}"
            [hop]
            listen = "{HOST}:{hop}"
            key_file = "{files[name]}"
            budget_ms = {budget_ms}
            max_overhead = {overhead}
        """

    edge = f"""
        {node("edge", ports.edge, ports.edge_ops)}
        [[hop.peers]]
        name = "region"
        address = "{HOST}:{ports.link}"
        public_key = "{public["region"]}"
        [[ingest.rtp]]
        stream = "{STREAM}"
        tracks = [ {_track(VIDEO, ports.video)}, {_track(AUDIO, ports.audio)} ]
    """
    region = f"""
        {node("region", ports.region, ports.region_ops)}
        [[hop.peers]]
        name = "edge"
        public_key = "{public["edge"]}"
        [[egress.rtp]]
        stream = "{STREAM}"
        to = [ {_destination(VIDEO, ports.player)}, {_destination(AUDIO, ports.player + 2)} ]
    """
    return edge, region


@asynccontextmanager
async def running(config: Config) -> AsyncIterator[Node]:
    """A node of this process."""
    node = Node(config)
    try:
        await node.start()
        yield node
    finally:
        await node.stop()


async def connected(edge: Node, region: Node, name: str) -> None:
    """Until the region has taken that stream. Raises RelayError after CONNECT_SECONDS."""

    def accepted() -> bool:
        stream = edge.stream(name)
        return stream is not None and bool(stream["route"]["accepted"]) and region.stream(name) is not None

    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            while not accepted():  # noqa: ASYNC110 - both ends' event loops are this one
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise RelayError(
            f"the two nodes did not connect within {CONNECT_SECONDS:.0f} s; is the loss too high?"
        ) from None


class Demo:
    """The parts of a running demo, and what can be said of them at any moment."""

    def __init__(self, edge: Node, region: Node, link: Proxy) -> None:
        self.edge = edge
        self.region = region
        self.link = link

    def measure(self) -> dict[str, Any]:
        """The figures of `--json` that need no decoder."""
        sent, received = self._tracks(self.edge), self._tracks(self.region)
        source = sum(track["received_packets"] for track in sent)
        delivered = sum(track["delivered_packets"] for track in received)
        up = self.link.link("up").counters
        out, into = self.edge.hops()[0], self.region.hops()[0]
        media_bytes = sum(track["received_bytes"] for track in sent)
        hop_bytes = sum(path["sent_bytes"] for path in out["paths"])
        return {
            "link_loss_ratio": _ratio(up.lost, up.sent),
            "source_packets": source,
            "repair_packets": out["repair_packets"],
            "recovered_packets": into["recovered_packets"],
            "residual_packets": source - delivered,
            "residual_loss_ratio": _ratio(source - delivered, source),
            "repair_overhead_ratio": out["overhead_ratio"],
            "all_in_overhead_ratio": _ratio(hop_bytes, media_bytes) - 1 if media_bytes else 0.0,
            "added_delay_ms": into["added_delay_ms"],
        }

    def _tracks(self, node: Node) -> list[dict[str, Any]]:
        stream = node.stream(STREAM)
        return stream["tracks"] if stream else []


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _row(seconds: float, figures: dict[str, Any], lost: int, frames: int) -> str:
    delay = figures["added_delay_ms"]
    p50, p99 = (f"{delay[p]:.0f}" if delay[p] is not None else "-" for p in ("p50", "p99"))
    return (
        f"{seconds:5.0f}s  {figures['link_loss_ratio']:9.1%}  {figures['recovered_packets']:8}  {lost:8}  "
        f"{figures['repair_overhead_ratio']:8.2f}  {f'{p50}/{p99} ms':>13}  {frames:8}"
    )


async def _show(demo: Demo, receiver: Receiver) -> None:
    """A row each second, until cancelled. Residual: what playout has given up, not what is under way."""
    loop = asyncio.get_running_loop()
    started, rows, frames = loop.time(), 0, 0
    while True:
        await asyncio.sleep(started + rows + 1 - loop.time())
        if rows % HEADER_EVERY == 0:
            print(HEADER, flush=True)
        rows += 1
        tracks = demo.region.stream(STREAM)
        lost = sum(t["lost_packets"] for t in tracks["tracks"]) if tracks else 0
        print(_row(rows, demo.measure(), lost, len(receiver.frames) - frames), flush=True)
        frames = len(receiver.frames)


async def _play(demo: Demo, options: argparse.Namespace, ports: Ports, directory: Path) -> FrameCount:
    """Send media through until its end or Ctrl-C, and compare the frames."""
    loop = asyncio.get_running_loop()
    interrupted = asyncio.Event()
    loop.add_signal_handler(signal.SIGINT, interrupted.set)
    description = demo.region.sdp(STREAM, HOST, ports.player)
    if description is None:
        raise RelayError("the region has no description of the stream")
    async with AsyncExitStack() as stack:
        receiver = await stack.enter_async_context(Receiver(description, directory))
        source = await stack.enter_async_context(
            Source(ports.video, ports.audio, directory, file=options.source, seconds=options.seconds)
        )
        tasks = [asyncio.create_task(source.wait()), asyncio.create_task(interrupted.wait())]
        if not options.json:
            tasks.append(asyncio.create_task(_show(demo, receiver)))
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            await source.stop()
            for task in done:
                task.result()
            await receiver.finish(QUIET_SECONDS)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return compare(await source.reference(), receiver.frames)


async def _run(options: argparse.Namespace) -> int:
    first = options.port if options.port is not None else free_port(PORTS)
    ports = Ports(first)
    link = LinkConfig(delay_ms=options.rtt / 2, loss=options.loss)
    with tempfile.TemporaryDirectory(prefix="relay-demo-") as name:
        directory = Path(name)
        edge_text, region_text = _configurations(options, ports, directory)
        async with (
            running(parse(region_text, {})) as region,
            Proxy((HOST, ports.link), (HOST, ports.region), up=link, down=link, seed=options.seed) as proxy,
            running(parse(edge_text, {})) as edge,
        ):
            demo = Demo(edge, region, proxy)
            await connected(edge, region, STREAM)
            if not options.json:
                print(_introduction(options, ports), flush=True)
            frames = await _play(demo, options, ports, directory)
            result = {
                "seed": options.seed,
                "loss": options.loss,
                "rtt_ms": options.rtt,
                "repair": not options.no_repair,
                **demo.measure(),
                "kernel_drops": proxy.kernel_drops(),
                "frames_expected": frames.expected,
                "frames_decoded": frames.decoded,
                "frames_intact": frames.intact,
            }
    print(json.dumps(result) if options.json else _summary(result), flush=True)
    return 0


def _introduction(options: argparse.Namespace, ports: Ports) -> str:
    source = options.source or "a test pattern with a running clock, and a tone"
    repair = "off" if options.no_repair else "on"
    edge, region = f"http://{HOST}:{ports.edge_ops}", f"http://{HOST}:{ports.region_ops}"
    return (
        f"Edge -> link -> region, all on {HOST}. The link loses {options.loss:.0%} each way and takes "
        f"{options.rtt:g} ms a round trip; seed {options.seed}; repair is {repair}.\n"
        f"The encoder sends {source}: H.264 and Opus by RTP. The receiver decodes what leaves the region.\n"
        f"From another terminal: relay status --url {edge} (edge), relay status --url {region} (region).\n"
    )


def _summary(result: dict[str, Any]) -> str:
    delay = result["added_delay_ms"]
    p50, p99 = (f"{delay[p]:.0f}" if delay[p] is not None else "-" for p in ("p50", "p99"))
    return (
        f"\nThe link lost {result['link_loss_ratio']:.1%}. Of {result['source_packets']} media packets "
        f"{result['recovered_packets']} were repaired and {result['residual_packets']} were lost "
        f"({result['residual_loss_ratio']:.1e}).\n"
        f"Repair took {result['repair_overhead_ratio']:.0%} of the media's bytes; "
        f"the hop added {p50} ms (p50), {p99} ms (p99).\n"
        f"Frames: {result['frames_expected']} sent, {result['frames_decoded']} decoded, "
        f"{result['frames_intact']} intact bit for bit. Seed {result['seed']}."
    )


def main(options: argparse.Namespace) -> int:
    """Run a demo; the exit code. Raises RelayError with a sentence when it cannot."""
    if options.source is not None and not options.source.is_file():
        raise RelayError(f"there is no file {options.source}")
    configure("text", "error", sys.stderr)
    logging.captureWarnings(True)
    return run_on_loop(_run(options))
