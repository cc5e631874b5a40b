# The inner header: 20 bytes in front of every symbol's payload, protected and recovered with it.
#
# Everything that deduplicates, orders, expires or routes a packet reads this and never RTP's 16-bit fields.
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t

cdef enum:
    INNER_SIZE = 20
    INNER_TIME_NS = 100000    # unit of `time` and `age`
    INNER_MAX_HOPS = 4        # two relays between ingress and egress, and one more while a path changes
    INNER_AGE_MAX = 65535     # where `age` saturates

cdef enum:                    # flags
    INNER_FIRST = 0x01        # first part of a packet
    INNER_LAST = 0x02         # last part
    INNER_KEY = 0x04          # belongs to a key frame
    INNER_DISCARDABLE = 0x08
    INNER_RTCP = 0x10         # payload is a sender report; takes no origin sequence
    INNER_START = 0x20        # first packet of this track that was sent on this hop
    INNER_FRAME_START = 0x40  # first packet of its frame
    INNER_FRAME_END = 0x80    # last packet of its frame

ctypedef struct inner:
    uint16_t length           # bytes of payload that follow
    uint16_t stream           # aliases, given by the sending node's Publish
    uint8_t track
    uint8_t epoch             # of the publication
    uint8_t flags
    uint8_t hops              # relays passed so far
    uint32_t seq              # origin sequence a track, serial number
    uint32_t time             # origin time, 100 us
    uint16_t age              # time spent in nodes so far, waiting for repair included, 100 us, saturating
    uint8_t priority
    uint8_t gap               # origin sequences just before this one that were not sent; 255: so many or more
    uint16_t sent_age         # not on the wire: `age` when the last node sent it

cdef inline uint16_t be16(const uint8_t *p) noexcept nogil:
    return <uint16_t>((p[0] << 8) | p[1])

cdef inline uint32_t be32(const uint8_t *p) noexcept nogil:
    return (<uint32_t>p[0] << 24) | (<uint32_t>p[1] << 16) | (<uint32_t>p[2] << 8) | p[3]

cdef inline void put16(uint8_t *p, uint32_t v) noexcept nogil:
    p[0] = <uint8_t>(v >> 8)
    p[1] = <uint8_t>v

cdef inline void put32(uint8_t *p, uint32_t v) noexcept nogil:
    put16(p, v >> 16)
    put16(p + 2, v)

cdef inline int32_t serial_diff(uint32_t a, uint32_t b) noexcept nogil:
    """a - b of two 32-bit serial numbers (RFC 1982)."""
    return <int32_t>(a - b)

cdef inline uint16_t inner_age(uint16_t age, int64_t spent) noexcept nogil:
    """An age and so many ns more."""
    return <uint16_t>min(age + max(spent, 0) // INNER_TIME_NS, INNER_AGE_MAX)

cdef inline void inner_write(uint8_t *p, const inner *h) noexcept nogil:
    put16(p, h.length)
    put16(p + 2, h.stream)
    p[4] = h.track
    p[5] = h.epoch
    p[6] = h.flags
    p[7] = h.hops
    put32(p + 8, h.seq)
    put32(p + 12, h.time)
    put16(p + 16, h.age)
    p[18] = h.priority
    p[19] = h.gap

cdef inline bint inner_read(const uint8_t *p, uint16_t n, inner *h) noexcept nogil:
    """Parse a symbol of n bytes; False unless it is exactly one header and its payload."""
    if n < INNER_SIZE:
        return False
    h.length = be16(p)
    h.stream = be16(p + 2)
    h.track = p[4]
    h.epoch = p[5]
    h.flags = p[6]
    h.hops = p[7]
    h.seq = be32(p + 8)
    h.time = be32(p + 12)
    h.age = be16(p + 16)
    h.priority = p[18]
    h.gap = p[19]
    h.sent_age = h.age
    return h.length == n - INNER_SIZE
