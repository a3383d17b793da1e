/* Socket devices: listeners and connects on a stand-in backend, and paths on whole machines. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <yado/yado.h>

#include "../machine/tiny_kernel.h"
#include "overlap.h"
#include "api/machine_priv.h"
#include "host/socket.h"

/* ---- the stand-in backend: keeps what it is given ---- */

struct backend {
    struct backend_host host;
    uint64_t tags[8];
    unsigned tag_count;
};

static struct {
    struct backend *live;
    uint64_t answer_id;
    int answer_fd; /* of the last answer */
    unsigned answers;
    int connect_fd;
    uint32_t connect_port;
    bool connect_fails;
} fake;

static bool fake_start(struct backend **out, const struct spec *spec, const struct backend_host *host,
                       struct yado_error *err)
{
    (void)spec;
    (void)err;
    fake.live = calloc(1, sizeof(*fake.live));
    fake.live->host = *host;
    *out = fake.live;
    return true;
}

static void fake_stop(struct backend *b)
{
    struct yado_error err = YADO_ERROR_INIT;

    err_set(&err, YADO_ERR_STATE, "stopped");
    for (unsigned i = 0; i < b->tag_count; i++) /* as it promises */
        b->host.socket_connected(b->host.ctx, b->tags[i], 0, &err);
    fake.live = NULL;
    free(b);
}

static bool fake_nothing(struct backend *b, struct yado_error *err)
{
    (void)b;
    (void)err;
    return true;
}

static void fake_balloon_target(struct backend *b, uint64_t size)
{
    (void)b;
    (void)size;
}

static void fake_socket_answer(struct backend *b, uint64_t id, int fd)
{
    (void)b;
    fake.answer_id = id;
    fake.answer_fd = fd;
    fake.answers++;
}

static bool fake_socket_connect(struct backend *b, uint32_t port, int fd, uint64_t tag,
                                struct yado_error *err)
{
    fake.connect_port = port;
    if (fake.connect_fails) {
        close(fd);
        return err_set(err, YADO_ERR_IN_USE, "full");
    }
    fake.connect_fd = fd;
    b->tags[b->tag_count++] = tag;
    return true;
}

static const struct backend_ops fake_backend = {
    .name = "fake",
    .start = fake_start,
    .stop = fake_stop,
    .pause = fake_nothing,
    .resume = fake_nothing,
    .balloon_target = fake_balloon_target,
    .socket_answer = fake_socket_answer,
    .socket_connect = fake_socket_connect,
};

static bool guest_connects(uint64_t id, uint32_t guest_port, uint32_t host_port)
{
    return fake.live->host.socket_asked(fake.live->host.ctx, id, guest_port, host_port);
}

static void guest_answers(uint32_t host_port, const struct yado_error *why)
{
    struct backend *b = fake.live;

    assert_true(b->tag_count > 0);
    b->host.socket_connected(b->host.ctx, b->tags[--b->tag_count], host_port, why);
}

/* ---- a machine ---- */

static struct yado_machine *machine_make(struct yado_socket *socket, enum yado_delivery delivery)
{
    struct yado_machine_options o = { .delivery = delivery };
    struct yado_config *c = yado_config_new();
    struct yado_error err = YADO_ERROR_INIT;
    struct yado_machine *m;

    memset(&fake, 0, sizeof(fake));
    fake.answer_fd = fake.connect_fd = -1;
    yado_config_set_boot_loader(c, yado_linux_boot_loader_new("vmlinuz", NULL, NULL));
    if (socket)
        yado_config_add_socket(c, socket);
    m = machine_new_on(c, &o, &fake_backend, &err);
    yado_config_free(c);
    if (!m)
        fail_msg("%s", err.message);
    return m;
}

static void on_moved(void *ctx, const struct yado_error *err)
{
    *(bool *)ctx = err == NULL;
}

static void machine_move(struct yado_machine *m,
                         bool (*verb)(struct yado_machine *m, yado_completion done, void *ctx))
{
    bool moved = false;

    assert_true(verb(m, on_moved, &moved));
    for (int i = 0; i < 20000 && !moved; i++) {
        usleep(500);
        yado_machine_dispatch(m);
    }
    assert_true(moved);
}

static struct yado_machine *machine_running(void)
{
    struct yado_machine *m = machine_make(yado_virtio_socket_new(), YADO_DELIVERY_DISPATCH);

    machine_move(m, yado_machine_start);
    return m;
}

/* ---- listeners ---- */

struct heard {
    bool accepts;
    unsigned calls; /* atomic */
    struct yado_socket_connection last;
};

