/* Network configuration through the public API: addresses, what validation says, and changes while a machine
 * runs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <yado/yado.h>

#include "../machine/tiny_kernel.h"
#include "overlap.h"

static void addresses_are_read_and_written(void **state)
{
    static const char *const bad[] = { "",
                                       "52:54:00:12:34",
                                       "52:54:00:12:34:5",
                                       "52:54:00:12:34:567",
                                       "52-54-00-12-34-56",
                                       "52:54:00:12:34:5g",
                                       " 2:54:00:12:34:56",
                                       "52:54:00:12:34:56:" };
    struct yado_mac m = { { 9 } }, n;
    char text[YADO_MAC_TEXT_LEN];

    (void)state;
    assert_true(yado_mac_parse("52:54:00:aB:Cd:0f", &m));
    yado_mac_format(&m, text);
    assert_string_equal(text, "52:54:00:ab:cd:0f");
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_false(yado_mac_parse(bad[i], &n));
    m = yado_mac_random();
    n = yado_mac_random();
    assert_int_equal(m.octet[0] & 3, 2); /* unicast, locally administered */
    assert_memory_not_equal(&m, &n, sizeof(m));
}

/* ---- validation ---- */

static char kernel[64];
static const uint8_t idle[] = { TINY_HALT };

static struct yado_config *config_new(void)
{
    struct yado_config *c = yado_config_new();

    tiny_kernel_write(kernel, idle, sizeof(idle));
    yado_config_set_memory_size(c, 32 << 20);
    yado_config_set_boot_loader(c, yado_linux_boot_loader_new(kernel, NULL, NULL));
    return c;
}

/* Adds a device with the attachment; validation must say `text`, or nothing if that is NULL. */
static void expect_with(struct yado_config *c, struct yado_network *n, const char *text)
{
    struct yado_error err = YADO_ERROR_INIT;
    bool ok;

    yado_config_add_network(c, n);
    ok = yado_config_validate(c, &err);
    yado_config_free(c);
    unlink(kernel);
    if (text ? ok || err.code != YADO_ERR_INVALID_CONFIG || !strstr(err.message, text) : !ok)
        fail_msg("said \"%s\", not \"%s\"", err.message, text ? text : "");
}

/* Valid on our own engines; the framework has no such thing. */
static void expect_own(struct yado_network_attachment *a)
{
    struct yado_error err = YADO_ERROR_INIT;
    struct yado_config *c;

    if (!on_apple()) {
        expect_with(config_new(), yado_virtio_net_new(a), NULL);
        return;
    }
    c = config_new();
    yado_config_add_network(c, yado_virtio_net_new(a));
    assert_false(yado_config_validate(c, &err));
    assert_int_equal(err.code, YADO_ERR_UNSUPPORTED);
    assert_ptr_equal(strstr(err.message, "network[0]"), err.message);
    yado_config_free(c);
    unlink(kernel);
}

static void expect(struct yado_network_attachment *a, const char *text)
{
    expect_with(config_new(), yado_virtio_net_new(a), text);
}

static struct yado_network_attachment *forwarded(const char *host, uint16_t from, uint16_t to, unsigned times)
{
    struct yado_network_attachment *a = yado_nat_new();
    struct yado_forward f = { .host_address = host, .host_port = from, .guest_port = to };

    while (times-- > 0)
        yado_nat_add_forward(a, &f);
    return a;
}

static struct yado_network_attachment *with_mtu(struct yado_network_attachment *a, unsigned mtu)
{
    yado_fd_network_set_mtu(a, mtu);
    return a;
}

static struct yado_network *with_mac(const char *text)
{
    struct yado_network *n = yado_virtio_net_new(yado_nat_new());
    struct yado_mac m;

    assert_true(yado_mac_parse(text, &m));
    yado_network_set_mac(n, &m);
    return n;
}

