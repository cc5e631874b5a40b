"""A node as a service: what it tells systemd, and what is left of it after a crash."""

import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

from relay.lab.receiver import free_port
from tests.integration.nodes import (
    STREAM,
    Sender,
    egress_toml,
    hop_toml,
    ingest_toml,
    keygen,
    node_toml,
    receiver,
    sender,
    wait_for,
)
from tests.integration.service import RELAY, Service, service

RATE = 400


class Pair:
    """Configurations of an edge and a region on loopback, and their ports."""

    def __init__(self, directory: Path) -> None:
        first = free_port(10)
        self.ingest, self.player, self.edge_hop, self.region_hop = first, first + 2, first + 4, first + 5
        self.region_ops = first + 7
        self.edge, self.region = directory / "edge.toml", directory / "region.toml"
        keys = {name: keygen(directory / f"{name}.key") for name in ("edge", "region")}
        calls = hop_toml(
            f"127.0.0.1:{self.edge_hop}",
            directory / "edge.key",
            "region",
            keys["region"],
            address=f"127.0.0.1:{self.region_hop}",
        )
        self.edge.write_text(node_toml("edge", first + 6, calls, ingest_toml(STREAM, self.ingest)))
        called = hop_toml(f"127.0.0.1:{self.region_hop}", directory / "region.key", "edge", keys["edge"])
        self.region.write_text(node_toml("region", self.region_ops, called, egress_toml(STREAM, self.player)))


class Player:
    """What arrives, and when."""

    def __init__(self, sock: socket.socket) -> None:
        self.packets: list[bytes] = []
        self.times: list[float] = []
        self._socket = sock
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        self._socket.settimeout(None)
        while packet := self._socket.recv(2048):
            self.times.append(time.monotonic())
            self.packets.append(packet)

    def pause(self) -> float:
        """The longest time without a packet, in seconds."""
        return max(b - a for a, b in pairwise(self.times))

    def stop(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"", self._socket.getsockname())
        self._thread.join()


@contextmanager
def playing(port: int) -> Iterator[Player]:
    with receiver(port) as sock:
        player = Player(sock)
        try:
            yield player
        finally:
            player.stop()


@contextmanager
def sending(source: Sender, body: Callable[[], bytes] = lambda: bytes(1000)) -> Iterator[None]:
    """Media flows in the meantime."""
    over = threading.Event()

    def run() -> None:
        while not over.is_set():
            source.send(20, body)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def more(player: Player, count: int = 200) -> None:
    """Wait until so many more packets have come."""
    wanted = len(player.packets) + count
    wait_for("media", lambda: len(player.packets) >= wanted)


@contextmanager
def playing_through(pair: Pair, program: Path = RELAY) -> Iterator[tuple[Service, Service, Player]]:
    """Region (of that program), edge, and a player that media has reached through both."""
    with (
        service(pair.region, program=program) as region,
        service(pair.edge) as edge,
        playing(pair.player) as player,
        sender(pair.ingest, rate=RATE) as source,
        sending(source),
    ):
        more(player)
        yield region, edge, player


def test_it_is_ready_fed_and_reloaded(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    with service(pair.region, watchdog_seconds=0.1) as region:
        fed = region.said["WATCHDOG=1"]
        wait_for("food for the watchdog", lambda: region.said["WATCHDOG=1"] >= fed + 5)
        before = pair.region.read_text()
        pair.region.write_text(before + "\nnonsense = 1\n")
        region.signal(signal.SIGHUP)
        wait_for("end of the reload", lambda: region.said["READY=1"] == 2)
        assert region.said["RELOADING=1"] == 1
        refused = [line for line in region.said if line.startswith("STATUS=configuration refused: ")]
        assert "nonsense" in refused[0]
        pair.region.write_text(before)
        region.signal(signal.SIGHUP)
        wait_for("end of the reload", lambda: region.said["READY=1"] == 3)
        region.signal(signal.SIGTERM)
        wait_for("farewell", lambda: region.said["STOPPING=1"])


def test_a_region_that_crashes_has_its_sockets_back(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    with playing_through(pair) as (region, edge, player):
        kept = region.inodes()
        assert any(name.startswith("hop") for name in kept)
        region.crash()
        region.start()
        more(player)
        assert region.inodes() == kept
        assert edge.logged("new_process=true") == 2  # the first session, and one with other keys
        assert player.pause() < 5  # what it is on a quiet machine: docs/operations.md


def test_an_edge_that_crashes_has_its_sockets_back(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    with playing_through(pair) as (region, edge, player):
        kept = edge.inodes()
        assert any(name.startswith("udp") for name in kept)
        edge.crash()
        edge.start()
        more(player)
        assert edge.inodes() == kept
        assert region.logged("new_process=true") == 2
        assert player.pause() < 5


def test_a_node_that_crashes_at_once_holds_itself_back(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    with service(pair.region) as region:
        region.crash()
        region.start()
        assert region.logged("crashed_before times=1") == 1


def test_a_port_that_is_closed_is_no_longer_kept(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    with service(pair.edge) as edge:
        other = free_port(2)
        text = pair.edge.read_text()
        pair.edge.write_text(text.replace(f":{pair.ingest}", f":{other}"))
        edge.signal(signal.SIGHUP)
        wait_for("reload", lambda: edge.logged("reloaded"))
        assert f"udp 0 127.0.0.1 {pair.ingest} - 0" not in edge.store
        assert f"udp 0 127.0.0.1 {other} - 0" in edge.store
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind(("127.0.0.1", pair.ingest))
        pair.edge.write_text(text)
        edge.crash()  # the store and the configuration differ
        edge.start()
        assert f"udp 0 127.0.0.1 {pair.ingest} - 0" in edge.store
