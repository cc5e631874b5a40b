"""Streams that are asked for, on a real packet plane, with the peers played by the test."""

from collections.abc import Iterable
from dataclasses import replace
from typing import cast

import pytest

from relay.core.admission import Step
from relay.core.directory import Directory
from relay.core.record import fingerprint
from relay.services.entrance import DRAINING, STREAMS_MAX
from relay.services.hops import Hops
from relay.services.streams import Streams
from relay.services.surge import SHEDDING
from relay.wire.coding import encode
from relay.wire.messages import (
    Announce,
    Ask,
    Catalogue,
    CatalogueEntry,
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
from tests.unit.plane_world import MS, SOURCE, START, rtp
from tests.unit.test_streams import AUDIO, LINK, OUT, SOURCES, VIDEO, Node, offer

SECOND = 1000 * MS
EDGE = fingerprint(b"edge")


class Region(Node):
    """A region (or, without a directory, an edge) whose peers are `edge`, and `b` and `c`, which are regions;
    what the first of `costs` is sent can be opened."""

    def __init__(self, *, region: bool = True, **costs: float) -> None:
        super().__init__(**(costs or {"edge": 10, "b": 20, "c": 30}))
        directory = Directory(b"a") if region else None
        count = iter(range(1, 10_000))
        self.streams = Streams(
            self.shards,
            self.ports,
            name="a",
            budget_ms=200,
            random_bytes=lambda n: next(count).to_bytes(4, "big")[-n:],
            directory=directory,
        )
        self.streams.attach(cast(Hops, self.hops))
        for name in ("b", "c"):
            if self.hops.named(name):
                self.on(name, ListVersion(0, 0))
        self.take_sent()

    def sent(self, to: str) -> list[Message]:
        """What a peer was told since the last look; what others were told is lost."""
        return [message for peer, message in self.take_sent() if peer == to]

    def has(self, region: str, *streams: str) -> None:
        """A region says that it has these."""
        entries = tuple(CatalogueEntry(stream, 1 + i) for i, stream in enumerate(streams))
        self.on(region, Catalogue(len(streams), 0, True, entries))


@pytest.fixture
def region() -> Iterable[Region]:
    r = Region()
    yield r
    r.close()


def from_region(path: tuple[str, ...] = ("edge", "b"), **changes: int) -> Publish:
    base = offer()
    fields = {name: getattr(base, name) for name in base.__slots__} | {"path": path} | changes
    return Publish(**fields)


# ---- a region serves -----------------------------------------------------------------------------


def test_a_region_says_so_to_every_new_peer(region: Region) -> None:
    region.streams.on_state(0, region.hop("edge"), True)
    assert region.sent("edge") == [ListVersion(0, 0)]
    region.on("b", Ask())
    assert region.sent("b") == [Catalogue(0, 0, True, ())]


def test_what_an_edge_publishes_is_announced_to_regions_alone(region: Region) -> None:
    region.on("edge", offer())
    assert region.take_sent() == [
        ("edge", PublishOk(9, 7)),
        ("b", Announce("studio", 1, 1, EDGE)),
        ("c", Announce("studio", 1, 1, EDGE)),
    ]
    region.on("edge", Unpublish(9, 7, "over"))
    assert region.sent("b") == [Announce("studio", 2, 0)]


def test_a_subscriber_waits_is_served_and_leaves(region: Region) -> None:
    region.on("b", Subscribe("studio"))
    assert region.sent("b") == [Unavailable("studio", True, "it is not published")]
    region.streams.poll(SECOND)
    assert region.sent("b") == [ListVersion(0, 0)]  # it is not told twice
    region.on("edge", offer(budget_ms=100))
    [_, publish] = region.sent("b")
    assert isinstance(publish, Publish)
    assert (publish.stream, publish.path, publish.behind_ms, publish.budget_ms) == (
        "studio",
        ("edge", "a"),
        100,
        200,
    )
    region.on("b", PublishOk(publish.alias, publish.epoch))
    assert region.hops.budgets["b"] == (200, None)
    assert [p.accepted for p in region.streams.streams["studio"].publications.values()] == [True]
    region.on("b", Unsubscribe("studio"))
    assert region.sent("b") == [Unpublish(publish.alias, publish.epoch, "not sent here any more")]
    assert region.streams.streams["studio"].publications == {}
    assert region.hops.budgets["b"] == (None, None)


def test_packets_go_from_the_edge_to_the_subscriber() -> None:
    r = Region(b=10, edge=20)  # what b is sent can be opened
    r.on("b", Subscribe("studio"))
    ingest = r.streams.add_ingest(0, "studio", None, SOURCES)
    [publish] = [m for m in r.sent("b") if isinstance(m, Publish)]
    assert (publish.path, publish.behind_ms, publish.alias) == (("a",), 0, ingest.alias)
    r.on("b", PublishOk(publish.alias, publish.epoch))
    [symbol] = r.peers["b"].opened(r.receive(MS, 5004, rtp(1)), SOURCE)
    assert symbol[6] & START and symbol[7] == 0
    r.on("b", Subscribe("studio"))  # it has lost it: once more from the beginning
    [gone, again] = r.sent("b")
    assert isinstance(gone, Unpublish) and isinstance(again, Publish)
    assert r.peers["b"].opened(r.receive(2 * MS, 5004, rtp(2)), SOURCE) == []
    r.close()


def test_a_restarted_publisher_is_published_under_another_epoch(region: Region) -> None:
    region.on("b", Subscribe("studio"))
    region.on("edge", offer())
    [first] = [m for m in region.sent("b") if isinstance(m, Publish)]
    region.on("b", PublishOk(first.alias, first.epoch))
    region.on("edge", offer(epoch=8))
    [second] = [m for m in region.sent("b") if isinstance(m, Publish)]
    assert (second.alias, second.epoch) == (first.alias, first.epoch + 1)
    region.on("b", PublishOk(first.alias, first.epoch))  # crossed it
    sent = region.streams.streams["studio"].publications[region.hop("b").id]
    assert not sent.accepted
    region.on("b", PublishOk(second.alias, second.epoch))
    assert sent.accepted


def test_other_tracks_under_the_same_epoch_are_another_publication(region: Region) -> None:
    region.on("b", Subscribe("studio"))
    region.on("edge", offer())
    [publish] = [m for m in region.sent("b") if isinstance(m, Publish)]
    region.on("b", PublishOk(publish.alias, publish.epoch))
    region.on("edge", offer(formats=(AUDIO, VIDEO)))
    [again] = [m for m in region.sent("b") if isinstance(m, Publish)]
    assert again.tracks == offer(formats=(AUDIO, VIDEO)).tracks and again.epoch != publish.epoch
    region.on("b", Unsubscribe("studio"))


def test_budgets_that_add_up_to_too_much_are_still_sayable(region: Region) -> None:
    region.on("b", Subscribe("studio"))
    region.on("edge", from_region(("x", "edge"), behind_ms=50_000, budget_ms=50_000))
    [publish] = [m for m in region.sent("b") if isinstance(m, Publish)]
    assert publish.behind_ms == 60_000 and encode(publish)


def test_subscriptions_end_with_the_peer_and_its_process(region: Region) -> None:
    for name in ("b", "c"):
        region.on(name, Subscribe("studio"))
    region.on("edge", offer())
    region.streams.on_state(0, region.hop("b"), True)
    region.streams.remove_peer(0, region.hop("c"))
    stream = region.streams.streams["studio"]
    assert stream.subscribers == {} and stream.publications == {}


def test_who_is_not_served_is_told_why(region: Region) -> None:
    region.on("edge", from_region(("x", "y", "edge")))
    region.take_sent()
    region.on("b", Subscribe("studio"))
    assert region.sent("b") == [Unavailable("studio", True, "it has passed 3 nodes")]
    region.on("edge", Subscribe("studio"))
    assert region.sent("edge") == [Unavailable("studio", True, "it has passed there")]
    for i in range(STREAMS_MAX):
        region.on("b", Subscribe(f"stream {i}"))
    assert region.sent("b")[-1] == Unavailable(
        f"stream {STREAMS_MAX - 1}", False, f"this node carries {STREAMS_MAX} streams already"
    )


def test_an_edge_serves_nobody() -> None:
    e = Region(region=False)
    e.on("b", Subscribe("studio"))
    assert e.sent("b") == [Unavailable("studio", False, "this node is no region")]
    assert e.streams.streams == {}
    e.close()


# ---- a region asks -------------------------------------------------------------------------------


def test_a_region_asks_the_one_that_has_the_stream(region: Region) -> None:
    region.streams.set_egress(0, "studio", OUT)
    assert region.take_sent() == []
    region.has("b", "studio")
    assert region.take_sent() == [("b", Subscribe("studio"))]
    region.on("b", from_region(behind_ms=80, rtt_ms=30))
    assert region.take_sent() == [("b", PublishOk(9, 7))]  # and nothing is announced
    assert region.streams.streams["studio"].pulled
    region.on("edge", offer(alias=3))
    region.on("c", from_region(("edge", "c"), alias=3))
    refused = [(to, m.reason) for to, m in region.take_sent() if isinstance(m, PublishRefused)]
    assert refused == [("edge", "it is published at b"), ("c", "it is published at b")]
    region.streams.set_egress(0, "studio", ())
    assert region.take_sent() == [("b", Unsubscribe("studio"))]
    assert region.streams.streams == {}
    region.on("b", from_region())  # crossed it
    assert region.take_sent() == [("b", PublishRefused(9, 7, "it was not asked for"))]


def test_it_asks_elsewhere_when_the_stream_moves(region: Region) -> None:
    region.streams.set_egress(0, "studio", OUT)
    region.has("b", "studio")
    region.on("b", from_region())
    region.take_sent()
    region.has("b")
    assert region.take_sent() == [("b", Unsubscribe("studio"))]
    assert region.streams.streams["studio"].source is None
    region.has("c", "studio")
    assert region.take_sent() == [("c", Subscribe("studio"))]


def test_one_subscription_serves_all_that_want_the_stream(region: Region) -> None:
    region.has("b", "studio")
    region.on("c", Subscribe("studio"))
    region.on("edge", Subscribe("studio"))
    region.streams.set_egress(0, "studio", OUT)
    sent = region.take_sent()
    assert [to for to, m in sent if isinstance(m, Subscribe)] == ["b"]
    region.on("b", from_region(("x", "b")))
    offered = {to: m for to, m in region.take_sent() if isinstance(m, Publish)}
    assert set(offered) == {"c", "edge"}
    assert offered["c"].path == ("x", "b", "a") and offered["c"].alias != offered["edge"].alias
    for name in ("c", "edge"):
        region.on(name, Unsubscribe("studio"))
    assert not [m for _, m in region.take_sent() if isinstance(m, Unsubscribe)]
    region.streams.set_egress(0, "studio", ())
    assert region.sent("b") == [Unsubscribe("studio")]


def test_what_has_passed_here_is_not_taken(region: Region) -> None:
    region.has("b", "studio")
    region.streams.set_egress(0, "studio", OUT)
    region.on("b", from_region(("edge", "a", "b")))
    assert region.sent("b")[-1] == PublishRefused(9, 7, "it has passed here")


def test_what_could_not_be_said_is_said_later(region: Region) -> None:
    region.has("b", "studio")
    region.hops.full = True
    region.streams.set_egress(0, "studio", OUT)
    region.hops.full = False
    region.streams.poll(SECOND)
    assert Subscribe("studio") in region.sent("b")
    region.hops.full = True
    region.streams.set_egress(0, "studio", ())
    region.hops.full = False
    region.streams.poll(2 * SECOND)
    assert Unsubscribe("studio") in region.sent("b")
    region.hops.full = True
    region.streams.set_egress(0, "studio", OUT)
    region.streams.poll(3 * SECOND)
    region.hops.full = False
    region.streams.poll(4 * SECOND)
    assert [m for m in region.sent("b") if not isinstance(m, ListVersion)] == [Subscribe("studio")]


def test_a_name_that_another_region_keeps_is_given_back(region: Region) -> None:
    region.on("edge", offer())
    region.take_sent()
    region.has("c", "studio")  # stamp 1, as ours, and "c" is after "a"
    assert not [m for _, m in region.take_sent() if isinstance(m, PublishRefused)]
    region.on("edge", Unpublish(9, 7, "over"))
    region.has("b", "studio")
    region.take_sent()
    region.on("edge", offer())
    assert region.sent("edge") == [PublishRefused(9, 7, "it is published at b")]


def test_a_region_that_sends_its_subscribers_away_is_left_alone(region: Region) -> None:
    region.has("b", "studio")
    region.streams.set_egress(0, "studio", OUT)
    region.on("b", Unavailable("studio", False, DRAINING))
    region.take_sent()
    region.streams.poll(4 * SECOND)
    assert not [m for m in region.sent("b") if isinstance(m, Subscribe)]
    assert region.streams.streams["studio"].waits == f"b: {DRAINING}"
    region.streams.poll(6 * SECOND)  # there is nobody else to ask
    assert [m for m in region.sent("b") if isinstance(m, Subscribe)] == [Subscribe("studio")]


def test_draining_sends_subscribers_away_and_serves_them_until_they_go() -> None:
    region = Region(edge=10, b=20, c=30, out=40)
    region.on("out", Subscribe("studio"))
    region.on("b", Subscribe("studio"))
    region.on("edge", offer())
    region.has("c", "other")
    region.on("b", Subscribe("other"))
    region.take_sent()
    region.hops.room_at = "b"
    region.streams.drain(0)
    told = region.take_sent()
    assert [(to, m) for to, m in told if isinstance(m, Move | Unavailable)] == [
        ("out", Move("studio", DRAINING, "b")),  # b follows the directory
        ("edge", Move("studio", DRAINING, "b")),
        ("b", Unavailable("other", False, DRAINING, "b")),  # it had not come yet
    ]
    assert ("c", Unsubscribe("other")) in told
    assert not [m for _, m in told if isinstance(m, Announce | Unpublish)]
    assert len(region.streams.streams["studio"].publications) == 2 and region.streams.busy
    region.on("out", Subscribe("new"))
    assert region.sent("out") == [Unavailable("new", False, DRAINING, "b")]
    region.on("c", Subscribe("studio"))  # for somebody who was sent there
    assert isinstance(region.sent("c")[0], Publish)
    region.on("out", Unsubscribe("studio"))
    region.on("edge", Unpublish(9, 7, "moved"))
    assert ("b", Announce("studio", 2, 0)) in region.take_sent()
    assert not region.streams.busy
    region.streams.give_back(0)
    assert region.streams.streams == {}
    region.close()


def test_what_is_left_when_the_drain_is_over_is_given_up(region: Region) -> None:
    region.on("b", Subscribe("studio"))
    region.on("edge", offer())
    region.streams.drain(0)
    region.take_sent()
    region.streams.give_back(0)
    told = region.take_sent()
    assert ("b", Unavailable("studio", False, DRAINING)) in told
    assert ("edge", PublishRefused(9, 7, DRAINING)) in told
    assert ("b", Announce("studio", 2, 0)) in told
    assert region.streams.streams == {} and not region.streams.busy


# ---- too many ask --------------------------------------------------------------------------------


def test_a_full_region_refuses_viewers_and_no_region(region: Region) -> None:
    region.on("edge", offer())
    region.hops.room_at = "c"
    region.take_sent()
    region.streams.admission.observe(5 * SECOND, {"packet thread": 0.8})
    region.on("edge", Subscribe("other"), 5 * SECOND)
    [refused] = region.sent("edge")
    assert refused == Unavailable("other", False, "this node is 80% loaded, 80% of it packet thread", "c")
    region.on("b", Subscribe("studio"), 5 * SECOND)
    assert isinstance(region.sent("b")[0], Publish)
    region.streams.admission.observe(9 * SECOND, {"packet thread": 0.95})
    region.on("c", Subscribe("studio"), 9 * SECOND)
    assert isinstance(region.sent("c")[0], Publish)
    region.on("b", Subscribe("studio"), 9 * SECOND)  # it has lost it, and gets it again
    assert isinstance(region.sent("b")[-1], Publish)
    assert region.streams.admission.refused == {"load": 1}


def test_the_newest_viewers_are_sent_away_and_ended_if_they_stay() -> None:
    region = Region(edge=10, b=20, old=30, new=40)
    region.on("edge", offer())
    for name in ("old", "new", "b"):
        region.on(name, Subscribe("studio"))
    region.take_sent()
    region.hops.room_at = "c"
    told = []
    for second in range(1, 18):
        region.streams.admission.observe(second * SECOND, {"packet thread": 0.9 if second < 9 else 0.85})
        region.streams.poll(second * SECOND)
        told += [(second, to, m) for to, m in region.take_sent() if isinstance(m, Move | Unavailable)]
    assert region.hops.step is Step.VIEWERS
    # One step every 2 s; at 1 % each, five are too many: all viewers are asked, the newest first, no region.
    assert told == [
        (6, "new", Move("studio", SHEDDING, "c")),
        (6, "old", Move("studio", SHEDDING, "c")),
        (11, "new", Unavailable("studio", False, SHEDDING, "c")),
        (11, "old", Unavailable("studio", False, SHEDDING, "c")),
    ]
    stream = region.streams.streams["studio"]
    assert [p.hop.name for p in stream.publications.values()] == ["b"]
    assert region.streams.admission.sent_away == 2
    for second in range(18, 60):
        region.streams.admission.observe(second * SECOND, {"packet thread": 0.5})
        region.streams.poll(second * SECOND)
    assert region.hops.step is Step.NONE
    region.close()


# ---- a stream is lost ----------------------------------------------------------------------------


def test_those_behind_a_region_that_loses_a_stream_are_told_once() -> None:
    edges = [f"edge-{i}" for i in range(60)]
    r = Region(b=10, c=20, **dict.fromkeys(edges, 30))
    r.has("b", "studio")
    for name in edges:
        r.on(name, Subscribe("studio", standby=name == "edge-7"))
    r.on("b", from_region())
    offers = {to: m for to, m in r.take_sent() if isinstance(m, Publish)}
    assert r.hops.watched == {"b"}
    for name in edges:
        r.on(name, PublishOk(offers[name].alias, offers[name].epoch))
    b = r.hops.hops[r.hop("b").id]
    b.quiet_ns = SECOND
    for _ in range(3):
        r.streams.on_silent(SECOND, r.hop("b"), 40)
    assert dict(r.take_sent()) == {name: replace(offers[name], lost=True) for name in edges}
    r.streams.poll(2 * SECOND)
    assert not [m for _, m in r.take_sent() if isinstance(m, Publish)]
    r.on("c", Subscribe("studio"))
    [late] = r.sent("c")
    assert isinstance(late, Publish) and late.lost
    b.quiet_ns = None
    r.streams.on_heard(3 * SECOND, r.hop("b"))
    told = r.take_sent()
    assert dict(told) == offers | {"c": replace(late, lost=False)} and len(told) == len(edges) + 1
    for name in (*edges, "c"):
        r.on(name, Unsubscribe("studio"))
    assert r.hops.watched == set()
    r.close()


def test_what_its_source_has_lost_a_region_has_lost() -> None:
    r = Region()
    r.has("b", "studio")
    r.on("c", Subscribe("studio"))
    r.on("b", from_region())
    r.take_sent()
    lost = replace(from_region(), lost=True)
    r.on("b", lost)
    [to_b, (to, told)] = r.take_sent()
    assert to_b == ("b", PublishOk(9, 7))
    assert to == "c" and isinstance(told, Publish) and told.lost
    r.close()


def test_a_standby_that_has_lost_the_stream_is_not_taken() -> None:
    e = Region(region=False)
    e.streams.set_egress(0, "studio", OUT)
    e.on("b", from_region())
    second = replace(from_region(("edge", "c")), alias=5)
    e.on("c", second)
    stream = e.streams.streams["studio"]
    assert stream.standby is not None and stream.standby.armed and e.hops.watched == {"b"}
    e.on("c", replace(second, lost=True))
    e.on("b", replace(from_region(), lost=True))
    assert stream.source is e.hop("b") and e.hops.watched == set()
    e.take_sent()
    e.on("c", second)
    assert stream.source is e.hop("c"), "whoever has it first"
    assert stream.takeover is not None and stream.takeover.why == "nothing comes to b"
    e.close()


# ---- an edge asks --------------------------------------------------------------------------------


def test_an_edge_asks_the_best_region_that_it_calls() -> None:
    e = Region(region=False)
    e.streams.set_egress(0, "studio", OUT)
    assert e.take_sent() == [("b", Subscribe("studio"))]
    e.on("b", Unavailable("studio", True, "it is not published"))
    e.streams.poll(SECOND)
    assert e.take_sent() == []
    assert e.streams.streams["studio"].waits == "b: it is not published"
    e.on("b", from_region())
    assert e.take_sent() == [("b", PublishOk(9, 7)), ("c", Subscribe("studio", standby=True))]
    e.on("b", Unavailable("studio", False, DRAINING))
    assert e.take_sent() == [("c", Subscribe("studio"))]
    e.close()


def test_a_latency_is_shared_with_the_hops_beyond() -> None:
    r = Region()
    for name, rtt_ms in (("edge", 40), ("b", 100), ("c", 20)):
        r.hops.hops[r.hop(name).id].link = LINK._replace(rtt_ns=rtt_ms * MS)
    r.on("b", Subscribe("studio"))
    r.on("c", Subscribe("studio"))
    r.on("edge", from_region(("edge",), budget_ms=300, latency_ms=1000))
    offers = {to: m for to, m in r.take_sent() if isinstance(m, Publish)}
    assert {to: (m.latency_ms, m.budget_ms, m.behind_ms, m.rtt_ms) for to, m in offers.items()} == {
        "b": (680, 630, 300, 40),
        "c": (680, 670, 300, 40),
    }
    r.on("c", PublishOk(offers["c"].alias, offers["c"].epoch))
    r.streams.poll(0)
    assert r.sent("edge") == [PublishOk(9, 7, (20,))]
    r.on("b", PublishOk(offers["b"].alias, offers["b"].epoch, (60,)))
    r.streams.poll(SECOND)
    sent = r.take_sent()
    assert ("edge", PublishOk(9, 7, (100, 60))) in sent
    [again] = [m for to, m in sent if to == "b" and isinstance(m, Publish)]
    assert (again.alias, again.epoch, again.budget_ms) == (offers["b"].alias, offers["b"].epoch, 375)
    r.streams.poll(2 * SECOND)
    assert not [m for _, m in r.take_sent() if not isinstance(m, ListVersion)]
    r.close()
