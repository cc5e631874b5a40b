"""Another maker's program as a child process: started, known to be ready, measured, stopped."""

import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

PATIENCE = 10.0  # s; how long a program may take to answer
ASK_AGAIN = 0.05  # s
HOST = "127.0.0.1"


class PeerError(RuntimeError):
    """A program that is missing, has ended or does not do what it was started for; the text says why."""


def cpu_clock(pid: int) -> int:
    """The clock of a process's CPU time (clock_getcpuclockid(3)): ns, where /proc counts in 10 ms."""
    return (~pid << 3) | 2


class Program:
    """A child of this process; what it writes goes to the file `log`. Use as a context, which kills it.

    Raises PeerError when there is no such program.
    """

    def __init__(self, command: Sequence[str], log: Path) -> None:
        self.name = command[0]
        self.log = log
        with log.open("w") as output:
            try:
                self._popen = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
                )
            except FileNotFoundError:
                raise PeerError(f"{self.name} is not installed") from None

    def __enter__(self) -> "Program":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop(signal.SIGKILL)

    @property
    def pid(self) -> int:
        return self._popen.pid

    def check(self) -> None:
        """Raises PeerError with the last line of its log if it has ended."""
        code = self._popen.poll()
        if code is not None:
            said = self.log.read_text(errors="replace").strip().splitlines() or [""]
            raise PeerError(f"{self.name} ended with {code}: {said[-1]}")

    def wait_for(self, ready: Callable[[], bool]) -> None:
        """Until `ready`, which may take its time, says so. Raises PeerError if that never happens."""
        deadline = time.monotonic() + PATIENCE
        while not ready():
            self.check()
            if time.monotonic() > deadline:
                raise PeerError(f"{self.name} was not ready within {PATIENCE:.0f} s")

    def cpu_seconds(self) -> float:
        """User and system time of all its threads. Raises PeerError if it has ended."""
        self.check()
        return time.clock_gettime_ns(cpu_clock(self.pid)) / 1e9

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Ends this process and no other; killed if it does not heed the signal."""
        self._popen.send_signal(number)
        try:
            self._popen.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait()


def ask(sock: socket.socket, to: int, request: bytes, answers: Callable[[bytes], bool]) -> bytes | None:
    """The datagram from port `to` of this host that `answers` the request; None after a while without."""
    sock.settimeout(ASK_AGAIN)
    sock.sendto(request, (HOST, to))
    try:
        while not answers(data := sock.recv(65536)):
            pass
    except TimeoutError:
        return None
    return data


def ask_until(sock: socket.socket, to: int, request: bytes, answers: Callable[[bytes], bool]) -> bytes:
    """As `ask`, again and again. Raises PeerError."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if (data := ask(sock, to, request, answers)) is not None:
            return data
    raise PeerError(f"no answer from port {to} within {PATIENCE:.0f} s")
