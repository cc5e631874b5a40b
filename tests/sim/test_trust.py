"""Records and revocations between whole nodes: nobody's configuration names the edges."""

import base64
import random
from pathlib import Path
from typing import Any

import pytest

from relay.core import record, trust
from relay.core.acceptor import Acceptor
from relay.core.actions import SendHandshake
from relay.core.handshake import Identity, with_macs
from relay.core.noise import public_key
from relay.core.record import LIFE_MAX_S, Record, revise, sign, to_text
from relay.core.session import Peer
from relay.lab.link import LinkConfig
from relay.lab.virtual import MemoryStore
from relay_ext.crypto import ed25519_public_key
from tests.sim.fleet import (
    EDGE,
    HOP_PORT,
    MS,
    REGION,
    REGION_2,
    SECOND,
    VIDEO,
    Encoder,
    Fleet,
    NodeSpec,
    Player,
    Script,
)

LOSSY = LinkConfig(delay_ms=30, loss=0.3)
PER_SECOND = SECOND // VIDEO.interval_ns
SIGNED_S = 1_800_000_000
DAY_S = 86400
STRANGER = ("203.0.113.66", 6666)


class Trusting(Fleet):
    """Every node has the fleet's key, a record of its own, and a list if there is one."""

    def __init__(self, seed: int, *specs: NodeSpec, days: float = 90, max_peers: int = 256) -> None:
        super().__init__(seed, specs)
        self.authority = random.Random(f"{seed} authority").randbytes(32)
        self.days = days
        self.records = {spec.name: self.record(spec.name) for spec in specs}
        self.lists: dict[str, bytes] = {}
        self.stores = {spec.name: MemoryStore() for spec in specs}
        public = base64.b64encode(ed25519_public_key(self.authority)).decode()
        for name in self.specs:
            files = 'record_file = "record"\nrevocations_file = "list"'
            text = f'[fleet]\nauthority_key = "{public}"\nmax_peers = {max_peers}\n{files}'
            self.specs[name] = NodeSpec(**{**_fields(self.specs[name]), "fleet": text})

    def record(self, name: str, *, key: bytes | None = None, issued_s: int = SIGNED_S) -> bytes:
        expires_s = issued_s + int(self.days * DAY_S)
        role = self.specs[name].role if name in self.specs else "edge"
        of = Record(name, "default", public_key(key or self.key(name)), issued_s, expires_s, (), role)
        return sign(self.authority, of)

    def outside(self, name: str) -> dict[str, Any]:
        def read(path: Path) -> str:
            return to_text(self.records[name] if str(path) == "record" else self.lists.get(name, b""))

        return {"read": read, "store": self.stores[name]}

    def revoke(self, at: str, *names: str, issued_s: int = SIGNED_S + 10) -> None:
        """A new list comes to one node, as a file."""
        keys = [public_key(self.key(name)) for name in names]
        self.lists[at] = sign(self.authority, revise(None, issued_s, keys))
        self.reload(at)

    def reload(self, name: str) -> None:
        node = self.nodes[name]
        node.machine.reload(self.now_ns, self.config(name))
        self.network.wake(node)

    def state(self, name: str, peer: str) -> str | None:
        """Of the session; None where there is no such peer."""
        hops = self.nodes[name].machine.hops
        assert hops is not None
        hop = hops.named(peer)
        return hop.session.state if hop else None

    def refused(self, name: str, reason: str) -> int:
        return self.nodes[name].machine.refused_handshakes().get(f"handshake_{reason}", 0)

    def run_until(self, done: Any, seconds: float) -> float:
        """Runs until `done()`, at most so long; the seconds that it took."""
        started = self.now_ns
        while not done():
            assert self.now_ns - started < seconds * SECOND, f"not within {seconds} s"
            self.run(0.02)
        return (self.now_ns - started) / SECOND


def _fields(spec: NodeSpec) -> dict[str, Any]:
    return {name: getattr(spec, name) for name in spec.__dataclass_fields__}


def three(seed: int, link: LinkConfig = LOSSY, **options: Any) -> Trusting:
    """Two regions that know each other by configuration, and an edge that knows both and is known by none."""
    fleet = Trusting(
        seed,
        NodeSpec("region", REGION, called_by=("region-2",), egress=(VIDEO,)),
        NodeSpec("region-2", REGION_2, calls=("region",)),
        NodeSpec("edge", EDGE, calls=("region", "region-2"), ingest=(VIDEO,)),
        **options,
    )
    for a, b in ((EDGE, REGION), (EDGE, REGION_2), (REGION, REGION_2)):
        fleet.link(a, b, link)
    # The edge sends to the nearer one, whatever loss makes of the costs.
    fleet.link(EDGE, REGION_2, LinkConfig(delay_ms=250, loss=0.3))
    fleet.start_all()
    return fleet


