# cython: boundscheck=False, wraparound=False
# Nothing is indexed but bytes of a known length.
"""Addresses as Python writes them, (host, port), to and from those of the packet plane."""
from libc.stdint cimport uint8_t
from libc.string cimport memcpy, memset

import socket


cdef int parse_address(tuple address, addr *out) except -1:
    cdef bytes packed
    host, port = address[0], address[1]
    if not 0 <= port <= 65535:
        raise ValueError(f"port {port} is not between 0 and 65535")
    host, _, zone = host.partition("%")
    if ":" in host:
        packed = socket.inet_pton(socket.AF_INET6, host)
    else:
        packed = b"\0" * 10 + b"\xff\xff" + socket.inet_pton(socket.AF_INET, host)
    memset(out, 0, sizeof(addr))
    memcpy(out.ip, <const uint8_t *>packed, 16)
    out.port = port
    if zone:
        out.scope = int(zone) if zone.isdigit() else socket.if_nametoindex(zone)
    return 0


cdef tuple format_address(const addr *a):
    cdef bytes ip = a.ip[:16]
    if ip[:12] == b"\0" * 10 + b"\xff\xff":
        return (socket.inet_ntop(socket.AF_INET, ip[12:]), a.port)
    host = socket.inet_ntop(socket.AF_INET6, ip)
    return (f"{host}%{a.scope}" if a.scope else host, a.port)
