# cython: boundscheck=False, wraparound=False, cdivision=True
# The arrays have two places, addressed by constants.
"""When a peer that has been heard all along counts as silent: while media flows, after three times the longest gap
that there has been between its datagrams.

That gap is what loss, bursts of loss, jitter, the rhythm of frames and a busy board at the other end make of a
link, all together, and nothing has to be known of any of them. Where the length of a gap falls off exponentially,
the longest of n is its constant times ln n, and one of three times that comes once in n^3 / 6: with 450 bursts of
loss in half a minute, one in 10^7. While media pauses nobody is in a hurry, and only the most counts. docs/fleet.md
has what that comes to in a day.
"""
from libc.stdint cimport INT64_MAX
from libc.string cimport memset

cdef int64_t WINDOW = 30000000000   # ns; gaps of one to two of these are remembered
cdef uint32_t ENOUGH = 200          # datagrams; after fewer, SILENCE_MOST holds
cdef int64_t MANY = 10              # heartbeats lost in a row: as many again would be an alarm,
cdef int64_t CAREFUL = 300000000000 # ns; so they come faster for so long


cdef void silence_watch(silence *s, int64_t now, bint watched) noexcept nogil:
    memset(s, 0, sizeof(silence))
    s.watched = watched
    s.last = s.turned = now
    s.limit = SILENCE_MOST


cdef void silence_gap(silence *s, int64_t now, int64_t media_at) noexcept nogil:
    cdef int64_t gap = now - s.last
    if s.last - media_at < PAUSE:
        s.longest[0] = min(gap, s.limit)  # an alarm, false or not, makes the next one harder, no more
    if gap >= MANY * (BEAT_FAST if now < s.fast_until else BEAT):
        s.fast_until = now + CAREFUL


cdef inline int64_t limit_of(const silence *s, int64_t media_at) noexcept nogil:
    if s.last - media_at >= PAUSE or s.heard[0] + s.heard[1] < ENOUGH:
        return SILENCE_MOST
    return max(min(3 * max(s.longest[0], s.longest[1]), <int64_t>SILENCE_MOST), <int64_t>SILENCE_LEAST)


cdef int64_t silence_judge(silence *s, int64_t now, int64_t media_at) noexcept nogil:
    if not s.watched:
        return INT64_MAX
    if now - s.turned >= WINDOW:
        s.longest[1] = s.longest[0]
        s.heard[1] = s.heard[0]
        s.longest[0] = s.heard[0] = 0
        s.turned = now
    if not s.silent:
        s.limit = limit_of(s, media_at)
        s.silent = now - s.last >= s.limit
    return now + SILENCE_MOST if s.silent else s.last + s.limit
