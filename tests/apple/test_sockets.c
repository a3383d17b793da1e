/* Stream sockets between guest and host on the stand-in: who listens, who connects, and whose descriptors are
 * closed. */
#include <errno.h>
#include <poll.h>
#include <sys/socket.h>

#include "api.h"
#include "util/base.h"

#define PORT 1024u
#define VZ "VZErrorDomain"

struct ends {
    struct yado_machine *m;
    struct heard h;
    struct yado_socket_connection last;
    bool accepts;
    unsigned asked, connected;
    struct yado_error error; /* of the last connect */
};

static bool on_accept(void *ctx, const struct yado_socket_connection *c)
{
    struct ends *e = ctx;

    e->asked++;
    e->last = *c;
    return e->accepts;
}

static void on_connected(void *ctx, const struct yado_socket_connection *c, const struct yado_error *err)
{
    struct ends *e = ctx;

    e->connected++;
    if (c)
        e->last = *c;
    e->error = err ? *err : (struct yado_error)YADO_ERROR_INIT;
}

/* A running machine with a socket device. False, and the test is skipped, where the engine has none yet. */
static bool begin(struct ends *e)
{
    struct yado_config *c = api_config();
    struct yado_error err = YADO_ERROR_INIT;

    memset(e, 0, sizeof(*e));
    e->accepts = true;
    yado_config_add_socket(c, yado_virtio_socket_new());
    if (!yado_config_validate(c, &err)) {
        assert_int_equal(err.code, YADO_ERR_UNSUPPORTED);
        yado_config_free(c);
        return false;
    }
    e->m = api_machine(c, &e->h);
    api_do(e->m, &e->h, yado_machine_start);
    assert_string_equal(e->h.last.message, "");
    return true;
}

static void wait_for(struct ends *e, const unsigned *counter, unsigned value)
{
    for (int i = 0; i < 10000 && *counter < value; i++) {
        yado_machine_dispatch(e->m);
        usleep(1000);
    }
    assert_int_equal(*counter, value);
}

/* What one end writes is read at the other, both ways; then the end of one is seen at the other. */
static void joined(int a, int b)
{
    char text[8] = "";

    assert_int_equal(write(a, "ping", 4), 4);
    assert_int_equal(recv(b, text, 4, MSG_WAITALL), 4);
    assert_string_equal(text, "ping");
    assert_int_equal(write(b, "pong", 4), 4);
    assert_int_equal(recv(a, text, 4, MSG_WAITALL), 4);
    assert_string_equal(text, "pong");
}

/* The stream's end comes, within 10 s. */
static void ended(int fd)
{
    struct pollfd p = { fd, POLLIN, 0 };
    char c;

    assert_int_equal(poll(&p, 1, 10000), 1);
    assert_true(read(fd, &c, 1) <= 0);
}

static void the_guest_connects(void **state)
{
    struct ends e;
    int fd;

    (void)state;
    if (!begin(&e))
        skip();
    assert_true(yado_machine_set_socket_listener(e.m, PORT, on_accept, &e, NULL));
    standin_guest_connects(0, PORT, &fd);
    wait_for(&e, &e.asked, 1);
    assert_int_equal(e.last.destination_port, PORT);
    assert_int_equal(e.last.source_port, 49152);
    joined(fd, e.last.fd);
    close(e.last.fd);
    ended(fd);
    close(fd);
    standin_guest_connects(0, PORT, &fd); /* and the other way round */
    wait_for(&e, &e.asked, 2);
    joined(e.last.fd, fd);
    close(fd);
    ended(e.last.fd);
    close(e.last.fd);
    yado_machine_free(e.m);
}

static void a_guest_is_refused(void **state)
{
    struct ends e;
    int fd;

    (void)state;
    if (!begin(&e))
        skip();
    standin_guest_connects(0, PORT, &fd); /* nobody listens */
    ended(fd);
    close(fd);
    e.accepts = false;
    assert_true(yado_machine_set_socket_listener(e.m, PORT, on_accept, &e, NULL));
    standin_guest_connects(0, PORT, &fd);
    wait_for(&e, &e.asked, 1);
    ended(fd);
    close(fd);
    yado_machine_remove_socket_listener(e.m, PORT);
    standin_guest_connects(0, PORT, &fd);
    ended(fd);
    close(fd);
    assert_int_equal(e.asked, 1);
    yado_machine_free(e.m);
}

/* The listener goes when the framework has found it and has not asked yet: the connection is refused at once,
 * and does not wait for an answer that nobody will give. */
