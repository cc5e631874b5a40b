"""Bytes to objects and back: RTCP, hop control messages, SDP."""
