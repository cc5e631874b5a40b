"""The emulated link as a UDP proxy on real sockets.

Clients send to the proxy, which forwards to one target through the link "up" and returns what the target
answers through the link "down". Each client gets a socket of its own towards the target, as behind a NAT.
All clients share the two links. One timer stands at the earliest deadline of both links. A datagram is never
delivered early; event loops count in ms, so it is up to about 1.5 ms late, and more when the machine stalls.

    async with Proxy(("127.0.0.1", 0), target, up=LinkConfig(delay_ms=50, loss=0.3), seed=1) as proxy:
        connect_to(proxy.address)

`python -m relay.lab.proxy --help` is the same as a program.
"""

import argparse
import asyncio
import json
import signal
import socket
import struct
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal, Self

try:
    from uvloop import new_event_loop
except ImportError:  # it has no build for every board
    from asyncio import new_event_loop  # type: ignore[assignment]

from relay.lab.link import Link, LinkConfig, LinkProfile, bursts, packet_size, seeded

Direction = Literal["up", "down"]
FateHook = Callable[[Direction, bytes, bool], object]
"""Called for each datagram as it enters a link: (direction, payload, whether the link loses it)."""
LatenessHook = Callable[[int], object]
"""Called for each datagram that is sent on, with the ns that have passed since it came out of its link."""

MAX_CLIENTS = 64
MAX_DATAGRAM = 65_535  # bytes
DRAIN_LIMIT_S = 5.0  # longest wait at the close for what is under way

_BATCH = 64  # datagrams read from one socket before the others have their turn
_SOCKET_BUFFER = 1 << 20  # bytes; half a second of 16 Mb/s
_SHORTEST_WAIT_S = 0.001  # event loops count in ms: a shorter wait would spin
_SO_MEMINFO = 55  # asm-generic/socket.h; nine 32-bit values, the last counts dropped datagrams


@dataclass(slots=True)
class ProxyCounters:
    """What happened outside the two links. All counts only rise."""

    clients: int = 0
    """Clients seen, those that came back after an eviction included."""
    evicted_clients: int = 0
    """Clients that made room for another: those idle for the longest time."""
    stray: int = 0
    """Datagrams to a client's socket from somebody else than the target."""
    send_errors: int = 0
    """Datagrams that a socket would not take: buffer full, no route, or the client evicted meanwhile."""
    abandoned: int = 0
    """Datagrams still under way when closing had waited for DRAIN_LIMIT_S."""


@dataclass(slots=True, eq=False)
class _Client:
    address: Any  # as recvfrom gives it: two parts for IPv4, four for IPv6
    upstream: socket.socket


