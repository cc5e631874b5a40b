"""Upgrade by hand-over: this process starts the next one, and gives it everything it has.

    this process                                          the next one
    starts it  -----------------------------------------> imports, reads its configuration
              <----------------------------------  HELLO  its format and version
    its sockets, its decisions; packets go on  ---------> makes itself ready
              <----------------------------------  READY
    stops its packet thread
    what the packet plane had to say, and all it knows -> goes on from there
              <----------------------------------  TAKEN
    GO  ------------------------------------------------> starts its packet thread
              <--------------------------------  RUNNING
    tells systemd, closes the pair, and ends
                                                         speaks to systemd

Whatever goes wrong before GO, the next one ends and this process goes on as if nothing had happened. After GO
it never does, for keys and counters are then the other's: if no RUNNING comes, it ends as after a crash.

They speak over a socket pair that the next process is born with. Nobody else can reach it, and nothing of
what crosses it is ever in a file.
"""

import asyncio
import json
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Self

from relay import __version__
from relay.errors import RelayError
from relay.services.carry import FORMAT

FD = "RELAY_TAKEOVER_FD"
"""Variable that names the next process's end of the pair."""
HELLO, SOCKETS, DECISIONS, READY, EVENTS, PACKETS, TAKEN, GO, RUNNING = range(9)
HEADER = struct.Struct(">BQ")  # kind, bytes of content
FDS_MAX = 250  # that one message carries; Linux has 253 (SCM_MAX_FD)
START_SECONDS = 60.0
"""For the next process to import; everything goes on meanwhile."""
READY_SECONDS, TAKEN_SECONDS, RUNNING_SECONDS = 3.0, 1.0, 3.0
"""For the other end's next word. Decisions wait for all three, packets for the last two; a watchdog of 10 s
does not mind."""


class HandoverError(RelayError):
    """It has not worked, and says why. Who was to give has lost nothing."""


class Wire:
    """One end of the pair, with time limits. Everything raises HandoverError."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock

    def send(self, kind: int, content: bytes = b"") -> None:
        try:
            self._socket.sendall(HEADER.pack(kind, len(content)))
            if content:  # else the other end may be closed by now
                self._socket.sendall(content)
        except OSError as error:
            raise HandoverError(f"the other process takes nothing: {error}") from error

    def receive(self, kind: int, seconds: float) -> bytearray:
        self._socket.settimeout(seconds)
        found, size = HEADER.unpack(self._read(HEADER.size))
        if found != kind:
            raise HandoverError(f"the other process says {found} where {kind} is due")
        return self._read(size)

    def _read(self, size: int) -> bytearray:
        data = bytearray(size)
        view, got = memoryview(data), 0
        while got < size:
            try:
                n = self._socket.recv_into(view[got:])
            except TimeoutError as error:
                raise HandoverError("the other process does not answer") from error
            except OSError:
                n = 0
            if n == 0:
                raise HandoverError("the other process has ended")
            got += n
        return data

    def send_sockets(self, sockets: Mapping[str, socket.socket]) -> None:
        self.send(SOCKETS, json.dumps(list(sockets)).encode())
        fds = [sock.fileno() for sock in sockets.values()]
        try:
            for i in range(0, len(fds), FDS_MAX):
                socket.send_fds(self._socket, [b"\0"], fds[i : i + FDS_MAX])
        except OSError as error:
            raise HandoverError(f"the other process takes no sockets: {error}") from error

    def receive_sockets(self, seconds: float) -> dict[str, socket.socket]:
        names = json.loads(self.receive(SOCKETS, seconds))
        fds: list[int] = []
        while len(fds) < len(names):
            try:
                data, some, _, _ = socket.recv_fds(self._socket, 1, FDS_MAX)
            except OSError as error:
                raise HandoverError(f"no sockets come: {error}") from error
            if not data:
                raise HandoverError("the other process has ended")
            fds += some
        return {name: socket.socket(fileno=fd) for name, fd in zip(names, fds, strict=True)}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._socket.close()


def command() -> list[str]:
    """As this process was started: by its path, so that what is there now is run."""
    if os.access(sys.argv[0], os.X_OK):
        return list(sys.argv)
    return [sys.executable, *sys.orig_argv[1:]]


class Successor(Wire):
    """The next process, as the one that starts it sees it."""

    def __init__(self, program: Sequence[str], environ: Mapping[str, str]) -> None:
        ours, theirs = socket.socketpair()
        super().__init__(ours)
        with theirs:
            fd = theirs.fileno()
            try:
                self._process = subprocess.Popen(program, env={**environ, FD: str(fd)}, pass_fds=[fd])
            except OSError as error:
                ours.close()
                raise HandoverError(f"{program[0]} cannot be started: {error.strerror}") from error
        self.pid = self._process.pid

    async def hello(self) -> str:
        """Its version, once it has started."""
        self._socket.setblocking(False)
        loop = asyncio.get_running_loop()
        try:
            first = await asyncio.wait_for(loop.sock_recv(self._socket, HEADER.size), START_SECONDS)
        except (OSError, TimeoutError) as error:
            raise HandoverError(f"the other process does not start: {error}") from error
        if len(first) < HEADER.size:
            raise HandoverError("the other process has ended before it was ready")
        kind, size = HEADER.unpack(first)
        self._socket.settimeout(READY_SECONDS)
        said: dict[str, Any] = json.loads(self._read(size)) if kind == HELLO else {}
        if said.get("format") != FORMAT:
            raise HandoverError(
                f"version {said.get('version')} cannot go on from {__version__}: upgrade by a restart"
            )
        return str(said["version"])

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        super().__exit__(kind)
        if kind is not None:  # it is not to go on
            self._process.kill()
            self._process.wait()


class Predecessor(Wire):
    """The process that started this one, as this one sees it."""

    def __init__(self, fd: int) -> None:
        os.set_inheritable(fd, False)
        super().__init__(socket.socket(fileno=fd))

    def wait(self) -> None:
        """Until it has told systemd, which listens to its main process alone, that this one is it."""
        self._socket.settimeout(RUNNING_SECONDS)
        with suppress(OSError):
            self._socket.recv(1)

    def hello(self) -> None:
        self.send(HELLO, json.dumps({"format": FORMAT, "version": __version__}).encode())
