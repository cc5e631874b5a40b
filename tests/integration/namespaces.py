"""Network namespaces: machines of their own for processes of this one, and a net between them. Needs root."""

import ctypes
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import product
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tests.integration.nodes import Process, wait_for

CLONE_NEWNET = 0x40000000  # linux/sched.h
LAB_TABLE = "100"
"""Routes of what a machine has sent; what comes out of the lab's device takes the main table."""
DEVICE = "lab"
T = TypeVar("T")


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


class Namespace:
    """A network namespace of its own. Sockets and processes that are made in `run` belong to it."""

    def __init__(self, name: str) -> None:
        self.name = name
        ip("netns", "add", name)
        self.ip("link", "set", "lo", "up")

    def ip(self, *arguments: str) -> None:
        ip("-n", self.name, *arguments)

    def run(self, call: Callable[[], T]) -> T:
        """What `call` gives, in a thread that is in the namespace."""
        results: list[T] = []
        errors: list[BaseException] = []

        def enter() -> None:
            try:
                with open(f"/run/netns/{self.name}") as file:
                    if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), CLONE_NEWNET):
                        raise OSError(ctypes.get_errno(), "setns")
                results.append(call())
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
        if errors:
            raise errors[0]
        return results[0]

    def delete(self) -> None:
        ip("netns", "delete", self.name)


@contextmanager
def or_skip() -> Iterator[None]:
    """Around what makes namespaces: a test that cannot have them is skipped, and says why."""
    if os.geteuid():
        pytest.skip("network namespaces need root")
    try:
        yield
    except subprocess.CalledProcessError as error:
        pytest.skip(f"this machine has no network namespaces: {error.stderr.strip()}")


class Internet:
    """A namespace for each machine, a cable from each to one in the middle, and there delay and loss between
    any two (relay.lab.wan)."""

    def __init__(
        self, directory: Path, pairs: Mapping[tuple[str, str], tuple[float, float]], stack: ExitStack
    ) -> None:
        """`pairs`: ms one way and loss each way, by the names of the machines. Ended by the stack."""
        names = sorted({name for pair in pairs for name in pair})
        self.addresses = {name: f"10.98.{i}.2" for i, name in enumerate(names)}
        self._core = self._made("core", stack)
        self._core.run(lambda: Path("/proc/sys/net/ipv4/ip_forward").write_text("1"))
        self._core.ip("tuntap", "add", "dev", DEVICE, "mode", "tun")
        self._core.ip("link", "set", DEVICE, "up")
        self._core.ip("route", "add", "default", "dev", DEVICE, "table", LAB_TABLE)
        self.machines = {name: self._machine(name, stack) for name in names}
        called = [
            f"{self.addresses[a]},{self.addresses[b]},{ms},{loss}" for (a, b), (ms, loss) in pairs.items()
        ]
        command = [sys.executable, "-m", "relay.lab.wan", "--device", DEVICE, *called]
        emulator = self._core.run(lambda: Process(command, directory / "wan.log"))
        stack.callback(emulator.kill)
        wait_for("emulator", lambda: emulator.logged("carries"))

    def _made(self, name: str, stack: ExitStack) -> Namespace:
        made = Namespace(f"relay-{os.getpid()}-{name}")
        stack.callback(made.delete)
        return made

    def _machine(self, name: str, stack: ExitStack) -> Namespace:
        made, cable = self._made(name, stack), self.cable(name)
        network = self.addresses[name].rpartition(".")[0]
        made.ip("link", "add", "wan", "type", "veth", "peer", "name", cable, "netns", self._core.name)
        made.ip("address", "add", f"{network}.2/24", "dev", "wan")
        self._core.ip("address", "add", f"{network}.1/24", "dev", cable)
        made.ip("link", "set", "wan", "up")
        self._core.ip("link", "set", cable, "up")
        self._core.ip("rule", "add", "iif", cable, "lookup", LAB_TABLE)
        made.ip("route", "add", "default", "via", f"{network}.1", "dev", "wan")
        return made

    def cable(self, name: str) -> str:
        """The end in the middle."""
        return f"to-{name}"

    def unplug(self, name: str) -> None:
        self._core.ip("link", "set", self.cable(name), "down")

    def plug(self, name: str) -> None:
        """The kernel has forgotten no route but that to the machine itself, which comes with the link."""
        self._core.ip("link", "set", self.cable(name), "up")

    @contextmanager
    def dead(self, sources: tuple[str, ...], destinations: tuple[str, ...]) -> Iterator[None]:
        """What these send to those is dropped, in this direction alone."""
        rules = [
            ("iif", self.cable(a), "to", self.addresses[b], "blackhole")
            for a, b in product(sources, destinations)
        ]
        for rule in rules:
            self._core.ip("rule", "add", *rule)
        try:
            yield
        finally:
            for rule in rules:
                self._core.ip("rule", "del", *rule)

    def run(self, name: str, call: Callable[[], Any]) -> Any:
        return self.machines[name].run(call)
