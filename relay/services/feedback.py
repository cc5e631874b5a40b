"""What goes against the direction of media: key frames that are wanted, and rates that may be sent.

A wish for a key frame goes to where its stream comes from, the encoder or a peer, which passes it on. The
rate that a hop can carry is divided among the streams that are sent over it, and told to their encoders.
"""

from collections.abc import Iterator

from relay.core.share import Want, split
from relay.services.hops import Hop, Hops
from relay.services.shards import Shards
from relay.services.stream import Stream, Track
from relay.services.streams import REST_NS, TICK_NS, Streams
from relay.wire.messages import KeyFrameRequest

DECREASE = 0.97
"""A target below this share of the one last told is told at once, as draft-alvestrand-rmcat-remb-03 asks."""
BROKEN_LOOKS = 2
"""A key frame is asked for when at so many looks in a row none had followed on a loss: within 1 to 2 s."""


class Feedback:
    def __init__(self, shards: Shards, streams: Streams, hops: Hops | None) -> None:
        self._shards = shards
        self._streams = streams
        self._hops = hops
        self._tick_ns: int | None = None
        self._told: dict[int, float] = {}
        """By hop: what its streams' encoders were last told of."""

    def poll(self, now_ns: int) -> int:
        """Do what is due; returns the next deadline in ns. To be called after `Streams.poll`."""
        tick = self._tick_ns is None or now_ns >= self._tick_ns
        if tick:
            self._tick_ns = now_ns // TICK_NS * TICK_NS + TICK_NS
            for stream, track in self._tracks():
                track.target_bps = None
                if track.broken_looks >= BROKEN_LOOKS:
                    self._want(now_ns, stream, track)
        for hop in list(self._hops.hops.values()) if self._hops else ():
            self._offer(hop, always=tick)
        deadline = self._tick_ns if self._streams.streams else now_ns + REST_NS
        assert deadline is not None
        for stream, track in self._tracks():
            if track.keys.deadline() is not None:
                self._ask(now_ns, stream, track)
            deadline = min(deadline, track.keys.deadline() or deadline)
        return deadline

    def _tracks(self) -> Iterator[tuple[Stream, Track]]:
        return ((stream, track) for stream in self._streams.streams.values() for track in stream.tracks)

    # ---- key frames --------------------------------------------------------------------------

    def on_asked(self, now_ns: int, track_id: int) -> None:
        """The receiver of an egress asks."""
        for stream, track in self._tracks():
            if track.id == track_id:
                self._want(now_ns, stream, track)

    def on_dropped(self, now_ns: int, hop_id: int, alias: int, track_alias: int) -> None:
        """Frames that others need were dropped before a hop."""
        for stream, track in self._tracks():
            sent = stream.publications.get(hop_id)
            if sent is not None and (sent.alias, track.alias) == (alias, track_alias):
                self._want(now_ns, stream, track)

    def on_request(self, now_ns: int, hop: Hop, request: KeyFrameRequest) -> None:
        """A peer asks, of a stream that is sent to it."""
        stream = self._streams.sent_to(hop, request.alias, request.epoch)
        for track in stream.tracks if stream else ():
            if stream and track.alias == request.track:
                self._want(now_ns, stream, track)

    def _want(self, now_ns: int, stream: Stream, track: Track) -> None:
        if track.format.kind != "audio":
            track.keys.want(self._key_frames(track))
            self._ask(now_ns, stream, track)

    def _ask(self, now_ns: int, stream: Stream, track: Track) -> None:
        if not track.keys.due(now_ns, self._key_frames(track)):
            return
        if stream.enters_here:
            self._shards.of(track.id).ask_key_frame(track.id, track.fir)
        elif stream.source is not None and self._hops is not None:
            request = KeyFrameRequest(stream.alias, stream.epoch, track.alias)
            track.key_requests += self._hops.send(now_ns, stream.source, request)

    def _key_frames(self, track: Track) -> int:
        seen: int = self._shards.of(track.id).track_stats(track.id)["key_frames"]
        return seen

    # ---- rates -------------------------------------------------------------------------------

    def _offer(self, hop: Hop, *, always: bool) -> None:
        """Divide what a hop can carry, and tell the encoders: once a second, and at once when it is less."""
        target = hop.media_bps
        if target is None or not (always or target < self._told.get(hop.id, 0.0) * DECREASE):
            return
        self._told[hop.id] = target
        tracks = [t for s, t in self._tracks() if s.route is hop and s.accepted and t.peak_bps]
        wants = [Want(track.format.kind == "audio", track.peak_bps) for track in tracks]
        for track, bps in zip(tracks, split(target, wants), strict=True):
            track.target_bps = bps
            if track.format.kind != "audio":
                self._shards.of(track.id).offer_rate(track.id, int(bps))
