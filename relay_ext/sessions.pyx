# cython: boundscheck=False, wraparound=False
# The table is a power of two behind a mask.
"""The table of receiver indices."""


cdef void session_remove(session_table *t, session_keys *k) noexcept nogil:
    """Close the gap behind the removed slot, so that probing needs no tombstones."""
    cdef session_keys **hole = session_find(t, k.local_index)
    cdef session_keys *moved
    cdef uint32_t i
    if hole[0] != k:
        return
    hole[0] = NULL
    i = (<uint32_t>(hole - &t.slots[0]) + 1) & (SESSION_SLOTS - 1)
    while t.slots[i] != NULL:
        moved = t.slots[i]
        t.slots[i] = NULL
        session_find(t, moved.local_index)[0] = moved
        i = (i + 1) & (SESSION_SLOTS - 1)
