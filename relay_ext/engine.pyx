# cython: boundscheck=False, wraparound=False, cdivision=True
# Bounds are safe: the one array indexed here is `ports`, by numbers that add_port and remove_port checked.
"""The packet plane's thread: waits for packets, deadlines and commands, and lets the plane act on them.

A turn: wait until a socket is readable, Python has woken us or the plane's next deadline has come; apply
Python's commands; hand the plane what has been received, a bounded share a port; let it run what is due; send
what it has queued; tell Python once if there are events for it. The thread runs without the GIL from start to
stop.

When packets come so evenly that they wake the thread twice or more in `coalesce_us`, it sleeps for so long
after a turn that found some and then takes what has come: that sleep bounds the delay it adds, and saves most
of the wake-ups. Bursts come together by themselves.
"""
import os
import socket
import sys
import threading
import time
from contextlib import suppress

from libc.errno cimport EINTR, ENOSYS, errno
from libc.stdint cimport INT64_MAX, int64_t, uint16_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from relay_ext.base cimport TX_CAPACITY, command, spsc_consume, spsc_peek
from relay_ext.commands cimport plane_apply
from relay_ext.control cimport Plane
from relay_ext.mailbox cimport mail_announce
from relay_ext.plane cimport plane, plane_poll, plane_wake
from relay_ext.system cimport (
    CLOCK_MONOTONIC, EFD_CLOEXEC, EFD_NONBLOCK, EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLLIN,
    PR_SET_TIMERSLACK, SIG_BLOCK, atomic_int, atomic_load, atomic_store, close, epoll_create1, epoll_ctl,
    epoll_event, epoll_pwait2, epoll_wait, eventfd, monotonic_ns, nanosleep, prctl, pthread_self,
    pthread_setname_np, pthread_sigmask, read, sem_clockwait, sem_destroy, sem_init, sem_post, sem_t,
    sigfillset, sigset_t, timespec, write)
from relay_ext.udp cimport (
    RX_DATAGRAMS, UDP_COUNTERS, UDP_PORTS, WAKEUPS, udp_flush, udp_free, udp_io, udp_new, udp_port,
    udp_receive)
from relay_ext.udp import NAMES

cdef enum:
    WAKE = 0xFFFFFFFF     # epoll's name for the eventfd that Python writes to
    EPOLL_BATCH = 64
    COMMANDS_A_TURN = 1024      # as many as the plane's queue holds: a change of ports comes after them
    RATE_WINDOW = 10000000      # ns over which wake-ups are counted
    BUSY_TIME = 100000000       # ns of coalescing, after which it looks anew at how packets come without it
    COALESCE_WAKEUPS = 2        # as many as a sleep costs: with fewer to save it would be a loss
    COALESCE_MAX = 1000         # us: more than the delay that a node may add at the 99th percentile
    TIMER_SLACK = 1000          # ns; the kernel's default of 50 us would show in pacing
    REPLY_NS = 2000000000       # a living thread answers within a turn

# From linux/udp.h and asm-generic/socket.h, where Python's socket module has no name for them.
SO_SNDBUFFORCE = 32
SO_RCVBUFFORCE = 33
SO_MEMINFO = 55
MEMINFO_DROPS = 8
MTU_DISCOVER = {socket.AF_INET: (socket.IPPROTO_IP, 10), socket.AF_INET6: (socket.IPPROTO_IPV6, 23)}
PMTUDISC_PROBE = 3
SOL_UDP, UDP_SEGMENT, UDP_GRO = 17, 103, 104
SOCKET_BUFFER = 4 << 20  # bytes: 1/3 s at 100 Mb/s; the kernel charges about 2 KB for each datagram of 1200


ctypedef struct port_change:
    uint16_t port
    int fd       # -1: take it away
    bint v6
    bint gso
    int error    # errno of the answer

ctypedef struct engine:
    udp_io *io
    plane *p
    int epoll
    int wake         # eventfd, Python to engine
    int events       # eventfd, engine to Python
    int64_t coalesce # ns, 0: never
    bint no_pwait2   # the kernel is older than 5.11
    bint busy        # packets come one by one, and fast
    bint taken       # the last turn found datagrams
    int64_t window_start
    uint64_t window_wakeups
    int error        # errno that ended the loop
    atomic_int stopping
    atomic_int running
    atomic_int asked     # `change` waits to be made
    port_change change
    sem_t answered


