"""formats: each form of each payload format, hand-made from its specification, whole and cut short."""

import pytest

from relay_ext.payload import Classifier, Flag, Kind
from tests.unit.test_payload import only, rtp, unhex

CUT, KEY, PARAMETERS, DISCARDABLE = Flag.CUT, Flag.KEY, Flag.PARAMETERS, Flag.DISCARDABLE
FIRST, LAST, MALFORMED, DISCONTINUITY = Flag.FIRST, Flag.LAST, Flag.MALFORMED, Flag.DISCONTINUITY
NOTHING = Flag(0)

# ---- H.264: RFC 6184


@pytest.mark.parametrize(
    ("payload", "flags"),
    [
        ("65 88", KEY),
        ("41 9a", NOTHING),
        ("01 9a", DISCARDABLE),
        ("02 9a", DISCARDABLE),  # data partition
        ("67 42", KEY | PARAMETERS),
        ("68 ce", PARAMETERS),
        ("6f 42", PARAMETERS),
        ("09 f0", NOTHING),  # access unit delimiter
        ("0a", NOTHING),  # end of sequence
        ("06 05 02 aa bb 80", NOTHING),
        ("06 06 01 c4 80", KEY),  # recovery point
        ("06 05 02 aa bb 06 01 c4 80", KEY),
        ("06 ff ff 06 01 c4 80", NOTHING),  # type 516
        ("06 05 ff", NOTHING),
        ("06 05 ff 02 06 01", NOTHING),
        ("18 0002 67 42 0002 68 ce", KEY | PARAMETERS),  # STAP-A
        ("18 0002 41 9a 0002 01 9a", NOTHING),  # a part that others refer to
        ("18 0002 09 f0 0002 01 9a", DISCARDABLE),
        ("19 0007 0002 67 42 0002 65 88", KEY | PARAMETERS),  # STAP-B
        ("1a 0007 0002 00 0000 01 9a 0002 01 0bb8 65 88", KEY),  # MTAP16
        ("1b 0007 0002 00 000000 01 9a", DISCARDABLE),  # MTAP24
        ("7c 85 88", KEY),  # FU-A: start, middle, end
        ("7c 05 88", KEY),
        ("7c 45 88", KEY),
        ("5c 81 9a", NOTHING),
        ("1c 01 9a", DISCARDABLE),
        ("1c 86 06 01 c4", KEY),  # an SEI's start
        ("1c 06 06 01 c4", NOTHING),  # not its start
        ("7d 85 0007 88", KEY),  # FU-B
    ],
)
def test_h264(payload: str, flags: Flag) -> None:
    assert only(Kind.H264, unhex(payload)) == flags


@pytest.mark.parametrize(
    "payload",
    [
        "00 88",
        "1e 88",
        "1f 88",
        "18",
        "18 00",
        "18 0000",
        "18 0003 65 88",
        "18 0002 65 88 00",
        "18 0003 18 00 01",  # an aggregate in an aggregate
        "19 0007",
        "1a 0007 0002 00 00",
        "1b 0007 0002 00 0000 65",
        "7c",
        "7c 85",
        "7c c5 88",
        "7c 9c 88",  # a fragment of a fragment
        "7d 85 0007",
    ],
)
def test_h264_malformed(payload: str) -> None:
    assert only(Kind.H264, unhex(payload)) == MALFORMED


@pytest.mark.parametrize(
    ("payload", "flags", "layers"),
    [
        ("6e 80 10 60 88", NOTHING, (3, 1)),  # prefix: dependency_id 1, temporal_id 3
        ("74 80 20 40 88", NOTHING, (2, 2)),
        ("14 80 20 40 88", DISCARDABLE, (2, 2)),
        ("74 00 20 40 88", NOTHING, (None, None)),  # MVC
        ("74 80", NOTHING, (None, None)),
        ("18 0005 6e 80 00 20 88 0002 41 9a", NOTHING, (1, 0)),
        ("18 0005 74 80 20 40 88 0005 74 80 10 60 88", NOTHING, (2, 1)),
        ("7c 94 80 20 40", NOTHING, (2, 2)),
    ],
)
def test_svc_layers(payload: str, flags: Flag, layers: tuple[int | None, int | None]) -> None:
    info = Classifier(Kind.H264).classify(rtp(unhex(payload)))
    assert (info.flags & ~(FIRST | LAST), (info.temporal, info.spatial)) == (flags, layers)


