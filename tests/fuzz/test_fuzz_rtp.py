"""Invariants: any bytes are parsed or refused, lengths add up, what lies behind a packet is never read."""

import random
import struct
from array import array
from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st

from relay_ext import rtp
from relay_ext.rtp import HELD, Refused, Rewrite, Unwrap

# Random bytes are seldom version 2: most begin with a likely header.
START = st.sampled_from([b"", b"\x80", b"\x90", b"\xa0", b"\xb1", b"\x8f", b"\x9f\x60", b"\xbf\xe0"])
BYTES = st.builds(bytes.__add__, START, st.binary(max_size=200))
RTCP_START = st.sampled_from(
    [b"\x80\xc8\0\6", b"\x81\xc9\0\7", b"\x81\xca\0\2", b"\x81\xcb\0\1", b"\xa0\xcc\0\3"]
)
RTCP = (
    st.lists(st.builds(bytes.__add__, RTCP_START, st.binary(max_size=40)), max_size=4).map(b"".join) | BYTES
)


def outcome(parse: Callable[[memoryview], object], view: memoryview) -> object:
    try:
        return parse(view)
    except Refused as refused:
        return refused.reason


def independent_of_what_follows(parse: Callable[[memoryview], object], data: bytes) -> object:
    """Parses the packet in the middle of two different buffers: both must come to the same.

    And in one that ends where it does, so that AddressSanitizer sees a read that changes nothing.
    """
    exact = outcome(parse, memoryview(array("B", data)))
    for filler in (b"\0", b"\xff"):
        buffer = memoryview(filler * 8 + data + filler * 300)
        assert outcome(parse, buffer[8 : 8 + len(data)]) == exact
    return exact


@settings(deadline=None)  # no test depends on the machine's speed
@given(BYTES)
def test_rtp(data: bytes) -> None:
    h = independent_of_what_follows(rtp.parse, data)
    if isinstance(h, rtp.Header):
        assert 12 <= h.header_len <= h.header_len + h.payload_len <= len(data)
        padding = data[-1] if data[0] & 0x20 else 0
        assert h.header_len + h.payload_len + padding == len(data)
        assert (h.marker, h.payload_type) == (data[1] >= 128, data[1] & 127)
        assert struct.pack(">HII", h.seq, h.timestamp, h.ssrc) == data[2:12]


@settings(deadline=None)
@given(RTCP)
def test_rtcp(data: bytes) -> None:
    parsed = independent_of_what_follows(rtp.parse_rtcp, data)
    if isinstance(parsed, rtp.Rtcp):
        assert len(data) % 4 == 0
        if parsed.report is not None:
            assert struct.pack(">IQIII", *parsed.report) in data
    assert outcome(rtp.is_rtcp, memoryview(data)) == (len(data) >= 2 and 192 <= data[1] <= 223)


@settings(deadline=None)
@given(st.lists(BYTES, max_size=20), st.randoms(use_true_random=False))
def test_rewriting_changes_only_what_it_owns(packets: list[bytes], rng: random.Random) -> None:
    w = Rewrite(0x12345678, payload_type=77, seq_offset=rng.randrange(2**16))
    for data in packets:
        if isinstance(outcome(rtp.parse, memoryview(data)), rtp.Header):
            origin_seq, origin = rng.randrange(2**32), rng.randrange(2**62)
            out = w.apply(data, origin_seq, origin, rng.choice([0, 8000, 90000, 2**32 - 1]))
            assert (out[0], out[1] & 128, out[1] & 127) == (data[0], data[1] & 128, 77)
            assert out[8:] == b"\x12\x34\x56\x78"


@settings(deadline=None)
@given(
    st.integers(0, 2**32 - 1), st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2**16 - 1)), max_size=200)
)
def test_unwrapping_stays_near_its_highest(start: int, steps: list[tuple[int, int]]) -> None:
    """Whatever is sent, the origin sequence never moves further than RFC 3550's bounds allow."""
    u = Unwrap(start)
    highest, moved = start - 1, 0
    for ssrc, seq in steps:
        verdict, origin_seq = u.apply(ssrc, seq)
        assert (origin_seq is None) == (verdict == HELD)
        if origin_seq is not None:
            ahead = (origin_seq - highest) % 2**32
            if ahead <= 3000:
                highest += ahead
                moved += ahead
            else:
                assert 2**32 - ahead <= 100 + moved
