/* Video-like load for a forwarder, and its receivers.
 *
 *     load TO_PORT STREAMS RATE SECONDS BURST RECEIVE_PORT FAN [REST_US [STEP [SOURCE_PORT CHANNEL STREAM_PORT...]]]
 *
 * STREAMS streams of RTP in packets of 1200 bytes go to 127.0.0.1:TO_PORT, TO_PORT+STEP (1), ..., RATE packets/s in all,
 * in bursts of BURST packets of one stream, the streams taking turns. Receives on RECEIVE_PORT ... (STREAMS * FAN ports).
 * Prints "ready", begins when a line comes in, ends when all has come or nothing more comes, and prints one line of JSON.
 *
 * A delay is the time from clock_gettime just before sendto, which each packet carries, to the kernel's stamp of its
 * arrival at its last receiver (SO_TIMESTAMPNS): when the receiving thread wakes up has no part in it. That thread rests
 * REST_US (0) after each turn. At 0 every packet may wake it, at the cost of the forwarder that sends it, and on a machine
 * with few cores in its way.
 *
 * SOURCE_PORT (that of the first stream, 0: any) asks for a warm-up: when the first line has come in, packets that do not
 * count go out every 10 ms until each receiver has got one, at most 10 s; then "warm N" tells how many have not, and the
 * second line begins the load. CHANNEL, not 0, is the TURN channel of the first stream (RFC 8656, 12.4): packets go out
 * as ChannelData. STREAM_PORT...: where each stream goes, if not to TO_PORT + i * STEP.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { BYTES = 1200, BATCH = 64, BUFFER = 2048, HEADER = 12, QUIET_MS = 300, CHANNEL_DATA = 4 };
enum { WARM_UP_MS = 10000, WARM_UP_STEP_MS = 10 };

static int to_port, streams, rate, seconds, burst, receive_port, fan, rest_us, step = 1;
static uint64_t expected, received;
static atomic_bool all_sent;
static uint32_t *delays; /* ns */
static int channel, *stream_ports;
static atomic_int *warm; /* of each receiver */

static int64_t now_ns(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static int open_receivers(void)
{
    int epoll = epoll_create1(0), size = 4 << 20, on = 1;
    for (int i = 0; i < streams * fan; i++) {
        int fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
        struct epoll_event event = {.events = EPOLLIN, .data.u64 = (uint64_t)i << 32 | (uint32_t)fd};
        struct sockaddr_in name = {.sin_family = AF_INET,
                                   .sin_port = htons((uint16_t)(receive_port + i)),
                                   .sin_addr = {htonl(INADDR_LOOPBACK)}};
        if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size) < 0)
            setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
        setsockopt(fd, SOL_SOCKET, SO_TIMESTAMPNS, &on, sizeof on);
        if (bind(fd, (struct sockaddr *)&name, sizeof name) < 0) {
            perror("bind");
            exit(1);
        }
        epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
    }
    return epoll;
}

static void *receive(void *epoll)
{
    static unsigned char data[BATCH][BUFFER];
    static uint64_t control[BATCH][8];
    struct mmsghdr m[BATCH] = {0};
    struct iovec iov[BATCH];
    struct epoll_event events[64];
    for (;;) {
        bool over = atomic_load(&all_sent);
        int n = epoll_wait(*(int *)epoll, events, 64, QUIET_MS);
        if (n <= 0 && over)
            break;
        for (int e = 0; e < n; e++) {
            for (int i = 0; i < BATCH; i++) {
                iov[i] = (struct iovec){data[i], BUFFER};
                m[i].msg_hdr = (struct msghdr){.msg_iov = &iov[i], .msg_iovlen = 1,
                                               .msg_control = control[i], .msg_controllen = sizeof control[i]};
            }
            int got = recvmmsg((int)(uint32_t)events[e].data.u64, m, BATCH, 0, NULL);
            for (int i = 0; i < got; i++) {
                struct cmsghdr *c = CMSG_FIRSTHDR(&m[i].msg_hdr);
                struct timespec t;
                int64_t sent;
                if (c == NULL || (int)m[i].msg_len != BYTES || received == expected)
                    continue;
                memcpy(&t, CMSG_DATA(c), sizeof t);
                memcpy(&sent, data[i] + HEADER, sizeof sent);
                if (sent == 0) {
                    warm[events[e].data.u64 >> 32] = 1;
                    continue;
                }
                delays[received++] = (uint32_t)(t.tv_sec * 1000000000LL + t.tv_nsec - sent);
            }
        }
        if (received == expected)
            break;
        if (rest_us)
            usleep((useconds_t)rest_us);
    }
    return NULL;
}

