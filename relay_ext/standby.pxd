# A track that comes from one peer and can come from another at once, when the first one falls silent.
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint64_t

from relay_ext.mailbox cimport mailroom
from relay_ext.peer cimport hop
from relay_ext.playout cimport track

cdef enum:
    FRAME_TAKE_OVER = 9       # kind of control frame

cdef enum:                    # what has fallen silent, as bits
    FALLEN_SILENCE = 1
    FALLEN_ECHO = 2

ctypedef struct standby:
    standby *next             # of the same first peer
    hop *first
    hop *second
    track *track
    uint16_t stream           # aliases of the second peer's publication
    uint8_t alias
    uint8_t epoch
    bint asking               # the second peer has been asked, and nothing has come from it
    uint8_t asks

ctypedef struct takeover_stats:
    uint64_t silences         # peers that fell silent while they were watched
    uint64_t unreached        # peers that nothing got to any more while their echo was watched
    uint64_t takeovers        # tracks that were asked for at a second peer because of that
    uint64_t released         # tracks that were sent to a peer at its word
    uint64_t take_over_unknown  # asked for what is not sent there, or by another shard
    uint64_t take_over_malformed

cdef void standby_add(standby *s) noexcept nogil
cdef void standby_remove(standby *s) noexcept nogil   # and frees it
cdef void standby_ask(standby *s, int64_t now) noexcept nogil
# The timer of a hop that is watched: what has just fallen silent.
cdef uint8_t standby_watch(hop *h, takeover_stats *stats, int64_t now) noexcept nogil
# A frame that asks for tracks at this end.
cdef void standby_asked(hop *h, mailroom *mail, takeover_stats *stats, int64_t now) noexcept nogil
