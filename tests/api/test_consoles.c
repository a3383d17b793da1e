/* Serial ports' attachments and consoles with several ports: what validation says, events and attachments of
 * a running machine on a stand-in backend, files and sockets of whole machines. */
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
#include <sys/stat.h>
#include <unistd.h>

#include <yado/yado.h>

#include "../machine/tiny_kernel.h"
#include "overlap.h"
#include "api/machine_priv.h"
#include "host/socket.h"

static char kernel[64], directory[64];

static int files_make(void **state)
{
    static const uint8_t code[] = { TINY_HALT };

    (void)state;
    tiny_kernel_write(kernel, code, sizeof(code));
    snprintf(directory, sizeof(directory), "/tmp/yado-test-consoles-XXXXXX");
    return mkdtemp(directory) ? 0 : -1;
}

static int files_remove(void **state)
{
    (void)state;
    return unlink(kernel) | rmdir(directory);
}

static struct yado_console_port *port(const char *name, struct yado_serial *serial)
{
    struct yado_console_port *p = yado_console_port_new();

    assert_non_null(p);
    yado_console_port_set_name(p, name);
    if (serial)
        yado_console_port_set_attachment(p, serial);
    return p;
}

static struct yado_config *config(void)
{
    struct yado_config *c = yado_config_new();

    assert_non_null(c);
    yado_config_set_memory_size(c, 64 << 20);
    yado_config_set_boot_loader(c, yado_linux_boot_loader_new(kernel, NULL, NULL));
    return c;
}

static struct yado_config *config_of(struct yado_console *console)
{
    struct yado_config *c = config();

    yado_config_add_console(c, console);
    return c;
}

/* ---- validation ---- */

static void expect(struct yado_config *c, enum yado_error_code code, const char *starts, const char *has)
{
    struct yado_error err = YADO_ERROR_INIT;
    bool ok = yado_config_validate(c, &err);

    yado_config_free(c);
    if (err.code != code || ok != (code == YADO_OK))
        fail_msg("code %d: %s", err.code, err.message);
    if (strncmp(err.message, starts, strlen(starts)) || !strstr(err.message, has))
        fail_msg("message is: %s", err.message);
}

static void expect_port(unsigned index, struct yado_console_port *p, const char *starts, const char *has)
{
    struct yado_console *console = yado_virtio_console_new();

    yado_console_set_port(console, index, p);
    expect(config_of(console), YADO_ERR_INVALID_CONFIG, starts, has);
}

static void bad_consoles(void **state)
{
    static const char *const names[] = { "", "a b", "a/b", "umlaut\xc3\xa4", "line\n" };
    char name[YADO_PORT_NAME_MAX + 2], path[110];
    struct yado_console *a = yado_virtio_console_new(), *b = yado_virtio_console_new();
    struct yado_config *c;

    (void)state;
    expect(config_of(yado_virtio_console_new()), YADO_ERR_INVALID_CONFIG, "consoles[0].ports: ", "none");
    expect_port(31, port(NULL, NULL), "consoles[0].ports[31]: ", "0 to 30");
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        expect_port(2, port(names[i], NULL), "consoles[0].ports[2].name: ", "it ");
    memset(name, 'n', sizeof(name));
    name[sizeof(name) - 1] = '\0';
    expect_port(0, port(name, NULL), "consoles[0].ports[0].name: ", "more than 63 bytes");
    expect_port(0, port("x", yado_file_serial_new("", false)), "consoles[0].ports[0].attachment: ", "empty");
    expect_port(0, port("x", yado_socket_serial_new(NULL)), "consoles[0].ports[0].attachment: ", "empty");
    memset(path, 'p', sizeof(path));
    path[108] = '\0';
    expect_port(30, port("x", yado_socket_serial_new(path)), "consoles[0].ports[30].attachment: ", "107");
    yado_console_set_port(a, 0, port("same", NULL));
    yado_console_set_port(b, 0, port("other", NULL));
    yado_console_set_port(b, 5, port("same", NULL));
    c = config_of(a);
    yado_config_add_console(c, b);
    expect(c, YADO_ERR_INVALID_CONFIG, "consoles[1].ports[5].name: ", "that of consoles[0].ports[0]");
}

