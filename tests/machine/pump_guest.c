#include "pump_guest.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

static size_t on_receive(void *ctx, const uint8_t *bytes, size_t len)
{
    struct guest *g = ctx;
    size_t n;

    pthread_mutex_lock(&g->lock);
    n = g->limit - g->len < len ? g->limit - g->len : len;
    memcpy(g->bytes + g->len, bytes, n);
    g->len += n;
    pthread_mutex_unlock(&g->lock);
    return n;
}

static void on_ready(void *ctx)
{
    struct guest *g = ctx;

    pthread_mutex_lock(&g->lock);
    g->ready++;
    pthread_mutex_unlock(&g->lock);
}

static void on_connected(void *ctx, bool is_connected)
{
    struct guest *g = ctx;

    pthread_mutex_lock(&g->lock);
    assert_int_not_equal(g->is_connected, is_connected);
    g->is_connected = is_connected;
    g->connects += is_connected;
    g->disconnects += !is_connected;
    pthread_mutex_unlock(&g->lock);
}

static void on_resized(void *ctx, uint16_t columns, uint16_t rows)
{
    struct guest *g = ctx;

    pthread_mutex_lock(&g->lock);
    g->columns = columns;
    g->rows = rows;
    pthread_mutex_unlock(&g->lock);
}

void guest_begin(struct guest *g, struct pump_ends ends, bool guest_closed)
{
    struct pump_config cfg = { .name = "test",
                               .ends = ends,
                               .guest_closed = guest_closed,
                               .receive = on_receive,
                               .ready = on_ready,
                               .connected = on_connected,
                               .resized = on_resized,
                               .ctx = g };

    *g = (struct guest){ .limit = sizeof(g->bytes) };
    pthread_mutex_init(&g->lock, NULL);
    g->p = pump_new(&cfg, NULL);
    assert_non_null(g->p);
    g->is_connected = pump_is_connected(g->p);
    assert_true(pump_start(g->p, NULL));
}

void guest_limit(struct guest *g, size_t limit)
{
    pthread_mutex_lock(&g->lock);
    g->limit = limit;
    pthread_mutex_unlock(&g->lock);
}

void guest_look(struct guest *g)
{
    pthread_mutex_lock(&g->lock);
}

void guest_nap(struct guest *g, unsigned turn, const char *what)
{
    struct timespec ms = { .tv_nsec = 1000000 };

    pthread_mutex_unlock(&g->lock);
    if (turn == 20000)
        fail_msg("not within 20 s: %s", what);
    nanosleep(&ms, NULL);
}
