"""Files that are written whole: by commands once, by a node again and again."""

import os
from contextlib import suppress
from pathlib import Path


def create_file(path: Path, text: str, mode: int) -> None:
    """A new file. Raises FileExistsError, and OSError."""
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def replace_file(path: Path, text: str, mode: int) -> None:
    """The file holds either what it held or all of `text`, whatever happens. Raises OSError."""
    new = path.with_name(f".{path.name}.new")
    with suppress(FileNotFoundError):
        new.unlink()
    create_file(new, text, mode)
    new.replace(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)  # the new name, too
    finally:
        os.close(directory)
