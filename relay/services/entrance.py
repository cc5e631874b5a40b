"""Whether a stream that a peer offers is taken, and a subscription let in; if not, why not."""

from relay.core.directory import Directory
from relay.services.hops import Hop
from relay.services.stream import Stream
from relay.services.subscribe import Subscriber
from relay.services.surge import Refusal, Surge
from relay.wire.messages import Publish, Subscribe

STREAMS_MAX = 256
"""Streams taken from peers, or asked for by them, at most."""
TRACKS_MAX = 1024
"""Tracks taken from one peer, at most: what the packet plane's table of them holds."""
DRAINING = "this node is draining"


class Entrance:
    """Of the node of that name; `streams` are those that it has, `directory` is None if it is no region."""

    def __init__(
        self,
        name: str,
        streams: dict[str, Stream],
        subscriber: Subscriber,
        surge: Surge,
        directory: Directory | None,
    ) -> None:
        self._name = name
        self._streams = streams
        self._subscriber = subscriber
        self._surge = surge
        self._directory = directory

    def why_not_taken(self, now_ns: int, hop: Hop, offer: Publish, *, draining: bool) -> Refusal | None:
        """Of what a peer offers."""
        stream = self._streams.get(offer.stream) or Stream(offer.stream, 0, 0)
        others = (s for s in self._streams.values() if s.source is hop and s is not stream)
        tracks = sum(len(s.tracks) for s in others) + len(offer.tracks)
        published_at = self._subscriber.published_at(offer.stream)
        # Its publisher has come here from another region.
        moved = published_at is not None and self._subscriber.rival(hop, offer) is None
        elsewhere = stream.asked.name if stream.asked else published_at
        full = stream.name not in self._streams and len(self._streams) >= STREAMS_MAX
        asked = stream.asked is hop
        sources = [stream.source] if asked or stream.backup is None else [stream.source, stream.backup.hop]
        another = any(source not in (None, hop) for source in sources) and not moved
        checks = (
            (draining and not asked and stream.source is not hop, "draining", DRAINING),
            (self._name in offer.path, "loop", "it has passed here"),
            (stream.enters_here, "taken", "a stream of that name enters at this node"),
            (elsewhere not in (None, hop.name) and not moved, "taken", f"it is published at {elsewhere}"),
            (hop.is_region and not asked, "unasked", "it was not asked for"),
            (another, "taken", "another node publishes a stream of that name"),
            (offer.standby and self._directory is None, "no region", "this node is no region"),
            (
                offer.standby and stream.source is hop and stream.published_here,
                "taken",
                "it is published here",
            ),
            (full, "streams", f"this node carries {STREAMS_MAX} streams already"),
            (tracks > TRACKS_MAX, "tracks", f"this node takes {TRACKS_MAX} tracks from one peer"),
        )
        refusal = next(((word, reason) for wrong, word, reason in checks if wrong), None)
        if refusal is not None or stream.source is hop or offer.standby:
            return refusal
        if asked:
            self._surge.pulls(now_ns, offer.stream, hop)
            return None
        return self._surge.publishes(now_ns, offer.stream, hop)

    def why_not_served(
        self, now_ns: int, hop: Hop, subscribe: Subscribe, *, draining: bool
    ) -> Refusal | None:
        """A peer that asks for a stream."""
        name = subscribe.stream
        known = self._streams.get(name)
        if self._directory is None:
            return "no region", "this node is no region"
        # A region gets what is published here while its publisher moves: others were sent there for it.
        if draining and not (hop.is_region and known and known.published_here):
            return "draining", DRAINING
        if known is None and len(self._streams) >= STREAMS_MAX:
            return "streams", f"this node carries {STREAMS_MAX} streams already"
        if known is not None and hop.id in known.subscribers:
            return None
        comes = self._subscriber.published_at(name) is not None or (known is not None and known.live)
        return self._surge.subscribes(now_ns, name, hop, flows=comes and not subscribe.standby)
