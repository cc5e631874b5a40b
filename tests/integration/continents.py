"""A fleet of processes, each on a machine of its own (a network namespace), and media through it.

    encoder > in > one of the regions > another > out > player

Two edges and three regions. The edges have the regions a and b in their configurations and learn of c.
"""

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

from relay.core.keys import format_key, private_key_file
from relay.core.noise import public_key
from relay.core.record import Record, Revocations, revise, sign, to_text
from relay_ext.crypto import ed25519_public_key
from tests.integration.namespaces import Internet, Namespace
from tests.integration.nodes import STREAM, Node, egress_toml, ingest_toml, node_toml, rtp, wait_for

REGIONS = ("a", "b", "c")
NAMES = ("in", "out", *REGIONS)
SEEDS = ("a", "b")
PAIRS = {
    ("in", "a"): (5, 0.01),
    ("in", "b"): (25, 0.01),
    ("in", "c"): (60, 0.01),
    ("out", "a"): (60, 0.01),
    ("out", "b"): (5, 0.01),
    ("out", "c"): (25, 0.01),
    ("a", "b"): (20, 0.03),
    ("b", "c"): (20, 0.03),
    ("a", "c"): (35, 0.03),
}
"""ms one way, and loss."""
INGEST, PLAYER, OPS, HOP = 5004, 6004, 7480, 7400
RATE = 200.0
"""Packets a second."""
RUN = 100
"""Packets in a row: media flows again."""
PATIENCE = 45.0
"""s; only how long a failing test takes."""
YEAR_S = 365 * 86400


