/* Answers chat completions with the witness's words, one write a token, and writes down when it sent each.

   server -p PORT -n TOKENS -i GAP_US -f FIRST_US [-j] [-s] [-t TRUTH]
   -j: each stream's phase is random; -s: all streams are on one grid, as an engine's batch steps are.
   TRUTH, written at SIGTERM: for each request char id[48], int64 t_request, n, t_1 .. t_n (CLOCK_MONOTONIC
   ns, taken just before each send). The id is that of X-Request-Id. */
#define _GNU_SOURCE
#include <errno.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { ID_BYTES = 48, IN_BYTES = 1 << 17, OUT_BYTES = 2048, MAX_CONNECTIONS = 1 << 16, P = 8093 };

typedef struct {
    char id[ID_BYTES];
    int64_t request_ns, sent;
    int64_t *sent_ns;
} truth_t;

typedef struct {
    int fd, input, output, streaming, token, a, b, slot, writing;
    int64_t first_ns, due_ns;
    size_t truth;
    char in[IN_BYTES], out[OUT_BYTES];
} peer_t;

static int tokens = 200, jitter, step;
static int64_t gap_ns = 20000000, first_ns = 50000000;
static volatile sig_atomic_t stopping;
static int epoll;
static truth_t *truths;
static size_t truth_count, truth_room;
static peer_t *due[MAX_CONNECTIONS]; /* a heap by due_ns */
static int due_count;

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void fail(const char *what) {
    perror(what);
    exit(1);
}

/* --- the heap --- */

static void place(peer_t *peer, int slot) { (due[slot] = peer)->slot = slot; }

static void sift_up(int slot) {
    peer_t *peer = due[slot];
    for (; slot && due[(slot - 1) / 2]->due_ns > peer->due_ns; slot = (slot - 1) / 2) place(due[(slot - 1) / 2], slot);
    place(peer, slot);
}

static void sift_down(int slot) {
    peer_t *peer = due[slot];
    for (int child; (child = 2 * slot + 1) < due_count; slot = child) {
        if (child + 1 < due_count && due[child + 1]->due_ns < due[child]->due_ns) child++;
        if (due[child]->due_ns >= peer->due_ns) break;
        place(due[child], slot);
    }
    place(peer, slot);
}

static void schedule(peer_t *peer) {
    place(peer, due_count++);
    sift_up(peer->slot);
}

static void unschedule(peer_t *peer) {
    const int slot = peer->slot;
    if (slot < 0) return;
    peer->slot = -1;
    if (slot == --due_count) return;
    place(due[due_count], slot);
    sift_down(slot);
    sift_up(due[slot]->slot);
}

/* --- what is sent --- */

static void word(int index, char *to) {
    static const char consonants[] = "bcdfghjklmnprstvwz", vowels[] = "aeiou";
    const int syllables[] = {index / 90, index % 90};
    for (int n = 0; n < 2; n++) {
        *to++ = consonants[syllables[n] / 5];
        *to++ = vowels[syllables[n] % 5];
    }
    *to = 0;
}

static int word_index(const char *text) {
    static const char consonants[] = "bcdfghjklmnprstvwz", vowels[] = "aeiou";
    int index = 0;
    for (int n = 0; n < 4; n += 2) {
        const char *c = strchr(consonants, text[n]), *v = strchr(vowels, text[n + 1]);
        if (!text[n] || !text[n + 1] || !c || !v) return -1;
        index = index * 90 + (int)(c - consonants) * 5 + (int)(v - vowels);
    }
    return index;
}

static void drop(peer_t *peer) {
    unschedule(peer);
    close(peer->fd);
    free(peer);
}

static void watch_writing(peer_t *peer, int writing) {
    if (peer->writing == writing) return;
    peer->writing = writing;
    struct epoll_event event = {.events = EPOLLIN | (writing ? EPOLLOUT : 0), .data.ptr = peer};
    epoll_ctl(epoll, EPOLL_CTL_MOD, peer->fd, &event);
}

/* 0: the peer is gone */
static int transmit(peer_t *peer, const char *data, int size) {
    ssize_t sent = peer->output ? 0 : send(peer->fd, data, (size_t)size, MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN) return drop(peer), 0;
    if (sent < 0) sent = 0;
    if (sent < size) {
        if (peer->output + size - sent > OUT_BYTES) return drop(peer), 0;
        memcpy(peer->out + peer->output, data + sent, (size_t)(size - sent));
        peer->output += (int)(size - sent);
        watch_writing(peer, 1);
    }
    return 1;
}

static int chunk(char *to, const char *event) { return sprintf(to, "%zx\r\n%s\r\n", strlen(event), event); }

