import enum
from typing import NamedTuple, Self

from typing_extensions import Buffer

from relay_ext.rlc_encoder import Encoder as Encoder
from relay_ext.rlc_encoder import coefficients as coefficients

HEAD: int
"""Bytes of inner header that a symbol begins with."""
MAX_WINDOW: int
"""Symbols that one repair packet may span."""
MAX_SYMBOL: int
"""Bytes of a symbol and of a repair packet, at most."""

class Result(enum.IntEnum):
    """What a packet did to the decoder."""

    NEW = 0
    DUPLICATE = 1
    OLD = 2
    REFUSED = 3
    NO_MEMORY = 4
    REDUNDANT = 5

class State(NamedTuple):
    """A decoder's window, its number of equations, and the recovered symbols that it did not deliver."""

    started: bool
    base: int
    live: int
    highest: int
    rows: int
    malformed: int

class Decoder:
    """Tracks `span` ESIs (a power of two) with at most `max_rows` equations. For tests and measurements.

    Raises ValueError if the span is no power of two from 8 to 32768, or the rows are not in 1..span.
    """

    def __new__(cls, span: int, max_rows: int, *, slabs: int = 0) -> Self: ...
    def source(self, esi: int, symbol: Buffer) -> tuple[Result, list[tuple[int, bytes]]]:
        """A received symbol. Returns the symbols recovered by it as well: (ESI, bytes), the oldest first."""

    def repair(
        self, first_esi: int, count: int, key: int, coded: Buffer
    ) -> tuple[Result, list[tuple[int, bytes]]]:
        """A received repair packet, and what it recovers."""

    def seen(self, esi: int) -> None:
        """Symbols up to that ESI were sent: those that did not come are missing. Ignored before a packet."""

    def expire(self, live_from: int) -> None:
        """Unknowns before that ESI no longer count as missing."""

    def forget(self, before: int) -> None:
        """Drop what is known before that ESI, and the equations that need an unknown before it."""

    def reset(self) -> None:
        """Forget everything."""

    def is_missing(self, esi: int) -> bool:
        """Whether the ESI is tracked and its symbol unknown."""

    def state(self) -> State: ...
    @property
    def deficit(self) -> int:
        """Live unknowns less independent equations all of whose unknowns are live."""

    @property
    def in_use(self) -> int:
        """Slabs held."""
