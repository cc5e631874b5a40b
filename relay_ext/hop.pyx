# cython: boundscheck=False, wraparound=False, cdivision=True
# Tables are powers of two behind a mask; lengths from the network are checked before the bytes are read.
"""One peer's packet machine.

A source packet is sealed and sent the moment it comes; proactive repair follows at the ratio that the decision
plane sets. The receiver delivers whatever it has, at once and in any order, and reports every 10 ms what is
missing; the sender answers a report with as many repair packets as the deficit asks for, over the span of
what is missing and can still arrive in time. docs/protocol.md gives the layouts, docs/loss.md the reasons.
"""
from libc.math cimport ceil, sqrt
from libc.stdint cimport int32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from relay_ext.base cimport tx_packet, tx_push
from relay_ext.inner cimport (
    INNER_FIRST, INNER_LAST, INNER_MAX_HOPS, INNER_SIZE, be16, be32, inner_read, inner_write, put16, put32,
    serial_diff)
from relay_ext.path cimport (
    PATH_ARRIVALS, path_afford, path_fresh, path_init, path_next, path_reactive_in_flight, path_received, path_report,
    path_take_report, path_write_arrivals, path_write_report)
from relay_ext.reorder cimport reorder_late, reorder_recovered, reorder_share
from relay_ext.rlc cimport (
    RLC_DUPLICATE, RLC_NO_MEMORY, RLC_REDUNDANT, RLC_REFUSED, rlc_decoder_deficit, rlc_decoder_expire,
    rlc_decoder_forget, rlc_decoder_free, rlc_decoder_is_missing, rlc_decoder_new, rlc_decoder_repair,
    rlc_decoder_reset, rlc_decoder_seen, rlc_decoder_source, rlc_decoder_take)
from relay_ext.rlc_encoder cimport (
    RLC_MAX_WINDOW, rlc_encode, rlc_encoder_add, rlc_encoder_free, rlc_encoder_new, rlc_encoder_release)
from relay_ext.route cimport route, route_find, route_key
from relay_ext.seal cimport SEAL_HEADER, SEAL_TAG, replay_check, replay_commit, seal_in_place, seal_open
from relay_ext.slab cimport SLAB_DATA, slab_get, slab_unref
from relay_ext.timer cimport timer_armed, timer_cancel, timer_schedule

cdef enum:
    ESI_SIZE = 4              # behind the symbol of a source packet (RFC 6363, 5.3: explicit ID at the end)
    REPAIR_ID = 8             # before the coded bytes of a repair packet
    REPORT_FIXED = 40
    REPORT_BITS = 1024        # ESIs that a report's bitmap covers, at most
    PROACTIVE_WINDOW = 128    # symbols

cdef int64_t MS = 1000000
cdef int64_t REPORT_INTERVAL = 10 * MS        # while media arrives
cdef int64_t SENDER_INTERVAL = 20 * MS        # while media is only sent: tells of a lost tail
cdef int64_t IDLE_INTERVAL = 250 * MS         # so that silence means something on an idle hop
cdef int64_t SPACING = 2 * REPORT_INTERVAL    # between two chances to repair, beyond the round trip
cdef double ALLOWANCE_MAX = 262144.0          # bytes of repair that may be saved up for a burst
cdef double REACTIVE_RESERVE = 32768.0        # of which proactive repair leaves so many: what is asked for comes first


# ---- life ------------------------------------------------------------------------------------

cdef bint hop_init(hop *h, slab_pool *pool, timer_wheel *wheel, tx_queue *tx, uint32_t first_esi) noexcept nogil:
    cdef uint8_t i
    h.pool = pool
    h.wheel = wheel
    h.tx = tx
    for i in range(HOP_PATHS):
        path_init(&h.paths[i], i)
    h.encoder = rlc_encoder_new(pool, HOP_WINDOW, first_esi)
    h.decoder = rlc_decoder_new(pool, HOP_SPAN, HOP_ROWS)
    h.sent_at = <int64_t *>calloc(HOP_WINDOW, sizeof(int64_t))
    h.known_at = <int64_t *>calloc(HOP_SPAN, sizeof(int64_t))
    h.window_first = first_esi
    return h.encoder != NULL and h.decoder != NULL and h.sent_at != NULL and h.known_at != NULL


