/* Waking poll loops, waits by the monotonic clock, random bytes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <poll.h>
#include <string.h>

#include "host/clock.h"
#include "host/random.h"
#include "host/thread.h"
#include "host/wake.h"

static bool is_readable(const struct wake *w)
{
    struct pollfd p = { .fd = w->read_fd, .events = POLLIN };

    return poll(&p, 1, 0) == 1;
}

static void wakes_until_cleared(void **state)
{
    struct wake w;

    (void)state;
    assert_true(wake_open(&w, NULL));
    assert_true(fcntl(w.read_fd, F_GETFD) & FD_CLOEXEC);
    assert_false(is_readable(&w));
    wake_clear(&w); /* does not block */
    for (unsigned i = 0; i < 3; i++)
        wake_set(&w);
    assert_true(is_readable(&w));
    wake_clear(&w);
    assert_false(is_readable(&w));
    wake_set(&w);
    assert_true(is_readable(&w));
    wake_close(&w);
    assert_int_equal(w.read_fd, -1);
    wake_close(&w);
}

static void waits_end_by_the_clock(void **state)
{
    pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    const struct clock clock = clock_host();
    pthread_cond_t cond;
    uint64_t deadline;
    bool in_time = true;

    (void)state;
    thread_cond_init(&cond);
    pthread_mutex_lock(&lock);
    deadline = clock_now(&clock) + 20000000;
    while (in_time)
        in_time = thread_cond_wait_until(&cond, &lock, deadline);
    assert_true(clock_now(&clock) >= deadline);
    assert_false(thread_cond_wait_until(&cond, &lock, 0)); /* long ago */
    pthread_mutex_unlock(&lock);
    pthread_cond_destroy(&cond);
}

static void random_bytes_differ(void **state)
{
    uint8_t a[256], b[256], zero[16] = { 0 };

    (void)state;
    random_bytes(a, sizeof(a));
    random_bytes(b, sizeof(b));
    assert_memory_not_equal(a, b, 32);
    assert_memory_not_equal(a + 240, zero, 16); /* filled to the end */
    random_bytes(a, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(wakes_until_cleared),
        cmocka_unit_test(waits_end_by_the_clock),
        cmocka_unit_test(random_bytes_differ),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
