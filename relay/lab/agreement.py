"""The directories of all regions over a day: what they say to each other, and when they agree.

`core/directory` decides, as services/subscribe and services/streams have it do; the channel between two
regions is modelled: in order, each message once, later by what loss and the conditions of `weather` cost.
Where the streams of edges are published comes from the edges' diaries (`roaming`).
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from heapq import heappop, heappush

from relay.core.directory import Directory, DirectoryMessage
from relay.lab.roaming import Diary
from relay.lab.traffic import ACK_BYTES, message_bytes
from relay.lab.weather import Conditions, Weather, at
from relay.lab.world import City
from relay.lab.world import city as city_named
from relay.wire.hop import CHANNEL_QUEUE_MAX, RESEND_MIN, RETRY_MAX
from relay.wire.messages import Announce

SECOND = 1_000_000_000
MS = 1_000_000
LOOK_NS = SECOND
"""Between two looks of a region."""
CHECK_NS = SECOND // 4
"""Between two comparisons of all views, while they differ."""
GIVE_UP_NS = 120 * SECOND

Key = bytes


@dataclass(slots=True)
class Agreement:
    """What became of the directories."""

    partitions_s: list[float] = field(default_factory=list)
    """From the end of each partition until every region said the same of every stream."""
    restarts_s: list[float] = field(default_factory=list)
    """The same from the moment at which a region was back."""
    taken_s: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """From a stream's move until its new region could take its name, by the cause of the move."""
    bytes: int = 0
    """All messages and their acknowledgements, of all regions."""
    counts: Counter[str] = field(default_factory=Counter)


class _Way:
    """Messages from one region to another."""

    __slots__ = ("closed", "conditions", "last_ns", "process", "waiting")

    def __init__(self, conditions: tuple[Conditions, ...]) -> None:
        self.conditions = conditions
        self.waiting: list[DirectoryMessage] = []
        self.last_ns = 0
        """When the last one arrives: none overtakes another."""
        self.process = conditions[0].process
        self.closed = False
        """There is no session since one of the two was started anew."""


