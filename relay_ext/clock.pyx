"""What the kernel thinks of the wall clock. Python has no name for adjtimex(2), and ctypes takes 300 KB."""

from libc.string cimport memset


cdef extern from "<sys/timex.h>" nogil:
    struct timex:
        unsigned int modes
    int TIME_ERROR
    int adjtimex(timex *buffer)


def clock_synchronised():
    cdef timex asked
    memset(&asked, 0, sizeof(asked))  # no modes: nothing is set, and no privilege is needed
    cdef int state = adjtimex(&asked)
    return None if state < 0 else state != TIME_ERROR
