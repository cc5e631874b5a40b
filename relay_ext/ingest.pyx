# cython: boundscheck=False, wraparound=False
# A compound of feedback has 60 bytes at the most; a slab has 2032.
"""Where a track enters: what its packets are, and what is said back to its source.

The source's address is where its RTCP comes from. Until some has come, it is the port after that of its RTP
(RFC 3550, section 11), or RTP's own where the two are multiplexed (RFC 5761).
"""
from relay_ext.base cimport addr_same_host, tx_packet, tx_push
from relay_ext.formats cimport (
    PAYLOAD_DISCARDABLE, PAYLOAD_FIRST, PAYLOAD_KEY, PAYLOAD_LAST, PAYLOAD_LATE, PAYLOAD_MALFORMED, payload_info)
from relay_ext.inner cimport INNER_DISCARDABLE, INNER_FRAME_END, INNER_FRAME_START, INNER_KEY
from relay_ext.payload cimport payload_classify
from relay_ext.rtp cimport rtcp_build_fir, rtcp_build_pli, rtcp_build_remb, rtcp_build_rr
from relay_ext.slab cimport slab, slab_get, slab_unref


cdef uint8_t ingest_flags(ingest *g, const uint8_t *packet, const rtp_header *h) noexcept nogil:
    """A packet that comes out of order begins and ends nothing: its frame has begun, and may have ended."""
    cdef payload_info info
    cdef uint8_t flags = 0
    if h.ssrc != g.unwrap.ssrc:  # a late packet of the source before
        return 0
    payload_classify(g.kind, &g.payload, packet, h, &info)
    if info.flags & PAYLOAD_MALFORMED:
        g.stats.payload_malformed += 1
    if info.flags & PAYLOAD_KEY:
        flags |= INNER_KEY
    if info.flags & PAYLOAD_DISCARDABLE:
        flags |= INNER_DISCARDABLE
    if info.flags & PAYLOAD_LATE:
        return flags
    if info.flags & PAYLOAD_FIRST:
        flags |= INNER_FRAME_START
    if info.flags & PAYLOAD_LAST:
        flags |= INNER_FRAME_END
    return flags


cdef void ingest_feedback(ingest *g, tx_queue *tx, slab_pool *pool, int kind, uint64_t bitrate) noexcept nogil:
    cdef slab *body
    cdef tx_packet *p
    cdef uint8_t *end
    if not g.latched or (kind == FEEDBACK_REMB and not listens(g)):
        return
    body = slab_get(pool)
    if body == NULL:
        return
    end = body.data + rtcp_build_rr(body.data, g.own_ssrc)
    if kind == FEEDBACK_PLI:
        end += rtcp_build_pli(end, g.own_ssrc, g.ssrc)
    elif kind == FEEDBACK_FIR:
        g.fir_command += 1
        end += rtcp_build_fir(end, g.own_ssrc, g.ssrc, g.fir_command)
    else:
        end += rtcp_build_remb(end, g.own_ssrc, bitrate, &g.ssrc, 1)
    body.len = <uint16_t>(end - body.data)
    p = tx_push(tx, body, 0, body.len) if body.len <= g.credit else NULL
    if p != NULL:
        g.credit -= body.len
        address(g, p)
        if kind == FEEDBACK_REMB:
            g.stats.rate_offers += 1
        else:
            g.stats.key_requests += 1
    slab_unref(pool, body)


cdef inline bint listens(const ingest *g) noexcept nogil:
    """Whether RTCP has come from the host that is followed."""
    return g.reported and addr_same_host(&g.reporter, &g.source)


cdef inline void address(const ingest *g, tx_packet *p) noexcept nogil:
    if listens(g):
        p.to = g.reporter
        p.port = g.reporter_port
        return
    p.to = g.source
    p.port = g.rtp_port
    if g.has_rtcp_port:
        p.to.port += 1
        p.port = g.rtcp_port
