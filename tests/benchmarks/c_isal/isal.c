/* ISA-L's products, many times over, for tests/benchmarks/test_bench_isal.py: a call from Python would cost more than
 * the product. `avx2` takes the AVX2 functions in place of the best that the processor has. */
#include <isa-l/erasure_code.h>
#include <stddef.h>

/* The tables of n constants: 32 bytes each. */
void isal_tables(int n, const unsigned char *c, unsigned char *tables) {
    for (int i = 0; i < n; i++)
        gf_vect_mul_init(c[i], tables + 32 * (size_t)i);
}

/* dst = the sum of c[k] * src[k] */
void isal_encode(int len, int n, unsigned char *tables, unsigned char **src, unsigned char *dst, int times, int avx2) {
    for (int t = 0; t < times; t++)
        (avx2 ? ec_encode_data_avx2 : ec_encode_data)(len, n, 1, tables, src, &dst);
}

/* dst ^= c[k] * src[k], each source so many times before the next, as muladd does it in relay_ext.gf256 */
void isal_update(int len, int n, unsigned char *tables, unsigned char **src, unsigned char *dst, int times, int avx2) {
    for (int k = 0; k < n; k++)
        for (int t = 0; t < times; t++)
            (avx2 ? ec_encode_data_update_avx2 : ec_encode_data_update)(len, n, 1, k, tables, src[k], &dst);
}
