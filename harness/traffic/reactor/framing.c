#define _GNU_SOURCE
#include "framing.h"

#include <string.h>
#include <strings.h>

enum { MAX_LINES = 64, MAX_DIGITS = 8, USUAL_DIGITS = 3, USUAL_SIZE = 2048 };

void framing_reset(framing_t *framing) { *framing = (framing_t){.state = FRAMING_HEAD}; }

static int hex(unsigned char c) {
    if (c >= '0' && c <= '9') return c - '0';
    c |= 32;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

size_t framing_head_size(const char *bytes, size_t size) {
    const char *end = memmem(bytes, size, "\r\n\r\n", 4);
    return end ? (size_t)(end - bytes) + 4 : 0;
}

static int is_name(unsigned char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_';
}

static int is_field(const char *line, size_t size, const char *name) {
    size_t length = strlen(name);
    return size > length && line[length] == ':' && !strncasecmp(line, name, length);
}

/* Is "name: value" as everybody writes it? */
static int is_plain_field(const char *line, size_t size) {
    size_t at = 0;
    while (at < size && is_name((unsigned char)line[at])) at++;
    if (at == 0 || at == size || line[at] != ':') return 0;
    for (at++; at < size; at++)
        if ((unsigned char)line[at] < 0x20 || (unsigned char)line[at] > 0x7e) return 0;
    return 1;
}

static int says_chunked(const char *line, size_t size) {
    size_t from = strlen("transfer-encoding:");
    while (from < size && line[from] == ' ') from++;
    while (size > from && line[size - 1] == ' ') size--;
    return size - from == strlen("chunked") && !strncasecmp(line + from, "chunked", strlen("chunked"));
}

/* Status 200, plain fields, chunked and nothing else that could decide where the body ends. */
static int is_plain_head(const char *head, size_t size) {
    static const char status[] = "HTTP/1.1 200 ";
    int chunked = 0, lines = 0;
    if (size < sizeof status || memcmp(head, status, sizeof status - 1)) return 0;
    for (size_t at = 0; at < size - 2; lines++) {
        const char *line = head + at;
        const char *end = memmem(line, size - at, "\r\n", 2);
        size_t length = (size_t)(end - line);
        if (lines == 0) {
            for (size_t n = 0; n < length; n++)
                if ((unsigned char)line[n] < 0x20 || (unsigned char)line[n] > 0x7e) return 0;
        } else {
            if (!is_plain_field(line, length) || lines > MAX_LINES) return 0;
            if (is_field(line, length, "content-length")) return 0;
            if (is_field(line, length, "transfer-encoding")) {
                if (chunked || !says_chunked(line, length)) return 0;
                chunked = 1;
            }
        }
        at += length + 2;
    }
    return chunked;
}

static void feed_head(framing_t *framing, const char *bytes, size_t to, size_t *from) {
    size_t size = framing_head_size(bytes, to);
    if (!size) return;
    if (is_plain_head(bytes, size)) {
        framing->state = FRAMING_SIZE;
        *from = size;
    } else {
        framing->state = FRAMING_ODD;
    }
}

static enum framing_state feed_size(framing_t *framing, unsigned char c) {
    int digit = hex(c);
    if (digit >= 0 && framing->digits < MAX_DIGITS) {
        framing->left = framing->left * 16 + (uint64_t)digit;
        framing->digits++;
        return FRAMING_SIZE;
    }
    return c == '\r' && framing->digits ? FRAMING_SIZE_LF : FRAMING_ODD;
}

static enum framing_state feed_byte(framing_t *framing, unsigned char c) {
    switch (framing->state) {
    case FRAMING_SIZE:
        return feed_size(framing, c);
    case FRAMING_SIZE_LF:
        framing->digits = 0;
        return c != '\n' ? FRAMING_ODD : framing->left ? FRAMING_DATA : FRAMING_LAST_CR;
    case FRAMING_DATA_CR:
        return c == '\r' ? FRAMING_DATA_LF : FRAMING_ODD;
    case FRAMING_DATA_LF:
        return c == '\n' ? FRAMING_SIZE : FRAMING_ODD;
    case FRAMING_LAST_CR:
        return c == '\r' ? FRAMING_LAST_LF : FRAMING_ODD;
    case FRAMING_LAST_LF:
        return c == '\n' ? FRAMING_END : FRAMING_ODD;
    default:
        return framing->state;
    }
}

void framing_feed(framing_t *framing, const char *bytes, size_t from, size_t to) {
    if (framing->state == FRAMING_HEAD) {
        feed_head(framing, bytes, to, &from);
        if (framing->state == FRAMING_HEAD) return;
    }
    while (from < to && framing->state != FRAMING_END && framing->state != FRAMING_ODD) {
        if (framing->state == FRAMING_DATA) {
            size_t part = to - from < framing->left ? to - from : framing->left;
            from += part;
            framing->left -= part;
            if (!framing->left) framing->state = FRAMING_DATA_CR;
        } else {
            framing->state = feed_byte(framing, (unsigned char)bytes[from++]);
        }
    }
}

int framing_between(const framing_t *framing) { return framing->state == FRAMING_SIZE && !framing->digits; }

int framing_wants_look(const framing_t *framing) {
    return framing->state == FRAMING_HEAD || framing->state == FRAMING_END || framing->state == FRAMING_ODD;
}

size_t framing_chunk(const char *bytes, size_t size, size_t *data, size_t *length) {
    size_t digits = 0, value = 0;
    while (digits < size && digits < USUAL_DIGITS && hex((unsigned char)bytes[digits]) >= 0)
        value = value * 16 + (size_t)hex((unsigned char)bytes[digits++]);
    const size_t all = digits + 2 + value + 2;
    if (!value || value >= USUAL_SIZE || bytes[0] == '0' || all > size) return 0;
    if (memcmp(bytes + digits, "\r\n", 2) || memcmp(bytes + all - 2, "\r\n", 2)) return 0;
    *data = digits + 2;
    *length = value;
    return all;
}

int framing_whole(const char *piece, size_t size, size_t *data, size_t *length) {
    return size && framing_chunk(piece, size, data, length) == size;
}
