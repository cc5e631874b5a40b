"""The choice of a cipher by measurement, with a clock that says how long each takes."""

from itertools import count

import pytest

from relay.services.ciphers import ROUNDS, fastest_first
from relay.wire import hop

CHACHA, AES = hop.CIPHER_CHACHA20_POLY1305, hop.CIPHER_AES_256_GCM


class Clock:
    """ChaCha and AES are measured in turns, with two readings each."""

    def __init__(self, chacha: list[int], aes: list[int]) -> None:
        self._took = [t for pair in zip(chacha, aes, strict=True) for t in pair]
        self._readings = count()
        self._now = 0

    def __call__(self) -> int:
        reading = next(self._readings)
        self._now += self._took[reading // 2] if reading % 2 else 1000
        return self._now


@pytest.mark.parametrize(
    ("chacha", "aes", "order"),
    [
        ([10] * ROUNDS, [9] * ROUNDS, (AES, CHACHA)),
        ([9] * ROUNDS, [10] * ROUNDS, (CHACHA, AES)),
        ([9] * ROUNDS, [90] * (ROUNDS - 1) + [8], (AES, CHACHA)),  # disturbed in all rounds but one
        ([9] * ROUNDS, [9] * ROUNDS, (CHACHA, AES)),
    ],
)
def test_the_fastest_round_counts(chacha: list[int], aes: list[int], order: tuple[int, ...]) -> None:
    assert fastest_first(Clock(chacha, aes)) == order
