# When a peer that has been heard all along counts as silent.
from libc.stdint cimport int64_t, uint32_t

cdef enum:                    # ns
    SILENCE_LEAST = 40000000      # what a scheduler may take, too
    SILENCE_MOST = 400000000
    PAUSE = 60000000              # without media; the frames of a slow camera are no pauses
    BEAT_AFTER = 25000000         # without media, from which on heartbeats take its place; audio's packets are closer,
    BEAT_FIRST = 2500000          # between heartbeats for BEAT_DENSE, until the peer knows that media pauses,
    BEAT_DENSE = 150000000
    BEAT = 20000000               # and from then on,
    BEAT_FAST = 5000000           # or, on a link whose losses come in long runs, always

ctypedef struct silence:
    bint watched
    bint silent
    int64_t last              # ns, when something last came
    int64_t longest[2]        # ns without anything while media flowed, at most: since `turned`, and in the WINDOW before
    uint32_t heard[2]         # datagrams that came in these
    int64_t turned            # ns
    int64_t limit             # ns, as last judged
    int64_t fast_until        # ns, until when heartbeats are wanted every BEAT_FAST

cdef void silence_watch(silence *s, int64_t now, bint watched) noexcept nogil
cdef void silence_gap(silence *s, int64_t now, int64_t media_at) noexcept nogil  # a long one is over
cdef int64_t silence_judge(silence *s, int64_t now, int64_t media_at) noexcept nogil  # sets `silent`; when to judge next

cdef inline void silence_heard(silence *s, int64_t now, int64_t media_at) noexcept nogil:
    """`media_at`: when media came last before this, ns."""
    if not s.watched:
        return
    if now - s.last > s.longest[0]:
        silence_gap(s, now, media_at)
    s.heard[0] += now - media_at < PAUSE
    s.last = now
    s.silent = False

cdef inline int64_t beat_interval(int64_t since, bint fast) noexcept nogil:
    """ns between heartbeats, so long after media."""
    if BEAT_AFTER <= since < BEAT_DENSE:
        return BEAT_FIRST
    return BEAT_FAST if fast and since >= BEAT_FAST else BEAT  # dense media beats by itself
