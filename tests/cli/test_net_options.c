/* What --net says. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "cli.h"
#include "said.h"
#include "net_options.h"

static void nat_is_the_default(void **state)
{
    struct net_options o = { .count = 0 };

    (void)state;
    net_options_complete(&o);
    assert_int_equal(o.count, 1);
    assert_int_equal(o.nets[0].kind, RUN_NET_NAT);
    o = (struct net_options){ .count = 0 };
    assert_int_equal(net_options_add(&o, "none"), EXIT_OK);
    net_options_complete(&o);
    assert_int_equal(o.count, 0);
}

static void all_forms_are_read(void **state)
{
    struct net_options o = { .count = 0 };
    const struct run_forward *f = o.nets[0].forwards;

    (void)state;
    assert_int_equal(
        net_options_add(&o, "nat,mac=52:54:00:00:00:01,forward=tcp:8080:80,forward=udp:0.0.0.0:53:5353,"
                            "forward=tcp:[::1]:2222:22"),
        EXIT_OK);
    assert_true(o.nets[0].has_mac);
    assert_int_equal(o.nets[0].mac.octet[5], 1);
    assert_int_equal(o.nets[0].forward_count, 3);
    assert_int_equal(f[0].protocol, YADO_TCP);
    assert_string_equal(f[0].host, "");
    assert_int_equal(f[0].host_port, 8080);
    assert_int_equal(f[0].guest_port, 80);
    assert_int_equal(f[1].protocol, YADO_UDP);
    assert_string_equal(f[1].host, "0.0.0.0");
    assert_string_equal(f[2].host, "::1");
    assert_int_equal(f[2].host_port, 2222);
    assert_int_equal(net_options_add(&o, "tap=tap0,mac=52:54:00:00:00:02"), EXIT_OK);
    assert_string_equal(o.nets[1].tap, "tap0");
    assert_int_equal(net_options_add(&o, "fd=0,mtu=9000"), EXIT_OK);
    assert_int_equal(o.nets[2].fd, 0);
    assert_int_equal(o.nets[2].mtu, 9000);
    assert_int_equal(o.count, 3);
    net_options_free(&o);
}

static void mistakes_are_named(void **state)
{
    static const struct {
        const char *value, *text;
    } bad[] = {
        { "", "none, nat, tap" },
        { "bridge=br0", "bridge=br0" },
        { "nat,colour=red", "colour=red" },
        { "nat,mac=52:54", "mac=52:54" },
        { "nat,forward=tcp:80", "tcp:80" },
        { "nat,forward=80:80", "80:80" },
        { "nat,forward=tcp:0:80", "tcp:0:80" },
        { "nat,forward=tcp:80:65536", "65536" },
        { "nat,forward=tcp::80:80", "tcp::80:80" },
        { "nat,forward=sctp:80:80", "sctp" },
        { "nat,mtu=9000", "mtu" },
        { "tap=tap0,forward=tcp:80:80", "forwards" },
        { "tap=", "tap=" },
        { "none,mac=52:54:00:00:00:02", "after \"none\"" },
        { "fd=x", "fd=x" },
        { "fd=0,mtu=10", "mtu=10" },
        { "fd=1048575", "descriptor 1048575 is not open" },
    };

    (void)state;
    for (size_t i = 0; i < count_of(bad); i++) {
        struct net_options o = { .count = 0 };

        said[0] = '\0';
        assert_int_equal(net_options_add(&o, bad[i].value), EXIT_USAGE);
        if (!strstr(said, bad[i].text) || !strstr(said, "--net"))
            fail_msg("%s: said \"%s\"", bad[i].value, said);
        net_options_free(&o);
    }
}

static void none_goes_alone(void **state)
{
    struct net_options o = { .count = 0 };

    (void)state;
    assert_int_equal(net_options_add(&o, "nat"), EXIT_OK);
    assert_int_equal(net_options_add(&o, "none"), EXIT_USAGE);
    o = (struct net_options){ .count = 0 };
    assert_int_equal(net_options_add(&o, "none"), EXIT_OK);
    assert_int_equal(net_options_add(&o, "nat"), EXIT_USAGE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nat_is_the_default),
        cmocka_unit_test(all_forms_are_read),
        cmocka_unit_test(mistakes_are_named),
        cmocka_unit_test(none_goes_alone),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
