"""A hashed timing wheel of numbered timers. For tests; the plane uses the .pxd. Times in ns."""

from typing import Final, Self

NEVER: Final[int]

class Timers:
    """Timers 0 to count - 1 on one wheel; another number raises IndexError."""

    def __new__(cls, count: int, now_ns: int) -> Self: ...
    def __len__(self) -> int:
        """How many are armed."""
    def schedule(self, number: int, deadline_ns: int) -> None:
        """Arms the timer, or moves it."""
    def cancel(self, number: int) -> None:
        """Disarms the timer; nothing if it is not armed."""
    def armed(self, number: int) -> bool: ...
    def expire(self, now_ns: int) -> int | None:
        """One timer that is due, disarmed; None when none is left."""
    def next(self, now_ns: int) -> int:
        """The earliest deadline, exact if it is still to come; NEVER when nothing is armed."""
