# cython: boundscheck=False, wraparound=False, cdivision=True
# No array is indexed here.
"""The peers that a track is sent to: the same payload for each, behind an inner header of its own."""
from relay_ext.inner cimport INNER_FIRST, INNER_LAST, INNER_MAX_HOPS, INNER_RTCP, INNER_START, inner_age
from relay_ext.mailbox cimport mail_post
from relay_ext.sender cimport hop_send


cdef bint feeds_send(feed *f, mailroom *mail, track *t, int64_t now, const inner *header, slab *body,
                     uint16_t off) noexcept nogil:
    cdef inner h = header[0]
    cdef uint8_t flags = header.flags & ~<uint8_t>(INNER_FIRST | INNER_LAST)
    cdef bint started = False
    while f != NULL:
        if header.age > f.age_max:
            t.stats.expired += 1
            f = f.next
            continue
        h.stream = f.stream
        h.track = f.track
        h.epoch = f.epoch
        h.flags = flags
        if not f.started and not flags & INNER_RTCP:
            f.started = started = True
            if t.ring.started:  # else what comes from a peer may be overtaken by the track's first packet
                h.flags |= INNER_START
        if f.to != NULL:
            hop_send(f.to, now, &h, body, off)
        else:
            mail_post(mail, now, f.far, &h, body.data + off)
        f = f.next
    return started


cdef bint feeds_relay(feed *f, mailroom *mail, track *t, int64_t now, int64_t arrival, const inner *header, slab *body,
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
    t.stats.relayed += 1
    return feeds_send(f, mail, t, now, &h, body, off)
