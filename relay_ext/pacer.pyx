# cython: boundscheck=False, wraparound=False, cdivision=True
# Queues and tables are powers of two behind a mask, and counted against their sizes.
"""Pacing, order and dropping. docs/congestion.md has the rules and their reasons.

Two buckets hold back what would be too much: over CREDIT the rate itself, over BURST 1.2 times it. Audio and sender
reports go before video, each in the order of arrival, so that nothing is reordered within a track. Whether a packet is
still worth sending is decided when it is about to leave, once a frame: at its first packet.
"""
from libc.stdint cimport INT64_MAX
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from relay_ext.inner cimport (
    INNER_DISCARDABLE, INNER_FRAME_END, INNER_FRAME_START, INNER_KEY, INNER_RTCP, INNER_START, INNER_TIME_NS)
from relay_ext.slab cimport slab_get, slab_pool_free, slab_pool_new, slab_ref, slab_unref

cdef double PEAK = 1.2                       # times the rate, over a burst
cdef double BURST = 5e-3                     # s
cdef double CREDIT = 40e-3                   # s of the rate that may be saved up; as much queue may it make
cdef double AUDIO_DEBT = 100e-3              # s of the rate that audio may be ahead: repair must not silence it
cdef double DEBT_MAX = 1.0                   # s of the rate that anything may be ahead
cdef int64_t GROUP_MAX = 2000000000          # ns; a stream that has no key frame for so long (intra refresh) goes on
cdef uint8_t PRIORITY_AUDIO = 2


cdef inline void fill(pacer *p, int64_t now) noexcept nogil:
    cdef double elapsed = <double>(now - p.filled) * 1e-9
    p.filled = now
    p.tokens = min(max(p.tokens, -DEBT_MAX * p.rate) + elapsed * p.rate, CREDIT * p.rate)
    p.burst = min(max(p.burst, -DEBT_MAX * p.rate) + elapsed * p.rate * PEAK, BURST * p.rate * PEAK)


cdef void pacer_set(pacer *p, int64_t now, double rate, int64_t budget, bint spare_frames) noexcept nogil:
    if p.rate > 0.0:
        fill(p, now)
    else:
        p.tokens = p.burst = 0.0
        p.filled = now
    p.rate = rate
    p.budget = budget
    p.spare_frames = spare_frames


# ---- tracks ----------------------------------------------------------------------------------

cdef paced_track *track_of(pacer *p, const inner *h) noexcept nogil:
    """What is known of that track; NULL when the table is full of others."""
    cdef uint32_t key = (<uint32_t>h.stream << 8) | h.track
    cdef uint32_t i = <uint32_t>(key * <uint32_t>2654435761) >> 24  # 8 bits: PACER_TRACKS
    cdef paced_track *t = &p.tracks[i]
    while t.used and t.key != key:
        i = (i + 1) & (PACER_TRACKS - 1)
        t = &p.tracks[i]
    if t.used and t.epoch == h.epoch:
        return t
    if not t.used and p.tracks_used >= PACER_TRACKS // 2:
        return NULL
    p.tracks_used += not t.used
    memset(t, 0, sizeof(paced_track))
    t.used = True
    t.key = key
    t.epoch = h.epoch
    t.between = True
    return t


cdef void pacer_saw_key(pacer *p, const inner *header) noexcept nogil:
    cdef paced_track *t = track_of(p, header)
    if t != NULL:
        t.keyed = True


cdef inline void want_key(pacer *p, uint32_t key) noexcept nogil:
    cdef uint32_t i
    for i in range(p.wanted_count):
        if p.wanted[i] == key:
            return
    if p.wanted_count < PACER_WANTED:
        p.wanted[p.wanted_count] = key
        p.wanted_count += 1


# ---- dropping --------------------------------------------------------------------------------

cdef inline void skip(pacer *p, paced_track *t, uint8_t flags, int64_t now) noexcept nogil:
    """This frame is not sent. What refers to it would not decode either, until a key frame; where none has been seen
    nothing is known of that."""
    if flags & INNER_DISCARDABLE or not t.keyed:
        t.state = TRACK_SKIPS_FRAME
        return
    t.state = TRACK_SKIPS_GROUP
    t.since = now
    want_key(p, t.key)


