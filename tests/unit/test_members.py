"""Members on one node: what it keeps, warns of, and survives; whole fleets are in tests/sim/test_trust.py."""

import base64
import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from relay.config import FleetConfig
from relay.core.handshake import Identity
from relay.core.noise import public_key
from relay.core.record import Record, RecordError, revise, sign, to_text
from relay.errors import ConfigError
from relay.lab.virtual import MemoryStore
from relay.services.hops import Hop
from relay.services.members import SAVE_NS, Members
from relay.services.shards import Shards
from relay.wire.hop import SECOND
from relay.wire.messages import Message, RevocationList
from relay_ext.crypto import ed25519_public_key
from tests.unit.quiet_hops import quiet_hops

AUTHORITY = bytes(range(32))
STATIC = bytes(range(1, 33))
SIGNED_S = 1_800_000_000
DAY_S = 86400
LIST = Path("list")
RECORD = Path("record")


class Node:
    """As much of a node as its members need. `wall_s` is what its clock shows."""

    def __init__(self, store: MemoryStore, **files: bytes) -> None:
        self.files = files
        self.wall_s = 0.0
        self.shards = Shards(public_key(STATIC))
        self.identity = Identity(STATIC, 1, "own")
        self.hops = quiet_hops(self.shards, self.identity)
        self.config = FleetConfig(
            authority_key=ed25519_public_key(AUTHORITY),
            record_file=RECORD if "record" in files else None,
            revocations_file=LIST if "list" in files else None,
        )
        self.members = Members(
            self.config,
            self.identity,
            self.hops,
            role="edge",
            store=store,
            read=lambda path: to_text(self.files[str(path)]),
            wall_clock=lambda: self.wall_s,
            remove=self.hops.remove,
        )

    def start(self, now_ns: int = 0) -> "Node":
        self.members.start(now_ns)
        self.members.reload(now_ns, self.config)
        return self

    def status(self, now_ns: int = 0) -> dict[str, Any]:
        return self.members.status(now_ns)

    def close(self) -> None:
        self.shards.close()


@pytest.fixture
def nodes() -> Iterator[list[Node]]:
    made: list[Node] = []
    yield made
    for node in made:
        node.close()


def own(issued_s: int = SIGNED_S, days: float = 90) -> bytes:
    of = Record("own", "default", public_key(STATIC), issued_s, issued_s + int(days * DAY_S))
    return sign(AUTHORITY, of)


def revoked(*keys: bytes, issued_s: int = SIGNED_S) -> bytes:
    return sign(AUTHORITY, revise(None, issued_s, keys))


def test_the_list_and_the_time_outlive_a_restart(nodes: list[Node]) -> None:
    store = MemoryStore()
    nodes.append(node := Node(store, record=own(), list=revoked(bytes(32))).start())
    node.members.poll(0)
    assert json.loads(store.text)["proven_s"] == SIGNED_S
    node.members.poll(SAVE_NS)
    nodes.append(again := Node(store).start(now_ns=50 * SECOND))
    assert again.members.trust.revoked(bytes(32))
    assert again.members.trust.proven_s(50 * SECOND) == SIGNED_S + SAVE_NS // SECOND
    assert again.status(50 * SECOND)["revocations"] == {"issued": "2027-01-15T08:00:00Z", "keys": 1}


def test_nothing_is_kept_of_another_fleet(nodes: list[Node]) -> None:
    store = MemoryStore()
    nodes.append(node := Node(store, list=revoked(bytes(32))).start())
    node.members.poll(0)
    kept = json.loads(store.text)
    store.text = json.dumps({**kept, "authority": "another"})
    nodes.append(again := Node(store).start())
    assert again.status() == {
        "record": None,
        "proven_time": None,
        "revocations": None,
        "members": [],
        "renewals": {"kept": 0, "untold": 0},
        "max_peers": 256,
    }


@pytest.mark.parametrize("text", ["{", "[]", "null", '{"authority": 1}', "rubbish"])
def test_rubbish_that_was_kept_is_passed_over(nodes: list[Node], text: str) -> None:
    store = MemoryStore()
    store.text = text
    nodes.append(node := Node(store, record=own()).start())
    assert node.identity.record == own()


