#define _GNU_SOURCE
#include "loop.h"

#include <errno.h>
#include <linux/net_tstamp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

/* LOOK_MS: while answers are awaited sockets are looked at so often at least: what arrives together then can't
   be older than two of these. */
enum { MAX_READY = 512, BUSY_READY = 3, SOME_COALESCED = 50, LOOK_MS = 2 };
static const int64_t ROUND_NS = 1000000, ON_TIME_NS = 2 * ROUND_NS, QUIET_NS = 200 * ROUND_NS, SECOND_NS = 1000000000;

/* How busy it is: above BUSY_READY ready sockets a millisecond the thread sleeps through each millisecond
   and reads what came, because the kernel's stamps say when; it costs fewer wake-ups. Where that makes
   chunks of one stream arrive together, although it woke up on time, it is left off for a while. */
typedef struct {
    int64_t since_ns, quiet_until_ns;
    int ready, pieces, joined;
    int busy;
} pace_t;

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * SECOND_NS + t.tv_nsec;
}

/* --- the queue --- */

/* Hold the line's lock. */
static void push(loop_t *loop, line_t *line, int events, int code) {
    pthread_mutex_lock(&loop->lock);
    line->events |= events;
    if (events & LINE_LOST) line->code = code;
    int first = !loop->queue;
    if (!line->queued) {
        line->queued = 1;
        line->next = loop->queue;
        loop->queue = line;
    }
    pthread_mutex_unlock(&loop->lock);
    if (first) eventfd_write(loop->wake, 1);
}

void loop_drain(loop_t *loop) {
    eventfd_t value;
    eventfd_read(loop->wake, &value);
}

line_t *loop_take(loop_t *loop, int *events, int *code) {
    pthread_mutex_lock(&loop->lock);
    line_t *line = loop->queue;
    while (line) {
        loop->queue = line->next;
        line->queued = 0;
        if (!line->closed) {
            *events = line->events;
            *code = line->code;
            line->events = line->code = 0;
            break;
        }
        line->next = loop->closed; /* nobody is interested any more: the thread frees it */
        loop->closed = line;
        line = loop->queue;
    }
    pthread_mutex_unlock(&loop->lock);
    return line;
}

/* --- what Python does --- */

line_t *loop_open(loop_t *loop, int fd, void *owner, int *error) {
    line_t *line = calloc(1, sizeof *line);
    if (!line) {
        *error = ENOMEM;
        return NULL;
    }
    pthread_mutex_init(&line->lock, NULL);
    line->fd = fd;
    line->owner = owner;
    line->reading = 1;
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = line};
    if (epoll_ctl(loop->epoll, EPOLL_CTL_ADD, fd, &event)) {
        *error = errno;
        pthread_mutex_destroy(&line->lock);
        free(line);
        return NULL;
    }
    return line;
}

/* Hold the line's lock. */
static void stop_reading(loop_t *loop, line_t *line) {
    if (line->reading) epoll_ctl(loop->epoll, EPOLL_CTL_DEL, line->fd, NULL);
    line->reading = 0;
}

int loop_attach(loop_t *loop, line_t *line, capture_t *capture, int eager) {
    pthread_mutex_lock(&line->lock);
    int usable = !line->spent;
    if (usable) {
        pthread_mutex_lock(&loop->lock);
        line->events = line->code = 0; /* of the answer before */
        pthread_mutex_unlock(&loop->lock);
        capture_hold(capture);
        __atomic_add_fetch(&loop->awaited, 1, __ATOMIC_RELAXED);
        line->capture = capture;
        line->more = 0;
        line->eager = eager;
        framing_reset(&line->framing);
    }
    pthread_mutex_unlock(&line->lock);
    return usable;
}

/* Hold the line's lock. */
static void expect_nothing(line_t *line) {
    free(line->expected.text);
    line->expected = (expected_t){0};
}

/* Is all that came as expected, with more to come? Hold the locks of the line and its capture. */
static int as_expected(line_t *line) {
    expected_t *expected = &line->expected;
    if (!expected->text) return 0;
    const size_t count = capture_run(line->capture, expected->index, line->capture->count, &expected->like);
    expected->index += count;
    expected->like.limit -= count;
    expected->like.start = (expected->like.start + count * expected->like.step) % expected->like.modulus;
    if (expected->like.limit && expected->index == line->capture->count) return 1;
    expect_nothing(line);
    return 0;
}

