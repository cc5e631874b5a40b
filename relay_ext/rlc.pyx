# cython: boundscheck=False, wraparound=False
# (per-ESI arrays are indexed by ESI & mask, rows by numbers below `rows`, regions by checked lengths)
"""The decoder of the sliding-window random linear code (RFC 8681); rlc.pxd is the interface.

The equations are kept in reduced row echelon form over the unknown symbols, ordered by ESI: the pivot of a
row is the oldest unknown in it, its coefficient is 1, and no other row contains it. Hence

- a symbol is determined exactly when its row has no other coefficient, and is recovered at that moment;
- the rows with a pivot at or after some ESI span all that is known about the symbols from there on, so
  forgetting drops a prefix of the rows and nothing more, and the deficit is a difference of two counts;
- a packet costs at most one region operation for each symbol that it covers, and two for each row.

A new equation is reduced in its coefficients first. Only one that tells something new touches the symbols'
bytes, and those then take a single pass, already scaled so that the pivot becomes 1.
"""
import collections
import enum

from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memmove, memset

from relay_ext.coefficients cimport draw_coefficients
from relay_ext.gf256 cimport (gf256_inverse, gf256_mul, gf256_muladd, gf256_sum, gf256_sum_add,
                              gf256_sum_finish, gf256_sum_start)
from relay_ext.slab cimport SLAB_DATA, slab_get, slab_pool_free, slab_pool_new, slab_ref, slab_unref


cdef inline bint before(uint32_t a, uint32_t b) noexcept nogil:
    """Serial number comparison (RFC 1982)."""
    return <int32_t>(a - b) < 0


# --- Decoder: set-up ---


cdef rlc_decoder *rlc_decoder_new(slab_pool *pool, uint32_t span, uint32_t max_rows) noexcept nogil:
    cdef rlc_decoder *d
    cdef uint32_t i
    if span < 8 or span & (span - 1) or span > RLC_MAX_SPAN or max_rows == 0 or max_rows > span:
        return NULL
    d = <rlc_decoder *>calloc(1, sizeof(rlc_decoder))
    if d == NULL:
        return NULL
    d.pool = pool
    d.mask = span - 1
    d.max_rows = max_rows
    d.known = <slab **>calloc(span, sizeof(slab *))
    d.owners = <rlc_row **>calloc(span, sizeof(rlc_row *))
    d.ready = <uint32_t *>calloc(span, sizeof(uint32_t))
    # one row more than may be held: the equation under work
    d.order = <rlc_row **>calloc(max_rows + 1, sizeof(rlc_row *))
    d.row_table = <rlc_row *>calloc(max_rows + 1, sizeof(rlc_row))
    d.coefs = <uint8_t *>calloc(max_rows + 1, span)
    if (d.known == NULL or d.owners == NULL or d.ready == NULL or d.order == NULL or d.row_table == NULL
            or d.coefs == NULL):
        rlc_decoder_free(d)
        return NULL
    for i in range(<uint32_t>(max_rows + 1)):
        d.row_table[i].coefs = d.coefs + <size_t>i * span
        d.order[i] = &d.row_table[i]
    return d


cdef void rlc_decoder_free(rlc_decoder *d) noexcept nogil:
    if d != NULL:
        if d.started:
            trim(d, d.highest + 1)
        free(d.known)
        free(d.owners)
        free(d.ready)
        free(d.order)
        free(d.row_table)
        free(d.coefs)
        free(d)


cdef void rlc_decoder_reset(rlc_decoder *d) noexcept nogil:
    if d.started:
        trim(d, d.highest + 1)
        d.started = False
        d.ready_head = d.ready_tail


# --- Decoder: rows ---


cdef uint32_t rows_before(const rlc_decoder *d, uint32_t esi) noexcept nogil:
    """The number of rows whose pivot is before `esi`; `esi` is at or after `base`."""
    cdef uint32_t low = 0, high = d.rows, middle
    while low < high:
        middle = (low + high) // 2
        if d.order[middle].pivot - d.base < esi - d.base:
            low = middle + 1
        else:
            high = middle
    return low


