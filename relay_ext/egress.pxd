# One way out of a track: header rewrite, sender reports, address.
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from relay_ext.base cimport addr, tx_queue
from relay_ext.rtp cimport rtcp_sr, rtp_header, rtp_rewrite
from relay_ext.ring cimport slot
from relay_ext.slab cimport slab_pool

cdef enum:
    EGRESS_CNAME = 64         # longest CNAME, bytes
    EGRESS_CHAINS = 1024

ctypedef struct origin_clock: # how a track's RTP timestamps relate to NTP time, as the origin's reports say
    bint known
    rtcp_sr report

ctypedef struct egress:
    egress *next
    egress *same              # the next in its chain of the table
    uint32_t track
    uint32_t id
    uint16_t port             # socket to send from
    uint16_t cname_len
    addr to
    addr rtcp_to
    rtp_rewrite rewrite
    bint rebase               # the origin began anew: go on where we are
    uint16_t last_seq         # sent
    int64_t last_sent         # ns
    int64_t first_sent        # ns; 0 until the first packet
    int64_t next_report       # ns
    uint64_t packets
    uint64_t octets           # of RTP payload
    uint64_t bytes            # of UDP payload
    uint64_t reports
    int64_t asked             # ns, when its receiver's wish for a key frame was last passed on
    uint8_t cname[64]

ctypedef struct egress_table: # by SSRC, which is random: chains by its low bits
    egress *chains[1024]

cdef void egress_table_add(egress_table *t, egress *e) noexcept nogil
cdef void egress_table_remove(egress_table *t, const egress *e) noexcept nogil
cdef egress *egress_find(const egress_table *t, uint32_t ssrc) noexcept nogil
cdef void egress_send(egress *e, tx_queue *tx, slab_pool *pool, int64_t now, const slot *s,
                      const rtp_header *h, uint32_t clock_rate, const origin_clock *clock) noexcept nogil
