"""What the fleet's key states: who a node is (`Record`), and which keys are not to be believed any more
(`Revocations`).

A statement is its type, its fields and an Ed25519 signature (RFC 8032) over a label and all of that; the
layout is in docs/protocol.md, section Trust. There is one encoding of each statement, so equal bytes and
equal statements are the same thing. Times are seconds since 1970, UTC, by the clock of whoever signed: no
node needs a clock to compare them (trust.py).
"""

import base64
import binascii
import hashlib
import ipaddress
import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass

from relay.core.actions import Address
from relay.wire.messages import MESSAGE_BYTES_MAX, NODE_RECORD_BYTES_MAX
from relay_ext.crypto import ed25519_sign, ed25519_verify

KEY_BYTES = 32
SIGNATURE_BYTES = 64
ADDRESSES_MAX = 8
LIFE_MAX_S = 400 * 86400
"""Seconds that a record may be valid, at most: how long a revoked key has to stay on the list."""
REVOKED_MAX = 64
"""Keys on the list, at most: it travels in one message (`MESSAGE_BYTES_MAX`)."""
TIME_MAX_S = 0xFFFFFFFF

LABEL = b"edge-relay statement\0"
"""Before every signed statement, so that a signature of the fleet's key means nothing anywhere else."""
RECORD, REVOCATIONS = 1, 2
"""A statement's type is its format, too: another layout gets another number."""
ROLES = ("edge", "region")
"""As `[node] role`; a record has the index."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_RECORD = struct.Struct(f">BII{KEY_BYTES}sB")
_REVOCATIONS = struct.Struct(">BIIB")
_REVOKED = struct.Struct(">8sI")
_IP_BYTES = {4: 4, 6: 16}


class RecordError(ValueError):
    """These bytes are no statement of the fleet's key. `reason` is one of a fixed set, for counters."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Record:
    """A node, as the fleet's key knows it. Raises ValueError with a sentence for what cannot be signed."""

    name: str
    """As `[node] name`."""
    region: str
    public_key: bytes
    """X25519, the node's static key in handshakes."""
    issued_s: int
    """When it was signed; of two records of a node, or of a name, the later one counts."""
    expires_s: int
    """From then on it is void."""
    addresses: tuple[Address, ...] = ()
    """Where the node can be called, IP addresses only; none for one that only calls."""
    role: str = "edge"
    """One of ROLES; who says that it is a region is believed only if its record says so."""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name) or not _NAME.fullmatch(self.region):
            raise ValueError("a name or region is up to 63 letters, digits, dots, dashes")
        if len(self.public_key) != KEY_BYTES:
            raise ValueError(f"a key has {KEY_BYTES} bytes")
        if not 0 <= self.issued_s < self.expires_s <= min(self.issued_s + LIFE_MAX_S, TIME_MAX_S):
            raise ValueError(f"a record is valid for at most {LIFE_MAX_S // 86400} days")
        if len(self.addresses) > ADDRESSES_MAX:
            raise ValueError(f"a record has at most {ADDRESSES_MAX} addresses")
        if self.role not in ROLES:
            raise ValueError(f"a role is one of {', '.join(ROLES)}")


@dataclass(frozen=True, slots=True)
class Revoked:
    """A key that is not to be believed."""

    fingerprint: bytes
    """`fingerprint` of the public key."""
    until_s: int
    """Every record of the key has expired by then, and it may leave the list."""


