"""The slab pool's set-up; the hot functions are inline in slab.pxd."""
from libc.stdlib cimport calloc, free


cdef extern from "<sys/mman.h>" nogil:
    void *mmap(void *addr, size_t length, int prot, int flags, int fd, long offset)
    int munmap(void *addr, size_t length)
    int PROT_READ, PROT_WRITE, MAP_PRIVATE, MAP_ANONYMOUS, MAP_NORESERVE
    void *MAP_FAILED


cdef slab_pool *slab_pool_new(uint32_t capacity) noexcept nogil:
    cdef slab_pool *pool = <slab_pool *>calloc(1, sizeof(slab_pool))
    if pool == NULL:
        return NULL
    pool.slabs = <slab *>mmap(NULL, <size_t>capacity * sizeof(slab), PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
    if pool.slabs == <slab *>MAP_FAILED:
        free(pool)
        return NULL
    pool.capacity = capacity
    return pool


cdef void slab_pool_free(slab_pool *pool) noexcept nogil:
    if pool != NULL:
        munmap(pool.slabs, <size_t>pool.capacity * sizeof(slab))
        free(pool)
