/* Which instructions keep a page of code from running directly, and where the process is to stop at them. */
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "engine/translator/direct_priv.h"

static uint8_t before[PAGE_SIZE], page[PAGE_SIZE], behind[PAGE_SIZE];

static int fresh(void **state)
{
    (void)state;
    memset(before, 0x90, sizeof(before));
    memset(page, 0x90, sizeof(page));
    memset(behind, 0x90, sizeof(behind));
    return 0;
}

static struct direct_sites scan(unsigned may)
{
    struct direct_sites s;
    assert_true(direct_scan(before, page, may, &s));
    return s;
}

/* Of these bytes in the middle of the page. */
static unsigned count(const char *bytes, unsigned n, unsigned may)
{
    fresh(NULL);
    memcpy(page + 1000, bytes, n);
    struct direct_sites s = scan(may);
    if (s.count)
        assert_int_equal(s.at[0], 1000);
    return s.count;
}
#define COUNT(bytes, may) count(bytes, sizeof(bytes) - 1, may)

static void test_told(void **state)
{
    (void)state;
    assert_int_equal(COUNT("\x0f\xa2", 0), 1); /* CPUID */
    assert_int_equal(COUNT("\x0f\xa2", DIRECT_MAY_CPUID), 0);
    assert_int_equal(COUNT("\x0f\x31", DIRECT_MAY_CPUID), 1);     /* RDTSC */
    assert_int_equal(COUNT("\x0f\x01\xf9", 0), 1);                /* RDTSCP */
    assert_int_equal(COUNT("\x0f\x01\xd0", 0), 1);                /* XGETBV */
    assert_int_equal(COUNT("\xf3\x0f\xc7\xf8", 0), 1);            /* RDPID, from its prefix on */
    assert_int_equal(COUNT("\xf3\x49\x0f\xc7\xf8", 0), 1);        /* and REX */
    assert_int_equal(COUNT("\x0f\x01\xc1", 0), 1);                /* VMCALL */
    assert_int_equal(COUNT("\x0f\x01\xd9", 0), 1);                /* VMMCALL */
    assert_int_equal(COUNT("\x0f\x01\xfd", 0), 1);                /* RDPRU */
    assert_int_equal(COUNT("\x0f\x33", 0), 1);                    /* RDPMC */
    assert_int_equal(COUNT("\xcd\x04", 0), 1);                    /* INT 4 */
    assert_int_equal(COUNT("\x0f\x34", 0), 1);                    /* SYSENTER */
    assert_int_equal(COUNT("\x0f\x01\x00", 0), 1);                /* SGDT */
    assert_int_equal(COUNT("\x0f\x01\x48\x10", 0), 1);            /* SIDT */
    assert_int_equal(COUNT("\x0f\x01\xe0", 0), 1);                /* SMSW */
    assert_int_equal(COUNT("\x0f\x00\xc0", 0), 1);                /* SLDT */
    assert_int_equal(COUNT("\x0f\x00\xe0", 0), 1);                /* VERR */
    assert_int_equal(COUNT("\x0f\x02\xc1", 0), 1);                /* LAR */
    assert_int_equal(COUNT("\x0f\x03\xc1", 0), 1);                /* LSL */
    assert_int_equal(COUNT("\x0f\xae\x20", 0), 1);                /* XSAVE */
    assert_int_equal(COUNT("\x0f\xae\x20", DIRECT_MAY_XSAVE), 0); /* of all that the guest has, too */
    assert_int_equal(COUNT("\x0f\xc7\x20", 0), 1);                /* XSAVEC */
}

static void test_not_told(void **state)
{
    (void)state;
    assert_int_equal(COUNT("\x0f\x05", 0), 0);                                 /* SYSCALL stops by itself */
    assert_int_equal(COUNT("\x0f\x01\xd6", 0), 0);                             /* XTEST */
    assert_int_equal(COUNT("\x0f\x01\x38", 0), 0);                             /* INVLPG faults */
    assert_int_equal(COUNT("\xcd\x05", 0), 0);                                 /* INT 5 */
    assert_int_equal(COUNT("\x0f\xc7\xf0", 0), 0);                             /* RDRAND */
    assert_int_equal(COUNT("\x0f\xc7\x0f", 0), 0);                             /* CMPXCHG8B */
    assert_int_equal(COUNT("\x0f\xae\xe8", 0), 0);                             /* LFENCE */
    assert_int_equal(COUNT("\x0f\xae\x28", 0), 0);                             /* XRSTOR */
    assert_int_equal(COUNT("\xe8\x0f\xa2\x00\x00", 0), 0);                     /* in a displacement */
    assert_int_equal(COUNT("\x48\xb8\x0f\xa2\x0f\x31\x0f\xa2\x0f\x31", 0), 0); /* in a constant */
}

