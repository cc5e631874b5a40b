/* GF(2^8) region kernels: scalar, SSSE3, AVX2, GFNI and NEON behind one body.
 *
 * Multiplication by a constant is linear over GF(2), so the product of a byte is the sum of the products of
 * its two nibbles: two tables of 16 bytes a constant, which a byte shuffle looks up for a whole vector at
 * once. GFNI applies the same linear map as an 8x8 bit matrix. All tables are compile-time constants. */
#include "gf256.h"

#include <stdbool.h>

#if defined(__x86_64__) || defined(__i386__)
#define ON_X86 1
#include <immintrin.h>
#elif defined(__aarch64__) || defined(__arm__)
#define ON_ARM 1
#endif

/* --- Tables ------------------------------------------------------------------------------------------- */

/* Tk(c) = c * 2^k: what is shifted beyond bit 7 comes back as x^8 mod p = 0x1D, x^9 mod p = 0x3A, ... */
#define OVER(c, bit, residue) ((((c) >> (bit)) & 1) * (residue))
#define T0(c) (c)
#define T1(c) ((((c) << 1) & 0xFF) ^ OVER(c, 7, 0x1D))
#define T2(c) ((((c) << 2) & 0xFF) ^ OVER(c, 6, 0x1D) ^ OVER(c, 7, 0x3A))
#define T3(c) ((((c) << 3) & 0xFF) ^ OVER(c, 5, 0x1D) ^ OVER(c, 6, 0x3A) ^ OVER(c, 7, 0x74))
#define T4(c)                                                                                                \
    ((((c) << 4) & 0xFF) ^ OVER(c, 4, 0x1D) ^ OVER(c, 5, 0x3A) ^ OVER(c, 6, 0x74) ^ OVER(c, 7, 0xE8))
#define T5(c)                                                                                                \
    ((((c) << 5) & 0xFF) ^ OVER(c, 3, 0x1D) ^ OVER(c, 4, 0x3A) ^ OVER(c, 5, 0x74) ^ OVER(c, 6, 0xE8) ^       \
     OVER(c, 7, 0xCD))
#define T6(c)                                                                                                \
    ((((c) << 6) & 0xFF) ^ OVER(c, 2, 0x1D) ^ OVER(c, 3, 0x3A) ^ OVER(c, 4, 0x74) ^ OVER(c, 5, 0xE8) ^       \
     OVER(c, 6, 0xCD) ^ OVER(c, 7, 0x87))
#define T7(c)                                                                                                \
    ((((c) << 7) & 0xFF) ^ OVER(c, 1, 0x1D) ^ OVER(c, 2, 0x3A) ^ OVER(c, 3, 0x74) ^ OVER(c, 4, 0xE8) ^       \
     OVER(c, 5, 0xCD) ^ OVER(c, 6, 0x87) ^ OVER(c, 7, 0x13))

#define SUMS(a, b, c, d)                                                                                     \
    0, a, b, a ^ b, c, a ^ c, b ^ c, a ^ b ^ c, d, a ^ d, b ^ d, a ^ b ^ d, c ^ d, a ^ c ^ d, b ^ c ^ d,     \
        a ^ b ^ c ^ d
#define NIBBLES(c)                                                                                           \
    { SUMS(T0(c), T1(c), T2(c), T3(c)), SUMS(T4(c), T5(c), T6(c), T7(c)) }