class Media:
    """Numbered packets to the ingest at a steady rate, and the times at which the player gets them. A packet
    says its number at its end, since an egress numbers anew."""

    def __init__(self, encoder: socket.socket, player: socket.socket) -> None:
        self._encoder, self._player = encoder, player
        self.sent: list[float] = []
        """When each was, by its number."""
        self.arrived: list[tuple[float, int]] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=run) for run in (self._send, self._play)]
        for thread in self._threads:
            thread.start()

    def _send(self) -> None:
        started = time.monotonic()
        while not self._stop.wait(max(started + len(self.sent) / RATE - time.monotonic(), 0)):
            number = len(self.sent)
            self.sent.append(time.monotonic())
            body = bytes(1000) + struct.pack("!I", number)
            self._encoder.sendto(rtp(number, body, step=450), ("127.0.0.1", INGEST))

    def _play(self) -> None:
        self._player.settimeout(0.1)
        while not self._stop.is_set():
            try:
                data = self._player.recv(2048)
            except TimeoutError:
                continue
            self.arrived.append((time.monotonic(), struct.unpack("!I", data[-4:])[0]))

    def close(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self._encoder.close()
        self._player.close()

    def flows(self, since: float) -> bool:
        """Whether RUN packets in a row have arrived of those that were sent after `since`."""
        in_a_row = 0
        before = -1
        for _, number in self.arrived[::-1]:
            if self.sent[number] <= since:
                return False
            in_a_row = in_a_row + 1 if number == before - 1 else 1
            before = number
            if in_a_row == RUN:
                return True
        return False

    def wait(self, what: str, since: float) -> None:
        wait_for(f"media after {what}", lambda: self.flows(since), PATIENCE)

    def came(self, since: float) -> bool:
        return any(self.sent[number] > since for _, number in self.arrived[-20:])

    def gap(self, since: float) -> float:
        """The longest time in s without media, since one second before that moment."""
        times = [at for at, _ in self.arrived if at > since - 1]
        return max((later - sooner for sooner, later in pairwise(times)), default=0.0)

    def lost(self, since: float) -> int:
        """Packets sent since one second before that moment that did not come, up to the last that did."""
        numbers = {number for _, number in self.arrived}
        return sum(self.sent[n] > since - 1 and n not in numbers for n in range(max(numbers)))

    def duplicates(self) -> int:
        return len(self.arrived) - len({number for _, number in self.arrived})


class Keys:
    """Of the fleet and of each node, with the records in a directory."""

    def __init__(self, directory: Path, addresses: dict[str, str]) -> None:
        self._directory = directory
        chance = Random(7)
        self.authority = chance.randbytes(32)
        self.public_authority = format_key(ed25519_public_key(self.authority))
        self.public: dict[str, bytes] = {}
        self._now_s = int(time.time())
        for name in NAMES:
            private = chance.randbytes(32)
            self.public[name] = public_key(private)
            key = self.file(name, "key")
            key.touch(mode=0o600)
            key.write_text(private_key_file(private))
            called = ((addresses[name], HOP),) if name in REGIONS else ()
            times = self._now_s, self._now_s + YEAR_S
            of = Record(name, "default", self.public[name], *times, called, role(name))
            self.file(name, "record").write_text(to_text(sign(self.authority, of)))

    def file(self, name: str, kind: str) -> Path:
        return self._directory / f"{name}.{kind}"

    def revoke(self, *names: str) -> Path:
        """The list of revoked keys, as a file."""
        path = self._directory / "revoked"
        none = Revocations(self._now_s)
        after = revise(none, self._now_s, [self.public[name] for name in names])
        path.write_text(to_text(sign(self.authority, after)))
        return path


def role(name: str) -> str:
    return "region" if name in REGIONS else "edge"


class Fleet:
    """Five nodes on the machines of an `internet`, and media from the first to the last. Ended by its
    `stack`."""

    def __init__(self, directory: Path, internet: Internet, stack: ExitStack) -> None:
        self.internet = internet
        self.keys = Keys(directory, internet.addresses)
        self._directory = directory
        self._stack = stack
        for name in NAMES:
            self.config(name).write_text(self._toml(name))
        with ThreadPoolExecutor(len(NAMES)) as pool:
            self.nodes = dict(zip(NAMES, pool.map(self._start, NAMES), strict=True))
        encoder, player = self.machine("in").run(_udp), self.machine("out").run(_udp)
        player.bind(("127.0.0.1", PLAYER))
        self.media = Media(encoder, player)
        stack.callback(self.media.close)
        wait_for("sessions", lambda: all(len(self.peers(r)) >= 2 for r in REGIONS), PATIENCE)
        self.media.wait("start", time.monotonic())

    def machine(self, name: str) -> Namespace:
        return self.internet.machines[name]

    def config(self, name: str) -> Path:
        return self._directory / f"{name}.toml"

    def _start(self, name: str) -> Node:
        node = self.machine(name).run(lambda: Node(self.config(name), OPS))
        self._stack.callback(node.kill)
        return node

    def start(self, name: str) -> None:
        """Anew, after it has ended."""
        self.nodes[name] = self._start(name)

    def _toml(self, name: str) -> str:
        state = self._directory / f"{name}.state"
        state.mkdir()
        hop = f"""
            [hop]
            listen = "0.0.0.0:{HOP}"
            key_file = "{self.keys.file(name, "key")}"
            [fleet]
            authority_key = "{self.keys.public_authority}"
            record_file = "{self.keys.file(name, "record")}"
        """
        called = [peer for peer in (REGIONS if name in REGIONS else SEEDS) if peer != name]
        peers = [
            f'[[hop.peers]]\nname = "{peer}"\naddress = "{self.internet.addresses[peer]}:{HOP}"\n'
            f'public_key = "{format_key(self.keys.public[peer])}"'
            for peer in called
        ]
        media = {"in": ingest_toml(STREAM, INGEST), "out": egress_toml(STREAM, PLAYER)}
        text = node_toml(name, OPS, hop, *peers, media.get(name, ""))
        return text.replace("[node]", f'[node]\nrole = "{role(name)}"\nstate_dir = "{state}"')

    # ---- what they say -----------------------------------------------------------------------

    def json(self, name: str, path: str) -> Any:
        return self.machine(name).run(lambda: self.nodes[name].json(path))

    def peers(self, name: str) -> set[str]:
        """Whom it has a session with."""
        of = self.json(name, "/v1/peers")
        return {peer["name"] for peer in of if peer["connected"] and not peer["self"]}

    def route(self, name: str) -> str | None:
        """The region that an edge's stream goes to or comes from."""
        [stream] = self.json(name, "/v1/streams")
        chosen: str | None = stream["route"]["chosen"]
        return chosen

    def ready(self) -> bool:
        """Whether the viewer's edge has a second region ready."""
        [stream] = self.json("out", "/v1/streams")
        return bool(stream["standby"] and stream["standby"]["armed"])

    def path(self) -> list[str]:
        """From where the stream enters to where it leaves, as the last node knows it."""
        [stream] = self.json("out", "/v1/streams")
        return [node["node"] for node in stream["path"]]

    @contextmanager
    def measured(self, what: str) -> Iterator[Callable[[], float]]:
        """Around something that fails: waits for media after it and prints what it cost; gives the gap, s."""
        since = time.monotonic()
        before = self.path()
        yield lambda: self.media.gap(since)
        self.media.wait(what, time.monotonic())
        gap, lost = self.media.gap(since), self.media.lost(since)
        path = " > ".join(self.path())
        print(f"\n{what}: {gap:.2f} s without media, {lost} packets lost; {' > '.join(before)}, then {path}")


def _udp() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    return sock
