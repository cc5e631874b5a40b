"""msgpack maps with string keys, read field by field: what comes from the network is checked for its bounds,
types and sizes."""

from collections.abc import Mapping

import msgpack

U8, U16, U32 = 0xFF, 0xFFFF, 0xFFFFFFFF
STREAM_NAME_CHARS_MAX = 64
NODE_NAME_CHARS_MAX = 64


class WireError(ValueError):
    """Bytes from the network, or a message about to be sent, break the protocol's rules."""


Fields = Mapping[str, object]


def unpack_map(data: bytes, bytes_max: int) -> dict[str, object]:
    """One msgpack map with string keys and nothing after it. Raises WireError.

    The size is checked first, and no length inside can claim more than the bytes that are there, so that
    a bomb costs no more than its own size.
    """
    if len(data) > bytes_max:
        raise WireError(f"{len(data)} bytes of msgpack, {bytes_max} allowed")
    try:
        value = msgpack.unpackb(
            data, raw=False, max_str_len=bytes_max, max_bin_len=bytes_max, max_array_len=64, max_map_len=32,
            max_ext_len=0,
        )  # fmt: skip
    except (ValueError, msgpack.UnpackException, RecursionError) as error:
        raise WireError(f"not msgpack within its bounds: {type(error).__name__}") from error
    if not isinstance(value, dict):  # keys other than str and bytes are refused by msgpack itself
        raise WireError("a msgpack map was expected")
    return value


def integer(fields: Fields, key: str, low: int, high: int) -> int:
    """An integer field within low..high, both included. Raises WireError."""
    value = fields.get(key)
    if type(value) is not int or not low <= value <= high:
        raise WireError(f"{key} must be an integer from {low} to {high}")
    return value


def text(fields: Fields, key: str, chars_max: int, *, empty: bool = False) -> str:
    """A field of printable characters; the empty string only when `empty` (a missing field then reads as
    empty)."""
    value = fields.get(key, "" if empty else None)
    if (
        not isinstance(value, str)
        or len(value) > chars_max
        or not (value or empty)
        or not value.isprintable()
    ):
        raise WireError(f"{key} must be printable text of at most {chars_max} characters")
    return value


def boolean(fields: Fields, key: str) -> bool:
    value = fields.get(key)
    if not isinstance(value, bool):
        raise WireError(f"{key} must be true or false")
    return value


def items(fields: Fields, key: str, count_max: int, *, empty: bool = False) -> list[object]:
    """A list field with 1..count_max elements, or none when `empty` (a missing field then reads as none).
    Raises WireError."""
    value = fields.get(key, [] if empty else None)
    if not isinstance(value, list) or not 1 - empty <= len(value) <= count_max:
        raise WireError(f"{key} must be a list of {1 - empty} to {count_max} elements")
    return value
