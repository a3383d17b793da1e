/* What a pump's other side may be: a listening socket with clients that come and go, a pty, other ends while
 * it runs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <termios.h>
#include <unistd.h>

#include "host/pty.h"
#include "host/socket.h"
#include "pump_guest.h"

/* Reads until `want` bytes came, which must be `text`. */
static void expect(int fd, const char *text)
{
    char buf[256];
    size_t len = strlen(text), got = 0;

    while (got < len) {
        ssize_t n = read(fd, buf + got, len - got);

        assert_true(n > 0);
        got += (size_t)n;
    }
    assert_memory_equal(buf, text, len);
}

static size_t put(struct pump *p, const char *text)
{
    return pump_write(p, (const uint8_t *)text, strlen(text));
}

/* ---- sockets ---- */

struct listening {
    char path[64];
    int fd;
    struct socket_file file;
};

static struct pump_ends listening_begin(struct listening *l)
{
    struct pump_ends ends = pump_ends_none();

    snprintf(l->path, sizeof(l->path), "/tmp/yado-test-pump-%d.sock", (int)getpid());
    assert_int_equal(socket_listen_unix(l->path, &l->fd, &l->file), 0);
    ends.listen_fd = l->fd;
    return ends;
}

static void listening_end(struct listening *l)
{
    socket_file_remove(l->path, &l->file);
    close(l->fd);
}

static int client(const struct listening *l)
{
    int fd;

    assert_int_equal(socket_connect_unix(l->path, &fd), 0);
    fcntl(fd, F_SETFL, 0);
    return fd;
}

static void one_client_at_a_time(void **state)
{
    struct listening l;
    struct guest g;
    int a, b;

    (void)state;
    guest_begin(&g, listening_begin(&l), false);
    assert_false(pump_is_connected(g.p));
    assert_int_equal(put(g.p, "to nobody"), 9);
    a = client(&l);
    wait_for(&g, g.is_connected);
    assert_int_equal(put(g.p, "hello a"), 7);
    expect(a, "hello a");
    b = client(&l); /* waits for its turn */
    assert_int_equal(write(b, "from b", 6), 6);
    assert_int_equal(write(a, "from a,", 7), 7);
    wait_for(&g, g.len == 7);
    close(a);
    wait_for(&g, g.len == 13);
    assert_memory_equal(g.bytes, "from a,from b", 13);
    assert_int_equal(g.connects, 2);
    assert_int_equal(g.disconnects, 1);
    put(g.p, "hello b");
    expect(b, "hello b");
    close(b);
    wait_for(&g, !g.is_connected);
    pump_free(g.p);
    listening_end(&l);
}

/* A client that has ended its own sending still reads; what it sent is all there. */
static void half_closed_client_reads(void **state)
{
    struct listening l;
    struct guest g;
    int a;

    (void)state;
    guest_begin(&g, listening_begin(&l), false);
    a = client(&l);
    wait_for(&g, g.is_connected);
    assert_int_equal(write(a, "question", 8), 8);
    shutdown(a, SHUT_WR);
    wait_for(&g, g.len == 8);
    put(g.p, "answer");
    expect(a, "answer");
    assert_true(pump_is_connected(g.p));
    close(a);
    wait_for(&g, !g.is_connected);
    pump_free(g.p);
    listening_end(&l);
}

/* While the guest has its side closed nothing is read, and a client that leaves makes room for the next. */
static void client_leaves_a_closed_guest(void **state)
{
    struct listening l;
    struct guest g;
    int a;

    (void)state;
    guest_begin(&g, listening_begin(&l), true);
    for (unsigned i = 1; i <= 3; i++) {
        a = client(&l);
        wait_for(&g, g.connects == i);
        assert_int_equal(write(a, "unread", 6), 6);
        close(a);
        wait_for(&g, g.disconnects == i);
    }
    assert_int_equal(g.len, 0);
    a = client(&l);
    assert_int_equal(write(a, "read", 4), 4);
    wait_for(&g, g.is_connected);
    pump_guest_open(g.p, true);
    wait_for(&g, g.len == 4);
    assert_memory_equal(g.bytes, "read", 4);
    close(a);
    pump_free(g.p);
    listening_end(&l);
}

