"""The uplinks of a node: the sockets that it calls its peers from, one for each way out of the machine.

They are configured, or found: where there are default routes over several interfaces, the socket that
listens uses the best of them, and each other one gets a socket of its own. `look` is called again and again,
so that a modem that is plugged in later is used. Everything of the system comes in as functions.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from relay.config import UplinkConfig
from relay.core.uplinks import Uplink
from relay.log import event
from relay.wire.hop import PATHS_MAX

logger = logging.getLogger("relay.uplink")

HOP_PORT = 0
"""The number by which each plane knows the socket of `[hop] listen`."""
UPLINK_PORTS = range(HOP_PORT + 1, HOP_PORT + 1 + PATHS_MAX)
"""Numbers of the uplinks' sockets, the same on every plane."""
RTF_UP, RTF_REJECT = 0x0001, 0x0200  # linux/route.h


@dataclass(frozen=True, slots=True)
class Binding:
    """What an uplink's socket is bound to: an interface, or a local address."""

    name: str
    interface: str | None = None
    index: int = 0
    """Of the interface: another one when it was taken out and put back."""
    host: str | None = None
    port: int = 0
    """0: any free one."""


class Sockets(Protocol):
    """What opens them. `open` raises OSError, with a sentence."""

    def open_uplink(self, number: int, binding: Binding) -> None: ...
    def close_uplink(self, number: int) -> None: ...


def default_routes(ipv4: str, ipv6: str) -> tuple[str, ...]:
    """Interfaces that have a default route, the preferred one first, from the texts of /proc/net/route and
    /proc/net/ipv6_route (their layouts: net/ipv4/fib_trie.c and net/ipv6/route.c of Linux). A line that is
    none of a route is passed over."""
    found: list[tuple[int, str]] = []
    for line in ipv4.splitlines()[1:]:
        interface, destination, _, flags, _, _, metric, mask, *_ = line.split() + [""] * 8
        if destination == mask == "00000000" and _usable(flags):
            found.append((int(metric), interface))
    found.sort()
    for line in ipv6.splitlines():
        destination, length, _, _, _, metric, _, _, flags, interface, *_ = line.split() + [""] * 10
        if destination == "0" * 32 and length == "00" and interface != "lo" and _usable(flags):
            found.append((int(metric, 16) + (1 << 32), interface))  # behind those of IPv4
    return tuple(dict.fromkeys(interface for _, interface in sorted(found)))


def _usable(flags: str) -> bool:
    return int(flags, 16) & (RTF_UP | RTF_REJECT) == RTF_UP


class Uplinks:
    """`index_of` gives an interface's index, None where there is none of that name; `routes` the interfaces
    with a default route."""

    def __init__(
        self,
        configured: Sequence[UplinkConfig],
        sockets: Sockets,
        *,
        index_of: Callable[[str], int | None],
        routes: Callable[[], tuple[str, ...]],
    ) -> None:
        self.configured = configured
        self._sockets = sockets
        self._index_of = index_of
        self._routes = routes
        self._open: dict[int, Binding] = {}
        self._failed: dict[Binding, str] = {}

    def look(self) -> tuple[Uplink, ...]:
        """The uplinks that there are now; opens those that have come and closes those that have gone."""
        wanted = [binding for config in self.configured if (binding := self._bind(config))]
        if not self.configured:
            wanted = [binding for name in self._routes()[1:] if (binding := self._interface(name, name))]
        for number, binding in list(self._open.items()):
            if binding not in wanted:
                del self._open[number]
                self._sockets.close_uplink(number)
                event(logger, logging.INFO, "uplink_gone", uplink=binding.name)
        for binding in wanted[:PATHS_MAX]:
            if binding not in self._open.values():
                self._try(binding)
        numbers = {binding: number for number, binding in self._open.items()}
        there = [Uplink(numbers[b], b.name, b.host) for b in wanted if b in numbers]
        return tuple(there) if self.configured else (Uplink(HOP_PORT, "default"), *there)

    def _bind(self, config: UplinkConfig) -> Binding | None:
        if config.interface is None:
            name = config.name or str(config.address)
            return Binding(name, host=config.address, port=config.port or 0)
        return self._interface(config.interface, config.name or config.interface, config.port or 0)

    def _interface(self, interface: str, name: str, port: int = 0) -> Binding | None:
        index = self._index_of(interface)
        return None if index is None else Binding(name, interface, index, port=port)

    def _try(self, binding: Binding) -> None:
        number = next((n for n in UPLINK_PORTS if n not in self._open), None)
        if number is None:
            return
        try:
            self._sockets.open_uplink(number, binding)
        except OSError as error:
            if self._failed.get(binding) != str(error):  # once, not at every look
                event(logger, logging.WARNING, "uplink_failed", uplink=binding.name, error=error)
            self._failed[binding] = str(error)
            return
        self._failed.pop(binding, None)
        self._open[number] = binding
        event(logger, logging.INFO, "uplink_found", uplink=binding.name)
