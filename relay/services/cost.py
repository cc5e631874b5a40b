"""What a stream costs this machine, roughly: measured in a few milliseconds, before there is one to see."""

import socket
from collections.abc import Callable

ROUNDS = 7
"""The best one counts: what else runs can only slow one down."""
PACKETS = 64
"""Packets a round. Seven rounds take 1 ms on a core of x86."""
PACKET_BYTES = 1200
DATAGRAMS = 8
"""A packet that comes in or goes out is taken to cost as much as so many datagrams that this process hands
the kernel and gets back. On x86 it cost as much as four at an edge that adds 60 % repair, two at a region
(`relay bench`)."""


def share_per_bps(clock_ns: Callable[[], int]) -> float:
    """Of a core, that each bit a second of a stream takes; `clock_ns` is best the CPU time of this thread."""
    packet = bytes(PACKET_BYTES)
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with one, other:
        took_ns = []
        for _ in range(ROUNDS):
            began_ns = clock_ns()
            for _ in range(PACKETS):
                one.send(packet)
                other.recv(PACKET_BYTES)
            took_ns.append(clock_ns() - began_ns)
    return DATAGRAMS * min(took_ns) * 1e-9 / (PACKETS * PACKET_BYTES * 8)
