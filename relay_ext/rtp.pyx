# cython: boundscheck=False, wraparound=False, cdivision=True, auto_pickle=False
# Bounds: every offset is compared with `n` before it is read; a zero-length view is never dereferenced.
"""RTP and RTCP (RFC 3550): parsing, header rewriting for one egress, sequence unwrapping for one ingest.

Sequence numbers and timestamps are serial numbers: differences are taken in unsigned arithmetic and wrap.
"""
from typing import NamedTuple

from libc.string cimport memcpy, memset


cdef inline uint16_t get16(const uint8_t *p) noexcept nogil:
    return <uint16_t>(p[0] << 8 | p[1])


cdef inline uint32_t get32(const uint8_t *p) noexcept nogil:
    return <uint32_t>p[0] << 24 | <uint32_t>p[1] << 16 | <uint32_t>p[2] << 8 | p[3]


cdef inline void put16(uint8_t *p, uint16_t value) noexcept nogil:
    p[0] = <uint8_t>(value >> 8)
    p[1] = <uint8_t>value


cdef inline void put32(uint8_t *p, uint32_t value) noexcept nogil:
    put16(p, <uint16_t>(value >> 16))
    put16(p + 2, <uint16_t>value)


# ---- parsing ---------------------------------------------------------------------------------

cdef int rtp_parse(const uint8_t *p, size_t n, rtp_header *h) noexcept nogil:
    cdef size_t used, padding = 0
    if n < RTP_FIXED:
        return RTP_SHORT
    if n > 65535:
        return RTP_LONG
    if p[0] >> 6 != 2:
        return RTP_VERSION
    used = RTP_FIXED + 4 * (p[0] & 15)
    if used > n:
        return RTP_CSRC
    if p[0] & 0x10:
        if used + 4 > n:
            return RTP_EXTENSION
        used += 4 + 4 * <size_t>get16(p + used + 2)
        if used > n:
            return RTP_EXTENSION
    if p[0] & 0x20:
        padding = p[n - 1]
        if padding == 0 or used + padding > n:
            return RTP_PADDING
    h.cc = p[0] & 15
    h.marker = p[1] >> 7
    h.payload_type = p[1] & 127
    h.seq = get16(p + 2)
    h.timestamp = get32(p + 4)
    h.ssrc = get32(p + 8)
    h.header_len = <uint16_t>used
    h.payload_len = <uint16_t>(n - used - padding)
    return RTP_OK


cdef enum:  # RTCP packet types
    RTCP_SR = 200
    RTCP_RR = 201
    RTCP_SDES = 202
    RTCP_BYE = 203
    RTCP_APP = 204
    RTCP_RTPFB = 205  # RFC 4585
    RTCP_PSFB = 206

cdef enum:
    RTCP_HEADER = 4
    RTCP_SR_SIZE = 28  # bytes, without report blocks
    RTCP_BLOCK = 24


cdef size_t rtcp_least(const uint8_t *p) noexcept nogil:
    """Bytes that a packet of this type and count has at least."""
    cdef size_t count = p[0] & 31
    if p[1] == RTCP_SR:
        return RTCP_SR_SIZE + RTCP_BLOCK * count
    if p[1] == RTCP_RR:
        return 8 + RTCP_BLOCK * count
    if p[1] == RTCP_SDES:
        return RTCP_HEADER + 8 * count  # a chunk is an SSRC and at least one word of items
    if p[1] == RTCP_BYE:
        return RTCP_HEADER + 4 * count
    if RTCP_APP <= p[1] <= RTCP_PSFB:
        return 12
    return RTCP_HEADER


cdef int rtcp_check(const uint8_t *p, size_t left, size_t *size) noexcept nogil:
    """One packet of a compound with `left` bytes to go; its size, padding included."""
    cdef size_t padding = 0
    if left < RTCP_HEADER:
        return RTCP_SHORT
    if p[0] >> 6 != 2:
        return RTCP_VERSION
    if not 192 <= p[1] <= 223:
        return RTCP_TYPE
    size[0] = 4 * (<size_t>get16(p + 2) + 1)
    if size[0] > left:
        return RTCP_LENGTH
    if p[0] & 0x20:
        padding = p[size[0] - 1]
        if size[0] != left or padding == 0 or padding & 3 or padding > size[0] - RTCP_HEADER:
            return RTCP_PADDING
    return RTCP_COUNT if rtcp_least(p) > size[0] - padding else RTCP_OK


