# cython: boundscheck=False, wraparound=False
# Arrays are indexed by shards below SHARDS.
"""Several packet planes as one: the queues between them, and one port for all of them."""
from libc.errno cimport errno
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.stdlib cimport free
from libc.string cimport memset

import os

from relay_ext.base cimport spsc_destroy, spsc_init, spsc_queue
from relay_ext.control cimport Plane
from relay_ext.peer cimport TYPE_SOURCE
from relay_ext.mailbox cimport MAIL_CAPACITY, SHARDS as _SHARDS, mail
from relay_ext.system cimport close

SHARDS_MAX = _SHARDS

cdef extern from "<stdlib.h>" nogil:
    void *aligned_alloc(size_t alignment, size_t n)

cdef extern from "<unistd.h>" nogil:
    int dup(int fd)

cdef extern from "<sys/socket.h>" nogil:
    int SOL_SOCKET
    int setsockopt(int fd, int level, int option, const void *value, unsigned int n)

cdef extern from "<asm/socket.h>" nogil:
    int SO_ATTACH_REUSEPORT_CBPF

cdef extern from "<linux/filter.h>" nogil:
    struct sock_filter:
        uint16_t code
        uint8_t jt
        uint8_t jf
        uint32_t k
    struct sock_fprog:
        unsigned short len
        sock_filter *filter
    int BPF_LD, BPF_B, BPF_ABS, BPF_JMP, BPF_JGE, BPF_K, BPF_ALU, BPF_AND, BPF_RET, BPF_A


cdef class Mailboxes:
    """The queues of a group of shards; the last of their planes takes it along."""
    cdef spsc_queue *queues
    cdef int count
    cdef int bells[16]

    def __cinit__(self, int shards):
        cdef int i
        for i in range(_SHARDS):
            self.bells[i] = -1
        self.queues = <spsc_queue *>aligned_alloc(64, shards * shards * sizeof(spsc_queue))
        if self.queues == NULL:
            raise MemoryError
        memset(self.queues, 0, shards * shards * sizeof(spsc_queue))
        self.count = shards * shards
        for i in range(self.count):
            if i // shards != i % shards and not spsc_init(&self.queues[i], MAIL_CAPACITY, sizeof(mail)):
                raise MemoryError

    def __dealloc__(self):
        cdef int i
        for i in range(self.count):
            spsc_destroy(&self.queues[i])
        free(self.queues)
        for i in range(_SHARDS):
            if self.bells[i] >= 0:
                close(self.bells[i])


def shard_of(uint32_t id):
    return id & (_SHARDS - 1)


def join(planes):
    cdef int n = len(planes)
    cdef int i, k
    cdef Plane plane, other
    cdef Mailboxes boxes
    if not 1 <= n <= _SHARDS or n & (n - 1) or [p.shard for p in planes] != list(range(n)):
        raise ValueError(f"shards are 1, 2, 4 to {_SHARDS}, each plane in its place")
    if n == 1:
        return
    boxes = Mailboxes(n)
    for i in range(n):
        plane = planes[i]
        if plane.wake_fd >= 0:
            boxes.bells[i] = dup(plane.wake_fd)  # of our own: it stays when the engine has closed its files
            if boxes.bells[i] < 0:
                raise OSError(errno, os.strerror(errno))
    for i in range(n):
        plane = planes[i]
        if plane.threaded or plane.mailboxes is not None:
            raise RuntimeError("planes are joined once, before their engines run")
    for i in range(n):
        plane = planes[i]
        plane.mailboxes = boxes
        plane.p.mail.shards = n
        for k in range(n):
            plane.p.mail.bells[k] = boxes.bells[k]
            if k != i:
                plane.p.mail.outbox[k] = &boxes.queues[i * n + k]
                plane.p.mail.inbox[k] = &boxes.queues[k * n + i]


cdef inline sock_filter step(int code, uint8_t jt, uint8_t jf, uint32_t k) noexcept:
    return sock_filter(<uint16_t>code, jt, jf, k)


def steer(int fd, uint32_t shards):
    # A load beyond the end of a datagram ends the program with 0, the first socket.
    cdef sock_filter program[6]
    cdef sock_fprog attached
    program[0] = step(BPF_LD | BPF_B | BPF_ABS, 0, 0, 0)            # type
    program[1] = step(BPF_JMP | BPF_JGE | BPF_K, 0, 3, TYPE_SOURCE)
    program[2] = step(BPF_LD | BPF_B | BPF_ABS, 0, 0, 7)            # last byte of the receiver index
    program[3] = step(BPF_ALU | BPF_AND | BPF_K, 0, 0, shards - 1)
    program[4] = step(BPF_RET | BPF_A, 0, 0, 0)
    program[5] = step(BPF_RET | BPF_K, 0, 0, 0)
    attached.len = 6
    attached.filter = program
    if setsockopt(fd, SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, &attached, sizeof(attached)) < 0:
        raise OSError(errno, os.strerror(errno))
