# cython: boundscheck=False, wraparound=False, cdivision=True
# Orders are permutations of the paths; `active` and `mending` come from them.
"""Which path carries what.

The decision plane gives two orders of the paths, for source packets and for repair. Each goes on the first that
gets through; reports go on all, so that each is measured whatever it carries. A path that gets stuck is left at
the next report that says so, on whichever path that comes, without a word from Python; it is taken again after it
has got through for a while. Where none gets through, nothing changes. docs/uplinks.md has the reasons.
"""
from libc.stdint cimport int32_t, uint8_t

from relay_ext.path cimport path_reactive_in_flight, path_stuck
from relay_ext.peer cimport HOP_PATHS

cdef int64_t RECOVERY = 300000000  # ns for which a path that was stuck must get through to be used again


cdef path *uplink_source(hop *h) noexcept nogil:
    return &h.paths[h.active]


cdef path *uplink_repair(hop *h) noexcept nogil:
    return &h.paths[h.mending]


cdef path *uplink_answer(hop *h, uint32_t n) noexcept nogil:
    """Nobody knows yet when a path has just died: half of what is asked for then still arrives in time."""
    return &h.paths[h.active if n & 1 else h.mending]


cdef path *uplink_fitting(hop *h, path *p, uint16_t size) noexcept nogil:
    return p if size <= p.datagram_max else &h.paths[h.active]


cdef bint uplink_is_up(const path *p) noexcept nogil:
    return p.keys != NULL and p.has_address


cdef bint uplink_gets_through(const path *p) noexcept nogil:
    return p.proven and not p.stuck


cdef uint8_t first_of(const hop *h, const uint8_t *order) noexcept nogil:
    """The first that gets through; the first with keys where none does, so that one path alone is always used."""
    cdef uint8_t i, fallback = HOP_PATHS
    for i in range(HOP_PATHS):
        if not uplink_is_up(&h.paths[order[i]]):
            continue
        if uplink_gets_through(&h.paths[order[i]]):
            return order[i]
        if fallback == HOP_PATHS:
            fallback = order[i]
    return h.active if fallback == HOP_PATHS else fallback


cdef void uplink_choose(hop *h) noexcept nogil:
    cdef uint8_t i
    cdef int64_t fastest, rtt
    h.active = first_of(h, h.source_order)
    h.mending = first_of(h, h.repair_order)
    fastest = h.rtt_longest = h.paths[h.mending].rtt
    for i in range(HOP_PATHS):
        rtt = h.paths[i].rtt
        if rtt and uplink_is_up(&h.paths[i]):
            fastest = min(fastest, rtt)
            h.rtt_longest = max(h.rtt_longest, rtt)
    # Reports go on all paths, so the fastest counts; repair takes half a round trip of its own.
    h.repair_round = (fastest + h.paths[h.mending].rtt) // 2


cdef inline bint another_gets_through(const hop *h, const path *p) noexcept nogil:
    cdef uint8_t i
    for i in range(HOP_PATHS):
        if &h.paths[i] != p and uplink_is_up(&h.paths[i]) and uplink_gets_through(&h.paths[i]):
            return True
    return False


cdef uint32_t uplink_told(hop *h, path *p, int64_t now, uint32_t highest, int64_t silence) noexcept nogil:
    if <int32_t>(<uint32_t>p.counter - highest) <= 0:
        return 0  # it was never sent
    p.proven = True
    if path_stuck(p, now, highest, silence):
        p.stuck = True
        p.stuck_at = now
        if another_gets_through(h, p):
            return 0  # what was under way here will not arrive
    elif p.stuck and now - p.stuck_at >= RECOVERY:
        p.stuck = False
    return path_reactive_in_flight(p, now, highest)