cdef void rtcp_read_sr(const uint8_t *p, rtcp_sr *sr) noexcept nogil:
    sr.ssrc = get32(p + 4)
    sr.ntp = <uint64_t>get32(p + 8) << 32 | get32(p + 12)
    sr.rtp_timestamp = get32(p + 16)
    sr.packets = get32(p + 20)
    sr.octets = get32(p + 24)


cdef int rtcp_parse(const uint8_t *p, size_t n, rtcp_sr *sr, bint *has_sr, bint *bye) noexcept nogil:
    cdef size_t at = 0, size = 0
    cdef bint report = False, goodbye = False
    cdef int reason
    memset(sr, 0, sizeof(rtcp_sr))
    has_sr[0] = bye[0] = False
    if n < RTCP_HEADER:
        return RTCP_SHORT
    while at < n:
        reason = rtcp_check(p + at, n - at, &size)
        if reason != RTCP_OK:
            return reason
        if at == 0 and size >= 8:
            sr.ssrc = get32(p + 4)
        if p[at + 1] == RTCP_SR and not report:
            rtcp_read_sr(p + at, sr)
            report = True
        if p[at + 1] == RTCP_BYE:
            goodbye = True
        at += size
    has_sr[0] = report
    bye[0] = goodbye
    return RTCP_OK


