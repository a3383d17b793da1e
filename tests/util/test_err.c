/* Errors, trace lines and the abort of last resort. */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "util/err.h"
#include "util/log.h"

static void first_cause_wins(void **state)
{
    struct yado_error err = YADO_ERROR_INIT;

    (void)state;
    assert_false(err_set(&err, YADO_ERR_IMAGE, "kernel: %d bytes", 12));
    assert_false(err_set(&err, YADO_ERR_FILE, "later"));
    assert_false(err_set_errno(&err, YADO_ERR_FILE, ENOENT, "later still"));
    assert_int_equal(err.code, YADO_ERR_IMAGE);
    assert_int_equal(err.os_errno, 0);
    assert_string_equal(err.message, "kernel: 12 bytes");
}

static void errno_is_kept_and_told(void **state)
{
    struct yado_error err = YADO_ERROR_INIT;

    (void)state;
    assert_false(err_set_errno(&err, YADO_ERR_FILE, ENOENT, "disk.img"));
    assert_int_equal(err.os_errno, ENOENT);
    assert_string_equal(err.message, "disk.img: No such file or directory");
    assert_false(err_prepend(&err, "storage[%d]", 0));
    assert_string_equal(err.message, "storage[0]: disk.img: No such file or directory");
}

static void null_and_empty_are_fine(void **state)
{
    struct yado_error err = YADO_ERROR_INIT;

    (void)state;
    assert_false(err_set(NULL, YADO_ERR_FILE, "x"));
    assert_false(err_set_errno(NULL, YADO_ERR_FILE, EIO, "x"));
    assert_false(err_prepend(NULL, "x"));
    assert_false(err_prepend(&err, "x"));
    assert_int_equal(err.code, YADO_OK);
    assert_string_equal(err.message, "");
}

static void long_message_keeps_both_ends(void **state)
{
    struct yado_error err = YADO_ERROR_INIT;
    char path[3001];

    (void)state;
    memset(path, 'a', sizeof(path) - 1);
    memcpy(path, "/start", 6);
    path[sizeof(path) - 1] = '\0';
    err_set_errno(&err, YADO_ERR_FILE, EACCES, "%s", path);
    assert_int_equal(strlen(err.message), YADO_ERROR_MESSAGE_MAX - 1);
    assert_memory_equal(err.message, "/start", 6);
    assert_non_null(strstr(err.message, " ... "));
    assert_string_equal(err.message + strlen(err.message) - 19, ": Permission denied");
    err_prepend(&err, "storage[3]");
    assert_memory_equal(err.message, "storage[3]: /start", 18);
    assert_string_equal(err.message + strlen(err.message) - 19, ": Permission denied");
}

/* Cutting must not split a character: all bytes between the ends of the message are whole 3-byte sequences.
 */
static void long_message_keeps_characters_whole(void **state)
{
    char text[3000];

    (void)state;
    for (size_t shift = 0; shift < 3; shift++) {
        struct yado_error err = YADO_ERROR_INIT;
        size_t n = 0, i = shift;

        memset(text, 'x', shift);
        for (n = shift; n + 4 < sizeof(text); n += 3)
            memcpy(text + n, "\xe5\xae\xbf", 3);
        text[n] = '\0';
        err_set(&err, YADO_ERR_FILE, "%s", text);
        while (err.message[i]) {
            if (err.message[i] == ' ' || err.message[i] == '.') {
                i++;
                continue;
            }
            assert_memory_equal(err.message + i, "\xe5\xae\xbf", 3);
            i += 3;
        }
    }
}

static void message_is_one_printable_line(void **state)
{
    struct yado_error err = YADO_ERROR_INIT;

    (void)state;
    err_set(&err, YADO_ERR_FILE, "a\nb\033[31mc\x7f");
    assert_string_equal(err.message, "a?b?[31mc?");
}

static void every_code_has_its_name(void **state)
{
    (void)state;
    for (int i = YADO_OK; i <= YADO_ERR_TIMEOUT; i++) {
        assert_string_not_equal(yado_error_code_name((enum yado_error_code)i), "unknown");
        for (int j = YADO_OK; j < i; j++)
            assert_string_not_equal(yado_error_code_name((enum yado_error_code)i),
                                    yado_error_code_name((enum yado_error_code)j));
    }
    assert_string_equal(yado_error_code_name((enum yado_error_code)9999), "unknown");
}

struct seen {
    unsigned count;
    enum log_category cat;
    char line[600];
};

static void seen_sink(void *ctx, enum log_category cat, const char *line)
{
    struct seen *seen = ctx;

    seen->count++;
    seen->cat = cat;
    strncpy(seen->line, line, sizeof(seen->line) - 1);
}

static void log_goes_to_enabled_categories(void **state)
{
    struct seen seen = { 0 };
    struct log log = { .sink = seen_sink, .ctx = &seen, .enabled = 1u << LOG_PCI };
    char big[1000];

    (void)state;
    log_line(NULL, LOG_PCI, "x");
    log_line(&log, LOG_DISK, "x");
    assert_int_equal(seen.count, 0);
    log_line(&log, LOG_PCI, "bar %d\n", 3);
    assert_int_equal(seen.count, 1);
    assert_int_equal(seen.cat, LOG_PCI);
    assert_string_equal(seen.line, "bar 3?");
    memset(big, 'b', sizeof(big) - 1);
    big[sizeof(big) - 1] = '\0';
    log_line(&log, LOG_PCI, "%s", big);
    assert_int_equal(strlen(seen.line), 511);
    log.sink = NULL;
    log_line(&log, LOG_PCI, "x");
    assert_int_equal(seen.count, 2);
    for (int i = 0; i < LOG_CATEGORY_COUNT; i++)
        assert_string_not_equal(log_category_name((enum log_category)i), "unknown");
}

static void bug_aborts_with_its_place(void **state)
{
    char text[256] = "";
    int ends[2], status;
    ssize_t n;
    pid_t pid;

    (void)state;
    assert_int_equal(pipe(ends), 0);
    pid = fork();
    if (pid == 0) {
        signal(SIGABRT, SIG_DFL);
        dup2(ends[1], STDERR_FILENO);
        BUG_ON(ends[0] != -1);
        _exit(0);
    }
    close(ends[1]);
    n = read(ends[0], text, sizeof(text) - 1);
    close(ends[0]);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    assert_true(n > 0);
    assert_non_null(strstr(text, "test_err.c"));
    assert_non_null(strstr(text, "ends[0] != -1"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(first_cause_wins),
        cmocka_unit_test(errno_is_kept_and_told),
        cmocka_unit_test(null_and_empty_are_fine),
        cmocka_unit_test(long_message_keeps_both_ends),
        cmocka_unit_test(long_message_keeps_characters_whole),
        cmocka_unit_test(message_is_one_printable_line),
        cmocka_unit_test(every_code_has_its_name),
        cmocka_unit_test(log_goes_to_enabled_categories),
        cmocka_unit_test(bug_aborts_with_its_place),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