static bool on_accept(void *ctx, const struct yado_socket_connection *c)
{
    struct heard *h = ctx;

    h->last = *c;
    __atomic_add_fetch(&h->calls, 1, __ATOMIC_SEQ_CST);
    return h->accepts;
}

static bool is_closed(int fd)
{
    char c;

    return recv(fd, &c, 1, MSG_DONTWAIT) == 0;
}

static void a_listener_accepts_and_refuses(void **state)
{
    struct yado_machine *m = machine_running();
    struct heard h = { .accepts = true };
    char c;

    (void)state;
    assert_false(guest_connects(1, 1000, 7)); /* nobody listens */
    assert_true(yado_machine_set_socket_listener(m, 7, on_accept, &h, NULL));
    assert_true(guest_connects(2, 1000, 7));
    assert_int_equal(h.calls, 0); /* on the queue alone */
    assert_int_equal(yado_machine_dispatch(m), 1);
    assert_int_equal(h.calls, 1);
    assert_int_equal(h.last.source_port, 1000);
    assert_int_equal(h.last.destination_port, 7);
    assert_int_equal(fake.answer_id, 2);
    assert_int_equal(write(fake.answer_fd, "g", 1), 1);
    assert_int_equal(read(h.last.fd, &c, 1), 1);
    assert_int_equal(c, 'g');
    close(fake.answer_fd);
    close(h.last.fd);
    h.accepts = false;
    assert_true(guest_connects(3, 1001, 7));
    yado_machine_dispatch(m);
    assert_int_equal(fake.answer_id, 3);
    assert_int_equal(fake.answer_fd, -1);
    assert_int_equal(write(h.last.fd, "x", 1), -1); /* closed */
    yado_machine_free(m);
}

static void listeners_are_replaced_and_removed(void **state)
{
    struct yado_machine *m = machine_running();
    struct heard a = { .accepts = false }, b = { .accepts = false };
    struct yado_error err = YADO_ERROR_INIT;

    (void)state;
    assert_true(yado_machine_set_socket_listener(m, 7, on_accept, &a, NULL));
    assert_true(yado_machine_set_socket_listener(m, 8, on_accept, &a, NULL)); /* one for two ports */
    assert_true(guest_connects(1, 1, 7));
    assert_true(yado_machine_set_socket_listener(m, 7, on_accept, &b, NULL));
    yado_machine_dispatch(m);
    assert_int_equal(a.calls, 0);
    assert_int_equal(b.calls, 1);
    assert_true(guest_connects(2, 1, 7)); /* it waits, and its listener goes */
    yado_machine_remove_socket_listener(m, 7);
    yado_machine_remove_socket_listener(m, 7);
    yado_machine_dispatch(m);
    assert_int_equal(b.calls, 1);
    assert_int_equal(fake.answer_id, 2);
    assert_int_equal(fake.answer_fd, -1);
    assert_false(guest_connects(3, 1, 7));
    assert_true(guest_connects(4, 1, 8));
    yado_machine_dispatch(m);
    assert_int_equal(a.calls, 1);
    assert_false(yado_machine_set_socket_listener(m, UINT32_MAX, on_accept, &a, &err));
    assert_int_equal(err.code, YADO_ERR_INVALID_CONFIG);
    yado_machine_free(m);
}

static void listeners_outlive_a_run(void **state)
{
    struct yado_machine *m = machine_make(yado_virtio_socket_new(), YADO_DELIVERY_DISPATCH);
    struct heard h = { .accepts = true };

    (void)state;
    assert_true(yado_machine_set_socket_listener(m, 7, on_accept, &h, NULL)); /* before any run */
    machine_move(m, yado_machine_start);
    assert_true(guest_connects(5, 1, 7));
    assert_true(yado_machine_stop(m, NULL, NULL)); /* with one that waits */
    while (yado_machine_state(m) != YADO_STATE_STOPPED)
        usleep(500);
    yado_machine_dispatch(m);
    assert_int_equal(fake.answers, 0);
    assert_int_equal(h.calls, 1);
    assert_true(is_closed(h.last.fd));
    close(h.last.fd);
    machine_move(m, yado_machine_start);
    assert_true(guest_connects(5, 1, 7));
    yado_machine_dispatch(m);
    assert_int_equal(fake.answers, 1);
    close(fake.answer_fd);
    close(h.last.fd);
    assert_true(guest_connects(6, 1, 7)); /* never delivered */
    yado_machine_free(m);
}

