"""The text form of keys: base64 of 32 bytes, as WireGuard's tools write them. No files are touched here."""

import base64
import binascii

from relay.core.noise import KEY_BYTES, public_key


class KeyFormatError(ValueError):
    """The text is not one key."""


def parse_key(text: str) -> bytes:
    """32 bytes from base64 text; surrounding white space is ignored. Raises KeyFormatError, never showing
    the text."""
    try:
        key = base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError) as error:
        raise KeyFormatError("a key is 44 characters of base64; this is not base64") from error
    if len(key) != KEY_BYTES:
        raise KeyFormatError(f"a key is {KEY_BYTES} bytes in base64; this has {len(key)}")
    return key


def format_key(key: bytes) -> str:
    """Base64 text of 44 characters, without a newline."""
    return base64.b64encode(key).decode("ascii")


def private_key_file(private: bytes) -> str:
    """What a private key file holds: the key and a newline."""
    return format_key(private) + "\n"


def public_key_text(private_key_text: str) -> str:
    """The public key, as text, of a private key file's content. Raises KeyFormatError."""
    return format_key(public_key(parse_key(private_key_text)))
