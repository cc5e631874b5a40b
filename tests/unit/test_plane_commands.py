"""The packet plane as Python sees it: queues of events, commands in every order, the session table."""

import hashlib
import itertools
import random
import struct
from collections import Counter
from collections.abc import Callable

import pytest

from relay_ext import control
from relay_ext.control import (
    EVENT_CONFIRMED,
    EVENT_CONTROL,
    EVENT_HANDSHAKE,
    EVENT_SOURCE,
    PORT_RTCP,
    PORT_RTP,
    Plane,
)
from relay_ext.seal import SealKey
from tests.unit.plane_world import (
    CLOCK,
    CONTROL,
    HOP,
    KEYS,
    MS,
    OTHER,
    PEER,
    RTCP,
    RTP,
    START,
    WHOLE,
    Datagram,
    Peer,
    add_egress,
    add_track,
    inner,
    new_plane,
    receive,
    rtp,
)


@pytest.fixture
def plane() -> Plane:
    return new_plane()


def counted(plane: Plane) -> dict[str, int]:
    return {name: n for name, n in plane.stats().items() if n and name != "slabs_in_use"}


# ---- queues ------------------------------------------------------------------------------------


def initiation(i: int) -> bytes:
    """A handshake datagram with a right MAC1 for the key of `new_plane`."""
    head = b"\1\0\0\0" + struct.pack(">I", i) + bytes(100)
    key = hashlib.blake2s(b"mac1----" + bytes(32)).digest()
    return head + hashlib.blake2s(head, key=key, digest_size=16).digest() + bytes(16)


def flood_handshakes(plane: Plane) -> None:
    for i in range(1000):  # 25 a second, a source of its own each: no load that the gate would see
        plane.receive(i * 40 * MS, [(HOP, (f"10.1.{i // 250}.{i % 250}", 1), initiation(i))])


def flood_cookies(plane: Plane) -> None:
    plane.receive(0, [(HOP, OTHER, b"\3" + bytes(63)) for _ in range(1000)])


def flood_sources(plane: Plane) -> None:
    receive(plane, 0, *(rtp(i, ssrc=i) for i in range(1000)))


def flood_control(plane: Plane) -> None:
    peer = Peer(plane)
    peer.send(0, *(peer.seal(CONTROL, b"frame") for _ in range(1000)))
    plane.remove_hop(peer.hop)


FLOODS: list[tuple[Callable[[Plane], None], str, int, int]] = [
    (flood_handshakes, "handshakes_dropped", EVENT_HANDSHAKE, 128),
    (flood_cookies, "cookies_dropped", EVENT_HANDSHAKE, 32),
    (flood_sources, "sources_dropped", EVENT_SOURCE, 64),
    (flood_control, "control_dropped", EVENT_CONTROL, 256),
]


@pytest.mark.parametrize(("flood", "counter", "kind", "capacity"), FLOODS)
def test_a_flood_fills_its_own_queue_only(
    plane: Plane, flood: Callable[[Plane], None], counter: str, kind: int, capacity: int
) -> None:
    add_track(plane, ingest=True)
    flood(plane)
    dropped = {name: n for name, n in counted(plane).items() if name.endswith("dropped")}
    assert dropped == {counter: 1000 - capacity}
    peer = Peer(plane)
    peer.send(50_000 * MS, peer.seal(CONTROL, b"frame"))
    plane.receive(50_000 * MS, [(HOP, OTHER, initiation(1001)), (HOP, OTHER, b"\3" + bytes(63))])
    receive(plane, 50_000 * MS, rtp(0, ssrc=2000))
    now = {name: n for name, n in counted(plane).items() if name.endswith("dropped")}
    assert sum(now.values()) == 1000 - capacity + 1  # the newcomer of the full queue
    kinds = Counter(e.kind for e in plane.drain_events())
    assert kinds[kind] >= capacity
    assert kinds[EVENT_CONFIRMED] >= 1
    assert plane.drain_events() == []


def test_handshake_datagrams_are_checked_before_python_sees_them(plane: Plane) -> None:
    for data in (
        b"\1" + bytes(30),
        b"\1" + bytes(147),
        b"\2" + bytes(91),
        b"\1" + bytes(1536),
        b"\3" + bytes(64),
    ):
        plane.receive(0, [(HOP, PEER, data)])
    assert counted(plane) == {"short_datagrams": 1, "bad_mac1": 2, "handshake_too_long": 1, "bad_cookie": 1}
    plane.receive(0, [(HOP, PEER, initiation(1))])
    (event,) = plane.drain_events()
    assert (event.kind, event.port, event.address, event.data) == (EVENT_HANDSHAKE, HOP, PEER, initiation(1))


