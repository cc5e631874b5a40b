"""One handshake, in WireGuard's manner: Noise_IK inside datagrams with MAC1 and MAC2. Pure functions;
dialer.py and session.py have the timers.

    initiator                             responder
    initiate    --- initiation --->       identify (who calls?), Caller.hello
    finish      <--- response  ----       respond

Both now hold TransportKeys; the responder sends under them only after something authentic has arrived under
them.

The MACs of datagrams that arrive are checked in the packet plane; here they are made, and cookies are
opened.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

from relay.core.noise import Initiator, NoiseError, Responder, hkdf, public_key
from relay.wire import hop
from relay.wire.fields import WireError
from relay.wire.hop import Hello
from relay_ext.crypto import chacha20_poly1305_open


class HandshakeError(ValueError):
    """A handshake datagram is refused. `reason` is one of a fixed set, for counters."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(eq=False)
class Identity:
    """What this node is to its peers. Only `record` may change: the next handshake carries the new one."""

    static: bytes = field(repr=False)
    """X25519 private key, 32 bytes."""
    instance: int
    """Random 64 bits, drawn at the start of the process; its sessions count up from it."""
    name: str
    record: bytes = b""
    """Signed node record (core/record.py), or nothing."""
    ciphers: tuple[int, ...] = (hop.CIPHER_CHACHA20_POLY1305,)
    """What this node takes, the fastest here first; ChaCha20-Poly1305 is always among them."""

    @property
    def spoken_name(self) -> str:
        """The name beside the record: none where that says it, for both would not fit the payload."""
        return "" if self.record else self.name

    @cached_property
    def public(self) -> bytes:
        """X25519 public key, 32 bytes."""
        return public_key(self.static)


@dataclass(frozen=True, slots=True)
class Local:
    """What a session needs of its node."""

    identity: Identity
    instance: int
    """Of the session: what the peer keeps for another one is void."""
    random_bytes: Callable[[int], bytes]
    """So many bytes that nobody can guess."""
    allocate: Callable[[], int]
    """A receiver index that is unique in the node."""
    release: Callable[[int], None]
    """Gives an index back."""


@dataclass(frozen=True, slots=True)
class TransportKeys:
    """Keys of one path, 32 bytes each."""

    send: bytes = field(repr=False)
    receive: bytes = field(repr=False)
    cipher: int


# --- MACs and cookies ---


@lru_cache(maxsize=1024)
def _labelled(label: bytes, public: bytes) -> bytes:
    return hashlib.blake2s(label + public).digest()


def _mac(key: bytes, data: bytes) -> bytes:
    return hashlib.blake2s(data, key=key, digest_size=hop.MAC_BYTES).digest()


def mac1_of(datagram: bytes) -> bytes:
    """The mac1 that a datagram made by `with_macs` carries; the cookie reply to it is bound to this."""
    return datagram[-hop.MACS_BYTES : -hop.MAC_BYTES]


def with_macs(body: bytes, receiver_public: bytes, cookie: bytes | None) -> bytes:
    """The datagram: `body`, mac1 for its receiver, mac2 under the receiver's cookie (zeros without one)."""
    signed = body + _mac(_labelled(hop.MAC1_LABEL, receiver_public), body)
    return signed + (_mac(cookie, signed) if cookie else bytes(hop.MAC_BYTES))


def open_cookie(reply: hop.CookieReply, responder_public: bytes, mac1: bytes) -> bytes:
    """The 16-byte cookie in a reply to our datagram with this mac1. Raises HandshakeError."""
    key = hashlib.blake2s(reply.salt, key=_labelled(hop.COOKIE_LABEL, responder_public)).digest()
    try:
        return chacha20_poly1305_open(key, bytes(12), mac1, reply.sealed)
    except ValueError as error:
        raise HandshakeError("cookie") from error


def _path_keys(send: bytes, receive: bytes, path: int, cipher: int) -> TransportKeys:
    label = hop.PATH_LABEL + bytes([path])
    return TransportKeys(hkdf(send, label)[0], hkdf(receive, label)[0], cipher)


# --- the initiator ---


