/* 8259A pair. Sections and figures are of the Intel 8259A data sheet (231468-003). */
#include "chip/pic.h"

#include <pthread.h>
#include <stdlib.h>

#define CASCADE 2

/* Initialization command words come in sequence after ICW1. */
enum expect { EXPECT_OCW, EXPECT_ICW2, EXPECT_ICW3, EXPECT_ICW4 };

struct pic_unit {
    struct pic *owner;
    uint8_t irr, imr, isr;  /* requests, masked inputs, in service */
    uint8_t level;          /* inputs that are high */
    uint8_t elcr, elcr_can; /* level-triggered inputs, and which may be */
    uint8_t base;           /* vector of input 0 */
    uint8_t lowest;         /* input with the lowest priority */
    enum expect expect;
    bool icw4_comes, single;
    bool auto_eoi, rotate_on_auto_eoi;
    bool special_nested, special_mask;
    bool read_isr, poll;
};

struct pic {
    pthread_mutex_t lock; /* the line `out` is set under it */
    struct line out;
    struct pic_unit unit[2];
};

/* ---- priorities ---- */

/* How far the best of `set` is from the highest priority, 8 for none. */
static unsigned priority(const struct pic_unit *u, uint8_t set)
{
    unsigned p = 0;

    while (p < 8 && !(set >> ((u->lowest + 1 + p) & 7) & 1))
        p++;
    return p;
}

/* The input to answer, -1: none. */
static int request(const struct pic_unit *u)
{
    unsigned best = priority(u, (uint8_t)(u->irr & ~u->imr));
    uint8_t in_service = u->isr;

    if (u->special_mask) /* what is masked holds back nothing */
        in_service &= (uint8_t)~u->imr;
    if (u->special_nested && u == &u->owner->unit[0]) /* the second chip knows its own order */
        in_service &= (uint8_t) ~(1u << CASCADE);
    return best < priority(u, in_service) ? (int)((u->lowest + 1 + best) & 7) : -1;
}

static void input_set(struct pic_unit *u, unsigned n, bool high)
{
    uint8_t bit = (uint8_t)(1u << n);

    if (u->elcr & bit)
        u->irr = high ? u->irr | bit : u->irr & (uint8_t)~bit;
    else if (high && !(u->level & bit))
        u->irr |= bit;
    u->level = high ? u->level | bit : u->level & (uint8_t)~bit;
}

/* The second chip's INT is a level while it asks for something, also to an edge-triggered first chip. */
static void outputs_update(struct pic *p)
{
    struct pic_unit *first = &p->unit[0];
    bool cascade = request(&p->unit[1]) >= 0;
    uint8_t bit = 1u << CASCADE;

    first->irr = cascade ? first->irr | bit : first->irr & (uint8_t)~bit;
    line_set(p->out, request(first) >= 0);
}

static void line_changed(void *ctx, unsigned n, bool high)
{
    struct pic *p = ctx;

    pthread_mutex_lock(&p->lock);
    input_set(&p->unit[n / 8], n % 8, high);
    outputs_update(p);
    pthread_mutex_unlock(&p->lock);
}

struct line pic_line(struct pic *p, unsigned n)
{
    BUG_ON(n >= PIC_INPUTS || n == CASCADE);
    return (struct line){ .set = line_changed, .ctx = p, .n = n };
}

/* ---- acknowledge: "Interrupt Sequence" ---- */

static void take(struct pic_unit *u, unsigned n)
{
    uint8_t bit = (uint8_t)(1u << n);

    if (!u->auto_eoi)
        u->isr |= bit;
    else if (u->rotate_on_auto_eoi)
        u->lowest = (uint8_t)n;
    if (!(u->elcr & bit))
        u->irr &= (uint8_t)~bit;
}

/* A request that has gone is answered as input 7, with nothing in service. */
static unsigned unit_acknowledge(struct pic_unit *u)
{
    int n = request(u);

    if (n < 0)
        return 7;
    take(u, (unsigned)n);
    return (unsigned)n;
}

uint8_t pic_acknowledge(struct pic *p)
{
    struct pic_unit *u = &p->unit[0];
    unsigned n;

    pthread_mutex_lock(&p->lock);
    n = unit_acknowledge(u);
    if (n == CASCADE) {
        u = &p->unit[1];
        n = unit_acknowledge(u);
    }
    outputs_update(p);
    pthread_mutex_unlock(&p->lock);
    return (uint8_t)(u->base + n);
}

/* ---- command words ---- */

static void icw1(struct pic_unit *u, uint8_t v)
{
    u->imr = u->isr = 0;
    u->irr = u->level & u->elcr; /* "the edge sense circuit is reset" */
    u->lowest = 7;
    u->special_nested = u->special_mask = u->read_isr = u->poll = false;
    u->auto_eoi = u->rotate_on_auto_eoi = false;
    u->icw4_comes = v & 1;
    u->single = v & 2;
    u->expect = EXPECT_ICW2;
}