def all_connected(fleet: Trusting) -> bool:
    pairs = [("edge", "region"), ("edge", "region-2"), ("region", "edge"), ("region-2", "edge")]
    return all(fleet.state(*pair) == "connected" for pair in [*pairs, ("region", "region-2")])


@pytest.mark.seeds(1, 2, 3)
def test_an_edge_with_a_record_needs_no_edit_elsewhere_and_a_revocation_ends_it(seed: int) -> None:
    fleet = three(seed)
    player = Player(fleet.network, VIDEO)
    assert fleet.run_until(lambda: all_connected(fleet), 10) < 5
    fleet.run(15)  # the first route is to whoever was there first
    Encoder(fleet.network, VIDEO, start_ns=fleet.now_ns, count=8 * PER_SECOND)
    fleet.run(5)
    assert len(player.missing(range(4 * PER_SECOND))) <= 2
    # The list comes to the region that the stream does not go to.
    fleet.revoke("region-2", "edge")
    took = fleet.run_until(
        lambda: fleet.state("region", "edge") is fleet.state("region-2", "edge") is None, 5
    )
    assert took < 1
    fleet.run(1)
    last = max(player.indices())
    fleet.run(3)
    assert max(player.indices()) == last
    assert fleet.refused("region", "record_revoked") > 0
    assert fleet.state("region", "region-2") == "connected"
    # It holds over restarts, of every node.
    for name in ("region", "region-2"):
        fleet.lists.clear()
        fleet.stop(name)
        fleet.start(name)
    fleet.run(5)
    fleet.run_until(lambda: fleet.refused("region", "record_revoked"), 60)
    assert fleet.state("region", "edge") is fleet.state("region-2", "edge") is None
    assert fleet.state("region", "region-2") == "connected"


def test_a_revoked_peer_is_cut_off_where_it_is_configured_too(seed: int) -> None:
    fleet = three(seed)
    fleet.run_until(lambda: all_connected(fleet), 10)
    fleet.revoke("edge", "region-2")
    fleet.run_until(lambda: fleet.state("region", "region-2") is fleet.state("edge", "region-2") is None, 5)
    assert fleet.state("edge", "region") == "connected"
    fleet.stop("region")
    fleet.start("region")
    fleet.run(5)
    assert fleet.state("region", "region-2") is None
    assert fleet.state("region", "edge") == "connected"


def test_fixed_peers_need_no_record(seed: int) -> None:
    fleet = three(seed)
    fleet.stop("region-2")
    fleet.records["region-2"] = sign(bytes(32), Record("region-2", "x", bytes(32), 1, 2))
    fleet.start("region-2", fleet="")
    fleet.run_until(lambda: fleet.state("region", "region-2") == "connected", 5)
    assert fleet.state("region-2", "edge") is None
    # It cannot read the list, and takes no harm.
    fleet.revoke("region", "edge")
    fleet.run(2)
    assert fleet.state("region", "region-2") == "connected"
    assert fleet.hop_status("region-2", "region")["drops"] == {
        reason: 0 for reason in fleet.hop_status("region-2", "region")["drops"]
    } | {"duplicate": 0}


def test_a_record_ends_a_renewed_one_goes_on_and_no_clock_is_asked(seed: int) -> None:
    fleet = three(seed, LinkConfig(delay_ms=20), days=600 / DAY_S)
    fleet.run_until(lambda: all_connected(fleet), 10)
    fleet.run(300)
    assert all_connected(fleet)
    # Both regions have renewed theirs, with 300 s to go; the edge has not.
    for name in ("region", "region-2"):
        fleet.records[name] = fleet.record(name, issued_s=SIGNED_S + 300)
        fleet.reload(name)
    fleet.run(275)
    assert all_connected(fleet)
    fleet.run(30)
    assert fleet.state("region", "edge") is fleet.state("region-2", "edge") is None
    assert fleet.refused("region", "record_expired") > 0
    # The edge has it now: accepted within the pace of its calls, each 5 s, of which the farther region's link
    # leaves one in two.
    fleet.records["edge"] = fleet.record("edge", issued_s=SIGNED_S + 600)
    fleet.reload("edge")
    fleet.run_until(lambda: all_connected(fleet), 60)


