"""What a node believes on the word of the fleet's key, and what time it is at least.

No clock is asked: small boards lose theirs, and one that jumps must not take a fleet down. But every
statement proves that its time of signing has passed, and the monotonic clock adds what has gone by since it
was first seen. That lower bound only rises; it is kept over restarts. A record is expired once the bound has
reached its expiry: at once on a node that keeps running, on one that was switched off when it hears the
first newer statement, and never because a clock is wrong.
"""

from relay.core.handshake import HandshakeError
from relay.core.record import (
    Record,
    RecordError,
    Revocations,
    decode_record,
    decode_revocations,
    verify,
)
from relay.wire.hop import SECOND


class Trust:
    """Of one fleet: `authority` is its Ed25519 public key."""

    def __init__(self, authority: bytes) -> None:
        self.authority = authority
        self.revocations: Revocations | None = None
        self.packed = b""
        """The revocations as they were signed, to be passed on; empty without any."""
        self._proven_s = 0
        self._proven_ns = 0

    def proven_s(self, now_ns: int) -> int:
        """It is at least so late, in seconds since 1970."""
        return self._proven_s + (now_ns - self._proven_ns) // SECOND if self._proven_s else 0

    def witness(self, now_ns: int, time_s: int) -> None:
        """It is at least `time_s`: somebody trustworthy has said so."""
        if time_s > self.proven_s(now_ns):
            self._proven_s, self._proven_ns = time_s, now_ns

    def open(self, now_ns: int, packed: bytes) -> Record:
        """A record that the fleet's key has signed, be it void or not. Raises RecordError."""
        record = decode_record(packed)
        verify(self.authority, packed)
        self.witness(now_ns, record.issued_s)
        return record

    def judge(self, now_ns: int, packed: bytes, public_key: bytes) -> Record:
        """The record of a node that has proven to hold this key. Raises HandshakeError; the signature, which
        costs most, is looked at last."""
        try:
            record = decode_record(packed)
            if record.public_key != public_key:
                raise RecordError("record of another key")
            if reason := self.why_void(now_ns, record):
                raise RecordError(reason)
            return self.open(now_ns, packed)
        except RecordError as error:
            raise HandshakeError(error.reason) from error

    def why_void(self, now_ns: int, record: Record) -> str | None:
        """Why a record that was signed is not believed; None: it is."""
        if self.revocations is not None and self.revocations.voids(record):
            return "record revoked"
        if record.expires_s <= self.proven_s(now_ns):
            return "record expired"
        return None

    def expires_ns(self, record: Record) -> int:
        """When the record expires, if nobody proves a later time before."""
        return self._proven_ns + (record.expires_s - self._proven_s) * SECOND

    def revoked(self, public_key: bytes) -> bool:
        return self.revocations is not None and self.revocations.names(public_key)

    def revoke(self, now_ns: int, packed: bytes) -> bool:
        """Whether this list takes the place of the one before. Raises RecordError."""
        revocations = decode_revocations(packed)
        if self.revocations is not None and revocations.issued_s <= self.revocations.issued_s:
            return False
        verify(self.authority, packed)
        self.revocations, self.packed = revocations, packed
        self.witness(now_ns, revocations.issued_s)
        return True
