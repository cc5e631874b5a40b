"""What repair costs: GF(2^8) kernels in GB/s, the encoder a repair packet, the decoder a source packet."""

import random

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from relay_ext import gf256
from relay_ext.rlc import HEAD, MAX_SYMBOL, MAX_WINDOW, Decoder, Encoder

SYMBOL = 1200
Packet = tuple[int, bytes] | tuple[int, int, int, bytes]


def median(benchmark: BenchmarkFixture) -> float:
    """Seconds."""
    assert benchmark.stats is not None
    return float(benchmark.stats.stats.median)


@pytest.mark.parametrize("sources", [1, 8])
@pytest.mark.parametrize("kernel", gf256.available())
def test_kernel(benchmark: BenchmarkFixture, kernel: str, sources: int) -> None:
    """Source bytes of 1200-byte regions that are read a second, all in the first-level cache."""
    rng = random.Random(1)
    target = bytearray(SYMBOL)
    regions = [rng.randbytes(SYMBOL) for _ in range(sources)]
    times = 1000
    before = gf256.selected()
    gf256.select(kernel)
    benchmark(gf256.muladd_sum, target, regions, b"\x1d\x02\x83\xfe\x35\x8e\x47\xc9"[:sources], times)
    gf256.select(before)
    seconds = median(benchmark) / times / sources
    benchmark.extra_info["ns_per_region"] = round(seconds * 1e9, 1)
    benchmark.extra_info["GB_per_s"] = round(SYMBOL / seconds / 1e9, 1)


def symbols(n: int, mixed: bool = False, length: int = SYMBOL) -> list[bytes]:
    """Symbols with honest length fields; mixed: every tenth is audio, every eighth the end of a frame."""
    rng = random.Random(n)
    lengths = [
        160 if mixed and i % 10 == 3 else rng.randrange(100, length) if mixed and i % 8 == 7 else length
        for i in range(n)
    ]
    return [(m - HEAD).to_bytes(2, "big") + rng.randbytes(m - 2) for m in lengths]


@pytest.mark.parametrize("mixed", [False, True], ids=["equal", "mixed"])
@pytest.mark.parametrize("window", [64, 128])
def test_encoder(benchmark: BenchmarkFixture, window: int, mixed: bool) -> None:
    encoder = Encoder(256, 0)
    for symbol in symbols(256, mixed):
        encoder.add(symbol)
    assert benchmark(encoder.encode, 256 - window, window, 4711) is not None
    benchmark.extra_info["ns_per_symbol"] = round(median(benchmark) / window * 1e9, 1)


def lossy_stream(n: int, window: int, loss: float, ratio: float) -> list[Packet]:
    """What arrives of n source packets and of the repair packets over the latest `window` of them."""
    rng = random.Random(window)
    encoder = Encoder(1024, 0)
    arrived: list[Packet] = []
    owed = 0.0
    for esi, symbol in enumerate(symbols(n)):
        encoder.add(symbol)
        if rng.random() > loss:
            arrived.append((esi, symbol))
        owed += ratio
        while owed >= 1:
            owed -= 1
            first = max(0, esi + 1 - window)
            coded = encoder.encode(first, esi + 1 - first, len(arrived) & 0xFFFF)
            assert coded is not None
            if rng.random() > loss:
                arrived.append((first, esi + 1 - first, len(arrived) & 0xFFFF, coded))
    return arrived


@pytest.mark.parametrize("window", [64, 128])
def test_decoder_at_30_percent_loss(benchmark: BenchmarkFixture, window: int) -> None:
    """Ten seconds of 4 Mb/s: 30 % loss of source and repair packets, 60 % repair, whatever the delay."""
    n = 4000
    packets = lossy_stream(n, window, 0.3, 0.6)
    recovered = 0

    def decode() -> None:
        nonlocal recovered
        recovered = 0
        decoder = Decoder(1024, 256)
        for packet in packets:
            got = decoder.source(*packet) if len(packet) == 2 else decoder.repair(*packet)
            recovered += len(got[1])

    benchmark(decode)
    seconds = median(benchmark) / n
    benchmark.extra_info["us_per_source_packet"] = round(seconds * 1e6, 2)
    benchmark.extra_info["media_Mbit_per_s"] = round(SYMBOL * 8 / seconds / 1e6)
    benchmark.extra_info["recovered_ratio"] = recovered / (n - sum(len(p) == 2 for p in packets))


def test_decoder_at_no_loss(benchmark: BenchmarkFixture) -> None:
    """Every repair packet is redundant and must cost next to nothing."""
    n = 4000
    packets = lossy_stream(n, 128, 0.0, 0.6)

    def decode() -> None:
        decoder = Decoder(1024, 256)
        for packet in packets:
            if len(packet) == 2:
                decoder.source(*packet)
            else:
                decoder.repair(*packet)

    benchmark(decode)
    benchmark.extra_info["us_per_source_packet"] = round(median(benchmark) / n * 1e6, 2)


def test_the_dearest_repair_packet(benchmark: BenchmarkFixture) -> None:
    """The widest span, the largest symbols, a table full of equations: the bound on one hostile packet."""
    rng = random.Random(1)
    rows = 256
    coded = (MAX_SYMBOL - HEAD).to_bytes(2, "big") + rng.randbytes(MAX_SYMBOL - 2)

    def full_table() -> tuple[tuple[Decoder], dict[str, object]]:
        decoder = Decoder(1024, rows)
        for key in range(rows - 1):
            decoder.repair(0, MAX_WINDOW, key, coded)
        return (decoder,), {}

    benchmark.pedantic(  # type: ignore[no-untyped-call]
        lambda d: d.repair(0, MAX_WINDOW, 65535, coded), setup=full_table, rounds=30
    )
    benchmark.extra_info["us"] = round(median(benchmark) * 1e6)
