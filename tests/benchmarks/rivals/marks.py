"""RTP packets that carry their number and the time at which they were sent, and what became of them."""

import math
import struct
from dataclasses import dataclass
from itertools import groupby

BYTES = 1200  # of an RTP packet
PROBE = 0xFFFFFFFF  # the number of packets that only find out whether there is a connection
NS_PER_MS = 1_000_000
_RTP = struct.Struct("!BBHII")  # RFC 3550, 5.1
_MARK = struct.Struct("!IQ")  # number, time in ns of this machine's monotonic clock
_FILL = b"\xaa" * (BYTES - _RTP.size - _MARK.size)
_CLOCK = 90_000  # Hz, of the RTP timestamps


def packet(sequence: int, number: int, now_ns: int) -> bytes:
    """An RTP packet; `sequence` counts all packets, `number` those that are measured."""
    timestamp = now_ns * _CLOCK // 1_000_000_000 & 0xFFFFFFFF
    return _RTP.pack(0x80, 96, sequence & 0xFFFF, timestamp, 0x1234) + _MARK.pack(number, now_ns) + _FILL


def quantile(values: list[int], share: float) -> float | None:
    """In ms, of values in ns: the smallest that is not exceeded by that share of them. None of none."""
    if not values:
        return None
    return sorted(values)[max(0, math.ceil(len(values) * share) - 1)] / NS_PER_MS


@dataclass(frozen=True, slots=True)
class Fates:
    """What became of the packets of a run."""

    packets: int
    lost: int
    longest_gap: int
    """Packets in a row that were lost."""
    duplicates: int
    damaged: int
    """Datagrams that nobody had sent like that."""
    p50_ms: float | None
    """Of the delay beyond propagation."""
    p99_ms: float | None


class Marks:
    """Counts `count` packets as they come in; their delays are taken relative to `propagation_ns`."""

    def __init__(self, count: int, propagation_ns: int) -> None:
        self.connected = False
        """Whether any packet, probes included, has come through."""
        self._propagation_ns = propagation_ns
        self._came = bytearray(count)
        self._delays: list[int] = []
        self._duplicates = 0
        self._damaged = 0

    def take(self, data: bytes, now_ns: int) -> None:
        """A datagram that a receiver got."""
        if len(data) != BYTES or data[-len(_FILL) :] != _FILL:
            self._damaged += 1
            return
        number, sent_ns = _MARK.unpack_from(data, _RTP.size)
        self.connected = True
        if number == PROBE:
            return
        if number >= len(self._came):
            self._damaged += 1
        elif self._came[number]:
            self._duplicates += 1
        else:
            self._came[number] = 1
            self._delays.append(now_ns - sent_ns - self._propagation_ns)

    def fates(self) -> Fates:
        gaps = [len(list(run)) for came, run in groupby(self._came) if not came]
        return Fates(
            packets=len(self._came),
            lost=sum(gaps),
            longest_gap=max(gaps, default=0),
            duplicates=self._duplicates,
            damaged=self._damaged,
            p50_ms=quantile(self._delays, 0.5),
            p99_ms=quantile(self._delays, 0.99),
        )
