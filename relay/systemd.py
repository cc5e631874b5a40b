"""What a service and systemd tell each other: sd_notify(3), and the file descriptors that it keeps for us
(sd_listen_fds(3), "File Descriptor Store"). Systemd 252 is enough."""

import array
import os
import socket
from collections.abc import MutableMapping, Sequence
from contextlib import suppress

FIRST_FD = 3
"""Of those that are passed (SD_LISTEN_FDS_START)."""
SYSTEMD_WAITS_SECONDS = 1.0
"""For systemd to take what it is told; it is never busy for so long."""


class Manager:
    """The service manager. Where there is none (`$NOTIFY_SOCKET` is unset), nothing happens.

    What it said in `environ` is taken out of it: it was meant for this process, not for its children.
    """

    def __init__(self, environ: MutableMapping[str, str], pid: int) -> None:
        self._address = environ.pop("NOTIFY_SOCKET", "")
        self._watchdog_usec = environ.get("WATCHDOG_USEC", "0")
        watchdog_us = int(environ.pop("WATCHDOG_USEC", "0"))
        ours = environ.pop("WATCHDOG_PID", str(pid)) == str(pid)
        self.watchdog_seconds = watchdog_us / 1e6 if ours and self._address else None
        """It must hear `WATCHDOG=1` at least so often; None: it does not wait for it."""
        self.kept: dict[str, int] = {}
        """File descriptors by name, of the process before this one."""
        names = environ.pop("LISTEN_FDNAMES", "").split(":")
        count = int(environ.pop("LISTEN_FDS", "0"))
        if environ.pop("LISTEN_PID", "") == str(pid):
            self.kept = {name: FIRST_FD + i for i, name in enumerate(names[:count])}
        for fd in self.kept.values():
            os.set_inheritable(fd, False)

    def environ(self) -> dict[str, str]:
        """What it would say to another process that takes this one's place."""
        return {"NOTIFY_SOCKET": self._address, "WATCHDOG_USEC": self._watchdog_usec}

    def tell(self, *assignments: str, fds: Sequence[int] = ()) -> None:
        """Assignments as of sd_notify(3), and file descriptors that go with them."""
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.settimeout(SYSTEMD_WAITS_SECONDS)
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
            sock.sendmsg(["\n".join(assignments).encode()], rights, 0, address)

    def keep_fd(self, name: str, fd: int) -> None:
        """Have it keep a copy. Without FDPOLL=0 it would drop a socket on which an error waits."""
        self.tell("FDSTORE=1", f"FDNAME={name}", "FDPOLL=0", fds=[fd])

    def keep(self, name: str, sock: socket.socket) -> None:
        self.keep_fd(name, sock.fileno())

    def drop(self, name: str) -> None:
        """Returns when its copy is closed."""
        self.tell("FDSTOREREMOVE=1", f"FDNAME={name}")
        self.barrier()

    def barrier(self) -> None:
        """Returns when it has heard everything (sd_notify_barrier(3)): it closes the pipe then."""
        if not self._address:
            return
        ours, theirs = socket.socketpair()
        with ours, theirs:
            self.tell("BARRIER=1", fds=[theirs.fileno()])
            theirs.close()
            ours.settimeout(SYSTEMD_WAITS_SECONDS)
            with suppress(OSError):
                ours.recv(1)
