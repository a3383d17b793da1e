/* 8254. A counter is not stepped: it is a mode, a count and the time when it began, and what it shows is
 * worked out when somebody looks. Sections are of the Intel 8254 data sheet (231164-005). */
#include "chip/pit.h"

#include <pthread.h>
#include <stdlib.h>

#define COUNTERS 3
#define NS 1000000000ull
#define IRQ_MIN_NS 50000u /* two interrupts are so far apart whatever the guest asks for */
#define REFRESH_NS 15085u /* port 0x61 bit 4 toggles with the refresh of memory */

struct counter {
    uint8_t mode, rw;           /* 0 .. 5; 1: low byte, 2: high byte, 3: low then high */
    uint32_t count;             /* 1 .. 0x10000 */
    uint64_t begin_ns;          /* when it began, or at `held` when the gate stopped it */
    uint64_t held_ticks;        /* ticks done before begin_ns */
    bool gate, running;         /* running: a count was written (modes 1 and 5: and a trigger came) */
    bool loaded;                /* a count was written since the mode was set */
    bool write_high, read_high; /* the second byte is next */
    uint8_t low;
    bool count_latched, status_latched;
    uint16_t latch;
    uint8_t status;
};

struct pit {
    pthread_mutex_t lock; /* irq and arm are called under it */
    struct pit_config cfg;
    struct counter counter[COUNTERS];
    bool speaker;
    uint64_t edge; /* rises of counter 0's output that are behind us, since its begin */
};

static uint64_t ticks_of(uint64_t ns)
{
    return (uint64_t)((unsigned __int128)ns * PIT_HZ / NS);
}

static uint64_t ns_of(uint64_t ticks)
{
    return (uint64_t)(((unsigned __int128)ticks * NS + PIT_HZ - 1) / PIT_HZ);
}

/* Whether the gate stops it; in modes 1 and 5 it triggers only. */
static bool gate_counts(const struct counter *c)
{
    return c->gate || c->mode == 1 || c->mode == 5;
}

static uint64_t elapsed(const struct counter *c, uint64_t now)
{
    return c->held_ticks + (gate_counts(c) ? ticks_of(now - c->begin_ns) : 0);
}

/* Mode definitions: what OUT is. */
static bool output(const struct counter *c, uint64_t now)
{
    uint64_t d;

    if (!c->running)
        return c->mode != 0;
    d = elapsed(c, now);
    switch (c->mode) {
    case 0:
    case 1: return d >= c->count;
    case 2: return !c->gate || d % c->count != c->count - 1;
    case 3: return !c->gate || d % c->count < (c->count + 1) / 2;
    default: return d != c->count;
    }
}

static uint16_t current_count(const struct counter *c, uint64_t now)
{
    uint64_t d;

    if (!c->running)
        return (uint16_t)c->count;
    d = elapsed(c, now);
    if (c->mode == 2)
        return (uint16_t)(c->count - d % c->count);
    if (c->mode == 3)
        return (uint16_t)((c->count & ~1u) - 2 * (d % c->count) % (c->count & ~1u ? c->count & ~1u : 2));
    return (uint16_t)(c->count - d);
}

/* ---- interrupts: rises of counter 0's output ---- */

/* Rises of OUT up to `d` ticks, and when the next one is; 0: never again. */
static uint64_t rises(const struct counter *c, uint64_t d, uint64_t *next)
{
    uint64_t at = c->mode >= 4 ? c->count + 1ull : c->count;

    if (c->mode == 2 || c->mode == 3) {
        *next = (d / c->count + 1) * c->count;
        return d / c->count;
    }
    *next = d < at ? at : 0;
    return d >= at;
}

static void irq_update(struct pit *p)
{
    struct counter *c = &p->counter[0];
    uint64_t now = clock_now(&p->cfg.clock), d = elapsed(c, now), next, count, due;

    if (!c->running) {
        line_set(p->cfg.irq, c->mode != 0);
        p->cfg.arm(p->cfg.ctx, PIT_NEVER);
        return;
    }
    count = rises(c, d, &next);
    if (count != p->edge)
        line_set(p->cfg.irq, false);
    line_set(p->cfg.irq, count != p->edge || output(c, now));
    p->edge = count;
    if (!next) {
        p->cfg.arm(p->cfg.ctx, PIT_NEVER);
        return;
    }
    due = c->begin_ns + ns_of(next - c->held_ticks);
    p->cfg.arm(p->cfg.ctx, max_u64(due, now + IRQ_MIN_NS));
}

void pit_timer(struct pit *p)
{
    pthread_mutex_lock(&p->lock);
    irq_update(p);
    pthread_mutex_unlock(&p->lock);
}

/* ---- counting ---- */

static void begin(struct pit *p, struct counter *c)
{
    c->begin_ns = clock_now(&p->cfg.clock);
    c->held_ticks = 0;
    c->running = true;
    if (c == &p->counter[0])
        p->edge = 0;
}

static void count_load(struct pit *p, struct counter *c, uint16_t count)
{
    bool first = !c->loaded;

    c->count = count ? count : 0x10000u;
    c->loaded = true;
    /* Modes 1 and 5 wait for a trigger. A new count of modes 2 and 3 would begin with the next period; it
     * begins at once here. */
    if ((c->mode != 1 && c->mode != 5) || (c->running && first))
        begin(p, c);
    if (c == &p->counter[0])
        irq_update(p);
}

static void gate_set(struct pit *p, struct counter *c, bool gate)
{
    uint64_t now = clock_now(&p->cfg.clock);
    bool rise = gate && !c->gate;

    if (gate == c->gate)
        return;
    if (!gate && gate_counts(c)) /* "GATE = 0 disables counting" */
        c->held_ticks = elapsed(c, now);
    c->gate = gate;
    if (c->mode == 0 || c->mode == 4)
        c->begin_ns = now;
    else if (rise && c->loaded)
        begin(p, c);
}

