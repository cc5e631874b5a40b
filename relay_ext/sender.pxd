# Source packets.
from libc.stdint cimport int64_t, uint16_t

from relay_ext.inner cimport inner
from relay_ext.peer cimport hop
from relay_ext.slab cimport slab

# Sends the payload body.data[off:off+header.length], in two symbols where one does not hold it. False: not (all) sent.
cdef bint hop_send(hop *h, int64_t now, const inner *header, slab *body, uint16_t off) noexcept nogil