def test_a_renewed_record_is_carried_by_the_next_handshake_and_no_session_notices(seed: int) -> None:
    fleet = three(seed, LinkConfig(delay_ms=20), days=600 / DAY_S)
    player = Player(fleet.network, VIDEO)
    fleet.run_until(lambda: all_connected(fleet), 10)
    fleet.records["edge"] = fleet.record("edge", issued_s=SIGNED_S + 500)
    fleet.reload("edge")
    fleet.run(585)
    Encoder(fleet.network, VIDEO, start_ns=fleet.now_ns, count=20 * PER_SECOND)
    fleet.run(25)
    assert player.missing(range(20 * PER_SECOND)) == []
    assert fleet.hop("region", "edge").session.handshakes >= 5


def test_a_node_that_was_off_learns_the_time_from_what_others_were_signed(seed: int) -> None:
    fleet = three(seed, LinkConfig(delay_ms=20))
    fleet.run_until(lambda: all_connected(fleet), 10)
    # A year later, a region is switched on; its own record was renewed long ago.
    fleet.stop("region-2")
    fleet.start("region-2")
    fleet.run(6)
    assert fleet.state("region-2", "edge") == "connected"  # nothing has told it that time has passed
    fleet.lists["region"] = sign(fleet.authority, revise(None, SIGNED_S + LIFE_MAX_S, ()))
    fleet.records["region"] = fleet.record("region", issued_s=SIGNED_S + LIFE_MAX_S)
    fleet.reload("region")
    fleet.run(1)
    assert fleet.state("region-2", "edge") is None
    assert fleet.state("region-2", "region") == "connected"
    fleet.stop("region-2")
    fleet.start("region-2")
    fleet.run(6)
    assert fleet.state("region-2", "edge") is None


def test_two_nodes_of_one_name_are_one_peer_the_one_that_was_signed_last(seed: int) -> None:
    fleet = three(seed, LinkConfig(delay_ms=20))
    fleet.run_until(lambda: all_connected(fleet), 10)
    old = fleet.hop("region", "edge").session.peer.public_key
    # The edge gets a new key and a new record; its old self still runs elsewhere.
    twin = ("10.0.0.77", HOP_PORT)
    new_key = bytes(range(32))
    twin_record = fleet.record("edge", key=new_key, issued_s=SIGNED_S + 5)
    fleet.network.attach(caller := Caller(fleet, new_key, "edge", twin_record), 0, twin)
    fleet.run(6)
    assert fleet.hop("region", "edge").session.peer.public_key == public_key(new_key) != old
    assert caller.answered
    assert fleet.refused("region", "name_in_use") > 0


class Caller:
    """Calls the region with any key and record, every 100 ms, and does nothing else."""

    def __init__(self, fleet: Trusting, key: bytes, name: str, packed: bytes) -> None:
        identity = Identity(key, 99, name, packed)
        self._acceptor = Acceptor(identity, random.Random(str(fleet.seed)).randbytes)
        self._session = self._acceptor.add(
            Peer("region", public_key(fleet.key("region")), ((REGION, HOP_PORT),))
        )
        self._actions = self._session.start(fleet.now_ns)
        self.answered = False

    def receive(self, now_ns: int, datagrams: list[Any]) -> None:
        for _, source, data in datagrams:
            taken = self._acceptor.receive_handshake(now_ns, source, data)
            self._actions += taken[1] if taken else []
            self.answered |= self._session.state == "connected"

    def poll(self, now_ns: int) -> tuple[list[Any], int | None]:
        self._actions += self._session.poll(now_ns)
        out = [(0, a.address, a.datagram) for a in self._actions if isinstance(a, SendHandshake)]
        self._actions.clear()
        return out, self._session.deadline()


def initiation(fleet: Trusting, key: bytes, name: str, packed: bytes) -> bytes:
    caller = Caller(fleet, key, name, packed)
    return next(data for _, _, data in caller.poll(fleet.now_ns)[0])


