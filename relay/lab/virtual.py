"""Nodes in virtual time: the whole of a node but its sockets, on an emulated network."""

import random
from collections.abc import Callable
from pathlib import Path

from relay.config import Address, Config
from relay.core.noise import public_key
from relay.lab.network import Network, Received, Sent
from relay.services.machine import HOP_PORT, Machine
from relay.services.shards import Shards
from relay.wire.hop import CIPHER_CHACHA20_POLY1305, DatagramType
from relay_ext import control
from relay_ext.shards import SHARDS_MAX, join


def no_file(path: Path) -> str:
    raise FileNotFoundError(path)


class MemoryStore:
    """What a node keeps over its restarts, where there is no file."""

    def __init__(self) -> None:
        self.text = ""

    def load(self) -> str:
        return self.text

    def save(self, text: str) -> None:
        self.text = text


class VirtualNode:
    """A node at `host` on a Network. What is random comes from the seed, so that a run can be repeated.

    To the network a port's number is that of its plane times SHARDS_MAX plus the shard's; the hop port, which
    the planes share, is number HOP_PORT.
    """

    def __init__(
        self,
        network: Network,
        host: str,
        config: Config,
        *,
        static: bytes | None,
        seed: int,
        slabs: int = control.DEFAULT_SLABS,
        now_ns: int = 0,
        ciphers: tuple[int, ...] = (CIPHER_CHACHA20_POLY1305,),
        read: Callable[[Path], str] = no_file,
        store: MemoryStore | None = None,
    ) -> None:
        self.network = network
        self.host = host
        self._out: list[Sent] = []
        self._next_port = HOP_PORT + 1
        """Of any shard: nothing is gained from numbers that are closer together."""
        self._random = random.Random(seed)
        public = public_key(static) if static else bytes(32)
        self.shards = Shards(public, config.engine.threads, slabs=slabs, now_ns=now_ns)
        join(self.shards.planes)
        self.machine = Machine(
            config,
            self.shards,
            self,
            static=static,
            random_bytes=self.random_bytes,
            resolve=lambda host, port: ((host, port),),
            read=read,
            store=store or MemoryStore(),
            wall_clock=lambda: 0.0,
            ciphers=ciphers,
        )
        if config.hop is not None:
            for plane in self.shards.planes:
                plane.set_port(HOP_PORT, control.PORT_HOP)
            network.attach(self, HOP_PORT, (host, config.hop.listen.port))
        self.machine.start(now_ns)
        network.wake(self)

    def random_bytes(self, n: int) -> bytes:
        return self._random.randbytes(n)

    # ---- Ports -------------------------------------------------------------------------------

    def open(self, address: Address, shard: int) -> int:
        port = self._next_port
        self._next_port += 1
        self.network.attach(self, port * SHARDS_MAX + shard, (self.host, address.port or 40000 + port))
        return port

    def close(self, port: int, shard: int) -> None:
        """The network keeps the address; the plane counts what still arrives there."""

    # ---- Node --------------------------------------------------------------------------------

    def receive(self, now_ns: int, datagrams: list[Received]) -> None:
        received: list[list[Received]] = [[] for _ in self.shards.planes]
        for port, source, data in datagrams:
            received[self._shard(port, data)].append((port // SHARDS_MAX, source, data))
        for plane, batch in zip(self.shards.planes, received, strict=True):
            self._queue(plane.shard, plane.receive(now_ns, batch))
        self._handle(now_ns)

    def poll(self, now_ns: int) -> tuple[list[Sent], int | None]:
        self._poll_planes(now_ns)  # commands take effect at the time that the plane last saw
        self._handle(now_ns)
        deadlines = [self._decide(now_ns), *self._poll_planes(now_ns)]
        out, self._out = self._out, []
        return out, min(deadlines)

    def _poll_planes(self, now_ns: int) -> list[int]:
        """Until none has anything more to do now, nor to take from another; their deadlines."""
        while True:
            deadlines = []
            for plane in self.shards.planes:
                sent, deadline = plane.poll(now_ns)
                self._queue(plane.shard, sent)
                deadlines += [] if deadline is None else [deadline]
            if not any(plane.mail_waits for plane in self.shards.planes):
                return deadlines

    def _shard(self, port: int, data: bytes) -> int:
        if port == HOP_PORT and len(data) > 7 and data[0] >= DatagramType.SOURCE:  # handshakes name no shard
            return data[7] % len(self.shards)
        return port % SHARDS_MAX

    def _queue(self, shard: int, sent: list[Sent]) -> None:
        self._out += [(port and port * SHARDS_MAX + shard, to, data) for port, to, data in sent]

    def _decide(self, now_ns: int) -> int:
        return self.machine.poll(now_ns)

    def _handle(self, now_ns: int) -> None:
        for e in self.shards.drain_events():
            self.machine.handle(now_ns, e)

    def stop(self) -> None:
        """The process ends without a word."""
        self.network.detach(self)
        self.shards.close()


class Sink:
    """Collects what arrives at an address: `packets` of (ns, bytes)."""

    def __init__(self, network: Network, address: tuple[str, int]) -> None:
        self.packets: list[tuple[int, bytes]] = []
        network.attach(self, 0, address)

    def receive(self, now_ns: int, datagrams: list[Received]) -> None:
        self.packets += [(now_ns, data) for _, _, data in datagrams]

    def poll(self, now_ns: int) -> tuple[list[Sent], int | None]:
        return [], None


class Source:
    """Sends packets to an address on a schedule: `make(i)` gives packet i, sent at start + i * interval."""

    def __init__(
        self,
        network: Network,
        address: tuple[str, int],
        to: tuple[str, int],
        make: Callable[[int], bytes],
        *,
        start_ns: int,
        interval_ns: int,
        count: int,
    ) -> None:
        self.sent = 0
        self._to = to
        self._make = make
        self._start_ns = start_ns
        self._interval_ns = interval_ns
        self._count = count
        network.attach(self, 0, address)
        network.wake(self)

    def receive(self, now_ns: int, datagrams: list[Received]) -> None:
        """What comes back (RTCP) is of no interest here."""

    def poll(self, now_ns: int) -> tuple[list[Sent], int | None]:
        out: list[Sent] = []
        while self.sent < self._count and self._due() <= now_ns:
            out.append((0, self._to, self._make(self.sent)))
            self.sent += 1
        return out, self._due() if self.sent < self._count else None

    def _due(self) -> int:
        return self._start_ns + self.sent * self._interval_ns
