# cython: boundscheck=False, wraparound=False, cdivision=True
# Lengths and counts from the network are checked before the bytes are read.
"""Reports: what we received and miss, and what the peer says of itself. docs/protocol.md, "Reports"."""
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t
from libc.string cimport memset

from relay_ext.datagram cimport begin_datagram, end_datagram
from relay_ext.inner cimport be16, be32, put16, put32, serial_diff
from relay_ext.path cimport (
    MAX_RTT, PATH_ARRIVALS, path_report, path_take_report, path_write_arrivals, path_write_report)
from relay_ext.peer cimport HOP_PATHS, HOP_SPAN, TYPE_REPORT, hop_watched, wake_within
from relay_ext.receiver cimport learn_tail
from relay_ext.reorder cimport reorder_share
from relay_ext.repair cimport repair_reactively
from relay_ext.rlc cimport rlc_decoder_deficit, rlc_decoder_is_missing
from relay_ext.seal cimport SEAL_HEADER
from relay_ext.silence cimport BEAT_FAST, silence_heard
from relay_ext.uplink cimport uplink_choose, uplink_is_up, uplink_told

cdef enum:
    REPORT_FIXED = 40
    REPORT_OTHER = 12         # bytes that tell of another path
    REPORT_BITS = 1024        # ESIs that a report's bitmap covers, at most

cdef enum:                    # bits of a report's second byte
    REPORT_HEARD = 1          # what it says of the path is valid
    REPORT_DECODES = 2        # so is what it says of symbols
    REPORT_BEATS = 4          # the sender is to be heard all the time, media or not
    REPORT_FAST = 8           # more often than usual

cdef int64_t BEATS_FOR = 2000000000  # ns; eight reports of an idle hop, of which one gets through


cdef inline uint32_t oldest_missing(hop *h) noexcept nogil:
    """The oldest ESI that still matters, is missing and fits a report's bitmap; the one after the highest when none
    is. What a long outage took would fill the bitmap, and nothing newer be asked for."""
    cdef uint32_t esi = h.decoder.live
    if serial_diff(h.decoder.highest, esi) >= REPORT_BITS:
        esi = h.decoder.highest - REPORT_BITS + 1
    while serial_diff(esi, h.decoder.highest) <= 0 and not rlc_decoder_is_missing(h.decoder, esi):
        esi += 1
    return esi


cdef uint32_t asked_for(hop *h, int64_t now) noexcept nogil:
    """The deficit, less the share of the youngest holes that reordering fills by itself."""
    cdef uint32_t deficit = rlc_decoder_deficit(h.decoder), esi = h.decoder.highest, young = 0
    cdef double share = reorder_share(&h.reorder)
    if deficit == 0 or share == 0.0:
        return deficit
    while serial_diff(esi, h.decoder.live) >= 0 and h.known_at[esi & (HOP_SPAN - 1)] + h.reorder.extent >= now:
        young += rlc_decoder_is_missing(h.decoder, esi)
        esi -= 1
    return deficit - min(<uint32_t>(share * young + 0.5), deficit)


