"""A stream that its edge has offered to a second region, on a real packet plane, with the peers played by the
test."""

from collections.abc import Iterable
from dataclasses import replace

import pytest

from relay.services.entrance import DRAINING
from relay.wire.messages import (
    Announce,
    Catalogue,
    CatalogueEntry,
    Move,
    Publish,
    PublishOk,
    PublishRefused,
    Subscribe,
    Unpublish,
    Unsubscribe,
)
from tests.unit.plane_world import MS, SOURCE, rtp
from tests.unit.test_streams import SOURCES, Node, offer
from tests.unit.test_subscribe import EDGE, SECOND, Region, from_region

BACKUP = replace(offer(), serial=1, standby=True)
HERE = replace(BACKUP, serial=2, standby=False)

# ---- the edge ----------------------------------------------------------------------------------


def edge() -> Node:
    """Its stream is at `near`, and it has offered it to `far`, what is sent to which can be opened."""
    node = Node(far=50, near=10)
    for hop in node.hops.hops.values():
        hop.is_region = True
    stream = node.streams.add_ingest(0, "studio", None, SOURCES[:1])
    [(peer, first)] = node.take_sent()
    assert isinstance(first, Publish) and (peer, first.serial, first.standby) == ("near", 1, False)
    node.on("near", PublishOk(stream.alias, stream.epoch))
    node.streams.poll(SECOND)
    [(peer, second)] = node.take_sent()
    assert (peer, second) == ("far", replace(first, standby=True))
    node.on("far", PublishOk(stream.alias, stream.epoch))
    return node


def sent_to_far(node: Node, now_ns: int, number: int) -> int:
    return len(node.peers["far"].opened(node.receive(now_ns, 5004, rtp(number)), SOURCE))


def test_the_second_region_is_sent_nothing_until_the_first_is_not_reached() -> None:
    node = edge()
    assert [sent_to_far(node, SECOND, i) for i in range(3)] == [0, 0, 0]
    del node.hops.costs["near"]
    node.plane.poll(SECOND + 50 * MS)
    node.streams.on_unreached(SECOND + 50 * MS, node.hop("near"))
    sent = node.take_sent()
    assert [(to, type(m)) for to, m in sent] == [("near", Unpublish), ("far", Publish)]
    assert isinstance(sent[1][1], Publish) and (sent[1][1].serial, sent[1][1].standby) == (2, False)
    assert sent_to_far(node, SECOND + 60 * MS, 3) == 1
    node.close()


def test_a_region_that_still_works_is_sent_to_until_all_have_followed() -> None:
    node = edge()
    node.on("near", Move("studio", DRAINING), SECOND)
    assert [(to, type(m)) for to, m in node.take_sent()] == [("far", Publish)]
    assert len(node.streams.streams["studio"].publications) == 2
    node.streams.poll(3 * SECOND)
    assert [(to, type(m)) for to, m in node.take_sent()] == [("near", Unpublish)]
    assert sent_to_far(node, 3 * SECOND, 1) == 1
    node.close()


def test_the_second_region_may_ask_for_it_and_give_it_back() -> None:
    node = edge()
    node.on("far", Subscribe("studio"))
    assert sent_to_far(node, SECOND, 1) == 1
    node.on("far", Subscribe("studio", standby=True))
    assert sent_to_far(node, SECOND, 2) == 0
    node.on("far", Unsubscribe("studio"))
    assert node.take_sent() == []
    node.close()


def test_one_that_does_not_take_it_is_asked_again_later() -> None:
    node = edge()
    stream = node.streams.streams["studio"]
    node.on("far", PublishRefused(stream.alias, stream.epoch, DRAINING), SECOND)
    node.streams.poll(2 * SECOND)
    assert node.take_sent() == [] and stream.spare is None and stream.accepted
    node.streams.poll(7 * SECOND)
    [(peer, again)] = node.take_sent()
    assert peer == "far" and isinstance(again, Publish) and again.standby
    node.close()


# ---- the second region -------------------------------------------------------------------------


def at_b(region: Region) -> None:
    """The directory has the stream at b."""
    region.on("b", Catalogue(1, 0, True, (CatalogueEntry("studio", 1, EDGE, 1),)))
    region.take_sent()


@pytest.fixture
def region() -> Iterable[Region]:
    """The stream is published at b, and its edge has offered it here."""
    r = Region()
    at_b(r)
    r.on("edge", BACKUP)
    assert r.take_sent() == [
        ("edge", PublishOk(9, 7)),
        ("b", Announce("studio", 1, 1, EDGE, 1, standby=True)),
        ("c", Announce("studio", 1, 1, EDGE, 1, standby=True)),
    ]
    yield r
    r.close()


def asked(region: Region) -> None:
    """c has asked for it, as a standby, and so it comes from b."""
    region.on("c", Subscribe("studio", standby=True))
    assert ("b", Subscribe("studio")) in region.take_sent()
    region.on("b", from_region(alias=3, epoch=4))
    [publish] = [m for m in region.sent("c") if isinstance(m, Publish)]
    assert publish.path == ("edge", "a"), "it will come from there when it is asked for"
    region.on("c", PublishOk(publish.alias, publish.epoch))
    stream = region.streams.streams["studio"]
    assert stream.standby is not None and stream.standby.armed and stream.standby.hop.name == "edge"