cdef inline bint begin_frame(pacer *p, paced_track *t, uint8_t flags, int64_t now, int64_t age) noexcept nogil:
    """Whether a frame is sent, decided at its first packet."""
    cdef int64_t limit = 3 * p.budget // 4  # beyond which too little is left for repair
    if t.state == TRACK_SKIPS_GROUP and not flags & INNER_KEY and now - t.since < GROUP_MAX:
        p.stats.dropped_frames += 1
        return False
    if flags & INNER_KEY:
        t.keyed = True
        limit = p.budget
    elif flags & INNER_DISCARDABLE and p.spare_frames:
        limit = -1
    elif flags & INNER_DISCARDABLE or not t.keyed:
        limit = p.budget // 4
    if age > limit:
        p.stats.dropped_frames += 1
        skip(p, t, flags, now)
        return False
    t.state = TRACK_PASSES
    return True


cdef bint keep_video(pacer *p, paced_track *t, const paced *e, int64_t now) noexcept nogil:
    """Whether the packet at the head of the queue is still worth sending."""
    cdef uint8_t flags = e.header.flags
    cdef int64_t age = now - e.at
    cdef bint begins
    if t == NULL:
        return age <= p.budget
    t.framed |= (flags & (INNER_FRAME_START | INNER_FRAME_END)) != 0
    if not t.framed:  # each packet by itself, and the queue short
        return age <= p.budget // 4
    begins = t.between or flags & INNER_FRAME_START
    t.between = (flags & INNER_FRAME_END) != 0
    if begins:
        return begin_frame(p, t, flags, now, age)
    if t.state == TRACK_PASSES and age > 2 * p.budget:  # begun, but who waits for the rest so long?
        skip(p, t, flags, now)
    return t.state == TRACK_PASSES


cdef void drop(pacer *p, slab_pool *pool, paced_track *t, paced *e) noexcept nogil:
    if e.header.priority == PRIORITY_AUDIO:
        p.stats.dropped_audio += 1
    elif e.header.flags & INNER_KEY:
        p.stats.dropped_key += 1
    elif e.header.flags & INNER_DISCARDABLE:
        p.stats.dropped_discardable += 1
    else:
        p.stats.dropped_media += 1
    if t != NULL and not e.header.flags & INNER_RTCP:
        t.gap += 1 + e.header.gap
        t.start |= (e.header.flags & INNER_START) != 0
    slab_unref(pool, e.body)


# ---- queues ----------------------------------------------------------------------------------

cdef inline paced *head(paced_queue *q) noexcept nogil:
    return &q.packets[q.head]


cdef inline void pop(pacer *p, paced_queue *q) noexcept nogil:
    q.head = (q.head + 1) & (PACER_QUEUE - 1)
    q.count -= 1
    p.waiting -= 1


cdef void pacer_put(pacer *p, slab_pool *pool, int64_t now, const inner *header, slab *body, uint16_t off) noexcept nogil:
    cdef paced_queue *q = &p.video
    cdef paced *e
    cdef paced_track *t
    if header.priority == PRIORITY_AUDIO or header.flags & INNER_RTCP:
        q = &p.audio
    if q.count == PACER_QUEUE:  # the oldest goes, and with it the use of its frame
        e = head(q)
        t = track_of(p, &e.header)
        if q == &p.video and t != NULL and t.framed:
            t.between = (e.header.flags & INNER_FRAME_END) != 0
            skip(p, t, e.header.flags, now)
        p.stats.dropped_overflow += 1
        drop(p, pool, t, e)
        pop(p, q)
    e = &q.packets[(q.head + q.count) & (PACER_QUEUE - 1)]
    e.header = header[0]
    e.body = slab_ref(body)
    e.off = off
    e.at = now
    q.count += 1
    p.waiting += 1
    p.stats.paced += p.rate > 0.0


