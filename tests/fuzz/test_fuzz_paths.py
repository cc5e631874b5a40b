"""Invariant: what peers tell of a stream's hops is refused, or can be told on in one message.

RELAY_FUZZ_ROUNDS (default 300) sets the budget, RELAY_FUZZ_SEED the first seed.
"""

import os
import random

import pytest

from relay.core.figures import tree
from relay.wire.coding import decode, encode
from relay.wire.fields import U32, WireError
from relay.wire.paths import BEFORE_MAX, BEHIND_MAX, BOUNDS, HopFigures, HopsBefore, HopsBehind, TreeHop
from tests.fuzz.test_fuzz_handshake import mutate

ROUNDS = int(os.environ.get("RELAY_FUZZ_ROUNDS", "300"))
FIRST_SEED = int(os.environ.get("RELAY_FUZZ_SEED", "1"))


def figures(rng: random.Random) -> HopFigures:
    return HopFigures(*(rng.choice([None, 0, rng.randrange(bound + 1), bound]) for bound in BOUNDS))


def one(rng: random.Random) -> bytes:
    if rng.random() < 0.3:
        hops = tuple(figures(rng) for _ in range(rng.randrange(1, BEFORE_MAX + 1)))
        return encode(HopsBefore("studio", hops))
    count = rng.randrange(1, BEHIND_MAX + 1)
    tree_hops = tuple(
        TreeHop("n" * rng.randrange(1, 9), rng.randrange(max(i, 1)), rng.random() < 0.5, figures(rng))
        for i in range(count)
    )
    return encode(HopsBehind("studio", rng.choice([count, count + rng.randrange(9), U32]), tree_hops))


@pytest.mark.parametrize("seed", range(FIRST_SEED, FIRST_SEED + 5))
def test_damaged_hops(seed: int) -> None:
    rng = random.Random(seed)
    taken: list[HopsBehind] = []
    for _ in range(ROUNDS):
        good = one(rng)
        try:
            message = decode(mutate(rng, good) if rng.random() < 0.8 else good)
        except WireError:
            continue
        assert decode(encode(message)) == message, f"seed {seed}"
        if isinstance(message, HopsBehind):
            taken.append(message)
            told = tree("studio", TreeHop("own", 0, False), rng.sample(taken, min(len(taken), 9)))
            assert decode(encode(told)) == told, f"seed {seed}"
    assert taken, f"seed {seed}"
