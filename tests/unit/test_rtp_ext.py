"""rtp: parsing by table, rewriting and unwrapping over restarts, wraps, jumps and late packets."""

import struct

import pytest

from relay_ext import rtp
from relay_ext.rtp import HELD, OK, REBASED, SOURCE, Refused, Rewrite, SenderReport, Unwrap

A, B, C = 0xAAAAAAAA, 0xBBBBBBBB, 0xCCCCCCCC
MS = 1_000_000
VIDEO = 90_000


def packet(ssrc: int = A, timestamp: int = 0, seq: int = 0, first: int = 0x80, second: int = 96) -> bytes:
    return struct.pack(">BBHII", first, second, seq, timestamp, ssrc)


# ---- parsing


def test_header() -> None:
    h = rtp.parse(packet(0x01020304, 0xFFFFFFFE, 65535, second=0x80 | 111) + b"payload")
    assert h == rtp.Header(111, True, 0, 65535, 0xFFFFFFFE, 0x01020304, 12, 7)


@pytest.mark.parametrize(
    ("data", "header_len", "payload_len"),
    [
        (packet(), 12, 0),
        (packet(first=0x82) + bytes(8), 20, 0),
        (packet(first=0x8F) + bytes(60) + b"x", 72, 1),
        (packet(first=0x90) + b"\xbe\xde\0\0", 16, 0),
        (packet(first=0x90) + b"\xbe\xde\0\2" + bytes(8) + b"xyz", 24, 3),
        (packet(first=0xA0) + b"x\1", 12, 1),
        (packet(first=0xA0) + b"\0\0\0\4", 12, 0),
        (packet(first=0xB1) + bytes(4) + b"\xbe\xde\0\1" + bytes(4) + b"xyz\0\0\3", 24, 3),
        (packet() + bytes(65523), 12, 65523),
    ],
)
def test_lengths(data: bytes, header_len: int, payload_len: int) -> None:
    h = rtp.parse(data)
    assert (h.header_len, h.payload_len) == (header_len, payload_len)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "short"),
        (packet()[:11], "short"),
        (packet() + bytes(65524), "long"),
        (packet(first=0x00), "version"),
        (packet(first=0x40), "version"),
        (packet(first=0xC0), "version"),
        (packet(first=0x81), "csrc"),
        (packet(first=0x8F) + bytes(59), "csrc"),
        (packet(first=0x90), "extension"),
        (packet(first=0x90) + bytes(3), "extension"),
        (packet(first=0x90) + b"\0\0\0\1" + bytes(3), "extension"),
        (packet(first=0x90) + b"\0\0\xff\xff" + bytes(1000), "extension"),
        (packet(first=0xA0), "padding"),
        (packet(first=0xA0) + b"\0", "padding"),
        (packet(first=0xA0) + b"\2", "padding"),
        (packet(first=0xA0) + b"xxx\xff", "padding"),
    ],
)
def test_refused(data: bytes, reason: str) -> None:
    with pytest.raises(Refused) as refused:
        rtp.parse(data)
    assert refused.value.reason == reason


def test_rtcp_on_a_shared_port() -> None:
    kinds = [second for second in range(256) if rtp.is_rtcp(packet(second=second))]
    assert kinds == list(range(192, 224))
    assert not rtp.is_rtcp(b"")
    assert not rtp.is_rtcp(b"\x80")


# ---- RTCP

