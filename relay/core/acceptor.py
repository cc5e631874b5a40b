"""The node's side of all handshakes: its peers, the indices of their keys, and whom a handshake datagram
concerns."""

from collections import Counter
from collections.abc import Callable
from functools import partial

from relay.core.actions import Action, Address
from relay.core.handshake import Caller, HandshakeError, Identity, Local, identify
from relay.core.session import Peer, Session
from relay.seq import Count
from relay.wire.fields import WireError
from relay.wire.hop import Initiation, Response, decode_handshake


class Acceptor:
    """One a node. Indices are random, not zero, and unique among all sessions. `drops` counts what
    reached no session, by reason.

    `admit`, if set, is called with every caller before its session is looked up: it may add one, or raise
    HandshakeError."""

    def __init__(self, identity: Identity, random_bytes: Callable[[int], bytes]) -> None:
        self.drops: Counter[str] = Counter()
        self.admit: Callable[[int, Caller], None] | None = None
        self._identity = identity
        self._random_bytes = random_bytes
        self._peers: dict[bytes, Session] = {}
        self._indices: dict[int, Session] = {}
        self._sessions_made = Count()

    def add(self, peer: Peer, shard: int = 0, shards: int = 1) -> Session:
        """A session for this peer; its `start` is next. The low bits of its indices are `shard`, one of
        `shards` (a power of two). Raises ValueError when the key is our own or another peer's."""
        if peer.public_key in self._peers or peer.public_key == self._identity.public:
            raise ValueError(f"the public key of {peer.name} is already in use")

        instance = (self._identity.instance + next(self._sessions_made)) % 2**64
        allocate = partial(self._allocate, peer.public_key, shard, shards)
        session = Session(Local(self._identity, instance, self._random_bytes, allocate, self._release), peer)
        self._peers[peer.public_key] = session
        return session

    def remove(self, public_key: bytes) -> list[Action]:
        """Ends the session with this peer. Raises KeyError when there is none."""
        return self._peers.pop(public_key).close()

    def knows(self, public_key: bytes) -> bool:
        """Whether there is a session for the peer with this key."""
        return public_key in self._peers

    def session(self, local_index: int) -> Session | None:
        """The session that an index belongs to; None when its keys have been dropped."""
        return self._indices.get(local_index)

    @property
    def sessions(self) -> tuple[Session, ...]:
        return tuple(self._peers.values())

    def receive_handshake(
        self, now_ns: int, address: Address, datagram: bytes, socket: int = 0
    ) -> tuple[Session, list[Action]] | None:
        """A handshake datagram (types 1 to 3) whose MACs have been checked, and the number of the socket that
        it came to: the session that it concerns and what that asks for; None when it is refused here. Never
        raises."""
        try:
            return self._dispatch(now_ns, address, datagram, socket)
        except HandshakeError as error:
            self.drops[error.reason] += 1
        except WireError:
            self.drops["malformed"] += 1
        return None

    def _dispatch(
        self, now_ns: int, address: Address, datagram: bytes, socket: int
    ) -> tuple[Session, list[Action]]:
        parts = decode_handshake(datagram)
        if isinstance(parts, Initiation):
            caller = identify(self._identity, parts, len(datagram))
            if self.admit is not None:
                self.admit(now_ns, caller)
            session = self._peers.get(caller.public)
            if session is None:
                raise HandshakeError("unknown peer")
            return session, session.receive_initiation(now_ns, address, caller, socket)
        session = self._indices.get(parts.receiver_index)
        if session is None:
            raise HandshakeError("unknown index")
        if isinstance(parts, Response):
            return session, session.receive_response(now_ns, parts)
        return session, session.receive_cookie(now_ns, parts)

    def _allocate(self, peer: bytes, shard: int, shards: int) -> int:
        index = 0
        while index == 0 or index in self._indices:
            index = int.from_bytes(self._random_bytes(4), "big") // shards * shards + shard
        self._indices[index] = self._peers[peer]
        return index

    def _release(self, index: int) -> None:
        del self._indices[index]
