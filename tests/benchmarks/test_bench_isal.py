"""A repair symbol over 16, 64 and 128 sources of 1200 bytes: this program, ISA-L and zfec on the same data.

The programs take turns; the figure is the median of their CPU time, the ratio that of the pairs of one turn.
"""

import ctypes
import random
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from relay_ext import gf256

HERE = Path(__file__).parent
SYMBOL = 1200
ROUNDS = 21
SOURCES_A_ROUND = 40_000
AVX2_FLAGS = ("avx2",)
Product = Callable[[int], object]  # works the product out so many times


@pytest.fixture(scope="module")
def isal(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    target = tmp_path_factory.mktemp("isal") / "isal.so"
    command = ["cc", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o", str(target)]
    if shutil.which("cc") is None or not Path("/usr/include/isa-l/erasure_code.h").exists():
        pytest.skip("needs a C compiler and ISA-L: apt-get install gcc libisal-dev")
    subprocess.run([*command, str(HERE / "c_isal" / "isal.c"), "-lisal"], check=True)
    return ctypes.CDLL(str(target))


@pytest.fixture(autouse=True)
def kernel() -> Iterator[None]:
    before = gf256.selected()
    yield
    gf256.select(before)


def ours(name: str, target: bytearray, sources: list[bytes], c: bytes, together: bool) -> Product:
    def product(times: int) -> None:
        gf256.select(name)
        if together:
            gf256.muladd_sum(target, sources, c, times)
        else:
            for source, factor in zip(sources, c, strict=True):
                gf256.muladd(target, source, factor, times)

    return product


def isals(library: ctypes.CDLL, target: bytearray, sources: list[bytes], c: bytes) -> dict[str, Product]:
    n = len(sources)
    tables = ctypes.create_string_buffer(32 * n)
    library.isal_tables(n, c, tables)
    pointers = (ctypes.c_char_p * n)(*sources)
    to = (ctypes.c_char * len(target)).from_buffer(target)

    def of(function: Callable[..., object], avx2: bool) -> Product:
        return lambda times: function(SYMBOL, n, tables, pointers, to, times, avx2)

    return {
        "ISA-L encode": of(library.isal_encode, False),
        "ISA-L encode, AVX2": of(library.isal_encode, True),
        "ISA-L update": of(library.isal_update, False),
        "ISA-L update, AVX2": of(library.isal_update, True),
    }


def zfecs(sources: list[bytes]) -> dict[str, Product]:
    try:
        import zfec  # type: ignore[import-not-found,unused-ignore] # noqa: PLC0415
    except ImportError:
        print("without zfec: pip install zfec")
        return {}
    n = len(sources)
    encoder = zfec.Encoder(n, n + 1)

    def product(times: int) -> None:
        for _ in range(times):
            encoder.encode(sources, (n,))

    return {"zfec": product}


def measure(products: dict[str, Product], n: int) -> dict[str, list[float]]:
    """CPU ns a source, a list of rounds each. zfec, far slower, gets as much less to do."""
    spent: dict[str, list[float]] = {name: [] for name in products}
    for _ in range(ROUNDS):
        for name, product in products.items():
            times = SOURCES_A_ROUND // n // (50 if name == "zfec" else 1)
            start = time.process_time_ns()
            product(times)
            spent[name].append((time.process_time_ns() - start) / times / n)
    return spent


def ratio(of: list[float], to: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(of, to, strict=True))


@pytest.mark.parametrize("n", [16, 64, 128])
def test_beside_isal_and_zfec(benchmark: BenchmarkFixture, isal: ctypes.CDLL, n: int) -> None:
    rng = random.Random(n)
    sources, c = [rng.randbytes(SYMBOL) for _ in range(n)], bytes(rng.randrange(1, 256) for _ in range(n))
    mine, theirs = bytearray(SYMBOL), bytearray(SYMBOL)
    others = isals(isal, theirs, sources, c)
    gf256.muladd_sum(mine, sources, c)
    others["ISA-L encode"](1)
    assert mine == theirs, "the products differ"
    best = gf256.available()[-1]
    names = dict.fromkeys((best, *(name for name in AVX2_FLAGS if name in gf256.available())))
    own = {
        f"{name}, {how}": ours(name, mine, sources, c, how == "together")
        for name in names
        for how in ("together", "one by one")
    }
    spent = measure(own | others | zfecs(sources), n)
    benchmark.pedantic(own[f"{best}, together"], args=(10,), rounds=1)  # type: ignore[no-untyped-call]
    print(f"\n{n} sources: ns a source, then how many times as long as each of ours")
    for name, rounds in spent.items():
        times = "  ".join(f"{ratio(rounds, spent[o]):6.2f}" for o in own)
        print(f"{name:20} {statistics.median(rounds):7.1f}  {times}")
        benchmark.extra_info[name] = round(statistics.median(rounds), 1)
    assert ratio(spent["ISA-L encode"], spent[f"{best}, together"]) >= 0.8, "far below ISA-L"
