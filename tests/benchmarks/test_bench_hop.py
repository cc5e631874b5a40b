"""What a whole hop costs: RTP in, coded, sealed and sent by one engine; received with loss, opened, decoded
and played by another; CPU time of each engine's thread, both ciphers in turns.

c_loop/load.c is encoder and player, c_loop/lossy.c the link. The engines run here, with keys set directly, so
that a profile of this process is one of the two threads (docs/performance.md).
"""

import os
import statistics
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from relay.services.sockets import open_udp
from relay.wire.hop import CIPHER_NAMES
from relay_ext.control import PORT_EGRESS, PORT_HOP, PORT_RTP, Plane
from relay_ext.engine import Engine
from tests.benchmarks.test_bench_forward import start

HOST = "127.0.0.1"
ROUNDS = 5
SECONDS = 2
STREAMS = 8
RATE = 10_000
BURST = 8
PACKET_BYTES = 1200
REPAIR = 0.6
LOSS_PER_MILLE = 300
WINDOW_NS = 64 * 1_000_000_000 // RATE
"""The budget in which RATE sends 64 packets: proactive repair covers so many."""
RECEIVE_NS = 50_000_000
LISTEN_PORT, TO_PORT = 27000, 27100
LINK_PORTS = (27200, 27201)
HOP_PORTS = (27210, 27211)
HOP, OUT = 0, 1000
KEYS = (bytes(range(32)), bytes(range(32, 64)))


class End:
    """One end of the hop: a plane and its engine."""

    def __init__(self, number: int, cipher: int) -> None:
        self.plane = Plane(bytes(32), now_ns=time.monotonic_ns())
        self.engine = Engine(self.plane)
        self.plane.set_port(HOP, PORT_HOP)
        self._open(HOP, HOP_PORTS[number])
        self.hop = self.plane.add_hop(HOP)
        self.plane.set_params(
            self.hop,
            proactive=REPAIR,
            max_overhead=REPAIR,
            send_budget_ns=WINDOW_NS,
            receive_budget_ns=RECEIVE_NS,
        )
        self.plane.set_path(self.hop, 0, address=(HOST, LINK_PORTS[number]), datagram_max=1472)
        ours, theirs = KEYS[number], KEYS[1 - number]
        self.plane.add_keys(self.hop, 0, 1 + number, 2 - number, ours, theirs, cipher, 1, 1)
        self.plane.use_keys(1 + number)

    def _open(self, port: int, number: int) -> None:
        with open_udp((HOST, number)) as sock:
            self.engine.add_port(port, sock)

    def send_streams(self) -> None:
        for i in range(STREAMS):
            track = self.plane.add_track(clock_rate=90000, hold_us=0, payload_type=96)
            self.plane.set_port(1 + i, PORT_RTP, track)
            self._open(1 + i, LISTEN_PORT + i)
            self.plane.add_feed(track, self.hop, i, 0, 0)

    def play_streams(self) -> None:
        self.plane.set_port(OUT, PORT_EGRESS)
        self._open(OUT, 0)
        for i in range(STREAMS):
            track = self.plane.add_track(clock_rate=90000, hold_us=RECEIVE_NS // 1000)
            to = (HOST, TO_PORT + i)
            self.plane.add_egress(track, OUT, to, to, ssrc=i, seq=0, timestamp=0, cname=b"relay")
            self.plane.add_route(self.hop, i, 0, 0, track)

    def start(self) -> None:
        before = set(os.listdir("/proc/self/task"))
        self.engine.start()
        (self._thread,) = (int(thread) for thread in set(os.listdir("/proc/self/task")) - before)

    def stop(self) -> None:
        self.engine.stop()
        self.plane.close()

    def cpu_ns(self) -> int:
        """CPU time of the engine's thread."""
        return time.clock_gettime_ns((~self._thread << 3) | 6)  # clock_gettime(2): a thread of this process


@dataclass(frozen=True)
class Run:
    sent: int
    missing: int
    recovered: int
    repair_ratio: float
    cpu_ns: tuple[int, int]
    """Of the sender's and the receiver's thread."""

    def rates(self) -> tuple[float, float, float]:
        """Mb/s of media that a core carries as sender, as receiver, as both."""
        mbit_ns = self.sent * PACKET_BYTES * 8 * 1000
        sender, receiver = self.cpu_ns
        return mbit_ns / sender, mbit_ns / receiver, mbit_ns / (sender + receiver)


def measure(c_programs: Path, cipher: int, seed: int) -> Run:
    sender, receiver = End(0, cipher), End(1, cipher)
    with ExitStack() as stack:
        for end in (sender, receiver):
            stack.callback(end.stop)
        sender.send_streams()
        receiver.play_streams()
        sender.start()
        receiver.start()
        ends = (LINK_PORTS[0], HOP_PORTS[0], LINK_PORTS[1], HOP_PORTS[1])
        link = stack.enter_context(start([str(c_programs / "lossy")], *ends, LOSS_PER_MILLE, seed))
        stack.callback(link.kill)
        load = start([str(c_programs / "load")], LISTEN_PORT, STREAMS, RATE, SECONDS, BURST, TO_PORT, 1)
        before = [end.cpu_ns() for end in (sender, receiver)]
        with load:
            load.communicate("\n")
        spent = [end.cpu_ns() - ns for end, ns in zip((sender, receiver), before, strict=True)]
        sent, played = sender.plane.hop_stats(sender.hop), receiver.plane.hop_stats(receiver.hop)
        media = sent["source_sent"]
        return Run(
            sent=media,
            missing=played["unrecovered"],
            recovered=played["recovered"],
            repair_ratio=sent["repair_sent"] / media,
            cpu_ns=(spent[0], spent[1]),
        )


def in_turns(c_programs: Path) -> dict[int, list[Run]]:
    runs: dict[int, list[Run]] = {cipher: [] for cipher in CIPHER_NAMES}
    for seed in range(1, ROUNDS + 1):
        for cipher, of_cipher in runs.items():
            of_cipher.append(measure(c_programs, cipher, seed))
    return runs


def test_a_core_carries_300_mbit_per_s_both_ends(
    benchmark: Any,
    c_programs: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    runs = benchmark.pedantic(in_turns, args=(c_programs,), rounds=1, iterations=1)
    for cipher, of_cipher in runs.items():
        name = CIPHER_NAMES[cipher]
        rates = [statistics.median(of_end) for of_end in zip(*(r.rates() for r in of_cipher), strict=True)]
        with capsys.disabled():
            print(f"\n{name}, Mb/s of media a core: ", end="")
            print("sender {:.0f}, receiver {:.0f}, both ends {:.0f}".format(*rates))
            for r in of_cipher:
                print(
                    f"  {r.sent} sent, {r.recovered} recovered, {r.missing} not, repair {r.repair_ratio:.1%}"
                )
        benchmark.extra_info[name] = {"sender": rates[0], "receiver": rates[1], "both": rates[2]}
        assert rates[2] >= 300
