# cython: boundscheck=False, wraparound=False, cdivision=True
# Tables are powers of two behind a mask; lengths from the network are checked before the bytes are read.
"""Source and repair packets received: the decoder, what it delivers, and what it stops waiting for."""
from relay_ext.inner cimport INNER_MAX_HOPS, INNER_SIZE, be16, be32, inner, inner_age, inner_read, serial_diff
from relay_ext.peer cimport (
    ESI_SIZE, HOP_DELIVERED, HOP_SPAN, REPAIR_ID, REPAIR_SPACING, REPORT_INTERVAL, hop_delivered, wake_within)
from relay_ext.reorder cimport reorder_late, reorder_recovered
from relay_ext.rlc cimport (
    RLC_DUPLICATE, RLC_NO_MEMORY, RLC_REDUNDANT, RLC_REFUSED, rlc_decoder, rlc_decoder_expire, rlc_decoder_forget,
    rlc_decoder_is_missing, rlc_decoder_repair, rlc_decoder_seen, rlc_decoder_source, rlc_decoder_take)
from relay_ext.route cimport route, route_find, route_key
from relay_ext.slab cimport slab_unref


cdef inline void media_received(hop *h, int64_t now) noexcept nogil:
    h.media_at = now
    wake_within(h, now, REPORT_INTERVAL)


cdef inline void stamp(hop *h, int64_t now, uint32_t first, uint32_t end) noexcept nogil:
    while first != end:
        h.known_at[first & (HOP_SPAN - 1)] = now
        first += 1


cdef inline void note_known(hop *h, int64_t now, bint was_started, uint32_t base, uint32_t highest) noexcept nogil:
    """Remember when ESIs were first known to exist; `base` and `highest` are the decoder's before the datagram."""
    cdef rlc_decoder *d = h.decoder
    if not d.started:
        return
    if not was_started or serial_diff(d.base, highest) > 0:
        stamp(h, now, d.base, d.highest + 1)
        h.forgotten = d.base
        return
    if serial_diff(base, d.base) > 0:  # the first packets of all were lost, and a repair packet tells of them
        stamp(h, now, d.base, base)
        h.forgotten = d.base
    stamp(h, now, highest + 1, d.highest + 1)


cdef void receive_source(hop *h, int64_t now, slab *s) noexcept nogil:
    cdef bint started = h.decoder.started
    cdef uint32_t base = h.decoder.base, highest = h.decoder.highest
    cdef uint32_t esi
    cdef int status
    if s.len < INNER_SIZE + ESI_SIZE:
        h.stats.short_datagrams += 1
        return
    s.len -= ESI_SIZE
    esi = be32(s.data + s.len)
    status = rlc_decoder_source(h.decoder, esi, s)
    h.stats.source_received += 1
    media_received(h, now)
    if started and serial_diff(esi, highest) < 0 <= serial_diff(esi, base):
        reorder_late(&h.reorder, now - h.known_at[esi & (HOP_SPAN - 1)], status == RLC_DUPLICATE)
    note_known(h, now, started, base, highest)
    if status == RLC_DUPLICATE:
        h.stats.duplicate += 1
    elif status == RLC_REFUSED:
        h.stats.bad_inner += 1
    else:
        deliver(h, now, esi, s)  # also what the decoder no longer tracks: the track decides what is too late
    deliver_recovered(h, now)


cdef void receive_repair(hop *h, int64_t now, slab *s) noexcept nogil:
    cdef bint started = h.decoder.started
    cdef uint32_t base = h.decoder.base, highest = h.decoder.highest
    cdef int status
    if s.len <= REPAIR_ID:
        h.stats.short_datagrams += 1
        return
    status = rlc_decoder_repair(h.decoder, be32(s.data), be16(s.data + 4), be16(s.data + 6),
                                s.data + REPAIR_ID, s.len - REPAIR_ID)
    h.stats.repair_received += 1
    media_received(h, now)
    if status == RLC_REFUSED:
        h.stats.repair_refused += 1
        return
    if status == RLC_REDUNDANT:
        h.stats.repair_redundant += 1
    elif status == RLC_NO_MEMORY:
        h.stats.no_memory += 1
    note_known(h, now, started, base, highest)
    deliver_recovered(h, now)


cdef inline void deliver_recovered(hop *h, int64_t now) noexcept nogil:
    cdef uint32_t esi
    cdef slab *s = rlc_decoder_take(h.decoder, &esi)
    while s != NULL:
        h.stats.recovered += 1
        reorder_recovered(&h.reorder)
        deliver(h, now, esi, s)
        slab_unref(h.pool, s)
        s = rlc_decoder_take(h.decoder, &esi)


cdef inline int64_t waited(const hop *h, int64_t now, uint32_t esi) noexcept nogil:
    """For how long an ESI has been known to exist; for one that is no longer tracked, the longest that is known."""
    if serial_diff(esi, h.decoder.base) < 0:
        esi = h.decoder.base
    return now - h.known_at[esi & (HOP_SPAN - 1)]


cdef inline void deliver(hop *h, int64_t now, uint32_t esi, slab *s) noexcept nogil:
    cdef hop_delivered *d
    cdef route *r
    cdef inner header
    if not inner_read(s.data, s.len, &header):
        h.stats.bad_inner += 1
        return
    if header.hops >= INNER_MAX_HOPS:
        h.stats.too_many_hops += 1
        return
    r = route_find(&h.routes, route_key(header.stream, header.track))
    if r.track == NULL:
        h.stats.unknown_track += 1
        return
    if r.epoch != header.epoch:
        h.stats.stale_epoch += 1
        return
    if h.delivered_count == HOP_DELIVERED:
        h.stats.no_memory += 1
        return
    d = &h.delivered[h.delivered_count]
    h.delivered_count += 1
    d.track = r.track
    d.header = header
    d.header.age = inner_age(header.age, waited(h, now, esi))
    d.symbol = s
    s.refs += 1


cdef void learn_tail(hop *h, int64_t now, uint32_t next_esi) noexcept nogil:
    """The peer has sent every ESI before next_esi: what was not seen is missing."""
    cdef uint32_t base = h.decoder.base, highest = h.decoder.highest
    if h.decoder.started and 0 < serial_diff(next_esi - 1, highest) < HOP_SPAN // 2:
        rlc_decoder_seen(h.decoder, next_esi - 1)
        note_known(h, now, True, base, highest)
        media_received(h, now)


cdef void receiver_expire(hop *h, int64_t now) noexcept nogil:
    """Move the edges of what still matters and of what is still tracked."""
    cdef int64_t budget = h.params.receive_budget
    cdef uint32_t live = h.decoder.live
    if not h.decoder.started:
        return
    while serial_diff(live, h.decoder.highest) <= 0 and h.known_at[live & (HOP_SPAN - 1)] + budget < now:
        h.stats.unrecovered += rlc_decoder_is_missing(h.decoder, live)
        live += 1
    rlc_decoder_expire(h.decoder, live)
    # A repair packet sent in time may span symbols as old as the budget, and travels for half a round trip.
    budget += h.rtt_longest + REPAIR_SPACING
    if serial_diff(h.forgotten, h.decoder.base) < 0:
        h.forgotten = h.decoder.base
    while serial_diff(h.forgotten, live) < 0 and h.known_at[h.forgotten & (HOP_SPAN - 1)] + budget < now:
        h.forgotten += 1
    rlc_decoder_forget(h.decoder, h.forgotten)
