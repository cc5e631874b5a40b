"""Invariant: bytes that are decoded as a statement are the only encoding of it; all others raise RecordError;
nobody's bytes but the fleet's pass for signed.

RELAY_FUZZ_ROUNDS (default 300) sets the budget, RELAY_FUZZ_SEED the first seed.
"""

import os
import random

import pytest

from relay.core.record import LIFE_MAX_S, ROLES, Record, RecordError, decode, revise, sign, verify
from relay.wire.coding import decode as decode_message
from relay.wire.coding import encode
from relay.wire.fields import WireError
from relay.wire.hop import SECOND
from relay.wire.messages import NODE_RECORD_BYTES_MAX, Records
from relay_ext.crypto import ed25519_public_key
from tests.fuzz.test_fuzz_handshake import mutate
from tests.unit.test_renewals import AUTHORITY, Node

ROUNDS = int(os.environ.get("RELAY_FUZZ_ROUNDS", "300"))
FIRST_SEED = int(os.environ.get("RELAY_FUZZ_SEED", "1"))


def one(rng: random.Random, authority: bytes) -> bytes:
    now_s = rng.randrange(1 << 31)
    if rng.random() < 0.5:
        at = tuple(
            (f"192.0.2.{rng.randrange(256)}", rng.randrange(1, 65536)) for _ in range(rng.randrange(5))
        )
        expires_s = now_s + rng.randrange(1, LIFE_MAX_S + 1)
        key, role = rng.randbytes(32), rng.choice(ROLES)
        return sign(authority, Record("edge", "region", key, now_s, expires_s, at, role))
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


@pytest.mark.parametrize("seed", range(FIRST_SEED, FIRST_SEED + 5))
def test_damaged_messages_of_records(seed: int) -> None:
    """What a peer tells never raises, and nothing is adopted, kept or told that is not as it was signed."""
    rng = random.Random(seed)
    node = Node(region=rng.random() < 0.7)
    peer = node.peer("west", region=True)
    signed, told = set(), 0
    for i in range(ROUNDS):
        good = [one(rng, AUTHORITY) for _ in range(rng.randrange(1, 5))]
        records = tuple(of for of in good if len(of) <= NODE_RECORD_BYTES_MAX) or (b"",)
        signed |= set(records)
        packed = encode(Records(records))
        try:
            message = decode_message(mutate(rng, packed) if rng.random() < 0.8 else packed)
        except WireError:
            continue
        if isinstance(message, Records):
            told += len(message.records)
            node.renewals.on_message(i * SECOND, peer, message)
            node.renewals.poll(i * SECOND)
    assert signed.issuperset(node.adopted), f"seed {seed}"
    assert signed.issuperset(packed for _, packed in node.sent), f"seed {seed}"
    assert node.renewals.status()["kept"] + peer.drops.total() <= told, f"seed {seed}"
    node.shards.close()
