# cython: boundscheck=False, wraparound=False
# (symbols are indexed by ESI & mask, byte regions by lengths checked on entry)
"""The encoder of the sliding-window random linear code (RFC 8681); rlc_encoder.pxd is the interface."""
from libc.stdint cimport int32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from relay_ext.coefficients cimport draw_coefficients
from relay_ext.gf256 cimport gf256_sum, gf256_sum_add, gf256_sum_finish, gf256_sum_start
from relay_ext.slab cimport slab_get, slab_pool_free, slab_pool_new, slab_ref, slab_unref


cdef rlc_encoder *rlc_encoder_new(slab_pool *pool, uint32_t capacity, uint32_t first_esi) noexcept nogil:
    cdef rlc_encoder *e
    if capacity == 0 or capacity & (capacity - 1) or capacity > RLC_MAX_SPAN:
        return NULL
    e = <rlc_encoder *>calloc(1, sizeof(rlc_encoder))
    if e == NULL:
        return NULL
    e.symbols = <rlc_symbol *>calloc(capacity, sizeof(rlc_symbol))
    if e.symbols == NULL:
        free(e)
        return NULL
    e.pool = pool
    e.mask = capacity - 1
    e.first = e.next = first_esi
    return e


cdef void rlc_encoder_free(rlc_encoder *e) noexcept nogil:
    if e != NULL:
        rlc_encoder_release(e, e.next)
        free(e.symbols)
        free(e)


cdef uint32_t rlc_encoder_add(rlc_encoder *e, const uint8_t *head, slab *body, uint16_t off,
                              uint16_t len) noexcept nogil:
    cdef uint32_t esi = e.next
    cdef rlc_symbol *symbol = &e.symbols[esi & e.mask]
    if esi - e.first > e.mask:
        rlc_encoder_release(e, e.first + 1)
    symbol.body = slab_ref(body)
    symbol.off = off
    symbol.len = len
    memcpy(symbol.head, head, RLC_HEAD)
    e.next = esi + 1
    return esi


cdef void rlc_encoder_release(rlc_encoder *e, uint32_t before) noexcept nogil:
    while e.first != e.next and <int32_t>(e.first - before) < 0:
        slab_unref(e.pool, e.symbols[e.first & e.mask].body)
        e.first += 1


cdef uint16_t rlc_encode(rlc_encoder *e, uint32_t first_esi, uint16_t count, uint16_t key,
                         uint8_t *out) noexcept nogil:
    cdef uint8_t coefs[RLC_MAX_WINDOW]
    cdef uint32_t kept = e.next - e.first
    cdef uint32_t skipped = first_esi - e.first
    cdef rlc_symbol *symbol
    cdef gf256_sum heads, bodies
    cdef uint16_t longest = 0
    cdef uint32_t i
    if count == 0 or count > RLC_MAX_WINDOW or skipped >= kept or count > kept - skipped:
        return 0
    for i in range(count):
        longest = max(longest, e.symbols[(first_esi + i) & e.mask].len)
    memset(out, 0, RLC_HEAD + longest)
    draw_coefficients(key, coefs, count)
    gf256_sum_start(&heads, out)
    gf256_sum_start(&bodies, out + RLC_HEAD)
    for i in range(count):
        symbol = &e.symbols[(first_esi + i) & e.mask]
        gf256_sum_add(&heads, symbol.head, RLC_HEAD, coefs[i])
        gf256_sum_add(&bodies, symbol.body.data + symbol.off, symbol.len, coefs[i])
    gf256_sum_finish(&heads)
    gf256_sum_finish(&bodies)
    return RLC_HEAD + longest


# --- For Python: tests and measurements ---


def coefficients(uint16_t key, uint16_t count):
    out = bytearray(count)
    cdef uint8_t[::1] view = out
    draw_coefficients(key, &view[0], count)
    return bytes(out)


cdef class Encoder:
    cdef rlc_encoder *e
    cdef slab_pool *pool

    def __cinit__(self, uint32_t capacity, uint32_t first_esi, *, uint32_t slabs=0):
        self.pool = slab_pool_new(slabs or capacity + 1)
        if self.pool == NULL:
            raise MemoryError
        self.e = rlc_encoder_new(self.pool, capacity, first_esi)
        if self.e == NULL:
            raise ValueError(f"capacity {capacity} is no power of two up to {RLC_MAX_SPAN}")

    def __dealloc__(self):
        rlc_encoder_free(self.e)
        slab_pool_free(self.pool)

    def add(self, const uint8_t[::1] symbol not None):
        cdef uint32_t esi
        if not RLC_HEAD <= symbol.shape[0] <= RLC_MAX_SYMBOL:
            raise ValueError(f"a symbol has {RLC_HEAD} to {RLC_MAX_SYMBOL} bytes, not {symbol.shape[0]}")
        cdef slab *body = slab_get(self.pool)
        if body == NULL:
            raise MemoryError("no slab left")
        body.len = symbol.shape[0] - RLC_HEAD
        memcpy(body.data, &symbol[0] + RLC_HEAD, body.len)
        esi = rlc_encoder_add(self.e, &symbol[0], body, 0, body.len)
        slab_unref(self.pool, body)
        return esi

    def encode(self, uint32_t first_esi, uint16_t count, uint16_t key):
        cdef uint8_t out[RLC_MAX_SYMBOL]
        cdef uint16_t n = rlc_encode(self.e, first_esi, count, key, out)
        return out[:n] if n else None

    def release(self, uint32_t before):
        rlc_encoder_release(self.e, before)

    @property
    def in_use(self):
        return self.pool.in_use
