# cython: boundscheck=False, wraparound=False, cdivision=True
# Paths are addressed by `active`, which is below HOP_PATHS.
"""Which path carries what. Media, repair and reports share the active one."""


cdef path *uplink_source(hop *h) noexcept nogil:
    return &h.paths[h.active]


cdef path *uplink_repair(hop *h) noexcept nogil:
    return &h.paths[h.active]
