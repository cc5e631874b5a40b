# cython: boundscheck=False, wraparound=False, cdivision=True
# A packet is cut into at most two symbols, which the length check keeps within a datagram.
"""Source packets: an RTP packet becomes one or two symbols, each sealed and sent the moment it comes, or, while the hop
carries less than there is, when the pacer lets it."""
from libc.stdint cimport INT64_MAX, uint8_t, uint32_t
from libc.string cimport memcpy

from relay_ext.datagram cimport begin_datagram, end_datagram
from relay_ext.inner cimport INNER_FIRST, INNER_KEY, INNER_LAST, INNER_SIZE, inner_write, put32
from relay_ext.pacer cimport paced, pacer_deadline, pacer_put, pacer_saw_key, pacer_set, pacer_take
from relay_ext.path cimport path
from relay_ext.peer cimport ESI_SIZE, HOP_WINDOW, REPAIR_ID, SENDER_INTERVAL, TYPE_SOURCE, wake_within
from relay_ext.repair cimport repair_earn, repair_proactively
from relay_ext.rlc_encoder cimport rlc_encoder_add
from relay_ext.seal cimport SEAL_HEADER, SEAL_TAG
from relay_ext.slab cimport slab_unref
from relay_ext.timer cimport timer_cancel, timer_schedule
from relay_ext.uplink cimport uplink_repair, uplink_source


cdef void hop_send(hop *h, int64_t now, const inner *header, slab *body, uint16_t off) noexcept nogil:
    if h.params.pace <= 0.0 and h.pacer.waiting == 0 and not h.params.spare_frames:
        if header.flags & INNER_KEY:
            pacer_saw_key(&h.pacer, header)
        send_packet(h, now, header, body, off)
        return
    h.source_at = now
    pacer_put(&h.pacer, h.pool, now, header, body, off)
    hop_pace(h, now)


cdef void hop_pace(hop *h, int64_t now) noexcept nogil:
    cdef paced e
    cdef int64_t deadline
    while pacer_take(&h.pacer, h.pool, now, &e):
        send_packet(h, now, &e.header, e.body, e.off)
        slab_unref(h.pool, e.body)
    deadline = now if h.pacer.wanted_count else pacer_deadline(&h.pacer, now)
    if deadline == INT64_MAX:
        timer_cancel(h.wheel, &h.pace_timer)
    else:
        timer_schedule(h.wheel, &h.pace_timer, deadline)


cdef void hop_set_params(hop *h, int64_t now, const hop_params *params) noexcept nogil:
    h.params = params[0]
    pacer_set(&h.pacer, now, params.pace, params.send_budget, params.spare_frames)
    if h.pacer.waiting:
        hop_pace(h, now)


cdef void send_packet(hop *h, int64_t now, const inner *header, slab *body, uint16_t off) noexcept nogil:
    """As one symbol, or as two where one does not hold it."""
    cdef path *p = uplink_source(h)
    cdef inner part = header[0]
    # Repair packets are as long as the longest symbol, and may take another path.
    cdef uint16_t room = min(p.datagram_max, uplink_repair(h).datagram_max) - SEAL_HEADER - REPAIR_ID - SEAL_TAG - INNER_SIZE
    if p.keys == NULL or not p.has_address:
        h.stats.no_session += 1
        return
    if header.length <= room:
        part.flags |= INNER_FIRST | INNER_LAST
        send_symbol(h, p, now, &part, body, off)
        return
    if header.length > 2 * room:
        h.stats.too_long += 1
        return
    part.length = (header.length + 1) // 2
    part.flags |= INNER_FIRST
    send_symbol(h, p, now, &part, body, off)
    off += part.length
    part.length = header.length - part.length
    part.flags = header.flags | INNER_LAST
    send_symbol(h, p, now, &part, body, off)


cdef void send_symbol(hop *h, path *p, int64_t now, const inner *header, slab *body, uint16_t off) noexcept nogil:
    cdef uint8_t head[20]
    cdef uint16_t symbol = INNER_SIZE + header.length
    cdef uint32_t esi
    cdef uint8_t *out
    cdef slab *d
    inner_write(head, header)
    esi = rlc_encoder_add(h.encoder, head, body, off, header.length)
    h.sent_at[esi & (HOP_WINDOW - 1)] = now
    h.source_at = now
    h.stats.source_sent += 1
    h.stats.source_bytes += symbol
    repair_earn(h, symbol)
    d = begin_datagram(h, p)
    if d == NULL:
        return
    out = d.data + SEAL_HEADER
    memcpy(out, head, INNER_SIZE)
    memcpy(out + INNER_SIZE, body.data + off, header.length)
    put32(out + symbol, esi)
    if not end_datagram(h, p, d, now, TYPE_SOURCE, symbol + ESI_SIZE, False, &p.to):
        return
    repair_proactively(h, now)
    wake_within(h, now, SENDER_INTERVAL)