cdef inline void write_other(const path *p, int64_t now, uint8_t *out) noexcept nogil:
    put32(out, <uint32_t>p.id << 24)
    put32(out + 4, <uint32_t>min((now - p.rx_highest_at) // 1000, <int64_t>0xffffffff))
    put32(out + 8, <uint32_t>p.rx_highest)


cdef void send_reports(hop *h, int64_t now) noexcept nogil:
    cdef uint8_t i
    for i in range(HOP_PATHS):
        if uplink_is_up(&h.paths[i]):
            send_report(h, &h.paths[i], now)


cdef void send_report(hop *h, path *p, int64_t now) noexcept nogil:
    cdef slab *d = begin_datagram(h, p)
    cdef uint8_t *out
    cdef uint16_t bits = 0, i
    cdef size_t n = REPORT_FIXED
    cdef uint32_t oldest
    cdef int32_t span
    if d == NULL:
        return
    out = d.data + SEAL_HEADER
    memset(out, 0, REPORT_FIXED + REPORT_BITS // 8)
    out[0] = p.id
    out[1] = (REPORT_HEARD if p.rx_started else 0) | (REPORT_BEATS if hop_watched(h) else 0)
    if now < max(h.silence.fast_until, h.echo.fast_until):
        out[1] |= REPORT_FAST
    put16(out + 2, min(asked_for(h, now), 0xffff))
    path_write_report(p, now, out + 4)
    put32(out + 24, h.encoder.next)
    if h.decoder.started:
        out[1] |= REPORT_DECODES
        oldest = oldest_missing(h)
        span = serial_diff(h.decoder.highest, oldest) + 1
        bits = <uint16_t>min(max(span, 0), REPORT_BITS)
        put32(out + 28, oldest)
        put32(out + 32, h.decoder.highest)
        put16(out + 36, bits)
        for i in range(bits):
            if rlc_decoder_is_missing(h.decoder, oldest + i):
                out[REPORT_FIXED + (i >> 3)] |= <uint8_t>(0x80 >> (i & 7))
        n += (bits + 7) >> 3
    out[38] = p.arrival_count
    n += path_write_arrivals(p, now, out + n)
    for i in range(HOP_PATHS):
        if i != p.id and h.paths[i].rx_started:
            write_other(&h.paths[i], now, out + n)
            out[39] += 1
            n += REPORT_OTHER
    if end_datagram(h, p, d, now, TYPE_REPORT, <uint16_t>n, False, &p.to):
        h.stats.reports_sent += 1


cdef void receive_report(hop *h, path *p, int64_t now, uint64_t counter, slab *s) noexcept nogil:
    cdef const uint8_t *b = s.data
    cdef path_report r
    cdef const uint8_t *others
    cdef uint16_t bits, bitmap
    cdef uint32_t flying
    if s.len < REPORT_FIXED or b[0] != p.id:
        h.stats.bad_report += 1
        return
    bits = be16(b + 36)
    bitmap = (bits + 7) >> 3
    r.valid = b[1] & REPORT_HEARD
    r.time_us = be32(b + 4)
    r.delay_us = be32(b + 8)
    r.highest = be32(b + 12)
    r.received = be32(b + 16)
    r.runs = be32(b + 20)
    r.arrivals = b[38]
    r.arrival_data = b + REPORT_FIXED + bitmap
    others = r.arrival_data + 4 * r.arrivals
    if (bits > REPORT_BITS or r.arrivals > PATH_ARRIVALS or b[39] >= HOP_PATHS
            or s.len != REPORT_FIXED + bitmap + 4 * r.arrivals + REPORT_OTHER * b[39]):
        h.stats.bad_report += 1
        return
    if not path_take_report(p, now, counter, &r):
        return
    h.stats.reports_received += 1
    if p.progress_at == now:
        silence_heard(&h.echo, now, h.source_at)
    learn_tail(h, now, be32(b + 24))
    # Beyond the longest RTT the peer's clock may have wrapped.
    if h.view_at and now - h.view_at <= <int64_t>MAX_RTT and <int32_t>(r.time_us - h.view_us) <= 0:
        return  # one that was written later has come on a faster path
    h.view_at = now
    h.view_us = r.time_us
    heed_beats(h, now, b[1])
    flying = heed_paths(h, p, now, &r, others, b[39])
    if b[1] & REPORT_DECODES:
        repair_reactively(h, now, flying, be16(b + 2), be32(b + 28), b + REPORT_FIXED, bits)


cdef inline void heed_beats(hop *h, int64_t now, uint8_t flags) noexcept nogil:
    h.beats_until = now + BEATS_FOR if flags & REPORT_BEATS else 0
    h.beats_fast = flags & REPORT_FAST != 0
    if h.beats_until:
        wake_within(h, now, BEAT_FAST)


cdef inline uint32_t heed_paths(hop *h, path *p, int64_t now, const path_report *r, const uint8_t *others,
                                uint8_t count) noexcept nogil:
    """What a report says of the paths at one moment; the reactive repairs that were under way then, on all of them."""
    cdef uint32_t flying = 0
    cdef uint8_t i
    if r.valid:
        flying = uplink_told(h, p, now, r.highest, <int64_t>r.delay_us * 1000)
    for i in range(count):
        if others[0] < HOP_PATHS and others[0] != p.id:
            flying += uplink_told(h, &h.paths[others[0]], now, be32(others + 8), <int64_t>be32(others + 4) * 1000)
        others += REPORT_OTHER
    uplink_choose(h)
    return flying
