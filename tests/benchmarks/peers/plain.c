/* The two obvious forwarders: one thread, epoll, and either recvfrom and sendto a packet, or recvmmsg and sendmmsg a batch.
 *
 *     plain LISTEN_PORT PORTS TO_PORT FAN BATCH
 *
 * Ports as in c_loop/forward.c. BATCH 1 is recvfrom and sendto, up to 64 that many messages a call. Ends when killed.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BATCH = 64, BUFFER = 2048 };

static unsigned char buffers[BATCH][BUFFER];
static struct iovec iov[BATCH];
static struct mmsghdr rx[BATCH], tx[BATCH];
static int out, queued;

static int udp(int port)
{
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0), size = 4 << 20;
    struct sockaddr_in name = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    if (fd < 0 || bind(fd, (struct sockaddr *)&name, sizeof name) < 0) {
        perror("bind");
        exit(1);
    }
    if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size) < 0)
        setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
    if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof size) < 0)
        setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
    return fd;
}

static void one_by_one(int fd, struct sockaddr_in *to, int fan)
{
    ssize_t n;
    while ((n = recvfrom(fd, buffers[0], BUFFER, 0, NULL, NULL)) >= 0)
        for (int k = 0; k < fan; k++)
            sendto(out, buffers[0], (size_t)n, 0, (struct sockaddr *)&to[k], sizeof *to);
}

static void flush_queue(void)
{
    if (queued)
        sendmmsg(out, tx, (unsigned)queued, 0);
    queued = 0;
}

static void in_batches(int fd, struct sockaddr_in *to, int fan, int batch)
{
    int n;
    do {
        for (int i = 0; i < batch; i++)
            iov[i].iov_len = BUFFER;
        n = recvmmsg(fd, rx, (unsigned)batch, 0, NULL);
        for (int i = 0; i < n; i++) {
            iov[i].iov_len = rx[i].msg_len;
            for (int k = 0; k < fan; k++) {
                tx[queued++].msg_hdr = (struct msghdr){
                    .msg_name = &to[k], .msg_namelen = sizeof *to, .msg_iov = &iov[i], .msg_iovlen = 1};
                if (queued == batch)
                    flush_queue();
            }
        }
        flush_queue();
    } while (n == batch);
}

int main(int argc, char **argv)
{
    struct epoll_event events[64];
    int epoll = epoll_create1(0);
    if (argc != 6)
        return 2;
    int listen_port = atoi(argv[1]), ports = atoi(argv[2]), to_port = atoi(argv[3]), fan = atoi(argv[4]);
    int batch = atoi(argv[5]);
    if (batch < 1 || batch > BATCH)
        return 2;
    for (int i = 0; i < BATCH; i++) {
        iov[i].iov_base = buffers[i];
        rx[i].msg_hdr = (struct msghdr){.msg_iov = &iov[i], .msg_iovlen = 1};
    }
    out = udp(0);
    struct sockaddr_in *to = malloc((size_t)(ports * fan) * sizeof *to);
    int *fds = malloc((size_t)ports * sizeof *fds);
    for (int i = 0; i < ports * fan; i++)
        to[i] = (struct sockaddr_in){.sin_family = AF_INET,
                                     .sin_port = htons((uint16_t)(to_port + i)),
                                     .sin_addr = {htonl(INADDR_LOOPBACK)}};
    for (int i = 0; i < ports; i++) {
        struct epoll_event event = {.events = EPOLLIN, .data.u32 = (uint32_t)i};
        fds[i] = udp(listen_port + i);
        epoll_ctl(epoll, EPOLL_CTL_ADD, fds[i], &event);
    }
    for (;;) {
        int n = epoll_wait(epoll, events, 64, -1);
        for (int i = 0; i < n; i++) {
            int port = (int)events[i].data.u32;
            if (batch == 1)
                one_by_one(fds[port], to + port * fan, fan);
            else
                in_batches(fds[port], to + port * fan, fan, batch);
        }
    }
}
