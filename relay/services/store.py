"""What a node keeps over a restart: one small file in its state directory, replaced whole."""

import asyncio
import logging
from pathlib import Path

from relay.files import replace_file
from relay.log import event

logger = logging.getLogger("relay.state")


class FileStore:
    """Saves in a thread, for a memory card may take seconds; of what comes meanwhile, the newest follows.

    A file that cannot be written is logged and tried again with the next `save`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._text: str | None = None
        self._task: asyncio.Task[None] | None = None

    def load(self) -> str:
        try:
            return self._path.read_text()
        except FileNotFoundError:
            return ""
        except (OSError, UnicodeDecodeError) as error:
            event(logger, logging.WARNING, "state_unreadable", path=self._path, error=error)
            return ""

    def save(self, text: str) -> None:
        self._text = text
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._write())

    async def close(self) -> None:
        """Returns when everything is written."""
        if self._task is not None:
            await self._task

    async def _write(self) -> None:
        while self._text is not None:
            text, self._text = self._text, None
            try:
                await asyncio.to_thread(replace_file, self._path, text, 0o600)
            except OSError as error:
                event(logger, logging.WARNING, "state_not_saved", path=self._path, error=error)
