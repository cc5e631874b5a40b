"""The file that a node keeps over a restart."""

import asyncio
import os
import stat
from pathlib import Path

import pytest

from relay import files
from relay.services import store
from relay.services.store import FileStore


def test_what_was_saved_last_is_there_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "fleet.json"

    async def save() -> None:
        of = FileStore(path)
        assert of.load() == ""
        for i in range(100):
            of.save(f"{i}")
        await of.close()

    asyncio.run(save())
    assert FileStore(path).load() == "99"
    assert os.listdir(tmp_path) == ["fleet.json"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_what_came_meanwhile_follows_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    monkeypatch.setattr(store, "replace_file", lambda path, text, mode: written.append(text))

    async def save() -> None:
        of = FileStore(tmp_path / "x")
        of.save("a")
        await asyncio.sleep(0)  # the thread has it
        of.save("b")
        of.save("c")
        await of.close()
        of.save("d")
        await of.close()

    asyncio.run(save())
    assert written == ["a", "c", "d"]


def test_a_directory_that_is_not_there_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def save() -> None:
        of = FileStore(tmp_path / "none" / "x")
        of.save("a")
        await of.close()

    asyncio.run(save())
    assert "state_not_saved" in caplog.text
    (tmp_path / "bytes").write_bytes(b"\xff")
    assert FileStore(tmp_path / "bytes").load() == ""
    assert "state_unreadable" in caplog.text


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x"
    files.create_file(path, "old", 0o600)
    (tmp_path / ".x.new").write_text("what a loss of power left")

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            files.replace_file(path, "new", 0o600)
    assert path.read_text() == "old"
    files.replace_file(path, "new", 0o644)
    assert path.read_text() == "new" and stat.S_IMODE(path.stat().st_mode) == 0o644