REPORT = SenderReport(A, 0x0102030405060708, 0x11223344, 55, 66)
SR = b"\x80\xc8\0\6" + struct.pack(">IQIII", *REPORT)
RR = b"\x80\xc9\0\1" + struct.pack(">I", B)
BYE = b"\x81\xcb\0\1" + struct.pack(">I", A)
SDES = b"\x81\xca\0\2" + struct.pack(">I", A) + b"\1\1x\0"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (SR, rtp.Rtcp(A, REPORT, False)),
        (RR, rtp.Rtcp(B, None, False)),
        (SR + SDES, rtp.Rtcp(A, REPORT, False)),
        (SR + SDES + BYE, rtp.Rtcp(A, REPORT, True)),
        (RR + SR, rtp.Rtcp(A, REPORT, False)),
        (SR + SR.replace(b"\xaa\xaa\xaa\xaa", b"\xbb\xbb\xbb\xbb"), rtp.Rtcp(A, REPORT, False)),
        (BYE, rtp.Rtcp(A, None, True)),
        (b"\x80\xcb\0\0", rtp.Rtcp(0, None, True)),
        (b"\x81\xc8\0\x0c" + SR[4:] + bytes(24), rtp.Rtcp(A, REPORT, False)),
        (b"\xa0\xc9\0\2" + RR[4:] + b"\0\0\0\4", rtp.Rtcp(B, None, False)),
        (b"\x81\xce\0\2" + bytes(8), rtp.Rtcp(0, None, False)),
        (b"\x80\xcf\0\0", rtp.Rtcp(0, None, False)),  # extended reports: not for us
    ],
)
def test_rtcp(data: bytes, expected: rtp.Rtcp) -> None:
    assert rtp.parse_rtcp(data) == expected


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "short"),
        (SR[:3], "short"),
        (SR + b"\x80\xc9", "short"),
        (b"\x40" + SR[1:], "version"),
        (SR + b"\0" + RR[1:], "version"),
        (packet(second=96), "type"),
        (SR + b"\x80\x10\0\0", "type"),
        (SR[:-1], "length"),
        (b"\x80\xc8\xff\xff" + SR[4:], "length"),
        (b"\x80\xc8\0\5" + SR[4:-4], "count"),
        (b"\x81" + SR[1:], "count"),
        (b"\x9f" + RR[1:], "count"),
        (b"\x82" + BYE[1:], "count"),
        (b"\x82" + SDES[1:], "count"),
        (b"\x80\xce\0\1" + bytes(4), "count"),
        (b"\xa0" + SR[1:-1] + b"\4", "count"),
        (b"\xa0" + SR[1:-1] + b"\0", "padding"),
        (b"\xa0" + SR[1:-1] + b"\3", "padding"),
        (b"\xa0" + SR[1:-1] + b"\x1c", "padding"),
        (b"\xa0\xc9\0\2" + RR[4:] + b"\0\0\0\4" + SR, "padding"),
    ],
)
def test_rtcp_refused(data: bytes, reason: str) -> None:
    with pytest.raises(Refused) as refused:
        rtp.parse_rtcp(data)
    assert refused.value.reason == reason


