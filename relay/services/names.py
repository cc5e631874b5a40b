"""What a node asks of the system it is on: addresses of names, interfaces, routes."""

import logging
import socket
from pathlib import Path
from typing import Any

from relay.log import event
from relay.services.uplinks import default_routes

logger = logging.getLogger("relay.node")


def resolve(host: str, port: int) -> tuple[tuple[str, int], ...]:
    """The addresses of a host, in the system's order; empty when there are none now."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
    except OSError as error:
        event(logger, logging.WARNING, "peer_unresolved", host=host, error=error)
        return ()
    return addresses(found)


def addresses(found: list[Any]) -> tuple[tuple[str, int], ...]:
    """(host, port) of what getaddrinfo gives, each once."""
    return tuple(dict.fromkeys((str(info[4][0]), int(info[4][1])) for info in found))


def interface_index(name: str) -> int | None:
    try:
        return socket.if_nametoindex(name)
    except OSError:
        return None


def routes() -> tuple[str, ...]:
    """Interfaces with a default route; none where this system does not say."""
    texts = []
    for name in ("route", "ipv6_route"):
        try:
            texts.append(Path("/proc/thread-self/net", name).read_text())
        except OSError:
            texts.append("")
    return default_routes(*texts)
