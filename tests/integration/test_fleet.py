"""A fleet of processes on loopback, with records made by the commands: an edge that no region's configuration
names, its renewal, unattended and by hand, and its revocation."""

import json
import signal
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from relay.core.keys import parse_key
from relay.core.record import decode_record, from_text, sign, to_text
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
            self.sign(
                name, "--name", name, "--region", "default", "--key", self.keys[name], "--role", role(name)
            )

    def file(self, name: str) -> str:
        return str(self.directory / name)

    def port(self, name: str) -> int:
        return self.first + self.names.index(name)

    def ops(self, name: str) -> int:
        return self.port(name) + len(self.names)

    def sign(self, name: str, *arguments: str) -> None:
        done("fleet", "sign", "--authority", self.authority, "--out", self.file(f"{name}.record"), *arguments)

    def age(self, name: str, days: int) -> None:
        """As if the record had been signed so long ago."""
        path = self.directory / f"{name}.record"
        of = decode_record(from_text(path.read_text()))
        key = parse_key(Path(self.authority).read_text().removeprefix("fleet-authority:"))
        aged = replace(of, issued_s=of.issued_s - days * 86400, expires_s=of.expires_s - days * 86400)
        path.write_text(to_text(sign(key, aged)))

    def renew(self, node: "Node") -> str:
        """The job beside the fleet's key."""
        command = ("fleet", "renew", "--authority", self.authority, "--revoked", self.file("revoked"))
        return done(*command, "--url", node.url, *(self.file(f"{name}.record") for name in self.names))

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
        own = f'[node]\nrole = "{role(name)}"\nstate_dir = "{state}"'
        path.write_text(text.replace("[node]", own))
        return path


def role(name: str) -> str:
    return "region" if name.startswith("region") else "edge"


def peers(node: Node) -> set[str]:
    return {peer["name"] for peer in node.json("/v1/peers") if peer["connected"] and not peer["self"]}


def test_a_fleet_with_records(tmp_path: Path) -> None:
    first = free_port(12)
    ingest, player = first + 6, first + 8
    of = Members(tmp_path, first)
    listed = of.file("revoked")
    done("fleet", "revoke", "--authority", of.authority, "--out", listed)
    of.age("edge", days=80)
    with ExitStack() as stack:

        def start(name: str, config: Path) -> Node:
            return stack.enter_context(running(config, of.ops(name)))

        region_1 = start("region-1", of.config("region-1", (), egress_toml(STREAM, player)))
        region_2 = start("region-2", of.config("region-2", ("region-1",)))
        edge = start("edge", of.config("edge", ("region-1", "region-2"), ingest_toml(STREAM, ingest)))
        wait_for(
            "members",
            lambda: peers(region_1) == {"region-2", "edge"} and peers(region_2) == {"region-1", "edge"},
        )
        with receiver(player) as sock, sender(ingest) as source:
            wait_for("publication", lambda: edge.sends(STREAM))
            source.send(200)
            assert len(received(sock)) == 200

        # It is renewed by the job, which gives it to a region, and comes to the edge by itself.
        assert "the record of this node ends" in edge.json("/readyz")["notes"][0]
        assert len(of.renew(region_2).splitlines()) == 2
        wait_for("renewal", lambda: edge.json("/readyz")["notes"] == [])
        wait_for("log", lambda: edge.logged("record_renewed") == 1)
        before = edge.json("/v1/status")["fleet"]["record"]["expires"]
        stored = tmp_path / "edge.state/fleet.json"
        wait_for("state", lambda: stored.exists() and '"record": ""' not in stored.read_text())
        of.age("edge", days=80)
        assert edge.end()[0] == 0
        edge = start("edge", tmp_path / "edge.toml")
        assert edge.json("/v1/status")["fleet"]["record"]["expires"] == before
        wait_for("members", lambda: peers(edge) == {"region-1", "region-2"})

        # One that is signed by hand is read by SIGHUP, and carried by the next handshake.
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
