"""The tracks of streams in the packet planes: where they enter, and where they leave."""

from collections.abc import Callable
from typing import Protocol

from relay.config import Address, RtpDestination
from relay.core.keyframes import ENCODER, KeyFrames
from relay.media.rtp import TrackFormat, TrackSource, format_of
from relay.services.hops import Hop
from relay.services.shards import Shards
from relay.services.stream import Stream, Track
from relay.wire.messages import Publish
from relay_ext import control
from relay_ext.payload import kind_of
from relay_ext.shards import shard_of

REORDER_HOLD_US = 20_000
"""Playout of a stream that enters here waits this long for a packet out of order: nothing will repair it."""
HOLD_SLACK_MS = 20
"""Playout waits this much longer than repair may take: two report intervals, and jitter."""


def hold_ms(offer: Publish) -> int:
    """For how long playout of what a peer offers, or is offered, waits for repair."""
    return offer.behind_ms + offer.budget_ms + HOLD_SLACK_MS


class Ports(Protocol):
    """Where the packet planes' sockets come from."""

    def open(self, address: Address, shard: int) -> int:
        """A UDP socket bound to that address, and the number by which the shard's plane knows it.

        Raises OSError.
        """
        ...

    def close(self, port: int, shard: int) -> None: ...


class Tracks:
    def __init__(self, shards: Shards, ports: Ports, random_bytes: Callable[[int], bytes]) -> None:
        self._shards = shards
        self._ports = ports
        self._random_bytes = random_bytes
        self._egress_ports: dict[tuple[int, str], int] = {}

    def open(self, stream: Stream, sources: tuple[TrackSource, ...], shard: int) -> None:
        """Listen for every track of a stream. Raises OSError, some of it done."""
        for alias, source in enumerate(sources):
            track = self._new(stream, alias, source.format, REORDER_HOLD_US, shard)
            track.keys, track.fir = KeyFrames(ENCODER), source.fir
            listeners = {source.listen.port: control.PORT_RTP}
            listeners.setdefault(source.rtcp_port, control.PORT_RTCP)
            for number, kind in listeners.items():
                port = self._ports.open(Address(source.listen.host, number), shard)
                track.ports += (port,)
                self._shards.planes[shard].set_port(port, kind, track.id)

    def _new(self, stream: Stream, alias: int, of: TrackFormat, hold_us: int, shard: int) -> Track:
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

    def fit(self, stream: Stream, hop: Hop, offer: Publish) -> None:
        """Make the tracks those that a peer offers.

        Those that are as before go on, so that receivers see one unbroken sequence across a restart of the
        publisher. What comes from another peer than before is the same stream by another way.
        """
        formats = [format_of(track) for track in offer.tracks]
        hold_us = hold_ms(offer) * 1000
        if [track.format for track in stream.tracks] != formats:
            self.clear(stream)
            for track in offer.tracks:
                self._new(stream, track.alias, format_of(track), hold_us, shard_of(hop.id))
        elif stream.source is None or (stream.source is hop and stream.epoch != offer.epoch):
            for known in stream.tracks:
                self._shards.of(known.id).restart_track(known.id)
        for known, offered in zip(stream.tracks, offer.tracks, strict=True):
            known.alias = offered.alias
            self._shards.of(known.id).set_hold(known.id, hold_us, offer.rtt_ms * 1000)
        self.route(stream, hop, offer)

    def route(self, stream: Stream, hop: Hop, offer: Publish) -> None:
        """What the peer sends of them is theirs."""
        for known, offered in zip(stream.tracks, offer.tracks, strict=True):
            self._shards.of(hop.id).add_route(hop.id, offer.alias, offered.alias, offer.epoch, known.id)

    def unroute(self, stream: Stream, hop: Hop) -> None:
        """The peer sends them no longer."""
        for track in stream.tracks:
            self._shards.of(hop.id).remove_route(hop.id, track.id)

    def has_standby(self, stream: Stream) -> bool:
        """Whether the packet plane can have them come from their second peer."""
        return all(self._shards.of(track.id).has_standby(track.id) for track in stream.tracks)

    def missing(self, stream: Stream) -> tuple[int, ...]:
        """The first origin sequence of each that has not come; empty: of one of them none has."""
        firsts = [self._shards.of(track.id).track_stats(track.id)["missing"] for track in stream.tracks]
        return () if None in firsts else tuple(firsts)

    def ask_standby(self, stream: Stream) -> None:
        """Have them come from their second peer, too."""
        for track in stream.tracks if self.has_standby(stream) else ():
            self._shards.of(track.id).ask_standby(track.id)

    def disarm(self, stream: Stream) -> None:
        """They have no second peer any more."""
        for track in stream.tracks:
            self._shards.of(track.id).remove_standby(track.id)

    def clear(self, stream: Stream) -> None:
        for track in stream.tracks:
            for port in track.ports:
                self._shards.of(track.id).close_port(port)
                self._ports.close(port, shard_of(track.id))
            self._shards.remove_track(track.id)
        stream.tracks.clear()

    def measure(self, stream: Stream, elapsed: float) -> None:
        for track in stream.tracks:
            stats = self._shards.of(track.id).track_stats(track.id)
            flowed = track.bitrate_bps > 0  # else what comes now began in mid-look
            track.bitrate_bps = (stats["received_bytes"] - track.bytes_seen) * 8 / elapsed
            track.bytes_seen = stats["received_bytes"]
            if flowed:
                track.peak_bps = max(track.peak_bps, track.bitrate_bps)
            track.broken_looks = track.broken_looks + 1 if stats["broken"] else 0

    def attach_egresses(self, stream: Stream, wanted: tuple[RtpDestination, ...]) -> None:
        """Make the egresses what the configuration says, leaving those that are right already."""
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
