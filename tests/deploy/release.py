"""Other releases than the one that is there: its wheel under another version, with a change."""

import base64
import hashlib
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

from relay import __version__

Change = tuple[str, str, str]
"""A file of the wheel, what it has, what it has instead."""


def other_release(wheels: Path, version: str, *changes: Change) -> None:
    """Puts the wheel beside the one that it is made from. Only metadata and Python are changed."""
    (wheel,) = wheels.glob(f"edge_relay-{__version__}-*.whl")
    old, new = f"edge_relay-{__version__}.dist-info", f"edge_relay-{version}.dist-info"
    with ZipFile(wheel) as zipped:
        files = {name.replace(old, new): zipped.read(name) for name in zipped.namelist()}
    numbers = (
        (f"{new}/METADATA", f"\nVersion: {__version__}\n", f"\nVersion: {version}\n"),
        ("relay/__init__.py", f'"{__version__}"', f'"{version}"'),
    )
    for name, before, after in (*numbers, *changes):
        text = files[name].decode()
        assert before in text, f"{name} has no {before!r}"
        files[name] = text.replace(before, after).encode()
    del files[f"{new}/RECORD"]
    record = "".join(f"{name},sha256={_digest(data)},{len(data)}\n" for name, data in files.items())
    files[f"{new}/RECORD"] = f"{record}{new}/RECORD,,\n".encode()
    with ZipFile(wheels / wheel.name.replace(__version__, version), "w", ZIP_DEFLATED) as zipped:
        for name, data in files.items():
            zipped.writestr(name, data)


def _digest(data: bytes) -> str:
    """As RECORD has it (https://packaging.python.org/en/latest/specifications/recording-installed-packages/)."""
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