static int token_event(char *to, const peer_t *peer) {
    char text[5], event[1024];
    word((int)((peer->a + (int64_t)peer->token * peer->b) % P), text);
    sprintf(event,
            "data: {\"id\":\"chatcmpl-%s\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\" %s\",\"role\":\"assistant\"},"
            "\"finish_reason\":%s}],\"created\":1700000000,\"model\":\"m\",\"object\":\"chat.completion.chunk\"}\n\n",
            truths[peer->truth].id, text, peer->token == tokens - 1 ? "\"length\"" : "null");
    return chunk(to, event);
}

static int last_events(char *to, const peer_t *peer) {
    char event[1024];
    sprintf(event,
            "data: {\"id\":\"chatcmpl-%s\",\"choices\":[],\"created\":1700000000,\"model\":\"m\",\"object\":"
            "\"chat.completion.chunk\",\"usage\":{\"prompt_tokens\":40,\"total_tokens\":%d,\"completion_tokens\":%d}}\n\n",
            truths[peer->truth].id, 40 + tokens, tokens);
    int size = chunk(to, event);
    size += chunk(to + size, "data: [DONE]\n\n");
    return size + sprintf(to + size, "0\r\n\r\n");
}

/* The next token of a stream, or its end. */
static void advance(peer_t *peer) {
    char data[OUT_BYTES];
    truth_t *truth = &truths[peer->truth];
    if (peer->token == tokens) {
        unschedule(peer);
        peer->streaming = 0;
        transmit(peer, data, last_events(data, peer));
        return;
    }
    const int size = token_event(data, peer);
    peer->token++;
    peer->due_ns = peer->first_ns + gap_ns * peer->token;
    if (peer->token == tokens) peer->due_ns -= gap_ns; /* usage follows the last token at once */
    sift_down(peer->slot);
    truth->sent_ns[truth->sent++] = now_ns();
    transmit(peer, data, size);
}

/* --- what is asked --- */

static const char HEAD[] = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\n"
                           "transfer-encoding: chunked\r\n\r\n";
static const char MODELS[] = "{\"object\":\"list\",\"data\":[{\"id\":\"m\",\"object\":\"model\",\"created\":1700000000,"
                             "\"owned_by\":\"bench\",\"max_model_len\":131072}]}";
static const char WHOLE[] = "{\"id\":\"x\",\"object\":\"chat.completion\",\"created\":1,\"model\":\"m\",\"choices\":[{\"index\":0,"
                            "\"message\":{\"role\":\"assistant\",\"content\":\"hello\"},\"finish_reason\":\"stop\"}],"
                            "\"usage\":{\"prompt_tokens\":40,\"completion_tokens\":1,\"total_tokens\":41}}";

static int answer_json(peer_t *peer, const char *body) {
    char data[OUT_BYTES];
    int size = sprintf(data, "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %zu\r\n\r\n%s", strlen(body), body);
    return transmit(peer, data, size);
}

static int begin_stream(peer_t *peer, const char *head, const char *body) {
    if (truth_count == truth_room) {
        truth_room = truth_room ? truth_room * 2 : 4096;
        if (!(truths = realloc(truths, truth_room * sizeof *truths))) fail("realloc");
    }
    truth_t *truth = &truths[peer->truth = truth_count++];
    *truth = (truth_t){.request_ns = now_ns(), .sent_ns = malloc((size_t)tokens * sizeof(int64_t))};
    const char *id = strcasestr(head, "\r\nx-request-id:");
    if (id) sscanf(id + 15, " %47[^\r\n ]", truth->id);
    const char *key = NULL;
    for (const char *at = body; (at = strstr(at, "key: ")); at += 5) key = at;
    peer->a = key ? word_index(key + 5) : 0;
    peer->b = key ? word_index(key + 10) : 1;
    if (peer->a < 0 || peer->b < 1) peer->a = 0, peer->b = 1;
    peer->token = 0;
    peer->streaming = 1;
    int64_t at = truth->request_ns + first_ns;
    if (jitter) at += (int64_t)(drand48() * (double)gap_ns);
    if (step && gap_ns) at = (at / gap_ns + 1) * gap_ns;
    peer->first_ns = peer->due_ns = at;
    if (!transmit(peer, HEAD, sizeof HEAD - 1)) return 0;
    schedule(peer);
    return 1;
}