static void bad_attachments(void **state)
{
    struct yado_config *c = config();
    struct yado_console *a;
    char path[96];

    (void)state;
    yado_config_add_serial_port(c, yado_virtio_console_port_new(yado_file_serial_new("", true)));
    expect(c, YADO_ERR_INVALID_CONFIG, "serial_ports[0].attachment: ", "empty");
    snprintf(path, sizeof(path), "%s/twice", directory);
    c = config();
    yado_config_add_serial_port(c, yado_virtio_console_port_new(yado_socket_serial_new(path)));
    a = yado_virtio_console_new();
    yado_console_set_port(a, 3, port("x", yado_socket_serial_new(path)));
    yado_config_add_console(c, a);
    expect(c, YADO_ERR_INVALID_CONFIG, "serial_ports and consoles: ", "twice");
    a = yado_virtio_console_new(); /* a part that could not be made */
    yado_console_set_port(a, 0, NULL);
    expect(config_of(a), YADO_ERR_HOST, "consoles[0]: ", "could not be made");
    assert_null(yado_fd_serial_new(12345, -1));
    yado_console_free(NULL);
    yado_console_port_free(NULL);
    yado_serial_free(NULL);
}

/* What files say: on our own engines before the start, by the framework when it makes the object. */
static void bad_files(void **state)
{
    struct yado_console *a;
    char path[96];

    (void)state;
    SKIP_ON_APPLE();
    a = yado_virtio_console_new();
    yado_console_set_port(a, 1, port("x", yado_file_serial_new(directory, false)));
    expect(config_of(a), YADO_ERR_FILE, "consoles[0].ports[1].attachment: ", "is a directory");
    snprintf(path, sizeof(path), "%s/none/file", directory);
    a = yado_virtio_console_new();
    yado_console_set_port(a, 1, port("x", yado_file_serial_new(path, false)));
    expect(config_of(a), YADO_ERR_FILE, "consoles[0].ports[1].attachment: ", "No such file");
    a = yado_virtio_console_new();
    yado_console_set_port(a, 1, port("x", yado_socket_serial_new(kernel)));
    expect(config_of(a), YADO_ERR_FILE, "consoles[0].ports[1].attachment: ", "no socket");
    a = yado_virtio_console_new();
    snprintf(path, sizeof(path), "%s/file", directory);
    yado_console_set_port(a, 1, port("x", yado_file_serial_new(path, false)));
    expect(config_of(a), YADO_OK, "", "");
    assert_int_equal(access(path, F_OK), -1); /* nothing was made */
}

static struct yado_config *logging(const char *path, bool append)
{
    struct yado_config *c = config();

    yado_config_add_serial_port(c, yado_virtio_console_port_new(yado_file_serial_new(path, append)));
    return c;
}

/* Of serial ports, which every engine has. */
static void bad_logs(void **state)
{
    char path[96];

    (void)state;
    expect(logging(directory, true), YADO_ERR_FILE, "serial_ports[0].attachment: ", "is a directory");
    snprintf(path, sizeof(path), "%s/none/file", directory);
    expect(logging(path, false), YADO_ERR_FILE, "serial_ports[0].attachment: ", "No such file");
    snprintf(path, sizeof(path), "%s/file", directory);
    expect(logging(path, false), YADO_OK, "", "");
    assert_int_equal(access(path, F_OK), -1); /* nothing was made */
}

static void paths_are_told(void **state)
{
    struct yado_serial *pty = yado_pty_serial_new(), *file = yado_file_serial_new("f", false),
                       *fd = yado_fd_serial_new(0, 1);
    int other;

    (void)state;
    assert_non_null(pty);
    other = open(yado_serial_path(pty), O_RDWR | O_NOCTTY);
    assert_true(other >= 0 && isatty(other));
    close(other);
    assert_string_equal(yado_serial_path(file), "f");
    assert_null(yado_serial_path(fd));
    yado_serial_free(pty);
    yado_serial_free(file);
    yado_serial_free(fd);
}

/* ---- the stand-in backend: keeps what it is told ---- */

struct backend {
    struct backend_host host;
};

static struct {
    struct backend *live;
    unsigned device, port, attaches, sizes;
    enum spec_attachment_kind kind;
    uint16_t columns, rows, start_columns;
    bool attach_fails;
} fake;

static bool fake_start(struct backend **out, const struct spec *spec, const struct backend_host *host,
                       struct yado_error *err)
{
    (void)err;
    fake.start_columns = spec->consoles[0].ports[0].columns;
    fake.live = calloc(1, sizeof(*fake.live));
    fake.live->host = *host;
    *out = fake.live;
    return true;
}

static void fake_stop(struct backend *b)
{
    fake.live = NULL;
    free(b);
}

