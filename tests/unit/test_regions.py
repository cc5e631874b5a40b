"""What a node learns of regions from its peers, and what it does not believe; fleets are in
tests/sim/test_nearest.py."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import cast

import pytest

from relay.core.handshake import Identity
from relay.core.noise import public_key
from relay.core.record import Record, revise, sign
from relay.core.trust import Trust
from relay.services.hops import Hop
from relay.services.regions import FORGET_NS, LEARNED_MAX, Directions
from relay.services.shards import Shards
from relay.services.streams import Streams
from relay.wire.hop import SECOND
from relay.wire.messages import AskRegions, Goodbye, Regions
from relay_ext.crypto import ed25519_public_key
from tests.unit.quiet_hops import quiet_hops

AUTHORITY = bytes(range(32))
STATIC = bytes(range(1, 33))
SIGNED_S = 1_800_000_000
DAY_S = 86400
ADDRESS = ("203.0.113.7", 7400)


@dataclass
class FakeStreams:
    """What `Directions` uses of Streams."""

    used: set[str] = field(default_factory=set)

    def uses(self, hop: Hop) -> bool:
        return hop.name in self.used


class Node:
    """An edge, or a region, with the peer `seed` in its configuration, which is a region."""

    def __init__(self, *, region: bool = False) -> None:
        self.shards = Shards(public_key(STATIC))
        identity = Identity(STATIC, 1, "own", record=signed("own", public_key(STATIC)))
        self.hops = quiet_hops(self.shards, identity)
        self.streams = FakeStreams()
        self.trust = Trust(ed25519_public_key(AUTHORITY))
        self.directions = Directions(
            self.trust,
            identity,
            self.hops,
            cast(Streams, self.streams),
            region=region,
            random_bytes=random.Random(2).randbytes,
            remove=self.hops.remove,
        )
        self.seed = self.hops.add(0, "seed", "default", key("seed"), [("192.0.2.1", 7400)])
        self.seed.is_region = True

    def names(self, *records: bytes, now_ns: int = 0, hop: Hop | None = None) -> None:
        """The seed names these regions."""
        self.directions.on_message(now_ns, hop or self.seed, Regions(records))
        self.directions.poll(now_ns)

    @property
    def called(self) -> dict[str, tuple[tuple[str, int], ...]]:
        return {hop.name: hop.session.peer.addresses for hop in self.hops.hops.values()}

    def known(self, now_ns: int = 0) -> set[str]:
        return {of["name"] for of in self.directions.status(now_ns)}


def key(name: str) -> bytes:
    return public_key(random.Random(name).randbytes(32))


def signed(
    name: str,
    public: bytes | None = None,
    *,
    issued_s: int = SIGNED_S,
    addresses: tuple[tuple[str, int], ...] = (ADDRESS,),
    authority: bytes = AUTHORITY,
    role: str = "region",
) -> bytes:
    of = Record(name, "eu", public or key(name), issued_s, issued_s + DAY_S, addresses, role)
    return sign(authority, of)


@pytest.fixture
def edge() -> Iterator[Node]:
    node = Node()
    yield node
    node.shards.close()


def test_a_region_that_is_named_is_called_at_the_addresses_in_its_record(edge: Node) -> None:
    edge.names(signed("a"))
    assert edge.called["a"] == (ADDRESS,)
    assert {(of["name"], of["region"], of["state"]) for of in edge.directions.status(0)} == {
        ("seed", "default", "configured"),
        ("a", "eu", "rests"),  # the session has been opened since the look
    }


@pytest.mark.parametrize(
    "record",
    [
        b"rubbish",
        signed("a", authority=bytes(32)),
        signed("a")[:-1] + b"\0",
        signed("a", role="edge"),
        sign(AUTHORITY, revise(None, SIGNED_S, ())),
    ],
)
def test_what_the_fleets_key_has_not_signed_is_refused_and_counted(edge: Node, record: bytes) -> None:
    edge.names(record, signed("b"))
    assert set(edge.called) == {"seed"}
    assert edge.seed.drops == {"regions refused": 1}


def test_a_record_that_is_void_is_refused(edge: Node) -> None:
    edge.trust.revoke(0, sign(AUTHORITY, revise(None, SIGNED_S + 10, [key("a")])))
    edge.names(signed("a"))
    edge.trust.witness(0, SIGNED_S + DAY_S)
    edge.names(signed("b"))
    assert set(edge.called) == {"seed"}
    assert edge.seed.drops == {"regions refused": 2}


def test_what_is_known_otherwise_or_cannot_be_called_is_passed_over(edge: Node) -> None:
    edge.names(
        signed("own", key("x")),
        signed("x", public_key(STATIC)),
        signed("seed", key("x")),
        signed("x", key("seed")),
    )
    edge.names(signed("nowhere", addresses=()))
    assert set(edge.called) == {"seed"} == edge.known()
    assert not edge.seed.drops


def test_only_regions_that_we_call_are_listened_to(edge: Node) -> None:
    caller = edge.hops.add(0, "caller", "default", key("caller"), [])
    caller.is_region = True
    edge.names(signed("a"), hop=caller)
    edge.seed.is_region = False
    edge.names(signed("a"))
    assert edge.known() == {"seed"}
    assert caller.drops == edge.seed.drops == {"regions unasked": 1}


def test_the_later_record_of_a_name_or_a_key_counts(edge: Node) -> None:
    edge.names(signed("a"))
    moved = ("198.51.100.1", 7400)
    edge.names(signed("a", issued_s=SIGNED_S + 1, addresses=(moved,)), now_ns=SECOND)
    edge.names(signed("a"), now_ns=SECOND)  # the earlier one
    assert edge.called["a"] == (ADDRESS,)  # a session that lasts is not disturbed
    edge.names(signed("a", key("new"), issued_s=SIGNED_S + 2), now_ns=2 * SECOND)
    edge.directions.poll(3 * SECOND)
    edge.directions.poll(4 * SECOND)
    hop = edge.hops.named("a")
    assert hop is not None and hop.key == key("new")
    edge.names(signed("b", key("new"), issued_s=SIGNED_S + 3), now_ns=5 * SECOND)
    for second in (6, 7):
        edge.directions.poll(second * SECOND)
    assert set(edge.called) == {"seed", "b"}


def test_there_is_a_limit_and_what_nobody_names_is_forgotten(edge: Node) -> None:
    for i in range(LEARNED_MAX + 5):
        edge.names(signed(f"r{i}"))
    assert len(edge.known(0)) <= 1 + LEARNED_MAX
    edge.directions.poll(SECOND)
    assert len(edge.known(SECOND)) == 1 + LEARNED_MAX
    assert len(edge.called) <= 5
    edge.names(signed("r0"), now_ns=FORGET_NS - SECOND)
    edge.directions.poll(FORGET_NS)
    edge.directions.poll(FORGET_NS + SECOND)
    assert edge.known(FORGET_NS) == {"seed", "r0"}


def test_one_that_comes_into_the_configuration_makes_way(edge: Node) -> None:
    edge.names(signed("a"))
    edge.directions.configured(0, "a", key("other"))
    assert set(edge.called) == {"seed"}


def test_a_region_tells_of_itself_and_learns_of_nobody() -> None:
    node = Node(region=True)
    sent: list[object] = []
    node.hops.send = lambda now_ns, hop, message: bool(sent.append(message)) or True  # type: ignore[method-assign]
    node.directions.on_message(0, node.seed, AskRegions())
    assert sent == [Regions((signed("own", public_key(STATIC)),))]
    node.names(signed("a"))
    assert node.seed.drops == {"regions unasked": 1}
    node.directions.on_message(0, node.seed, Goodbye())
    node.directions.poll(0)
    assert node.seed.session.state == "connecting"
    node.shards.close()


def test_an_edge_that_is_asked_says_nothing(edge: Node) -> None:
    edge.directions.on_message(0, edge.seed, AskRegions())
    assert not edge.seed.drops