cdef inline void hand_over(pacer *p, int64_t now, paced_queue *q, paced_track *t, paced *out) noexcept nogil:
    out[0] = head(q)[0]
    out.header.age = <uint16_t>min(out.header.age + (now - out.at) // INNER_TIME_NS, 0xffff)
    pop(p, q)
    if t != NULL and not out.header.flags & INNER_RTCP:
        out.header.gap = <uint8_t>min(t.gap + out.header.gap, 255)
        out.header.flags |= INNER_START if t.start else 0
        t.gap = 0
        t.start = False


cdef bint pacer_take(pacer *p, slab_pool *pool, int64_t now, paced *out) noexcept nogil:
    cdef paced *e
    cdef paced_track *t
    fill(p, now)
    while p.audio.count:
        e = head(&p.audio)
        t = track_of(p, &e.header)
        if now - e.at > p.budget:
            drop(p, pool, t, e)
            pop(p, &p.audio)
            continue
        if p.rate > 0.0 and p.tokens <= -AUDIO_DEBT * p.rate:
            return False
        hand_over(p, now, &p.audio, t, out)
        return True
    while p.video.count:
        e = head(&p.video)
        if p.rate > 0.0 and (p.tokens <= 0.0 or p.burst <= 0.0) and now - e.at <= 2 * p.budget:
            return False
        t = track_of(p, &e.header)
        if keep_video(p, t, e, now):
            hand_over(p, now, &p.video, t, out)
            return True
        drop(p, pool, t, e)
        pop(p, &p.video)
    return False


cdef int64_t pacer_deadline(const pacer *p, int64_t now) noexcept nogil:
    cdef double seconds
    if p.waiting == 0:
        return INT64_MAX
    if p.rate <= 0.0:
        return now
    if p.audio.count:
        seconds = (-AUDIO_DEBT * p.rate - p.tokens) / p.rate
    else:
        seconds = max(-p.tokens / p.rate, -p.burst / (p.rate * PEAK))
    return now + <int64_t>(min(max(seconds, 0.0), DEBT_MAX) * 1e9) + 1


cdef void pacer_clear(pacer *p, slab_pool *pool) noexcept nogil:
    while p.audio.count:
        slab_unref(pool, head(&p.audio).body)
        pop(p, &p.audio)
    while p.video.count:
        slab_unref(pool, head(&p.video).body)
        pop(p, &p.video)


cdef class Pacer:
    """One pacer with packets of its own, for tests; `budget_ns` as in hop_params."""

    cdef pacer *p
    cdef slab_pool *pool

    def __cinit__(self, double rate, *, int64_t budget_ns=200000000, int slabs=4096):
        self.p = <pacer *>calloc(1, sizeof(pacer))
        self.pool = slab_pool_new(slabs)
        if self.p == NULL or self.pool == NULL:
            raise MemoryError
        pacer_set(self.p, 0, rate, budget_ns, False)

    def __dealloc__(self):
        if self.p != NULL and self.pool != NULL:
            pacer_clear(self.p, self.pool)
        slab_pool_free(self.pool)
        free(self.p)

    def set(self, int64_t now_ns, double rate, int64_t budget_ns=200000000, bint spare_frames=False):
        """Limit to `rate` bytes/s; 0: not at all."""
        pacer_set(self.p, now_ns, rate, budget_ns, spare_frames)

    def put(self, int64_t now_ns, uint32_t seq, *, uint16_t stream=1, uint8_t track=0, uint8_t epoch=0,
            uint8_t flags=0, uint8_t priority=1, uint16_t size=1200, uint8_t gap=0):
        """A packet of `size` bytes wants to be sent."""
        cdef inner h
        cdef slab *body = slab_get(self.pool)
        if body == NULL:
            raise MemoryError
        memset(&h, 0, sizeof(h))
        h.length = size
        h.stream = stream
        h.track = track
        h.epoch = epoch
        h.flags = flags
        h.priority = priority
        h.seq = seq
        h.gap = gap
        pacer_put(self.p, self.pool, now_ns, &h, body, 0)
        slab_unref(self.pool, body)

    def take(self, int64_t now_ns):
        """What leaves now, each paid for with its size: list of (seq, stream, track, flags, gap)."""
        cdef paced e
        out = []
        while pacer_take(self.p, self.pool, now_ns, &e):
            pacer_spend(self.p, e.header.length)
            slab_unref(self.pool, e.body)
            out.append((e.header.seq, e.header.stream, e.header.track, e.header.flags, e.header.gap))
        return out

    def spend(self, uint32_t size):
        """So many bytes of something else have been sent."""
        pacer_spend(self.p, size)

    def deadline(self, int64_t now_ns):
        """When to take again, in ns; None: nothing waits."""
        cdef int64_t at = pacer_deadline(self.p, now_ns)
        return None if at == INT64_MAX else at

    def wanted(self):
        """Tracks that need a key frame: list of (stream, track); told once."""
        out = [(self.p.wanted[i] >> 8, self.p.wanted[i] & 0xff) for i in range(self.p.wanted_count)]
        self.p.wanted_count = 0
        return out

    @property
    def waiting(self):
        return self.p.waiting

    @property
    def slabs_in_use(self):
        return self.pool.in_use

    @property
    def stats(self):
        return dict(self.p.stats)
