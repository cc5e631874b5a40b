"""What users run, across a hop that loses packets: ffmpeg, GStreamer, and what OBS sends."""

import asyncio
import select
import shutil
import signal
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from relay.lab.ffmpeg import Ffmpeg
from relay.lab.frames import FrameCount, compare, parse_line
from relay.lab.receiver import Receiver, free_port
from tests.integration.nodes import (
    H264,
    OPUS,
    PATIENCE,
    STREAM,
    TS,
    Fleet,
    Track,
    received,
    receiver,
    wait_for,
)

pytestmark = pytest.mark.interop
FFMPEG = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")
GSTREAMER = pytest.mark.skipif(shutil.which("gst-launch-1.0") is None, reason="GStreamer is not installed")

SECONDS = 4
RATE = 30  # frames/s
LOSS = 0.2
BUDGET_MS = 600  # encoders, link and players share this machine's cores: no test of the default of 200
WIDTH, HEIGHT = 320, 240

INPUT = [
    *("-re", "-f", "lavfi", "-i", f"testsrc2=size=640x360:rate={RATE}"),
    *("-re", "-f", "lavfi", "-i", "sine=frequency=440:sample_rate=48000"),
]
X264 = [
    *("-c:v", "libx264", "-preset", "ultrafast", "-tune", "zerolatency", "-pix_fmt", "yuv420p"),
    *("-bf", "0", "-g", str(RATE), "-b:v", "2M"),
]
AAC = ["-c:a", "aac", "-b:a", "128k"]
LIBOPUS = ["-c:a", "libopus", "-b:a", "64k", "-ac", "2"]
QUIET = ["-hide_banner", "-nostdin", "-loglevel", "error"]

Play = Callable[..., Fleet]


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Play]:
    with ExitStack() as stack:

        def start(*tracks: Track, loss: float = LOSS) -> Fleet:
            started = Fleet(tmp_path, *tracks, loss=loss, budget_ms=BUDGET_MS)
            stack.enter_context(started.stack)
            return started

        yield start


def description(of: Fleet) -> str:
    code, text = of.region.get(f"/v1/streams/{STREAM}.sdp?host=127.0.0.1&port={of.player}")
    assert code == 200, text
    return text


def crossed(of: Fleet) -> bool:
    """Whether all packets but one, of all tracks, have left that entered."""
    entered, left = (node.json(f"/v1/streams/{STREAM}")["tracks"] for node in (of.edge, of.region))
    sent = sum(track["received_packets"] for track in entered)
    return bool(0 < sent <= sum(track["delivered_packets"] for track in left) + 1)


async def frames_of(file: str, directory: Path) -> list[bytes]:
    """The pictures of a file."""
    arguments = ["-i", file, "-map", "0:v:0", "-fps_mode", "passthrough", "-f", "framemd5", "pipe:1"]
    decoder = await Ffmpeg.start("the reference", arguments, directory, output=True)
    frames = [frame async for line in decoder.lines() if (frame := parse_line(line)) is not None]
    await decoder.wait()
    return frames


# ---- MPEG transport streams: ffmpeg and OBS ------------------------------------------------------


@FFMPEG
@pytest.mark.parametrize("options", ["", "?pkt_size=1200"])
def test_a_transport_stream_with_h264_and_aac(fleet: Play, tmp_path: Path, options: str) -> None:
    """OBS's "Custom Output (FFmpeg)" with format rtp_mpegts is the same muxer of the same library."""
    f = fleet(TS)
    outputs = f"[f=rtp_mpegts]rtp://127.0.0.1:{f.ingest}{options}|[f=mpegts]reference.ts"

    async def play() -> FrameCount:
        async with Receiver(description(f), tmp_path) as player:
            arguments = [*INPUT, "-t", str(SECONDS), "-map", "0:v", "-map", "1:a", *X264, *AAC, "-f", "tee"]
            source = await Ffmpeg.start("the source", [*arguments, outputs], tmp_path)
            await source.wait()
            await player.finish()
            return compare(await frames_of("reference.ts", tmp_path), player.frames)

    count = asyncio.run(play())
    print(count)
    assert count.expected == SECONDS * RATE
    # The last picture of a transport stream stays in the player's parser: nothing tells it that it is whole.
    assert count.intact >= 0.99 * count.expected - 1
    wait_for("arrival of all packets", lambda: crossed(f))