static void a_guest_cannot_make_the_queue_grow(void **state)
{
    struct yado_machine *m = machine_running();
    struct heard h = { .accepts = false };

    (void)state;
    assert_true(yado_machine_set_socket_listener(m, 7, on_accept, &h, NULL));
    for (unsigned i = 0; i < YADO_SOCKET_BACKLOG; i++)
        assert_true(guest_connects(i, i, 7));
    assert_false(guest_connects(9999, 1, 7));
    assert_int_equal(yado_machine_dispatch(m), YADO_SOCKET_BACKLOG);
    assert_int_equal(fake.answers, YADO_SOCKET_BACKLOG);
    assert_true(guest_connects(9999, 1, 7));
    yado_machine_free(m);
}

static void the_delivery_thread_accepts(void **state)
{
    struct yado_machine *m = machine_make(yado_virtio_socket_new(), YADO_DELIVERY_THREAD);
    struct heard h = { .accepts = true };

    (void)state;
    assert_true(yado_machine_set_socket_listener(m, 7, on_accept, &h, NULL));
    assert_true(yado_machine_start(m, NULL, NULL));
    while (yado_machine_state(m) != YADO_STATE_RUNNING)
        usleep(500);
    assert_true(guest_connects(1, 1, 7));
    for (int i = 0; i < 20000 && !__atomic_load_n(&h.calls, __ATOMIC_SEQ_CST); i++)
        usleep(500);
    yado_machine_free(m);
    assert_int_equal(h.calls, 1);
    assert_int_equal(fake.answers, 1);
    close(fake.answer_fd);
    assert_true(is_closed(h.last.fd));
    close(h.last.fd);
}

/* ---- connects ---- */

struct result {
    unsigned calls;
    struct yado_socket_connection c;
    struct yado_error err;
};

static void on_connected(void *ctx, const struct yado_socket_connection *c, const struct yado_error *err)
{
    struct result *r = ctx;

    r->calls++;
    assert_true((c == NULL) != (err == NULL));
    if (c)
        r->c = *c;
    r->err = err ? *err : (struct yado_error)YADO_ERROR_INIT;
}

static void the_host_connects(void **state)
{
    struct yado_machine *m = machine_running();
    struct yado_error why = YADO_ERROR_INIT;
    struct result r = { .calls = 0 };
    char c;

    (void)state;
    assert_true(yado_machine_connect_socket(m, 22, on_connected, &r));
    assert_int_equal(fake.connect_port, 22);
    yado_machine_dispatch(m);
    assert_int_equal(r.calls, 0);
    guest_answers(0x40000001, NULL);
    assert_int_equal(yado_machine_dispatch(m), 1);
    assert_int_equal(r.calls, 1);
    assert_int_equal(r.err.code, YADO_OK);
    assert_int_equal(r.c.source_port, 0x40000001);
    assert_int_equal(r.c.destination_port, 22);
    assert_int_equal(write(r.c.fd, "h", 1), 1);
    assert_int_equal(read(fake.connect_fd, &c, 1), 1);
    close(r.c.fd);
    close(fake.connect_fd);
    assert_true(yado_machine_connect_socket(m, 23, on_connected, &r));
    err_set(&why, YADO_ERR_REFUSED, "nobody");
    guest_answers(0, &why);
    yado_machine_dispatch(m);
    assert_int_equal(r.calls, 2);
    assert_int_equal(r.err.code, YADO_ERR_REFUSED);
    assert_true(is_closed(fake.connect_fd));
    close(fake.connect_fd);
    fake.connect_fails = true;
    assert_true(yado_machine_connect_socket(m, 24, on_connected, &r));
    yado_machine_dispatch(m);
    assert_int_equal(r.calls, 3);
    assert_int_equal(r.err.code, YADO_ERR_IN_USE);
    assert_true(yado_machine_connect_socket(m, UINT32_MAX, on_connected, &r));
    yado_machine_dispatch(m);
    assert_int_equal(r.err.code, YADO_ERR_INVALID_CONFIG);
    yado_machine_free(m);
}

static void each_connect_is_answered_once(void **state)
{
    struct yado_machine *m = machine_make(yado_virtio_socket_new(), YADO_DELIVERY_DISPATCH);
    struct result r[3] = { { .calls = 0 } };
    int fds[2];

    (void)state;
    assert_true(yado_machine_connect_socket(m, 22, on_connected, &r[0])); /* not started */
    assert_int_equal(r[0].calls, 0);
    yado_machine_dispatch(m);
    assert_int_equal(r[0].calls, 1);
    assert_int_equal(r[0].err.code, YADO_ERR_STATE);
    machine_move(m, yado_machine_start);
    for (unsigned i = 0; i < 2; i++) { /* stopped in between */
        assert_true(yado_machine_connect_socket(m, 22, on_connected, &r[i]));
        fds[i] = fake.connect_fd;
    }
    machine_move(m, yado_machine_stop);
    yado_machine_dispatch(m);
    assert_int_equal(r[0].calls, 2);
    assert_int_equal(r[1].calls, 1);
    assert_int_equal(r[1].err.code, YADO_ERR_STATE);
    assert_true(is_closed(fds[0]) && is_closed(fds[1]));
    close(fds[0]);
    close(fds[1]);
    machine_move(m, yado_machine_start);
    assert_true(yado_machine_connect_socket(m, 22, on_connected, &r[2])); /* freed in between */
    yado_machine_free(m);
    assert_int_equal(r[2].calls, 0);
    assert_true(is_closed(fake.connect_fd));
    close(fake.connect_fd);
}

