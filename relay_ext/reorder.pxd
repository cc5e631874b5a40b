# How much of what is missing is only late: source packets that others overtake.
from libc.stdint cimport int64_t, uint32_t

ctypedef struct reordering:
    uint32_t holes            # symbols that were known to exist before they came; halved at REORDER_HOLES
    uint32_t late             # of which the source packet came after all
    int64_t extent            # ns, how long after they were first missed; a high value, forgotten slowly

cdef void reorder_late(reordering *r, int64_t lateness, bint recovered) noexcept nogil
cdef void reorder_recovered(reordering *r) noexcept nogil
cdef double reorder_share(const reordering *r) noexcept nogil  # of the missing symbols, those that come by themselves
