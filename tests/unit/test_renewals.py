"""Records on their way through one node: what it keeps, tells and refuses. Whole fleets are in
tests/sim/test_renewal.py."""

import random
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from relay.core.handshake import Identity
from relay.core.noise import public_key
from relay.core.record import Record, RecordError, revise, sign
from relay.core.trust import Trust
from relay.services import renewals
from relay.services.hops import Hop
from relay.services.renewals import TAKEN_AT_ONCE, TOLD_PER_TICK, Renewals
from relay.services.shards import Shards
from relay.wire.hop import SECOND
from relay.wire.messages import RECORDS_MAX, Message, Records
from relay_ext.crypto import ed25519_public_key
from tests.unit.quiet_hops import quiet_hops

AUTHORITY = bytes(range(32))
STATIC = bytes(range(1, 33))
SIGNED_S = 1_800_000_000
DAY_S = 86400


class Node:
    """As much of a node as its renewals need; `sent` is what it told."""

    def __init__(self, *, region: bool = True) -> None:
        self.shards = Shards(public_key(STATIC))
        identity = Identity(STATIC, 1, "own")
        self.hops = quiet_hops(self.shards, identity)
        self.trust = Trust(ed25519_public_key(AUTHORITY))
        self.adopted: list[bytes] = []
        self.renewals = Renewals(self.trust, identity, self.hops, region=region, adopt=self._adopt)
        self.sent: list[tuple[str, bytes]] = []
        self.full = False
        self.hops.send = self._send  # type: ignore[method-assign]

    def _adopt(self, now_ns: int, record: Record, packed: bytes) -> None:
        self.adopted.append(packed)

    def _send(self, now_ns: int, hop: Hop, message: Message) -> bool:
        assert isinstance(message, Records) and len(message.records) <= RECORDS_MAX
        if not self.full:
            self.sent += [(hop.name, packed) for packed in message.records]
        return not self.full

    def peer(self, name: str, *, region: bool = False, shown: bytes = b"") -> Hop:
        """One whose session has just begun."""
        hop = self.hops.add(0, name, "default", key(name), ())
        hop.is_region = region
        hop.session.state = "connected"
        hop.session.peer_hello = SimpleNamespace(record=shown)  # type: ignore[assignment]
        self.renewals.on_state(0, hop, fresh=True)
        return hop

    def hears(self, hop: Hop, *records: bytes, now_ns: int = 0) -> None:
        self.renewals.on_message(now_ns, hop, Records(records))

    def polled(self, seconds: int) -> list[tuple[str, bytes]]:
        """What it tells at that time."""
        self.sent.clear()
        self.renewals.poll(seconds * SECOND)
        return list(self.sent)


def key(name: str) -> bytes:
    return public_key(random.Random(name).randbytes(32))


def signed(name: str, *, later_s: int = 0, authority: bytes = AUTHORITY, of: bytes | None = None) -> bytes:
    issued_s = SIGNED_S + later_s
    return sign(authority, Record(name, "eu", of or key(name), issued_s, issued_s + DAY_S))


@pytest.fixture
def node() -> Iterator[Node]:
    node = Node()
    yield node
    node.shards.close()


@pytest.fixture
def edge() -> Iterator[Node]:
    node = Node(region=False)
    yield node
    node.shards.close()


def test_a_region_tells_regions_and_the_node_that_a_record_is_of(node: Node) -> None:
    west = node.peer("west", region=True)
    for name, region in (("east", True), ("a", False), ("b", False)):
        node.peer(name, region=region)
    node.polled(0)
    node.hears(west, signed("a"))
    assert sorted(node.polled(1)) == [("a", signed("a")), ("east", signed("a"))]
    assert node.polled(2) == []
    node.hears(west, signed("a"), now_ns=3 * SECOND)  # it is known
    assert node.polled(3) == []
    node.hears(west, signed("a", later_s=1), now_ns=3 * SECOND)
    node.hears(west, signed("a"), now_ns=3 * SECOND)
    assert sorted(node.polled(4)) == [("a", signed("a", later_s=1)), ("east", signed("a", later_s=1))]


