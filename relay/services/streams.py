"""The streams of a node: where each enters, which peer it is sent to or comes from, and where it leaves.

Like `hops`, without I/O of its own. A stream that enters here is offered (Publish) to the peer that routing
chooses, and its packets follow once that peer has taken it (PublishOk). A stream that a peer offers is taken
unless another source has it.
"""

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from relay.config import Address, RtpDestination
from relay.core.keyframes import ENCODER, KeyFrames
from relay.core.routing import choose
from relay.log import event
from relay.media.rtp import TrackFormat, TrackSource, format_of
from relay.services.hops import Hop, Hops
from relay.services.shards import Shards
from relay.services.stream import Stream, Track
from relay.wire.messages import Message, Publish, PublishOk, PublishRefused, Unpublish
from relay_ext import control
from relay_ext.payload import kind_of
from relay_ext.shards import shard_of

logger = logging.getLogger("relay.stream")

MS = 1_000_000
TICK_NS = 1000 * MS
REST_NS = 3_600_000 * MS
"""Until the next look when there is nothing to look at: what changes that comes with a poll of its own."""
REORDER_HOLD_US = 20_000
"""Playout of a stream that enters here waits this long for a packet out of order: nothing will repair it."""
REFUSED_FOR_NS = 5000 * MS
"""A peer that refused a stream is asked again after this."""
STREAMS_MAX = 256
"""Streams taken from peers, at most."""
TRACKS_MAX = 1024
"""Tracks taken from one peer, at most: what the packet plane's table of them holds."""
BUDGET_LEAST_MS = 20
HOLD_SLACK_MS = 20
"""Playout waits this much longer than repair may take: two report intervals, and jitter."""


class Ports(Protocol):
    """Where the packet planes' sockets come from."""

    def open(self, address: Address, shard: int) -> int:
        """A UDP socket bound to that address, and the number by which the shard's plane knows it.

        Raises OSError.
        """
        ...

    def close(self, port: int, shard: int) -> None: ...


