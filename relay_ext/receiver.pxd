# Source and repair packets received. Symbols for known tracks are left in `delivered`.
from libc.stdint cimport int64_t, uint32_t

from relay_ext.peer cimport hop
from relay_ext.slab cimport slab

cdef void receive_source(hop *h, int64_t now, slab *s) noexcept nogil
cdef void receive_repair(hop *h, int64_t now, slab *s) noexcept nogil
cdef void learn_tail(hop *h, int64_t now, uint32_t next_esi) noexcept nogil  # the peer has sent every ESI before that
cdef void receiver_expire(hop *h, int64_t now) noexcept nogil
