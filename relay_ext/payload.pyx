# cython: boundscheck=False, wraparound=False, cdivision=True, auto_pickle=False
# Bounds: only header_len and payload_len are used, which rtp_parse() checked against the packet.
"""What an RTP packet is: joins what its payload says (formats.pyx) to frames by timestamp and marker.

A lost marker shows at the next timestamp. A VP8 or VP9 frame that starts is a new one whatever its timestamp.
For any other format a packet that follows the marker under the same timestamp goes on with the frame, as there
are senders that mark each NAL unit; for an unknown one it starts the next.
"""
from enum import IntEnum, IntFlag
from typing import NamedTuple

from libc.stdint cimport uint16_t, uint32_t
from libc.string cimport memset

from relay_ext.formats cimport (
    PAYLOAD_AUDIO, PAYLOAD_AV1, PAYLOAD_CUT, PAYLOAD_DISCARDABLE, PAYLOAD_DISCONTINUITY, PAYLOAD_FIRST,
    PAYLOAD_GENERIC, PAYLOAD_H264, PAYLOAD_H265, PAYLOAD_KEY, PAYLOAD_LAST, PAYLOAD_LATE, PAYLOAD_MALFORMED,
    PAYLOAD_MP2T, PAYLOAD_NO_LAYER, PAYLOAD_PARAMETERS, PAYLOAD_VP8, PAYLOAD_VP9, format_read,
)
from relay_ext.rtp cimport RTP_MAX_MISORDER, RTP_OK, rtp_parse


cdef int payload_frame(int kind, payload_state *s, const rtp_header *h, int found, bint same,
                       bint late) noexcept nogil:
    """Joins what a packet says to the frame that its timestamp (`same` as the last) and marker make it part of."""
    if not late and (not same or found & PAYLOAD_FIRST or (kind == PAYLOAD_GENERIC and not s.open)):
        found |= PAYLOAD_FIRST | (PAYLOAD_CUT if s.open else 0)
        s.timestamp = h.timestamp
        s.open = True
        s.key = False
    else:
        found &= ~PAYLOAD_FIRST
    if found & PAYLOAD_KEY:
        s.key = True
    if h.marker or found & PAYLOAD_LAST:
        found |= PAYLOAD_LAST
        s.open = False
    return found | PAYLOAD_KEY if s.key else found


cdef int payload_empty(payload_state *s, const rtp_header *h, bint same, bint late) noexcept nogil:
    """Padding, which senders probe with, under the last timestamp; it can still bring the marker."""
    if h.marker and same and s.open and not late:
        s.open = False
        return PAYLOAD_LAST
    return PAYLOAD_DISCARDABLE


cdef void payload_classify(int kind, payload_state *s, const uint8_t *packet, const rtp_header *h,
                           payload_info *out) noexcept nogil:
    cdef bint known = s.started and h.ssrc == s.ssrc
    cdef bint late = known and <uint16_t>(s.seq - h.seq) <= RTP_MAX_MISORDER
    cdef bint same = known and h.timestamp == s.timestamp
    cdef payload_state past
    cdef payload_state *current = s
    cdef int found
    out.temporal = out.spatial = PAYLOAD_NO_LAYER
    if not known:
        memset(s, 0, sizeof(payload_state))
        s.started = True
        s.ssrc = h.ssrc
    if late:
        past = s[0]
        s = &past
        if not same:
            s.group_size = 0  # pictures are counted forward only
    else:
        s.seq = h.seq
    if kind == PAYLOAD_AUDIO:
        found = PAYLOAD_FIRST | PAYLOAD_LAST
    elif h.payload_len == 0:
        found = payload_empty(s, h, same, late)
    else:
        if not same and kind != PAYLOAD_MP2T:  # whose timestamps are those of packets
            s.key = False
            s.temporal = s.spatial = PAYLOAD_NO_LAYER
        found = format_read(kind, s, out, packet + h.header_len, h.payload_len)
        if kind != PAYLOAD_MP2T:
            found = payload_frame(kind, s, h, found, same, late)
            if late and same:
                current.key = s.key
        elif s.video == 0:  # each packet stands alone
            found |= PAYLOAD_FIRST | PAYLOAD_LAST
        elif late:
            found &= ~PAYLOAD_FIRST
    if found & PAYLOAD_KEY:
        found &= ~PAYLOAD_DISCARDABLE
    out.flags = <uint16_t>(found | (PAYLOAD_LATE if late else 0))


# ---- Python: tests, and the kind of a track --------------------------------------------------

class Flag(IntFlag):
    FIRST = PAYLOAD_FIRST
    LAST = PAYLOAD_LAST
    CUT = PAYLOAD_CUT
    KEY = PAYLOAD_KEY
    PARAMETERS = PAYLOAD_PARAMETERS
    DISCARDABLE = PAYLOAD_DISCARDABLE
    DISCONTINUITY = PAYLOAD_DISCONTINUITY
    LATE = PAYLOAD_LATE
    MALFORMED = PAYLOAD_MALFORMED


class Kind(IntEnum):
    GENERIC = PAYLOAD_GENERIC
    AUDIO = PAYLOAD_AUDIO
    MP2T = PAYLOAD_MP2T
    H264 = PAYLOAD_H264
    H265 = PAYLOAD_H265
    VP8 = PAYLOAD_VP8
    VP9 = PAYLOAD_VP9
    AV1 = PAYLOAD_AV1


class Info(NamedTuple):
    flags: Flag
    temporal: object
    spatial: object


_KINDS = {
    "H264": Kind.H264, "H264-SVC": Kind.H264, "H265": Kind.H265, "VP8": Kind.VP8, "VP9": Kind.VP9,
    "AV1": Kind.AV1, "MP2T": Kind.MP2T,
}


def kind_of(str media not None, str codec not None):
    name = codec.partition("/")[0].upper()
    return _KINDS.get(name, Kind.AUDIO if media == "audio" else Kind.GENERIC)


cdef class Classifier:
    cdef payload_state state
    cdef int kind

    def __cinit__(self, int kind):
        self.kind = kind

    cdef int read(self, const uint8_t[::1] packet, rtp_header *h) except -1:
        if packet.shape[0] == 0 or rtp_parse(&packet[0], packet.shape[0], h) != RTP_OK:
            raise ValueError("not an RTP packet")
        return 0

    def classify(self, const uint8_t[::1] packet not None):
        cdef rtp_header h
        cdef payload_info info
        self.read(packet, &h)
        payload_classify(self.kind, &self.state, &packet[0], &h, &info)
        return Info(Flag(info.flags), None if info.temporal == PAYLOAD_NO_LAYER else info.temporal,
                    None if info.spatial == PAYLOAD_NO_LAYER else info.spatial)

    def run(self, const uint8_t[::1] packet not None, uint32_t times):
        cdef rtp_header h
        cdef payload_info info
        cdef uint32_t i
        self.read(packet, &h)
        with nogil:
            for i in range(times):
                h.seq = <uint16_t>i
                payload_classify(self.kind, &self.state, &packet[0], &h, &info)
