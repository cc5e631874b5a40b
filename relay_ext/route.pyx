# cython: boundscheck=False, wraparound=False
# Slots are addressed through a mask, or counted against ROUTE_SLOTS.
"""Where received tracks go; looking up is inline in route.pxd."""
from libc.string cimport memset


cdef bint route_add(route_table *t, uint16_t stream, uint8_t track, uint8_t epoch, void *target) noexcept nogil:
    cdef route *r = route_find(t, route_key(stream, track))
    cdef int i, used = 0
    for i in range(ROUTE_SLOTS):
        used += t.slots[i].track != NULL
    if r.track == NULL and used >= ROUTE_SLOTS // 2:
        return False
    r.key = route_key(stream, track)
    r.epoch = epoch
    r.track = target
    return True


cdef void route_remove(route_table *t, const void *target) noexcept nogil:
    cdef route_table kept = t[0]
    cdef int i
    memset(t, 0, sizeof(route_table))
    for i in range(ROUTE_SLOTS):
        if kept.slots[i].track != NULL and kept.slots[i].track != target:
            route_find(t, kept.slots[i].key)[0] = kept.slots[i]
