"""payload: real clips with frames known from the encoder's settings, and how packets make frames."""

import struct
from array import array
from pathlib import Path

import pytest

from relay_ext.payload import Classifier, Flag, Info, Kind, kind_of

VECTORS = Path(__file__).parents[1] / "vectors/payload"
MARKER = 0x80
FIRST, LAST, CUT, KEY, LATE = Flag.FIRST, Flag.LAST, Flag.CUT, Flag.KEY, Flag.LATE
PARAMETERS, DISCARDABLE, MALFORMED = Flag.PARAMETERS, Flag.DISCARDABLE, Flag.MALFORMED
WHOLE = FIRST | LAST


def rtp(payload: bytes, seq: int = 0, timestamp: int = 0, marker: bool = True, ssrc: int = 1) -> bytes:
    return struct.pack(">BBHII", 0x80, MARKER * marker | 96, seq % 2**16, timestamp % 2**32, ssrc) + payload


def only(kind: Kind, payload: bytes) -> Flag:
    """What a packet is that is a frame of its own, FIRST and LAST left out.

    It ends where its memory does, unlike bytes, so that AddressSanitizer sees a read of one byte too many.
    """
    flags = Classifier(kind).classify(array("B", rtp(payload))).flags
    assert flags & WHOLE == WHOLE
    return flags & ~WHOLE


def unhex(text: str) -> bytes:
    return bytes.fromhex(text)


# ---- real clips


def clip(name: str) -> list[bytes]:
    data = (VECTORS / f"{name}.rtp").read_bytes()
    packets, at = [], 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 2])
        packets.append(data[at + 2 : at + 2 + size])
        at += 2 + size
    return packets


def frames(packets: list[bytes]) -> list[list[bytes]]:
    """By timestamp, as none of the clips has two frames of one."""
    grouped: list[list[bytes]] = []
    for packet in packets:
        if not grouped or grouped[-1][0][4:8] != packet[4:8]:
            grouped.append([])
        grouped[-1].append(packet)
    return grouped


def letter(classified: list[Info]) -> str:
    """A frame's: K for a random access point, d for a discardable one, else -."""
    assert [i.flags & WHOLE for i in classified[1:-1]] == [Flag(0)] * (len(classified) - 2)
    assert classified[0].flags & FIRST and classified[-1].flags & LAST
    assert not any(i.flags & (CUT | LATE | MALFORMED) for i in classified)
    keys = {bool(i.flags & KEY) for i in classified}
    droppable = {bool(i.flags & DISCARDABLE) for i in classified}
    assert len(keys) == len(droppable) == 1, "all packets of a frame are alike"
    return "K" if True in keys else "d" if True in droppable else "-"


# Key frames are 8 apart as they are shown. B frames, which no other refers to, follow what they need:
# ffprobe gives IPBBPBBPIPBBPBBPIPBP for the first, IPBBPBBIBPBBPBBIBPBB for open GOPs.
CLIPS = [
    ("h264", Kind.H264, "K-dd-dd-K-dd-dd-K-d-"),
    ("h264_gst", Kind.H264, "K-dd-dd-K-dd-dd-K-dd"),
    ("h264_refresh", Kind.H264, "K-------K-------K---"),
    ("h265", Kind.H265, "K-dd-ddKd-dd-ddKd-dd"),
    ("h265_gst", Kind.H265, "K-dd-ddKd"),
    # Of the leading pictures, x265 marks some as not for reference in a layer that is not the highest.
    ("h265_layers", Kind.H265, "K--ddK-----ddK-----d"),
    ("vp8", Kind.VP8, "K-------K-------K---"),
    ("vp8_gst", Kind.VP8, "K-------K-------K---"),
    ("vp9", Kind.VP9, "K-------K-------K---"),
    ("vp9_gst", Kind.VP9, "K-------K-------K---"),
    ("av1", Kind.AV1, "K-------K-------K---"),
]


@pytest.mark.parametrize(("name", "kind", "expected"), CLIPS)
def test_clips(name: str, kind: Kind, expected: str) -> None:
    c = Classifier(kind)
    assert "".join(letter([c.classify(p) for p in frame]) for frame in frames(clip(name))) == expected


