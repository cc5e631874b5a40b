"""The regions that a node may call, though its configuration does not name them.

A region answers a peer that asks with the records of itself and of the regions that it speaks with. Any other
node asks the regions that it calls, and takes what they say for no more than a hint: a region is called only
on the word of the fleet's key, at the addresses in its record, so that no peer can make us send anything to
somebody who is not of the fleet. `core/nearest` says with which of them there is a session.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from relay.core.handshake import HandshakeError, Identity
from relay.core.nearest import SECOND, Known, Nearest, Sight
from relay.core.record import Record, RecordError, decode_record
from relay.core.routing import Candidate
from relay.core.trust import Trust
from relay.log import event
from relay.services.hops import Hop, Hops
from relay.services.streams import Streams
from relay.wire.messages import RECORDS_MAX, AskRegions, Goodbye, Regions

logger = logging.getLogger("relay.fleet")

TICK_NS = SECOND
REST_NS = 3600 * SECOND
"""Until the next look when there is nothing to look at: what changes that comes with a poll of its own."""
ASK_NS = 60 * SECOND
"""Between two questions, each to another region."""
FORGET_NS = 900 * SECOND
"""A region that nobody has named for so long is not called any more."""
LEARNED_MAX = 64

RegionMessage = AskRegions | Regions | Goodbye


@dataclass(slots=True)
class Learned:
    """A region that was named by another."""

    record: Record
    packed: bytes
    named_ns: int
    hop: Hop | None = None
    """None: there is no session with it now."""


class Directions:
    """`region`: this node is one, and learns of none. `remove` ends a hop and what goes over it."""

    def __init__(
        self,
        trust: Trust,
        identity: Identity,
        hops: Hops,
        streams: Streams,
        *,
        region: bool,
        random_bytes: Callable[[int], bytes],
        remove: Callable[[int, Hop], None],
    ) -> None:
        self._trust = trust
        self._identity = identity
        self._hops = hops
        self._streams = streams
        self._region = region
        self._remove_hop = remove
        self._nearest = Nearest(random_bytes)
        self._learned: dict[bytes, Learned] = {}
        """By public key."""
        self._asked_ns: dict[int, int] = {}
        """When each region was asked, by hop."""
        self._leaving: list[Hop] = []
        """Sessions that were said goodbye to, and end with the next look."""
        self._left: list[Hop] = []
        """Those whose peers said it."""
        self._tick_ns = 0

    # ---- what peers say ----------------------------------------------------------------------

    def on_state(self, hop: Hop, fresh: bool) -> None:
        """A new process of the peer may know others."""
        if fresh:
            self._asked_ns.pop(hop.id, None)

    def on_message(self, now_ns: int, hop: Hop, message: RegionMessage) -> None:
        match message:
            case AskRegions():
                records = self._records()
                for i in range(0, len(records), RECORDS_MAX):
                    self._hops.send(now_ns, hop, Regions(tuple(records[i : i + RECORDS_MAX])))
            case Regions(named):
                self._learn(now_ns, hop, named)
            case Goodbye():
                self._left.append(hop)

    def _records(self) -> list[bytes]:
        """Of this region and those that it speaks with, as far as they can be called."""
        if not self._region:
            return []
        hops = [h for h in self._hops.hops.values() if h.is_region]
        hellos = [h.session.peer_hello for h in hops if h.connected]
        packed = [self._identity.record, *(hello.record for hello in hellos if hello)]
        return [record for record in packed if _callable(record)]

    def _learn(self, now_ns: int, hop: Hop, records: tuple[bytes, ...]) -> None:
        if self._region or not hop.upstream or not hop.is_region:
            hop.drops["regions unasked"] += 1
            return
        try:
            for packed in records:
                self._name(now_ns, packed)
        except (RecordError, HandshakeError):
            hop.drops["regions refused"] += 1

    def _name(self, now_ns: int, packed: bytes) -> None:
        """A region is named by its record. Raises RecordError, HandshakeError."""
        record = decode_record(packed)
        known = self._learned.get(record.public_key)
        if known is not None and known.packed == packed:
            known.named_ns = now_ns
            return
        if record.role != "region":
            raise RecordError("record of an edge")
        rivals = [of for of in self._learned.values() if _same(of.record, record)]
        if not record.addresses or self._known_otherwise(record, rivals):
            return
        self._trust.judge(now_ns, packed, record.public_key)
        if known is not None and known.record.name == record.name:
            known.record, known.packed, known.named_ns = record, packed, now_ns
            return
        for rival in rivals:
            self._forget(now_ns, rival, "there is a newer record")
        event(logger, logging.INFO, "region_learned", peer=record.name, region=record.region)
        self._learned[record.public_key] = Learned(record, packed, now_ns)
        self._tick_ns = now_ns

    def _known_otherwise(self, record: Record, rivals: list[Learned]) -> bool:
        """Whether it is ours or a peer's, there is a later one of its key or name, or there are too many."""
        if rivals:
            return any(of.record.issued_s >= record.issued_s for of in rivals)
        own = record.public_key == self._identity.public or record.name == self._identity.name
        peer = self._hops.named(record.name) is not None or self._hops.acceptor.knows(record.public_key)
        return own or peer or len(self._learned) >= LEARNED_MAX

    # ---- what is to be done ------------------------------------------------------------------

    def configured(self, now_ns: int, name: str, public_key: bytes) -> None:
        """A peer comes into the configuration: what was learned of that key or name makes way."""
        for learned in list(self._learned.values()):
            if public_key == learned.record.public_key or name == learned.record.name:
                self._forget(now_ns, learned, "now in the configuration")
        self._end(now_ns)  # at once: its key is to be free

    def poll(self, now_ns: int) -> int:
        """Do what is due; returns the next deadline in ns. Not to be called within an event of a hop."""
        left, self._left = self._left, []
        for hop in left:
            self._hops.hang_up(now_ns, hop)
        if self._region:
            return now_ns + REST_NS
        if now_ns >= self._tick_ns or self._hops.suggested:
            self._tick_ns = now_ns // TICK_NS * TICK_NS + TICK_NS
            self._look(now_ns)
        busy = self._learned or self._leaving or any(hop.upstream for hop in self._hops.hops.values())
        return self._tick_ns if busy else now_ns + REST_NS

    def _look(self, now_ns: int) -> None:
        self._end(now_ns)
        for learned in list(self._learned.values()):
            if learned.hop is not None and learned.hop.id not in self._hops.hops:
                learned.hop = None
            unnamed = "nobody names it" if now_ns - learned.named_ns >= FORGET_NS else None
            if why := self._trust.why_void(now_ns, learned.record) or unnamed:
                self._forget(now_ns, learned, why)
        wanted = self._nearest.look(now_ns, self._sights(now_ns), self._hops.suggested)
        self._hops.suggested.clear()
        for learned in self._learned.values():
            name = learned.record.name
            if learned.hop is None and name in wanted:
                self._call(now_ns, learned)
            elif learned.hop is not None and name not in wanted:
                self._leave(now_ns, learned, learned.hop)
        self._hops.resting = [self._rests(now_ns, of) for of in self._learned.values() if of.hop is None]
        self._ask(now_ns)

    def _sights(self, now_ns: int) -> dict[str, Sight]:
        learned = {of.hop.id for of in self._learned.values() if of.hop is not None}
        measured = {c.peer: c for c in self._hops.candidates(now_ns) if not c.rests}
        sights = {of.record.name: Sight() for of in self._learned.values()}
        for hop in self._hops.hops.values():
            if hop.upstream:
                used = self._streams.uses(hop)
                sights[hop.name] = Sight(hop.id not in learned, used, measured[hop.name])
        return sights

    def _call(self, now_ns: int, learned: Learned) -> None:
        of = learned.record
        if not self._hops.acceptor.knows(of.public_key) and self._hops.named(of.name) is None:
            learned.hop = self._hops.add(now_ns, of.name, of.region, of.public_key, of.addresses)

    def _leave(self, now_ns: int, learned: Learned, hop: Hop) -> None:
        """The session ends with the next look: until then its goodbye is repeated, if it gets lost."""
        learned.hop, hop.upstream = None, False
        if hop.connected:
            self._hops.send(now_ns, hop, Goodbye())
        self._leaving.append(hop)

    def _forget(self, now_ns: int, learned: Learned, why: str) -> None:
        event(logger, logging.INFO, "region_forgotten", peer=learned.record.name, why=why)
        del self._learned[learned.record.public_key]
        if learned.hop is not None:
            self._leave(now_ns, learned, learned.hop)

    def _end(self, now_ns: int) -> None:
        leaving, self._leaving = self._leaving, []
        for hop in leaving:
            if hop.id in self._hops.hops:
                self._remove_hop(now_ns, hop)

    def _ask(self, now_ns: int) -> None:
        """A region when its session begins, and one in turn of those with which the session is to last."""
        asked = {of: ns for of, ns in self._asked_ns.items() if of in self._hops.hops}
        lasting = [hop for hop in self._hops.hops.values() if hop.upstream and self._lasts(hop)]
        lasting.sort(key=lambda hop: asked.get(hop.id, -1))
        turn = now_ns - max(asked.values(), default=now_ns) >= ASK_NS
        for hop in lasting[:1] if turn else [hop for hop in lasting if hop.id not in asked]:
            if self._hops.send(now_ns, hop, AskRegions()):
                asked[hop.id] = now_ns
        self._asked_ns = asked

    def _lasts(self, hop: Hop) -> bool:
        known = self._nearest.known.get(hop.name)
        kept = known is not None and (known.kept or hop.key not in self._learned)
        return kept and hop.connected and hop.is_region

    # ---- what it says of itself --------------------------------------------------------------

    def _rests(self, now_ns: int, learned: Learned) -> Candidate:
        name = learned.record.name
        known = self._nearest.known[name]
        measured = known.candidate or Candidate(name, False)
        return replace(measured, connected=False, rests=_rest(now_ns, known))

    def status(self, now_ns: int) -> list[dict[str, Any]]:
        """The regions that this node calls or could call, the nearest first."""
        learned = {of.record.name: of.record.region for of in self._learned.values()}
        called = {hop.name: hop.region for hop in self._hops.hops.values() if hop.upstream}
        regions = called | learned
        known = [(name, self._nearest.known[name]) for name in regions if name in self._nearest.known]
        known.sort(key=lambda item: (item[1].candidate is None, _cost_ms(item[1]) or 0.0, item[0]))
        return [
            {
                "name": name,
                "region": regions[name],
                "state": _state(of, configured=name not in learned),
                "cost_ms": _cost_ms(of),
                "age_seconds": None if of.measured_ns is None else round((now_ns - of.measured_ns) * 1e-9, 3),
            }
            for name, of in known
        ]


def _same(a: Record, b: Record) -> bool:
    """A key, or a name, is one node's."""
    return a.public_key == b.public_key or a.name == b.name


def _callable(packed: bytes) -> bool:
    """Whether a record is of a region with addresses. What it is worth is for the receiver to judge."""
    try:
        of = decode_record(packed)
    except RecordError:
        return False
    return of.role == "region" and bool(of.addresses)


def _cost_ms(of: Known) -> float | None:
    return round(of.candidate.cost_ms, 3) if of.candidate else None


def _state(of: Known, *, configured: bool) -> str:
    if of.kept:
        return "kept"
    return "configured" if configured else "rests" if of.opened_ns is None else "being measured"


def _rest(now_ns: int, known: Known) -> str:
    if known.measured_ns is None:
        return "rests: not measured yet"
    what = "measured" if known.candidate else "did not answer"
    return f"rests: {what} {(now_ns - known.measured_ns) / SECOND:.0f} s ago"
