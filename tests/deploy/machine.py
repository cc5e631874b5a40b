"""Machines: Debian with systemd as its first process, in namespaces and a control group of their own.

All stand on the same read-only system, and what each writes goes to a file system in memory. Nothing is taken
down again: `tests/deploy/test` runs everything in namespaces whose end takes mounts, networks and processes
with it.
"""

import json
import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

from tests.integration.nodes import wait_for

BASE = Path(os.environ.get("RELAY_DEPLOY_BASE", ""))
CGROUP = Path(os.environ.get("RELAY_DEPLOY_CGROUP", ""))
BOOT_SECONDS = 60.0
DISK_BYTES = 1 << 30
"""What a machine may write."""
BRIDGE = "machines"
NETWORK = "10.98.0"
HERE = f"{NETWORK}.1"
"""The tests' own address."""


def run(*command: str, check: bool = True) -> str:
    """What a command says; all that it says shows when it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, f"{shlex.join(command)}\n{done.stdout}{done.stderr}"
    return done.stdout


def network() -> None:
    """Joins the machines with this namespace, which has no other network."""
    Path("/run/netns").mkdir(exist_ok=True)
    run("mount", "-t", "tmpfs", "netns", "/run/netns")
    run("ip", "link", "set", "lo", "up")
    run("ip", "link", "add", BRIDGE, "type", "bridge")
    run("ip", "address", "add", f"{HERE}/24", "dev", BRIDGE)
    run("ip", "link", "set", BRIDGE, "up")


class Ssh:
    """Root's way into the machines, with a key of this run."""

    def __init__(self, directory: Path) -> None:
        key = directory / "id_ed25519"
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key))
        self.public_key = key.with_suffix(".pub").read_text()
        host_key = (BASE / "etc/ssh/ssh_host_ed25519_key.pub").read_text().split()
        known_hosts = directory / "known_hosts"
        known_hosts.write_text(f"{NETWORK}.* {' '.join(host_key[:2])}\n")
        self.options = [
            *("-i", str(key), "-o", f"UserKnownHostsFile={known_hosts}", "-o", "BatchMode=yes"),
            *("-o", "ControlMaster=auto", "-o", f"ControlPath={directory}/%C", "-o", "ControlPersist=60"),
        ]


class Machine:
    """Boots as it is made; `number` is the last byte of its address."""

    def __init__(self, name: str, number: int, directory: Path, ssh: Ssh) -> None:
        self.name, self.address = name, f"{NETWORK}.{number}"
        self.root = directory / name / "root"
        self.console = directory / f"{name}.console"
        self._ssh = ssh
        self._connect()
        self._mount(directory / name)
        self._process = self._boot()

    def _connect(self) -> None:
        run("ip", "netns", "add", self.name)
        run("ip", "link", "add", self.name, "type", "veth", "peer", "name", "host0", "netns", self.name)
        run("ip", "link", "set", self.name, "master", BRIDGE, "up")
        run("ip", "-n", self.name, "address", "add", f"{self.address}/24", "dev", "host0")
        for device in ("lo", "host0"):
            run("ip", "-n", self.name, "link", "set", device, "up")

    def _mount(self, directory: Path) -> None:
        directory.mkdir()
        run("mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", self.name, str(directory))
        upper, work = directory / "upper", directory / "work"
        for made in (self.root, upper, work):
            made.mkdir()
        layers = f"lowerdir={BASE},upperdir={upper},workdir={work}"
        run("mount", "-t", "overlay", "-o", layers, self.name, str(self.root))
        (self.root / "etc/hostname").write_text(self.name)
        (self.root / "etc/machine-id").unlink()  # it makes one of its own
        keys = self.root / "root/.ssh"
        keys.mkdir(0o700, exist_ok=True)
        (keys / "authorized_keys").write_text(self._ssh.public_key)

    def _boot(self) -> "subprocess.Popen[bytes]":
        cgroup = CGROUP / self.name
        cgroup.mkdir()
        command = [
            *("systemd-nspawn", "--quiet", "--boot", "--register=no", "--keep-unit", "--console=pipe"),
            *("--link-journal=no", "--resolv-conf=off", "--timezone=off", f"--machine={self.name}"),
            *(f"--directory={self.root}", f"--network-namespace-path=/run/netns/{self.name}"),
        ]
        with self.console.open("w") as console:
            return subprocess.Popen(
                ["sh", "-c", f"echo $$ >{cgroup}/cgroup.procs && exec {shlex.join(command)}"],
                env={**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def booted(self) -> None:
        """Waits for it."""

        def up() -> bool:
            assert self._process.poll() is None, self.console.read_text()
            return self.sh("systemctl is-system-running --wait", check=False) in ("running\n", "degraded\n")

        wait_for(f"boot of {self.name}", up, BOOT_SECONDS)

    def unplug(self) -> None:
        self._process.kill()
        self._process.wait()

    def sh(self, script: str, check: bool = True) -> str:
        """What a shell script says over SSH."""
        return run("ssh", *self._ssh.options, f"root@{self.address}", script, check=check)

    # ---- its node ----------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        return dict(json.loads(self.sh("relay status --json")))

    def unit(self, name: str) -> str:
        """A property of the node's unit."""
        return self.sh(f"systemctl show --property={name} --value relay").strip()

    def signal(self, name: str) -> None:
        self.sh(f"systemctl kill --kill-whom=main --signal={name} relay")

    def journal(self, event: str) -> list[dict[str, str]]:
        """Entries of the node's log, of one event."""
        lines = self.sh(f"journalctl --unit=relay --output=json RELAY_EVENT={event}").splitlines()
        return [json.loads(line) for line in lines]
