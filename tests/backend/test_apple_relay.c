/* Pairs of sockets joined by a relay. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "backend/apple/relay.h"

/* ends[0] and ends[1] are the outer ends of a joined pair. */
static void joined(struct relays *r, int ends[2])
{
    int left[2], right[2];

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, left), 0);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, right), 0);
    ends[0] = left[0];
    ends[1] = right[0];
    assert_true(relays_add(r, left[1], right[1]));
}

/* Reads exactly len bytes, within ten seconds each. */
static void expect(int fd, const char *bytes, size_t len)
{
    char got[64];

    for (size_t n = 0; n < len;) {
        struct pollfd p = { .fd = fd, .events = POLLIN };
        ssize_t k;

        assert_int_equal(poll(&p, 1, 10000), 1);
        k = read(fd, got + n, len - n);
        assert_true(k > 0);
        n += (size_t)k;
    }
    assert_memory_equal(got, bytes, len);
}

static void expect_end(int fd)
{
    struct pollfd p = { .fd = fd, .events = POLLIN };
    char c;

    assert_int_equal(poll(&p, 1, 10000), 1);
    assert_int_equal(read(fd, &c, 1), 0);
}

static void passes_both_ways(void **state)
{
    struct relays *r = relays_new(NULL);
    int ends[2];

    (void)state;
    assert_non_null(r);
    joined(r, ends);
    assert_int_equal(write(ends[0], "ping", 4), 4);
    expect(ends[1], "ping", 4);
    assert_int_equal(write(ends[1], "pong!", 5), 5);
    expect(ends[0], "pong!", 5);
    close(ends[0]);
    expect_end(ends[1]);
    close(ends[1]);
    relays_free(r);
}

/* What was written before the end arrives, and the other direction goes on. */
static void half_closes(void **state)
{
    struct relays *r = relays_new(NULL);
    int ends[2];

    (void)state;
    joined(r, ends);
    assert_int_equal(write(ends[0], "last", 4), 4);
    shutdown(ends[0], SHUT_WR);
    expect(ends[1], "last", 4);
    expect_end(ends[1]);
    assert_int_equal(write(ends[1], "more", 4), 4);
    expect(ends[0], "more", 4);
    close(ends[1]);
    expect_end(ends[0]);
    close(ends[0]);
    relays_free(r);
}

/* A reader that is gone is told to the writer. */
static void reader_vanishes(void **state)
{
    struct relays *r = relays_new(NULL);
    static char block[65536];
    int ends[2];
    bool told = false;

    (void)state;
    signal(SIGPIPE, SIG_IGN);
    joined(r, ends);
    close(ends[1]);
    for (int i = 0; i < 10000 && !told; i++) {
        struct pollfd p = { .fd = ends[0], .events = POLLOUT };

        poll(&p, 1, 100);
        told = send(ends[0], block, sizeof(block), MSG_DONTWAIT) < 0 && errno == EPIPE;
    }
    assert_true(told);
    close(ends[0]);
    relays_free(r);
}

#define STREAM_SIZE (4u << 20)

struct stream {
    int fd;
    uint32_t seed;
    bool ok;
};

static void *stream_write(void *arg)
{
    struct stream *s = arg;
    uint32_t x = s->seed;

    for (unsigned n = 0; n < STREAM_SIZE; n += 512) {
        uint8_t block[512];

        for (unsigned i = 0; i < sizeof(block); i++)
            block[i] = (uint8_t)((x = x * 1664525 + 1013904223) >> 24);
        for (size_t off = 0; off < sizeof(block);) {
            ssize_t k = write(s->fd, block + off, sizeof(block) - off);

            if (k <= 0)
                return NULL;
            off += (size_t)k;
        }
    }
    shutdown(s->fd, SHUT_WR);
    s->ok = true;
    return NULL;
}

static void *stream_read(void *arg)
{
    struct stream *s = arg;
    uint32_t x = s->seed;
    uint8_t block[3000];
    size_t total = 0;
    ssize_t k;

    while ((k = read(s->fd, block, sizeof(block))) > 0) {
        for (ssize_t i = 0; i < k; i++) {
            x = x * 1664525 + 1013904223;
            if (block[i] != (uint8_t)(x >> 24))
                return NULL;
        }
        total += (size_t)k;
    }
    s->ok = k == 0 && total == STREAM_SIZE;
    return NULL;
}

/* Several pairs at once, both ways, more than any buffer holds: every byte in its place. */
static void streams(void **state)
{
    enum { PAIRS = 4 };
    struct relays *r = relays_new(NULL);
    struct stream s[PAIRS][4];
    pthread_t t[PAIRS][4];
    int ends[PAIRS][2];

    (void)state;
    for (unsigned i = 0; i < PAIRS; i++) {
        joined(r, ends[i]);
        for (unsigned k = 0; k < 4; k++) {
            s[i][k] = (struct stream){ .fd = ends[i][k & 1], .seed = 2 * i + (k == 0 || k == 3) };
            pthread_create(&t[i][k], NULL, k < 2 ? stream_write : stream_read, &s[i][k]);
        }
    }
    for (unsigned i = 0; i < PAIRS; i++) {
        for (unsigned k = 0; k < 4; k++) {
            pthread_join(t[i][k], NULL);
            assert_true(s[i][k].ok);
        }
        close(ends[i][0]);
        close(ends[i][1]);
    }
    relays_free(r);
}

/* The end of the relay is the end of its pairs, and no descriptor stays open. */
static void free_closes_all(void **state)
{
    int before = dup(0), after, ends[2];
    struct relays *r;

    (void)state;
    close(before);
    r = relays_new(NULL);
    for (unsigned i = 0; i < 50; i++) {
        joined(r, ends);
        if (i < 49) {
            close(ends[0]);
            close(ends[1]);
        }
    }
    relays_free(r);
    expect_end(ends[0]);
    expect_end(ends[1]);
    close(ends[0]);
    close(ends[1]);
    after = dup(0);
    close(after);
    assert_int_equal(before, after);
    relays_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(passes_both_ways), cmocka_unit_test(half_closes),
        cmocka_unit_test(reader_vanishes),  cmocka_unit_test(streams),
        cmocka_unit_test(free_closes_all),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
