# A track: its ring, the order and moment of release, and the egresses that packets are released to.
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from relay_ext.base cimport tx_queue
from relay_ext.delay cimport delay_floor, delay_histogram, delay_line
from relay_ext.egress cimport egress, origin_clock
from relay_ext.inner cimport inner
from relay_ext.replay cimport replay
from relay_ext.ring cimport ring
from relay_ext.slab cimport slab, slab_pool
from relay_ext.timer cimport timer_node, timer_wheel

ctypedef struct track_stats:
    uint64_t received         # packets, each once
    uint64_t received_bytes
    uint64_t delivered        # released to the egresses
    uint64_t lost             # given up at their deadline
    uint64_t late             # came after their deadline
    uint64_t duplicate
    uint64_t malformed        # not RTP
    uint64_t key_frames       # whose beginning was released
    uint64_t resets           # jumps of the origin sequence that emptied the ring
    uint64_t no_memory
    uint64_t relayed          # that came from a peer and were sent on to others
    uint64_t expired          # not sent on to a peer: too old to be of use there
    uint64_t too_many_hops    # not sent on: they have passed as many relays as they may

ctypedef struct track:
    uint32_t id
    uint32_t clock_rate       # Hz
    uint32_t ssrc             # of the source, as last received
    int64_t hold              # ns; longest that a missing packet is waited for, beyond the least transit time
    int64_t rtt               # ns, of the hop that the track comes by; 0: not known
    int64_t rtt_before        # ns, the longest of the hops before that one
    uint32_t by               # the hop that last brought a packet of it; 0: none
    ring ring
    replay *replay            # of a track that is kept ready for peers, else NULL
    timer_node timer
    timer_wheel *wheel
    tx_queue *tx
    slab_pool *pool
    egress *egresses
    origin_clock clock
    bint broken               # something was given up since the last key frame, of a track that has such
    int64_t released          # ns, origin time of the packet last released
    int64_t heard             # ns, when the last packet came
    int64_t silence           # ns, how long before that none had come, the last time that this was an outage
    int64_t silence_end       # ns
    int64_t last_origin       # ns, to unwrap the inner header's 32 bits
    delay_floor floor         # what deadlines count from
    delay_line line           # what added_delay counts from
    delay_histogram delays    # beyond the floor, of packets that came within `hold`
    int64_t added_delay       # ns, of the packet last inserted
    track_stats stats

cdef bint track_init(track *t, slab_pool *pool, timer_wheel *wheel, tx_queue *tx) noexcept nogil
cdef void track_destroy(track *t) noexcept nogil
cdef void track_restart(track *t) noexcept nogil     # the origin began anew: other sequence, other clock
cdef int64_t track_observe(track *t, int64_t now, uint32_t time) noexcept nogil  # the origin time, ns; sets added_delay
cdef int track_insert(track *t, int64_t now, const inner *h, slab *body, uint16_t off) noexcept nogil  # as ring_insert
cdef int64_t track_target(const track *t) noexcept nogil  # ns beyond the floor that a missing packet is waited for
cdef void track_release(track *t, int64_t now) noexcept nogil  # everything whose time has come
cdef void track_sender_report(track *t, const uint8_t *data, uint16_t n) noexcept nogil
