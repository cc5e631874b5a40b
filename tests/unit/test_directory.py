"""The directory: regions that speak in order, links that fail, and what all of them end up with."""

import random
from collections import deque

import pytest

from relay.core.directory import ENTRIES_MAX, EXPIRE_NS, VERSION_NS, Directory
from relay.wire.coding import decode, encode
from relay.wire.messages import Announce, Ask, Catalogue, ListVersion, Message

SECOND = 1_000_000_000


class World:
    """Regions a, b, c... over channels that keep order; a link that is cut holds messages back, as a channel
    does, but takes no more than `room` of them. `bytes_sent` counts packed messages."""

    def __init__(self, count: int, *, room: int = 64) -> None:
        self.now = 0
        self.room = room
        self.keys = [bytes([ord("a") + i]) for i in range(count)]
        self.regions = {key: Directory(key) for key in self.keys}
        self.channels: dict[tuple[bytes, bytes], deque[bytes]] = {
            (a, b): deque() for a in self.keys for b in self.keys if a != b
        }
        self.cut: set[frozenset[bytes]] = set()
        self.bytes_sent = 0
        for key in self.keys:
            self.tell(key, self.regions[key].list_version())

    def send(self, a: bytes, b: bytes, message: Message) -> None:
        if len(self.channels[a, b]) < self.room:
            self.channels[a, b].append(encode(message))
            self.bytes_sent += len(self.channels[a, b][-1])

    def tell(self, key: bytes, message: Message) -> None:
        for other in self.keys:
            if other != key:
                self.send(key, other, message)

    def publish(self, key: bytes, stream: str, publisher: bytes = b"", serial: int = 0) -> None:
        self.tell(key, self.regions[key].publish(stream, publisher, serial))

    def deliver(self, a: bytes, b: bytes) -> None:
        """The oldest message from a to b."""
        message = decode(self.channels[a, b].popleft())
        assert isinstance(message, Announce | Ask | Catalogue | ListVersion)
        for answer in self.regions[b].receive(self.now, a, message):
            self.send(b, a, answer)

    def open(self) -> list[tuple[bytes, bytes]]:
        return [
            (a, b) for (a, b), queue in self.channels.items() if queue and frozenset((a, b)) not in self.cut
        ]

    def settle(self) -> None:
        while pairs := self.open():
            for pair in pairs:
                self.deliver(*pair)

    def run(self, seconds: int) -> None:
        for _ in range(seconds):
            self.now += SECOND
            for key, region in self.regions.items():
                version = region.poll(self.now)
                if version is not None:
                    self.tell(key, version)
            self.settle()

    def restart(self, key: bytes) -> None:
        self.regions[key] = Directory(key)
        for (a, b), queue in self.channels.items():
            if key in (a, b):
                queue.clear()
        for other in self.keys:
            if other != key:
                self.regions[other].forget(key)
                self.send(key, other, self.regions[key].list_version())
                self.send(other, key, self.regions[other].list_version())

    def views(self) -> list[dict[str, bytes]]:
        return [region.view() for region in self.regions.values()]


def test_what_one_publishes_all_know() -> None:
    w = World(3)
    w.settle()
    w.publish(b"a", "studio")
    w.settle()
    assert w.views() == [{"studio": b"a"}] * 3
    w.tell(b"a", w.regions[b"a"].withdraw("studio"))
    w.settle()
    assert w.views() == [{}] * 3


def test_of_two_publications_of_one_name_the_first_keeps_it() -> None:
    w = World(3)
    w.settle()
    w.publish(b"c", "studio")
    w.settle()
    w.publish(b"a", "studio")  # it should have known
    w.settle()
    assert w.views() == [{"studio": b"c"}] * 3


def test_of_two_at_the_same_time_the_lower_key_keeps_it() -> None:
    w = World(3)
    w.settle()
    w.publish(b"c", "studio")
    w.publish(b"b", "studio")
    w.settle()
    assert w.views() == [{"studio": b"b"}] * 3


EDGE, RIVAL = b"the edge", b"a rival!"


def test_a_publisher_that_moves_is_followed_though_its_region_does_not_let_go() -> None:
    w = World(4)
    w.publish(b"d", "studio", EDGE, 1)
    w.settle()
    assert [w.regions[k].rival("studio", EDGE, 2) is None for k in w.keys] == [True] * 4
    w.publish(b"a", "studio", EDGE, 2)
    w.settle()
    assert w.views() == [{"studio": b"a"}] * 4
    w.publish(b"d", "studio", EDGE, 3)  # and back
    w.settle()
    assert w.views() == [{"studio": b"d"}] * 4
    stamps = {entry.stamp for region in w.regions.values() for entry in region.own.values()}
    assert stamps == {1}, "it is the one publication"