@pytest.mark.parametrize("n", [0, 1, 2, 3, 4, 5, 6, 254, 255])
def test_a_built_report_reads_back(n: int) -> None:
    cname = bytes(range(1, 256))[:n]
    data = rtp.build_sr(REPORT, cname)
    assert data.startswith(SR)
    assert rtp.parse_rtcp(data) == rtp.Rtcp(A, REPORT, False)
    sdes = data[len(SR) :]
    assert sdes[:10] == struct.pack(">BBHIBB", 0x81, 202, len(sdes) // 4 - 1, A, 1, n)
    assert sdes[10:].rstrip(b"\0") == cname
    assert len(sdes) % 4 == 0
    assert 1 <= len(sdes) - 10 - n <= 4  # section 6.5: one zero at least, none more than the word needs
    assert len(data) <= 296


def test_a_cname_of_256_is_refused() -> None:
    with pytest.raises(ValueError, match="at most 255"):
        rtp.build_sr(REPORT, bytes(256))


# ---- rewriting


def sent(data: bytes) -> tuple[int, int, int]:
    """SSRC, sequence number, timestamp."""
    h = rtp.parse(data)
    return h.ssrc, h.seq, h.timestamp


def test_a_rewritten_header() -> None:
    w = Rewrite(C, payload_type=100, seq_offset=10, timestamp_offset=1000)
    data = packet(A, 0xFFFFFFFF, 4711, first=0xB3, second=0x80 | 96) + bytes(12) + b"\xbe\xde\0\0" + b"x\1"
    out = w.apply(data, 0x1FFFF, 0, VIDEO)
    assert out == struct.pack(">BBHII", 0xB3, 0x80 | 100, 9, 999, C)
    assert w.timestamp(0xFFFFFFFF) == 999


def test_the_payload_type_is_kept_unless_told() -> None:
    assert Rewrite(C).apply(packet(second=0x80 | 33), 0, 0, VIDEO)[1] == 0x80 | 33
    assert Rewrite(C, payload_type=0).apply(packet(second=33), 0, 0, VIDEO)[1] == 0


def test_a_restarted_encoder_does_not_break_the_receiver() -> None:
    w = Rewrite(C)
    assert sent(w.apply(packet(A, 5000), 100, 0, VIDEO)) == (C, 100, 5000)
    assert sent(w.apply(packet(A, 8000), 101, 33 * MS, VIDEO)) == (C, 101, 8000)
    # 500 ms later the new one begins, anywhere.
    assert sent(w.apply(packet(B, 0xFFFFFF00), 102, 533 * MS, VIDEO)) == (C, 102, 8000 + 45000)
    assert sent(w.apply(packet(B, 0xFFFFFF00), 103, 534 * MS, VIDEO)) == (C, 103, 8000 + 45000)
    assert sent(w.apply(packet(B, 0xB00), 104, 566 * MS, VIDEO)) == (C, 104, 8000 + 45000 + 0xC00)
    assert w.timestamp(0xFFFFFF00) == 8000 + 45000


def test_a_late_packet_of_the_previous_source_keeps_its_place() -> None:
    w = Rewrite(C)
    w.apply(packet(A, 9000), 100, 100 * MS, VIDEO)
    switched = sent(w.apply(packet(B, 0), 102, 200 * MS, VIDEO))
    assert sent(w.apply(packet(A, 9900), 101, 110 * MS, VIDEO)) == (C, 101, 9900)
    assert sent(w.apply(packet(B, 0), 103, 201 * MS, VIDEO)) == (C, 103, switched[2])


def test_a_late_packet_of_a_forgotten_source_is_placed_by_its_origin_time() -> None:
    w = Rewrite(C)
    w.apply(packet(A, 9000), 100, 100 * MS, VIDEO)
    w.apply(packet(B, 0), 102, 200 * MS, VIDEO)
    last = sent(w.apply(packet(C, 0), 103, 300 * MS, VIDEO))[2]
    assert sent(w.apply(packet(A, 9900), 101, 110 * MS, VIDEO)) == (C, 101, last - 190 * 90)
    assert sent(w.apply(packet(C, 900), 104, 310 * MS, VIDEO)) == (C, 104, last + 900)


def test_a_source_that_comes_back_is_a_switch_like_any_other() -> None:
    w = Rewrite(C)
    w.apply(packet(A, 9000), 100, 0, VIDEO)
    at = sent(w.apply(packet(B, 77), 101, 1000 * MS, VIDEO))[2]
    assert sent(w.apply(packet(A, 1), 102, 2000 * MS, VIDEO))[2] == at + 90_000
    assert sent(w.apply(packet(B, 78), 101, 1000 * MS, VIDEO))[2] == at + 1


def test_a_new_numbering_far_back_is_a_switch() -> None:
    w = Rewrite(C)
    w.apply(packet(A, 9000), 1_000_000, 0, VIDEO)
    assert sent(w.apply(packet(B, 50), 7, 1000 * MS, VIDEO))[2] == 99_000
    assert sent(w.apply(packet(B, 51), 8, 1001 * MS, VIDEO))[2] == 99_001


@pytest.mark.parametrize("elapsed", [0, -5 * MS, 1])
def test_output_time_moves_at_least_one_tick(elapsed: int) -> None:
    w = Rewrite(C)
    w.apply(packet(A, 9000), 0, 100 * MS, VIDEO)
    assert sent(w.apply(packet(B, 1), 1, 100 * MS + elapsed, VIDEO))[2] == 9001


def test_reordered_frames_cannot_collide_with_the_next_source() -> None:
    w = Rewrite(C)
    w.apply(packet(A, 9000), 0, 0, VIDEO)  # shown after the one below
    w.apply(packet(A, 6000), 1, 33 * MS, VIDEO)
    assert sent(w.apply(packet(B, 1), 2, 66 * MS, VIDEO))[2] == 9000 + 66 * 90


def test_a_long_silence_and_serial_wrap() -> None:
    w = Rewrite(C)
    w.apply(packet(A, 0xFFFFFFF0), 0xFFFFFFFF, 0, VIDEO)
    days = 30 * 86_400
    out = sent(w.apply(packet(B, 5), 0, days * 1000 * MS, VIDEO))
    assert out == (C, 0, (0xFFFFFFF0 + days * VIDEO) % 2**32)
    assert sent(w.apply(packet(A, 0xFFFFFFF1), 0xFFFFFFFE, 0, VIDEO))[2] == 0xFFFFFFF1


# ---- unwrapping


def unwrap(start: int, steps: list[tuple[int, int]]) -> list[tuple[int, int | None]]:
    u = Unwrap(start)
    return [u.apply(ssrc, seq) for ssrc, seq in steps]


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        pytest.param([(A, 5), (A, 6), (A, 8)], [(SOURCE, 1000), (OK, 1001), (OK, 1003)], id="in order"),
        pytest.param(
            [(A, 65534), (A, 65535), (A, 0), (A, 65535), (A, 1)],
            [(SOURCE, 1000), (OK, 1001), (OK, 1002), (OK, 1001), (OK, 1003)],
            id="wrap",
        ),
        pytest.param(
            [(A, 200), (A, 100), (A, 200), (A, 201)],
            [(SOURCE, 1000), (OK, 900), (OK, 1000), (OK, 1001)],
            id="100 behind",
        ),
        pytest.param(
            [(A, 200), (A, 3200), (A, 3201)], [(SOURCE, 1000), (OK, 4000), (OK, 4001)], id="3000 ahead"
        ),
        pytest.param(
            [(A, 200), (A, 99), (A, 201)],
            [(SOURCE, 1000), (HELD, None), (OK, 1001)],
            id="101 behind, a stray",
        ),
        pytest.param(
            [(A, 200), (A, 3201), (A, 201)],
            [(SOURCE, 1000), (HELD, None), (OK, 1001)],
            id="3001 ahead, a stray",
        ),
        pytest.param(
            [(A, 200), (A, 99), (A, 100), (A, 101), (A, 99)],
            [(SOURCE, 1000), (HELD, None), (OK, 900), (OK, 901), (HELD, None)],
            id="behind on the edge",
        ),
        pytest.param(
            [(A, 200), (A, 40000), (A, 40001), (A, 40002), (A, 40000)],
            [(SOURCE, 1000), (HELD, None), (REBASED, 1001), (OK, 1002), (OK, 1000)],
            id="a jump",
        ),
        pytest.param(
            [(A, 200), (A, 65535), (A, 0), (A, 1)],
            [(SOURCE, 1000), (HELD, None), (REBASED, 1001), (OK, 1002)],
            id="a jump over the wrap",
        ),
        pytest.param(
            [(A, 200), (A, 40000), (A, 201), (A, 40001), (A, 40002)],
            [(SOURCE, 1000), (HELD, None), (OK, 1001), (HELD, None), (REBASED, 1002)],
            id="a jump must follow itself",
        ),
        pytest.param(
            [(A, 200), (A, 40000), (A, 199), (A, 40001)],
            [(SOURCE, 1000), (HELD, None), (OK, 999), (REBASED, 1001)],
            id="a late packet says nothing about a jump",
        ),
        pytest.param(
            [(A, 200), (A, 40000), (A, 40000), (A, 40001)],
            [(SOURCE, 1000), (HELD, None), (HELD, None), (REBASED, 1001)],
            id="a duplicated jump",
        ),
        pytest.param(
            [(A, 200), (A, 202), (B, 7), (B, 8), (A, 201), (A, 202), (B, 9)],
            [(SOURCE, 1000), (OK, 1002), (SOURCE, 1003), (OK, 1004), (OK, 1001), (OK, 1002), (OK, 1005)],
            id="a new source and the old one's late packets",
        ),
        pytest.param(
            [(A, 200), (B, 7), (A, 201), (B, 8), (A, 202), (B, 9), (A, 203)],
            [
                (SOURCE, 1000),
                (SOURCE, 1001),
                (HELD, None),
                (OK, 1002),
                (HELD, None),
                (OK, 1003),
                (HELD, None),
            ],
            id="two sources at once: the newer one",
        ),
        pytest.param(
            [(A, 200), (B, 7), (A, 500), (A, 501), (B, 7), (A, 502)],
            [(SOURCE, 1000), (SOURCE, 1001), (HELD, None), (REBASED, 1002), (OK, 1001), (OK, 1003)],
            id="the old source comes back",
        ),
        pytest.param(
            [(A, 200), (A, 40000), (B, 7), (A, 40001), (A, 40002)],
            [(SOURCE, 1000), (HELD, None), (SOURCE, 1001), (HELD, None), (REBASED, 1002)],
            id="a new source ends a jump",
        ),
        pytest.param(
            [(A, 200), (B, 7), (C, 1), (A, 9)],
            [(SOURCE, 1000), (SOURCE, 1001), (SOURCE, 1002), (SOURCE, 1003)],
            id="sources are remembered for one switch",
        ),
    ],
)
def test_unwrap(steps: list[tuple[int, int]], expected: list[tuple[int, int | None]]) -> None:
    assert unwrap(1000, steps) == expected


def test_the_origin_sequence_wraps() -> None:
    assert unwrap(0xFFFFFFFF, [(A, 1), (A, 0), (A, 2), (B, 9)]) == [
        (SOURCE, 0xFFFFFFFF),
        (OK, 0xFFFFFFFE),
        (OK, 0),
        (SOURCE, 1),
    ]
    assert unwrap(0, [(A, 1)]) == [(SOURCE, 0)]


def test_a_long_stream_is_gapless() -> None:
    u = Unwrap(0)
    assert [u.apply(A, seq % 65536)[1] for seq in range(200_000)] == list(range(200_000))
