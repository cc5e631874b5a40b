# The system calls and structures of Linux that the packet plane uses, declared once.
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from "<time.h>" nogil:
    struct timespec:
        long tv_sec
        long tv_nsec
    int CLOCK_MONOTONIC
    int clock_gettime(int clock, timespec *out)
    int nanosleep(const timespec *span, timespec *left)

cdef extern from "<malloc.h>" nogil:
    int M_MMAP_THRESHOLD
    int mallopt(int parameter, int value)

cdef extern from "<unistd.h>" nogil:
    int close(int fd)
    ssize_t read(int fd, void *buffer, size_t n)
    ssize_t write(int fd, const void *buffer, size_t n)

cdef extern from "<pthread.h>" nogil:
    ctypedef struct sigset_t:
        pass
    ctypedef unsigned long pthread_t
    pthread_t pthread_self()
    int pthread_setname_np(pthread_t thread, const char *name)

cdef extern from "<signal.h>" nogil:
    int SIG_BLOCK
    int sigfillset(sigset_t *set)
    int pthread_sigmask(int how, const sigset_t *set, sigset_t *old)

cdef extern from "<sys/prctl.h>" nogil:
    int PR_SET_TIMERSLACK
    int prctl(int option, ...)

cdef extern from "<semaphore.h>" nogil:
    ctypedef struct sem_t:
        pass
    int sem_init(sem_t *s, int shared, unsigned int value)
    int sem_destroy(sem_t *s)
    int sem_post(sem_t *s)
    int sem_clockwait(sem_t *s, int clock, const timespec *until)

cdef extern from "<stdatomic.h>" nogil:
    ctypedef int atomic_int
    int atomic_load(atomic_int *value)
    void atomic_store(atomic_int *value, int desired)

cdef extern from "<sys/mman.h>" nogil:
    void *mmap(void *address, size_t length, int prot, int flags, int fd, long offset)
    int munmap(void *address, size_t length)
    int PROT_READ, PROT_WRITE, MAP_PRIVATE, MAP_ANONYMOUS, MAP_NORESERVE
    void *MAP_FAILED

cdef extern from "<sys/eventfd.h>" nogil:
    int EFD_NONBLOCK, EFD_CLOEXEC
    int eventfd(unsigned int value, int flags)

cdef extern from "<sys/epoll.h>" nogil:
    ctypedef union epoll_data "epoll_data_t":
        uint32_t u32
    struct epoll_event:
        uint32_t events
        epoll_data data
    int EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLLIN
    int epoll_create1(int flags)
    int epoll_ctl(int epoll, int op, int fd, epoll_event *event)
    int epoll_wait(int epoll, epoll_event *events, int n, int timeout_ms)
    int epoll_pwait2(int epoll, epoll_event *events, int n, const timespec *timeout, const sigset_t *mask)

cdef extern from "<sys/socket.h>" nogil:
    ctypedef uint32_t socklen_t
    struct iovec:
        void *iov_base
        size_t iov_len
    struct msghdr:
        void *msg_name
        socklen_t msg_namelen
        iovec *msg_iov
        size_t msg_iovlen
        void *msg_control
        size_t msg_controllen
        int msg_flags
    struct mmsghdr:
        msghdr msg_hdr
        unsigned int msg_len
    struct cmsghdr:
        size_t cmsg_len
        int cmsg_level
        int cmsg_type
    cmsghdr *CMSG_FIRSTHDR(msghdr *message)
    uint8_t *CMSG_DATA(cmsghdr *header)
    size_t CMSG_LEN(size_t n)
    size_t CMSG_SPACE(size_t n)
    int AF_INET, AF_INET6, MSG_DONTWAIT, MSG_TRUNC
    int recvmmsg(int fd, mmsghdr *messages, unsigned int n, int flags, timespec *timeout)
    int sendmmsg(int fd, mmsghdr *messages, unsigned int n, int flags)

cdef extern from "<netinet/in.h>" nogil:
    struct in_addr:
        uint32_t s_addr
    struct in6_addr:
        uint8_t s6_addr[16]
    struct sockaddr_in:
        uint16_t sin_family
        uint16_t sin_port
        in_addr sin_addr
    struct sockaddr_in6:
        uint16_t sin6_family
        uint16_t sin6_port
        uint32_t sin6_flowinfo
        in6_addr sin6_addr
        uint32_t sin6_scope_id
    uint16_t htons(uint16_t value)
    uint16_t ntohs(uint16_t value)

cdef extern from "<netinet/udp.h>" nogil:
    int SOL_UDP, UDP_SEGMENT, UDP_GRO


cdef inline int64_t monotonic_ns() noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_MONOTONIC, &t)
    return <int64_t>t.tv_sec * 1000000000 + t.tv_nsec
