"""Nodes under load on the loopback interface: packet planes with encoders before and receivers behind them.

What a node costs is the CPU time of its packet thread, user and kernel. On loopback that holds the receivers'
side of each send (the kernel queues the datagram at its socket within the call) in place of the network
card's driver, and lacks the interrupts that a card raises for what comes in. Datagrams come in one by one, as
from a card that merges nothing.
"""

import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from relay.errors import RelayError
from relay.services.sockets import open_udp
from relay_ext.control import PORT_EGRESS, PORT_HOP, PORT_RTP, Plane
from relay_ext.engine import Engine
from relay_ext.load import Link, Sink, Source

PACKET_BYTES: Final = 1200
"""UDP payload of a media packet."""
BURST: Final = 7
"""Packets a video frame: 2 Mb/s at 30 frames/s."""
STREAM_PPS: Final = BURST * 30
STREAM_BPS: Final = STREAM_PPS * PACKET_BYTES * 8
PAYLOAD_TYPE: Final = 96  # what Source sends

LOSS: Final = 0.3
REPAIR: Final = 0.6
"""Repair packets a source packet, before any report asks for more."""
BUDGET_NS: Final = 200_000_000
HOLD_US: Final = 220_000  # playout waits a little longer than repair may take
DATAGRAM_MAX: Final = 1472

HOST: Final = "127.0.0.1"
OUT: Final = 0  # a plane's port towards receivers, or towards the other node
EGRESS: Final = 1  # a region's port towards receivers
INGEST: Final = 1  # the first of the ports that encoders send to
QUIET_SECONDS: Final = 1.0  # longer than the hop's budget: what has not come by then is lost
SETTLE_SECONDS: Final = 2.0
POLL_SECONDS: Final = 0.02

SO_RCVBUFFORCE, SO_MEMINFO, MEMINFO_BYTES, MEMINFO_DROPS = 33, 55, 36, 8  # from asm-generic/socket.h
BUFFER_BYTES: Final = 4 << 20  # of the receivers and the link

NO_ROOM: Final = ("rx_kernel_drops", "tx_would_block", "tx_no_buffers")
NO_MEMORY: Final = ("slabs_exhausted", "tx_overflow")
"""Counters of an engine and of a plane that tell of too much load."""


@dataclass(frozen=True)
class Round:
    """One load offered, and what came of it."""

    seconds: float
    offered: int
    """Media packets sent to the ingest ports."""
    expected: int
    """Media packets for the receivers, without those that their own buffers had no room for."""
    arrived: int
    cpu_ns: Mapping[str, int]
    """CPU time of the packet thread, by node."""
    waited_ns: Mapping[str, int]
    """How long that thread was ready to run and had no CPU; 0 where the kernel does not say."""
    bytes_sent: Mapping[str, int]
    """UDP payload, by node."""
    refused: Mapping[str, int]
    """Datagrams that a node had no room for, by its counter; without the zeros."""
    repair_ratio: float = 0.0
    """Repair packets a source packet."""
    link_loss: float = 0.0

    @property
    def lost(self) -> int:
        return max(self.expected - self.arrived, 0)


class Node:
    """A packet plane with its thread."""

    def __init__(self) -> None:
        self.plane = Plane(bytes(32), now_ns=time.monotonic_ns())
        self.engine = Engine(self.plane)
        self.receive_buffer = 0  # bytes that the kernel granted the last port
        self._threads: list[threading.Thread] = []

    def open(self, number: int) -> tuple[str, int]:
        with open_udp((HOST, 0)) as sock:
            self.engine.add_port(number, sock)
            # The kernel says twice what was asked for: half is for its own bookkeeping.
            self.receive_buffer = sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2
            return HOST, sock.getsockname()[1]

    def start(self) -> None:
        before = threading.enumerate()
        self.engine.start()
        self._threads = [thread for thread in threading.enumerate() if thread not in before]

    def cpu_ns(self) -> int:
        """CPU time of its threads so far. Raises RelayError when they have ended."""
        if not self.engine.alive:
            raise RelayError(f"the packet thread has ended: {self.engine.error}")
        clocks = (time.pthread_getcpuclockid(thread.ident) for thread in self._threads if thread.ident)
        return sum(map(time.clock_gettime_ns, clocks))

    def waited_ns(self) -> int:
        """How long its threads have been ready to run and had no CPU."""
        with suppress(OSError, ValueError, IndexError):  # a kernel without CONFIG_SCHED_INFO
            return sum(
                int(Path(f"/proc/self/task/{thread.native_id}/schedstat").read_text().split()[1])
                for thread in self._threads
            )
        return 0

    def counters(self) -> dict[str, int]:
        return self.engine.counters() | self.plane.stats()

    def close(self) -> None:
        self.engine.stop()
        self.plane.close()


