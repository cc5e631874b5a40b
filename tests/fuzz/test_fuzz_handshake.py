"""Invariant: no sequence of handshake datagrams, control frames and events raises, grows the state beyond
its bounds, or asks for a
time that has passed; the session works afterwards.

RELAY_FUZZ_ROUNDS (default 300) sets the budget, RELAY_FUZZ_SEED the first seed.
"""

import os
import random

import pytest

from relay.core.path import Way
from relay.wire import hop
from tests.unit.hop_world import EDGE, MS, REGION, SECOND, Pair, Sealed, pair

ROUNDS = int(os.environ.get("RELAY_FUZZ_ROUNDS", "300"))
SECOND_SOCKETS = {"edge": ("192.0.2.11", 7400), "region": ("192.0.2.12", 7400)}
FIRST_SEED = int(os.environ.get("RELAY_FUZZ_SEED", "1"))


def mutate(rng: random.Random, data: bytes) -> bytes:
    """The same bytes with a few changed, cut, or lengthened."""
    changed = bytearray(data)
    for _ in range(rng.randrange(1, 4)):
        choice = rng.randrange(4)
        if choice == 0 and changed:
            changed[rng.randrange(len(changed))] = rng.randrange(256)
        elif choice == 1:
            del changed[rng.randrange(len(changed) + 1) :]
        elif choice == 2:
            changed += rng.randbytes(rng.randrange(40))
        elif changed:
            at = rng.randrange(len(changed))
            changed[at : at + 4] = rng.choice([bytes(4), b"\xff" * 4, b"\x80\x00\x00\x00"])
    return bytes(changed)


def one_event(rng: random.Random, p: Pair, frames: list[bytes], datagrams: list[bytes]) -> None:
    now, address = p.world.now_ns, rng.choice([EDGE, REGION, ("2001:db8::1", rng.randrange(1, 9))])
    node, session = rng.choice([(p.edge, p.up), (p.region, p.down)])
    choice, path = rng.randrange(9), rng.choice([0, 0, 1, 2, 3, 4, 255])
    if choice <= 1 and datagrams:
        node.receive(address, mutate(rng, rng.choice(datagrams)), rng.choice(list(SECOND_SOCKETS.values())))
    elif choice == 2:
        node.receive(address, bytes([rng.randrange(6), 1]) + rng.randbytes(rng.randrange(500)))
    elif choice <= 4 and node.keys:
        index = rng.choice(list(node.keys))
        frame = mutate(rng, rng.choice(frames)) if rng.random() < 0.7 else rng.choice(frames)
        size = rng.randrange(33, 1500)
        if node.acceptor.session(index) is session:
            node.do(session, session.receive_control(now, index, address, size, frame))
    elif choice == 5:
        node.do(session, session.new_address(now, path, address, rng.randrange(33, 1500)))
    elif choice == 6:
        node.do(session, session.confirmed(now, rng.choice([0, *node.keys])))
    elif choice == 7:
        rtt = rng.choice([0, MS, 100 * MS, 100 * SECOND])
        node.do(session, session.measured(now, path, now - rng.randrange(20 * SECOND), rtt))
    elif session is p.up:
        ways = {number: Way((REGION,), rng.randrange(2)) for number in range(1, 4) if rng.random() < 0.3}
        node.do(session, session.set_ways(now, {0: Way((REGION,)), **ways}))


def check_bounds(p: Pair, seed: int) -> None:
    for node, session in ((p.edge, p.up), (p.region, p.down)):
        paths = session.paths
        assert set(paths) <= set(range(hop.PATHS_MAX)), f"seed {seed}"
        assert len(node.keys) <= (2 + hop.HALF_OPEN_MAX) * len(paths), f"seed {seed}"
        assert len(node.acceptor._indices) <= (2 + 2 * hop.HALF_OPEN_MAX) * len(paths), f"seed {seed}"
        for path in paths.values():
            assert len(path.challenges._candidates) <= hop.CHALLENGE_ADDRESSES_MAX, f"seed {seed}"
        assert len(session._channel._early) < hop.CHANNEL_FLIGHT_MAX, f"seed {seed}"
        assert len(session.drops) < 20, f"seed {seed}"


@pytest.mark.parametrize("seed", range(FIRST_SEED, FIRST_SEED + 5))
def test_hostile_events(seed):
    rng = random.Random(seed)
    p = pair(seed, loss=0.2, both_call=rng.random() < 0.5)
    for node in (p.edge, p.region):
        node.open(1, SECOND_SOCKETS[node.name])
    p.world.run(2 * SECOND)
    for _ in range(ROUNDS):
        frames = [d.frame for _, _, _, d in p.world.seen if isinstance(d, Sealed) and d.frame is not None]
        frames = frames or [b"\x01" + bytes(8)]
        datagrams = [d for _, _, _, d in p.world.seen if isinstance(d, bytes)]
        del p.world.seen[:-200]
        one_event(rng, p, frames, datagrams)
        check_bounds(p, seed)
        if rng.random() < 0.3:
            p.world.run(p.world.now_ns + rng.randrange(SECOND))
    p.world.loss = 0
    p.world.run(p.world.now_ns + 400 * SECOND)
    assert p.connected, f"seed {seed}"
    assert p.agree(), f"seed {seed}"
