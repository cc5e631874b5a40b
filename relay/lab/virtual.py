"""Nodes in virtual time: the whole of a node but its sockets, on an emulated network."""

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from relay.config import Address, Config
from relay.core.admission import PER_BPS
from relay.core.noise import public_key
from relay.lab.network import Network, Received, Sent
from relay.services import carry
from relay.services.machine import Machine, Outside
from relay.services.shards import Shards
from relay.services.uplinks import HOP_PORT, UPLINK_PORTS, Binding
from relay.wire.health import RATIO, Digest
from relay.wire.hop import CIPHER_CHACHA20_POLY1305, DatagramType
from relay_ext import control
from relay_ext.shards import SHARDS_MAX, join

WELL = Digest(headroom_permille=RATIO, loop_lag_ms=0, memory_available_permille=RATIO)
"""The board of a virtual node, until a test gives it another."""


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

    To the network a port's number is that of its plane times SHARDS_MAX plus the shard's; ports for traffic
    with peers, which the planes share, count as the first one's.
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
        share_per_bps: float = PER_BPS,
    ) -> None:
        self.network = network
        self.host = host
        self._out: list[Sent] = []
        self._next_port = UPLINK_PORTS.stop
        """Of any shard: nothing is gained from numbers that are closer together."""
        self._random = random.Random(seed)
        self.facts = WELL
        self.wall_s = 0.0
        """What the wall clock shows, in seconds since 1970."""
        self._public = public_key(static) if static else bytes(32)
        self._threads, self._slabs = config.engine.threads, slabs
        self.shards = self._new_shards(now_ns)
        world = Outside(
            shards=self.shards,
            ports=self,
            random_bytes=self.random_bytes,
            resolve=lambda host, port: ((host, port),),
            index_of=lambda _: None,
            routes=lambda: (),
            read=read,
            store=store or MemoryStore(),
            wall_clock=lambda: self.wall_s,
            look=self.look,
        )
        self._outside = world
        self.machine = Machine(config, world, static=static, ciphers=ciphers, share_per_bps=share_per_bps)
        if config.hop is not None:
            self._open_hop(HOP_PORT, (host, config.hop.listen.port))
        self.machine.start(now_ns)
        network.wake(self)

    def _new_shards(self, now_ns: int) -> Shards:
        shards = Shards(self._public, self._threads, slabs=self._slabs, now_ns=now_ns)
        join(shards.planes)
        return shards

    def hand_over(self) -> None:
        """Another process goes on from here."""
        machine, planes = carry.save(self.machine, vars(self._outside)), self.shards.save()
        self.shards.close()
        self.shards = self._new_shards(self.network.now_ns)
        self._outside = replace(self._outside, shards=self.shards)
        self.shards.load(planes)
        self.machine = carry.load(machine, vars(self._outside))

    def random_bytes(self, n: int) -> bytes:
        return self._random.randbytes(n)

    def look(self) -> None:
        """The board is read; what is seen counts when the machine is next polled."""
        self.machine.fleet.observe(self.network.now_ns, self.facts)

    def show(self, facts: Digest) -> None:
        """From now on the board is like that."""
        self.facts = facts
        self.look()
        self.network.wake(self)

    # ---- Ports -------------------------------------------------------------------------------

    def open(self, address: Address, shard: int) -> int:
        port = self._next_port
        self._next_port += 1
        self.network.attach(
            self, port * SHARDS_MAX + shard, (self.host, address.port or 40001 + port - UPLINK_PORTS.stop)
        )
        return port

    def close(self, port: int, shard: int) -> None:
        """The network keeps the address; the plane counts what still arrives there."""

    def open_uplink(self, number: int, binding: Binding) -> None:
        if binding.host is None:
            raise OSError("an emulated node has addresses, but no interfaces")
        self._open_hop(number, (binding.host, binding.port or 41000 + number))

    def close_uplink(self, number: int) -> None:
        raise AssertionError("a socket that is bound to an address stays open when that goes")

    def _open_hop(self, number: int, address: tuple[str, int]) -> None:
        for plane in self.shards.planes:
            plane.set_port(number, control.PORT_HOP)
        self.network.attach(self, number * SHARDS_MAX, address)

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
        if (
            port // SHARDS_MAX < UPLINK_PORTS.stop and len(data) > 7 and data[0] >= DatagramType.SOURCE
        ):  # handshakes name no shard
            return data[7] % len(self.shards)
        return port % SHARDS_MAX

    def _queue(self, shard: int, sent: list[Sent]) -> None:
        for port, to, data in sent:
            shared = port < UPLINK_PORTS.stop
            self._out.append((port * SHARDS_MAX + (0 if shared else shard), to, data))

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
