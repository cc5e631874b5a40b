# cython: boundscheck=False, wraparound=False
# Slots are always addressed through `sequence & (RING_CAPACITY - 1)`.
"""A track's ring: packets by origin sequence, each once, until playout has passed them."""
from libc.stdint cimport int32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from relay_ext.inner cimport INNER_FIRST, INNER_LAST, INNER_START, INNER_TIME_NS, serial_diff
from relay_ext.slab cimport SLAB_DATA, slab_get, slab_ref, slab_unref


cdef inline slot *slot_at(ring *r, uint32_t seq) noexcept nogil:
    return &r.slots[seq & (RING_CAPACITY - 1)]


cdef bint ring_init(ring *r, slab_pool *pool) noexcept nogil:
    r.pool = pool
    r.slots = <slot *>calloc(RING_CAPACITY, sizeof(slot))
    return r.slots != NULL


cdef inline void slot_clear(ring *r, slot *s) noexcept nogil:
    if s.body != NULL:
        slab_unref(r.pool, s.body)
        s.body = NULL
    if s.state == SLOT_FULL:
        r.held -= 1
    s.state = SLOT_EMPTY


cdef void ring_reset(ring *r) noexcept nogil:
    cdef int i
    for i in range(RING_CAPACITY):
        slot_clear(r, &r.slots[i])
    r.occupied = False
    r.started = False


cdef void ring_destroy(ring *r) noexcept nogil:
    if r.slots != NULL:
        ring_reset(r)
        free(r.slots)
        r.slots = NULL


cdef bint join_parts(ring *r, slot *s, const inner *h, slab *body, uint16_t off) noexcept nogil:
    """Make one packet of the part in `s` and this one; False when there is no slab or they do not fit."""
    cdef slab *whole
    cdef uint32_t total = <uint32_t>s.len + h.length
    if total > SLAB_DATA:
        return False
    whole = slab_get(r.pool)
    if whole == NULL:
        return False
    if h.flags & INNER_LAST:
        memcpy(whole.data, s.body.data + s.off, s.len)
        memcpy(whole.data + s.len, body.data + off, h.length)
    else:
        memcpy(whole.data, body.data + off, h.length)
        memcpy(whole.data + h.length, s.body.data + s.off, s.len)
    slab_unref(r.pool, s.body)
    s.body = whole
    s.off = 0
    s.len = <uint16_t>total
    return True


cdef inline bint advance(ring *r, uint32_t seq) noexcept nogil:
    """Make room for seq; True when it is so far from the rest that the ring was emptied."""
    cdef int32_t ahead
    if r.occupied:
        ahead = serial_diff(seq, r.next if r.started else r.lowest)
        # Back from `highest` as a plain difference: across half of the number space a serial one changes sign.
        if ahead >= RING_CAPACITY or ahead < 0 and (r.started or r.highest - seq >= 2 * RING_CAPACITY):
            ring_reset(r)
            r.lowest = r.highest = seq
            r.occupied = True
            return True
        if serial_diff(seq, r.highest) > 0:
            r.highest = seq
        if serial_diff(seq, r.lowest) < 0:
            r.lowest = seq
        return False
    r.occupied = True
    r.lowest = r.highest = seq
    return False


cdef inline bint note_late(slot *s, const inner *h) noexcept nogil:
    """False for a packet that is known. One that is not is remembered, unless a newer one has its slot."""
    if s.seq == h.seq and s.state == SLOT_DONE:
        return False
    if s.body == NULL and (s.state == SLOT_EMPTY or serial_diff(s.seq, h.seq) < 0):
        if (h.flags & (INNER_FIRST | INNER_LAST)) == (INNER_FIRST | INNER_LAST):
            s.seq = h.seq
            s.state = SLOT_DONE
    return True


cdef int ring_insert(ring *r, const inner *h, slab *body, uint16_t off, int64_t origin,
                     int64_t arrival) noexcept nogil:
    cdef slot *s = slot_at(r, h.seq)
    cdef uint8_t part = h.flags & (INNER_FIRST | INNER_LAST)
    cdef bint reset
    if r.started and 0 > serial_diff(h.seq, r.next) > -2 * RING_CAPACITY:
        return RING_LATE if note_late(s, h) else RING_DUPLICATE
    reset = advance(r, h.seq)
    if s.seq != h.seq or s.state == SLOT_DONE:
        slot_clear(r, s)
    if s.state == SLOT_FULL or (s.state == SLOT_PART and s.flags & part):
        return RING_DUPLICATE
    if s.state == SLOT_PART:
        if not join_parts(r, s, h, body, off):
            return RING_NO_MEMORY
        s.flags |= h.flags
    else:
        s.body = slab_ref(body)
        s.seq = h.seq
        s.off = off
        s.len = h.length
        s.origin = origin
        s.arrival = arrival
        s.flags = h.flags
        s.gap = h.gap
        s.waited = 0 if h.hops else h.sent_age * INNER_TIME_NS
    if (s.flags & (INNER_FIRST | INNER_LAST)) != (INNER_FIRST | INNER_LAST):
        s.state = SLOT_PART
        return RING_PART
    s.state = SLOT_FULL
    r.held += 1
    # With older packets in the ring it was overtaken: the order is then made at their deadline.
    if not r.started and s.flags & INNER_START and h.seq == r.lowest:
        r.next = h.seq
        r.started = True
    return RING_RESET if reset else RING_STORED


cdef slot *ring_find(ring *r, uint32_t seq) noexcept nogil:
    return slot_at(r, seq)


cdef slot *ring_next_held(ring *r) noexcept nogil:
    cdef uint32_t seq
    cdef slot *s
    if r.held == 0:
        return NULL
    seq = r.next if r.started else r.lowest
    while serial_diff(seq, r.highest) <= 0:
        s = slot_at(r, seq)
        if s.state == SLOT_FULL and s.seq == seq:
            return s
        seq += 1
    return NULL


cdef void ring_skip(ring *r, uint32_t seq) noexcept nogil:
    cdef slot *s
    if r.started:
        while r.next != seq:
            s = slot_at(r, r.next)
            if s.seq == r.next:
                slot_clear(r, s)  # a part whose other half never came
            r.next += 1
    r.next = seq
    r.started = True


cdef void ring_release(ring *r, slot *s) noexcept nogil:
    slab_unref(r.pool, s.body)
    s.body = NULL
    s.state = SLOT_DONE
    r.held -= 1
    r.next = s.seq + 1
    r.started = True
