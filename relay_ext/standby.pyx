# cython: boundscheck=False, wraparound=False, cdivision=True
# A frame's entries are counted against its length, and against ENTRIES_MAX where it is written.
"""The switch from one peer to another, both ends of it, without a word from Python.

The receiver watches the peer that its tracks come from. When that falls silent, it asks the second peer of each
track for what has come since, by origin sequence, again every ASK_INTERVAL until a packet comes from there; that
peer has held the track back and kept the last half second of it. What both peers have sent is a duplicate to the
track's ring. docs/fleet.md, "When something dies".
"""
from libc.stdint cimport INT64_MAX, uint32_t
from libc.stdlib cimport free

from relay_ext.feed cimport feed, feed_release
from relay_ext.hop cimport hop_send_control
from relay_ext.inner cimport be16, be32, put16, put32
from relay_ext.ring cimport ring_missing
from relay_ext.silence cimport silence_judge
from relay_ext.slab cimport slab
from relay_ext.timer cimport timer_armed, timer_schedule

cdef enum:
    ENTRY = 8                 # bytes: stream alias, track alias, epoch, origin sequence
    ENTRIES_MAX = 128         # so that a frame fits any path
    ASKS_MAX = 100            # 2 s: whoever has not answered by then is not there

cdef int64_t ASK_INTERVAL = 20000000  # ns


cdef void standby_add(standby *s) noexcept nogil:
    s.next = <standby *>s.first.standbys
    s.first.standbys = s


cdef void standby_remove(standby *s) noexcept nogil:
    cdef standby **at = <standby **>&s.first.standbys
    while at[0] != s:
        at = &at[0].next
    at[0] = s.next
    free(s)


cdef void standby_ask(standby *s, int64_t now) noexcept nogil:
    s.asking = True
    s.asks = 0
    s.track.by = 0
    if not timer_armed(&s.first.watch_timer) or s.first.watch_timer.deadline > now:
        timer_schedule(s.first.wheel, &s.first.watch_timer, now)


cdef uint8_t standby_watch(hop *h, takeover_stats *stats, int64_t now) noexcept nogil:
    cdef bint silent = h.silence.silent, unreached = h.echo.silent
    cdef int64_t deadline = min(silence_judge(&h.silence, now, h.media_at), silence_judge(&h.echo, now, h.source_at))
    cdef standby *s = <standby *>h.standbys
    silent = h.silence.silent and not silent
    unreached = h.echo.silent and not unreached
    stats.silences += silent
    stats.unreached += unreached
    while silent and s != NULL:
        standby_ask(s, now)
        stats.takeovers += 1
        s = s.next
    if ask(<standby *>h.standbys, now):
        deadline = min(deadline, now + ASK_INTERVAL)
    if deadline != INT64_MAX:
        timer_schedule(h.wheel, &h.watch_timer, deadline)
    return (FALLEN_SILENCE if silent else 0) | (FALLEN_ECHO if unreached else 0)


cdef bint ask(standby *s, int64_t now) noexcept nogil:
    """Send to each second peer one frame of all that is asked for there; False: there was nothing."""
    cdef uint8_t frame[2 + 128 * 8]
    cdef hop *to = NULL
    cdef uint8_t n = 0
    cdef bint asked = False
    frame[0] = FRAME_TAKE_OVER
    while s != NULL:
        if s.asking and (s.asks == ASKS_MAX or s.track.by == s.second.id):
            s.asking = False
        # Of a track that has had no packet yet, what is missing is not known: that is left to Python.
        if s.asking and s.track.ring.occupied:
            if n == ENTRIES_MAX or (n and to != s.second):
                send(to, now, frame, n)
                n = 0
            to = s.second
            write_entry(frame + 2 + n * ENTRY, s)
            n += 1
            asked = True
        s.asks += s.asking
        s = s.next
    if n:
        send(to, now, frame, n)
    return asked


cdef inline void write_entry(uint8_t *out, const standby *s) noexcept nogil:
    put16(out, s.stream)
    out[2] = s.alias
    out[3] = s.epoch
    put32(out + 4, ring_missing(&s.track.ring))


cdef inline void send(hop *to, int64_t now, uint8_t *frame, uint8_t n) noexcept nogil:
    frame[1] = n
    hop_send_control(to, now, to.active, NULL, frame, 2 + n * ENTRY, 0)


cdef inline feed *find(hop *h, const uint8_t *entry) noexcept nogil:
    cdef feed *f = <feed *>h.feeds
    while f != NULL and (f.stream != be16(entry) or f.alias != entry[2] or f.epoch != entry[3]):
        f = f.next_here
    return f


cdef void standby_asked(hop *h, mailroom *mail, takeover_stats *stats, int64_t now) noexcept nogil:
    cdef slab *frame = h.control
    cdef const uint8_t *entry = frame.data + 2
    cdef uint32_t since
    cdef uint8_t i
    cdef feed *f
    if frame.len < 2 or frame.len < 2 + frame.data[1] * ENTRY:
        stats.take_over_malformed += 1
        return
    for i in range(frame.data[1]):
        f = find(h, entry)
        since = be32(entry + 4)
        entry += ENTRY
        if f == NULL:
            stats.take_over_unknown += 1
        elif f.kept:
            stats.released += 1
            feed_release(f, mail, now, &since)
