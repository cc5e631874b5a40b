# cython: boundscheck=False, wraparound=False, cdivision=True, auto_pickle=False
# Bounds: a payload is a pointer and a length, and every offset is compared with the length before it is read.
"""RTP payload formats: one function each reads a payload and returns the flags that it finds.

A random access point (KEY) is, by format:
- H.264: an IDR slice, a sequence parameter set (which may change only there), or a recovery point SEI. The last
  makes the start of each round of an intra refresh a key frame, as it is where decoders begin; such a stream has
  no others.
- H.265: an IRAP slice (BLA, IDR, CRA), a video or sequence parameter set, a recovery point SEI.
- VP8: a key frame by the frame header. VP9: the base layer's frame, by descriptor and frame header both, as
  there are senders that never set P. Frames of upper layers belong to the picture.
- AV1: a new coded video sequence (N), a sequence header, or the base layer's key frame that is shown.
- MPEG-TS: the random access indicator of a video PES packet.

DISCARDABLE is said only where the format does: H.264 nal_ref_idc 0; H.265 sub-layer non-reference pictures of
the highest temporal layer, known from the first SPS on; VP8's N; VP9 pictures that no other of the picture group
refers to (not in the flexible mode, which says only what a picture itself refers to); null packets of a transport
stream. AV1 tells it in the dependency descriptor or deep in the frame header: never here.
"""
from libc.string cimport memcpy, memset

cdef enum:
    NEEDED = 1 << 15  # among the flags of one packet: a part that others refer to, so not DISCARDABLE


cdef inline size_t get16(const uint8_t *p) noexcept nogil:
    return <size_t>p[0] << 8 | p[1]


cdef inline void add_layers(payload_info *out, int temporal, int spatial) noexcept nogil:
    """The lowest of a packet counts: that is what is lost with it."""
    out.temporal = <uint8_t>min(out.temporal, temporal)
    out.spatial = <uint8_t>min(out.spatial, spatial)


# ---- H.264 and H.265 ---------------------------------------------------------------------------

cdef enum:
    SEI_RECOVERY_POINT = 6

cdef enum:  # H.264 table 7-1, RFC 6184 table 1
    H264_IDR = 5
    H264_SEI = 6
    H264_SPS = 7
    H264_PPS = 8
    H264_SPS_EXTENSION = 13
    H264_PREFIX = 14
    H264_SUBSET_SPS = 15
    H264_SLICE_EXTENSION = 20
    H264_STAP_A = 24
    H264_STAP_B = 25
    H264_MTAP16 = 26
    H264_MTAP24 = 27
    H264_FU_A = 28
    H264_FU_B = 29

cdef enum:  # H.265 table 7-1, RFC 7798 section 4.4
    H265_SUBLAYER_LAST = 14  # sub-layer pictures are 0 to 14, the even ones not for reference
    H265_IRAP = 16
    H265_IRAP_LAST = 23
    H265_VCL_LAST = 31
    H265_VPS = 32
    H265_SPS = 33
    H265_PPS = 34
    H265_PREFIX_SEI = 39
    H265_AP = 48
    H265_FU = 49
    H265_PACI = 50


cdef int sei(const uint8_t *p, size_t n) noexcept nogil:
    """KEY if a recovery point is among the messages of an SEI, `p` behind the NAL unit header."""
    cdef size_t at = 0, kind, size
    while at + 2 <= n:
        kind = size = 0
        while at < n and p[at] == 255:
            kind += 255
            at += 1
        if at + 1 >= n:
            return 0
        kind += p[at]
        at += 1
        while at < n and p[at] == 255:
            size += 255
            at += 1
        if at >= n:
            return 0
        if kind == SEI_RECOVERY_POINT:
            return PAYLOAD_KEY
        size += p[at]
        at += 1 + min(size, n - at)
    return 0


cdef int h264_nal(payload_info *out, int header, const uint8_t *p, size_t n) noexcept nogil:
    """A NAL unit, or the fragment of one; `p` behind its header byte, n = 0 where it goes on."""
    cdef int kind = header & 31
    if kind == 0 or kind >= H264_STAP_A:
        return PAYLOAD_MALFORMED
    if kind == H264_PREFIX or kind == H264_SLICE_EXTENSION:
        if n >= 3 and p[0] & 0x80:  # svc_extension_flag; 0 is MVC's header, or 3D-AVC's
            add_layers(out, p[2] >> 5, p[1] >> 4 & 7)
    if kind == H264_IDR:
        return PAYLOAD_KEY | NEEDED
    if kind < H264_IDR or kind == H264_SLICE_EXTENSION:
        return NEEDED if header & 0x60 else PAYLOAD_DISCARDABLE
    if kind == H264_SEI:
        return sei(p, n)
    if kind == H264_SPS:
        return PAYLOAD_KEY | PAYLOAD_PARAMETERS
    if kind == H264_PPS or kind == H264_SPS_EXTENSION or kind == H264_SUBSET_SPS:
        return PAYLOAD_PARAMETERS
    return 0


