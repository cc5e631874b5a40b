# The last packets of a track that was sent to peers, for one that takes it over from another.
from libc.stdint cimport int64_t, uint16_t, uint32_t

from relay_ext.inner cimport inner
from relay_ext.slab cimport slab, slab_pool

cdef enum:
    REPLAY_CAPACITY = 1024    # packets, as a ring

ctypedef struct kept:
    inner header              # as it would have been sent
    slab *body
    int64_t at                # ns
    uint16_t off

ctypedef struct replay:
    slab_pool *pool
    uint32_t holders          # peers that it is kept for
    uint32_t first            # number of the oldest packet that is kept
    uint32_t next
    kept packets[1024]

cdef void replay_keep(replay *r, int64_t now, const inner *header, slab *body, uint16_t off) noexcept nogil
cdef void replay_clear(replay *r) noexcept nogil
cdef void replay_free(replay *r) noexcept nogil       # NULL: there is none

cdef inline kept *replay_at(replay *r, uint32_t number) noexcept nogil:
    return &r.packets[number & (REPLAY_CAPACITY - 1)]
