# The peers that a track is sent to, whether it enters here or comes from another peer.
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t

from relay_ext.inner cimport inner
from relay_ext.mailbox cimport mailroom
from relay_ext.peer cimport hop
from relay_ext.playout cimport track
from relay_ext.replay cimport replay
from relay_ext.slab cimport slab

ctypedef struct feed:
    # a track that is sent to a peer
    feed *next                # of the track
    feed *next_here           # of the hop
    track *track
    hop *to                   # NULL: `far` is a peer of another shard
    uint32_t far              # its id
    uint16_t stream           # aliases on this hop
    uint16_t age_max          # units of `inner.age`; what is older is of no use to the peer
    uint8_t alias
    uint8_t epoch
    bint started
    bint held                 # the peer has it from another, and takes it from here when that falls silent
    bint kept                 # the last packets are kept for it, which may ask for them

cdef void feed_add(feed **feeds, feed *f) noexcept nogil
cdef void feed_remove(feed **feeds, feed *f) noexcept nogil  # and frees it
cdef void feed_hold(feed *f, replay *spare) noexcept nogil   # takes over `spare`, memory for the track's if it has none
# Send what is kept from that origin sequence on (NULL: nothing of it), keep no more, and from now on send what comes.
cdef void feed_release(feed *f, mailroom *mail, int64_t now, const uint32_t *since) noexcept nogil
# Send what is kept of the last `period` ns, and from now on what comes; the peer may still ask for more.
cdef void feed_resume(feed *f, mailroom *mail, int64_t now, int64_t period) noexcept nogil
cdef bint feeds_send(feed *f, mailroom *mail, track *t, int64_t now, const inner *header, slab *body,
                     uint16_t off) noexcept nogil  # True: a peer has been sent its first packet
cdef bint feeds_insert(feed *f, mailroom *mail, track *t, int64_t now, int64_t arrival, const inner *header, slab *body,
                       uint16_t off) noexcept nogil  # what came from a peer; True: it is news to playout
