/* The file for profilers, and what must not become of it in a folder that others write to. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine/translator/perf_map.h"

static char path[64], other[64];

static int clean(void **state)
{
    (void)state;
    snprintf(path, sizeof(path), "/tmp/perf-%ld.map", (long)getpid());
    snprintf(other, sizeof(other), "/tmp/perf-%ld.other", (long)getpid());
    unlink(path);
    unlink(other);
    return 0;
}

static void lines(void **state)
{
    struct yado_error err = YADO_ERROR_INIT;
    struct perf_map *a = perf_map_open(&err), *b;
    char text[200] = { 0 };
    struct stat st;
    FILE *f;

    (void)state;
    assert_non_null(a);
    perf_map_add(a, (const void *)0x7f0012345000, 0x40, 0xffffffff81000000);
    b = perf_map_open(&err); /* another machine of this process */
    assert_non_null(b);
    perf_map_add(b, (const void *)0x1000, 1, 0x2000);
    perf_map_close(a);
    perf_map_close(b);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    f = fopen(path, "r");
    assert_non_null(f);
    assert_true(fread(text, 1, sizeof(text) - 1, f) > 0);
    fclose(f);
    assert_string_equal(text, "7f0012345000 40 guest:0xffffffff81000000\n1000 1 guest:0x2000\n");
}

static void refused(const char *how)
{
    struct yado_error err = YADO_ERROR_INIT;

    if (perf_map_open(&err))
        fail_msg("%s was written to", how);
    assert_int_equal(err.code, YADO_ERR_FILE);
    assert_non_null(strstr(err.message, path));
}

static void not_through_links(void **state)
{
    FILE *f = fopen(other, "w");
    struct stat st;

    (void)state;
    assert_non_null(f);
    fclose(f);
    assert_int_equal(symlink(other, path), 0);
    refused("a symbolic link");
    assert_int_equal(unlink(path), 0);
    assert_int_equal(symlink("/tmp/there-is-no-such-file", path), 0);
    refused("a link to nothing");
    assert_int_equal(unlink(path), 0);
    assert_int_equal(link(other, path), 0);
    refused("a file with a second name");
    assert_int_equal(unlink(path), 0);
    assert_int_equal(mkfifo(path, 0600), 0);
    refused("a pipe");
    assert_int_equal(unlink(path), 0);
    assert_int_equal(mkdir(path, 0700), 0);
    refused("a directory");
    assert_int_equal(rmdir(path), 0);
    assert_int_equal(stat(other, &st), 0);
    assert_int_equal(st.st_size, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(lines, clean, clean),
        cmocka_unit_test_setup_teardown(not_through_links, clean, clean),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
