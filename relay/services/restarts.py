"""A node that crashes again and again waits longer and longer before it begins.

systemd can do that itself from version 254 on (RestartSteps=). What it has to remember is in a piece of
memory that systemd keeps over a crash, and forgets when the service is stopped.
"""

import os
import struct
from collections.abc import Callable

from relay.systemd import Manager

NAME = "starts"
RECORD = struct.Struct("<IQ")
"""Crashes in a row, each soon after its start; monotonic time of the last start, ns."""
SOON_NS = 60_000_000_000
FIRST_SECONDS, MOST_SECONDS = 0.2, 30.0


def delay_seconds(crashes: int) -> float:
    """None after a crash that did not come soon, then doubling: less than a second for the first three."""
    return min(FIRST_SECONDS * 2 ** (crashes - 1), MOST_SECONDS) if crashes else 0.0


def hold_back(manager: Manager, now_ns: Callable[[], int], sleep: Callable[[float], None]) -> int:
    """Waits as long as is due; crashes in a row."""
    fd = manager.kept.pop(NAME, None)
    crashes = 0
    if fd is None:
        fd = os.memfd_create("relay-starts")
        manager.keep_fd(NAME, fd)
    else:
        crashes, started_ns = RECORD.unpack(os.pread(fd, RECORD.size, 0))
        crashes = crashes + 1 if now_ns() - started_ns < SOON_NS else 0
        sleep(delay_seconds(crashes))
    os.pwrite(fd, RECORD.pack(crashes, now_ns()), 0)
    os.close(fd)
    return crashes
