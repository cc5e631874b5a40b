"""Whether a process does what its configuration says, as that is on the disk now."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from relay.config import Config, FleetConfig, HopConfig

SECTIONS = ("node", "engine", "hop", "fleet", "ops", "web", "log")
"""Of which a reload applies nothing, or a part."""


class Applied:
    """The configuration that a process began with, `config`, and those that it has taken since."""

    def __init__(self, path: Path | None, config: Config) -> None:
        self._path = path
        self._began = config
        self.take(config)

    def take(self, config: Config) -> None:
        """It has just been read from its files."""
        signed = (config.fleet.record_file, config.fleet.revocations_file) if config.fleet else ()
        files = (self._path, *signed, *(ingest.sdp for ingest in config.ingest.rtp))
        self._files = {file: _mark(file) for file in files if file is not None}
        self._config = config

    @property
    def waiting(self) -> list[str]:
        """Sections that want a restart."""
        began, now = self._began, self._config
        return [name for name in SECTIONS if _lasting(getattr(began, name)) != _lasting(getattr(now, name))]

    @property
    def complete(self) -> bool:
        """Nothing waits for a restart, and no file has become another since it was read."""
        return not self.waiting and all(_mark(file) == mark for file, mark in self._files.items())


def _mark(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _lasting(section: Any) -> Any:
    """A section without what a reload applies."""
    if isinstance(section, FleetConfig):
        return replace(section, record_file=None, revocations_file=None)
    return replace(section, peers=()) if isinstance(section, HopConfig) else section
