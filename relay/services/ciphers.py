"""Which AEAD is the fastest on this machine: a measurement of a few milliseconds, not a guess by its name."""

from collections.abc import Callable

from relay.wire.hop import CIPHER_NAMES
from relay_ext.seal import SealKey

ROUNDS = 7
"""The ciphers take turns, and the best round of each counts: what else runs can only slow one down."""
PACKETS = 64
"""Packets a round. Seven rounds take 1 ms with AES instructions, some 15 ms on a board without."""
PACKET_BYTES = 1200


def fastest_first(clock_ns: Callable[[], int]) -> tuple[int, ...]:
    """Every cipher, by the time that sealing takes; `clock_ns` is best the CPU time of this thread."""
    keys = {cipher: SealKey(cipher, bytes(32), True) for cipher in CIPHER_NAMES}
    best: dict[int, int] = {}
    for _ in range(ROUNDS):
        for cipher, key in keys.items():
            began_ns = clock_ns()
            key.run(PACKETS, PACKET_BYTES)
            took_ns = clock_ns() - began_ns
            best[cipher] = min(took_ns, best.get(cipher, took_ns))
    return tuple(sorted(best, key=lambda cipher: best[cipher]))
