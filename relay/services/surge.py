"""Who is let in when many want to come at once, who is asked to go elsewhere, and what is cut back meanwhile.

`core/admission` decides; here that is done to the subscriptions and hops of a node.
"""

import logging

from relay.core.admission import Admission
from relay.log import event
from relay.services.hops import Hop, Hops
from relay.services.stream import Stream
from relay.wire.messages import Move, Unavailable

logger = logging.getLogger("relay.surge")

LEAVE_NS = 5_000_000_000
"""A subscriber that was asked to go elsewhere has so long to do it."""
SHEDDING = "this node has more to do than it can"

ELSEWHERE = ("draining", "load", "streams", "tracks")
"""Refusals that another region may not give."""

Refusal = tuple[str, str]
"""A word to count it by, and the reason in full."""
Subscription = tuple[str, int]
"""A stream's name and a hop's id."""


class Surge:
    """`streams` are those of the node; it makes what is sent of them what it should be after `look`."""

    def __init__(
        self,
        admission: Admission,
        hops: Hops,
        streams: dict[str, Stream],
    ) -> None:
        self._admission = admission
        self._hops = hops
        self._streams = streams
        self._joined: dict[Subscription, None] = {}
        """The oldest first."""
        self._leaving: dict[Subscription, int] = {}
        """Those that were asked to go elsewhere, and when that ends."""

    # ---- who comes ---------------------------------------------------------------------------

    def subscribes(self, now_ns: int, stream: str, hop: Hop, *, flows: bool) -> Refusal | None:
        """Let a peer in that asks for a stream, or say why not. One that is not sent to it now (not `flows`)
        costs nothing."""
        known = self._streams.get(stream)
        bps = sum(track.bitrate_bps for track in known.tracks) if known else 0.0
        key, costs = (stream, hop.id), (bps or None) if flows else 0.0
        if (
            hop.is_region
        ):  # its one copy serves all who ask there, those among them who were sent away from here
            self._admission.reserve(now_ns, key, costs)
        elif reason := self._admission.join(now_ns, key, costs):
            return "load", reason
        self._joined.pop(key, None)
        self._joined[key] = None
        self._leaving.pop(key, None)
        return None

    def released(self, now_ns: int, stream: Stream, hop: Hop) -> None:
        """A peer whose standby this node was has come, and cannot be refused."""
        bps = sum(track.bitrate_bps for track in stream.tracks)
        self._admission.reserve(now_ns, (stream.name, hop.id), bps or None)

    def publishes(self, now_ns: int, stream: str, hop: Hop) -> Refusal | None:
        """Let in a stream that a peer offers, or say why not."""
        reason = self._admission.join(now_ns, (stream, hop.id))
        return ("load", reason) if reason else None

    def pulls(self, now_ns: int, stream: str, hop: Hop) -> None:
        """A stream comes that this node has asked for."""
        self._admission.reserve(now_ns, (stream, hop.id))

    def refuses(self, now_ns: int, hop: Hop, refusal: Refusal) -> str:
        """Count a refusal; the region that the peer had better try, if any."""
        self._admission.refused[refusal[0]] += 1
        return self._hops.roomiest(now_ns, hop) if refusal[0] in ELSEWHERE else ""

    # ---- who goes ----------------------------------------------------------------------------

    def ask_to_move(self, now_ns: int, stream: Stream, hop: Hop, reason: str) -> bool:
        """Whether the peer that a stream comes from, or is sent to, could be asked to go elsewhere."""
        return self._hops.send(now_ns, hop, Move(stream.name, reason, self._hops.roomiest(now_ns, hop)))

    def dismiss(self, now_ns: int, stream: Stream, hop: Hop, reason: str) -> None:
        """A subscription ends, whether the peer has another or not."""
        over = Unavailable(stream.name, False, reason, self._hops.roomiest(now_ns, hop))
        self._hops.send(now_ns, hop, over)
        del stream.subscribers[hop.id]

    def look(self, now_ns: int) -> None:
        """Once a second: cut back what must be, and give back what can be."""
        self._admission.carries(*carried(self._streams))
        subscribed = {(name, hop) for name, stream in self._streams.items() for hop in stream.subscribers}
        self._joined = {key: None for key in self._joined if key in subscribed}
        self._leaving = {key: due_ns for key, due_ns in self._leaving.items() if key in subscribed}
        before = self._admission.step
        away = self._admission.look(now_ns)
        step = self._admission.step
        if step is not before:
            load = self._admission.measured(now_ns)
            event(logger, logging.WARNING, "shedding", step=step.name.lower(), load=f"{load or 0:.2f}")
            self._hops.shed(step)
        newest = [key for key in reversed(self._joined) if key not in self._leaving]
        for key in [key for key in newest if not self._hops.hops[key[1]].is_region][:away]:
            stream, hop = self._streams[key[0]], self._hops.hops[key[1]]
            if self.ask_to_move(now_ns, stream, hop, SHEDDING):
                self._leaving[key] = now_ns + LEAVE_NS
                self._admission.sent_away += 1
                event(logger, logging.INFO, "sent_away", stream=stream.name, peer=hop.name)
        for key in [key for key, due_ns in self._leaving.items() if due_ns <= now_ns]:
            del self._leaving[key]
            self.dismiss(now_ns, self._streams[key[0]], self._hops.hops[key[1]], SHEDDING)


def carried(streams: dict[str, Stream]) -> tuple[float, int]:
    """Bits a second that come in and go out, and how many streams that is, each counted where it comes in
    and wherever it goes."""
    bps, flows = 0.0, 0
    for stream in streams.values():
        sent = sum(p.accepted and p.hop.id not in stream.held for p in stream.publications.values())
        ways = [1 + sent + len(track.egresses) for track in stream.tracks if track.bitrate_bps]
        bps += sum(t.bitrate_bps * (1 + sent + len(t.egresses)) for t in stream.tracks)
        flows += max(ways, default=0)
    return bps, flows
