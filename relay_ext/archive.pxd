# A run of bytes that the state of a packet plane is written to, or read from: the same code does both.
#
# Nothing is read beyond the end: what is missing reads as zeros and sets `failed`, as does what makes no sense.
from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.stddef cimport ptrdiff_t

from relay_ext.slab cimport slab, slab_pool
from relay_ext.timer cimport timer_node, timer_wheel

ctypedef struct archive:
    bint reading
    bint failed
    uint8_t *data
    size_t room        # bytes at `data`
    size_t at          # written or read so far

cdef void carry(archive *a, void *what, size_t n) noexcept nogil
cdef void carry_between(archive *a, void *start, void *end) noexcept nogil  # the fields of a struct from one up to, and without, another
cdef uint32_t carry_number(archive *a, uint32_t n, uint32_t most) noexcept nogil  # n, or what is read; more than `most` fails
cdef void carry_pool(archive *a, slab_pool *pool) noexcept nogil        # into one that has not been used
cdef void carry_slab(archive *a, slab_pool *pool, slab **s) noexcept nogil  # one reference; NULL is allowed
cdef void carry_timer(archive *a, timer_wheel *wheel, timer_node *node) noexcept nogil
