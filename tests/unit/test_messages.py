"""Control messages and frames: round trips, then everything that is refused."""

import time
from dataclasses import replace

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.wire import hop
from relay.wire.coding import decode, encode
from relay.wire.fields import WireError
from relay.wire.hop import (
    Acknowledgement,
    Hello,
    Keepalive,
    MtuAck,
    MtuProbe,
    PathChallenge,
    PathResponse,
    Reliable,
    decode_frame,
    decode_handshake,
    decode_hello,
    encode_frame,
    encode_hello,
)
from relay.wire.messages import (
    MESSAGE_BYTES_MAX,
    Announce,
    Ask,
    AskRegions,
    Catalogue,
    CatalogueEntry,
    Goodbye,
    KeyFrameRequest,
    ListVersion,
    Move,
    Publish,
    PublishOk,
    PublishRefused,
    Records,
    Regions,
    RevocationList,
    Subscribe,
    Track,
    Unavailable,
    UnknownMessage,
    Unpublish,
    Unsubscribe,
)
from relay.wire.paths import HopFigures, HopsBefore, HopsBehind, TreeHop

VIDEO = Track(0, "video", "H264/90000", 96, 90_000, "packetization-mode=1;sprop-parameter-sets=Z0IAKeK=,aM44")
AUDIO = Track(1, "audio", "opus/48000/2", 97, 48_000)
PUBLISH = Publish("studio", 7, 255, 400, (VIDEO, AUDIO))
ENTRIES = tuple(CatalogueEntry(f"stream {i}", 1 + i, bytes(8) if i else b"", i) for i in range(8))
MESSAGES = [
    PUBLISH,
    replace(PUBLISH, lost=True),
    PublishOk(65535, 0),
    PublishRefused(1, 2, "too many streams"),
    PublishRefused(1, 2, "full", "b"),
    PublishRefused(1, 2, "it is published at b", "", 2**32 - 1),
    Unpublish(3, 4, ""),
    ListVersion(2**32 - 1, 0),
    Announce("studio", 7, 0),
    Announce("studio", 7, 1, b"\xff" * 8, 2**32 - 1),
    Announce("studio", 7, 1, b"\xff" * 8, 1, standby=True),
    Ask(),
    Catalogue(8, 0, True, ENTRIES),
    Subscribe("studio"),
    Subscribe("studio", standby=True),
    Subscribe("studio", since=(0, 2**32 - 1)),
    Unsubscribe("studio"),
    Unavailable("studio", True, "it is not published"),
    Unavailable("studio", False, "full", "b"),
    Move("studio", "this node is draining", "b"),
    Move("studio", ""),
    KeyFrameRequest(65535, 255, 255),
    RevocationList(b"\xff" * 842),
    AskRegions(),
    Regions((b"\xff" * 200,) * 4),
    Records((b"\xff" * 200,) * 4),
    HopsBefore("studio", (HopFigures(400, 300_000, 0, None, None), HopFigures())),
    HopsBehind("studio", 9, (TreeHop("a", 0, False), TreeHop("out", 0, True, HopFigures(1, 2, 3, 4, 5)))),
    Goodbye(),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda m: type(m).__name__)
def test_round_trip(message):
    data = encode(message)
    assert decode(data) == message
    assert encode(decode(data)) == data


names = st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=1, max_size=64)
tracks = st.builds(
    Track,
    alias=st.integers(0, 255),
    kind=st.sampled_from(["video", "audio", "av"]),
    codec=names,
    payload_type=st.integers(0, 127),
    clock_rate=st.integers(1, 2**32 - 1),
    fmtp=st.just(""),
)
publications = st.builds(
    Publish,
    stream=st.text("abcdefgh-", min_size=1, max_size=64),
    alias=st.integers(0, 65535),
    epoch=st.integers(0, 255),
    budget_ms=st.integers(1, 60_000),
    tracks=st.lists(tracks, min_size=1, max_size=2, unique_by=lambda t: t.alias).map(tuple),
)


