/* Region arithmetic over GF(2^8) with the polynomial x^8 + x^4 + x^3 + x^2 + 1 (0x11D), the field of
 * RFC 8681 section 3.7.1.
 *
 * A region is any number of bytes at any alignment. A destination may be the same memory as a source, but
 * must not overlap it partly. */
#ifndef RELAY_GF256_H
#define RELAY_GF256_H

#include <stddef.h>
#include <stdint.h>

typedef struct gf256_kernel {
    const char *name;
    void (*muladd)(uint8_t *dst, const uint8_t *src, size_t len, uint8_t c);  /* dst ^= c * src */
    void (*mul)(uint8_t *dst, const uint8_t *src, size_t len, uint8_t c);     /* dst = c * src */
    /* dst ^= c[0] * src[0] ^ ... ^ c[7] * src[7]: one pass over dst instead of eight */
    void (*muladd8)(uint8_t *dst, const uint8_t *const src[8], size_t len, const uint8_t c[8]);
} gf256_kernel;

/* Kernel `i` of those that this processor runs, the slowest first; NULL past the last one. */
const gf256_kernel *gf256_kernel_at(unsigned i);

/* The multiplicative inverse; 0 for 0, which has none. */
uint8_t gf256_inverse(uint8_t a);

#endif