@dataclass(frozen=True)
class _Reading:
    cpu_ns: dict[str, int]
    waited_ns: dict[str, int]
    counters: dict[str, dict[str, int]]
    sent: int
    received: int
    overflowed: int
    link: tuple[int, int]  # datagrams lost, and all
    repair: tuple[int, int]  # repair packets, and source packets


class Rig:
    """Nodes with their surroundings; `fan` receivers a stream. Closed by the stack it was built on."""

    def __init__(self, stack: ExitStack, streams: int, fan: int) -> None:
        self.fan = fan
        self.nodes: dict[str, Node] = {}
        self._stack = stack
        self._receivers = [self._socket() for _ in range(streams * fan)]
        self._encoders = [self._socket() for _ in range(streams)]
        self._link_ends = [self._socket() for _ in range(2)]
        self._link: Link | None = None
        self._sending: tuple[Plane, int] | None = None  # the plane and the hop that send repair packets
        self._addresses = [(HOST, sock.getsockname()[1]) for sock in self._receivers]

    def _socket(self) -> socket.socket:
        sock = self._stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
        with suppress(OSError):  # beyond net.core.rmem_max for root only
            sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES)
        sock.bind((HOST, 0))
        return sock

    def node(self, role: str) -> Node:
        node = self.nodes[role] = Node()
        self._stack.callback(node.close)
        return node

    def ingest(self, node: Node, i: int) -> int:
        """A track that the encoder `i` sends to."""
        track = node.plane.add_track(clock_rate=90000, hold_us=HOLD_US, payload_type=PAYLOAD_TYPE)
        node.plane.set_port(INGEST + i, PORT_RTP, track)
        self._encoders[i].connect(node.open(INGEST + i))
        return track

    def egress(self, node: Node, port: int, track: int, i: int) -> None:
        """Sends the track `i` to its receivers."""
        for to in self._addresses[i * self.fan : (i + 1) * self.fan]:
            node.plane.add_egress(track, port, to, to, ssrc=i, seq=0, timestamp=0, cname=b"bench")

    def join(self, sender: Node, receiver: Node, cipher: int) -> tuple[int, int]:
        """Makes two nodes peers over a link that loses packets; their hops."""
        keys = secrets.token_bytes(32), secrets.token_bytes(32)
        hops = []
        for i, (node, end) in enumerate(zip((sender, receiver), self._link_ends, strict=True)):
            plane = node.plane
            plane.set_port(OUT, PORT_HOP)
            hop = plane.add_hop(OUT)
            hops.append(hop)
            end.connect(node.open(OUT))
            plane.set_params(
                hop, proactive=REPAIR, max_overhead=1.0, send_budget_ns=BUDGET_NS, receive_budget_ns=BUDGET_NS
            )
            plane.set_path(hop, 0, address=(HOST, end.getsockname()[1]), datagram_max=DATAGRAM_MAX)
            plane.add_keys(hop, 0, 1 + i, 2 - i, keys[i], keys[1 - i], cipher, 1, 1 + i)
            plane.use_keys(1 + i)
        self._link = Link(self._link_ends, loss=LOSS, seed=1)
        self._sending = sender.plane, hops[0]
        return hops[0], hops[1]

    def start(self) -> None:
        for node in self.nodes.values():
            node.start()
        self._pool = self._stack.enter_context(ThreadPoolExecutor(3))
        self._source = Source(self._encoders, burst=BURST, packet_bytes=PACKET_BYTES)
        self._sink = Sink(self._receivers, packet_bytes=PACKET_BYTES)
        around: list[Sink | Link] = [self._sink, self._link] if self._link else [self._sink]
        for loop in around:
            self._stack.callback(loop.stop)
            self._pool.submit(loop.run)
        self._stack.callback(self._source.stop)

    @property
    def receive_buffer(self) -> int:
        """Bytes that the kernel granted a port of a node."""
        return min(node.receive_buffer for node in self.nodes.values())

    def offer(self, packets_per_second: float, seconds: float) -> Round:
        """Offers a load and waits until nothing more arrives. Raises RelayError when a node has failed."""
        before = self._read()
        took = self._pool.submit(self._source.run, packets_per_second, seconds).result()
        self._settle(before.received + (self._source.sent - before.sent) * self.fan)
        return self._round(took, before, self._read())

    def _settle(self, expected: int) -> None:
        """Until all has arrived, or nothing more does."""
        until = time.monotonic() + SETTLE_SECONDS
        received, since = -1, 0.0
        while (now := time.monotonic()) < until and self._sink.received < expected:
            if received != self._sink.received:
                received, since = self._sink.received, now
            elif now - since > QUIET_SECONDS:
                return
            time.sleep(POLL_SECONDS)

    def _read(self) -> _Reading:
        link = (0, 0)
        if self._link:
            lost = self._link.lost + sum(map(_overflowed, self._link_ends))
            link = (lost, lost + self._link.forwarded)
        repair = (0, 0)
        if self._sending:
            stats = self._sending[0].hop_stats(self._sending[1])
            repair = (stats["repair_sent"], stats["source_sent"])
        return _Reading(
            {role: node.cpu_ns() for role, node in self.nodes.items()},
            {role: node.waited_ns() for role, node in self.nodes.items()},
            {role: node.counters() for role, node in self.nodes.items()},
            self._source.sent,
            self._sink.received,
            sum(map(_overflowed, self._receivers)),
            link,
            repair,
        )

    def _round(self, seconds: float, a: _Reading, b: _Reading) -> Round:
        def grown(role: str, name: str) -> int:
            return b.counters[role][name] - a.counters[role][name]

        refused = {name: sum(grown(role, name) for role in self.nodes) for name in NO_ROOM + NO_MEMORY}
        offered = b.sent - a.sent
        return Round(
            seconds=seconds,
            offered=offered,
            expected=offered * self.fan - (b.overflowed - a.overflowed),
            arrived=b.received - a.received,
            cpu_ns={role: b.cpu_ns[role] - a.cpu_ns[role] for role in self.nodes},
            waited_ns={role: b.waited_ns[role] - a.waited_ns[role] for role in self.nodes},
            bytes_sent={role: grown(role, "tx_bytes") for role in self.nodes},
            refused={name: n for name, n in refused.items() if n},
            repair_ratio=_share(a.repair, b.repair),
            link_loss=_share(a.link, b.link),
        )