static void icw_next(struct pic_unit *u, uint8_t v)
{
    switch (u->expect) {
    case EXPECT_ICW2:
        u->base = v & 0xf8;
        u->expect = !u->single ? EXPECT_ICW3 : u->icw4_comes ? EXPECT_ICW4 : EXPECT_OCW;
        return;
    case EXPECT_ICW3: /* the wiring is fixed */ u->expect = u->icw4_comes ? EXPECT_ICW4 : EXPECT_OCW; return;
    case EXPECT_ICW4:
        u->special_nested = v & 0x10;
        u->auto_eoi = v & 2;
        u->expect = EXPECT_OCW;
        return;
    case EXPECT_OCW: u->imr = v; return; /* OCW1 */
    }
}

static void end_of_interrupt(struct pic_unit *u, unsigned n, bool rotate)
{
    u->isr &= (uint8_t) ~(1u << n);
    if (rotate)
        u->lowest = (uint8_t)n;
}

static void ocw2(struct pic_unit *u, uint8_t v)
{
    bool rotate = v & 0x80, specific = v & 0x40, eoi = v & 0x20;
    uint8_t in_service = u->special_mask ? u->isr & (uint8_t)~u->imr : u->isr;
    unsigned best = priority(u, in_service);

    if (eoi && specific)
        end_of_interrupt(u, v & 7, rotate);
    else if (eoi && best < 8)
        end_of_interrupt(u, (u->lowest + 1 + best) & 7, rotate);
    else if (!eoi && specific && rotate)
        u->lowest = v & 7;
    else if (!eoi && !specific)
        u->rotate_on_auto_eoi = rotate;
}

static void ocw3(struct pic_unit *u, uint8_t v)
{
    u->poll = v & 4;
    if (v & 2)
        u->read_isr = v & 1;
    if (v & 0x40)
        u->special_mask = v & 0x20;
}

static uint8_t poll_read(struct pic_unit *u)
{
    int n = request(u);

    u->poll = false;
    if (n < 0)
        return 0;
    take(u, (unsigned)n);
    return (uint8_t)(0x80 | n);
}

static uint64_t unit_read(void *ctx, uint64_t off, unsigned width)
{
    struct pic_unit *u = ctx;
    uint8_t v;

    (void)width;
    pthread_mutex_lock(&u->owner->lock);
    if (u->poll)
        v = poll_read(u);
    else
        v = off ? u->imr : u->read_isr ? u->isr : u->irr;
    outputs_update(u->owner);
    pthread_mutex_unlock(&u->owner->lock);
    return v;
}

static void unit_write(void *ctx, uint64_t off, unsigned width, uint64_t value)
{
    struct pic_unit *u = ctx;
    uint8_t v = (uint8_t)value;

    (void)width;
    pthread_mutex_lock(&u->owner->lock);
    if (off)
        icw_next(u, v);
    else if (v & 0x10)
        icw1(u, v);
    else if (v & 8)
        ocw3(u, v);
    else
        ocw2(u, v);
    outputs_update(u->owner);
    pthread_mutex_unlock(&u->owner->lock);
}

const struct region_ops pic_unit_ops = {
    .name = "pic", .min_width = 1, .max_width = 1, .read = unit_read, .write = unit_write
};

static uint64_t elcr_read(void *ctx, uint64_t off, unsigned width)
{
    struct pic *p = ctx;
    uint8_t v;

    (void)width;
    pthread_mutex_lock(&p->lock);
    v = p->unit[off].elcr;
    pthread_mutex_unlock(&p->lock);
    return v;
}

static void elcr_write(void *ctx, uint64_t off, unsigned width, uint64_t value)
{
    struct pic *p = ctx;
    struct pic_unit *u = &p->unit[off];

    (void)width;
    pthread_mutex_lock(&p->lock);
    u->elcr = (uint8_t)value & u->elcr_can;
    pthread_mutex_unlock(&p->lock);
}

const struct region_ops pic_elcr_ops = {
    .name = "pic-elcr", .min_width = 1, .max_width = 1, .read = elcr_read, .write = elcr_write
};

/* ---- making ---- */

void pic_reset(struct pic *p)
{
    static const struct {
        uint8_t base, imr, elcr_can;
    } firmware[2] = { { 0x08, 0xb8, 0xf8 }, { 0x70, 0x8e, 0xde } };

    pthread_mutex_lock(&p->lock);
    for (unsigned i = 0; i < 2; i++) {
        struct pic_unit *u = &p->unit[i];

        *u = (struct pic_unit){ .owner = p,
                                .level = u->level,
                                .base = firmware[i].base,
                                .imr = firmware[i].imr,
                                .elcr_can = firmware[i].elcr_can,
                                .lowest = 7 };
    }
    outputs_update(p);
    pthread_mutex_unlock(&p->lock);
}

struct pic *pic_new(const struct pic_config *cfg, struct yado_error *err)
{
    struct pic *p = calloc(1, sizeof(*p));

    if (!p) {
        err_set(err, YADO_ERR_HOST, "interrupt controllers: out of memory");
        return NULL;
    }
    p->out = cfg->out;
    pthread_mutex_init(&p->lock, NULL);
    pic_reset(p);
    return p;
}

void pic_free(struct pic *p)
{
    if (!p)
        return;
    pthread_mutex_destroy(&p->lock);
    free(p);
}

struct pic_unit *pic_unit(struct pic *p, unsigned i)
{
    return &p->unit[i];
}
