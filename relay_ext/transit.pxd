# Relative one-way delay of what we send, as the peer's reports tell it: what of it is queue.
#
# Transit times are `the peer's clock - ours`, so only differences count. All structs begin zeroed.
from libc.stdint cimport int64_t, uint8_t, uint32_t

cdef enum:
    TRANSIT_WINDOWS = 7       # of 10 s: a least value counts for 60 to 70 s

ctypedef struct transit_point:
    int64_t at                # ns, ours
    int64_t least             # ns

ctypedef struct transit:
    bint known
    int64_t last              # ns, unwrapped
    int64_t recent[2]         # ns, least of this and of the last 25 ms
    int64_t recent_since
    transit_point points[7]   # least of each window, the oldest first; the last one is under way
    uint8_t count
    int64_t since             # ns, when the last window began
    double slope              # of the lower envelope, ns a ns: how much faster the peer's clock is

# A datagram sent at `sent` (ns) arrived at `arrived_us` of the peer's clock (32 bits); returns the transit time, ns.
cdef int64_t transit_add(transit *t, int64_t now, int64_t sent, uint32_t arrived_us) noexcept nogil
cdef int64_t transit_base(const transit *t, int64_t now) noexcept nogil  # ns, what an empty path would take now