#define SIXTEEN(OF, h)                                                                                       \
    OF(h##0), OF(h##1), OF(h##2), OF(h##3), OF(h##4), OF(h##5), OF(h##6), OF(h##7), OF(h##8), OF(h##9),      \
        OF(h##A), OF(h##B), OF(h##C), OF(h##D), OF(h##E), OF(h##F)
#define EVERY_BYTE(OF)                                                                                       \
    SIXTEEN(OF, 0x0), SIXTEEN(OF, 0x1), SIXTEEN(OF, 0x2), SIXTEEN(OF, 0x3), SIXTEEN(OF, 0x4),                \
        SIXTEEN(OF, 0x5), SIXTEEN(OF, 0x6), SIXTEEN(OF, 0x7), SIXTEEN(OF, 0x8), SIXTEEN(OF, 0x9),            \
        SIXTEEN(OF, 0xA), SIXTEEN(OF, 0xB), SIXTEEN(OF, 0xC), SIXTEEN(OF, 0xD), SIXTEEN(OF, 0xE),            \
        SIXTEEN(OF, 0xF)

/* NIBBLE[c][x] = c * x and NIBBLE[c][16 + x] = c * 16x, for x < 16 */
static const uint8_t NIBBLE[256][32] __attribute__((aligned(32))) = {EVERY_BYTE(NIBBLES)};

static inline uint8_t product(uint8_t a, uint8_t b) {
    return NIBBLE[a][b & 15] ^ NIBBLE[a][16 + (b >> 4)];
}

uint8_t gf256_inverse(uint8_t a) {
    uint8_t power = a, inverse = 1;
    for (int i = 0; i < 7; i++) { /* a^254 = a^2 * a^4 * ... * a^128 */
        power = product(power, power);
        inverse = product(inverse, power);
    }
    return inverse;
}

/* --- The one body ------------------------------------------------------------------------------------- */

/* An instruction set brings, under its prefix: the types _vec and _factor (a constant made ready), the
 * functions _load, _store, _xor, _factor_of(c) and _times(factor, vec). The body does n sources (a
 * compile-time constant), added to dst or in its place; regions shorter than a vector go to the NARROWER one.
 *
 * The last vector overlaps the one before it. It is computed first, from what dst and src hold then, and
 * stored last, so the overlap is written twice with the same bytes, also where dst is src. */
#define ALWAYS_INLINE static inline __attribute__((always_inline))

#define KERNEL(ISA, TARGET, NARROWER)                                                                        \
    TARGET ALWAYS_INLINE ISA##_vec ISA##_sum(uint8_t *dst, const uint8_t *const *src, size_t at,             \
                                             const ISA##_factor *f, int n, bool add) {                       \
        ISA##_vec sum = ISA##_times(f[0], ISA##_load(src[0] + at));                                          \
        for (int k = 1; k < n; k++)                                                                          \
            sum = ISA##_xor(sum, ISA##_times(f[k], ISA##_load(src[k] + at)));                                \
        return add ? ISA##_xor(sum, ISA##_load(dst + at)) : sum;                                             \
    }                                                                                                        \
    TARGET ALWAYS_INLINE void ISA##_run(uint8_t *dst, const uint8_t *const *src, size_t len,                 \
                                        const uint8_t *c, int n, bool add) {                                 \
        const size_t width = sizeof(ISA##_vec);                                                              \
        if (len < width) {                                                                                   \
            NARROWER##_run(dst, src, len, c, n, add);                                                        \
            return;                                                                                          \
        }                                                                                                    \
        ISA##_factor f[8];                                                                                   \
        for (int k = 0; k < n; k++)                                                                          \
            f[k] = ISA##_factor_of(c[k]);                                                                    \
        const ISA##_vec tail = ISA##_sum(dst, src, len - width, f, n, add);                                  \
        for (size_t at = 0; at + width < len; at += width)                                                   \
            ISA##_store(dst + at, ISA##_sum(dst, src, at, f, n, add));                                       \
        ISA##_store(dst + len - width, tail);                                                                \
    }                                                                                                        \
    ENTRIES(ISA, TARGET)

#define ENTRIES(ISA, TARGET)                                                                                 \
    TARGET static void ISA##_muladd(uint8_t *dst, const uint8_t *src, size_t len, uint8_t c) {               \
        ISA##_run(dst, &src, len, &c, 1, true);                                                              \
    }                                                                                                        \
    TARGET static void ISA##_mul(uint8_t *dst, const uint8_t *src, size_t len, uint8_t c) {                  \
        ISA##_run(dst, &src, len, &c, 1, false);                                                             \
    }                                                                                                        \
    TARGET static void ISA##_muladd8(uint8_t *dst, const uint8_t *const src[8], size_t len,                  \
                                     const uint8_t c[8]) {                                                   \
        ISA##_run(dst, src, len, c, 8, true);                                                                \
    }

/* --- Scalar ------------------------------------------------------------------------------------------- */

