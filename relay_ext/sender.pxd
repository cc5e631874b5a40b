# Source packets.
from libc.stdint cimport int64_t, uint16_t

from relay_ext.inner cimport inner
from relay_ext.peer cimport hop, hop_params
from relay_ext.slab cimport slab

# Sends the payload body.data[off:off+header.length], or lets it wait for its turn.
cdef void hop_send(hop *h, int64_t now, const inner *header, slab *body, uint16_t off) noexcept nogil
cdef void hop_pace(hop *h, int64_t now) noexcept nogil  # sends what waits and whose time has come
cdef void hop_set_params(hop *h, int64_t now, const hop_params *params) noexcept nogil
