# The sender's side of the random linear code that rlc.pxd describes, and its limits. rlc.pxd has them too.
from libc.stdint cimport uint8_t, uint16_t, uint32_t

from relay_ext.slab cimport slab, slab_pool

cdef enum:
    RLC_HEAD = 20          # bytes of inner header that the encoder keeps beside the body
    RLC_MAX_WINDOW = 512   # symbols that one repair packet may span
    RLC_MAX_SYMBOL = 1984  # bytes
    RLC_MAX_SPAN = 32768   # symbols that an encoder may keep or a decoder track

ctypedef struct rlc_symbol:
    slab *body
    uint16_t off
    uint16_t len             # of the body
    uint8_t head[20]         # RLC_HEAD

ctypedef struct rlc_encoder:
    uint32_t first           # oldest ESI kept
    uint32_t next            # ESI that the next symbol will get; equal to `first`: nothing is kept
    uint32_t mask            # capacity - 1
    slab_pool *pool
    rlc_symbol *symbols      # that of ESI e at e & mask

# `capacity` is a power of two, at most RLC_MAX_SPAN. NULL: wrong capacity or out of memory.
cdef rlc_encoder *rlc_encoder_new(slab_pool *pool, uint32_t capacity, uint32_t first_esi) noexcept nogil
cdef void rlc_encoder_free(rlc_encoder *e) noexcept nogil

# Adds the symbol head[0:20] + body.data[off:off + len] (at most RLC_MAX_SYMBOL) with a reference of its own
# to the body, and forgets the oldest symbol when full. Returns the symbol's ESI.
cdef uint32_t rlc_encoder_add(rlc_encoder *e, const uint8_t *head, slab *body, uint16_t off,
                              uint16_t len) noexcept nogil
# Forgets the symbols before that ESI.
cdef void rlc_encoder_release(rlc_encoder *e, uint32_t before) noexcept nogil

# Writes the coded bytes of a repair packet to `out` (up to RLC_MAX_SYMBOL) and returns their number, the
# length of the longest symbol covered; 0 if the span is empty, too long, or not kept in whole.
cdef uint16_t rlc_encode(rlc_encoder *e, uint32_t first_esi, uint16_t count, uint16_t key,
                         uint8_t *out) noexcept nogil
