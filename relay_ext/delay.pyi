"""Delay of packets against their origin's clock: its floor, the drift, the distribution with forgetting."""

class Delays:
    """The three estimates together, as a track has them, for tests."""

    def __init__(self) -> None: ...
    def add_transit(self, now_ns: int, transit_ns: int) -> int:
        """Take a transit time; returns how far it is above the drifting line, in ns."""

    def add_delay(self, now_ns: int, delay_ns: int) -> None:
        """Take a delay for the histogram."""

    @property
    def floor_ns(self) -> int:
        """Least transit of the last one to two seconds."""

    @property
    def drift(self) -> float | None:
        """How much faster our clock is than the origin's, as a ratio; None until it has been measured."""

    @property
    def quantile_ns(self) -> int:
        """What one delay in a thousand exceeds: the upper edge of a bucket of 1 ms."""

    @property
    def samples(self) -> float:
        """How many samples the histogram rests on, those forgotten in part counted in part."""