# ---- H.265: RFC 7798


@pytest.mark.parametrize(
    ("payload", "flags"),
    [
        *((f"{kind << 1:02x} 01 88", KEY) for kind in range(16, 24)),
        *((f"{kind << 1:02x} 01 88", NOTHING if kind & 1 else DISCARDABLE) for kind in range(16)),
        ("30 01 88", NOTHING),  # 24: reserved
        ("40 01 0c", KEY | PARAMETERS),
        ("42 01 01", KEY | PARAMETERS),
        ("44 01 c1", PARAMETERS),
        ("46 01 50", NOTHING),
        ("48 01", NOTHING),  # end of sequence
        ("4e 01 06 01 c4", KEY),  # recovery point
        ("4e 01 05 01 c4", NOTHING),
        ("50 01 06 01 c4", NOTHING),  # a suffix SEI
        ("60 01 0003 40 01 0c 0003 44 01 c1", KEY | PARAMETERS),  # AP
        ("60 01 0003 00 01 88 0003 02 01 88", NOTHING),
        ("60 01 0007 0003 40 01 0c 00 0003 44 01 c1", KEY | PARAMETERS),  # with decoding order numbers
        ("60 01 0003 0003 00 01 88 00 0003 00 01 88", DISCARDABLE),
        ("62 01 93 88", KEY),  # FU: start, middle, end
        ("62 01 13 88", KEY),
        ("62 01 53 88", KEY),
        ("62 01 80 88", DISCARDABLE),
        ("62 01 a7 06 01", KEY),  # an SEI's start
        ("62 01 27 06 01", NOTHING),
        ("64 01 26 00 88", KEY),  # PACI: a single NAL unit of type 19
        ("64 01 26 38 aabbcc 88", KEY),  # with an extension
        ("64 01 62 00 93 88", KEY),  # a fragment
        ("64 01 60 00 0003 40 01 0c", KEY | PARAMETERS),  # an aggregate
    ],
)
def test_h265(payload: str, flags: Flag) -> None:
    """Behind the SPS of a stream with one temporal layer."""
    c = Classifier(Kind.H265)
    c.classify(rtp(unhex("42 01 00"), 0, 0))
    assert c.classify(rtp(unhex(payload), 1, 1)).flags & ~(FIRST | LAST) == flags


@pytest.mark.parametrize(
    "payload",
    [
        "26",
        "26 00 88",  # temporal id 0 - 1
        "66 01 88",  # type 51
        "60 01",
        "60 01 00",
        "60 01 0003 26 01",
        "60 01 0003 26 01 88 00",
        "60 01 0001 26",
        "60 01 0003 26 00 88",
        "60 01 0003 60 01 88",  # an aggregate in an aggregate
        "62 01",
        "62 01 93",
        "62 01 d3 88",
        "62 01 b2 88",  # a fragment of PACI
        "64 01 26",
        "64 01 26 00",
        "64 01 26 38 aabbcc",
        "64 01 64 00 26 00 88",  # PACI in PACI
    ],
)
def test_h265_malformed(payload: str) -> None:
    assert only(Kind.H265, unhex(payload)) == MALFORMED


def test_h265_not_for_reference_in_its_own_layer_only() -> None:
    """Discardable is type 0 where no temporal layer is above it, as the SPS tells, or such a layer."""
    low, high = unhex("00 01 88"), unhex("00 02 88")
    two_layers, one = unhex("42 01 02"), unhex("42 01 00")
    steps = [
        (low, NOTHING),
        (high, NOTHING),  # what was lost may have had an SPS with a third layer
        (two_layers, NOTHING),
        (low, NOTHING),
        (high, DISCARDABLE),
        (one, NOTHING),
        (low, DISCARDABLE),
        (high, DISCARDABLE),
        (low, NOTHING),
    ]
    c = Classifier(Kind.H265)
    seen = [c.classify(rtp(p, seq, seq)).flags & DISCARDABLE for seq, (p, _) in enumerate(steps)]
    assert seen == [flags for _, flags in steps]


