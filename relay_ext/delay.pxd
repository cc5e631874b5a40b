# Delay of packets against their origin's clock: what it is at least, how that clock drifts, how delays are distributed.
#
# Transit times are `our clock - origin's clock`, relative: the clocks need not agree. All structs begin zeroed.
from libc.stdint cimport int64_t, uint32_t

cdef enum:
    DELAY_BUCKETS = 1024      # of 1 ms; the last one holds all that is longer
    DELAY_POINTS = 9          # of the lower envelope: 80 to 90 s

ctypedef struct delay_floor:
    # Least transit of the last one to two windows of 1 s: so soon a path that became longer shows as such.
    int64_t since             # ns, when this window began; 0: nothing seen yet
    int64_t least[2]          # ns, of this window and the one before

ctypedef struct delay_line:
    # Least transit of the last one to two windows of 10 s, moved along with the drift of the origin's clock.
    int64_t since
    int64_t least             # ns, of this window
    int64_t at                # ns, when that was seen
    uint32_t count            # of the windows before, the oldest first
    int64_t past[9]
    int64_t past_at[9]
    double slope              # of the least transit, ns a ns; positive when the origin's clock is slow
    bint known                # slope has been measured

ctypedef struct delay_histogram:
    # Weights grow instead of all masses shrinking: what counts is their ratio.
    double mass[1024]
    double total
    double above              # mass beyond bucket `index`
    double weight             # of a sample now
    int64_t aged              # ns, when `weight` was brought up to date
    uint32_t index            # the lowest bucket beyond which at most DELAY_TAIL of the mass lies

cdef void delay_floor_add(delay_floor *f, int64_t now, int64_t transit) noexcept nogil
cdef int64_t delay_line_add(delay_line *l, int64_t now, int64_t transit) noexcept nogil  # ns above the line, never negative
cdef void delay_histogram_add(delay_histogram *h, int64_t now, int64_t delay) noexcept nogil

cdef inline int64_t delay_floor_get(const delay_floor *f) noexcept nogil:
    return min(f.least[0], f.least[1])

cdef inline int64_t delay_quantile(const delay_histogram *h) noexcept nogil:
    """Upper edge (ns) of the bucket in which the high quantile lies."""
    return (<int64_t>h.index + 1) * 1000000

cdef inline double delay_samples(const delay_histogram *h) noexcept nogil:
    """How many samples the histogram rests on, those forgotten in part counted in part."""
    return h.total / h.weight if h.weight > 0.0 else 0.0
