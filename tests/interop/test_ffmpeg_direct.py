"""The lab's source and receiver without a relay between them: what is counted is what the path did."""

import asyncio
import shutil
import subprocess
from pathlib import Path

import pytest

from relay.lab.ffmpeg import FfmpegError
from relay.lab.frames import FrameCount, compare
from relay.lab.link import LinkConfig
from relay.lab.proxy import Proxy
from relay.lab.receiver import Receiver, free_port
from relay.lab.source import AUDIO, FRAME_RATE, VIDEO, Source
from relay.wire import sdp

pytestmark = [
    pytest.mark.interop,
    pytest.mark.skipif(
        shutil.which("ffmpeg") is None, reason="ffmpeg is not installed: apt-get install ffmpeg"
    ),
]

SECONDS = 4
PORTS = 4  # RTP and RTCP of both tracks


def description(port: int) -> str:
    return sdp.write("test", [VIDEO, AUDIO], "127.0.0.1", port)


async def play(
    directory: Path,
    *,
    seconds: float | None = SECONDS,
    file: Path | None = None,
    loss: float = 0,
    seed: int = 1,
) -> FrameCount:
    """Source to receiver, the video packets through a link that loses some; None: stopped midway."""
    first = free_port(PORTS + 2)
    async with (
        Receiver(description(first), directory) as receiver,
        Proxy(
            ("127.0.0.1", first + PORTS), ("127.0.0.1", first), up=LinkConfig(loss=loss), seed=seed
        ) as proxy,
        Source(proxy.address[1], first + 2, directory, seconds=seconds, file=file) as source,
    ):
        if seconds is None:
            while len(receiver.frames) < FRAME_RATE:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            await source.stop()
        else:
            await source.wait()
        await receiver.finish()
        assert proxy.kernel_drops() == 0
        return compare(await source.reference(), receiver.frames)


def test_without_loss_every_frame_is_intact(tmp_path: Path) -> None:
    frames = SECONDS * FRAME_RATE
    assert asyncio.run(play(tmp_path)) == FrameCount(frames, frames, frames)


def test_a_source_that_is_stopped_has_a_complete_reference(tmp_path: Path) -> None:
    count = asyncio.run(play(tmp_path, seconds=None))
    assert count.expected >= FRAME_RATE
    assert count == FrameCount(count.expected, count.expected, count.expected)


@pytest.mark.parametrize("seed", [1])
def test_loss_is_seen(tmp_path: Path, seed: int) -> None:
    count = asyncio.run(play(tmp_path, loss=0.02, seed=seed))
    assert count.expected == SECONDS * FRAME_RATE
    assert 0 < count.intact < count.decoded <= count.expected


def test_a_file_in_a_loop(tmp_path: Path) -> None:
    file = tmp_path / "a clip: 1|[x].nut"
    subprocess.run(
        [
            *(
                "ffmpeg",
                "-loglevel",
                "error",
                "-nostdin",
                "-f",
                "lavfi",
                "-i",
                "testsrc2=size=320x240:rate=25",
            ),
            *("-f", "lavfi", "-i", "sine", "-t", "1", "-c:v", "mpeg4", "-c:a", "pcm_s16le", str(file)),
        ],
        check=True,
    )
    count = asyncio.run(play(tmp_path, seconds=2.5, file=file))
    assert count.expected >= 2 * FRAME_RATE
    assert count == FrameCount(count.expected, count.expected, count.expected)


def test_ports_that_are_taken(tmp_path: Path) -> None:
    async def run() -> None:
        port = free_port(PORTS)
        async with Receiver(description(port), tmp_path), Receiver(description(port), tmp_path):
            pass

    with pytest.raises(FfmpegError, match=r"the receiver, ended .*Address already in use"):
        asyncio.run(run())


def test_a_receiver_without_a_stream_ends(tmp_path: Path) -> None:
    async def run() -> int:
        async with Receiver(description(free_port(PORTS)), tmp_path) as receiver:
            await receiver.finish(quiet_seconds=0.01)
            return len(receiver.frames)

    assert asyncio.run(run()) == 0


def test_a_file_that_is_missing(tmp_path: Path) -> None:
    async def run() -> None:
        async with Source(free_port(PORTS), 1, tmp_path, file=tmp_path / "none.mp4") as source:
            await source.wait()

    with pytest.raises(FfmpegError, match=r"the source, .*none.mp4: No such file"):
        asyncio.run(run())