static void fake_balloon_target(struct backend *b, uint64_t size)
{
    (void)b;
    (void)size;
}

static void fake_port_size(struct backend *b, unsigned device, unsigned index, uint16_t columns,
                           uint16_t rows)
{
    (void)b;
    fake.device = device;
    fake.port = index;
    fake.columns = columns;
    fake.rows = rows;
    fake.sizes++;
}

static bool fake_port_attach(struct backend *b, unsigned device, unsigned index,
                             const struct spec_attachment *to, struct yado_error *err)
{
    (void)b;
    if (fake.attach_fails)
        return err_set(err, YADO_ERR_IN_USE, "taken");
    fake.device = device;
    fake.port = index;
    fake.kind = to->kind;
    fake.attaches++;
    return true;
}

static const struct backend_ops fake_backend = {
    .name = "fake",
    .start = fake_start,
    .stop = fake_stop,
    .balloon_target = fake_balloon_target,
    .port_size = fake_port_size,
    .port_attach = fake_port_attach,
};

static void guest_opens(unsigned device, unsigned index, bool is_open)
{
    fake.live->host.port_open(fake.live->host.ctx, device, index, is_open);
}

/* ---- a machine on it ---- */

struct heard {
    unsigned count;
    bool last_open;
    unsigned last_device, last_port;
};

static void on_event(void *ctx, const struct yado_event *event)
{
    struct heard *h = ctx;

    if (event->kind != YADO_EVENT_CONSOLE_PORT_OPENED && event->kind != YADO_EVENT_CONSOLE_PORT_CLOSED)
        return;
    assert_int_equal(event->old_state, event->state);
    h->count++;
    h->last_open = event->kind == YADO_EVENT_CONSOLE_PORT_OPENED;
    h->last_device = event->index;
    h->last_port = event->port;
}

static void on_moved(void *ctx, const struct yado_error *err)
{
    *(int *)ctx = err ? -1 : 1;
}

static bool moves(struct yado_machine *m,
                  bool (*verb)(struct yado_machine *m, yado_completion done, void *ctx))
{
    int moved = 0;

    assert_true(verb(m, on_moved, &moved));
    for (int i = 0; i < 20000 && !moved; i++) {
        usleep(500);
        yado_machine_dispatch(m);
    }
    return moved > 0;
}

static struct yado_machine *machine_make(struct heard *h)
{
    struct yado_machine_options o = { .on_event = on_event, .event_ctx = h };
    struct yado_console *a = yado_virtio_console_new(), *b = yado_virtio_console_new();
    struct yado_config *c;
    struct yado_error err = YADO_ERROR_INIT;
    struct yado_console_port *p = port("screen", NULL);
    struct yado_machine *m;

    memset(&fake, 0, sizeof(fake));
    *h = (struct heard){ .count = 0 };
    yado_console_port_set_console(p, true);
    yado_console_set_port(a, 0, p);
    yado_console_set_port(b, 4, port("agent", yado_file_serial_new("agent.log", false)));
    c = config_of(a);
    yado_config_add_console(c, b);
    m = machine_new_on(c, &o, &fake_backend, &err);
    yado_config_free(c);
    if (!m)
        fail_msg("%s", err.message);
    return m;
}

static void events_alternate(void **state)
{
    struct yado_console_port_info info;
    struct heard h;
    struct yado_machine *m = machine_make(&h);

    (void)state;
    assert_true(moves(m, yado_machine_start));
    guest_opens(1, 4, true);
    assert_true(yado_machine_console_port(m, 1, 4, &info) && info.is_open);
    yado_machine_dispatch(m);
    assert_int_equal(h.count, 1);
    assert_true(h.last_open && h.last_device == 1 && h.last_port == 4);
    guest_opens(1, 4, false); /* and again, before the program looks */
    guest_opens(1, 4, true);
    yado_machine_dispatch(m);
    assert_int_equal(h.count, 3);
    assert_true(h.last_open);
    for (unsigned i = 0; i < 100001; i++) /* a guest that is fast: bounded, and the last word is right */
        guest_opens(1, 4, i & 1);
    yado_machine_dispatch(m);
    assert_int_equal(h.count, 4);
    assert_false(h.last_open);
    guest_opens(0, 0, true);
    guest_opens(9, 0, true); /* no such ports */
    guest_opens(1, 0, true);
    guest_opens(1, 30, true);
    yado_machine_dispatch(m);
    assert_int_equal(h.count, 5);
    assert_true(moves(m, yado_machine_stop)); /* closes what is open */
    yado_machine_dispatch(m);
    assert_int_equal(h.count, 6);
    assert_true(!h.last_open && h.last_device == 0);
    assert_true(moves(m, yado_machine_start));
    guest_opens(0, 0, true);
    yado_machine_free(m); /* with an event on its way */
}

