/* What both ends of a test connection say: a request with sizes and a seed, bytes made from the seed, and a
 * hash of what arrived. Sizes are mixed: none, a few, up to 64 KiB, sometimes 1 MiB. By the seed either side
 * closes its half first. No library but libc: the guest's program is static. */
#ifndef TESTS_GUEST_TALK_H
#define TESTS_GUEST_TALK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define TALK_MAGIC 0x6b6c6174u

enum { TALK_ASKER_SHUTS = 1, TALK_ANSWERER_SHUTS = 2 };

struct talk_request {
    uint32_t magic, flags;
    uint32_t up, down; /* bytes after the request, and after the answer's hash */
    uint64_t seed;
};

struct talk_stream {
    uint64_t state, hash;
};

static inline uint64_t talk_mix(uint64_t x)
{
    x ^= x >> 30;
    x *= 0xbf58476d1ce4e5b9ull;
    x ^= x >> 27;
    x *= 0x94d049bb133111ebull;
    return x ^ x >> 31;
}

static inline bool talk_write(int fd, const void *data, size_t len)
{
    for (size_t done = 0; done < len;) {
        ssize_t n = send(fd, (const char *)data + done, len - done, MSG_NOSIGNAL);

        if (n <= 0)
            return false;
        done += (size_t)n;
    }
    return true;
}

static inline bool talk_read(int fd, void *data, size_t len)
{
    for (size_t done = 0; done < len;) {
        ssize_t n = recv(fd, (char *)data + done, len - done, 0);

        if (n <= 0)
            return false;
        done += (size_t)n;
    }
    return true;
}

static inline bool talk_ends(int fd)
{
    char c;

    return recv(fd, &c, 1, 0) == 0;
}

/* Bytes of a seed, in pieces of any length that is a multiple of 8 but the last. */
static inline void talk_make(struct talk_stream *s, uint8_t *data, size_t len)
{
    for (size_t i = 0; i < len; i += 8) {
        uint64_t v = talk_mix(s->state += 0x9e3779b97f4a7c15ull);

        memcpy(data + i, &v, len - i < 8 ? len - i : 8);
    }
}

static inline void talk_hash(struct talk_stream *s, const uint8_t *data, size_t len)
{
    for (size_t i = 0; i < len; i += 8) {
        uint64_t v = 0;

        memcpy(&v, data + i, len - i < 8 ? len - i : 8);
        s->hash = talk_mix(s->hash ^ v) + i;
    }
}

#define TALK_PIECE 65536u

/* Sends or receives `len` bytes of a seed; *hash is of what was sent or received. */
static inline bool talk_bytes(int fd, uint64_t seed, uint32_t len, bool sends, uint64_t *hash)
{
    uint8_t piece[TALK_PIECE];
    struct talk_stream s = { .state = seed };

    while (len) {
        uint32_t n = len < TALK_PIECE ? len : TALK_PIECE;

        if (sends)
            talk_make(&s, piece, n);
        if (!(sends ? talk_write(fd, piece, n) : talk_read(fd, piece, n)))
            return false;
        talk_hash(&s, piece, n);
        len -= n;
    }
    *hash = s.hash;
    return true;
}

static inline uint32_t talk_size(uint64_t r)
{
    switch (r % 16) {
    case 0: return 0;
    case 1: return 1048576 - (uint32_t)(r >> 8) % 10000;
    case 2:
    case 3:
    case 4: return (uint32_t)(r >> 8) % 65536;
    case 5:
    case 6:
    case 7: return (uint32_t)(r >> 8) % 8192;
    default: return (uint32_t)(r >> 8) % 200;
    }
}

/* The asker's part on a connected socket. */
static inline bool talk_ask(int fd, uint64_t seed, uint64_t *moved)
{
    uint64_t r = talk_mix(seed + 1), sent = 0, heard, got = 0;
    struct talk_request q = { .magic = TALK_MAGIC,
                              .flags = r >> 60 & 3,
                              .up = talk_size(r),
                              .down = talk_size(talk_mix(r)),
                              .seed = seed };
    uint64_t down_hash;

    if (!talk_write(fd, &q, sizeof(q)) || !talk_bytes(fd, seed, q.up, true, &sent))
        return false;
    if ((q.flags & TALK_ASKER_SHUTS) && shutdown(fd, SHUT_WR) < 0)
        return false;
    if (!talk_read(fd, &heard, sizeof(heard)) || heard != sent ||
        !talk_read(fd, &down_hash, sizeof(down_hash)) || !talk_bytes(fd, seed, q.down, false, &got) ||
        got != down_hash)
        return false;
    if ((q.flags & TALK_ANSWERER_SHUTS) && !talk_ends(fd))
        return false;
    *moved += q.up + q.down + sizeof(q) + 16;
    return true;
}

/* Hash of `len` bytes of a seed. */
static inline uint64_t talk_hash_of(uint64_t seed, uint32_t len)
{
    uint8_t piece[4096];
    struct talk_stream s = { .state = seed };

    for (uint32_t at = 0; at < len;) {
        /* In the same pieces as talk_bytes: the hash knows where a piece begins. */
        uint32_t piece_len = len - at < TALK_PIECE ? len - at : TALK_PIECE;

        for (uint32_t i = 0; i < piece_len; i += 8) {
            uint32_t n = piece_len - i < 8 ? piece_len - i : 8;
            uint64_t v = 0;

            talk_make(&s, piece, n);
            memcpy(&v, piece, n);
            s.hash = talk_mix(s.hash ^ v) + i;
        }
        at += piece_len;
    }
    return s.hash;
}

/* The answerer's part. Closes fd. */
static inline bool talk_answer(int fd)
{
    struct talk_request q;
    uint64_t heard = 0, down, sent;
    bool ok =
        talk_read(fd, &q, sizeof(q)) && q.magic == TALK_MAGIC && talk_bytes(fd, q.seed, q.up, false, &heard);

    if (ok && (q.flags & TALK_ASKER_SHUTS))
        ok = talk_ends(fd);
    if (ok) {
        down = talk_hash_of(q.seed, q.down);
        ok = talk_write(fd, &heard, sizeof(heard)) && talk_write(fd, &down, sizeof(down)) &&
             talk_bytes(fd, q.seed, q.down, true, &sent);
    }
    if (ok && (q.flags & TALK_ANSWERER_SHUTS)) {
        ok = shutdown(fd, SHUT_WR) == 0;
        if (!(q.flags & TALK_ASKER_SHUTS))
            talk_ends(fd);
    } else if (ok && !(q.flags & TALK_ASKER_SHUTS)) {
        talk_ends(fd); /* the asker closes first */
    }
    close(fd);
    return ok;
}

#endif
