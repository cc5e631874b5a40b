"""A live encoder: ffmpeg sends H.264 and Opus by RTP, and keeps the same bitstream as loss-free reference.

The picture is ffmpeg's test pattern with a running clock in it, so that no two frames are alike; or a file,
again and again. What is encoded goes through ffmpeg's tee to RTP and, unchanged, to a file whose decode is
the reference: about 19 MB a minute in the directory that the caller gives.
"""

from collections.abc import Sequence
from contextlib import aclosing
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from relay.lab.ffmpeg import Ffmpeg
from relay.lab.frames import FrameHash, parse_line
from relay.media.rtp import TrackFormat

VIDEO: Final = TrackFormat("video", "H264/90000", 96, 90_000, "packetization-mode=1")
AUDIO: Final = TrackFormat("audio", "opus/48000/2", 97, 48_000)

WIDTH: Final = 1280
HEIGHT: Final = 720
FRAME_RATE: Final = 30  # frames/s, a key frame each second
VIDEO_BITRATE: Final = 2_500_000  # bit/s

_REFERENCE: Final = "reference.h264"
_STOP_GRACE_SECONDS: Final = 5.0
_PACKET_BYTES: Final = 1200  # an RTP packet, its header included

_PATTERN = [
    *("-re", "-f", "lavfi", "-i", f"testsrc2=size={WIDTH}x{HEIGHT}:rate={FRAME_RATE}"),
    *("-re", "-f", "lavfi", "-i", "sine=frequency=440:beep_factor=4:sample_rate=48000"),
    *("-map", "0:v", "-map", "1:a"),
]

# A repeated parameter set before each key frame is x264's default as long as no muxer asks for global
# headers; the tee asks for none. The rate is held over a quarter of a second, so that key frames are not
# huge.
_ENCODERS = [
    *("-c:v", "libx264", "-preset", "ultrafast", "-tune", "zerolatency", "-pix_fmt", "yuv420p", "-bf", "0"),
    *("-g", str(FRAME_RATE), "-keyint_min", str(FRAME_RATE), "-sc_threshold", "0"),
    *("-b:v", str(VIDEO_BITRATE), "-maxrate", str(VIDEO_BITRATE), "-bufsize", str(VIDEO_BITRATE // 4)),
    *("-c:a", "libopus", "-b:a", "64k", "-ar", "48000", "-ac", "2", "-frame_duration", "20"),
]


class Source:
    """Sends to two UDP ports of this machine from the moment the context is entered.

    `seconds` of media, or until it is stopped when None; from `file`, which has video and audio, or the
    pattern. `directory` is the caller's, and holds the reference. Entering raises FfmpegError when ffmpeg is
    missing.
    """

    def __init__(
        self,
        video_port: int,
        audio_port: int,
        directory: Path,
        *,
        file: Path | None = None,
        seconds: float | None = None,
    ) -> None:
        self._directory = directory
        self._arguments = [
            *(_PATTERN if file is None else _file(file)),
            *_ENCODERS,
            *([] if seconds is None else ["-t", f"{seconds:.3f}"]),
            *("-f", "tee", _outputs(video_port, audio_port)),
        ]

    async def __aenter__(self) -> Self:
        self._ffmpeg = await Ffmpeg.start("the source", self._arguments, self._directory)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def wait(self) -> None:
        """Until all has been sent. Raises FfmpegError when ffmpeg failed, or was stopped from outside."""
        await self._ffmpeg.wait()

    async def stop(self) -> None:
        """Stop sending; the reference is then complete."""
        await self._ffmpeg.stop(_STOP_GRACE_SECONDS)

    async def reference(self) -> list[FrameHash]:
        """Every frame that was sent, as a loss-free decode gives it; once stopped. Raises FfmpegError."""
        decoder = await Ffmpeg.start(
            "the decoder of the reference",
            ["-f", "h264", "-i", _REFERENCE, "-fps_mode", "passthrough", "-f", "framemd5", "pipe:1"],
            self._directory,
            output=True,
        )
        try:
            async with aclosing(decoder.lines()) as lines:
                frames = [frame async for line in lines if (frame := parse_line(line)) is not None]
            await decoder.wait()
        finally:
            await decoder.stop(0)
        return frames


def _file(file: Path) -> Sequence[str]:
    """A media file in a loop, fitted into the same picture."""
    fit = f"scale={WIDTH}:{HEIGHT}:force_original_aspect_ratio=decrease,pad={WIDTH}:{HEIGHT}:-1:-1,setsar=1"
    return [
        *("-re", "-stream_loop", "-1", "-i", str(file.absolute()), "-map", "0:v:0", "-map", "0:a:0"),
        *("-vf", f"{fit},fps={FRAME_RATE}"),
    ]


def _outputs(video_port: int, audio_port: int) -> str:
    """The outputs of the tee. The reference is a raw bitstream: complete whenever ffmpeg ends."""

    def rtp(select: str, track: TrackFormat, port: int) -> str:
        options = f"select={select}:f=rtp:payload_type={track.payload_type}"
        return f"[{options}]rtp://127.0.0.1:{port}?pkt_size={_PACKET_BYTES}"

    return "|".join(
        [rtp("v", VIDEO, video_port), rtp("a", AUDIO, audio_port), f"[select=v:f=h264]{_REFERENCE}"]
    )