@pytest.mark.parametrize(
    "change",
    [
        {"proven_s": "x"},
        {"proven_s": None},
        {"revocations": "===="},
        {"revocations": "AAAA"},
        {"record": "===="},
        {"record": "AAAA"},
    ],
)
def test_what_was_kept_and_damaged_is_passed_over_with_a_warning(
    nodes: list[Node], caplog: pytest.LogCaptureFixture, change: dict[str, object]
) -> None:
    store = MemoryStore()
    nodes.append(node := Node(store, list=revoked(bytes(32))).start())
    node.members.poll(0)
    store.text = json.dumps({**json.loads(store.text), **change})
    nodes.append(Node(store).start())
    assert "fleet_state_unreadable" in caplog.text


def test_a_wrong_file_changes_nothing(nodes: list[Node]) -> None:
    nodes.append(node := Node(MemoryStore(), record=own()).start())
    for wrong in (sign(bytes(32), Record("own", "x", bytes(32), 1, 2)), b"rubbish", revoked()):
        node.files["record"] = wrong
        with pytest.raises(ConfigError):
            node.members.reload(0, node.config)
        assert node.identity.record == own()


def levels(caplog: pytest.LogCaptureFixture, name: str) -> list[int]:
    return [record.levelno for record in caplog.records if record.getMessage() == name]


def test_the_end_of_the_own_record_is_told_once_by_either_clock(
    nodes: list[Node], caplog: pytest.LogCaptureFixture
) -> None:
    nodes.append(node := Node(MemoryStore(), record=own()).start())
    day_ns = DAY_S * SECOND
    node.wall_s = SIGNED_S + 67 * DAY_S
    node.members.poll(SAVE_NS)
    assert levels(caplog, "record_expires") == [] == node.members.notes(SAVE_NS)
    assert node.members.left_permille(SAVE_NS) == 255
    node.wall_s = SIGNED_S + 68 * DAY_S
    for hours in range(2, 50):
        node.members.poll(hours * SAVE_NS)
    assert levels(caplog, "record_expires") == [logging.WARNING]
    assert node.members.notes(SAVE_NS) == [
        "the record of this node ends 2027-04-15T08:00:00Z, and no renewed one has come"
    ]
    status = node.status(0)["record"]
    assert status["expires_in_seconds"] == 22 * DAY_S and not status["revoked"]
    node.wall_s = 0  # the board has lost its clock, but not what it knows
    node.members.poll(89 * day_ns)
    assert levels(caplog, "record_expires") == [logging.WARNING]
    for days in (91, 92):
        node.members.poll(days * day_ns)
    assert levels(caplog, "record_expired") == [logging.ERROR]
    assert node.members.left_permille(91 * day_ns) == 0
    assert "has expired: 2027-04-15" in node.members.notes(91 * day_ns)[0]


# ---- a renewed record of its own ------------------------------------------------------------------


def hand(node: Node, packed: bytes, now_ns: int = 0) -> str | None:
    """Why a record that is handed in is refused."""
    try:
        node.members.renewals.hand(now_ns, packed)
    except RecordError as error:
        return error.reason
    return None


def test_a_renewed_record_is_used_at_once_and_after_a_restart(nodes: list[Node]) -> None:
    store = MemoryStore()
    nodes.append(node := Node(store, record=own()).start())
    renewed = own(SIGNED_S + 60 * DAY_S)
    assert hand(node, renewed) is None
    assert node.identity.record == renewed
    assert node.status()["record"]["issued"] == "2027-03-16T08:00:00Z"
    assert json.loads(store.text)["record"] == base64.b64encode(renewed).decode()
    # The latest of file and state counts, whichever that is.
    nodes.append(again := Node(store, record=own()).start())
    assert again.identity.record == renewed
    later = own(SIGNED_S + 61 * DAY_S)
    nodes.append(again := Node(store, record=later).start())
    assert again.identity.record == later
    assert hand(again, own(SIGNED_S + 60 * DAY_S + 1)) is None
    again.members.reload(0, again.config)
    assert again.identity.record == later