cdef int h264_aggregate(payload_info *out, const uint8_t *p, size_t n, size_t offsets) noexcept nogil:
    """Units of a size, `offsets` bytes of decoding order and time, and a NAL unit."""
    cdef size_t at = 0, size
    cdef int found = 0
    while at < n:
        if at + 2 > n:
            return PAYLOAD_MALFORMED
        size = get16(p + at)
        at += 2 + offsets
        if size == 0 or at + size > n:
            return PAYLOAD_MALFORMED
        found |= h264_nal(out, p[at], p + at + 1, size - 1)
        at += size
    return found if n else PAYLOAD_MALFORMED


cdef int h264(payload_info *out, const uint8_t *p, size_t n) noexcept nogil:
    cdef int kind = p[0] & 31
    cdef size_t head
    if kind == H264_STAP_A:
        return h264_aggregate(out, p + 1, n - 1, 0)
    if H264_STAP_B <= kind <= H264_MTAP24:  # behind a decoding order number
        if n < 3:
            return PAYLOAD_MALFORMED
        return h264_aggregate(out, p + 3, n - 3, 0 if kind == H264_STAP_B else kind - H264_MTAP16 + 3)
    if kind == H264_FU_A or kind == H264_FU_B:
        head = 2 if kind == H264_FU_A else 4
        if n <= head or p[1] & 0xC0 == 0xC0:  # start and end at once
            return PAYLOAD_MALFORMED
        return h264_nal(out, p[0] & 0xE0 | p[1] & 0x1F, p + head, n - head if p[1] & 0x80 else 0)
    return h264_nal(out, p[0], p + 1, n - 1)


cdef int h265_nal(payload_state *s, payload_info *out, int kind, const uint8_t *header, const uint8_t *p,
                  size_t n) noexcept nogil:
    """A NAL unit, or the fragment of one, with the layers of `header`; `p` behind it, n = 0 where it goes on."""
    cdef int temporal = (header[1] & 7) - 1
    if temporal < 0 or kind >= H265_AP:
        return PAYLOAD_MALFORMED
    add_layers(out, temporal, (header[0] & 1) << 5 | header[1] >> 3)
    if kind == H265_SPS and n:
        s.sub_layers = (p[0] >> 1 & 7) + 1  # sps_max_sub_layers_minus1
    if s.sub_layers:
        s.sub_layers = <uint8_t>max(s.sub_layers, temporal + 1)
    if H265_IRAP <= kind <= H265_IRAP_LAST:
        return PAYLOAD_KEY | NEEDED
    if kind <= H265_VCL_LAST:
        if kind <= H265_SUBLAYER_LAST and not kind & 1 and temporal + 1 == s.sub_layers:
            return PAYLOAD_DISCARDABLE
        return NEEDED
    if kind == H265_VPS or kind == H265_SPS:
        return PAYLOAD_KEY | PAYLOAD_PARAMETERS
    if kind == H265_PPS:
        return PAYLOAD_PARAMETERS
    return sei(p, n) if kind == H265_PREFIX_SEI else 0


cdef int h265_aggregate(payload_state *s, payload_info *out, const uint8_t *p, size_t n, size_t first,
                        size_t others) noexcept nogil:
    """Units of decoding order (`first` bytes, then `others`), a size and a NAL unit; all is checked, then read."""
    cdef size_t at = 0, size, order = first
    cdef int found = 0, reading
    for reading in range(2):
        at = 0
        order = first
        while at < n:
            at += order + 2
            if at > n:
                return PAYLOAD_MALFORMED
            size = get16(p + at - 2)
            if size < 2 or size > n - at or p[at] & 0x80 or not p[at + 1] & 7 or p[at] >> 1 >= H265_AP:
                return PAYLOAD_MALFORMED
            if reading:
                found |= h265_nal(s, out, p[at] >> 1, p + at, p + at + 2, size - 2)
            at += size
            order = others
    return found if n else PAYLOAD_MALFORMED


