/* What one answer brought: its bytes, and for each piece when it ended and when it came. A piece is what one read
   brought, or one chunk of that.

   The reactor's thread appends while Python may look: both hold `lock`. */
#ifndef SQUALL_CAPTURE_H
#define SQUALL_CAPTURE_H
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>

enum { READ_BYTES = 16384, WINDOW = 8, FOLDED_BYTES = 2112 };

typedef struct {
    size_t end;        /* offset after its last byte */
    int64_t kernel_ns; /* CLOCK_REALTIME, 0: no stamp */
    int64_t read_ns;   /* CLOCK_MONOTONIC */
    int64_t since_ns;  /* CLOCK_MONOTONIC: nothing of it could be read before, 0: not known */
    uint32_t model;    /* 0: its bytes are kept. Else it is as piece model - 1, but for the window */
    uint32_t window_at; /* of a model: where those that are like it may differ from it */
    char window[WINDOW];
} piece_t;

typedef struct {
    pthread_mutex_t lock;
    piece_t *pieces;
    size_t count, room;
    char *bytes;
    size_t used, size;
    uint32_t model; /* with which the next piece is compared, plus 1 */
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

/* A read of `size` bytes lies there. `between`: it begins between two chunks; then each whole chunk at its beginning is
   a piece of its own. One that differs from one before in a word only gives its bytes back, so most of a stream is read
   into the same warm memory. Returns how many pieces it made. Hold the lock. */
size_t capture_take(capture_t *capture, size_t size, int64_t kernel_ns, int64_t read_ns, int64_t since_ns, int between);

/* Nothing will come any more: give back the room that wasn't used. Hold the lock. */
void capture_end(capture_t *capture);

/* Does more of the same read's body follow piece `index`? */
int capture_joined(const capture_t *capture, size_t index);

/* A piece's bytes; `scratch` (FOLDED_BYTES) is for one that was folded. */
const char *capture_piece(const capture_t *capture, size_t index, char *scratch, size_t *size);

/* The memory that the next read will be compared with and written to, a little before it is needed. */
void capture_fetch_ahead(const capture_t *capture);
size_t capture_begin(const capture_t *capture, size_t index);
size_t capture_whole(const capture_t *capture, size_t index);
size_t capture_run(const capture_t *capture, size_t index, size_t end, const like_t *like);

/* Receive times as stamps.resolve says, into `times` (one for each of the first `count` pieces). */
void capture_times(const capture_t *capture, size_t count, int64_t start_ns, int64_t offset_start_ns,
                   int64_t offset_end_ns, int64_t *times);
#endif
