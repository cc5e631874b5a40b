# cython: boundscheck=False
# (the only index is 0, of regions that may be empty: the address is taken, and read for `len` bytes at most)
"""The choice of the GF(2^8) region kernel, and the kernels for Python's tests and measurements.

The fastest kernel that the processor runs is chosen when the module is imported; `RELAY_GF256` names another.
"""
import os

cdef extern from "gf256.h" nogil:
    ctypedef struct gf256_kernel:
        const char *name
        void (*muladd)(uint8_t *dst, const uint8_t *src, size_t len, uint8_t c) noexcept nogil
        void (*mul)(uint8_t *dst, const uint8_t *src, size_t len, uint8_t c) noexcept nogil
        void (*muladd4)(uint8_t *dst, const uint8_t *const *src, size_t len, const uint8_t *c) noexcept nogil
    const gf256_kernel *gf256_kernel_at(unsigned i)
    uint8_t inverse_of "gf256_inverse"(uint8_t a)

cdef const gf256_kernel *kernel  # never NULL once the module is imported


cdef void gf256_muladd(uint8_t *dst, const uint8_t *src, size_t len, uint8_t c) noexcept nogil:
    kernel.muladd(dst, src, len, c)


cdef void gf256_mul(uint8_t *dst, const uint8_t *src, size_t len, uint8_t c) noexcept nogil:
    kernel.mul(dst, src, len, c)


cdef void gf256_muladd4(uint8_t *dst, const uint8_t **src, size_t len, const uint8_t *c) noexcept nogil:
    kernel.muladd4(dst, <const uint8_t *const *>src, len, c)


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


def muladd4(uint8_t[::1] dst, sources, const uint8_t[::1] c, size_t times=1):
    cdef const uint8_t *pointers[4]
    cdef const uint8_t[::1] s0, s1, s2, s3
    s0, s1, s2, s3 = sources
    if c.shape[0] != 4:
        raise ValueError(f"4 constants expected, not {c.shape[0]}")
    same_length(dst, s0)
    same_length(dst, s1)
    same_length(dst, s2)
    same_length(dst, s3)
    pointers[0] = &s0[0]
    pointers[1] = &s1[0]
    pointers[2] = &s2[0]
    pointers[3] = &s3[0]
    with nogil:
        for _ in range(times):
            gf256_muladd4(&dst[0], pointers, dst.shape[0], &c[0])


cdef same_length(const uint8_t[::1] a, const uint8_t[::1] b):
    if a.shape[0] != b.shape[0]:
        raise ValueError(f"regions of {a.shape[0]} and {b.shape[0]} bytes")


select(os.environ.get("RELAY_GF256") or available()[-1])