static void mode_set(struct pit *p, struct counter *c, uint8_t v)
{
    unsigned mode = v >> 1 & 7;

    c->mode = (uint8_t)(mode > 5 ? mode - 4 : mode); /* "don't care" bits of modes 2 and 3 */
    c->rw = v >> 4 & 3;
    c->running = c->loaded = c->write_high = c->read_high = false;
    c->count_latched = c->status_latched = false;
    if (c == &p->counter[0])
        irq_update(p);
}

static void count_latch(struct pit *p, struct counter *c)
{
    if (c->count_latched)
        return;
    c->latch = current_count(c, clock_now(&p->cfg.clock));
    c->count_latched = true;
}

static void status_latch(struct pit *p, struct counter *c)
{
    if (c->status_latched)
        return;
    c->status =
        (uint8_t)(output(c, clock_now(&p->cfg.clock)) << 7 | !c->loaded << 6 | c->rw << 4 | c->mode << 1);
    c->status_latched = true;
}

static void control_word(struct pit *p, uint8_t v)
{
    if (v >> 6 != 3) {
        struct counter *c = &p->counter[v >> 6];

        if (v & 0x30)
            mode_set(p, c, v);
        else
            count_latch(p, c);
        return;
    }
    for (unsigned i = 0; i < COUNTERS; i++) { /* read-back command */
        if (!(v >> (1 + i) & 1))
            continue;
        if (!(v & 0x20))
            count_latch(p, &p->counter[i]);
        if (!(v & 0x10))
            status_latch(p, &p->counter[i]);
    }
}

static void counter_write(struct pit *p, struct counter *c, uint8_t v)
{
    if (c->rw == 1 || c->rw == 2) {
        count_load(p, c, (uint16_t)(c->rw == 1 ? v : v << 8));
    } else if (!c->write_high) {
        c->low = v;
        c->write_high = true;
        if (c->mode == 0) /* "writing the first byte disables counting" */
            c->running = false;
    } else {
        c->write_high = false;
        count_load(p, c, (uint16_t)(c->low | v << 8));
    }
}

static uint8_t counter_read(struct pit *p, struct counter *c)
{
    uint16_t v;
    bool high;

    if (c->status_latched) {
        c->status_latched = false;
        return c->status;
    }
    v = c->count_latched ? c->latch : current_count(c, clock_now(&p->cfg.clock));
    high = c->rw == 2 || (c->rw == 3 && c->read_high);
    if (c->rw == 3)
        c->read_high = !c->read_high;
    if (c->rw != 3 || !c->read_high)
        c->count_latched = false;
    return (uint8_t)(high ? v >> 8 : v);
}

/* ---- ports ---- */

static uint64_t pit_read(void *ctx, uint64_t off, unsigned width)
{
    struct pit *p = ctx;
    uint8_t v = 0;

    (void)width;
    pthread_mutex_lock(&p->lock);
    if (off < COUNTERS) /* the control word cannot be read */
        v = counter_read(p, &p->counter[off]);
    pthread_mutex_unlock(&p->lock);
    return v;
}

static void pit_write(void *ctx, uint64_t off, unsigned width, uint64_t value)
{
    struct pit *p = ctx;

    (void)width;
    pthread_mutex_lock(&p->lock);
    if (off < COUNTERS)
        counter_write(p, &p->counter[off], (uint8_t)value);
    else
        control_word(p, (uint8_t)value);
    pthread_mutex_unlock(&p->lock);
}

const struct region_ops pit_ops = {
    .name = "pit", .min_width = 1, .max_width = 1, .read = pit_read, .write = pit_write
};

static uint64_t control_read(void *ctx, uint64_t off, unsigned width)
{
    struct pit *p = ctx;
    uint64_t now, v;

    (void)off;
    (void)width;
    pthread_mutex_lock(&p->lock);
    now = clock_now(&p->cfg.clock);
    v = p->counter[2].gate | p->speaker << 1 | (now / REFRESH_NS & 1) << 4 |
        (uint64_t)output(&p->counter[2], now) << 5;
    pthread_mutex_unlock(&p->lock);
    return v;
}

static void control_write(void *ctx, uint64_t off, unsigned width, uint64_t value)
{
    struct pit *p = ctx;

    (void)off;
    (void)width;
    pthread_mutex_lock(&p->lock);
    p->speaker = value & 2;
    gate_set(p, &p->counter[2], value & 1);
    pthread_mutex_unlock(&p->lock);
}

const struct region_ops pit_control_ops = {
    .name = "system-control", .min_width = 1, .max_width = 1, .read = control_read, .write = control_write
};

/* ---- making ---- */

void pit_reset(struct pit *p)
{
    pthread_mutex_lock(&p->lock);
    for (unsigned i = 0; i < COUNTERS; i++)
        p->counter[i] = (struct counter){ .mode = i == 0 ? 2 : 3, .rw = 3, .count = 0x10000, .gate = i != 2 };
    p->speaker = false;
    count_load(p, &p->counter[0], 0);
    pthread_mutex_unlock(&p->lock);
}

struct pit *pit_new(const struct pit_config *cfg, struct yado_error *err)
{
    struct pit *p = calloc(1, sizeof(*p));

    if (!p) {
        err_set(err, YADO_ERR_HOST, "interval timer: out of memory");
        return NULL;
    }
    p->cfg = *cfg;
    pthread_mutex_init(&p->lock, NULL);
    pit_reset(p);
    return p;
}

void pit_free(struct pit *p)
{
    if (!p)
        return;
    pthread_mutex_destroy(&p->lock);
    free(p);
}