def test_a_region_that_could_have_a_stream_counts_where_there_is_no_other() -> None:
    w = World(3)
    w.publish(b"b", "studio", EDGE, 1)
    w.settle()
    assert [w.regions[k].standby("studio") for k in w.keys] == [None] * 3
    assert w.regions[b"c"].rival("studio", EDGE, 1, standby=True) is None
    assert w.regions[b"c"].rival("studio", RIVAL, 1, standby=True) is not None
    w.tell(b"c", w.regions[b"c"].publish("studio", EDGE, 1, standby=True))
    w.settle()
    assert w.views() == [{"studio": b"b"}] * 3
    assert [w.regions[k].standby("studio") for k in w.keys] == [b"c", b"c", None]
    w.tell(b"b", w.regions[b"b"].withdraw("studio"))
    w.settle()
    assert w.views() == [{"studio": b"c"}] * 3
    rival = w.regions[b"a"].rival("studio", RIVAL, 5)
    assert rival is not None and rival.standby
    w.publish(b"c", "studio", EDGE, 2)
    w.tell(b"a", w.regions[b"a"].publish("studio", RIVAL, 9, standby=True))  # it should have known
    w.settle()
    assert w.views() == [{"studio": b"c"}] * 3
    assert [w.regions[k].standby("studio") for k in w.keys] == [None] * 3, "it is another edge's"


def test_another_publisher_does_not_get_the_name_by_any_serial() -> None:
    w = World(3)
    w.publish(b"b", "studio", EDGE, 1)
    w.settle()
    for publisher in (RIVAL, b""):
        rival = w.regions[b"a"].rival("studio", publisher, 2**32 - 1)
        assert rival is not None and (rival.publisher, rival.serial) == (EDGE, 1)
    w.publish(b"a", "studio", RIVAL, 2**32 - 1)  # it should not have been taken
    w.publish(b"c", "studio", EDGE, 2)
    w.settle()
    assert w.views() == [{"studio": b"c"}] * 3


def test_a_publisher_is_told_what_it_said_before_it_was_started_anew() -> None:
    w = World(2)
    w.publish(b"a", "studio", EDGE, 7)
    w.settle()
    for serial in (0, 1, 7):
        rival = w.regions[b"b"].rival("studio", EDGE, serial)
        assert rival is not None and rival.serial == 7
    assert w.regions[b"b"].rival("studio", EDGE, 8) is None


