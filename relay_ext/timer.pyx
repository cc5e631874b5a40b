# cython: boundscheck=False, wraparound=False, cdivision=True, auto_pickle=False
# Bounds: slots are reduced modulo their number; Timers checks a node's number before any call.
"""A hashed timing wheel (Varghese and Lauck, scheme 6): O(1) to arm and to cancel, nothing allocated.

A slot holds whatever is due in its millisecond, this round or a later one. `timer_expire` walks the slots up
to now, once round at most however far the clock jumped, skips empty ones by their bitmap, and moves what is
due to a list from which it hands out node after node.
"""
from libc.stdint cimport INT64_MAX
from libc.stdlib cimport calloc, free
from libc.string cimport memset


cdef extern from *:
    int __builtin_ctzll(unsigned long long x) nogil


cdef void timer_wheel_init(timer_wheel *w, int64_t now_ns) noexcept nogil:
    memset(w, 0, sizeof(timer_wheel))
    w.tick = now_ns // TIMER_SLOT_NS
    w.due_tail = &w.due
    w.earliest = INT64_MAX
    w.earliest_known = True


cdef void unlink(timer_wheel *w, timer_node *node) noexcept nogil:
    node.pprev[0] = node.next
    if node.next != NULL:
        node.next.pprev = node.pprev
    elif node.slot == TIMER_SLOTS:
        w.due_tail = node.pprev
    if node.slot != TIMER_SLOTS and w.slots[node.slot] == NULL:
        w.occupied[node.slot >> 6] &= ~(<uint64_t>1 << (node.slot & 63))
    node.pprev = NULL
    node.next = NULL


cdef void timer_schedule(timer_wheel *w, timer_node *node, int64_t deadline_ns) noexcept nogil:
    cdef timer_node **slot
    timer_cancel(w, node)
    # What is overdue goes where timer_expire looks next.
    node.slot = <uint16_t>(max(deadline_ns // TIMER_SLOT_NS, w.tick) % TIMER_SLOTS)
    node.deadline = deadline_ns
    slot = &w.slots[node.slot]
    node.next = slot[0]
    node.pprev = slot
    if node.next != NULL:
        node.next.pprev = &node.next
    slot[0] = node
    w.occupied[node.slot >> 6] |= <uint64_t>1 << (node.slot & 63)
    w.armed += 1
    w.earliest = min(w.earliest, deadline_ns)


cdef void timer_cancel(timer_wheel *w, timer_node *node) noexcept nogil:
    if node.pprev == NULL:
        return
    unlink(w, node)
    w.armed -= 1
    if node.deadline == w.earliest:
        w.earliest_known = w.armed == 0
        w.earliest = INT64_MAX


cdef int64_t next_occupied(const timer_wheel *w, int64_t tick) noexcept nogil:
    """The first tick from `tick` on, less than a round ahead, whose slot is not empty; else INT64_MAX."""
    cdef uint32_t at = <uint32_t>(tick % TIMER_SLOTS)
    cdef uint32_t bit = at & 63
    cdef uint32_t i
    cdef uint64_t bits = w.occupied[at >> 6] >> bit << bit
    for i in range(9):
        if bits:
            return tick - bit + 64 * i + __builtin_ctzll(bits)
        bits = w.occupied[((at >> 6) + i + 1) & 7]  # the last is the first word again: its lower bits
    return INT64_MAX


cdef void collect(timer_wheel *w, timer_node *node, int64_t now_ns) noexcept nogil:
    """Moves what is due in one slot, `node` its first, to the end of the list of due nodes."""
    cdef timer_node *following
    while node != NULL:
        following = node.next
        if node.deadline <= now_ns:
            unlink(w, node)
            node.slot = TIMER_SLOTS
            node.pprev = w.due_tail
            w.due_tail[0] = node
            w.due_tail = &node.next
        node = following


cdef timer_node *timer_expire(timer_wheel *w, int64_t now_ns) noexcept nogil:
    cdef int64_t target = now_ns // TIMER_SLOT_NS
    cdef int64_t tick
    cdef timer_node *node
    if w.due == NULL and target >= w.tick:
        w.tick = max(w.tick, target - (TIMER_SLOTS - 1))  # once round meets every node
        tick = next_occupied(w, w.tick)
        while tick <= target:
            collect(w, w.slots[tick % TIMER_SLOTS], now_ns)
            tick = next_occupied(w, tick + 1) if tick < target else INT64_MAX
        w.tick = target
    node = w.due
    if node != NULL:
        timer_cancel(w, node)
    return node


cdef int64_t timer_next(timer_wheel *w, int64_t now_ns) noexcept nogil:
    cdef timer_node *node
    cdef int64_t tick
    cdef int64_t earliest = INT64_MAX
    if w.due != NULL:
        return w.due.deadline
    if w.earliest_known:
        return w.earliest
    tick = next_occupied(w, w.tick)
    while tick < w.tick + TIMER_SLOTS:
        node = w.slots[tick % TIMER_SLOTS]
        while node != NULL:
            if node.deadline <= now_ns:
                return node.deadline  # overdue: the caller expires before it asks again
            earliest = min(earliest, node.deadline)
            node = node.next
        if earliest < (tick + 1) * TIMER_SLOT_NS:
            break  # of this round: whatever hangs in the slots that follow is later
        tick = next_occupied(w, tick + 1)
    w.earliest = earliest
    w.earliest_known = True
    return earliest


# ---- Python: tests -----------------------------------------------------------------------------

NEVER = INT64_MAX


cdef class Timers:
    cdef timer_wheel w
    cdef timer_node *nodes
    cdef uint32_t count

    def __cinit__(self, uint32_t count, int64_t now_ns):
        self.nodes = <timer_node *>calloc(count, sizeof(timer_node))
        if self.nodes == NULL:
            raise MemoryError
        self.count = count
        timer_wheel_init(&self.w, now_ns)

    def __dealloc__(self):
        free(self.nodes)

    def schedule(self, uint32_t number, int64_t deadline_ns):
        timer_schedule(&self.w, self._node(number), deadline_ns)

    def cancel(self, uint32_t number):
        timer_cancel(&self.w, self._node(number))

    def armed(self, uint32_t number):
        return timer_armed(self._node(number))

    def expire(self, int64_t now_ns):
        cdef timer_node *node = timer_expire(&self.w, now_ns)
        return None if node == NULL else <object>(node - self.nodes)

    def next(self, int64_t now_ns):
        return timer_next(&self.w, now_ns)

    def __len__(self):
        return self.w.armed

    cdef timer_node *_node(self, uint32_t number) except NULL:
        if number >= self.count:
            raise IndexError(f"timer {number} of {self.count}")
        return &self.nodes[number]