cdef size_t rtcp_build_sr(uint8_t *out, const rtcp_sr *sr, const uint8_t *cname,
                          size_t cname_len) noexcept nogil:
    if cname_len > 255:
        return 0
    out[0] = 0x80
    out[1] = RTCP_SR
    put16(out + 2, RTCP_SR_SIZE // 4 - 1)
    put32(out + 4, sr.ssrc)
    put32(out + 8, <uint32_t>(sr.ntp >> 32))
    put32(out + 12, <uint32_t>sr.ntp)
    put32(out + 16, sr.rtp_timestamp)
    put32(out + 20, sr.packets)
    put32(out + 24, sr.octets)
    return RTCP_SR_SIZE + build_sdes(out + RTCP_SR_SIZE, sr.ssrc, cname, cname_len)


cdef size_t build_sdes(uint8_t *out, uint32_t ssrc, const uint8_t *cname, size_t cname_len) noexcept nogil:
    # SSRC, item type, length, text, and one to four zeros that end the list on a word.
    cdef size_t size = RTCP_HEADER + 4 + ((2 + cname_len) // 4 + 1) * 4
    memset(out, 0, size)
    out[0] = 0x81
    out[1] = RTCP_SDES
    put16(out + 2, <uint16_t>(size // 4 - 1))
    put32(out + 4, ssrc)
    out[8] = 1  # CNAME
    out[9] = <uint8_t>cname_len
    memcpy(out + 10, cname, cname_len)
    return size


cdef size_t rtcp_build_rr(uint8_t *out, uint32_t sender) noexcept nogil:
    cdef uint8_t cname[8]
    cdef int i, digit
    for i in range(8):
        digit = sender >> (28 - 4 * i) & 15
        cname[i] = <uint8_t>(digit + (48 if digit < 10 else 87))
    out[0] = 0x80
    out[1] = RTCP_RR
    put16(out + 2, 1)
    put32(out + 4, sender)
    return 8 + build_sdes(out + 8, sender, cname, 8)


cdef enum:  # formats of payload-specific feedback
    PSFB_PLI = 1
    PSFB_FIR = 4
    PSFB_AFB = 15  # application layer feedback, REMB's

cdef enum:
    REMB_MANTISSA = 0x3FFFF  # 18 bits


cdef int rtcp_key_asks(const uint8_t *p, size_t n, uint32_t *ssrcs) noexcept nogil:
    cdef size_t at = 0, end, entry
    cdef int count = 0
    while at < n:
        end = at + 4 * (<size_t>get16(p + at + 2) + 1)
        if p[at + 1] == RTCP_PSFB and p[at] & 31 == PSFB_PLI and count < RTCP_ASKS_MAX:
            ssrcs[count] = get32(p + at + 8)
            count += 1
        elif p[at + 1] == RTCP_PSFB and p[at] & 31 == PSFB_FIR:
            entry = at + 12
            while entry + 8 <= end and count < RTCP_ASKS_MAX:
                ssrcs[count] = get32(p + entry)
                count += 1
                entry += 8
        at = end
    return count


cdef size_t psfb_header(uint8_t *out, int layout, size_t size, uint32_t sender, uint32_t media) noexcept nogil:
    """RFC 4585 section 6.1."""
    out[0] = <uint8_t>(0x80 | layout)
    out[1] = RTCP_PSFB
    put16(out + 2, <uint16_t>(size // 4 - 1))
    put32(out + 4, sender)
    put32(out + 8, media)
    return size


cdef size_t rtcp_build_pli(uint8_t *out, uint32_t sender, uint32_t media) noexcept nogil:
    return psfb_header(out, PSFB_PLI, RTCP_PLI_SIZE, sender, media)


cdef size_t rtcp_build_fir(uint8_t *out, uint32_t sender, uint32_t media, uint8_t command) noexcept nogil:
    put32(out + 12, media)
    put32(out + 16, <uint32_t>command << 24)
    return psfb_header(out, PSFB_FIR, RTCP_FIR_SIZE, sender, 0)


cdef size_t rtcp_build_remb(uint8_t *out, uint32_t sender, uint64_t bitrate, const uint32_t *media,
                            uint8_t count) noexcept nogil:
    cdef uint32_t exponent = 0, i
    while bitrate >> exponent > REMB_MANTISSA:
        exponent += 1
    memcpy(out + 12, b"REMB", 4)
    put32(out + 16, <uint32_t>count << 24 | exponent << 18 | <uint32_t>(bitrate >> exponent))
    for i in range(count):
        put32(out + 20 + 4 * i, media[i])
    return psfb_header(out, PSFB_AFB, 20 + 4 * <size_t>count, sender, 0)


# ---- rewriting for one egress ----------------------------------------------------------------

cdef enum:
    REWRITE_LATE = 4096  # packets before a switch that may come after it; further back is a new numbering
    NS = 1000000000


cdef void rtp_rewrite_init(rtp_rewrite *w, uint32_t out_ssrc, uint8_t payload_type, uint16_t seq_offset,
                           uint32_t timestamp_offset) noexcept nogil:
    memset(w, 0, sizeof(rtp_rewrite))
    w.out_ssrc = out_ssrc
    w.payload_type = payload_type
    w.seq_offset = seq_offset
    w.timestamp_offset = timestamp_offset


cdef inline uint32_t ticks(int64_t ns, uint32_t clock_rate) noexcept nogil:
    """A duration in units of the RTP clock; nothing for a negative one."""
    if ns <= 0:
        return 0
    return <uint32_t>(<uint64_t>(ns // NS) * clock_rate + <uint64_t>(ns % NS) * clock_rate // NS)


cdef void rewrite_switch(rtp_rewrite *w, uint32_t ssrc, uint32_t timestamp, uint32_t origin_seq,
                         int64_t origin_time_ns, uint32_t clock_rate) noexcept nogil:
    """Another source: output time goes on from where it stands, at least one tick later."""
    cdef uint32_t elapsed = max(ticks(origin_time_ns - w.last_origin_ns, clock_rate), <uint32_t>1)
    w.previous_ssrc = w.source_ssrc
    w.previous_offset = w.timestamp_offset
    w.previous_known = True
    w.source_ssrc = ssrc
    w.timestamp_offset = w.last_timestamp + elapsed - timestamp
    w.switch_seq = origin_seq


cdef uint32_t rewrite_late(const rtp_rewrite *w, uint32_t ssrc, uint32_t timestamp, int64_t origin_time_ns,
                           uint32_t clock_rate) noexcept nogil:
    """The timestamp of a packet from before the switch; by its origin time if its source is forgotten."""
    if w.previous_known and ssrc == w.previous_ssrc:
        return timestamp + w.previous_offset
    return w.last_timestamp - ticks(w.last_origin_ns - origin_time_ns, clock_rate)


cdef void rtp_rewrite_apply(rtp_rewrite *w, const uint8_t *packet, uint32_t origin_seq,
                            int64_t origin_time_ns, uint32_t clock_rate, uint8_t *out12) noexcept nogil:
    cdef uint32_t timestamp = get32(packet + 4), ssrc = get32(packet + 8), out
    cdef bint first = not w.started
    if first:
        w.started = True
        w.source_ssrc = ssrc
        w.switch_seq = origin_seq
    elif ssrc != w.source_ssrc and <uint32_t>(w.switch_seq - origin_seq - 1) >= REWRITE_LATE:
        rewrite_switch(w, ssrc, timestamp, origin_seq, origin_time_ns, clock_rate)
    if ssrc == w.source_ssrc:
        out = timestamp + w.timestamp_offset
        # The highest counts, not the last: frames may be sent in another order than they are shown.
        if first or <int32_t>(out - w.last_timestamp) > 0:
            w.last_timestamp = out
            w.last_origin_ns = origin_time_ns
    else:
        out = rewrite_late(w, ssrc, timestamp, origin_time_ns, clock_rate)
    out12[0] = packet[0]
    out12[1] = packet[1] if w.payload_type == RTP_KEEP else (packet[1] & 0x80) | w.payload_type
    put16(out12 + 2, <uint16_t>(origin_seq + w.seq_offset))
    put32(out12 + 4, out)
    put32(out12 + 8, w.out_ssrc)


cdef uint32_t rtp_rewrite_timestamp(const rtp_rewrite *w, uint32_t source_timestamp) noexcept nogil:
    return source_timestamp + w.timestamp_offset


# ---- unwrapping at ingest --------------------------------------------------------------------

cdef void rtp_unwrap_init(rtp_unwrap *u, uint32_t start) noexcept nogil:
    memset(u, 0, sizeof(rtp_unwrap))
    u.highest = start - 1


cdef void unwrap_go_on(rtp_unwrap *u, uint32_t ssrc, uint16_t seq) noexcept nogil:
    """Whatever this packet's own numbering, it is the next one of the origin sequence."""
    if u.started and ssrc != u.ssrc:
        u.previous_ssrc = u.ssrc
        u.previous_seq = u.seq
        u.previous_highest = u.highest
        u.previous_known = True
    u.started = True
    u.ssrc = ssrc
    u.seq = seq
    u.highest += 1
    u.jump_pending = False


cdef int unwrap_jump(rtp_unwrap *u, uint32_t ssrc, uint16_t seq, uint32_t *origin_seq) noexcept nogil:
    """A packet that fits nowhere: held, unless it follows another such packet."""
    if u.jump_pending and ssrc == u.jump_ssrc and seq == u.jump_seq:
        unwrap_go_on(u, ssrc, seq)
        origin_seq[0] = u.highest
        return RTP_UNWRAP_REBASED
    u.jump_pending = True
    u.jump_ssrc = ssrc
    u.jump_seq = <uint16_t>(seq + 1)
    return RTP_UNWRAP_HELD


cdef int rtp_unwrap_apply(rtp_unwrap *u, uint32_t ssrc, uint16_t seq, uint32_t *origin_seq) noexcept nogil:
    cdef uint16_t ahead, behind
    if u.started and ssrc == u.ssrc:
        ahead = <uint16_t>(seq - u.seq)
        behind = <uint16_t>(u.seq - seq)
        if ahead <= RTP_MAX_DROPOUT:
            u.seq = seq
            u.highest += ahead
            u.jump_pending = False
            origin_seq[0] = u.highest
            return RTP_UNWRAP_OK
        if behind <= RTP_MAX_MISORDER:
            origin_seq[0] = u.highest - behind
            return RTP_UNWRAP_OK
        return unwrap_jump(u, ssrc, seq, origin_seq)
    if u.previous_known and ssrc == u.previous_ssrc:
        behind = <uint16_t>(u.previous_seq - seq)
        if behind <= RTP_MAX_MISORDER:
            origin_seq[0] = u.previous_highest - behind
            return RTP_UNWRAP_OK
        return unwrap_jump(u, ssrc, seq, origin_seq)
    unwrap_go_on(u, ssrc, seq)
    origin_seq[0] = u.highest
    return RTP_UNWRAP_SOURCE


# ---- Python: tests -----------------------------------------------------------------------------

class Header(NamedTuple):
    payload_type: int
    marker: bool
    cc: int
    seq: int
    timestamp: int
    ssrc: int
    header_len: int
    payload_len: int


class SenderReport(NamedTuple):
    ssrc: int
    ntp: int
    rtp_timestamp: int
    packets: int
    octets: int


class Rtcp(NamedTuple):
    ssrc: int
    report: object
    bye: bool


class Refused(ValueError):
    @property
    def reason(self):
        return self.args[0]


_RTP_REASONS = ("ok", "short", "long", "version", "csrc", "extension", "padding")
_RTCP_REASONS = ("ok", "short", "version", "type", "length", "count", "padding")
SOURCE = RTP_UNWRAP_SOURCE
REBASED = RTP_UNWRAP_REBASED
HELD = RTP_UNWRAP_HELD
OK = RTP_UNWRAP_OK
KEEP = RTP_KEEP


def parse(const uint8_t[::1] packet not None):
    cdef rtp_header h
    cdef int reason = rtp_parse(&packet[0], packet.shape[0], &h)
    if reason != RTP_OK:
        raise Refused(_RTP_REASONS[reason])
    return Header(h.payload_type, bool(h.marker), h.cc, h.seq, h.timestamp, h.ssrc, h.header_len,
                  h.payload_len)


def is_rtcp(const uint8_t[::1] packet not None):
    return rtcp_is(&packet[0], packet.shape[0])


def parse_rtcp(const uint8_t[::1] packet not None):
    cdef rtcp_sr sr
    cdef bint has_sr, bye
    cdef int reason = rtcp_parse(&packet[0], packet.shape[0], &sr, &has_sr, &bye)
    if reason != RTCP_OK:
        raise Refused(_RTCP_REASONS[reason])
    report = SenderReport(sr.ssrc, sr.ntp, sr.rtp_timestamp, sr.packets, sr.octets) if has_sr else None
    return Rtcp(sr.ssrc, report, bool(bye))


def build_sr(report, bytes cname not None):
    cdef uint8_t out[RTCP_SR_MAX]
    cdef rtcp_sr sr
    cdef size_t n
    sr.ssrc, sr.ntp, sr.rtp_timestamp, sr.packets, sr.octets = report
    n = rtcp_build_sr(out, &sr, cname, len(cname))
    if n == 0:
        raise ValueError(f"a CNAME has at most 255 bytes, not {len(cname)}")
    return (<const char *>out)[:n]


def key_asks(const uint8_t[::1] packet not None):
    cdef uint32_t ssrcs[RTCP_ASKS_MAX]
    parse_rtcp(packet)
    return [ssrcs[i] for i in range(rtcp_key_asks(&packet[0], packet.shape[0], ssrcs))]


def build_rr(uint32_t sender):
    cdef uint8_t out[RTCP_RR_SIZE]
    return (<const char *>out)[:rtcp_build_rr(out, sender)]


def build_pli(uint32_t sender, uint32_t media):
    cdef uint8_t out[RTCP_PLI_SIZE]
    return (<const char *>out)[:rtcp_build_pli(out, sender, media)]


def build_fir(uint32_t sender, uint32_t media, uint8_t command):
    cdef uint8_t out[RTCP_FIR_SIZE]
    return (<const char *>out)[:rtcp_build_fir(out, sender, media, command)]


def build_remb(uint32_t sender, uint64_t bitrate, media):
    cdef uint8_t out[RTCP_REMB_MAX]
    cdef uint32_t ssrcs[RTCP_REMB_SSRCS]
    cdef uint32_t i
    if len(media) > RTCP_REMB_SSRCS:
        raise ValueError(f"REMB has room for {RTCP_REMB_SSRCS} SSRCs, not {len(media)}")
    for i in range(<uint32_t>len(media)):
        ssrcs[i] = media[i]
    return (<const char *>out)[:rtcp_build_remb(out, sender, bitrate, ssrcs, <uint8_t>len(media))]


cdef class Rewrite:
    cdef rtp_rewrite w

    def __cinit__(self, uint32_t out_ssrc, uint8_t payload_type=RTP_KEEP, uint16_t seq_offset=0,
                  uint32_t timestamp_offset=0):
        rtp_rewrite_init(&self.w, out_ssrc, payload_type, seq_offset, timestamp_offset)

    def apply(self, const uint8_t[::1] packet not None, uint32_t origin_seq, int64_t origin_time_ns,
              uint32_t clock_rate):
        cdef uint8_t out[RTP_FIXED]
        parse(packet)
        rtp_rewrite_apply(&self.w, &packet[0], origin_seq, origin_time_ns, clock_rate, out)
        return (<const char *>out)[:RTP_FIXED]

    def timestamp(self, uint32_t source_timestamp):
        return rtp_rewrite_timestamp(&self.w, source_timestamp)


cdef class Unwrap:
    cdef rtp_unwrap u

    def __cinit__(self, uint32_t start):
        rtp_unwrap_init(&self.u, start)

    def apply(self, uint32_t ssrc, uint16_t seq):
        cdef uint32_t origin_seq = 0
        cdef int verdict = rtp_unwrap_apply(&self.u, ssrc, seq, &origin_seq)
        return verdict, (None if verdict == RTP_UNWRAP_HELD else origin_seq)
