/* The floor: what a client in C costs that does nothing but receive, find events and note times.

   floor PORT STREAMS REQUESTS OUT [clock|kernel|batch]
   clock: epoll, recv, clock_gettime. kernel: recvmsg with the kernel's stamps. batch: that, looked at each ms.
   OUT: for each request char id[48], int64 t_start, n, t_1 .. t_n (CLOCK_MONOTONIC ns; events, so usage and
   [DONE] are among them). No headers, no chunk sizes, no errors: a number to compare with, not a client. */
#define _GNU_SOURCE
#include <linux/net_tstamp.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { ID_BYTES = 48, MAX_EVENTS = 65536, BUFFER = 65536 };

typedef struct {
    char id[ID_BYTES];
    int64_t start_ns, count;
    int64_t *times;
    int fd, request, newline; /* newline: the last byte so far was one */
    char tail[5];
} stream_t;

static int requests, live;
static FILE *out;

static int64_t clock_ns(clockid_t id) {
    struct timespec t;
    clock_gettime(id, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static void ask(stream_t *stream, int index) {
    static const char body[] = "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"key: baba babe\"}],\"stream\":true}";
    char data[1024];
    sprintf(stream->id, "floor-%d-%d", index, stream->request);
    int size = sprintf(data, "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Request-Id: %s\r\nContent-Length: %zu\r\n\r\n%s",
                       stream->id, sizeof body - 1, body);
    stream->count = stream->newline = 0;
    memset(stream->tail, 0, sizeof stream->tail);
    stream->start_ns = clock_ns(CLOCK_MONOTONIC);
    if (send(stream->fd, data, (size_t)size, 0) != size) fail("send");
}

static void finish(stream_t *stream, int index) {
    fwrite(stream->id, ID_BYTES, 1, out);
    fwrite(&stream->start_ns, sizeof(int64_t), 2, out);
    fwrite(stream->times, sizeof(int64_t), (size_t)stream->count, out);
    if (++stream->request < requests)
        ask(stream, index);
    else
        live--;
}

static void feed(stream_t *stream, int index, const char *data, size_t size, int64_t at) {
    const char *from = data, *end = data + size;
    if (stream->newline && *from == '\n') {
        stream->times[stream->count++] = at;
        from++;
    }
    for (const char *found; (found = memmem(from, (size_t)(end - from), "\n\n", 2)) && stream->count < MAX_EVENTS; from = found + 2)
        stream->times[stream->count++] = at;
    stream->newline = from < end && end[-1] == '\n' && (size < 2 || end[-2] != '\r');
    const size_t kept = size < 5 ? size : 5;
    memmove(stream->tail, stream->tail + kept, 5 - kept);
    memcpy(stream->tail + 5 - kept, end - kept, kept);
    if (stream->count && !memcmp(stream->tail, "0\r\n\r\n", 5)) finish(stream, index);
}

static int connect_to(int port, int stamps) {
    const int one = 1, fd = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (connect(fd, (struct sockaddr *)&address, sizeof address)) fail("connect");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (stamps) setsockopt(fd, SOL_SOCKET, SO_TIMESTAMPNS, &one, sizeof one);
    return fd;
}

static int64_t stamp_ns(struct msghdr *message, int64_t offset) {
    for (struct cmsghdr *part = CMSG_FIRSTHDR(message); part; part = CMSG_NXTHDR(message, part))
        if (part->cmsg_type == SCM_TIMESTAMPNS) {
            struct timespec t;
            memcpy(&t, CMSG_DATA(part), sizeof t);
            return t.tv_sec * 1000000000LL + t.tv_nsec - offset;
        }
    return clock_ns(CLOCK_MONOTONIC);
}

static void receive(stream_t *stream, int index, int stamps, int64_t offset) {
    static char buffer[BUFFER];
    ssize_t size;
    int64_t at;
    if (stamps) {
        char control[64];
        struct iovec part = {buffer, sizeof buffer};
        struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
        size = recvmsg(stream->fd, &message, MSG_DONTWAIT);
        at = size > 0 ? stamp_ns(&message, offset) : 0;
    } else {
        size = recv(stream->fd, buffer, sizeof buffer, MSG_DONTWAIT);
        at = clock_ns(CLOCK_MONOTONIC);
    }
    if (size == 0) fail("end of file");
    if (size > 0) feed(stream, index, buffer, (size_t)size, at);
}

int main(int argc, char **argv) {
    if (argc < 5) return 2;
    const int port = atoi(argv[1]), streams = atoi(argv[2]);
    const char *mode = argc > 5 ? argv[5] : "clock";
    const int stamps = strcmp(mode, "clock") != 0, batch = !strcmp(mode, "batch");
    requests = atoi(argv[3]);
    if (!(out = fopen(argv[4], "wb"))) fail(argv[4]);
    const int64_t offset = clock_ns(CLOCK_REALTIME) - clock_ns(CLOCK_MONOTONIC);
    stream_t *all = calloc((size_t)streams, sizeof *all);
    const int epoll = epoll_create1(0);
    for (int n = 0; n < streams; n++, live++) {
        all[n].fd = connect_to(port, stamps);
        all[n].times = malloc(MAX_EVENTS * sizeof(int64_t));
        struct epoll_event event = {.events = EPOLLIN, .data.u32 = (uint32_t)n};
        epoll_ctl(epoll, EPOLL_CTL_ADD, all[n].fd, &event);
        ask(&all[n], n);
    }
    struct epoll_event events[512];
    while (live) {
        if (batch) clock_nanosleep(CLOCK_MONOTONIC, 0, &(struct timespec){0, 1000000}, NULL);
        const int count = epoll_wait(epoll, events, 512, -1);
        for (int n = 0; n < count; n++) receive(&all[events[n].data.u32], (int)events[n].data.u32, stamps, offset);
    }
    return fclose(out) != 0;
}
