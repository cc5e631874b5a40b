# Repair packets: what is sent ahead, and answers to reports.
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t

from relay_ext.peer cimport hop

cdef void repair_earn(hop *h, uint16_t symbol) noexcept nogil  # a source symbol of that many bytes was sent
cdef void repair_proactively(hop *h, int64_t now) noexcept nogil  # after a source symbol
# A report says what is missing: bit i of the bitmap is ESI oldest + i. `flying`: reactive repairs still under way.
cdef void repair_reactively(hop *h, int64_t now, uint32_t flying, uint32_t deficit, uint32_t oldest,
                            const uint8_t *bitmap, uint16_t bits) noexcept nogil
