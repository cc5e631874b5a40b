/* The plain forwarder that the relay is measured against: one thread, epoll, recvmmsg with UDP_GRO, and sends that
 * gather what a port has received into UDP_SEGMENT messages. It looks at nothing in the packets.
 *
 *     forward LISTEN_PORT PORTS TO_PORT FAN
 *
 * What comes in on 127.0.0.1:LISTEN_PORT+i goes to 127.0.0.1:TO_PORT+i*FAN ... +FAN-1. Prints "ready"; ends when killed.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/udp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BATCH = 32, BUFFER = 65536 + 192, SEGMENTS = 64, GSO_BYTES = 65000, FANS = 1024, SENDS = 64 };

static unsigned char *buffers;
static struct mmsghdr rx[BATCH];
static struct iovec rx_iov[BATCH];
static uint64_t rx_control[BATCH][8];

/* A run of neighbouring datagrams of one size, the last may be shorter: one message to each receiver. */
static struct iovec run[SEGMENTS];
static int run_len;
static size_t run_size, run_last, run_bytes;

static int out;
static struct sockaddr_in to[FANS];

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static int udp(int port)
{
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0), size = 4 << 20, on = 1;
    struct sockaddr_in name = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    if (fd < 0 || bind(fd, (struct sockaddr *)&name, sizeof name) < 0)
        die("bind");
    if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size) < 0)
        setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
    if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof size) < 0)
        setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
    setsockopt(fd, SOL_UDP, UDP_GRO, &on, sizeof on);
    return fd;
}

static void send_run(int fan)
{
    static uint64_t control[4];
    struct mmsghdr tx[SENDS];
    struct cmsghdr *c = (struct cmsghdr *)control;
    uint16_t size = (uint16_t)run_size;
    if (run_len == 0)
        return;
    c->cmsg_level = SOL_UDP;
    c->cmsg_type = UDP_SEGMENT;
    c->cmsg_len = CMSG_LEN(sizeof size);
    memcpy(CMSG_DATA(c), &size, sizeof size);
    for (int first = 0; first < fan; first += SENDS) {
        int n = fan - first < SENDS ? fan - first : SENDS;
        memset(tx, 0, (size_t)n * sizeof *tx);
        for (int i = 0; i < n; i++) {
            tx[i].msg_hdr.msg_name = &to[first + i];
            tx[i].msg_hdr.msg_namelen = sizeof *to;
            tx[i].msg_hdr.msg_iov = run;
            tx[i].msg_hdr.msg_iovlen = (size_t)run_len;
            if (run_len > 1) {
                tx[i].msg_hdr.msg_control = control;
                tx[i].msg_hdr.msg_controllen = CMSG_SPACE(sizeof size);
            }
        }
        sendmmsg(out, tx, (unsigned)n, 0);
    }
    run_len = 0;
}

static void add(unsigned char *data, size_t n, int fan)
{
    if (run_len && (n > run_size || run_last < run_size || run_len == SEGMENTS || run_bytes + n > GSO_BYTES))
        send_run(fan);
    if (run_len == 0) {
        run_size = n;
        run_bytes = 0;
    }
    run[run_len++] = (struct iovec){data, n};
    run_last = n;
    run_bytes += n;
}

static void forward(int fd, int fan)
{
    int n;
    for (int i = 0; i < BATCH; i++) {
        rx[i].msg_hdr.msg_control = rx_control[i];
        rx[i].msg_hdr.msg_controllen = sizeof rx_control[i];
    }
    n = recvmmsg(fd, rx, BATCH, 0, NULL);
    for (int i = 0; i < n; i++) {
        struct cmsghdr *c = CMSG_FIRSTHDR(&rx[i].msg_hdr);
        unsigned char *data = rx_iov[i].iov_base;
        size_t left = rx[i].msg_len, step = left;
        if (c && c->cmsg_level == SOL_UDP && c->cmsg_type == UDP_GRO) {
            int size;
            memcpy(&size, CMSG_DATA(c), sizeof size);
            step = (size_t)size;
        }
        for (; left > 0; data += step, left -= left < step ? left : step)
            add(data, left < step ? left : step, fan);
    }
    send_run(fan);
}

int main(int argc, char **argv)
{
    struct epoll_event events[64];
    int epoll = epoll_create1(0), listen_port, ports, to_port, fan;
    if (argc != 5)
        return 2;
    listen_port = atoi(argv[1]);
    ports = atoi(argv[2]);
    to_port = atoi(argv[3]);
    fan = atoi(argv[4]);
    if (fan > FANS)
        return 2;
    out = udp(0);
    buffers = malloc((size_t)BATCH * BUFFER);
    for (int i = 0; i < BATCH; i++) {
        rx_iov[i] = (struct iovec){buffers + (size_t)i * BUFFER, 65536};
        rx[i].msg_hdr.msg_iov = &rx_iov[i];
        rx[i].msg_hdr.msg_iovlen = 1;
    }
    int *fds = malloc((size_t)ports * sizeof *fds);
    for (int i = 0; i < ports; i++) {
        struct epoll_event event = {.events = EPOLLIN, .data.u32 = (uint32_t)i};
        fds[i] = udp(listen_port + i);
        if (epoll_ctl(epoll, EPOLL_CTL_ADD, fds[i], &event) < 0)
            die("epoll_ctl");
    }
    puts("ready");
    fflush(stdout);
    for (;;) {
        int n = epoll_wait(epoll, events, 64, -1);
        for (int i = 0; i < n; i++) {
            int port = (int)events[i].data.u32;
            for (int k = 0; k < fan; k++)
                to[k] = (struct sockaddr_in){.sin_family = AF_INET,
                                             .sin_port = htons((uint16_t)(to_port + port * fan + k)),
                                             .sin_addr = {htonl(INADDR_LOOPBACK)}};
            forward(fds[port], fan);
        }
    }
}
