# Python's commands to the packet plane.
from libc.stdint cimport int64_t

from relay_ext.base cimport command
from relay_ext.plane cimport outgoing, plane

cdef void *allocate(size_t n) except NULL  # zeroed, for what a command brings
cdef outgoing *make_outgoing(tuple address, bytes data) except NULL
cdef void plane_apply(plane *p, int64_t now, command *c) noexcept nogil
