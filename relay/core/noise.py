"""Noise_IK_25519_ChaChaPoly_BLAKE2s, revision 34: the handshake of one pattern and nothing else.

    <- s                 the initiator knows the responder's static key beforehand
    -> e, es, s, ss      message 1, with a payload
    <- e, ee, se         message 2, with a payload

The responder reads message 1 in two steps, because it must know who calls before it spends more on them:
`read_static` costs one Diffie-Hellman operation and gives the caller's static key, `read_payload` costs
the second one. Ephemeral keys are passed in, so that nothing here draws random numbers; an ephemeral key
must never be used twice.
"""

import hashlib
import hmac

from relay_ext.crypto import (
    chacha20_poly1305_open,
    chacha20_poly1305_seal,
    x25519,
    x25519_public_key,
)

PROTOCOL_NAME = b"Noise_IK_25519_ChaChaPoly_BLAKE2s"

KEY_BYTES = 32
"""Bytes of a private key, a public key, a shared secret and a cipher key."""
TAG_BYTES = 16
"""Bytes that sealing adds."""
MESSAGE_1_OVERHEAD = KEY_BYTES + KEY_BYTES + TAG_BYTES + TAG_BYTES
"""Bytes of message 1 beside its payload: ephemeral, sealed static, tag."""
MESSAGE_2_OVERHEAD = KEY_BYTES + TAG_BYTES
"""Bytes of message 2 beside its payload: ephemeral, tag."""


class NoiseError(ValueError):
    """A handshake message does not authenticate, is too short, or carries a public key of low order."""


def public_key(private: bytes) -> bytes:
    """The X25519 public key (32 bytes) of a private key (32 bytes)."""
    return x25519_public_key(private)


def diffie_hellman(private: bytes, public: bytes) -> bytes:
    """X25519 (RFC 7748). Raises NoiseError when the result is all zeros (RFC 7748 section 6.1)."""
    try:
        return x25519(private, public)
    except ValueError as error:
        raise NoiseError("public key of low order") from error


def hkdf(chaining_key: bytes, material: bytes) -> tuple[bytes, bytes]:
    """HKDF of two outputs, 32 bytes each (Noise section 4.3), with HMAC-BLAKE2s."""
    key = _hmac(chaining_key, material)
    first = _hmac(key, b"\x01")
    return first, _hmac(key, first + b"\x02")


def _hmac(key: bytes, data: bytes) -> bytes:
    return hmac.new(key, data, hashlib.blake2s).digest()


class CipherState:
    """A key and the counter that is its nonce: 4 zero bytes, then 64 bits little-endian (Noise section
    5.1)."""

    def __init__(self, key: bytes) -> None:
        self.key = key
        self._counter = 0

    def seal(self, associated: bytes, plaintext: bytes) -> bytes:
        """Ciphertext and tag; the counter moves on."""
        return chacha20_poly1305_seal(self.key, self._nonce(), associated, plaintext)

    def open(self, associated: bytes, ciphertext: bytes) -> bytes:
        """Plaintext. Raises NoiseError when the tag does not fit or is not there."""
        try:
            return chacha20_poly1305_open(self.key, self._nonce(), associated, ciphertext)
        except ValueError as error:
            raise NoiseError("a handshake message does not authenticate") from error

    def _nonce(self) -> bytes:
        nonce = bytes(4) + self._counter.to_bytes(8, "little")
        self._counter += 1
        return nonce


class _Symmetric:
    """Chaining key, handshake hash and the cipher of the moment (Noise section 5.2)."""

    def __init__(self, prologue: bytes, responder_static: bytes) -> None:
        self.hash = hashlib.blake2s(PROTOCOL_NAME).digest()  # longer than a hash, so it is hashed
        self._chaining_key = self.hash
        self._cipher: CipherState | None = None
        self.mix_hash(prologue)
        self.mix_hash(responder_static)

    def mix_hash(self, data: bytes) -> None:
        self.hash = hashlib.blake2s(self.hash + data).digest()

    def mix_key(self, material: bytes) -> None:
        self._chaining_key, key = hkdf(self._chaining_key, material)
        self._cipher = CipherState(key)

    def seal(self, plaintext: bytes) -> bytes:
        assert self._cipher is not None  # every message of this pattern mixes a key before it seals
        ciphertext = self._cipher.seal(self.hash, plaintext)
        self.mix_hash(ciphertext)
        return ciphertext

    def open(self, ciphertext: bytes) -> bytes:
        assert self._cipher is not None
        plaintext = self._cipher.open(self.hash, ciphertext)
        self.mix_hash(ciphertext)
        return plaintext

    def split(self) -> tuple[bytes, bytes]:
        return hkdf(self._chaining_key, b"")