def test_a_loaded_gate_asks_for_a_cookie(plane: Plane) -> None:
    plane.set_cookie_secret(b"s" * 32)
    out: list[Datagram] = []
    for i in range(200):
        out += plane.receive(0, [(HOP, (f"10.1.0.{i}", 1), initiation(i))])
    assert 0 < len(out) == plane.stats()["cookies_sent"] < 200
    assert all(data[0] == 3 and len(data) == 64 for _, _, data in out)
    assert len(plane.drain_events()) + len(out) == 200


# ---- commands ----------------------------------------------------------------------------------


def world(plane: Plane) -> dict[str, Callable[[], None]]:
    """A plane in which everything is connected; by name, what removes each thing."""
    source = plane.add_track(clock_rate=CLOCK, hold_us=0, payload_type=96)
    sink = plane.add_track(clock_rate=CLOCK, hold_us=100_000)
    for port, kind in ((RTP, PORT_RTP), (RTCP, PORT_RTCP)):
        plane.set_port(port, kind, source)
    egress, other = add_egress(plane, sink), add_egress(plane, source)
    peer = Peer(plane)
    plane.add_feed(source, peer.hop, 1, 0, 7)
    plane.add_route(peer.hop, 1, 0, 7, sink)
    receive(plane, 0, rtp(1), rtp(2), rtp(4))
    peer.send(0, peer.source(inner(rtp(1), 1, flags=WHOLE | START), 1), peer.source(inner(rtp(3), 3), 3))
    return {
        "egress": lambda: plane.remove_egress(egress),
        "other egress": lambda: plane.remove_egress(other),
        "feed": lambda: plane.remove_feed(source, peer.hop),
        "route": lambda: plane.remove_route(peer.hop, sink),
        "keys": lambda: plane.drop_keys(1),
        "hop": lambda: plane.remove_hop(peer.hop),
        "source": lambda: plane.remove_track(source),
        "sink": lambda: plane.remove_track(sink),
    }


PARTS = {"egress": "sink", "other egress": "source", "feed": "hop", "route": "hop", "keys": "hop"}
"""What goes with what."""


def test_everything_can_be_removed_in_every_order() -> None:
    for order in itertools.islice(
        itertools.permutations(PARTS | {"hop": 0, "source": 0, "sink": 0}), 0, None, 97
    ):
        plane = new_plane(slabs=64)
        removers = world(plane)
        gone: set[str] = set()
        for name in order:
            owners = {PARTS.get(name, name)} | ({"source"} if name == "feed" else set())
            owners |= {"sink"} if name == "route" else set()
            if not owners - {name} & gone:
                removers[name]()
            gone.add(name)
            receive(plane, 10 * MS, rtp(5))
            plane.receive(10 * MS, [(HOP, PEER, bytes([4, 0, 0, 0, 0, 0, 0, 1]) + bytes(60))])
            plane.poll(20 * MS)
        assert plane.slabs_in_use == 0, order
        assert plane.poll(10_000 * MS) == ([], None), order
        plane.close()


def test_adding_and_removing_a_thousand_times_leaves_nothing() -> None:
    plane = new_plane(slabs=64)
    for _ in range(1000):
        removers = world(plane)
        removers["source"]()
        removers["sink"]()
        removers["hop"]()
        assert plane.slabs_in_use == 0
        plane.drain_events()
    assert plane.stats()["slabs_exhausted"] == 0
    assert plane.poll(10_000 * MS) == ([], None)


def test_close_removes_everything(plane: Plane) -> None:
    world(plane)
    assert plane.slabs_in_use > 0
    plane.close()
    assert plane.slabs_in_use == 0
    assert plane.poll(10_000 * MS) == ([], None)
    before = plane.stats()["unknown_port"]
    receive(plane, 0, rtp(9))
    assert plane.stats()["unknown_port"] == before + 1
    plane.close()


