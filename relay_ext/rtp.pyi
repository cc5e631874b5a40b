"""RTP and RTCP (RFC 3550) as the packet plane sees them. For tests; the plane uses the .pxd."""

from collections.abc import Sequence
from typing import Final, NamedTuple, Self

class Header(NamedTuple):
    payload_type: int
    marker: bool
    cc: int
    seq: int
    timestamp: int
    ssrc: int
    header_len: int
    """Bytes, CSRCs and extension included."""
    payload_len: int
    """Bytes, without padding."""

class SenderReport(NamedTuple):
    ssrc: int
    ntp: int
    """32.32 fixed point."""
    rtp_timestamp: int
    packets: int
    octets: int

class Rtcp(NamedTuple):
    ssrc: int
    """Of the first packet's sender; 0 if it names none."""
    report: SenderReport | None
    bye: bool

class Refused(ValueError):
    """Not RTP, or not RTCP."""

    @property
    def reason(self) -> str:
        """One word: that of RTP_SHORT to RTP_PADDING, or RTCP_SHORT to RTCP_PADDING, in the .pxd."""

OK: Final[int]
HELD: Final[int]
SOURCE: Final[int]
REBASED: Final[int]
KEEP: Final[int]

def parse(packet: bytes | memoryview) -> Header:
    """The header of an RTP packet, section 5.1. Raises Refused."""

def is_rtcp(packet: bytes | memoryview) -> bool:
    """Whether a packet on a shared port is RTCP, RFC 5761 section 4."""

def parse_rtcp(packet: bytes | memoryview) -> Rtcp:
    """What a compound packet tells, section 6.1. Raises Refused."""

def build_sr(report: SenderReport, cname: bytes) -> bytes:
    """A sender report and an SDES with the CNAME. Raises ValueError for a CNAME over 255 bytes."""

def key_asks(packet: bytes | memoryview) -> list[int]:
    """The SSRCs, 16 at most, of which a compound packet asks for a key frame. Raises Refused."""

def build_rr(sender: int) -> bytes:
    """An empty receiver report (RFC 3550 section 6.4.2), and SDES with the SSRC in hexadecimal as CNAME."""

def build_pli(sender: int, media: int) -> bytes:
    """A picture loss indication from one SSRC on another, RFC 4585 section 6.3.1."""

def build_fir(sender: int, media: int, command: int) -> bytes:
    """A full intra request, RFC 5104 section 4.3.1; `command` is its number, 8 bits."""

def build_remb(sender: int, bitrate: int, media: Sequence[int]) -> bytes:
    """The bits a second that all SSRCs of `media` together may have, draft-alvestrand-rmcat-remb-03.

    Raises ValueError for more than 255 SSRCs.
    """

class Rewrite:
    """The fixed header of what one egress sends; `payload_type` KEEP leaves the source's."""

    def __new__(
        cls, out_ssrc: int, payload_type: int = ..., seq_offset: int = 0, timestamp_offset: int = 0
    ) -> Self: ...
    def apply(self, packet: bytes, origin_seq: int, origin_time_ns: int, clock_rate: int) -> bytes:
        """The 12 bytes to send instead of the packet's own. `clock_rate` in Hz. Raises Refused."""
    def timestamp(self, source_timestamp: int) -> int:
        """Where a timestamp of the current source lies in what is sent."""

class Unwrap:
    """Maps 16-bit sequence numbers of one source after another to a 32-bit origin sequence (appendix A.1)."""

    def __new__(cls, start: int) -> Self: ...
    def apply(self, ssrc: int, seq: int) -> tuple[int, int | None]:
        """OK, SOURCE or REBASED and the origin sequence; HELD and None for a jump not confirmed yet."""
