# Where a track enters: the source that it follows, what its packets are, and what is said back to the source.
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from relay_ext.base cimport addr, tx_queue
from relay_ext.formats cimport payload_state
from relay_ext.rtp cimport rtcp_sr, rtp_header, rtp_unwrap
from relay_ext.slab cimport slab_pool

ctypedef struct ingest_stats:
    uint64_t packets
    uint64_t bytes
    uint64_t reports          # sender reports, of the source or before there was one
    uint64_t not_rtp
    uint64_t not_rtcp
    uint64_t other_source     # from an address that the port does not follow
    uint64_t payload_type
    uint64_t too_long
    uint64_t held             # a jump of the sequence that nothing has confirmed
    uint64_t sources          # changes of address or SSRC
    uint64_t payload_malformed  # forwarded all the same: not of the payload format that the track has
    uint64_t key_requests     # sent to the source: PLI or FIR
    uint64_t rate_offers      # sent to the source: REMB

ctypedef struct ingest:
    bint latched
    bint started              # a packet has been taken
    uint8_t payload_type
    uint8_t kind              # payload format, formats.pxd
    addr source
    uint32_t ssrc
    uint32_t highest          # origin sequence
    int64_t last              # ns, last packet taken
    bint reported             # the next three are set
    bint report_due           # there is a new source, or a feed has started: tell them
    addr reporter
    uint16_t reporter_port    # ours, that its RTCP comes to
    rtcp_sr report            # the last one
    bint has_rtcp_port        # there is a port for RTCP alone
    uint16_t rtp_port         # ours
    uint16_t rtcp_port
    uint32_t own_ssrc         # of what is said to the source
    uint64_t credit           # bytes that came from it and have not been answered: its address is not proven
    uint8_t fir_command
    rtp_unwrap unwrap
    payload_state payload
    ingest_stats stats

cdef enum:                    # feedback to a source
    FEEDBACK_PLI = 1
    FEEDBACK_FIR = 2
    FEEDBACK_REMB = 3

# The inner header's flags of a packet that has been given its origin sequence.
cdef uint8_t ingest_flags(ingest *g, const uint8_t *packet, const rtp_header *h) noexcept nogil
# Tells the source in a compound of its own; bitrate (bits/s) for REMB alone, which is for a source that sends RTCP.
cdef void ingest_feedback(ingest *g, tx_queue *tx, slab_pool *pool, int kind, uint64_t bitrate) noexcept nogil
