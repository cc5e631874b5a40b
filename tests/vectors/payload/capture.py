"""Records the RTP packets in this folder: short clips by ffmpeg and GStreamer, key frames where -g puts them.

`python tests/vectors/payload/capture.py [NAME...]`. A file is a sequence of packets, each behind its
length in two bytes. tests/unit/test_payload.py says what they are, from the encoder's settings. AV1, which
this ffmpeg has no packetiser for, is packetised here, without the N bit.
"""

import shlex
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent
FFMPEG = "ffmpeg -loglevel error -f lavfi -i testsrc2=s=96x64:r=10"
X264 = "-frames:v 20 -c:v libx264 -preset veryfast -g 8 -keyint_min 8 -sc_threshold 0"
X265 = "-frames:v 20 -c:v libx265 -preset veryfast -crf 40 -x265-params"
X265_KEYS = "keyint=8:min-keyint=8:scenecut=0:repeat-headers=1:log-level=none:info=0"
VPX = "-frames:v 20 -b:v 10k -g 8 -keyint_min 8 -auto-alt-ref 0"
RTP = "-f rtp rtp://127.0.0.1:{port}?pkt_size=300"
TS = (
    "-f lavfi -i sine=r=16000 -t 1.2 -c:v libx264 -preset veryfast -crf 50 -g 8 -keyint_min 8 "
    "-sc_threshold 0 -bf 0 -c:a mp2 -b:a 16k -mpegts_muxer_options pes_payload_size=0 -f rtp_mpegts rtp://127.0.0.1:{port}"
)
LIBAOM = "-c:v libaom-av1 -cpu-used 6 -crf 62 -b:v 0 -lag-in-frames 8"
AV1 = f"{FFMPEG} -frames:v 20 {LIBAOM} -g 8 -keyint_min 8 -f ivf -"
BALL = "videotestsrc pattern=ball num-buffers=20 ! video/x-raw,width=96,height=64,framerate=10/1"
GST_X264 = "x264enc key-int-max=8 bframes=2 b-pyramid=false speed-preset=veryfast quantizer=40 pass=quant"
GST_X265 = "x265enc key-int-max=8 speed-preset=veryfast qp=50"
SINK = "mtu=300 ! udpsink host=127.0.0.1 port={port} sync=false"

CLIPS = {
    "h264": f"{FFMPEG} {X264} -crf 38 -bf 2 -x264-params b-pyramid=none:repeat-headers=1:slices=2 {RTP}",
    "h264_refresh": f"{FFMPEG} {X264} -crf 48 -bf 0 -x264-params intra-refresh=1:repeat-headers=1 {RTP}",
    "h264_gst": f"gst-launch-1.0 -q {BALL} ! {GST_X264} option-string=scenecut=0:min-keyint=8 ! "
    f"video/x-h264,profile=main ! rtph264pay aggregate-mode=zero-latency {SINK}",
    "h265": f"{FFMPEG} {X265} {X265_KEYS}:bframes=2:b-pyramid=0 {RTP}",
    "h265_layers": f"{FFMPEG} {X265} {X265_KEYS}:bframes=3:b-pyramid=1:b-adapt=0:temporal-layers=1 {RTP}",
    "h265_gst": f"gst-launch-1.0 -q {BALL.replace('=20', '=9')} ! {GST_X265} "
    f"option-string={X265_KEYS}:bframes=2:b-pyramid=0 ! rtph265pay aggregate-mode=zero-latency {SINK}",
    "vp8": f"{FFMPEG} -c:v libvpx -qmax 63 -crf 60 {VPX} {RTP}",
    "vp8_gst": f"gst-launch-1.0 -q {BALL} ! vp8enc keyframe-max-dist=8 target-bitrate=15000 ! "
    f"rtpvp8pay picture-id-mode=7-bit {SINK}",
    "vp9": f"{FFMPEG} -c:v libvpx-vp9 {VPX} -strict experimental {RTP}",
    "vp9_gst": f"gst-launch-1.0 -q {BALL} ! vp9enc keyframe-max-dist=8 target-bitrate=20000 ! "
    f"rtpvp9pay picture-id-mode=15-bit {SINK}",
    "mp2t": f"{FFMPEG.replace('96x64', '64x48')} {TS}",
}


def capture(command: str) -> Iterator[bytes]:
    """The RTP packets that a command sends; the clips fit the socket's buffer."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.bind(("127.0.0.1", 0))
        s.settimeout(0.5)
        subprocess.run(shlex.split(command.format(port=s.getsockname()[1])), check=True)
        while True:
            try:
                packet = s.recv(2048)
            except TimeoutError:
                return
            if not 192 <= packet[1] <= 223:  # RTCP
                yield packet


def obus(unit: bytes) -> Iterator[bytes]:
    """Of a temporal unit, without sizes and temporal delimiter (payload format, section 5)."""
    at = 0
    while at < len(unit):
        head, size, shift = unit[at], 0, 0
        at += 1
        while True:
            byte = unit[at]
            size |= (byte & 127) << shift
            at, shift = at + 1, shift + 7
            if byte < 128:
                break
        if head >> 3 & 15 != 2:
            yield bytes([head & ~2]) + unit[at : at + size]
        at += size


def av1() -> Iterator[bytes]:
    """One element a packet."""
    ivf = subprocess.run(shlex.split(AV1), check=True, capture_output=True).stdout
    at, seq, timestamp = 32, 0, 0
    while at < len(ivf):
        size = int.from_bytes(ivf[at : at + 4], "little")
        elements = []
        for obu in obus(ivf[at + 12 : at + 12 + size]):
            parts = [obu[i : i + 287] for i in range(0, len(obu), 287)]
            z = [0, *[0x80] * (len(parts) - 1)]
            y = [*[0x40] * (len(parts) - 1), 0]
            elements += [bytes([a | b | 0x10]) + part for a, b, part in zip(z, y, parts, strict=True)]
        for n, element in enumerate(elements, start=1):
            yield struct.pack(">BBHII", 0x80, 96 | (n == len(elements)) << 7, seq, timestamp, 1) + element
            seq += 1
        at += 12 + size
        timestamp += 9000


for name in sys.argv[1:] or (*CLIPS, "av1"):
    packets = list(av1() if name == "av1" else capture(CLIPS[name]))
    (HERE / f"{name}.rtp").write_bytes(b"".join(len(p).to_bytes(2) + p for p in packets))
    print(name, len(packets))