static void sizes_reach_the_guest(void **state)
{
    struct heard h;
    struct yado_machine *m = machine_make(&h);

    (void)state;
    yado_machine_set_console_port_size(m, 0, 0, 80, 24);
    yado_machine_set_console_port_size(m, 0, 1, 1, 1); /* no such ports */
    yado_machine_set_console_port_size(m, 7, 0, 1, 1);
    yado_machine_set_console_port_size(m, 1, 3, 1, 1);
    assert_true(moves(m, yado_machine_start));
    assert_int_equal(fake.start_columns, 80);
    assert_int_equal(fake.columns, 80);
    yado_machine_set_console_port_size(m, 0, 0, 132, 50);
    assert_true(fake.columns == 132 && fake.rows == 50 && fake.device == 0 && fake.port == 0);
    assert_true(moves(m, yado_machine_stop));
    assert_true(moves(m, yado_machine_start)); /* remembered */
    assert_int_equal(fake.start_columns, 132);
    yado_machine_free(m);
}

static void expect_port_is(struct yado_machine *m, enum yado_serial_kind kind, const char *path)
{
    struct yado_console_port_info info;
    char text[64];

    assert_true(yado_machine_console_port(m, 1, 4, &info));
    assert_string_equal(info.name, "agent");
    assert_false(info.is_console);
    assert_int_equal(info.attachment, kind);
    assert_int_equal(yado_machine_console_port_path(m, 1, 4, text, sizeof(text)), strlen(path));
    assert_string_equal(text, path);
}

static void attachments_change(void **state)
{
    struct yado_error err = YADO_ERROR_INIT;
    struct yado_console_port_info info;
    struct heard h;
    struct yado_machine *m = machine_make(&h);
    char text[4];

    (void)state;
    expect_port_is(m, YADO_SERIAL_FILE, "agent.log");
    assert_false(yado_machine_set_console_attachment(m, 1, 4, NULL, &err));
    assert_int_equal(err.code, YADO_ERR_STATE);
    assert_true(moves(m, yado_machine_start));
    err.code = YADO_OK;
    assert_false(yado_machine_set_console_attachment(m, 1, 5, yado_fd_serial_new(0, 1), &err));
    assert_int_equal(err.code, YADO_ERR_INVALID_CONFIG);
    assert_non_null(strstr(err.message, "consoles[1].ports[5]"));
    err.code = YADO_OK;
    assert_false(yado_machine_set_console_attachment(m, 1, 4, yado_socket_serial_new(""), &err));
    assert_non_null(strstr(err.message, "consoles[1].ports[4].attachment: the path is empty"));
    expect_port_is(m, YADO_SERIAL_FILE, "agent.log");
    assert_int_equal(fake.attaches, 0);
    assert_true(yado_machine_set_console_attachment(m, 1, 4, yado_socket_serial_new("/tmp/s"), &err));
    assert_true(fake.kind == SPEC_ATTACH_SOCKET && fake.device == 1 && fake.port == 4);
    expect_port_is(m, YADO_SERIAL_SOCKET, "/tmp/s");
    fake.attach_fails = true;
    assert_false(yado_machine_set_console_attachment(m, 1, 4, yado_fd_serial_new(0, 1), &err));
    expect_port_is(m, YADO_SERIAL_SOCKET, "/tmp/s");
    fake.attach_fails = false;
    assert_true(yado_machine_set_console_attachment(m, 1, 4, NULL, &err));
    assert_int_equal(fake.kind, SPEC_ATTACH_NONE);
    expect_port_is(m, YADO_SERIAL_NONE, "");
    assert_true(moves(m, yado_machine_stop)); /* the configured one is back */
    expect_port_is(m, YADO_SERIAL_FILE, "agent.log");
    assert_int_equal(yado_machine_console_port_path(m, 1, 4, text, sizeof(text)), 9);
    assert_string_equal(text, "age");
    assert_false(yado_machine_console_port(m, 1, 0, &info));
    assert_false(yado_machine_console_port(m, 2, 0, &info));
    assert_int_equal(yado_machine_console_port_path(m, 2, 0, text, sizeof(text)), 0);
    assert_string_equal(text, "");
    yado_machine_free(m);
}

