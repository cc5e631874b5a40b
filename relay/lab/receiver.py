"""A player that only counts: ffmpeg receives RTP as an SDP says, decodes it, and hashes every picture.

It puts out exactly the frames that its decoder does, none repeated or dropped to keep a rate. It ends by an
RTCP BYE, since only then does it decode the last packets that it holds; a signal would lose about two frames.
"""

import asyncio
import os
import socket
import struct
from contextlib import ExitStack, aclosing, suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from relay.lab.ffmpeg import Ffmpeg, FfmpegError
from relay.lab.frames import FrameHash, parse_line
from relay.wire import sdp

_DESCRIPTION: Final = "receiver.sdp"
_READY_SECONDS: Final = 10.0
_READY_POLL_SECONDS: Final = 0.02
_END_SECONDS: Final = 5.0  # for the last packets, after the BYE
_BYE: Final = struct.pack(
    "!BBHIBBHI", 0x80, 201, 1, 0, 0x81, 203, 1, 0
)  # empty RR, BYE: RFC 3550 section 6.1

# ffmpeg otherwise gives up after some seconds without a packet. The queue gives demuxing a thread of its own,
# which keeps the socket's buffer empty while a picture is decoded. Packets out of order are waited for as by
# any ffmpeg player: 500 packets, 100 ms. `-fflags nobuffer` would throw away what is read to find out the
# formats.
_INPUT = [
    *("-protocol_whitelist", "file,udp,rtp", "-listen_timeout", "86400", "-buffer_size", str(1 << 20)),
    *("-fpsprobesize", "0", "-thread_queue_size", "1024", "-threads", "1", "-f", "sdp"),
]
_VIDEO = ["-map", "0:v:0", "-fps_mode", "passthrough", "-flush_packets", "1", "-f", "framemd5", "pipe:1"]
_AUDIO = ["-map", "0:a:0", "-f", "null", "-"]


class Receiver:
    """Receives on this machine what an SDP describes, from the moment the context has been entered.

    `description` names the ports, and one address of this machine; `directory` is the caller's. SdpError is
    raised for a description that cannot be used; FfmpegError, on entering, when ffmpeg is missing or cannot
    have the ports.
    """

    def __init__(self, description: str, directory: Path) -> None:
        self.frames: list[FrameHash] = []
        """What has been decoded so far, in order."""
        self._description = description
        self._media = sdp.parse(description).media
        self._directory = directory
        self._progress = asyncio.Event()

    async def __aenter__(self) -> Self:
        await asyncio.to_thread((self._directory / _DESCRIPTION).write_text, self._description)
        arguments = [*_INPUT, "-localaddr", self._media[0].address, "-i", _DESCRIPTION, *_VIDEO]
        if any(media.kind != "video" for media in self._media):
            arguments += _AUDIO
        self._ffmpeg = await Ffmpeg.start("the receiver", arguments, self._directory, output=True)
        self._reading = asyncio.create_task(self._read())
        try:
            await self._ready()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def wait(self) -> None:
        """Until it ends by itself, which only an RTCP BYE for every track makes it do. Raises FfmpegError."""
        await self._ffmpeg.wait()

    async def finish(self, quiet_seconds: float = 1.0, timeout_seconds: float = 10.0) -> None:
        """Wait until no frame comes for `quiet_seconds`, `timeout_seconds` at most; `frames` is then whole.

        The source has been stopped before, and `quiet_seconds` is longer than the path's delay.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds):
                while await self._progresses(quiet_seconds):
                    pass
        family = socket.AF_INET6 if ":" in self._media[0].address else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as bye:
            for media in self._media:
                bye.sendto(_BYE, (media.address, media.rtcp_port))
        await asyncio.wait([self._reading], timeout=_END_SECONDS)
        await self.stop()

    async def stop(self) -> None:
        """End it at once; frames that it holds are lost."""
        await self._ffmpeg.stop(0)
        await self._reading

    async def _progresses(self, seconds: float) -> bool:
        """Whether a frame comes within `seconds`."""
        self._progress.clear()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._progress.wait(), seconds)
        return self._progress.is_set()

    async def _read(self) -> None:
        async with aclosing(self._ffmpeg.lines()) as lines:
            async for line in lines:
                if (frame := parse_line(line)) is not None:
                    self.frames.append(frame)
                    self._progress.set()

    async def _ready(self) -> None:
        """Until ffmpeg listens on all ports. Raises FfmpegError when it does not."""
        wanted = {port for media in self._media for port in (media.port, media.rtcp_port)}
        try:
            async with asyncio.timeout(_READY_SECONDS):
                while self._ffmpeg.running and not wanted <= _udp_ports(self._ffmpeg.pid):  # noqa: ASYNC110
                    await asyncio.sleep(_READY_POLL_SECONDS)
        except TimeoutError:
            raise FfmpegError(f"ffmpeg, the receiver, does not listen after {_READY_SECONDS:.0f} s") from None
        if not self._ffmpeg.running:
            await self._ffmpeg.wait()


def free_port(count: int) -> int:
    """The first of `count` UDP ports in a row, an even one, that nobody on this machine holds just now.

    Below the range from which the kernel hands out ports; each process starts its search elsewhere, since two
    that search at once would find the same. Raises OSError when there is none.
    """
    firsts = range(20_000, 32_000 - count, 2 * ((count + 1) // 2))
    start = os.getpid() % len(firsts)
    candidates: list[int] = [*firsts[start:], *firsts[:start]]
    for first in candidates:
        with ExitStack() as held:
            try:
                for port in range(first, first + count):
                    held.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)).bind(("", port))
            except OSError:
                continue
            return first
    raise OSError(f"no {count} free UDP ports in a row between 20000 and 32000")


def _udp_ports(pid: int) -> set[int]:
    """The UDP ports that a process of this user holds, by proc(5)."""
    inodes = set()
    with suppress(FileNotFoundError):  # a descriptor, or the process, has gone meanwhile
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            inodes.add(str(descriptor.readlink()))
    ports = set()
    for table in ("/proc/net/udp", "/proc/net/udp6"):
        with suppress(FileNotFoundError), open(table) as lines:  # a kernel without IPv6 has one only
            for fields in map(str.split, list(lines)[1:]):
                if f"socket:[{fields[9]}]" in inodes:
                    ports.add(int(fields[1].rpartition(":")[2], 16))
    return ports
