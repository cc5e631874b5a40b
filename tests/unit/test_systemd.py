"""What is said to systemd and heard from it, and the units themselves."""

import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from relay.services.restarts import delay_seconds, hold_back
from relay.services.watchdog import Watchdog
from relay.systemd import Manager
from relay_ext.control import PlaneBusy

UNITS = Path(__file__).parents[2] / "systemd"
EXPOSURE_MOST = 1.5


@pytest.fixture
def notified(tmp_path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.bind(str(tmp_path / "notify"))
    sock.settimeout(1)
    return sock


def test_without_systemd_nothing_happens() -> None:
    manager = Manager({"WATCHDOG_USEC": "1000000"}, 1)
    manager.tell("READY=1")
    manager.drop("name")
    assert manager.watchdog_seconds is None and manager.kept == {}


def test_what_it_says_is_taken_out_of_the_environment(notified: socket.socket) -> None:
    with notified:
        address = notified.getsockname()
        environ = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "500000", "WATCHDOG_PID": "7", "LANG": "C"}
        assert Manager(dict(environ), 7).watchdog_seconds == 0.5
        assert Manager(dict(environ), 8).watchdog_seconds is None
        manager = Manager(environ, 7)
        assert environ == {"LANG": "C"}
        manager.tell("RELOADING=1", "MONOTONIC_USEC=5")
        assert notified.recv(100) == b"RELOADING=1\nMONOTONIC_USEC=5"


def test_an_abstract_address() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(b"")  # one that is free
        sock.settimeout(1)
        Manager({"NOTIFY_SOCKET": "@" + sock.getsockname()[1:].decode()}, 1).tell("READY=1")
        assert sock.recv(100) == b"READY=1"


def test_file_descriptors_of_another_process_are_not_taken() -> None:
    environ = {"LISTEN_PID": "6", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "a"}
    assert Manager(environ, 7).kept == {} and environ == {}


def test_a_socket_is_kept_without_polling(notified: socket.socket) -> None:
    with notified, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        Manager({"NOTIFY_SOCKET": notified.getsockname()}, 1).keep("hop", sock)
        text, fds, _, _ = socket.recv_fds(notified, 100, 1)
        assert text == b"FDSTORE=1\nFDNAME=hop\nFDPOLL=0"
        assert os.fstat(fds[0]).st_ino == os.fstat(sock.fileno()).st_ino
        os.close(fds[0])


# ---- crashes in a row ---------------------------------------------------------------------------


def test_delays_grow() -> None:
    assert [delay_seconds(n) for n in (0, 1, 2, 3)] == [0, 0.2, 0.4, 0.8]
    assert delay_seconds(8) < delay_seconds(9) == delay_seconds(1000) == 30


def test_crashes_are_counted_as_long_as_they_come_soon(notified: socket.socket) -> None:
    second = 1_000_000_000
    now_ns, slept = 5 * second, []

    def start(kept: dict[str, int]) -> int:
        manager = Manager({"NOTIFY_SOCKET": notified.getsockname()}, 1)
        manager.kept = kept
        return hold_back(manager, lambda: now_ns, slept.append)

    with notified:
        assert start({}) == 0
        _, (memory,), _, _ = socket.recv_fds(notified, 100, 1)
        for crashes in (1, 2, 3):
            now_ns += 50 * second
            assert start({"starts": os.dup(memory)}) == crashes
        now_ns += 61 * second
        assert start({"starts": os.dup(memory)}) == 0
        assert slept == [0.2, 0.4, 0.8, 0]
        os.close(memory)


# ---- the watchdog -------------------------------------------------------------------------------


class Thread:
    """A packet plane whose thread answers pings, or does not."""

    def __init__(self) -> None:
        self.pong = self.asked = 0
        self.busy = False

    def ping(self, number: int) -> None:
        if self.busy:
            raise PlaneBusy
        self.asked = number

    def answer(self) -> None:
        self.pong = self.asked


def test_the_watchdog_is_fed_while_every_thread_answers() -> None:
    threads, fed = [Thread(), Thread()], []
    watchdog = Watchdog(threads, lambda: fed.append(1))  # type: ignore[arg-type]
    for _ in range(3):
        watchdog.tick()
        for thread in threads:
            thread.answer()
    assert len(fed) == 3
    watchdog.tick()
    threads[0].answer()
    for _ in range(5):
        watchdog.tick()  # the second hangs
    assert len(fed) == 4
    threads[1].answer()
    watchdog.tick()
    assert len(fed) == 5


def test_a_thread_that_takes_no_commands_is_asked_again() -> None:
    thread, fed = Thread(), []
    watchdog = Watchdog([thread], lambda: fed.append(1))  # type: ignore[list-item]
    thread.busy = True
    watchdog.tick()
    watchdog.tick()
    assert len(fed) == 1
    thread.busy = False
    watchdog.tick()
    thread.answer()
    watchdog.tick()
    assert len(fed) == 2


# ---- the units ----------------------------------------------------------------------------------


def test_the_template_is_the_same_unit() -> None:
    one = (UNITS / "relay.service").read_text().splitlines()[3:]
    many = (UNITS / "relay@.service").read_text().splitlines()[3:]
    changes = {
        "Description=Edge Relay node": "Description=Edge Relay node %i",
        "StateDirectory=relay": "StateDirectory=relay/%i",
        "Environment=RELAY_HOP_KEY_FILE=%d/node.key": "Environment=RELAY_HOP_KEY_FILE=%d/node.key "
        "RELAY_NODE_STATE_DIR=%S/relay/%i",
    }
    assert [changes.get(line, line.replace("/etc/relay/", "/etc/relay/%i/")) for line in one] == many


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze")
@pytest.mark.parametrize("name", ["relay.service", "relay@.service"])
def test_the_sandbox_is_strict(name: str, tmp_path: Path) -> None:
    unit = tmp_path / name.replace("@.", "@north.")
    shutil.copy(UNITS / name, unit)
    command = ["systemd-analyze", "security", "--offline=true", f"--threshold={EXPOSURE_MOST * 10:.0f}"]
    done = subprocess.run([*command, unit], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze")
@pytest.mark.parametrize("name", ["relay.service", "relay@.service"])
def test_systemd_knows_every_setting(name: str, tmp_path: Path) -> None:
    unit = tmp_path / name.replace("@.", "@north.")
    unit.write_text((UNITS / name).read_text().replace("/opt/relay/current/bin/relay", "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
    assert unit.name not in done.stderr and str(unit) not in done.stderr
