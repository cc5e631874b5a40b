"""The second region of each stream that this node has asked for: chosen, kept ready, and gone to.

It is asked for the stream as the first one is, but holds it back, and keeps the last half second. The packet
planes switch to it by themselves when the first falls silent (relay_ext/standby.pyx); what is known of the
stream here follows. A move to a better region goes the same way, without a silence: the stream comes from
both for a while.
"""

import logging

from relay.log import event
from relay.media.rtp import format_of
from relay.services.hops import Hop, Hops
from relay.services.publish import REFUSED_FOR_NS, set_budgets
from relay.services.shards import Shards
from relay.services.stream import Standby, Stream, Takeover
from relay.services.subscribe import Subscriber
from relay.services.tracks import Tracks
from relay.wire.messages import PATH_NODES_MAX, Publish, PublishOk, PublishRefused, Subscribe
from relay_ext.shards import shard_of

logger = logging.getLogger("relay.stream")

MS = 1_000_000
SETTLE_NS = 2000 * MS
"""After a switch: for so long the packet plane asks for a stream by the sequence that is missing, and one
that has moved comes from both regions. Then the region is told to send it in any case, and there is a standby
again."""


class Standbys:
    """`streams` are those of the node."""

    def __init__(
        self, shards: Shards, hops: Hops, tracks: Tracks, subscriber: Subscriber, streams: dict[str, Stream]
    ) -> None:
        self._shards = shards
        self._hops = hops
        self._tracks = tracks
        self._subscriber = subscriber
        self._streams = streams

    # ---- which it is ---------------------------------------------------------------------------

    def refresh(self, now_ns: int, stream: Stream, wanted: bool) -> None:
        """Have the second-best region ready, or the one that the stream is to move to."""
        if stream.standby is not None and stream.standby.hop is stream.asked:
            self._forget(stream)  # it has been asked as the first one meanwhile
        if not wanted or not stream.pulled:
            self.drop(now_ns, stream)
            return
        if self._settled(now_ns, stream):
            self._confirm(now_ns, stream)
        standby = stream.standby
        if standby is not None and standby.flows_until_ns is not None:
            if now_ns < standby.flows_until_ns:
                return
            self._hold(now_ns, stream, standby)
        target = stream.moving or self._choose(now_ns, stream)
        if standby is not None and standby.hop is not target:
            self.drop(now_ns, stream)
        if (
            target is not None
            and stream.standby is None
            and self._settled(now_ns, stream)
            and self._hops.send(now_ns, target, Subscribe(stream.name, standby=True))
        ):
            stream.standby = Standby(target)
        if stream.moving is not None and stream.standby is not None and stream.standby.armed:
            self._move(now_ns, stream, stream.choice.why)

    def _confirm(self, now_ns: int, stream: Stream) -> None:
        if stream.unconfirmed and stream.asked is not None:
            stream.unconfirmed = not self._hops.send(now_ns, stream.asked, Subscribe(stream.name))

    def _settled(self, now_ns: int, stream: Stream) -> bool:
        return stream.takeover is None or now_ns - stream.takeover.at_ns >= SETTLE_NS

    def _choose(self, now_ns: int, stream: Stream) -> Hop | None:
        """The best region but the one that it comes from, changed as slowly as that one."""
        if self._subscriber.directory is not None:
            return None  # there is one region that a region can have it from
        assert stream.asked is not None
        others = [c for c in stream.candidates if c.peer != stream.asked.name]
        current = stream.standby.hop.name if stream.standby else None
        choice = stream.second.choose(now_ns, others, current)
        return self._hops.named(choice.peer) if choice.peer else None

    def _hold(self, now_ns: int, stream: Stream, standby: Standby) -> None:
        """The region that the stream has moved from becomes its standby."""
        if self._hops.send(now_ns, standby.hop, Subscribe(stream.name, standby=True)):
            standby.flows_until_ns = None
            self._arm(stream)

    def drop(self, now_ns: int, stream: Stream) -> None:
        """It needs none any more, or not that one."""
        standby = stream.standby
        if standby is not None:
            self._forget(stream)
            self._subscriber.leave(now_ns, stream, standby.hop)

    def _forget(self, stream: Stream) -> None:
        standby, stream.standby = stream.standby, None
        assert standby is not None
        self._tracks.disarm(stream)
        if standby.offer is not None:
            self._tracks.unroute(stream, standby.hop)
        self._watch(stream.source)
        set_budgets(self._hops, self._streams.values(), standby.hop)

    # ---- what it says --------------------------------------------------------------------------

    def is_at(self, stream: Stream | None, hop: Hop) -> bool:
        return stream is not None and stream.standby is not None and stream.standby.hop is hop

    def offered(self, now_ns: int, stream: Stream, hop: Hop, offer: Publish) -> None:
        """It has the stream now, or says something new of it."""
        standby = stream.standby
        assert standby is not None
        if [format_of(track) for track in offer.tracks] != [track.format for track in stream.tracks]:
            reason = "its tracks are not those of the other region"
            self._hops.send(now_ns, hop, PublishRefused(offer.alias, offer.epoch, reason))
            self.refused(now_ns, stream, hop, reason)
            return
        standby.offer = offer
        self._tracks.route(stream, hop, offer)
        set_budgets(self._hops, self._streams.values(), hop)
        beyond = stream.beyond[: PATH_NODES_MAX - 1]
        self._hops.send(now_ns, hop, PublishOk(offer.alias, offer.epoch, beyond))
        if standby.armed:
            self._arm(stream)
            event(logger, logging.INFO, "stream_standby", stream=stream.name, peer=hop.name)
        if stream.moving is hop:
            self.refresh(now_ns, stream, wanted=True)

    def renew(self, now_ns: int, stream: Stream) -> None:
        """The stream is another one behind the same name, at the first region."""
        if stream.standby is not None and stream.standby.offer is not None:
            self.offered(now_ns, stream, stream.standby.hop, stream.standby.offer)

    def unpublished(self, hop: Hop, alias: int, epoch: int) -> None:
        """It has lost the stream; the subscription stands."""
        for stream in self._streams.values():
            offer = stream.standby.offer if stream.standby is not None and self.is_at(stream, hop) else None
            if offer is not None and (offer.alias, offer.epoch) == (alias, epoch):
                self._forget(stream)
                stream.standby = Standby(hop)

    def refused(
        self, now_ns: int, stream: Stream, hop: Hop, reason: str, rest_ns: int = REFUSED_FOR_NS
    ) -> None:
        stream.refusals[hop.name] = (reason, now_ns + rest_ns)
        self.drop(now_ns, stream)

    # ---- the packet planes ---------------------------------------------------------------------

    def _arm(self, stream: Stream) -> None:
        """Where a stream's two hops and its track are of one shard, the switch needs nothing from here."""
        standby = stream.standby
        assert standby is not None and standby.offer is not None and stream.source is not None
        self._tracks.disarm(stream)
        first, second = stream.source.id, standby.hop.id
        for track, offered in zip(stream.tracks, standby.offer.tracks, strict=True):
            if shard_of(track.id) == shard_of(first) == shard_of(second):
                offer = standby.offer
                plane = self._shards.of(track.id)
                plane.add_standby(track.id, first, second, offer.alias, offered.alias, offer.epoch)
        self._watch(stream.source)

    def _watch(self, hop: Hop | None) -> None:
        """While a stream that comes from there could come from elsewhere."""
        if hop is not None and hop.id in self._hops.hops:
            armed = (s for s in self._streams.values() if s.standby is not None and s.standby.armed)
            self._hops.watch(hop, any(s.source is hop for s in armed))

    # ---- the switch ----------------------------------------------------------------------------

    def take_over(self, now_ns: int, stream: Stream, why: str, silent_ms: int | None = None) -> bool:
        """The first region has the stream no longer, or is silent: whether the second has taken it."""
        if stream.standby is None or not stream.standby.armed or stream.source is None:
            # If it has been taken over just before: there is nothing to ask for.
            self._confirm(now_ns, stream)
            return False
        left = stream.source
        if silent_ms is None:
            self._tracks.ask_standby(stream)
        self._swap(now_ns, stream, why, silent_ms)
        self._tracks.unroute(stream, left)
        self._subscriber.leave(now_ns, stream, left)
        set_budgets(self._hops, self._streams.values(), left)
        return True

    def _move(self, now_ns: int, stream: Stream, why: str) -> None:
        assert stream.source is not None and stream.offer is not None
        before = Standby(stream.source, stream.offer, now_ns + SETTLE_NS)
        self._tracks.ask_standby(stream)
        self._swap(now_ns, stream, why, None)
        stream.standby = before

    def _swap(self, now_ns: int, stream: Stream, why: str, silent_ms: int | None) -> None:
        """It comes from the second region from now on. In the packet plane the standby stays until there is
        another: the region is asked until a packet comes from it."""
        left, standby = stream.source, stream.standby
        assert left is not None and standby is not None and standby.offer is not None
        stream.takeovers += 1
        stream.takeover = Takeover(now_ns, left.name, standby.hop.name, why, silent_ms)
        stream.source = stream.asked = standby.hop
        stream.offer, stream.alias, stream.epoch = standby.offer, standby.offer.alias, standby.offer.epoch
        stream.standby = stream.moving = None
        for track, offered in zip(stream.tracks, standby.offer.tracks, strict=True):
            track.alias = offered.alias
        self._watch(left)
        stream.unconfirmed = True
        if not self._tracks.has_standby(stream):
            self._confirm(now_ns, stream)
        fields = {"stream": stream.name, "left": left.name, "taken": standby.hop.name, "why": why}
        event(logger, logging.WARNING if silent_ms else logging.INFO, "stream_takeover", **fields)
