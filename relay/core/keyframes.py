"""When a key frame is asked for: at once, then not again for an interval, and then only while none has come.

More often would only make an encoder send larger frames over a link that has trouble already.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Patience:
    interval_ns: int
    """Between two requests: what an answer may take."""
    tries: int
    """Requests for one wish."""


ENCODER = Patience(500_000_000, 3)
"""Encoding a frame and the first link take far less; RTCP is lost as anything else is, and what ignores three
never answers."""
PEER = Patience(1_000_000_000, 1)
"""Its channel loses nothing; the answer takes a round trip more, and the repair budget."""


@dataclass(slots=True)
class KeyFrames:
    """What is wanted of one track. `seen` counts its key frames, wherever it is given."""

    patience: Patience
    _left: int = 0
    _seen: int = 0
    _next_ns: int = 0

    def want(self, seen: int) -> None:
        """A key frame is needed: one that comes from now on."""
        self._left, self._seen = self.patience.tries, seen

    def due(self, now_ns: int, seen: int) -> bool:
        """Whether to ask now; counts as asked."""
        if seen != self._seen:
            self._left = 0
        if not self._left or now_ns < self._next_ns:
            return False
        self._left -= 1
        self._next_ns = now_ns + self.patience.interval_ns
        return True

    def deadline(self) -> int | None:
        """When `due` may say yes next."""
        return self._next_ns if self._left else None