@dataclass(frozen=True, slots=True)
class Revocations:
    """The list of revoked keys, whole. The one issued last counts."""

    issued_s: int
    void_before_s: int = 0
    """Records issued earlier are void, whatever their keys."""
    revoked: tuple[Revoked, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.void_before_s <= self.issued_s <= TIME_MAX_S:
            raise ValueError("records can be made void up to the time of signing")
        if len(self.revoked) > REVOKED_MAX:
            raise ValueError(
                f"the list holds at most {REVOKED_MAX} keys: renew the records of all nodes that are good, "
                "then void those from before by date, which empties it"
            )
        order = [entry.fingerprint for entry in self.revoked]
        if order != sorted(set(order)):
            raise ValueError("the list is sorted, each key once")

    def names(self, public_key: bytes) -> bool:
        """Whether this key is on the list."""
        print_of = fingerprint(public_key)
        return any(entry.fingerprint == print_of for entry in self.revoked)

    def voids(self, record: Record) -> bool:
        return record.issued_s < self.void_before_s or self.names(record.public_key)


Statement = Record | Revocations


def fingerprint(public_key: bytes) -> bytes:
    """8 bytes that stand for a key on the list. To have another's key revoked by giving up one of one's own
    that looks like it takes 2^64 hashes."""
    return hashlib.blake2s(public_key, digest_size=8).digest()


def revise(
    before: Revocations | None, now_s: int, keys: Iterable[bytes], void_before_s: int | None = None
) -> Revocations:
    """The next list: these keys more, without those whose records have all expired or are void by their date.

    Raises ValueError when it is full.
    """
    issued_s = max(now_s, before.issued_s + 1 if before else 0)
    floor_s = max(void_before_s or 0, before.void_before_s if before else 0)
    entries = {
        entry.fingerprint: entry
        for entry in (before.revoked if before else ())
        if entry.until_s > issued_s and entry.until_s - LIFE_MAX_S > floor_s
    }
    entries |= {
        of: Revoked(of, min(issued_s + LIFE_MAX_S, TIME_MAX_S)) for of in (fingerprint(key) for key in keys)
    }
    return Revocations(issued_s, floor_s, tuple(entries[of] for of in sorted(entries)))


# ---- bytes ---------------------------------------------------------------------------------------


def sign(authority: bytes, statement: Statement) -> bytes:
    """The statement, signed by this Ed25519 private key. Raises ValueError when it is too long to be sent."""
    body = _encode_record(statement) if isinstance(statement, Record) else _encode_revocations(statement)
    return body + ed25519_sign(authority, LABEL + body)


def verify(authority: bytes, packed: bytes) -> None:
    """Raises RecordError unless this Ed25519 public key has signed these bytes."""
    body, signature = packed[:-SIGNATURE_BYTES], packed[-SIGNATURE_BYTES:]
    try:
        ed25519_verify(authority, LABEL + body, signature)
    except ValueError as error:
        raise RecordError("record forged") from error


def decode(packed: bytes) -> Statement:
    """What the bytes state, whoever has signed them. Raises RecordError."""
    try:
        if len(packed) > MESSAGE_BYTES_MAX:
            raise ValueError
        body = packed[:-SIGNATURE_BYTES]
        if body[:1] == bytes([RECORD]) and len(packed) <= NODE_RECORD_BYTES_MAX:
            return _decode_record(body)
        if body[:1] == bytes([REVOCATIONS]):
            return _decode_revocations(body)
    except (ValueError, struct.error) as error:
        raise RecordError("record malformed") from error
    raise RecordError("record malformed")


def decode_record(packed: bytes) -> Record:
    """As `decode`, for a node's record alone."""
    statement = decode(packed)
    if not isinstance(statement, Record):
        raise RecordError("record malformed")
    return statement


def decode_revocations(packed: bytes) -> Revocations:
    """As `decode`, for the list alone."""
    statement = decode(packed)
    if not isinstance(statement, Revocations):
        raise RecordError("record malformed")
    return statement


def to_text(packed: bytes) -> str:
    """What a file of a statement holds: base64 and a newline."""
    return base64.b64encode(packed).decode("ascii") + "\n"


def from_text(text: str) -> bytes:
    """The bytes in such a file. Raises RecordError."""
    try:
        return base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError) as error:
        raise RecordError("record malformed") from error


def _encode_record(record: Record) -> bytes:
    role = ROLES.index(record.role)
    parts = [_RECORD.pack(RECORD, record.issued_s, record.expires_s, record.public_key, role)]
    parts += [bytes([len(text)]) + text.encode("ascii") for text in (record.name, record.region)]
    parts.append(bytes([len(record.addresses)]))
    for host, port in record.addresses:
        ip = ipaddress.ip_address(host.partition("%")[0])  # a zone means nothing to others
        parts.append(bytes([ip.version]) + ip.packed + struct.pack(">H", port))
    body = b"".join(parts)
    if (over := len(body) + SIGNATURE_BYTES - NODE_RECORD_BYTES_MAX) > 0:
        raise ValueError(
            f"the record is {over} bytes too long: shorten its name or region, or give fewer addresses"
        )
    return body


def _decode_record(body: bytes) -> Record:
    _, issued_s, expires_s, public_key, role = _RECORD.unpack_from(body)
    if role >= len(ROLES):
        raise ValueError
    reader = _Reader(body, _RECORD.size)
    name, region = (reader.take(reader.byte()).decode("ascii") for _ in range(2))
    addresses = tuple(_decode_address(reader) for _ in range(reader.byte()))
    reader.end()
    return Record(name, region, public_key, issued_s, expires_s, addresses, ROLES[role])


def _decode_address(reader: "_Reader") -> Address:
    size = _IP_BYTES.get(reader.byte())
    if size is None:
        raise ValueError
    host = str(ipaddress.ip_address(reader.take(size)))
    port = int.from_bytes(reader.take(2), "big")
    if port == 0:
        raise ValueError
    return host, port


def _encode_revocations(of: Revocations) -> bytes:
    head = _REVOCATIONS.pack(REVOCATIONS, of.issued_s, of.void_before_s, len(of.revoked))
    return head + b"".join(_REVOKED.pack(entry.fingerprint, entry.until_s) for entry in of.revoked)


def _decode_revocations(body: bytes) -> Revocations:
    _, issued_s, void_before_s, count = _REVOCATIONS.unpack_from(body)
    entries = body[_REVOCATIONS.size :]
    if len(entries) != count * _REVOKED.size:
        raise ValueError
    revoked = tuple(Revoked(*fields) for fields in _REVOKED.iter_unpack(entries))
    return Revocations(issued_s, void_before_s, revoked)


class _Reader:
    """Takes bytes from the front. Raises ValueError where there are too few, or at the end too many."""

    def __init__(self, data: bytes, at: int) -> None:
        self._data = data
        self._at = at

    def take(self, size: int) -> bytes:
        taken = self._data[self._at : self._at + size]
        self._at += size
        if len(taken) != size:
            raise ValueError
        return taken

    def byte(self) -> int:
        return self.take(1)[0]

    def end(self) -> None:
        if self._at != len(self._data):
            raise ValueError