/* A time of 0 makes them packets that do not count. */
static void send_packets(int fd, int stream, uint16_t *seq, uint32_t number, int count, int timed)
{
    unsigned char datagram[CHANNEL_DATA + BYTES] = {0}, *p = datagram + CHANNEL_DATA;
    uint32_t timestamp = htonl(number * 90), ssrc = htonl((uint32_t)stream + 1);
    uint16_t channel_data[2] = {htons((uint16_t)(channel + stream)), htons(BYTES)};
    size_t head = channel ? CHANNEL_DATA : 0;
    struct sockaddr_in name = {.sin_family = AF_INET,
                               .sin_port = htons((uint16_t)stream_ports[stream]),
                               .sin_addr = {htonl(INADDR_LOOPBACK)}};
    memcpy(datagram, channel_data, CHANNEL_DATA);
    for (int i = 0; i < count; i++) {
        uint16_t be_seq = htons((*seq)++);
        int64_t now = timed ? now_ns(CLOCK_REALTIME) : 0;
        p[0] = 0x80;
        p[1] = (unsigned char)(96 | (i == count - 1) << 7);
        memcpy(p + 2, &be_seq, 2);
        memcpy(p + 4, &timestamp, 4);
        memcpy(p + 8, &ssrc, 4);
        memcpy(p + HEADER, &now, sizeof now);
        sendto(fd, p - head, head + BYTES, 0, (struct sockaddr *)&name, sizeof name);
    }
}

static int cold(void)
{
    int n = 0;
    for (int i = 0; i < streams * fan; i++)
        n += !warm[i];
    return n;
}

static uint32_t warm_up(const int *fds, uint16_t *seq)
{
    const struct timespec step = {.tv_nsec = WARM_UP_STEP_MS * 1000000L};
    uint32_t number = 0;
    for (; cold() && number < WARM_UP_MS / WARM_UP_STEP_MS; number++) {
        for (int i = 0; i < streams; i++)
            send_packets(fds[i], i, &seq[i], number, 1, 0);
        nanosleep(&step, NULL);
    }
    printf("warm %d\n", cold());
    fflush(stdout);
    return number;
}

static int open_sender(int port)
{
    struct sockaddr_in name = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    if (port && bind(fd, (struct sockaddr *)&name, sizeof name) < 0) {
        perror("bind");
        exit(1);
    }
    return fd;
}

static int ascending(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static double quantile_us(double q)
{
    return received ? delays[(uint64_t)(q * (double)(received - 1))] / 1000.0 : 0;
}

int main(int argc, char **argv)
{
    pthread_t receiver;
    if (argc < 8 || argc == 11)
        return 2;
    to_port = atoi(argv[1]);
    streams = atoi(argv[2]);
    rate = atoi(argv[3]);
    seconds = atoi(argv[4]);
    burst = atoi(argv[5]);
    receive_port = atoi(argv[6]);
    fan = atoi(argv[7]);
    if (argc > 8)
        rest_us = atoi(argv[8]);
    if (argc > 9)
        step = atoi(argv[9]);
    int source_port = argc > 10 ? atoi(argv[10]) : 0;
    channel = argc > 11 ? atoi(argv[11]) : 0;
    if (argc > 12 && argc != 12 + streams)
        return 2;
    if (streams < 1 || burst < 1 || rate < burst || fan < 1 || rest_us < 0)
        return 2;
    int64_t bursts = (int64_t)rate * seconds / burst;
    uint64_t sent = (uint64_t)bursts * (uint64_t)burst;
    expected = sent * (uint64_t)fan;
    delays = malloc(expected * sizeof *delays);
    uint16_t *seq = calloc((size_t)streams, sizeof *seq);
    int *fds = malloc((size_t)streams * sizeof *fds);
    stream_ports = malloc((size_t)streams * sizeof *stream_ports);
    warm = calloc((size_t)(streams * fan), sizeof *warm);
    for (int i = 0; i < streams; i++) {
        fds[i] = open_sender(source_port ? source_port + i : 0);
        stream_ports[i] = argc > 12 ? atoi(argv[12 + i]) : to_port + i * step;
    }
    prctl(PR_SET_TIMERSLACK, 1000, 0, 0, 0);
    int epoll = open_receivers();
    pthread_create(&receiver, NULL, receive, &epoll);
    puts("ready");
    fflush(stdout);
    getchar();
    uint32_t number = 0;
    if (argc > 10) {
        number = warm_up(fds, seq);
        getchar();
    }
    int64_t start = now_ns(CLOCK_MONOTONIC);
    for (int64_t i = 0; i < bursts; i++) {
        int64_t due = start + i * 1000000000LL * burst / rate;
        struct timespec t = {.tv_sec = due / 1000000000LL, .tv_nsec = due % 1000000000LL};
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL);
        int stream = (int)(i % streams);
        send_packets(fds[stream], stream, &seq[stream], number + (uint32_t)(i / streams), burst, 1);
    }
    double took = (double)(now_ns(CLOCK_MONOTONIC) - start) / 1e9;
    atomic_store(&all_sent, true);
    pthread_join(receiver, NULL);
    qsort(delays, received, sizeof *delays, ascending);
    printf("{\"sent\": %lu, \"expected\": %lu, \"received\": %lu, \"seconds\": %.3f, \"delay_us\": "
           "{\"p50\": %.1f, \"p99\": %.1f, \"p99.9\": %.1f, \"max\": %.1f}}\n",
           sent, expected, received, took, quantile_us(0.5), quantile_us(0.99), quantile_us(0.999), quantile_us(1));
    return 0;
}