cdef void order_insert(rlc_decoder *d, rlc_row *row) noexcept nogil:
    """Puts the row at order[rows] in its place."""
    cdef uint32_t at = rows_before(d, row.pivot)
    memmove(&d.order[at + 1], &d.order[at], (d.rows - at) * sizeof(rlc_row *))
    d.order[at] = row
    d.rows += 1
    d.owners[row.pivot & d.mask] = row


cdef void order_remove(rlc_decoder *d, rlc_row *row) noexcept nogil:
    """Takes a row out; it is at order[rows] then."""
    cdef uint32_t at = rows_before(d, row.pivot)
    d.rows -= 1
    memmove(&d.order[at], &d.order[at + 1], (d.rows - at) * sizeof(rlc_row *))
    d.order[d.rows] = row
    d.owners[row.pivot & d.mask] = NULL


cdef uint32_t next_coefficient(const rlc_decoder *d, const rlc_row *row, uint32_t esi) noexcept nogil:
    """The first ESI from `esi` on that the row contains; one after `row.last` when there is none."""
    cdef uint64_t eight
    while not before(row.last, esi):
        if esi & 7 == 0:  # the span is a multiple of 8, so this does not wrap
            memcpy(&eight, row.coefs + (esi & d.mask), 8)
            if eight == 0:
                esi += 8
                continue
        if row.coefs[esi & d.mask]:
            return esi
        esi += 1
    return row.last + 1


cdef void scale_coefficients(const rlc_decoder *d, rlc_row *row, uint8_t c) noexcept nogil:
    """row *= c, in the coefficients. With 0 it restores what holds for free rows: no coefficient anywhere."""
    cdef uint32_t start = row.pivot & d.mask
    cdef uint32_t n = row.last - row.pivot + 1
    cdef uint32_t straight = min(n, <uint32_t>(d.mask + 1 - start))
    gf256_mul(row.coefs + start, row.coefs + start, straight, c)
    gf256_mul(row.coefs, row.coefs, n - straight, c)


cdef void add_coefficients(const rlc_decoder *d, rlc_row *row, const rlc_row *other,
                           uint8_t c) noexcept nogil:
    """row += c * other, in the coefficients."""
    cdef uint32_t start = other.pivot & d.mask
    cdef uint32_t n = other.last - other.pivot + 1
    cdef uint32_t straight = min(n, <uint32_t>(d.mask + 1 - start))
    gf256_muladd(row.coefs + start, other.coefs + start, straight, c)
    gf256_muladd(row.coefs, other.coefs, n - straight, c)
    if before(row.last, other.last):
        row.last = other.last


cdef void pad(slab *data, uint16_t len) noexcept nogil:
    """Makes `data` at least `len` bytes long with zeros."""
    if data.len < len:
        memset(data.data + data.len, 0, len - data.len)
        data.len = len


cdef void add_data(slab *data, const slab *other, uint8_t c) noexcept nogil:
    pad(data, other.len)
    gf256_muladd(data.data, other.data, other.len, c)


cdef void row_insert(rlc_decoder *d, rlc_row *row) noexcept nogil:
    """Adds the row at order[rows], already free of other pivots and with 1 at its own, to the system."""
    cdef uint32_t i
    cdef uint8_t c
    cdef rlc_row *other
    for i in range(rows_before(d, row.pivot)):  # later rows begin after this pivot
        other = d.order[i]
        c = other.coefs[row.pivot & d.mask]
        if c:
            add_coefficients(d, other, row, c)
            add_data(other.data, row.data, c)
            other.changed = True
    row.changed = True
    order_insert(d, row)


cdef void row_drop(rlc_decoder *d, rlc_row *row) noexcept nogil:
    order_remove(d, row)
    scale_coefficients(d, row, 0)
    slab_unref(d.pool, row.data)
    row.data = NULL


cdef void row_lose_pivot(rlc_decoder *d, rlc_row *row) noexcept nogil:
    """The pivot of the row has become known and was taken out of it: its next unknown becomes the pivot.

    There is one, since a row without any would have been recovered before.
    """
    cdef uint8_t c
    order_remove(d, row)
    row.pivot = next_coefficient(d, row, row.pivot + 1)
    c = gf256_inverse(row.coefs[row.pivot & d.mask])
    scale_coefficients(d, row, c)
    gf256_mul(row.data.data, row.data.data, row.data.len, c)
    row_insert(d, row)


