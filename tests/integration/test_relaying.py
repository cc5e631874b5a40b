"""Four nodes as processes: an edge, its region, another region, and an edge where the stream leaves."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from relay.lab.receiver import free_port
from tests.integration.nodes import (
    STREAM,
    Node,
    egress_toml,
    gaps,
    ingest_toml,
    keygen,
    received,
    receiver,
    running,
    sender,
    wait_for,
)

NAMES = ("edge", "a", "b", "out")
CALLS = {"edge": ("a",), "a": (), "b": ("a",), "out": ("b",)}
RATE = 400


class Chain:
    """The four on loopback. `ops` are ports of their APIs, `hop` of the nodes themselves."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        first = free_port(16)
        self.ingest, self.player = first, first + 2
        self.hop = {name: first + 4 + i for i, name in enumerate(NAMES)}
        self.ops = {name: first + 8 + i for i, name in enumerate(NAMES)}
        self._directory = directory
        self._stack = stack
        self._keys = {name: keygen(directory / f"{name}.key") for name in NAMES}
        for name in NAMES:
            (directory / f"{name}.toml").write_text(self._config(name))
        self.nodes = {name: self.start(name) for name in NAMES}

    def start(self, name: str) -> Node:
        return self._stack.enter_context(running(self._directory / f"{name}.toml", self.ops[name]))

    def _config(self, name: str) -> str:
        role = "region" if name in ("a", "b") else "edge"
        lines = [
            f'[node]\nname = "{name}"\nrole = "{role}"',
            f'[ops]\nlisten = "127.0.0.1:{self.ops[name]}"',
            f'[hop]\nlisten = "127.0.0.1:{self.hop[name]}"\nkey_file = "{self._directory / name}.key"',
        ]
        for peer in NAMES:
            if peer in CALLS[name] or name in CALLS[peer]:
                lines.append(f'[[hop.peers]]\nname = "{peer}"\npublic_key = "{self._keys[peer]}"')
            if peer in CALLS[name]:
                lines.append(f'address = "127.0.0.1:{self.hop[peer]}"')
        if name == "edge":
            lines.append(ingest_toml(STREAM, self.ingest))
        if name == "out":
            lines.append(egress_toml(STREAM, self.player))
        return "\n".join(lines)

    def arrives(self) -> bool:
        """Whether the second region sends the stream on to the last edge."""
        return any(to["accepted"] for s in self.nodes["b"].json("/v1/streams") for to in s["sent_to"])


@pytest.fixture
def chain(tmp_path: Path) -> Iterator[Chain]:
    with ExitStack() as stack:
        yield Chain(tmp_path, stack)


def test_a_stream_finds_its_way_over_two_regions(chain: Chain) -> None:
    wait_for("stream at the last edge", chain.arrives)
    with receiver(chain.player) as player, sender(chain.ingest, rate=RATE) as source:
        source.send(800)
        packets = received(player)
        assert len(packets) == 800 and gaps(packets) == 0
        [out] = chain.nodes["out"].json("/v1/streams")
        assert [node["node"] for node in out["path"]] == list(NAMES)
        [at_b] = chain.nodes["b"].json("/v1/streams")
        assert at_b["asked"] == "a" and at_b["tracks"][0]["relayed_packets"] == 800
        assert [(p["peer"], p["accepted"]) for p in at_b["sent_to"]] == [("out", True)]
        chain.nodes["b"].kill()
        chain.nodes["b"] = chain.start("b")
        wait_for("stream at the last edge", chain.arrives)
        source.send(200)
        assert len(received(player)) == 200