def initiate(
    identity: Identity,
    remote: bytes,
    hello: Hello,
    *,
    local_index: int,
    ephemeral: bytes,
    cookie: bytes | None,
) -> tuple[bytes, Initiator]:
    """An initiation datagram to the node with static key `remote`, and the state that reads the
    response."""
    noise = Initiator(hop.PROLOGUE, identity.static, ephemeral, remote)
    message = noise.write(hop.encode_hello(hello, pad=True))
    body = hop.encode_initiation(hop.Initiation(local_index, message))
    return with_macs(body, remote, cookie), noise


def finish(noise: Initiator, offered: Hello, response: hop.Response) -> tuple[Hello, TransportKeys]:
    """What the responder says, and the keys. Raises HandshakeError; `noise` is spent then."""
    try:
        hello = hop.decode_hello(noise.read(response.noise))
    except NoiseError as error:
        raise HandshakeError("unauthenticated") from error
    except WireError as error:
        raise HandshakeError("malformed") from error
    chosen = (*hello.versions, *hello.ciphers)
    if chosen not in {(v, c) for v in offered.versions for c in offered.ciphers}:
        raise HandshakeError("not offered")
    if (hello.path, hello.number) != (offered.path, offered.number):
        raise HandshakeError("wrong answer")
    return hello, _path_keys(*noise.split(), offered.path, hello.ciphers[0])


# --- the responder ---


@dataclass(slots=True, eq=False)
class Caller:
    """An initiation that has been opened as far as the caller's static key."""

    public: bytes
    remote_index: int
    noise: Responder
    datagram_bytes: int
    _hello: Hello | None = field(default=None, init=False, repr=False)

    def hello(self) -> Hello:
        """What the caller says, now authenticated. Raises HandshakeError."""
        if self._hello is None:
            self._hello = self._read()
        return self._hello

    def _read(self) -> Hello:
        try:
            return hop.decode_hello(self.noise.read_payload())
        except NoiseError as error:
            raise HandshakeError("unauthenticated") from error
        except WireError as error:
            raise HandshakeError("malformed") from error


def identify(identity: Identity, initiation: hop.Initiation, datagram_bytes: int) -> Caller:
    """Who calls, for the price of one Diffie-Hellman operation. Raises HandshakeError."""
    noise = Responder(hop.PROLOGUE, identity.static)
    try:
        public = noise.read_static(initiation.noise)
    except NoiseError as error:
        raise HandshakeError("unauthenticated") from error
    return Caller(public, initiation.sender_index, noise, datagram_bytes)


def choose(hello: Hello, ours: tuple[int, ...]) -> tuple[int, int]:
    """Version and cipher: the highest version that both speak, and the cipher that is first with the caller
    and in `ours`, else ChaCha20-Poly1305, so that a board without AES instructions never has to do AES.
    Raises HandshakeError."""
    if hop.VERSION not in hello.versions:
        raise HandshakeError("version")
    if hop.CIPHER_CHACHA20_POLY1305 not in hello.ciphers:
        raise HandshakeError("cipher")
    same = hello.ciphers[0] == ours[0]
    return hop.VERSION, ours[0] if same else hop.CIPHER_CHACHA20_POLY1305


def respond(
    identity: Identity,
    caller: Caller,
    heard: Hello,
    *,
    instance: int,
    local_index: int,
    ephemeral: bytes,
    cookie: bytes | None,
) -> tuple[bytes, TransportKeys]:
    """The response datagram and the keys. Raises HandshakeError, also when the answer would be longer
    than the initiation."""
    version, cipher = choose(heard, identity.ciphers)
    answer = Hello(
        instance=instance,
        number=heard.number,
        path=heard.path,
        name=identity.spoken_name,
        versions=(version,),
        ciphers=(cipher,),
        record=identity.record,
    )
    try:
        message = caller.noise.write(ephemeral, hop.encode_hello(answer, pad=False))
    except NoiseError as error:
        raise HandshakeError("unauthenticated") from error
    body = hop.encode_response(hop.Response(local_index, caller.remote_index, message))
    if len(body) + hop.MACS_BYTES > caller.datagram_bytes:
        raise HandshakeError("short initiation")
    datagram = with_macs(body, caller.public, cookie)
    return datagram, _path_keys(*caller.noise.split(), heard.path, cipher)
