"""A stall of the event loop is none of the packets': nothing is lost, late, or thought lost.

A node's event loop stands still for 200 ms at a time, by a sleep or by Python that keeps the GIL, while media
flows. Loss, order and the state of the hop are asserted; delay depends on what else the machine does, so it
is printed, and bounded only loosely, against the same node without stalls.
"""

import os
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeVar

import pytest

from relay.lab.receiver import free_port
from tests.integration.nodes import (
    H264,
    STREAM,
    Fleet,
    Node,
    Sender,
    egress_toml,
    gaps,
    ingest_toml,
    node_toml,
    received,
    receiver,
    running,
    sender,
    wait_for,
)

RATE = 400
SECONDS = float(os.environ.get("RELAY_STALL_SECONDS", "2"))  # of media, each with and without stalls
TURNS = 2
TRIES = 3
EXTRA_P99_MS = 5.0  # the target is 1 ms; the rest is for the machine's other work
SO_TIMESTAMPNS = 35

T = TypeVar("T")

pytestmark = pytest.mark.parametrize("kind", ["sleep", "spin"])


def program(kind: str) -> list[str]:
    return [sys.executable, "-m", "tests.integration.stalling_node", kind]


def stalled(nodes: list[Node], do: Callable[[], T]) -> T:
    """What `do` returns while the event loops of the nodes stand still again and again."""
    before = [node.logged("stalls=") for node in nodes]
    for node in nodes:
        node.popen.send_signal(signal.SIGUSR1)
    result = do()
    for node, logged in zip(nodes, before, strict=True):
        node.popen.send_signal(signal.SIGUSR1)
        wait_for("end of the stalls", partial(_said_more, node, logged))
    return result


def _said_more(node: Node, before: int) -> bool:
    return node.logged("stalls=") > before


@pytest.fixture
def forwarder(tmp_path: Path, kind: str) -> Iterator[tuple[Node, int]]:
    first = free_port(6)
    config = tmp_path / "node.toml"
    config.write_text(node_toml("plain", first + 4, ingest_toml("a", first), egress_toml("a", first + 2)))
    with running(config, first + 4, program(kind)) as node:
        yield node, first


def delays_ms(source: Sender, player: socket.socket) -> list[float]:
    """Send a while; each packet's time from the send call to the kernel's stamp of its arrival."""
    count = int(RATE * SECONDS)
    source.send(count, lambda: struct.pack("!Q", time.time_ns()) + bytes(1000))
    delays = []
    player.settimeout(1)
    for _ in range(count):
        data, [(_, _, stamp)], _, _ = player.recvmsg(2048, 64)  # TimeoutError: a packet was lost
        seconds, nanoseconds = struct.unpack("qq", stamp)
        sent_ns = struct.unpack_from("!Q", data, 12)[0]
        delays.append((seconds * 1_000_000_000 + nanoseconds - sent_ns) / 1e6)
    return delays


def p99(delays: list[float]) -> float:
    return delays[int(len(delays) * 0.99)]


def test_forwarding(forwarder: tuple[Node, int], kind: str) -> None:
    node, first = forwarder
    seen = []
    with receiver(first + 2) as player, sender(first, rate=RATE) as source:
        player.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        for _ in range(TRIES):
            calm: list[float] = []
            stalls: list[float] = []
            for _ in range(TURNS):
                calm += delays_ms(source, player)
                stalls += stalled([node], lambda: delays_ms(source, player))
            calm, stalls = sorted(calm), sorted(stalls)
            seen.append((p99(calm), p99(stalls)))
            print(
                f"{kind}: p50/p99/max {calm[len(calm) // 2]:.3f}/{p99(calm):.3f}/{calm[-1]:.3f} ms, stalled "
                f"{stalls[len(stalls) // 2]:.3f}/{p99(stalls):.3f}/{stalls[-1]:.3f} ms"
            )
            if seen[-1][1] <= seen[-1][0] + EXTRA_P99_MS:
                break
    assert any(with_stalls <= without + EXTRA_P99_MS for without, with_stalls in seen), seen
    [track] = node.json("/v1/streams/a")["tracks"]
    assert track["delivered_packets"] == len(seen) * 2 * TURNS * int(RATE * SECONDS)
    assert track["lost_packets"] == track["late_packets"] == 0


def test_a_hop_that_loses_30_percent(tmp_path: Path, kind: str) -> None:
    fleet = Fleet(tmp_path, H264, loss=0.3, rtt=100, program=program(kind))
    nodes = [fleet.edge, fleet.region]
    with fleet.stack, receiver(fleet.player) as player, sender(fleet.ingest, rate=RATE) as source:
        count = int(RATE * SECONDS)

        def pass_media() -> list[bytes]:
            source.send(count)
            return received(player)

        calm = pass_media()  # and the estimate of the loss settles
        before = [node.json("/v1/hops")[0] for node in nodes]
        source_packets = stalled(nodes, pass_media)
        after = [node.json("/v1/hops")[0] for node in nodes]
        residual = count - len(calm), count - len(source_packets)
        recovered = after[1]["recovered_packets"] - before[1]["recovered_packets"]
        print(
            f"{kind}: residual {residual[0]} calm, {residual[1]} stalled, of {count}; {recovered} recovered"
        )
        # W1 allows 1 in 3,000 on real sockets; a stall that was felt would cost what came in it, dozens.
        assert residual[1] <= residual[0] + 5
        assert gaps(source_packets) <= 5 and recovered > count // 10
        for node, old, new in zip(nodes, before, after, strict=True):
            assert new["state"] == "connected" and new["handshakes"] == old["handshakes"]
            assert node.logged("hop_connected") == 1 and not node.logged("hop_silent")
        assert fleet.edge.json(f"/v1/streams/{STREAM}")["route"]["accepted"]
