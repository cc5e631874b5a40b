# cython: boundscheck=False, wraparound=False
# Reads are checked against what there is, slabs against their pool.
"""The state of a packet plane as a run of bytes; archive.pxd is the interface."""
from libc.stdint cimport uint8_t, uint16_t, uint64_t
from libc.stdlib cimport realloc
from libc.string cimport memcpy, memset

from relay_ext.slab cimport SLAB_DATA
from relay_ext.timer cimport timer_armed, timer_schedule

cdef enum:
    BLOCK = 64  # bytes


cdef void carry(archive *a, void *what, size_t n) noexcept nogil:
    cdef void *more
    cdef size_t room
    if a.reading:
        if n > a.room - a.at:
            a.failed = True
            a.at = a.room
            memset(what, 0, n)
            return
        memcpy(what, a.data + a.at, n)
        a.at += n
        return
    if n > a.room - a.at:
        room = 2 * (a.room + n)
        more = realloc(a.data, room)
        if more == NULL:
            a.failed = True
            return
        a.data = <uint8_t *>more
        a.room = room
    memcpy(a.data + a.at, what, n)
    a.at += n


cdef void carry_between(archive *a, void *start, void *end) noexcept nogil:
    """Most of a peer is room for what has not happened: blocks of zeros are only told, and not written where there are
    zeros already, which would make their pages resident."""
    cdef uint8_t *at = <uint8_t *>start
    cdef size_t n = <size_t>(<uint8_t *>end - at)
    cdef uint64_t zeros
    cdef size_t i, blocks
    while n >= BLOCK:
        blocks = min(n // BLOCK, <size_t>64)
        zeros = 0
        for i in range(blocks):
            zeros |= <uint64_t>(not a.reading and is_zero(at + i * BLOCK)) << i
        carry(a, &zeros, sizeof(zeros))
        for i in range(blocks):
            if not zeros >> i & 1:
                carry(a, at, BLOCK)
            elif a.reading and not is_zero(at):
                memset(at, 0, BLOCK)
            at += BLOCK
        n -= blocks * BLOCK
    carry(a, at, n)


cdef inline bint is_zero(const uint8_t *block) noexcept nogil:
    cdef uint64_t words[8]
    cdef uint64_t found = 0
    cdef int i
    memcpy(words, block, BLOCK)
    for i in range(BLOCK // 8):
        found |= words[i]
    return found == 0


cdef uint32_t carry_number(archive *a, uint32_t n, uint32_t most) noexcept nogil:
    carry(a, &n, sizeof(n))
    if n > most:
        a.failed = True
        return 0
    return n


cdef void carry_pool(archive *a, slab_pool *pool) noexcept nogil:
    """All slabs in use with their counts, each in its place: a reference is then the number of a slab."""
    cdef uint32_t i, used = carry_number(a, pool.fresh, pool.capacity)
    cdef slab *s
    if a.reading and pool.fresh:
        a.failed = True
    for i in range(used):
        if a.failed:
            return
        s = &pool.slabs[i]
        s.refs = carry_number(a, s.refs, 0xFFFFFFFF)
        if s.refs:
            s.len = <uint16_t>carry_number(a, s.len, SLAB_DATA)
            carry(a, s.data, s.len)
            if a.reading:
                pool.in_use += 1
        elif a.reading:
            s.next = pool.free_list
            pool.free_list = s
        if a.reading:
            pool.fresh = i + 1


cdef void carry_slab(archive *a, slab_pool *pool, slab **s) noexcept nogil:
    cdef uint32_t i = carry_number(a, 0 if s[0] == NULL else <uint32_t>(s[0] - pool.slabs) + 1, pool.capacity)
    if not a.reading:
        return
    s[0] = NULL
    if i == 0:
        return
    if i > pool.fresh or pool.slabs[i - 1].refs == 0:
        a.failed = True
        return
    s[0] = &pool.slabs[i - 1]


cdef void carry_timer(archive *a, timer_wheel *wheel, timer_node *node) noexcept nogil:
    cdef int64_t deadline = node.deadline if timer_armed(node) else -1
    carry(a, &deadline, sizeof(deadline))
    if a.reading and deadline >= 0 and not a.failed:
        timer_schedule(wheel, node, deadline)
