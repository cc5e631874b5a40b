"""Records that were signed anew, on their way to the nodes that they are of.

Who tells of a record does not matter: the fleet's key has signed it, and of two of one key the later one
counts. What is handed to a node, and what a region hears of, is kept and told to all regions and to the node
that it is of. So a node that was off gets its own from the first region that it reaches, which lets it in on
the record that is kept, even if the one that it shows has expired (`members`). Other nodes hear of none but
their own.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple

from relay.core.handshake import Identity
from relay.core.record import Record, RecordError, decode_record
from relay.core.trust import Trust
from relay.services.hops import Hop, Hops
from relay.wire.hop import SECOND
from relay.wire.messages import RECORDS_MAX, Records

TICK_NS = SECOND
REST_NS = 3600 * SECOND
"""Until the next look when there is nothing to tell: what changes that comes with a poll of its own."""
KEPT_MAX = 16_384
"""Records kept, at most: some 6 MB."""
TOLD_PER_TICK = 2 * RECORDS_MAX
"""Records told to a peer in a second: no hurry, for a third of their lives is left."""
TAKEN_PER_SECOND = 2 * TOLD_PER_TICK
TAKEN_AT_ONCE = 64 * RECORDS_MAX
"""Records taken from a peer at once: as many as its channel holds. Each may cost a signature."""


class Kept(NamedTuple):
    """The latest record of a key."""

    issued_s: int
    packed: bytes


@dataclass(slots=True)
class Listener:
    """What a peer is still to be told, and how many records are still taken from it."""

    untold: dict[bytes, None] = field(default_factory=dict)
    """Keys, in the order in which they are told."""
    is_region: bool = False
    """It is told of everything, and `untold` began with that."""
    room: float = TAKEN_AT_ONCE
    room_ns: int = 0

    def admit(self, now_ns: int) -> None:
        """Raises RecordError when too many have come."""
        self.room += (now_ns - self.room_ns) / SECOND * TAKEN_PER_SECOND
        self.room, self.room_ns = min(self.room, TAKEN_AT_ONCE), now_ns
        if self.room < 1:
            raise RecordError("records too fast")
        self.room -= 1


class Renewals:
    """`region`: this node is one, and keeps what it hears of. `adopt` takes a record of this node's own key,
    and raises RecordError if it is of another name or role."""

    def __init__(
        self,
        trust: Trust,
        identity: Identity,
        hops: Hops,
        *,
        region: bool,
        adopt: Callable[[int, Record, bytes], None],
    ) -> None:
        self._trust = trust
        self._identity = identity
        self._hops = hops
        self._region = region
        self._adopt = adopt
        self._kept: dict[bytes, Kept] = {}
        """By public key."""
        self._listeners: dict[int, Listener] = {}
        """By hop."""
        self._tick_ns = 0

    def kept(self, public_key: bytes) -> Kept | None:
        """The latest record of a key that has been heard of."""
        return self._kept.get(public_key)

    # ---- what comes in -----------------------------------------------------------------------

    def hand(self, now_ns: int, packed: bytes) -> None:
        """Take a record from whoever runs this node. Raises RecordError."""
        self._take(now_ns, packed, keep=True)

    def on_message(self, now_ns: int, hop: Hop, message: Records) -> None:
        listener = self._listeners.setdefault(hop.id, Listener())
        for packed in message.records:
            try:
                listener.admit(now_ns)
                key = self._take(now_ns, packed, keep=self._region)
                listener.untold.pop(key, None)
            except RecordError as error:
                hop.drops[error.reason] += 1

    def _take(self, now_ns: int, packed: bytes, *, keep: bool) -> bytes:
        """The key of a record, which is known now. Raises RecordError; the signature, which costs most, is
        looked at last."""
        record = decode_record(packed)
        key = record.public_key
        own = key == self._identity.public
        if not own and not keep:
            raise RecordError("record unasked")
        known = self._kept.get(key)
        if known is not None and record.issued_s <= known.issued_s:
            return key
        if why := self._trust.why_void(now_ns, record):
            raise RecordError(why)
        if own:
            self._adopt(now_ns, record, packed)
            return key
        if known is None and len(self._kept) >= KEPT_MAX:
            self._purge(now_ns)
        self._trust.open(now_ns, packed)
        self._kept[key] = Kept(record.issued_s, packed)
        for hop in self._hops.hops.values():
            listener = self._listeners.get(hop.id)
            if listener is not None and (listener.is_region or hop.key == key):
                listener.untold[key] = None
        self._wake(now_ns)
        return key

    def _purge(self, now_ns: int) -> None:
        """Forget what is void. Raises RecordError when that is nothing."""
        self._kept = {key: of for key, of in self._kept.items() if not self._void(now_ns, of)}
        if len(self._kept) >= KEPT_MAX:
            raise RecordError("too many records")

    def _void(self, now_ns: int, of: Kept) -> bool:
        return self._trust.why_void(now_ns, decode_record(of.packed)) is not None

    # ---- what is told ------------------------------------------------------------------------

    def on_state(self, now_ns: int, hop: Hop, fresh: bool) -> None:
        """A new process of the peer has been told nothing."""
        if not fresh:
            return
        kept, hello = self._kept.get(hop.key), hop.session.peer_hello
        shown = hello.record if hello else b""
        untold = {hop.key: None} if kept is not None and kept.packed != shown else {}
        self._listeners[hop.id] = Listener(untold)
        self._wake(now_ns)

    def _wake(self, now_ns: int) -> None:
        self._tick_ns = min(self._tick_ns, now_ns // TICK_NS * TICK_NS + TICK_NS)

    def poll(self, now_ns: int) -> int:
        """Tell peers what is due; returns the next deadline in ns."""
        if now_ns < self._tick_ns:
            return self._tick_ns
        hops = self._hops.hops
        self._listeners = {of: listener for of, listener in self._listeners.items() if of in hops}
        for of, listener in self._listeners.items():
            hop = hops[of]
            if hop.is_region and not listener.is_region:
                listener.is_region, listener.untold = True, dict.fromkeys(self._kept)
            if hop.connected and listener.untold:
                self._tell(now_ns, hop, listener)
        self._tick_ns = now_ns // TICK_NS * TICK_NS + (TICK_NS if self._kept else REST_NS)
        return self._tick_ns

    def _tell(self, now_ns: int, hop: Hop, listener: Listener) -> None:
        """What does not fit the peer's queue waits for the next tick."""
        due = list(islice(listener.untold, TOLD_PER_TICK))
        for i in range(0, len(due), RECORDS_MAX):
            keys = due[i : i + RECORDS_MAX]
            kept = [self._kept[key] for key in keys if key in self._kept]
            packed = tuple(of.packed for of in kept if not self._void(now_ns, of))
            if packed and not self._hops.send(now_ns, hop, Records(packed)):
                return
            for key in keys:
                del listener.untold[key]

    # ---- what it says of itself --------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        untold = sum(len(listener.untold) for listener in self._listeners.values())
        return {"kept": len(self._kept), "untold": untold}