class Initiator:
    """The calling side: `write`, then `read`, then `split`."""

    def __init__(self, prologue: bytes, static: bytes, ephemeral: bytes, remote_static: bytes) -> None:
        self._state = _Symmetric(prologue, remote_static)
        self._static = static
        self._ephemeral = ephemeral
        self._remote_static = remote_static

    def write(self, payload: bytes) -> bytes:
        """Message 1. Raises NoiseError when the remote static key is of low order."""
        state, ephemeral = self._state, public_key(self._ephemeral)
        state.mix_hash(ephemeral)
        state.mix_key(diffie_hellman(self._ephemeral, self._remote_static))
        static = state.seal(public_key(self._static))
        state.mix_key(diffie_hellman(self._static, self._remote_static))
        return ephemeral + static + state.seal(payload)

    def read(self, message: bytes) -> bytes:
        """The payload of message 2. After a NoiseError this object is spent."""
        if len(message) < MESSAGE_2_OVERHEAD:
            raise NoiseError("message 2 is too short")
        state, ephemeral = self._state, message[:KEY_BYTES]
        state.mix_hash(ephemeral)
        state.mix_key(diffie_hellman(self._ephemeral, ephemeral))
        state.mix_key(diffie_hellman(self._static, ephemeral))
        return state.open(message[KEY_BYTES:])

    def split(self) -> tuple[bytes, bytes]:
        """(key to send with, key to receive with), 32 bytes each."""
        return self._state.split()

    @property
    def handshake_hash(self) -> bytes:
        return self._state.hash


class Responder:
    """The called side: `read_static`, `read_payload`, `write`, then `split`."""

    def __init__(self, prologue: bytes, static: bytes) -> None:
        self._state = _Symmetric(prologue, public_key(static))
        self._static = static
        self._remote_ephemeral = b""
        self._remote_static = b""
        self._sealed_payload = b""

    def read_static(self, message: bytes) -> bytes:
        """The caller's static public key, authenticated only once `read_payload` has succeeded. Raises
        NoiseError."""
        if len(message) < MESSAGE_1_OVERHEAD:
            raise NoiseError("message 1 is too short")
        payload_at = KEY_BYTES + KEY_BYTES + TAG_BYTES
        self._remote_ephemeral = message[:KEY_BYTES]
        self._sealed_payload = message[payload_at:]
        self._state.mix_hash(self._remote_ephemeral)
        self._state.mix_key(diffie_hellman(self._static, self._remote_ephemeral))
        self._remote_static = self._state.open(message[KEY_BYTES:payload_at])
        return self._remote_static

    def read_payload(self) -> bytes:
        """The payload of message 1. Raises NoiseError."""
        self._state.mix_key(diffie_hellman(self._static, self._remote_static))
        return self._state.open(self._sealed_payload)

    def write(self, ephemeral: bytes, payload: bytes) -> bytes:
        """Message 2. Raises NoiseError when a key of the caller is of low order."""
        state, public = self._state, public_key(ephemeral)
        state.mix_hash(public)
        state.mix_key(diffie_hellman(ephemeral, self._remote_ephemeral))
        state.mix_key(diffie_hellman(ephemeral, self._remote_static))
        return public + state.seal(payload)

    def split(self) -> tuple[bytes, bytes]:
        """(key to send with, key to receive with), 32 bytes each."""
        receive, send = self._state.split()
        return send, receive

    @property
    def handshake_hash(self) -> bytes:
        return self._state.hash
