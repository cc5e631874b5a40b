"""Which peer a stream is sent to: the one with the lowest measured cost."""

from collections.abc import Sequence
from dataclasses import dataclass

BETTER_MS = 10.0
"""A change is worth making only for a cost lower by this many milliseconds..."""
BETTER_RATIO = 0.15
"""...and by this share of the present cost."""


def cost_ms(rtt_ms: float, min_rtt_ms: float, queue_ms: float, jitter_ms: float, loss_ratio: float) -> float:
    """Milliseconds that a link costs a viewer: propagation, queue, jitter, and one and a half round trips for
    each packet that is lost."""
    loss = min(loss_ratio, 0.95)
    return min_rtt_ms / 2 + queue_ms + 4 * jitter_ms + 1.5 * rtt_ms * loss / (1 - loss)


def clearly_better(cost: float, held: float) -> bool:
    """Whether a cost is so much lower than that of what is in use that a change is worth it."""
    return held - cost >= BETTER_MS and held - cost >= BETTER_RATIO * held


@dataclass(frozen=True, slots=True)
class Candidate:
    """A peer that could take a stream, and what was measured of it. Delays in milliseconds."""

    peer: str
    connected: bool
    refused: str = ""
    """Why it does not take the stream, if it has said so."""
    rtt_ms: float = 0.0
    """0: not measured yet."""
    min_rtt_ms: float = 0.0
    queue_ms: float = 0.0
    """Relative one-way delay less its minimum."""
    jitter_ms: float = 0.0
    loss_ratio: float = 0.0

    @property
    def usable(self) -> bool:
        return self.connected and not self.refused

    @property
    def cost_ms(self) -> float:
        """Milliseconds that the hop costs a viewer."""
        return cost_ms(self.rtt_ms, self.min_rtt_ms, self.queue_ms, self.jitter_ms, self.loss_ratio)


@dataclass(frozen=True, slots=True)
class Choice:
    peer: str | None
    why: str


def choose(candidates: Sequence[Candidate], current: str | None) -> Choice:
    """The cheapest usable peer; the current one unless another is clearly better.

    A cost that nobody has measured is no reason for a change.
    """
    usable = sorted((c for c in candidates if c.usable), key=lambda c: (c.rtt_ms == 0, c.cost_ms, c.peer))
    if not usable:
        return Choice(None, _why_none(candidates))
    best = usable[0]
    held = next((c for c in usable if c.peer == current), None)
    if held is None or held is best:
        rest = f"; next is {usable[1].peer} at {usable[1].cost_ms:.1f} ms" if len(usable) > 1 else ""
        return Choice(best.peer, f"lowest cost, {best.cost_ms:.1f} ms{rest}")
    if clearly_better(best.cost_ms, held.cost_ms):
        return Choice(best.peer, f"{best.cost_ms:.1f} ms instead of {held.peer}'s {held.cost_ms:.1f} ms")
    return Choice(
        held.peer, f"kept at {held.cost_ms:.1f} ms; {best.peer}'s {best.cost_ms:.1f} ms is not enough better"
    )


def _why_none(candidates: Sequence[Candidate]) -> str:
    if not candidates:
        return "no peer with an address is configured"
    return "; ".join(f"{c.peer}: {c.refused or 'not connected'}" for c in candidates)
