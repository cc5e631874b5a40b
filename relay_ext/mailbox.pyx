# cython: boundscheck=False, wraparound=False
# Shards are counted against SHARDS when they are joined, targets are addressed through a mask.
"""What crosses from one shard's packet plane to another's; posting is inline in mailbox.pxd."""
from relay_ext.base cimport TX_CAPACITY, spsc_consume, spsc_peek
from relay_ext.sender cimport hop_send
from relay_ext.slab cimport slab, slab_get, slab_unref
from relay_ext.system cimport write

cdef enum:
    MAIL_TURN = 256           # records taken of one queue in a turn, so that no shard can starve another


cdef bint mail_take(mailroom *r, slab_pool *pool, const tx_queue *tx, int64_t now, void *plane,
                    mail_insert insert) noexcept nogil:
    """A turn's share of what the other shards have posted; leaves off where the queue of datagrams fills up."""
    cdef uint32_t i
    cdef bint more = False
    for i in range(r.shards):
        more |= take_from(r, r.inbox[(r.first + i) & (r.shards - 1)], pool, tx, now, plane, insert)
    r.first += 1
    return more


cdef inline bint take_from(mailroom *r, spsc_queue *q, slab_pool *pool, const tx_queue *tx, int64_t now, void *plane,
                           mail_insert insert) noexcept nogil:
    cdef mail *m
    cdef int i
    if q == NULL:  # our own place
        return False
    for i in range(MAIL_TURN):
        m = <mail *>spsc_peek(q)
        if m == NULL:
            return False
        if tx.count > TX_CAPACITY // 2:
            return True
        deliver(r, m, pool, now, plane, insert)
        spsc_consume(q)
    return spsc_peek(q) != NULL


cdef inline void deliver(mailroom *r, const mail *m, slab_pool *pool, int64_t now, void *plane,
                         mail_insert insert) noexcept nogil:
    cdef target *t = mail_target(r, m.target)
    cdef slab *body
    if t.id != m.target:
        r.stats.mail_unknown += 1
        return
    body = slab_get(pool)
    if body == NULL:
        r.stats.mail_no_memory += 1
        return
    memcpy(body.data, m.data, m.header.length)
    body.len = m.header.length
    if t.to != NULL:
        hop_send(t.to, now, &m.header, body, 0)
    else:
        insert(plane, now, m.arrival, t.into, &m.header, body)
    slab_unref(pool, body)


cdef void mail_announce(mailroom *r) noexcept nogil:
    cdef uint64_t one = 1
    cdef uint32_t i
    for i in range(r.shards):
        if r.unannounced >> i & 1 and r.bells[i] >= 0:
            write(r.bells[i], &one, sizeof(one))  # fails only when the counter is full, and then it is readable anyway
    r.unannounced = 0
