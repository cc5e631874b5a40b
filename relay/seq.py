"""32-bit serial number arithmetic (RFC 1982): ESIs, origin sequences and message numbers all wrap.

A number is "after" another when it is less than half the space ahead of it; the one pair exactly half the
space apart, which the RFC leaves undefined, counts as neither before nor after.
"""

from collections.abc import Iterator

MASK = 0xFFFFFFFF
HALF = 0x80000000


def add(number: int, n: int) -> int:
    """`number` + `n` (which may be negative), modulo 2^32."""
    return (number + n) & MASK


def distance(a: int, b: int) -> int:
    """How far `b` is ahead of `a`: -2^31 <= d < 2^31, negative when it is behind."""
    return ((b - a + HALF) & MASK) - HALF


class Count(Iterator[int]):
    """Counts up from a number. Unlike itertools.count it can go on in another process (services/carry.py)."""

    def __init__(self, first: int = 0) -> None:
        self._next = first

    def __next__(self) -> int:
        self._next += 1
        return self._next - 1
