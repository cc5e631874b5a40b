"""The keys of one path: which exist, which are sent on, when they end.

pending    as responder, at most HALF_OPEN_MAX: installed, nothing authentic has arrived under them.
           A replayed initiation gets this far and no further.
current    sent on
previous   received on until they are REJECT old or replaced: for what is on its way, and while the peer
           has not switched
"""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from relay.core.actions import Action, Address, DropKeys, InstallKeys, UseKeys
from relay.core.handshake import TransportKeys
from relay.wire import hop
from relay.wire.hop import Hello


@dataclass(slots=True, eq=False)
class Keys:
    """One handshake's outcome on one path."""

    local_index: int
    remote_index: int
    initiator: bool
    """This node sent the initiation."""
    created_ns: int
    hello: Hello
    """What the peer said in this handshake."""
    address: Address
    cipher: int
    socket: int = 0
    """Where the handshake's datagrams left here."""
    mac1: bytes = b""
    """Of our response, for the cookie reply that it may get."""
    confirmed: bool = False
    """Something authentic has arrived under these keys."""

    @property
    def rekey_ns(self) -> int:
        return self.created_ns + (hop.REKEY_INITIATOR if self.initiator else hop.REKEY_RESPONDER)


class Keyring:
    """Appends to `actions` what the packet plane must do; releases indices that are no longer in use."""

    def __init__(
        self,
        path: int,
        actions: list[Action],
        release: Callable[[int], None],
        generations: Iterator[int],
    ) -> None:
        self._path = path
        self._actions = actions
        self._release = release
        self._generations = generations
        self.pending: deque[Keys] = deque()
        self.current: Keys | None = None
        self.previous: Keys | None = None

    def __iter__(self) -> Iterator[Keys]:
        yield from self.pending
        yield from (keys for keys in (self.current, self.previous) if keys)

    def find(self, local_index: int) -> Keys | None:
        return next((keys for keys in self if keys.local_index == local_index), None)

    def install(self, keys: Keys, transport: TransportKeys) -> None:
        """Accept datagrams under these keys; they are pending when we are the responder."""
        self._actions.append(
            InstallKeys(
                path=self._path,
                generation=next(self._generations),
                local_index=keys.local_index,
                remote_index=keys.remote_index,
                send_key=transport.send,
                receive_key=transport.receive,
                cipher=transport.cipher,
                peer_instance=keys.hello.instance,
                address=keys.address,
            )
        )
        if not keys.initiator:
            if len(self.pending) == hop.HALF_OPEN_MAX:
                self._drop(self.pending.popleft())
            self.pending.append(keys)

    def use(self, keys: Keys) -> None:
        """Send on these from now on. Keys of the peer's earlier process are dropped at once."""
        old, older = self.current, self.previous
        if keys in self.pending:
            self.pending.remove(keys)
            self._drop_pending()  # the peer has chosen among the handshakes of one attempt
        self.current, self.previous = keys, None
        if older:
            self._drop(older)
        if old and old.hello.instance == keys.hello.instance:
            self.previous = old
        elif old:
            self._drop(old)
        self._actions.append(UseKeys(self._path, keys.local_index))

    def keep_beside(self, keys: Keys) -> None:
        """Receive on these pending keys, go on sending on the current ones."""
        self.pending.remove(keys)
        if self.previous:
            self._drop(self.previous)
        self.previous = keys

    def expire(self, now_ns: int) -> None:
        """Drops what is too old."""
        while self.pending and now_ns >= self.pending[0].created_ns + hop.HALF_OPEN_LIFE:
            self._drop(self.pending.popleft())
        if self.previous and now_ns >= self.previous.created_ns + hop.REJECT:
            self._drop(self.previous)
            self.previous = None
        if self.current and now_ns >= self.current.created_ns + hop.REJECT:
            self._drop(self.current)
            self.current = None

    def clear(self) -> None:
        """Drops everything."""
        self.drop_used()
        self._drop_pending()

    def drop_used(self) -> None:
        """Drops the current and the previous keys."""
        for keys in (self.current, self.previous):
            if keys:
                self._drop(keys)
        self.current = self.previous = None

    def deadline(self) -> int | None:
        ends = [keys.created_ns + hop.REJECT for keys in (self.current, self.previous) if keys]
        if self.pending:
            ends.append(self.pending[0].created_ns + hop.HALF_OPEN_LIFE)
        return min(ends, default=None)

    def _drop_pending(self) -> None:
        while self.pending:
            self._drop(self.pending.popleft())

    def _drop(self, keys: Keys) -> None:
        self._actions.append(DropKeys(keys.local_index))
        self._release(keys.local_index)
