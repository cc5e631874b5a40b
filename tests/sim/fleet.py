"""Nodes, links, encoders and players in virtual time. Everything random follows from the fleet's seed."""

import base64
import random
import struct
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from relay.config import Config, parse
from relay.core.noise import public_key
from relay.lab.link import LinkConfig, LinkProfile
from relay.lab.network import Address, Network, Received, Sent
from relay.lab.virtual import Sink, Source, VirtualNode
from relay.services.hops import Hop
from relay.wire import hop

MS = 1_000_000
SECOND = 1000 * MS

EDGE, REGION, REGION_2, ENCODER, PLAYER = "10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.8", "10.0.0.9"
HOP_PORT = 7400
PATTERN = random.Random("payload").randbytes(4096)


# ---- RTP --------------------------------------------------------------------------------------


def rtp(seq: int, timestamp: int, ssrc: int, payload: bytes, payload_type: int = 96) -> bytes:
    return struct.pack(">BBHII", 0x80, payload_type, seq & 0xFFFF, timestamp & 0xFFFFFFFF, ssrc) + payload


def payload_of(index: int, size: int) -> bytes:
    """The checkable payload of packet `index`: its number, then bytes that depend on it."""
    start = index * 7 % 2048
    return index.to_bytes(8, "big") + PATTERN[start : start + size - 8]


@dataclass(frozen=True)
class Packet:
    """An RTP packet as a player got it."""

    at_ns: int
    payload_type: int
    seq: int
    timestamp: int
    ssrc: int
    payload: bytes

    @property
    def index(self) -> int:
        """Which packet of the encoder it is. Fails unless the payload is that packet's, bit for bit."""
        index = int.from_bytes(self.payload[:8], "big")
        assert self.payload == payload_of(index, len(self.payload)), f"packet {index} was damaged"
        return index


def packet_of(at_ns: int, data: bytes) -> Packet:
    first, second, seq, timestamp, ssrc = struct.unpack_from(">BBHII", data)
    assert first == 0x80
    return Packet(at_ns, second & 0x7F, seq, timestamp, ssrc, data[12:])


@dataclass(frozen=True)
class Media:
    """A track, and what its encoder sends: `size` bytes of RTP every `interval_ns`."""

    kind: str
    codec: str
    payload_type: int
    listen: int
    """UDP port of the ingest."""
    player: int
    """UDP port of the player."""
    interval_ns: int
    size: int
    step: int
    """RTP timestamp units from one packet to the next."""


VIDEO = Media("video", "H264/90000", 96, 5004, 6004, 2_500_000, 1200, 225)
AUDIO = Media("audio", "opus/48000/2", 97, 5006, 6006, 20 * MS, 160, 960)
TRANSPORT = Media("av", "MP2T/90000", 33, 5010, 6010, 2_500_000, 1328, 225)


class Encoder:
    """Sends `count` packets of a track from `start_ns` on; `first` is the index of the first of them."""

    def __init__(
        self,
        network: Network,
        media: Media,
        *,
        start_ns: int,
        count: int,
        first: int = 0,
        ssrc: int = 0x1234,
        seq: int = 0,
        timestamp: int = 0,
        address: tuple[str, int] = (ENCODER, 5000),
        edge: str = EDGE,
    ) -> None:
        self.ssrc, self.count, self.first, self.start_ns = ssrc, count, first, start_ns

        def make(i: int) -> bytes:
            payload = payload_of(first + i, media.size - 12)
            return rtp(seq + i, timestamp + i * media.step, ssrc, payload, media.payload_type)

        self.source = Source(
            network,
            address,
            (edge, media.listen),
            make,
            start_ns=start_ns,
            interval_ns=media.interval_ns,
            count=count,
        )


