from typing import Self

from typing_extensions import Buffer

def coefficients(key: int, count: int) -> bytes:
    """Coefficients of a repair key, the oldest symbol's first (RFC 8681 section 3.6, m = 8, DT = 15)."""

class Encoder:
    """Keeps the last `capacity` symbols (a power of two) and codes any span of them. For tests and measuring.

    Raises ValueError if the capacity is no power of two up to 32768.
    """

    def __new__(cls, capacity: int, first_esi: int, *, slabs: int = 0) -> Self: ...
    def add(self, symbol: Buffer) -> int:
        """Returns the symbol's ESI.

        Raises ValueError beyond rlc.HEAD..rlc.MAX_SYMBOL bytes, MemoryError without a slab.
        """

    def encode(self, first_esi: int, count: int, key: int) -> bytes | None:
        """The coded bytes, as long as the longest symbol covered; None if the span is not kept in whole."""

    def release(self, before: int) -> None:
        """Forget the symbols before that ESI."""

    @property
    def in_use(self) -> int:
        """Slabs held."""