# --- Decoder: symbols ---


cdef void symbol_known(rlc_decoder *d, uint32_t esi, slab *s) noexcept nogil:
    """Takes over the caller's reference."""
    d.known[esi & d.mask] = s
    if not before(esi, d.live):
        d.live_unknowns -= 1


cdef void symbol_recovered(rlc_decoder *d, rlc_row *row) noexcept nogil:
    """The row contains its pivot alone, so its data is the symbol: the slab changes hands."""
    cdef uint32_t esi = row.pivot
    cdef slab *s = row.data
    cdef uint32_t length = RLC_HEAD + (<uint32_t>s.data[0] << 8 | s.data[1])
    order_remove(d, row)
    row.coefs[esi & d.mask] = 0
    row.data = NULL
    symbol_known(d, esi, s)
    if length > s.len:  # kept all the same: the equations that contain it still hold
        d.malformed += 1
        return
    s.len = length
    d.ready[d.ready_tail & d.mask] = esi
    d.ready_tail += 1
    if d.ready_tail - d.ready_head > d.mask + 1:
        d.ready_head += 1


cdef void recover(rlc_decoder *d) noexcept nogil:
    cdef uint32_t i = 0
    cdef rlc_row *row
    while i < d.rows:
        row = d.order[i]
        if row.changed:
            row.changed = False
            if before(row.last, next_coefficient(d, row, row.pivot + 1)):
                symbol_recovered(d, row)
                continue
        i += 1


cdef slab *rlc_decoder_take(rlc_decoder *d, uint32_t *esi) noexcept nogil:
    while d.ready_head != d.ready_tail:
        esi[0] = d.ready[d.ready_head & d.mask]
        d.ready_head += 1
        if esi[0] - d.base < d.highest + 1 - d.base:  # not forgotten in the meantime
            return slab_ref(d.known[esi[0] & d.mask])
    return NULL


# --- Decoder: the window ---


cdef void trim(rlc_decoder *d, uint32_t base) noexcept nogil:
    """Moves the base forward, even past the highest ESI; what is behind it is dropped."""
    cdef uint32_t end = base if before(base, d.highest + 1) else d.highest + 1
    cdef slab **known
    rlc_decoder_expire(d, base)
    while d.rows and before(d.order[0].pivot, base):
        row_drop(d, d.order[0])
    while d.base != end:
        known = &d.known[d.base & d.mask]
        if known[0] != NULL:
            slab_unref(d.pool, known[0])
            known[0] = NULL
        d.base += 1
    if end != base:
        d.base = d.live = base
        d.highest = base - 1


cdef bint track(rlc_decoder *d, uint32_t first, uint32_t last) noexcept nogil:
    """Makes room for the ESIs first..last, at most a span; False when some are behind the base for good."""
    if not d.started:
        d.started = d.fresh = True
        d.base = d.live = first
        d.highest = first - 1
    if before(d.highest, last):
        if last - d.base > d.mask:
            trim(d, last - d.mask)
        d.live_unknowns += last - d.highest
        d.highest = last
    if before(first, d.base):
        if not d.fresh or d.highest - first > d.mask:
            return False
        d.live_unknowns += d.base - first
        d.base = d.live = first
    # Half of the number space away `first` may be ahead of the window although `last` is behind it.
    return last - d.base < d.highest + 1 - d.base


cdef void rlc_decoder_seen(rlc_decoder *d, uint32_t esi) noexcept nogil:
    if d.started and before(d.highest, esi):
        track(d, esi, esi)


cdef void rlc_decoder_expire(rlc_decoder *d, uint32_t live_from) noexcept nogil:
    if not d.started:
        return
    while before(d.live, live_from) and d.live != d.highest + 1:
        if d.known[d.live & d.mask] == NULL:
            d.live_unknowns -= 1
        d.live += 1
        d.fresh = False


cdef void rlc_decoder_forget(rlc_decoder *d, uint32_t before_esi) noexcept nogil:
    if d.started and before(d.base, before_esi):
        trim(d, before_esi if before(before_esi, d.highest + 1) else d.highest + 1)


cdef uint32_t rlc_decoder_deficit(rlc_decoder *d) noexcept nogil:
    return d.live_unknowns - (d.rows - rows_before(d, d.live))