def _share(a: tuple[int, int], b: tuple[int, int]) -> float:
    return (b[0] - a[0]) / max(b[1] - a[1], 1)


def _overflowed(sock: socket.socket) -> int:
    """Datagrams that its buffer had no room for; 0 where the kernel (before 4.12) does not say."""
    try:
        memory = sock.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, MEMINFO_BYTES)
    except OSError:
        return 0
    return int.from_bytes(memory[4 * MEMINFO_DROPS : 4 * MEMINFO_DROPS + 4], sys.byteorder)


# ---- what is measured ---------------------------------------------------------------------------


@contextmanager
def rig(streams: int, fan: int, build: Callable[[Rig, int], None]) -> Iterator[Rig]:
    """A running rig of `streams` encoders; `build` adds its nodes. Raises OSError where it cannot be had."""
    with ExitStack() as stack:
        made = Rig(stack, streams, fan)
        build(made, streams)
        made.start()
        yield made


def forwarder(made: Rig, streams: int) -> None:
    """One node: RTP in, RTP out."""
    node = made.node("forwarder")
    node.plane.set_port(OUT, PORT_EGRESS)
    node.open(OUT)
    for i in range(streams):
        made.egress(node, OUT, made.ingest(node, i), i)


def full_hop(cipher: int) -> Callable[[Rig, int], None]:
    """Two nodes and a link that loses LOSS either way: RTP in, sealed symbols and repair across, RTP out."""

    def build(made: Rig, streams: int) -> None:
        edge, region = made.node("edge"), made.node("region")
        to_region, from_edge = made.join(edge, region, cipher)
        region.plane.set_port(EGRESS, PORT_EGRESS)
        region.open(EGRESS)
        for i in range(streams):
            edge.plane.add_feed(made.ingest(edge, i), to_region, i + 1, 0, 1)
            track = region.plane.add_track(clock_rate=90000, hold_us=HOLD_US)
            made.egress(region, EGRESS, track, i)
            region.plane.add_route(from_edge, i + 1, 0, 1, track)

    return build
