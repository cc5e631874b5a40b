# A track's ring: packets by origin sequence, each once, until playout has passed them.
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from relay_ext.inner cimport inner
from relay_ext.slab cimport slab, slab_pool

cdef enum:
    RING_CAPACITY = 1024      # packets; 0.5 s of 20 Mb/s in packets of 1200 bytes

cdef enum:                    # what ring_insert answers
    RING_STORED = 0           # the packet is complete
    RING_PART = 1             # waits for its other part
    RING_DUPLICATE = 2
    RING_LATE = 3             # playout has passed it; from then on it is a duplicate
    RING_RESET = 4            # stored, after a jump that emptied the ring
    RING_NO_MEMORY = 5

cdef enum:
    SLOT_EMPTY = 0
    SLOT_PART = 1
    SLOT_FULL = 2
    SLOT_DONE = 3             # released; kept to tell a duplicate from a late packet

ctypedef struct slot:
    slab *body
    int64_t origin            # ns, the origin's clock
    int64_t arrival           # ns, ours
    int64_t waited            # ns, for its turn where it entered
    uint32_t seq
    uint16_t off
    uint16_t len
    uint8_t state
    uint8_t flags
    uint8_t gap

ctypedef struct ring:
    slot *slots
    slab_pool *pool
    bint occupied             # lowest and highest are known
    bint started              # next is known
    uint32_t lowest           # oldest sequence stored since the ring was reset
    uint32_t highest
    uint32_t next             # the sequence that playout waits for
    uint32_t held             # complete packets that wait

cdef bint ring_init(ring *r, slab_pool *pool) noexcept nogil    # False: out of memory
cdef void ring_reset(ring *r) noexcept nogil                    # drops every packet
cdef void ring_destroy(ring *r) noexcept nogil
cdef int ring_insert(ring *r, const inner *h, slab *body, uint16_t off, int64_t origin,
                     int64_t arrival) noexcept nogil
cdef slot *ring_find(ring *r, uint32_t seq) noexcept nogil      # of a packet that has just been stored
cdef slot *ring_next_held(ring *r) noexcept nogil               # first complete packet at or after `next`
cdef void ring_skip(ring *r, uint32_t seq) noexcept nogil          # give up what comes before seq: next = seq
cdef void ring_release(ring *r, slot *s) noexcept nogil         # done with it: next = its sequence + 1

cdef inline uint32_t ring_missing(const ring *r) noexcept nogil:
    """The first sequence that has not come, where any has."""
    return r.next if r.started else r.lowest