cdef bint rlc_decoder_is_missing(rlc_decoder *d, uint32_t esi) noexcept nogil:
    return d.started and esi - d.base < d.highest + 1 - d.base and d.known[esi & d.mask] == NULL


# --- Decoder: packets ---


cdef int rlc_decoder_source(rlc_decoder *d, uint32_t esi, slab *s) noexcept nogil:
    cdef uint32_t column = esi & d.mask
    cdef uint32_t i
    cdef uint8_t c
    cdef rlc_row *row
    if s.len < RLC_HEAD or s.len > RLC_MAX_SYMBOL:
        return RLC_REFUSED
    if not track(d, esi, esi):
        return RLC_OLD
    if d.known[column] != NULL:
        return RLC_DUPLICATE
    symbol_known(d, esi, slab_ref(s))
    for i in range(d.rows):
        row = d.order[i]
        if before(esi, row.pivot):
            break
        c = row.coefs[column]
        if c:
            row.coefs[column] = 0
            add_data(row.data, s, c)
            row.changed = True
    if d.owners[column] != NULL:
        row_lose_pivot(d, d.owners[column])
    recover(d)
    return RLC_NEW


cdef int rlc_decoder_repair(rlc_decoder *d, uint32_t first_esi, uint16_t count, uint16_t key,
                            const uint8_t *coded, uint16_t len) noexcept nogil:
    cdef uint8_t coefs[RLC_MAX_WINDOW]
    cdef uint32_t i, unknowns = 0
    cdef slab *s
    cdef rlc_row *row
    cdef int refusal
    if count == 0 or count > min(<uint32_t>RLC_MAX_WINDOW, <uint32_t>(d.mask + 1)):
        return RLC_REFUSED
    if len < RLC_HEAD or len > RLC_MAX_SYMBOL:
        return RLC_REFUSED
    if not track(d, first_esi, first_esi + count - 1):
        return RLC_OLD
    for i in range(count):
        s = d.known[(first_esi + i) & d.mask]
        unknowns += s == NULL
        if s != NULL and s.len > len:
            return RLC_REFUSED
    if unknowns == 0:
        return RLC_REDUNDANT
    draw_coefficients(key, coefs, count)
    row = d.order[d.rows]
    if not reduce_coefficients(d, row, first_esi, coefs, count):
        return RLC_REDUNDANT
    refusal = row_make_room(d, row)
    if refusal != RLC_NEW:
        scale_coefficients(d, row, 0)
        return refusal
    reduce_data(d, row, first_esi, coefs, count, coded, len)
    if d.rows == d.max_rows:
        row_drop(d, d.order[0])
        d.order[d.max_rows], d.order[d.rows] = d.order[d.rows], row
    row_insert(d, row)
    recover(d)
    return RLC_NEW


cdef bint reduce_coefficients(rlc_decoder *d, rlc_row *row, uint32_t first, const uint8_t *coefs,
                              uint32_t count) noexcept nogil:
    """Fills in the coefficients of the unknowns and clears those of pivots; False when none is left."""
    cdef uint32_t i, column
    row.pivot = first
    row.last = first + count - 1
    for i in range(count):
        column = (first + i) & d.mask
        if d.known[column] == NULL:
            row.coefs[column] ^= coefs[i]
            if d.owners[column] != NULL:
                add_coefficients(d, row, d.owners[column], coefs[i])
    row.pivot = next_coefficient(d, row, first)
    return not before(row.last, row.pivot)


cdef int row_make_room(rlc_decoder *d, rlc_row *row) noexcept nogil:
    """Gets a slab for the row; when the table is full, the oldest row must be one that no longer matters."""
    cdef uint32_t oldest
    if d.rows == d.max_rows:
        oldest = d.order[0].pivot
        if not (before(oldest, d.live) and before(oldest, row.pivot)):
            return RLC_NO_MEMORY
    row.data = slab_get(d.pool)
    return RLC_NEW if row.data != NULL else RLC_NO_MEMORY


