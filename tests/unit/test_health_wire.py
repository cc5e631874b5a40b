"""Digests and summaries on the wire: round trips, bounds, size."""

from dataclasses import fields, replace

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.wire.coding import decode, encode
from relay.wire.fields import WireError
from relay.wire.health import (
    DIGEST_FIELDS,
    HEALTH_BYTES_MAX,
    SUMMARY_FIELDS,
    VERSION_CHARS_MAX,
    Digest,
    Field,
    Summary,
)
from relay.wire.hop import Latest, decode_frame, encode_frame
from relay.wire.messages import Kind, State


def values(field: Field) -> st.SearchStrategy[int | bool]:
    return st.booleans() if field.flag else st.integers(field.low, field.high)


digests = st.builds(
    Digest,
    version=st.none() | st.text("0123456789.+abc", min_size=1, max_size=VERSION_CHARS_MAX),
    **{name: st.none() | values(field) for name, field in DIGEST_FIELDS.items()},
)
summaries = st.builds(
    Summary,
    **{
        name: values(field) if Summary.__dataclass_fields__[name].default == 0 else st.none() | values(field)
        for name, field in SUMMARY_FIELDS.items()
    },
)


@given(digests | summaries)
@settings(max_examples=300, deadline=None, derandomize=True)
def test_round_trip_within_the_size(state: State) -> None:
    packed = encode(state)
    assert decode(packed) == state
    assert len(packed) <= HEALTH_BYTES_MAX
    frame = Latest(0xFFFFFFFF, packed)
    assert decode_frame(encode_frame(frame)) == frame


@pytest.mark.parametrize(("make", "table"), [(Digest, DIGEST_FIELDS), (Summary, SUMMARY_FIELDS)])
def test_the_largest_is_within_the_size(make: type[Digest] | type[Summary], table: dict[str, Field]) -> None:
    facts = {name: bool(f.high) if f.flag else f.high for name, f in table.items()}
    largest = make(**facts)
    if isinstance(largest, Digest):
        largest = replace(largest, version="9" * VERSION_CHARS_MAX)
    print(f"{make.__name__}: {len(encode(largest))} bytes")
    assert len(encode(largest)) <= HEALTH_BYTES_MAX


def test_what_is_unknown_is_absent() -> None:
    assert msgpack.unpackb(encode(Digest())) == {"t": Kind.DIGEST}
    assert decode(encode(Digest())) == Digest()
    assert all(getattr(Digest(), field.name) is None for field in fields(Digest))


def test_what_is_beyond_the_bounds_is_sent_as_the_bound() -> None:
    sent = Digest(version="1" * 40, loop_lag_ms=10**9, temperature_c=-(10**6), headroom_permille=1001)
    got = Digest(version="1" * 16, loop_lag_ms=0xFFFF, temperature_c=-273, headroom_permille=1000)
    assert decode(encode(sent)) == got


def test_unknown_keys_are_ignored() -> None:
    assert decode(msgpack.packb({"t": 6, "n": 3, "zz": [1, {"a": 2}]})) == Digest(streams=3)


@pytest.mark.parametrize(("kind", "table"), [(Kind.DIGEST, DIGEST_FIELDS), (Kind.SUMMARY, SUMMARY_FIELDS)])
def test_every_field_is_checked(kind: Kind, table: dict[str, Field]) -> None:
    for field in table.values():
        wrong: list[object] = ["1", 1.0, [1], {"a": 1}, b"1", field.high + 1, field.low - 1]
        wrong += [0, 1] if field.flag else [True, False]
        for value in wrong:
            with pytest.raises(WireError):
                decode(msgpack.packb({"t": int(kind), field.key: value}))


@pytest.mark.parametrize("version", [1, "", "x" * 17, "a\n", b"1"])
def test_the_version_is_checked(version: object) -> None:
    packed = msgpack.packb({"t": 6, "v": version})
    if version == "":
        assert decode(packed).version is None  # type: ignore[union-attr]
    else:
        with pytest.raises(WireError):
            decode(packed)


@given(st.binary(max_size=64))
@settings(max_examples=300, deadline=None, derandomize=True)
def test_garbage_is_refused_as_such(data: bytes) -> None:
    for head in (b"", b"\x82\xa1t\x06", b"\x82\xa1t\x07"):
        try:
            decode(head + data)
        except WireError:
            continue