def test_h265_layers() -> None:
    info = Classifier(Kind.H265).classify(rtp(unhex("60 0b 0003 02 0c 88 0003 03 0b 88")))
    assert (info.temporal, info.spatial) == (2, 1)


# ---- VP8: RFC 7741


@pytest.mark.parametrize(
    ("payload", "flags", "temporal"),
    [
        ("10 00", KEY, None),
        ("10 01", NOTHING, None),
        ("30 01", DISCARDABLE, None),
        ("30 00", KEY, None),
        ("00 00", NOTHING, None),  # not the start
        ("11 00", NOTHING, None),  # the start of partition 1
        ("90 00 00", KEY, None),
        ("90 80 7f 00", KEY, None),
        ("90 80 ff ff 00", KEY, None),
        ("90 40 07 00", KEY, None),
        ("b0 20 80 01", DISCARDABLE, 2),
        ("90 10 80 01", NOTHING, None),  # KEYIDX alone
        ("b0 f0 81 23 07 41 01", DISCARDABLE, 1),
    ],
)
def test_vp8(payload: str, flags: Flag, temporal: int | None) -> None:
    info = Classifier(Kind.VP8).classify(rtp(unhex(payload)))
    assert info == (flags | FIRST | LAST, temporal, None)


@pytest.mark.parametrize(
    "payload",
    [
        "10",
        "90",
        "90 00",
        "90 80",
        "90 80 7f",
        "90 80 ff ff",
        "90 40 07",
        "90 20",
        "90 20 80",
        "90 f0 81 23 07 41",
    ],
)
def test_vp8_malformed(payload: str) -> None:
    assert only(Kind.VP8, unhex(payload)) == MALFORMED


def test_vp8_start_is_a_new_frame() -> None:
    c = Classifier(Kind.VP8)
    packets = (("10 00", True), ("10 01", False), ("00 01", False), ("10 01", True), ("11 01", True))
    flags = [c.classify(rtp(unhex(p), seq, 7, marker)).flags for seq, (p, marker) in enumerate(packets)]
    assert flags == [FIRST | LAST | KEY, FIRST, NOTHING, FIRST | CUT | LAST, LAST]


# ---- VP9: RFC 9628


@pytest.mark.parametrize(
    ("payload", "flags"),
    [
        ("0c 82", KEY),
        ("0c 86", NOTHING),  # senders that never set P
        ("4c 82", NOTHING),
        ("4c 86", NOTHING),
        ("04 82", NOTHING),  # not the start
        ("0c 8a", NOTHING),  # show_existing_frame
        ("0c b0", KEY),  # profile 3
        ("0c b2", NOTHING),
        ("0c 42", NOTHING),  # no frame marker
        ("8c 05 82", KEY),
        ("8c 81 05 82", KEY),
        ("2c 00 00 82", KEY),
        ("3c 00 82", KEY),  # flexible mode has no TL0PICIDX
        ("3c 02 82", NOTHING),  # spatial layer 1 of a picture
        ("dc 05 02 86", NOTHING),
        ("dc 05 03 05 06 86", NOTHING),  # three references
        ("0e 00 82", KEY | PARAMETERS),
        ("0e 30 0060 0040 0060 0040 82", KEY | PARAMETERS),
        ("8e 05 18 0060 0040 01 04 01 82", KEY | PARAMETERS),
        ("8e 05 08 00 82", KEY | PARAMETERS),
    ],
)
def test_vp9(payload: str, flags: Flag) -> None:
    assert only(Kind.VP9, unhex(payload)) == flags


@pytest.mark.parametrize(
    "payload",
    [
        "0c",
        "8c",
        "8c 05",
        "8c 81",
        "8c 81 05",
        "2c",
        "2c 00",
        "2c 00 00",
        "3c 00",
        "dc 05",
        "dc 05 03",
        "dc 05 02",
        "dc 05 03 03 03 02 86",  # four references
        "0e",
        "0e 00",
        "0e 30 0060 0040 0060 00",
        "0e 08",
        "0e 08 01",
        "0e 08 01 0c 01 01",
        "0e 08 01 04 01",
        "0e 08 02 04 01",
    ],
)
def test_vp9_malformed(payload: str) -> None:
    assert only(Kind.VP9, unhex(payload)) == MALFORMED