class Proxy:
    """Forwards UDP between clients and a target over an emulated link; an async context manager.

    The times in the profiles `up` and `down` count from construction. Port 0 in `listen` is any free port.
    """

    def __init__(
        self,
        listen: tuple[str, int],
        target: tuple[str, int],
        up: LinkProfile | None = None,
        down: LinkProfile | None = None,
        seed: int = 0,
        *,
        max_clients: int = MAX_CLIENTS,
        on_datagram: FateHook | None = None,
        on_late: LatenessHook | None = None,
    ) -> None:
        if max_clients < 1:
            raise ValueError(f"max_clients is {max_clients}: expected 1 or more")
        self.counters = ProxyCounters()
        self._listen, self._target = listen, target
        self._max_clients = max_clients
        self._on_datagram = on_datagram
        self._on_late = on_late
        self._links: dict[Direction, Link[tuple[_Client, bytes]]] = {
            "up": Link(up or LinkConfig(), seeded(seed, "up"), time.monotonic_ns()),
            "down": Link(down or LinkConfig(), seeded(seed, "down"), time.monotonic_ns()),
        }
        self._clients: OrderedDict[Any, _Client] = OrderedDict()  # the one idle for the longest time first
        self._timer: asyncio.TimerHandle | None = None
        self._armed_ns = 0
        self._drained: asyncio.Future[None] | None = None
        self._closed_socket_drops = 0

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def start(self) -> None:
        """Open the sockets. Raises OSError when an address does not resolve or cannot be bound."""
        self._loop = asyncio.get_running_loop()
        self._target_family, self._target_address = await self._resolve(self._target)
        family, address = await self._resolve(self._listen)
        self._listener = _open_socket(family)
        try:
            self._listener.bind(address)
        except OSError:
            self._listener.close()
            raise
        self._loop.add_reader(self._listener, self._read_clients)

    async def close(self) -> None:
        """Take no more, deliver what is under way (for DRAIN_LIMIT_S at most), close the sockets."""
        if self._listener.fileno() < 0:
            return
        self._read_clients()
        self._loop.remove_reader(self._listener)
        for client in self._clients.values():
            self._read_target(client)
            self._loop.remove_reader(client.upstream)
        try:
            if self._in_flight():
                self._drained = self._loop.create_future()
                await asyncio.wait([self._drained], timeout=DRAIN_LIMIT_S)
        finally:
            self.counters.abandoned += self._in_flight()
            if self._timer is not None:
                self._timer.cancel()
            while self._clients:
                self._forget(self._clients.popitem()[1])
            self._close_socket(self._listener)

    @property
    def address(self) -> tuple[str, int]:
        """The host and port on which the proxy listens."""
        host, port, *_ = self._listener.getsockname()
        return host, port

    def link(self, direction: Direction) -> Link[tuple[_Client, bytes]]:
        """The link of a direction, for its counters."""
        return self._links[direction]

    def set_link(self, direction: Direction, profile: LinkProfile) -> None:
        """Set what a direction does from now on; the times of the profile count from now."""
        self._links[direction].configure(time.monotonic_ns(), profile)
        self._arm()

    def kernel_drops(self) -> int:
        """Datagrams that the kernel dropped because the proxy read too late: loss that no seed made."""
        sockets = [self._listener, *(client.upstream for client in self._clients.values())]
        return self._closed_socket_drops + sum(_dropped(s) for s in sockets)

    async def _resolve(self, address: tuple[str, int]) -> tuple[socket.AddressFamily, Any]:
        found = await self._loop.getaddrinfo(*address, type=socket.SOCK_DGRAM)
        return found[0][0], found[0][4]

    def _read_clients(self) -> None:
        for _ in range(_BATCH):
            try:
                payload, source = self._listener.recvfrom(MAX_DATAGRAM)
            except BlockingIOError:
                break
            self._enter("up", self._client(source), payload)
        self._deliver()

    def _read_target(self, client: _Client) -> None:
        for _ in range(_BATCH):
            try:
                payload, source = client.upstream.recvfrom(MAX_DATAGRAM)
            except BlockingIOError:
                break
            if source == self._target_address:
                self._enter("down", client, payload)
            else:
                self.counters.stray += 1
        self._deliver()

    def _enter(self, direction: Direction, client: _Client, payload: bytes) -> None:
        now_ns = time.monotonic_ns()  # not once a batch: a datagram may have arrived since the batch began
        host = self._target_address[0] if direction == "up" else client.address[0]
        comes_out = self._links[direction].send(now_ns, packet_size(len(payload), host), (client, payload))
        if self._on_datagram is not None:
            self._on_datagram(direction, payload, not comes_out)

    def _deliver(self) -> None:
        """Send on what has come out of the links, and set the timer for the rest."""
        now_ns = time.monotonic_ns()
        for due_ns, (client, payload) in self._links["up"].poll(now_ns):
            self._emit(client.upstream, payload, self._target_address, due_ns)
        for due_ns, (client, payload) in self._links["down"].poll(now_ns):
            self._emit(self._listener, payload, client.address, due_ns)
        self._arm()
        if self._drained is not None and not self._drained.done() and not self._in_flight():
            self._drained.set_result(None)

    def _emit(self, out: socket.socket, payload: bytes, address: Any, due_ns: int) -> None:
        if self._on_late is not None:
            self._on_late(time.monotonic_ns() - due_ns)
        try:
            out.sendto(payload, address)
        except OSError:
            self.counters.send_errors += 1

    def _arm(self) -> None:
        deadlines = [d for link in self._links.values() if (d := link.deadline()) is not None]
        if not deadlines:
            return
        due_ns = min(deadlines)
        if self._timer is not None:
            if self._armed_ns <= due_ns:
                return
            self._timer.cancel()
        self._armed_ns = due_ns
        wait_s = max((due_ns - time.monotonic_ns()) / 1e9, _SHORTEST_WAIT_S)
        self._timer = self._loop.call_later(wait_s, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._deliver()

    def _in_flight(self) -> int:
        return sum(link.in_flight() for link in self._links.values())

    def _client(self, address: Any) -> _Client:
        """The client at an address, now the last one to be evicted."""
        client = self._clients.get(address)
        if client is not None:
            self._clients.move_to_end(address)
            return client
        if len(self._clients) >= self._max_clients:
            self.counters.evicted_clients += 1
            self._forget(self._clients.popitem(last=False)[1])
        self.counters.clients += 1
        client = self._clients[address] = _Client(address, _open_socket(self._target_family))
        self._loop.add_reader(client.upstream, partial(self._read_target, client))
        return client

    def _forget(self, client: _Client) -> None:
        self._loop.remove_reader(client.upstream)
        self._close_socket(client.upstream)

    def _close_socket(self, closing: socket.socket) -> None:
        self._closed_socket_drops += _dropped(closing)
        closing.close()


def _open_socket(family: socket.AddressFamily) -> socket.socket:
    """A UDP socket, not connected, so that an ICMP error about one datagram does not fail the next one."""
    opened = socket.socket(family, socket.SOCK_DGRAM)
    opened.setblocking(False)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SOCKET_BUFFER)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BUFFER)
    if family == socket.AF_INET6:
        opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)  # "::" takes IPv4 clients as well
    return opened