def test_ids_are_checked(plane: Plane) -> None:
    """A command that is refused leaves nothing behind."""
    track, peer = add_track(plane), Peer(plane)
    hop = peer.hop
    keys = (KEYS[0], KEYS[1], 1, 1, 1)
    calls: list[tuple[type[Exception], Callable[[], object]]] = [
        (KeyError, lambda: add_egress(plane, 99)),
        (KeyError, lambda: plane.remove_egress(99)),
        (KeyError, lambda: plane.remove_track(99)),
        (KeyError, lambda: plane.restart_track(99)),
        (KeyError, lambda: plane.set_hold(99, 1)),
        (KeyError, lambda: plane.remove_hop(99)),
        (KeyError, lambda: plane.add_feed(track, 99, 1, 1, 1)),
        (KeyError, lambda: plane.add_feed(99, hop, 1, 1, 1)),
        (KeyError, lambda: plane.remove_feed(track, hop)),
        (KeyError, lambda: plane.add_route(99, 1, 1, 1, track)),
        (KeyError, lambda: plane.add_route(hop, 1, 1, 1, 99)),
        (KeyError, lambda: plane.set_path(99, 0)),
        (KeyError, lambda: plane.add_keys(99, 0, 5, 6, *keys)),
        (KeyError, lambda: plane.use_keys(99)),
        (KeyError, lambda: plane.drop_keys(99)),
        (KeyError, lambda: plane.send_control(99, 0, None, b"x")),
        (KeyError, lambda: plane.hop_stats(99)),
        (KeyError, lambda: plane.track_stats(99)),
        (ValueError, lambda: plane.add_keys(hop, 0, 1, 6, *keys)),
        (ValueError, lambda: plane.add_keys(hop, 4, 5, 6, *keys)),
        (ValueError, lambda: plane.add_keys(hop, 0, 5, 6, b"short", *keys[1:])),
        (ValueError, lambda: plane.add_keys(hop, 0, 5, 6, *keys[:2], 9, 1, 1)),
        (ValueError, lambda: plane.set_path(hop, 4)),
        (ValueError, lambda: plane.set_path(hop, 0, datagram_max=1231)),
        (ValueError, lambda: plane.set_path(hop, 0, datagram_max=2001)),
        (OSError, lambda: plane.set_path(hop, 0, address=("x", 1))),
        (ValueError, lambda: plane.add_track(clock_rate=0, hold_us=0)),
        (ValueError, lambda: plane.set_cookie_secret(b"short")),
        (ValueError, lambda: Plane(b"short")),
    ]
    for error, call in calls:
        with pytest.raises(error):
            call()
    plane.add_feed(track, hop, 1, 1, 1)
    with pytest.raises(ValueError):
        plane.add_feed(track, hop, 1, 1, 1)
    plane.close()
    assert plane.slabs_in_use == 0


def test_constants_differ() -> None:
    events = [getattr(control, name) for name in dir(control) if name.startswith("EVENT_")]
    ports = [getattr(control, name) for name in dir(control) if name.startswith("PORT_")]
    assert (len(set(events)), len(set(ports))) == (9, 4)


# ---- the table of receiver indices -------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_the_session_table_against_a_dict(seed: int) -> None:
    """Indices that crowd the same slots, thousands of them: each is found, what was dropped is not."""
    rng = random.Random(seed)
    plane = new_plane(slabs=16)
    hop = plane.add_hop(HOP)
    crowded = [i * pow(2654435761, -1, 2**32) % 2**32 for i in range(3000)]  # all hash near slot 0
    known: dict[int, int] = {}
    key = SealKey(1, KEYS[1], True)

    def answers(index: int) -> bool:
        """Whether an authentic datagram for that index is opened."""
        header = struct.pack(">BBHIQ", CONTROL, 0, 0, index, rng.randrange(2**40))
        before = plane.stats()["unknown_index"]
        plane.receive(0, [(HOP, PEER, header + key.seal(int.from_bytes(header[8:], "big"), header, b"x"))])
        plane.drain_events()
        return plane.stats()["unknown_index"] == before

    for step in range(6000):
        if known and rng.random() < 0.45:
            index = rng.choice(list(known)) if step % 50 == 0 else next(iter(known))
            plane.drop_keys(index)
            del known[index]
        else:
            index = rng.choice([rng.randrange(2**32), rng.choice(crowded)])
            if index not in known:
                plane.add_keys(hop, 0, index, 0, KEYS[0], KEYS[1], 1, 1, 1)
                known[index] = step
        probe = rng.choice([index, rng.choice(crowded)])
        assert answers(probe) == (probe in known), f"seed {seed}, step {step}"
    assert all(answers(index) for index in known), f"seed {seed}"
    plane.close()
    assert plane.slabs_in_use == 0
    assert not answers(next(iter(known)))
