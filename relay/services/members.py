"""Members of the fleet: peers that are in no configuration and are accepted on the word of the fleet's key.

A caller whose key is not configured becomes a peer when the record in its initiation holds: signed by the
fleet's key, of the caller's own key, neither expired nor revoked. It goes when it has been silent until its
keys ended, when its record expires, or when it is revoked. The list of revoked keys is taken from a file or
from any peer, kept over restarts, and told to every other peer; it holds for configured peers, too.

The node's own record is the latest of those in its file, in its state directory and from peers (`renewals`).
"""

import base64
import json
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from relay.config import FleetConfig
from relay.core import record
from relay.core.handshake import Caller, HandshakeError, Identity
from relay.core.record import Record, RecordError, decode_record
from relay.core.trust import Trust
from relay.errors import ConfigError, Problem
from relay.log import event
from relay.services.hops import Hop, Hops
from relay.services.renewals import Renewals
from relay.wire.health import RATIO
from relay.wire.hop import HALF_OPEN_LIFE, SECOND
from relay.wire.messages import Records, RevocationList

logger = logging.getLogger("relay.fleet")

SAVE_NS = 3600 * SECOND
"""Between two notes of how late it is at least: what a loss of power may lose of it. Each wears flash."""
TELL_AGAIN_NS = SECOND
"""A peer whose queue was full is told of the list after this."""
ENDS = 1 / 4
"""Of a record's life: with less left, it should have been renewed (`relay fleet renew` does at a third)."""


class Store(Protocol):
    """Where a node keeps what it must not forget."""

    def load(self) -> str:
        """What was saved last; empty when there is nothing, or nothing that can be read."""
        ...

    def save(self, text: str) -> None: ...


@dataclass(slots=True)
class Member:
    hop: Hop
    record: Record
    packed: bytes
    until_ns: int
    """When to give it up, unless it is connected."""


