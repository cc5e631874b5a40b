# A hashed timing wheel: 512 slots of 1 ms; later deadlines go round again.
#
# Nodes belong to whoever embeds them, zeroed before their first use, and are cancelled before their memory
# goes away; a wheel stays where it was initialised. Nothing allocates. Times are nanoseconds of one monotonic
# clock, never negative.
from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t

cdef enum:
    TIMER_SLOTS = 512
    TIMER_SLOT_NS = 1000000

ctypedef struct timer_node:
    int64_t deadline     # ns
    timer_node *next
    timer_node **pprev   # what points at this node; NULL: not armed
    void *owner          # the user's, as is `kind`
    uint16_t kind
    uint16_t slot        # where it hangs; TIMER_SLOTS: due

ctypedef struct timer_wheel:
    int64_t tick         # every earlier slot has been emptied of what was due
    int64_t earliest     # the earliest deadline, if known
    bint earliest_known
    uint32_t armed       # nodes
    timer_node *due      # collected by timer_expire, in order, not yet handed out
    timer_node **due_tail
    uint64_t occupied[8] # a bit a slot
    timer_node *slots[512]

cdef void timer_wheel_init(timer_wheel *w, int64_t now_ns) noexcept nogil
# Arms the node, or moves it if it is armed.
cdef void timer_schedule(timer_wheel *w, timer_node *node, int64_t deadline_ns) noexcept nogil
cdef void timer_cancel(timer_wheel *w, timer_node *node) noexcept nogil  # nothing, if not armed
# One node whose deadline is now or earlier, disarmed; NULL when there is none left.
cdef timer_node *timer_expire(timer_wheel *w, int64_t now_ns) noexcept nogil
# The earliest deadline, exact if it is still to come; INT64_MAX when nothing is armed.
cdef int64_t timer_next(timer_wheel *w, int64_t now_ns) noexcept nogil

cdef inline bint timer_armed(const timer_node *node) noexcept nogil:
    return node.pprev != NULL