def test_a_node_without_a_record_takes_the_one_that_comes(nodes: list[Node]) -> None:
    store = MemoryStore()
    nodes.append(node := Node(store).start())
    assert node.members.left_permille(0) is None
    assert hand(node, own()) is None
    nodes.append(again := Node(store).start())
    assert node.identity.record == again.identity.record == own()


def test_what_is_no_record_of_this_node_is_not_adopted(nodes: list[Node]) -> None:
    nodes.append(node := Node(MemoryStore(), record=own()).start())
    later = {"issued_s": SIGNED_S + DAY_S, "expires_s": SIGNED_S + 2 * DAY_S}
    of = Record("own", "default", public_key(STATIC), SIGNED_S, SIGNED_S + DAY_S)
    assert hand(node, sign(bytes(32), replace(of, **later))) == "record forged"
    for change in ({"name": "other"}, {"role": "region"}):
        packed = sign(AUTHORITY, replace(of, **later, **change))  # type: ignore[arg-type]
        assert hand(node, packed) == "record of another name or role"
    node.members.trust.revoke(0, revoked(public_key(STATIC)))
    assert hand(node, own(SIGNED_S + DAY_S)) == "record revoked"
    node.members.trust.witness(0, SIGNED_S + 400 * DAY_S)
    node.members.trust.revoke(0, revoked(issued_s=SIGNED_S + 1))
    assert hand(node, own(SIGNED_S + DAY_S)) == "record expired"
    assert node.identity.record == own()


def test_a_record_that_was_kept_for_another_key_is_not_used(nodes: list[Node]) -> None:
    store = MemoryStore()
    other = Record("own", "default", bytes(32), SIGNED_S, SIGNED_S + DAY_S)
    nodes.append(node := Node(store, record=own()).start())
    node.members.save(0)
    kept = json.loads(store.text) | {"record": base64.b64encode(sign(AUTHORITY, other)).decode()}
    store.text = json.dumps(kept)
    nodes.append(again := Node(store, record=own()).start())
    assert again.identity.record == own()


def test_a_node_says_that_it_has_been_revoked(nodes: list[Node], caplog: pytest.LogCaptureFixture) -> None:
    nodes.append(node := Node(MemoryStore(), record=own(), list=revoked(public_key(STATIC))).start())
    assert levels(caplog, "record_revoked") == [logging.ERROR]
    assert node.status()["record"]["revoked"] is True


def test_a_forged_list_is_counted_against_the_peer_that_sent_it(nodes: list[Node]) -> None:
    nodes.append(node := Node(MemoryStore()).start())
    hop = node.hops.add(0, "peer", "default", public_key(bytes(range(2, 34))), ())
    for signed in (
        b"",
        b"rubbish",
        own(),
        sign(bytes(32), revise(None, SIGNED_S, [hop.session.peer.public_key])),
    ):
        node.members.on_message(0, hop, RevocationList(signed))
    assert hop.drops == {"revocations refused": 4}
    node.members.poll(0)
    assert node.hops.hops == {hop.id: hop}


def test_a_peer_whose_queue_is_full_is_told_later(nodes: list[Node], monkeypatch: pytest.MonkeyPatch) -> None:
    nodes.append(node := Node(MemoryStore(), list=revoked(bytes(32))).start())
    hop = node.hops.add(0, "peer", "default", public_key(bytes(range(2, 34))), ())
    hop.session.peer_hello = object()  # type: ignore[assignment]
    sent: list[Message] = []
    room = False

    def send(now_ns: int, to: Hop, message: Message) -> bool:
        if room:
            sent.append(message)
        return room

    monkeypatch.setattr(node.hops, "send", send)
    assert node.members.poll(0) == SECOND
    assert node.members.poll(SECOND) == 2 * SECOND
    room = True
    node.members.poll(2 * SECOND)
    node.members.poll(3 * SECOND)
    assert sent == [RevocationList(revoked(bytes(32)))]


def test_a_peer_that_is_revoked_is_not_added(nodes: list[Node], caplog: pytest.LogCaptureFixture) -> None:
    nodes.append(node := Node(MemoryStore(), list=revoked(bytes(32))).start())
    assert node.members.configured(0, "good", bytes(range(32)))
    assert not node.members.configured(0, "bad", bytes(32))
    assert levels(caplog, "configured_peer_revoked") == [logging.WARNING]
