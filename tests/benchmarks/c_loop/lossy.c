/* A link that loses packets, between two hop ports of 127.0.0.1.
 *
 *     lossy PORT_A PEER_A PORT_B PEER_B LOSS SEED
 *
 * What comes in on PORT_A goes out from PORT_B to PEER_B, and the other way round, in order and at once; LOSS of 1000
 * datagrams are lost each way, by a generator that follows from SEED. Prints "ready"; ends when killed.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BATCH = 64, BUFFER = 2048 };

static struct sockaddr_in loopback(int port)
{
    return (struct sockaddr_in){
        .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
}

static int udp(int port)
{
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0), size = 4 << 20;
    struct sockaddr_in name = loopback(port);
    if (fd < 0 || bind(fd, (struct sockaddr *)&name, sizeof name) < 0) {
        perror("bind");
        exit(1);
    }
    if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size) < 0)
        setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
    return fd;
}

static uint32_t state; /* xorshift32 */

static int lost(uint32_t loss)
{
    state ^= state << 13;
    state ^= state >> 17;
    state ^= state << 5;
    return state % 1000 < loss;
}

static void carry(int from, int to, struct sockaddr_in *peer, uint32_t loss)
{
    static unsigned char data[BATCH][BUFFER];
    static struct mmsghdr rx[BATCH], tx[BATCH];
    static struct iovec iov[BATCH];
    int n = 0;
    for (int i = 0; i < BATCH; i++) {
        iov[i] = (struct iovec){data[i], BUFFER};
        rx[i].msg_hdr = (struct msghdr){.msg_iov = &iov[i], .msg_iovlen = 1};
    }
    int got = recvmmsg(from, rx, BATCH, 0, NULL);
    for (int i = 0; i < got; i++) {
        if (lost(loss))
            continue;
        iov[i].iov_len = rx[i].msg_len;
        tx[n++].msg_hdr = (struct msghdr){
            .msg_iov = &iov[i], .msg_iovlen = 1, .msg_name = peer, .msg_namelen = sizeof *peer};
    }
    if (n > 0)
        sendmmsg(to, tx, (unsigned)n, 0);
}

int main(int argc, char **argv)
{
    if (argc != 7)
        return 2;
    struct sockaddr_in peers[2] = {loopback(atoi(argv[2])), loopback(atoi(argv[4]))};
    struct pollfd ports[2] = {{udp(atoi(argv[1])), POLLIN, 0}, {udp(atoi(argv[3])), POLLIN, 0}};
    uint32_t loss = (uint32_t)atoi(argv[5]);
    state = (uint32_t)atoi(argv[6]) | 1;
    puts("ready");
    fflush(stdout);
    while (poll(ports, 2, -1) > 0) {
        for (int i = 0; i < 2; i++) {
            if (ports[i].revents)
                carry(ports[i].fd, ports[1 - i].fd, &peers[1 - i], loss);
        }
    }
    return 1;
}
