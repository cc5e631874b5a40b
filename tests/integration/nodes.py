"""Relay nodes as a user runs them, for tests: processes with real keys and configuration files."""

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

from relay.lab.receiver import free_port

RELAY = [sys.executable, "-c", "import sys; from relay.cli import main; sys.exit(main())"]
PATIENCE = 10.0  # s; only how long a failing test takes
POLL = 0.02  # s
VIDEO = 96
SSRC = 0x1234

T = TypeVar("T")


def relay(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """A `relay` command that ends by itself."""
    return subprocess.run([*RELAY, *arguments], capture_output=True, text=True, timeout=60, check=False)


def wait_for(what: str, look: Callable[[], T], patience: float = PATIENCE) -> T:
    """The first true value of `look`, of another process whose doings nothing else tells."""
    deadline = time.monotonic() + patience
    while not (found := look()):
        assert time.monotonic() < deadline, f"no {what} within {patience:.0f} s"
        time.sleep(POLL)
    return found


class Process:
    """A child whose stderr goes to a file, so that it never blocks and a failing test can show it."""

    def __init__(self, command: list[str], log: Path) -> None:
        self.log = log
        with log.open("w") as stderr:
            self.popen = subprocess.Popen(command, stderr=stderr, stdout=subprocess.DEVNULL)

    def end(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, float]:
        """Ends it; exit code, and the seconds that it took."""
        started = time.monotonic()
        self.popen.send_signal(number)
        code = self.popen.wait(PATIENCE)
        return code, time.monotonic() - started

    def kill(self) -> None:
        self.popen.kill()
        self.popen.wait()

    def logged(self, text: str) -> int:
        return self.log.read_text().count(text)


class Node(Process):
    """`relay run`, from the moment when its API answers."""

    def __init__(self, config: Path, ops: int, program: Sequence[str] = RELAY) -> None:
        self.config = config
        self.url = f"http://127.0.0.1:{ops}"
        super().__init__([*program, "run", "--config", str(config)], config.with_suffix(".log"))
        try:
            wait_for("answer of the node", self._answers)
        except BaseException:
            self.kill()
            raise

    def _answers(self) -> bool:
        assert self.popen.poll() is None, self.log.read_text()
        try:
            return self.get("/healthz") == (200, "ok")
        except OSError:
            return False

    def get(self, path: str, data: bytes | None = None) -> tuple[int, str]:
        """HTTP status and body."""
        try:
            with urllib.request.urlopen(self.url + path, data, PATIENCE) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def json(self, path: str) -> Any:
        status, body = self.get(path)
        assert status == 200, body
        return json.loads(body)

    def rewrite(self, old: str, new: str) -> None:
        """Change the configuration file."""
        text = self.config.read_text()
        assert old in text
        self.config.write_text(text.replace(old, new))

    def sends(self, stream: str) -> bool:
        """Whether the peer has taken the stream."""
        return bool(self.json(f"/v1/streams/{stream}")["route"]["accepted"])


@contextmanager
def running(config: Path, ops: int, program: Sequence[str] = RELAY) -> Iterator[Node]:
    node = Node(config, ops, program)
    try:
        yield node
    finally:
        if node.popen.poll() is None:
            node.kill()


@contextmanager
def lossy_link(listen: str, target: str, log: Path, *options: str) -> Iterator[None]:
    """The lab's proxy as a process; `options` as of `python -m relay.lab.proxy`."""
    command = [sys.executable, "-m", "relay.lab.proxy", "--listen", listen, "--target", target, *options]
    proxy = Process(command, log)
    try:
        wait_for("proxy", lambda: proxy.logged("listening"))
        yield
    finally:
        proxy.kill()


def keygen(path: Path) -> str:
    """A new key file; its public key."""
    done = relay("keygen", "--out", str(path))
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def hop_toml(
    listen: str, key: Path, peer: str, public_key: str, *, address: str | None = None, budget_ms: int = 200
) -> str:
    called = f'address = "{address}"' if address else ""
    return f"""
        [hop]
        listen = "{listen}"
        key_file = "{key}"
        budget_ms = {budget_ms}
        [[hop.peers]]
        name = "{peer}"
        public_key = "{public_key}"
        {called}
    """


def engine_toml(threads: int) -> str:
    return f"[engine]\nthreads = {threads}"


def node_toml(name: str, ops: int, *sections: str) -> str:
    return "\n".join([f'[node]\nname = "{name}"\n[ops]\nlisten = "127.0.0.1:{ops}"', *sections])


@dataclass(frozen=True)
class Track:
    """One track of a stream under test."""

    kind: str = "video"
    pt: int = VIDEO
    codec: str = "H264/90000"


H264 = Track()
OPUS = Track("audio", 97, "opus/48000/2")
TS = Track("av", 33, "MP2T/90000")


def ingest_toml(stream: str, port: int, *tracks: Track) -> str:
    """The tracks (H.264 alone when none are given) are taken at `port` and every second port after it."""
    of = ", ".join(
        f'{{ kind = "{track.kind}", listen = "127.0.0.1:{port + 2 * i}", '
        f'payload_type = {track.pt}, codec = "{track.codec}" }}'
        for i, track in enumerate(tracks or (H264,))
    )
    return f'[[ingest.rtp]]\nstream = "{stream}"\ntracks = [ {of} ]'


def egress_toml(stream: str, port: int, *tracks: Track, host: str = "127.0.0.1") -> str:
    """As `ingest_toml`."""
    to = ", ".join(
        f'{{ kind = "{track.kind}", address = "{host}:{port + 2 * i}" }}'
        for i, track in enumerate(tracks or (H264,))
    )
    return f'[[egress.rtp]]\nstream = "{stream}"\nto = [ {to} ]'


STREAM = "studio"


class Fleet:
    """An edge that calls a region over the lab's link, and the ports that they use. Ended by its `stack`."""

    def __init__(
        self,
        directory: Path,
        *tracks: Track,
        host: str = "127.0.0.1",
        loss: float = 0.3,
        rtt: float = 40,
        budget_ms: int = 200,
        seed: int = 7,
        threads: int = 1,
        program: Sequence[str] = RELAY,
    ) -> None:
        self._program = program
        wide = 2 * max(len(tracks), 1)
        self.ingest = free_port(2 * wide + 6)
        self.player = self.ingest + wide
        self.edge_hop, self.region_hop, self.link, self.ops = (self.ingest + 2 * wide + n for n in range(4))
        edge_key, region_key = directory / "edge.key", directory / "region.key"
        edge, region = keygen(edge_key), keygen(region_key)
        called = f"[{host}]" if ":" in host else host
        listen = called if host != "localhost" else "127.0.0.1"
        self.edge_toml = directory / "edge.toml"
        self.edge_toml.write_text(
            node_toml(
                "edge",
                self.ops,
                hop_toml(
                    f"{listen}:{self.edge_hop}",
                    edge_key,
                    "region",
                    region,
                    address=f"{called}:{self.link}",
                    budget_ms=budget_ms,
                ),
                engine_toml(threads),
                ingest_toml(STREAM, self.ingest, *tracks),
            )
        )
        self.region_toml = directory / "region.toml"
        self.region_toml.write_text(
            node_toml(
                "region",
                self.ops + 1,
                hop_toml(f"{listen}:{self.region_hop}", region_key, "edge", edge),
                engine_toml(threads),
                egress_toml(STREAM, self.player, *tracks, host=called),
            )
        )
        options = ("--loss", str(loss), "--rtt", str(rtt), "--seed", str(seed))
        ends = f"{listen}:{self.link}", f"{listen}:{self.region_hop}"
        with ExitStack() as stack:
            self.stack = stack
            self.stack.enter_context(lossy_link(*ends, directory / "link.log", *options))
            self.region = self.start_region()
            self.edge = self.stack.enter_context(running(self.edge_toml, self.ops, program))
            wait_for("publication", lambda: self.edge.sends(STREAM))
            self.stack = stack.pop_all()

    def start_region(self) -> Node:
        return self.stack.enter_context(running(self.region_toml, self.ops + 1, self._program))


# ---- media --------------------------------------------------------------------------------------


def rtp(seq: int, body: bytes = bytes(1000), ssrc: int = SSRC, pt: int = VIDEO, step: int = 225) -> bytes:
    """A packet whose timestamp is `step` units a packet: 225 is 400 packets/s at 90 kHz."""
    return struct.pack("!BBHII", 0x80, pt, seq & 0xFFFF, seq * step & 0xFFFFFFFF, ssrc) + body


class Sender:
    """Sends RTP at a steady rate, one sequence over any number of calls."""

    def __init__(self, port: int, host: str = "127.0.0.1", rate: float = 400.0) -> None:
        self.socket = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
        self.to = (host, port)
        self.rate = rate
        self.seq = 0

    def send(self, count: int, body: Callable[[], bytes] = lambda: bytes(1000)) -> None:
        started = time.monotonic()
        for i in range(count):
            time.sleep(max(started + i / self.rate - time.monotonic(), 0))
            self.socket.sendto(rtp(self.seq, body()), self.to)
            self.seq += 1

    def close(self) -> None:
        self.socket.close()


@contextmanager
def sender(port: int, host: str = "127.0.0.1", rate: float = 400.0) -> Iterator[Sender]:
    of = Sender(port, host, rate)
    try:
        yield of
    finally:
        of.close()


@contextmanager
def receiver(port: int = 0, host: str = "127.0.0.1") -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        sock.bind((host, port))
        yield sock


def received(sock: socket.socket, quiet: float = 1.0) -> list[bytes]:
    """What has come and comes until nothing does for `quiet` seconds."""
    sock.settimeout(quiet)
    packets: list[bytes] = []
    try:
        while True:
            packets.append(sock.recv(2048))
    except TimeoutError:
        return packets


def gaps(packets: list[bytes]) -> int:
    """Places in the order of arrival where a sequence number is not the next."""
    numbers = [struct.unpack_from("!H", packet, 2)[0] for packet in packets]
    return sum((b - a) & 0xFFFF != 1 for a, b in pairwise(numbers))


def udp_is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def status_of(pid: int, thread: int | None = None) -> dict[str, str]:
    """/proc/PID/status of a process, or of one of its threads."""
    text = Path(f"/proc/{pid}/task/{thread or pid}/status").read_text()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())}


def wakeups(pid: int) -> int:
    """Voluntary context switches of all threads: how often each has waited for something."""
    threads = [int(name) for name in os.listdir(f"/proc/{pid}/task")]
    return sum(int(status_of(pid, thread)["voluntary_ctxt_switches"]) for thread in threads)


def cpu_ns(pid: int) -> int:
    """CPU time of all threads, user and system, in ns."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks)