class Streams:
    """`attach` gives it the hops before anything else happens; None for a plain forwarder."""

    def __init__(
        self, shards: Shards, ports: Ports, *, budget_ms: int, random_bytes: Callable[[int], bytes]
    ) -> None:
        self.streams: dict[str, Stream] = {}
        self.draining = False
        self._shards = shards
        self._ports = ports
        self._budget_ms = budget_ms
        self._random_bytes = random_bytes
        self._hops: Hops | None = None
        self._egress_ports: dict[tuple[int, str], int] = {}
        self._destinations: dict[str, tuple[RtpDestination, ...]] = {}
        self._last_alias = 0
        self._tick_ns: int | None = None

    def attach(self, hops: Hops) -> None:
        self._hops = hops

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
        self._clear_tracks(stream)
        self._last_alias = self._last_alias % 0xFFFF + 1
        stream.alias, stream.epoch = self._last_alias, self._random_bytes(1)[0]
        stream.latency_ms = latency_ms
        shard = self._shards.least_used(s.tracks[0].id for s in self.streams.values() if s.tracks)
        try:
            for alias, source in enumerate(sources):
                self._open_track(stream, alias, source, shard)
        except OSError:
            self._clear_tracks(stream)
            self._forget_if_idle(stream)
            raise
        stream.sources = sources
        self._attach_egresses(stream)
        self._route(now_ns, stream)
        return stream

    def remove_ingest(self, now_ns: int, name: str) -> None:
        stream = self.streams[name]
        self._withdraw(now_ns, stream, "no longer configured")
        self._clear_tracks(stream)
        stream.sources = ()
        self._forget_if_idle(stream)

    def set_egress(self, name: str, destinations: tuple[RtpDestination, ...]) -> None:
        """Where a stream leaves; destinations that stay are not touched. Raises OSError as `Ports.open`."""
        if destinations:
            self._destinations[name] = destinations
        else:
            self._destinations.pop(name, None)
        stream = self._get(name)
        self._attach_egresses(stream)
        self._forget_if_idle(stream)

    def _get(self, name: str) -> Stream:
        if name not in self.streams:
            self.streams[name] = Stream(name, 0, 0)
        return self.streams[name]

    def _forget_if_idle(self, stream: Stream) -> None:
        if not stream.sources and stream.source is None and stream.name not in self._destinations:
            self._clear_tracks(stream)
            del self.streams[stream.name]

    # ---- tracks ------------------------------------------------------------------------------

    def _open_track(self, stream: Stream, alias: int, source: TrackSource, shard: int) -> None:
        track = self._new_track(stream, alias, source.format, REORDER_HOLD_US, shard)
        track.keys, track.fir = KeyFrames(ENCODER), source.fir
        listeners = {source.listen.port: control.PORT_RTP}
        listeners.setdefault(source.rtcp_port, control.PORT_RTCP)
        for number, kind in listeners.items():
            port = self._ports.open(Address(source.listen.host, number), shard)
            track.ports += (port,)
            self._shards.planes[shard].set_port(port, kind, track.id)

    def _new_track(self, stream: Stream, alias: int, of: TrackFormat, hold_us: int, shard: int) -> Track:
        track_id = self._shards.planes[shard].add_track(
            clock_rate=of.clock_rate,
            hold_us=hold_us,
            first_seq=int.from_bytes(self._random_bytes(4), "big"),
            payload_type=of.payload_type,
            priority=2 if of.kind == "audio" else 1,
            kind=kind_of(of.kind, of.codec),
            ssrc=int.from_bytes(self._random_bytes(4), "big"),
        )
        track = Track(track_id, of, alias)
        stream.tracks.append(track)
        return track

    def _close_track(self, track: Track) -> None:
        for port in track.ports:
            self._shards.of(track.id).close_port(port)
            self._ports.close(port, shard_of(track.id))
        self._shards.remove_track(track.id)

    def _clear_tracks(self, stream: Stream) -> None:
        for track in stream.tracks:
            self._close_track(track)
        stream.tracks.clear()

    def _attach_egresses(self, stream: Stream) -> None:
        """Make the egresses what the configuration says, leaving those that are right already."""
        wanted = self._destinations.get(stream.name, ())
        for track in stream.tracks:
            of_kind = [t for t in stream.tracks if t.format.kind == track.format.kind]
            mine = [d for d in wanted if d.kind == track.format.kind and d.index == of_kind.index(track)]
            for gone in track.egresses.keys() - set(mine):
                self._shards.of(track.id).remove_egress(track.egresses.pop(gone))
            for destination in mine:
                if destination not in track.egresses:
                    track.egresses[destination] = self._add_egress(stream, track, destination.address)

    def _add_egress(self, stream: Stream, track: Track, to: Address) -> int:
        return self._shards.of(track.id).add_egress(
            track.id,
            self._egress_port(to, shard_of(track.id)),
            (to.host, to.port),
            (to.host, to.port + 1),
            ssrc=int.from_bytes(self._random_bytes(4), "big"),
            seq=int.from_bytes(self._random_bytes(2), "big"),
            timestamp=int.from_bytes(self._random_bytes(4), "big"),
            cname=stream.name.encode()[:64],
        )

    def _egress_port(self, to: Address, shard: int) -> int:
        host = "::" if ":" in to.host else "0.0.0.0"
        if (shard, host) not in self._egress_ports:
            port = self._ports.open(Address(host, 0), shard)
            self._shards.planes[shard].set_port(port, control.PORT_EGRESS)
            self._egress_ports[shard, host] = port
        return self._egress_ports[shard, host]

    # ---- streams that enter here are sent to a peer -------------------------------------------

    def poll(self, now_ns: int) -> int:
        """Look at routes and rates once a second while there are streams; returns the next deadline in ns."""
        if not self.streams:
            self._tick_ns = None
            return now_ns + REST_NS
        if self._tick_ns is None or now_ns >= self._tick_ns // TICK_NS * TICK_NS + TICK_NS:
            elapsed = TICK_NS if self._tick_ns is None else now_ns - self._tick_ns
            self._tick_ns = now_ns
            for stream in self.streams.values():
                self._measure(stream, elapsed * 1e-9)
                if stream.enters_here:
                    self._route(now_ns, stream)
        return self._tick_ns // TICK_NS * TICK_NS + TICK_NS  # when the hops are looked at, too

    def _measure(self, stream: Stream, elapsed: float) -> None:
        for track in stream.tracks:
            stats = self._shards.of(track.id).track_stats(track.id)
            flowed = track.bitrate_bps > 0  # else what comes now began in mid-look
            track.bitrate_bps = (stats["received_bytes"] - track.bytes_seen) * 8 / elapsed
            track.bytes_seen = stats["received_bytes"]
            if flowed:
                track.peak_bps = max(track.peak_bps, track.bitrate_bps)
            track.broken_looks = track.broken_looks + 1 if stats["broken"] else 0

    def _route(self, now_ns: int, stream: Stream) -> None:
        if self._hops is None:
            return
        stream.refusals = {peer: r for peer, r in stream.refusals.items() if r[1] > now_ns}
        stream.candidates = [
            replace(c, refused=stream.refusals[c.peer][0]) if c.peer in stream.refusals else c
            for c in self._hops.candidates()
        ]
        current = stream.route.name if stream.route else None
        stream.choice = choose(stream.candidates, current)
        if stream.choice.peer is None:
            return  # whoever has it keeps it: the hop may come back
        if stream.choice.peer != current:
            event(
                logger,
                logging.INFO,
                "stream_route",
                stream=stream.name,
                to=stream.choice.peer,
                why=stream.choice.why,
            )
            self._withdraw(now_ns, stream, "sent elsewhere")
            stream.route = self._hops.named(stream.choice.peer)
        if not stream.offered:
            self._offer(now_ns, stream)

    def _offer(self, now_ns: int, stream: Stream) -> None:
        assert self._hops is not None and stream.route is not None
        publish = Publish(
            stream=stream.name,
            alias=stream.alias,
            epoch=stream.epoch,
            budget_ms=self._budget_on(stream, stream.route),
            tracks=tuple(track.format.message(track.alias) for track in stream.tracks),
        )
        stream.offered = self._hops.send(now_ns, stream.route, publish)

    def _budget_on(self, stream: Stream, hop: Hop) -> int:
        """What repair on this hop may add beyond propagation, in ms."""
        if stream.latency_ms is None:
            return self._budget_ms
        return max(stream.latency_ms - hop.link.rtt_ns // (2 * MS), BUDGET_LEAST_MS)

    def _withdraw(self, now_ns: int, stream: Stream, reason: str) -> None:
        """Stop sending a stream to the peer that has it."""
        hop = stream.route
        if hop is None or self._hops is None:
            return
        self._remove_feeds(stream, hop)
        if stream.offered and hop.id in self._hops.hops:
            self._hops.send(now_ns, hop, Unpublish(stream.alias, stream.epoch, reason))
        stream.route, stream.offered = None, False
        self._set_budgets(hop)

    def _remove_feeds(self, stream: Stream, hop: Hop) -> None:
        if stream.accepted:
            for track in stream.tracks:
                self._shards.of(track.id).remove_feed(track.id, hop.id)
        stream.accepted = False

    def _set_budgets(self, hop: Hop) -> None:
        assert self._hops is not None
        sent = [self._budget_on(s, hop) for s in self.streams.values() if s.route is hop and s.accepted]
        received = [s.budget_ms for s in self.streams.values() if s.source is hop]
        if hop.id in self._hops.hops:
            self._hops.set_budgets(hop, max(sent, default=None), max(received, default=None))

    # ---- what peers say ----------------------------------------------------------------------

    def on_state(self, now_ns: int, hop: Hop, fresh: bool) -> None:
        """A session came, went, or is with a new process of the peer, which then knows nothing of us."""
        for stream in list(self.streams.values()):
            if fresh and stream.route is hop:
                self._remove_feeds(stream, hop)
                stream.offered = False
            if fresh and stream.source is hop:
                self._let_go(now_ns, stream, "its publisher began anew")
            if stream.enters_here:
                self._route(now_ns, stream)

    def remove_peer(self, now_ns: int, hop: Hop) -> None:
        """The peer is no longer configured."""
        for stream in list(self.streams.values()):
            if stream.route is hop:
                self._withdraw(now_ns, stream, "peer removed")
            if stream.source is hop:
                self._let_go(now_ns, stream, "its peer was removed")

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
            case PublishOk(alias, epoch):
                self._taken(hop, alias, epoch)
            case PublishRefused(alias, epoch, reason):
                self._refused(now_ns, hop, alias, epoch, reason)
            case Unpublish(alias, epoch, reason):
                stream = next(
                    (s for s in self.streams.values() if s.source is hop and s.alias == alias), None
                )
                if stream is not None and stream.epoch == epoch:
                    self._let_go(now_ns, stream, reason)

    def sent_to(self, hop: Hop, alias: int, epoch: int) -> Stream | None:
        for stream in self.streams.values():
            if stream.route is hop and stream.enters_here and (stream.alias, stream.epoch) == (alias, epoch):
                return stream
        return None

    def _taken(self, hop: Hop, alias: int, epoch: int) -> None:
        stream = self.sent_to(hop, alias, epoch)
        if stream is None or stream.accepted:
            return
        stream.accepted = True
        for track in stream.tracks:
            self._shards.of(track.id).add_feed(track.id, hop.id, stream.alias, track.alias, stream.epoch)
        self._set_budgets(hop)
        event(logger, logging.INFO, "stream_accepted", stream=stream.name, peer=hop.name)

    def _refused(self, now_ns: int, hop: Hop, alias: int, epoch: int, reason: str) -> None:
        """Also after PublishOk: a node that drains gives its streams back."""
        stream = self.sent_to(hop, alias, epoch)
        if stream is None:
            return
        event(logger, logging.WARNING, "stream_refused", stream=stream.name, peer=hop.name, reason=reason)
        self._remove_feeds(stream, hop)
        stream.refusals[hop.name] = (reason, now_ns + REFUSED_FOR_NS)
        stream.route, stream.offered = None, False
        self._route(now_ns, stream)

    def _why_not(self, hop: Hop, offer: Publish) -> str | None:
        """Why a stream that a peer offers is not taken."""
        stream = self.streams.get(offer.stream)
        others = (s for s in self.streams.values() if s.source is hop and s is not stream)
        if self.draining:
            return "this node is draining"
        if stream is not None and stream.enters_here:
            return "a stream of that name enters at this node"
        if stream is not None and stream.source not in (None, hop):
            return "another node publishes a stream of that name"
        if stream is None and len(self.streams) >= STREAMS_MAX:
            return f"this node carries {STREAMS_MAX} streams already"
        if sum(len(s.tracks) for s in others) + len(offer.tracks) > TRACKS_MAX:
            return f"this node takes {TRACKS_MAX} tracks from one peer"
        return None

    def _take(self, now_ns: int, hop: Hop, offer: Publish) -> None:
        assert self._hops is not None
        reason = self._why_not(hop, offer)
        if reason is not None:
            self._hops.send(now_ns, hop, PublishRefused(offer.alias, offer.epoch, reason))
            return
        for other in list(self.streams.values()):
            if other.source is hop and other.alias == offer.alias and other.name != offer.stream:
                self._let_go(now_ns, other, "its alias names another stream now")
        stream = self._get(offer.stream)
        self._fit_tracks(stream, hop, offer)
        stream.source, stream.alias, stream.epoch = hop, offer.alias, offer.epoch
        stream.budget_ms = offer.budget_ms
        self._attach_egresses(stream)
        self._set_budgets(hop)
        self._hops.send(now_ns, hop, PublishOk(offer.alias, offer.epoch))
        event(
            logger,
            logging.INFO,
            "stream_received",
            stream=stream.name,
            peer=hop.name,
            tracks=len(stream.tracks),
        )

    def _fit_tracks(self, stream: Stream, hop: Hop, offer: Publish) -> None:
        """Give the offered tracks to the packet plane.

        Those that are as before go on, so that receivers see one unbroken sequence across a restart of the
        publisher.
        """
        formats = [format_of(track) for track in offer.tracks]
        hold_us = (offer.budget_ms + HOLD_SLACK_MS) * 1000
        if [track.format for track in stream.tracks] != formats:
            self._clear_tracks(stream)
            for track in offer.tracks:
                self._new_track(stream, track.alias, format_of(track), hold_us, shard_of(hop.id))
        elif stream.source is None or stream.epoch != offer.epoch:
            for known in stream.tracks:
                self._shards.of(known.id).restart_track(known.id)
        for known, offered in zip(stream.tracks, offer.tracks, strict=True):
            known.alias = offered.alias
            self._shards.of(known.id).set_hold(known.id, hold_us)
            self._shards.of(hop.id).add_route(hop.id, offer.alias, offered.alias, offer.epoch, known.id)

    def _let_go(self, now_ns: int, stream: Stream, reason: str) -> None:
        """The peer that a stream came from has it no longer; its egresses wait for the next source."""
        hop = stream.source
        assert hop is not None
        event(logger, logging.INFO, "stream_ended", stream=stream.name, peer=hop.name, reason=reason)
        for track in stream.tracks:
            self._shards.of(hop.id).remove_route(hop.id, track.id)
        stream.source = None
        self._set_budgets(hop)
        self._forget_if_idle(stream)

    # ---- drain -------------------------------------------------------------------------------

    def drain(self, now_ns: int) -> None:
        """Take nothing new, and give streams back to the peers that they come from."""
        self.draining = True
        for stream in list(self.streams.values()):
            if stream.source is not None and self._hops is not None:
                self._hops.send(
                    now_ns, stream.source, PublishRefused(stream.alias, stream.epoch, "this node is draining")
                )
                self._let_go(now_ns, stream, "draining")

    @property
    def busy(self) -> bool:
        """Whether any stream has a source."""
        return any(s.source is not None for s in self.streams.values()) or any(
            track.bitrate_bps > 0 for s in self.streams.values() if s.enters_here for track in s.tracks
        )