static void validation_names_the_field(void **state)
{
    struct yado_forward f = { .host_port = 1, .guest_port = 1 };
    struct yado_network_attachment *tap = yado_tap_new("tap0");
    struct yado_config *c;
    int fds[2];

    (void)state;
    assert_int_equal(socketpair(AF_UNIX, SOCK_DGRAM, 0, fds), 0);
    expect(yado_nat_new(), NULL);
    expect(yado_fd_network_new(fds[0]), NULL);
    expect_own(yado_tap_new("tap0"));
    if (!on_apple()) /* from macOS 13 */
        expect(with_mtu(yado_fd_network_new(fds[0]), 9000), NULL);
    expect_own(forwarded(NULL, 8080, 80, 1));
    expect_own(forwarded("::1", 8080, 80, 1));

    expect(with_mtu(yado_fd_network_new(fds[0]), 1499), "network[0].mtu: 1499");
    expect(with_mtu(yado_fd_network_new(fds[0]), 65536), "network[0].mtu: 65536");
    expect(with_mtu(yado_nat_new(), 9000), "network[0].mtu");
    expect(yado_tap_new(""), "network[0].attachment");
    expect(yado_tap_new("a-name-of-16-chr"), "network[0].attachment: \"a-name-of-16-chr\"");
    expect(forwarded("localhost", 1, 1, 1), "network[0].forwards[0]: forward: \"localhost\"");
    expect(forwarded(NULL, 0, 80, 1), "network[0].forwards[0]");
    expect(forwarded(NULL, 80, 0, 1), "network[0].forwards[0]");
    expect(forwarded(NULL, 80, 80, 2),
           "network[0].forwards[1]: tcp port 80 at 127.0.0.1 is taken by forwards[0]");
    yado_nat_add_forward(tap, &f);
    expect(tap, "network[0].forwards");

    expect_with(config_new(), with_mac("01:00:5e:00:00:01"), "network[0].mac: 01:00:5e:00:00:01");
    expect_with(config_new(), with_mac("ff:ff:ff:ff:ff:ff"), "network[0].mac");
    expect_with(config_new(), with_mac("00:00:00:00:00:00"), "network[0].mac");
    c = config_new();
    yado_config_add_network(c, with_mac("52:54:00:00:00:01"));
    expect_with(c, with_mac("52:54:00:00:00:01"), "network[1].mac: 52:54:00:00:00:01 is that of network[0]");
    c = config_new();
    yado_config_add_network(c, yado_virtio_net_new(forwarded(NULL, 80, 80, 1)));
    expect_with(c, yado_virtio_net_new(forwarded(NULL, 80, 81, 1)), "network[1].forwards[0]");
    close(fds[0]);
    close(fds[1]);
}

static void what_could_not_be_made_is_told(void **state)
{
    struct yado_error err = YADO_ERROR_INIT;
    struct yado_config *c = config_new();

    (void)state;
    assert_null(yado_fd_network_new(-1));
    assert_null(yado_fd_network_new(9999));
    assert_null(yado_virtio_net_new(NULL));
    yado_config_add_network(c, NULL);
    assert_false(yado_config_validate(c, &err));
    assert_int_equal(err.code, YADO_ERR_HOST);
    yado_config_free(c);
    unlink(kernel);
}

/* ---- a machine that runs ---- */

struct heard {
    unsigned lost, index;
    char why[YADO_ERROR_MESSAGE_MAX];
};

static void on_event(void *ctx, const struct yado_event *e)
{
    struct heard *h = ctx;

    if (e->kind != YADO_EVENT_NETWORK_DISCONNECTED)
        return;
    h->lost++;
    h->index = e->index;
    snprintf(h->why, sizeof(h->why), "%s", e->error.message);
}

/* Makes and starts one; err as its start gave it. */
static struct yado_machine *start(struct yado_config *c, struct heard *h)
{
    struct yado_machine_options o = { .on_event = on_event, .event_ctx = h };
    struct yado_error err = YADO_ERROR_INIT;
    struct yado_machine *m = yado_machine_new(c, &o, &err);

    yado_config_free(c);
    if (!m)
        fail_msg("%s", err.message);
    assert_true(yado_machine_start(m, NULL, NULL));
    while (yado_machine_state(m) == YADO_STATE_STARTING)
        usleep(1000);
    unlink(kernel);
    return m;
}

static int listen_on(uint16_t *port)
{
    struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t len = sizeof(a);
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
    assert_int_equal(listen(fd, 1), 0);
    getsockname(fd, (struct sockaddr *)&a, &len);
    *port = ntohs(a.sin_port);
    return fd;
}

static bool is_open(uint16_t port)
{
    struct sockaddr_in a = { .sin_family = AF_INET,
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
                             .sin_port = htons(port) };
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    bool ok = connect(fd, (struct sockaddr *)&a, sizeof(a)) == 0;

    close(fd);
    return ok;
}

