# The coding coefficients of RFC 8681, from TinyMT32 (RFC 8682) with the parameter set that the RFCs fix.
from libc.stdint cimport uint8_t, uint16_t, uint32_t

cdef enum:
    TINYMT32_MAT1 = 0x8F7011EE
    TINYMT32_MAT2 = 0xFC78FF1F
    TINYMT32_TMAT = 0x3793FDFF

ctypedef struct tinymt32:
    uint32_t s[4]

cdef inline void tinymt32_next(tinymt32 *t) noexcept nogil:
    cdef uint32_t x = (t.s[0] & 0x7FFFFFFF) ^ t.s[1] ^ t.s[2]
    cdef uint32_t y = t.s[3]
    cdef uint32_t odd
    x ^= x << 1
    y ^= (y >> 1) ^ x
    odd = 0 - (y & 1)  # all ones or zero: a branch here would be mispredicted half the time
    t.s[0] = t.s[1]
    t.s[1] = t.s[2] ^ (odd & <uint32_t>TINYMT32_MAT1)
    t.s[2] = x ^ (y << 10) ^ (odd & <uint32_t>TINYMT32_MAT2)
    t.s[3] = y

cdef inline void tinymt32_seed(tinymt32 *t, uint32_t seed) noexcept nogil:
    cdef uint32_t i
    t.s = [seed, <uint32_t>TINYMT32_MAT1, <uint32_t>TINYMT32_MAT2, <uint32_t>TINYMT32_TMAT]
    for i in range(1, 8):
        t.s[i & 3] ^= i + <uint32_t>1812433253 * (t.s[(i - 1) & 3] ^ (t.s[(i - 1) & 3] >> 30))
    for i in range(8):
        tinymt32_next(t)

cdef inline uint32_t tinymt32_output(tinymt32 *t) noexcept nogil:
    cdef uint32_t sum
    tinymt32_next(t)
    sum = t.s[0] + (t.s[2] >> 8)
    return t.s[3] ^ sum ^ ((0 - (sum & 1)) & <uint32_t>TINYMT32_TMAT)

cdef inline void draw_coefficients(uint16_t key, uint8_t *coefs, uint32_t count) noexcept nogil:
    """RFC 8681 section 3.6 with m = 8 and DT = 15: low bytes of the generator's outputs, zeros left out."""
    cdef tinymt32 t
    cdef uint32_t i = 0
    tinymt32_seed(&t, key)
    while i < count:
        coefs[i] = <uint8_t>tinymt32_output(&t)
        i += coefs[i] != 0
