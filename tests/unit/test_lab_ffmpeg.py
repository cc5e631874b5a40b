"""How a child process is run, with small programs in ffmpeg's place."""

import asyncio
from contextlib import aclosing
from pathlib import Path

import pytest

from relay.lab.ffmpeg import Ffmpeg, FfmpegError


def put_ffmpeg(monkeypatch: pytest.MonkeyPatch, directory: Path, script: str) -> None:
    program = directory / "ffmpeg"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}:/bin:/usr/bin")


async def run(directory: Path) -> list[bytes]:
    ffmpeg = await Ffmpeg.start("the test", [], directory, output=True)
    lines = [line async for line in ffmpeg.lines()]
    await ffmpeg.wait()
    return lines


def test_its_output(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    put_ffmpeg(monkeypatch, tmp_path, "echo one; echo not this >&2; pwd")
    assert asyncio.run(run(tmp_path)) == [b"one\n", f"{tmp_path}\n".encode()]


def test_when_it_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FfmpegError, match=r"^ffmpeg is not installed: apt-get install ffmpeg$"):
        asyncio.run(run(tmp_path))


@pytest.mark.parametrize(
    ("script", "sentence"),
    [
        (
            "echo '[udp @ 0x5565b16cac80] bind failed' >&2; echo bad >&2; exit 3",
            "ffmpeg, the test, ended with exit code 3: bind failed; bad",
        ),
        ("seq 1 100000 >&2; exit 1", "ended with exit code 1: 99997; 99998; 99999; 100000"),
        ("exit 1", "ended with exit code 1: it said nothing"),
        ("kill -9 $$", "was killed by signal 9: it said nothing"),
    ],
)
def test_its_last_words(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str, sentence: str) -> None:
    put_ffmpeg(monkeypatch, tmp_path, script)
    with pytest.raises(FfmpegError) as failed:
        asyncio.run(run(tmp_path))
    assert str(failed.value).endswith(sentence)


@pytest.mark.parametrize(
    ("script", "grace_seconds"),
    [
        ("trap 'exit 255' TERM; echo ready; while :; do sleep 0.01; done", 30),
        ("trap '' TERM; echo ready; while :; do sleep 0.01; done", 0.05),
        ("echo ready; while :; do sleep 0.01; done", 0),
    ],
)
def test_stopping(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str, grace_seconds: float) -> None:
    async def start_and_stop() -> bool:
        ffmpeg = await Ffmpeg.start("the test", [], tmp_path, output=True)
        async with aclosing(ffmpeg.lines()) as lines:
            assert await anext(lines) == b"ready\n"
        await ffmpeg.stop(grace_seconds)
        await ffmpeg.stop(grace_seconds)
        return ffmpeg.running

    put_ffmpeg(monkeypatch, tmp_path, script)
    assert asyncio.run(start_and_stop()) is False