/* ---- configurations ---- */

static void without_a_device(void **state)
{
    struct yado_machine *m = machine_make(NULL, YADO_DELIVERY_DISPATCH);
    struct yado_error err = YADO_ERROR_INIT;
    struct result r = { .calls = 0 };
    struct heard h = { .calls = 0 };

    (void)state;
    assert_false(yado_machine_set_socket_listener(m, 7, on_accept, &h, &err));
    assert_non_null(strstr(err.message, "without a socket device"));
    yado_machine_remove_socket_listener(m, 7);
    assert_true(yado_machine_connect_socket(m, 22, on_connected, &r));
    yado_machine_dispatch(m);
    assert_int_equal(r.err.code, YADO_ERR_INVALID_CONFIG);
    yado_machine_free(m);
}

static void config_refused(struct yado_socket *socket, struct yado_socket *second, const char *words)
{
    struct yado_config *c = yado_config_new();
    struct yado_error err = YADO_ERROR_INIT;

    yado_config_set_boot_loader(c, yado_linux_boot_loader_new("/no/such/kernel", NULL, NULL));
    yado_config_add_socket(c, socket);
    if (second)
        yado_config_add_socket(c, second);
    assert_false(yado_config_validate(c, &err));
    if (err.code != YADO_ERR_INVALID_CONFIG || !strstr(err.message, words) ||
        strncmp(err.message, "sockets[", 8))
        fail_msg("%d: \"%s\" does not say \"%s\"", err.code, err.message, words);
    yado_config_free(c);
}

static void mistakes_are_named(void **state)
{
    struct yado_socket *s = yado_virtio_socket_new();
    char path[200];

    (void)state;
    yado_socket_free(s);
    yado_socket_free(NULL);
    config_refused(yado_virtio_socket_new(), yado_virtio_socket_new(), "one socket device at most");
    s = yado_virtio_socket_new();
    yado_socket_add_path_to_host(s, UINT32_MAX, "x");
    config_refused(s, NULL, "is not a port");
    s = yado_virtio_socket_new();
    yado_socket_add_path_to_host(s, 1, "");
    config_refused(s, NULL, "empty");
    memset(path, 'p', sizeof(path));
    path[108] = '\0';
    s = yado_virtio_socket_new();
    yado_socket_add_path_to_guest(s, path, 1);
    config_refused(s, NULL, "longer than the 107 bytes");
    s = yado_virtio_socket_new();
    yado_socket_add_path_to_host(s, 1, "a");
    yado_socket_add_path_to_guest(s, "a", 1); /* another thing */
    yado_socket_add_path_to_host(s, 1, "b");
    config_refused(s, NULL, "port 1 of the host is given twice");
    s = yado_virtio_socket_new();
    yado_socket_add_path_to_guest(s, "a", 1);
    yado_socket_add_path_to_guest(s, "a", 2);
    config_refused(s, NULL, "a is given twice");
}

/* ---- whole machines, whose guest runs no driver ---- */

static enum yado_engine engine;
static char dir[64], path[80], kernel[64];

static void on_started(void *ctx, const struct yado_error *err)
{
    *(struct yado_error *)ctx = err ? *err : (struct yado_error)YADO_ERROR_INIT;
}

static struct yado_machine *guest_new(void)
{
    struct yado_machine_options o = { .engine = engine };
    struct yado_config *c = yado_config_new();
    struct yado_socket *s = yado_virtio_socket_new();
    struct yado_error err = YADO_ERROR_INIT;
    struct yado_machine *m;

    yado_config_set_memory_size(c, 32 << 20);
    yado_config_set_boot_loader(c, yado_linux_boot_loader_new(kernel, NULL, NULL));
    yado_socket_add_path_to_guest(s, path, 22);
    yado_config_add_socket(c, s);
    m = yado_machine_new(c, &o, &err);
    yado_config_free(c);
    if (!m)
        fail_msg("%s", err.message);
    return m;
}

