# cython: boundscheck=False, wraparound=False, cdivision=True
# No array is indexed here.
"""A day of datagrams in a second, for what `silence` makes of them: python -m relay.lab.failover."""
from libc.stdint cimport INT64_MAX, int64_t, uint64_t
from libc.string cimport memset

from relay_ext.silence cimport BEAT_AFTER, BEAT_FAST, silence, silence_heard, silence_judge, silence_watch, beat_interval

cdef int64_t SECOND = 1000000000

ctypedef struct link:
    uint64_t state            # xorshift64*
    double good_bad, bad_good
    bint bad
    int64_t jitter            # ns
    int64_t drawn             # ns, when `extra` was
    int64_t extra
    int64_t last              # ns, when the last datagram came out


cdef inline double chance(link *l) noexcept nogil:
    l.state ^= l.state >> 12
    l.state ^= l.state << 25
    l.state ^= l.state >> 27
    return <double>((l.state * <uint64_t>2685821657736338717) >> 11) / 9007199254740992.0


cdef inline int64_t carry(link *l, int64_t sent) noexcept nogil:
    """When a datagram comes out; INT64_MAX: never. As relay.lab.link does it."""
    l.bad = chance(l) >= l.bad_good if l.bad else chance(l) < l.good_bad
    if l.jitter and sent - l.drawn >= l.jitter:
        l.drawn = sent
        l.extra = <int64_t>(chance(l) * l.jitter)
    if l.bad:
        return INT64_MAX
    l.last = max(l.last, sent + l.extra)
    return l.last


cdef uint64_t count(link *l, int64_t end, int64_t interval, int64_t on, int64_t off, uint64_t *datagrams) noexcept nogil:
    cdef silence s
    cdef int64_t now = 0, media = 0, report = 0, came, last_media = 0, media_at = 0
    cdef int64_t deadline = 0, pause = on if off else INT64_MAX
    cdef uint64_t alarms = 0
    cdef bint before, is_media
    memset(&s, 0, sizeof(s))
    silence_watch(&s, 0, True)
    while now < end:
        if media >= pause:
            media += off
            pause += on + off
        is_media = media <= report
        if is_media:
            now = last_media = media
            media += interval
        else:
            now = report
            report += beat_interval(now - last_media, now < s.fast_until)
            if now < last_media + BEAT_AFTER:
                report = min(report, last_media + (BEAT_FAST if now < s.fast_until else BEAT_AFTER))
                report = max(report, now + BEAT_FAST)
        came = carry(l, now)
        datagrams[0] += 1
        while came != INT64_MAX and deadline <= came:
            before = s.silent
            deadline = silence_judge(&s, deadline, media_at)
            alarms += s.silent and not before
        if came != INT64_MAX:
            silence_heard(&s, came, media_at)
            if is_media:
                media_at = came
    return alarms


def false_alarms(*, double seconds, double packets_per_second, double on_seconds, double off_seconds, double good_bad,
                 double bad_good, double jitter_ms, uint64_t seed):
    """How often a peer that sends all the time counts as silent, and how many datagrams it sends; see alarms.pyi."""
    cdef link l
    cdef uint64_t datagrams = 0, alarms
    cdef int64_t end = <int64_t>(seconds * SECOND), on = <int64_t>(on_seconds * SECOND)
    cdef int64_t off = <int64_t>(off_seconds * SECOND), interval = <int64_t>(SECOND / packets_per_second)
    memset(&l, 0, sizeof(l))
    l.state = seed * 2 + 1
    l.good_bad = good_bad
    l.bad_good = bad_good
    l.jitter = <int64_t>(jitter_ms * 1e6)
    for _ in range(16):
        chance(&l)
    with nogil:
        alarms = count(&l, end, interval, on, off, &datagrams)
    return alarms, datagrams
