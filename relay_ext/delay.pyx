# cython: boundscheck=False, wraparound=False, cdivision=True
# Buckets are clamped to DELAY_BUCKETS, points counted against DELAY_POINTS; no divisor is zero.
"""Delay of packets against their origin's clock: its floor, its drift, and its distribution with forgetting.

The histogram forgets by time, with a time constant of 10 s, so that dense and sparse tracks behave alike. The
high quantile is kept up with every sample: the bucket that it lies in moves by a few places at most, so a sample
costs O(1) on average and DELAY_BUCKETS steps at worst.
"""
from libc.math cimport exp, fabs
from libc.string cimport memmove, memset

cdef int64_t FLOOR_WINDOW = 1000000000
cdef int64_t LINE_WINDOW = 10000000000
cdef double DRIFT_MAX = 300e-6         # crystals are within 100e-6 each; what moves faster is no clock
cdef double DELAY_TAIL = 1e-3          # share of the samples beyond the quantile
cdef double FORGET = 10e9              # ns; what is so old counts 1/e
cdef int64_t AGE_STEP = 10000000       # ns between two updates of the weight
cdef int64_t AGE_MAX = 200000000000    # ns; what is older counts for nothing: e^-20
cdef double WEIGHT_MAX = 1e12
cdef double MASS_MIN = 1e-9            # of a sample; less is zero
cdef int64_t BUCKET = 1000000          # ns


cdef void delay_floor_add(delay_floor *f, int64_t now, int64_t transit) noexcept nogil:
    if f.since == 0:
        f.least[0] = f.least[1] = transit
        f.since = now
    elif now - f.since > FLOOR_WINDOW:
        f.least[1] = f.least[0]
        f.least[0] = transit
        f.since = now
    elif transit < f.least[0]:
        f.least[0] = transit


cdef inline int64_t moved(const delay_line *l, int64_t least, int64_t elapsed) noexcept nogil:
    return least + <int64_t>(l.slope * <double>elapsed)


cdef void end_window(delay_line *l) noexcept nogil:
    """This window's least transit is the next point of the envelope; a step is no drift, and begins it anew."""
    cdef uint32_t last = l.count - 1
    cdef double slope
    if l.count and fabs(<double>(l.least - l.past[last])) > DRIFT_MAX * <double>(l.at - l.past_at[last]):
        l.count = 0
    elif l.count == DELAY_POINTS:
        l.count -= 1
        memmove(&l.past[0], &l.past[1], l.count * sizeof(int64_t))
        memmove(&l.past_at[0], &l.past_at[1], l.count * sizeof(int64_t))
    l.past[l.count] = l.least
    l.past_at[l.count] = l.at
    l.count += 1
    if l.count > 1:
        last = l.count - 1
        slope = <double>(l.past[last] - l.past[0]) / <double>(l.past_at[last] - l.past_at[0])
        l.slope = min(max(slope, -DRIFT_MAX), DRIFT_MAX)
        l.known = True


cdef int64_t delay_line_add(delay_line *l, int64_t now, int64_t transit) noexcept nogil:
    cdef int64_t floor
    cdef uint32_t last
    if l.since and now - l.since > LINE_WINDOW:
        end_window(l)
        l.since = 0
    if l.since == 0 or transit < moved(l, l.least, now - l.at):
        l.since = now if l.since == 0 else l.since
        l.least = transit
        l.at = now
    floor = moved(l, l.least, now - l.at)
    if l.count:
        last = l.count - 1
        floor = min(floor, moved(l, l.past[last], now - l.past_at[last]))
    return transit - floor


cdef void rescale(delay_histogram *h) noexcept nogil:
    """Bring the weight of a sample back to 1, and the sums to what the buckets add up to."""
    cdef double scale = 1.0 / h.weight
    cdef int i
    h.weight = 1.0
    h.total = h.above = 0.0
    for i in range(DELAY_BUCKETS):
        h.mass[i] *= scale
        if h.mass[i] < MASS_MIN:
            h.mass[i] = 0.0
        h.total += h.mass[i]
        if i > <int>h.index:
            h.above += h.mass[i]


cdef void delay_histogram_add(delay_histogram *h, int64_t now, int64_t delay) noexcept nogil:
    cdef uint32_t bucket = <uint32_t>min(max(delay // BUCKET, 0), DELAY_BUCKETS - 1)
    cdef double tail
    if h.weight == 0.0:
        h.weight = 1.0
        h.aged = now
    elif now - h.aged >= AGE_STEP:
        h.weight *= exp(<double>min(now - h.aged, AGE_MAX) / FORGET)
        h.aged = now
        if h.weight > WEIGHT_MAX:
            rescale(h)
    h.mass[bucket] += h.weight
    h.total += h.weight
    if bucket > h.index:
        h.above += h.weight
    tail = DELAY_TAIL * h.total
    while h.above > tail and h.index < DELAY_BUCKETS - 1:
        h.index += 1
        h.above -= h.mass[h.index]
    while h.index and h.above + h.mass[h.index] <= tail:
        h.above += h.mass[h.index]
        h.index -= 1


cdef class Delays:
    """The three estimates together, as a track has them, for tests."""

    cdef delay_floor floor
    cdef delay_line line
    cdef delay_histogram histogram

    def __cinit__(self):
        memset(&self.floor, 0, sizeof(delay_floor))
        memset(&self.line, 0, sizeof(delay_line))
        memset(&self.histogram, 0, sizeof(delay_histogram))

    def add_transit(self, int64_t now_ns, int64_t transit_ns):
        """Take a transit time; returns how far it is above the drifting line, in ns."""
        delay_floor_add(&self.floor, now_ns, transit_ns)
        return delay_line_add(&self.line, now_ns, transit_ns)

    def add_delay(self, int64_t now_ns, int64_t delay_ns):
        """Take a delay for the histogram."""
        delay_histogram_add(&self.histogram, now_ns, delay_ns)

    @property
    def floor_ns(self):
        return delay_floor_get(&self.floor)

    @property
    def drift(self):
        return self.line.slope if self.line.known else None

    @property
    def quantile_ns(self):
        return delay_quantile(&self.histogram)

    @property
    def samples(self):
        return delay_samples(&self.histogram)
