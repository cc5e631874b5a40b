"""Feedback to a sender: against bytes worked out by hand, and REMB against a parser of its own."""

import struct

import pytest

from relay_ext import rtp

SENDER, MEDIA = 0x01020304, 0xA0B0C0D0
TOP = 2**64 - 1


def test_pli() -> None:
    assert rtp.build_pli(SENDER, MEDIA) == bytes.fromhex("81ce0002 01020304 a0b0c0d0")


def test_fir() -> None:
    assert rtp.build_fir(SENDER, MEDIA, 7) == bytes.fromhex("84ce0004 01020304 00000000 a0b0c0d0 07000000")
    assert rtp.build_fir(SENDER, MEDIA, 255)[16:] == bytes.fromhex("ff000000")


def test_remb() -> None:
    """1,500,000 = 187,500 << 3."""
    expected = "8fce0006 01020304 00000000 52454d42 020edc6c a0b0c0d0 00000009"
    assert rtp.build_remb(SENDER, 1_500_000, [MEDIA, 9]) == bytes.fromhex(expected)


def parse_remb(data: bytes) -> tuple[int, int, list[int]]:
    head, kind, words, sender, zero, name, packed = struct.unpack_from(">BBHII4sI", data)
    assert (head, kind, words, zero, name) == (0x8F, 206, len(data) // 4 - 1, 0, b"REMB")
    count, exponent, mantissa = packed >> 24, packed >> 18 & 63, packed & 0x3FFFF
    assert len(data) == 20 + 4 * count
    return sender, mantissa << exponent, list(struct.unpack_from(f">{count}I", data, 20))


@pytest.mark.parametrize("bitrate", [0, 1, 64_000, 2**18 - 1, 2**18, 2**18 + 1, 10**7 + 1, 10**12 + 7, TOP])
def test_remb_rounds_down_by_less_than_its_precision(bitrate: int) -> None:
    sender, read, media = parse_remb(rtp.build_remb(SENDER, bitrate, [MEDIA]))
    assert (sender, media) == (SENDER, [MEDIA])
    assert read <= bitrate and bitrate - read <= bitrate >> 17
    assert bitrate >= 2**18 or read == bitrate


@pytest.mark.parametrize("count", [0, 1, 255])
def test_remb_of_many(count: int) -> None:
    assert parse_remb(rtp.build_remb(SENDER, 1, range(count))) == (SENDER, 1, list(range(count)))


def test_remb_of_too_many() -> None:
    with pytest.raises(ValueError, match="room for 255 SSRCs, not 256"):
        rtp.build_remb(SENDER, 1, range(256))


def test_a_receiver_report_without_blocks() -> None:
    """RR, then SDES with one chunk: CNAME of eight characters, closed by two zeros."""
    expected = "80c90001 01020304 81ca0004 01020304 0108 3031303230333034 0000"
    assert rtp.build_rr(SENDER) == bytes.fromhex(expected)
    assert rtp.build_rr(0xFEDCBA98)[18:26] == b"fedcba98"


def test_who_is_asked_for_a_key_frame() -> None:
    rr, pli = rtp.build_rr(SENDER), rtp.build_pli(SENDER, MEDIA)
    assert rtp.key_asks(rr) == rtp.key_asks(rtp.build_remb(SENDER, 1, [MEDIA])) == []
    assert rtp.key_asks(pli) == rtp.key_asks(rr + pli) == [MEDIA]
    two = bytes.fromhex("84ce0006 01020304 00000000 a0b0c0d0 07000000 00000009 01000000")
    assert rtp.key_asks(rr + two + rtp.build_pli(1, 5)) == [MEDIA, 9, 5]
    assert rtp.key_asks(40 * pli) == 16 * [MEDIA]
    assert rtp.key_asks(bytes.fromhex("84ce0003 01020304 00000000 a0b0c0d0")) == []  # half an entry
    with pytest.raises(rtp.Refused):
        rtp.key_asks(rr + pli[:8])


def test_our_own_parser_takes_them() -> None:
    for packet in (
        rtp.build_pli(SENDER, MEDIA),
        rtp.build_fir(SENDER, MEDIA, 1),
        rtp.build_remb(SENDER, 1, [MEDIA]),
        rtp.build_rr(SENDER),
    ):
        assert rtp.parse_rtcp(packet) == rtp.Rtcp(SENDER, None, False)
