# cython: boundscheck=False, wraparound=False
# No array is indexed here.
"""Playout: packets leave in origin order, at once where nothing is missing, else when the deadline of the
first packet behind the hole has come. That deadline is the packet's origin time, plus the least transit time
of the last 1 to 2 s (so clocks need not agree, may drift, and a path may change), plus the target.

The target follows measured delays: what all but one packet in a thousand have kept, plus three more rounds of
repair. The first is as far as a short memory can tell; the second is for what is too rare to be measured, repair
that was itself lost or the first loss of a clean link. It never exceeds the track's hold.
"""
from libc.stdint cimport int32_t, uint8_t
from libc.string cimport memset

from relay_ext.delay cimport (
    delay_floor_add, delay_floor_get, delay_histogram_add, delay_line_add, delay_quantile, delay_samples)
from relay_ext.egress cimport egress_send
from relay_ext.inner cimport INNER_FRAME_START, INNER_KEY, INNER_TIME_NS, serial_diff
from relay_ext.replay cimport replay_clear, replay_free
from relay_ext.ring cimport (
    RING_CAPACITY, RING_DUPLICATE, RING_LATE, RING_NO_MEMORY, RING_PART, RING_RESET, ring_destroy, ring_init,
    ring_insert, ring_next_held, ring_release, ring_reset, ring_skip, slot)
from relay_ext.rtp cimport RTP_OK, rtcp_parse, rtcp_sr, rtp_header, rtp_parse
from relay_ext.timer cimport timer_cancel, timer_schedule

cdef enum:
    KEY_START = INNER_KEY | INNER_FRAME_START

cdef int64_t REORDER_WAIT = 20000000       # ns; what the origin reports as missing is waited for this long
cdef int64_t SILENCE = 50000000            # ns without a packet, from which on they are no time in which repair could come
cdef int64_t ROUND_WAIT = 20000000         # ns; a round of repair is the RTT and so much: reports every 10 ms, of which some are lost
cdef int64_t ROUNDS = 3                    # to wait for beyond what was measured: a request and an answer may each be lost
cdef uint8_t GAP_MANY = 255                # of `gap`: so many or more
cdef double ENOUGH = 250.0                 # samples; fewer are no estimate of one in a thousand


cdef bint track_init(track *t, slab_pool *pool, timer_wheel *wheel, tx_queue *tx) noexcept nogil:
    t.pool = pool
    t.wheel = wheel
    t.tx = tx
    return ring_init(&t.ring, pool)


cdef void track_destroy(track *t) noexcept nogil:
    timer_cancel(t.wheel, &t.timer)
    replay_free(t.replay)
    ring_destroy(&t.ring)


cdef void track_restart(track *t) noexcept nogil:
    cdef egress *e = t.egresses
    timer_cancel(t.wheel, &t.timer)
    ring_reset(&t.ring)
    if t.replay != NULL:
        replay_clear(t.replay)
    memset(&t.floor, 0, sizeof(t.floor))
    memset(&t.line, 0, sizeof(t.line))
    memset(&t.delays, 0, sizeof(t.delays))
    t.clock.known = False
    t.broken = False
    while e != NULL:
        e.rebase = True
        e = e.next


