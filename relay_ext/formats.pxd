# RTP payload formats: what the payload of one packet says of the frame that it is part of.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef enum:                      # payload formats
    PAYLOAD_GENERIC = 0         # frames by timestamp and marker alone
    PAYLOAD_AUDIO = 1           # each packet is a frame
    PAYLOAD_MP2T = 2            # RFC 2250: transport stream packets
    PAYLOAD_H264 = 3            # RFC 6184, layers of RFC 6190
    PAYLOAD_H265 = 4            # RFC 7798
    PAYLOAD_VP8 = 5             # RFC 7741
    PAYLOAD_VP9 = 6             # RFC 9628
    PAYLOAD_AV1 = 7             # AOMedia, RTP Payload Format For AV1, 1.0

cdef enum:                      # what a packet is
    PAYLOAD_FIRST = 1           # the first of its frame that arrived
    PAYLOAD_LAST = 2            # of its frame, by the marker or the format
    PAYLOAD_CUT = 4             # with FIRST: the frame before it has had no LAST
    PAYLOAD_KEY = 8             # its frame is a random access point; known from the packet on that says so
    PAYLOAD_PARAMETERS = 16     # has parameter sets, a sequence header, a scalability structure, or the PAT
    PAYLOAD_DISCARDABLE = 32    # no other frame refers to this one; or it carries nothing at all
    PAYLOAD_DISCONTINUITY = 64  # the transport stream's discontinuity_indicator
    PAYLOAD_LATE = 128          # behind one that was seen, or seen before: changes nothing of what follows
    PAYLOAD_MALFORMED = 256     # not of its format: only boundaries by timestamp and marker, and an earlier KEY

cdef enum:
    PAYLOAD_NO_LAYER = 255      # the format does not say

ctypedef struct payload_info:
    uint16_t flags
    uint8_t temporal            # layer, the lowest in the packet; or PAYLOAD_NO_LAYER
    uint8_t spatial             # layer (H.264: dependency_id; H.265: nuh_layer_id), likewise

# Of one track; payload.pyx keeps what is about frames. All zeros: nothing seen.
ctypedef struct payload_state:
    uint32_t ssrc
    uint32_t timestamp          # of the current frame
    uint16_t seq                # the highest
    bint started
    bint open                   # the current frame has had no last packet
    bint key                    # the current frame is a random access point
    uint8_t temporal            # AV1: layers of the OBU that the next packet may go on with
    uint8_t spatial
    bint still                  # AV1: reduced_still_picture_header, all frames are key frames
    uint8_t sub_layers          # H.265: of the SPS, or more where there were; 0: no SPS yet
    uint8_t group_size          # VP9: pictures in a picture group; 0: not known
    uint8_t group_index         # VP9: the current picture's place in it
    uint16_t picture            # VP9: its picture ID
    uint64_t referenced[4]      # VP9: places in the group that others refer to, a bit each
    uint16_t video              # MP2T: PID of the video; 0, which is the PAT's: none seen

# Flags of a payload of n >= 1 bytes, which nothing beyond is read of. Here FIRST and LAST are the format's own
# marks, and MALFORMED comes alone. Fills `out` with layers, both PAYLOAD_NO_LAYER before.
cdef int format_read(int kind, payload_state *s, payload_info *out, const uint8_t *p, size_t n) noexcept nogil