/* Everything that a client sent before it left comes, however slowly the guest takes it. */
static void last_words_are_read(void **state)
{
    static char words[6000];
    struct listening l;
    struct guest g;
    int a;

    (void)state;
    for (size_t i = 0; i < sizeof(words); i++)
        words[i] = (char)(i * 7 + i / 256);
    guest_begin(&g, listening_begin(&l), false);
    g.limit = 0;
    a = client(&l);
    assert_int_equal(write(a, words, sizeof(words)), sizeof(words));
    close(a);
    wait_for(&g, g.is_connected);
    for (size_t taken = 500; taken <= sizeof(words); taken += 500) {
        pthread_mutex_lock(&g.lock);
        assert_true(g.is_connected);
        g.limit = taken;
        pthread_mutex_unlock(&g.lock);
        pump_room(g.p);
        wait_for(&g, g.len == taken);
    }
    assert_memory_equal(g.bytes, words, sizeof(words));
    wait_for(&g, !g.is_connected);
    pump_free(g.p);
    listening_end(&l);
}

/* A client that stops reading holds the output back; when it goes, the rest is dropped and the guest may go
 * on; the next one sees none of it. */
static void stopped_client_goes(void **state)
{
    static uint8_t block[4096];
    struct listening l;
    struct guest g;
    int a;

    (void)state;
    guest_begin(&g, listening_begin(&l), false);
    a = client(&l);
    wait_for(&g, g.is_connected);
    /* Until nothing has moved for a while: the socket holds bytes too. */
    for (unsigned i = 0, still = 0; still < 30; i++) {
        assert_true(i < 10000);
        still = pump_write(g.p, block, sizeof(block)) < sizeof(block) ? still + 1 : 0;
        if (still)
            usleep(1000);
    }
    close(a);
    wait_for(&g, !g.is_connected);
    wait_for(&g, g.ready >= 1);
    assert_int_equal(pump_write(g.p, block, sizeof(block)), sizeof(block));
    a = client(&l);
    wait_for(&g, g.is_connected);
    put(g.p, "fresh");
    expect(a, "fresh");
    close(a);
    pump_free(g.p);
    listening_end(&l);
}

/* ---- pty ---- */

static void pty_is_followed(void **state)
{
    struct winsize size = { .ws_col = 101, .ws_row = 33 };
    struct pump_ends ends = pump_ends_none();
    struct pty pty;
    struct guest g;
    int fd;

    (void)state;
    assert_true(pty_open(&pty, NULL));
    ends.read_fd = ends.write_fd = pty.master;
    ends.is_pty = true;
    guest_begin(&g, ends, false);
    for (unsigned i = 1; i <= 2; i++) {
        assert_int_equal(put(g.p, "to nobody"), 9);
        fd = open(pty.path, O_RDWR | O_NOCTTY);
        assert_true(fd >= 0);
        wait_for(&g, g.connects == i);
        put(g.p, "line\n"); /* raw: nothing is added */
        expect(fd, "line\n");
        assert_int_equal(write(fd, "typed", 5), 5);
        wait_for(&g, g.len == 5 * i);
        size.ws_col++;
        assert_int_equal(ioctl(fd, TIOCSWINSZ, &size), 0);
        wait_for(&g, g.columns == 101 + i && g.rows == 33);
        close(fd);
        wait_for(&g, g.disconnects == i);
    }
    pump_free(g.p);
    pty_close(&pty);
}

/* ---- other ends ---- */

static struct pump_ends output_to(int fd)
{
    struct pump_ends ends = pump_ends_none();

    ends.write_fd = fd;
    return ends;
}

/* What the old reader has not taken, which is stopped, goes to the new one: no byte is lost or doubled. */
static void output_goes_on_elsewhere(void **state)
{
    struct pump_ends ends;
    struct guest g;
    int old[2], new[2];
    uint32_t next = 0, seen = 0, word;
    size_t n;

    (void)state;
    assert_int_equal(pipe(old), 0);
    assert_int_equal(pipe(new), 0);
    guest_begin(&g, output_to(old[1]), false);
    do {
        word = next;
        n = pump_write(g.p, (uint8_t *)&word, sizeof(word));
        next += n == sizeof(word);
    } while (n == sizeof(word));
    assert_int_equal(n, 0); /* the ring holds whole words */
    ends = output_to(new[1]);
    assert_true(pump_attach(g.p, &ends, NULL));
    assert_int_equal(g.disconnects, 0);
    for (unsigned i = 0; i < 2; i++) {
        int fd = i ? new[0] : old[0];

        if (i == 0)
            fcntl(fd, F_SETFL, O_NONBLOCK);
        while (seen < next && read(fd, &word, sizeof(word)) == sizeof(word))
            assert_int_equal(word, seen++);
    }
    assert_int_equal(seen, next);
    put(g.p, "more");
    expect(new[0], "more");
    pump_free(g.p);
    for (unsigned i = 0; i < 2; i++) {
        close(old[i]);
        close(new[i]);
    }
}

