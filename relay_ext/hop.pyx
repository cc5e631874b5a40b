# cython: boundscheck=False, wraparound=False, cdivision=True
# Tables are powers of two behind a mask; lengths from the network are checked where they are read.
"""One peer's packet machine.

A source packet is sealed and sent the moment it comes; proactive repair follows at the ratio that the decision
plane sets. The receiver delivers whatever it has, at once and in any order, and reports every 10 ms what is
missing; the sender answers a report with as many repair packets as the deficit asks for, over the span of
what is missing and can still arrive in time. docs/protocol.md gives the layouts, docs/loss.md the reasons.
"""
from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from relay_ext.datagram cimport begin_datagram, end_datagram
from relay_ext.inner cimport be32, serial_diff
from relay_ext.pacer cimport pacer_clear
from relay_ext.path cimport path, path_fresh, path_init, path_received
from relay_ext.peer cimport (
    HOP_CONTROL, HOP_FORGED, HOP_NO_MEMORY, HOP_OK, HOP_PATHS, HOP_REPLAY, HOP_ROWS, HOP_SHORT, HOP_SPAN, HOP_TYPE,
    HOP_WINDOW, IDLE_INTERVAL, REPORT_INTERVAL, SENDER_INTERVAL, TYPE_CONTROL, TYPE_REPAIR, TYPE_REPORT, TYPE_SOURCE)
from relay_ext.receiver cimport receive_repair, receive_source, receiver_expire
from relay_ext.report cimport receive_report, send_reports
from relay_ext.rlc cimport rlc_decoder_deficit, rlc_decoder_free, rlc_decoder_new, rlc_decoder_reset
from relay_ext.rlc_encoder cimport rlc_encoder_free, rlc_encoder_new, rlc_encoder_release
from relay_ext.seal cimport SEAL_HEADER, SEAL_TAG, replay_check, replay_commit, seal_open
from relay_ext.silence cimport beat_interval, silence_heard
from relay_ext.slab cimport SLAB_DATA, slab, slab_get, slab_unref
from relay_ext.timer cimport timer_cancel, timer_schedule
from relay_ext.uplink cimport uplink_choose

cdef double REPORT_BYTES = 100.0  # of an IP packet with a report of one who receives nothing,
cdef double REPORT_SHARE = 0.05   # which may take so much of what the hop carries


# ---- life ------------------------------------------------------------------------------------

cdef bint hop_init(hop *h, slab_pool *pool, timer_wheel *wheel, tx_queue *tx, uint32_t first_esi) noexcept nogil:
    cdef uint8_t i
    h.pool = pool
    h.wheel = wheel
    h.tx = tx
    for i in range(HOP_PATHS):
        path_init(&h.paths[i], i)
        h.source_order[i] = h.repair_order[i] = i
    h.encoder = rlc_encoder_new(pool, HOP_WINDOW, first_esi)
    h.decoder = rlc_decoder_new(pool, HOP_SPAN, HOP_ROWS)
    h.sent_at = <int64_t *>calloc(HOP_WINDOW, sizeof(int64_t))
    h.known_at = <int64_t *>calloc(HOP_SPAN, sizeof(int64_t))
    h.window_first = first_esi
    return h.encoder != NULL and h.decoder != NULL and h.sent_at != NULL and h.known_at != NULL


cdef void hop_destroy(hop *h) noexcept nogil:
    timer_cancel(h.wheel, &h.timer)
    timer_cancel(h.wheel, &h.pace_timer)
    timer_cancel(h.wheel, &h.watch_timer)
    pacer_clear(&h.pacer, h.pool)
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
        h.view_at = 0
        rlc_decoder_reset(h.decoder)
        for i in range(HOP_PATHS):
            path_fresh(&h.paths[i])


# ---- control frames --------------------------------------------------------------------------

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


cdef int receive_control(hop *h, slab *s) noexcept nogil:
    if s.len == 0:
        h.stats.short_datagrams += 1
        return HOP_OK
    if h.control != NULL:
        slab_unref(h.pool, h.control)
    s.refs += 1
    h.control = s
    return HOP_CONTROL


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
    silence_heard(&h.silence, now, h.media_at)
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


# ---- time ------------------------------------------------------------------------------------

cdef inline void forget_sent(hop *h, int64_t now) noexcept nogil:
    """Move the edge of what is still kept for repair."""
    cdef uint32_t kept = h.encoder.first
    cdef int64_t oldest = now - h.params.send_budget - REPORT_INTERVAL
    while kept != h.encoder.next and h.sent_at[kept & (HOP_WINDOW - 1)] < oldest:
        kept += 1
    rlc_encoder_release(h.encoder, kept)
    if serial_diff(h.window_first, kept) < 0:
        h.window_first = kept


cdef void hop_timer(hop *h, int64_t now) noexcept nogil:
    cdef int64_t keep = h.params.receive_budget + SENDER_INTERVAL
    cdef bint receiving = h.media_at > h.report_at or (
        h.decoder.started and rlc_decoder_deficit(h.decoder) > 0)
    # For a budget after the last packet: any of these reports tells of a lost tail, or of our new address.
    cdef bint sending = h.source_at and now - h.source_at < h.params.send_budget
    cdef bint pausing = h.media_at and now - h.media_at < keep
    cdef bint beating = now < h.beats_until or h.echo.watched  # what is to be echoed has to be sent
    cdef int64_t interval = IDLE_INTERVAL, telling = SENDER_INTERVAL
    if h.params.pace > 0.0:
        telling = max(telling, <int64_t>(REPORT_BYTES / REPORT_SHARE / h.params.pace * 1e9))
    receiver_expire(h, now)
    forget_sent(h, now)
    if receiving:
        interval = REPORT_INTERVAL
    elif pausing:
        interval = SENDER_INTERVAL
    elif sending:
        interval = min(telling, IDLE_INTERVAL)
    if beating:
        interval = min(interval, max(beat_interval(now - h.source_at, h.beats_fast), telling - SENDER_INTERVAL))
    uplink_choose(h)
    if now - h.report_at >= interval:
        send_reports(h, now)
        h.report_at = now
    if beating:
        timer_schedule(h.wheel, &h.timer, now + min(interval, REPORT_INTERVAL))
    elif receiving or pausing:
        timer_schedule(h.wheel, &h.timer, now + REPORT_INTERVAL)
    elif sending:
        timer_schedule(h.wheel, &h.timer, now + min(telling, IDLE_INTERVAL))
    elif h.paths[h.active].keys != NULL or h.encoder.first != h.encoder.next:  # else keys or media will wake it
        timer_schedule(h.wheel, &h.timer, h.report_at + IDLE_INTERVAL)