@given(publications)
@settings(max_examples=200, deadline=None, derandomize=True)
def test_round_trip_of_any_publication(message):
    assert decode(encode(message)) == message


@pytest.mark.parametrize(
    "message",
    [
        replace(
            PUBLISH, path=("edge", "a", "b"), behind_ms=400, rtt_ms=80, latency_ms=900, serial=7, standby=True
        ),
        PublishOk(1, 2, beyond=(80, 0)),
        Catalogue(0, 0, True, ()),
    ],
)
def test_fields_that_may_be_missing(message):
    data = encode(message)
    assert decode(data) == message
    fields = msgpack.unpackb(data)
    left_out = {
        key: value
        for key, value in fields.items()
        if key in ("t", "alias", "epoch", "version", "page", "last")
    }
    if isinstance(message, Publish):
        left_out |= {key: fields[key] for key in ("stream", "budget_ms", "tracks")}
        assert decode(msgpack.packb(left_out)) == PUBLISH
    elif isinstance(message, PublishOk):
        assert decode(msgpack.packb(left_out)) == PublishOk(1, 2)


@pytest.mark.parametrize(
    "message",
    [
        replace(PUBLISH, path=("edge", "a", "b", "c")),
        replace(PUBLISH, path=("edge", "")),
        replace(PUBLISH, behind_ms=-1),
        replace(PUBLISH, latency_ms=60_001),
        PublishOk(1, 1, (1, 2, 3)),
        ListVersion(-1, 0),
        Announce("", 1, 1),
        Announce("studio", 1, 1, bytes(7)),
        Announce("studio", 1, 1, bytes(9)),
        Announce("studio", 1, 1, "8 chars!"),
        Announce("studio", 1, 1, bytes(8), -1),
        Announce("studio", 1, 1, bytes(8), 2**32),
        replace(PUBLISH, serial=2**32),
        PublishRefused(1, 2, "", "", 2**32),
        replace(PUBLISH, standby=1),
        Catalogue(1, 0, 1, ENTRIES),
        Catalogue(1, 0, True, (CatalogueEntry("a", 0),)),
        Catalogue(1, 0, True, ENTRIES * 9),
        Subscribe("x" * 65),
        Unavailable("a", True, "x" * 201),
        replace(PUBLISH, stream=""),
        replace(PUBLISH, stream="x" * 65),
        replace(PUBLISH, stream="two\nlines"),
        replace(PUBLISH, alias=65536),
        replace(PUBLISH, alias=-1),
        replace(PUBLISH, epoch=256),
        replace(PUBLISH, budget_ms=0),
        replace(PUBLISH, tracks=()),
        replace(PUBLISH, tracks=(VIDEO, VIDEO)),
        replace(PUBLISH, tracks=tuple(replace(AUDIO, alias=i) for i in range(17))),
        replace(PUBLISH, tracks=(replace(VIDEO, kind="film"),)),
        replace(PUBLISH, tracks=(replace(VIDEO, payload_type=128),)),
        replace(PUBLISH, tracks=(replace(VIDEO, clock_rate=0),)),
        replace(PUBLISH, tracks=(replace(VIDEO, codec=""),)),
        replace(PUBLISH, tracks=(replace(VIDEO, fmtp="x" * 1025),)),
        replace(PUBLISH, tracks=(replace(VIDEO, fmtp="x" * 1000),)),
        PublishRefused(1, 1, "x" * 201),
        PublishOk(True, 1),
        PublishOk("1", 1),
        PublishOk(1.0, 1),
    ],
)
def test_what_breaks_the_rules_is_refused_when_sent(message):
    with pytest.raises(WireError):
        encode(message)


