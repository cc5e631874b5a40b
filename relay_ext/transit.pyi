"""Relative one-way delay of what we send, as the peer's reports tell it: what of it is queue."""

class Transit:
    """The estimate alone, for tests."""

    def __init__(self) -> None: ...
    def add(self, now_ns: int, sent_ns: int, arrived_us: int) -> int:
        """A report at `now_ns` tells of one arrival, by the peer's clock; returns the queue in ns."""

    @property
    def drift(self) -> float:
        """How much faster the peer's clock is, as a ratio; 0 until it has been measured."""
