"""What this node knows of the health of nodes, its own included, and who is told of it.

Like `hops`, without I/O of its own. Every peer is told of this node. A region's peers that are no regions are
its edges; what they say goes on to the other regions as one summary.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from relay import __version__
from relay.core.health import LIFE_NS, Watch, alarms, penalties, summary_of
from relay.core.routing import FULL_PERMILLE
from relay.services.hops import Hop, Hops
from relay.services.streams import Streams
from relay.wire.coding import encode
from relay.wire.health import RATIO, Digest, Summary, as_dict
from relay.wire.messages import Health

TICK_NS = 1_000_000_000
ANSWER_NS = 100_000_000
"""A board that takes longer is not waited for."""
REST_NS = 3600 * TICK_NS
"""Until the next look while no peer is connected: one that connects comes with a poll of its own."""

Status = dict[str, Any]


class Fleet:
    """`look` asks for a reading of the board, which comes back through `observe`; `hops` is None for a plain
    forwarder; `is_region`: this node speaks for others; `record_left` says how much is left of the life of
    its record, in thousandths."""

    def __init__(
        self,
        hops: Hops | None,
        streams: Streams,
        look: Callable[[], None],
        *,
        is_region: bool,
        record_left: Callable[[int], int | None] = lambda now_ns: None,
    ) -> None:
        self._hops = hops
        self._streams = streams
        self._look = look
        self._is_region = is_region
        self._record_left = record_left
        self._facts = Digest()
        self._facts_ns: int | None = None
        self._watch = Watch()
        self._digest = encode(Digest())
        self._summary: bytes | None = None
        self._tick_ns = 0
        self._awaited_ns = 0
        """Until when what is told waits for the reading that was asked for, so as not to be a second old."""

    def observe(self, now_ns: int, facts: Digest) -> None:
        """A reading of the board."""
        self._facts, self._facts_ns, self._awaited_ns = facts, now_ns, 0
        self._streams.admission.observe(now_ns, loads(facts), facts.nic_speed_mbps)
        self._refresh(now_ns)

    def on_state(self, now_ns: int, hop: Hop, fresh: bool) -> None:
        """A new process of the peer has told us nothing yet, and knows nothing of us."""
        if fresh:
            hop.health.forget()
            hop.pace.change(now_ns)

    def on_message(self, now_ns: int, hop: Hop, state: Health) -> None:
        hop.health.take(now_ns, state)

    def poll(self, now_ns: int) -> int:
        """Tell peers what is due; returns the next deadline in ns."""
        peers = [hop for hop in self._hops.hops.values() if hop.connected] if self._hops else []
        if not peers:
            return now_ns + REST_NS
        if now_ns >= self._tick_ns:
            self._tick_ns = now_ns // TICK_NS * TICK_NS + TICK_NS
            self._awaited_ns = now_ns + ANSWER_NS
            self._look()
            summary = self._summarise(now_ns)
            self._summary = encode(summary) if summary else None
            self._refresh(now_ns)
        elif self._streams.draining is not self._watch.digest.draining or self._fills(now_ns):
            self._refresh(now_ns)
        if now_ns < self._awaited_ns:
            return self._awaited_ns
        for hop in peers:
            if now_ns >= hop.pace.due_ns:
                self._tell(now_ns, hop)
        return min(self._tick_ns, *(hop.pace.due_ns for hop in peers))

    def _fills(self, now_ns: int) -> bool:
        """Whether what was let in since the last reading leaves no room."""
        known = self._watch.digest.headroom_permille
        return known is not None and known > FULL_PERMILLE and self._streams.admission.full(now_ns)

    def _tell(self, now_ns: int, hop: Hop) -> None:
        assert self._hops is not None
        self._hops.send_state(now_ns, hop, self._digest)
        if self._summary is not None and hop.is_region:
            self._hops.send_state(now_ns, hop, self._summary)
        hop.pace.sent(now_ns, hop.link.loss_ratio if hop.link.loss_settled else None)

    def _refresh(self, now_ns: int) -> None:
        digest = self.own(now_ns)
        self._digest = encode(digest)
        if self._watch.update(digest) and self._hops is not None:
            for hop in self._hops.hops.values():
                hop.pace.change(now_ns)

    def _summarise(self, now_ns: int) -> Summary | None:
        """None where there are no edges to speak for."""
        hops = self._hops.hops.values() if self._hops and self._is_region else ()
        edges = [hop.health for hop in hops if hop.health.digest and not hop.is_region]
        known = [heard.digest for heard in edges if heard.digest and heard.fresh(now_ns)]
        return summary_of(known, len(edges)) if edges else None

    # ---- what is shown -----------------------------------------------------------------------

    def own(self, now_ns: int) -> Digest:
        """This node; of its board nothing when the last reading is too old."""
        fresh = self._facts_ns is not None and now_ns - self._facts_ns < LIFE_NS
        facts = self._facts if fresh else Digest()
        headroom, reserved = facts.headroom_permille, self._streams.admission.reserved(now_ns)
        streams = self._streams.streams.values()
        return replace(
            facts,
            headroom_permille=None if headroom is None else max(headroom - round(reserved * RATIO), 0),
            version=__version__,
            draining=self._streams.draining,
            streams=sum(stream.enters_here or stream.source is not None for stream in streams),
            record_left_permille=self._record_left(now_ns),
        )

    def statuses(self, now_ns: int, name: str, region: str) -> list[Status]:
        """This node, then its peers, regions first."""
        own_age_ns = None if self._facts_ns is None else now_ns - self._facts_ns
        own = {
            "name": name,
            "region": region,
            "role": _role(self._is_region),
            "self": True,
            "connected": True,
        }
        shown = [own | _health(self.own(now_ns), own_age_ns) | _summary(self._summarise(now_ns), None)]
        hops = self._hops.hops.values() if self._hops else ()
        for hop in sorted(hops, key=lambda hop: not hop.is_region):
            heard = hop.health
            peer = {"name": hop.name, "region": hop.region, "role": _role(hop.is_region), "self": False}
            peer["connected"] = hop.connected
            digest = heard.digest if heard.fresh(now_ns) else None
            shown.append(
                peer
                | _health(digest, now_ns - heard.digest_ns if heard.digest else None)
                | _summary(heard.summary, now_ns - heard.summary_ns)
            )
        return shown


def _role(is_region: bool) -> str:
    return "region" if is_region else "edge"


def _health(digest: Digest | None, age_ns: int | None) -> Status:
    """A digest that is too old is no longer shown, but its age is."""
    known = digest or Digest()
    return {
        "age_seconds": None if age_ns is None else round(age_ns * 1e-9, 3),
        "health": as_dict(digest) if digest else None,
        "alarms": sorted(alarms(known)),
        "penalties_ms": {penalty.reason: penalty.ms for penalty in penalties(known)},
    }


def loads(facts: Digest) -> dict[str, float | None]:
    """Those that u is the highest of, 0 to 1."""
    known = {
        "packet thread": facts.thread_load_permille,
        "network card": facts.nic_load_permille,
        "interrupts": facts.kernel_load_permille,
    }
    return {name: None if load is None else load / RATIO for name, load in known.items()}


def _summary(found: Summary | None, age_ns: int | None) -> Status:
    if found is None:
        return {"summary": None}
    age = {} if age_ns is None else {"age_seconds": round(age_ns * 1e-9, 3)}
    return {"summary": as_dict(found) | age}
