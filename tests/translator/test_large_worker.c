/* The thread that makes large pages: order, taking back, and its end. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine/translator/large_worker.h"

struct record {
    _Atomic bool hold;
    _Atomic unsigned begun, count;
    size_t at[64];
};

static void make(void *arg, size_t at)
{
    struct record *r = arg;

    atomic_fetch_add(&r->begun, 1);
    while (atomic_load(&r->hold))
        usleep(100);
    r->at[atomic_load(&r->count)] = at;
    atomic_fetch_add(&r->count, 1);
}

static void other(void *arg, size_t at)
{
    make(arg, at);
}

static bool becomes(_Atomic unsigned *n, unsigned want)
{
    for (unsigned i = 0; i < 20000 && atomic_load(n) < want; i++)
        usleep(1000);
    return atomic_load(n) == want;
}

static void in_their_order(void **state)
{
    struct large_worker *w = large_worker_start();
    struct record r = { 0 };

    (void)state;
    assert_non_null(w);
    for (size_t i = 0; i < 40; i++)
        while (!large_worker_ask(w, make, &r, i))
            usleep(100);
    assert_true(becomes(&r.count, 40));
    large_worker_stop(w);
    for (size_t i = 0; i < 40; i++)
        assert_int_equal(r.at[i], i);
}

static void taken_back(void **state)
{
    struct large_worker *w = large_worker_start();
    struct record r = { .hold = true };

    (void)state;
    assert_non_null(w);
    for (size_t i = 0; i < 5; i++)
        assert_true(large_worker_ask(w, make, &r, i));
    assert_true(becomes(&r.begun, 1));
    assert_true(large_worker_take_back(w, make, &r, 2));
    assert_false(large_worker_take_back(w, make, &r, 2)); /* not there any more */
    assert_false(large_worker_take_back(w, other, &r, 3));
    assert_true(large_worker_take_back(w, make, &r, 4)); /* the last one */
    atomic_store(&r.hold, false);
    assert_true(becomes(&r.count, 3));
    assert_false(large_worker_take_back(w, make, &r, 1)); /* done */
    large_worker_stop(w);
    assert_int_equal(r.at[0], 0);
    assert_int_equal(r.at[1], 1);
    assert_int_equal(r.at[2], 3);
}

static void let_go(void *arg, size_t at)
{
    struct record *r = arg;

    (void)at;
    atomic_fetch_add(&r->begun, 1);
    usleep(20000);
    atomic_fetch_add(&r->count, 1);
}

static void what_has_begun_is_waited_for(void **state)
{
    struct large_worker *w = large_worker_start();
    struct record r = { 0 };

    (void)state;
    assert_non_null(w);
    for (unsigned i = 1; i <= 10; i++) {
        assert_true(large_worker_ask(w, let_go, &r, 7));
        assert_true(becomes(&r.begun, i));
        assert_false(large_worker_take_back(w, let_go, &r, 7));
        assert_int_equal(atomic_load(&r.count), i);
    }
    large_worker_stop(w);
}

static void too_much(void **state)
{
    struct large_worker *w = large_worker_start();
    struct record r = { .hold = true };
    unsigned n = 0;

    (void)state;
    assert_non_null(w);
    assert_true(large_worker_ask(w, make, &r, 0));
    assert_true(becomes(&r.begun, 1));
    while (n < 1000 && large_worker_ask(w, make, &r, n + 1))
        n++;
    assert_in_range(n, 4, 999);
    for (unsigned i = n; i > 0; i--)
        assert_true(large_worker_take_back(w, make, &r, i));
    assert_true(large_worker_ask(w, make, &r, 5)); /* there is room again */
    atomic_store(&r.hold, false);
    assert_true(becomes(&r.count, 2));
    large_worker_stop(w);
    assert_int_equal(r.at[1], 5);
}

static void the_rest_is_dropped(void **state)
{
    struct large_worker *w = large_worker_start();
    struct record r = { 0 };

    (void)state;
    assert_non_null(w);
    for (size_t i = 0; i < 4; i++)
        assert_true(large_worker_ask(w, let_go, &r, i));
    assert_true(becomes(&r.begun, 1));
    large_worker_stop(w);
    assert_in_range(atomic_load(&r.count), 1, 3);
    assert_int_equal(atomic_load(&r.count), atomic_load(&r.begun));
    assert_false(large_worker_ask(NULL, make, &r, 1));
    large_worker_stop(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(in_their_order),
        cmocka_unit_test(taken_back),
        cmocka_unit_test(what_has_begun_is_waited_for),
        cmocka_unit_test(too_much),
        cmocka_unit_test(the_rest_is_dropped),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