/* Requests that are complete; 0: the peer is gone. */
static int serve_requests(peer_t *peer) {
    while (!peer->streaming) {
        peer->in[peer->input] = 0;
        char *end = strstr(peer->in, "\r\n\r\n");
        if (!end) return 1;
        *end = 0;
        const char *length = strcasestr(peer->in, "\r\ncontent-length:");
        int size = (int)(end - peer->in) + 4 + (length ? atoi(length + 17) : 0);
        if (!length && strcasestr(peer->in, "\r\ntransfer-encoding: chunked")) {
            const char *last = strstr(end + 4, "0\r\n\r\n");
            size = last ? (int)(last - peer->in) + 5 : peer->input + 1;
        }
        if (peer->input < size) {
            *end = '\r';
            return 1;
        }
        const char kept = peer->in[size];
        peer->in[size] = 0;
        const int post = !strncmp(peer->in, "POST", 4), chat = post && strstr(peer->in, "/chat/completions");
        const int stream = chat && (strstr(end + 4, "\"stream\":true") || strstr(end + 4, "\"stream\": true"));
        if (!(stream ? begin_stream(peer, peer->in, end + 4) : answer_json(peer, chat ? WHOLE : MODELS))) return 0;
        peer->in[size] = kept;
        memmove(peer->in, peer->in + size, (size_t)(peer->input - size));
        peer->input -= size;
    }
    return 1;
}

static void receive(peer_t *peer) {
    ssize_t size = recv(peer->fd, peer->in + peer->input, (size_t)(IN_BYTES - 1 - peer->input), 0);
    if (size <= 0) {
        if (size == 0 || errno != EAGAIN) drop(peer);
        return;
    }
    peer->input += (int)size;
    serve_requests(peer);
}

static void flush(peer_t *peer) {
    ssize_t sent = send(peer->fd, peer->out, (size_t)peer->output, MSG_NOSIGNAL);
    if (sent < 0) {
        if (errno != EAGAIN) drop(peer);
        return;
    }
    peer->output -= (int)sent;
    memmove(peer->out, peer->out + sent, (size_t)peer->output);
    if (!peer->output) watch_writing(peer, 0);
}

static void take_connections(int listener) {
    const int one = 1;
    for (int fd; (fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0;) {
        peer_t *peer = malloc(sizeof *peer);
        if (!peer) fail("malloc");
        memset(peer, 0, offsetof(peer_t, in));
        peer->fd = fd;
        peer->slot = -1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = peer};
        epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
    }
}

static void write_truth(const char *path) {
    FILE *file = fopen(path, "wb");
    if (!file) fail(path);
    for (size_t n = 0; n < truth_count; n++) {
        fwrite(truths[n].id, ID_BYTES, 1, file);
        fwrite(&truths[n].request_ns, sizeof(int64_t), 2, file); /* request_ns and sent */
        fwrite(truths[n].sent_ns, sizeof(int64_t), (size_t)truths[n].sent, file);
    }
    if (fclose(file)) fail(path);
}

static void stop(int number) {
    (void)number;
    stopping = 1;
}

static int listen_on(int port) {
    const int one = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 4096)) fail("listen");
    return listener;
}

static void serve(int listener) {
    struct epoll_event events[512];
    while (!stopping) {
        int64_t wait_ns = due_count ? due[0]->due_ns - now_ns() : 1000000000;
        if (wait_ns < 0) wait_ns = 0;
        const struct timespec wait = {wait_ns / 1000000000, wait_ns % 1000000000};
        const int count = epoll_pwait2(epoll, events, 512, &wait, NULL);
        for (int n = 0; n < count; n++) {
            peer_t *peer = events[n].data.ptr;
            if (!peer)
                take_connections(listener);
            else if (events[n].events & EPOLLOUT && peer->output)
                flush(peer);
            else
                receive(peer);
        }
        for (const int64_t now = now_ns(); due_count && due[0]->due_ns <= now;) advance(due[0]);
    }
}

int main(int argc, char **argv) {
    int port = 9000;
    const char *truth = NULL;
    for (int option; (option = getopt(argc, argv, "p:n:i:f:jst:")) > 0;) switch (option) {
        case 'p': port = atoi(optarg); break;
        case 'n': tokens = atoi(optarg); break;
        case 'i': gap_ns = atoll(optarg) * 1000; break;
        case 'f': first_ns = atoll(optarg) * 1000; break;
        case 'j': jitter = 1; break;
        case 's': step = 1; break;
        case 't': truth = optarg; break;
        default: return 2;
        }
    const struct sigaction action = {.sa_handler = stop};
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    prctl(PR_SET_TIMERSLACK, 1000);
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    const int listener = listen_on(port);
    epoll = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event);
    puts("ready");
    fflush(stdout);
    serve(listener);
    if (truth) write_truth(truth);
    return 0;
}
