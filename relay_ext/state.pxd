# What Python is shown of the packet plane.
from relay_ext.peer cimport hop
from relay_ext.plane cimport plane, plane_track

cdef list events_of(plane *p)
cdef dict plane_state(plane *p)
cdef dict track_state(plane_track *k)
cdef object link_state(hop *h)
cdef dict hop_state(hop *h)
