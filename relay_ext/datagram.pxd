# One sealed datagram to a peer.
from libc.stdint cimport int64_t, uint8_t, uint16_t

from relay_ext.base cimport addr
from relay_ext.path cimport path
from relay_ext.peer cimport hop
from relay_ext.slab cimport slab

# A slab for a datagram, whose plaintext belongs at data[SEAL_HEADER:]; NULL (counted) when it cannot be sent.
cdef slab *begin_datagram(hop *h, path *p) noexcept nogil
# Writes the header, seals that many bytes in place and queues the datagram; takes over the reference. False: not sent.
cdef bint end_datagram(hop *h, path *p, slab *d, int64_t now, uint8_t type, uint16_t plaintext, bint reactive,
                       const addr *to) noexcept nogil