int loop_expect(line_t *line, size_t index, const like_t *like) {
    int quiet = 0;
    pthread_mutex_lock(&line->lock);
    expect_nothing(line);
    char *text = line->capture ? malloc(like->before_size + like->after_size + 1) : NULL;
    if (text) {
        memcpy(text, like->before, like->before_size);
        memcpy(text + like->before_size, like->after, like->after_size);
        line->expected = (expected_t){*like, index, text};
        line->expected.like.before = text;
        line->expected.like.after = text + like->before_size;
        pthread_mutex_lock(&line->capture->lock);
        quiet = as_expected(line);
        pthread_mutex_unlock(&line->capture->lock);
    } else if (line->capture) {
        quiet = -1;
    }
    pthread_mutex_unlock(&line->lock);
    return quiet;
}

void loop_detach(loop_t *loop, line_t *line) {
    pthread_mutex_lock(&line->lock);
    expect_nothing(line);
    capture_t *capture = line->capture;
    line->capture = NULL;
    pthread_mutex_unlock(&line->lock);
    if (!capture) return;
    __atomic_sub_fetch(&loop->awaited, 1, __ATOMIC_RELAXED);
    pthread_mutex_lock(&capture->lock);
    capture_end(capture);
    pthread_mutex_unlock(&capture->lock);
    capture_release(capture);
}

void loop_pause(loop_t *loop, line_t *line) {
    pthread_mutex_lock(&line->lock);
    stop_reading(loop, line);
    pthread_mutex_unlock(&line->lock);
}

void loop_close(loop_t *loop, line_t *line) {
    loop_detach(loop, line);
    pthread_mutex_lock(&line->lock);
    stop_reading(loop, line);
    pthread_mutex_lock(&loop->lock);
    line->closed = 1;
    if (!line->queued) {
        line->next = loop->closed;
        loop->closed = line;
    }
    pthread_mutex_unlock(&loop->lock);
    pthread_mutex_unlock(&line->lock);
}

/* --- the thread --- */

static int64_t stamp_ns(struct msghdr *message) {
    for (struct cmsghdr *part = CMSG_FIRSTHDR(message); part; part = CMSG_NXTHDR(message, part))
        if (part->cmsg_level == SOL_SOCKET && part->cmsg_type == SCM_TIMESTAMPNS) {
            struct timespec t;
            memcpy(&t, CMSG_DATA(part), sizeof t);
            return t.tv_sec * SECOND_NS + t.tv_nsec;
        }
    return 0;
}

/* One read into the line's capture; what Python must be told. Hold the line's lock. */
static int read_piece(line_t *line, int64_t since_ns, pace_t *pace, int *code) {
    capture_t *capture = line->capture;
    pthread_mutex_lock(&capture->lock);
    char *to = capture_room(capture);
    capture_fetch_ahead(capture);
    char control[CMSG_SPACE(sizeof(struct timespec))];
    struct iovec part = {to, READ_BYTES};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    ssize_t size = to ? recvmsg(line->fd, &message, MSG_DONTWAIT) : -1;
    if (size <= 0) {
        *code = size == 0 ? 0 : to ? errno : ENOMEM;
        pthread_mutex_unlock(&capture->lock);
        return size < 0 && (*code == EAGAIN || *code == EINTR) ? 0 : LINE_LOST;
    }
    const int64_t read_ns = now_ns();
    const int between = framing_between(&line->framing);
    framing_feed(&line->framing, capture->bytes, capture->used, capture->used + (size_t)size);
    const size_t pieces =
        capture_take(capture, (size_t)size, stamp_ns(&message), read_ns, line->more ? 0 : since_ns, between);
    line->more = size == READ_BYTES;
    pace->pieces++;
    pace->joined += pieces > 1 && line->framing.state == FRAMING_SIZE && read_ns - since_ns < ON_TIME_NS;
    const int quiet = as_expected(line);
    pthread_mutex_unlock(&capture->lock);
    return (line->eager && !quiet) || framing_wants_look(&line->framing) ? LINE_LOOK : 0;
}

static void serve(loop_t *loop, line_t *line, int64_t since_ns, pace_t *pace) {
    int events = 0, code = 0;
    pthread_mutex_lock(&line->lock);
    if (line->closed || !line->reading) {
        pthread_mutex_unlock(&line->lock);
        return;
    }
    if (!line->capture || line->framing.state == FRAMING_END)
        events = LINE_LOOSE;
    else
        events = read_piece(line, since_ns, pace, &code);
    if (events & (LINE_LOST | LINE_LOOSE)) {
        stop_reading(loop, line);
        line->spent = 1;
    }
    if (events) push(loop, line, events, code);
    pthread_mutex_unlock(&line->lock);
}