HOP = [400, 300_000, 0, None, None]
BEFORE = {"t": 20, "stream": "studio", "hops": [HOP]}
BEHIND = {"t": 21, "stream": "studio", "nodes": 2, "hops": [["a", 0, False, *HOP], ["out", 0, True, *HOP]]}


@pytest.mark.parametrize(
    "fields",
    [
        BEFORE | {"hops": []},
        BEFORE | {"hops": [HOP] * 3},
        BEFORE | {"hops": [HOP[:4]]},
        BEFORE | {"hops": [[*HOP[:4], -1]]},
        BEFORE | {"hops": [[65536, *HOP[1:]]]},
        BEFORE | {"hops": [[400, 1_000_001, *HOP[2:]]]},
        BEFORE | {"hops": [[400, 0.3, *HOP[2:]]]},
        BEFORE | {"hops": [400]},
        BEHIND | {"nodes": 1},
        BEHIND | {"hops": []},
        BEHIND | {"nodes": 99, "hops": [["a", 0, False, *HOP]] * 25},
        BEHIND | {"hops": [["a", 1, False, *HOP]]},
        BEHIND | {"hops": [["a", 0, False, *HOP], ["b", 1, False, *HOP]]},
        BEHIND | {"hops": [["a", -1, False, *HOP]]},
        BEHIND | {"hops": [["", 0, False, *HOP]]},
        BEHIND | {"hops": [["a\n", 0, False, *HOP]]},
        BEHIND | {"hops": [["a", 0, 1, *HOP]]},
    ],
)
def test_hops_that_break_the_rules_are_refused(fields):
    decode(msgpack.packb(BEFORE))
    decode(msgpack.packb(BEHIND))
    with pytest.raises(WireError):
        decode(msgpack.packb(fields))


def test_unknown_fields_are_ignored_and_unknown_kinds_told_apart():
    fields = msgpack.unpackb(encode(PublishOk(1, 2)))
    assert decode(msgpack.packb({**fields, "later": [1, {"x": b""}]})) == PublishOk(1, 2)
    with pytest.raises(UnknownMessage):
        decode(msgpack.packb({"t": 999}))


@pytest.mark.parametrize("message", MESSAGES, ids=lambda m: type(m).__name__)
def test_every_truncation_and_missing_field_is_refused(message):
    data = encode(message)
    for length in range(len(data)):
        with pytest.raises(WireError):
            decode(data[:length])
    with pytest.raises(WireError):
        decode(data + b"\0")
    fields = msgpack.unpackb(data)
    for key in set(fields) - {
        "reason",
        "entries",
        "instead",
        "standby",
        "publisher",
        "serial",
        "lost",
        "since",
    }:
        with pytest.raises(WireError):
            decode(msgpack.packb({k: v for k, v in fields.items() if k != key}))


BOMBS = {
    "deep arrays": b"\x91" * 1024,
    "deep maps": b"\x81\xa1x" * 341,
    "array of 2^32": b"\xdd\xff\xff\xff\xff",
    "map of 2^32": b"\xdf\xff\xff\xff\xff",
    "string of 4 GB": b"\xdb\xff\xff\xff\xffx",
    "bytes of 4 GB": b"\xc6\xff\xff\xff\xffx",
    "extension of 4 GB": b"\xc9\xff\xff\xff\xff\x01",
    "timestamp": msgpack.packb(msgpack.Timestamp(1)),
    "array of 65": msgpack.packb([0] * 65),
    "map of 33": msgpack.packb({str(i): 0 for i in range(33)}),
    "too long": msgpack.packb({"t": 2, "alias": 1, "epoch": 1, "pad": b"x" * MESSAGE_BYTES_MAX}),
    "integer keys": msgpack.packb({1: 2}),
    "not a map": msgpack.packb("t"),
    "no records": msgpack.packb({"t": 18, "records": []}),
    "too many records": msgpack.packb({"t": 18, "records": [b"x"] * 5}),
    "a long record": msgpack.packb({"t": 18, "records": [bytes(201)]}),
    "a record of text": msgpack.packb({"t": 18, "records": ["x"]}),
    "kind of 2^63": msgpack.packb({"t": 2**63}),
    "bad UTF-8": b"\x81\xa1t\xa1\xff",
    "nothing": b"",
    "reserved byte": b"\xc1",
}


