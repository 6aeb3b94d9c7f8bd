#include "capture.h"

#include <stdlib.h>
#include <string.h>

#include "framing.h"

enum { FIRST_BYTES = 65536, FIRST_PIECES = 256, WORD = 4, CACHE_LINE = 64, FETCHED_BYTES = 512 };
static const uint32_t NO_WINDOW = UINT32_MAX;
static const int64_t STEP_NS = 200000;       /* stamps.STEP_NS */
static const double MAX_SLEW_RATIO = 0.0005; /* stamps.MAX_SLEW_RATIO */

capture_t *capture_new(void) {
    capture_t *capture = calloc(1, sizeof *capture);
    if (!capture) return NULL;
    pthread_mutex_init(&capture->lock, NULL);
    capture->holders = 1;
    return capture;
}

void capture_hold(capture_t *capture) { __atomic_add_fetch(&capture->holders, 1, __ATOMIC_RELAXED); }

void capture_release(capture_t *capture) {
    if (__atomic_sub_fetch(&capture->holders, 1, __ATOMIC_ACQ_REL)) return;
    pthread_mutex_destroy(&capture->lock);
    free(capture->pieces);
    free(capture->bytes);
    free(capture);
}

static int grow(void **memory, size_t *room, size_t needed, size_t first, size_t each) {
    if (needed <= *room) return 1;
    size_t more = *room ? *room : first;
    while (more < needed) more *= 2;
    void *larger = realloc(*memory, more * each);
    if (!larger) return 0;
    *memory = larger;
    *room = more;
    return 1;
}

char *capture_room(capture_t *capture) {
    if (!grow((void **)&capture->bytes, &capture->size, capture->used + READ_BYTES, FIRST_BYTES, 1)) return NULL;
    if (!grow((void **)&capture->pieces, &capture->room, capture->count + 1, FIRST_PIECES, sizeof(piece_t)))
        return NULL;
    return capture->bytes + capture->used;
}

void capture_fetch_ahead(const capture_t *capture) {
    if (!capture->model) return;
    __builtin_prefetch(&capture->pieces[capture->count], 1);
    __builtin_prefetch(&capture->pieces[capture->model - 1]);
    for (size_t back = CACHE_LINE; back <= FETCHED_BYTES && back <= capture->used; back += CACHE_LINE)
        __builtin_prefetch(capture->bytes + capture->used - back);
}

size_t capture_begin(const capture_t *capture, size_t index) {
    return index ? capture->pieces[index - 1].end : 0;
}

static const char *kept(const capture_t *capture, size_t index, size_t *size) {
    const size_t from = capture_begin(capture, index);
    *size = capture->pieces[index].end - from;
    return capture->bytes + from;
}

/* Where the window of a model is, from the first byte in which another of its size differs: a word of four
   letters that holds that byte is in it. */
static uint32_t window_at(const char *model, const char *other, size_t size) {
    size_t at = 0;
    while (at < size - 1 && model[at] == other[at]) at++;
    at = at < WORD ? 0 : at - (WORD - 1);
    return (uint32_t)(at > size - WINDOW ? size - WINDOW : at);
}

/* The last piece is one whole chunk: if it is as its model, but for the window, give its bytes back. */
static void fold(capture_t *capture) {
    piece_t *last = &capture->pieces[capture->count - 1];
    size_t size, model_size;
    const char *data = kept(capture, capture->count - 1, &size);
    if (capture->model && size >= WINDOW && size <= FOLDED_BYTES) {
        piece_t *model_piece = &capture->pieces[capture->model - 1];
        const char *model = kept(capture, capture->model - 1, &model_size);
        if (size == model_size) {
            if (model_piece->window_at == NO_WINDOW) model_piece->window_at = window_at(model, data, size);
            const size_t at = model_piece->window_at;
            if (!memcmp(data, model, at) && !memcmp(data + at + WINDOW, model + at + WINDOW, size - at - WINDOW)) {
                last->model = capture->model;
                memcpy(last->window, data + at, WINDOW);
                capture->used = last->end = last->end - size;
                return;
            }
        }
    }
    capture->model = capture->count < UINT32_MAX ? (uint32_t)capture->count : 0;
}

/* Bytes of a read, not before the end of what is kept, become a piece. */
static void append(capture_t *capture, const char *bytes, size_t size, piece_t came) {
    if (bytes != capture->bytes + capture->used) memmove(capture->bytes + capture->used, bytes, size);
    came.end = capture->used += size;
    capture->pieces[capture->count] = came;
    __atomic_store_n(&capture->count, capture->count + 1, __ATOMIC_RELEASE);
}

