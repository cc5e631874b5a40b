# cython: boundscheck=False, wraparound=False, cdivision=True
# Points are counted against TRANSIT_WINDOWS.
"""Relative one-way delay: its least of the last minute, moved along with the drift between the two clocks.

The drift is the slope of the lower envelope of transit times, the line below all points that lies closest to them
(Moon, Skelly and Towsley, "Estimation and removal of clock skew from network delay measurements", 1999): the edge of
their convex hull that spans their mean time. A queue lifts points off the envelope, and does not tilt it.
"""
from libc.math cimport fabs
from libc.stdint cimport int32_t
from libc.string cimport memmove, memset

cdef int64_t WINDOW = 10000000000      # ns
cdef int64_t RECENT = 25000000         # ns; longer than a burst of a radio link, shorter than a queue takes to grow
cdef double DRIFT_MAX = 300e-6         # crystals are within 100e-6 each; what moves faster is no clock
cdef int SPAN_MIN = 3                  # windows between the ends of an edge that tells a drift


cdef inline bint below_all(const transit *t, int i, int j) noexcept nogil:
    """Whether no point lies under the line through points i and j."""
    cdef double slope = <double>(t.points[j].least - t.points[i].least) / <double>(t.points[j].at - t.points[i].at)
    cdef int k
    for k in range(t.count):
        if <double>(t.points[k].least - t.points[i].least) < slope * <double>(t.points[k].at - t.points[i].at) - 1.0:
            return False
    return True


cdef void fit(transit *t) noexcept nogil:
    cdef int i, j
    cdef int64_t middle = (t.points[0].at + t.points[t.count - 1].at) // 2
    cdef double slope
    for i in range(t.count):
        for j in range(i + SPAN_MIN, t.count):
            if t.points[i].at <= middle <= t.points[j].at and below_all(t, i, j):
                slope = <double>(t.points[j].least - t.points[i].least) / <double>(t.points[j].at - t.points[i].at)
                if fabs(slope) <= DRIFT_MAX:
                    t.slope = slope


cdef inline int64_t moved(const transit *t, const transit_point *p, int64_t now) noexcept nogil:
    return p.least + <int64_t>(t.slope * <double>(now - p.at))


cdef inline void begin_window(transit *t, int64_t now) noexcept nogil:
    if t.count == TRANSIT_WINDOWS:
        memmove(&t.points[0], &t.points[1], (TRANSIT_WINDOWS - 1) * sizeof(transit_point))
        t.count -= 1
    t.points[t.count] = transit_point(now, t.last)
    t.count += 1
    t.since = now


cdef inline void note_recent(transit *t, int64_t now) noexcept nogil:
    cdef int64_t elapsed = now - t.recent_since
    if elapsed >= RECENT:
        t.recent[1] = t.recent[0] if elapsed < 2 * RECENT else t.last
        t.recent[0] = t.last
        t.recent_since = now
    elif t.last < t.recent[0]:
        t.recent[0] = t.last


cdef int64_t transit_add(transit *t, int64_t now, int64_t sent, uint32_t arrived_us) noexcept nogil:
    # The peer's clock wraps every 71 minutes.
    cdef uint32_t relative = arrived_us - <uint32_t>(sent // 1000)
    cdef transit_point *p
    if not t.known:
        t.known = True
        t.last = <int64_t>relative * 1000
        t.recent_since = 0
        begin_window(t, now)
    else:
        t.last += <int64_t>(<int32_t>(relative - <uint32_t>(t.last // 1000))) * 1000
    if now - t.since > WINDOW:
        fit(t)
        begin_window(t, now)
    p = &t.points[t.count - 1]
    if t.last < moved(t, p, now):
        p[0] = transit_point(now, t.last)
    note_recent(t, now)
    return t.last


cdef int64_t transit_base(const transit *t, int64_t now) noexcept nogil:
    cdef int64_t least = t.last
    cdef int i
    for i in range(t.count):
        least = min(least, moved(t, &t.points[i], now))
    return least


cdef class Transit:
    """The estimate alone, for tests."""

    cdef transit t

    def __cinit__(self):
        memset(&self.t, 0, sizeof(transit))

    def add(self, int64_t now_ns, int64_t sent_ns, uint32_t arrived_us):
        """A report at `now_ns` tells of one arrival; returns the queue in ns."""
        transit_add(&self.t, now_ns, sent_ns, arrived_us)
        return min(self.t.recent[0], self.t.recent[1]) - transit_base(&self.t, now_ns)

    @property
    def drift(self):
        return self.t.slope