class Script:
    """Sends datagrams on a schedule: (ns, from, to, payload). Counts bytes by the address that they were sent
    from, or answered to."""

    def __init__(self, network: Network, script: Iterable[tuple[int, Address, Address, bytes]]) -> None:
        self._script = deque(sorted(script, key=lambda entry: entry[0]))
        self._ports = {
            source: i for i, source in enumerate(dict.fromkeys(entry[1] for entry in self._script))
        }
        self._sources = list(self._ports)
        self.sent: Counter[Address] = Counter()
        self.answered: Counter[Address] = Counter()
        for source, port in self._ports.items():
            network.attach(self, port, source)

    def receive(self, now_ns: int, datagrams: list[Received]) -> None:
        for port, _, data in datagrams:
            self.answered[self._sources[port]] += len(data)

    def poll(self, now_ns: int) -> tuple[list[Sent], int | None]:
        out: list[Sent] = []
        while self._script and self._script[0][0] <= now_ns:
            _, source, to, data = self._script.popleft()
            self.sent[source] += len(data)
            out.append((self._ports[source], to, data))
        return out, self._script[0][0] if self._script else None


class Player:
    """What arrives at one address: RTP there, RTCP on the port after it."""

    def __init__(self, network: Network, media: Media, host: str = PLAYER) -> None:
        self._rtp = Sink(network, (host, media.player))
        self._rtcp = Sink(network, (host, media.player + 1))

    @property
    def packets(self) -> list[Packet]:
        return [packet_of(at_ns, data) for at_ns, data in self._rtp.packets]

    @property
    def rtcp(self) -> list[tuple[int, bytes]]:
        return self._rtcp.packets

    def indices(self) -> list[int]:
        """The encoder's packets that arrived, in the order of arrival. Fails unless every one is intact."""
        return [packet.index for packet in self.packets]

    def missing(self, indices: Iterable[int]) -> list[int]:
        return sorted(set(indices) - set(self.indices()))

    def steps(self) -> set[int]:
        """Differences of successive sequence numbers; {1} is an unbroken sequence."""
        seqs = [packet.seq for packet in self.packets]
        return {(b - a) & 0xFFFF for a, b in pairwise(seqs)}

    def longest_gap_ns(self) -> int:
        times = [packet.at_ns for packet in self.packets]
        return max(b - a for a, b in pairwise(times))


# ---- nodes ------------------------------------------------------------------------------------