void line_free(line_t *line) {
    if (line->capture) capture_release(line->capture);
    free(line->expected.text);
    pthread_mutex_destroy(&line->lock);
    free(line);
}

static void free_closed(loop_t *loop) {
    pthread_mutex_lock(&loop->lock);
    line_t *line = loop->closed;
    loop->closed = NULL;
    pthread_mutex_unlock(&loop->lock);
    while (line) {
        line_t *next = line->next;
        line_free(line);
        line = next;
    }
}

/* Once a round: is it worth while to sleep through the next ones? */
static void look_at_pace(pace_t *pace, int64_t now) {
    const int64_t passed = now - pace->since_ns;
    if (passed < 10 * ROUND_NS) return;
    if (pace->joined * SOME_COALESCED > pace->pieces) pace->quiet_until_ns = now + QUIET_NS;
    pace->busy = now >= pace->quiet_until_ns && pace->ready * ROUND_NS > BUSY_READY * passed;
    pace->since_ns = now;
    pace->ready = pace->pieces = pace->joined = 0;
}

static void sleep_until(int64_t at_ns) {
    struct timespec t = {at_ns / SECOND_NS, at_ns % SECOND_NS};
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL);
}

/* Between two reads of a stream its memory leaves the cache: ask for that of the next ones now. A capture may be
   freed meanwhile, so only its address is used. */
static void fetch_ahead(const struct epoll_event *ready, int count) {
    if (count > 2) __builtin_prefetch(ready[2].data.ptr, 1);
    if (count < 2 || !ready[1].data.ptr) return;
    const line_t *line = ready[1].data.ptr;
    __builtin_prefetch(__atomic_load_n(&line->capture, __ATOMIC_RELAXED), 1);
}

static void *run(void *argument) {
    loop_t *loop = argument;
    struct epoll_event ready[MAX_READY];
    pace_t pace = {.since_ns = now_ns()};
    int64_t since_ns = 0, round_ns = 0;
    prctl(PR_SET_NAME, "squall-reactor");
    prctl(PR_SET_TIMERSLACK, 1000);
    for (;;) {
        free_closed(loop);
        if (pace.busy) {
            const int64_t now = now_ns();
            round_ns = round_ns + ROUND_NS > now ? round_ns + ROUND_NS : now + ROUND_NS;
            sleep_until(round_ns);
        }
        const int64_t called_ns = now_ns();
        const int awaited = __atomic_load_n(&loop->awaited, __ATOMIC_RELAXED);
        const int count = epoll_wait(loop->epoll, ready, MAX_READY, awaited ? LOOK_MS : -1);
        for (int n = 0; n < count; n++) {
            if (!ready[n].data.ptr) return NULL;
            fetch_ahead(ready + n, count - n);
            serve(loop, ready[n].data.ptr, since_ns, &pace);
        }
        /* What wasn't ready at this look can't have come before it began; if not all were shown, who knows. */
        since_ns = count < MAX_READY ? called_ns : 0;
        pace.ready += count > 0 ? count : 0;
        look_at_pace(&pace, called_ns);
    }
}

int loop_start(loop_t *loop) {
    *loop = (loop_t){.epoll = epoll_create1(EPOLL_CLOEXEC), .wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK),
                     .stop = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
    int error = 0;
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    if (loop->epoll < 0 || loop->wake < 0 || loop->stop < 0 || epoll_ctl(loop->epoll, EPOLL_CTL_ADD, loop->stop, &event))
        error = errno;
    pthread_mutex_init(&loop->lock, NULL);
    if (!error) {
        sigset_t all, before; /* signals are for Python's threads */
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &before);
        error = pthread_create(&loop->thread, NULL, run, loop);
        pthread_sigmask(SIG_SETMASK, &before, NULL);
    }
    if (error) {
        if (loop->epoll >= 0) close(loop->epoll);
        if (loop->wake >= 0) close(loop->wake);
        if (loop->stop >= 0) close(loop->stop);
        pthread_mutex_destroy(&loop->lock);
    }
    return error;
}

void loop_stop(loop_t *loop) {
    eventfd_write(loop->stop, 1);
    pthread_join(loop->thread, NULL);
    int events, code;
    while (loop_take(loop, &events, &code)) continue;
    free_closed(loop);
    close(loop->epoll);
    close(loop->wake);
    close(loop->stop);
    pthread_mutex_destroy(&loop->lock);
}
