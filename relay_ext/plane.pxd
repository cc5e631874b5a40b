# The packet plane as one machine without a socket: datagrams and commands in, datagrams and events out.
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from relay_ext.base cimport addr, spsc_queue, tx_queue
from relay_ext.egress cimport egress_table
from relay_ext.feed cimport feed
from relay_ext.ingest cimport ingest
from relay_ext.mailbox cimport mailroom
from relay_ext.peer cimport hop
from relay_ext.playout cimport track
from relay_ext.seal cimport gate
from relay_ext.sessions cimport session_table
from relay_ext.slab cimport slab, slab_pool
from relay_ext.standby cimport takeover_stats
from relay_ext.timer cimport timer_wheel

cdef enum:
    PLANE_PORTS = 4096

cdef enum:                    # whose timer it is
    TIMER_TRACK = 1
    TIMER_HOP = 2
    TIMER_PACER = 3
    TIMER_WATCH = 4

cdef enum:                    # what a port is for
    PORT_CLOSED = 0
    PORT_HOP = 1
    PORT_RTP = 2              # RTP, and RTCP multiplexed with it (RFC 5761)
    PORT_RTCP = 3
    PORT_EGRESS = 4           # receivers' feedback arrives here and ends here

cdef enum:                    # kinds of event
    EVENT_HANDSHAKE = 1       # data: a datagram of types 1 to 3 that passed the gate
    EVENT_CONTROL = 2         # a: hop, b: local index, data: an opened control frame
    EVENT_CONFIRMED = 3       # a: hop, b: local index; first datagram authenticated under these keys
    EVENT_ADDRESS = 4         # a: hop, b: path; an authenticated datagram came from another address
    EVENT_SOURCE = 5          # a: track, b: SSRC; an ingest port follows another source
    EVENT_KEY_WANTED = 6      # a: hop, b: stream alias << 8 | track alias; frames that others need were dropped there
    EVENT_KEY_ASKED = 7       # a: track; a receiver of an egress asks for a key frame
    EVENT_SILENT = 8          # a: hop, b: ms that nothing has come from it; it is watched
    EVENT_UNREACHED = 9       # a: hop, b: ms that nothing has got to it, as far as it says; its echo is watched

cdef enum:                    # commands
    OP_PORT = 1
    OP_TRACK_ADD = 2
    OP_TRACK_REMOVE = 3
    OP_TRACK_RESTART = 4
    OP_TRACK_HOLD = 5
    OP_EGRESS_ADD = 6
    OP_EGRESS_REMOVE = 7
    OP_HOP_ADD = 8
    OP_HOP_REMOVE = 9
    OP_HOP_PARAMS = 10
    OP_HOP_ORDERS = 11
    OP_HOP_WATCH = 12
    OP_PATH = 13
    OP_KEYS_ADD = 14
    OP_KEYS_USE = 15
    OP_KEYS_DROP = 16
    OP_FEED_ADD = 17
    OP_FEED_REMOVE = 18
    OP_FEED_HOLD = 19
    OP_FEED_RELEASE = 20
    OP_FEED_RESUME = 21
    OP_FEED_SET = 22
    OP_STANDBY_ADD = 23
    OP_STANDBY_REMOVE = 24
    OP_STANDBY_ASK = 25
    OP_ROUTE_ADD = 26
    OP_ROUTE_REMOVE = 27
    OP_SEND = 28
    OP_CONTROL = 29
    OP_COOKIE_SECRET = 30
    OP_FEEDBACK = 31
    OP_PING = 32


ctypedef struct plane_track:
    track t
    ingest source
    feed *feeds
    uint8_t priority
    bint far                  # it stands for the track of that id on another shard: a hop routes to it, no more

ctypedef struct outgoing:
    # a datagram or control frame that Python wants sent
    addr to
    bint has_address
    uint16_t port             # or path
    uint16_t pad_to
    uint16_t len
    uint8_t data[2032]

ctypedef struct plane_port:
    uint8_t kind
    plane_track *track

ctypedef struct plane_queues:
    spsc_queue commands       # Python to the packet plane
    spsc_queue handshakes     # events; one queue a kind, so that a flood of one cannot starve another
    spsc_queue cookies        # handshakes that anyone can send: nothing vouches for a cookie reply here
    spsc_queue control
    spsc_queue notices
    spsc_queue sources        # notices that a source can bring about with every packet
    spsc_queue asks           # what receivers of egresses ask for

ctypedef struct plane_stats:
    uint64_t unknown_port
    uint64_t short_datagrams
    uint64_t unknown_index
    uint64_t bad_type
    uint64_t bad_mac1
    uint64_t cookies_sent
    uint64_t handshake_limited
    uint64_t handshake_too_long
    uint64_t handshake_no_memory
    uint64_t bad_cookie           # a cookie reply of another length
    uint64_t handshakes_dropped   # their queue was full
    uint64_t cookies_dropped
    uint64_t control_dropped
    uint64_t notices_dropped
    uint64_t sources_dropped
    uint64_t asks_dropped
    uint64_t receiver_reports     # RTCP that ended at an egress port
    uint64_t receiver_not_rtcp
    uint64_t receiver_asks        # for a key frame
    uint64_t receiver_unknown     # asks for what is not sent to the host that they come from

ctypedef struct plane:
    slab_pool *pool
    timer_wheel wheel
    tx_queue tx
    mailroom mail
    plane_queues queues
    bint events_pending       # an event was queued since the engine last told Python
    gate *gate
    plane_port ports[4096]
    session_table sessions
    egress_table egresses
    uint32_t pong             # number of the last ping that was answered
    hop *watched
    int64_t due               # ns, when it wanted to be polled
    plane_stats stats
    takeover_stats takeovers

cdef void plane_wake(plane *p, int64_t now) noexcept nogil     # the first of a turn
cdef void plane_receive(plane *p, int64_t now, uint16_t port, const addr *source,
                        const uint8_t *data, size_t n) noexcept nogil
cdef int64_t plane_poll(plane *p, int64_t now) noexcept nogil  # runs what is due; the next deadline
cdef void plane_send(plane *p, uint16_t port, const addr *to, slab *body) noexcept nogil  # as it is

cdef plane *plane_new(uint32_t slabs, const uint8_t *public_key, int64_t now) noexcept nogil  # NULL: no memory
cdef void plane_free(plane *p) noexcept nogil
