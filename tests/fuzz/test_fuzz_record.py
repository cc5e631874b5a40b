"""Invariant: bytes that are decoded as a statement are the only encoding of it; all others raise RecordError;
nobody's bytes but the fleet's pass for signed.

RELAY_FUZZ_ROUNDS (default 300) sets the budget, RELAY_FUZZ_SEED the first seed.
"""

import os
import random

import pytest

from relay.core.record import LIFE_MAX_S, Record, RecordError, decode, revise, sign, verify
from relay_ext.crypto import ed25519_public_key
from tests.fuzz.test_fuzz_handshake import mutate

ROUNDS = int(os.environ.get("RELAY_FUZZ_ROUNDS", "300"))
FIRST_SEED = int(os.environ.get("RELAY_FUZZ_SEED", "1"))


def one(rng: random.Random, authority: bytes) -> bytes:
    now_s = rng.randrange(1 << 31)
    if rng.random() < 0.5:
        at = tuple(
            (f"192.0.2.{rng.randrange(256)}", rng.randrange(1, 65536)) for _ in range(rng.randrange(5))
        )
        expires_s = now_s + rng.randrange(1, LIFE_MAX_S + 1)
        return sign(authority, Record("edge", "region", rng.randbytes(32), now_s, expires_s, at))
    return sign(authority, revise(None, now_s, [rng.randbytes(32) for _ in range(rng.randrange(64))]))


@pytest.mark.parametrize("seed", range(FIRST_SEED, FIRST_SEED + 5))
def test_damaged_statements(seed: int) -> None:
    rng = random.Random(seed)
    authority = rng.randbytes(32)
    public = ed25519_public_key(authority)
    for _ in range(ROUNDS):
        good = one(rng, authority)
        data = rng.choice(
            [mutate(rng, good), rng.randbytes(rng.randrange(300)), good[:1] + rng.randbytes(200)]
        )
        try:
            statement = decode(data)
        except RecordError:
            continue
        assert sign(authority, statement)[:-64] == data[:-64], f"seed {seed}: {data.hex()}"
        try:
            verify(public, data)
        except RecordError:
            continue
        assert data == good, f"seed {seed}: {data.hex()}"