@pytest.mark.parametrize(("name", "kind"), [row[:2] for row in CLIPS])
def test_clips_without_markers(name: str, kind: Kind) -> None:
    """Every frame but the first begins with the news that the last one was cut."""
    c = Classifier(kind)
    for number, frame in enumerate(frames(clip(name))):
        unmarked = [bytes([p[0], p[1] & 127]) + p[2:] for p in frame]
        flags = [c.classify(p).flags for p in unmarked]
        if kind == Kind.VP9:  # has a mark of its own
            assert flags[-1] & LAST
        else:
            assert flags[0] & (FIRST | CUT) == (FIRST | CUT if number else FIRST)
            assert not any(f & LAST for f in flags)


@pytest.mark.parametrize(("name", "kind"), [row[:2] for row in CLIPS])
def test_clips_as_generic_video(name: str, kind: Kind) -> None:
    ours, generic = Classifier(kind), Classifier(Kind.GENERIC)
    for packet in clip(name):
        info = generic.classify(packet)
        assert info == Info(ours.classify(packet).flags & WHOLE, None, None)


def test_temporal_layers_of_a_clip() -> None:
    c = Classifier(Kind.H265)
    layers = [c.classify(frame[0]) for frame in frames(clip("h265_layers"))]
    assert [i.temporal for i in layers] == [0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 1]
    assert {i.spatial for i in layers} == {0}


@pytest.mark.parametrize("name", ["h264", "h265", "h264_gst", "h265_gst", "vp9_gst", "av1"])
def test_parameter_sets_of_a_clip(name: str) -> None:
    c = Classifier(dict((n, k) for n, k, _ in CLIPS)[name])
    for frame in frames(clip(name)):
        flags = [c.classify(p).flags for p in frame]
        assert bool(flags[0] & PARAMETERS) == bool(flags[0] & KEY)
        assert not any(f & PARAMETERS for f in flags[1:])


def test_mp2t_clip() -> None:
    """One packet may have the end of a frame and the start of the next; audio is random access throughout."""
    c = Classifier(Kind.MP2T)
    packets = clip("mp2t")
    starts = [
        sum(1 for i in range(12, len(p), 188) if p[i + 1] & 0x5F == 0x41 and p[i + 2] == 0) for p in packets
    ]
    flags = [c.classify(p).flags for p in packets]
    sound = [p[i : i + 6] for p in packets for i in range(12, len(p), 188) if p[i + 1 : i + 3] == b"\x41\x01"]
    assert sum(starts) == 11 and any(s[5] & 0x40 for s in sound)
    assert [bool(f & FIRST) for f in flags] == [s > 0 for s in starts]
    assert not any(f & (LAST | MALFORMED | DISCARDABLE) for f in flags)
    shown = 0
    for count, f in zip(starts, flags, strict=True):
        span = range(max(shown - 1, 0), shown + count)  # the frames that the packet has a part of
        assert bool(f & KEY) <= any(n % 8 == 0 for n in span)
        assert bool(f & KEY) >= any(n % 8 == 0 for n in range(shown, shown + count))
        shown += count


# ---- the codec's name


@pytest.mark.parametrize(
    ("media", "codec", "kind"),
    [
        ("video", "H264/90000", Kind.H264),
        ("video", "h264/90000", Kind.H264),
        ("video", "H265/90000", Kind.H265),
        ("video", "vp8/90000", Kind.VP8),
        ("video", "VP9", Kind.VP9),
        ("video", "Av1/90000", Kind.AV1),
        ("av", "MP2T/90000", Kind.MP2T),
        ("video", "JPEG/90000", Kind.GENERIC),
        ("video", "", Kind.GENERIC),
        ("audio", "opus/48000/2", Kind.AUDIO),
        ("audio", "MPEG4-GENERIC/48000/2", Kind.AUDIO),
    ],
)
def test_kind_of(media: str, codec: str, kind: Kind) -> None:
    assert kind_of(media, codec) is kind


# ---- frames


def run(kind: Kind, *packets: tuple[int, int, bool, bytes]) -> list[Flag]:
    c = Classifier(kind)
    return [c.classify(rtp(data, seq, timestamp, marker)).flags for seq, timestamp, marker, data in packets]


SLICE, IDR, SPS, PPS, SEI = b"\x41x", b"\x65x", b"\x67x", b"\x68x", b"\x06\x05\x01x\x80"