def strangers(fleet: Trusting, rng: random.Random, count: int) -> list[tuple[str, bytes]]:
    """Initiations that are right in all but their records: the reason for the refusal of each, and the
    datagram."""
    other = rng.randbytes(32)
    of = fleet.record("edge-9", key=other)
    flipped = of[:-1] + bytes([of[-1] ^ 1 << rng.randrange(8)])
    forged = sign(rng.randbytes(32), Record("edge-9", "x", public_key(other), SIGNED_S, SIGNED_S + DAY_S))
    expired = Record("edge-9", "x", public_key(other), SIGNED_S - DAY_S, SIGNED_S)
    kinds = [
        ("unknown_peer", other, b""),
        ("record_forged", other, forged),
        ("record_forged", other, flipped),
        ("record_of_another_key", other, fleet.records["edge"]),
        ("record_expired", other, sign(fleet.authority, expired)),
        ("record_malformed", other, rng.randbytes(200)),
        ("record_malformed", other, of + b"\0"),
        ("record_malformed", other, sign(fleet.authority, revise(None, SIGNED_S + 50, ()))),
        ("name_in_use", other, fleet.record("region-2", key=other)),
        ("name_in_use", other, fleet.record("region", key=other)),
    ]
    return [(kind, initiation(fleet, key, "x", packed)) for kind, key, packed in kinds * count]


def test_strangers_are_refused_counted_and_answered_nothing(seed: int) -> None:
    fleet = three(seed, LinkConfig(delay_ms=20))
    fleet.run_until(lambda: all_connected(fleet), 10)
    hops = len(fleet.nodes["region"].machine.hop_statuses())
    sent = strangers(fleet, random.Random(seed), 4)
    script = [
        (fleet.now_ns + i * 50 * MS, STRANGER, (REGION, HOP_PORT), data) for i, (_, data) in enumerate(sent)
    ]
    attacker = Script(fleet.network, script)
    fleet.run(3)
    for reason in {reason for reason, _ in sent}:
        assert fleet.refused("region", reason) == [r for r, _ in sent].count(reason), reason
    assert attacker.answered.total() == 0
    assert len(fleet.nodes["region"].machine.hop_statuses()) == hops
    assert all_connected(fleet)


