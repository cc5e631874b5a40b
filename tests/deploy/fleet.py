"""An edge and a region, and deploy/ansible that sees to them."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.deploy.machine import HERE, Machine, Ssh
from tests.deploy.release import Change, other_release
from tests.deploy.stream import INGEST, PLAYER
from tests.integration.nodes import STREAM, relay

ROOT = Path(__file__).parents[2]
ANSIBLE = ROOT / "deploy/ansible"
SETTLE_SECONDS = 3
INTO = f"""
[[ingest.rtp]]
stream = "{STREAM}"
tracks = [{{ kind = "video", listen = "0.0.0.0:{INGEST}", payload_type = 96, codec = "H264/90000" }}]
"""
OUT = f"""
[[egress.rtp]]
stream = "{STREAM}"
to = [{{ kind = "video", address = "{HERE}:{PLAYER}" }}]
"""
RECAP = re.compile(r"^(\S+) +: ok=\d+ +changed=(\d+) +unreachable=(\d+) +failed=(\d+)", re.MULTILINE)


class Play:
    """What a run of the playbook said: how many tasks have changed something, and failed, by machine."""

    def __init__(self, output: str) -> None:
        self.output = output
        recap = RECAP.findall(output)
        self.changed = {name: int(changed) for name, changed, _, _ in recap}
        self.failed = {name: int(unreachable) + int(failed) for name, _, unreachable, failed in recap}


class Fleet:
    """The inventory, and the wheels of all releases, are in `directory`."""

    def __init__(self, edge: Machine, region: Machine, directory: Path, ssh: Ssh) -> None:
        self.edge, self.region = edge, region
        self.both = (region, edge)
        """In the playbook's order."""
        self._wheels = directory / "wheels"
        shutil.copytree(ROOT / "dist", self._wheels)
        keys = relay("fleet", "init")
        called = f"{region.address}:7400"
        at = {"ansible_host": region.address, "relay_region": "home"}
        regions = {region.name: {**at, "relay_addresses": [called], "relay_config": OUT}}
        edges = {edge.name: {**at, "ansible_host": edge.address, "relay_config": INTO}}
        variables = {
            "ansible_user": "root",
            "ansible_ssh_common_args": " ".join(ssh.options),
            "relay_wheels": str(self._wheels),
            "relay_settle_seconds": SETTLE_SECONDS,
            "relay_fleet_key": keys.stdout.strip(),
            "relay_authority_key": keys.stderr.split()[-1],
        }
        groups = {"regions": {"hosts": regions}, "edges": {"hosts": edges}, "monitoring": {}}
        self._inventory = directory / "hosts.yml"
        self._inventory.write_text(json.dumps({"all": {"vars": variables, "children": groups}}))

    def play(self, *options: str) -> Play:
        playbook = Path(sys.executable).with_name("ansible-playbook")
        done = subprocess.run(
            [playbook, "-i", self._inventory, *options, ANSIBLE / "site.yml"],
            env={**os.environ, "ANSIBLE_CONFIG": str(ANSIBLE / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        return Play(done.stdout + done.stderr)

    def release(self, version: str, *changes: Change) -> Play:
        """Rolls out another release."""
        other_release(self._wheels, version, *changes)
        return self.play("-e", f"relay_version={version}")
