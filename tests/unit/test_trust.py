"""What a node believes, and the time that it can prove."""

import pytest

from relay.core.handshake import HandshakeError
from relay.core.record import Record, RecordError, revise, sign
from relay.core.trust import Trust
from relay.wire.hop import SECOND
from relay_ext.crypto import ed25519_public_key

AUTHORITY = bytes(range(32))
PUBLIC = ed25519_public_key(AUTHORITY)
KEY = bytes(range(1, 33))
SIGNED_S = 1_800_000_000
LIFE_S = 1000
RECORD = Record("edge", "r", KEY, SIGNED_S, SIGNED_S + LIFE_S)
PACKED = sign(AUTHORITY, RECORD)


def reason(trust: Trust, now_ns: int, packed: bytes, key: bytes = KEY) -> str | None:
    try:
        trust.judge(now_ns, packed, key)
    except HandshakeError as error:
        return error.reason
    return None


def test_a_good_record() -> None:
    assert Trust(PUBLIC).judge(0, PACKED, KEY) == RECORD


def test_what_is_refused() -> None:
    trust = Trust(PUBLIC)
    assert reason(trust, 0, PACKED, bytes(32)) == "record of another key"
    assert reason(trust, 0, sign(bytes(32), RECORD)) == "record forged"
    assert (
        reason(trust, 0, PACKED[:-1]) == "record forged"
        or reason(trust, 0, PACKED[:-1]) == "record malformed"
    )
    assert reason(trust, 0, b"") == "record malformed"
    assert reason(trust, 0, sign(AUTHORITY, revise(None, SIGNED_S, []))) == "record malformed"
    assert trust.proven_s(0) == 0  # none of them has proven anything


def test_time_is_what_was_signed_and_what_has_passed_since() -> None:
    trust = Trust(PUBLIC)
    assert trust.proven_s(50 * SECOND) == 0
    trust.open(100 * SECOND, PACKED)
    assert trust.proven_s(100 * SECOND) == SIGNED_S
    assert trust.proven_s(100 * SECOND + LIFE_S * SECOND) == SIGNED_S + LIFE_S
    trust.witness(200 * SECOND, SIGNED_S + 50)  # less than is known
    assert trust.proven_s(200 * SECOND) == SIGNED_S + 100
    trust.witness(200 * SECOND, SIGNED_S + 500)
    assert trust.proven_s(201 * SECOND) == SIGNED_S + 501


def test_a_record_expires_at_the_time_that_was_told() -> None:
    trust = Trust(PUBLIC)
    of = trust.open(123, PACKED)
    ends_ns = trust.expires_ns(of)
    assert ends_ns == 123 + LIFE_S * SECOND
    assert reason(trust, ends_ns - 1, PACKED) is None
    assert trust.why_void(ends_ns, of) == reason(trust, ends_ns, PACKED) == "record expired"


def test_a_record_of_the_past_is_believed_until_a_later_time_is_proven() -> None:
    trust = Trust(PUBLIC)
    assert reason(trust, 0, PACKED) is None
    trust.open(0, sign(AUTHORITY, Record("other", "r", bytes(32), SIGNED_S + LIFE_S, SIGNED_S + 2 * LIFE_S)))
    assert reason(trust, 0, PACKED) == "record expired"


def test_the_list_that_was_issued_last_holds() -> None:
    trust = Trust(PUBLIC)
    first = revise(None, SIGNED_S, [KEY])
    second = revise(first, SIGNED_S + 5, [bytes(32)])
    assert trust.revoke(0, sign(AUTHORITY, second))
    assert trust.revoked(KEY) and trust.revoked(bytes(32))
    assert trust.proven_s(0) == SIGNED_S + 5
    assert not trust.revoke(0, sign(AUTHORITY, first))
    assert not trust.revoke(0, sign(AUTHORITY, second))
    assert trust.revocations == second and trust.packed == sign(AUTHORITY, second)
    assert reason(trust, 0, PACKED) == "record revoked"


def test_an_old_list_costs_no_signature_and_a_forged_one_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trust = Trust(PUBLIC)
    trust.revoke(0, sign(AUTHORITY, revise(None, SIGNED_S, [])))
    with pytest.raises(RecordError, match="forged"):
        trust.revoke(0, sign(bytes(32), revise(None, SIGNED_S + 5, [KEY])))
    assert not trust.revoked(KEY)
    monkeypatch.setattr("relay.core.trust.verify", None)
    assert not trust.revoke(0, sign(bytes(32), revise(None, SIGNED_S, [KEY])))


def test_records_are_voided_by_date() -> None:
    trust = Trust(PUBLIC)
    trust.revoke(0, sign(AUTHORITY, revise(None, SIGNED_S + 10, [], SIGNED_S + 1)))
    assert reason(trust, 0, PACKED) == "record revoked"
    later = Record("edge", "r", KEY, SIGNED_S + 1, SIGNED_S + LIFE_S)
    assert reason(trust, 0, sign(AUTHORITY, later)) is None