/* ---- whole machines ---- */

static void files_and_sockets_come_and_go(void **state)
{
    struct yado_error err = YADO_ERROR_INIT;
    struct yado_console *a;
    struct yado_config *c;
    struct yado_machine *m;
    char log[96], sock[96], other[96];
    struct stat st;
    int fd;

    (void)state;
    SKIP_ON_APPLE();
    a = yado_virtio_console_new();
    snprintf(log, sizeof(log), "%s/log", directory);
    snprintf(sock, sizeof(sock), "%s/sock", directory);
    snprintf(other, sizeof(other), "%s/other", directory);
    fd = open(log, O_CREAT | O_WRONLY, 0600);
    assert_int_equal(write(fd, "old", 3), 3);
    close(fd);
    yado_console_set_port(a, 0, port("log", yado_file_serial_new(log, true)));
    yado_console_set_port(a, 2, port("sock", yado_socket_serial_new(sock)));
    yado_console_set_port(a, 3, port("none", NULL));
    c = config_of(a);
    m = yado_machine_new(c, NULL, &err);
    yado_config_free(c);
    if (!m)
        fail_msg("%s", err.message);
    assert_int_equal(stat(sock, &st), -1);
    assert_true(moves(m, yado_machine_start));
    assert_true(stat(sock, &st) == 0 && S_ISSOCK(st.st_mode));
    assert_true(stat(log, &st) == 0 && st.st_size == 3);
    assert_int_equal(socket_connect_unix(sock, &fd), 0);
    assert_true(yado_machine_set_console_attachment(m, 0, 3, yado_socket_serial_new(other), &err));
    assert_true(stat(other, &st) == 0 && S_ISSOCK(st.st_mode));
    assert_false(yado_machine_set_console_attachment(m, 0, 3, yado_socket_serial_new(log), &err));
    assert_int_equal(err.code, YADO_ERR_IN_USE);
    assert_non_null(strstr(err.message, "consoles[0].ports[3].attachment: "));
    assert_int_equal(stat(other, &st), 0); /* still there */
    assert_true(yado_machine_set_console_attachment(m, 0, 3, yado_pty_serial_new(), &err));
    assert_int_equal(stat(other, &st), -1);
    assert_true(yado_machine_set_console_attachment(m, 0, 2, NULL, &err)); /* with its client */
    assert_int_equal(stat(sock, &st), -1);
    assert_int_equal(fcntl(fd, F_SETFL, 0), 0);
    assert_true(read(fd, other, 1) <= 0);
    close(fd);
    assert_true(moves(m, yado_machine_stop));
    assert_true(moves(m, yado_machine_start)); /* as configured again */
    assert_int_equal(stat(sock, &st), 0);
    yado_machine_free(m);
    assert_int_equal(stat(sock, &st), -1);
    assert_int_equal(unlink(log), 0);
}

/* A log is touched by the start, and by no validation before. */
static void logs_begin_with_the_machine(void **state)
{
    struct yado_error err = YADO_ERROR_INIT;
    struct yado_config *c;
    struct yado_machine *m;
    struct stat st;
    char log[96];
    int fd;

    (void)state;
    snprintf(log, sizeof(log), "%s/log", directory);
    for (int append = 0; append < 2; append++) {
        fd = open(log, O_CREAT | O_WRONLY | O_TRUNC, 0600);
        assert_int_equal(write(fd, "old", 3), 3);
        close(fd);
        c = logging(log, append);
        m = yado_machine_new(c, NULL, &err);
        yado_config_free(c);
        if (!m)
            fail_msg("%s", err.message);
        assert_true(stat(log, &st) == 0 && st.st_size == 3);
        assert_true(moves(m, yado_machine_start));
        assert_true(stat(log, &st) == 0 && st.st_size == (append ? 3 : 0));
        yado_machine_free(m);
    }
    assert_int_equal(unlink(log), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bad_consoles),
        cmocka_unit_test(bad_attachments),
        cmocka_unit_test(bad_files),
        cmocka_unit_test(bad_logs),
        cmocka_unit_test(logs_begin_with_the_machine),
        cmocka_unit_test(paths_are_told),
        cmocka_unit_test(events_alternate),
        cmocka_unit_test(sizes_reach_the_guest),
        cmocka_unit_test(attachments_change),
        cmocka_unit_test(files_and_sockets_come_and_go),
    };

    return cmocka_run_group_tests(tests, files_make, files_remove);
}
