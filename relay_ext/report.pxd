# Reports of a path.
from libc.stdint cimport int64_t, uint64_t

from relay_ext.path cimport path
from relay_ext.peer cimport hop
from relay_ext.slab cimport slab

cdef void send_reports(hop *h, int64_t now) noexcept nogil  # one on each path
cdef void receive_report(hop *h, path *p, int64_t now, uint64_t counter, slab *s) noexcept nogil