def test_a_region_that_is_not_heard_has_no_streams() -> None:
    w = World(3)
    w.publish(b"a", "studio")
    w.settle()
    w.cut = {frozenset((b"a", b"b"))}
    w.run((EXPIRE_NS - VERSION_NS) // SECOND)
    assert w.regions[b"b"].holder("studio") == b"a"
    w.run(VERSION_NS // SECOND + 1)
    assert w.regions[b"b"].holder("studio") is None
    assert w.regions[b"c"].holder("studio") == b"a"
    w.cut = set()
    w.run(VERSION_NS // SECOND)
    assert w.views() == [{"studio": b"a"}] * 3


def test_a_new_process_begins_with_an_empty_list() -> None:
    w = World(2)
    for i in range(10):
        w.publish(b"a", f"old {i}")
    w.settle()
    w.restart(b"a")
    w.publish(b"a", "new")
    w.settle()
    assert w.views() == [{"new": b"a"}] * 2


def test_a_long_list_comes_in_pages_that_fit_a_message() -> None:
    w = World(2)
    names = [f"{i} ".ljust(64, "é") for i in range(300)]
    for name in names:
        w.regions[b"a"].publish(name)  # announced to nobody
    w.run(VERSION_NS // SECOND + 1)
    assert w.views() == [dict.fromkeys(sorted(names), b"a")] * 2


def test_a_catalogue_of_which_a_page_is_missing_is_not_taken() -> None:
    a, b = Directory(b"a"), Directory(b"b")
    for i in range(200):
        a.publish(f"stream {i}")
    pages = a.receive(0, b"b", Ask())
    assert len(pages) > 3
    for page in (pages[0], *pages[2:]):
        assert isinstance(page, Catalogue)
        b.receive(0, b"a", page)
    assert b.view() == {}
    assert b.receive(1, b"a", a.list_version()) == [Ask()]


def test_announcements_in_a_row_are_asked_about_once() -> None:
    a, b = Directory(b"a"), Directory(b"b")
    a.publish("lost")
    answers = [answer for i in range(50) for answer in b.receive(0, b"a", a.publish(f"stream {i}"))]
    assert answers == [Ask()]


def test_what_one_region_says_is_bounded() -> None:
    b = Directory(b"b")
    b.receive(0, b"a", ListVersion(0, 0))
    b.receive(0, b"a", Catalogue(0, 0, True, ()))
    for i in range(ENTRIES_MAX + 10):
        b.receive(0, b"a", Announce(f"stream {i}", i + 1, 2**32 - 1))
    assert len(b.view()) == ENTRIES_MAX
    assert encode(b.publish("mine"))  # stamps end where their field does


def test_traffic_of_an_idle_mesh() -> None:
    w = World(5)
    for key in w.keys:
        w.publish(key, f"stream of {key!r}")
    w.run(60)
    w.bytes_sent = 0
    w.run(60)
    assert w.bytes_sent / 60 / len(w.keys) < 30  # bytes a second and region, to four others


class Publisher:
    """An edge, which has one stream and sends it to one region at a time."""

    def __init__(self, name: str, stream: str) -> None:
        self.key, self.stream = name.encode().ljust(8), stream
        self.serial = 0
        self.at: bytes | None = None

    def move(self, w: World, to: bytes) -> None:
        """The region before hears of it later, or never."""
        rival = w.regions[to].rival(self.stream, self.key, self.serial + 1)
        if rival is not None and rival.publisher == self.key:
            self.serial = rival.serial
        elif rival is not None or self.stream in w.regions[to].own:
            return
        self.serial, self.at = self.serial + 1, to
        w.publish(to, self.stream, self.key, self.serial)

    def back(self, w: World, at: bytes) -> None:
        """Offer it to another region as well."""
        directory = w.regions[at]
        if self.stream not in directory.own and not directory.rival(
            self.stream, self.key, self.serial, standby=True
        ):
            w.tell(at, directory.publish(self.stream, self.key, self.serial, standby=True))


@pytest.mark.parametrize("seed", range(60))
def test_all_regions_end_with_the_same_view(seed: int) -> None:
    """Random publications, moves, restarts, partitions and interleavings; then the links heal."""
    rng = random.Random(seed)
    w = World(rng.randint(2, 5), room=rng.choice((4, 64)))
    edges = [Publisher(f"edge {i}", f"stream {i % 6}") for i in range(9)]
    for _ in range(rng.randint(50, 300)):
        what, key, edge = rng.random(), rng.choice(w.keys), rng.choice(edges)
        own = w.regions[key].own
        if what < 0.15:
            edge.move(w, key)
        elif what < 0.2:
            edge.back(w, key)
        elif what < 0.25 and own:  # an edge's goodbye, or what is superseded
            w.tell(key, w.regions[key].withdraw(rng.choice(list(own))))
        elif what < 0.27:
            edge.serial = 0  # its process is a new one
        elif what < 0.3:
            w.cut = {frozenset(pair) for pair in w.channels if rng.random() < 0.3}
        elif what < 0.32:
            w.restart(key)
        elif what < 0.45:
            w.now += rng.randrange(3 * SECOND)
            version = w.regions[key].poll(w.now)
            if version is not None:
                w.tell(key, version)
        elif pairs := w.open():
            w.deliver(*rng.choice(pairs))
    w.cut = set()
    w.run(3 * VERSION_NS // SECOND)
    agree(w, f"seed {seed}")


def agree(w: World, seed: str) -> None:
    """All say the same, of every stream, and what the rules say."""
    union = {name for region in w.regions.values() for name in region.own}
    views = w.views()
    assert all(view == views[0] for view in views), seed
    assert set(views[0]) == union, seed
    for name, key in views[0].items():
        claims = {k: r.own[name] for k, r in w.regions.items() if name in r.own}
        claims = {k: entry for k, entry in claims.items() if not entry.standby} or claims
        winner = claims[key]
        for k, other in claims.items():
            same = other.publisher == winner.publisher
            assert not same or other.serial <= winner.serial, seed
            newest = max(c.serial for c in claims.values() if c.publisher == other.publisher)
            outdated = other.serial < newest
            assert outdated or (winner.stamp, key) <= (other.stamp, k), seed
