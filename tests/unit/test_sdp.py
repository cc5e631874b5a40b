"""SDP: what real programs write, what players get, and every way to be wrong."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.wire.sdp import MAX_BYTES, Media, Sdp, SdpError, parse, write

FFMPEG = """v=0
o=- 0 0 IN IP4 127.0.0.1
s=No Name
c=IN IP4 192.0.2.10
t=0 0
a=tool:libavformat 59.27.100
m=video 5004 RTP/AVP 96
b=AS:2500
a=rtpmap:96 H264/90000
a=fmtp:96 packetization-mode=1; sprop-parameter-sets=Z0LAH9oB,aM4PyA==; profile-level-id=42C01F
m=audio 5006 RTP/AVP 97
b=AS:64
a=rtpmap:97 opus/48000/2
a=fmtp:97 sprop-stereo=1
"""


@dataclass(frozen=True)
class Track:
    kind: str
    codec: str
    payload_type: int
    fmtp: str = ""


def session(*lines: str) -> str:
    return "\r\n".join(["v=0", "c=IN IP4 192.0.2.1", *lines, ""])


def test_what_ffmpeg_writes() -> None:
    video, audio = parse(FFMPEG).media
    assert video == Media(
        "video",
        "192.0.2.10",
        5004,
        5005,
        96,
        "H264/90000",
        "packetization-mode=1; sprop-parameter-sets=Z0LAH9oB,aM4PyA==; profile-level-id=42C01F",
    )
    assert audio == Media("audio", "192.0.2.10", 5006, 5007, 97, "opus/48000/2", "sprop-stereo=1")


def test_the_connection_of_a_media_section_is_its_own() -> None:
    text = session(
        "m=audio 4 RTP/AVP 0", "m=video 6 RTP/AVPF 33", "c=IN IP6 2001:db8::1", "m=audio 8 RTP/AVP 8"
    )
    assert [(m.kind, m.address, m.codec) for m in parse(text).media] == [
        ("audio", "192.0.2.1", "PCMU/8000"),
        ("av", "2001:db8::1", "MP2T/90000"),
        ("audio", "192.0.2.1", "PCMA/8000"),
    ]


@pytest.mark.parametrize(
    ("attribute", "rtcp_port"),
    [
        ("a=recvonly", 5005),
        ("a=rtcp:6000", 6000),
        ("a=rtcp:6000 IN IP4 192.0.2.9", 6000),
        ("a=rtcp-mux", 5004),
    ],
)
def test_where_rtcp_is(attribute: str, rtcp_port: int) -> None:
    (media,) = parse(session("m=audio 5004 RTP/AVP 0", attribute)).media
    assert (media.port, media.rtcp_port) == (5004, rtcp_port)


@pytest.mark.parametrize(
    ("feedback", "fir"),
    [
        ([], False),
        (["a=rtcp-fb:96 ccm fir"], True),
        (["a=rtcp-fb:* ccm fir"], True),
        (["a=rtcp-fb:97 ccm fir"], False),
        (["a=rtcp-fb:96 ccm fir", "a=rtcp-fb:96 nack", "a=rtcp-fb:96 nack pli"], False),
        (["a=rtcp-fb:96 goog-remb"], False),
    ],
)
def test_how_key_frames_are_asked_for(feedback: list[str], fir: bool) -> None:
    (media,) = parse(session("m=video 5004 RTP/AVPF 96", "a=rtpmap:96 H264/90000", *feedback)).media
    assert media.fir == fir


def test_the_first_payload_type_counts() -> None:
    (media,) = parse(
        session("m=video 4 RTP/AVP 97 96", "a=rtpmap:96 H264/90000", "a=rtpmap:97 VP8/90000", "a=fmtp:96 x=1")
    ).media
    assert (media.payload_type, media.codec, media.fmtp) == (97, "VP8/90000", "")


def test_a_description_for_players() -> None:
    tracks = [
        Track("video", "H264/90000", 96, "packetization-mode=1"),
        Track("audio", "opus/48000/2", 97),
    ]
    assert write("studio", tracks, "2001:db8::1", 6004).split("\r\n") == [
        "v=0",
        "o=- 0 0 IN IP6 2001:db8::1",
        "s=studio",
        "c=IN IP6 2001:db8::1",
        "t=0 0",
        "m=video 6004 RTP/AVP 96",
        "a=rtpmap:96 H264/90000",
        "a=fmtp:96 packetization-mode=1",
        "m=audio 6006 RTP/AVP 97",
        "a=rtpmap:97 opus/48000/2",
        "",
    ]


PRINTABLE = st.text(st.characters(min_codepoint=32, max_codepoint=0x2FF).filter(str.isprintable), max_size=40)
PAYLOAD_TYPES = st.integers(0, 63) | st.integers(96, 127)
TRACKS = st.builds(
    Track,
    kind=st.sampled_from(["video", "audio"]),
    codec=st.sampled_from(["H264/90000", "opus/48000/2", "H265/90000", "L16/44100/2"]),
    payload_type=PAYLOAD_TYPES,
    fmtp=PRINTABLE.map(str.strip),
) | st.builds(Track, kind=st.just("av"), codec=st.just("MP2T/90000"), payload_type=PAYLOAD_TYPES)
HOSTS = st.sampled_from(["192.0.2.10", "::1", "2001:db8::7", "player.example", "4pi"])


@given(PRINTABLE, st.lists(TRACKS, min_size=1, max_size=16), HOSTS, st.integers(1, 65504))
def test_what_is_written_is_read(name: str, tracks: list[Track], host: str, port: int) -> None:
    assert parse(write(name, tracks, host, port)) == Sdp(
        name,
        tuple(
            Media(
                track.kind, host, port + 2 * i, port + 2 * i + 1, track.payload_type, track.codec, track.fmtp
            )
            for i, track in enumerate(tracks)
        ),
    )


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("", 0, "at least one m="),
        ("v=0\nc=IN IP4 192.0.2.1\n", 0, "at least one m="),
        ("s=x\n", 1, "starts with v=0"),
        ("SDP:\nv=0\n", 1, "x=value"),
        ("v=0\n\nhello\n", 3, "x=value"),
        ("v=0\nm=audio 5004 RTP/AVP 0\n", 2, "no c= line"),
        (session("c=IN IP4 192.0.2.300"), 3, "not an address of kind IP4"),
        (session("c=IN IP4 ::1"), 3, "not an address of kind IP4"),
        (session("c=IN IP6 192.0.2.1"), 3, "not an address of kind IP6"),
        (session("c=IN IP4 239.1.1.1/127"), 3, "not one unicast address"),
        (session("c=IN IP4 239.1.1.1"), 3, "not one unicast address"),
        (session("c=IN IP4"), 3, "c= wants"),
        (session("m=audio 5004 RTP/AVP"), 3, "m= wants"),
        (session("m=application 5004 RTP/AVP 96"), 3, "'application' is not carried"),
        (session("m=video 5004 RTP/SAVPF 96"), 3, "'RTP/SAVPF' is not carried"),
        (session("m=video 0 RTP/AVP 96"), 3, "port '0'"),
        (session("m=video 65535 RTP/AVP 96"), 3, "port '65535'"),
        (session("m=video 5004/2 RTP/AVP 96"), 3, "port '5004/2'"),
        (session("m=video ٣٤ RTP/AVP 96"), 3, "port"),
        (session("m=video 5004 RTP/AVP 128"), 3, "payload type '128'"),
        (session("m=video 5004 RTP/AVP 72"), 3, "cannot be told from RTCP"),
        (session("m=video 5004 RTP/AVP 96"), 3, "a=rtpmap"),
        (session("m=video 5004 RTP/AVP 96", "a=rtpmap:96"), 4, "a=rtpmap wants"),
        (session("m=video 5004 RTP/AVP 96", "a=rtpmap:96 H264"), 4, "a=rtpmap wants a codec"),
        (session("m=video 5004 RTP/AVP 96", "a=rtpmap:96 H264/0"), 4, "a=rtpmap wants a codec"),
        (session("m=video 5004 RTP/AVP 96", "a=rtpmap:x H264/90000"), 4, "payload type 'x'"),
        (session("m=audio 5004 RTP/AVP 0", "a=fmtp:0 a\x0bb"), 4, "printable"),
        (session("m=audio 5004 RTP/AVP 0", "a=fmtp:0 " + 1025 * "a"), 4, "at most 1024"),
        (session("m=audio 5004 RTP/AVP 0", "a=rtcp:65536"), 4, "RTCP port"),
        (session("m=audio 5004 RTP/AVP 0", "a=rtcp-fb:x nack pli"), 4, "payload type 'x'"),
        (session(*(17 * ["m=audio 5004 RTP/AVP 0"])), 19, "at most 16 tracks"),
        (session("a=" + MAX_BYTES * "x"), 0, "65536 bytes"),
        (session("a=" + MAX_BYTES // 2 * "\u00fc"), 0, "65536 bytes"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(text: str, line: int, says: str) -> None:
    with pytest.raises(SdpError) as refused:
        parse(text)
    assert refused.value.line == line
    assert says in str(refused.value)
    assert str(refused.value).startswith(f"line {line}: ") == bool(line)


@given(st.text(max_size=300))
def test_any_text_is_read_or_refused(text: str) -> None:
    for description in (text, "v=0\n" + text, session("m=audio 4 RTP/AVP 0", "a=" + text)):
        try:
            parse(description)
        except SdpError as error:
            assert "\n" not in str(error)


VALID = session("m=video 5004 RTP/AVP 96", "a=rtpmap:96 H264/90000", "a=fmtp:96 a=b", "a=rtcp:5005")


@given(st.integers(0, len(VALID) - 1), st.characters() | st.just(""))
def test_one_changed_character_is_read_or_refused(at: int, character: str) -> None:
    try:
        parse(VALID[:at] + character + VALID[at + 1 :])
    except SdpError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("name", "fmtp", "host", "port", "says"),
    [
        ("a\r\nm=audio 1 RTP/AVP 0", "", "192.0.2.1", 5004, "printed"),
        ("a", "x\ny", "192.0.2.1", 5004, "printed"),
        ("a", "", "192.0.2.1 x", 5004, "not a host"),
        ("a", "", "192.0.2.999", 5004, "not a host"),
        ("a", "", "", 5004, "not a host"),
        ("a", "", "192.0.2.1", 0, "ports"),
        ("a", "", "192.0.2.1", 65533, "ports"),
    ],
)
def test_what_a_description_cannot_say(name: str, fmtp: str, host: str, port: int, says: str) -> None:
    with pytest.raises(SdpError, match=says):
        write(name, 2 * [Track("video", "H264/90000", 96, fmtp)], host, port)