cdef void hop_destroy(hop *h) noexcept nogil:
    timer_cancel(h.wheel, &h.timer)
    drop_delivered(h)
    if h.control != NULL:
        slab_unref(h.pool, h.control)
    rlc_encoder_free(h.encoder)
    rlc_decoder_free(h.decoder)
    free(h.sent_at)
    free(h.known_at)


cdef inline void drop_delivered(hop *h) noexcept nogil:
    cdef uint32_t i
    for i in range(h.delivered_count):
        slab_unref(h.pool, h.delivered[i].symbol)
    h.delivered_count = 0


cdef inline void confirm(hop *h, session_keys *k) noexcept nogil:
    """The first authentic datagram under these keys. A new process of the peer begins its ESIs and counters anew."""
    cdef uint8_t i
    k.confirmed = True
    if k.generation <= h.generation:
        return
    h.generation = k.generation
    if k.instance != h.instance:
        h.instance = k.instance
        rlc_decoder_reset(h.decoder)
        for i in range(HOP_PATHS):
            path_fresh(&h.paths[i])


# ---- sealing ---------------------------------------------------------------------------------

cdef inline slab *begin_datagram(hop *h, path *p) noexcept nogil:
    """A slab for a datagram, whose plaintext belongs at data[SEAL_HEADER:]; NULL when it cannot be sent."""
    cdef slab *d
    if p.keys == NULL or not p.has_address:
        h.stats.no_session += 1
        return NULL
    d = slab_get(h.pool)
    if d == NULL:
        h.stats.no_memory += 1
    return d


cdef inline void queue_datagram(hop *h, slab *d, const addr *to) noexcept nogil:
    cdef tx_packet *packet = tx_push(h.tx, d, 0, d.len)
    if packet != NULL:
        packet.port = h.port
        packet.to = to[0]


cdef inline bint end_datagram(hop *h, path *p, slab *d, int64_t now, uint8_t type, uint16_t plaintext, bint reactive,
                              const addr *to) noexcept nogil:
    """Write the header, seal that many bytes in place and queue the datagram; takes over the reference."""
    cdef uint16_t size = SEAL_HEADER + plaintext + SEAL_TAG
    cdef uint8_t *header = d.data
    cdef uint64_t counter
    if size > p.datagram_max and type != TYPE_CONTROL:
        h.stats.too_long += 1
        slab_unref(h.pool, d)
        return False
    counter = path_next(p, now, size, reactive)
    header[0] = type
    header[1] = header[2] = header[3] = 0
    put32(header + 4, p.keys.remote_index)
    put32(header + 8, <uint32_t>(counter >> 32))
    put32(header + 12, <uint32_t>counter)
    d.len = size
    if seal_in_place(p.keys.send, counter, header, header + SEAL_HEADER, plaintext) < 0:
        h.stats.seal_failed += 1
        slab_unref(h.pool, d)
        return False
    queue_datagram(h, d, to)
    if type == TYPE_REPORT and path_afford(p, size):
        queue_datagram(h, d, &p.newest)  # the same datagram: where both arrive, one is a replay
    slab_unref(h.pool, d)
    return True


# ---- sending source packets ------------------------------------------------------------------

cdef bint hop_send(hop *h, int64_t now, const inner *header, slab *body, uint16_t off) noexcept nogil:
    """Send the payload body.data[off:off+header.length], in two symbols where one does not hold it."""
    cdef path *p = &h.paths[h.active]
    cdef inner part = header[0]
    cdef uint16_t room = p.datagram_max - SEAL_HEADER - REPAIR_ID - SEAL_TAG - INNER_SIZE
    cdef bint sent
    if p.keys == NULL or not p.has_address:
        h.stats.no_session += 1
        return False
    if header.length <= room:
        part.flags |= INNER_FIRST | INNER_LAST
        return send_symbol(h, p, now, &part, body, off)
    if header.length > 2 * room:
        h.stats.too_long += 1
        return False
    part.length = (header.length + 1) // 2
    part.flags |= INNER_FIRST
    sent = send_symbol(h, p, now, &part, body, off)
    off += part.length
    part.length = header.length - part.length
    part.flags = header.flags | INNER_LAST
    return send_symbol(h, p, now, &part, body, off) and sent


