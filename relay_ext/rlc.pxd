# Systematic sliding-window random linear code as in RFC 8681 with m = 8 and DT = 15 (no coefficient is zero):
# coefficients from TinyMT32 (RFC 8682) seeded by the repair key. ESIs are serial numbers (RFC 1982).
#
# A symbol begins with its payload length (u16, big-endian) and is RLC_HEAD + payload length bytes long. A
# repair packet is as long as the longest symbol that it covers; shorter symbols count as padded with zeros.
#
# Symbols given to the encoder or the decoder, or taken from the decoder, are shared by reference: whoever
# holds one must not write to it.
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t

from relay_ext.rlc_encoder cimport (RLC_HEAD, RLC_MAX_SPAN, RLC_MAX_SYMBOL, RLC_MAX_WINDOW, rlc_encode,
                                    rlc_encoder, rlc_encoder_add, rlc_encoder_free, rlc_encoder_new,
                                    rlc_encoder_release)
from relay_ext.slab cimport slab, slab_pool

cdef enum:
    RLC_NEW = 0        # it told something new
    RLC_DUPLICATE = 1  # a source symbol that is known, received or recovered
    RLC_OLD = 2        # it concerns ESIs that are no longer tracked
    RLC_REFUSED = 3    # a size that no honest encoder sends
    RLC_NO_MEMORY = 4  # the pool or the table of equations is full
    RLC_REDUNDANT = 5  # a repair packet that follows from what is known

ctypedef struct rlc_row:     # an equation: the sum of coef[e] * symbol e is data
    slab *data
    uint8_t *coefs           # that of ESI e at e & mask; zero outside of pivot..last
    uint32_t pivot           # the oldest ESI with a coefficient, which is 1
    uint32_t last
    bint changed             # since it was last looked at for a solution

ctypedef struct rlc_decoder:
    bint started             # a packet was seen; before that base, live and highest mean nothing
    uint32_t base            # oldest ESI tracked
    uint32_t live            # oldest ESI that still matters
    uint32_t highest         # highest ESI known of
    uint32_t rows            # equations held
    uint64_t malformed       # recovered symbols that were not delivered: longer than their equation
    bint fresh               # nothing was expired or forgotten yet, so `base` may still move back
    uint32_t mask            # span - 1
    uint32_t max_rows
    uint32_t live_unknowns
    slab_pool *pool
    slab **known             # symbol of ESI e at e & mask, NULL: unknown
    rlc_row **owners         # row whose pivot is ESI e at e & mask
    rlc_row **order          # the rows by pivot; from order[rows] on those that are free, one at least
    rlc_row *row_table
    uint8_t *coefs
    uint32_t *ready          # recovered ESIs, a queue of span places
    uint32_t ready_head
    uint32_t ready_tail

# Tracks at most `span` ESIs (a power of two from 8 to RLC_MAX_SPAN) and holds at most `max_rows` equations.
# NULL: wrong span or out of memory. Holds at most span + max_rows slabs; it writes to those that it took
# itself alone.
cdef rlc_decoder *rlc_decoder_new(slab_pool *pool, uint32_t span, uint32_t max_rows) noexcept nogil
cdef void rlc_decoder_free(rlc_decoder *d) noexcept nogil
cdef void rlc_decoder_reset(rlc_decoder *d) noexcept nogil  # forgets everything, as new; counters go on

# The symbol is s.data[0:s.len]; the decoder takes a reference of its own if it keeps it.
cdef int rlc_decoder_source(rlc_decoder *d, uint32_t esi, slab *s) noexcept nogil
cdef int rlc_decoder_repair(rlc_decoder *d, uint32_t first_esi, uint16_t count, uint16_t key,
                            const uint8_t *coded, uint16_t len) noexcept nogil
# The next recovered symbol, the oldest of a call first, with one reference for the caller; NULL: no more. To
# be drained after every source and repair call.
cdef slab *rlc_decoder_take(rlc_decoder *d, uint32_t *esi) noexcept nogil

# Symbols up to that ESI exist, as the peer says; those not seen count as missing from now on.
cdef void rlc_decoder_seen(rlc_decoder *d, uint32_t esi) noexcept nogil
# Unknowns before `live_from` no longer count as missing; they stay variables of the equations.
cdef void rlc_decoder_expire(rlc_decoder *d, uint32_t live_from) noexcept nogil
# Drops what is known before that ESI, and the equations that need an unknown before it.
cdef void rlc_decoder_forget(rlc_decoder *d, uint32_t before) noexcept nogil

# Live unknowns less independent equations all of whose unknowns are live: the repair packets still needed.
cdef uint32_t rlc_decoder_deficit(rlc_decoder *d) noexcept nogil
cdef bint rlc_decoder_is_missing(rlc_decoder *d, uint32_t esi) noexcept nogil  # tracked and unknown
