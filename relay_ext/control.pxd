# What Python holds of the packet plane.
from libc.stdint cimport int64_t, uint32_t, uintptr_t

from relay_ext.base cimport command
from relay_ext.mailbox cimport SHARD_BITS, TARGETS
from relay_ext.plane cimport plane

cdef inline uint32_t place(uint32_t id) noexcept:
    return (id >> SHARD_BITS) & (TARGETS - 1)

cdef inline void *pointer(object address) noexcept:
    return <void *><uintptr_t>address

cdef class Plane:
    cdef plane *p
    cdef bint threaded        # an engine runs it: commands go through the queue
    cdef int wake_fd          # eventfd that wakes the engine, -1 without one
    cdef int64_t now          # ns, of the last receive or poll, for commands in between
    cdef readonly uint32_t shard
    cdef object mailboxes     # what it shares with other shards, kept as long as any of them
    cdef uint32_t last_id
    cdef set places           # of tracks and hops in the mailroom's table
    cdef dict tracks          # id -> address of the object, as are all of these
    cdef dict egresses
    cdef dict hops
    cdef list spare_hops      # made for `handover.load`
    cdef dict keys            # local index -> address
    cdef dict feeds           # (track id, hop id) -> address
    cdef dict standbys        # track id -> (address, first hop, second hop)
    cdef dict far_routes      # (hop id, track id of another shard) -> address of what stands for the track
    cdef dict track_of        # egress id -> track id
    cdef dict ports           # port -> track id, of PORT_RTP and PORT_RTCP

    cdef int submit(self, command *c) except -1
    cdef int send_command(self, int op, void *target, void *ptr, uint32_t a=*, uint32_t b=*, uint32_t c=*) except -1
    cdef uint32_t new_id(self)
    cdef uint32_t new_target(self) except 0
    cdef void *stand_in(self, uint32_t track) except NULL
    cdef bint is_far(self, uint32_t id) except -1
    cdef int check_driven(self) except -1
    cdef int take_tx(self, list out) except -1
