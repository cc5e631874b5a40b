# cython: boundscheck=False, wraparound=False, cdivision=True
# Bounds are safe: port numbers are checked where they enter (Engine.add_port, `queue_groups`), packet and
# group indices stay below TX_CAPACITY because tx_push refuses more, message indices below the batch sizes.
"""UDP sockets in batches: what the kernel has to offer between a socket and the packet plane.

Receiving takes up to RX_BATCH messages a call, each of which may hold many datagrams that the kernel merged
(UDP_GRO). Sending first brings together what goes from one port to one destination, in order, so that runs of
equal size leave as one message that the kernel or the NIC cuts up (UDP_SEGMENT): a fan-out fills the queue
with destinations interleaved, and neighbours are what makes it cheap.

Nothing is allocated after udp_new, and nothing is tried twice: what a socket does not take is dropped and
counted.
"""
from libc.errno cimport (EACCES, EAGAIN, ECONNREFUSED, EHOSTUNREACH, EINTR, EINVAL, EIO, EMSGSIZE, ENETDOWN,
                         ENETUNREACH, ENOBUFS, ENOMEM, EPERM, errno)
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from relay_ext.base cimport TX_CAPACITY, addr, addr_equal, tx_clear, tx_packet, tx_queue
from relay_ext.plane cimport plane, plane_receive
from relay_ext.slab cimport SLAB_DATA
from relay_ext.system cimport (
    AF_INET, AF_INET6, CMSG_DATA, CMSG_FIRSTHDR, CMSG_LEN, CMSG_SPACE, MAP_ANONYMOUS, MAP_FAILED,
    MAP_NORESERVE, MAP_PRIVATE, MSG_DONTWAIT, MSG_TRUNC, PROT_READ, PROT_WRITE, SOL_UDP, UDP_GRO, UDP_SEGMENT,
    cmsghdr, htons, iovec, mmap, mmsghdr, monotonic_ns, msghdr, munmap, ntohs, recvmmsg, sendmmsg)

cdef enum:
    DEAD_AFTER = 64  # receive errors without a datagram among them after which a port is let go

NAMES = (
    "rx_datagrams", "rx_bytes", "rx_batches", "rx_gro_datagrams", "rx_truncated", "rx_oversized", "rx_errors",
    "rx_dead_ports", "tx_datagrams", "tx_bytes", "tx_batches", "tx_messages", "tx_gso_datagrams",
    "tx_gso_fallbacks", "tx_would_block", "tx_unreachable", "tx_forbidden", "tx_refused", "tx_too_long",
    "tx_no_buffers", "tx_no_port", "tx_wrong_family", "tx_other_errors", "wakeups",
)
assert len(NAMES) == UDP_COUNTERS


