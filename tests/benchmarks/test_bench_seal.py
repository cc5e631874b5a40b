"""What protection costs: a round is 1000 packets, so microseconds a round are nanoseconds a packet."""

import hashlib

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from pytest_benchmark.fixture import BenchmarkFixture

from relay.wire.hop import CIPHER_AES_256_GCM, CIPHER_NAMES
from relay_ext.seal import Gate, SealKey

PACKETS = 1000
SIZES = [64, 200, 1200]
CIPHERS = pytest.mark.parametrize("cipher", CIPHER_NAMES, ids=CIPHER_NAMES.get)
PUBLIC = bytes(32)
ADDRESS = bytes(18)


@CIPHERS
@pytest.mark.parametrize("size", SIZES)
def test_seal(benchmark: BenchmarkFixture, size: int, cipher: int) -> None:
    benchmark(SealKey(cipher, bytes(32), True).run, PACKETS, size)


@CIPHERS
@pytest.mark.parametrize("size", SIZES)
def test_open(benchmark: BenchmarkFixture, size: int, cipher: int) -> None:
    benchmark(SealKey(cipher, bytes(32), False).run, PACKETS, size)


@CIPHERS
@pytest.mark.parametrize("size", SIZES)
def test_seal_by_cryptography(benchmark: BenchmarkFixture, size: int, cipher: int) -> None:
    """The library that Python programs use, for comparison."""
    aead = (AESGCM if cipher == CIPHER_AES_256_GCM else ChaCha20Poly1305)(bytes(32))
    encrypt, nonce, header, packet = aead.encrypt, bytes(12), bytes(16), bytes(size)

    def run() -> None:
        for _ in range(PACKETS):
            encrypt(nonce, packet, header)

    benchmark(run)


@pytest.mark.parametrize("verdict", ["bad mac1", "cookie"])
def test_gate(benchmark: BenchmarkFixture, verdict: str) -> None:
    """A flood of initiations, 136 bytes each."""
    gate = Gate(PUBLIC)
    gate.set_secret(bytes(32))
    head = bytes(104)
    mac1 = hashlib.blake2s(head, key=hashlib.blake2s(b"mac1----" + PUBLIC).digest(), digest_size=16).digest()
    datagram = head + (bytes(16) if verdict == "bad mac1" else mac1) + bytes(16)
    check = gate.check

    def run() -> None:
        for _ in range(PACKETS):
            check(0, ADDRESS, datagram)

    benchmark(run)
