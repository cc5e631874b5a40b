"""How a node comes to a stream that it has not got: it asks a region for it.

A region asks the region that the directory names. Any other node asks the best of the regions that it calls,
which does the same if it has not got the stream. There is one subscription a stream, however many want it
here.
"""

import logging

from relay.core.budget import worth_telling
from relay.core.directory import Directory, DirectoryMessage, Entry
from relay.core.record import fingerprint
from relay.core.routing import DWELL_NS
from relay.log import event
from relay.services.hops import Hop, Hops
from relay.services.publish import REFUSED_FOR_NS, with_refusals
from relay.services.stream import Stream
from relay.wire.messages import (
    PATH_NODES_MAX,
    Announce,
    Catalogue,
    Message,
    Move,
    Publish,
    PublishOk,
    Subscribe,
    Unavailable,
    Unsubscribe,
)

logger = logging.getLogger("relay.stream")

SENT_AWAY_FOR_NS = 60_000_000_000
"""A region that refused a subscription is asked again after this, or when its process is a new one: by then
the stream comes from another, and would be interrupted. Where there is no other, after REFUSED_FOR_NS."""


class Subscriber:
    """`directory` is None for a node that is no region."""

    def __init__(self, hops: Hops, directory: Directory | None) -> None:
        self.directory = directory
        self._hops = hops
        self._unsaid: list[tuple[Hop, Message]] = []

    # ---- the directory -------------------------------------------------------------------------

    def announce(self, now_ns: int, stream: Stream, published: bool) -> None:
        """Tell the other regions whether a stream is published here, and by whom, if that has changed."""
        if self.directory is None:
            return
        own = self.directory.own.get(stream.name)
        backup = stream.backup if not published else None
        if published or backup is not None:
            hop, offer = (backup.hop, backup.offer) if backup else (stream.source, stream.offer)
            publisher = fingerprint(hop.key if hop is not None else self.directory.key)
            serial = offer.serial if offer is not None else 0
            if own is None or (own.publisher, own.serial, own.standby) != (publisher, serial, not published):
                change = self.directory.publish(stream.name, publisher, serial, standby=not published)
                self._tell_regions(now_ns, change)
        elif own is not None:
            self._tell_regions(now_ns, self.directory.withdraw(stream.name))

    def rival(self, hop: Hop, offer: Publish) -> Entry | None:
        """Another region's publication that keeps this one from being taken, or kept, here."""
        if self.directory is None:
            return None
        return self.directory.rival(offer.stream, fingerprint(hop.key), offer.serial, standby=offer.standby)

    def standing(self, hop: Hop, offer: Publish) -> int:
        """The serial that the publisher of a rival has to exceed, if it is the same one; else 0."""
        rival = self.rival(hop, offer)
        return rival.serial if rival is not None and rival.publisher == fingerprint(hop.key) else 0

    def superseded(self, stream: Stream) -> bool:
        """Whether the edge that a stream comes from publishes it at another region by now."""
        source, offer = stream.source, stream.offer
        if source is None or offer is None or stream.pulled or stream.backed:
            return False
        return self.standing(source, offer) > 0

    def standby_at(self, stream: Stream) -> Hop | None:
        """The region that could have a stream from its publisher when that no longer reaches its own."""
        key = self.directory.standby(stream.name) if self.directory is not None else None
        hop = next((hop for hop in self._hops.hops.values() if hop.key == key), None)
        return hop if hop is not None and hop.name not in stream.refusals else None

    def published_at(self, stream: str) -> str | None:
        """The other region that has a stream."""
        holder = self._holder(stream)
        return holder.name if holder is not None else None

    def _holder(self, stream: str) -> Hop | None:
        if self.directory is None:
            return None
        key = self.directory.holder(stream)
        return next((hop for hop in self._hops.hops.values() if hop.key == key), None)

    def _tell_regions(self, now_ns: int, message: Message) -> None:
        for hop in list(self._hops.hops.values()):
            if hop.is_region:
                self._hops.send(now_ns, hop, message)

    def on_directory(self, now_ns: int, hop: Hop, message: DirectoryMessage) -> str | bool:
        """The stream that may be elsewhere now; True: any may, False: none."""
        if not hop.may_be_region:
            hop.drops["no region"] += 1
            return False
        new, hop.is_region = not hop.is_region, True
        if self.directory is not None:
            for answer in self.directory.receive(now_ns, hop.key, message):
                self._hops.send(now_ns, hop, answer)
        if isinstance(message, Announce):
            return message.stream
        return new or isinstance(message, Catalogue)

    def forget(self, hop: Hop) -> None:
        """The peer's process is a new one, or it is no longer a peer."""
        hop.is_region = False
        self._unsaid = [(to, message) for to, message in self._unsaid if to is not hop]
        if self.directory is not None:
            self.directory.forget(hop.key)

    def greet(self, now_ns: int, hop: Hop) -> None:
        """Say to a peer that begins anew that this is a region."""
        if self.directory is not None:
            self._hops.send(now_ns, hop, self.directory.list_version())

    def poll(self, now_ns: int) -> None:
        unsaid, self._unsaid = self._unsaid, []
        for hop, message in unsaid:
            self._say(now_ns, hop, message)
        version = self.directory.poll(now_ns) if self.directory is not None else None
        if version is not None:
            self._tell_regions(now_ns, version)

    def tell_beyond(self, now_ns: int, stream: Stream) -> None:
        """The publisher shares out the stream's latency, and has to know what it shares it with."""
        if stream.source is None or stream.offer is None or not stream.offer.latency_ms:
            return
        beyond = stream.beyond[: PATH_NODES_MAX - 1]
        taken = PublishOk(stream.alias, stream.epoch, beyond)
        if worth_telling(stream.beyond_told, beyond) and self._hops.send(now_ns, stream.source, taken):
            stream.beyond_told = beyond

    # ---- subscriptions -------------------------------------------------------------------------

    def refresh(self, now_ns: int, stream: Stream, wanted: bool) -> Hop | None:
        """Be subscribed where a stream is to come from, if anywhere; the region that was left, if any."""
        target = self._target(now_ns, stream) if wanted else None
        before = stream.asked
        if target is not None and self._can_wait(stream, target):
            return None
        stream.moving = None
        if stream.backed and not wanted:
            assert stream.source is not None
            self._say(now_ns, stream.source, Subscribe(stream.name, standby=True))
            return stream.source
        if before is target or stream.backed or (stream.backup is not None and target is stream.backup.hop):
            return None
        if before is not None:
            stream.asked = None
            self.leave(now_ns, stream, before)
        if target is not None and self._hops.send(now_ns, target, Subscribe(stream.name)):
            gone = Unsubscribe(stream.name)
            self._unsaid = [u for u in self._unsaid if u[0] is not target or u[1] != gone]
            stream.asked, stream.unconfirmed = target, False
            stream.waits = f"{target.name} has been asked for it"
            event(logger, logging.INFO, "stream_asked", stream=stream.name, peer=target.name)
        return before

    def leave(self, now_ns: int, stream: Stream, hop: Hop) -> None:
        """The stream is not wanted from there any more."""
        self._say(now_ns, hop, Unsubscribe(stream.name))

    def _can_wait(self, stream: Stream, target: Hop) -> bool:
        """Whether a stream can come from where it does until it is ready at another region: make before
        break. It moves then (services/standby.py)."""
        before = stream.source
        if before is None or before is target:
            return False
        if self.directory is None and not before.heard:
            return False  # a region loses nothing by waiting; nor do those that it sends the stream to
        stream.moving = target
        return True

    def _say(self, now_ns: int, hop: Hop, message: Message) -> None:
        """Again at the next look, if it cannot be said now: else the peer would go on sending."""
        if hop.id in self._hops.hops and not self._hops.send(now_ns, hop, message):
            self._unsaid.append((hop, message))

    def _target(self, now_ns: int, stream: Stream) -> Hop | None:
        if self.directory is not None:
            holder = self._holder(stream.name)
            if holder is None:
                stream.waits = "it is not published"
            if stream.backup is not None and stream.passed_on:
                return stream.backup.hop
            if self._stays(now_ns, stream, holder):
                return stream.source
            return None if holder is None or holder.name in stream.refusals else holder
        names = {hop.name for hop in self._hops.hops.values() if hop.is_region}
        candidates = [c for c in self._hops.candidates(now_ns) if c.peer in names or c.rests]
        stream.candidates = with_refusals(stream, candidates)
        held = stream.moving or stream.asked
        current = held.name if held else None
        stream.choice = stream.router.choose(now_ns, stream.candidates, current)
        if stream.choice.peer is None:
            refused = {
                peer: (why, min(ns, now_ns + REFUSED_FOR_NS)) for peer, (why, ns) in stream.refusals.items()
            }
            stream.refusals = refused  # there is nobody else to interrupt it for
            stream.waits = stream.choice.why if refused else "no region that this node calls is connected"
            return stream.asked  # its hop may come back
        return self._hops.named(stream.choice.peer)

    def _stays(self, now_ns: int, stream: Stream, holder: Hop | None) -> bool:
        """Whether a stream that has come past its region, since that was silent, is to go on so."""
        past = stream.backed or (stream.pulled and stream.source is self.standby_at(stream))
        if not past or stream.takeover is None:
            return False
        return holder is None or not holder.heard or now_ns - stream.takeover.at_ns < DWELL_NS

    def on_unavailable(self, now_ns: int, hop: Hop, message: Unavailable, stream: Stream) -> None:
        """The region that was asked for a stream has not got it, or sends its subscribers away."""
        stream.waits = f"{hop.name}: {message.reason}"
        event(logger, logging.INFO, "stream_waits", stream=stream.name, peer=hop.name, reason=message.reason)
        if not message.kept:
            stream.asked = None
            rest_ns = SENT_AWAY_FOR_NS if self.directory is None else REFUSED_FOR_NS
            stream.refusals[hop.name] = (message.reason, now_ns + rest_ns)
            stream.suggested = message.instead

    def on_move(self, now_ns: int, hop: Hop, message: Move, stream: Stream) -> bool:
        """The region that a stream is sent to, or comes from, wants it elsewhere: whether it is to go.

        A region stays: it follows the directory."""
        if self.directory is not None or hop not in (stream.route, stream.asked):
            return False
        event(logger, logging.INFO, "stream_moves", stream=stream.name, peer=hop.name, reason=message.reason)
        stream.refusals[hop.name] = (message.reason, now_ns + SENT_AWAY_FOR_NS)
        ready = stream.standby.hop if stream.standby is not None and stream.standby.armed else stream.spare
        stream.suggested = ready.name if ready is not None else message.instead
        return True