def vp9_picture(number: int, wide: bool, structure: str = "", temporal: int = 0) -> bytes:
    picture = f"{0x8000 | number & 0x7FFF:04x}" if wide else f"{number & 0x7F:02x}"
    head = 0x80 | 0x20 | 0x08 | 0x04 | (0x02 if structure else 0x40)
    return unhex(f"{head:02x} {picture} {temporal << 5:02x} 00 {structure} {'82' if structure else '86'}")


@pytest.mark.parametrize("wide", [False, True])
def test_vp9_picture_group(wide: bool) -> None:
    """Three temporal layers, 0 2 1 2: nothing refers to layer 2, whatever wraps and is lost."""
    structure = "08 04 04 04 44 01 24 02 48 01 03"
    start = 125 if not wide else 2**15 - 3
    c = Classifier(Kind.VP9)
    for i in [0, 1, 2, 3, 4, 7, 9, *range(11, 300, 3)]:
        info = c.classify(rtp(vp9_picture(start + i, wide, structure if i == 0 else ""), i, 3000 * i))
        assert bool(info.flags & DISCARDABLE) == bool(i % 4 in (1, 3)), i
        late = c.classify(rtp(vp9_picture(start + i - 1, wide), i - 1, 3000 * (i - 1)))
        assert not late.flags & DISCARDABLE, i


def test_vp9_picture_numbers_wrap_in_the_middle_of_a_group() -> None:
    """Three pictures a group, all referring to the first: 128 is no multiple."""
    c = Classifier(Kind.VP9)
    for i in range(10):
        structure = "08 03 04 03 44 01 44 02" if i == 0 else ""
        info = c.classify(rtp(vp9_picture(124 + i, False, structure), i, 3000 * i))
        assert bool(info.flags & DISCARDABLE) == (i % 3 > 0), i