static void ends_come_and_go(void **state)
{
    const struct pump_ends none = pump_ends_none();
    struct pump_ends ends = none, socket;
    struct listening l;
    struct guest g;
    int in[2], out[2], a;

    (void)state;
    assert_int_equal(pipe(in), 0);
    assert_int_equal(pipe(out), 0);
    guest_begin(&g, none, false);
    assert_int_equal(put(g.p, "to nobody"), 9);
    ends.read_fd = in[0];
    ends.write_fd = out[1];
    assert_true(pump_attach(g.p, &ends, NULL));
    assert_true(g.is_connected);
    put(g.p, "one");
    expect(out[0], "one");
    assert_int_equal(write(in[1], "two", 3), 3);
    wait_for(&g, g.len == 3);
    assert_true(pump_attach(g.p, &none, NULL));
    assert_false(g.is_connected);
    put(g.p, "to nobody");
    socket = listening_begin(&l);
    assert_true(pump_attach(g.p, &socket, NULL));
    a = client(&l);
    wait_for(&g, g.is_connected);
    put(g.p, "three");
    expect(a, "three");
    assert_true(pump_attach(g.p, &ends, NULL)); /* the client reads the end */
    assert_int_equal(read(a, in, 1), 0);
    put(g.p, "four");
    expect(out[0], "four");
    close(a);
    pump_free(g.p);
    listening_end(&l);
    close(out[0]);
    close(out[1]);
}

struct writer {
    struct pump *p;
    volatile bool stop;
};

static void *writer_main(void *arg)
{
    struct writer *w = arg;
    static const uint8_t block[4096];

    while (!__atomic_load_n(&w->stop, __ATOMIC_RELAXED))
        pump_write(w->p, block, sizeof(block));
    return NULL;
}

/* Output as fast as it can be made, to readers that read, stop and close, while the ends change. */
static void ends_change_under_load(void **state)
{
    const struct pump_ends none = pump_ends_none();
    struct writer w = { .stop = false };
    struct pump_ends socket;
    struct listening l;
    struct guest g;
    pthread_t thread;

    (void)state;
    guest_begin(&g, none, false);
    w.p = g.p;
    socket = listening_begin(&l);
    assert_int_equal(pthread_create(&thread, NULL, writer_main, &w), 0);
    for (unsigned round = 0; round < 60; round++) {
        struct pump_ends to = none;
        char buf[4096];
        int out[2], a = -1;

        assert_int_equal(pipe(out), 0);
        to.write_fd = out[1];
        assert_true(pump_attach(g.p, round % 3 == 0 ? &socket : &to, NULL));
        if (round % 3 == 0)
            a = client(&l);
        for (unsigned i = 0; i < round % 4; i++)
            assert_true(read(a >= 0 ? a : out[0], buf, sizeof(buf)) > 0);
        if (a >= 0)
            close(a);
        if (round % 2)
            close(out[0]); /* the reader goes first */
        assert_true(pump_attach(g.p, &none, NULL));
        if (round % 2 == 0)
            close(out[0]);
        close(out[1]);
    }
    __atomic_store_n(&w.stop, true, __ATOMIC_RELAXED);
    pthread_join(thread, NULL);
    pump_free(g.p);
    listening_end(&l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_client_at_a_time),         cmocka_unit_test(half_closed_client_reads),
        cmocka_unit_test(client_leaves_a_closed_guest), cmocka_unit_test(last_words_are_read),
        cmocka_unit_test(stopped_client_goes),          cmocka_unit_test(pty_is_followed),
        cmocka_unit_test(output_goes_on_elsewhere),     cmocka_unit_test(ends_come_and_go),
        cmocka_unit_test(ends_change_under_load),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