/* A few are stopped at, more are not. */
static void test_many(void **state)
{
    struct direct_sites s;
    (void)state;
    for (unsigned i = 0; i < USERPROC_BREAKS; i++)
        memcpy(page + 100 * i, "\x0f\xa2", 2);
    s = scan(0);
    assert_int_equal(s.count, USERPROC_BREAKS);
    for (unsigned i = 0; i < USERPROC_BREAKS; i++)
        assert_int_equal(s.at[i], 100 * i);
    memcpy(page + 2000, "\x0f\x31", 2);
    assert_false(direct_scan(before, page, 0, &s));
}

/* What begins in the page before: the rest of an instruction, or one that is to be stopped at but not here.
 */
static void test_edges(void **state)
{
    struct direct_sites s;
    (void)state;
    memcpy(before + PAGE_SIZE - 1, "\xe8", 1);
    memcpy(page, "\x0f\xa2\x00\x00", 4);
    assert_int_equal(scan(0).count, 0);
    memcpy(before + PAGE_SIZE - 1, "\xf3", 1);
    memcpy(page, "\x0f\xc7\xf8", 3);
    assert_false(direct_scan(before, page, 0, &s));
    assert_true(direct_scan(NULL, page, 0, &s));
    assert_int_equal(s.count, 1);
    fresh(state);
    memcpy(page + PAGE_SIZE - 2, "\x0f\x31", 2); /* all of it is in this page */
    assert_int_equal(scan(0).at[0], PAGE_SIZE - 2);
    memcpy(page + PAGE_SIZE - 2, "\x0f\x01", 2); /* not all */
    assert_int_equal(scan(0).count, 0);
}

static void test_seam(void **state)
{
    (void)state;
    assert_true(direct_scan_seam(page, behind, 0));
    page[PAGE_SIZE - 1] = 0x0f;
    assert_true(direct_scan_seam(page, behind, 0));
    behind[0] = 0xa2;
    assert_false(direct_scan_seam(page, behind, 0));
    assert_true(direct_scan_seam(page, behind, DIRECT_MAY_CPUID));
    fresh(NULL);
    memcpy(page + PAGE_SIZE - 2, "\x0f\x01", 2);
    behind[0] = 0xf9;
    assert_false(direct_scan_seam(page, behind, 0));
    fresh(NULL);
    memcpy(page + PAGE_SIZE - 4, "\xe8\xaf\xcd\x0f",
           4); /* a call whose displacement looks like SLDT, as Python has it */
    memcpy(behind, "\0\xc0", 2);
    assert_true(direct_scan_seam(page, behind, 0));
    page[PAGE_SIZE - 4] = 0x90; /* and without the call */
    page[PAGE_SIZE - 3] = 0x90;
    page[PAGE_SIZE - 2] = 0x90;
    assert_false(direct_scan_seam(page, behind, 0));
    fresh(NULL);
    page[PAGE_SIZE - 1] = 0xf3; /* from a prefix on */
    memcpy(behind, "\x0f\xc7\xf8", 3);
    assert_true(direct_scan_seam(page, behind, 0)); /* its opcode is the page behind's to find */
    memcpy(page + PAGE_SIZE - 2, "\xf3\x0f", 2);
    memcpy(behind, "\xc7\xf8", 2);
    assert_false(direct_scan_seam(page, behind, 0));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_told, fresh), cmocka_unit_test_setup(test_not_told, fresh),
        cmocka_unit_test_setup(test_many, fresh), cmocka_unit_test_setup(test_edges, fresh),
        cmocka_unit_test_setup(test_seam, fresh),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