cdef int h265_body(payload_state *s, payload_info *out, int kind, const uint8_t *header, const uint8_t *p,
                   size_t n) noexcept nogil:
    """What follows the two bytes of a payload header. Of decoding order numbers, only fmtp would tell."""
    cdef int found
    if kind == H265_AP:
        found = h265_aggregate(s, out, p, n, 0, 0)
        return h265_aggregate(s, out, p, n, 2, 1) if found & PAYLOAD_MALFORMED else found
    if kind == H265_FU:
        if n < 2 or p[0] & 0xC0 == 0xC0:  # start and end at once
            return PAYLOAD_MALFORMED
        return h265_nal(s, out, p[0] & 63, header, p + 1, n - 1 if p[0] & 0x80 else 0)
    return h265_nal(s, out, kind, header, p, n)


cdef int h265(payload_state *s, payload_info *out, const uint8_t *p, size_t n) noexcept nogil:
    cdef int kind
    cdef size_t extension
    if n < 2:
        return PAYLOAD_MALFORMED
    kind = p[0] >> 1 & 63
    if kind != H265_PACI:
        return h265_body(s, out, kind, p, p + 2, n - 2)
    # The header of what is carried is replaced: its type is in the PACI header, its layers in the payload's.
    if n < 4:
        return PAYLOAD_MALFORMED
    extension = 4 + ((p[2] & 1) << 4 | p[3] >> 4)  # PHSsize
    if n <= extension:
        return PAYLOAD_MALFORMED
    return h265_body(s, out, p[2] >> 1 & 63, p, p + extension, n - extension)


# ---- VP8 ---------------------------------------------------------------------------------------

cdef enum:  # RFC 7741 section 4.2
    VP8_X = 0x80
    VP8_N = 0x20
    VP8_S_PID = 0x17   # S, the reserved bit's place left out, and the three of PID
    VP8_START = 0x10   # S set, PID 0
    VP8_I = 0x80
    VP8_L = 0x40
    VP8_T = 0x20
    VP8_K = 0x10


cdef int vp8(payload_info *out, const uint8_t *p, size_t n) noexcept nogil:
    cdef size_t at = 1
    cdef int extension = 0
    cdef int found = PAYLOAD_DISCARDABLE if p[0] & VP8_N else 0
    if p[0] & VP8_X:
        if n < 2:
            return PAYLOAD_MALFORMED
        extension = p[1]
        at = 2
        if extension & VP8_I:
            if at >= n:
                return PAYLOAD_MALFORMED
            at += 2 if p[at] & 0x80 else 1
        if extension & VP8_L:
            at += 1
        if extension & (VP8_T | VP8_K):
            if at >= n:
                return PAYLOAD_MALFORMED
            if extension & VP8_T:
                out.temporal = p[at] >> 6
            at += 1
    if at >= n:
        return PAYLOAD_MALFORMED
    if p[0] & VP8_S_PID == VP8_START:
        found |= PAYLOAD_FIRST
        if not p[at] & 1:  # RFC 6386 section 9.1: 0 is a key frame
            found |= PAYLOAD_KEY
    return found


# ---- VP9 ---------------------------------------------------------------------------------------

cdef enum:  # RFC 9628 section 4.2
    VP9_I = 0x80
    VP9_P = 0x40
    VP9_L = 0x20
    VP9_F = 0x10
    VP9_B = 0x08
    VP9_E = 0x04
    VP9_V = 0x02
    VP9_REFERENCES = 3


cdef bint vp9_key(int header) noexcept nogil:
    """A key frame, by the first byte of the uncompressed header: marker 2, profile, show_existing, frame_type."""
    if header >> 6 != 2:
        return False
    return not header & (0x06 if header & 0x30 == 0x30 else 0x0C)  # profile 3 has a reserved bit more


cdef size_t vp9_structure(payload_state *s, const uint8_t *p, size_t n, size_t at) noexcept nogil:
    """Reads the scalability structure at `at`; where it ends, or 0 if it does not."""
    cdef uint64_t referenced[4]
    cdef size_t size = 0, i, r, references, to
    cdef int head
    if at >= n:
        return 0
    head = p[at]
    at += 1 + (4 * ((head >> 5) + 1) if head & 0x10 else 0)
    memset(referenced, 0, sizeof(referenced))
    if head & 0x08:
        if at >= n:
            return 0
        size = p[at]
        at += 1
        for i in range(size):
            if at >= n:
                return 0
            references = p[at] >> 2 & 3
            at += 1
            if references > n - at:
                return 0
            for r in range(references):
                to = (i + size - p[at + r] % size) % size
                referenced[to >> 6] |= <uint64_t>1 << (to & 63)
            at += references
    if at > n:
        return 0
    memcpy(s.referenced, referenced, sizeof(referenced))
    s.group_size = <uint8_t>size
    return at