cdef int change_port(engine *e) noexcept nogil:
    """Makes the change asked for, between two turns; 0 or an errno."""
    cdef port_change *change = &e.change
    cdef udp_port *u = &e.io.ports[change.port]
    cdef epoll_event event
    if change.fd < 0:
        epoll_ctl(e.epoll, EPOLL_CTL_DEL, u.fd, NULL)
        u.fd = -1
        return 0
    memset(&event, 0, sizeof(event))
    event.events = EPOLLIN
    event.data.u32 = change.port
    if epoll_ctl(e.epoll, EPOLL_CTL_ADD, change.fd, &event) < 0:
        return errno
    u.fd = change.fd
    u.v6 = change.v6
    u.gso = change.gso
    u.failures = 0
    return 0


cdef void heed_python(engine *e, int64_t now) noexcept nogil:
    """Commands and changes of ports that have come since the last turn."""
    cdef command *c
    cdef int i
    for i in range(COMMANDS_A_TURN):
        c = <command *>spsc_peek(&e.p.queues.commands)
        if c == NULL:
            break
        plane_apply(e.p, now, c)
        spsc_consume(&e.p.queues.commands)
        if e.p.tx.count > TX_CAPACITY // 2:
            udp_flush(e.io, e.p)
    if atomic_load(&e.asked):
        e.change.error = change_port(e)
        atomic_store(&e.asked, 0)
        sem_post(&e.answered)


