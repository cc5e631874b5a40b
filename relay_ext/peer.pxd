# What is kept of one peer, over one or more paths. `hop` drives it; each of the files below it has one concern.
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from relay_ext.base cimport addr, tx_queue
from relay_ext.inner cimport inner
from relay_ext.pacer cimport pacer
from relay_ext.path cimport path, session_keys
from relay_ext.reorder cimport reordering
from relay_ext.rlc cimport rlc_decoder
from relay_ext.rlc_encoder cimport rlc_encoder
from relay_ext.route cimport route_table
from relay_ext.silence cimport silence
from relay_ext.slab cimport slab, slab_pool
from relay_ext.timer cimport timer_armed, timer_node, timer_schedule, timer_wheel

cdef enum:                    # datagram types
    TYPE_INITIATION = 1
    TYPE_RESPONSE = 2
    TYPE_COOKIE = 3
    TYPE_SOURCE = 4
    TYPE_REPAIR = 5
    TYPE_REPORT = 6
    TYPE_CONTROL = 7

cdef enum:
    HOP_PATHS = 4
    HOP_WINDOW = 4096         # symbols the encoder can keep: 0.5 s at 8,000 a second
    HOP_SPAN = 2048           # ESIs the decoder tracks
    HOP_ROWS = 512            # equations it holds
    HOP_DELIVERED = 1024      # symbols that one datagram can deliver: its own and those it recovers
    HOP_DELAYS = 1024         # histogram slots of added delay, 1 ms

cdef enum:                    # ns
    REPORT_INTERVAL = 10000000    # while media arrives
    SENDER_INTERVAL = 20000000    # while media is only sent: tells of a lost tail
    IDLE_INTERVAL = 250000000     # so that silence means something on an idle hop
    REPAIR_SPACING = 2 * REPORT_INTERVAL  # between two chances to repair, beyond the round trip

cdef enum:                    # bytes around a symbol in a datagram's plaintext
    ESI_SIZE = 4              # behind the symbol of a source packet (RFC 6363, 5.3: explicit ID at the end)
    REPAIR_ID = 8             # before the coded bytes of a repair packet

cdef enum:                    # what became of a datagram
    HOP_OK = 0
    HOP_TYPE = 1
    HOP_SHORT = 2
    HOP_REPLAY = 3
    HOP_FORGED = 4
    HOP_CONTROL = 5           # `control` holds an opened control frame
    HOP_NO_MEMORY = 6

ctypedef struct hop_delivered:
    void *track
    slab *symbol              # inner header and payload; one reference
    inner header

ctypedef struct hop_params:
    # set by the decision plane
    double proactive          # repair packets a source packet
    double max_overhead       # repair bytes a media byte, at most
    int64_t send_budget       # ns that repair of what we send may take, beyond propagation
    int64_t receive_budget    # ns, of what we receive
    double pace               # bytes/s of IP packets that the hop carries; 0: no limit is known
    bint spare_frames         # frames to which no other refers are not sent: this node has no time for them

ctypedef struct hop_stats:
    uint64_t source_sent
    uint64_t source_bytes     # of symbols
    uint64_t repair_sent
    uint64_t repair_bytes     # coded bytes
    uint64_t reactive_sent
    uint64_t overhead_limited # repairs not sent because of max_overhead
    uint64_t reports_sent
    uint64_t reports_received
    uint64_t source_received
    uint64_t repair_received
    uint64_t recovered
    uint64_t unrecovered      # symbols given up at their deadline
    uint64_t duplicate
    uint64_t repair_redundant # told nothing new
    uint64_t repair_refused
    uint64_t forged
    uint64_t replayed
    uint64_t short_datagrams
    uint64_t bad_type
    uint64_t bad_inner        # a symbol that is no inner header and payload
    uint64_t unknown_track
    uint64_t stale_epoch
    uint64_t too_many_hops
    uint64_t bad_report
    uint64_t no_session       # not sent: no keys or no address yet
    uint64_t too_long
    uint64_t seal_failed      # the cipher failed, and nothing was sent
    uint64_t no_memory

ctypedef struct hop:
    uint32_t id
    uint8_t active            # path that source packets are sent on
    uint8_t mending           # path that repair is sent on
    int64_t repair_round      # ns from a loss that is reported to its repair, at best: the RTT, with one path
    int64_t rtt_longest       # ns, of the paths that have keys
    uint8_t source_order[4]   # paths for source packets from the best to the worst, as the decision plane says
    uint8_t repair_order[4]
    int64_t view_at           # ns, when a report was last heeded; 0: none yet
    uint32_t view_us          # when the peer wrote it, by its clock
    tx_queue *tx
    slab_pool *pool
    timer_wheel *wheel
    timer_node timer
    path paths[4]
    hop_params params
    uint32_t generation       # of the newest keys that the peer has used
    uint64_t instance         # the peer's process, as those keys say
    # sending
    rlc_encoder *encoder
    int64_t *sent_at          # ns, by ESI & (HOP_WINDOW - 1)
    uint32_t window_first     # oldest ESI that proactive repair covers
    uint16_t repair_key
    double credit             # proactive repairs owed
    double allowance          # repair bytes that max_overhead still allows
    int64_t source_at         # ns, last source packet that was sent, or waits to be
    int64_t beats_until       # ns, until when the peer is to hear something of us all the time
    bint beats_fast           # it loses many in a row
    pacer pacer
    timer_node pace_timer
    # receiving
    rlc_decoder *decoder
    int64_t *known_at         # ns, when an ESI was first known to exist, by ESI & (HOP_SPAN - 1)
    uint32_t forgotten        # oldest ESI the decoder keeps
    reordering reorder
    int64_t media_at          # ns, last source or repair received
    int64_t report_at         # ns, our last report
    silence silence           # when something last came
    silence echo              # when the peer last said that something new of ours had come
    route_table routes
    timer_node watch_timer
    hop *next_watched
    void *standbys            # standby *: tracks that come from here, and can come from another peer
    void *feeds               # feed *: tracks of this shard that are sent to it
    hop_delivered delivered[1024]
    uint32_t delivered_count
    slab *control             # of the last HOP_CONTROL: data[0:len] is the frame, padding included
    uint64_t delays[1024]
    hop_stats stats

cdef inline bint hop_watched(const hop *h) noexcept nogil:
    return h.silence.watched or h.echo.watched

cdef inline void wake_within(hop *h, int64_t now, int64_t interval) noexcept nogil:
    if not timer_armed(&h.timer) or h.timer.deadline > now + interval:
        timer_schedule(h.wheel, &h.timer, now + interval)
