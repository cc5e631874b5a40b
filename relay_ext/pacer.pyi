"""What waits to be sent to a peer while the hop carries less than there is."""

from typing import Self

class Pacer:
    """One pacer with packets of its own, for tests.

    `rate` in bytes/s, 0 for no limit; `budget_ns` is how long a packet may wait at most. Raises MemoryError.
    """

    def __new__(cls, rate: float, *, budget_ns: int = ..., slabs: int = ...) -> Self: ...
    def set(self, now_ns: int, rate: float, budget_ns: int = ..., spare_frames: bool = False) -> None:
        """Another rate and budget from now on, and whether discardable frames are dropped in any case."""

    def put(
        self,
        now_ns: int,
        seq: int,
        *,
        stream: int = 1,
        track: int = 0,
        epoch: int = 0,
        flags: int = 0,
        priority: int = 1,
        size: int = 1200,
        gap: int = 0,
    ) -> None:
        """A packet of `size` bytes wants to be sent. Raises MemoryError."""

    def take(self, now_ns: int) -> list[tuple[int, int, int, int, int]]:
        """What leaves now, each paid for with its size: (seq, stream, track, flags, gap)."""

    def spend(self, size: int) -> None:
        """So many bytes of something else have been sent."""

    def deadline(self, now_ns: int) -> int | None:
        """When to take again, in ns; None: nothing waits."""

    def wanted(self) -> list[tuple[int, int]]:
        """(stream, track) of those that need a key frame; told once."""

    @property
    def waiting(self) -> int: ...
    @property
    def slabs_in_use(self) -> int: ...
    @property
    def stats(self) -> dict[str, int]: ...
