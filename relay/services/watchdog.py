"""Whether the node lives: its event loop, which calls `tick`, and all packet threads, which answer pings."""

from collections.abc import Callable, Sequence
from contextlib import suppress

from relay_ext.control import Plane, PlaneBusy


class Watchdog:
    """`feed` is called at each tick by which all planes have answered what they were asked at the one before;
    so three ticks in the time that a watchdog waits are enough."""

    def __init__(self, planes: Sequence[Plane], feed: Callable[[], None]) -> None:
        self._planes = planes
        self._feed = feed
        self._number = 0
        self._unasked: list[Plane] = []

    def tick(self) -> None:
        if all(plane.pong == self._number for plane in self._planes):
            self._feed()
            self._number += 1
            self._unasked = list(self._planes)
        for plane in list(self._unasked):
            with suppress(PlaneBusy):  # asked again at the next tick
                plane.ping(self._number)
                self._unasked.remove(plane)