static void a_listener_vanishes(void **state)
{
    struct guest_connect *held;
    struct ends e;
    int fd;

    (void)state;
    if (!begin(&e))
        skip();
    assert_true(yado_machine_set_socket_listener(e.m, PORT, on_accept, &e, NULL));
    held = standin_guest_connect_hold(0, PORT, &fd);
    yado_machine_remove_socket_listener(e.m, PORT);
    assert_false(standin_guest_connect_release(held));
    ended(fd);
    close(fd);
    yado_machine_dispatch(e.m);
    assert_int_equal(e.asked, 0);
    assert_true(yado_machine_set_socket_listener(e.m, PORT, on_accept, &e, NULL));
    held = standin_guest_connect_hold(0, PORT, &fd); /* and one whose listener stays is taken */
    assert_true(standin_guest_connect_release(held));
    wait_for(&e, &e.asked, 1);
    joined(fd, e.last.fd);
    close(e.last.fd);
    close(fd);
    yado_machine_free(e.m);
}

static void the_host_connects(void **state)
{
    struct ends e;
    int fd;

    (void)state;
    if (!begin(&e))
        skip();
    assert_true(yado_machine_connect_socket(e.m, 5000, on_connected, &e));
    wait_for(&e, &e.connected, 1);
    if (e.error.code != YADO_ERR_REFUSED)
        fail_msg("code %d: %s", e.error.code, e.error.message);
    standin_guest_listens(0, 5000);
    assert_true(yado_machine_connect_socket(e.m, 5000, on_connected, &e));
    wait_for(&e, &e.connected, 2);
    assert_string_equal(e.error.message, "");
    assert_int_equal(e.last.destination_port, 5000);
    fd = standin_guest_accepts(0, 5000);
    assert_true(fd >= 0);
    joined(e.last.fd, fd);
    close(e.last.fd);
    ended(fd);
    close(fd);
    standin_fail_next("connectToPort:completionHandler:", VZ, 1, "It broke.", NULL);
    assert_true(yado_machine_connect_socket(e.m, 5000, on_connected, &e));
    wait_for(&e, &e.connected, 3);
    assert_non_null(strstr(e.error.message, "It broke"));
    yado_machine_free(e.m);
}

/* A connection outlives the machine, and reads the end then. Listeners stay over stops and starts. */
static void connections_when_it_stops(void **state)
{
    struct ends e;
    int fd;

    (void)state;
    if (!begin(&e))
        skip();
    assert_true(yado_machine_set_socket_listener(e.m, PORT, on_accept, &e, NULL));
    standin_guest_connects(0, PORT, &fd);
    wait_for(&e, &e.asked, 1);
    api_do(e.m, &e.h, yado_machine_stop);
    close(fd);
    ended(e.last.fd);
    close(e.last.fd);
    api_do(e.m, &e.h, yado_machine_start);
    standin_guest_connects(0, PORT, &fd);
    wait_for(&e, &e.asked, 2);
    joined(e.last.fd, fd);
    close(e.last.fd);
    close(fd);
    yado_machine_free(e.m);
}

/* Many at a time, the ends closed in another order. */
static void many_connections(void **state)
{
    struct ends e;
    int guest[20], host[20];

    (void)state;
    if (!begin(&e))
        skip();
    assert_true(yado_machine_set_socket_listener(e.m, PORT, on_accept, &e, NULL));
    for (unsigned i = 0; i < array_size(guest); i++) {
        standin_guest_connects(0, PORT, &guest[i]);
        wait_for(&e, &e.asked, i + 1);
        host[i] = e.last.fd;
    }
    for (unsigned i = 0; i < array_size(guest); i++)
        joined(guest[i], host[i]);
    for (unsigned i = 0; i < array_size(guest); i++)
        close(guest[i]);
    for (unsigned i = array_size(guest); i-- > 0;) {
        ended(host[i]);
        close(host[i]);
    }
    yado_machine_free(e.m);
}

/* The framework may answer after the run, or after the machine: who asked was told then, once. */
static void a_late_answer(void **state)
{
    struct ends e;

    (void)state;
    if (!begin(&e))
        skip();
    standin_guest_listens(0, 5000);
    standin_connects_hold();
    assert_true(yado_machine_connect_socket(e.m, 5000, on_connected, &e));
    assert_true(yado_machine_connect_socket(e.m, 5001, on_connected, &e));
    for (int i = 0; i < 10000 && standin_count("connectToPort:completionHandler:") < 2; i++)
        usleep(1000);
    api_do(e.m, &e.h, yado_machine_stop);
    wait_for(&e, &e.connected, 2);
    assert_int_equal(e.error.code, YADO_ERR_STATE);
    yado_machine_free(e.m);
    standin_connects_answer();
    assert_int_equal(e.connected, 2);
}

#define T(f) cmocka_unit_test_setup_teardown(f, api_begin, api_end)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(the_guest_connects),        T(a_guest_is_refused), T(a_listener_vanishes), T(the_host_connects),
        T(connections_when_it_stops), T(many_connections),   T(a_late_answer),
    };

    standin_init();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
