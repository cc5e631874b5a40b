"""What a report of a fault must say of the program and of what is below it."""

import platform
from collections.abc import Sequence
from typing import Any

from relay import __version__
from relay.wire.hop import CIPHER_NAMES
from relay_ext import gf256
from relay_ext.crypto import openssl_version


def build(ciphers: Sequence[int]) -> dict[str, Any]:
    """`ciphers`: the fastest here first."""
    return {
        "version": __version__,
        "python": platform.python_version(),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "libc": " ".join(platform.libc_ver()),
        "openssl": openssl_version(),
        "ciphers": [CIPHER_NAMES[cipher] for cipher in ciphers],
        "gf256": gf256.selected(),
    }
