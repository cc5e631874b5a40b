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
from relay.services.publish import REFUSED_FOR_NS, set_budgets, with_refusals
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
READY_NS = 3000 * MS
"""A region that has been asked for a stream has so long to get it; then another is tried."""
NOTHING_COMES = "nothing comes to it"
"""Why it is tried no more for a while."""


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
            self.drop(now_ns, stream)
        if stream.subscribers and stream.source is not None:
            self._hops.watch(stream.source, True)  # those behind are to know when nothing comes
        if not wanted or stream.source is None or stream.published_here:
            self.drop(now_ns, stream)
            return
        settled = self._settled(now_ns, stream)
        if not settled and not stream.lost and stream.moving is None:
            return
        if settled:
            self._confirm(now_ns, stream)
        standby = stream.standby
        back = standby is not None and stream.moving is standby.hop
        if standby is not None and standby.ready:
            if standby.flows and not settled and not back:
                return
            if stream.lost or back:
                self._move(now_ns, stream)
                return
        self._rest(now_ns, stream)
        target = stream.moving or self._choose(now_ns, stream)
        if standby is not None and standby.flows and settled and standby.hop is target:
            self._hold(now_ns, stream, standby)
        if standby is not None and standby.hop is not target:
            self.drop(now_ns, stream)
        if target is not None and stream.standby is None:
            self._ask(now_ns, stream, target)

    def _ask(self, now_ns: int, stream: Stream, target: Hop) -> None:
        backup = stream.backup
        if backup is None or backup.hop is not target or backup.offer is None:
            if self._hops.send(now_ns, target, Subscribe(stream.name, standby=True)):
                stream.standby = Standby(target, now_ns)
        elif _fits(stream, backup.offer):  # it is the edge that publishes it, and has offered it
            stream.standby = Standby(target, now_ns)
            self._said(stream, backup.offer)

    def _confirm(self, now_ns: int, stream: Stream) -> None:
        if stream.unconfirmed and stream.source is not None:
            wanted = Subscribe(stream.name, since=self._tracks.missing(stream))
            stream.unconfirmed = not self._hops.send(now_ns, stream.source, wanted)

    def _settled(self, now_ns: int, stream: Stream) -> bool:
        return stream.takeover is None or now_ns - stream.takeover.at_ns >= SETTLE_NS

    def _rest(self, now_ns: int, stream: Stream) -> None:
        """A region that has not got the stream is neither moved to nor kept as the second one while there is
        another."""
        standby = stream.standby
        if standby is None or standby.ready or self._subscriber.directory is not None:
            return
        late = standby.offer is not None or now_ns - standby.since_ns >= READY_NS
        if late and (standby.hop.name not in stream.refusals or _rests(stream, standby.hop)):
            stream.refusals[standby.hop.name] = (NOTHING_COMES, now_ns + REFUSED_FOR_NS)
            if stream.moving is standby.hop:
                stream.moving = None

    def _choose(self, now_ns: int, stream: Stream) -> Hop | None:
        """The best region but the one that it comes from, changed as slowly as that one. One that rests stays
        as long as there is no other, and when it has the stream again. For a region it is the edge itself, if
        that has offered it, or the region that it has offered it to."""
        if self._subscriber.directory is not None:
            target = stream.backup.hop if stream.backup is not None else self._subscriber.standby_at(stream)
            return target if target is not stream.source else None
        assert stream.asked is not None
        standby = stream.standby
        rests = standby is not None and standby.hop.heard and _rests(stream, standby.hop)
        if standby is not None and standby.ready and rests:
            return standby.hop
        others = with_refusals(stream, [c for c in stream.candidates if c.peer != stream.asked.name])
        choice = stream.second.choose(now_ns, others, standby.hop.name if standby else None)
        if choice.peer is None:
            return standby.hop if standby is not None and rests else None
        return self._hops.named(choice.peer)

    def _hold(self, now_ns: int, stream: Stream, standby: Standby) -> None:
        """The region that the stream has moved from becomes its standby."""
        if self._hops.send(now_ns, standby.hop, Subscribe(stream.name, standby=True)):
            standby.flows = False
            if standby.armed:
                self._arm(stream)

    def drop(self, now_ns: int, stream: Stream) -> None:
        """It needs none any more, or not that one."""
        standby = stream.standby
        if standby is not None:
            self._forget(stream)
            backup = stream.backup is not None and standby.hop is stream.backup.hop
            if standby.hop is not stream.asked and not backup:  # as the first one, meanwhile
                self._subscriber.leave(now_ns, stream, standby.hop)

    def _forget(self, stream: Stream) -> None:
        standby, stream.standby = stream.standby, None
        assert standby is not None
        self._tracks.disarm(stream)
        if standby.offer is not None:
            self._tracks.unroute(stream, standby.hop)
        self.watch(stream.source)
        set_budgets(self._hops, self._streams.values(), standby.hop)

    # ---- what it says --------------------------------------------------------------------------

    def is_at(self, stream: Stream | None, hop: Hop) -> bool:
        return stream is not None and stream.standby is not None and stream.standby.hop is hop

    def offered(self, now_ns: int, stream: Stream, hop: Hop, offer: Publish) -> None:
        """It has the stream now, or says something new of it."""
        if not _fits(stream, offer):
            reason = "its tracks are not those of the other region"
            self._hops.send(now_ns, hop, PublishRefused(offer.alias, offer.epoch, reason))
            self.refused(now_ns, stream, hop, reason)
            return
        beyond = stream.beyond[: PATH_NODES_MAX - 1]
        self._hops.send(now_ns, hop, PublishOk(offer.alias, offer.epoch, beyond))
        self._said(stream, offer)

    def _said(self, stream: Stream, offer: Publish) -> None:
        standby = stream.standby
        assert standby is not None
        was_armed, standby.offer = standby.armed, offer
        self._tracks.route(stream, standby.hop, offer)
        set_budgets(self._hops, self._streams.values(), standby.hop)
        if standby.armed:
            self._arm(stream)
            event(logger, logging.INFO, "stream_standby", stream=stream.name, peer=standby.hop.name)
        elif was_armed:
            self._tracks.disarm(stream)
            self.watch(stream.source)

    def renew(self, now_ns: int, stream: Stream) -> None:
        """The stream is another one behind the same name, at the first region."""
        if stream.standby is not None and stream.standby.offer is not None:
            self.offered(now_ns, stream, stream.standby.hop, stream.standby.offer)

    def unpublished(self, now_ns: int, hop: Hop, alias: int, epoch: int) -> list[Stream]:
        """It has lost the stream; the subscription stands. Those that an edge offers no more."""
        gone = []
        for stream in self._streams.values():
            offered = stream.backup.offer if stream.backup is not None else None
            if offered is not None and (offered.alias, offered.epoch) == (alias, epoch):
                gone += [stream] if self.no_longer_backed(now_ns, stream, hop) else []
            standby = stream.standby if self.is_at(stream, hop) else None
            if standby is None or standby.offer is None:
                continue
            if (standby.offer.alias, standby.offer.epoch) == (alias, epoch):
                self._forget(stream)
                stream.standby = Standby(hop, now_ns, flows=standby.flows)
        return gone

    def refused(
        self, now_ns: int, stream: Stream, hop: Hop, reason: str, rest_ns: int = REFUSED_FOR_NS
    ) -> None:
        stream.refusals[hop.name] = (reason, now_ns + rest_ns)
        self.drop(now_ns, stream)

    # ---- its edge ------------------------------------------------------------------------------

    def backed(self, now_ns: int, stream: Stream, hop: Hop, offer: Publish) -> None:
        """The edge that publishes a stream at another region offers it here as well."""
        self._hops.send(now_ns, hop, PublishOk(offer.alias, offer.epoch))
        if self.is_at(stream, hop):
            self.drop(now_ns, stream)
        stream.backup = Standby(hop, now_ns, offer)
        if stream.source is hop:
            stream.offer = offer

    def no_longer_backed(self, now_ns: int, stream: Stream, hop: Hop) -> bool:
        """Whether a peer was the edge that offered it."""
        if stream.backup is None or stream.backup.hop is not hop:
            return False
        if self.is_at(stream, hop):
            self.drop(now_ns, stream)
        stream.backup = None
        return True

    def comes_here(self, now_ns: int, stream: Stream, hop: Hop, offer: Publish) -> bool:
        """A peer publishes the stream here: whether it has come from another one until now. Then nothing has
        changed for those behind."""
        if stream.backup is not None and stream.backup.hop is hop:
            if self.is_at(stream, hop):
                self.take_over(now_ns, stream, "it is published here")
            stream.backup, stream.unconfirmed = None, False
        left, fits = stream.source, _fits(stream, offer)
        if left is None or left is hop:
            return False
        self.drop(now_ns, stream)
        self._tracks.unroute(stream, left)
        if stream.asked is not None:
            self._subscriber.leave(now_ns, stream, stream.asked)
            stream.asked = stream.moving = None
        self.watch(left)
        return fits

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
        self.watch(stream.source)

    def watch(self, hop: Hop | None) -> None:
        """While a stream that comes from there could come from elsewhere, or is sent on."""
        if hop is not None and hop.id in self._hops.hops:
            mine = (s for s in self._streams.values() if s.source is hop)
            matters = (bool(s.subscribers) or (s.standby is not None and s.standby.armed) for s in mine)
            self._hops.watch(hop, any(matters))

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
        asked = stream.pulled
        self._swap(now_ns, stream, why, silent_ms)
        self._tracks.unroute(stream, left)
        if asked:
            self._subscriber.leave(now_ns, stream, left)
        set_budgets(self._hops, self._streams.values(), left)
        return True

    def _move(self, now_ns: int, stream: Stream) -> None:
        """It comes from the second region from now on, and from the first for a while, too."""
        assert stream.source is not None and stream.standby is not None
        why = stream.choice.why
        if stream.lost:
            why = f"nothing comes {'to' if stream.source.quiet_ns is None else 'from'} {stream.source.name}"
        elif self._subscriber.directory is not None:
            why = f"it is published at {stream.standby.hop.name}"
        before = Standby(stream.source, now_ns, stream.offer, flows=True)
        if stream.standby.armed:  # else it sends it already
            self._tracks.ask_standby(stream)
        self._swap(now_ns, stream, why, None)
        stream.standby = before

    def _swap(self, now_ns: int, stream: Stream, why: str, silent_ms: int | None) -> None:
        """It comes from the second region from now on. In the packet plane the standby stays until there is
        another: the region is asked until a packet comes from it."""
        self._confirm(now_ns, stream)
        left, standby = stream.source, stream.standby
        assert left is not None and standby is not None and standby.offer is not None
        stream.takeovers += 1
        stream.takeover = Takeover(now_ns, left.name, standby.hop.name, why, silent_ms)
        backup = stream.backup is not None and standby.hop is stream.backup.hop
        stream.source, stream.asked = standby.hop, None if backup else standby.hop
        stream.superseded = False
        stream.offer, stream.alias, stream.epoch = standby.offer, standby.offer.alias, standby.offer.epoch
        stream.standby = stream.moving = None
        stream.refusals.pop(standby.hop.name, None)
        for track, offered in zip(stream.tracks, standby.offer.tracks, strict=True):
            track.alias = offered.alias
        self.watch(left)
        stream.unconfirmed = not standby.flows
        if not self._tracks.has_standby(stream):
            self._confirm(now_ns, stream)
        fields = {"stream": stream.name, "left": left.name, "taken": standby.hop.name, "why": why}
        event(logger, logging.WARNING if silent_ms else logging.INFO, "stream_takeover", **fields)


def _rests(stream: Stream, hop: Hop) -> bool:
    """Whether it is no choice because the stream did not come to it."""
    return hop.name in stream.refusals and stream.refusals[hop.name][0] == NOTHING_COMES


def _fits(stream: Stream, offer: Publish) -> bool:
    """Whether an offer has the tracks that the stream has."""
    return [format_of(track) for track in offer.tracks] == [track.format for track in stream.tracks]
