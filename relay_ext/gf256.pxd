# GF(2^8) region arithmetic for the other modules. They call through these functions and do not link
# csrc/gf256.c themselves: the process has one choice of kernel, and it is made here.
#
# Regions have any length and alignment; dst may be a source, but must not overlap one partly.
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint16_t, uint32_t

# dst ^= c * src
cdef void gf256_muladd(uint8_t *dst, const uint8_t *src, size_t len, uint8_t c) noexcept nogil
# dst = c * src
cdef void gf256_mul(uint8_t *dst, const uint8_t *src, size_t len, uint8_t c) noexcept nogil
# The multiplicative inverse; 0 for 0
cdef uint8_t gf256_inverse(uint8_t a) noexcept nogil

# dst ^= the sum of any number of products, of any lengths up to that of dst: gf256_sum_start, gf256_sum_add
# for each, gf256_sum_finish. Up to eight sources share a pass over dst as far as they reach.
ctypedef struct gf256_sum:
    uint8_t *dst
    uint32_t n
    const uint8_t *src[8]
    uint16_t len[8]
    uint8_t c[8]

cdef void gf256_sum_finish(gf256_sum *s) noexcept nogil

cdef inline void gf256_sum_start(gf256_sum *s, uint8_t *dst) noexcept nogil:
    s.dst = dst
    s.n = 0

cdef inline void gf256_sum_add(gf256_sum *s, const uint8_t *src, uint16_t len, uint8_t c) noexcept nogil:
    s.src[s.n] = src
    s.len[s.n] = len
    s.c[s.n] = c
    s.n += 1
    if s.n == 8:
        gf256_sum_finish(s)
