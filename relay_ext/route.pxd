# Where received tracks go: from a peer's aliases to our own tracks.
from libc.stdint cimport uint8_t, uint16_t, uint32_t

cdef enum:
    ROUTE_SLOTS = 2048        # of which half may be used

ctypedef struct route:
    void *track               # NULL: free slot
    uint32_t key              # stream alias and track alias
    uint8_t epoch

ctypedef struct route_table:
    route slots[2048]

cdef bint route_add(route_table *t, uint16_t stream, uint8_t track, uint8_t epoch, void *target) noexcept nogil  # False: full
cdef void route_remove(route_table *t, const void *target) noexcept nogil   # every route to that track

cdef inline uint32_t route_key(uint16_t stream, uint8_t track) noexcept nogil:
    return (<uint32_t>stream << 8) | track

cdef inline route *route_find(route_table *t, uint32_t key) noexcept nogil:
    """The route of that key, or the free slot where it would be."""
    cdef uint32_t i = <uint32_t>(key * <uint32_t>2654435761) >> 21  # 11 bits: ROUTE_SLOTS
    while t.slots[i].track != NULL and t.slots[i].key != key:
        i = (i + 1) & (ROUTE_SLOTS - 1)
    return &t.slots[i]
