"""Which stream is published at which region, agreed between regions that all speak with each other.

A region says of its own streams alone, to every other region, and nobody repeats it. So what a region knows
of another is that one's list, or an older state of it, for the channel keeps order:

    Announce     one change, with the number (`version`) that the list has after it
    ListVersion  that number, every VERSION_NS, and at the beginning of a session; it also says that the
                 sender is a region at all
    Ask          from who finds that a number does not follow the one it has: it wants the list
    Catalogue    the list, in pages of one message each

A region that is not heard for EXPIRE_NS, or whose process is a new one, has no streams until it says so
again.

Two regions may have published one name without knowing of each other. Each entry has a stamp: one more than
the highest that its region had seen (a Lamport clock), so that whoever could know of the other came later.
The lower stamp keeps the name, of equal ones the lower key; all regions see the same entries, and so agree.
No clock is read for that: small boards lose the time, and ages would differ by what messages took.

An entry also says who publishes, and how often that node has sent the stream elsewhere (`serial`). Of the
entries of one publisher only the one with the highest serial counts, and it has the stamp of the one before:
so a publisher can move at once, also away from a region that can no longer say that it is gone. The region
that it would move to, and can have the stream from it at any time, has an entry that says so (`standby`),
which counts where there is no other.

Sans-IO: `receive` and `poll` are given the time in ns; what they return is to be sent.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from relay.wire.fields import U32
from relay.wire.messages import (
    CATALOGUE_ENTRIES_MAX,
    Announce,
    Ask,
    Catalogue,
    CatalogueEntry,
    ListVersion,
    Message,
)

MS = 1_000_000
VERSION_NS = 5_000 * MS
EXPIRE_NS = 20_000 * MS
"""Silence after which a region's streams are gone: longer than a session takes to call itself silent, so that
a reconnect of that length costs nothing."""
PAGE_BYTES = 940
"""Text of one page, so that it fits a message with what is around it."""
ENTRIES_MAX = 4096
"""Streams remembered of one region, at most; more are not believed."""

DirectoryMessage = Announce | Ask | Catalogue | ListVersion


@dataclass(frozen=True, slots=True)
class Entry:
    """A publication at a region."""

    stamp: int
    publisher: bytes = b""
    """Fingerprint of the key of the node that the stream enters at; empty: not known."""
    serial: int = 0
    standby: bool = False
    """The region can have the stream from its publisher, who sends it to another."""


@dataclass(slots=True)
class _Region:
    """Another region's list, as far as it is known."""

    heard_ns: int
    version: int | None = None
    """Of `streams`; None before the first catalogue."""
    streams: dict[str, Entry] = field(default_factory=dict)
    asked: bool = False
    """A catalogue is to come; what is announced before it is in it."""
    arriving: dict[str, Entry] = field(default_factory=dict)
    """Of that catalogue, up to `next_page`."""
    next_page: int = 0


