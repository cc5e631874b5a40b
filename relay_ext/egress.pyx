# cython: boundscheck=False, wraparound=False, cdivision=True
# Packets reach an egress only after rtp_parse has accepted them, so their first 12 bytes exist; chains are
# chosen by a mask.
"""One way out of a track: header rewrite, sender reports (RFC 3550, 6.4.1), address."""
from libc.stdint cimport int32_t

from relay_ext.base cimport tx_packet, tx_push
from relay_ext.inner cimport be16
from relay_ext.rtp cimport RTP_FIXED, rtcp_build_sr, rtp_rewrite_apply, rtp_rewrite_timestamp
from relay_ext.slab cimport slab, slab_get, slab_unref

cdef int64_t REPORT_INTERVAL = 1000000000     # ns; players wait for the first report to align tracks
# ns without a report of the origin before one is made up; an origin reports every 6.2 s at the least (RFC 3550,
# 6.3.1), and players take the change from one mapping to another for a jump in time.
cdef int64_t ORIGIN_REPORT_WAIT = 7000000000


cdef void egress_send(egress *e, tx_queue *tx, slab_pool *pool, int64_t now, const slot *s,
                      const rtp_header *h, uint32_t clock_rate, const origin_clock *clock) noexcept nogil:
    cdef tx_packet *p = tx_push(tx, s.body, s.off + RTP_FIXED, s.len - RTP_FIXED)
    if p == NULL:
        return
    p.port = e.port
    p.to = e.to
    p.head_len = RTP_FIXED
    if e.rebase:
        rebase(e, now, s)
    rtp_rewrite_apply(&e.rewrite, s.body.data + s.off, s.seq, s.origin, clock_rate, p.head)
    e.last_seq = be16(p.head + 2)
    e.last_sent = now
    e.packets += 1
    e.octets += h.payload_len
    e.bytes += s.len
    if e.first_sent == 0:
        e.first_sent = now
    if now >= e.next_report:
        send_report(e, tx, pool, now, s, h, clock_rate, clock)


cdef inline void rebase(egress *e, int64_t now, const slot *s) noexcept nogil:
    """Another origin sequence and clock: sequence numbers go on, and time has passed as it did here."""
    e.rebase = False
    if e.first_sent:
        e.rewrite.seq_offset = <uint16_t>(e.last_seq + 1 - s.seq)
        e.rewrite.last_origin_ns = s.origin - (now - e.last_sent)


cdef void send_report(egress *e, tx_queue *tx, slab_pool *pool, int64_t now, const slot *s,
                      const rtp_header *h, uint32_t clock_rate, const origin_clock *clock) noexcept nogil:
    """A sender report with the origin's NTP-to-RTP mapping, moved to this packet, and our own counts."""
    cdef rtcp_sr report
    cdef slab *body
    cdef tx_packet *p
    cdef int64_t ticks
    if clock.known and clock.report.ssrc == h.ssrc:
        ticks = <int32_t>(h.timestamp - clock.report.rtp_timestamp)
        report.ntp = clock.report.ntp + <uint64_t>((ticks << 32) // <int64_t>clock_rate)
    elif now - e.first_sent < ORIGIN_REPORT_WAIT:
        return
    else:
        # The tracks of a stream share the origin's clock, so that this still aligns them.
        report.ntp = ((<uint64_t>s.origin // 1000000000) << 32) | (
            ((<uint64_t>s.origin % 1000000000) << 32) // 1000000000)
    body = slab_get(pool)
    if body == NULL:
        return
    report.ssrc = e.rewrite.out_ssrc
    report.rtp_timestamp = rtp_rewrite_timestamp(&e.rewrite, h.timestamp)
    report.packets = <uint32_t>e.packets
    report.octets = <uint32_t>e.octets
    body.len = <uint16_t>rtcp_build_sr(body.data, &report, e.cname, e.cname_len)
    p = tx_push(tx, body, 0, body.len)
    if p != NULL:
        p.port = e.port
        p.to = e.rtcp_to
        e.reports += 1
        e.next_report = now + REPORT_INTERVAL
    slab_unref(pool, body)


# ---- the table of SSRCs ----------------------------------------------------------------------

cdef void egress_table_add(egress_table *t, egress *e) noexcept nogil:
    cdef egress **chain = &t.chains[e.rewrite.out_ssrc & (EGRESS_CHAINS - 1)]
    e.same = chain[0]
    chain[0] = e


cdef void egress_table_remove(egress_table *t, const egress *e) noexcept nogil:
    cdef egress **at = &t.chains[e.rewrite.out_ssrc & (EGRESS_CHAINS - 1)]
    while at[0] != e:
        at = &at[0].same
    at[0] = e.same


cdef egress *egress_find(const egress_table *t, uint32_t ssrc) noexcept nogil:
    cdef egress *e = t.chains[ssrc & (EGRESS_CHAINS - 1)]
    while e != NULL and e.rewrite.out_ssrc != ssrc:
        e = e.same
    return e
