"""Speed of what the packet thread computes: GF(2^8) kernels and AEAD ciphers, in CPU time of this thread."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from relay.wire.hop import CIPHER_NAMES
from relay_ext import gf256
from relay_ext.seal import SealKey

SYMBOL: Final = 1200
"""Bytes of a region and of a sealed packet."""
SOURCES: Final = 8
ROUNDS: Final = 3


@dataclass(frozen=True)
class Kernel:
    """GB/s (10^9 bytes) of source regions multiplied and added, all in the first-level cache."""

    name: str
    selected: bool
    one_source: float
    eight_sources: float


@dataclass(frozen=True)
class Cipher:
    """MB/s (10^6 bytes) of packets sealed and opened."""

    number: int
    name: str
    seal: float
    open: float


def ns_each(
    run: Callable[[int], object], seconds: float, now_ns: Callable[[], int] = time.thread_time_ns
) -> float:
    """CPU time of one of the `times` that `run` is told; the least of ROUNDS, which take `seconds` in all."""
    times, took, share = 16, 0, seconds * 1e9 / ROUNDS
    while took < share / 8:
        times *= 2
        took = _timed(run, times, now_ns)
    times = max(int(times * share / took), 1)
    return min(_timed(run, times, now_ns) for _ in range(ROUNDS)) / times


def _timed(run: Callable[[int], object], times: int, now_ns: Callable[[], int]) -> int:
    start = now_ns()
    run(times)
    return now_ns() - start


def gf256_kernels(seconds: float) -> list[Kernel]:
    """Every kernel that this processor runs, the slowest first; `seconds` each."""
    target, source = bytearray(SYMBOL), bytes(range(240)) * (SYMBOL // 240)
    sources, factors = [bytes(source) for _ in range(SOURCES)], b"\x1d\x02\x83\xfe\x05\x47\xa1\x3c"
    chosen = gf256.selected()
    result = []
    try:
        for name in gf256.available():
            gf256.select(name)
            one = ns_each(lambda n: gf256.muladd(target, source, 29, n), seconds / 2)
            eight = ns_each(lambda n: gf256.muladd_sum(target, sources, factors, n), seconds / 2)
            result.append(Kernel(name, name == chosen, SYMBOL / one, SYMBOL * SOURCES / eight))
    finally:
        gf256.select(chosen)
    return result


def ciphers(seconds: float) -> list[Cipher]:
    """Every cipher of the hop; `seconds` each."""
    result = []
    for number, name in CIPHER_NAMES.items():
        sealing, opening = SealKey(number, bytes(32), True), SealKey(number, bytes(32), False)
        seal = ns_each(lambda n, key=sealing: key.run(n, SYMBOL), seconds / 2)  # type: ignore[misc]
        opened = ns_each(lambda n, key=opening: key.run(n, SYMBOL), seconds / 2)  # type: ignore[misc]
        result.append(Cipher(number, name, SYMBOL * 1e3 / seal, SYMBOL * 1e3 / opened))
    return result
