"""The packet planes of a node, one a thread, as the services use them: an id names its plane."""

from collections import Counter
from collections.abc import Iterable

from relay_ext import handover
from relay_ext.control import DEFAULT_SLABS, Event, Plane
from relay_ext.shards import shard_of


class Shards:
    """`count` planes (a power of two, at most 16) that begin at `now_ns`, with `slabs` of packet memory each.

    They have yet to be joined (`relay_ext.shards.join`), where there are engines once those exist.
    """

    def __init__(
        self, public_key: bytes, count: int = 1, *, slabs: int = DEFAULT_SLABS, now_ns: int = 0
    ) -> None:
        self.planes = tuple(Plane(public_key, slabs=slabs, now_ns=now_ns, shard=i) for i in range(count))

    def __len__(self) -> int:
        return len(self.planes)

    def of(self, id: int) -> Plane:
        """The plane of a hop, a track or an egress."""
        return self.planes[shard_of(id)]

    def least_used(self, ids: Iterable[int]) -> int:
        """The shard that the fewest of these belong to."""
        used = Counter(map(shard_of, ids))
        return min(range(len(self.planes)), key=used.__getitem__)

    def remove_track(self, track: int) -> None:
        """As `Plane.remove_track`, and the other shards' routes to it."""
        for plane in self.planes:
            plane.forget(track)
        self.of(track).remove_track(track)

    def remove_hop(self, hop: int) -> None:
        """As `Plane.remove_hop`, and the other shards' feeds to it."""
        for plane in self.planes:
            plane.forget(hop)
        self.of(hop).remove_hop(hop)

    def set_cookie_secret(self, secret: bytes) -> None:
        """Handshakes may come to any shard: the kernel may merge one with packets that follow it."""
        for plane in self.planes:
            plane.set_cookie_secret(secret)

    def drain_events(self) -> list[Event]:
        return [event for plane in self.planes for event in plane.drain_events()]

    def stats(self) -> dict[str, int]:
        """Counters of all planes, added up."""
        return total(plane.stats() for plane in self.planes)

    @property
    def slabs_in_use(self) -> int:
        return sum(plane.slabs_in_use for plane in self.planes)

    def save(self) -> bytes:
        """What the plane knows, as `relay_ext.handover` writes it. Raises ValueError if there are several."""
        return handover.save(self.planes[0])

    def reserve(self, hops: int) -> None:
        """Make room for about so many hops before `load`."""
        handover.reserve(self.planes[0], hops)

    def load(self, state: bytes | bytearray) -> None:
        """Go on from there: to be called before anything else. Raises ValueError."""
        handover.load(self.planes[0], state)

    def close(self) -> None:
        """Remove everything. Raises RuntimeError while an engine is running."""
        for plane in self.planes:
            plane.close()


def total(counters: Iterable[dict[str, int]]) -> dict[str, int]:
    """Counters of the same names, added up."""
    sums: dict[str, int] = {}
    for each in counters:
        for name, n in each.items():
            sums[name] = sums.get(name, 0) + n
    return sums