cdef bint send_symbol(hop *h, path *p, int64_t now, const inner *header, slab *body, uint16_t off) noexcept nogil:
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
    h.allowance = min(h.allowance + h.params.max_overhead * symbol, ALLOWANCE_MAX)
    d = begin_datagram(h, p)
    if d == NULL:
        return False
    out = d.data + SEAL_HEADER
    memcpy(out, head, INNER_SIZE)
    memcpy(out + INNER_SIZE, body.data + off, header.length)
    put32(out + symbol, esi)
    if not end_datagram(h, p, d, now, TYPE_SOURCE, symbol + ESI_SIZE, False, &p.to):
        return False
    send_proactive(h, p, now)
    wake_within(h, now, SENDER_INTERVAL)
    return True


cdef inline void send_proactive(hop *h, path *p, int64_t now) noexcept nogil:
    cdef uint32_t next_esi = h.encoder.next
    cdef int64_t oldest = now - h.params.send_budget
    cdef double reserve = REACTIVE_RESERVE if h.params.send_budget > p.rtt else 0.0
    if serial_diff(next_esi, h.window_first) > PROACTIVE_WINDOW:
        h.window_first = next_esi - PROACTIVE_WINDOW
    while h.window_first != next_esi - 1 and h.sent_at[h.window_first & (HOP_WINDOW - 1)] < oldest:
        h.window_first += 1
    h.credit += h.params.proactive
    while h.credit >= 1.0:
        h.credit -= 1.0
        if h.allowance < reserve:
            h.stats.overhead_limited += 1
        elif not send_repair(h, p, now, h.window_first, <uint16_t>(next_esi - h.window_first), False):
            h.credit = 0.0


cdef bint send_repair(hop *h, path *p, int64_t now, uint32_t first, uint16_t count, bint reactive) noexcept nogil:
    """One repair packet over `count` symbols from `first`; False when max_overhead forbids it or it cannot be."""
    cdef uint8_t *out
    cdef uint16_t n
    cdef slab *d
    if h.allowance <= 0.0:
        h.stats.overhead_limited += 1
        return False
    d = begin_datagram(h, p)
    if d == NULL:
        return False
    out = d.data + SEAL_HEADER
    n = rlc_encode(h.encoder, first, count, h.repair_key, out + REPAIR_ID)
    if n == 0:
        slab_unref(h.pool, d)
        return False
    put32(out, first)
    put16(out + 4, count)
    put16(out + 6, h.repair_key)
    h.repair_key += 1
    if not end_datagram(h, p, d, now, TYPE_REPAIR, REPAIR_ID + n, reactive, &p.to):
        return False
    h.allowance -= n
    h.stats.repair_sent += 1
    h.stats.reactive_sent += reactive
    h.stats.repair_bytes += n
    return True


cdef bint hop_send_control(hop *h, int64_t now, uint8_t path_id, const addr *to, const uint8_t *frame,
                           uint16_t n, uint16_t pad_to) noexcept nogil:
    """Seal a control frame, padded with zeros to a datagram of `pad_to` bytes; to=NULL: the path's address."""
    cdef path *p = &h.paths[path_id & (HOP_PATHS - 1)]
    cdef uint16_t plaintext = max(n, max(pad_to, SEAL_HEADER + SEAL_TAG) - SEAL_HEADER - SEAL_TAG)
    cdef slab *d
    if plaintext > SLAB_DATA - SEAL_HEADER - SEAL_TAG:
        h.stats.too_long += 1
        return False
    d = begin_datagram(h, p)
    if d == NULL:
        return False
    memcpy(d.data + SEAL_HEADER, frame, n)
    memset(d.data + SEAL_HEADER + n, 0, plaintext - n)
    return end_datagram(h, p, d, now, TYPE_CONTROL, plaintext, False, to if to != NULL else &p.to)


# ---- receiving -------------------------------------------------------------------------------

