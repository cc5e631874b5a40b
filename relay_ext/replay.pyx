# cython: boundscheck=False, wraparound=False
# Packets are addressed through a mask.
"""The last packets of a track that was sent to peers: half a second, as far as there is memory."""
from libc.stdlib cimport free

from relay_ext.slab cimport slab_ref, slab_unref

cdef int64_t KEEP = 500000000  # ns; SILENCE_MOST, and a round trip


cdef inline void drop_first(replay *r) noexcept nogil:
    slab_unref(r.pool, replay_at(r, r.first).body)
    r.first += 1


cdef void replay_keep(replay *r, int64_t now, const inner *header, slab *body, uint16_t off) noexcept nogil:
    cdef kept *k
    while r.first != r.next and (now - replay_at(r, r.first).at > KEEP or r.next - r.first == REPLAY_CAPACITY):
        drop_first(r)
    if r.pool.in_use > r.pool.capacity // 2:  # packets that are on their way come first
        replay_clear(r)
        return
    k = replay_at(r, r.next)
    k.header = header[0]
    k.body = slab_ref(body)
    k.off = off
    k.at = now
    r.next += 1


cdef void replay_clear(replay *r) noexcept nogil:
    while r.first != r.next:
        drop_first(r)


cdef void replay_free(replay *r) noexcept nogil:
    if r != NULL:
        replay_clear(r)
        free(r)
