"""The examples for encoders: GStreamer, which heeds RTCP, and ffmpeg at the rate that the API gives."""

import http.server
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path

import pytest

from relay.lab.receiver import free_port
from relay_ext.rtp import build_pli, build_remb, build_rr, is_rtcp, parse, parse_rtcp
from tests.integration.nodes import PATIENCE, Fleet, Process, receiver, wait_for

EXAMPLES = Path(__file__).parents[2] / "deploy/examples"
DEBIAN_PYTHON = "/usr/bin/python3"
"""The one that Debian's python3-gst-1.0 is for."""
IDR, FU_A = 5, 28


def can_gstreamer() -> bool:
    program = "import gi; gi.require_version('Gst', '1.0'); from gi.repository import Gst; Gst.init(None); "
    program += "assert Gst.ElementFactory.find('x264enc') and Gst.ElementFactory.find('rtpbin')"
    try:
        return not subprocess.run([DEBIAN_PYTHON, "-c", program], capture_output=True, check=False).returncode
    except OSError:
        return False


pytestmark = pytest.mark.interop
GSTREAMER = pytest.mark.skipif(not can_gstreamer(), reason="python3-gst-1.0 is not installed")
FFMPEG = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")


@contextmanager
def example(name: str, log: Path, *arguments: str, python: str = sys.executable) -> Iterator[Process]:
    """What it prints goes to its log, too."""
    command = [python, str(EXAMPLES / name), *arguments]
    started = Process(["sh", "-c", 'exec "$@" >&2', "sh", *command], log)
    try:
        yield started
    finally:
        if started.popen.poll() is None:
            started.end()


def gstreamer(log: Path, port: int) -> AbstractContextManager[Process]:
    source = "videotestsrc is-live=true ! video/x-raw,width=320,height=240"
    options = ("--source", source, "--interval", "100000", "--kbps", "800", "127.0.0.1", str(port))
    return example("gst_encoder.py", log, *options, python=DEBIAN_PYTHON)


def starts_key_frame(packet: bytes) -> bool:
    """Of H.264 (RFC 6184): the first packet with the slice of a key frame."""
    nal = packet[parse(packet).header_len :]
    fragment = nal[0] & 31 == FU_A
    return bool(nal[1] & 0x9F == 0x80 | IDR if fragment else nal[0] & 31 == IDR)


@GSTREAMER
def test_a_player_asks_and_gstreamer_sends_a_key_frame(tmp_path: Path) -> None:
    """Across a hop that loses packets; without being asked the encoder would send none for an hour."""
    fleet = Fleet(tmp_path, loss=0.1, budget_ms=400)
    with fleet.stack, receiver(fleet.player) as player, gstreamer(tmp_path / "encoder.log", fleet.ingest):
        player.settimeout(PATIENCE)
        packets: list[bytes] = []
        keys: list[int] = []
        asked = False
        while len(keys) < 2:
            packet, source = player.recvfrom(2048)
            packets.append(packet)
            if starts_key_frame(packet):
                keys.append(len(packets))
            if keys and not asked and len(packets) - keys[0] > 60:
                asked, timestamp = True, parse(packet).timestamp
                player.sendto(build_rr(1) + build_pli(1, parse(packet).ssrc), source)
        assert asked
        assert (parse(packets[-1]).timestamp - timestamp) % 2**32 < 90_000  # within a second of media
        (track,) = fleet.edge.json("/v1/streams/studio")["tracks"]
        assert track["key_frame_requests"] >= 1 and track["key_frames"] == 2
        assert track["malformed_payloads"] == 0


@GSTREAMER
def test_gstreamer_follows_remb(tmp_path: Path) -> None:
    """Here the test is the node."""
    port = free_port(2)
    log = tmp_path / "encoder.log"
    with receiver(port) as media, receiver(port + 1) as control, gstreamer(log, port) as encoder:
        media.settimeout(PATIENCE)
        control.settimeout(PATIENCE)
        ssrc = parse(media.recv(2048)).ssrc
        for kbps, heeded in ((500, 475), (100, 300), (5000, 800)):
            while True:
                report, sender = control.recvfrom(2048)
                if is_rtcp(report) and parse_rtcp(report).report:
                    break
            control.sendto(build_rr(1) + build_remb(1, kbps * 1000, [ssrc]), sender)
            wait_for(f"bitrate {heeded}", partial(encoder.logged, f"bitrate {heeded} kb/s"))


class Api(http.server.BaseHTTPRequestHandler):
    """A node that says what `target` is."""

    target: int | None = None

    def do_GET(self) -> None:
        video = {"kind": "video", "target_bitrate": self.target}
        body = json.dumps({"tracks": [video, {"kind": "audio", "target_bitrate": 64_000}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def api() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Api)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@FFMPEG
def test_ffmpeg_starts_anew_at_the_rate_that_the_api_gives(tmp_path: Path) -> None:
    """To a node, which follows the new source at once since it comes from the same port."""
    fleet = Fleet(tmp_path, loss=0.0, budget_ms=400)
    local = free_port(2)
    command = "ffmpeg -nostdin -loglevel error -re -f lavfi -i testsrc2=size=320x240:rate=30 -c:v libx264 "
    command += "-preset ultrafast -tune zerolatency -b:v {kbps}k -maxrate {kbps}k -bufsize {kbps}k -f rtp "
    command += f"rtp://127.0.0.1:{fleet.ingest}?localrtpport={{port}}&localrtcpport={{rtcp_port}}"
    Api.target = None
    with fleet.stack, api() as url, receiver(fleet.player) as player:
        options = ("--api", url, "--stream", "studio", "--local-port", str(local), "--kbps", "800")
        log = tmp_path / "encoder.log"
        with example("ffmpeg_encoder.py", log, *options, "--", *command.split(" ")) as encoder:
            player.settimeout(PATIENCE)
            player.recv(2048)
            Api.target = 500_000
            wait_for("restart", lambda: encoder.logged("start at 450 kb/s"), 20)
            wait_for("change", lambda: source(fleet)["source_changes"] == 2)
            before = source(fleet)["received_packets"]
            wait_for("media", lambda: source(fleet)["received_packets"] > before + 30)
        assert source(fleet)["drops"]["other_source"] == 0


def source(fleet: Fleet) -> dict[str, object]:
    (track,) = fleet.edge.json("/v1/streams/studio")["tracks"]
    return dict(track)
