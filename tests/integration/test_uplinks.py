"""Two real nodes with two links between them, in network namespaces: one link dies under media. Needs
root."""

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from relay.services.names import routes
from tests.integration.namespaces import Namespace, or_skip
from tests.integration.nodes import (
    Node,
    Sender,
    egress_toml,
    engine_toml,
    hop_toml,
    ingest_toml,
    keygen,
    node_toml,
    wait_for,
)

REGION = "10.97.9.2"  # on no link, so that it is reached over any
LINKS = (("w0", "v0", "10.97.0"), ("w1", "v1", "10.97.1"))  # edge's end, region's end, network
INGEST, PLAYER, OPS, HOP = 5004, 6004, 7480, 7400
RATE = 400.0
BUDGET_MS = 500  # a machine with other work to do may stand still for a while


@contextmanager
def namespaces() -> Iterator[tuple[Namespace, Namespace]]:
    """An edge's and a region's, with two links between them and a default route over each."""
    with ExitStack() as stack:
        made = []
        for name in ("edge", "region"):
            made.append(Namespace(f"relay-{os.getpid()}-{name}"))
            stack.callback(made[-1].delete)
        edge, region = made
        region.ip("address", "add", f"{REGION}/32", "dev", "lo")
        for metric, (near, far, network) in enumerate(LINKS, 100):
            edge.ip("link", "add", near, "type", "veth", "peer", "name", far, "netns", region.name)
            edge.ip("address", "add", f"{network}.1/24", "dev", near)
            region.ip("address", "add", f"{network}.2/24", "dev", far)
            edge.ip("link", "set", near, "up")
            region.ip("link", "set", far, "up")
            edge.ip("route", "add", "default", "via", f"{network}.2", "dev", near, "metric", str(metric))
        yield edge, region


class Fleet:
    """Nodes in the namespaces, and media from one to the other."""

    def __init__(
        self, directory: Path, edge: Namespace, region: Namespace, threads: int, uplinks: str
    ) -> None:
        self._edge, self._region = edge, region
        keys = [directory / f"{name}.key" for name in ("edge", "region")]
        public = [keygen(key) for key in keys]
        region_toml, edge_toml = directory / "region.toml", directory / "edge.toml"
        region_hop = hop_toml(f"{REGION}:{HOP}", keys[1], "edge", public[0], budget_ms=BUDGET_MS)
        edge_hop = hop_toml(
            f"0.0.0.0:{HOP}", keys[0], "region", public[1], address=f"{REGION}:{HOP}", budget_ms=BUDGET_MS
        )
        threaded = engine_toml(threads)
        out = egress_toml("studio", PLAYER)
        region_toml.write_text(node_toml("region", OPS, region_hop, threaded, out))
        into = ingest_toml("studio", INGEST)
        edge_toml.write_text(node_toml("edge", OPS, edge_hop, uplinks, threaded, into))
        with ExitStack() as stack:
            self.player = region.run(self._listen)
            stack.callback(self.player.close)
            for at, config in ((region, region_toml), (edge, edge_toml)):
                self.node = at.run(lambda config=config: Node(config, OPS))
                stack.callback(self.node.kill)
            self.sender: Sender = edge.run(lambda: Sender(INGEST, rate=RATE))
            stack.callback(self.sender.close)
            wait_for("publication", lambda: edge.run(lambda: self.node.sends("studio")))
            self.stack = stack.pop_all()

    def _listen(self) -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        sock.bind(("127.0.0.1", PLAYER))
        return sock

    def paths(self) -> dict[str, dict[str, Any]]:
        """The edge's, by uplink."""
        [hop] = self._edge.run(lambda: self.node.json("/v1/hops"))
        return {path["uplink"]: path for path in hop["paths"]}

    def roles(self) -> dict[str, str]:
        return {uplink: path["role"] for uplink, path in self.paths().items()}

    def stream(self, seconds: float, events: dict[float, Callable[[], None]]) -> tuple[list[int], float]:
        """Sends for so long, and does at each time what `events` say; the numbers of the packets that did not
        come, and the longest time in s between two that did."""
        arrived: list[tuple[float, int]] = []
        stop = threading.Event()
        timers = [threading.Timer(at, call) for at, call in events.items()]

        def play() -> None:
            self.player.settimeout(0.2)
            while not stop.is_set():
                try:
                    data = self.player.recv(2048)
                except TimeoutError:
                    continue
                arrived.append((time.monotonic(), int.from_bytes(data[2:4], "big")))

        thread = threading.Thread(target=play)
        thread.start()
        for timer in timers:
            timer.start()
        first = self.sender.seq
        self.sender.send(int(seconds * RATE))
        stop.wait(1.5)
        stop.set()
        thread.join()
        for timer in timers:
            timer.join()
        # An egress numbers anew, from a random start.
        numbers = {(number - arrived[0][1]) & 0xFFFF for _, number in arrived}
        times = [at for at, _ in arrived]
        missing = sorted(set(range(self.sender.seq - first)) - numbers)
        return missing, max(b - a for a, b in pairwise(times))


@pytest.fixture
def links() -> Iterator[tuple[Namespace, Namespace]]:
    with or_skip(), namespaces() as made:
        yield made


CONFIGURED = '[[hop.uplinks]]\ninterface = "w0"\n[[hop.uplinks]]\ninterface = "w1"\nname = "lte"'


@pytest.mark.parametrize("threads", [1, 2])
def test_a_link_that_is_unplugged_costs_nothing(
    tmp_path: Path, links: tuple[Namespace, Namespace], threads: int
) -> None:
    """The uplinks are found by their default routes."""
    edge, region = links
    assert edge.run(routes) == ("w0", "w1")
    fleet = Fleet(tmp_path, edge, region, threads, "")
    with fleet.stack:
        wait_for("two paths", lambda: len(fleet.paths()) == 2)
        fleet.stream(3, {})
        cut = {2.0: lambda: region.ip("link", "set", "v0", "down")}
        missing, gap = fleet.stream(5, cut)
        print(f"{threads} threads: lost {missing}, longest gap {gap * 1000:.0f} ms, {fleet.roles()}")
        assert missing == []
        assert gap < BUDGET_MS / 1000
        assert fleet.roles()["w1"] == "source+repair"


def test_a_link_comes_back_for_the_death_of_the_other(
    tmp_path: Path, links: tuple[Namespace, Namespace]
) -> None:
    """The uplinks are configured by interface."""
    edge, region = links
    fleet = Fleet(tmp_path, edge, region, 1, CONFIGURED)
    with fleet.stack:
        wait_for("two paths", lambda: set(fleet.roles()) == {"w0", "lte"})
        fleet.stream(3, {})
        events = {
            1.0: lambda: region.ip("link", "set", "v0", "down"),
            3.0: lambda: region.ip("link", "set", "v0", "up"),
            6.0: lambda: region.ip("link", "set", "v1", "down"),
        }
        missing, gap = fleet.stream(8, events)
        print(f"lost {missing}, longest gap {gap * 1000:.0f} ms, {fleet.roles()}")
        assert missing == []
        assert gap < BUDGET_MS / 1000
        assert fleet.roles() == {"w0": "source+repair", "lte": "dead"}
