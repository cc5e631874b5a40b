"""`relay bench` on this machine: that it measures, not how fast; and the load around a node."""

import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from relay.bench.main import Effort, measure
from relay.bench.report import as_json, as_text
from relay_ext import gf256
from relay_ext.load import Link, Sink, Source

WAIT = 5.0


@contextmanager
def sockets(n: int) -> Iterator[list[socket.socket]]:
    with ExitStack() as stack:
        made = [stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(n)]
        for sock in made:
            sock.bind(("127.0.0.1", 0))
            sock.settimeout(WAIT)
        yield made


@contextmanager
def running(loop: Sink | Link) -> Iterator[threading.Thread]:
    thread = threading.Thread(target=loop.run)
    thread.start()
    try:
        yield thread
    finally:
        loop.stop()
        thread.join()


# ---- the whole ----------------------------------------------------------------------------------


def test_measures_everything() -> None:
    effort = Effort(
        kernel_seconds=0.004, cipher_seconds=0.004, first_seconds=0.15, load_seconds=0.15, tries=1
    )
    selected = gf256.selected()
    report = measure(effort)
    assert gf256.selected() == selected
    assert [kernel.name for kernel in report.kernels] == list(gf256.available())
    assert all(kernel.one_source > 0 and kernel.eight_sources > 0 for kernel in report.kernels)
    assert all(cipher.seal > 0 and cipher.open > 0 for cipher in report.ciphers)
    assert report.hop_cipher in {cipher.name for cipher in report.ciphers}
    answer = as_json(report)
    names = ["plain RTP, 1 to 1", "plain RTP, 1 to 50", "edge", "region"]
    assert [node["name"] for node in answer["forwarding"]] == names
    for node in answer["forwarding"]:
        assert 10 < node["cpu_ns_per_packet"] < 10_000_000
        assert node["packets_per_second"] > 0 and node["mbps"] > 0
    for scenario in report.scenarios:
        light = scenario.loads[0]
        assert light.offered > 0 and 0 < light.arrived <= light.expected
        if light.link_loss == 0:  # fits into the sockets' buffers, whatever the machine does meanwhile
            assert light.lost == 0
    hop = report.scenarios[2].loads[0]
    assert 0.1 < hop.link_loss < 0.6 and hop.repair_ratio > 0.4
    assert all(line in as_text(report) for line in answer["summary"])


# A background job of a shell ignores SIGINT, and so would its children.
INTERRUPTED = """
import signal, sys
import relay.bench.main, relay.cli
signal.signal(signal.SIGINT, signal.default_int_handler)
relay.bench.main.EFFORT = relay.bench.main.Effort(kernel_seconds=0.004, cipher_seconds=0.004)
sys.exit(relay.cli.main(["bench"]))
"""


def test_ends_with_one_line_when_it_is_interrupted() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        wait_for_thread(child.pid, "relay-engine")
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=WAIT)
    assert (child.returncode, out, err) == (1, "", "relay: interrupted\n")


def wait_for_thread(pid: int, name: str) -> None:
    """Until the process has a thread of that name; asked of the kernel again and again."""
    while True:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/comm") as file:
                if file.read().startswith(name):
                    return
        os.sched_yield()


# ---- its parts ----------------------------------------------------------------------------------


def test_a_source_sends_bursts_of_rtp_of_one_stream_after_the_other() -> None:
    with sockets(4) as (a, b, to_a, to_b):
        a.connect(to_a.getsockname())
        b.connect(to_b.getsockname())
        source = Source([a, b], burst=3, packet_bytes=100)
        took = source.run(600, 0.1)
        assert 0.1 <= took < WAIT and 6 <= source.sent <= 60 and source.sent % 3 == 0
        heads = [struct.unpack("!BBHII", to_a.recv(200)[:12]) for _ in range(3)]
        assert [head[:3] for head in heads] == [(0x80, 96, 0), (0x80, 96, 1), (0x80, 0x80 | 96, 2)]
        assert len({head[3] for head in heads}) == 1  # one frame
        assert {head[4] for head in heads} == {1}
        other = struct.unpack("!BBHII", to_b.recv(200)[:12])
        assert other[:3] == (0x80, 96, 0) and other[4] == 2
        assert 0 < (other[3] - heads[0][3]) & 0xFFFFFFFF < 90_000 * WAIT


def test_a_source_stops() -> None:
    with sockets(2) as (a, to):
        a.connect(to.getsockname())
        source = Source([a], burst=1, packet_bytes=100)
        source.stop()
        assert source.run(1000, 60) < WAIT
        assert source.sent == 0


def test_a_sink_counts_packets_of_its_size() -> None:
    with sockets(3) as (sender, *receivers):
        sink = Sink(receivers, packet_bytes=1000)
        for receiver in receivers:
            for size in (1000, 28, 1000, 1001):
                sender.sendto(bytes(size), receiver.getsockname())
        with running(sink):
            until_it_is(4, lambda: sink.received)


def until_it_is(value: int, read: Callable[[], int]) -> None:
    deadline = time.monotonic() + WAIT
    while read() != value:
        assert time.monotonic() < deadline, (read(), value)
        os.sched_yield()


def test_a_link_carries_both_ways_and_loses_its_share() -> None:
    with sockets(4) as (left, near, far, right):
        near.connect(left.getsockname())
        far.connect(right.getsockname())
        right.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        whole, lossy = Link([near, far], loss=0.0, seed=1), Link([near, far], loss=0.3, seed=2)
        with running(whole):
            for i in range(100):
                left.sendto(b"%d" % i, near.getsockname())
            assert [right.recv(100) for _ in range(100)] == [b"%d" % i for i in range(100)]
            right.sendto(bytes(2048), far.getsockname())
            assert left.recv(4096) == bytes(2048)
        assert (whole.forwarded, whole.lost) == (101, 0)
        with running(lossy):
            got = []
            for first in range(0, 1000, 50):
                for i in range(first, first + 50):
                    left.sendto(b"%d" % i * 5, near.getsockname())
                until_it_is(first + 50, lambda: lossy.forwarded + lossy.lost)
                right.setblocking(False)
                while True:
                    try:
                        got.append(right.recv(100))
                    except BlockingIOError:
                        break
        assert 250 < lossy.lost < 350 and len(got) == lossy.forwarded
        assert got == sorted(got, key=lambda data: int(data[: len(data) // 5]))


def test_wrong_loads_are_refused() -> None:
    with sockets(2) as (a, b):
        for burst, size in ((0, 100), (65, 100), (1, 11), (1, 2049)):
            with pytest.raises(ValueError, match="has"):
                Source([a], burst=burst, packet_bytes=size)
        with pytest.raises(ValueError, match="sockets"):
            Sink([], packet_bytes=100)
        with pytest.raises(ValueError, match="two ends"):
            Link([a], loss=0.1, seed=1)
        with pytest.raises(ValueError, match="loss is"):
            Link([a, b], loss=1.0, seed=1)
        with pytest.raises(ValueError, match="above 0"):
            Source([a], burst=1, packet_bytes=100).run(0, 1)