cdef bint vp9_unreferenced(payload_state *s, bint structure, uint16_t picture, uint16_t mask) noexcept nogil:
    """Whether no other picture refers to this one; the one that brought the structure is the group's first."""
    if s.group_size == 0:
        return False
    if structure:
        s.group_index = 0
    else:
        s.group_index = <uint8_t>((s.group_index + <uint32_t>((picture - s.picture) & mask)) % s.group_size)
    s.picture = picture
    return not s.referenced[s.group_index >> 6] >> (s.group_index & 63) & 1


cdef size_t vp9_differences(const uint8_t *p, size_t n, size_t at) noexcept nogil:
    """Where the reference indices of a picture in flexible mode end, or 0 if they do not."""
    cdef int i
    for i in range(VP9_REFERENCES):
        if at >= n:
            return 0
        at += 1
        if not p[at - 1] & 1:
            return at
    return 0


cdef int vp9(payload_state *s, payload_info *out, const uint8_t *p, size_t n) noexcept nogil:
    cdef size_t at = 1
    cdef int head = p[0], found = 0
    cdef uint16_t picture = 0, mask = 0
    cdef bint base = True
    if head & VP9_I:
        mask = 0x7FFF if n > 1 and p[1] & 0x80 else 0x7F
        at = 3 if mask == 0x7FFF else 2
        if at > n:
            return PAYLOAD_MALFORMED
        picture = <uint16_t>(get16(p + 1) & mask if at == 3 else p[1])
    if head & VP9_L:
        if at >= n:
            return PAYLOAD_MALFORMED
        add_layers(out, p[at] >> 5, p[at] >> 1 & 7)
        base = out.spatial == 0
        at += 1 if head & VP9_F else 2  # TL0PICIDX
    if head & VP9_F and head & VP9_P:
        at = vp9_differences(p, n, at)
        if at == 0:
            return PAYLOAD_MALFORMED
    if head & VP9_V:
        found |= PAYLOAD_PARAMETERS
        at = vp9_structure(s, p, n, at)
        if at == 0:
            return PAYLOAD_MALFORMED
    if at >= n:
        return PAYLOAD_MALFORMED
    if head & VP9_B and base:
        found |= PAYLOAD_FIRST
        if not head & VP9_P and vp9_key(p[at]):
            found |= PAYLOAD_KEY
    if head & VP9_E and not head & VP9_L:  # with layers, E ends one of them
        found |= PAYLOAD_LAST
    if head & VP9_I and not head & VP9_F and vp9_unreferenced(s, head & VP9_V != 0, picture, mask):
        found |= PAYLOAD_DISCARDABLE
    return found


# ---- AV1 ---------------------------------------------------------------------------------------

cdef enum:  # section 4.4 of the payload format
    AV1_Z = 0x80
    AV1_N = 0x08

cdef enum:  # section 6.2.2 of the bitstream's specification
    OBU_SEQUENCE_HEADER = 1
    OBU_FRAME_HEADER = 3
    OBU_FRAME = 6


cdef size_t leb128(const uint8_t *p, size_t n, size_t *value) noexcept nogil:
    """Bytes read; 0 if the number does not end within eight, or within the packet."""
    cdef size_t i
    cdef uint64_t read = 0
    for i in range(min(n, <size_t>8)):
        read |= <uint64_t>(p[i] & 127) << (7 * i)
        if not p[i] & 128:
            value[0] = <size_t>min(read, <uint64_t>65536)  # more than any packet has
            return i + 1
    return 0


cdef int av1_obu(payload_state *s, payload_info *out, const uint8_t *p, size_t n) noexcept nogil:
    """An OBU, or the first fragment of one."""
    cdef int kind = p[0] >> 3 & 15
    cdef size_t at = 1, size, used
    if p[0] & 0x80:
        return PAYLOAD_MALFORMED
    s.temporal = s.spatial = PAYLOAD_NO_LAYER
    if p[0] & 0x04:
        if n < 2:
            return PAYLOAD_MALFORMED
        s.temporal = p[1] >> 5
        s.spatial = p[1] >> 3 & 3
        add_layers(out, s.temporal, s.spatial)
        at = 2
    if p[0] & 0x02:
        used = leb128(p + at, n - at, &size)
        if used == 0:
            return PAYLOAD_MALFORMED
        at += used
    if kind == OBU_SEQUENCE_HEADER:
        if at < n:
            s.still = p[at] & 0x08 != 0
        return PAYLOAD_KEY | PAYLOAD_PARAMETERS
    if (kind == OBU_FRAME_HEADER or kind == OBU_FRAME) and at < n and (s.spatial == 0 or not p[0] & 0x04):
        # Not show_existing_frame, frame_type 0, show_frame.
        return PAYLOAD_KEY if s.still or p[at] & 0xF0 == 0x10 else 0
    return 0