def host_port(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@dataclass(frozen=True)
class NodeSpec:
    """A node of a fleet: what its configuration says."""

    name: str
    host: str
    calls: tuple[str, ...] = ()
    """Names of the peers that it calls."""
    called_by: tuple[str, ...] = ()
    ingest: tuple[Media, ...] = ()
    egress: tuple[Media, ...] = ()
    stream: str = "studio"
    player: str = PLAYER
    budget_ms: int = 200
    latency_ms: int | None = None
    max_overhead: float = 1.0
    ciphers: tuple[int, ...] = (hop.CIPHER_CHACHA20_POLY1305,)
    threads: int = 1
    role: str = "edge"
    fleet: str = ""
    """The `[fleet]` section, if it has one."""
    uplinks: tuple[str, ...] = ()
    """Local addresses that it calls its peers from; with `:PORT`, at which they can call it."""
    hosts: tuple[str, ...] = ()
    """Addresses at which it is called; empty: `host`."""


class Fleet:
    """A network, and the nodes that were put into it. `now_ns` is its time."""

    def __init__(self, seed: int, specs: Iterable[NodeSpec], node: type[VirtualNode] = VirtualNode) -> None:
        self.seed = seed
        self.network = Network(seed)
        self.specs = {spec.name: spec for spec in specs}
        self.nodes: dict[str, VirtualNode] = {}
        self._node = node
        self._started = 0

    @property
    def now_ns(self) -> int:
        return self.network.now_ns

    def key(self, name: str) -> bytes:
        """A node's private key."""
        return random.Random(f"{self.seed} {name}").randbytes(32)

    def link(self, a: str, b: str, profile: LinkProfile) -> None:
        """Both directions between two hosts."""
        self.network.set_link(a, b, profile)
        self.network.set_link(b, a, profile)

    def start(self, name: str, **changes: Any) -> VirtualNode:
        """A new process of that node, after `stop` if there was one. `changes` go into its NodeSpec."""
        self.specs[name] = replace(self.specs[name], **changes)
        self._started += 1
        self.nodes[name] = self._node(
            self.network,
            self.specs[name].host,
            self.config(name),
            static=self.key(name),
            seed=hash((self.seed, self._started)),
            now_ns=self.now_ns,
            ciphers=self.specs[name].ciphers,
            **self.outside(name),
        )
        return self.nodes[name]

    def outside(self, name: str) -> dict[str, Any]:
        """What a node is given beside its configuration."""
        return {}

    def start_all(self) -> None:
        for name in self.specs:
            self.start(name)

    def stop(self, name: str) -> None:
        self.nodes.pop(name).stop()

    def run(self, seconds: float) -> None:
        """So much further."""
        self.network.run(self.now_ns + int(seconds * SECOND))

    def config(self, name: str) -> Config:
        spec = self.specs[name]
        wild = "::" if ":" in spec.host else "0.0.0.0"
        lines = [f'[node]\nname = "{name}"\nrole = "{spec.role}"\n[engine]\nthreads = {spec.threads}']
        if spec.calls or spec.called_by or spec.fleet:
            hop_host = spec.host if any(":" in uplink for uplink in spec.uplinks) else wild
            lines.append(f'[hop]\nlisten = "{host_port(hop_host, HOP_PORT)}"\nbudget_ms = {spec.budget_ms}')
            lines.append(f"max_overhead = {spec.max_overhead}")
        for uplink in spec.uplinks:
            address, _, port = uplink.partition(":")
            lines.append(f'[[hop.uplinks]]\naddress = "{address}"' + (port and f"\nport = {port}"))
        lines.append(spec.fleet)
        for peer in (*spec.calls, *spec.called_by):
            public = base64.b64encode(public_key(self.key(peer))).decode()
            lines.append(f'[[hop.peers]]\nname = "{peer}"\npublic_key = "{public}"')
            if peer in spec.calls:
                hosts = self.specs[peer].hosts or (self.specs[peer].host,)
                addresses = ", ".join(f'"{host_port(host, HOP_PORT)}"' for host in hosts)
                lines.append(f"addresses = [{addresses}]")
        if spec.ingest:
            tracks = ", ".join(
                f'{{kind="{m.kind}", listen="{host_port(wild, m.listen)}", payload_type={m.payload_type}, '
                f'codec="{m.codec}"}}'
                for m in spec.ingest
            )
            lines.append(f'[[ingest.rtp]]\nstream = "{spec.stream}"\ntracks = [{tracks}]')
            if spec.latency_ms is not None:
                lines.append(f"latency_ms = {spec.latency_ms}")
        if spec.egress:
            to = ", ".join(
                f'{{kind="{m.kind}", address="{host_port(spec.player, m.player)}"}}' for m in spec.egress
            )
            lines.append(f'[[egress.rtp]]\nstream = "{spec.stream}"\nto = [{to}]')
        return parse("\n".join(lines), {})

    # ---- what the nodes say --------------------------------------------------------------------

    def hop(self, name: str, peer: str) -> Hop:
        hops = self.nodes[name].machine.hops
        assert hops is not None
        hop = hops.named(peer)
        assert hop is not None
        return hop

    def hop_status(self, name: str, peer: str) -> dict[str, Any]:
        return next(s for s in self.nodes[name].machine.hop_statuses() if s["peer"] == peer)

    def stream(self, name: str, stream: str = "studio") -> dict[str, Any]:
        statuses = self.nodes[name].machine.stream_statuses(self.now_ns)
        return next(s for s in statuses if s["name"] == stream)

    def slabs(self) -> dict[str, int]:
        return {name: node.shards.slabs_in_use for name, node in self.nodes.items()}


def edge_and_region(
    seed: int,
    link: LinkConfig | None = None,
    *,
    tracks: tuple[Media, ...] = (VIDEO,),
    node: type[VirtualNode] = VirtualNode,
    hosts: tuple[str, str, str] = (EDGE, REGION, PLAYER),
    **spec: Any,
) -> Fleet:
    """One edge that calls one region, both started; `spec` goes into both NodeSpecs."""
    edge, region, player = hosts
    fleet = Fleet(
        seed,
        [
            NodeSpec("region", region, called_by=("edge",), egress=tracks, player=player, **spec),
            NodeSpec("edge", edge, calls=("region",), ingest=tracks, **spec),
        ],
        node,
    )
    fleet.link(edge, region, link or LinkConfig(delay_ms=20))
    fleet.start_all()
    return fleet
