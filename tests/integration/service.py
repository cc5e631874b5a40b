"""In place of systemd: starts one service, hears what it says, and keeps its file descriptors."""

import array
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.integration.nodes import PATIENCE, wait_for

RELAY = Path(sys.executable).with_name("relay")
"""As systemd runs it: by its path, which an upgrade changes."""
BEGIN = """
import fcntl, os, sys
fds = [fcntl.fcntl(int(fd), fcntl.F_DUPFD, 500) for fd in sys.argv[1].split(",") if fd]
for i, fd in enumerate(fds):
    os.dup2(fd, 3 + i)
    os.close(fd)
os.environ["LISTEN_PID"] = os.environ["WATCHDOG_PID"] = str(os.getpid())
os.execv(sys.argv[2], sys.argv[2:])
"""
"""What happens between fork and exec: the descriptors are from 3 on, and the pid is told."""


class Service:
    """`store` has what the service wants kept, by name; `said` counts its assignments."""

    def __init__(self, config: Path, watchdog_seconds: float, program: Path) -> None:
        self.config = config
        self.program = program
        self.log = config.with_suffix(".log")
        self.store: dict[str, int] = {}
        self.said: Counter[str] = Counter()
        self.pid = 0
        self._watchdog_us = round(watchdog_seconds * 1e6)
        self._process: subprocess.Popen[bytes] | None = None
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._socket.bind(str(config.with_suffix(".notify")))
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def start(self) -> None:
        """Start it, and wait until it is ready."""
        if self._process is not None:
            self._process.wait(PATIENCE)
        environ = {
            **os.environ,
            "NOTIFY_SOCKET": self._socket.getsockname(),
            "WATCHDOG_USEC": str(self._watchdog_us),
            "LISTEN_FDS": str(len(self.store)),
            "LISTEN_FDNAMES": ":".join(self.store),
        }
        ready = self.said["READY=1"]
        fds = tuple(self.store.values())
        command = [sys.executable, "-c", BEGIN, ",".join(map(str, fds)), str(self.program), "run"]
        with self.log.open("a") as log:
            self._process = subprocess.Popen(
                [*command, "--config", str(self.config)], env=environ, pass_fds=fds, stderr=log
            )
        self.pid = self._process.pid
        wait_for("readiness", lambda: self.said["READY=1"] > ready)

    def crash(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def ended(self) -> int:
        """Waits until it has ended by itself; its exit code."""
        assert self._process is not None
        return self._process.wait(PATIENCE)

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def logged(self, text: str) -> int:
        return self.log.read_text().count(text)

    def inodes(self) -> dict[str, int]:
        """Which objects it keeps."""
        return {name: os.fstat(fd).st_ino for name, fd in self.store.items()}

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(PATIENCE)
        if self.pid:
            with suppress(ProcessLookupError):  # another than that, after a hand-over
                os.kill(self.pid, signal.SIGKILL)
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()
        for fd in self.store.values():
            os.close(fd)

    def _listen(self) -> None:
        room = socket.CMSG_SPACE(12) + socket.CMSG_SPACE(4 * 253)
        while message := self._socket.recvmsg(4096, room):
            text, ancillary, _, _ = message
            if not text:
                return
            fds, sender = array.array("i"), 0
            for _, kind, data in ancillary:
                if kind == socket.SCM_RIGHTS:
                    fds.frombytes(data)
                else:
                    sender = struct.unpack("iII", data)[0]
            self._heed(text.decode(), list(fds), sender)

    def _heed(self, text: str, fds: list[int], sender: int) -> None:
        lines = text.split("\n")
        names = [line.removeprefix("FDNAME=") for line in lines if line.startswith("FDNAME=")]
        if sender == self.pid:  # NotifyAccess=main
            for line in lines:
                if line.startswith("MAINPID="):
                    self.pid = int(line.removeprefix("MAINPID="))
            if "FDSTORE=1" in lines:
                self.store[names[0]] = fds.pop()
            if "FDSTOREREMOVE=1" in lines:
                os.close(self.store.pop(names[0]))
            self.said.update(lines)
        for fd in fds:  # a barrier's among them
            os.close(fd)


@contextmanager
def service(config: Path, watchdog_seconds: float = 0.3, program: Path = RELAY) -> Iterator[Service]:
    of = Service(config, watchdog_seconds, program)
    try:
        of.start()
        yield of
    finally:
        of.close()
