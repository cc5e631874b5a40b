"""A fleet of processes on loopback, with records made by the commands: an edge that no region's configuration
names, its renewal, and its revocation."""

import json
import signal
from contextlib import ExitStack
from pathlib import Path

from relay.lab.receiver import free_port
from tests.integration.nodes import (
    STREAM,
    Node,
    egress_toml,
    ingest_toml,
    keygen,
    node_toml,
    received,
    receiver,
    relay,
    running,
    sender,
    wait_for,
)


def done(*arguments: str) -> str:
    """What a command that succeeds prints."""
    result = relay(*arguments)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


class Members:
    """Two regions and an edge, their keys and records in a directory, at ports from `first` on."""

    def __init__(self, directory: Path, first: int) -> None:
        self.directory, self.first = directory, first
        self.authority = str(directory / "fleet.key")
        self.public = done("fleet", "init", "--out", self.authority)
        self.names = ("edge", "region-1", "region-2")
        self.keys = {name: keygen(directory / f"{name}.key") for name in self.names}
        for name in self.names:
            self.sign(name, "--name", name, "--region", "default", "--key", self.keys[name])

    def file(self, name: str) -> str:
        return str(self.directory / name)

    def port(self, name: str) -> int:
        return self.first + self.names.index(name)

    def ops(self, name: str) -> int:
        return self.port(name) + len(self.names)

    def sign(self, name: str, *arguments: str) -> None:
        done("fleet", "sign", "--authority", self.authority, "--out", self.file(f"{name}.record"), *arguments)

    def config(self, name: str, calls: tuple[str, ...] = (), *sections: str) -> Path:
        state = self.directory / f"{name}.state"
        state.mkdir()
        hop = f"""
            [hop]
            listen = "127.0.0.1:{self.port(name)}"
            key_file = "{self.file(f"{name}.key")}"
            [fleet]
            authority_key = "{self.public}"
            record_file = "{self.file(f"{name}.record")}"
        """
        peers = [
            f'[[hop.peers]]\nname = "{peer}"\naddress = "127.0.0.1:{self.port(peer)}"\n'
            f'public_key = "{self.keys[peer]}"'
            for peer in calls
        ]
        path = self.directory / f"{name}.toml"
        text = node_toml(name, self.ops(name), hop, *peers, *sections)
        path.write_text(text.replace("[node]", f'[node]\nstate_dir = "{state}"'))
        return path


def peers(node: Node) -> set[str]:
    return {peer["name"] for peer in node.json("/v1/peers") if peer["connected"] and not peer["self"]}


def test_a_fleet_with_records(tmp_path: Path) -> None:
    first = free_port(12)
    ingest, player = first + 6, first + 8
    of = Members(tmp_path, first)
    listed = of.file("revoked")
    egress = egress_toml(STREAM, player)  # of both: the edge sends to the nearer one
    with ExitStack() as stack:

        def start(name: str, config: Path) -> Node:
            return stack.enter_context(running(config, of.ops(name)))

        region_1 = start("region-1", of.config("region-1", (), egress))
        region_2 = start("region-2", of.config("region-2", ("region-1",), egress))
        edge = start("edge", of.config("edge", ("region-1", "region-2"), ingest_toml(STREAM, ingest)))
        wait_for(
            "members",
            lambda: peers(region_1) == {"region-2", "edge"} and peers(region_2) == {"region-1", "edge"},
        )
        with receiver(player) as sock, sender(ingest) as source:
            wait_for("publication", lambda: edge.sends(STREAM))
            source.send(200)
            assert len(received(sock)) == 200

        # A renewed record is read by SIGHUP, and carried by the next handshake.
        before = edge.json("/v1/status")["fleet"]["record"]["expires"]
        of.sign("edge", "--renew", "--days", "300")
        edge.popen.send_signal(signal.SIGHUP)
        wait_for("reload", lambda: edge.json("/v1/status")["fleet"]["record"]["expires"] > before)
        assert "record until" in done("status", "--url", edge.url)
        assert "\nrelay_fleet_record_expiry_seconds 259" in edge.get("/metrics")[1]
        assert [hop["handshakes"] for hop in edge.json("/v1/hops")] == [1, 1]
        assert peers(edge) == {"region-1", "region-2"}

        # The list comes to one region, and holds at both.
        done("fleet", "revoke", "--authority", of.authority, of.keys["edge"], "--out", listed)
        region_2.rewrite("[fleet]", f'[fleet]\nrevocations_file = "{listed}"')
        region_2.popen.send_signal(signal.SIGHUP)
        wait_for(
            "end of the member", lambda: peers(region_1) == {"region-2"} and peers(region_2) == {"region-1"}
        )
        assert region_1.logged("member_removed") == 1
        assert region_2.end()[0] == 0 and region_1.end()[0] == 0
        kept = json.loads((tmp_path / "region-1.state" / "fleet.json").read_text())
        assert kept["authority"] == of.public and kept["revocations"]

        # It is known after a restart, without the file.
        region_1 = start("region-1", tmp_path / "region-1.toml")
        assert region_1.json("/v1/status")["fleet"]["revocations"]["keys"] == 1
        refused = "handshake_record_revoked"
        wait_for("refusal", lambda: region_1.json("/v1/status")["engine"].get(refused, 0) > 0)
        assert peers(region_1) == set()


def test_a_node_with_another_s_record_does_not_start(tmp_path: Path) -> None:
    of = Members(tmp_path, free_port(12))
    path = of.config("edge")
    path.write_text(path.read_text().replace("edge.record", "region-1.record"))
    result = relay("run", "--config", str(path))
    assert result.returncode == 2
    assert "fleet.record_file: found a record of region-1, expected one of edge" in result.stderr