cdef inline timespec span(int64_t ns) noexcept nogil:
    cdef timespec t
    t.tv_sec = <long>(ns // 1000000000)
    t.tv_nsec = <long>(ns % 1000000000)
    return t


cdef int wait(engine *e, epoll_event *events, int64_t deadline, bint pending) noexcept nogil:
    """Sleeps until there is something to do; what epoll says. Timers never end early, so this cannot spin."""
    cdef timespec t
    cdef int n
    cdef int64_t left = INT64_MAX
    if deadline != INT64_MAX:
        left = deadline - monotonic_ns()
        if left < 0:
            left = 0
    if pending:
        left = 0
    elif e.busy and e.taken:
        t = span(e.coalesce if e.coalesce < left else left)
        nanosleep(&t, NULL)
        left = 0
    if left == 0:
        return epoll_wait(e.epoll, events, EPOLL_BATCH, 0)
    if left == INT64_MAX:
        return epoll_wait(e.epoll, events, EPOLL_BATCH, -1)
    if not e.no_pwait2:
        t = span(left)
        n = epoll_pwait2(e.epoll, events, EPOLL_BATCH, &t, NULL)
        if n >= 0 or errno != ENOSYS:
            return n
        e.no_pwait2 = True
    return epoll_wait(e.epoll, events, EPOLL_BATCH, <int>((left + 999999) // 1000000))


cdef void judge_load(engine *e, int64_t now) noexcept nogil:
    cdef uint64_t wakeups = e.io.counters[WAKEUPS]
    if e.coalesce == 0 or now - e.window_start < (BUSY_TIME if e.busy else RATE_WINDOW):
        return
    e.busy = not e.busy and (<int64_t>(wakeups - e.window_wakeups) * e.coalesce
                             >= COALESCE_WAKEUPS * (now - e.window_start))
    e.window_wakeups = wakeups
    e.window_start = now


cdef void tell_python(engine *e) noexcept nogil:
    cdef uint64_t one = 1
    e.p.events_pending = False
    write(e.events, &one, sizeof(one))  # fails only when the counter is full, and then it is readable anyway


cdef void receive_ready(engine *e, epoll_event *events, int n) noexcept nogil:
    cdef uint64_t ignored
    cdef int i
    cdef uint16_t port
    for i in range(n):
        if atomic_load(&e.stopping):
            return
        if events[i].data.u32 == WAKE:
            read(e.wake, &ignored, sizeof(ignored))
            continue
        port = <uint16_t>events[i].data.u32
        if e.io.ports[port].fd < 0:
            continue  # taken away earlier in this turn
        if udp_receive(e.io, e.p, port) < 0:
            epoll_ctl(e.epoll, EPOLL_CTL_DEL, e.io.ports[port].fd, NULL)


cdef void run(engine *e) noexcept nogil:
    cdef epoll_event events[64]
    cdef int64_t now, deadline = 0
    cdef uint64_t before
    cdef int n
    while not atomic_load(&e.stopping):
        n = wait(e, events, deadline, spsc_peek(&e.p.queues.commands) != NULL)
        if n < 0 and errno != EINTR:
            e.error = errno
            return
        e.io.counters[WAKEUPS] += 1
        now = monotonic_ns()
        plane_wake(e.p, now)
        heed_python(e, now)
        before = e.io.counters[RX_DATAGRAMS]
        receive_ready(e, events, n)
        e.taken = e.io.counters[RX_DATAGRAMS] != before
        now = monotonic_ns()
        deadline = plane_poll(e.p, now)
        if e.p.mail.unannounced:
            mail_announce(&e.p.mail)
        udp_flush(e.io, e.p)
        judge_load(e, now)
        if e.p.events_pending:
            tell_python(e)


cdef void enter(engine *e) noexcept nogil:
    """What the thread does, from its first instruction to its last."""
    cdef sigset_t all_signals
    pthread_setname_np(pthread_self(), "relay-engine")
    sigfillset(&all_signals)
    pthread_sigmask(SIG_BLOCK, &all_signals, NULL)  # they are the main thread's
    prctl(PR_SET_TIMERSLACK, TIMER_SLACK, 0, 0, 0)
    e.window_start = monotonic_ns()
    run(e)
    atomic_store(&e.running, 0)
    tell_python(e)


cdef int open_files(engine *e) noexcept nogil:
    """0, or an errno."""
    cdef epoll_event event
    e.epoll = epoll_create1(EPOLL_CLOEXEC)
    e.wake = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)
    e.events = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)
    if e.epoll < 0 or e.wake < 0 or e.events < 0:
        return errno
    memset(&event, 0, sizeof(event))
    event.events = EPOLLIN
    event.data.u32 = WAKE
    return errno if epoll_ctl(e.epoll, EPOLL_CTL_ADD, e.wake, &event) < 0 else 0


cdef inline void close_file(int *fd) noexcept nogil:
    if fd[0] >= 0:
        close(fd[0])
    fd[0] = -1


cdef void close_files(engine *e) noexcept nogil:
    close_file(&e.epoll)
    close_file(&e.wake)
    close_file(&e.events)


cdef class Engine:
    """The thread that runs a Plane on UDP sockets. `pause` ends it, and it may be started again; `stop` ends it for
    good and releases what it holds.

    Ports may be added and taken away at any time, from any Python thread. Commands that were given to the
    plane before `stop` are carried out.
    """
    cdef engine *e
    cdef Plane plane
    cdef object lock, thread, sockets, cpu_clock
    cdef bint gro, gso
    cdef uint64_t old_drops

    def __cinit__(self, Plane plane not None, *, bint gro=True, bint gso=True, int coalesce_us=100):
        cdef uint64_t keys[4]
        cdef int i, error
        if not 0 <= coalesce_us <= COALESCE_MAX:
            raise ValueError(f"coalesce_us is {coalesce_us}, expected 0 (never) to {COALESCE_MAX}")
        for i in range(4):
            keys[i] = int.from_bytes(os.urandom(8), "little")
        self.plane = plane
        self.lock = threading.Lock()
        self.sockets = {}
        self.gro = gro
        self.gso = gso
        self.e = <engine *>calloc(1, sizeof(engine))
        if self.e == NULL:
            raise MemoryError("no memory for the engine")
        self.e.epoll = self.e.wake = self.e.events = -1
        sem_init(&self.e.answered, 0, 0)
        self.e.p = plane.p
        self.e.coalesce = <int64_t>coalesce_us * 1000
        self.e.io = udp_new(keys)
        if self.e.io == NULL:
            raise MemoryError("no memory for the engine's buffers")
        error = open_files(self.e)
        if error:
            raise OSError(error, os.strerror(error))
        plane.wake_fd = self.e.wake

    def __dealloc__(self):
        # The thread holds a reference to self, so it has ended.
        if self.e != NULL:
            close_files(self.e)
            sem_destroy(&self.e.answered)
            udp_free(self.e.io)
            free(self.e)

    @property
    def event_fd(self):
        return self.e.events

    @property
    def alive(self):
        return bool(atomic_load(&self.e.running))

    @property
    def error(self):
        return os.strerror(self.e.error) if self.e.error else None

    @property
    def cpu_ns(self):
        if self.cpu_clock is None or not self.alive:
            return None
        try:
            return time.clock_gettime_ns(self.cpu_clock)
        except OSError:  # the thread has just ended
            return None

    def start(self):
        with self.lock:
            if self.thread is not None or self.e.events < 0:
                raise RuntimeError("an engine that runs, or was stopped, cannot be started")
            self.plane.threaded = True
            atomic_store(&self.e.stopping, 0)
            atomic_store(&self.e.running, 1)
            self.thread = threading.Thread(target=self._enter, name="relay-engine", daemon=True)
            self.thread.start()

    def _enter(self):
        self.cpu_clock = time.pthread_getcpuclockid(threading.get_ident())
        with nogil:
            enter(self.e)

    def stop(self):
        with self.lock:
            if self.e.events < 0:
                return
            self.halt()
            self.plane.wake_fd = -1
            for port in list(self.sockets):
                self.forget(port)
            close_files(self.e)

    def pause(self):
        """What arrives from now on waits in the sockets' buffers."""
        with self.lock:
            if self.e.events >= 0:
                self.halt()

    cdef int halt(self) except -1:
        atomic_store(&self.e.stopping, 1)
        self.wake()
        if self.thread is not None:
            self.thread.join()
        self.thread = None
        self.plane.threaded = False
        self.finish()
        return 0

    cdef void wake(self):
        cdef uint64_t one = 1
        write(self.e.wake, &one, sizeof(one))

    cdef void finish(self):
        """What Python asked for before the end, a farewell to peers for one."""
        while spsc_peek(&self.e.p.queues.commands) != NULL:
            heed_python(self.e, monotonic_ns())
        udp_flush(self.e.io, self.e.p)

    def add_port(self, uint16_t port, sock not None, *, bint probe_mtu=False):
        if sock.type != socket.SOCK_DGRAM or sock.family not in MTU_DISCOVER:
            raise ValueError("a port of the engine is a UDP socket of IPv4 or IPv6")
        with self.lock:
            if port >= UDP_PORTS:
                raise ValueError(f"port number {port}: the engine has {UDP_PORTS}, counted from 0")
            if port in self.sockets:
                raise ValueError(f"port number {port} is in use")
            if self.e.events < 0:
                raise RuntimeError("the engine has been stopped")
            own = sock.dup()
            try:
                gso = prepare(own, self.gro, probe_mtu) and self.gso
                self.change(port, own.fileno(), own.family == socket.AF_INET6, gso)
            except BaseException:
                own.close()
                raise
            self.sockets[port] = own

    def remove_port(self, uint16_t port):
        with self.lock:
            if port not in self.sockets:
                raise ValueError(f"there is no port number {port}")
            self.forget(port)

    cdef int forget(self, uint16_t port) except -1:
        self.change(port, -1, False, False)
        own = self.sockets.pop(port)
        self.old_drops += kernel_drops(own)
        own.close()
        return 0

    cdef int change(self, uint16_t port, int fd, bint v6, bint gso) except -1:
        cdef engine *e = self.e
        cdef timespec until
        cdef int waited = 0
        e.change.port = port
        e.change.fd = fd
        e.change.v6 = v6
        e.change.gso = gso
        if atomic_load(&e.running):
            atomic_store(&e.asked, 1)
            self.wake()
            until = span(monotonic_ns() + REPLY_NS)
            with nogil:
                waited = sem_clockwait(&e.answered, CLOCK_MONOTONIC, &until)
                while waited < 0 and errno == EINTR:
                    waited = sem_clockwait(&e.answered, CLOCK_MONOTONIC, &until)
            if waited < 0:
                raise RuntimeError("the engine's thread does not answer")
        else:
            e.change.error = change_port(e)
        if e.change.error:
            raise OSError(e.change.error, os.strerror(e.change.error))
        return 0

    def counters(self):
        cdef int i
        result = {NAMES[i]: self.e.io.counters[i] for i in range(UDP_COUNTERS)}
        result["rx_kernel_drops"] = self.old_drops + sum(map(kernel_drops, list(self.sockets.values())))
        return result


def prepare(sock, bint gro, bint probe_mtu):
    """Sets the options of a port, which are its caller's socket's as well;

    whether the kernel has UDP_SEGMENT.
    """
    for force, plain in ((SO_RCVBUFFORCE, socket.SO_RCVBUF), (SO_SNDBUFFORCE, socket.SO_SNDBUF)):
        try:
            sock.setsockopt(socket.SOL_SOCKET, force, SOCKET_BUFFER)
        except OSError:  # needs CAP_NET_ADMIN; without it the kernel's own limit holds
            sock.setsockopt(socket.SOL_SOCKET, plain, SOCKET_BUFFER)
    if probe_mtu:
        level, option = MTU_DISCOVER[sock.family]
        sock.setsockopt(level, option, PMTUDISC_PROBE)
        if sock.family == socket.AF_INET6:  # IPv4 through the same socket
            with suppress(OSError):
                sock.setsockopt(*MTU_DISCOVER[socket.AF_INET], PMTUDISC_PROBE)
    with suppress(OSError):  # kernels before 5.0 go without
        sock.setsockopt(SOL_UDP, UDP_GRO, int(gro))
    try:
        sock.getsockopt(SOL_UDP, UDP_SEGMENT)
    except OSError:  # before 4.18
        return False
    return True


def kernel_drops(sock):
    """Datagrams that came while the socket's buffer was full. Asked for here it costs the packets nothing."""
    try:
        memory = sock.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 36)
    except OSError:  # closed meanwhile, or a kernel before 4.12
        return 0
    return int.from_bytes(memory[4 * MEMINFO_DROPS:4 * MEMINFO_DROPS + 4], sys.byteorder)