class Directory:
    """The directory of one region, which is named by its `key` as the others are: by the public key."""

    def __init__(self, key: bytes) -> None:
        self.key = key
        self.own: dict[str, Entry] = {}
        """Streams that are published here."""
        self._version = 0
        self._stamp = 0
        """The highest seen."""
        self._regions: dict[bytes, _Region] = {}
        self._next_version_ns: int | None = None

    # ---- what it knows -------------------------------------------------------------------------

    def holder(self, stream: str) -> bytes | None:
        """The region that has the stream, this one included; None: nobody."""
        return _winner(self._claims(stream))

    def standby(self, stream: str) -> bytes | None:
        """The other region that can have it from its publisher when that no longer reaches the holder."""
        claims = self._claims(stream)
        holder = _winner(claims)
        [publisher] = [entry.publisher for entry, key in claims if key == holder] or [b""]
        ready = [(e.serial, key) for e, key in claims if e.standby and e.publisher == publisher != b""]
        return max(((serial, key) for serial, key in ready if key != self.key), default=(0, None))[1]

    def rival(self, stream: str, publisher: bytes, serial: int, *, standby: bool = False) -> Entry | None:
        """Another region's publication, if it keeps one with that serial from being taken here."""
        holder = self.holder(stream)
        if holder is None or holder == self.key:
            return None
        entry = self._regions[holder].streams[stream]
        same = publisher and publisher == entry.publisher
        return None if same and (standby or serial > entry.serial) else entry

    def view(self) -> dict[str, bytes]:
        """Every stream and its holder."""
        lists = (self.own, *(region.streams for region in self._regions.values()))
        names = {name for streams in lists for name in streams}
        return {name: holder for name in sorted(names) if (holder := self.holder(name)) is not None}

    def _claims(self, stream: str) -> list[tuple[Entry, bytes]]:
        lists = [(self.own, self.key), *((region.streams, key) for key, region in self._regions.items())]
        return [(streams[stream], key) for streams, key in lists if stream in streams]

    def _renewed(self, stream: str, publisher: bytes, serial: int, standby: bool) -> Entry:
        """A publication that begins here now: the stamp is a new one, unless its publisher was elsewhere."""
        claims = (entry for entry, _ in self._claims(stream))
        stamps = [entry.stamp for entry in claims if publisher and entry.publisher == publisher]
        return Entry(min(stamps, default=min(self._stamp + 1, U32)), publisher, serial, standby)

    # ---- what happens here ---------------------------------------------------------------------

    def publish(
        self, stream: str, publisher: bytes = b"", serial: int = 0, *, standby: bool = False
    ) -> Announce:
        """A stream is published here now, or could be; the message is for every region."""
        entry = self._renewed(stream, publisher, serial, standby)
        self._stamp = max(self._stamp, entry.stamp)
        self.own[stream] = entry
        return self._changed(stream, entry)

    def withdraw(self, stream: str) -> Announce:
        """It no longer is."""
        del self.own[stream]
        return self._changed(stream, Entry(0))

    def _changed(self, stream: str, entry: Entry) -> Announce:
        self._version += 1
        return Announce(stream, self._version, entry.stamp, entry.publisher, entry.serial, entry.standby)

    def list_version(self) -> ListVersion:
        return ListVersion(self._version, self._stamp)

    # ---- what others say -----------------------------------------------------------------------

    def receive(self, now_ns: int, key: bytes, message: DirectoryMessage) -> list[Message]:
        """A message of another region; what it is answered with."""
        region = self._regions.setdefault(key, _Region(now_ns))
        region.heard_ns = now_ns
        match message:
            case ListVersion(version, stamp):
                self._stamp = max(self._stamp, stamp)
                region.asked = version != region.version
                return [Ask()] if region.asked else []
            case Announce():
                self._stamp = max(self._stamp, message.stamp)
                return self._announced(region, message)
            case Catalogue():
                self._page(region, message)
                return []
            case Ask():
                return list(self._catalogue())

    def _announced(self, region: _Region, news: Announce) -> list[Message]:
        if region.asked:
            return []
        if region.version is None or news.version != region.version + 1:
            region.asked = True
            return [Ask()]
        region.version = news.version
        if not news.stamp:
            region.streams.pop(news.stream, None)
        elif news.stream in region.streams or len(region.streams) < ENTRIES_MAX:
            region.streams[news.stream] = _entry(news)
        return []

    def _page(self, region: _Region, page: Catalogue) -> None:
        if page.page == 0:
            region.arriving, region.next_page = {}, 0
        if page.page != region.next_page:
            return  # one before it could not be sent; the next version will tell
        region.next_page += 1
        for listed in page.entries:
            region.arriving[listed.stream] = _entry(listed)
            self._stamp = max(self._stamp, listed.stamp)
        if page.last and len(region.arriving) <= ENTRIES_MAX:
            region.streams, region.arriving = region.arriving, {}
            region.version, region.asked = page.version, False

    def _catalogue(self) -> Iterable[Catalogue]:
        pages: list[list[CatalogueEntry]] = [[]]
        used = 0
        for stream, entry in sorted(self.own.items()):
            size = len(stream.encode()) + 62  # five keys, lengths, a stamp, a fingerprint, a serial
            if pages[-1] and (used + size > PAGE_BYTES or len(pages[-1]) == CATALOGUE_ENTRIES_MAX):
                pages.append([])
                used = 0
            listed = CatalogueEntry(stream, entry.stamp, entry.publisher, entry.serial, entry.standby)
            pages[-1].append(listed)
            used += size
        for i, entries in enumerate(pages):
            yield Catalogue(self._version, i, i == len(pages) - 1, tuple(entries))

    def forget(self, key: bytes) -> None:
        """The region's process is a new one, or it is no longer a peer."""
        self._regions.pop(key, None)

    def poll(self, now_ns: int) -> ListVersion | None:
        """What is gone expires; the version for every region, when it is due."""
        for key in [key for key, region in self._regions.items() if now_ns - region.heard_ns >= EXPIRE_NS]:
            del self._regions[key]
        if self._next_version_ns is not None and now_ns < self._next_version_ns:
            return None
        self._next_version_ns = now_ns + VERSION_NS
        return self.list_version()


def _entry(said: Announce | CatalogueEntry) -> Entry:
    return Entry(said.stamp, said.publisher, said.serial, said.standby)


def _winner(claims: list[tuple[Entry, bytes]]) -> bytes | None:
    """The key of the region that keeps a name."""
    claims = [(entry, key) for entry, key in claims if not entry.standby] or claims
    latest: dict[bytes, int] = {}
    for entry, _ in claims:
        latest[entry.publisher] = max(latest.get(entry.publisher, 0), entry.serial)
    held = ((entry.stamp, key) for entry, key in claims if entry.serial == latest[entry.publisher])
    return min(held, default=(0, None))[1]