def test_vp9_spatial_layers_are_one_picture() -> None:
    c = Classifier(Kind.VP9)
    layers = [
        ("ac 05 00 00 82", False),
        ("ac 05 03 00 86", True),
        ("ec 06 00 00 86", False),
        ("ec 06 03 00 86", True),
    ]
    infos = [c.classify(rtp(unhex(p), i, i // 2, marker)) for i, (p, marker) in enumerate(layers)]
    assert [i.flags for i in infos] == [FIRST | KEY, LAST | KEY, FIRST, LAST]
    assert [(i.temporal, i.spatial) for i in infos] == [(0, 0), (0, 1)] * 2


# ---- AV1: the payload format's section 4.4


@pytest.mark.parametrize(
    ("payload", "flags"),
    [
        ("18 0a 01 00", KEY | PARAMETERS),  # W = 1, N; sequence header with its size
        ("10 0a 01 00", KEY | PARAMETERS),
        ("20 02 0800 30 10", KEY | PARAMETERS),  # W = 2: sequence header, frame: key, shown
        ("10 30 10", KEY),
        ("10 30 00", NOTHING),  # a key frame that is not shown
        ("10 30 90", NOTHING),  # show_existing_frame
        ("10 30 30", NOTHING),  # an inter frame
        ("10 18 10", KEY),  # a frame header
        ("10 20 10", NOTHING),  # a tile group
        ("10 34 08 10", NOTHING),  # spatial layer 1
        ("10 34 20 10", KEY),
        ("10 32 01 10", KEY),
        ("00 02 30 10", KEY),  # W = 0: every element has a size
        ("00 02 0800 02 30 10", KEY | PARAMETERS),
        ("80 02 30 10", NOTHING),  # Z: goes on from the packet before
        ("90 30 10", NOTHING),
        ("90 ff", NOTHING),
        ("a0 01 ff 30 10", KEY),
        ("50 30 10", KEY),  # Y: goes on in the next
        ("10 30", NOTHING),  # cut behind its header
        ("00 82 00 30 10", KEY),  # a size in more bytes than it takes
    ],
)
def test_av1(payload: str, flags: Flag) -> None:
    assert only(Kind.AV1, unhex(payload)) == flags


@pytest.mark.parametrize(
    "payload",
    [
        "10",
        "00",
        "88 01",
        "10 b0 10",  # forbidden bit
        "10 34",
        "10 32",
        "10 32 ff ff ff ff ff ff ff ff 01 10",
        "00 03 30 10",
        "00 00",
        "00 80",
        "00 ff ff ff ff ff ff ff ff ff 30 10",
        "00 ff ff ff ff ff ff ff 7f 30 10",
        "20 02 30 10",  # two elements said, one there
        "30 01 30 01 30",
    ],
)
def test_av1_malformed(payload: str) -> None:
    assert only(Kind.AV1, unhex(payload)) == MALFORMED


def test_av1_reduced_still_picture_header() -> None:
    """Without the fields of a frame header that would say so, every frame is a key frame."""
    c = Classifier(Kind.AV1)
    packets = [unhex("10 08 00"), unhex("10 30 30"), unhex("10 08 08"), unhex("10 30 30")]
    keys = [c.classify(rtp(p, i, i)).flags & KEY for i, p in enumerate(packets)]
    assert keys == [KEY, NOTHING, KEY, KEY]


def test_av1_layers_of_fragments() -> None:
    c = Classifier(Kind.AV1)
    packets = [("50 34 48 30", 1), ("d0 aa", 1), ("90 aa", 1), ("90 aa", 2)]
    infos = [c.classify(rtp(unhex(p), i, timestamp)) for i, (p, timestamp) in enumerate(packets)]
    assert [(i.temporal, i.spatial) for i in infos] == [(2, 1)] * 3 + [(None, None)]


# ---- MPEG-TS: ISO/IEC 13818-1

VIDEO = "000001e0"


def ts(
    pid: int, start: bool = False, adaptation: int | None = None, body: str = "", error: bool = False
) -> bytes:
    head = bytes([0x47, error << 7 | start << 6 | pid >> 8, pid & 255, 0x10 | (adaptation is not None) << 5])
    field = b"" if adaptation is None else bytes([1, adaptation])
    return (head + field + unhex(body)).ljust(188, b"\xff")


def test_mp2t() -> None:
    c = Classifier(Kind.MP2T)
    sound = ts(0x101, True, 0x40, "000001c0")
    packets = [
        (sound, FIRST | LAST),  # no video yet: stands alone
        (ts(0) + ts(0x100, True, 0x50, VIDEO), FIRST | KEY | PARAMETERS),
        (ts(0x100) + ts(0x100), KEY),
        (sound, NOTHING),
        (ts(0x100) + ts(0x100, True, 0x10, VIDEO), FIRST | KEY),  # the key frame's end
        (ts(0x100), NOTHING),
        (ts(0x1FFF) * 7, DISCARDABLE),
        (ts(0x1FFF) + ts(0x100), NOTHING),
        (ts(0x100, True, 0xC0, VIDEO), FIRST | KEY | DISCONTINUITY),
        (ts(0x100, True, 0x40, VIDEO, error=True), NOTHING),
        (ts(0x100)[:187], MALFORMED),
        (b"\x48" + ts(0x100)[1:], MALFORMED),
        (b"\x47\x01\0\x30\xb8" + bytes(183), MALFORMED),  # an adaptation field past the end
        (b"\x47\x41\0\x30\xb7" + bytes(183), KEY),  # one up to the end: starts no frame
        (b"\x47\x41\0\x30\x00" + unhex(VIDEO).ljust(183), FIRST),  # an empty one
    ]
    for seq, (payload, flags) in enumerate(packets):
        assert c.classify(rtp(payload, seq, seq // 2, marker=False)).flags == flags, seq
    late = c.classify(rtp(ts(0x100, True, 0x40, VIDEO), 1))
    assert late.flags == Flag.LATE | KEY
    assert c.classify(rtp(ts(0x100), 15)).flags == NOTHING
