"""How much of a video survived: decoded frames against those of a loss-free decode.

A frame is its hash, as ffmpeg's framemd5 muxer prints it: MD5 over the decoded picture. A frame is intact
when it is bit for bit the reference's. A decoder that conceals losses puts out frames that the reference does
not have; they count as decoded, not as intact. Frames before the receiver's first decodable key frame are
expected like all others, so a receiver that comes late has lost them.
"""

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, TypeAlias

FrameHash: TypeAlias = bytes
"""MD5 of a decoded picture, 16 bytes."""

_HASH_CHARS: Final = 32
_TWINS: Final = 64  # of frames with one hash, how many on either side of the place reached are looked at


@dataclass(frozen=True, slots=True)
class FrameCount:
    """Frames of one video at a receiver."""

    expected: int
    """Frames of the reference."""
    decoded: int
    """Frames that came out of the receiver's decoder, concealed ones included."""
    intact: int
    """Decoded frames that are bit for bit the reference's, in its order, each of its frames once."""


def parse_line(line: bytes) -> FrameHash | None:
    """The hash in a line of framemd5; None for its comments. Raises ValueError for anything else."""
    text = line.decode("ascii").strip()
    if text.startswith("#"):
        return None
    fields = [field.strip() for field in text.split(",")]
    if len(fields) != 6 or len(fields[-1]) != _HASH_CHARS:
        raise ValueError(f"{text[:80]!r} is not a line of framemd5")
    return bytes.fromhex(fields[-1])


def compare(reference: list[FrameHash], received: list[FrameHash]) -> FrameCount:
    """Count the frames of `received` that are intact: the longest common subsequence of both.

    A running clock makes every hash unique, and the count exact, in O(n log n). A picture that stands still
    repeats one hash; then only the nearest repetitions are looked at, which bounds the time and can only
    count too few.
    """
    places: dict[FrameHash, list[int]] = {}
    for place, frame in enumerate(reference):
        places.setdefault(frame, []).append(place)
    return FrameCount(
        len(reference), len(received), _longest_rise(places.get(frame, []) for frame in received)
    )


def _longest_rise(candidates: Iterable[list[int]]) -> int:
    """Length of the longest strictly rising sequence with at most one place from each list, in order."""
    ends: list[int] = []  # ends[n]: the lowest place at which a rise of n + 1 places can end
    for places in candidates:
        near = bisect_left(places, ends[-1]) if ends else 0
        # From the highest down, so that places of one list never follow each other in a rise.
        for place in reversed(places[max(0, near - _TWINS) : near + _TWINS]):
            at = bisect_left(ends, place)
            ends[at : at + 1] = [place]
    return len(ends)
