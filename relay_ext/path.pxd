# One path to a peer: its address and keys, what was sent and received on it, and what reports say of it.
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from relay_ext.base cimport addr
from relay_ext.seal cimport replay_window, seal_key
from relay_ext.transit cimport transit

cdef enum:
    MAX_RTT = 10000000000     # ns; a longer one is a mistake or a lie

cdef enum:
    PATH_HISTORY = 8192       # datagrams whose sending time is remembered: 1 s at 8,000 a second
    PATH_LOSS_SAMPLES = 64    # at least 40 ms apart: 2.5 s of reports
    PATH_ARRIVALS = 32        # arrival times a report carries, at most
    IP_UDP = 28               # bytes of headers (IPv4) that rates count beside a datagram
    DATAGRAM_MIN = 1232       # bytes of UDP payload that any path carries (IPv6's least MTU)
    DATAGRAM_MAX = 2000       # so that a repair packet fits a slab, and a symbol the code

ctypedef struct session_keys:
    # one set a handshake and path; found by the local index that the peer puts into each datagram
    void *owner               # hop *
    uint32_t local_index
    uint32_t remote_index
    uint8_t path
    bint confirmed            # a datagram under these keys has been authenticated
    uint32_t generation       # counts the installations of a session
    uint64_t instance         # the peer's process
    seal_key *send
    seal_key *receive
    replay_window replay

ctypedef struct sent_datagram:
    int64_t time              # ns
    uint32_t counter          # low 32 bits
    uint32_t reactive         # reactive repairs sent on this path up to and including this datagram
    uint32_t bytes            # of IP packets sent up to and including it, low 32 bits

ctypedef struct loss_sample:
    int64_t time              # ns
    uint32_t highest
    uint32_t received
    uint32_t runs
    uint32_t arrived_us       # of the highest, by the reporter's clock
    uint32_t bytes            # sent up to the highest

ctypedef struct loss_estimate:
    bint settled              # two seconds of reports exist
    double ratio              # measured, average over 2 s
    double assumed            # what repair counts on: the larger of the averages over 250 ms and over 2 s
    double burst              # rho = 1 - P(good to bad) - P(bad to good), 0 to 0.9
    double sent, lost, runs   # datagrams, and losses in a row; what is a HABIT old counts 1/e

ctypedef struct arrival:
    uint32_t counter
    int64_t time              # ns

ctypedef struct path_report:
    # the path's part of a report (docs/protocol.md, "Report")
    bint valid                # the reporter has received something on this path
    uint32_t time_us          # the reporter's clock
    uint32_t delay_us         # since `highest` arrived
    uint32_t highest          # counter, low 32 bits
    uint32_t received         # datagrams
    uint32_t runs             # losses in a row count once
    uint8_t arrivals
    const uint8_t *arrival_data  # arrivals x (counters back from highest u16, 100 us back from time u16)

ctypedef struct path_setting:
    addr to
    bint has_address
    uint16_t datagram_max     # 0: as it is
    bint has_port
    uint16_t port

ctypedef struct path:
    session_keys *keys        # to send with; NULL: no session
    bint has_address
    uint8_t id
    uint16_t port             # socket that its datagrams leave by
    uint16_t datagram_max     # bytes of UDP payload, proven
    addr to
    addr newest               # where the peer was last heard, if that is another address, not proven yet
    uint32_t newest_credit    # bytes that came from there and have not been answered; 0: nothing may go there
    uint64_t counter          # of the next datagram; goes on over a rekey
    uint32_t reactive         # reactive repairs sent
    sent_datagram sent[8192]
    # what we receive
    bint rx_started
    uint64_t rx_first         # counter of the first datagram received
    uint64_t rx_highest
    int64_t rx_highest_at     # ns
    int64_t heard             # ns, last authenticated datagram; 0: none yet
    int64_t address_notice    # ns, when Python was last told of another source address
    uint32_t rx_packets
    uint32_t rx_runs
    uint8_t arrival_count
    arrival arrivals[32]      # since our last report
    # what the peer's reports say of what we send
    uint64_t report_counter   # counter of the newest report, so that older ones are passed over
    bint report_seen
    uint32_t report_highest   # of the newest report
    uint32_t report_received
    uint32_t excused          # datagrams lost in outages, which loss estimates leave out
    bint proven               # the peer has said that something arrived
    bint stuck                # nothing arrives any more, or not for long enough again
    int64_t stuck_at          # ns, when a report last said so
    int64_t rtt               # ns, smoothed; 0: not measured
    int64_t rtt_min           # ns, least of the last one to two minutes
    int64_t rtt_window[2]
    int64_t rtt_since
    int64_t jitter            # ns, RFC 3550 interarrival jitter of what we send
    transit transit           # one-way delays
    int64_t queue             # ns, least of the last 25 to 50 ms beyond what the empty path takes
    int64_t queue_delay       # ns, the same of single datagrams, smoothed
    int64_t progress_at       # ns, when a report last showed that something more had arrived; 0: never
    double passed             # bytes/s at which what was sent, lost or not, came through of late
    double loss_recent        # of the same datagrams
    loss_sample samples[64]
    uint32_t sample_count     # taken since the last reset
    loss_estimate loss
    uint64_t tx_datagrams
    uint64_t tx_bytes
    uint64_t rx_datagrams
    uint64_t rx_bytes
    uint64_t reports_invalid

# `p` is fresh from calloc: writing zeros again would make its 196 KB of history resident before it is used.
cdef void path_init(path *p, uint8_t id) noexcept nogil
cdef void path_set(path *p, const path_setting *s) noexcept nogil
cdef void path_fresh(path *p) noexcept nogil          # the peer began anew: its counters and reports do, too
cdef uint64_t path_next(path *p, int64_t now, size_t size, bint reactive) noexcept nogil  # counter for a datagram
cdef void path_received(path *p, int64_t now, uint64_t counter, size_t size) noexcept nogil
cdef void path_elsewhere(path *p, const addr *source, size_t size) noexcept nogil  # newest datagram came from there
cdef bint path_afford(path *p, uint16_t size) noexcept nogil  # take that much from newest_credit, if it is there
cdef size_t path_write_report(path *p, int64_t now, uint8_t *out24) noexcept nogil
cdef size_t path_write_arrivals(path *p, int64_t now, uint8_t *out) noexcept nogil
cdef bint path_take_report(path *p, int64_t now, uint64_t counter, const path_report *r) noexcept nogil  # False: not to be believed
cdef bint path_stuck(const path *p, int64_t now, uint32_t highest, int64_t silence) noexcept nogil
cdef uint32_t path_reactive_in_flight(const path *p, int64_t now, uint32_t highest) noexcept nogil
