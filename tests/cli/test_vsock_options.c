/* What --vsock says. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "cli.h"
#include "said.h"
#include "vsock_options.h"

static void both_forms_are_read(void **state)
{
    struct vsock_options o = { .count = 0 };

    (void)state;
    assert_int_equal(vsock_options_add(&o, "1024=/run/agent.sock"), EXIT_OK);
    assert_int_equal(vsock_options_add(&o, "guest:22=ssh.sock"), EXIT_OK);
    assert_int_equal(vsock_options_add(&o, "4294967294=a=b,c"), EXIT_OK);
    assert_int_equal(o.count, 3);
    assert_false(o.paths[0].to_guest);
    assert_int_equal(o.paths[0].port, 1024);
    assert_string_equal(o.paths[0].path, "/run/agent.sock");
    assert_true(o.paths[1].to_guest);
    assert_int_equal(o.paths[1].port, 22);
    assert_string_equal(o.paths[1].path, "ssh.sock");
    assert_true(o.paths[2].port == YADO_SOCKET_PORT_MAX);
    assert_string_equal(o.paths[2].path, "a=b,c");
}

static void mistakes_are_named(void **state)
{
    static const char *const bad[] = { "",
                                       "1024",
                                       "1024=",
                                       "=x",
                                       "x=y",
                                       "-1=x",
                                       "guest:=x",
                                       "guest:22",
                                       "host:22=x",
                                       "4294967295=x",
                                       "1 =x",
                                       "guest:a=x",
                                       "11111111111111111111=x" };
    struct vsock_options o = { .count = 0 };

    (void)state;
    for (size_t i = 0; i < count_of(bad); i++) {
        said[0] = '\0';
        assert_int_equal(vsock_options_add(&o, bad[i]), EXIT_USAGE);
        if (!strstr(said, bad[i]) || !strstr(said, "--vsock"))
            fail_msg("%s: said \"%s\"", bad[i], said);
    }
    assert_int_equal(o.count, 0);
    for (unsigned i = 0; i < RUN_VSOCK_MAX; i++)
        assert_int_equal(vsock_options_add(&o, "1=x"), EXIT_OK);
    assert_int_equal(vsock_options_add(&o, "1=x"), EXIT_USAGE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(both_forms_are_read),
        cmocka_unit_test(mistakes_are_named),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
