/* Where an answer ends, for the usual answer: HTTP/1.1 200 with a plain head and plain chunks.

   A strict subset of what harness/traffic/http1.py accepts. Whatever is outside it is ODD, and then Python
   is asked after every piece. So this file may be stricter than Python, never more lenient. */
#ifndef SQUALL_FRAMING_H
#define SQUALL_FRAMING_H
#include <stddef.h>
#include <stdint.h>

enum framing_state { FRAMING_HEAD, FRAMING_SIZE, FRAMING_SIZE_LF, FRAMING_DATA, FRAMING_DATA_CR, FRAMING_DATA_LF,
                     FRAMING_LAST_CR, FRAMING_LAST_LF, FRAMING_END, FRAMING_ODD };

typedef struct {
    enum framing_state state;
    int digits;    /* of the size line so far */
    uint64_t left; /* bytes of the chunk still to come, or the size read so far */
} framing_t;

void framing_reset(framing_t *framing);

/* Read the bytes [from, to) of an answer that begins at `bytes`. */
void framing_feed(framing_t *framing, const char *bytes, size_t from, size_t to);

/* Does the next byte begin a chunk of the body? */
int framing_between(const framing_t *framing);

/* Must Python look: is the answer over, or may it be? */
int framing_wants_look(const framing_t *framing);

/* Length of a head that ends within the first `size` bytes, empty line included; 0: there is none yet. */
size_t framing_head_size(const char *bytes, size_t size);

/* The chunk of usual size, not the last one, with which `size` bytes begin: its size with all around it (0: there is
   none, or not all of it), where its data begin and how long they are. */
size_t framing_chunk(const char *bytes, size_t size, size_t *data, size_t *length);

/* Is a piece exactly one such chunk? */
int framing_whole(const char *piece, size_t size, size_t *data, size_t *length);
#endif
