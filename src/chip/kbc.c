/* Keyboard controller: see kbc.h. */
#include "chip/kbc.h"

#include <pthread.h>
#include <stdlib.h>

#define STATUS_FULL 0x01u /* a byte waits at port 0x60 */
#define STATUS_SYSTEM 0x04u
#define STATUS_COMMAND 0x08u /* the last write was to port 0x64 */
#define STATUS_UNLOCKED 0x10u

#define CCB_IRQ 0x01u
#define OUTPUT_NO_RESET 0x01u
#define OUTPUT_A20 0x02u

struct kbc {
    pthread_mutex_t lock; /* irq is set under it */
    struct kbc_config cfg;
    uint8_t status, ccb, output, data;
    uint8_t pending; /* command that waits for its byte at port 0x60, 0: none */
};

static void answer(struct kbc *k, uint8_t v)
{
    k->data = v;
    k->status |= STATUS_FULL;
    line_set(k->cfg.irq, (k->ccb & CCB_IRQ) != 0);
}

/* Returns whether the machine is to be reset. */
static bool command(struct kbc *k, uint8_t v)
{
    switch (v) {
    case 0x20: answer(k, k->ccb); break;
    case 0x60:
    case 0xd1: /* output port */
    case 0xd2: /* as if the keyboard had sent it */
    case 0xd3:
    case 0xd4: k->pending = v; break;
    case 0xa7: k->ccb |= 0x20; break;
    case 0xa8: k->ccb &= 0xdf; break;
    case 0xaa:
        k->status |= STATUS_SYSTEM;
        answer(k, 0x55);
        break;
    case 0xa9:
    case 0xab: answer(k, 0); break;
    case 0xad: k->ccb |= 0x10; break;
    case 0xae: k->ccb &= 0xef; break;
    case 0xc0: answer(k, 0x80); break;
    case 0xd0: answer(k, k->output); break;
    case 0xdd: k->output &= (uint8_t)~OUTPUT_A20; break;
    case 0xdf: k->output |= OUTPUT_A20; break;
    default: return v >= 0xf0 && !(v & 1); /* pulses output bits that are 0; bit 0 is the reset */
    }
    return false;
}

static bool data_for(struct kbc *k, uint8_t v)
{
    switch (k->pending) {
    case 0x60: k->ccb = v; break;
    case 0xd1: k->output = v; return !(v & OUTPUT_NO_RESET);
    case 0xd2:
    case 0xd3: answer(k, v); break;
    default: break; /* for a keyboard or mouse that is not there */
    }
    return false;
}

static uint64_t status_read(void *ctx, uint64_t off, unsigned width)
{
    struct kbc *k = ctx;
    uint8_t v;

    (void)off;
    (void)width;
    pthread_mutex_lock(&k->lock);
    v = k->status;
    pthread_mutex_unlock(&k->lock);
    return v;
}

static uint64_t data_read(void *ctx, uint64_t off, unsigned width)
{
    struct kbc *k = ctx;
    uint8_t v;

    (void)off;
    (void)width;
    pthread_mutex_lock(&k->lock);
    v = k->data;
    k->status &= (uint8_t)~STATUS_FULL;
    line_set(k->cfg.irq, false);
    pthread_mutex_unlock(&k->lock);
    return v;
}

static void status_write(void *ctx, uint64_t off, unsigned width, uint64_t value)
{
    struct kbc *k = ctx;
    bool reset;

    (void)off;
    (void)width;
    pthread_mutex_lock(&k->lock);
    k->pending = 0;
    k->status |= STATUS_COMMAND;
    reset = command(k, (uint8_t)value);
    pthread_mutex_unlock(&k->lock);
    if (reset)
        k->cfg.reset(k->cfg.ctx);
}

static void data_write(void *ctx, uint64_t off, unsigned width, uint64_t value)
{
    struct kbc *k = ctx;
    bool reset;

    (void)off;
    (void)width;
    pthread_mutex_lock(&k->lock);
    k->status &= (uint8_t)~STATUS_COMMAND;
    reset = data_for(k, (uint8_t)value);
    k->pending = 0;
    pthread_mutex_unlock(&k->lock);
    if (reset)
        k->cfg.reset(k->cfg.ctx);
}

static uint64_t fast_read(void *ctx, uint64_t off, unsigned width)
{
    struct kbc *k = ctx;
    uint8_t v;

    (void)off;
    (void)width;
    pthread_mutex_lock(&k->lock);
    v = k->output & OUTPUT_A20;
    pthread_mutex_unlock(&k->lock);
    return v;
}

static void fast_write(void *ctx, uint64_t off, unsigned width, uint64_t value)
{
    struct kbc *k = ctx;

    (void)off;
    (void)width;
    pthread_mutex_lock(&k->lock);
    k->output = (uint8_t)((k->output & ~OUTPUT_A20) | (value & OUTPUT_A20));
    pthread_mutex_unlock(&k->lock);
    if (value & 1)
        k->cfg.reset(k->cfg.ctx);
}

const struct region_ops kbc_data_ops = {
    .name = "keyboard-data", .min_width = 1, .max_width = 1, .read = data_read, .write = data_write
};
const struct region_ops kbc_status_ops = {
    .name = "keyboard-status", .min_width = 1, .max_width = 1, .read = status_read, .write = status_write
};
const struct region_ops kbc_fast_ops = {
    .name = "port-92", .min_width = 1, .max_width = 1, .read = fast_read, .write = fast_write
};

/* As firmware leaves it: the self test has passed. */
void kbc_reset(struct kbc *k)
{
    pthread_mutex_lock(&k->lock);
    k->status = STATUS_SYSTEM | STATUS_COMMAND | STATUS_UNLOCKED;
    k->ccb = 0x61; /* keyboard interrupt on, auxiliary device off, scan codes translated */
    k->output = OUTPUT_NO_RESET | OUTPUT_A20;
    k->data = k->pending = 0;
    line_set(k->cfg.irq, false);
    pthread_mutex_unlock(&k->lock);
}

struct kbc *kbc_new(const struct kbc_config *cfg, struct yado_error *err)
{
    struct kbc *k = calloc(1, sizeof(*k));

    if (!k) {
        err_set(err, YADO_ERR_HOST, "keyboard controller: out of memory");
        return NULL;
    }
    k->cfg = *cfg;
    pthread_mutex_init(&k->lock, NULL);
    kbc_reset(k);
    return k;
}

void kbc_free(struct kbc *k)
{
    if (!k)
        return;
    pthread_mutex_destroy(&k->lock);
    free(k);
}