static void forwards_change_while_it_runs(void **state)
{
    SKIP_ON_APPLE(); /* forwards, stream sockets */

    struct yado_error err = YADO_ERROR_INIT;
    struct heard h = { 0 };
    struct yado_config *c = config_new();
    struct yado_machine *m;
    struct yado_forward f = { .guest_port = 22 },
                        bad = { .host_address = "nowhere", .host_port = 1, .guest_port = 1 };
    uint16_t first, second;

    (void)state;
    close(listen_on(&first));
    close(listen_on(&second));
    yado_config_add_network(c, yado_virtio_net_new(forwarded(NULL, first, 22, 1)));
    m = start(c, &h);
    assert_int_equal(yado_machine_state(m), YADO_STATE_RUNNING);
    assert_true(is_open(first));
    assert_false(is_open(second));
    f.host_port = second;
    assert_true(yado_machine_add_forward(m, 0, &f, &err));
    assert_true(is_open(second));
    assert_true(yado_machine_remove_forward(m, 0, &f, &err));
    assert_false(is_open(second));

    assert_false(yado_machine_remove_forward(m, 0, &f, &err));
    assert_non_null(strstr(err.message, "network[0]: forward"));
    err = (struct yado_error)YADO_ERROR_INIT;
    assert_false(yado_machine_add_forward(m, 1, &f, &err));
    assert_non_null(strstr(err.message, "network[1]"));
    err = (struct yado_error)YADO_ERROR_INIT;
    assert_false(yado_machine_add_forward(m, 0, &bad, &err));
    assert_non_null(strstr(err.message, "nowhere"));

    assert_true(yado_machine_pause(m, NULL, NULL));
    while (yado_machine_state(m) != YADO_STATE_PAUSED)
        usleep(1000);
    err = (struct yado_error)YADO_ERROR_INIT;
    assert_true(yado_machine_add_forward(m, 0, &f, &err));
    assert_true(yado_machine_stop(m, NULL, NULL));
    assert_true(yado_machine_wait(m, 20000));
    assert_false(is_open(first));
    assert_false(yado_machine_add_forward(m, 0, &f, &err));
    assert_int_equal(err.code, YADO_ERR_STATE);
    yado_machine_free(m);
}

static void a_taken_port_fails_the_start(void **state)
{
    SKIP_ON_APPLE(); /* forwards, stream sockets */

    struct heard h = { 0 };
    struct yado_config *c = config_new();
    struct yado_machine *m;
    uint16_t port;
    int fd = listen_on(&port);

    (void)state;
    yado_config_add_network(c, yado_virtio_net_new(forwarded(NULL, port, 22, 1)));
    m = start(c, &h);
    assert_int_equal(yado_machine_state(m), YADO_STATE_ERROR);
    close(fd);
    yado_machine_free(m);
}

static void attachments_change_and_get_lost(void **state)
{
    SKIP_ON_APPLE(); /* forwards, stream sockets */

    struct yado_error err = YADO_ERROR_INIT;
    struct heard h = { 0 };
    struct yado_config *c = config_new();
    struct yado_machine *m;
    uint16_t port;
    int fds[2];

    (void)state;
    close(listen_on(&port));
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
    yado_config_add_network(c, yado_virtio_net_new(yado_nat_new()));
    yado_config_add_network(c, yado_virtio_net_new(yado_fd_network_new(fds[0])));
    close(fds[0]);
    m = start(c, &h);
    assert_int_equal(yado_machine_state(m), YADO_STATE_RUNNING);
    close(fds[1]);
    for (unsigned i = 0; i < 20000 && !h.lost; i++) {
        yado_machine_dispatch(m);
        usleep(1000);
    }
    assert_int_equal(h.lost, 1);
    assert_int_equal(h.index, 1);
    assert_true(h.why[0]);
    assert_int_equal(yado_machine_state(m), YADO_STATE_RUNNING);

    if (!yado_machine_set_network_attachment(m, 1, forwarded(NULL, port, 22, 1), &err))
        fail_msg("%s", err.message);
    assert_true(is_open(port));
    /* The same port again: the earlier attachment goes first. */
    assert_true(yado_machine_set_network_attachment(m, 1, forwarded(NULL, port, 23, 1), &err));
    assert_true(is_open(port));
    assert_true(yado_machine_set_network_attachment(m, 1, NULL, &err));
    assert_false(is_open(port));
    assert_false(yado_machine_set_network_attachment(m, 1, yado_tap_new("not/a/name"), &err));
    err = (struct yado_error)YADO_ERROR_INIT;
    assert_false(yado_machine_set_network_attachment(m, 1, forwarded("x", 1, 1, 1), &err));
    assert_non_null(strstr(err.message, "network[1].forwards[0]"));
    yado_machine_free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(addresses_are_read_and_written), cmocka_unit_test(validation_names_the_field),
        cmocka_unit_test(what_could_not_be_made_is_told), cmocka_unit_test(forwards_change_while_it_runs),
        cmocka_unit_test(a_taken_port_fails_the_start),   cmocka_unit_test(attachments_change_and_get_lost),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
