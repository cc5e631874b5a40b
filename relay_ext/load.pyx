# cython: boundscheck=False, wraparound=False, cdivision=True
# Bounds are safe: the arrays are as long as the lists of sockets or the batch that every loop here counts to.
"""The world around a node, for `relay bench`: encoders, receivers and a link that loses packets.

Each is a loop without the GIL, run in a thread of its own until `stop`. They are made to cost the node under test what
a network would, and no more: the receivers and the link sleep and then take what has come, so that the node's sends
wake nobody, as a network card's do not.
"""
from libc.errno cimport EINTR, errno
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from relay_ext.system cimport (
    EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLLIN, MSG_DONTWAIT, MSG_TRUNC, PR_SET_TIMERSLACK, atomic_int, atomic_load,
    atomic_store, close, epoll_create1, epoll_ctl, epoll_event, epoll_wait, htons, iovec, mmsghdr,
    monotonic_ns, nanosleep, prctl, recvmmsg, sendmmsg, timespec)

import os

cdef enum:
    BATCH = 64            # messages a call; a burst at most
    STREAMS = 1024        # sockets of a load at most
    HEADER = 12           # bytes of an RTP header
    PAYLOAD_TYPE = 96
    LATE = 10000000       # ns behind its schedule from which on a source no longer makes up for it
    NAP = 500000          # ns that receivers sleep
    LINK_NAP = 100000     # ns that the link sleeps: about what a network card gathers for before it interrupts
    DATAGRAM = 2048
    TIMER_SLACK = 1000    # ns


