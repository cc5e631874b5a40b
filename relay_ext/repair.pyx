# cython: boundscheck=False, wraparound=False, cdivision=True
# What a report names is checked against what the encoder keeps before it is used.
"""Repair packets: proactive ones at the ratio that the decision plane sets, and answers to reports. docs/loss.md."""
from libc.math cimport ceil, log, sqrt

from relay_ext.datagram cimport begin_datagram, end_datagram
from relay_ext.inner cimport put16, put32, serial_diff
from relay_ext.path cimport path
from relay_ext.peer cimport HOP_WINDOW, REPAIR_ID, REPAIR_SPACING, REPORT_INTERVAL, TYPE_REPAIR
from relay_ext.rlc_encoder cimport RLC_MAX_WINDOW, rlc_encode
from relay_ext.seal cimport SEAL_HEADER, SEAL_TAG
from relay_ext.slab cimport slab, slab_unref
from relay_ext.uplink cimport uplink_answer, uplink_fitting, uplink_repair

cdef enum:
    PROACTIVE_WINDOW = 128    # symbols

cdef double ALLOWANCE_MAX = 262144.0          # bytes of repair that may be saved up for a burst
cdef double REACTIVE_RESERVE = 32768.0        # of which proactive repair leaves so many: what is asked for comes first
cdef double LOSS_MAX = 0.75                   # beyond which no answer is worth its bytes
cdef double AGAIN_MAX = 0.95                  # longer bursts than of 20 are outages
cdef double SILENCE = 0.02                    # chance that no further report is heard, from which on an answer is the last


cdef void repair_earn(hop *h, uint16_t symbol) noexcept nogil:
    h.allowance = min(h.allowance + h.params.max_overhead * symbol, ALLOWANCE_MAX)


cdef void repair_proactively(hop *h, int64_t now) noexcept nogil:
    cdef path *p = uplink_repair(h)
    cdef uint32_t next_esi = h.encoder.next
    cdef int64_t oldest = now - h.params.send_budget
    cdef double reserve = REACTIVE_RESERVE if h.params.send_budget > h.repair_round else 0.0
    if serial_diff(next_esi, h.window_first) > PROACTIVE_WINDOW:
        h.window_first = next_esi - PROACTIVE_WINDOW
    while h.window_first != next_esi - 1 and h.sent_at[h.window_first & (HOP_WINDOW - 1)] < oldest:
        h.window_first += 1
    h.credit += h.params.proactive
    while h.credit >= 1.0:
        h.credit -= 1.0
        if h.allowance < reserve:
            h.stats.overhead_limited += 1
        elif not send_repair(h, p, now, h.window_first, <uint16_t>(next_esi - h.window_first), False):
            h.credit = 0.0


cdef bint send_repair(hop *h, path *p, int64_t now, uint32_t first, uint16_t count, bint reactive) noexcept nogil:
    """One repair packet over `count` symbols from `first`; False when max_overhead forbids it or it cannot be."""
    cdef uint8_t *out
    cdef uint16_t n
    cdef slab *d
    if h.allowance <= 0.0:
        h.stats.overhead_limited += 1
        return False
    d = begin_datagram(h, p)
    if d == NULL:
        return False
    out = d.data + SEAL_HEADER
    n = rlc_encode(h.encoder, first, count, h.repair_key, out + REPAIR_ID)
    if n == 0:
        slab_unref(h.pool, d)
        return False
    p = uplink_fitting(h, p, SEAL_HEADER + REPAIR_ID + n + SEAL_TAG)
    put32(out, first)
    put16(out + 4, count)
    put16(out + 6, h.repair_key)
    h.repair_key += 1
    if not end_datagram(h, p, d, now, TYPE_REPAIR, REPAIR_ID + n, reactive, &p.to):
        return False
    h.allowance -= n
    h.stats.repair_sent += 1
    h.stats.reactive_sent += reactive
    h.stats.repair_bytes += n
    return True


cdef inline double usual_loss(const path *p) noexcept nogil:
    """What a last answer counts on: a link that has lost bursts of late may do so again."""
    return min(max(p.loss.assumed, p.loss.lost / p.loss.sent if p.loss.sent > 0.0 else 0.0), LOSS_MAX)


cdef inline double loss_again(const path *p, double loss) noexcept nogil:
    """Chance of a loss after a loss."""
    cdef double habit = 1.0 - p.loss.runs / p.loss.lost if p.loss.lost > 0.0 else 0.0
    return min(max(loss + p.loss.burst * (1.0 - loss), habit), AGAIN_MAX)


cdef inline double margin(double d, double loss, double again) noexcept nogil:
    """Answers beyond the mean, so that the last one is enough: two standard deviations of what is lost of d, or a
    burst longer than all but a share `loss` of the bursts, whichever is more."""
    cdef double rho = max((again - loss) / (1.0 - loss), 0.0)
    cdef double spread = 2.0 * sqrt(d * loss / (1.0 - loss) + 0.25) * sqrt((1.0 + rho) / (1.0 - rho))
    return max(spread, log(loss) / log(again)) if loss > 0.0 else spread


cdef inline int64_t last_chance(const hop *h, double loss, double again) noexcept nogil:
    """How long before it is too late an answer counts as the last one: the time in which no further report is heard
    with a chance above SILENCE, if reports are lost as repair is. No longer than a round of repair: then the
    next answer knows what became of this one."""
    cdef double silent = loss
    cdef int64_t time = REPORT_INTERVAL
    while silent > SILENCE and time < h.repair_round + REPAIR_SPACING:
        silent *= again
        time += REPORT_INTERVAL
    return time


cdef void repair_reactively(hop *h, int64_t now, uint32_t flying, uint32_t deficit, uint32_t oldest,
                            const uint8_t *bitmap, uint16_t bits) noexcept nogil:
    """Answer a report: the rule of docs/loss.md, "Reactive repair"."""
    cdef path *p = uplink_repair(h)
    cdef uint32_t esi, first = 0, last = 0, missing = 0, sent
    cdef int64_t send_time, first_time = 0
    cdef uint16_t i
    cdef double d, loss, usual, again, extra, need
    for i in range(bits):
        if not bitmap[i >> 3] & (0x80 >> (i & 7)):
            continue
        esi = oldest + i
        if serial_diff(esi, h.encoder.first) < 0 or serial_diff(esi, h.encoder.next) >= 0:
            continue  # no longer kept, or a lie
        send_time = h.sent_at[esi & (HOP_WINDOW - 1)]
        if now > send_time + h.params.send_budget:
            continue  # it left now, it would come too late
        if missing == 0:
            first = esi
            first_time = send_time
        elif esi - first >= RLC_MAX_WINDOW:
            break
        last = esi
        missing += 1
    if missing == 0 or deficit == 0:
        return
    d = <double>min(deficit, missing)
    loss = min(p.loss.assumed, LOSS_MAX)
    usual = usual_loss(p)
    again = loss_again(p, usual)
    extra = 0.0
    # While media has to wait, it goes before this margin.
    if now + last_chance(h, usual, again) > first_time + h.params.send_budget and h.pacer.waiting == 0:
        extra = margin(d, usual, again)
    need = ceil((d + extra) / (1.0 - loss))
    for sent in range(max(<int64_t>need - flying, 0)):
        if not send_repair(h, uplink_answer(h, sent), now, first, <uint16_t>(last - first + 1), True):
            return
