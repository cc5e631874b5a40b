# What crosses from one shard's packet plane to another's: bounded queues of packets, addressed by id.
#
# A shard is one packet plane with its thread. Nothing is shared but these queues: one for each ordered pair of
# shards, with one producer and one consumer, so that there is no lock. A packet is copied into its record, and
# out of it into a slab of the receiving shard.
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from relay_ext.base cimport spsc_commit, spsc_queue, spsc_reserve, tx_queue
from relay_ext.peer cimport hop
from relay_ext.inner cimport inner
from relay_ext.slab cimport slab, slab_pool

cdef enum:
    SHARDS = 16               # at most; the low bits of an id name its shard
    SHARD_BITS = 4
    TARGETS = 16384           # tracks and hops of a shard
    MAIL_CAPACITY = 1024      # records of a queue: 10 ms at 100,000 packets/s

ctypedef struct mail:
    uint32_t target           # id of a hop to send to, or of a track to insert into
    int64_t arrival           # ns
    inner header
    uint8_t data[2032]        # header.length bytes of payload

ctypedef struct target:
    # a hop or a track that may be written to; ids are not used twice, so one that is gone is told from its successor
    uint32_t id
    hop *to
    void *into                # a plane_track

ctypedef struct mail_stats:
    uint64_t mail_sent
    uint64_t mail_dropped     # the queue to the other shard was full
    uint64_t mail_unknown     # to a hop or a track that has been removed
    uint64_t mail_no_memory

ctypedef struct mailroom:
    uint32_t shards           # 0: alone
    uint32_t first            # the shard whose queue is emptied first in the next turn
    uint32_t unannounced      # bits of shards that have been written to since they were last woken
    int bells[16]             # eventfds that wake the other shards, -1 without an engine
    spsc_queue *inbox[16]
    spsc_queue *outbox[16]
    target targets[16384]
    mail_stats stats

cdef inline target *mail_target(mailroom *r, uint32_t id) noexcept nogil:
    """The place of that id: its target's, if the ids match."""
    return &r.targets[(id >> SHARD_BITS) & (TARGETS - 1)]

cdef inline void mail_post(mailroom *r, int64_t now, uint32_t to, const inner *header, const uint8_t *data) noexcept nogil:
    """Hand a packet (header.length bytes, SLAB_DATA at most) to a hop or a track of another shard."""
    cdef uint32_t shard = to & (SHARDS - 1)
    cdef mail *m = <mail *>spsc_reserve(r.outbox[shard])
    if m == NULL:
        r.stats.mail_dropped += 1
        return
    m.target = to
    m.arrival = now
    m.header = header[0]
    memcpy(m.data, data, header.length)
    spsc_commit(r.outbox[shard])
    r.unannounced |= <uint32_t>1 << shard
    r.stats.mail_sent += 1

# What takes a packet of a peer, received by another shard at `arrival`, into a track of this one.
ctypedef void (*mail_insert)(void *plane, int64_t now, int64_t arrival, void *track, const inner *header, slab *body) noexcept nogil

cdef bint mail_take(mailroom *r, slab_pool *pool, const tx_queue *tx, int64_t now, void *plane,
                    mail_insert insert) noexcept nogil  # True: there is more
cdef void mail_announce(mailroom *r) noexcept nogil  # wakes the shards that have been written to