@pytest.mark.parametrize("data", BOMBS.values(), ids=BOMBS.keys())
def test_bombs_cost_nothing(data):
    began = time.process_time()
    with pytest.raises(WireError):
        decode(data)
    assert time.process_time() - began < 0.1


@given(st.binary(max_size=1100))
@settings(max_examples=500, deadline=None, derandomize=True)
def test_random_bytes_only_ever_raise_wire_errors(data):
    for parse in (decode, decode_frame, decode_handshake, decode_hello):
        try:
            parse(data)
        except WireError:
            continue


FRAMES = [
    Keepalive(answer=True),
    Keepalive(answer=False),
    Acknowledgement(2**32 - 1, 1),
    Reliable(5, Acknowledgement(6, 7), b"message"),
    PathChallenge(b"12345678"),
    PathResponse(b"87654321"),
    MtuProbe(65535, 1472),
    MtuAck(1, 1452),
]


@pytest.mark.parametrize("frame", FRAMES, ids=lambda f: type(f).__name__)
def test_frames_round_trip_and_truncations_are_refused(frame):
    data = encode_frame(frame)
    assert decode_frame(data) == frame
    if not isinstance(frame, Reliable):
        assert decode_frame(data + bytes(100)) == frame, "padding"
    fixed = len(data) - (len(frame.message) if isinstance(frame, Reliable) else 0)
    for length in range(fixed):
        with pytest.raises(WireError):
            decode_frame(data[:length])


def test_every_control_datagram_pays_for_a_challenge():
    sizes = [hop.HEADER_BYTES + len(encode_frame(frame)) + hop.TAG_BYTES for frame in FRAMES]
    assert min(sizes) >= hop.CONTROL_BYTES_MIN
    assert len(encode_frame(PathResponse(b"12345678"))) == len(encode_frame(PathChallenge(b"12345678")))


def test_the_longest_message_fits_the_smallest_datagram():
    frame = encode_frame(Reliable(0, Acknowledgement(0, 0), bytes(MESSAGE_BYTES_MAX)))
    assert hop.HEADER_BYTES + len(frame) + hop.TAG_BYTES <= hop.MTU_BASE


HELLO = Hello(instance=2**64 - 1, number=1, path=0, name="edge-sgp-1", record=b"r" * 100)


def test_handshake_payloads_round_trip():
    assert decode_hello(encode_hello(HELLO, pad=False)) == HELLO
    padded = encode_hello(HELLO, pad=True)
    assert len(padded) == hop.HANDSHAKE_PAYLOAD_BYTES
    assert decode_hello(padded) == HELLO


@pytest.mark.parametrize(
    "hello",
    [
        replace(HELLO, instance=-1),
        replace(HELLO, number=2**32),
        replace(HELLO, path=256),
        replace(HELLO, name="x" * 65),
        replace(HELLO, name="a\0b"),
        replace(HELLO, versions=()),
        replace(HELLO, versions=(256,)),
        replace(HELLO, ciphers=("aes",)),
        replace(HELLO, record=b"r" * 201),
    ],
)
def test_wrong_handshake_payloads_are_refused(hello):
    with pytest.raises((WireError, OverflowError)):
        decode_hello(encode_hello(hello, pad=False))


def test_wrong_lengths_and_padding_are_refused():
    data = encode_hello(HELLO, pad=True)
    for wrong in (b"", b"\0", data[:-1] + b"x", b"\xff\xff" + data[2:], data + b"\0", b"\0\0" + bytes(100)):
        with pytest.raises(WireError):
            decode_hello(wrong)
