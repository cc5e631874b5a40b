"""Statements of the fleet's key: round trips, bounds, and that no bit of them can be changed."""

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.core.record import (
    ADDRESSES_MAX,
    LABEL,
    LIFE_MAX_S,
    REVOKED_MAX,
    TIME_MAX_S,
    Record,
    RecordError,
    Revocations,
    Revoked,
    decode,
    decode_record,
    decode_revocations,
    fingerprint,
    from_text,
    revise,
    sign,
    to_text,
    verify,
)
from relay.wire.coding import encode as encode_message
from relay.wire.hop import HANDSHAKE_PAYLOAD_BYTES, Hello, decode_hello, encode_hello
from relay.wire.messages import MESSAGE_BYTES_MAX, NODE_RECORD_BYTES_MAX, RevocationList
from relay_ext.crypto import ed25519_public_key, ed25519_sign

AUTHORITY = bytes(range(32))
PUBLIC = ed25519_public_key(AUTHORITY)
DAY_S = 86400
NOW_S = 1_800_000_000
KEY = bytes(range(1, 33))
EDGE = Record("edge-1", "ap", KEY, NOW_S, NOW_S + 90 * DAY_S, (("203.0.113.7", 7400), ("2001:db8::9", 7400)))

names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", fullmatch=True)
addresses = st.tuples(st.ip_addresses().map(str), st.integers(1, 65535))
records = st.builds(
    lambda name, region, key, issued, life, at: Record(name, region, key, issued, issued + life, tuple(at)),
    names,
    names,
    st.binary(min_size=32, max_size=32),
    st.integers(0, TIME_MAX_S - LIFE_MAX_S),
    st.integers(1, LIFE_MAX_S),
    st.lists(addresses, max_size=ADDRESSES_MAX),
)
lists = st.builds(
    lambda floor, later, entries: Revocations(
        floor + later, floor, tuple(Revoked(*entry) for entry in sorted(entries.items()))
    ),
    st.integers(0, TIME_MAX_S // 2),
    st.integers(0, TIME_MAX_S // 2),
    st.dictionaries(st.binary(min_size=8, max_size=8), st.integers(0, TIME_MAX_S), max_size=REVOKED_MAX),
)


@given(records)
def test_a_record_comes_back_as_it_was_or_is_too_long_to_be_signed(record: Record) -> None:
    try:
        packed = sign(AUTHORITY, record)
    except ValueError as error:
        assert "bytes too long" in str(error)
        return
    assert len(packed) <= NODE_RECORD_BYTES_MAX
    assert decode(packed) == decode_record(packed) == record
    verify(PUBLIC, packed)
    assert sign(AUTHORITY, decode(packed)) == packed
    assert from_text(to_text(packed)) == packed


@given(lists)
@settings(max_examples=50)
def test_a_list_comes_back_as_it_was_and_fits_a_message(revocations: Revocations) -> None:
    packed = sign(AUTHORITY, revocations)
    assert decode(packed) == decode_revocations(packed) == revocations
    verify(PUBLIC, packed)
    assert len(encode_message(RevocationList(packed))) <= MESSAGE_BYTES_MAX


@pytest.mark.parametrize("statement", [EDGE, revise(None, NOW_S, [KEY, bytes(32)])], ids=["record", "list"])
def test_no_bit_can_be_changed_and_no_byte_cut_or_added(statement: Record | Revocations) -> None:
    packed = sign(AUTHORITY, statement)
    for bit in range(len(packed) * 8):
        changed = bytearray(packed)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(RecordError):
            verify(PUBLIC, bytes(changed))
    for size in range(len(packed)):
        with pytest.raises(RecordError):
            verify(PUBLIC, packed[:size])
    with pytest.raises(RecordError):
        verify(PUBLIC, packed + b"\0")


def test_another_fleet_s_signature_is_none_and_so_is_one_without_the_label() -> None:
    packed = sign(AUTHORITY, EDGE)
    with pytest.raises(RecordError, match="forged"):
        verify(ed25519_public_key(bytes(32)), packed)
    body = packed[:-64]
    assert packed == body + ed25519_sign(AUTHORITY, LABEL + body)
    with pytest.raises(RecordError, match="forged"):
        verify(PUBLIC, body + ed25519_sign(AUTHORITY, body))


def test_a_record_is_no_list_and_a_list_no_record() -> None:
    with pytest.raises(RecordError):
        decode_revocations(sign(AUTHORITY, EDGE))
    with pytest.raises(RecordError):
        decode_record(sign(AUTHORITY, revise(None, NOW_S, [])))


def body(**parts: bytes) -> bytes:
    """A record's bytes, with some parts replaced, and rubbish for a signature."""
    of = {
        "type": b"\x01",
        "issued": NOW_S.to_bytes(4, "big"),
        "expires": (NOW_S + DAY_S).to_bytes(4, "big"),
        "key": KEY,
        "role": b"\x01",
        "name": b"\x01a",
        "region": b"\x01b",
        "addresses": b"\x01\x04\x7f\x00\x00\x01\x1c\xe8",
    } | parts
    return b"".join(of.values()) + bytes(64)


def test_the_body_is_decoded() -> None:
    of = Record("a", "b", KEY, NOW_S, NOW_S + DAY_S, (("127.0.0.1", 7400),), "region")
    assert decode(body()) == of
    assert decode(body(role=b"\0")) == replace(of, role="edge")


@pytest.mark.parametrize(
    "parts",
    [
        {"type": b"\x00"},
        {"type": b"\x03"},
        {"type": b"\x02"},
        {"type": b""},
        {"expires": NOW_S.to_bytes(4, "big")},
        {"expires": (NOW_S + LIFE_MAX_S + 1).to_bytes(4, "big")},
        {"role": b"\x02"},
        {"role": b""},
        {"name": b"\x00"},
        {"name": b"\x01\xff"},
        {"name": b"\x01\n"},
        {"name": b"\x40" + b"a" * 64},
        {"name": b"\xff"},
        {"addresses": b""},
        {"addresses": b"\x00\x00"},
        {"addresses": b"\x01\x05\x7f\x00\x00\x01\x1c\xe8"},
        {"addresses": b"\x01\x04\x7f\x00\x00\x01\x00\x00"},
        {"addresses": b"\x01\x06\x7f\x00\x00\x01\x1c\xe8"},
        {"addresses": b"\x09" + b"\x04\x7f\x00\x00\x01\x1c\xe8" * 9},
    ],
)
def test_a_malformed_record_is_refused(parts: dict[str, bytes]) -> None:
    with pytest.raises(RecordError, match="malformed"):
        decode(body(**parts))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x02",
        b"\x02" + bytes(8) + b"\x01" + bytes(64),  # an entry that is not there
        b"\x02" + bytes(8) + b"\x02" + bytes(24) + bytes(64),  # one key twice
        b"\x02" + bytes(4) + b"\x00\x00\x00\x01" + b"\x00" + bytes(64),  # void before the future
        b"\x02" + bytes(8) + b"\x41" + b"".join(bytes([i]) + bytes(11) for i in range(65)) + bytes(64),
        bytes(2000),
    ],
)
def test_a_malformed_list_is_refused(data: bytes) -> None:
    with pytest.raises(RecordError, match="malformed"):
        decode(data)


