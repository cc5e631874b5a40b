"""The pause of an upgrade by hand-over: the packet plane of one process is written, sent, and gone on with by
a new one. Peers are idle, with keys and an address each; each track goes to four of them."""

import random
import socket
import subprocess
import sys
import time
from typing import Any

import pytest

from relay.services.handover import PACKETS, READY, TAKEN, Wire
from relay_ext import handover
from relay_ext.control import PORT_HOP, Plane

HOP = 0
TRACKS = 256
ROUNDS = 7
SECONDS = 30.0
NEXT = "import sys; from tests.benchmarks.test_bench_handover import go_on; go_on(*map(int, sys.argv[1:]))"


def plane_of(peers: int) -> Plane:
    chance = random.Random(peers)
    plane = Plane(bytes(32))
    plane.set_port(HOP, PORT_HOP)
    hops = [plane.add_hop(HOP) for _ in range(peers)]
    for index, hop in enumerate(hops, 1):
        plane.set_path(hop, 0, address=("192.0.2.1", index))
        keys = chance.randbytes(32), chance.randbytes(32)
        plane.add_keys(hop, 0, index, index, *keys, 2, 1, 1)
        plane.use_keys(index)
    for alias in range(TRACKS):
        track = plane.add_track(clock_rate=90000, hold_us=200_000)
        for hop in chance.sample(hops, 4):
            plane.add_feed(track, hop, alias, 0, 1, age_max_us=1_000_000)
    return plane


def go_on(fd: int, peers: int) -> None:
    """The new process."""
    with socket.socket(fileno=fd) as sock:
        wire, plane = Wire(sock), Plane(bytes(32))
        handover.reserve(plane, peers)
        wire.send(READY)
        handover.load(plane, wire.receive(PACKETS, SECONDS))
        wire.send(TAKEN)


def pause_ms(plane: Plane, peers: int) -> float:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        fd = theirs.fileno()
        with subprocess.Popen([sys.executable, "-c", NEXT, str(fd), str(peers)], pass_fds=[fd]):
            wire = Wire(ours)
            wire.receive(READY, SECONDS)
            began = time.monotonic()
            wire.send(PACKETS, handover.save(plane))
            wire.receive(TAKEN, SECONDS)
            return (time.monotonic() - began) * 1e3


@pytest.mark.parametrize("peers", [100, 1000])
def test_pause(benchmark: Any, peers: int, capsys: pytest.CaptureFixture[str]) -> None:
    plane = plane_of(peers)
    size = len(handover.save(plane))
    found = benchmark.pedantic(
        lambda: sorted(pause_ms(plane, peers) for _ in range(ROUNDS)), rounds=1, iterations=1
    )
    plane.close()
    with capsys.disabled():
        print(f"\n{peers} peers, {TRACKS} tracks: {size / 1e6:.1f} MB, ", end="")
        print("pauses, ms:", " ".join(f"{pause:.0f}" for pause in found))
    benchmark.extra_info["pauses_ms"] = found
