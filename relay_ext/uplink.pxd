# Which path carries what.
from libc.stdint cimport int64_t, uint16_t, uint32_t

from relay_ext.path cimport path
from relay_ext.peer cimport hop

cdef path *uplink_source(hop *h) noexcept nogil
cdef path *uplink_repair(hop *h) noexcept nogil
cdef path *uplink_answer(hop *h, uint32_t n) noexcept nogil  # for the n-th of the repairs that answer a report
cdef path *uplink_fitting(hop *h, path *p, uint16_t size) noexcept nogil  # `p`, else another that takes such datagrams
cdef bint uplink_is_up(const path *p) noexcept nogil   # it has keys and an address
cdef bint uplink_gets_through(const path *p) noexcept nogil
cdef void uplink_choose(hop *h) noexcept nogil  # when anything has changed that the choice, or a delay, follows from
# A report says what arrived last on a path, and how long ago; the reactive repairs that are still under way on it.
cdef uint32_t uplink_told(hop *h, path *p, int64_t now, uint32_t highest, int64_t silence) noexcept nogil
