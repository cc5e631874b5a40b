# cython: boundscheck=False, wraparound=False, cdivision=True
# Tables are powers of two behind a mask; what is read is checked before it is used to count or to index.
"""What of each part of a packet plane goes to the process after this one; carry.pxd is the interface.

Times stay what they are: the monotonic clock is the machine's. Fields that lie together go together; a field
that is added to a struct is carried with its neighbours, if it is no pointer.
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc

from relay_ext.archive cimport carry, carry_between, carry_number, carry_slab, carry_timer
from relay_ext.pacer cimport PACER_QUEUE, PACER_TRACKS, paced, paced_queue, pacer
from relay_ext.path cimport MAX_RTT, PATH_HISTORY, path, sent_datagram
from relay_ext.peer cimport HOP_PATHS, HOP_SPAN, HOP_WINDOW, hop
from relay_ext.playout cimport track
from relay_ext.replay cimport REPLAY_CAPACITY, kept, replay, replay_at
from relay_ext.ring cimport RING_CAPACITY, SLOT_DONE, SLOT_EMPTY, ring, slot
from relay_ext.rlc cimport rlc_decoder, rlc_row
from relay_ext.rlc_encoder cimport rlc_encoder, rlc_symbol
from relay_ext.seal cimport SEAL_KEY, seal_key_new, seal_key_secret
from relay_ext.slab cimport SLAB_DATA


# ---- tracks ----------------------------------------------------------------------------------

cdef void carry_track(archive *a, plane_track *k) noexcept nogil:
    carry_between(a, &k.t.id, &k.t.ring)
    carry_ring(a, &k.t.ring)
    carry_replay(a, &k.t)
    carry_timer(a, k.t.wheel, &k.t.timer)
    carry_between(a, &k.t.clock, &k.t + 1)
    carry(a, &k.source, sizeof(k.source))
    carry(a, &k.priority, sizeof(k.priority))


cdef void carry_ring(archive *a, ring *r) noexcept nogil:
    cdef uint32_t state
    cdef slot *s
    cdef int i
    carry_between(a, &r.occupied, r + 1)
    for i in range(RING_CAPACITY):
        s = &r.slots[i]
        state = carry_number(a, s.state, SLOT_DONE)
        if state == SLOT_EMPTY or a.failed:
            continue
        carry_slab(a, r.pool, &s.body)
        carry_between(a, &s.origin, s + 1)
        if (s.body == NULL) != (state == SLOT_DONE) or s.off + <uint32_t>s.len > SLAB_DATA or s.state != state:
            a.failed = True
        if a.failed:
            s.state = SLOT_EMPTY
            s.body = NULL
            r.held = 0


cdef void carry_replay(archive *a, track *t) noexcept nogil:
    cdef uint32_t i, count = 0 if t.replay == NULL else t.replay.next - t.replay.first
    cdef kept *k
    if not carry_number(a, t.replay != NULL, 1):
        return
    if a.reading:
        t.replay = <replay *>calloc(1, sizeof(replay))
    if t.replay == NULL:
        a.failed = True
        return
    t.replay.pool = t.pool
    carry(a, &t.replay.holders, sizeof(t.replay.holders))
    count = carry_number(a, count, REPLAY_CAPACITY)
    for i in range(count):
        k = replay_at(t.replay, t.replay.first + i)
        carry(a, &k.header, sizeof(k.header))
        carry_slab(a, t.pool, &k.body)
        carry_between(a, &k.at, k + 1)
        if k.body == NULL or k.off + <uint32_t>k.header.length > SLAB_DATA:
            a.failed = True
            return
        if a.reading:
            t.replay.next = i + 1


cdef void carry_egress(archive *a, egress *e) noexcept nogil:
    carry_between(a, &e.track, e + 1)


cdef void carry_feed(archive *a, feed *f) noexcept nogil:
    carry_between(a, &f.stream, f + 1)


# ---- hops ------------------------------------------------------------------------------------

cdef void carry_hop(archive *a, hop *h) noexcept nogil:
    cdef int64_t newest = 0
    cdef int i
    carry_between(a, &h.id, &h.tx)
    for i in range(HOP_PATHS):
        newest = max(newest, newest_sent(&h.paths[i]))
    for i in range(HOP_PATHS):
        carry_path(a, &h.paths[i], newest - MAX_RTT)
    carry_between(a, &h.params, &h.encoder)
    carry_encoder(a, h.encoder)
    carry_times(a, h.sent_at, HOP_WINDOW, h.encoder.first, h.encoder.next)
    carry_between(a, &h.window_first, &h.pacer)
    carry_pacer(a, h, &h.pacer)
    carry_timer(a, h.wheel, &h.pace_timer)
    carry_decoder(a, h.decoder)
    if h.decoder.started:
        carry_times(a, h.known_at, HOP_SPAN, h.decoder.base, h.decoder.highest + 1)
    carry_between(a, &h.forgotten, &h.routes)
    carry_slab(a, h.pool, &h.control)
    carry_between(a, &h.delays, h + 1)
    carry_timer(a, h.wheel, &h.timer)


cdef void carry_times(archive *a, int64_t *times, uint32_t size, uint32_t first, uint32_t end) noexcept nogil:
    """Of the ESIs from first up to end."""
    while first != end and not a.failed:
        carry(a, &times[first & (size - 1)], sizeof(int64_t))
        first += 1


cdef int64_t newest_sent(const path *p) noexcept nogil:
    return p.sent[(p.counter - 1) & (PATH_HISTORY - 1)].time if p.counter else 0


cdef void carry_path(archive *a, path *p, int64_t oldest) noexcept nogil:
    """Of what was sent, that which a report can still be about."""
    cdef sent_datagram *d
    cdef uint32_t i, count = 0
    carry_between(a, &p.has_address, &p.sent)
    if not a.reading:
        while count < min(p.counter, <uint64_t>PATH_HISTORY):
            if p.sent[(p.counter - 1 - count) & (PATH_HISTORY - 1)].time < oldest:
                break
            count += 1
    count = carry_number(a, count, PATH_HISTORY)
    for i in range(count):
        d = &p.sent[(p.counter - 1 - i) & (PATH_HISTORY - 1)]
        carry(a, d, sizeof(sent_datagram))
    carry_between(a, &p.rx_started, p + 1)


cdef void carry_keys(archive *a, session_keys *k) noexcept nogil:
    cdef uint8_t secret[2 * SEAL_KEY]
    cdef int cipher = 0
    carry_between(a, &k.local_index, &k.send)
    carry(a, &k.replay, sizeof(k.replay))
    if not a.reading:
        cipher = seal_key_secret(k.send, secret)
        seal_key_secret(k.receive, secret + SEAL_KEY)
    carry(a, &cipher, sizeof(cipher))
    carry(a, secret, sizeof(secret))
    if a.reading and not a.failed:
        k.send = seal_key_new(cipher, secret, True)
        k.receive = seal_key_new(cipher, secret + SEAL_KEY, False)
        if k.send == NULL or k.receive == NULL or k.path >= HOP_PATHS:
            a.failed = True


cdef void carry_pacer(archive *a, hop *h, pacer *p) noexcept nogil:
    carry_between(a, p, &p.audio)
    carry_queue(a, h, &p.audio)
    carry_queue(a, h, &p.video)
    p.tracks_used = carry_number(a, p.tracks_used, PACER_TRACKS)
    if p.tracks_used:
        carry(a, &p.tracks, sizeof(p.tracks))
    carry_between(a, &p.wanted, p + 1)


cdef void carry_queue(archive *a, hop *h, paced_queue *q) noexcept nogil:
    cdef uint32_t i
    cdef paced *packet
    q.count = carry_number(a, q.count, PACER_QUEUE)
    for i in range(q.count):
        packet = &q.packets[(q.head + i) & (PACER_QUEUE - 1)]
        carry(a, &packet.header, sizeof(packet.header))
        carry_slab(a, h.pool, &packet.body)
        carry_between(a, &packet.off, packet + 1)
        if packet.body == NULL or packet.off + <uint32_t>packet.header.length > SLAB_DATA:
            a.failed = True
            q.count = 0
            return


# ---- the code --------------------------------------------------------------------------------

cdef void carry_encoder(archive *a, rlc_encoder *e) noexcept nogil:
    cdef uint32_t i, kept
    cdef rlc_symbol *symbol
    carry(a, &e.first, sizeof(e.first))
    kept = carry_number(a, e.next - e.first, e.mask + 1)
    e.next = e.first
    for i in range(kept):
        symbol = &e.symbols[(e.first + i) & e.mask]
        carry_slab(a, e.pool, &symbol.body)
        carry_between(a, &symbol.off, symbol + 1)
        if symbol.body == NULL or symbol.off + <uint32_t>symbol.len > SLAB_DATA:
            a.failed = True
    e.next = e.first if a.failed else e.first + kept


cdef void carry_decoder(archive *a, rlc_decoder *d) noexcept nogil:
    cdef uint32_t i, span, rows
    rows = carry_number(a, d.rows, d.max_rows)
    carry_between(a, &d.started, &d.rows)
    carry_between(a, &d.malformed, &d.mask)
    carry(a, &d.live_unknowns, sizeof(d.live_unknowns))
    span = d.highest + 1 - d.base
    if not d.started or a.failed:
        return
    if span > d.mask + 1:
        a.failed = True
        return
    for i in range(span):
        carry_slab(a, d.pool, &d.known[(d.base + i) & d.mask])
    for i in range(rows):
        carry_row(a, d, d.order[i], span)
        if a.failed:
            return
        d.rows = i + 1


cdef void carry_row(archive *a, rlc_decoder *d, rlc_row *row, uint32_t span) noexcept nogil:
    cdef uint32_t i, n
    carry_between(a, &row.pivot, row + 1)
    carry_slab(a, d.pool, &row.data)
    n = row.last - row.pivot + 1
    if row.pivot - d.base >= span or n > span - (row.pivot - d.base) or row.data == NULL:
        a.failed = True
        return
    for i in range(n):
        carry(a, &row.coefs[(row.pivot + i) & d.mask], 1)
    d.owners[row.pivot & d.mask] = row
