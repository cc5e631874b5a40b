"""RFC 8681 in plain Python, slow and separate from relay_ext: what the code under test is compared with.

Field products are worked out bit by bit, TinyMT32 follows the text of RFC 8682, and every question is
answered by a full Gaussian elimination over all packets that were ever accepted.
"""

from dataclasses import dataclass, field

MODULUS = 1 << 32  # ESIs are 32-bit serial numbers


def field_product(a: int, b: int) -> int:
    """a * b in GF(2^8) modulo x^8 + x^4 + x^3 + x^2 + 1 (section 3.7.1)."""
    product = 0
    for bit in range(8):
        if b >> bit & 1:
            product ^= a << bit
    for bit in range(14, 7, -1):
        if product >> bit & 1:
            product ^= 0x11D << (bit - 8)
    return product


PRODUCTS = [bytes(field_product(a, b) for b in range(256)) for a in range(256)]
INVERSES = [0] + [PRODUCTS[a].index(1) for a in range(1, 256)]


def times(c: int, data: bytes) -> bytes:
    """c times every byte."""
    return data.translate(PRODUCTS[c])


def plus(a: bytes | bytearray, b: bytes | bytearray) -> bytes:
    """The sum; the shorter one counts as padded with zeros."""
    n = max(len(a), len(b))
    total = int.from_bytes(a.ljust(n, b"\0"), "big") ^ int.from_bytes(b.ljust(n, b"\0"), "big")
    return total.to_bytes(n, "big")


class TinyMT32:
    """RFC 8682 section 2, 32-bit outputs."""

    MASK = 0xFFFFFFFF
    MAT1, MAT2, TMAT = 0x8F7011EE, 0xFC78FF1F, 0x3793FDFF

    def __init__(self, seed: int) -> None:
        self.status = [seed, self.MAT1, self.MAT2, self.TMAT]
        for i in range(1, 8):
            before = self.status[(i - 1) % 4]
            mixed = i + 1812433253 * (before ^ before >> 30)
            self.status[i % 4] ^= mixed & self.MASK
        for _ in range(8):
            self._step()

    def _step(self) -> None:
        x = (self.status[0] & 0x7FFFFFFF) ^ self.status[1] ^ self.status[2]
        y = self.status[3]
        x ^= x << 1 & self.MASK
        y ^= y >> 1 ^ x
        self.status = [self.status[1], self.status[2], x ^ (y << 10 & self.MASK), y]
        if y % 2 == 1:
            self.status[1] ^= self.MAT1
            self.status[2] ^= self.MAT2

    def output(self) -> int:
        """The next number."""
        self._step()
        total = (self.status[0] + (self.status[2] >> 8)) & self.MASK
        tempered = self.status[3] ^ total
        return tempered ^ self.TMAT if total % 2 == 1 else tempered


def coefficients(key: int, count: int) -> list[int]:
    """Section 3.6 with m = 8 and DT = 15."""
    generator = TinyMT32(key)
    chosen: list[int] = []
    while len(chosen) < count:
        value = generator.output() & 0xFF
        if value != 0:
            chosen.append(value)
    return chosen


def encode(symbols: list[bytes], key: int) -> bytes:
    """Section 3.7.2: the linear combination of the symbols of the window, the oldest first."""
    coded = b""
    for c, symbol in zip(coefficients(key, len(symbols)), symbols, strict=True):
        coded = plus(coded, times(c, symbol))
    return coded


@dataclass
class Equation:
    """The sum of coefficient times symbol, over positions (unwrapped ESIs), is data."""

    terms: dict[int, int]
    data: bytes


