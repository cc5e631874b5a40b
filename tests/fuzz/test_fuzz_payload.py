"""Invariants: any payload is classified, by what lies in it alone, and the flags never contradict each other.

Against a second classifier that never saw the late packets: they change nothing of what follows but KEY.
"""

import random
import struct
from array import array

from hypothesis import example, given, settings
from hypothesis import strategies as st

from relay_ext.payload import Classifier, Flag, Info, Kind
from tests.unit.test_payload import CLIPS, clip

# Random bytes are seldom aggregates or fragments: most payloads begin with a likely header.
STARTS = {
    Kind.H264: ["18", "180003", "1a0001", "7c85", "06", "67", "74"],
    Kind.H265: ["6001", "60010003", "6201", "6401", "4e01", "4201"],
    Kind.VP8: ["10", "90f0", "b0ff"],
    Kind.VP9: ["0c", "8e05", "ffff", "0e08", "2e0000", "bc"],
    Kind.AV1: ["10", "20", "00", "18", "d0", "1034"],
    Kind.MP2T: ["47", "47410030", "470100"],
    Kind.GENERIC: [""],
    Kind.AUDIO: [""],
}
RECORDED = {kind: [p[12:] for name, k, _ in CLIPS if k == kind for p in clip(name)] for kind in Kind}
RECORDED[Kind.MP2T] = [p[12:] for p in clip("mp2t")]


def payloads(kind: Kind) -> st.SearchStrategy[bytes]:
    start = st.sampled_from([bytes.fromhex(s) for s in STARTS[kind]])
    made = st.builds(bytes.__add__, start, st.binary(max_size=60)) | st.binary(max_size=200)
    if not RECORDED[kind]:
        return made
    whole = st.sampled_from(RECORDED[kind])
    return made | whole | st.builds(lambda p, n: p[: n % (len(p) + 1)], whole, st.integers(0, 2000))


def packets(kind: Kind) -> st.SearchStrategy[list[bytes]]:
    header = st.builds(
        lambda marker, seq, timestamp: struct.pack(">BBHII", 0x80, marker << 7 | 96, seq, timestamp, 1),
        st.booleans(),
        st.integers(65530, 65541).map(lambda seq: seq % 65536),
        st.integers(0, 3),
    )
    return st.lists(st.builds(bytes.__add__, header, payloads(kind)), max_size=6)


TRACKS = st.sampled_from(list(Kind)).flatmap(lambda kind: st.tuples(st.just(kind), packets(kind)))


def classify(c: Classifier, packet: bytes, filler: bytes) -> Info:
    """The packet in the middle of something else; without filler it ends where its memory does."""
    if not filler:
        return c.classify(memoryview(array("B", packet)))
    return c.classify(memoryview(filler * 8 + packet + filler * 300)[8 : 8 + len(packet)])


def consistent(kind: Kind, info: Info) -> None:
    flags = info.flags
    assert not (flags & Flag.KEY and flags & Flag.DISCARDABLE)
    assert not flags & Flag.CUT or flags & Flag.FIRST
    if flags & Flag.MALFORMED:
        assert not flags & (Flag.PARAMETERS | Flag.DISCARDABLE | Flag.DISCONTINUITY)
        assert (info.temporal, info.spatial) == (None, None)
    if kind not in (Kind.AUDIO, Kind.MP2T):
        assert not (flags & Flag.LATE and flags & Flag.FIRST)
    if kind in (Kind.AUDIO, Kind.GENERIC):
        assert not flags & (Flag.KEY | Flag.MALFORMED | Flag.PARAMETERS)
    if kind == Kind.AUDIO:
        assert flags & ~Flag.LATE == Flag.FIRST | Flag.LAST
    assert info.temporal is None or info.temporal < 8
    assert info.spatial is None or info.spatial < 64


@settings(deadline=None)  # no test depends on the machine's speed
@given(TRACKS)
@example((Kind.H264, [bytes([0x80, 96]) + bytes(10)]))
def test_any_payload(track: tuple[Kind, list[bytes]]) -> None:
    kind, data = track
    exact, zeros, ones, in_order = (Classifier(kind) for _ in range(4))
    for packet in data:
        info = classify(exact, packet, b"")
        consistent(kind, info)
        assert info == classify(zeros, packet, b"\0") == classify(ones, packet, b"\xff")
        if not info.flags & Flag.LATE:
            again = classify(in_order, packet, b"")
            assert again.flags | Flag.KEY | Flag.DISCARDABLE == info.flags | Flag.KEY | Flag.DISCARDABLE
            assert (again.temporal, again.spatial) == (info.temporal, info.spatial)


@settings(deadline=None)
@given(st.sampled_from(CLIPS), st.randoms(use_true_random=False), st.floats(0, 0.5))
def test_frames_of_a_clip_with_losses(row: tuple[str, Kind, str], rng: random.Random, loss: float) -> None:
    """What arrives is classified as it would be without losses, but for a KEY that a lost packet gave, and
    for DISCARDABLE, which H.265 says only behind a sequence parameter set."""
    name, kind, _ = row
    same = Flag.LAST | Flag.PARAMETERS | (Flag(0) if kind == Kind.H265 else Flag.DISCARDABLE)
    whole, lossy = Classifier(kind), Classifier(kind)
    timestamp, last = b"", True
    for packet in clip(name):
        truth = whole.classify(packet).flags
        if rng.random() < loss:
            continue
        flags = lossy.classify(packet).flags
        assert bool(flags & Flag.FIRST) == (packet[4:8] != timestamp)
        assert bool(flags & Flag.CUT) == (packet[4:8] != timestamp and not last)
        assert flags & same == truth & same
        assert not flags & (Flag.KEY | Flag.DISCARDABLE) & ~truth
        timestamp, last = packet[4:8], bool(flags & Flag.LAST)