cdef int hop_receive(hop *h, session_keys *k, int64_t now, const uint8_t *data, size_t n) noexcept nogil:
    """Open one datagram of types 4 to 7. Symbols for known tracks are left in `delivered`."""
    cdef path *p = &h.paths[k.path]
    cdef uint64_t counter
    cdef int status
    cdef slab *s
    if n < SEAL_HEADER + SEAL_TAG or n > SLAB_DATA:
        h.stats.short_datagrams += 1
        return HOP_SHORT
    counter = (<uint64_t>be32(data + 8) << 32) | be32(data + 12)
    if not replay_check(&k.replay, counter):
        h.stats.replayed += 1
        return HOP_REPLAY
    s = slab_get(h.pool)
    if s == NULL:
        h.stats.no_memory += 1
        return HOP_NO_MEMORY
    status = seal_open(k.receive, counter, data, data + SEAL_HEADER, n - SEAL_HEADER, s.data)
    if status < 0:
        h.stats.forged += 1
        slab_unref(h.pool, s)
        return HOP_FORGED
    replay_commit(&k.replay, counter)
    if not k.confirmed:
        confirm(h, k)
    path_received(p, now, counter, n)
    s.len = <uint16_t>status
    status = HOP_OK
    if data[0] == TYPE_SOURCE:
        receive_source(h, now, s)
    elif data[0] == TYPE_REPAIR:
        receive_repair(h, now, s)
    elif data[0] == TYPE_REPORT:
        receive_report(h, p, now, counter, s)
    elif data[0] == TYPE_CONTROL:
        status = receive_control(h, s)
    else:
        h.stats.bad_type += 1
        status = HOP_TYPE
    slab_unref(h.pool, s)
    return status


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
        deliver(h, s)  # also what the decoder no longer tracks: the track decides what is too late
    deliver_recovered(h)


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
    deliver_recovered(h)


cdef inline void deliver_recovered(hop *h) noexcept nogil:
    cdef uint32_t esi
    cdef slab *s = rlc_decoder_take(h.decoder, &esi)
    while s != NULL:
        h.stats.recovered += 1
        reorder_recovered(&h.reorder)
        deliver(h, s)
        slab_unref(h.pool, s)
        s = rlc_decoder_take(h.decoder, &esi)


cdef inline void deliver(hop *h, slab *s) noexcept nogil:
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
    d.symbol = s
    s.refs += 1


cdef int receive_control(hop *h, slab *s) noexcept nogil:
    if s.len == 0:
        h.stats.short_datagrams += 1
        return HOP_OK
    if h.control != NULL:
        slab_unref(h.pool, h.control)
    s.refs += 1
    h.control = s
    return HOP_CONTROL


# ---- reports ---------------------------------------------------------------------------------

cdef inline uint32_t oldest_missing(hop *h) noexcept nogil:
    """The oldest ESI that still matters, is missing and fits a report's bitmap; the one after the highest when none
    is. What a long outage took would fill the bitmap, and nothing newer be asked for."""
    cdef uint32_t esi = h.decoder.live
    if serial_diff(h.decoder.highest, esi) >= REPORT_BITS:
        esi = h.decoder.highest - REPORT_BITS + 1
    while serial_diff(esi, h.decoder.highest) <= 0 and not rlc_decoder_is_missing(h.decoder, esi):
        esi += 1
    return esi


cdef uint32_t asked_for(hop *h, int64_t now) noexcept nogil:
    """The deficit, less the share of the youngest holes that reordering fills by itself."""
    cdef uint32_t deficit = rlc_decoder_deficit(h.decoder), esi = h.decoder.highest, young = 0
    cdef double share = reorder_share(&h.reorder)
    if deficit == 0 or share == 0.0:
        return deficit
    while serial_diff(esi, h.decoder.live) >= 0 and h.known_at[esi & (HOP_SPAN - 1)] + h.reorder.extent >= now:
        young += rlc_decoder_is_missing(h.decoder, esi)
        esi -= 1
    return deficit - min(<uint32_t>(share * young + 0.5), deficit)