def eliminate(equations: list[Equation]) -> list[Equation]:
    """Reduced row echelon form, pivots in ascending position; zero rows are left out."""
    rows = [Equation(dict(e.terms), e.data) for e in equations]
    done: list[Equation] = []
    for position in sorted({p for e in rows for p in e.terms}):
        pivot = next((e for e in rows if e.terms.get(position)), None)
        if pivot is None:
            continue
        rows.remove(pivot)
        scale = INVERSES[pivot.terms[position]]
        pivot = Equation({p: PRODUCTS[scale][c] for p, c in pivot.terms.items()}, times(scale, pivot.data))
        for other in rows + done:
            if c := other.terms.get(position):
                for p, k in pivot.terms.items():
                    other.terms[p] = other.terms.get(p, 0) ^ PRODUCTS[c][k]
                other.data = plus(other.data, times(c, pivot.data))
        done.append(pivot)
    for e in done:
        e.terms = {p: c for p, c in e.terms.items() if c}
    return done


@dataclass
class Receiver:
    """What a receiver with a window of `span` ESIs can know, and no more.

    Positions are unwrapped ESIs, so nothing here wraps.
    """

    span: int
    known: dict[int, bytes] = field(default_factory=dict)
    equations: list[Equation] = field(default_factory=list)
    base: int = -1
    highest: int = -1
    live: int = -1
    fresh: bool = True  # nothing was expired or forgotten, so the base may still move back

    def _track(self, first: int, last: int) -> bool:
        if self.base < 0:
            self.base = self.live = first
            self.highest = first - 1
        self.highest = max(self.highest, last)
        if self.highest - self.base >= self.span:
            self.forget(self.highest - self.span + 1)
        if first < self.base and self.fresh and self.highest - first < self.span:
            self.base = self.live = first
        return first >= self.base

    def source(self, position: int, symbol: bytes) -> dict[int, bytes]:
        """Returns the symbols that become determined by it, itself left out."""
        if self._track(position, position) and position not in self.known:
            self.known[position] = symbol
            return self._solve()
        return {}

    def repair(self, first: int, count: int, key: int, coded: bytes) -> dict[int, bytes]:
        """Returns the symbols that become determined by it."""
        if self._track(first, first + count - 1):
            terms = dict(zip(range(first, first + count), coefficients(key, count), strict=True))
            self.equations.append(Equation(terms, coded))
            return self._solve()
        return {}

    def _unknown_only(self) -> list[Equation]:
        reduced = []
        for e in self.equations:
            data = e.data
            for p, c in e.terms.items():
                if p in self.known:
                    data = plus(data, times(c, self.known[p]))
            reduced.append(Equation({p: c for p, c in e.terms.items() if p not in self.known}, data))
        return reduced

    def _solve(self) -> dict[int, bytes]:
        solved = {}
        for e in eliminate(self._unknown_only()):
            (position, *others) = e.terms
            if not others and position >= self.base:
                solved[position] = e.data[: 20 + int.from_bytes(e.data[:2], "big")]
        self.known.update(solved)
        return solved

    def expire(self, live_from: int) -> None:
        """Unknowns before that position no longer count."""
        live_from = min(live_from, self.highest + 1)
        if live_from > self.live:
            self.live = live_from
            self.fresh = False

    def forget(self, before: int) -> None:
        """Positions before that one are out of reach."""
        if before > self.base:
            self.base = before
            self.live = max(self.live, before)
            self.fresh = False

    def rank(self) -> int:
        """Independent equations in the unknowns that are within reach."""
        equations = self._unknown_only()
        early = [Equation({p: c for p, c in e.terms.items() if p < self.base}, b"") for e in equations]
        return len(eliminate(equations)) - len(eliminate(early))

    def deficit(self) -> int:
        """Live unknowns less the dimension of the equations that involve live unknowns alone.

        That dimension is the rank of all equations less the rank of their part before `live`.
        """
        unknowns = [p for p in range(self.live, self.highest + 1) if p not in self.known]
        equations = self._unknown_only()
        early = [Equation({p: c for p, c in e.terms.items() if p < self.live}, b"") for e in equations]
        return len(unknowns) - (len(eliminate(equations)) - len(eliminate(early)))
