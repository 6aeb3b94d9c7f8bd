/* What one answer brought: its bytes, and for each read when it ended and when it came.

   The reactor's thread appends while Python may look: both hold `lock`. */
#ifndef SQUALL_CAPTURE_H
#define SQUALL_CAPTURE_H
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>

enum { READ_BYTES = 16384 };

typedef struct {
    size_t end;        /* offset after its last byte */
    int64_t kernel_ns; /* CLOCK_REALTIME, 0: no stamp */
    int64_t read_ns;   /* CLOCK_MONOTONIC */
    int64_t since_ns;  /* CLOCK_MONOTONIC: nothing of it could be read before, 0: not known */
} piece_t;

typedef struct {
    pthread_mutex_t lock;
    piece_t *pieces;
    size_t count, room;
    char *bytes;
    size_t used, size;
    int holders; /* who may free it: Python's object, the line that it is attached to */
} capture_t;

/* What the events of a run look like; see Like in harness/traffic/pieces.py. */
typedef struct {
    const char *before, *after, *words;
    size_t before_size, after_size;
    size_t start, step, limit, modulus;
} like_t;

capture_t *capture_new(void);
void capture_hold(capture_t *capture);
void capture_release(capture_t *capture);

/* Room for READ_BYTES more and one more piece; where to read to, NULL: no memory. Hold the lock. */
char *capture_room(capture_t *capture);
void capture_append(capture_t *capture, size_t size, int64_t kernel_ns, int64_t read_ns, int64_t since_ns);

size_t capture_begin(const capture_t *capture, size_t index);
size_t capture_whole(const capture_t *capture, size_t index);
size_t capture_run(const capture_t *capture, size_t index, size_t end, const like_t *like);

/* Receive times as stamps.resolve says, into `times` (one for each of the first `count` pieces). */
void capture_times(const capture_t *capture, size_t count, int64_t start_ns, int64_t offset_start_ns,
                   int64_t offset_end_ns, int64_t *times);
#endif
