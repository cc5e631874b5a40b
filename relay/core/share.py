"""How the media budget of a hop is divided among the tracks that are sent over it."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Want:
    """A track: whether it is audio, and the bits a second that it has been seen to need."""

    audio: bool
    bps: float


def split(budget_bps: float, wants: Sequence[Want]) -> list[float]:
    """The bits a second that each may send: audio first, in whole while the budget lasts, then the others, in
    proportion to what they need. They get all that is left, more than they need included: it is what the
    hop can carry."""
    audio = sum(w.bps for w in wants if w.audio)
    others = sum(w.bps for w in wants if not w.audio)
    audio_part = min(1.0, budget_bps / audio) if audio else 0.0
    rest_part = max(budget_bps - audio, 0.0) / others if others else 0.0
    return [w.bps * (audio_part if w.audio else rest_part) for w in wants]
