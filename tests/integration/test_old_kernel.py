"""The engine where the kernel or the device lacks what it counts on: it goes on and loses nothing."""

import json
import socket
import subprocess
import sys

import pytest

from tests.integration.test_engine import OUT, bench, bodies, rtp

SO_NO_CHECK = 11  # asm-generic/socket.h; a socket without UDP checksums cannot use UDP_SEGMENT: EINVAL


def test_a_socket_that_refuses_segmentation_falls_back_and_keeps_every_packet_in_order() -> None:
    with bench() as b:
        receivers = [b.receiver() for _ in range(3)]
        b.add(1, *receivers)
        # The engine's duplicate is the same socket to the kernel; `bench` gave it as the first one.
        b.sockets[OUT].setsockopt(socket.SOL_SOCKET, SO_NO_CHECK, 1)
        b.engine.start()
        sent = []
        for first in range(0, 120, 40):
            run = [bytes([i]) * 1000 for i in range(first, first + 40)]
            b.send(1, b"".join(rtp(first + i, body) for i, body in enumerate(run)), segment=1012)
            sent += run
        for receiver in receivers:
            assert bodies(receiver, 120) == sent
        counters = b.stop()
        assert counters["tx_gso_fallbacks"] == 1  # and from then on it is not tried again
        assert counters["tx_gso_datagrams"] == 0
        assert counters["tx_datagrams"] == 360


# Refuses epoll_pwait2 (441 on every architecture) to this process from here on, as a kernel before 5.11 does.
REFUSE = """
import ctypes, errno, json, struct, sys, time
program = b"".join(
    struct.pack("HBBI", *instruction)
    for instruction in [
        (0x20, 0, 0, 0),  # load the number of the system call
        (0x15, 0, 1, 441),
        (0x06, 0, 0, 0x00050000 | errno.ENOSYS),  # SECCOMP_RET_ERRNO
        (0x06, 0, 0, 0x7FFF0000),  # SECCOMP_RET_ALLOW
    ]
)
code = ctypes.create_string_buffer(program)
filter_ = ctypes.create_string_buffer(struct.pack("HP", 4, ctypes.addressof(code)))
prctl = ctypes.CDLL(None, use_errno=True).prctl
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
if prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, filter_, 0, 0):
    sys.exit("no seccomp: " + errno.errorcode[ctypes.get_errno()])
"""

# A hole that the origin says nothing of is waited for until the deadline of what comes after it.
HOLE = """
from tests.integration.test_engine import bench, rtp
with bench() as b:
    receiver = b.receiver()
    b.add(1, receiver)
    b.engine.start()
    for seq in (0, 2, 3):
        b.send(1, rtp(seq, b"%d" % seq))
    got = [receiver.recv(2048)[12:].decode() for _ in range(3)]
    print(json.dumps({"bodies": got, **b.stop()}))
"""


def test_without_epoll_pwait2_deadlines_are_kept_and_nothing_spins() -> None:
    child = subprocess.run(
        [sys.executable, "-c", REFUSE + HOLE], capture_output=True, text=True, timeout=60, check=False
    )
    if child.returncode and "no seccomp" in child.stderr:
        pytest.skip(child.stderr.strip())
    assert child.returncode == 0, child.stderr
    counters = json.loads(child.stdout)
    assert counters["bodies"] == ["0", "2", "3"]
    assert counters["wakeups"] < 100
