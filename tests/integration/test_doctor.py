"""`relay doctor` beside real nodes, and that nothing which a node or a command says holds a secret."""

import base64
import json
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from relay.lab.receiver import free_port
from tests.integration.nodes import (
    Node,
    hop_toml,
    ingest_toml,
    keygen,
    node_toml,
    relay,
    running,
    sender,
    wait_for,
)

RECORDING = """
import os, sys
drawn = open(sys.argv.pop(1), "a", buffering=1)
urandom = os.urandom
def recorded(count):
    found = urandom(count)
    print(found.hex(), file=drawn)
    return found
os.urandom = recorded
from relay.core import handshake
path_keys = handshake._path_keys
def keys_of(*arguments):
    keys = path_keys(*arguments)
    print(keys.send.hex(), keys.receive.hex(), sep="\\n", file=drawn)
    return keys
handshake._path_keys = keys_of
from relay.cli import main
sys.exit(main())
"""
"""A node that writes down what it draws at random, ephemeral keys among it, and the keys of its sessions."""
KEY_BYTES = 16
"""What is shorter is no key: numbers of instances, indices, tokens that are sent in the clear."""
WINDOW = 8
"""Bytes of a key that must not be seen, wherever in it they are."""


class Pair:
    """An edge, which is yet to be started, and a running region."""

    def __init__(self, directory: Path, more: str = "") -> None:
        base = free_port(8)
        self.edge_ops, self.region_ops, self.edge_hop, self.region_hop, self.ingest = range(base, base + 5)
        keys = directory / "edge.key", directory / "region.key"
        edge, region = (keygen(key) for key in keys)
        listen = "127.0.0.1:{}".format
        self.edge_toml, self.region_toml = directory / "edge.toml", directory / "region.toml"
        calls = hop_toml(listen(self.edge_hop), keys[0], "region", region, address=listen(self.region_hop))
        called = hop_toml(listen(self.region_hop), keys[1], "edge", edge)
        ingest = ingest_toml("studio", self.ingest)
        state = f'state_dir = "{directory}"'
        for path, toml in (
            (self.edge_toml, node_toml("edge", self.edge_ops, calls, ingest, more)),
            (self.region_toml, node_toml("region", self.region_ops, called, more)),
        ):
            path.write_text(toml.replace("[node]", f"[node]\n{state}"))


def doctor(config: Path, code: int) -> dict[str, list[dict[str, Any]]]:
    """The findings, by check."""
    done = relay("doctor", "--config", str(config), "--json")
    assert done.returncode == code, done.stdout + done.stderr
    found: dict[str, list[dict[str, Any]]] = {}
    for finding in json.loads(done.stdout)["findings"]:
        found.setdefault(finding["check"], []).append(finding)
    return found


def connected(node: Node) -> bool:
    return [hop["state"] for hop in node.json("/v1/hops")] == ["connected"]


def test_the_way_to_a_peer_before_the_node_runs_and_while_it_does(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    (peer,) = doctor(pair.edge_toml, 1)["peer region"]
    assert peer["state"] == "error" and "none of 8" in peer["seen"]
    with running(pair.region_toml, pair.region_ops) as region:
        (peer,) = doctor(pair.edge_toml, 0)["peer region"]
        assert peer["state"] == "ok" and "8 of 8 handshakes answered" in peer["seen"]
        assert not connected(region)  # handshakes that are not confirmed are no session
        with running(pair.edge_toml, pair.edge_ops) as edge:
            wait_for("session", lambda: connected(edge) and connected(region))
            before = edge.json("/v1/hops")[0]["handshakes"], region.json("/v1/hops")[0]["handshakes"]
            found = doctor(pair.edge_toml, 0)
            assert found["peer region"][0]["seen"].startswith("connected, RTT")
            assert found[f"port {pair.edge_hop}/udp"][0]["state"] == "ok"  # held by the node
            assert found["node"][0]["state"] == "ok"
            done = relay("doctor", "--config", str(pair.edge_toml), "--url", region.url)
            assert "is another node, region" in done.stdout
            # One that cannot be asked may have a session all the same, and keeps it.
            edge.rewrite(f'listen = "127.0.0.1:{pair.edge_ops}"', f'listen = "127.0.0.1:{pair.edge_ops + 7}"')
            found = doctor(pair.edge_toml, 1)
            assert found[f"port {pair.edge_hop}/udp"][0]["state"] == "error"
            assert found["peer region"][0]["state"] == "unknown"
            after = edge.json("/v1/hops")[0]["handshakes"], region.json("/v1/hops")[0]["handshakes"]
            assert before == after and connected(edge)


def test_nothing_that_is_said_holds_a_secret(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("RELAY_LOG_LEVEL", "debug")
    fleet_key = tmp_path / "fleet.key"
    done = relay("fleet", "init", "--out", str(fleet_key))
    pair = Pair(tmp_path, f'[fleet]\nauthority_key = "{done.stdout.strip()}"')
    drawn = tmp_path / "drawn"
    program = [sys.executable, "-c", RECORDING, str(drawn)]
    said = [done.stdout, done.stderr]
    with (
        running(pair.region_toml, pair.region_ops, program) as region,
        running(pair.edge_toml, pair.edge_ops, program) as edge,
        sender(pair.ingest) as encoder,
    ):
        wait_for("session", lambda: connected(edge) and connected(region))
        encoder.send(100)
        for node in region, edge:
            paths = "status", "streams", "streams/studio", "hops", "peers"
            said += [node.get(f"/v1/{path}")[1] for path in paths]
            said += [node.get("/metrics")[1], node.get("/readyz")[1]]
            for command in ("status",), ("status", "--json"), ("doctor",), ("doctor", "--json"):
                of = ("--config", str(node.config)) if command[0] == "doctor" else ()
                done = relay(*command, "--url", node.url, *of)
                said += [done.stdout, done.stderr]
    for node in region, edge:
        said += [node.log.read_text(), relay("check-config", str(node.config)).stdout]
    private = [pair.edge_toml.with_suffix(".key"), pair.region_toml.with_suffix(".key"), fleet_key]
    known = [base64.b64decode(path.read_text().strip().rpartition(":")[2]) for path in private]
    known += [bytes.fromhex(line) for line in drawn.read_text().split()]
    keys = {key for key in known if len(key) >= KEY_BYTES}
    assert len(keys) >= 3 + 2 + 2  # private keys, ephemeral keys, keys of the session
    text = "\n".join(said)
    assert not [form for key in keys for form in forms(key) if form in text]


def test_the_search_would_find_a_secret() -> None:
    key = secrets.token_bytes(32)
    for told in (
        key.hex(),
        key.hex().upper(),
        key.hex(":"),
        base64.b64encode(key).decode(),
        base64.urlsafe_b64encode(key[3:]).decode(),
        repr(key),
        str(list(key)),
    ):
        assert any(form in f"x{told}y" for form in forms(key)), told


def forms(key: bytes) -> Iterator[str]:
    """How parts of a key may be written."""
    for i in range(len(key) - WINDOW + 1):
        part = key[i : i + WINDOW]
        yield from (part.hex(), part.hex().upper(), part.hex(":"), repr(part)[2:-1], str(list(part))[1:-1])
    for i in range(0, len(key) - 12, 3):  # groups of three bytes are four characters
        part = key[i : i + 9]
        yield from (base64.b64encode(part).decode(), base64.urlsafe_b64encode(part).decode())
