# cython: boundscheck=False, wraparound=False, cdivision=True
# Histories are powers of two and addressed through a mask; arrivals are counted against PATH_ARRIVALS.
"""One path to a peer: its address and keys, what was sent and received on it, and what reports say of it."""
from libc.math cimport ceil, exp, log
from libc.stdint cimport int32_t
from libc.string cimport memset

from relay_ext.base cimport addr_equal
from relay_ext.inner cimport be16, put16, put32
from relay_ext.transit cimport transit_add, transit_base

cdef int64_t SAMPLE_SPACING = 40000000       # ns between loss samples
cdef int64_t SHORT_AVERAGE = 250000000       # ns
cdef int64_t LONG_AVERAGE = 2000000000       # ns
cdef double HABIT = 30e9                     # ns; bursts that come once in seconds are remembered that long
cdef int64_t RATE_WINDOW = 120000000         # ns in which `passed` is measured,
cdef int32_t RATE_PACKETS = 25               # or what so many datagrams take
cdef int64_t LEAST_WINDOW = 60000000000      # ns; a least value is forgotten after one to two of these
cdef int64_t IN_FLIGHT_SLACK = 20000000      # ns beyond the RTT after which a datagram has arrived or is lost
cdef int64_t OUTAGE = 100000000              # ns without anything arriving that is no loss which repair could mend
cdef int32_t OUTAGE_PACKETS = 20             # and so many datagrams: two lost keep-alives are no outage
cdef uint32_t CREDIT_MAX = 65536             # bytes; a second of reports
cdef int64_t STUCK_AFTER = 60000000          # ns without an arrival: three of the sender's own reports
cdef double STUCK_CHANCE = 1e-6              # of so many losses in a row by chance: once in hours at 100 a second
cdef double STUCK_RUN_MIN = 3
cdef double STUCK_RUN_MAX = 24               # a link that loses so many in a row may as well be left
cdef double LOSS_UNKNOWN = 0.3               # assumed until LONG_AVERAGE of reports exists
cdef double ENOUGH_PACKETS = 50              # and that many datagrams in it: keep-alives alone say little


cdef void path_init(path *p, uint8_t id) noexcept nogil:
    p.id = id
    p.datagram_max = DATAGRAM_MIN
    p.loss.assumed = LOSS_UNKNOWN


cdef void path_set(path *p, const path_setting *s) noexcept nogil:
    if s.has_address:
        p.to = s.to
        p.has_address = True
        p.newest_credit = 0
    if s.datagram_max:
        p.datagram_max = s.datagram_max
    if s.has_port:
        p.port = s.port


cdef void path_fresh(path *p) noexcept nogil:
    p.rx_started = False
    p.rx_packets = p.rx_runs = 0
    p.arrival_count = 0
    p.report_seen = False
    p.proven = False
    p.stuck = False
    p.sample_count = 0
    memset(&p.transit, 0, sizeof(p.transit))
    p.queue = p.queue_delay = 0
    p.progress_at = 0
    p.passed = p.loss_recent = 0
    p.loss.settled = False
    p.loss.ratio = 0
    p.loss.assumed = LOSS_UNKNOWN
    p.loss.burst = 0
    p.loss.sent = p.loss.lost = p.loss.runs = 0


cdef uint64_t path_next(path *p, int64_t now, size_t size, bint reactive) noexcept nogil:
    cdef uint64_t counter = p.counter
    cdef sent_datagram *d = &p.sent[counter & (PATH_HISTORY - 1)]
    p.counter += 1
    p.reactive += reactive
    d.time = now
    d.counter = <uint32_t>counter
    d.reactive = p.reactive
    p.tx_datagrams += 1
    p.tx_bytes += size
    d.bytes = <uint32_t>(p.tx_bytes + p.tx_datagrams * IP_UDP)
    return counter