cdef udp_io *udp_new(const uint64_t *hash_keys) noexcept nogil:
    cdef udp_io *io = <udp_io *>calloc(1, sizeof(udp_io))
    cdef int i
    cdef cmsghdr *header
    if io == NULL:
        return NULL
    io.rx_buffers = <uint8_t *>mmap(NULL, <size_t>RX_BATCH * RX_STRIDE, PROT_READ | PROT_WRITE,
                                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
    if io.rx_buffers == <uint8_t *>MAP_FAILED:
        free(io)
        return NULL
    for i in range(UDP_PORTS):
        io.ports[i].fd = -1
        io.ports[i].first_group = UDP_NONE
    for i in range(4):
        io.hash_keys[i] = hash_keys[i] | 1
    for i in range(RX_BATCH):
        io.rx_iovecs[i].iov_base = io.rx_buffers + <size_t>i * RX_STRIDE
        io.rx_iovecs[i].iov_len = 65536
        io.rx_messages[i].msg_hdr.msg_iov = &io.rx_iovecs[i]
        io.rx_messages[i].msg_hdr.msg_iovlen = 1
        io.rx_messages[i].msg_hdr.msg_name = &io.rx_names[i]
        io.rx_messages[i].msg_hdr.msg_control = io.rx_control[i]
        rearm(&io.rx_messages[i].msg_hdr)
    for i in range(TX_BATCH):
        header = <cmsghdr *>io.tx_control[i]
        header.cmsg_level = SOL_UDP
        header.cmsg_type = UDP_SEGMENT
        header.cmsg_len = CMSG_LEN(sizeof(uint16_t))
        io.tx_messages[i].msg_hdr.msg_name = &io.tx_names[i]
    return io


cdef void udp_free(udp_io *io) noexcept nogil:
    if io != NULL:
        munmap(io.rx_buffers, <size_t>RX_BATCH * RX_STRIDE)
        free(io)


# ---- receiving -------------------------------------------------------------------------------

cdef inline void rearm(msghdr *m) noexcept nogil:
    # The kernel has overwritten these with the lengths that it used.
    m.msg_namelen = sizeof(sockaddr_any)
    m.msg_controllen = RX_CONTROL


cdef inline void source_of(const sockaddr_any *name, addr *out) noexcept nogil:
    memset(out, 0, sizeof(addr))
    if name.v4.sin_family == AF_INET:
        out.ip[10] = 0xFF
        out.ip[11] = 0xFF
        memcpy(&out.ip[12], &name.v4.sin_addr, 4)
        out.port = ntohs(name.v4.sin_port)
        return
    memcpy(out.ip, name.v6.sin6_addr.s6_addr, 16)
    out.port = ntohs(name.v6.sin6_port)
    if out.ip[0] == 0xFE and out.ip[1] & 0xC0 == 0x80:
        out.scope = name.v6.sin6_scope_id


cdef inline size_t segment_size(msghdr *m, size_t n) noexcept nogil:
    # What the kernel merged is cut at the size that it says; without a word from it this is one datagram.
    cdef cmsghdr *header = CMSG_FIRSTHDR(m)
    cdef int size = 0
    if header != NULL and header.cmsg_level == SOL_UDP and header.cmsg_type == UDP_GRO:
        memcpy(&size, CMSG_DATA(header), sizeof(int))
    return <size_t>size if 0 < size < <int>n else n


cdef void open_message(udp_io *io, plane *p, uint16_t port, int64_t now, mmsghdr *m) noexcept nogil:
    cdef const uint8_t *data = <const uint8_t *>m.msg_hdr.msg_iov.iov_base
    cdef size_t n = m.msg_len
    cdef size_t step, size
    cdef addr source
    if m.msg_hdr.msg_flags & MSG_TRUNC:
        io.counters[RX_TRUNCATED] += 1
        return
    source_of(<const sockaddr_any *>m.msg_hdr.msg_name, &source)
    step = segment_size(&m.msg_hdr, n)
    io.counters[RX_BYTES] += n
    if step < n:
        io.counters[RX_GRO_DATAGRAMS] += (n + step - 1) // step
    while True:
        size = step if step < n else n
        io.counters[RX_DATAGRAMS] += 1
        if size > SLAB_DATA:
            io.counters[RX_OVERSIZED] += 1
        else:
            plane_receive(p, now, port, &source, data, size)
            if p.tx.count > TX_CAPACITY // 2:
                udp_flush(io, p)
        if n == size:
            return
        data += size
        n -= size


cdef int64_t udp_receive(udp_io *io, plane *p, uint16_t port) noexcept nogil:
    """One port's share of a turn; the messages taken, or -1 when the socket answers nothing but errors."""
    cdef udp_port *u = &io.ports[port]
    cdef int64_t now, total = 0
    cdef int turn, i, n
    for turn in range(RX_BATCHES):
        n = recvmmsg(u.fd, io.rx_messages, RX_BATCH, MSG_DONTWAIT, NULL)
        if n < 0:
            if errno == EAGAIN or errno == EINTR:
                break
            # An error that was pending on the socket (ICMP) is gone now that it was read: go on.
            io.counters[RX_ERRORS] += 1
            u.failures += 1
            if u.failures == DEAD_AFTER:
                io.counters[RX_DEAD_PORTS] += 1
                return -1
            continue
        io.counters[RX_BATCH_CALLS] += 1
        u.failures = 0
        now = monotonic_ns()
        for i in range(n):
            open_message(io, p, port, now, &io.rx_messages[i])
            rearm(&io.rx_messages[i].msg_hdr)
        total += n
        if n < RX_BATCH:
            break
    return total


# ---- sending ---------------------------------------------------------------------------------

cdef inline uint32_t bucket_of(const udp_io *io, const tx_packet *p) noexcept nogil:
    # Multiply-shift with secret odd factors: who chooses the addresses cannot choose the collisions.
    cdef uint64_t words[3]
    memcpy(words, &p.to, sizeof(addr))
    return <uint32_t>((words[0] * io.hash_keys[0] + words[1] * io.hash_keys[1] + words[2] * io.hash_keys[2]
                       + p.port * io.hash_keys[3]) >> 52)


cdef inline bint same_way(const tx_packet *a, const tx_packet *b) noexcept nogil:
    return a.port == b.port and addr_equal(&a.to, &b.to)


cdef uint16_t group_of(udp_io *io, const tx_queue *q, const tx_packet *p) noexcept nogil:
    """The group of packets that go the same way; a new and empty one where `p` is the first of them."""
    cdef uint32_t i = bucket_of(io, p)
    cdef uint16_t g
    cdef udp_port *u
    while io.buckets[i].flush == io.flush:
        g = io.buckets[i].group
        if same_way(p, &q.packets[io.group[g].first]):
            return g
        i = (i + 1) & (TX_BUCKETS - 1)
    g = io.groups
    io.groups += 1
    io.buckets[i].flush = io.flush
    io.buckets[i].group = g
    io.group[g].first = UDP_NONE
    io.group[g].next_group = UDP_NONE
    u = &io.ports[p.port]
    if u.first_group == UDP_NONE:
        u.first_group = g
        io.active[io.active_count] = p.port
        io.active_count += 1
    else:
        io.group[u.last_group].next_group = g
    u.last_group = g
    return g


cdef void queue_groups(udp_io *io, tx_queue *q) noexcept nogil:
    """Chains the packets of the queue by port and destination; the order within a destination stays."""
    cdef uint32_t i
    cdef uint16_t g = UDP_NONE
    cdef tx_packet *p
    io.flush += 1
    if io.flush == 0:  # after 2^32 flushes an old stamp could look like this one
        memset(io.buckets, 0, sizeof(io.buckets))
        io.flush = 1
    io.groups = 0
    io.active_count = 0
    for i in range(q.count):
        p = &q.packets[i]
        if p.port >= UDP_PORTS or io.ports[p.port].fd < 0:
            io.counters[TX_NO_PORT] += 1
            continue
        if g == UDP_NONE or not same_way(p, &q.packets[io.group[g].first]):
            g = group_of(io, q, p)
        if io.group[g].first == UDP_NONE:
            io.group[g].first = <uint16_t>i
        else:
            io.next_packet[io.group[g].last] = <uint16_t>i
        io.group[g].last = <uint16_t>i
        io.next_packet[i] = UDP_NONE


cdef uint16_t chain_groups(udp_io *io, udp_port *u) noexcept nogil:
    """Joins the groups of a port into one chain of packets; its first. Leaves the port without groups."""
    cdef uint16_t g = u.first_group
    cdef uint16_t first = io.group[g].first
    while io.group[g].next_group != UDP_NONE:
        io.next_packet[io.group[g].last] = io.group[io.group[g].next_group].first
        g = io.group[g].next_group
    u.first_group = UDP_NONE
    return first


cdef inline uint32_t name_of(const udp_port *u, const addr *to, sockaddr_any *out) noexcept nogil:
    """Length of the socket address; 0 when the socket cannot reach that family."""
    cdef bint mapped = (<const uint64_t *>to.ip)[0] == 0 and (<const uint16_t *>to.ip)[4] == 0 \
        and (<const uint16_t *>to.ip)[5] == 0xFFFF
    memset(out, 0, sizeof(sockaddr_any))
    if u.v6:
        out.v6.sin6_family = AF_INET6
        out.v6.sin6_port = htons(to.port)
        memcpy(out.v6.sin6_addr.s6_addr, to.ip, 16)
        out.v6.sin6_scope_id = to.scope
        return sizeof(out.v6)
    if not mapped:
        return 0
    out.v4.sin_family = AF_INET
    out.v4.sin_port = htons(to.port)
    memcpy(&out.v4.sin_addr, &to.ip[12], 4)
    return sizeof(out.v4)


cdef inline size_t add_iovecs(msghdr *m, tx_packet *p) noexcept nogil:
    """Appends one datagram, head and body; its bytes."""
    cdef iovec *v = m.msg_iov + m.msg_iovlen
    if p.head_len:
        v.iov_base = p.head
        v.iov_len = p.head_len
        v += 1
        m.msg_iovlen += 1
    v.iov_base = p.body.data + p.off
    v.iov_len = p.len
    m.msg_iovlen += 1
    return <size_t>p.head_len + p.len


cdef uint16_t fill_message(udp_io *io, tx_queue *q, int n, uint16_t at, bint gso) noexcept nogil:
    """Message `n` from the run of packets that starts at `at`; the packet after the run.

    A run goes to one destination in pieces of one size, of which the last may be shorter.
    """
    cdef msghdr *m = &io.tx_messages[n].msg_hdr
    cdef tx_packet *first = &q.packets[at]
    cdef tx_packet *p
    cdef size_t size, total, more
    cdef uint16_t step
    m.msg_iovlen = 0
    m.msg_control = NULL
    m.msg_controllen = 0
    io.tx_first[n] = at
    io.tx_segments[n] = 1
    size = add_iovecs(m, first)
    total = more = size
    at = io.next_packet[at]
    while gso and at != UDP_NONE and more == size and size > 0 and io.tx_segments[n] < GSO_SEGMENTS:
        p = &q.packets[at]
        more = <size_t>p.head_len + p.len
        if more > size or more == 0 or total + more > GSO_BYTES or not same_way(p, first):
            break
        total += add_iovecs(m, p)
        io.tx_segments[n] += 1
        at = io.next_packet[at]
    if io.tx_segments[n] > 1:
        step = <uint16_t>size
        memcpy(CMSG_DATA(<cmsghdr *>io.tx_control[n]), &step, sizeof(step))
        m.msg_control = io.tx_control[n]
        m.msg_controllen = CMSG_SPACE(sizeof(uint16_t))
    return at


cdef int fill_batch(udp_io *io, tx_queue *q, const udp_port *u, uint16_t *at, bint gso) noexcept nogil:
    """As many messages as fit from the chain that starts at `at`, which moves on; their number."""
    cdef int n = 0
    cdef size_t iovecs = 0
    cdef msghdr *m
    while at[0] != UDP_NONE and n < TX_BATCH and iovecs + 2 * GSO_SEGMENTS <= TX_IOVECS:
        m = &io.tx_messages[n].msg_hdr
        m.msg_namelen = name_of(u, &q.packets[at[0]].to, &io.tx_names[n])
        if m.msg_namelen == 0:
            io.counters[TX_WRONG_FAMILY] += 1
            at[0] = io.next_packet[at[0]]
            continue
        m.msg_iov = &io.tx_iovecs[iovecs]
        at[0] = fill_message(io, q, n, at[0], gso)
        iovecs += m.msg_iovlen
        n += 1
    return n


cdef void count_sent(udp_io *io, int start, int n) noexcept nogil:
    cdef int i
    io.counters[TX_BATCH_CALLS] += 1
    io.counters[TX_MESSAGES] += n
    for i in range(start, start + n):
        io.counters[TX_DATAGRAMS] += io.tx_segments[i]
        io.counters[TX_BYTES] += io.tx_messages[i].msg_len
        if io.tx_segments[i] > 1:
            io.counters[TX_GSO_DATAGRAMS] += io.tx_segments[i]


cdef int reason(int error) noexcept nogil:
    if error == ENETUNREACH or error == EHOSTUNREACH or error == ENETDOWN:
        return TX_UNREACHABLE
    if error == EPERM or error == EACCES:
        return TX_FORBIDDEN
    if error == ECONNREFUSED:
        return TX_REFUSED
    if error == EMSGSIZE:
        return TX_TOO_LONG
    if error == ENOBUFS or error == ENOMEM:
        return TX_NO_BUFFERS
    return TX_OTHER_ERRORS


cdef void flush_port(udp_io *io, tx_queue *q, udp_port *u) noexcept nogil:
    cdef uint16_t at = chain_groups(io, u)
    cdef bint gso = u.gso
    cdef int n, done, sent, error
    while at != UDP_NONE:
        n = fill_batch(io, q, u, &at, gso)
        done = 0
        while done < n:
            sent = sendmmsg(u.fd, &io.tx_messages[done], n - done, MSG_DONTWAIT)
            if sent > 0:
                count_sent(io, done, sent)
                done += sent
                continue
            error = errno
            if error == EINTR:
                continue
            if error == EAGAIN:
                drop_rest(io, done, n, at)
                return
            if io.tx_segments[done] > 1 and (error == EIO or error == EINVAL or error == EMSGSIZE):
                # EMSGSIZE is about one destination's path and holds for this flush; the others mean that the
                # kernel or the device cannot do it at all.
                gso = False
                if error != EMSGSIZE:
                    u.gso = False
                io.counters[TX_GSO_FALLBACKS] += 1
                at = io.tx_first[done]
                break
            io.counters[reason(error)] += io.tx_segments[done]
            done += 1


cdef void drop_rest(udp_io *io, int done, int n, uint16_t at) noexcept nogil:
    """The socket's buffer is full. What is left of this port is late already; waiting holds up the others."""
    cdef int i
    for i in range(done, n):
        io.counters[TX_WOULD_BLOCK] += io.tx_segments[i]
    while at != UDP_NONE:
        io.counters[TX_WOULD_BLOCK] += 1
        at = io.next_packet[at]


cdef void udp_flush(udp_io *io, plane *p) noexcept nogil:
    """Sends what the plane has queued, and empties the queue whatever became of it."""
    cdef int i
    if p.tx.count == 0:
        return
    queue_groups(io, &p.tx)
    for i in range(io.active_count):
        flush_port(io, &p.tx, &io.ports[io.active[i]])
    tx_clear(&p.tx, p.pool)
