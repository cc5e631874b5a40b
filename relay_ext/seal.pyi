"""Datagram protection, replay windows and the handshake gate.

Raises ValueError for a wrong length, RuntimeError where OpenSSL fails.
"""

from typing import Final, Self

class AuthenticationError(ValueError):
    """The datagram was not sealed with this key, counter and header, or was changed on its way."""

class SealKey:
    """One direction's AEAD key; it either seals or opens, else TypeError.

    `cipher` is 1 for ChaCha20-Poly1305 (RFC 8439), 2 for AES-256-GCM (RFC 5116), `key` 32 bytes, `header` the
    16 bytes of associated data; the nonce is 4 zero bytes and the counter, little-endian.
    """

    def __new__(cls, cipher: int, key: bytes, sealing: bool) -> Self: ...
    def seal(self, counter: int, header: bytes, plaintext: bytes) -> bytes:
        """Ciphertext, then the 16-byte tag."""
    def open(self, counter: int, header: bytes, sealed: bytes) -> bytes:
        """The plaintext. Raises AuthenticationError."""
    def run(self, packets: int, size: int) -> None:
        """Seals, or tries to open, that many packets of `size` bytes (at most 2032), for timing."""

class ReplayWindow:
    """The last 8192 counters of one path (RFC 6479)."""

    def __new__(cls) -> Self: ...
    def check(self, counter: int) -> bool:
        """Whether the counter is new and not too old."""
    def commit(self, counter: int) -> None:
        """Marks a counter that `check` accepted and whose datagram was authentic."""

class Gate:
    """MAC1, cookies and source limits for handshake datagrams; the layouts are in the module's source."""

    PASS: Final[int]
    BAD_MAC1: Final[int]
    COOKIE: Final[int]
    DROP: Final[int]
    SHORT: Final[int]

    def __new__(cls, public_key: bytes) -> Self: ...
    def set_secret(self, secret: bytes) -> None:
        """A new cookie secret of 32 random bytes; the one before it stays valid until the next."""
    def check(self, now_ns: int, address: bytes, datagram: bytes) -> tuple[int, bytes]:
        """The verdict, and a cookie reply if that is COOKIE.

        `address` is 18 bytes: IPv6 or IPv4-mapped address, then the port, big-endian.
        """
