# cython: boundscheck=False
# (the only index is 0, of regions that may be empty: the address is taken, and read for `len` bytes at most)
"""The choice of the GF(2^8) region kernel, and the kernels for Python's tests and measurements.

The fastest kernel that the processor runs is chosen when the module is imported; `RELAY_GF256` names another.
"""
import os

from libc.stdlib cimport free, malloc

cdef extern from "gf256.h" nogil:
    ctypedef struct gf256_kernel:
        const char *name
        void (*muladd)(uint8_t *dst, const uint8_t *src, size_t len, uint8_t c) noexcept nogil
        void (*mul)(uint8_t *dst, const uint8_t *src, size_t len, uint8_t c) noexcept nogil
        void (*muladd8)(uint8_t *dst, const uint8_t *const *src, size_t len, const uint8_t *c) noexcept nogil
    const gf256_kernel *gf256_kernel_at(unsigned i)
    uint8_t inverse_of "gf256_inverse"(uint8_t a)

cdef enum:
    SHARED_PASS = 4  # from so many sources on, one pass for eight costs less than one for each

cdef const gf256_kernel *kernel  # never NULL once the module is imported


cdef void gf256_muladd(uint8_t *dst, const uint8_t *src, size_t len, uint8_t c) noexcept nogil:
    kernel.muladd(dst, src, len, c)


cdef void gf256_mul(uint8_t *dst, const uint8_t *src, size_t len, uint8_t c) noexcept nogil:
    kernel.mul(dst, src, len, c)


cdef void gf256_sum_finish(gf256_sum *s) noexcept nogil:
    cdef uint8_t *dst = s.dst
    cdef uint16_t shortest
    cdef uint32_t i, longer
    while s.n >= SHARED_PASS:
        shortest = s.len[0]
        for i in range(1, s.n):
            shortest = min(shortest, s.len[i])
        for i in range(s.n, 8):
            s.src[i] = s.src[0]
            s.c[i] = 0
        kernel.muladd8(dst, <const uint8_t *const *>s.src, shortest, s.c)
        longer = 0
        for i in range(s.n):
            if s.len[i] > shortest:
                s.src[longer] = s.src[i] + shortest
                s.len[longer] = s.len[i] - shortest
                s.c[longer] = s.c[i]
                longer += 1
        s.n = longer
        dst += shortest
    for i in range(s.n):
        kernel.muladd(dst, s.src[i], s.len[i], s.c[i])
    s.n = 0


cdef uint8_t gf256_inverse(uint8_t a) noexcept nogil:
    return inverse_of(a)


def available():
    cdef unsigned i = 0
    names = []
    while gf256_kernel_at(i) != NULL:
        names.append(gf256_kernel_at(i).name.decode())
        i += 1
    return tuple(names)


def selected():
    return kernel.name.decode()


def select(str name):
    global kernel
    names = available()
    if name not in names:
        raise ValueError(f"no GF(2^8) kernel {name!r} on this processor: choose one of {', '.join(names)}")
    kernel = gf256_kernel_at(names.index(name))


def inverse(uint8_t a):
    return inverse_of(a)


def muladd(uint8_t[::1] dst, const uint8_t[::1] src, uint8_t c, size_t times=1):
    same_length(dst, src)
    with nogil:
        for _ in range(times):
            gf256_muladd(&dst[0], &src[0], dst.shape[0], c)


def mul(uint8_t[::1] dst, const uint8_t[::1] src, uint8_t c, size_t times=1):
    same_length(dst, src)
    with nogil:
        for _ in range(times):
            gf256_mul(&dst[0], &src[0], dst.shape[0], c)


def muladd_sum(uint8_t[::1] dst, sources, const uint8_t[::1] c, size_t times=1):
    cdef const uint8_t[::1] source
    cdef gf256_sum sum
    cdef list views = [memoryview(s) for s in sources]  # holds the regions
    cdef size_t n = len(views)
    cdef size_t i
    if <size_t>c.shape[0] != n:
        raise ValueError(f"{n} sources and {c.shape[0]} constants")
    cdef const uint8_t **starts = <const uint8_t **>malloc((n + 1) * sizeof(uint8_t *))
    cdef uint16_t *lengths = <uint16_t *>malloc((n + 1) * sizeof(uint16_t))
    try:
        if starts == NULL or lengths == NULL:
            raise MemoryError
        for i in range(n):
            source = views[i]
            if source.shape[0] > min(dst.shape[0], 65535):
                raise ValueError(f"a source of {source.shape[0]} bytes for a region of {dst.shape[0]}")
            starts[i] = &source[0]
            lengths[i] = source.shape[0]
        with nogil:
            for _ in range(times):
                gf256_sum_start(&sum, &dst[0])
                for i in range(n):
                    gf256_sum_add(&sum, starts[i], lengths[i], c[i])
                gf256_sum_finish(&sum)
    finally:
        free(starts)
        free(lengths)


cdef same_length(const uint8_t[::1] a, const uint8_t[::1] b):
    if a.shape[0] != b.shape[0]:
        raise ValueError(f"regions of {a.shape[0]} and {b.shape[0]} bytes")


select(os.environ.get("RELAY_GF256") or available()[-1])