cdef void send_report(hop *h, path *p, int64_t now) noexcept nogil:
    cdef slab *d = begin_datagram(h, p)
    cdef uint8_t *out
    cdef uint16_t bits = 0, i
    cdef size_t n = REPORT_FIXED
    cdef uint32_t oldest
    cdef int32_t span
    if d == NULL:
        return
    out = d.data + SEAL_HEADER
    memset(out, 0, REPORT_FIXED + REPORT_BITS // 8)
    out[0] = p.id
    out[1] = p.rx_started
    put16(out + 2, min(asked_for(h, now), 0xffff))
    path_write_report(p, now, out + 4)
    put32(out + 24, h.encoder.next)
    if h.decoder.started:
        out[1] |= 2
        oldest = oldest_missing(h)
        span = serial_diff(h.decoder.highest, oldest) + 1
        bits = <uint16_t>min(max(span, 0), REPORT_BITS)
        put32(out + 28, oldest)
        put32(out + 32, h.decoder.highest)
        put16(out + 36, bits)
        for i in range(bits):
            if rlc_decoder_is_missing(h.decoder, oldest + i):
                out[REPORT_FIXED + (i >> 3)] |= <uint8_t>(0x80 >> (i & 7))
        n += (bits + 7) >> 3
    out[38] = p.arrival_count
    n += path_write_arrivals(p, now, out + n)
    if end_datagram(h, p, d, now, TYPE_REPORT, <uint16_t>n, False, &p.to):
        h.stats.reports_sent += 1


cdef void receive_report(hop *h, path *p, int64_t now, uint64_t counter, slab *s) noexcept nogil:
    cdef const uint8_t *b = s.data
    cdef path_report r
    cdef uint16_t bits, bitmap
    if s.len < REPORT_FIXED or b[0] != p.id:
        h.stats.bad_report += 1
        return
    bits = be16(b + 36)
    bitmap = (bits + 7) >> 3
    r.valid = b[1] & 1
    r.time_us = be32(b + 4)
    r.delay_us = be32(b + 8)
    r.highest = be32(b + 12)
    r.received = be32(b + 16)
    r.runs = be32(b + 20)
    r.arrivals = b[38]
    r.arrival_data = b + REPORT_FIXED + bitmap
    if bits > REPORT_BITS or r.arrivals > PATH_ARRIVALS or s.len != REPORT_FIXED + bitmap + 4 * r.arrivals:
        h.stats.bad_report += 1
        return
    if not path_take_report(p, now, counter, &r):
        return
    h.stats.reports_received += 1
    learn_tail(h, now, be32(b + 24))
    if r.valid and b[1] & 2:
        repair_reactively(h, p, now, r.highest, be16(b + 2), be32(b + 28), b + REPORT_FIXED, bits)


cdef inline void learn_tail(hop *h, int64_t now, uint32_t next_esi) noexcept nogil:
    """The peer has sent every ESI before next_esi: what was not seen is missing."""
    cdef uint32_t base = h.decoder.base, highest = h.decoder.highest
    if h.decoder.started and 0 < serial_diff(next_esi - 1, highest) < HOP_SPAN // 2:
        rlc_decoder_seen(h.decoder, next_esi - 1)
        note_known(h, now, True, base, highest)
        media_received(h, now)


cdef void repair_reactively(hop *h, path *p, int64_t now, uint32_t highest, uint32_t deficit, uint32_t oldest,
                            const uint8_t *bitmap, uint16_t bits) noexcept nogil:
    """Answer a report: the rule of docs/loss.md, "Reactive repair"."""
    cdef uint32_t esi, first = 0, last = 0, missing = 0, flying
    cdef int64_t send_time, first_time = 0
    cdef uint16_t i
    cdef double d, loss, extra, need
    for i in range(bits):
        if not bitmap[i >> 3] & (0x80 >> (i & 7)):
            continue
        esi = oldest + i
        if serial_diff(esi, h.encoder.first) < 0 or serial_diff(esi, h.encoder.next) >= 0:
            continue  # no longer kept, or a lie
        send_time = h.sent_at[esi & (HOP_WINDOW - 1)]
        if now > send_time + h.params.send_budget:
            continue  # it left now, it would come too late
        if missing == 0:
            first = esi
            first_time = send_time
        elif esi - first >= RLC_MAX_WINDOW:
            break
        last = esi
        missing += 1
    if missing == 0 or deficit == 0:
        return
    d = <double>min(deficit, missing)
    loss = min(p.loss.assumed, 0.75)
    extra = 0.0
    if now + p.rtt + SPACING > first_time + h.params.send_budget:  # no further chance for the oldest
        extra = 2.0 * sqrt(d * loss / (1.0 - loss) + 0.25) * sqrt((1.0 + p.loss.burst) / (1.0 - p.loss.burst))
    need = ceil((d + extra) / (1.0 - loss))
    flying = path_reactive_in_flight(p, now, highest)
    while need > <double>flying:
        need -= 1.0
        if not send_repair(h, p, now, first, <uint16_t>(last - first + 1), True):
            return


# ---- time ------------------------------------------------------------------------------------

cdef inline void wake_within(hop *h, int64_t now, int64_t interval) noexcept nogil:
    if not timer_armed(&h.timer) or h.timer.deadline > now + interval:
        timer_schedule(h.wheel, &h.timer, now + interval)


cdef inline void media_received(hop *h, int64_t now) noexcept nogil:
    h.media_at = now
    wake_within(h, now, REPORT_INTERVAL)


cdef void expire(hop *h, int64_t now) noexcept nogil:
    """Move the edges of what still matters, is still tracked, and is still kept for sending."""
    cdef int64_t budget = h.params.receive_budget
    cdef path *p = &h.paths[h.active]
    cdef uint32_t live
    if h.decoder.started:
        live = h.decoder.live
        while serial_diff(live, h.decoder.highest) <= 0 and h.known_at[live & (HOP_SPAN - 1)] + budget < now:
            h.stats.unrecovered += rlc_decoder_is_missing(h.decoder, live)
            live += 1
        rlc_decoder_expire(h.decoder, live)
        # A repair packet sent in time may span symbols as old as the budget, and travels for half a round trip.
        budget += p.rtt + SPACING
        if serial_diff(h.forgotten, h.decoder.base) < 0:
            h.forgotten = h.decoder.base
        while serial_diff(h.forgotten, live) < 0 and h.known_at[h.forgotten & (HOP_SPAN - 1)] + budget < now:
            h.forgotten += 1
        rlc_decoder_forget(h.decoder, h.forgotten)
    live = h.encoder.first
    budget = h.params.send_budget + REPORT_INTERVAL
    while live != h.encoder.next and h.sent_at[live & (HOP_WINDOW - 1)] + budget < now:
        live += 1
    rlc_encoder_release(h.encoder, live)
    if serial_diff(h.window_first, live) < 0:
        h.window_first = live


cdef void hop_timer(hop *h, int64_t now) noexcept nogil:
    cdef int64_t keep = h.params.receive_budget + SENDER_INTERVAL
    cdef bint receiving = h.media_at > h.report_at or (
        h.decoder.started and rlc_decoder_deficit(h.decoder) > 0)
    # For a budget after the last packet: any of these reports tells of a lost tail, or of our new address.
    cdef bint sending = h.source_at and now - h.source_at < h.params.send_budget
    cdef bint pausing = h.media_at and now - h.media_at < keep
    cdef int64_t interval = IDLE_INTERVAL
    expire(h, now)
    if receiving:
        interval = REPORT_INTERVAL
    elif sending or pausing:
        interval = SENDER_INTERVAL
    if now - h.report_at >= interval:
        if h.paths[h.active].keys != NULL and h.paths[h.active].has_address:
            send_report(h, &h.paths[h.active], now)
        h.report_at = now
    if receiving or pausing:
        timer_schedule(h.wheel, &h.timer, now + REPORT_INTERVAL)
    elif sending:
        timer_schedule(h.wheel, &h.timer, now + SENDER_INTERVAL)
    elif h.paths[h.active].keys != NULL or h.encoder.first != h.encoder.next:  # else keys or media will wake it
        timer_schedule(h.wheel, &h.timer, h.report_at + IDLE_INTERVAL)
