/* The pump between a guest's port and descriptors of the host. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "pump_guest.h"

static struct pump *pump_make(struct guest *g, int read_fd, int write_fd)
{
    guest_begin(g, (struct pump_ends){ .read_fd = read_fd, .write_fd = write_fd, .listen_fd = -1 }, false);
    return g->p;
}

static void test_both_ways(void **state)
{
    struct guest g;
    int in[2], out[2];
    struct pump *p;
    char buf[16];

    (void)state;
    assert_int_equal(pipe(in), 0);
    assert_int_equal(pipe(out), 0);
    p = pump_make(&g, in[0], out[1]);
    assert_int_equal(write(in[1], "hello", 5), 5);
    wait_for(&g, g.len == 5);
    assert_memory_equal(g.bytes, "hello", 5);
    assert_int_equal(pump_write(p, (const uint8_t *)"world!", 6), 6);
    pump_free(p); /* writes out what is left */
    assert_int_equal(read(out[0], buf, sizeof(buf)), 6);
    assert_memory_equal(buf, "world!", 6);
    /* The embedder's open files are as they were. */
    assert_false(fcntl(in[0], F_GETFL) & O_NONBLOCK);
    assert_false(fcntl(out[1], F_GETFL) & O_NONBLOCK);
    for (int i = 0; i < 2; i++) {
        close(in[i]);
        close(out[i]);
    }
}

static void test_input_waits_for_room(void **state)
{
    struct guest g;
    int in[2];
    struct pump *p;

    (void)state;
    assert_int_equal(pipe(in), 0);
    p = pump_make(&g, in[0], -1);
    guest_limit(&g, 3);
    assert_int_equal(write(in[1], "abcdef", 6), 6);
    wait_for(&g, g.len == 3);
    guest_limit(&g, sizeof(g.bytes));
    pump_room(p);
    wait_for(&g, g.len == 6);
    assert_memory_equal(g.bytes, "abcdef", 6);
    pump_free(p);
    close(in[0]);
    close(in[1]);
}

/* Nobody reads: the pump takes what it can hold, and says when it can take more. */
static void test_output_is_bounded(void **state)
{
    static uint8_t block[4096];
    struct guest g;
    int out[2];
    struct pump *p;
    size_t taken = 0, n, seen = 0;
    char sink[4096];

    (void)state;
    assert_int_equal(pipe(out), 0);
    p = pump_make(&g, -1, out[1]);
    do {
        n = pump_write(p, block, sizeof(block));
        taken += n;
    } while (n == sizeof(block) && taken < (16u << 20));
    assert_true(taken < (1u << 20));
    while (seen < taken) {
        ssize_t got = read(out[0], sink, sizeof(sink));

        assert_true(got > 0);
        seen += (size_t)got;
    }
    wait_for(&g, g.ready == 1);
    pump_free(p);
    close(out[0]);
    close(out[1]);
}

struct writer {
    struct pump *p;
    _Atomic bool done;
};

static void *writer_main(void *arg)
{
    struct writer *w = arg;
    static uint8_t block[1u << 20];

    pump_write_all(w->p, block, sizeof(block));
    atomic_store(&w->done, true);
    return NULL;
}

/* A chip that cannot hold bytes back waits, until the machine is in a hurry. */
static void test_hurry_lets_go(void **state)
{
    struct guest g;
    struct writer w = { 0 };
    pthread_t thread;
    int out[2];

    (void)state;
    assert_int_equal(pipe(out), 0);
    w.p = pump_make(&g, -1, out[1]);
    pthread_create(&thread, NULL, writer_main, &w);
    usleep(50000);
    assert_false(atomic_load(&w.done));
    pump_hurry(w.p, true);
    pthread_join(thread, NULL);
    assert_true(atomic_load(&w.done));
    pump_free(w.p); /* gives up on the reader after its limit */
    close(out[0]);
    close(out[1]);
}

static void test_reader_gone(void **state)
{
    static uint8_t block[65536];
    struct guest g;
    int out[2];
    struct pump *p;

    (void)state;
    assert_int_equal(pipe(out), 0);
    p = pump_make(&g, -1, out[1]);
    close(out[0]);
    for (int i = 0; i < 64; i++)
        pump_write_all(p, block, sizeof(block)); /* dropped: must neither wait nor raise SIGPIPE */
    pump_free(p);
    close(out[1]);
}

/* epoll refuses regular files; a script may well be standard input. */
static void test_regular_file(void **state)
{
    char path[] = "/tmp/yado-test-pump-XXXXXX";
    struct guest g;
    int fd = mkstemp(path);
    struct pump *p;

    (void)state;
    assert_true(fd >= 0);
    unlink(path);
    assert_int_equal(write(fd, "file", 4), 4);
    assert_int_equal(lseek(fd, 0, SEEK_SET), 0);
    p = pump_make(&g, fd, -1);
    wait_for(&g, g.len == 4);
    assert_memory_equal(g.bytes, "file", 4);
    pump_free(p);
    close(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_both_ways),         cmocka_unit_test(test_input_waits_for_room),
        cmocka_unit_test(test_output_is_bounded), cmocka_unit_test(test_hurry_lets_go),
        cmocka_unit_test(test_reader_gone),       cmocka_unit_test(test_regular_file),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
