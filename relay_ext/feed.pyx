# cython: boundscheck=False, wraparound=False, cdivision=True
# No array is indexed here.
"""The peers that a track is sent to: the same payload for each, behind an inner header of its own."""
from libc.stdlib cimport free

from relay_ext.inner cimport INNER_FIRST, INNER_LAST, INNER_MAX_HOPS, INNER_RTCP, INNER_START, inner_age, serial_diff
from relay_ext.mailbox cimport mail_post
from relay_ext.playout cimport track_insert, track_sender_report
from relay_ext.replay cimport kept, replay_at, replay_free, replay_keep
from relay_ext.ring cimport RING_LATE, RING_PART, RING_RESET, RING_STORED, ring_find, slot
from relay_ext.rtp cimport rtcp_build_sr
from relay_ext.sender cimport hop_send
from relay_ext.slab cimport slab_get, slab_unref


cdef void feed_add(feed **feeds, feed *f) noexcept nogil:
    f.next = feeds[0]
    feeds[0] = f
    if f.to != NULL:
        f.next_here = <feed *>f.to.feeds
        f.to.feeds = f


cdef void feed_remove(feed **feeds, feed *f) noexcept nogil:
    cdef feed **at = feeds
    while at[0] != f:
        at = &at[0].next
    at[0] = f.next
    if f.to != NULL:
        at = <feed **>&f.to.feeds
        while at[0] != f:
            at = &at[0].next_here
        at[0] = f.next_here
    if f.kept:
        let_go(f.track)
    free(f)


cdef inline void let_go(track *t) noexcept nogil:
    """Packets are kept as long as there is somebody for whom."""
    t.replay.holders -= 1
    if t.replay.holders == 0:
        replay_free(t.replay)
        t.replay = NULL


cdef void feed_hold(feed *f, replay *spare) noexcept nogil:
    if f.track.replay == NULL:
        f.track.replay = spare
        spare.pool = f.track.pool
    else:
        free(spare)
    f.track.replay.holders += not f.kept
    f.held = f.kept = True
    f.started = False


cdef void feed_release(feed *f, mailroom *mail, int64_t now, const uint32_t *since) noexcept nogil:
    f.held = False
    if not f.kept:
        return
    f.kept = False
    if since != NULL:
        send_again(f, mail, now, f.track.replay.first, since)
    let_go(f.track)


cdef void feed_resume(feed *f, mailroom *mail, int64_t now, int64_t period) noexcept nogil:
    cdef replay *r = f.track.replay
    cdef uint32_t i
    if not f.held:
        return
    f.held = False
    i = r.first
    while i != r.next and replay_at(r, i).at < now - period:
        i += 1
    send_again(f, mail, now, i, NULL)


cdef void send_again(feed *f, mailroom *mail, int64_t now, uint32_t i, const uint32_t *since) noexcept nogil:
    """Of what is kept, from number `i` and that origin sequence on."""
    cdef replay *r = f.track.replay
    cdef kept *k
    cdef inner h
    while i != r.next:
        k = replay_at(r, i)
        i += 1
        if since == NULL or serial_diff(k.header.seq, since[0]) >= 0:
            h = k.header
            h.age = inner_age(h.age, now - k.at)
            send(f, mail, f.track, now, &h, k.body, k.off)


cdef inline bint send(feed *f, mailroom *mail, track *t, int64_t now, const inner *header, slab *body,
                      uint16_t off) noexcept nogil:
    """True for the first packet that the peer is sent."""
    cdef inner h = header[0]
    cdef bint first = not f.started and not header.flags & INNER_RTCP
    if header.age > f.age_max:
        t.stats.expired += 1
        return False
    h.stream = f.stream
    h.track = f.alias
    h.epoch = f.epoch
    h.flags &= ~<uint8_t>(INNER_FIRST | INNER_LAST)
    if first:
        f.started = True
        if t.ring.started:  # else what comes from a peer may be overtaken by the track's first packet
            h.flags |= INNER_START
    if f.to != NULL:
        hop_send(f.to, now, &h, body, off)
    else:
        mail_post(mail, now, f.far, &h, body.data + off)
    return first


cdef bint feeds_send(feed *f, mailroom *mail, track *t, int64_t now, const inner *header, slab *body,
                     uint16_t off) noexcept nogil:
    cdef bint started = False
    if t.replay != NULL and not header.flags & INNER_RTCP:
        replay_keep(t.replay, now, header, body, off)
    while f != NULL:
        if not f.held:
            started |= send(f, mail, t, now, header, body, off)
        f = f.next
    return started


cdef bint feeds_insert(feed *f, mailroom *mail, track *t, int64_t now, int64_t arrival, const inner *header, slab *body,
                       uint16_t off) noexcept nogil:
    """On to other peers at once, in any order, and into the ring here. The caller releases what may go when it has
    inserted all that came together: repair does not bring it in order."""
    cdef int status
    if header.flags & INNER_RTCP:
        track_sender_report(t, body.data + off, header.length)
        relay(f, mail, t, now, arrival, header, body, off)
        return False
    status = track_insert(t, arrival, header, body, off)
    if f != NULL:
        relay_inserted(f, mail, t, now, arrival, header, body, off, status)
    return status == RING_STORED or status == RING_RESET or status == RING_PART


cdef bint relay(feed *f, mailroom *mail, track *t, int64_t now, int64_t arrival, const inner *header, slab *body,
                uint16_t off) noexcept nogil:
    """Origin sequence, time, flags and gap stay; the peers see one more hop, and the time that it took here."""
    cdef inner h = header[0]
    if f == NULL:
        return False
    if header.hops + 1 >= INNER_MAX_HOPS:
        t.stats.too_many_hops += 1
        return False
    h.hops += 1
    h.age = inner_age(header.age, now - arrival)
    t.stats.relayed += not header.flags & INNER_RTCP
    return feeds_send(f, mail, t, now, &h, body, off)


cdef void relay_inserted(feed *f, mailroom *mail, track *t, int64_t now, int64_t arrival, const inner *header,
                         slab *body, uint16_t off, int status) noexcept nogil:
    cdef inner whole = header[0]
    cdef slot *s
    if status == RING_STORED or status == RING_RESET:  # of two parts, the second has completed it
        s = ring_find(&t.ring, header.seq)
        whole.length = s.len
        whole.flags |= s.flags
        body = s.body
        off = s.off
    elif status != RING_LATE or not (header.flags & INNER_FIRST and header.flags & INNER_LAST):
        return  # what is late for playout here may not be for one that waits for longer
    if relay(f, mail, t, now, arrival, &whole, body, off) and t.clock.known:
        tell_report(f, mail, t, now, arrival, &whole)


cdef void tell_report(feed *f, mailroom *mail, track *t, int64_t now, int64_t arrival, const inner *header) noexcept nogil:
    """Behind the first packet for a peer, the last sender report: the next may be seconds away."""
    cdef inner h = header[0]
    cdef slab *report = slab_get(t.pool)
    if report == NULL:
        t.stats.no_memory += 1
        return
    h.flags = INNER_RTCP
    h.length = report.len = <uint16_t>rtcp_build_sr(report.data, &t.clock.report, <const uint8_t *>b"", 0)
    relay(f, mail, t, now, arrival, &h, report, 0)
    slab_unref(t.pool, report)