class Members:
    """`role` is the node's; `remove` ends a hop and what goes over it. `wall_clock` gives seconds since 1970,
    for warnings: nothing is decided by it."""

    def __init__(
        self,
        config: FleetConfig,
        identity: Identity,
        hops: Hops,
        *,
        role: str,
        store: Store,
        read: Callable[[Path], str],
        wall_clock: Callable[[], float],
        remove: Callable[[int, Hop], None],
    ) -> None:
        self.trust = Trust(config.authority_key)
        self.renewals = Renewals(self.trust, identity, hops, region=role == "region", adopt=self._adopt)
        self.waits = False
        """A poll is wanted at once."""
        self._config = config
        self._identity = identity
        self._hops = hops
        self._role = role
        self._store = store
        self._read = read
        self._wall_clock = wall_clock
        self._remove_hop = remove
        self._record: Record | None = None
        self._adopted = b""
        """The latest record of this node that came from a peer."""
        self._said: tuple[int, str] | None = None
        """What was said last of the end of a record, and of which: when it was issued."""
        self._members: dict[bytes, Member] = {}
        self._changed = False
        """Another list holds, and what it ends has not been ended yet."""
        self._tell_ns: int | None = None
        self._saved_ns = 0
        hops.acceptor.admit = self._admit

    # ---- files -------------------------------------------------------------------------------

    def start(self, now_ns: int) -> None:
        """Remember what was kept. To be called once, before `reload`."""
        try:
            kept = json.loads(self._store.load() or "{}")
            if kept.get("authority") == _base64(self.trust.authority):
                self.trust.witness(now_ns, int(kept["proven_s"]))
                if kept["revocations"]:
                    self.trust.revoke(now_ns, base64.b64decode(kept["revocations"]))
                if kept["record"]:
                    self._adopted = self._own(now_ns, base64.b64decode(kept["record"]))
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            event(logger, logging.WARNING, "fleet_state_unreadable", error=error)
        self._saved_ns = now_ns

    def reload(self, now_ns: int, config: FleetConfig) -> None:
        """Read the record and the list anew; the next handshakes carry the record. Raises ConfigError, and
        OSError, for files that are no use; then all is as before."""
        if config.authority_key != self.trust.authority:
            return  # another fleet: that takes a restart
        packed = self._statement(config.record_file, "record")
        revocations = self._statement(config.revocations_file, "revocations")
        try:
            found = [(self.trust.open(now_ns, of), of) for of in (packed, self._adopted) if of]
            changed = bool(revocations) and self.trust.revoke(now_ns, revocations)
        except RecordError as error:
            raise ConfigError([Problem("fleet", error.reason, "what `relay fleet` writes")]) from error
        latest = max(found, key=lambda of: of[0].issued_s, default=(None, b""))
        self._record, self._identity.record = latest
        if changed:
            self._revoked("file")
        self._look_after_own(now_ns)

    def _statement(self, path: Path | None, kind: str) -> bytes:
        try:
            return record.from_text(self._read(path)) if path else b""
        except RecordError as error:
            raise ConfigError([Problem(f"fleet.{kind}_file", str(path), f"a file of a {kind}")]) from error

    def save(self, now_ns: int) -> None:
        """Keep the list, and how late it is at least. To be called before the end, too."""
        self._saved_ns = now_ns
        kept = {
            "authority": _base64(self.trust.authority),
            "proven_s": self.trust.proven_s(now_ns),
            "revocations": _base64(self.trust.packed),
            "record": _base64(self._adopted),
        }
        self._store.save(json.dumps(kept) + "\n")

    # ---- who may come in ---------------------------------------------------------------------

    def _admit(self, now_ns: int, caller: Caller) -> None:
        """What Acceptor.admit asks for. Raises HandshakeError."""
        member = self._members.get(caller.public)
        if member is None and self._hops.acceptor.knows(caller.public):
            return  # a configured peer needs no record
        packed = self._latest(caller)
        if not packed:
            raise HandshakeError("unknown peer")
        if member is None or member.packed != packed:
            of = self.trust.judge(now_ns, packed, caller.public)
            member = self._accept(now_ns, of, packed, member)
        if reason := self.trust.why_void(now_ns, member.record):
            raise HandshakeError(reason)
        member.until_ns = now_ns + HALF_OPEN_LIFE

    def _latest(self, caller: Caller) -> bytes:
        """Of the record that a caller shows and the one that others told of, the later one."""
        shown, told = caller.hello().record, self.renewals.kept(caller.public)
        if told is None:
            return shown
        with suppress(RecordError):
            if decode_record(shown).issued_s > told.issued_s:
                return shown
        return told.packed

    def _accept(self, now_ns: int, of: Record, packed: bytes, known: Member | None) -> Member:
        """The member that a record is of; the latest of its records counts."""
        if known is not None and of.issued_s <= known.record.issued_s:
            return known
        if known is not None and (known.record.name, known.record.role) == (of.name, of.role):
            known.record, known.packed, known.hop.region = of, packed, of.region
            return known
        self._make_way(now_ns, of)
        if known is not None and of.public_key in self._members:
            self._drop(now_ns, known, "it has another name")
        elif len(self._members) >= self._config.max_peers:
            self._drop(now_ns, self._unconnected(), "too many peers")
        hop = self._hops.add(now_ns, of.name, of.region, of.public_key, ())
        hop.may_be_region = of.role == "region"
        event(logger, logging.DEBUG, "member_accepted", peer=of.name, region=of.region)
        self._members[of.public_key] = Member(hop, of, packed, now_ns + HALF_OPEN_LIFE)
        return self._members[of.public_key]

    def _make_way(self, now_ns: int, of: Record) -> None:
        """A name is one peer's, and no other's than ours is ours. Raises HandshakeError unless it is free, or
        of a member with an older record, whose key has been replaced."""
        hop = self._hops.named(of.name)
        holder = next((m for m in self._members.values() if m.hop is hop), None)
        if holder is not None and holder.record.issued_s < of.issued_s:
            self._drop(now_ns, holder, "its name has a newer key or role")
        elif hop is not None or self._identity.name == of.name or self._identity.public == of.public_key:
            raise HandshakeError("name in use")

    def _unconnected(self) -> Member:
        """The oldest member without keys in use, whose initiations may be replays of long ago. Raises
        HandshakeError when there is none."""
        for member in self._members.values():
            if member.hop.session.state == "connecting":
                return member
        raise HandshakeError("too many peers")

    def _drop(self, now_ns: int, member: Member, why: str) -> None:
        of = member.record
        proven = member.hop.session.peer_hello is not None  # others may come and go as often as one likes
        event(logger, logging.INFO if proven else logging.DEBUG, "member_removed", peer=of.name, why=why)
        del self._members[of.public_key]
        self._remove_hop(now_ns, member.hop)

    def configured(self, now_ns: int, name: str, public_key: bytes) -> bool:
        """A peer comes into the configuration: a member of that key or name makes way. False: its key is
        revoked."""
        for member in list(self._members.values()):
            if public_key == member.record.public_key or name == member.record.name:
                self._drop(now_ns, member, "now in the configuration")
        if self.trust.revoked(public_key):
            event(logger, logging.WARNING, "configured_peer_revoked", peer=name)
            return False
        return True

    # ---- the list of revoked keys ------------------------------------------------------------

    def on_state(self, now_ns: int, hop: Hop, fresh: bool) -> None:
        """A session came or went; `fresh`: with a new process of the peer, which may know nothing yet."""
        if fresh:
            hop.revocations_s = 0
            self._tell(now_ns, hop)
            self._witness(now_ns, hop)
        self.renewals.on_state(now_ns, hop, fresh)
        self.waits = True

    def _witness(self, now_ns: int, hop: Hop) -> None:
        """What a peer's record proves of the time, also where the record was not needed."""
        hello = hop.session.peer_hello
        with suppress(RecordError):
            self.trust.open(now_ns, hello.record if hello else b"")

    def on_message(self, now_ns: int, hop: Hop, message: RevocationList | Records) -> None:
        if isinstance(message, Records):
            self.renewals.on_message(now_ns, hop, message)
            return
        try:
            changed = self.trust.revoke(now_ns, message.signed)
        except RecordError:
            hop.drops["revocations refused"] += 1
            return
        if changed:
            assert self.trust.revocations is not None
            hop.revocations_s = self.trust.revocations.issued_s
            self._revoked(hop.name)

    def _revoked(self, source: str) -> None:
        """Another list holds. What it ends is ended by the next poll, not within an event of a hop."""
        assert self.trust.revocations is not None
        keys = len(self.trust.revocations.revoked)
        event(logger, logging.WARNING, "revocations", source=source, keys=keys)
        if self._record is not None and self.trust.revocations.voids(self._record):
            event(logger, logging.ERROR, "record_revoked", name=self._record.name)
        self._changed = self.waits = True

    def _tell(self, now_ns: int, hop: Hop) -> None:
        revocations = self.trust.revocations
        if revocations is None or hop.session.peer_hello is None:
            return
        if hop.revocations_s == revocations.issued_s:
            return
        if self._hops.send(now_ns, hop, RevocationList(self.trust.packed)):
            hop.revocations_s = revocations.issued_s
        else:
            self._tell_ns = now_ns + TELL_AGAIN_NS

    # ---- time --------------------------------------------------------------------------------

    def poll(self, now_ns: int) -> int:
        """Do what is due; returns the next deadline in ns. Not to be called within an event of a hop."""
        self.waits = False
        if self._changed:
            self._changed = False
            self._enforce(now_ns)
        if self._tell_ns is not None and now_ns >= self._tell_ns:
            self._tell_all(now_ns)
        if now_ns >= self._saved_ns + SAVE_NS:
            self.save(now_ns)
            self._look_after_own(now_ns)
        deadlines = [self._saved_ns + SAVE_NS, self.renewals.poll(now_ns)]
        for member in list(self._members.values()):
            gone = member.hop.session.state == "connecting" and now_ns >= member.until_ns
            if why := self.trust.why_void(now_ns, member.record) or ("silent" if gone else None):
                self._drop(now_ns, member, why)
                continue
            deadlines.append(self.trust.expires_ns(member.record))
            if now_ns < member.until_ns:
                deadlines.append(member.until_ns)
        if self._tell_ns is not None:
            deadlines.append(self._tell_ns)
        return min(deadlines)

    def _enforce(self, now_ns: int) -> None:
        """No session with a revoked key; all others know the list; it is kept."""
        for hop in list(self._hops.hops.values()):
            key = hop.session.peer.public_key
            if key not in self._members and self.trust.revoked(key):
                event(logger, logging.WARNING, "configured_peer_revoked", peer=hop.name)
                self._remove_hop(now_ns, hop)
        for member in list(self._members.values()):
            if why := self.trust.why_void(now_ns, member.record):
                self._drop(now_ns, member, why)
        self._tell_all(now_ns)
        self.save(now_ns)

    def _tell_all(self, now_ns: int) -> None:
        self._tell_ns = None
        for hop in list(self._hops.hops.values()):
            self._tell(now_ns, hop)

    # ---- its own record ----------------------------------------------------------------------

    def _own(self, now_ns: int, packed: bytes) -> bytes:
        """A record of this node that was kept; empty if it is another's, for the key may be a new one. Raises
        RecordError."""
        of = self.trust.open(now_ns, packed)
        return packed if of.public_key == self._identity.public and self._fits(of) else b""

    def _fits(self, of: Record) -> bool:
        return (of.name, of.role) == (self._identity.name, self._role)

    def _adopt(self, now_ns: int, of: Record, packed: bytes) -> None:
        """A record of this node's key, not void: what Renewals.adopt asks for. Raises RecordError."""
        if not self._fits(of):
            raise RecordError("record of another name or role")
        if self._record is not None and of.issued_s <= self._record.issued_s:
            return
        self.trust.open(now_ns, packed)
        self._record = of
        self._adopted = self._identity.record = packed
        event(logger, logging.INFO, "record_renewed", expires=_date(of.expires_s))
        self.save(now_ns)

    def _left_s(self, now_ns: int, of: Record) -> int:
        """Seconds to its expiry, by the later of the wall clock and what is proven."""
        return of.expires_s - max(int(self._wall_clock()), self.trust.proven_s(now_ns))

    def left_permille(self, now_ns: int) -> int | None:
        """Of the life of this node's record, what is left; None without a record."""
        of = self._record
        if of is None:
            return None
        return max(RATIO * self._left_s(now_ns, of) // (of.expires_s - of.issued_s), 0)

    def notes(self, now_ns: int) -> list[str]:
        """What should be seen to, one sentence each."""
        left, of = self.left_permille(now_ns), self._record
        if of is None or left is None or left >= ENDS * RATIO:
            return []
        ends = "ends" if self._left_s(now_ns, of) > 0 else "has expired:"
        return [f"the record of this node {ends} {_date(of.expires_s)}, and no renewed one has come"]

    def _look_after_own(self, now_ns: int) -> None:
        """Log once that the record ends, and once that it has ended."""
        of, notes = self._record, self.notes(now_ns)
        if of is None or not notes:
            return
        ended = self._left_s(now_ns, of) <= 0
        level, name = (logging.ERROR, "record_expired") if ended else (logging.WARNING, "record_expires")
        if self._said != (of.issued_s, name):
            self._said = of.issued_s, name
            event(logger, level, name, expires=_date(of.expires_s))

    # ---- what it says of itself --------------------------------------------------------------

    def status(self, now_ns: int) -> dict[str, Any]:
        own, revocations = self._record, self.trust.revocations
        proven_s = self.trust.proven_s(now_ns)
        return {
            "record": own
            and {
                "issued": _date(own.issued_s),
                "expires": _date(own.expires_s),
                "expires_in_seconds": self._left_s(now_ns, own),
                "role": own.role,
                "revoked": revocations is not None and revocations.voids(own),
            },
            "proven_time": _date(proven_s) if proven_s else None,
            "revocations": revocations
            and {"issued": _date(revocations.issued_s), "keys": len(revocations.revoked)},
            "members": [
                {
                    "name": m.record.name,
                    "region": m.record.region,
                    "role": m.record.role,
                    "expires": _date(m.record.expires_s),
                }
                for m in self._members.values()
            ],
            "renewals": self.renewals.status(),
            "max_peers": self._config.max_peers,
        }


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _date(time_s: int) -> str:
    return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
