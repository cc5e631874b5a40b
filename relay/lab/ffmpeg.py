"""ffmpeg as a child process: its start, its output, its end and its last words.

The child has a session of its own, so that Ctrl-C in a terminal reaches this process alone, which then stops
its children in the order that loses nothing.
"""

import asyncio
import re
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

from relay.errors import RelayError

_TAIL_BYTES: Final = 4096  # of stderr that is kept
_TAIL_LINES: Final = 4  # of it that an error shows
_WHERE = re.compile(r"^\[[^]]* @ 0x[0-9a-f]+\] ")  # the part of ffmpeg that speaks, with its address


class FfmpegError(RelayError, RuntimeError):
    """ffmpeg is missing, or ended when it should not have."""


class Ffmpeg:
    """One running ffmpeg. Whoever starts one stops it."""

    def __init__(self, process: Process, role: str) -> None:
        self._process = process
        self._role = role
        self._tail = b""
        self._listening = asyncio.create_task(self._keep_tail())

    @classmethod
    async def start(
        cls, role: str, arguments: Sequence[str], directory: Path, *, output: bool = False
    ) -> Self:
        """Run ffmpeg in `directory`; `role` names it in errors, `output` asks for its stdout.

        Raises FfmpegError when it is not installed.
        """
        command = ["ffmpeg", "-hide_banner", "-nostdin", "-loglevel", "error", *arguments]
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=DEVNULL,
                stdout=PIPE if output else DEVNULL,
                stderr=PIPE,
                cwd=directory,
                start_new_session=True,
            )
        except FileNotFoundError as error:
            raise FfmpegError("ffmpeg is not installed: apt-get install ffmpeg") from error
        return cls(process, role)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.returncode is None

    async def lines(self) -> AsyncGenerator[bytes, None]:
        """What it writes to stdout, until it ends."""
        assert self._process.stdout is not None, "started without output"
        async for line in self._process.stdout:
            yield line

    async def wait(self) -> None:
        """Until it has ended. Raises FfmpegError, with its last words, if that was a failure."""
        code = await self._process.wait()
        await self._listening
        if code:
            words = [
                _WHERE.sub("", line) for line in self._tail.decode(errors="replace").splitlines() if line
            ]
            ended = f"ended with exit code {code}" if code > 0 else f"was killed by signal {-code}"
            said = "; ".join(words[-_TAIL_LINES:]) or "it said nothing"
            raise FfmpegError(f"ffmpeg, {self._role}, {ended}: {said}")

    async def stop(self, grace_seconds: float) -> None:
        """Ask it to end, which completes what it writes; kill it when it has not ended after the grace.

        May be called at any time and more than once. How it ends is no failure.
        """
        try:
            if self.running and grace_seconds > 0:
                self._process.terminate()
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._process.wait(), grace_seconds)
        finally:  # also when cancelled meanwhile
            if self.running:
                self._process.kill()
        await self._process.wait()
        await self._listening

    async def _keep_tail(self) -> None:
        assert self._process.stderr is not None
        while chunk := await self._process.stderr.read(_TAIL_BYTES):
            self._tail = (self._tail + chunk)[-_TAIL_BYTES:]
