# RTP and RTCP (RFC 3550): parsing, header rewriting for egress, sequence unwrapping for ingest.
#
# Reading functions never look past `n`. Rewriting and building trust their arguments: the packet was parsed.
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

# ---- parsing ---------------------------------------------------------------------------------

cdef enum:
    RTP_FIXED = 12        # bytes of the fixed header

cdef enum:                # why a packet is refused
    RTP_OK = 0
    RTP_SHORT = 1         # no fixed header
    RTP_LONG = 2          # more than UDP can carry
    RTP_VERSION = 3
    RTP_CSRC = 4          # more CSRCs than bytes
    RTP_EXTENSION = 5     # extension longer than the packet
    RTP_PADDING = 6       # padding of 0 bytes, or more than there are

ctypedef struct rtp_header:
    uint8_t payload_type
    uint8_t marker
    uint8_t cc
    uint16_t seq
    uint32_t timestamp
    uint32_t ssrc
    uint16_t header_len   # bytes, CSRCs and extension included
    uint16_t payload_len  # bytes, without padding

cdef int rtp_parse(const uint8_t *p, size_t n, rtp_header *h) noexcept nogil  # RTP_OK or a reason

cdef inline bint rtcp_is(const uint8_t *p, size_t n) noexcept nogil:
    """RTCP among RTP on one port, RFC 5761 section 4."""
    return n >= 2 and 192 <= p[1] <= 223

cdef enum:                # why a compound RTCP packet is refused
    RTCP_OK = 0
    RTCP_SHORT = 1        # no header, or bytes left over
    RTCP_VERSION = 2
    RTCP_TYPE = 3         # outside 192-223
    RTCP_LENGTH = 4       # a length past the end
    RTCP_COUNT = 5        # more blocks than the length holds
    RTCP_PADDING = 6      # on a packet that is not the last, or of an impossible size

ctypedef struct rtcp_sr:
    uint32_t ssrc
    uint64_t ntp          # 32.32 fixed point
    uint32_t rtp_timestamp
    uint32_t packets
    uint32_t octets

cdef enum:
    RTCP_SR_MAX = 296     # bytes: sender report and SDES with a CNAME of 255

# RTCP_OK or a reason. The first sender report is in `sr`; without one only sr.ssrc is set, to the first
# packet's SSRC. A compound need not begin with a report (RFC 5506). Refused: has_sr and bye are false.
cdef int rtcp_parse(const uint8_t *p, size_t n, rtcp_sr *sr, bint *has_sr, bint *bye) noexcept nogil
# Bytes written, at most RTCP_SR_MAX; 0 if the CNAME is longer than 255.
cdef size_t rtcp_build_sr(uint8_t *out, const rtcp_sr *sr, const uint8_t *cname,
                          size_t cname_len) noexcept nogil

# The SSRCs of which a compound asks for a key frame, by picture loss indication or full intra request; how many,
# at most RTCP_ASKS_MAX, the others are passed over. The compound is one that rtcp_parse() took.
cdef enum:
    RTCP_ASKS_MAX = 16
cdef int rtcp_key_asks(const uint8_t *p, size_t n, uint32_t *ssrcs) noexcept nogil

# Feedback to a sender, to go behind a report in a compound packet or alone (RFC 5506). Bytes written.
cdef enum:
    RTCP_RR_SIZE = 28     # bytes: empty receiver report, and SDES with the CNAME
    RTCP_PLI_SIZE = 12
    RTCP_FIR_SIZE = 20
    RTCP_REMB_SSRCS = 255 # at most
    RTCP_REMB_MAX = 1040  # bytes: REMB for as many

# What a compound begins with: an empty receiver report, and SDES; the CNAME is the SSRC in hexadecimal.
cdef size_t rtcp_build_rr(uint8_t *out, uint32_t sender) noexcept nogil
# Picture loss indication, RFC 4585 section 6.3.1.
cdef size_t rtcp_build_pli(uint8_t *out, uint32_t sender, uint32_t media) noexcept nogil
# Full intra request, RFC 5104 section 4.3.1; `command` goes up by one for each that is not a repetition.
cdef size_t rtcp_build_fir(uint8_t *out, uint32_t sender, uint32_t media, uint8_t command) noexcept nogil
# Receiver estimated maximum bitrate, draft-alvestrand-rmcat-remb-03: bits a second, rounded down, that all of
# `media` together may have.
cdef size_t rtcp_build_remb(uint8_t *out, uint32_t sender, uint64_t bitrate, const uint32_t *media,
                            uint8_t count) noexcept nogil

# ---- rewriting for one egress ----------------------------------------------------------------

cdef enum:
    RTP_KEEP = 255        # payload type: as the source has it

ctypedef struct rtp_rewrite:
    uint32_t out_ssrc
    uint8_t payload_type  # or RTP_KEEP
    uint16_t seq_offset
    uint32_t timestamp_offset      # of the current source
    uint32_t source_ssrc
    uint32_t previous_ssrc
    uint32_t previous_offset
    uint32_t switch_seq            # origin sequence of the first packet seen of the current source
    bint started
    bint previous_known
    uint32_t last_timestamp        # the highest that the current source was sent with
    int64_t last_origin_ns         # origin time of the packet that had it

# The first source's timestamps are sent plus `timestamp_offset`.
cdef void rtp_rewrite_init(rtp_rewrite *w, uint32_t out_ssrc, uint8_t payload_type, uint16_t seq_offset,
                           uint32_t timestamp_offset) noexcept nogil
# Writes the fixed header; whatever follows it in `packet` goes out unchanged.
cdef void rtp_rewrite_apply(rtp_rewrite *w, const uint8_t *packet, uint32_t origin_seq,
                            int64_t origin_time_ns, uint32_t clock_rate, uint8_t *out12) noexcept nogil
# Where a timestamp of the current source lies in what is sent, for sender reports.
cdef uint32_t rtp_rewrite_timestamp(const rtp_rewrite *w, uint32_t source_timestamp) noexcept nogil

# ---- unwrapping at ingest --------------------------------------------------------------------

cdef enum:
    RTP_MAX_DROPOUT = 3000   # packets ahead; RFC 3550 appendix A.1
    RTP_MAX_MISORDER = 100   # packets behind

cdef enum:
    RTP_UNWRAP_HELD = -1     # refused: a jump that the next packet has to confirm
    RTP_UNWRAP_OK = 0
    RTP_UNWRAP_SOURCE = 1    # the first packet of another SSRC
    RTP_UNWRAP_REBASED = 2   # a confirmed jump

ctypedef struct rtp_unwrap:
    uint32_t ssrc
    uint32_t highest         # origin sequence of `seq`
    uint16_t seq             # highest of this source
    bint started
    uint32_t previous_ssrc   # its late packets keep their place
    uint32_t previous_highest
    uint16_t previous_seq
    bint previous_known
    uint32_t jump_ssrc       # a packet of `jump_ssrc` numbered `jump_seq` would confirm the jump
    uint16_t jump_seq
    bint jump_pending

cdef void rtp_unwrap_init(rtp_unwrap *u, uint32_t start) noexcept nogil
# Fills `origin_seq` unless the packet is held.
cdef int rtp_unwrap_apply(rtp_unwrap *u, uint32_t ssrc, uint16_t seq, uint32_t *origin_seq) noexcept nogil
