# The packet plane as one machine without a socket: datagrams and commands in, datagrams and events out.
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from relay_ext.base cimport addr, command, spsc_queue, tx_queue
from relay_ext.slab cimport slab_pool

ctypedef struct plane_queues:
    spsc_queue commands   # Python to the packet plane
    spsc_queue retired    # void *: memory that Python may free
    spsc_queue handshakes # events; one queue a kind, so that a flood of one cannot starve another
    spsc_queue control
    spsc_queue notices

ctypedef struct plane:
    slab_pool *pool
    tx_queue tx
    plane_queues queues
    bint events_pending   # an event was queued since the engine last told Python

cdef void plane_receive(plane *p, int64_t now, uint16_t port, const addr *source,
                        const uint8_t *data, size_t n) noexcept nogil
cdef int64_t plane_poll(plane *p, int64_t now) noexcept nogil  # runs what is due; the next deadline
cdef void plane_apply(plane *p, int64_t now, command *c) noexcept nogil

cdef class Plane:
    cdef plane *p
    cdef bint threaded     # an engine runs it: commands go through the queue
    cdef int wake_fd       # eventfd that wakes the engine, -1 without one
