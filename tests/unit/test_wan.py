"""The emulated network between namespaces, without a device."""

import socket
import struct

from relay.lab.link import LinkConfig
from relay.lab.wan import Wan

A, B, C = "10.0.1.2", "10.0.2.2", "10.0.3.2"
MS = 1_000_000


def packet(source: str, destination: str, number: int) -> bytes:
    head = struct.pack("!BBHHHBBH", 0x45, 0, 24, 0, 0, 64, 17, 0)
    return head + socket.inet_aton(source) + socket.inet_aton(destination) + struct.pack("!I", number)


def test_each_pair_has_its_own_delay() -> None:
    wan = Wan({(A, B): LinkConfig(delay_ms=20), (B, A): LinkConfig(delay_ms=30)}, seed=1)
    sent = [packet(A, B, 1), packet(B, A, 2), packet(A, C, 3)]
    for one in sent:
        wan.send(0, one)
    assert list(wan.poll(0)) == [sent[2]]
    assert wan.deadline() == 20 * MS
    assert list(wan.poll(20 * MS)) == [sent[0]]
    assert list(wan.poll(30 * MS)) == [sent[1]]
    assert wan.deadline() is None


def test_equal_seeds_lose_the_same_packets_whatever_else_is_sent() -> None:
    def lost(seed: int, *, more: bool) -> set[bytes]:
        wan = Wan({(A, B): LinkConfig(loss=0.3)}, seed)
        sent = [packet(A, B, number) for number in range(300)]
        for one in sent:
            wan.send(0, one)
            if more:
                wan.send(0, packet(B, A, 0))
        return set(sent) - set(wan.poll(0))

    assert 60 < len(lost(1, more=False)) < 120
    assert lost(1, more=False) == lost(1, more=True) != lost(2, more=False)


def test_what_is_not_ipv4_is_dropped() -> None:
    wan = Wan({}, seed=1)
    for junk in (b"", b"\x45", bytes([0x60]) + bytes(60), packet(A, B, 1)[:19]):
        wan.send(0, junk)
    assert list(wan.poll(0)) == [] and wan.deadline() is None