def test_it_comes_from_the_edge_when_the_region_has_it_no_longer(region: Region) -> None:
    asked(region)
    region.on("b", Unpublish(3, 4, "over"))
    stream = region.streams.streams["studio"]
    assert stream.backed and not stream.published_here
    assert not [m for m in region.sent("c") if isinstance(m, Publish | Unpublish)]
    region.streams.poll(3 * SECOND)
    assert region.sent("edge") == [Subscribe("studio")], "in case the packet plane's word got lost"
    region.on("c", Unsubscribe("studio"))
    assert Subscribe("studio", standby=True) in region.sent("edge")
    assert not stream.live and stream.backup is not None


def test_it_is_published_here_when_the_edge_says_so(region: Region) -> None:
    asked(region)
    region.on("edge", HERE)
    sent = region.take_sent()
    assert ("b", Unsubscribe("studio")) in sent and ("b", Announce("studio", 2, 1, EDGE, 2)) in sent
    assert not [m for to, m in sent if to == "c" and isinstance(m, Publish | Unpublish)]
    stream = region.streams.streams["studio"]
    assert stream.published_here and stream.backup is None and stream.source is region.hop("edge")


def test_it_ends_with_the_edge(region: Region) -> None:
    region.on("edge", Unpublish(9, 7, "over"))
    assert ("b", Announce("studio", 2, 0)) in region.take_sent()
    assert region.streams.streams == {}


def test_a_new_process_of_the_edge_has_offered_nothing(region: Region) -> None:
    asked(region)
    region.streams.on_state(0, region.hop("edge"), True)
    stream = region.streams.streams["studio"]
    assert stream.backup is None and stream.standby is None and stream.pulled


def test_a_region_that_drains_gives_it_back(region: Region) -> None:
    region.streams.drain(0)
    sent = region.take_sent()
    assert ("edge", PublishRefused(9, 7, DRAINING)) in sent and ("b", Announce("studio", 2, 0)) in sent
    region.on("edge", BACKUP)
    assert region.sent("edge") == [PublishRefused(9, 7, DRAINING)]


def test_regions_have_it_from_the_edge_by_way_of_here(region: Region) -> None:
    """By way of the stream's region as well they would be too many."""
    asked(region)
    stream = region.streams.streams["studio"]
    region.on("c", Subscribe("studio"))
    region.streams.poll(5 * SECOND)
    assert stream.backed and stream.passed_on
    assert stream.takeover is not None and stream.takeover.taken == "edge"


def test_what_is_not_taken_as_a_second_offer() -> None:
    r = Region(edge=10, b=20, c=30, rival=40)
    at_b(r)
    r.on("rival", BACKUP)
    assert r.sent("rival") == [PublishRefused(9, 7, "it is published at b")]
    r.on("edge", BACKUP)
    r.on("b", Announce("studio", 2, 0))
    r.take_sent()
    r.on("rival", BACKUP)
    assert r.sent("rival") == [PublishRefused(9, 7, "another node publishes a stream of that name")]
    r.on("edge", HERE)
    r.on("edge", replace(BACKUP, serial=3))
    assert r.sent("edge")[-1] == PublishRefused(9, 7, "it is published here")
    r.close()
    e = Region(region=False)
    e.on("edge", BACKUP)
    assert e.sent("edge") == [PublishRefused(9, 7, "this node is no region")]
    e.close()


# ---- the first one -----------------------------------------------------------------------------


def test_who_has_lost_a_stream_to_another_region_has_it_from_there() -> None:
    r = Region(edge=10, b=20, c=30, out=40)
    r.on("edge", replace(offer(), serial=1))
    r.on("out", Subscribe("studio"))
    r.take_sent()
    r.on("b", Catalogue(1, 0, True, (CatalogueEntry("studio", 1, EDGE, 2),)))
    sent = r.take_sent()
    assert ("b", Announce("studio", 2, 0)) in sent and ("b", Subscribe("studio", standby=True)) in sent
    assert not [m for _, m in sent if isinstance(m, PublishRefused | Unpublish)], "it still comes"
    stream = r.streams.streams["studio"]
    r.on("b", from_region(alias=3, epoch=4))
    assert stream.pulled and stream.source is r.hop("b")
    assert not [m for m in r.sent("out") if isinstance(m, Unpublish)]
    r.close()


def test_who_does_not_want_it_gives_it_back() -> None:
    r = Region()
    r.on("edge", replace(offer(), serial=1))
    r.on("b", Catalogue(1, 0, True, (CatalogueEntry("studio", 1, EDGE, 2),)))
    assert PublishRefused(9, 7, "it is published at b", serial=2) in r.sent("edge")
    assert r.streams.streams == {}
    r.close()
