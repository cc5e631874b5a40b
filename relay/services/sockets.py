"""The sockets of a node, so kept that the process after this one can go on with them.

Each has a name that says what it is bound to. The service manager keeps a copy, so that after a crash what
arrives meanwhile waits in the socket's buffer and nobody else can take its port.
"""

import errno
import socket
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Protocol

from relay.errors import RelayError
from relay_ext.shards import steer

Address = tuple[str, int]  # host (an IP address, or a name of this machine) and port

IPV6_MISSING = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)


class PortError(RelayError, OSError):
    """A UDP port could not be had; the message is a sentence that says which and what to do."""


class Keeper(Protocol):
    """Keeps copies of sockets beyond the end of this process."""

    def keep(self, name: str, sock: socket.socket) -> None: ...

    def drop(self, name: str) -> None:
        """Returns when its copy is closed."""
        ...


class Sockets:
    """`left` are those that the process before left, by name; each is used when the same is asked for."""

    def __init__(self, keeper: Keeper, left: Mapping[str, socket.socket]) -> None:
        self._keeper = keeper
        self._left = dict(left)
        self._open: dict[str, socket.socket] = {}

    def udp(self, address: Address, shard: int = 0) -> tuple[str, socket.socket]:
        """A UDP socket as `open_udp` makes it, for a shard, and its name. Raises PortError."""
        (found,) = self._take(f"udp {shard}", address, None, 1)
        return found

    def shared(self, address: Address, count: int, interface: str | None) -> list[tuple[str, socket.socket]]:
        """`count` UDP sockets bound to the same address, and to the interface, if one is given.

        Each gets the datagrams whose receiver index names it, the first one all handshakes. Raises PortError.
        """
        return self._take(f"hop {count}", address, interface, count)

    def tcp(self, address: Address) -> list[socket.socket]:
        """Sockets that listen, one for each address of the host. Raises OSError.

        Were the event loop to look the host up, it would start four threads that stay for good.
        """
        host, port = address
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        bound = []
        for i, (family, *_, name) in enumerate(dict.fromkeys(found)):
            own = self._free_name(f"tcp {host} {port} {i}")
            sock = self._left.pop(own, None)
            if sock is None:
                self.close_left(port)
                sock = socket.create_server(name, family=family)
                self._keeper.keep(own, sock)
            self._open[own] = sock
            bound.append(sock)
        return bound

    @property
    def all(self) -> dict[str, socket.socket]:
        """Those that are open, by name."""
        return self._open

    def inherit(self, left: Mapping[str, socket.socket]) -> None:
        """More that the process before has left."""
        self._left.update(left)

    def take(self, name: str) -> socket.socket:
        """One that it had open. Raises KeyError."""
        self._open[name] = self._left.pop(name)
        return self._open[name]

    def close(self, name: str) -> None:
        self._keeper.drop(name)
        self._open.pop(name).close()

    def release(self) -> None:
        """Close all; the copies that are kept stay."""
        for sock in self._open.values():
            sock.close()
        self._open.clear()

    def close_left(self, port: int | None = None) -> None:
        """Close what the process before left and nobody has asked for: all of it, or what has that port."""
        for name, sock in list(self._left.items()):
            if port is None or sock.getsockname()[1] == port:
                self._keeper.drop(name)
                self._left.pop(name).close()

    def _take(
        self, kind: str, address: Address, interface: str | None, count: int
    ) -> list[tuple[str, socket.socket]]:
        host, port = address
        names = [self._free_name(f"{kind} {host} {port} {interface or '-'} {i}") for i in range(count)]
        found = [self._left.pop(name) for name in names if name in self._left]
        if len(found) < count:
            for sock in found:
                sock.close()
            self.close_left(port)
            found = open_shared(address, count, interface)
            for name, sock in zip(names, found, strict=True):
                self._keeper.keep(name, sock)
        self._open.update(zip(names, found, strict=True))
        return list(zip(names, found, strict=True))

    def _free_name(self, name: str) -> str:
        name = name.replace(":", ".")  # which no name of sd_notify(3) may have
        while name in self._open:
            name += "+"
        return name


def open_shared(address: Address, count: int, interface: str | None) -> list[socket.socket]:
    """As `Sockets.shared`, without keeping them. Raises PortError."""
    with ExitStack() as stack:
        shared = count > 1
        if shared:  # a program that shares the port as well would not be noticed later
            open_udp(address, interface=interface).close()
        first = stack.enter_context(open_udp(address, reuse=shared, interface=interface))
        if shared:
            _steer(first, count)  # before there are others that the kernel could choose
        same = address[0], first.getsockname()[1]
        others = [
            stack.enter_context(open_udp(same, reuse=True, interface=interface)) for _ in range(count - 1)
        ]
        stack.pop_all()
        return [first, *others]


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