/* A block of sums at a time, since dst may be one of the sources: those are read before dst is written. */
ALWAYS_INLINE void scalar_run(uint8_t *dst, const uint8_t *const *src, size_t len, const uint8_t *c, int n,
                              bool add) {
    uint8_t sum[64];
    for (size_t at = 0, block; at < len; at += block) {
        block = len - at < sizeof sum ? len - at : sizeof sum;
        for (size_t i = 0; i < block; i++)
            sum[i] = add ? dst[at + i] : 0;
        for (int k = 0; k < n; k++)
            for (size_t i = 0; i < block; i++)
                sum[i] ^= product(c[k], src[k][at + i]);
        for (size_t i = 0; i < block; i++)
            dst[at + i] = sum[i];
    }
}

ENTRIES(scalar, )

/* --- x86 ---------------------------------------------------------------------------------------------- */

#ifdef ON_X86

#define SSSE3 __attribute__((target("ssse3")))
typedef __m128i ssse3_vec;
typedef struct {
    __m128i low, high;
} ssse3_factor;

SSSE3 ALWAYS_INLINE ssse3_vec ssse3_load(const uint8_t *p) { return _mm_loadu_si128((const __m128i *)p); }
SSSE3 ALWAYS_INLINE void ssse3_store(uint8_t *p, ssse3_vec v) { _mm_storeu_si128((__m128i *)p, v); }
SSSE3 ALWAYS_INLINE ssse3_vec ssse3_xor(ssse3_vec a, ssse3_vec b) { return _mm_xor_si128(a, b); }
SSSE3 ALWAYS_INLINE ssse3_factor ssse3_factor_of(uint8_t c) {
    return (ssse3_factor){ssse3_load(NIBBLE[c]), ssse3_load(NIBBLE[c] + 16)};
}
SSSE3 ALWAYS_INLINE ssse3_vec ssse3_times(ssse3_factor f, ssse3_vec v) {
    const __m128i mask = _mm_set1_epi8(15);
    return _mm_xor_si128(_mm_shuffle_epi8(f.low, _mm_and_si128(v, mask)),
                         _mm_shuffle_epi8(f.high, _mm_and_si128(_mm_srli_epi64(v, 4), mask)));
}
KERNEL(ssse3, SSSE3, scalar)

#define AVX2 __attribute__((target("avx2")))
typedef __m256i avx2_vec;
typedef struct {
    __m256i low, high;
} avx2_factor;

AVX2 ALWAYS_INLINE avx2_vec avx2_load(const uint8_t *p) { return _mm256_loadu_si256((const __m256i *)p); }
AVX2 ALWAYS_INLINE void avx2_store(uint8_t *p, avx2_vec v) { _mm256_storeu_si256((__m256i *)p, v); }
AVX2 ALWAYS_INLINE avx2_vec avx2_xor(avx2_vec a, avx2_vec b) { return _mm256_xor_si256(a, b); }
AVX2 ALWAYS_INLINE avx2_factor avx2_factor_of(uint8_t c) {
    return (avx2_factor){_mm256_broadcastsi128_si256(ssse3_load(NIBBLE[c])),
                         _mm256_broadcastsi128_si256(ssse3_load(NIBBLE[c] + 16))};
}
AVX2 ALWAYS_INLINE avx2_vec avx2_times(avx2_factor f, avx2_vec v) {
    const __m256i mask = _mm256_set1_epi8(15);
    return _mm256_xor_si256(_mm256_shuffle_epi8(f.low, _mm256_and_si256(v, mask)),
                            _mm256_shuffle_epi8(f.high, _mm256_and_si256(_mm256_srli_epi64(v, 4), mask)));
}
KERNEL(avx2, AVX2, ssse3)

/* Column j of the matrix is c * 2^j; its bit i stands in row i, which GF2P8AFFINEQB wants in byte 7 - i. */
#define CELL(t, i, j) ((uint64_t)(((t) >> (i)) & 1) << (8 * (7 - (i)) + (j)))
#define COLUMN(t, j)                                                                                         \
    (CELL(t, 0, j) | CELL(t, 1, j) | CELL(t, 2, j) | CELL(t, 3, j) | CELL(t, 4, j) | CELL(t, 5, j) |         \
     CELL(t, 6, j) | CELL(t, 7, j))
#define MATRIX_OF(c)                                                                                         \
    (COLUMN(T0(c), 0) | COLUMN(T1(c), 1) | COLUMN(T2(c), 2) | COLUMN(T3(c), 3) | COLUMN(T4(c), 4) |          \
     COLUMN(T5(c), 5) | COLUMN(T6(c), 6) | COLUMN(T7(c), 7))