@pytest.mark.parametrize("text", ["", "=", "AAA", "ü", "not base64", "AAAA\nAAAA"])
def test_text_that_holds_no_statement(text: str) -> None:
    with pytest.raises(RecordError):
        decode(from_text(text))


def test_the_longest_record_fits_the_payload_of_a_handshake() -> None:
    record = Record("n" * 46, "r" * 45, KEY, NOW_S, NOW_S + DAY_S)
    packed = sign(AUTHORITY, record)
    assert len(packed) == NODE_RECORD_BYTES_MAX
    hello = Hello(2**64 - 1, 2**32 - 1, 255, "", (1,), (2, 1), packed)
    data = encode_hello(hello, pad=False)
    assert len(data) == 243 <= HANDSHAKE_PAYLOAD_BYTES
    assert decode_hello(data) == hello


# ---- the list ------------------------------------------------------------------------------------


def test_what_the_list_voids() -> None:
    plain = revise(None, NOW_S, [])
    assert not plain.voids(EDGE)
    assert revise(plain, NOW_S, [KEY]).voids(EDGE)
    assert not revise(plain, NOW_S, [bytes(32)]).voids(EDGE)
    assert revise(plain, NOW_S + 1, [], NOW_S + 1).voids(EDGE)
    assert not revise(plain, NOW_S + 1, [], NOW_S).voids(EDGE)


def test_a_revised_list_is_later_even_if_the_clock_is_not() -> None:
    first = revise(None, NOW_S, [KEY])
    again = revise(first, NOW_S - 500, [])
    assert again.issued_s == NOW_S + 1
    assert again.revoked == first.revoked


def test_a_key_leaves_the_list_when_its_records_have_expired() -> None:
    first = revise(None, NOW_S, [KEY])
    assert revise(first, NOW_S + LIFE_MAX_S - 1, []).names(KEY)
    assert not revise(first, NOW_S + LIFE_MAX_S, []).names(KEY)


def test_a_full_list_is_emptied_by_voiding_all_records_from_before() -> None:
    keys = [random.Random(i).randbytes(32) for i in range(REVOKED_MAX + 1)]
    full = revise(None, NOW_S, keys[:-1])
    assert len(full.revoked) == REVOKED_MAX
    assert len(sign(AUTHORITY, full)) == 10 + 12 * REVOKED_MAX + 64
    with pytest.raises(ValueError, match="renew the records"):
        revise(full, NOW_S + 1, keys[-1:])
    later = revise(full, NOW_S + DAY_S, keys[-1:], NOW_S + 1)
    assert [entry.fingerprint for entry in later.revoked] == [fingerprint(keys[-1])]
    kept = revise(later, NOW_S + 2 * DAY_S, [])
    assert kept.void_before_s == NOW_S + 1


def test_records_cannot_be_voided_ahead() -> None:
    with pytest.raises(ValueError, match="up to the time of signing"):
        revise(None, NOW_S, [], NOW_S + 1)


@pytest.mark.parametrize(
    "change",
    [{"name": ""}, {"region": "a b"}, {"public_key": b"short"}, {"expires_s": NOW_S}, {"role": "seed"}],
)
def test_what_is_no_record(change: dict[str, object]) -> None:
    of = {"name": "a", "region": "b", "public_key": KEY, "issued_s": NOW_S, "expires_s": NOW_S + 1}
    with pytest.raises(ValueError, match=r"a name|a key|a record|a role"):
        Record(**{**of, **change})  # type: ignore[arg-type]
