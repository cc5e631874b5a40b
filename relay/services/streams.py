"""The streams of a node: where each enters, which peers it comes from and is sent to, and where it leaves.

Like `hops`, without I/O of its own. Here is what happens to a stream as a whole: what the configuration says,
what a peer offers, and what is to be done when either changes. `tracks` has its packets, `publish` what peers
are sent, `subscribe` how it is asked for.
"""

import logging
from collections.abc import Callable

from relay.config import RtpDestination
from relay.core.admission import PER_BPS, Admission
from relay.core.directory import Directory
from relay.log import event
from relay.media.rtp import TrackSource
from relay.services.entrance import DRAINING, Entrance
from relay.services.hops import Hop, Hops
from relay.services.publish import Publisher, set_budgets
from relay.services.shards import Shards
from relay.services.standby import Standbys
from relay.services.stream import Stream
from relay.services.subscribe import SENT_AWAY_FOR_NS, Subscriber
from relay.services.surge import Refusal, Surge
from relay.services.tracks import Ports, Tracks
from relay.wire.messages import (
    PATH_NODES_MAX,
    Announce,
    Ask,
    Catalogue,
    ListVersion,
    Message,
    Move,
    Publish,
    PublishOk,
    PublishRefused,
    Subscribe,
    Unavailable,
    Unpublish,
    Unsubscribe,
)

logger = logging.getLogger("relay.stream")

MS = 1_000_000
TICK_NS = 1000 * MS
REST_NS = 3_600_000 * MS
"""Until the next look when there is nothing to look at: what changes that comes with a poll of its own."""


