"""The directory: regions that speak in order, links that fail, and what all of them end up with."""

import random
from collections import deque

import pytest

from relay.core.directory import ENTRIES_MAX, EXPIRE_NS, VERSION_NS, Directory
from relay.wire.messages import Announce, Ask, Catalogue, ListVersion, Message, decode, encode

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

    def publish(self, key: bytes, stream: str) -> None:
        self.tell(key, self.regions[key].publish(stream))

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


@pytest.mark.parametrize("seed", range(40))
def test_all_regions_end_with_the_same_view(seed: int) -> None:
    """Random publications, restarts, partitions and interleavings; then the links heal."""
    rng = random.Random(seed)
    w = World(rng.randint(2, 5), room=rng.choice((4, 64)))
    names = [f"stream {i}" for i in range(6)]
    for _ in range(rng.randint(50, 300)):
        what, key = rng.random(), rng.choice(w.keys)
        region = w.regions[key]
        if what < 0.2:
            name = rng.choice(names)
            if name in region.own:
                w.tell(key, region.withdraw(name))
            elif region.holder(name) is None:
                w.publish(key, name)
        elif what < 0.25:
            w.cut = {frozenset(pair) for pair in w.channels if rng.random() < 0.3}
        elif what < 0.27:
            w.restart(key)
        elif what < 0.4:
            w.now += rng.randrange(3 * SECOND)
            version = region.poll(w.now)
            if version is not None:
                w.tell(key, version)
        elif pairs := w.open():
            w.deliver(*rng.choice(pairs))
    w.cut = set()
    w.run(3 * VERSION_NS // SECOND)
    union = {name for region in w.regions.values() for name in region.own}
    views = w.views()
    assert all(view == views[0] for view in views), f"seed {seed}"
    assert set(views[0]) == union, f"seed {seed}"
    for name, key in views[0].items():
        claims = {k: r.own[name] for k, r in w.regions.items() if name in r.own}
        assert (claims[key], key) == min((stamp, k) for k, stamp in claims.items()), f"seed {seed}"