def _dropped(of: socket.socket) -> int:
    drops: int = struct.unpack("9I", of.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 36))[-1]
    return drops


def parse_address(text: str) -> tuple[str, int]:
    """(host, port) of "host:port" or "[IPv6]:port". Raises ValueError."""
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"{text}: an IPv6 address is written in brackets, [::1]:7400")
    if not (host and colon and port.isascii() and port.isdigit() and int(port) <= 65_535):
        raise ValueError(f"{text}: expected HOST:PORT")
    return host, int(port)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m relay.lab.proxy",
        description="A UDP proxy that behaves like a bad link, the same in both directions.",
        epilog="Runs until Ctrl-C or SIGTERM, then prints its counters as JSON.",
    )
    parser.add_argument("--listen", required=True, metavar="HOST:PORT", help="where clients send to")
    parser.add_argument("--target", required=True, metavar="HOST:PORT", help="where it is forwarded to")
    for name, default, text in (
        ("loss", 0.0, "share of the datagrams lost each way, 0 to 1"),
        ("burst", 0.0, "mean length of a burst of losses in datagrams; 0: each is lost by itself"),
        ("rtt", 0.0, "round trip in ms, half of it each way"),
        ("jitter", 0.0, "delay variation in ms, uniform, each way"),
        ("rate", 0.0, "capacity in bit/s each way; 0: no limit"),
        ("queue", 100.0, "longest wait for that capacity in ms"),
        ("reorder", 0.0, "share of the datagrams held back"),
        ("reorder-ms", 0.0, "how long they are held back"),
        ("duplicate", 0.0, "share of the datagrams that come twice"),
        ("outage-every", 0.0, "period of an outage in s; 0: none"),
        ("outage-ms", 0.0, "length of each outage"),
    ):
        parser.add_argument(
            f"--{name}", type=float, default=default, metavar="X", help=f"{text} ({default:g})"
        )
    parser.add_argument("--mtu", type=int, default=65_535, metavar="BYTES", help="largest IP packet (65535)")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of everything random (1)")
    return parser


def _config(args: argparse.Namespace) -> LinkConfig:
    return LinkConfig(
        delay_ms=args.rtt / 2,
        jitter_ms=args.jitter,
        loss=bursts(args.loss, args.burst) if args.burst else args.loss,
        rate_bps=args.rate or None,
        queue_ms=args.queue,
        mtu_bytes=args.mtu,
        reorder=args.reorder,
        reorder_ms=args.reorder_ms,
        duplicate=args.duplicate,
        outage_every_s=args.outage_every,
        outage_ms=args.outage_ms,
    )


async def _run(proxy: Proxy) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with proxy:
        host, port, *_ = proxy.address
        print(f"listening on {host} port {port}", file=sys.stderr, flush=True)
        await stop.wait()
        drops = proxy.kernel_drops()
    links = {name: asdict(proxy.link(name).counters) for name in ("up", "down")}
    print(json.dumps({**links, **asdict(proxy.counters), "kernel_drops": drops}))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the proxy until a signal. 0 done, 1 failed while running, 2 wrong usage."""
    parser = _parser()
    args = parser.parse_args(argv)
    try:
        config = _config(args)
        proxy = Proxy(parse_address(args.listen), parse_address(args.target), config, config, args.seed)
    except ValueError as error:
        parser.error(str(error))
    try:
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(_run(proxy))
    except OSError as error:
        print(f"proxy: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