static const uint64_t MATRIX[256] = {EVERY_BYTE(MATRIX_OF)};

#define GFNI __attribute__((target("avx2,gfni")))
typedef __m256i gfni_vec;
typedef __m256i gfni_factor;
#define gfni_load avx2_load
#define gfni_store avx2_store
#define gfni_xor avx2_xor

GFNI ALWAYS_INLINE gfni_factor gfni_factor_of(uint8_t c) { return _mm256_set1_epi64x((long long)MATRIX[c]); }
GFNI ALWAYS_INLINE gfni_vec gfni_times(gfni_factor f, gfni_vec v) {
    return _mm256_gf2p8affine_epi64_epi8(v, f, 0);
}
KERNEL(gfni, GFNI, ssse3)

static bool has_ssse3(void) { return __builtin_cpu_supports("ssse3"); }
static bool has_avx2(void) { return __builtin_cpu_supports("avx2"); }
static bool has_gfni(void) { return __builtin_cpu_supports("gfni") && __builtin_cpu_supports("avx2"); }

#endif

/* --- ARM ---------------------------------------------------------------------------------------------- */

#ifdef ON_ARM

#ifdef __aarch64__
#include <arm_neon.h>
#define NEON
static bool has_neon(void) { return true; } /* part of the base architecture */
#define neon_lookup vqtbl1q_u8
#else
#include <sys/auxv.h>
#pragma GCC push_options
#pragma GCC target("arch=armv7-a+simd")
#include <arm_neon.h>
#define NEON
static bool has_neon(void) { return getauxval(AT_HWCAP) & (1UL << 12); } /* HWCAP_NEON */
ALWAYS_INLINE uint8x16_t neon_lookup(uint8x16_t table, uint8x16_t at) {
    const uint8x8x2_t halves = {{vget_low_u8(table), vget_high_u8(table)}};
    return vcombine_u8(vtbl2_u8(halves, vget_low_u8(at)), vtbl2_u8(halves, vget_high_u8(at)));
}
#endif

typedef uint8x16_t neon_vec;
typedef struct {
    uint8x16_t low, high;
} neon_factor;

NEON ALWAYS_INLINE neon_vec neon_load(const uint8_t *p) { return vld1q_u8(p); }
NEON ALWAYS_INLINE void neon_store(uint8_t *p, neon_vec v) { vst1q_u8(p, v); }
NEON ALWAYS_INLINE neon_vec neon_xor(neon_vec a, neon_vec b) { return veorq_u8(a, b); }
NEON ALWAYS_INLINE neon_factor neon_factor_of(uint8_t c) {
    return (neon_factor){vld1q_u8(NIBBLE[c]), vld1q_u8(NIBBLE[c] + 16)};
}
NEON ALWAYS_INLINE neon_vec neon_times(neon_factor f, neon_vec v) {
    return veorq_u8(neon_lookup(f.low, vandq_u8(v, vdupq_n_u8(15))), neon_lookup(f.high, vshrq_n_u8(v, 4)));
}
KERNEL(neon, NEON, scalar)

#ifndef __aarch64__
#pragma GCC pop_options
#endif

#endif

/* --- Which of them this processor runs ---------------------------------------------------------------- */

static bool always(void) { return true; }

#define ENTRY(ISA, RUNS)                                                                                     \
    { {#ISA, ISA##_muladd, ISA##_mul, ISA##_muladd8}, RUNS }

static const struct {
    gf256_kernel kernel;
    bool (*runs)(void);
} KERNELS[] = {
    ENTRY(scalar, always),
#ifdef ON_X86
    ENTRY(ssse3, has_ssse3),
    ENTRY(avx2, has_avx2),
    ENTRY(gfni, has_gfni),
#endif
#ifdef ON_ARM
    ENTRY(neon, has_neon),
#endif
};

const gf256_kernel *gf256_kernel_at(unsigned i) {
    for (size_t k = 0; k < sizeof KERNELS / sizeof KERNELS[0]; k++)
        if (KERNELS[k].runs() && i-- == 0)
            return &KERNELS[k].kernel;
    return NULL;
}
