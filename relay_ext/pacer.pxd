# What waits to be sent to a peer while the hop carries less than there is: order, pace, and what is dropped.
#
# Packets wait here before they get an ESI, so that one which is dropped is no unknown in the equations. All structs
# begin zeroed; nothing allocates. While `rate` is 0, nothing waits and no frames are spared, packets need not come here
# at all.
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from relay_ext.inner cimport inner
from relay_ext.slab cimport slab, slab_pool

cdef enum:
    PACER_QUEUE = 1024        # packets that wait in each of the two queues
    PACER_TRACKS = 256        # tracks that are told apart, slots; at most half are used
    PACER_WANTED = 16         # tracks that can wait to be told of

cdef enum:                    # what a track's packets meet
    TRACK_PASSES = 0
    TRACK_SKIPS_FRAME = 1     # until the next frame
    TRACK_SKIPS_GROUP = 2     # until the next key frame

ctypedef struct paced:
    inner header
    slab *body                # one reference
    uint16_t off
    int64_t at                # ns, when it came

ctypedef struct paced_track:
    bint used
    uint32_t key              # stream and track alias, as in `wanted`
    uint8_t epoch
    uint8_t state
    bint framed               # its packets say where frames begin or end
    bint keyed                # a key frame has been seen
    bint between              # the last packet ended a frame
    bint start                # INNER_START was dropped: the next packet carries it
    uint32_t gap              # packets dropped since the last one that was sent
    int64_t since             # ns, when TRACK_SKIPS_GROUP began

ctypedef struct paced_queue:
    paced packets[1024]
    uint32_t head
    uint32_t count

ctypedef struct pacer_stats:
    uint64_t paced            # packets that had to wait
    uint64_t dropped_frames   # dropped whole
    uint64_t dropped_audio    # packets
    uint64_t dropped_key
    uint64_t dropped_discardable
    uint64_t dropped_media    # all others
    uint64_t dropped_overflow # of these, because the queue was full

ctypedef struct pacer:
    double rate               # bytes/s of IP packets; 0: no limit
    bint spare_frames         # discardable frames are dropped, however early they are
    int64_t budget            # ns; what has waited for longer is of no use any more
    double tokens             # bytes that may be sent now; negative: owed
    double burst              # the same over a few milliseconds
    int64_t filled            # ns, when both were brought up to date
    uint32_t waiting          # packets in both queues
    paced_queue audio         # and sender reports
    paced_queue video
    paced_track tracks[256]
    uint32_t tracks_used
    uint32_t wanted[16]       # tracks whose encoder should make a key frame: stream alias << 8 | track alias
    uint32_t wanted_count
    pacer_stats stats

cdef void pacer_set(pacer *p, int64_t now, double rate, int64_t budget, bint spare_frames) noexcept nogil
cdef void pacer_put(pacer *p, slab_pool *pool, int64_t now, const inner *header, slab *body, uint16_t off) noexcept nogil
cdef void pacer_saw_key(pacer *p, const inner *header) noexcept nogil  # a packet of a key frame is sent without waiting
# The next packet whose time has come, with its reference; NULL: none. Drops what has become useless on the way.
cdef bint pacer_take(pacer *p, slab_pool *pool, int64_t now, paced *out) noexcept nogil
cdef int64_t pacer_deadline(const pacer *p, int64_t now) noexcept nogil  # when to take again; INT64_MAX: nothing waits
cdef void pacer_clear(pacer *p, slab_pool *pool) noexcept nogil

cdef inline void pacer_spend(pacer *p, uint32_t size) noexcept nogil:
    """An IP packet of so many bytes has been sent, whatever it was."""
    p.tokens -= size
    p.burst -= size
