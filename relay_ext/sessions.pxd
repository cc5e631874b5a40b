# The keys of all peers, by the receiver index that a datagram names.
from libc.stdint cimport uint32_t

from relay_ext.path cimport session_keys

cdef enum:
    SESSION_SLOTS = 65536     # of which half may be used

ctypedef struct session_table:
    session_keys *slots[65536]

cdef void session_remove(session_table *t, session_keys *k) noexcept nogil

cdef inline session_keys **session_find(session_table *t, uint32_t index) noexcept nogil:
    """The slot of that index, or the free one where it would be."""
    cdef uint32_t i = <uint32_t>(index * <uint32_t>2654435761) >> 16  # 16 bits: SESSION_SLOTS
    while t.slots[i] != NULL and t.slots[i].local_index != index:
        i = (i + 1) & (SESSION_SLOTS - 1)
    return &t.slots[i]
