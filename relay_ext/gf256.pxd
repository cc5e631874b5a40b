# GF(2^8) region arithmetic for the other modules. They call through these functions and do not link
# csrc/gf256.c themselves: the process has one choice of kernel, and it is made here.
#
# Regions have any length and alignment; dst may be a source, but must not overlap one partly.
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t

cdef void gf256_muladd(uint8_t *dst, const uint8_t *src, size_t len, uint8_t c) noexcept nogil  # dst ^= c * src
cdef void gf256_mul(uint8_t *dst, const uint8_t *src, size_t len, uint8_t c) noexcept nogil     # dst = c * src
cdef void gf256_muladd4(uint8_t *dst, const uint8_t **src, size_t len,
                        const uint8_t *c) noexcept nogil  # dst ^= the sum of c[k] * src[k] over four sources
cdef uint8_t gf256_inverse(uint8_t a) noexcept nogil      # 0 for 0
