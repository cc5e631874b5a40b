"""What an RTP packet carries, by its payload format. For tests and set-up; the plane uses the .pxd."""

from enum import IntEnum, IntFlag
from typing import NamedTuple, Self

from typing_extensions import Buffer

class Flag(IntFlag):
    """The .pxd says what each means."""

    FIRST = 1
    LAST = 2
    CUT = 4
    KEY = 8
    PARAMETERS = 16
    DISCARDABLE = 32
    DISCONTINUITY = 64
    LATE = 128
    MALFORMED = 256

class Kind(IntEnum):
    """Payload formats."""

    GENERIC = 0
    AUDIO = 1
    MP2T = 2
    H264 = 3
    H265 = 4
    VP8 = 5
    VP9 = 6
    AV1 = 7

class Info(NamedTuple):
    flags: Flag
    temporal: int | None
    """Layer, the lowest in the packet; None where the format does not say."""
    spatial: int | None

def kind_of(media: str, codec: str) -> Kind:
    """The format of a track: `media` "video", "audio" or "av"; `codec` as in SDP's rtpmap, in any case."""

class Classifier:
    """One track's packets in the order of their arrival."""

    def __new__(cls, kind: int) -> Self: ...
    def classify(self, packet: Buffer) -> Info:
        """What the next packet is. Raises ValueError if it is not RTP."""
    def run(self, packet: Buffer, times: int) -> None:
        """The same payload under successive sequence numbers, for measurements. Raises ValueError."""