size_t capture_take(capture_t *capture, size_t size, int64_t kernel_ns, int64_t read_ns, int64_t since_ns, int between) {
    const piece_t came = {.kernel_ns = kernel_ns, .read_ns = read_ns, .since_ns = since_ns, .window_at = NO_WINDOW};
    const char *at = capture->bytes + capture->used;
    const size_t before = capture->count;
    size_t data, length, chunk;
    /* Room for the piece after this one, so that there is always one for the rest. */
    while (between && size && (chunk = framing_chunk(at, size, &data, &length)) &&
           grow((void **)&capture->pieces, &capture->room, capture->count + 2, FIRST_PIECES, sizeof(piece_t))) {
        append(capture, at, chunk, came);
        fold(capture);
        at += chunk;
        size -= chunk;
    }
    if (size) append(capture, at, size, came);
    return capture->count - before;
}

void capture_end(capture_t *capture) {
    void *bytes = capture->used ? realloc(capture->bytes, capture->used) : NULL;
    if (bytes) {
        capture->bytes = bytes;
        capture->size = capture->used;
    }
    void *pieces = capture->count ? realloc(capture->pieces, capture->count * sizeof(piece_t)) : NULL;
    if (pieces) {
        capture->pieces = pieces;
        capture->room = capture->count;
    }
}

int capture_joined(const capture_t *capture, size_t index) {
    size_t size;
    if (index + 1 >= capture->count || capture->pieces[index].read_ns != capture->pieces[index + 1].read_ns) return 0;
    /* The last chunk, which is no body, may follow; one that was folded isn't it. */
    return capture->pieces[index + 1].model || *kept(capture, index + 1, &size) != '0';
}

const char *capture_piece(const capture_t *capture, size_t index, char *scratch, size_t *size) {
    const piece_t *piece = &capture->pieces[index];
    if (!piece->model) return kept(capture, index, size);
    const char *model = kept(capture, piece->model - 1, size);
    memcpy(scratch, model, *size);
    memcpy(scratch + capture->pieces[piece->model - 1].window_at, piece->window, WINDOW);
    return scratch;
}

size_t capture_whole(const capture_t *capture, size_t index) {
    size_t n = index, data, length, size;
    for (; n < capture->count; n++) {
        if (capture->pieces[n].model) continue;
        const char *piece = kept(capture, n, &size);
        if (!framing_whole(piece, size, &data, &length)) break;
    }
    return n - index;
}

static int is_text(const char *text, size_t size) {
    for (size_t n = 0; n < size; n++) {
        unsigned char c = (unsigned char)text[n];
        if (c < 0x20 || c > 0x7e || c == '"' || c == '\\') return 0;
    }
    return size > 0;
}

/* Is this event "data: ", before, a text that may stand there, after, and an empty line? */
static int is_like(const char *event, size_t size, const like_t *like, size_t word) {
    static const char field[] = "data: ";
    const size_t head = sizeof field - 1 + like->before_size, tail = like->after_size + 2;
    if (size <= head + tail || memcmp(event, field, sizeof field - 1)) return 0;
    if (memcmp(event + sizeof field - 1, like->before, like->before_size)) return 0;
    const char *after = event + size - tail;
    if (memcmp(after, like->after, like->after_size) || memcmp(after + like->after_size, "\n\n", 2)) return 0;
    const size_t length = size - head - tail;
    if (!like->step) return is_text(event + head, length);
    return length == WORD && !memcmp(event + head, like->words + WORD * word, WORD);
}

size_t capture_run(const capture_t *capture, size_t index, size_t end, const like_t *like) {
    char scratch[FOLDED_BYTES];
    size_t word = like->start, n = index, data, length, size;
    if (end > capture->count) end = capture->count;
    for (; n < end && n - index < like->limit; n++) {
        const char *piece = capture_piece(capture, n, scratch, &size);
        if (!framing_whole(piece, size, &data, &length) || !is_like(piece + data, length, like, word)) break;
        word = (word + like->step) % like->modulus;
    }
    return n - index;
}

void capture_times(const capture_t *capture, size_t count, int64_t start_ns, int64_t offset_start_ns,
                   int64_t offset_end_ns, int64_t *times) {
    if (!count) return;
    const int64_t drift = offset_end_ns - offset_start_ns, length = capture->pieces[count - 1].read_ns - start_ns;
    const int stepped = (double)llabs(drift) > (double)STEP_NS + (double)length * MAX_SLEW_RATIO;
    const int64_t half = drift >= 0 ? drift / 2 : -((1 - drift) / 2); /* rounded down, as Python does */
    int64_t last = start_ns;
    for (size_t n = 0; n < count; n++) {
        const piece_t *piece = &capture->pieces[n];
        int64_t at = piece->read_ns;
        if (piece->kernel_ns && !stepped && piece->kernel_ns - offset_start_ns - half < at)
            at = piece->kernel_ns - offset_start_ns - half;
        if (at > last) last = at;
        times[n] = last;
    }
}
