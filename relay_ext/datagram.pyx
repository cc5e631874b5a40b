# cython: boundscheck=False, wraparound=False, cdivision=True
# A slab holds the largest datagram; lengths are checked against the path's before anything is sealed.
"""One sealed datagram to a peer: a slab to write the plaintext to, then header, seal and queue."""
from libc.stdint cimport uint32_t, uint64_t

from relay_ext.base cimport tx_packet, tx_push
from relay_ext.inner cimport put32
from relay_ext.pacer cimport pacer_spend
from relay_ext.path cimport IP_UDP, path_afford, path_next
from relay_ext.peer cimport TYPE_CONTROL, TYPE_REPORT
from relay_ext.seal cimport SEAL_HEADER, SEAL_TAG, seal_in_place
from relay_ext.slab cimport slab_get, slab_unref


cdef slab *begin_datagram(hop *h, path *p) noexcept nogil:
    """A slab for a datagram, whose plaintext belongs at data[SEAL_HEADER:]; NULL when it cannot be sent."""
    cdef slab *d
    if p.keys == NULL or not p.has_address:
        h.stats.no_session += 1
        return NULL
    d = slab_get(h.pool)
    if d == NULL:
        h.stats.no_memory += 1
    return d


cdef inline void queue_datagram(hop *h, const path *p, slab *d, const addr *to) noexcept nogil:
    cdef tx_packet *packet = tx_push(h.tx, d, 0, d.len)
    if packet != NULL:
        packet.port = p.port
        packet.to = to[0]


cdef bint end_datagram(hop *h, path *p, slab *d, int64_t now, uint8_t type, uint16_t plaintext, bint reactive,
                       const addr *to) noexcept nogil:
    """Write the header, seal that many bytes in place and queue the datagram; takes over the reference."""
    cdef uint16_t size = SEAL_HEADER + plaintext + SEAL_TAG
    cdef uint8_t *header = d.data
    cdef uint64_t counter
    if size > p.datagram_max and type != TYPE_CONTROL:
        h.stats.too_long += 1
        slab_unref(h.pool, d)
        return False
    counter = path_next(p, now, size, reactive)
    if p.id == h.active:  # whose bottleneck sources wait for
        pacer_spend(&h.pacer, size + IP_UDP)
    header[0] = type
    header[1] = header[2] = header[3] = 0
    put32(header + 4, p.keys.remote_index)
    put32(header + 8, <uint32_t>(counter >> 32))
    put32(header + 12, <uint32_t>counter)
    d.len = size
    if seal_in_place(p.keys.send, counter, header, header + SEAL_HEADER, plaintext) < 0:
        h.stats.seal_failed += 1
        slab_unref(h.pool, d)
        return False
    queue_datagram(h, p, d, to)
    if type == TYPE_REPORT and path_afford(p, size):
        queue_datagram(h, p, d, &p.newest)  # the same datagram: where both arrive, one is a replay
    slab_unref(h.pool, d)
    return True