cdef int av1(payload_state *s, payload_info *out, const uint8_t *p, size_t n) noexcept nogil:
    cdef size_t at = 1, size, used
    cdef int count = p[0] >> 4 & 3, element = 0
    cdef int found = PAYLOAD_KEY if p[0] & AV1_N else 0
    if p[0] & AV1_N and p[0] & AV1_Z:
        return PAYLOAD_MALFORMED
    while at < n:
        element += 1
        size = n - at
        if element != count:
            used = leb128(p + at, n - at, &size)
            at += used
            if used == 0 or size == 0 or size > n - at:
                return PAYLOAD_MALFORMED
        if element == 1 and p[0] & AV1_Z:
            add_layers(out, s.temporal, s.spatial)
        else:
            found |= av1_obu(s, out, p + at, size)
        at += size
    return found if element and (count == 0 or element == count) else PAYLOAD_MALFORMED


# ---- MPEG-TS -----------------------------------------------------------------------------------

cdef enum:  # ISO/IEC 13818-1, sections 2.4.3.2 to 2.4.3.5
    TS_PACKET = 188
    TS_SYNC = 0x47
    TS_NULL = 0x1FFF
    TS_PUSI = 0x40
    TS_ADAPTATION = 0x20
    TS_PAYLOAD = 0x10
    TS_DISCONTINUITY = 0x80
    TS_RANDOM_ACCESS = 0x40


cdef int ts_packet(payload_state *s, const uint8_t *p) noexcept nogil:
    """One of 188 bytes. Video shows by the stream_id of its PES packets, so that no table need be read."""
    cdef int pid = (p[1] & 31) << 8 | p[2], found = NEEDED
    cdef int at = 4, adaptation = 0
    if p[0] != TS_SYNC:
        return PAYLOAD_MALFORMED
    if p[1] & 0x80:  # transport_error_indicator: nothing in it can be relied on
        return NEEDED
    if p[3] & TS_ADAPTATION:
        at += 1 + p[4]
        if at > TS_PACKET:
            return PAYLOAD_MALFORMED
        adaptation = p[5] if p[4] else 0
    if adaptation & TS_DISCONTINUITY:
        found |= PAYLOAD_DISCONTINUITY
    if pid == 0:
        return found | PAYLOAD_PARAMETERS
    if pid == TS_NULL:
        return PAYLOAD_DISCARDABLE
    if p[1] & TS_PUSI and p[3] & TS_PAYLOAD and at + 4 <= TS_PACKET and p[at] == 0 and p[at + 1] == 0 \
            and p[at + 2] == 1 and p[at + 3] & 0xF0 == 0xE0:
        s.video = <uint16_t>pid
        s.key = adaptation & TS_RANDOM_ACCESS != 0
        found |= PAYLOAD_FIRST
    if pid == s.video and s.key:
        found |= PAYLOAD_KEY
    return found


cdef int mp2t(payload_state *s, const uint8_t *p, size_t n) noexcept nogil:
    """Frames share packets: one that ends where another starts is FIRST of that, and KEY if either is."""
    cdef size_t at = 0
    cdef int found = 0
    if n % TS_PACKET:
        return PAYLOAD_MALFORMED
    while at < n:
        found |= ts_packet(s, p + at)
        at += TS_PACKET
    return found


# ---- any --------------------------------------------------------------------------------------

cdef int format_read(int kind, payload_state *s, payload_info *out, const uint8_t *p, size_t n) noexcept nogil:
    cdef int found = 0
    if kind == PAYLOAD_H264:
        found = h264(out, p, n)
    elif kind == PAYLOAD_H265:
        found = h265(s, out, p, n)
    elif kind == PAYLOAD_VP8:
        found = vp8(out, p, n)
    elif kind == PAYLOAD_VP9:
        found = vp9(s, out, p, n)
    elif kind == PAYLOAD_AV1:
        found = av1(s, out, p, n)
    elif kind == PAYLOAD_MP2T:
        found = mp2t(s, p, n)
    if found & PAYLOAD_MALFORMED:
        out.temporal = out.spatial = PAYLOAD_NO_LAYER
        return PAYLOAD_MALFORMED
    return found & ~(NEEDED | PAYLOAD_DISCARDABLE) if found & NEEDED else found