class Regions:
    """`diaries` are those of edges that publish, and maybe others."""

    def __init__(self, weather: Weather, diaries: Iterable[Diary]) -> None:
        self.result = Agreement()
        self.now_ns = 0
        self._weather = weather
        self._chance = weather.world.chance("channel")
        self._cities = {region.name: region for region in weather.world.regions}
        self._directories = {name: Directory(name.encode()) for name in self._cities}
        self._up = dict.fromkeys(self._cities, True)
        self._ways = {
            (a, b): _Way(weather.conditions(self._cities[a], self._cities[b]))
            for a in self._cities
            for b in self._cities
            if a != b
        }
        self._published: dict[str, str] = {}
        """By stream: the region that is to have it."""
        self._moves: Counter[str] = Counter()
        """By stream: how often its edge has chosen a region."""
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._number = 0
        self._comparing: tuple[int, list[float]] | None = None
        self._schedule(diaries)

    def run(self) -> Agreement:
        end_ns = self._weather.end_s * SECOND
        while self._events and self._events[0][0] < end_ns:
            self.now_ns, _, do = heappop(self._events)
            do()
        return self.result

    def _at(self, at_ns: int, do: Callable[[], None]) -> None:
        self._number += 1
        heappush(self._events, (at_ns, self._number, do))

    def _schedule(self, diaries: Iterable[Diary]) -> None:
        for i, (name, city) in enumerate(self._cities.items()):
            self._at(i * LOOK_NS // len(self._cities), partial(self._look, name))
            for spell in self._weather.regional(city):
                if spell.kind == "crash":
                    self._at(spell.start_s * SECOND, partial(self._crash, name))
                    self._at(spell.end_s * SECOND, partial(self._return, name))
        for (a, b), way in self._ways.items():
            for before, after in zip(way.conditions, way.conditions[1:], strict=False):
                if after.alive and not before.alive:
                    away_s = after.start_s - before.start_s
                    self._at(after.start_s * SECOND, partial(self._heal, a, b, away_s))
        for _, spell in self._weather.partitions:
            self._at(
                spell.end_s * SECOND, partial(self._check, spell.end_s * SECOND, self.result.partitions_s)
            )
        for diary in diaries:
            if diary.publishes and diary.began[1]:
                move = partial(self._move, f"stream-{diary.number}", city_named(diary.city))
                self._at(diary.began[0] * SECOND, partial(move, "", diary.began[1], "began"))
                for of in diary.moves:
                    self._at(of.at_s * SECOND, partial(move, of.old, of.new, of.cause))

    # ---- between regions ---------------------------------------------------------------------

    def _passes(self, a: str, b: str) -> bool:
        way = self._ways[a, b]
        alive = at(way.conditions, self.now_ns // SECOND).alive
        return alive and not way.closed and self._up[a] and self._up[b]

    def _send(self, a: str, b: str, message: DirectoryMessage) -> None:
        way = self._ways[a, b]
        if way.waiting or not self._passes(a, b):
            if len(way.waiting) < CHANNEL_QUEUE_MAX:
                way.waiting.append(message)
            else:
                self.result.counts["unsent"] += 1
            return
        now = at(way.conditions, self.now_ns // SECOND)
        late_ns = round((now.delay_ms + now.queue_ms) * MS)
        size = message_bytes(message)
        while self._chance.random() < now.loss_ratio:
            late_ns += max(RESEND_MIN, round(now.delay_ms * MS))
            self.result.bytes += size
        way.last_ns = max(way.last_ns, self.now_ns + late_ns)
        self.result.bytes += size + ACK_BYTES
        self.result.counts["messages"] += 1
        self._at(way.last_ns, partial(self._arrive, a, b, message))

    def _arrive(self, a: str, b: str, message: DirectoryMessage) -> None:
        if not self._up[b]:
            return
        for answer in self._directories[b].receive(self.now_ns, a.encode(), message):
            assert isinstance(answer, DirectoryMessage)
            self._send(b, a, answer)
        if isinstance(message, Announce) and message.stream in self._directories[b].own:
            self._give_way(b, message.stream)

    def _give_way(self, name: str, stream: str) -> None:
        """A region lets go of what has moved to another."""
        directory = self._directories[name]
        if directory.holder(stream) != directory.key:
            self._tell(name, directory.withdraw(stream))

    def _tell(self, name: str, message: DirectoryMessage) -> None:
        for other in self._cities:
            if other != name:
                self._send(name, other, message)

    def _look(self, name: str) -> None:
        self._at(self.now_ns + LOOK_NS, partial(self._look, name))
        if self._up[name] and (version := self._directories[name].poll(self.now_ns)):
            self._tell(name, version)

    # ---- what happens to them ----------------------------------------------------------------

    def _crash(self, name: str) -> None:
        self._up[name] = False
        for (a, b), way in self._ways.items():
            if name in (a, b):
                way.waiting.clear()
                way.closed = True

    def _return(self, name: str) -> None:
        """As a new process, which the others see when they have called it."""
        self._up[name] = True
        self._directories[name] = Directory(name.encode())
        for stream, region in self._published.items():
            if region == name:
                self._take(stream, name, "restart", self.now_ns)
        self._check(self.now_ns, self.result.restarts_s)

    def _heal(self, a: str, b: str, away_s: int) -> None:
        """The session is there again: at once after a short time, with the next call after a longer one."""
        wait_ns = round(self._chance.uniform(0, min(RETRY_MAX, away_s * SECOND / 2)))
        self._at(self.now_ns + wait_ns, partial(self._again, a, b))

    def _again(self, a: str, b: str) -> None:
        """If `b` is another process, both begin anew and say which list they have; else what waited
        follows."""
        way = self._ways[a, b]
        now = at(way.conditions, self.now_ns // SECOND)
        if not now.alive:
            return
        back = self._ways[b, a]
        waiting, way.waiting = way.waiting, []
        if now.process != way.process:
            way.process, way.closed, back.closed = now.process, False, False
            back.waiting.clear()
            self._directories[a].forget(b.encode())
            for one, other in ((a, b), (b, a)):
                self._send(one, other, self._directories[one].list_version())
            return
        for message in waiting:
            self._send(a, b, message)

    # ---- streams of edges --------------------------------------------------------------------

    def _move(self, stream: str, home: City, old: str, new: str, cause: str) -> None:
        self._published[stream] = new
        self._moves[stream] += 1
        if old:
            self._leave(stream, home, old)
        self._take(stream, new, cause, self.now_ns)

    def _leave(self, stream: str, home: City, old: str) -> None:
        """The edge tells its old region, as soon as that hears it."""
        if self._published[stream] == old or stream not in self._directories[old].own:
            return
        if at(self._weather.conditions(home, self._cities[old]), self.now_ns // SECOND).alive:
            self._tell(old, self._directories[old].withdraw(stream))
        else:
            self._at(self.now_ns + SECOND, partial(self._leave, stream, home, old))

    def _take(self, stream: str, new: str, cause: str, since_ns: int) -> None:
        """The new region takes the name unless another has it; the edge asks again every second."""
        if self._published[stream] != new:
            return
        directory, publication = self._directories[new], (stream, stream.encode()[-8:], self._moves[stream])
        if not self._up[new] or directory.rival(*publication) is not None:
            self._at(self.now_ns + SECOND, partial(self._take, stream, new, cause, since_ns))
            return
        own = directory.own.get(stream)
        if own is None or own.serial != self._moves[stream]:
            self._tell(new, directory.publish(*publication))
            self.result.taken_s[cause].append((self.now_ns - since_ns) / SECOND)

    # ---- do they agree? ----------------------------------------------------------------------

    def _check(self, since_ns: int, into: list[float]) -> None:
        """Take the time until all do, from when nothing keeps any two of them apart."""
        if any(self._apart(a, b) for a, b in self._ways):
            since_ns = self.now_ns
        if since_ns < self.now_ns and self._agree():
            into.append((self.now_ns - since_ns) / SECOND)
        elif self.now_ns - since_ns < GIVE_UP_NS:
            self._at(self.now_ns + CHECK_NS, partial(self._check, since_ns, into))
        else:
            self.result.counts["not agreed"] += 1

    def _agree(self) -> bool:
        views = (directory.view() for name, directory in self._directories.items() if self._up[name])
        first = next(views, None)
        return all(view == first for view in views)

    def _apart(self, a: str, b: str) -> bool:
        alive = at(self._ways[a, b].conditions, self.now_ns // SECOND).alive
        return self._up[a] and self._up[b] and not alive
