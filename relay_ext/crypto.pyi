"""The primitives of handshakes and of signed records.

Everywhere a ValueError is raised for a wrong length, and a RuntimeError where OpenSSL itself fails.
"""

def openssl_version() -> str:
    """Name and version of the library that is loaded, which need not be the one of the build."""

def x25519_public_key(private: bytes) -> bytes:
    """The public key (32 bytes) of any 32 random bytes (RFC 7748)."""

def x25519(private: bytes, public: bytes) -> bytes:
    """The shared secret, 32 bytes. Raises ValueError for a key of low order (RFC 7748 section 6.1)."""

def ed25519_public_key(private: bytes) -> bytes:
    """The public key (32 bytes) of any 32 random bytes, the seed of RFC 8032."""

def ed25519_sign(private: bytes, message: bytes) -> bytes:
    """A signature of 64 bytes (RFC 8032 section 5.1.6)."""

def ed25519_verify(public: bytes, message: bytes, signature: bytes) -> None:
    """Raises AuthenticationError, a ValueError, unless the key has signed the message (section 5.1.7)."""

def chacha20_poly1305_seal(key: bytes, nonce: bytes, associated: bytes, plaintext: bytes) -> bytes:
    """Ciphertext and a tag of 16 bytes (RFC 8439); key 32 bytes, nonce 12, never twice with one key."""

def chacha20_poly1305_open(key: bytes, nonce: bytes, associated: bytes, sealed: bytes) -> bytes:
    """The plaintext. Raises AuthenticationError, a ValueError."""
