"""The packet planes in an asyncio program: their sockets, and their events on the event loop.

An engine's thread needs nothing of the event loop: when that stands still, packets go on, and events wait in
the planes' bounded queues.
"""

import asyncio
import errno
import os
import socket
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from functools import partial

from relay.errors import RelayError
from relay.services.shards import total
from relay_ext.control import Event, Plane
from relay_ext.engine import Engine
from relay_ext.shards import join, steer

Address = tuple[str, int]  # host (an IP address, or a name of this machine) and UDP port

IPV6_MISSING = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)


class PortError(RelayError, OSError):
    """A UDP port could not be had; the message is a sentence that says which and what to do."""


class EngineService:
    """Runs an Engine a plane and calls `on_event` on the event loop for each event of a plane, in order.

    It joins the planes. `on_failure` is called, with a sentence, when the thread of an engine has ended by
    itself. An exception in `on_event` goes to the loop's exception handler and does not keep the next event
    from being handled.
    `gro`, `gso` and `coalesce_us` are Engine's.
    """

    def __init__(
        self,
        planes: Sequence[Plane],
        on_event: Callable[[Event], None],
        on_failure: Callable[[str], None],
        *,
        coalesce_us: int,
        gro: bool = True,
        gso: bool = True,
    ) -> None:
        self.engines = tuple(Engine(plane, gro=gro, gso=gso, coalesce_us=coalesce_us) for plane in planes)
        join(planes)  # each has an engine that the others can wake
        self._planes = tuple(planes)
        self._on_event = on_event
        self._on_failure = on_failure
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        """Starts the threads; the events go to the running event loop. Raises RuntimeError without one."""
        self._loop = asyncio.get_running_loop()
        for engine, plane in zip(self.engines, self._planes, strict=True):
            self._loop.add_reader(engine.event_fd, partial(self._drain, engine, plane))
            engine.start()

    def stop(self) -> None:
        """Ends the threads, closes the ports and handles the events that were left. May be called again."""
        for engine, plane in zip(self.engines, self._planes, strict=True):
            self._unwatch(engine)
            engine.stop()
            self._handle_events(plane)

    def open_port(self, number: int, address: Address, *, shard: int = 0) -> Address:
        """Gives a shard's plane, as its port `number`, a socket bound to `address`; what it is bound to.

        Raises PortError (see `open_udp`), and ValueError when the number is taken.
        """
        with open_udp(address) as sock:
            self.engines[shard].add_port(number, sock)
            bound: Address = sock.getsockname()[:2]
            return bound

    def open_hop_port(self, number: int, address: Address, interface: str | None = None) -> Address:
        """Gives every plane, as its port `number`, a socket bound to the same address, which is returned, and
        to the interface, if one is given.

        Each gets the datagrams whose receiver index names it, the first one all handshakes. Raises as
        `open_port`.
        """
        with ExitStack() as stack:
            shared = len(self.engines) > 1
            if shared:
                open_udp(
                    address, interface=interface
                ).close()  # a program that shares the port as well would not be noticed later
            first = stack.enter_context(open_udp(address, reuse=shared, interface=interface))
            bound: Address = first.getsockname()[:2]
            sockets = [first]
            if shared:
                _steer(first, len(self.engines))  # before there are others that the kernel could choose
            while len(sockets) < len(self.engines):
                same = address[0], bound[1]
                sockets.append(stack.enter_context(open_udp(same, reuse=True, interface=interface)))
            for engine, sock in zip(self.engines, sockets, strict=True):
                engine.add_port(number, sock, probe_mtu=True)
            return bound

    def close_hop_port(self, number: int) -> None:
        """Raises ValueError when there is no such port."""
        for engine in self.engines:
            engine.remove_port(number)

    def close_port(self, number: int, *, shard: int = 0) -> None:
        """Raises ValueError when there is no such port."""
        self.engines[shard].remove_port(number)

    def cpu_ns(self) -> list[int | None]:
        """CPU time that each engine's thread has used."""
        return [engine.cpu_ns for engine in self.engines]

    def counters(self) -> dict[str, int]:
        """Counters of all engines, added up."""
        return total(engine.counters() for engine in self.engines)

    def _drain(self, engine: Engine, plane: Plane) -> None:
        with suppress(BlockingIOError):
            os.eventfd_read(engine.event_fd)
        self._handle_events(plane)
        if not engine.alive:
            self._unwatch(engine)
            self._on_failure(f"the packet plane has stopped: {engine.error}. Restart the node.")

    def _unwatch(self, engine: Engine) -> None:
        if self._loop is not None and engine.event_fd >= 0:
            self._loop.remove_reader(engine.event_fd)

    def _handle_events(self, plane: Plane) -> None:
        for event in plane.drain_events():
            try:
                self._on_event(event)
            except Exception as error:
                if self._loop is None:
                    raise
                message = f"an event of the packet plane was not handled: {event[:1]}"
                self._loop.call_exception_handler({"message": message, "exception": error})


def open_udp(address: Address, *, reuse: bool = False, interface: str | None = None) -> socket.socket:
    """A UDP socket bound to `address`; port 0 takes a free one.

    Host "::" takes IPv4 as well, and becomes "0.0.0.0" where the kernel has no IPv6. `reuse` lets several
    sockets of this user share the port (SO_REUSEPORT). With an `interface` it uses that one alone
    (SO_BINDTODEVICE). Raises PortError.
    """
    host, port = address
    try:
        return _bind(host, port, reuse, interface)
    except PortError:
        raise
    except OSError as error:
        if host == "::" and error.errno in IPV6_MISSING:
            return open_udp(("0.0.0.0", port), reuse=reuse, interface=interface)
        raise PortError(_sentence(host, port, error)) from error


def _bind(host: str, port: int, reuse: bool, interface: str | None) -> socket.socket:
    family, _, _, _, name = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM, flags=socket.AI_PASSIVE)[0]
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        if reuse:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if interface:
            _use_alone(sock, interface)
        sock.bind(name)
    except BaseException:
        sock.close()
        raise
    return sock


def _use_alone(sock: socket.socket, interface: str) -> None:
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
    except PermissionError as error:
        raise PortError(f"{interface} cannot be bound to: before Linux 5.7 that takes CAP_NET_RAW") from error


def _steer(sock: socket.socket, shards: int) -> None:
    try:
        steer(sock.fileno(), shards)
    except OSError as error:
        raise PortError(
            f"this kernel cannot share a UDP port among threads ({error.strerror}); set [engine] threads = 1"
        ) from error


def _sentence(host: str, port: int, error: OSError) -> str:
    """What is wrong with an address, and what to do about it."""
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    if isinstance(error, socket.gaierror):
        return f"cannot listen on {address}: {error.strerror}; give an address of this machine"
    match error.errno:
        case errno.EADDRINUSE:
            return (
                f"cannot listen on {address}: UDP port {port} is in use; "
                f"stop the other program (ss -lunp 'sport = :{port}' names it) or choose another port"
            )
        case errno.EADDRNOTAVAIL:
            return f"cannot listen on {address}: this machine does not have that address (see: ip addr)"
        case errno.EACCES:
            return (
                f"cannot listen on {address}: ports below 1024 need CAP_NET_BIND_SERVICE; choose a higher one"
            )
        case _:
            return f"cannot listen on {address}: {error.strerror}"