class Streams:
    """`attach` gives it the hops before anything else happens; a plain forwarder has none. With a `directory`
    the node is a region; `name` is the node's."""

    def __init__(
        self,
        shards: Shards,
        ports: Ports,
        *,
        name: str,
        budget_ms: int,
        random_bytes: Callable[[int], bytes],
        directory: Directory | None = None,
        share_per_bps: float = PER_BPS,
    ) -> None:
        self.streams: dict[str, Stream] = {}
        self.draining = False
        self.admission = Admission(share_per_bps)
        self.name = name
        self._shards = shards
        self._tracks = Tracks(shards, ports, random_bytes)
        self._budget_ms = budget_ms
        self._random_bytes = random_bytes
        self._directory = directory
        self._hops: Hops | None = None
        self._destinations: dict[str, tuple[RtpDestination, ...]] = {}
        self._tick_ns: int | None = None

    def attach(self, hops: Hops) -> None:
        self._hops = hops
        self._publisher = Publisher(
            self._shards,
            hops,
            self.streams,
            name=self.name,
            budget_ms=self._budget_ms,
            random_bytes=self._random_bytes,
        )
        self._subscriber = Subscriber(hops, self._directory)
        self._standbys = Standbys(self._shards, hops, self._tracks, self._subscriber, self.streams)
        self._surge = Surge(self.admission, hops, self.streams)
        self._entrance = Entrance(self.name, self.streams, self._subscriber, self._surge, self._directory)

    # ---- configuration -----------------------------------------------------------------------

    def add_ingest(
        self, now_ns: int, name: str, latency_ms: int | None, sources: tuple[TrackSource, ...]
    ) -> Stream:
        """A stream that enters here.

        Raises OSError when a port cannot be had; nothing is left behind then.
        """
        stream = self._get(name)
        if stream.source is not None:
            self._let_go(now_ns, stream, f"{name} now enters at another node")
        self._tracks.clear(stream)
        shard = self._shards.least_used(s.tracks[0].id for s in self.streams.values() if s.tracks)
        try:
            self._tracks.open(stream, sources, shard)
        except OSError:
            self._tracks.clear(stream)
            self._forget_if_idle(stream)
            raise
        stream.sources, stream.latency_ms = sources, latency_ms
        if self._hops is not None:
            stream.alias, stream.epoch = self._publisher.new_alias()
        self._attach_egresses(stream)
        self._refresh(now_ns, stream)
        return stream

    def remove_ingest(self, now_ns: int, name: str) -> None:
        stream = self.streams[name]
        self._withdraw(now_ns, stream, "no longer configured")
        self._tracks.clear(stream)
        stream.sources, stream.route = (), None
        self._refresh(now_ns, stream)
        self._forget_if_idle(stream)

    def set_egress(self, now_ns: int, name: str, destinations: tuple[RtpDestination, ...]) -> None:
        """Where a stream leaves; destinations that stay are not touched. Raises OSError as `Ports.open`."""
        if destinations:
            self._destinations[name] = destinations
        else:
            self._destinations.pop(name, None)
        stream = self._get(name)
        self._attach_egresses(stream)
        self._refresh(now_ns, stream)
        self._forget_if_idle(stream)

    def _attach_egresses(self, stream: Stream) -> None:
        self._tracks.attach_egresses(stream, self._destinations.get(stream.name, ()))

    def _get(self, name: str) -> Stream:
        if name not in self.streams:
            self.streams[name] = Stream(name, 0, 0)
        return self.streams[name]

    def _forget_if_idle(self, stream: Stream) -> None:
        wanted = stream.subscribers or stream.asked or stream.name in self._destinations
        if not (stream.live or stream.backup or wanted):
            self._tracks.clear(stream)
            self.streams.pop(stream.name, None)

    # ---- what is to be done ------------------------------------------------------------------

    def poll(self, now_ns: int) -> int:
        """Look at routes and rates once a second while there are streams; returns the next deadline in ns."""
        if not self.streams and self._directory is None:
            self._tick_ns = None
            return now_ns + REST_NS
        if self._tick_ns is None or now_ns >= self._tick_ns // TICK_NS * TICK_NS + TICK_NS:
            elapsed = TICK_NS if self._tick_ns is None else now_ns - self._tick_ns
            self._tick_ns = now_ns
            if self._hops is not None:
                self._subscriber.poll(now_ns)
            for stream in self.streams.values():
                self._tracks.measure(stream, elapsed * 1e-9)
            if self._hops is not None:
                self._surge.look(now_ns)
            for stream in list(self.streams.values()):
                self._refresh(now_ns, stream)
                self._forget_if_idle(stream)
            if self._hops is not None:
                self._publisher.watch()
        return self._tick_ns // TICK_NS * TICK_NS + TICK_NS  # when the hops are looked at, too

    def _refresh(self, now_ns: int, stream: Stream) -> None:
        """Make everything about a stream what it should be now."""
        if self._hops is None:
            return
        stream.refusals = {peer: r for peer, r in stream.refusals.items() if r[1] > now_ns}
        if stream.enters_here and self._directory is None:
            self._publisher.route(now_ns, stream)
            self._publisher.spare(now_ns, stream)
        leaves_here = stream.name in self._destinations and not self.draining
        wanted = leaves_here or bool(stream.subscribers)
        stream.superseded = wanted and self._subscriber.superseded(stream)
        self._subscriber.announce(now_ns, stream, stream.published_here)
        self._give_back_if_taken(now_ns, stream)
        left = self._subscriber.refresh(now_ns, stream, wanted and not stream.published_here)
        if left is not None and stream.source is left:
            self._standbys.drop(now_ns, stream)
            self._let_go(now_ns, stream, "asked for elsewhere" if wanted else "nobody wants it")
            return
        self._standbys.refresh(now_ns, stream, wanted)
        self._publisher.refresh(now_ns, stream)
        self._subscriber.tell_beyond(now_ns, stream)

    def _give_back_if_taken(self, now_ns: int, stream: Stream) -> None:
        """Of two regions that took one name without knowing of each other, one keeps it."""
        assert self._hops is not None
        other = self._subscriber.published_at(stream.name)
        if other is None or stream.source is None or stream.offer is None or not stream.published_here:
            return  # what is superseded, and wanted here, goes on until it comes from there
        serial = self._subscriber.standing(stream.source, stream.offer)
        reason = f"it is published at {other}"
        refused = PublishRefused(stream.alias, stream.epoch, reason, serial=serial)
        if self._hops.send(now_ns, stream.source, refused):
            self._let_go(now_ns, stream, refused.reason)

    def _withdraw(self, now_ns: int, stream: Stream, reason: str) -> None:
        for hop_id in list(stream.publications):
            self._publisher.withdraw(now_ns, stream, hop_id, reason)

    def sent_to(self, hop: Hop, alias: int, epoch: int) -> Stream | None:
        """The stream that is offered, or sent, to a peer under an alias."""
        return self._publisher.sent_to(hop, alias, epoch)

    def leaves(self, name: str) -> bool:
        """Whether a stream leaves the fleet at this node."""
        return name in self._destinations

    def uses(self, hop: Hop) -> bool:
        """Whether any stream goes over a hop, or is to."""
        return any(
            hop in (s.route, s.spare, s.source, s.asked)
            or (s.backup is not None and s.backup.hop is hop)
            or self._standbys.is_at(s, hop)
            or hop.id in s.publications
            or hop.id in s.subscribers
            for s in self.streams.values()
        )

    # ---- what peers say ----------------------------------------------------------------------

    def on_state(self, now_ns: int, hop: Hop, fresh: bool) -> None:
        """A session came, went, or is with a new process of the peer, which then knows nothing of us."""
        if fresh:
            self._subscriber.forget(hop)
            self._subscriber.greet(now_ns, hop)
            for stream in list(self.streams.values()):
                self._cut(now_ns, stream, hop, "its publisher began anew")
        for stream in list(self.streams.values()):
            self._refresh(now_ns, stream)

    def remove_peer(self, now_ns: int, hop: Hop) -> None:
        """The peer is no longer configured."""
        self._subscriber.forget(hop)
        for stream in list(self.streams.values()):
            self._publisher.withdraw(now_ns, stream, hop.id, "peer removed")
            if stream.route is hop:
                stream.route = None
            if stream.spare is hop:
                stream.spare = None
            self._cut(now_ns, stream, hop, "its peer was removed")

    def _cut(self, now_ns: int, stream: Stream, hop: Hop, reason: str) -> None:
        """Nothing that was agreed on with a peer holds any more."""
        self._publisher.drop(stream, hop.id)
        if stream.leaving is not None and stream.leaving[0] is hop:
            stream.leaving = None
        stream.subscribers.pop(hop.id, None)
        stream.told.pop(hop.id, None)
        stream.refusals.pop(hop.name, None)
        if stream.asked is hop:
            stream.asked = None
        if self._standbys.is_at(stream, hop):
            self._standbys.drop(now_ns, stream)
        if stream.source is hop:
            self._let_go(now_ns, stream, reason)
        if self._standbys.no_longer_backed(now_ns, stream, hop):
            self._refresh(now_ns, stream)
        self._forget_if_idle(stream)

    def on_silent(self, now_ns: int, hop: Hop, silent_ms: int) -> None:
        """Nothing comes from a peer any more."""
        for stream in list(self.streams.values()):
            if stream.source is hop:
                self._standbys.take_over(now_ns, stream, f"nothing came from {hop.name}", silent_ms)
            self._refresh(now_ns, stream)

    def on_unreached(self, now_ns: int, hop: Hop) -> None:
        """Nothing gets to a peer any more."""
        for stream in [s for s in self.streams.values() if s.route is hop]:
            self._refresh(now_ns, stream)

    def on_heard(self, now_ns: int, hop: Hop) -> None:
        """Something comes from a peer again."""
        for stream in list(self.streams.values()):
            if stream.source is hop:
                self._refresh(now_ns, stream)

    def on_source(self, track_id: int, ssrc: int, address: tuple[str, int]) -> None:
        """An ingest port follows another source than before."""
        for stream in self.streams.values():
            for track in stream.tracks:
                if track.id == track_id:
                    track.peak_bps = 0.0
                    fields = {"stream": stream.name, "kind": track.format.kind, "ssrc": ssrc}
                    event(logger, logging.INFO, "ingest_source", **fields, host=address[0], port=address[1])

    def on_message(self, now_ns: int, hop: Hop, message: Message) -> None:
        match message:
            case Publish():
                self._take(now_ns, hop, message)
            case PublishOk(alias, epoch, beyond):
                self._publisher.taken(now_ns, hop, alias, epoch, beyond)
            case PublishRefused():
                stream = self._publisher.refused(now_ns, hop, message)
                if stream is not None:
                    self._go_on(now_ns, stream)
                    self._forget_if_idle(stream)
            case Unpublish(alias, epoch, reason):
                stream = self._received(hop, alias)
                if stream is not None and stream.epoch == epoch:
                    self._let_go(now_ns, stream, reason)
                for stream in self._standbys.unpublished(now_ns, hop, alias, epoch):
                    self._refresh(now_ns, stream)
                    self._forget_if_idle(stream)
            case ListVersion() | Announce() | Ask() | Catalogue():
                changed = self._subscriber.on_directory(now_ns, hop, message)
                for stream in list(self.streams.values()):
                    if changed is True or changed == stream.name:
                        self._refresh(now_ns, stream)
            case _:
                self._on_subscription(now_ns, hop, message)

    def _on_subscription(self, now_ns: int, hop: Hop, message: Message) -> None:
        match message:
            case Subscribe():
                self._subscribed(now_ns, hop, message)
            case Unsubscribe(name):
                self._unsubscribed(now_ns, hop, name)
            case Unavailable(name):
                stream = self.streams.get(name)
                if stream is not None and self._standbys.is_at(stream, hop) and not message.kept:
                    self._standbys.refused(now_ns, stream, hop, message.reason, SENT_AWAY_FOR_NS)
                if stream is None or stream.asked is not hop:
                    return
                self._subscriber.on_unavailable(now_ns, hop, message, stream)
                if stream.source is hop and not message.kept:
                    self._let_go(now_ns, stream, message.reason)
                self._go_on(now_ns, stream)
            case Move(name):
                stream = self.streams.get(name)
                if stream is not None and self._standbys.is_at(stream, hop):
                    self._standbys.refused(now_ns, stream, hop, message.reason, SENT_AWAY_FOR_NS)
                elif stream is not None and self._subscriber.on_move(now_ns, hop, message, stream):
                    self._go_on(now_ns, stream)

    def _go_on(self, now_ns: int, stream: Stream) -> None:
        """Elsewhere, at once, if there is another region."""
        if self._hops is not None and stream.suggested:
            self._hops.suggest(stream.suggested)
        self._refresh(now_ns, stream)

    def _received(self, hop: Hop, alias: int) -> Stream | None:
        return next((s for s in self.streams.values() if s.source is hop and s.alias == alias), None)

    # ---- a peer offers a stream --------------------------------------------------------------

    def _refuse(self, now_ns: int, hop: Hop, offer: Publish, refusal: Refusal) -> None:
        assert self._hops is not None
        instead, serial = self._surge.refuses(now_ns, hop, refusal), self._subscriber.standing(hop, offer)
        self._hops.send(now_ns, hop, PublishRefused(offer.alias, offer.epoch, refusal[1], instead, serial))

    def _take(self, now_ns: int, hop: Hop, offer: Publish) -> None:
        assert self._hops is not None
        known = self.streams.get(offer.stream)
        asked = hop.is_region or self._directory is None
        if known is not None and asked and self._standbys.is_at(known, hop) and self.name not in offer.path:
            self._standbys.offered(now_ns, known, hop, offer)
            self._refresh(now_ns, known)
            return
        refusal = self._entrance.why_not_taken(now_ns, hop, offer, draining=self.draining)
        if refusal is not None:
            self._refuse(now_ns, hop, offer, refusal)
            return
        other = self._received(hop, offer.alias)
        if other is not None and other.name != offer.stream:
            self._let_go(now_ns, other, "its alias names another stream now")
        stream = self._get(offer.stream)
        if offer.standby:
            self._standbys.backed(now_ns, stream, hop, offer)
            self._refresh(now_ns, stream)
            return
        other_way = self._standbys.comes_here(now_ns, stream, hop, offer)
        before = stream.offer if stream.source is hop else None
        again = before is not None and (before.epoch, before.tracks) == (offer.epoch, offer.tracks)
        if not again and not other_way:
            self._publisher.restart(stream)
        self._tracks.fit(stream, hop, offer)
        stream.source, stream.alias, stream.epoch, stream.offer = hop, offer.alias, offer.epoch, offer
        stream.beyond_told = stream.beyond[: PATH_NODES_MAX - 1] if again else ()
        stream.waits = ""
        self._attach_egresses(stream)
        set_budgets(self._hops, self.streams.values(), hop)
        self._hops.send(now_ns, hop, PublishOk(offer.alias, offer.epoch, stream.beyond_told))
        if before is not None and before.lost != offer.lost:
            what = "stream_lost" if offer.lost else "stream_comes_again"
            event(logger, logging.INFO, what, stream=stream.name, peer=hop.name)
        if not again:
            self._standbys.renew(now_ns, stream)
            fields = {"stream": stream.name, "peer": hop.name, "tracks": len(stream.tracks)}
            event(logger, logging.INFO, "stream_received", **fields)
        self._refresh(now_ns, stream)

    def _let_go(self, now_ns: int, stream: Stream, reason: str) -> None:
        """The peer that a stream came from has it no longer; its egresses wait for the next source."""
        hop = stream.source
        assert hop is not None
        if self._standbys.take_over(now_ns, stream, reason):
            self._refresh(now_ns, stream)
            return
        event(logger, logging.INFO, "stream_ended", stream=stream.name, peer=hop.name, reason=reason)
        self._withdraw(now_ns, stream, reason)
        self._tracks.unroute(stream, hop)
        stream.source, stream.offer = None, None
        self._standbys.watch(hop)
        if self._hops is not None:
            set_budgets(self._hops, self.streams.values(), hop)
        stream.waits = reason
        self._refresh(now_ns, stream)
        self._forget_if_idle(stream)

    # ---- a peer asks for a stream ------------------------------------------------------------

    def _subscribed(self, now_ns: int, hop: Hop, subscribe: Subscribe) -> None:
        assert self._hops is not None
        name, standby = subscribe.stream, subscribe.standby
        known = self.streams.get(name)
        if known is not None and known.enters_here and hop.id in known.publications and not self._directory:
            keep = standby and hop is known.spare  # a region that could have it
            self._publisher.hold(known, hop, keep, subscribe.since)
            return
        if known is not None and hop.id in known.subscribers and (hop.id in known.held) != standby:
            self._publisher.hold(known, hop, standby, subscribe.since)
            if not standby:
                self._surge.released(now_ns, known, hop)
            return
        refusal = self._entrance.why_not_served(now_ns, hop, subscribe, draining=self.draining)
        if refusal is not None:
            instead = self._surge.refuses(now_ns, hop, refusal)
            self._hops.send(now_ns, hop, Unavailable(name, False, refusal[1], instead))
            return
        stream = self._get(name)
        self._publisher.withdraw(
            now_ns, stream, hop.id, "asked for anew"
        )  # the peer has lost it, if it had it
        stream.subscribers[hop.id] = hop
        self._publisher.hold(stream, hop, standby)
        stream.told.pop(hop.id, None)
        self._refresh(now_ns, stream)

    def _unsubscribed(self, now_ns: int, hop: Hop, name: str) -> None:
        stream = self.streams.get(name)
        if stream is not None and stream.subscribers.pop(hop.id, None) is not None:
            self._refresh(now_ns, stream)
            self._forget_if_idle(stream)

    # ---- drain -------------------------------------------------------------------------------

    def drain(self, now_ns: int) -> None:
        """Take nothing new, and ask those that streams come from, and subscribers, to go elsewhere: they are
        served until they have. Regions follow the directory."""
        self.draining = True
        for stream in list(self.streams.values()) if self._hops is not None else ():
            for hop in list(stream.subscribers.values()):
                if hop.id not in stream.publications:  # it has nothing to lose
                    self._surge.dismiss(now_ns, stream, hop, DRAINING)
                elif not hop.is_region:
                    self._surge.ask_to_move(now_ns, stream, hop, DRAINING)
            if stream.source is not None and stream.published_here:
                self._surge.ask_to_move(now_ns, stream, stream.source, DRAINING)
            if stream.backup is not None and stream.backup.offer is not None:
                self._refuse(now_ns, stream.backup.hop, stream.backup.offer, ("draining", DRAINING))
                self._standbys.no_longer_backed(now_ns, stream, stream.backup.hop)
            self._refresh(now_ns, stream)
            self._forget_if_idle(stream)

    def give_back(self, now_ns: int) -> None:
        """The drain is over: what has not gone elsewhere by now is interrupted."""
        for stream in list(self.streams.values()) if self._hops is not None else ():
            for hop in list(stream.subscribers.values()):
                self._surge.dismiss(now_ns, stream, hop, DRAINING)
            if stream.source is not None and stream.offer is not None and not stream.pulled:
                self._refuse(now_ns, stream.source, stream.offer, ("draining", DRAINING))
                self._let_go(now_ns, stream, DRAINING)
            else:
                self._refresh(now_ns, stream)
                self._forget_if_idle(stream)

    @property
    def busy(self) -> bool:
        """Whether any stream has a source."""
        return any(s.source is not None for s in self.streams.values()) or any(
            track.bitrate_bps > 0 for s in self.streams.values() if s.enters_here for track in s.tracks
        )
