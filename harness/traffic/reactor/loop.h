/* A thread that reads sockets into captures and says when Python must look.

   It never takes the interpreter's lock. A line is one connection's socket; it belongs to Python, which alone
   opens, attaches, detaches and closes, and to the thread, which reads; both hold `lock`. */
#ifndef SQUALL_LOOP_H
#define SQUALL_LOOP_H
#include "capture.h"
#include "framing.h"

enum line_event {
    LINE_LOOK = 1,  /* the answer may be over, or must be looked at after each piece */
    LINE_LOST = 2,  /* the peer sends no more; `code` is the error, 0: it closed */
    LINE_LOOSE = 4, /* bytes or an end that belong to no answer */
};

/* Pieces that an eager line need not be looked at for: from `index` on, as `like` says, `like.limit` of them. */
typedef struct {
    like_t like;
    size_t index;
    char *text; /* what like.before and like.after point into, NULL: nothing is expected */
} expected_t;

typedef struct line {
    pthread_mutex_t lock;
    int fd;
    int reading;        /* epoll has it */
    int closed;         /* Python is done with it */
    int spent;          /* it was LOST or LOOSE: no other answer can come */
    int eager;          /* look after each piece */
    expected_t expected;
    int more;           /* the last read was full: there may have been more already */
    int events, code;
    capture_t *capture; /* of the answer that is awaited, NULL: none is */
    framing_t framing;
    void *owner;        /* Python's */
    struct line *next;  /* in the queue of lines with events, or among the closed */
    int queued;
} line_t;

typedef struct {
    pthread_mutex_t lock; /* of the queue and of the closed */
    pthread_t thread;
    int epoll, wake, stop; /* wake: readable while the queue isn't empty; stop: ends the thread */
    line_t *queue, *closed;
    int awaited; /* answers */
} loop_t;

/* errno, or 0. */
int loop_start(loop_t *loop);
void loop_stop(loop_t *loop);

line_t *loop_open(loop_t *loop, int fd, void *owner, int *error);
/* An answer is awaited from now on. 0: the line is spent, nothing will come. */
int loop_attach(loop_t *loop, line_t *line, capture_t *capture, int eager);
/* Be quiet about pieces from `index` on while they are as expected. 0: look at once, one that is there isn't, or
   all have come; -1: no memory. `like->words` must live as long as the capture is attached. */
int loop_expect(line_t *line, size_t index, const like_t *like);
void loop_detach(loop_t *loop, line_t *line);
/* Read no more. */
void loop_pause(loop_t *loop, line_t *line);
/* Forget it; the caller may close the descriptor then. The line is freed when the thread is done with it. */
void loop_close(loop_t *loop, line_t *line);
/* For a line whose loop was stopped before it was closed. */
void line_free(line_t *line);
/* The next line with events, NULL: none is left. Its events are cleared. */
line_t *loop_take(loop_t *loop, int *events, int *code);
/* Make `wake` unreadable; call it before loop_take. */
void loop_drain(loop_t *loop);
#endif