cdef inline void sleep_ns(int64_t ns) noexcept nogil:
    cdef timespec t
    t.tv_sec = <long>(ns // 1000000000)
    t.tv_nsec = <long>(ns % 1000000000)
    nanosleep(&t, NULL)


cdef class _Loop:
    """A loop that another thread can end."""
    cdef atomic_int stopping
    cdef tuple sockets  # kept open
    cdef int[1024] fds
    cdef int count

    def __cinit__(self, sockets, *_, **__):
        self.sockets = tuple(sockets)
        self.count = len(self.sockets)
        if not 1 <= self.count <= STREAMS:
            raise ValueError(f"{self.count} sockets, expected 1 to {STREAMS}")
        for i, sock in enumerate(self.sockets):
            self.fds[i] = sock.fileno()

    def stop(self):
        atomic_store(&self.stopping, 1)


# ---- encoders --------------------------------------------------------------------------------

cdef class Source(_Loop):
    cdef uint16_t[1024] seq
    cdef uint8_t[64][12] heads
    cdef uint8_t[2048] payload
    cdef iovec[64][2] iov
    cdef mmsghdr[64] messages
    cdef int burst
    cdef readonly uint64_t sent

    def __cinit__(self, sockets, *, int burst, int packet_bytes):
        cdef int i
        if not 1 <= burst <= BATCH:
            raise ValueError(f"a burst has 1 to {BATCH} packets, not {burst}")
        if not HEADER <= packet_bytes <= DATAGRAM:
            raise ValueError(f"a packet has {HEADER} to {DATAGRAM} bytes, not {packet_bytes}")
        self.burst = burst
        for i in range(burst):
            self.iov[i][0].iov_base = self.heads[i]
            self.iov[i][0].iov_len = HEADER
            self.iov[i][1].iov_base = self.payload
            self.iov[i][1].iov_len = packet_bytes - HEADER
            self.messages[i].msg_hdr.msg_iov = self.iov[i]
            self.messages[i].msg_hdr.msg_iovlen = 2

    def run(self, double packets_per_second, double seconds):
        cdef int64_t interval, span
        if not (packets_per_second > 0 and seconds > 0):
            raise ValueError("a rate and a time are above 0")
        interval = max(<int64_t>(1e9 * self.burst / packets_per_second), 1)
        span = <int64_t>(1e9 * seconds)
        with nogil:
            span = self.send_paced(interval, span)
        return span / 1e9

    cdef int64_t send_paced(self, int64_t interval, int64_t span) noexcept nogil:
        """Bursts of one stream after the other, `interval` ns apart; the ns that it took."""
        cdef int64_t start, now, due
        cdef int stream = 0
        prctl(PR_SET_TIMERSLACK, TIMER_SLACK, 0, 0, 0)
        start = due = now = monotonic_ns()
        while now - start < span and not atomic_load(&self.stopping):
            if due > now:
                sleep_ns(min(due - now, span))
            else:
                if now - due > LATE:
                    due = now
                self.send_burst(stream, <uint32_t>(now * 9 // 100000))
                stream = stream + 1 if stream + 1 < self.count else 0
                due += interval
            now = monotonic_ns()
        return now - start

    cdef void send_burst(self, int stream, uint32_t timestamp) noexcept nogil:
        """One frame, whose timestamp is on a clock of 90 kHz."""
        cdef int i, n
        cdef uint8_t *head
        for i in range(self.burst):
            head = self.heads[i]
            head[0] = 0x80
            head[1] = PAYLOAD_TYPE | (0x80 if i == self.burst - 1 else 0)
            put16(head + 2, self.seq[stream])
            put16(head + 4, <uint16_t>(timestamp >> 16))
            put16(head + 6, <uint16_t>timestamp)
            put16(head + 8, 0)
            put16(head + 10, <uint16_t>(stream + 1))
            self.seq[stream] += 1
        i = 0
        while i < self.burst:
            n = sendmmsg(self.fds[stream], &self.messages[i], self.burst - i, MSG_DONTWAIT)
            if n > 0:
                self.sent += n
                i += n
            elif errno != EINTR:  # refused: it was not offered, and its number is missing at the other end
                i += 1


cdef inline void put16(uint8_t *out, uint16_t value) noexcept nogil:
    value = htons(value)
    memcpy(out, &value, 2)


# ---- receivers -------------------------------------------------------------------------------

cdef class Sink(_Loop):
    cdef uint32_t packet_bytes
    cdef readonly uint64_t received
    cdef uint8_t[16] head
    cdef iovec vector
    cdef mmsghdr[64] messages

    def __cinit__(self, sockets, *, uint32_t packet_bytes):
        cdef int i
        self.packet_bytes = packet_bytes
        self.vector.iov_base = self.head
        self.vector.iov_len = sizeof(self.head)
        for i in range(BATCH):
            self.messages[i].msg_hdr.msg_iov = &self.vector
            self.messages[i].msg_hdr.msg_iovlen = 1

    def run(self):
        cdef int epoll = epoll_create1(EPOLL_CLOEXEC)
        cdef epoll_event event
        cdef int i
        if epoll < 0:
            raise OSError(errno, os.strerror(errno))
        memset(&event, 0, sizeof(event))
        event.events = EPOLLIN
        for i in range(self.count):
            event.data.u32 = i
            epoll_ctl(epoll, EPOLL_CTL_ADD, self.fds[i], &event)
        with nogil:
            self.take(epoll)
        close(epoll)

    cdef void take(self, int epoll) noexcept nogil:
        cdef epoll_event events[64]
        cdef int i, n
        while not atomic_load(&self.stopping):
            n = epoll_wait(epoll, events, BATCH, 0)
            for i in range(n):
                self.drain(self.fds[events[i].data.u32])
            if n < BATCH:
                sleep_ns(NAP)

    cdef void drain(self, int fd) noexcept nogil:
        cdef int i, n = BATCH
        while n == BATCH:
            # With MSG_TRUNC the kernel says how long a datagram was and copies what fits.
            n = recvmmsg(fd, self.messages, BATCH, MSG_DONTWAIT | MSG_TRUNC, NULL)
            for i in range(n):
                self.received += self.messages[i].msg_len == self.packet_bytes


# ---- a link ----------------------------------------------------------------------------------

cdef class Link(_Loop):
    cdef uint8_t *buffers
    cdef iovec[64] vectors
    cdef mmsghdr[64] messages
    cdef uint64_t state
    cdef uint64_t threshold
    cdef readonly uint64_t forwarded
    cdef readonly uint64_t lost

    def __cinit__(self, sockets, *, double loss, uint64_t seed):
        cdef int i
        if self.count != 2:
            raise ValueError("a link has two ends")
        if not 0 <= loss < 1:
            raise ValueError(f"loss is {loss}, expected 0 to below 1")
        self.state = seed * 2 + 1
        self.threshold = <uint64_t>(loss * 4294967296.0)
        self.buffers = <uint8_t *>calloc(BATCH, DATAGRAM)
        if self.buffers == NULL:
            raise MemoryError("no memory for the link's buffers")
        for i in range(BATCH):
            self.vectors[i].iov_base = self.buffers + i * DATAGRAM
            self.messages[i].msg_hdr.msg_iov = &self.vectors[i]
            self.messages[i].msg_hdr.msg_iovlen = 1

    def __dealloc__(self):
        free(self.buffers)

    def run(self):
        with nogil:
            while not atomic_load(&self.stopping):
                self.carry(self.fds[0], self.fds[1])
                self.carry(self.fds[1], self.fds[0])
                sleep_ns(LINK_NAP)

    cdef void carry(self, int source, int target) noexcept nogil:
        cdef int i, n = BATCH, kept, done, sent
        while n == BATCH and not atomic_load(&self.stopping):
            for i in range(BATCH):
                self.vectors[i].iov_len = DATAGRAM
            n = recvmmsg(source, self.messages, BATCH, MSG_DONTWAIT, NULL)
            kept = 0
            for i in range(n):
                if self.loses():
                    self.lost += 1
                    continue
                # The buffer of a lost packet changes places with one that is kept: all that is sent stands first.
                self.vectors[kept].iov_base, self.vectors[i].iov_base = \
                    self.vectors[i].iov_base, self.vectors[kept].iov_base
                self.vectors[kept].iov_len = self.messages[i].msg_len
                kept += 1
            done = 0
            while done < kept:
                sent = sendmmsg(target, &self.messages[done], kept - done, MSG_DONTWAIT)
                self.forwarded += max(sent, 0)
                done += max(sent, 1)

    cdef bint loses(self) noexcept nogil:
        # xorshift64*: the upper half of the product is the random number.
        self.state ^= self.state >> 12
        self.state ^= self.state << 25
        self.state ^= self.state >> 27
        return ((self.state * <uint64_t>2685821657736338717) >> 32) < self.threshold