cdef void reduce_data(rlc_decoder *d, rlc_row *row, uint32_t first, uint8_t *coefs, uint32_t count,
                      const uint8_t *coded, uint16_t len) noexcept nogil:
    """The bytes that belong to the reduced coefficients, scaled so that the pivot's becomes 1.

    No row contains another's pivot, so each pivot is cleared with the coefficient that the packet gave it.
    """
    cdef uint8_t scale = gf256_inverse(row.coefs[row.pivot & d.mask])
    cdef uint32_t i, column
    cdef slab *s
    cdef gf256_sum sum
    scale_coefficients(d, row, scale)
    gf256_mul(coefs, coefs, count, scale)
    gf256_mul(row.data.data, coded, len, scale)
    row.data.len = len
    gf256_sum_start(&sum, row.data.data)
    for i in range(count):
        column = (first + i) & d.mask
        s = d.known[column]
        if s == NULL and d.owners[column] != NULL:
            s = d.owners[column].data
            pad(row.data, s.len)
        if s != NULL:
            gf256_sum_add(&sum, s.data, s.len, coefs[i])
    gf256_sum_finish(&sum)


# --- For Python: tests and measurements ---


from relay_ext.rlc_encoder import Encoder, coefficients  # so that Python finds the code in one place

State = collections.namedtuple("State", "started base live highest rows malformed")


class Result(enum.IntEnum):
    NEW = RLC_NEW
    DUPLICATE = RLC_DUPLICATE
    OLD = RLC_OLD
    REFUSED = RLC_REFUSED
    NO_MEMORY = RLC_NO_MEMORY
    REDUNDANT = RLC_REDUNDANT


HEAD = RLC_HEAD
MAX_WINDOW = RLC_MAX_WINDOW
MAX_SYMBOL = RLC_MAX_SYMBOL


cdef class Decoder:
    cdef rlc_decoder *d
    cdef slab_pool *pool

    def __cinit__(self, uint32_t span, uint32_t max_rows, *, uint32_t slabs=0):
        self.pool = slab_pool_new(slabs or span + max_rows + 1)
        if self.pool == NULL:
            raise MemoryError
        self.d = rlc_decoder_new(self.pool, span, max_rows)
        if self.d == NULL:
            raise ValueError(f"span {span} is no power of two in 8..{RLC_MAX_SPAN}, or rows not in 1..span")

    def __dealloc__(self):
        rlc_decoder_free(self.d)
        slab_pool_free(self.pool)

    cdef list recovered(self):
        cdef uint32_t esi
        cdef slab *s = rlc_decoder_take(self.d, &esi)
        symbols = []
        while s != NULL:
            symbols.append((esi, s.data[:s.len]))
            slab_unref(self.pool, s)
            s = rlc_decoder_take(self.d, &esi)
        return symbols

    def source(self, uint32_t esi, const uint8_t[::1] symbol not None):
        cdef int result
        if symbol.shape[0] > SLAB_DATA:
            raise ValueError(f"a slab holds {SLAB_DATA} bytes, not {symbol.shape[0]}")
        cdef slab *s = slab_get(self.pool)
        if s == NULL:
            raise MemoryError("no slab left")
        s.len = symbol.shape[0]
        memcpy(s.data, &symbol[0], s.len)
        result = rlc_decoder_source(self.d, esi, s)
        slab_unref(self.pool, s)
        return Result(result), self.recovered()

    def repair(self, uint32_t first_esi, uint16_t count, uint16_t key, const uint8_t[::1] coded not None):
        if coded.shape[0] > 65535:
            raise ValueError(f"a repair packet has at most 65535 bytes, not {coded.shape[0]}")
        cdef int result = rlc_decoder_repair(self.d, first_esi, count, key, &coded[0], coded.shape[0])
        return Result(result), self.recovered()

    def seen(self, uint32_t esi):
        rlc_decoder_seen(self.d, esi)

    def expire(self, uint32_t live_from):
        rlc_decoder_expire(self.d, live_from)

    def forget(self, uint32_t before):
        rlc_decoder_forget(self.d, before)

    def reset(self):
        rlc_decoder_reset(self.d)

    def is_missing(self, uint32_t esi):
        return bool(rlc_decoder_is_missing(self.d, esi))

    @property
    def deficit(self):
        return rlc_decoder_deficit(self.d)

    @property
    def in_use(self):
        return self.pool.in_use

    def state(self):
        return State(
            bool(self.d.started), self.d.base, self.d.live, self.d.highest, self.d.rows, self.d.malformed
        )
