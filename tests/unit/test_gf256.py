"""Every kernel of GF(2^8) against products worked out bit by bit, at all small lengths and offsets."""

import os
import platform
import random
import subprocess
import sys
from collections.abc import Iterator

import pytest

from relay_ext import gf256
from tests.oracle.rfc8681 import INVERSES, field_product, plus, times

OFFSETS = (0, 1, 3, 8, 15, 16, 31)
LENGTHS = range(131)  # up to four of the widest vectors, and a rest
LARGE = (255, 256, 1200, 1984)
ROOM = 64  # bytes around a region that must not change


@pytest.fixture(params=gf256.available(), autouse=True)
def kernel(request: pytest.FixtureRequest) -> Iterator[str]:
    before = gf256.selected()
    gf256.select(request.param)
    yield request.param
    gf256.select(before)


def regions(rng: random.Random) -> Iterator[tuple[int, slice, slice]]:
    """Length, destination and source place, in buffers of `ROOM` more bytes."""
    for length in (*LENGTHS, *LARGE):
        for to in OFFSETS:
            source = rng.choice(OFFSETS)
            yield length, slice(to, to + length), slice(source, source + length)


def test_expected_kernels_are_there() -> None:
    assert gf256.available()[0] == "scalar"
    if platform.machine() == "x86_64":
        assert "ssse3" in gf256.available()
    if platform.machine() == "aarch64":
        assert gf256.available() == ("scalar", "neon")


def test_all_products(kernel: str) -> None:
    every = bytes(range(256))
    for c in range(256):
        product = bytearray(256)
        gf256.mul(product, every, c)
        assert product == bytes(field_product(c, x) for x in range(256)), (kernel, c)


def test_inverse() -> None:
    assert [gf256.inverse(a) for a in range(256)] == INVERSES
    with pytest.raises(OverflowError):
        gf256.inverse(256)


def test_muladd_and_mul_at_any_length_and_alignment(kernel: str) -> None:
    rng = random.Random(1)
    for length, to, at in regions(rng):
        source, target, c = rng.randbytes(length + ROOM), rng.randbytes(length + ROOM), rng.randrange(256)
        got, expected = bytearray(target), bytearray(target)
        with memoryview(got) as out:
            gf256.muladd(out[to], source[at], c)
        expected[to] = plus(target[to], times(c, source[at]))
        assert got == expected, (kernel, "muladd", length, to, at, c)
        with memoryview(got) as out:
            gf256.mul(out[to], source[at], c)
        expected[to] = times(c, source[at])
        assert got == expected, (kernel, "mul", length, to, at, c)


def test_in_place(kernel: str) -> None:
    rng = random.Random(2)
    for length in (*LENGTHS, *LARGE):
        content, c = rng.randbytes(length), rng.randrange(256)
        got = bytearray(content)
        gf256.mul(got, got, c)
        assert got == times(c, content), (kernel, "mul", length, c)
        gf256.muladd(got, got, c)
        assert got == plus(times(c, content), times(c, times(c, content))), (kernel, "muladd", length, c)


@pytest.mark.parametrize("number", [0, 1, 3, 4, 7, 8, 9, 17])
def test_sums_of_sources_of_any_length_and_alignment(kernel: str, number: int) -> None:
    rng = random.Random(number)
    for length, to, _ in list(regions(rng))[:: 1 if number == 8 else 5]:
        lengths = [length if rng.random() < 0.7 else rng.randrange(length + 1) for _ in range(number)]
        sources = [rng.randbytes(n) for n in lengths]
        views = [memoryview(bytes(at) + s)[at:] for s in sources for at in (rng.choice(OFFSETS),)]
        target, c = rng.randbytes(length + ROOM), rng.randbytes(number)
        got, expected = bytearray(target), bytearray(target)
        with memoryview(got) as out:
            gf256.muladd_sum(out[to], views, c)
        for factor, source in zip(c, sources, strict=True):
            place = slice(to.start, to.start + len(source))
            expected[place] = plus(expected[place], times(factor, source))
        assert got == expected, (kernel, number, length, to, lengths)


def test_wrong_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="regions of 2 and 3 bytes"):
        gf256.muladd(bytearray(2), bytes(3), 1)
    with pytest.raises(ValueError, match="regions of 2 and 3 bytes"):
        gf256.mul(bytearray(2), bytes(3), 1)
    with pytest.raises(ValueError, match="a source of 3 bytes for a region of 2"):
        gf256.muladd_sum(bytearray(2), [bytes(2), bytes(3)], bytes(2))
    with pytest.raises(ValueError, match="2 sources and 3 constants"):
        gf256.muladd_sum(bytearray(2), [bytes(2)] * 2, bytes(3))
    with pytest.raises(ValueError, match="no GF"):
        gf256.select("abacus")


def test_environment_chooses_the_kernel(kernel: str) -> None:
    code = "from relay_ext import gf256; print(gf256.selected())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"RELAY_GF256": kernel},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == kernel
