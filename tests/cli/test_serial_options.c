/* What --serial and --console say. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "cli.h"
#include "said.h"
#include "serial_options.h"

static void kinds_are_read(void **state)
{
    struct serial_options o = { .serial_count = 0 };

    (void)state;
    assert_int_equal(serial_options_add(&o, "file:a,b"), EXIT_OK);
    assert_int_equal(serial_options_add(&o, "append:c"), EXIT_OK);
    assert_int_equal(serial_options_add(&o, "socket:/run/s"), EXIT_OK);
    assert_int_equal(serial_options_add(&o, "fd:7"), EXIT_OK);
    assert_int_equal(serial_options_add(&o, "pty"), EXIT_OK);
    assert_int_equal(o.serials[0].kind, RUN_SERIAL_FILE);
    assert_string_equal(o.serials[0].path, "a,b");
    assert_int_equal(o.serials[1].kind, RUN_SERIAL_APPEND);
    assert_int_equal(o.serials[2].kind, RUN_SERIAL_SOCKET);
    assert_string_equal(o.serials[2].path, "/run/s");
    assert_int_equal(o.serials[3].fd, 7);
    assert_int_equal(o.serials[4].kind, RUN_SERIAL_PTY);
    serial_options_complete(&o); /* --serial was given: no terminal is added */
    assert_int_equal(o.serial_count, 5);
}

static void consoles_are_read(void **state)
{
    struct serial_options o = { .serial_count = 0 };

    (void)state;
    assert_int_equal(console_options_add(&o, "name=agent,socket:a,b=c"), EXIT_OK);
    assert_int_equal(console_options_add(&o, "hvc,name=x,none"), EXIT_OK);
    assert_int_equal(console_options_add(&o, "file:name=y"), EXIT_OK);
    assert_int_equal(o.port_count, 3);
    assert_string_equal(o.ports[0].name, "agent");
    assert_int_equal(o.ports[0].serial.kind, RUN_SERIAL_SOCKET);
    assert_string_equal(o.ports[0].serial.path, "a,b=c");
    assert_false(o.ports[0].is_hvc);
    assert_string_equal(o.ports[1].name, "x");
    assert_true(o.ports[1].is_hvc);
    assert_null(o.ports[2].name);
    assert_string_equal(o.ports[2].serial.path, "name=y");
    serial_options_complete(&o); /* the terminal is hvc0 still */
    assert_int_equal(o.serial_count, 1);
    serial_options_free(&o);
}

/* The terminal may be a port, and is then nothing else. */
static void one_stdio(void **state)
{
    struct serial_options o = { .serial_count = 0 };

    (void)state;
    assert_int_equal(console_options_add(&o, "hvc,stdio"), EXIT_OK);
    serial_options_complete(&o);
    assert_int_equal(o.serial_count, 0);
    assert_int_equal(serial_options_add(&o, "stdio"), EXIT_USAGE);
    assert_non_null(strstr(said, "--serial: stdio can be given once only"));
    assert_int_equal(console_options_add(&o, "stdio"), EXIT_USAGE);
    assert_non_null(strstr(said, "--console: stdio"));
    serial_options_free(&o);
}

static void mistakes_are_named(void **state)
{
    static const char *const bad[] = {
        "",    "tcp:1", "name=a",         "name=a,", "hvc",      "name=a,hvc", "file:",   "socket:",
        "fd:", "fd:-1", "fd:99999999999", "append:", "hvcx,pty", "tty=1,pty",  "pty,hvc", "name=a,nome"
    };
    struct serial_options o = { .serial_count = 0 };

    (void)state;
    for (size_t i = 0; i < count_of(bad); i++) {
        said[0] = '\0';
        assert_int_equal(console_options_add(&o, bad[i]), EXIT_USAGE);
        assert_non_null(strstr(said, "--console"));
        assert_non_null(strstr(said, "socket:PATH"));
    }
    for (unsigned i = 0; i < YADO_CONSOLE_PORTS_MAX; i++)
        assert_int_equal(console_options_add(&o, "none"), EXIT_OK);
    assert_int_equal(console_options_add(&o, "none"), EXIT_USAGE);
    assert_non_null(strstr(said, "more than 31"));
    for (unsigned i = 0; i < RUN_SERIAL_MAX; i++)
        assert_int_equal(serial_options_add(&o, "none"), EXIT_OK);
    assert_int_equal(serial_options_add(&o, "none"), EXIT_USAGE);
    serial_options_free(&o);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(kinds_are_read),
        cmocka_unit_test(consoles_are_read),
        cmocka_unit_test(one_stdio),
        cmocka_unit_test(mistakes_are_named),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
