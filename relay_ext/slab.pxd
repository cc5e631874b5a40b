# Slabs: fixed 2 KB buffers with a reference count, from a pool that is allocated once.
#
# A slab belongs to one engine thread, so the count is a plain integer. `slab_get` never calls the
# allocator: an empty pool answers NULL and counts it, and the caller drops the packet under its own counter.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef enum:
    SLAB_DATA = 2032  # bytes of data; with the 16 bytes of bookkeeping a slab is 2 KB

ctypedef struct slab:
    slab *next        # free list
    uint32_t refs
    uint16_t len      # bytes of `data` in use, set by whoever fills it
    uint16_t spare
    uint8_t data[2032]

ctypedef struct slab_pool:
    slab *free_list
    slab *slabs       # mapped, not touched until used: an idle node does not pay for its pool
    uint32_t capacity
    uint32_t fresh    # slabs[fresh:] were never used
    uint32_t in_use
    uint64_t exhausted  # requests that found the pool empty

cdef slab_pool *slab_pool_new(uint32_t capacity) noexcept nogil  # NULL: out of memory
cdef void slab_pool_free(slab_pool *pool) noexcept nogil

cdef inline slab *slab_get(slab_pool *pool) noexcept nogil:
    """A slab with one reference and undefined content; NULL when the pool is empty."""
    cdef slab *s = pool.free_list
    if s != NULL:
        pool.free_list = s.next
    elif pool.fresh < pool.capacity:
        s = &pool.slabs[pool.fresh]
        pool.fresh += 1
    else:
        pool.exhausted += 1
        return NULL
    s.refs = 1
    s.len = 0
    pool.in_use += 1
    return s

cdef inline slab *slab_ref(slab *s) noexcept nogil:
    s.refs += 1
    return s

cdef inline void slab_unref(slab_pool *pool, slab *s) noexcept nogil:
    s.refs -= 1
    if s.refs == 0:
        s.next = pool.free_list
        pool.free_list = s
        pool.in_use -= 1
