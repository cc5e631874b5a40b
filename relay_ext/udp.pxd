# UDP sockets in batches: recvmmsg with GRO in, sendmmsg with GSO out.
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from relay_ext.plane cimport plane
from relay_ext.system cimport iovec, mmsghdr, sockaddr_in, sockaddr_in6

cdef enum:
    UDP_PORTS = 4096       # port numbers of the plane: 0 ... 4095
    UDP_NONE = 0xFFFF      # no packet, no group, no port
    RX_BATCH = 32          # messages a recvmmsg
    RX_BATCHES = 2         # recvmmsg calls a port and turn, so that one port cannot starve the others
    RX_STRIDE = 65536 + 192  # bytes a buffer; were it a multiple of a page, all heads would share a cache set
    RX_CONTROL = 64
    TX_BATCH = 64          # messages a sendmmsg
    TX_IOVECS = 1024
    TX_BUCKETS = 4096      # twice TX_CAPACITY, a power of two
    GSO_SEGMENTS = 64      # UDP_MAX_SEGMENTS of the older kernels
    GSO_BYTES = 65000

# Counters, in the order of NAMES in udp.pyx.
cdef enum:
    RX_DATAGRAMS
    RX_BYTES
    RX_BATCH_CALLS
    RX_GRO_DATAGRAMS
    RX_TRUNCATED
    RX_OVERSIZED
    RX_ERRORS
    RX_DEAD_PORTS
    TX_DATAGRAMS
    TX_BYTES
    TX_BATCH_CALLS
    TX_MESSAGES
    TX_GSO_DATAGRAMS
    TX_GSO_FALLBACKS
    TX_WOULD_BLOCK
    TX_UNREACHABLE
    TX_FORBIDDEN
    TX_REFUSED
    TX_TOO_LONG
    TX_NO_BUFFERS
    TX_NO_PORT
    TX_WRONG_FAMILY
    TX_OTHER_ERRORS
    WAKEUPS
    UDP_COUNTERS

ctypedef struct udp_port:
    int fd               # -1: there is no such port
    bint v6
    bint gso
    uint32_t failures    # receive errors since the last datagram
    uint16_t first_group # of the flush under way
    uint16_t last_group

ctypedef struct tx_group:
    # Packets of one port to one destination, chained through udp_io.next_packet.
    uint16_t first
    uint16_t last
    uint16_t next_group

ctypedef struct tx_bucket:
    uint32_t flush       # the flush that the entry belongs to: nothing has to be cleared
    uint16_t group

ctypedef union sockaddr_any:
    sockaddr_in v4
    sockaddr_in6 v6

ctypedef struct udp_io:
    udp_port ports[4096]
    uint64_t counters[32]
    # receiving
    uint8_t *rx_buffers  # mapped: what the kernel never wrote to costs nothing
    mmsghdr rx_messages[32]
    iovec rx_iovecs[32]
    sockaddr_any rx_names[32]
    uint64_t rx_control[32][8]
    # sending
    uint64_t hash_keys[4]
    uint32_t flush
    uint16_t groups
    uint16_t active[4096]     # ports with packets in this flush
    uint16_t active_count
    tx_bucket buckets[4096]
    tx_group group[2048]
    uint16_t next_packet[2048]
    mmsghdr tx_messages[64]
    uint16_t tx_first[64]     # first packet of each message
    uint16_t tx_segments[64]
    sockaddr_any tx_names[64]
    uint64_t tx_control[64][4]  # 32 bytes: CMSG_SPACE of the segment size, and some
    iovec tx_iovecs[1024]

cdef udp_io *udp_new(const uint64_t *hash_keys) noexcept nogil  # NULL: out of memory
cdef void udp_free(udp_io *io) noexcept nogil   # the sockets are their owner's
cdef int64_t udp_receive(udp_io *io, plane *p, uint16_t port) noexcept nogil
cdef void udp_flush(udp_io *io, plane *p) noexcept nogil
