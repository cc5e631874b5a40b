# Which path carries what.
from relay_ext.path cimport path
from relay_ext.peer cimport hop

cdef path *uplink_source(hop *h) noexcept nogil
cdef path *uplink_repair(hop *h) noexcept nogil
