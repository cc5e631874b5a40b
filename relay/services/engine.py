"""The packet plane in an asyncio program: its sockets, and its events on the event loop.

The engine's thread needs nothing of the event loop: when that stands still, packets go on, and events wait in
the plane's bounded queues.
"""

import asyncio
import errno
import os
import socket
from collections.abc import Callable
from contextlib import suppress

from relay.errors import RelayError
from relay_ext.control import Event, Plane
from relay_ext.engine import Engine

Address = tuple[str, int]  # host (an IP address, or a name of this machine) and UDP port

IPV6_MISSING = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)


class PortError(RelayError, OSError):
    """A UDP port could not be had; the message is a sentence that says which and what to do."""


class EngineService:
    """Runs an Engine and calls `on_event` on the event loop for each event of its plane, in order.

    `on_failure` is called once, with a sentence, when the engine's thread has ended by itself. An exception
    in `on_event` goes to the loop's exception handler and does not keep the next event from being handled.
    `gro`, `gso` and `coalesce_us` are Engine's.
    """

    def __init__(
        self,
        plane: Plane,
        on_event: Callable[[Event], None],
        on_failure: Callable[[str], None],
        *,
        coalesce_us: int,
        gro: bool = True,
        gso: bool = True,
    ) -> None:
        self.engine = Engine(plane, gro=gro, gso=gso, coalesce_us=coalesce_us)
        self._plane = plane
        self._on_event = on_event
        self._on_failure = on_failure
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        """Starts the thread; the events go to the running event loop. Raises RuntimeError without one."""
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self.engine.event_fd, self._drain)
        self.engine.start()

    def stop(self) -> None:
        """Ends the thread, closes the ports and handles the events that were left. May be called again."""
        self._unwatch()
        self.engine.stop()
        self._handle_events()

    def open_port(self, number: int, address: Address, *, probe_mtu: bool = False) -> Address:
        """Gives the plane, as its port `number`, a socket bound to `address`; returns what it is bound to.

        Raises PortError (see `open_udp`), and ValueError when the number is taken.
        """
        with open_udp(address) as sock:
            self.engine.add_port(number, sock, probe_mtu=probe_mtu)
            bound: Address = sock.getsockname()[:2]
            return bound

    def close_port(self, number: int) -> None:
        """Raises ValueError when there is no such port."""
        self.engine.remove_port(number)

    def _drain(self) -> None:
        with suppress(BlockingIOError):
            os.eventfd_read(self.engine.event_fd)
        self._handle_events()
        if not self.engine.alive:
            self._unwatch()
            self._on_failure(f"the packet plane has stopped: {self.engine.error}. Restart the node.")

    def _unwatch(self) -> None:
        if self._loop is not None and self.engine.event_fd >= 0:
            self._loop.remove_reader(self.engine.event_fd)

    def _handle_events(self) -> None:
        for event in self._plane.drain_events():
            try:
                self._on_event(event)
            except Exception as error:
                if self._loop is None:
                    raise
                message = f"an event of the packet plane was not handled: {event[:1]}"
                self._loop.call_exception_handler({"message": message, "exception": error})


def open_udp(address: Address, *, reuse: bool = False) -> socket.socket:
    """A UDP socket bound to `address`; port 0 takes a free one.

    Host "::" takes IPv4 as well, and becomes "0.0.0.0" where the kernel has no IPv6. `reuse` lets several
    sockets of this user share the port (SO_REUSEPORT). Raises PortError.
    """
    host, port = address
    try:
        return _bind(host, port, reuse)
    except OSError as error:
        if host == "::" and error.errno in IPV6_MISSING:
            return open_udp(("0.0.0.0", port), reuse=reuse)
        raise PortError(_sentence(host, port, error)) from error


def _bind(host: str, port: int, reuse: bool) -> socket.socket:
    family, _, _, _, name = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM, flags=socket.AI_PASSIVE)[0]
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        if reuse:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(name)
    except BaseException:
        sock.close()
        raise
    return sock


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