def test_a_signature_is_checked_after_everything_else_and_once(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = three(seed, LinkConfig(delay_ms=20))
    fleet.run_until(lambda: all_connected(fleet), 10)
    checked: list[bytes] = []

    def count(authority: bytes, packed: bytes) -> None:
        checked.append(packed)
        record.verify(authority, packed)

    monkeypatch.setattr(trust, "verify", count)
    rng = random.Random(seed)
    key, public = rng.randbytes(32), public_key(fleet.key("region"))
    packed = fleet.record("edge-9", key=key)
    good = initiation(fleet, key, "x", packed)
    damaged = []
    for at in (*range(9, len(good) - 32, 7), *range(len(good) - 32, len(good) - 16)):
        body = bytearray(good)
        body[at] ^= 1 << rng.randrange(8)
        damaged.append(with_macs(bytes(body[:-32]), public, None) if at < len(good) - 32 else bytes(body))

    datagrams = [*damaged, *[good] * 5]
    script = [
        (fleet.now_ns + i * 50 * MS, STRANGER, (REGION, HOP_PORT), data) for i, data in enumerate(datagrams)
    ]
    Script(fleet.network, script)
    fleet.run(len(damaged) * 0.05 - 0.02)
    assert checked == []
    fleet.run(1)
    assert checked == [packed]


def test_a_member_gets_another_name_by_a_later_record_and_not_by_an_earlier_one(seed: int) -> None:
    fleet = three(seed, LinkConfig(delay_ms=20))
    fleet.run_until(lambda: all_connected(fleet), 10)
    key = fleet.key("edge")
    before = fleet.records["edge"]
    fleet.records["edge"] = fleet.record("edge-7", key=key, issued_s=SIGNED_S + 1)
    fleet.reload("edge")
    fleet.run(145)  # until the keys are renewed
    assert fleet.state("region", "edge") is None
    assert fleet.state("region", "edge-7") == "connected"
    replayed = initiation(fleet, key, "x", before)
    Script(fleet.network, [(fleet.now_ns, STRANGER, (REGION, HOP_PORT), replayed)])
    fleet.run(1)
    assert fleet.state("region", "edge-7") == "connected"


def test_a_flood_of_callers_with_false_records_is_held_off_by_cookies(seed: int) -> None:
    """What a signature costs is spent only on callers that have shown where they are."""
    fleet = three(seed, LinkConfig(delay_ms=20))
    fleet.run_until(lambda: all_connected(fleet), 10)
    rng = random.Random(seed)
    key = rng.randbytes(32)
    forged = sign(rng.randbytes(32), Record("edge-9", "x", public_key(key), SIGNED_S, SIGNED_S + DAY_S))
    flood = [initiation(fleet, key, "x", forged) for _ in range(20)]
    sources = [(f"203.0.113.{rng.randrange(1, 255)}", rng.randrange(1024, 65_536)) for _ in range(300)]
    script = [
        (fleet.now_ns + i * MS, sources[i % 300], (REGION, HOP_PORT), flood[i % 20]) for i in range(3000)
    ]
    attacker = Script(fleet.network, script)
    fleet.run(4)
    assert fleet.refused("region", "record_forged") <= 60
    assert fleet.nodes["region"].shards.stats()["cookies_sent"] > 1000
    assert all(attacker.answered[a] <= attacker.sent[a] for a in attacker.answered)
    assert all_connected(fleet)


def test_members_are_bounded_and_replayed_callers_make_way(seed: int) -> None:
    fleet = three(seed, LinkConfig(delay_ms=20), max_peers=4)
    fleet.run_until(lambda: all_connected(fleet), 10)
    keys = [random.Random(f"{seed} {i}").randbytes(32) for i in range(12)]
    records = [fleet.record(f"edge-{i}", key=key) for i, key in enumerate(keys)]
    script = [
        (fleet.now_ns + i * 50 * MS, STRANGER, (REGION, HOP_PORT), initiation(fleet, key, "x", packed))
        for i, (key, packed) in enumerate(zip(keys, records, strict=True))
    ]
    attacker = Script(fleet.network, script)
    fleet.run(1)
    members = fleet.nodes["region"].machine.members
    assert members is not None
    assert [m["name"] for m in members.status(fleet.now_ns)["members"]] == [
        "edge",
        "edge-9",
        "edge-10",
        "edge-11",
    ]
    assert attacker.answered.total() <= attacker.sent.total()
    assert all_connected(fleet)
    fleet.run(16)
    assert [m["name"] for m in members.status(fleet.now_ns)["members"]] == ["edge"]


def test_replays_do_not_keep_the_place_of_a_member_that_is_gone(seed: int) -> None:
    fleet = three(seed, LinkConfig(delay_ms=20), max_peers=1)
    fleet.run_until(lambda: all_connected(fleet), 10)
    fleet.stop("edge")
    replayed = initiation(fleet, fleet.key("edge"), "x", fleet.records["edge"])
    script = [(fleet.now_ns + i * SECOND, STRANGER, (REGION, HOP_PORT), replayed) for i in range(220)]
    key = random.Random(seed).randbytes(32)
    later = initiation(fleet, key, "x", fleet.record("edge-9", key=key))
    script += [(fleet.now_ns + at * SECOND, STRANGER, (REGION, HOP_PORT), later) for at in (100, 210)]
    Script(fleet.network, script)
    fleet.run(200)
    assert fleet.state("region", "edge") == "connecting"
    assert fleet.refused("region", "too_many_peers") == 1
    fleet.run(10.5)
    assert fleet.state("region", "edge-9") == "connecting"


def test_a_member_that_is_gone_is_forgotten(seed: int) -> None:
    fleet = three(seed, LinkConfig(delay_ms=20))
    fleet.run_until(lambda: all_connected(fleet), 10)
    fleet.stop("edge")
    fleet.run(170)
    assert fleet.state("region", "edge") == "silent"
    fleet.run(20)
    assert fleet.state("region", "edge") is None
    assert fleet.slabs()["region"] == fleet.slabs()["region-2"]


def test_a_configured_peer_takes_the_place_of_a_member(seed: int) -> None:
    fleet = three(seed, LinkConfig(delay_ms=20))
    fleet.run_until(lambda: all_connected(fleet), 10)
    spec = _fields(fleet.specs["region"])
    fleet.specs["region"] = NodeSpec(**{**spec, "called_by": ("region-2", "edge")})
    fleet.reload("region")
    fleet.run(6)
    assert fleet.state("region", "edge") == "connected"
    status = fleet.nodes["region"].machine.fleet_status(fleet.now_ns)
    assert status is not None and status["members"] == []
    fleet.specs["region"] = NodeSpec(**spec)
    fleet.reload("region")
    fleet.run(6)
    assert fleet.state("region", "edge") == "connected"
