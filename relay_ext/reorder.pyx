# cython: boundscheck=False, wraparound=False, cdivision=True
# Nothing is indexed here.
"""How much of what is missing is only late. Whoever asks at once for what was overtaken pays for repair that
nobody needs; whoever waits for everything loses time where most of it is lost. So a receiver learns which
share of the holes fill by themselves, and within what time, and leaves that share of the young ones out of the
deficit.
"""

cdef enum:
    REORDER_HOLES = 512       # the memory of the share, in holes: about 4 s at 30 % of 400 packets/s

cdef double LEAST_SHARE = 0.05        # below, the odd late packet is no reason to ask for less
cdef int64_t EXTENT_FORGETTING = 64   # late packets in which the excess of `extent` falls to 1/e


cdef inline void count(reordering *r, uint32_t holes, uint32_t late) noexcept nogil:
    r.holes += holes
    r.late += late
    if r.holes >= REORDER_HOLES:
        r.holes //= 2
        r.late //= 2


cdef void reorder_late(reordering *r, int64_t lateness, bint recovered) noexcept nogil:
    """A source packet came `lateness` after it was first missed; if it was `recovered` its hole has been counted."""
    count(r, not recovered, 1)
    if lateness >= r.extent:
        r.extent = lateness
    else:
        r.extent -= (r.extent - lateness) // EXTENT_FORGETTING


cdef void reorder_recovered(reordering *r) noexcept nogil:
    count(r, 1, 0)


cdef double reorder_share(const reordering *r) noexcept nogil:
    cdef double share = <double>r.late / <double>max(r.holes, <uint32_t>1)
    return 0.0 if share < LEAST_SHARE else min(share, 1.0)