# ---- ffmpeg, RTP of its own packetizers ----------------------------------------------------------


class Tap:
    """Stands between an encoder and the edge, on the ports that the encoder is told; keeps all datagrams."""

    def __init__(self, stack: ExitStack, first: int, to: int, ports: int) -> None:
        self.seen: dict[int, list[bytes]] = {n: [] for n in range(ports)}
        self._sockets = {stack.enter_context(receiver(first + n)): n for n in range(ports)}
        self._to = to
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        stack.callback(self.stop)

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            for sock in select.select(list(self._sockets), [], [], 0.05)[0]:
                number = self._sockets[sock]
                data = sock.recv(2048)
                self.seen[number].append(data)
                sock.sendto(data, ("127.0.0.1", self._to + number))


def mappings(datagrams: list[bytes]) -> list[tuple[int, int]]:
    """(NTP time in 2^-32 s, RTP timestamp) of the sender reports, RFC 3550 section 6.4.1."""
    return [struct.unpack_from("!QI", d, 8) for d in datagrams if d[1] == 200]


@FFMPEG
def test_default_packets_cross_whole_and_reports_keep_audio_and_video_together(
    fleet: Play, tmp_path: Path
) -> None:
    f = fleet(H264, OPUS, loss=0.3)
    with ExitStack() as stack:
        left = [stack.enter_context(receiver(f.player + n)) for n in range(4)]
        tapped = free_port(4)
        tap = Tap(stack, tapped, f.ingest, 4)
        subprocess.run(
            [
                *("ffmpeg", *QUIET, *INPUT),
                *("-t", "6", "-map", "0:v", *X264, "-f", "rtp", "-payload_type", "96"),
                f"rtp://127.0.0.1:{tapped}",
                *("-t", "6", "-map", "1:a", *LIBOPUS, "-f", "rtp", "-payload_type", "97"),
                f"rtp://127.0.0.1:{tapped + 2}",
            ],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        out = [received(sock, 0.5) for sock in left]
        tap.stop()
    for track, clock in ((0, 90_000), (2, 48_000)):
        entered = tap.seen[track]
        assert [d[12:] for d in out[track]] == [d[12:] for d in entered]
        assert [len(d) for d in out[track]] == [len(d) for d in entered]
        shift = (int.from_bytes(out[track][0][4:8]) - int.from_bytes(entered[0][4:8])) % 2**32
        ntp, timestamp = mappings(tap.seen[track + 1])[0]
        reports = mappings(out[track + 1])
        assert len(reports) >= 5
        for ntp_out, timestamp_out in reports:
            ticks = (timestamp_out - shift - timestamp + 2**31) % 2**32 - 2**31
            drift_ms = ((ntp_out - ntp) / 2**32 - ticks / clock) * 1000
            assert abs(drift_ms) < 1, f"track {track}: the mapping moved by {drift_ms} ms"
    assert max(len(d) for d in out[0]) == 1472


@FFMPEG
def test_a_player_opens_the_sdp_of_the_api(fleet: Play, tmp_path: Path) -> None:
    f = fleet(H264, OPUS)
    url = f"{f.region.url}/v1/streams/{STREAM}.sdp?host=127.0.0.1&port={f.player}"
    player = subprocess.Popen(
        [
            *("ffmpeg", *QUIET, "-protocol_whitelist", "http,tcp,udp,rtp", "-i", url),
            *("-map", "0:v", "-map", "0:a", "-t", "4", "-f", "framecrc", "played"),
        ],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    )
    source = subprocess.Popen(
        [
            *("ffmpeg", *QUIET, *INPUT),
            *("-map", "0:v", *X264, "-f", "rtp", "-payload_type", "96"),
            f"rtp://127.0.0.1:{f.ingest}?pkt_size=1200",
            *("-map", "1:a", *LIBOPUS, "-f", "rtp", "-payload_type", "97"),
            f"rtp://127.0.0.1:{f.ingest + 2}?pkt_size=1200",
        ],
        stdout=subprocess.DEVNULL,
    )
    try:
        errors = player.communicate(timeout=2 * PATIENCE)[1]
    finally:
        for process in (player, source):
            process.kill()
            process.wait()
    lines = [line for line in (tmp_path / "played").read_text().splitlines() if not line.startswith("#")]
    assert player.returncode == 0, errors
    assert sum(line.startswith("0,") for line in lines) >= 1.5 * RATE
    assert sum(line.startswith("1,") for line in lines) >= 1.5 * 48_000 / 1024
    wait_for("arrival of all packets", lambda: crossed(f))


# ---- GStreamer -----------------------------------------------------------------------------------


@contextmanager
def launch(directory: Path, *pipeline: str) -> Iterator["subprocess.Popen[bytes]"]:
    process = subprocess.Popen(
        ["gst-launch-1.0", "-q", "-e", *" ".join(pipeline).split()], cwd=directory, stdout=subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


ENCODER = (
    f"videotestsrc is-live=true num-buffers={SECONDS * RATE} ! "
    f"video/x-raw,width={WIDTH},height={HEIGHT},framerate={RATE}/1 ! "
    f"x264enc tune=zerolatency speed-preset=ultrafast key-int-max={RATE} ! "
    "rtph264pay pt=96 mtu=1200 config-interval=-1"
)
CAPS = "application/x-rtp,media=video,clock-rate=90000,encoding-name=H264,payload=96"
DECODER = f"rtph264depay ! avdec_h264 ! videoconvert ! video/x-raw,format=I420,width={WIDTH},height={HEIGHT}"


@GSTREAMER
@pytest.mark.parametrize("rtcp", [False, True])
def test_gstreamer_sends_and_receives(fleet: Play, tmp_path: Path, rtcp: bool) -> None:
    f = fleet(H264)
    if rtcp:
        source = (
            f"rtpbin name=r {ENCODER} ! r.send_rtp_sink_0 "
            f"r.send_rtp_src_0 ! udpsink host=127.0.0.1 port={f.ingest} "
            f"r.send_rtcp_src_0 ! udpsink host=127.0.0.1 port={f.ingest + 1} sync=false async=false"
        )
        player = (
            f"rtpbin name=r latency=100 udpsrc port={f.player} caps={CAPS} ! r.recv_rtp_sink_0 "
            f"udpsrc port={f.player + 1} ! r.recv_rtcp_sink_0 r. ! {DECODER} ! filesink location=played.yuv"
        )
    else:
        source = f"{ENCODER} ! udpsink host=127.0.0.1 port={f.ingest}"
        player = (
            f"udpsrc port={f.player} caps={CAPS} ! rtpjitterbuffer latency=100 ! {DECODER} "
            "! filesink location=played.yuv"
        )
    played = tmp_path / "played.yuv"
    with launch(tmp_path, player) as receiving:
        wait_for("player", played.exists)
        with launch(tmp_path, source) as sending:
            assert sending.wait(SECONDS + PATIENCE) == 0
        received_before = -1
        while played.stat().st_size != received_before:  # until nothing comes any more
            received_before = played.stat().st_size
            time.sleep(0.5)
        receiving.send_signal(signal.SIGINT)  # with -e: end of stream, and the decoder gives what it holds
        receiving.wait(PATIENCE)
    frames = played.stat().st_size / (WIDTH * HEIGHT * 3 / 2)
    [track] = f.edge.json(f"/v1/streams/{STREAM}")["tracks"]
    print(f"{frames:g} of {SECONDS * RATE} frames; {track['sender_reports']} sender reports")
    assert frames >= 0.99 * SECONDS * RATE - 1
    assert bool(track["sender_reports"]) == rtcp
    wait_for("arrival of all packets", lambda: crossed(f))