cdef inline int64_t unwrap_origin(track *t, uint32_t time) noexcept nogil:
    cdef uint32_t last = <uint32_t>(t.last_origin // INNER_TIME_NS)
    if t.floor.since == 0:
        t.last_origin = <int64_t>time * INNER_TIME_NS
    else:
        t.last_origin += <int64_t>(<int32_t>(time - last)) * INNER_TIME_NS
    return t.last_origin


cdef int64_t track_observe(track *t, int64_t now, uint32_t time) noexcept nogil:
    cdef int64_t origin = unwrap_origin(t, time)
    delay_floor_add(&t.floor, now, now - origin)
    t.added_delay = delay_line_add(&t.line, now, now - origin)
    return origin


cdef inline void note_arrival(track *t, int64_t now) noexcept nogil:
    if t.heard and now - t.heard > SILENCE:
        t.silence = now - t.heard
        t.silence_end = now
    t.heard = now


cdef inline int64_t silence_since(const track *t, int64_t now, int64_t time) noexcept nogil:
    """For how long since then nothing has come."""
    cdef int64_t silence = max(min(t.silence, t.silence_end - time), 0)
    if now - t.heard > SILENCE:
        silence += max(min(now - t.heard, now - time), 0)  # of a packet that is not due yet, none
    return silence


cdef int track_insert(track *t, int64_t now, const inner *h, slab *body, uint16_t off) noexcept nogil:
    cdef int64_t origin = track_observe(t, now, h.time)
    cdef int64_t delay
    cdef int status
    note_arrival(t, now)
    make_room(t, now, h.seq)
    status = ring_insert(&t.ring, h, body, off, origin, now)
    if status == RING_DUPLICATE:
        t.stats.duplicate += 1
        return status
    delay = now - origin - delay_floor_get(&t.floor)
    if delay <= t.hold:  # no wait would have saved what came later; what came too late counts
        delay_histogram_add(&t.delays, now, delay)
    if status == RING_LATE:
        t.stats.late += 1
        return status
    if status == RING_NO_MEMORY:
        t.stats.no_memory += 1
        return status
    t.stats.received_bytes += h.length
    if status != RING_PART:
        t.stats.received += 1
    if status == RING_RESET:
        t.stats.resets += 1
    return status


cdef int64_t track_target(const track *t) noexcept nogil:
    if t.rtt == 0 or delay_samples(&t.delays) < ENOUGH:
        return t.hold
    return min(delay_quantile(&t.delays) + ROUNDS * (max(t.rtt, t.rtt_before) + ROUND_WAIT), t.hold)


cdef inline int64_t deadline_of(track *t, int64_t now, const slot *s) noexcept nogil:
    """When `s` goes out although packets before it are missing. A long hole is waited for longer, by its own length:
    the repair packets for an outage take as long to send. So is one that an outage keeps from being mended."""
    cdef int64_t hole = max(s.origin - t.released, 0) if t.ring.started else 0
    cdef int64_t due = s.origin + delay_floor_get(&t.floor) + s.waited
    cdef int64_t deadline = due + min(track_target(t) + hole + silence_since(t, now, due), t.hold)
    if t.ring.started and (s.gap == GAP_MANY or serial_diff(s.seq, t.ring.next) <= s.gap):
        deadline = min(deadline, s.arrival + REORDER_WAIT)
    return deadline


cdef void track_release(track *t, int64_t now) noexcept nogil:
    cdef slot *s = ring_next_held(&t.ring)
    cdef int64_t deadline
    while s != NULL:
        if not t.ring.started or s.seq != t.ring.next:
            deadline = deadline_of(t, now, s)
            if now < deadline:
                timer_schedule(t.wheel, &t.timer, deadline)
                return
        release(t, now, s)
        s = ring_next_held(&t.ring)
    timer_cancel(t.wheel, &t.timer)


cdef inline void give_up(track *t, uint32_t seq) noexcept nogil:
    """What is missing before `seq` is not waited for any more."""
    if t.ring.started:
        t.stats.lost += <uint32_t>serial_diff(seq, t.ring.next)
        t.broken = t.stats.key_frames > 0
    ring_skip(&t.ring, seq)


cdef inline void release(track *t, int64_t now, slot *s) noexcept nogil:
    if not t.ring.started or s.seq != t.ring.next:
        give_up(t, s.seq)
    if s.flags & KEY_START == KEY_START:
        t.stats.key_frames += 1
        t.broken = False
    send(t, now, s)
    t.released = s.origin
    ring_release(&t.ring, s)


cdef inline void make_room(track *t, int64_t now, uint32_t seq) noexcept nogil:
    """Behind an old hole a fast track fills the ring: its old end leaves before its time. Further ahead than two
    rings is a jump, and for ring_insert to answer."""
    cdef uint32_t first = seq - RING_CAPACITY + 1
    cdef slot *s
    if not t.ring.started or not 0 < serial_diff(first, t.ring.next) <= RING_CAPACITY:
        return
    s = ring_next_held(&t.ring)
    while s != NULL and serial_diff(s.seq, first) < 0:
        release(t, now, s)
        s = ring_next_held(&t.ring)
    if serial_diff(first, t.ring.next) > 0:
        give_up(t, first)


cdef inline void send(track *t, int64_t now, const slot *s) noexcept nogil:
    cdef rtp_header h
    cdef egress *e = t.egresses
    if rtp_parse(s.body.data + s.off, s.len, &h) != RTP_OK:
        t.stats.malformed += 1  # only a peer can send it: ingest has parsed what it takes
        return
    t.ssrc = h.ssrc
    t.stats.delivered += 1
    while e != NULL:
        egress_send(e, t.tx, t.pool, now, s, &h, t.clock_rate, &t.clock)
        e = e.next


cdef void track_sender_report(track *t, const uint8_t *data, uint16_t n) noexcept nogil:
    cdef rtcp_sr report
    cdef bint has_report, bye
    memset(&report, 0, sizeof(report))
    if rtcp_parse(data, n, &report, &has_report, &bye) == RTP_OK and has_report:
        t.clock.report = report
        t.clock.known = True