def test_who_comes_later_is_told_of_what_is_kept(node: Node) -> None:
    for name in ("a", "b", "c"):
        node.renewals.hand(0, signed(name, later_s=1))
    node.polled(0)
    node.peer("a", shown=signed("a"))
    node.peer("b", shown=signed("b", later_s=1))
    west = node.peer("west")
    assert node.polled(1) == [("a", signed("a", later_s=1))]
    west.is_region = True  # it has said so meanwhile
    assert node.polled(2) == [("west", signed(name, later_s=1)) for name in ("a", "b", "c")]
    assert node.renewals.status() == {"kept": 3, "untold": 0}
    node.renewals.on_state(2 * SECOND, west, fresh=True)
    assert len(node.polled(3)) == 3


def test_what_a_region_has_told_is_not_told_to_it(node: Node) -> None:
    west, east = node.peer("west", region=True), node.peer("east", region=True)
    node.polled(0)
    for region in (west, east):
        node.hears(region, signed("a"))
    assert node.polled(1) == []


def test_an_edge_hears_of_its_own_record_and_of_no_other(edge: Node) -> None:
    west = edge.peer("west", region=True)
    own = signed("own", of=public_key(STATIC))
    edge.hears(west, own, signed("a"))
    assert edge.adopted == [own]
    assert west.drops == {"record unasked": 1}
    assert edge.polled(1) == []
    # What is handed to it goes to its regions.
    edge.renewals.hand(SECOND, signed("a"))
    assert edge.polled(2) == [("west", signed("a"))]


def test_what_does_not_hold_is_refused_and_counted(node: Node) -> None:
    west = node.peer("west", region=True)
    node.trust.revoke(0, sign(AUTHORITY, revise(None, SIGNED_S + 2 * DAY_S, [key("bad")])))
    later_s = 2 * DAY_S
    node.hears(west, b"rubbish", signed("a", later_s=later_s)[:-2] + bytes(2))
    node.hears(west, signed("a", later_s=later_s, authority=bytes(32)), signed("bad", later_s=later_s))
    node.hears(west, signed("a"), sign(AUTHORITY, revise(None, SIGNED_S, [])))
    assert west.drops == {
        "record malformed": 2,
        "record forged": 2,
        "record revoked": 1,
        "record expired": 1,
    }
    assert node.renewals.status() == {"kept": 0, "untold": 0}


def test_a_record_that_was_revoked_meanwhile_is_not_told(node: Node) -> None:
    node.renewals.hand(0, signed("a"))
    node.polled(0)
    node.trust.revoke(0, sign(AUTHORITY, revise(None, SIGNED_S, [key("a")])))
    node.peer("west", region=True)
    assert node.polled(1) == []


def test_telling_is_slow_and_waits_for_a_full_queue(node: Node) -> None:
    names = [f"n{i}" for i in range(2 * TOLD_PER_TICK + 3)]
    for name in names:
        node.renewals.hand(0, signed(name))
    node.polled(0)
    node.peer("west", region=True)
    told = [("west", signed(name)) for name in names]
    assert node.polled(1) == told[:TOLD_PER_TICK]
    node.full = True
    assert node.polled(2) == []
    node.full = False
    assert node.polled(3) + node.polled(4) == told[TOLD_PER_TICK:]


def test_a_peer_that_tells_too_much_is_held_off(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[bytes] = []

    def count(authority: bytes, packed: bytes) -> None:
        checked.append(packed)
        raise RecordError("record forged")

    monkeypatch.setattr("relay.core.trust.verify", count)
    west = node.peer("west", region=True)
    for _ in range(TAKEN_AT_ONCE):
        node.hears(west, signed("a"), signed("b"))
    assert len(checked) == west.drops["record forged"] == west.drops["records too fast"] == TAKEN_AT_ONCE
    node.hears(west, signed("a"), now_ns=SECOND)
    assert len(checked) == TAKEN_AT_ONCE + 1


def test_there_is_room_for_so_many_and_what_is_void_makes_some(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(renewals, "KEPT_MAX", 3)
    for name in ("a", "b", "c"):
        node.renewals.hand(0, signed(name))
    with pytest.raises(RecordError, match="too many records"):
        node.renewals.hand(0, signed("d"))
    node.renewals.hand(0, signed("c", later_s=5))
    node.trust.revoke(0, sign(AUTHORITY, revise(None, SIGNED_S, [key("b")])))
    node.renewals.hand(0, signed("d"))
    assert node.renewals.status()["kept"] == 3
