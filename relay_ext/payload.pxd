# What an RTP packet is: frames joined from what payload formats say, timestamps and markers.
#
# A frame is what one RTP timestamp stands for: an access unit, a picture with all its spatial layers, a temporal
# unit. A transport stream's frames begin where its video's do.
from libc.stdint cimport uint8_t

from relay_ext.formats cimport payload_info, payload_state
from relay_ext.rtp cimport rtp_header

# `packet` is one that rtp_parse() took, and `h` what it said. Fills `out`; `s` is the track's.
cdef void payload_classify(int kind, payload_state *s, const uint8_t *packet, const rtp_header *h,
                           payload_info *out) noexcept nogil