cdef void path_received(path *p, int64_t now, uint64_t counter, size_t size) noexcept nogil:
    p.heard = now
    p.rx_datagrams += 1
    p.rx_bytes += size
    p.rx_packets += 1
    if p.arrival_count < PATH_ARRIVALS:
        p.arrivals[p.arrival_count].counter = <uint32_t>counter
        p.arrivals[p.arrival_count].time = now
        p.arrival_count += 1
    if not p.rx_started:
        p.rx_started = True
        p.rx_first = counter
    elif counter > p.rx_highest + 1:
        p.rx_runs += 1
    elif counter < p.rx_highest:
        return
    p.rx_highest = counter
    p.rx_highest_at = now


cdef void path_elsewhere(path *p, const addr *source, size_t size) noexcept nogil:
    if not addr_equal(&p.newest, source):
        p.newest = source[0]
        p.newest_credit = 0
    p.newest_credit = min(p.newest_credit + <uint32_t>size, CREDIT_MAX)


cdef bint path_afford(path *p, uint16_t size) noexcept nogil:
    if p.newest_credit < size:
        return False
    p.newest_credit -= size
    return True


cdef size_t path_write_report(path *p, int64_t now, uint8_t *out) noexcept nogil:
    put32(out, <uint32_t>(now // 1000))
    put32(out + 4, <uint32_t>min((now - p.rx_highest_at) // 1000, <int64_t>0xffffffff))
    put32(out + 8, <uint32_t>p.rx_highest)
    put32(out + 12, p.rx_packets)
    put32(out + 16, p.rx_runs)
    return 20


cdef size_t path_write_arrivals(path *p, int64_t now, uint8_t *out) noexcept nogil:
    cdef size_t n = 0
    cdef uint8_t i
    cdef arrival *a
    for i in range(p.arrival_count):
        a = &p.arrivals[i]
        put16(out + n, <uint32_t>min(<uint32_t>p.rx_highest - a.counter, <uint32_t>0xffff))
        put16(out + n + 2, <uint32_t>min((now - a.time) // 100000, <int64_t>0xffff))
        n += 4
    p.arrival_count = 0
    return n


cdef inline const sent_datagram *find_sent(const path *p, uint32_t counter) noexcept nogil:
    """The datagram of that counter (low 32 bits), NULL when it was never sent or is forgotten."""
    cdef uint32_t back = <uint32_t>p.counter - counter
    cdef const sent_datagram *d = &p.sent[counter & (PATH_HISTORY - 1)]
    if back == 0 or back > PATH_HISTORY or back > p.counter or d.counter != counter or d.time == 0:
        return NULL
    return d


cdef inline uint32_t stuck_run(const path *p) noexcept nogil:
    """Datagrams lost in a row that cannot be chance, by the loss and the burstiness of the path."""
    cdef double loss = min(max(p.loss.assumed, 1e-4), 0.99)
    cdef double again = min(loss + p.loss.burst * (1.0 - loss), 0.99)
    return <uint32_t>min(max(1.0 + ceil(log(STUCK_CHANCE / loss) / log(again)), STUCK_RUN_MIN), STUCK_RUN_MAX)


cdef bint path_stuck(const path *p, int64_t now, uint32_t highest, int64_t silence) noexcept nogil:
    """Whether nothing gets through any more, when a report says that `highest` was the last to arrive, and when."""
    cdef uint32_t behind = <uint32_t>p.counter - highest - 1
    cdef uint32_t run = stuck_run(p)
    cdef const sent_datagram *d = &p.sent[(highest + run) & (PATH_HISTORY - 1)]
    if behind < run or silence < STUCK_AFTER + 4 * p.jitter:
        return False
    # The last of the run was sent so long ago that the report would have told of it.
    return behind >= PATH_HISTORY or d.time + p.rtt + 4 * p.jitter + IN_FLIGHT_SLACK <= now


cdef uint32_t path_reactive_in_flight(const path *p, int64_t now, uint32_t highest) noexcept nogil:
    cdef const sent_datagram *d = find_sent(p, highest)
    cdef const sent_datagram *later = d
    cdef int64_t arrived = now - p.rtt - 4 * p.jitter - IN_FLIGHT_SLACK
    # After an outage `highest` is from before it: what was sent meanwhile is not under way any more.
    while later != NULL and later.time <= arrived:
        d = later
        later = find_sent(p, d.counter + 1)
    return 0 if d == NULL else p.reactive - d.reactive


cdef inline void least_update(int64_t *window, int64_t *since, int64_t now, int64_t value) noexcept nogil:
    """Least value of the last one to two LEAST_WINDOWs, as min(window[0], window[1])."""
    if since[0] == 0:
        window[0] = window[1] = value
        since[0] = now
    elif now - since[0] > LEAST_WINDOW:
        window[1] = window[0]
        window[0] = value
        since[0] = now
    elif value < window[0]:
        window[0] = value


cdef inline void take_rtt(path *p, int64_t now, int64_t rtt) noexcept nogil:
    p.rtt = rtt if p.rtt == 0 else p.rtt + (rtt - p.rtt) // 8
    least_update(p.rtt_window, &p.rtt_since, now, rtt)
    p.rtt_min = min(p.rtt_window[0], p.rtt_window[1])


cdef inline void take_arrivals(path *p, int64_t now, const path_report *r) noexcept nogil:
    cdef uint8_t i
    cdef const uint8_t *a = r.arrival_data
    cdef const sent_datagram *d
    cdef int64_t base = transit_base(&p.transit, now)
    cdef int64_t change
    cdef bint known
    for i in range(r.arrivals):
        d = find_sent(p, r.highest - be16(a))
        if d != NULL:
            known = p.transit.known
            change = -p.transit.last
            change += transit_add(&p.transit, now, d.time, r.time_us - be16(a + 2) * 100)
            if known:
                p.jitter += ((change if change >= 0 else -change) - p.jitter) // 16
                p.queue_delay += (p.transit.last - min(base, p.transit.last) - p.queue_delay) // 16
        a += 4
    if p.transit.known:
        p.queue = min(p.transit.recent[0], p.transit.recent[1]) - transit_base(&p.transit, now)


cdef inline const loss_sample *sample_before(const path *p, int64_t time) noexcept nogil:
    """The newest sample at or before `time`, else the oldest there is."""
    cdef uint32_t kept = min(p.sample_count, <uint32_t>PATH_LOSS_SAMPLES)
    cdef uint32_t i
    cdef const loss_sample *s = NULL
    for i in range(kept):
        s = &p.samples[(p.sample_count - 1 - i) & (PATH_LOSS_SAMPLES - 1)]
        if s.time <= time:
            break
    return s


cdef inline double loss_since(const path *p, const loss_sample *last, int64_t window) noexcept nogil:
    cdef const loss_sample *first = sample_before(p, last.time - window)
    cdef uint32_t expected = last.highest - first.highest
    cdef uint32_t received = last.received - first.received
    if <int32_t>expected <= 0 or received >= expected:
        return 0.0
    return <double>(expected - received) / <double>expected


cdef void estimate_loss(path *p, const loss_sample *last) noexcept nogil:
    cdef const loss_sample *first = sample_before(p, last.time - LONG_AVERAGE)
    cdef double received = <double>(last.received - first.received)
    cdef double lost = <double>(last.highest - first.highest) - received
    cdef double runs = <double>(last.runs - first.runs)
    p.loss.settled = last.time - first.time >= LONG_AVERAGE
    p.loss.ratio = loss_since(p, last, LONG_AVERAGE)
    p.loss.assumed = max(p.loss.ratio, loss_since(p, last, SHORT_AVERAGE))
    if not p.loss.settled or received + lost < ENOUGH_PACKETS:
        p.loss.assumed = max(p.loss.assumed, LOSS_UNKNOWN)
    p.loss.burst = 0.0
    if received > 0 and lost > 0 and runs > 0:
        p.loss.burst = min(max(1.0 - runs / received - min(runs / lost, 1.0), 0.0), 0.9)


cdef inline void learn_habit(loss_estimate *loss, const loss_sample *before, const loss_sample *last) noexcept nogil:
    """Sums over the last half minute or so, for what two seconds are too short for."""
    cdef double kept = exp(-<double>(last.time - before.time) / HABIT)
    cdef int32_t sent = <int32_t>(last.highest - before.highest)
    cdef int32_t lost = sent - <int32_t>(last.received - before.received)
    loss.sent = kept * loss.sent + max(sent, 0)
    loss.lost = kept * loss.lost + min(max(lost, 0), max(sent, 0))
    loss.runs = kept * loss.runs + <int32_t>(last.runs - before.runs)


cdef inline void measure_rate(path *p, const loss_sample *last) noexcept nogil:
    """At what rate datagrams came out of the bottleneck: a random loss behind it does not disturb that."""
    cdef const loss_sample *first = sample_before(p, last.time - RATE_WINDOW)
    cdef int32_t took
    if <int32_t>(last.highest - first.highest) < RATE_PACKETS:
        first = sample_before(p, last.time - LONG_AVERAGE // 4)
    took = <int32_t>(last.arrived_us - first.arrived_us)
    if took > 0:
        p.passed = <double>(last.bytes - first.bytes) * 1e6 / <double>took
        p.loss_recent = loss_since(p, last, last.time - first.time)


cdef inline void excuse_outage(path *p, const path_report *r) noexcept nogil:
    """Leave out of the loss estimates what was lost while nothing at all came through: the repair that such an
    estimate asks for would have been lost as well, and is of no use afterwards."""
    cdef uint32_t first
    cdef int32_t silent, untold
    cdef const sent_datagram *a
    cdef const sent_datagram *b
    if not p.report_seen or r.arrivals == 0:
        return
    first = r.highest - be16(r.arrival_data)
    silent = <int32_t>(first - p.report_highest - 1)
    untold = <int32_t>(r.received - p.report_received) - r.arrivals  # listed in reports that were lost
    if silent < OUTAGE_PACKETS or untold < 0 or 4 * untold > silent:
        return
    a = find_sent(p, p.report_highest)
    b = find_sent(p, first)
    if a != NULL and b != NULL and b.time - a.time >= OUTAGE:
        p.excused += silent - untold


cdef inline bint out_of_date(const path *p, int64_t now, const sent_datagram *highest) noexcept nogil:
    """Whether what was sent after `highest` was lost in an outage. A report that knows nothing of that yet tells of
    the few datagrams before it, and what these lost says nothing of now."""
    cdef int64_t arrived = now - p.rtt - 4 * p.jitter
    cdef const sent_datagram *later = find_sent(p, highest.counter + OUTAGE_PACKETS)
    return later != NULL and later.time <= arrived and highest.time + OUTAGE <= arrived


cdef inline void take_sample(path *p, int64_t now, const path_report *r, uint32_t bytes) noexcept nogil:
    cdef loss_sample *s
    if p.sample_count and now - p.samples[(p.sample_count - 1) & (PATH_LOSS_SAMPLES - 1)].time < SAMPLE_SPACING:
        return
    s = &p.samples[p.sample_count & (PATH_LOSS_SAMPLES - 1)]
    s.time = now
    s.highest = r.highest - p.excused
    s.received = r.received
    s.runs = r.runs
    s.arrived_us = r.time_us - r.delay_us
    s.bytes = bytes
    p.sample_count += 1
    if p.sample_count > 1:
        estimate_loss(p, s)
        learn_habit(&p.loss, &p.samples[(p.sample_count - 2) & (PATH_LOSS_SAMPLES - 1)], s)
        measure_rate(p, s)


cdef bint path_take_report(path *p, int64_t now, uint64_t counter, const path_report *r) noexcept nogil:
    cdef const sent_datagram *d
    cdef int64_t rtt
    if p.report_seen and counter <= p.report_counter:
        return False  # reordered: a newer one has said more
    if r.valid:
        d = find_sent(p, r.highest)
        if d == NULL:
            p.reports_invalid += 1
            return False
        rtt = now - d.time - <int64_t>r.delay_us * 1000
        if rtt < 0 or rtt > <int64_t>MAX_RTT:
            p.reports_invalid += 1
            return False
        take_rtt(p, now, rtt)
        take_arrivals(p, now, r)
        excuse_outage(p, r)
        if not out_of_date(p, now, d):
            take_sample(p, now, r, d.bytes)
        if not p.report_seen or r.highest != p.report_highest:
            p.progress_at = now
        p.report_highest = r.highest
        p.report_received = r.received
    p.report_seen = True
    p.report_counter = counter
    return True
