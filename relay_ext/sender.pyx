# cython: boundscheck=False, wraparound=False, cdivision=True
# A packet is cut into at most two symbols, which the length check keeps within a datagram.
"""Source packets: an RTP packet becomes one or two symbols, each sealed and sent the moment it comes."""
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcpy

from relay_ext.datagram cimport begin_datagram, end_datagram
from relay_ext.inner cimport INNER_FIRST, INNER_LAST, INNER_SIZE, inner_write, put32
from relay_ext.path cimport path
from relay_ext.peer cimport ESI_SIZE, HOP_WINDOW, REPAIR_ID, SENDER_INTERVAL, TYPE_SOURCE, wake_within
from relay_ext.repair cimport repair_earn, repair_proactively
from relay_ext.rlc_encoder cimport rlc_encoder_add
from relay_ext.seal cimport SEAL_HEADER, SEAL_TAG
from relay_ext.uplink cimport uplink_repair, uplink_source


cdef bint hop_send(hop *h, int64_t now, const inner *header, slab *body, uint16_t off) noexcept nogil:
    """Send the payload body.data[off:off+header.length], in two symbols where one does not hold it."""
    cdef path *p = uplink_source(h)
    cdef inner part = header[0]
    # Repair packets are as long as the longest symbol, and may take another path.
    cdef uint16_t room = min(p.datagram_max, uplink_repair(h).datagram_max) - SEAL_HEADER - REPAIR_ID - SEAL_TAG - INNER_SIZE
    cdef bint sent
    if p.keys == NULL or not p.has_address:
        h.stats.no_session += 1
        return False
    if header.length <= room:
        part.flags |= INNER_FIRST | INNER_LAST
        return send_symbol(h, p, now, &part, body, off)
    if header.length > 2 * room:
        h.stats.too_long += 1
        return False
    part.length = (header.length + 1) // 2
    part.flags |= INNER_FIRST
    sent = send_symbol(h, p, now, &part, body, off)
    off += part.length
    part.length = header.length - part.length
    part.flags = header.flags | INNER_LAST
    return send_symbol(h, p, now, &part, body, off) and sent


cdef bint send_symbol(hop *h, path *p, int64_t now, const inner *header, slab *body, uint16_t off) noexcept nogil:
    cdef uint8_t head[20]
    cdef uint16_t symbol = INNER_SIZE + header.length
    cdef uint32_t esi
    cdef uint8_t *out
    cdef slab *d
    inner_write(head, header)
    esi = rlc_encoder_add(h.encoder, head, body, off, header.length)
    h.sent_at[esi & (HOP_WINDOW - 1)] = now
    h.source_at = now
    h.stats.source_sent += 1
    h.stats.source_bytes += symbol
    repair_earn(h, symbol)
    d = begin_datagram(h, p)
    if d == NULL:
        return False
    out = d.data + SEAL_HEADER
    memcpy(out, head, INNER_SIZE)
    memcpy(out + INNER_SIZE, body.data + off, header.length)
    put32(out + symbol, esi)
    if not end_datagram(h, p, d, now, TYPE_SOURCE, symbol + ESI_SIZE, False, &p.to):
        return False
    repair_proactively(h, now)
    wake_within(h, now, SENDER_INTERVAL)
    return True
