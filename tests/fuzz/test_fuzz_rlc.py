"""Whatever packets an authenticated peer sends, the decoder stays in its bounds and lets go of every slab.

RELAY_FUZZ_ROUNDS (default 100, each about 10 ms) sets the budget, RELAY_FUZZ_SEED the first seed.
"""

import os
import random

from relay_ext.rlc import HEAD, MAX_SYMBOL, MAX_WINDOW, Decoder, Result

ROUNDS = int(os.environ.get("RELAY_FUZZ_ROUNDS", "100"))
FIRST_SEED = int(os.environ.get("RELAY_FUZZ_SEED", "1"))
PACKETS = 400


def hostile_esi(rng: random.Random, near: int) -> int:
    """Mostly around the window, at times anywhere."""
    distance = rng.choice([3, 20, 200, 2000, 1 << 31])
    return (near + rng.randint(-distance, distance)) % (1 << 32)


def hostile_bytes(rng: random.Random) -> bytes:
    """Any length up to beyond the largest symbol; the length field is right, or anything."""
    length = rng.choice([0, 1, HEAD - 1, HEAD, 21, 100, MAX_SYMBOL, MAX_SYMBOL + 1, rng.randrange(2033)])
    content = rng.randbytes(length)
    if length >= HEAD and rng.random() < 0.7:
        return (length - HEAD).to_bytes(2, "big") + content[2:]
    return content


def one_round(seed: int) -> None:
    rng = random.Random(seed)
    span = rng.choice([8, 64, 1024])
    rows = rng.choice([1, 5, span])
    slabs = rng.choice([span + rows + 1, 12])
    decoder = Decoder(span, rows, slabs=slabs)
    for _ in range(PACKETS):
        near = decoder.state().highest
        recovered: list[tuple[int, bytes]] = []
        result = Result.NEW
        try:
            match rng.randrange(20):
                case 0:
                    decoder.expire(hostile_esi(rng, near))
                case 1:
                    decoder.forget(hostile_esi(rng, near))
                case 2 if rng.random() < 0.05:
                    decoder.reset()
                case 3:
                    decoder.seen(hostile_esi(rng, near))
                case n if n < 9:
                    result, recovered = decoder.source(hostile_esi(rng, near), hostile_bytes(rng))
                case _:
                    count = rng.choice([0, 1, 2, 10, 60, 200, MAX_WINDOW, MAX_WINDOW + 1, 65535])
                    first, key = hostile_esi(rng, near - count), rng.randrange(65536)
                    result, recovered = decoder.repair(first, count, key, hostile_bytes(rng))
        except MemoryError:  # the few slabs that this round has are in use: nothing came in
            decoder.forget(near)
        state = decoder.state()
        assert result in Result
        assert state.rows <= rows
        assert decoder.in_use <= min(slabs, span + rows)
        if state.started:
            assert 0 <= (state.highest - state.base + 1) % (1 << 32) <= span
            assert decoder.deficit <= span
        assert all(len(s) == HEAD + int.from_bytes(s[:2], "big") <= MAX_SYMBOL for _, s in recovered)
        assert not any(decoder.is_missing(esi) for esi, _ in recovered)
    decoder.reset()
    assert decoder.in_use == 0


def test_hostile_packets() -> None:
    for seed in range(FIRST_SEED, FIRST_SEED + ROUNDS):
        try:
            one_round(seed)
        except Exception as e:
            raise AssertionError(f"seed {seed}") from e
