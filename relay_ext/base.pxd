# What the packet plane's modules share: addresses, datagrams to be sent, queues to and from Python.
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp

from relay_ext.slab cimport slab, slab_pool, slab_ref, slab_unref

cdef extern from "spsc.h" nogil:
    ctypedef struct spsc_queue:
        pass
    int spsc_init(spsc_queue *q, uint32_t capacity, size_t record)
    void spsc_destroy(spsc_queue *q)
    void *spsc_reserve(spsc_queue *q)
    void spsc_commit(spsc_queue *q)
    void *spsc_peek(spsc_queue *q)
    void spsc_consume(spsc_queue *q)


ctypedef struct addr:
    uint8_t ip[16]    # IPv4 as ::ffff:a.b.c.d, so that one comparison serves both
    uint16_t port     # host order
    uint16_t spare    # zero: addresses are compared as bytes
    uint32_t scope    # IPv6 link-local scope, else 0

cdef inline bint addr_equal(const addr *a, const addr *b) noexcept nogil:
    return memcmp(a, b, sizeof(addr)) == 0

cdef inline bint addr_same_host(const addr *a, const addr *b) noexcept nogil:
    return memcmp(a.ip, b.ip, 16) == 0 and a.scope == b.scope

# ---- datagrams to be sent --------------------------------------------------------------------

cdef enum:
    TX_CAPACITY = 2048

ctypedef struct tx_packet:
    uint16_t port     # socket to send from
    uint16_t off      # body = body.data[off:off+len]
    uint16_t len
    uint16_t head_len
    addr to
    slab *body        # one reference, dropped once sent
    uint8_t head[16]

ctypedef struct tx_queue:
    uint32_t count
    uint64_t overflow   # datagrams refused because the queue was full
    tx_packet packets[2048]

cdef inline tx_packet *tx_push(tx_queue *q, slab *body, uint16_t off, uint16_t length) noexcept nogil:
    """A packet to fill in (port, to, head), holding its own reference to `body`; NULL when the queue is full."""
    cdef tx_packet *p
    if q.count == TX_CAPACITY:
        q.overflow += 1
        return NULL
    p = &q.packets[q.count]
    q.count += 1
    p.body = slab_ref(body)
    p.off = off
    p.len = length
    p.head_len = 0
    return p

cdef inline void tx_clear(tx_queue *q, slab_pool *pool) noexcept nogil:
    cdef uint32_t i
    for i in range(q.count):
        slab_unref(pool, q.packets[i].body)
    q.count = 0

# ---- queues to and from Python ---------------------------------------------------------------

ctypedef struct command:
    # `ptr` is memory that Python allocated and that the packet plane owns from here on; `target` is an
    # object that the packet plane has already.
    int32_t op
    uint32_t a
    uint32_t b
    uint32_t c
    void *target
    void *ptr

cdef enum:
    EVENT_DATA = 1536  # longest datagram that Python is ever shown

ctypedef struct event:
    uint16_t kind
    uint16_t len      # bytes of data
    uint16_t port
    uint16_t size     # bytes of the datagram that caused it, header and tag included
    uint32_t a        # hop, track, ... as the kind says
    uint32_t b
    int64_t now       # ns
    addr source
    uint8_t data[1536]
