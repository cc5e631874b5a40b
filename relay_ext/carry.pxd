# What of each part of a packet plane goes to the process after this one: written from a plane that rests, or read
# into parts that are new. Pointers between parts, and their places in tables, are handover.pyx's affair.
from relay_ext.archive cimport archive
from relay_ext.egress cimport egress
from relay_ext.feed cimport feed
from relay_ext.path cimport session_keys
from relay_ext.peer cimport hop
from relay_ext.plane cimport plane, plane_track

cdef void carry_track(archive *a, plane_track *k) noexcept nogil
cdef void carry_egress(archive *a, egress *e) noexcept nogil
cdef void carry_feed(archive *a, feed *f) noexcept nogil
cdef void carry_hop(archive *a, hop *h) noexcept nogil
cdef void carry_keys(archive *a, session_keys *k) noexcept nogil
