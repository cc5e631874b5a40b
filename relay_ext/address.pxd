# Addresses as Python writes them, (host, port), to and from those of the packet plane.
from relay_ext.base cimport addr

cdef int parse_address(tuple address, addr *out) except -1  # OSError or ValueError: no number, or no such port
cdef tuple format_address(const addr *a)
