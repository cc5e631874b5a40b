from collections.abc import Sequence

from typing_extensions import Buffer

def available() -> tuple[str, ...]:
    """Names of the kernels that this processor runs, the slowest first."""

def selected() -> str:
    """Name of the kernel in use."""

def select(name: str) -> None:
    """Use another kernel, in the whole process. Not while packets flow: for tests and measurements.

    Raises ValueError if the processor does not run it.
    """

def inverse(a: int) -> int:
    """The multiplicative inverse; 0 for 0. Raises OverflowError beyond 0..255."""

def muladd(dst: Buffer, src: Buffer, c: int, times: int = 1) -> None:
    """dst ^= c * src over GF(2^8) with polynomial 0x11D (RFC 8681 section 3.7.1), `times` times over.

    Raises ValueError if the lengths in bytes differ.
    """

def mul(dst: Buffer, src: Buffer, c: int, times: int = 1) -> None:
    """dst = c * src. Raises ValueError if the lengths in bytes differ."""

def muladd_sum(dst: Buffer, sources: Sequence[Buffer], c: Buffer, times: int = 1) -> None:
    """dst ^= the sum of c[k] * sources[k], each from the first byte of dst on; eight share a pass over dst.

    Raises ValueError if a source is longer than dst or 65535 bytes, or there is not one constant for each.
    """