def test_frames_by_timestamp_and_marker() -> None:
    x = b"x"
    assert run(
        Kind.GENERIC, (1, 0, False, x), (2, 0, True, x), (3, 9, True, x), (4, 9, False, x), (5, 18, True, x)
    ) == [FIRST, LAST, WHOLE, FIRST, WHOLE | CUT]


def test_a_frame_goes_on_behind_a_marker_of_a_part() -> None:
    assert run(Kind.H264, (1, 0, True, SPS), (2, 0, True, PPS), (3, 0, True, IDR), (4, 9, True, SLICE)) == [
        WHOLE | KEY | PARAMETERS,
        LAST | KEY | PARAMETERS,
        LAST | KEY,
        WHOLE,
    ]


def test_numbers_wrap() -> None:
    top = 2**32 - 1
    assert run(Kind.H264, (65535, top, False, IDR), (0, top, True, IDR), (1, 2999, True, SLICE)) == [
        FIRST | KEY,
        LAST | KEY,
        WHOLE,
    ]


def test_timestamps_may_go_back() -> None:
    assert run(Kind.H264, (1, 9000, True, SLICE), (2, 3000, True, b"\x01x")) == [WHOLE, WHOLE | DISCARDABLE]


def test_a_late_packet_changes_nothing() -> None:
    assert run(
        Kind.H264,
        (1, 0, False, SPS),
        (4, 9, False, SLICE),
        (2, 0, False, IDR),
        (3, 0, True, SLICE),
        (4, 9, False, SLICE),
        (5, 9, True, SLICE),
        (6, 18, True, SLICE),
    ) == [FIRST | KEY | PARAMETERS, FIRST | CUT, LATE | KEY, LATE | LAST, LATE, LAST, WHOLE]


def test_a_late_packet_says_what_its_frame_is() -> None:
    key, rest = b"\x10\0", b"\0\0"
    assert run(Kind.VP8, (2, 0, False, rest), (1, 0, False, key), (3, 0, True, rest)) == [
        FIRST,
        LATE | KEY,
        LAST | KEY,
    ]


def test_a_sequence_that_begins_anew_is_not_late() -> None:
    assert run(Kind.H264, (5000, 0, True, SLICE), (100, 7, True, SLICE)) == [WHOLE, WHOLE]


def test_another_source_starts_afresh() -> None:
    c = Classifier(Kind.H264)
    assert c.classify(rtp(IDR, 7, 5, marker=False)).flags == FIRST | KEY
    assert c.classify(rtp(SLICE, 7, 5, marker=False, ssrc=2)).flags == FIRST
    assert c.classify(rtp(SLICE, 8, 5, ssrc=2)).flags == LAST


def test_key_from_the_packet_on_that_says_so() -> None:
    assert run(Kind.H264, (1, 0, False, SEI), (2, 0, False, IDR), (3, 0, True, SEI), (4, 9, True, SEI)) == [
        FIRST,
        KEY,
        LAST | KEY,
        WHOLE,
    ]


def test_empty_packets() -> None:
    """Padding as senders probe with it, under the timestamp of the last frame or another."""
    assert run(
        Kind.VP8, (1, 0, True, b"\x10\0"), (2, 0, False, b""), (3, 5, True, b""), (4, 9, False, b"\x10\1")
    ) == [
        WHOLE | KEY,
        DISCARDABLE,
        DISCARDABLE,
        FIRST,
    ]
    assert run(Kind.GENERIC, (1, 0, False, b"x"), (2, 0, True, b""), (3, 9, True, b"x")) == [
        FIRST,
        LAST,
        WHOLE,
    ]


def test_audio() -> None:
    assert run(Kind.AUDIO, (1, 0, True, b"x"), (2, 0, False, b"x"), (1, 0, False, b"")) == [
        WHOLE,
        WHOLE,
        WHOLE | LATE,
    ]


def test_malformed_packets_still_belong_to_frames() -> None:
    bad = b"\x1f"
    assert run(Kind.H264, (1, 0, False, bad), (2, 0, True, IDR), (3, 9, True, bad)) == [
        FIRST | MALFORMED,
        LAST | KEY,
        WHOLE | MALFORMED,
    ]


def test_not_rtp() -> None:
    with pytest.raises(ValueError, match="not an RTP packet"):
        Classifier(Kind.H264).classify(b"")
    with pytest.raises(ValueError, match="not an RTP packet"):
        Classifier(Kind.H264).classify(bytes(12))