static bool guest_start(struct yado_machine *m, struct yado_error *err)
{
    *err = (struct yado_error)YADO_ERROR_INIT;
    assert_true(yado_machine_start(m, on_started, err));
    while (yado_machine_state(m) == YADO_STATE_STARTING)
        usleep(500);
    yado_machine_dispatch(m);
    return yado_machine_state(m) == YADO_STATE_RUNNING;
}

static void paths_come_and_go(void **state)
{
    struct yado_error err, second_err;
    struct yado_machine *m = guest_new(), *second = guest_new();
    struct result r = { .calls = 0 };
    struct socket_file file;
    struct stat st;
    char c;
    int fd;

    (void)state;
    assert_int_equal(socket_listen_unix(path, &fd, &file), 0); /* left behind by somebody who is gone */
    close(fd);
    assert_int_equal(stat(path, &st), 0);
    if (!guest_start(m, &err))
        fail_msg("%s", err.message);
    assert_true(stat(path, &st) == 0 && S_ISSOCK(st.st_mode));
    assert_int_equal(socket_connect_unix(path, &fd), 0);
    assert_int_equal(fcntl(fd, F_SETFL, 0), 0);
    assert_true(read(fd, &c, 1) <= 0); /* the guest runs no driver */
    close(fd);
    assert_true(yado_machine_connect_socket(m, 22, on_connected, &r));
    for (int i = 0; i < 10000 && !r.calls; i++) { /* the framework answers some time later */
        yado_machine_dispatch(m);
        usleep(on_apple() ? 1000 : 0);
        assert_true(on_apple() || r.calls);
    }
    assert_int_equal(r.err.code, on_apple() ? YADO_ERR_REFUSED : YADO_ERR_STATE);
    assert_true(on_apple() || strstr(r.err.message, "driver"));
    assert_false(guest_start(second, &second_err)); /* somebody listens there */
    assert_int_equal(second_err.code, YADO_ERR_IN_USE);
    assert_non_null(strstr(second_err.message, path));
    assert_int_equal(stat(path, &st), 0);
    yado_machine_free(second);
    yado_machine_free(m);
    assert_int_equal(stat(path, &st), -1);
    m = guest_new();
    assert_int_equal(close(open(path, O_CREAT | O_WRONLY, 0600)), 0); /* no socket: not ours to remove */
    assert_false(guest_start(m, &err));
    assert_int_equal(err.code, YADO_ERR_IN_USE);
    yado_machine_free(m);
    assert_int_equal(unlink(path), 0);
}

/* Whether this platform's backend has the device; one that has not says so by name. */
static bool has_device(void)
{
    struct yado_config *c = yado_config_new();
    struct yado_error err = YADO_ERROR_INIT;
    bool ok;

    yado_config_set_memory_size(c, 32 << 20);
    yado_config_set_boot_loader(c, yado_linux_boot_loader_new(kernel, NULL, NULL));
    yado_config_add_socket(c, yado_virtio_socket_new());
    ok = yado_config_validate(c, &err);
    yado_config_free(c);
    if (!ok && (err.code != YADO_ERR_UNSUPPORTED || strncmp(err.message, "sockets[0]", 10) != 0))
        fail_msg("%s", err.message);
    return ok;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_listener_accepts_and_refuses),
        cmocka_unit_test(listeners_are_replaced_and_removed),
        cmocka_unit_test(listeners_outlive_a_run),
        cmocka_unit_test(a_guest_cannot_make_the_queue_grow),
        cmocka_unit_test(the_delivery_thread_accepts),
        cmocka_unit_test(the_host_connects),
        cmocka_unit_test(each_connect_is_answered_once),
        cmocka_unit_test(without_a_device),
        cmocka_unit_test(mistakes_are_named),
    };
    const struct CMUnitTest on_engines[] = { cmocka_unit_test(paths_come_and_go) };
    static const uint8_t code[] = { TINY_HALT };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);

    snprintf(dir, sizeof(dir), "/tmp/yado-test-sockets-XXXXXX");
    if (!mkdtemp(dir))
        return 1;
    snprintf(path, sizeof(path), "%s/guest.sock", dir);
    tiny_kernel_write(kernel, code, sizeof(code));
    for (unsigned i = 0; i < yado_engine_count(); i++) {
        engine = yado_engine_at(i);
        if (yado_engine_usable(engine, NULL) && has_device())
            failed += cmocka_run_group_tests_name(yado_engine_name(engine), on_engines, NULL, NULL);
    }
    unlink(kernel);
    rmdir(dir);
    return failed;
}
