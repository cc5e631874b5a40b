"""What a node sends to its peers: a stream that enters here to the peer that routing chooses, any stream to
those that subscribed.

A stream is offered (Publish), and its packets follow once the peer has taken it (PublishOk). `refresh` makes
what is offered to whom what it should be, whatever happened before; what could not be said is said at the
next look.
"""

import logging
from collections.abc import Callable, Collection
from dataclasses import replace

from relay.core.budget import left, share, worth_telling
from relay.core.routing import Candidate
from relay.log import event
from relay.services.hops import Hop, Hops
from relay.services.shards import Shards
from relay.services.stream import Publication, Stream
from relay.services.tracks import hold_ms
from relay.wire.fields import U32
from relay.wire.messages import BUDGET_MS_MAX, PATH_NODES_MAX, Publish, PublishRefused, Unavailable, Unpublish

logger = logging.getLogger("relay.stream")

MS = 1_000_000
REFUSED_FOR_NS = 5000 * MS
"""A peer that refused a stream is asked again after this."""
LEAVING_NS = 2000 * MS
"""A stream is sent for so long to the region that it has left, too, so that nobody is without it while the
others follow; and for so long a region to which it has come may ask for what it has not got."""


class Publisher:
    """`streams` are those of the node."""

    def __init__(
        self,
        shards: Shards,
        hops: Hops,
        streams: dict[str, Stream],
        *,
        name: str,
        budget_ms: int,
        random_bytes: Callable[[int], bytes],
    ) -> None:
        self._shards = shards
        self._hops = hops
        self._streams = streams
        self._name = name
        self._budget_ms = budget_ms
        self._random_bytes = random_bytes
        self._last_alias = 0

    def new_alias(self) -> tuple[int, int]:
        """An alias that no other stream is sent under now, and an epoch."""
        used = {p.alias for s in self._streams.values() for p in s.publications.values()}
        while True:
            self._last_alias = self._last_alias % 0xFFFF + 1
            if self._last_alias not in used:
                return self._last_alias, self._random_bytes(1)[0]

    def route(self, now_ns: int, stream: Stream) -> None:
        """Choose the peer that a stream which enters here is sent to."""
        stream.candidates = with_refusals(stream, self._hops.candidates(now_ns))
        current = stream.route.name if stream.route else None
        stream.choice = stream.router.choose(now_ns, stream.candidates, current)
        if stream.choice.peer is None or stream.choice.peer == current:
            return  # without a choice, whoever has it keeps it: the hop may come back
        fields = {"stream": stream.name, "to": stream.choice.peer, "why": stream.choice.why}
        event(logger, logging.INFO, "stream_route", **fields)
        before = stream.route
        arrives = stream.accepted and any(c.connected for c in stream.candidates if c.peer == current)
        stream.route = self._hops.named(stream.choice.peer)
        stream.leaving = (before, now_ns + LEAVING_NS) if before is not None and arrives else None
        stream.serial = min(stream.serial + 1, U32)
        if stream.route is not None and stream.route is stream.spare:
            stream.spare = None
            self._resume(now_ns, stream, stream.route, before)
        self.watch()

    def _resume(self, now_ns: int, stream: Stream, hop: Hop, left: Hop | None) -> None:
        """Send the region that was the spare one what may not have got to the other, and what comes. That one
        may have had more and not passed it on: it is kept for regions that ask for it."""
        period_ns = 0
        if left is not None and left.id in self._hops.hops:
            link = self._shards.of(left.id).hop_link(left.id)
            period_ns = now_ns - max((path.progress_ns for path in link.paths), default=now_ns) + link.rtt_ns
        stream.held.discard(hop.id)
        sent = stream.publications.get(hop.id)
        if sent is None or not sent.accepted:
            return
        sent.kept_until_ns = now_ns + LEAVING_NS
        for track in stream.tracks:
            self._shards.of(track.id).resume_feed(track.id, hop.id, min(period_ns // 1000, U32))

    def spare(self, now_ns: int, stream: Stream) -> None:
        """Choose the region that a stream which enters here goes to when its own is not reached any more."""
        before = stream.spare
        if before is not None and before.id not in stream.held:
            return  # it has asked for it
        regions = {hop.name for hop in self._hops.hops.values() if hop.is_region}
        busy = {stream.route.name if stream.route else "", stream.leaving[0].name if stream.leaving else ""}
        others = [c for c in stream.candidates if c.peer in regions - busy]
        choice = stream.second.choose(now_ns, others, before.name if before else None)
        stream.spare = self._hops.named(choice.peer) if choice.peer and stream.accepted else None
        if before is not None and stream.spare is not before:
            stream.held.discard(before.id)
        if stream.spare is not None:
            stream.held.add(stream.spare.id)

    def watch(self) -> None:
        """Have the packet planes tell when a stream that enters here, and could go elsewhere, gets to its
        peer no longer."""
        flow = (s for s in self._streams.values() if s.flows and s.elsewhere)
        watched = {s.route.id for s in flow if s.route is not None}
        for hop in self._hops.hops.values():
            self._hops.watch_echo(hop, hop.id in watched)

    def refresh(self, now_ns: int, stream: Stream) -> None:
        if stream.leaving is not None and now_ns >= stream.leaving[1]:
            stream.leaving = None
        mine = (*stream.subscribers.values(), stream.route, stream.spare)
        wanted = {hop.id: hop for hop in mine if hop is not None}
        kept = wanted.keys() | ({stream.leaving[0].id} if stream.leaving else set())
        for hop_id in stream.publications.keys() - kept:
            self.withdraw(now_ns, stream, hop_id, "not sent here any more")
        for sent in stream.publications.values():
            if sent.kept_until_ns is not None and now_ns >= sent.kept_until_ns:
                sent.kept_until_ns = None
                self.hold(stream, sent.hop, False)
        for hop in wanted.values():
            reason = self._why_not(stream, hop)
            if reason is None:
                self._offer(now_ns, stream, hop)
            else:
                self.withdraw(now_ns, stream, hop.id, reason)
                self._tell(now_ns, stream, hop, reason)

    def _why_not(self, stream: Stream, hop: Hop) -> str | None:
        """Why a stream is not offered to a peer that would have it."""
        if not stream.live:
            return stream.waits or "it is not published"
        if hop is stream.source or hop.name in stream.path:
            return "it has passed there"
        if len(stream.path) >= PATH_NODES_MAX:
            return f"it has passed {PATH_NODES_MAX} nodes"
        return None

    def _tell(self, now_ns: int, stream: Stream, hop: Hop, reason: str) -> None:
        if hop.id not in stream.subscribers or stream.told.get(hop.id) == reason:
            return
        if self._hops.send(now_ns, hop, Unavailable(stream.name, True, reason)):
            stream.told[hop.id] = reason

    def _offer(self, now_ns: int, stream: Stream, hop: Hop) -> None:
        stream.told.pop(hop.id, None)
        sent = stream.publications.get(hop.id)
        if sent is None:
            own = (stream.alias, stream.epoch) if stream.enters_here else self.new_alias()
            sent = stream.publications[hop.id] = Publication(hop, *own)
        publish = self._publish(stream, sent)
        if sent.offered is not None and not differs(sent.offered, publish):
            return
        if self._hops.send(now_ns, hop, publish):
            sent.offered = publish
            if sent.accepted:
                for track in stream.tracks:
                    plane = self._shards.of(track.id)
                    plane.set_feed(track.id, hop.id, age_max_us=hold_ms(publish) * 1000)
                self._set_budgets(hop)

    def _publish(self, stream: Stream, sent: Publication) -> Publish:
        behind_ms, rtt_ms, latency_ms = 0, 0, stream.latency_ms or 0
        came, source, path = stream.offer, stream.source, stream.path
        if stream.backup is not None and stream.backup.offer is not None and sent.hop.is_region:
            # What another region asks for will come from there: by way of a third one it would pass too many.
            came, source = stream.backup.offer, stream.backup.hop
            path = came.path or (source.name,)
        if came is not None and source is not None:
            rtt_ms = round(source.link.rtt_ns / MS)
            latency_ms = left(came.latency_ms, rtt_ms, came.budget_ms) if came.latency_ms else 0
            behind_ms = min(came.behind_ms + came.budget_ms, BUDGET_MS_MAX)
            rtt_ms = max(came.rtt_ms, rtt_ms)
        budget_ms = (
            share(latency_ms, sent.hop.link.rtt_ns / MS, sent.beyond) if latency_ms else self._budget_ms
        )
        return Publish(
            stream=stream.name,
            alias=sent.alias,
            epoch=sent.epoch,
            budget_ms=budget_ms,
            tracks=tuple(track.format.message(track.alias) for track in stream.tracks),
            path=(*path, self._name),
            behind_ms=behind_ms,
            rtt_ms=rtt_ms,
            latency_ms=latency_ms,
            serial=stream.serial,
            standby=sent.hop is stream.spare,
            lost=stream.lost and source is stream.source,
        )

    # ---- what the peer answers -----------------------------------------------------------------

    def sent_to(self, hop: Hop, alias: int, epoch: int) -> Stream | None:
        """The stream that is offered, or sent, to a peer under an alias."""
        for stream in self._streams.values():
            sent = stream.publications.get(hop.id)
            if sent is not None and (sent.alias, sent.epoch) == (alias, epoch):
                return stream
        return None

    def taken(self, now_ns: int, hop: Hop, alias: int, epoch: int, beyond: tuple[int, ...]) -> None:
        stream = self.sent_to(hop, alias, epoch)
        if stream is None:
            return
        sent = stream.publications[hop.id]
        sent.beyond = beyond
        if sent.offered is None or sent.accepted:
            return  # to be offered again; or only `beyond` is news
        sent.accepted = True
        self._add_feeds(stream, sent)
        self._set_budgets(hop)
        event(logger, logging.INFO, "stream_accepted", stream=stream.name, peer=hop.name)

    def refused(self, now_ns: int, hop: Hop, refusal: PublishRefused) -> Stream | None:
        """Also after PublishOk: a node that ends gives its streams back. The stream, if it is to go
        elsewhere."""
        stream, reason = self.sent_to(hop, refusal.alias, refusal.epoch), refusal.reason
        if stream is None:
            return None
        if refusal.serial and stream.route is hop:
            # Of the process before, or of before it came back there: offered at the next look.
            stream.serial = max(stream.serial, min(refusal.serial + 1, U32))
            self.drop(stream, hop.id)
            return None
        event(logger, logging.WARNING, "stream_refused", stream=stream.name, peer=hop.name, reason=reason)
        self.drop(stream, hop.id)
        stream.subscribers.pop(hop.id, None)
        if stream.spare is hop:
            stream.refusals[hop.name] = (reason, now_ns + REFUSED_FOR_NS)
            stream.spare = None
        if stream.route is hop:
            stream.refusals[hop.name] = (reason, now_ns + REFUSED_FOR_NS)
            stream.suggested = refusal.instead
            stream.route = None
        return stream

    # ---- the end of a publication --------------------------------------------------------------

    def withdraw(self, now_ns: int, stream: Stream, hop_id: int, reason: str) -> None:
        """Stop sending a stream to a peer, and say so."""
        sent = self.drop(stream, hop_id)
        if sent is not None and sent.offered is not None and hop_id in self._hops.hops:
            self._hops.send(now_ns, sent.hop, Unpublish(sent.alias, sent.epoch, reason))

    def drop(self, stream: Stream, hop_id: int) -> Publication | None:
        """Stop sending a stream to a peer that knows it already."""
        sent = stream.publications.pop(hop_id, None)
        if sent is not None and sent.accepted:
            self._remove_feeds(stream, sent)
            self._set_budgets(sent.hop)
        return sent

    def restart(self, stream: Stream) -> None:
        """The stream is another one behind the same name: it is offered again, under another epoch."""
        for sent in stream.publications.values():
            if sent.accepted:
                self._remove_feeds(stream, sent)
            sent.accepted, sent.offered, sent.epoch = False, None, (sent.epoch + 1) % 256

    def hold(self, stream: Stream, hop: Hop, held: bool, since: tuple[int, ...] = ()) -> None:
        """A peer that has it from another wants nothing of it now, or wants it again, with what was kept of
        each track `since` an origin sequence."""
        if held:
            stream.held.add(hop.id)
        else:
            stream.held.discard(hop.id)
        sent = stream.publications.get(hop.id)
        firsts = since if len(since) == len(stream.tracks) else (None,) * len(stream.tracks)
        for track, first in zip(stream.tracks, firsts, strict=True) if sent and sent.accepted else ():
            plane = self._shards.of(track.id)
            if held:
                plane.hold_feed(track.id, hop.id)
            else:
                plane.release_feed(track.id, hop.id, first)

    # ---- the packet plane ----------------------------------------------------------------------

    def _add_feeds(self, stream: Stream, sent: Publication) -> None:
        assert sent.offered is not None
        age_max_us = hold_ms(sent.offered) * 1000
        for track in stream.tracks:
            self._shards.of(track.id).add_feed(
                track.id, sent.hop.id, sent.alias, track.alias, sent.epoch, age_max_us=age_max_us
            )
            if sent.hop.id in stream.held:
                self._shards.of(track.id).hold_feed(track.id, sent.hop.id)

    def _remove_feeds(self, stream: Stream, sent: Publication) -> None:
        for track in stream.tracks:
            self._shards.of(track.id).remove_feed(track.id, sent.hop.id)

    def _set_budgets(self, hop: Hop) -> None:
        set_budgets(self._hops, self._streams.values(), hop)


def set_budgets(hops: Hops, streams: Collection[Stream], hop: Hop) -> None:
    """Give a hop the largest budget of the streams that cross it, each way."""
    all_sent = [s.publications[hop.id] for s in streams if hop.id in s.publications]
    sent = [p.offered.budget_ms for p in all_sent if p.accepted and p.offered is not None]
    offers = [(s.source, s.offer) for s in streams] + [
        (s.standby.hop, s.standby.offer) for s in streams if s.standby
    ]
    received = [offer.budget_ms for source, offer in offers if source is hop and offer is not None]
    if hop.id in hops.hops:
        hops.set_budgets(hop, max(sent, default=None), max(received, default=None))


def with_refusals(stream: Stream, candidates: list[Candidate]) -> list[Candidate]:
    """Those that refused the stream not long ago marked so, and the one that was named instead."""
    refused = {peer: reason for peer, (reason, _) in stream.refusals.items()}
    return [
        replace(c, refused=refused.get(c.peer, ""), suggested=c.peer == stream.suggested)
        if c.peer in refused or c.peer == stream.suggested
        else c
        for c in candidates
    ]


def differs(told: Publish, now: Publish) -> bool:
    """Whether an offer is so different from what the peer was told that it is worth telling."""
    what = ("alias", "epoch", "tracks", "path", "serial", "standby", "lost")
    named = [[getattr(p, name) for name in what] for p in (told, now)]
    if named[0] != named[1]:
        return True
    figures = [(p.budget_ms, p.behind_ms, p.rtt_ms, p.latency_ms) for p in (told, now)]
    return worth_telling(*figures)
