"""The streams of a node on a real packet plane, with the peers played by the test."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import cast

import pytest

from relay.config import Address, RtpDestination
from relay.core.admission import Step
from relay.core.routing import Candidate
from relay.media.rtp import TrackFormat, TrackSource
from relay.services.entrance import DRAINING, STREAMS_MAX, TRACKS_MAX
from relay.services.hops import Hop, Hops
from relay.services.shards import Shards
from relay.services.stream import Stream
from relay.services.streams import Streams
from relay.wire.messages import Message, Move, Publish, PublishOk, PublishRefused, Track, Unpublish
from relay_ext.control import EVENT_SOURCE, Link
from tests.unit.plane_world import (
    CONTROL,
    ENCODER,
    MS,
    PEER,
    SOURCE,
    START,
    WHOLE,
    Datagram,
    Peer,
    inner,
    numbers,
    open_ports,
    rtp,
)

VIDEO, AUDIO = (
    TrackFormat("video", "H264/90000", 96, 90_000),
    TrackFormat("audio", "opus/48000/2", 97, 48_000),
)
SOURCES = (
    TrackSource(VIDEO, Address("0.0.0.0", 5004), 5005),
    TrackSource(AUDIO, Address("0.0.0.0", 5006), 5007),
)
TO_VIDEO, TO_AUDIO = ("192.0.2.9", 6004), ("192.0.2.9", 6006)
OUT = (
    RtpDestination(kind="video", address=Address(*TO_VIDEO)),
    RtpDestination(kind="audio", address=Address(*TO_AUDIO)),
)
LINK = Link(0, 0, 0, 0, 0.0, 0.0, 0.0, False, 0, 0, 0, 0, 0, 0, 0.0, 0, ())


@dataclass
class FakePorts:
    """Numbers instead of sockets; an address that is taken raises as a socket does."""

    taken: set[int] = field(default_factory=set)
    opened: dict[int, Address] = field(default_factory=dict)
    last: int = 0

    def open(self, address: Address, shard: int) -> int:
        if address.port in self.taken:
            raise OSError(f"port {address.port} is in use")
        self.last += 1
        self.opened[self.last] = address
        return self.last

    def close(self, port: int, shard: int) -> None:
        del self.opened[port]


@dataclass
class FakeHop:
    """What `Streams` uses of a Hop."""

    id: int
    name: str
    link: Link = LINK
    media_bps: float | None = None
    is_region: bool = False
    may_be_region: bool = True
    quiet_ns: int | None = None

    @property
    def heard(self) -> bool:
        return self.quiet_ns is None

    @property
    def key(self) -> bytes:
        return self.name.encode()


@dataclass
class FakeHops:
    hops: dict[int, FakeHop] = field(default_factory=dict)
    costs: dict[str, float] = field(default_factory=dict)
    sent: list[tuple[str, Message]] = field(default_factory=list)
    budgets: dict[str, tuple[int | None, int | None]] = field(default_factory=dict)
    full: bool = False
    room_at: str = ""
    suggestions: list[str] = field(default_factory=list)
    step: Step = Step.NONE
    watched: set[str] = field(default_factory=set)

    def roomiest(self, now_ns: int, asker: FakeHop) -> str:
        return self.room_at

    def suggest(self, name: str) -> None:
        self.suggestions.append(name)

    def shed(self, step: Step) -> None:
        self.step = step

    def candidates(self, now_ns: int) -> list[Candidate]:
        return [Candidate(name, True, rtt_ms=2 * c, min_rtt_ms=2 * c) for name, c in self.costs.items()]

    def named(self, name: str) -> FakeHop | None:
        return next((hop for hop in self.hops.values() if hop.name == name), None)

    def send(self, now_ns: int, hop: FakeHop, message: Message) -> bool:
        if not self.full:
            self.sent.append((hop.name, message))
        return not self.full

    def watch_echo(self, hop: FakeHop, watched: bool) -> None:
        pass

    def set_budgets(self, hop: FakeHop, send_ms: int | None, receive_ms: int | None) -> None:
        self.budgets[hop.name] = (send_ms, receive_ms)

    def watch(self, hop: FakeHop, watched: bool) -> None:
        if watched:
            self.watched.add(hop.name)
        else:
            self.watched.discard(hop.name)


class Node:
    def __init__(self, **costs: float) -> None:
        self.shards = Shards(bytes(32), slabs=4096)
        [self.plane] = self.shards.planes
        open_ports(self.plane)
        self.ports = FakePorts(last=20)
        self.hops = FakeHops()
        self.peers: dict[str, Peer] = {}
        for name, cost in costs.items():
            if not self.peers:  # its keys are set; the others are there to be chosen
                self.peers[name] = Peer(self.plane)
                hop_id = self.peers[name].hop
            else:
                hop_id = self.plane.add_hop(0)
            self.hops.hops[hop_id] = FakeHop(hop_id, name)
            self.hops.costs[name] = cost
        count = iter(range(1, 10_000))
        self.streams = Streams(
            self.shards,
            self.ports,
            name="here",
            budget_ms=200,
            random_bytes=lambda n: next(count).to_bytes(4, "big")[-n:],
        )
        self.streams.attach(cast(Hops, self.hops))

    def hop(self, name: str) -> Hop:
        return cast(Hop, self.hops.named(name))

    def take_sent(self) -> list[tuple[str, Message]]:
        sent, self.hops.sent = self.hops.sent, []
        return sent

    def on(self, name: str, message: Message, now_ns: int = 0) -> None:
        self.streams.on_message(now_ns, self.hop(name), message)

    def receive(self, now_ns: int, port_of: int, *packets: bytes) -> list[Datagram]:
        """At the ingest port that listens on a UDP port."""
        number = next(n for n, address in self.ports.opened.items() if address.port == port_of)
        return self.plane.receive(now_ns, [(number, ENCODER, p) for p in packets])

    def close(self) -> None:
        self.plane.close()
        assert self.plane.slabs_in_use == 0


def offer(
    name: str = "studio",
    alias: int = 9,
    epoch: int = 7,
    budget_ms: int = 100,
    formats: Iterable[TrackFormat] = (VIDEO,),
) -> Publish:
    tracks = tuple(f.message(i) for i, f in enumerate(formats))
    return Publish(stream=name, alias=alias, epoch=epoch, budget_ms=budget_ms, tracks=tracks)


def received(node: Node, seq: int, now_ns: int, *, esi: int, epoch: int = 7, flags: int = WHOLE) -> list[int]:
    peer = next(iter(node.peers.values()))
    symbol = inner(rtp(seq), seq, stream=9, epoch=epoch, time=now_ns // 100_000, flags=flags)
    return numbers(peer.send(now_ns, peer.source(symbol, esi)), TO_VIDEO)


# ---- a plain forwarder -------------------------------------------------------------------------


def test_a_plain_forwarder() -> None:
    node = Node()
    node.streams.set_egress(0, "studio", OUT)
    stream = node.streams.add_ingest(0, "studio", None, SOURCES)
    assert sorted(a.port for a in node.ports.opened.values()) == [0, 5004, 5005, 5006, 5007]
    assert numbers(node.receive(0, 5004, rtp(1)), TO_VIDEO) == [1]
    assert numbers(node.receive(0, 5006, rtp(2, pt=97)), TO_AUDIO) == [2]
    (first, second) = [e for e in node.plane.drain_events() if e.kind == EVENT_SOURCE]
    assert [first.a, second.a] == [t.id for t in stream.tracks]
    node.streams.on_source(first.a, first.b, first.address)
    node.streams.poll(0)
    node.receive(MS, 5004, *(rtp(i) for i in range(2, 102)))
    node.streams.poll(1000 * MS)
    assert [t.bitrate_bps for t in stream.tracks] == [100 * 16 * 8, 0]
    assert node.streams.busy
    node.streams.remove_ingest(0, "studio")
    assert [a.port for a in node.ports.opened.values()] == [0]
    assert list(node.streams.streams) == ["studio"]  # its egress waits
    node.streams.set_egress(0, "studio", ())
    assert node.streams.streams == {}
    node.close()


def test_a_port_in_use_leaves_nothing_behind() -> None:
    node = Node()
    node.ports.taken = {5007}
    with pytest.raises(OSError, match="5007"):
        node.streams.add_ingest(0, "studio", None, SOURCES)
    assert node.streams.streams == {}
    assert node.ports.opened == {}
    node.ports.taken = set()
    node.streams.add_ingest(0, "studio", None, SOURCES)
    node.close()


def test_destinations_that_stay_are_not_touched() -> None:
    node = Node()
    node.streams.set_egress(0, "studio", OUT)
    stream = node.streams.add_ingest(0, "studio", None, SOURCES)
    before = dict(stream.tracks[0].egresses)
    other = RtpDestination(kind="video", address=Address("192.0.2.9", 7004))
    node.streams.set_egress(0, "studio", (OUT[0], other))
    assert stream.tracks[0].egresses.items() >= before.items()
    assert [d.address.port for d in stream.tracks[0].egresses] == [6004, 7004]
    assert stream.tracks[1].egresses == {}
    out = node.receive(0, 5004, rtp(1))
    assert {to for _, to, _ in out} == {TO_VIDEO, ("192.0.2.9", 7004)}
    node.close()


# ---- a stream that enters here -----------------------------------------------------------------


def published(node: Node, to: str) -> Stream:
    """A stream that a peer has taken."""
    stream = node.streams.add_ingest(0, "studio", None, SOURCES)
    ((peer, message),) = node.take_sent()
    assert isinstance(message, Publish) and peer == to
    assert (message.stream, message.alias, message.epoch) == ("studio", stream.alias, stream.epoch)
    assert message.tracks == (VIDEO.message(0), AUDIO.message(1))
    node.on(to, PublishOk(stream.alias, stream.epoch))
    return stream


def test_packets_follow_once_the_peer_has_taken_the_stream() -> None:
    node = Node(near=10)
    stream = node.streams.add_ingest(0, "studio", None, SOURCES)
    assert node.receive(0, 5004, rtp(1)) == []
    node.on("near", PublishOk(stream.alias, stream.epoch + 1))  # of another publication
    assert not stream.accepted
    node.on("near", PublishOk(stream.alias, stream.epoch))
    node.on("near", PublishOk(stream.alias, stream.epoch))
    (symbol,) = node.peers["near"].opened(node.receive(0, 5004, rtp(2)), SOURCE)
    assert (symbol[2:6], symbol[6] & START) == (bytes([0, stream.alias, 0, stream.epoch]), START)
    assert node.hops.budgets["near"] == (200, None)
    node.close()


def test_the_budget_is_what_propagation_leaves_of_the_latency() -> None:
    node = Node(near=10)
    hop = node.hops.named("near")
    assert hop is not None
    for latency_ms, rtt_ms, budget_ms in ((400, 100, 350), (400, 0, 400), (100, 190, 20), (None, 100, 200)):
        hop.link = LINK._replace(rtt_ns=rtt_ms * MS)
        node.streams.add_ingest(0, "studio", latency_ms, SOURCES[:1])
        ((_, message),) = [m for m in node.take_sent() if isinstance(m[1], Publish)]
        assert isinstance(message, Publish) and message.budget_ms == budget_ms
        node.streams.remove_ingest(0, "studio")
        node.take_sent()
    node.close()


def test_a_refusal_goes_to_the_next_peer_and_is_forgotten_in_time() -> None:
    node = Node(near=10, far=50)
    stream = published(node, "near")
    node.on("near", PublishRefused(stream.alias, stream.epoch, "draining"), now_ns=1000 * MS)
    ((peer, message),) = node.take_sent()
    assert peer == "far" and isinstance(message, Publish)
    assert node.peers["near"].opened(node.receive(0, 5004, rtp(1)), SOURCE) == []
    node.streams.poll(5999 * MS)
    assert node.take_sent() == []
    for second in range(7, 16):
        node.streams.poll(second * 1000 * MS)
    assert node.take_sent() == []  # it has just changed
    node.streams.poll(16_000 * MS)
    assert [(p, type(m)) for p, m in node.take_sent()] == [("far", Unpublish), ("near", Publish)]
    node.close()


def test_a_serial_grows_with_each_move_and_beyond_one_of_before() -> None:
    node = Node(near=10, far=50)
    stream = node.streams.add_ingest(0, "studio", None, SOURCES)
    ((peer, message),) = node.take_sent()
    assert peer == "near" and isinstance(message, Publish) and message.serial == 1
    # A region has it from this node's process before: it is offered again at the next look, with more.
    refused = PublishRefused(message.alias, message.epoch, "it is published at far", serial=7)
    node.on("near", refused, now_ns=100 * MS)
    assert node.take_sent() == []
    node.streams.poll(1000 * MS)
    ((peer, message),) = node.take_sent()
    assert peer == "near" and isinstance(message, Publish) and message.serial == 8
    node.on("near", PublishOk(message.alias, message.epoch))
    node.on("near", PublishRefused(message.alias, message.epoch, "draining"), now_ns=1500 * MS)
    ((peer, message),) = node.take_sent()
    assert peer == "far" and isinstance(message, Publish) and message.serial == 9
    highest = PublishRefused(message.alias, message.epoch, "", serial=2**32 - 1)
    node.on("far", highest)
    node.streams.poll(2000 * MS)
    ((_, message),) = node.take_sent()
    assert isinstance(message, Publish) and message.serial == 2**32 - 1 == stream.serial
    node.close()


def test_a_clearly_better_peer_takes_over() -> None:
    node = Node(near=10, far=50)
    stream = published(node, "near")
    node.hops.costs["near"] = 55
    node.streams.poll(1000 * MS)
    assert node.take_sent() == []  # 5 ms are not worth it
    node.hops.costs["near"] = 100
    for second in range(2, 9):
        node.streams.poll(second * 1000 * MS)
    assert [(p, type(m)) for p, m in node.take_sent()] == [("far", Publish)]
    assert stream.route is node.hop("far") and not stream.accepted
    assert len(node.peers["near"].opened(node.receive(0, 5004, rtp(1)), SOURCE)) == 1, (
        "until all have followed"
    )
    node.streams.poll(10_000 * MS)
    assert [(p, type(m)) for p, m in node.take_sent()] == [("near", Unpublish)]
    assert node.peers["near"].opened(node.receive(0, 5004, rtp(2)), SOURCE) == []
    node.close()


def test_a_message_that_could_not_be_sent_is_sent_later() -> None:
    node = Node(near=10)
    node.hops.full = True
    node.streams.add_ingest(0, "studio", None, SOURCES)
    node.hops.full = False
    node.streams.poll(1000 * MS)
    assert [type(m) for _, m in node.take_sent()] == [Publish]
    node.streams.poll(2000 * MS)
    assert node.take_sent() == []
    node.close()


def test_a_new_process_of_the_peer_is_offered_the_stream_again() -> None:
    node = Node(near=10)
    stream = published(node, "near")
    node.streams.on_state(0, node.hop("near"), False)
    assert node.take_sent() == []
    node.streams.on_state(0, node.hop("near"), True)
    assert [type(m) for _, m in node.take_sent()] == [Publish]
    assert node.peers["near"].opened(node.receive(0, 5004, rtp(1)), SOURCE) == []
    node.on("near", PublishOk(stream.alias, stream.epoch))
    assert len(node.peers["near"].opened(node.receive(0, 5004, rtp(2)), SOURCE)) == 1
    node.close()


def test_a_peer_that_is_removed_leaves_no_feed() -> None:
    node = Node(near=10, far=50)
    stream = published(node, "near")
    hop = node.hop("near")
    del node.hops.costs["near"]
    node.streams.remove_peer(0, hop)
    node.plane.remove_hop(hop.id)
    assert stream.route is None
    node.streams.poll(1000 * MS)
    assert [p for p, m in node.take_sent() if isinstance(m, Publish)] == ["far"]
    assert node.receive(0, 5004, rtp(1)) == []
    node.close()


# ---- a stream that a peer offers ---------------------------------------------------------------


def test_an_offered_stream_is_taken_and_played() -> None:
    node = Node(edge=10)
    node.streams.set_egress(0, "studio", OUT)
    node.on("edge", offer())
    assert node.take_sent() == [("edge", PublishOk(9, 7))]
    assert node.hops.budgets["edge"] == (None, 100)
    assert received(node, 5, 1000 * MS, esi=1, flags=WHOLE | START) == [5]
    assert received(node, 6, 1010 * MS, esi=2, epoch=8) == []
    node.on("edge", Unpublish(9, 8, "of another epoch"))
    assert received(node, 6, 1020 * MS, esi=3) == [6]
    node.on("edge", Unpublish(9, 7, "over"))
    assert received(node, 7, 1030 * MS, esi=4) == []
    assert not node.streams.busy
    node.close()


def test_a_restarted_publisher_goes_on_in_the_same_tracks() -> None:
    node = Node(edge=10)
    node.streams.set_egress(0, "studio", OUT)
    node.on("edge", offer())
    received(node, 5, 1000 * MS, esi=1, flags=WHOLE | START)
    tracks = [t.id for t in node.streams.streams["studio"].tracks]
    node.streams.on_state(0, node.hop("edge"), True)
    assert node.streams.streams["studio"].source is None
    node.on("edge", offer(epoch=8))
    assert [t.id for t in node.streams.streams["studio"].tracks] == tracks
    assert received(node, 70_000, 1100 * MS, esi=2, epoch=8, flags=WHOLE | START) == [70_000]
    node.on("edge", offer(epoch=9, formats=(AUDIO,)))
    assert [t.format for t in node.streams.streams["studio"].tracks] == [AUDIO]
    node.close()


def test_the_same_offer_again_interrupts_nothing() -> None:
    node = Node(edge=10)
    node.streams.set_egress(0, "studio", OUT)
    for _ in range(2):
        node.on("edge", offer())
    received(node, 5, 1000 * MS, esi=1, flags=WHOLE | START)
    assert received(node, 7, 1010 * MS, esi=2) == []
    node.on("edge", offer())
    assert received(node, 6, 1020 * MS, esi=3) == [6, 7]
    node.close()


def test_an_alias_that_names_another_stream_ends_the_first() -> None:
    node = Node(edge=10)
    node.on("edge", offer("a"))
    node.on("edge", offer("b"))
    assert list(node.streams.streams) == ["b"]
    node.close()


def test_what_is_not_taken() -> None:
    node = Node(edge=10, other=20)
    node.hops.costs.clear()
    node.streams.add_ingest(0, "here", None, SOURCES)
    node.on("edge", offer("there"))
    node.on("other", offer("there", alias=3))
    node.on("edge", offer("here", alias=4))
    refusals = [(p, m.reason) for p, m in node.take_sent() if isinstance(m, PublishRefused)]
    assert refusals == [
        ("other", "another node publishes a stream of that name"),
        ("edge", "a stream of that name enters at this node"),
    ]
    for i in range(STREAMS_MAX):
        node.on("edge", offer(f"stream {i}", alias=100 + i), i * 1000 * MS)  # not more than can be let in
    refused = [m for _, m in node.take_sent() if isinstance(m, PublishRefused)]
    assert len(refused) == 2
    assert str(STREAMS_MAX) in refused[0].reason
    node.close()


def test_a_peer_has_room_for_so_many_tracks() -> None:
    node = Node(edge=10, other=20)
    per_stream = 16
    for i in range(TRACKS_MAX // per_stream + 1):
        node.on("edge", offer(f"stream {i}", alias=i, formats=(AUDIO,) * per_stream), i * 1000 * MS)
    refused = [m.reason for _, m in node.take_sent() if isinstance(m, PublishRefused)]
    assert refused == [f"this node takes {TRACKS_MAX} tracks from one peer"]
    node.on("other", offer("another peer's"))
    assert not [m for _, m in node.take_sent() if isinstance(m, PublishRefused)]
    node.close()


def test_ingest_of_a_stream_that_a_peer_sends_takes_it_over() -> None:
    node = Node(edge=10)
    node.streams.set_egress(0, "studio", OUT)
    node.on("edge", offer())
    stream = node.streams.add_ingest(0, "studio", None, SOURCES)
    assert (stream.source, stream.enters_here) == (None, True)
    assert received(node, 5, 1000 * MS, esi=1) == []
    assert numbers(node.receive(0, 5004, rtp(1)), TO_VIDEO) == [1]
    node.close()


def test_draining_takes_none_and_keeps_streams_until_they_have_moved() -> None:
    node = Node(edge=10)
    node.hops.room_at = "b"
    node.on("edge", offer())
    node.on("edge", offer("slow", alias=8))
    node.take_sent()
    node.streams.drain(0)
    assert node.take_sent() == [
        ("edge", Move("studio", DRAINING, "b")),
        ("edge", Move("slow", DRAINING, "b")),
    ]
    node.on("edge", offer("another", alias=1))
    assert node.take_sent() == [("edge", PublishRefused(1, 7, DRAINING, "b"))]
    node.on("edge", offer(budget_ms=150))  # said anew, as figures change
    assert node.take_sent() == [("edge", PublishOk(9, 7))]
    node.on("edge", Unpublish(9, 7, "moved"))
    assert list(node.streams.streams) == ["slow"] and node.streams.busy
    node.streams.give_back(0)
    assert node.take_sent() == [("edge", PublishRefused(8, 7, DRAINING, "b"))]
    assert node.streams.streams == {} and not node.streams.busy
    assert node.streams.admission.refused == {"draining": 2}
    node.close()


def test_a_node_that_is_full_takes_no_other_stream_and_names_a_region() -> None:
    node = Node(edge=10, other=20)
    node.on("edge", offer())
    node.hops.room_at = "b"
    node.streams.admission.observe(0, {"packet thread": 0.8, "network card": 0.3})
    node.take_sent()
    node.on("other", offer("late", alias=1))
    [(_, refused)] = node.take_sent()
    reason = "this node is 81% loaded, 80% of it packet thread"
    assert refused == PublishRefused(1, 7, reason, "b")
    node.on("edge", offer(epoch=8))  # what is there stays
    assert node.take_sent() == [("edge", PublishOk(9, 8))]
    node.streams.admission.observe(9000 * MS, {"packet thread": 0.7})
    node.on("other", offer("late", alias=1), 9000 * MS)
    assert node.take_sent() == [("other", PublishOk(1, 7))]
    assert node.streams.admission.refused == {"load": 1}
    node.close()


def test_who_is_refused_goes_at_once_to_the_region_that_was_named() -> None:
    node = Node(near=10, far=40, named=45)
    stream = node.streams.add_ingest(0, "studio", None, SOURCES)
    node.take_sent()
    node.on("near", PublishRefused(stream.alias, stream.epoch, "full", "named"))
    [(to, _)] = node.take_sent()
    assert to == "named", "hardly dearer than far"
    assert stream.choice.why == "suggested, 51.0 ms; far has 46.0 ms"
    assert node.hops.suggestions == ["named"]
    node.on("named", PublishRefused(stream.alias, stream.epoch, "full", "nobody knows"))
    assert [to for to, _ in node.take_sent()] == ["far"]
    node.close()


def test_one_that_is_asked_to_move_its_stream_does_if_it_can() -> None:
    node = Node(near=10, far=20)
    stream = node.streams.add_ingest(0, "studio", None, SOURCES)
    node.on("far", Move("studio", "not asked"))
    node.on("near", Move("unknown", "draining"))
    node.on("near", PublishOk(stream.alias, stream.epoch))
    node.take_sent()
    node.on("near", Move("studio", DRAINING))
    assert [(to, type(m)) for to, m in node.take_sent()] == [("far", Publish)]
    node.on("far", PublishOk(stream.alias, stream.epoch))
    node.on("far", Move("studio", DRAINING))
    assert node.take_sent() == [] and stream.accepted, "there is no other: it stays"
    node.close()


def test_tracks_of_one_kind_are_told_apart_by_their_index() -> None:
    node = Node(edge=10)
    second = RtpDestination(kind="video", address=Address("192.0.2.9", 7004), index=1)
    node.streams.set_egress(0, "studio", (OUT[0], second))
    tracks = (Track(4, "video", "H264/90000", 96, 90_000), Track(8, "video", "H264/90000", 98, 90_000))
    node.on("edge", Publish("studio", 9, 7, 100, tracks))
    ports = [[d.address.port for d in t.egresses] for t in node.streams.streams["studio"].tracks]
    assert ports == [[6004], [7004]]
    node.close()


def test_control_of_the_plane_is_not_its_business() -> None:
    """What no stream knows is passed over."""
    node = Node(edge=10)
    node.on("edge", PublishOk(1, 1))
    node.on("edge", PublishRefused(1, 1, "no"))
    node.on("edge", Unpublish(1, 1, "no"))
    node.streams.on_source(99, 1, PEER)
    node.peers["edge"].send(0, node.peers["edge"].seal(CONTROL, b"x"))
    assert node.take_sent() == []
    node.close()
