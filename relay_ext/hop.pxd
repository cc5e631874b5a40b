# One peer's packet machine: source, repair, report and control datagrams.
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t

from relay_ext.base cimport addr, tx_queue
from relay_ext.path cimport session_keys
from relay_ext.peer cimport hop
from relay_ext.slab cimport slab_pool
from relay_ext.timer cimport timer_wheel

cdef bint hop_init(hop *h, slab_pool *pool, timer_wheel *wheel, tx_queue *tx, uint32_t first_esi) noexcept nogil
cdef void hop_destroy(hop *h) noexcept nogil
cdef int hop_receive(hop *h, session_keys *k, int64_t now, const uint8_t *data, size_t n) noexcept nogil
cdef bint hop_send_control(hop *h, int64_t now, uint8_t path_id, const addr *to, const uint8_t *frame,
                           uint16_t n, uint16_t pad_to) noexcept nogil
cdef void hop_timer(hop *h, int64_t now) noexcept nogil
