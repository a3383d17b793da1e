/* I/O APIC.
 *
 * A pin that is asserted makes a message from its redirection entry. Edge pins send on the rise, and a rise
 * while masked is lost (82093AA 3.2.4). Level pins send when they are asserted, unmasked and remote IRR is
 * clear; sending sets remote IRR, the end of interrupt for the vector clears it, and a pin that is still
 * asserted then sends again.
 *
 * Under the lock it is decided which messages go out; they are sent after it is released, so that a processor
 * that answers at once may enter again. Two messages of one pin cannot overtake each other harmfully: a level
 * pin has at most one outstanding, and equal edge messages are the same message. */
#include "chip/ioapic.h"

#include <pthread.h>
#include <stdlib.h>

#define VERSION 0x20

#define MMIO_INDEX 0x00
#define MMIO_WINDOW 0x10
#define MMIO_EOI 0x40

#define REG_ID 0x00
#define REG_VERSION 0x01
#define REG_ARBITRATION 0x02
#define REG_REDIRECTION 0x10

#define RTE_VECTOR 0xffull
#define RTE_DELIVERY_SHIFT 8
#define RTE_DELIVERY 0x700ull
#define RTE_DEST_LOGICAL 0x800ull
#define RTE_STATUS 0x1000ull
#define RTE_REMOTE_IRR 0x4000ull
#define RTE_LEVEL 0x8000ull
#define RTE_MASKED 0x10000ull
#define RTE_EXT_DEST_SHIFT                                                                                   \
    49 /* destination bits 8 to 14, the convention of KVM and Hyper-V for more than 255 APICs */
#define RTE_DEST_SHIFT 56
/* Vector, delivery, destination mode, polarity, trigger, mask, extended and plain destination. */
#define RTE_WRITABLE 0xfffe00000001afffull

#define DELIVERY_FIXED 0
#define DELIVERY_LOWEST 1

#define MSI_ADDR_BASE 0xfee00000u
#define MSI_ADDR_DEST_SHIFT 12
#define MSI_ADDR_EXT_DEST_SHIFT 5
#define MSI_ADDR_REDIRECTION_HINT 0x8u
#define MSI_ADDR_LOGICAL 0x4u
#define MSI_DATA_ASSERT 0x4000u
#define MSI_DATA_LEVEL 0x8000u

struct message {
    uint64_t addr;
    uint32_t data;
};

struct messages {
    unsigned count;
    struct message m[IOAPIC_PINS];
};

struct ioapic {
    pthread_mutex_t lock; /* a leaf: nothing is called with it held */
    struct msi_sink msi;
    uint8_t id_at_reset;
    uint32_t id; /* in register format */
    uint8_t index;
    uint64_t rte[IOAPIC_PINS];
    uint32_t level; /* bit per pin: asserted */
};

/* Intel SDM volume 3, 11.11.1 and 11.11.2. */
static struct message message_of(uint64_t rte)
{
    unsigned delivery = (unsigned)((rte & RTE_DELIVERY) >> RTE_DELIVERY_SHIFT);
    struct message m = { .addr = MSI_ADDR_BASE };

    m.addr |= (rte >> RTE_DEST_SHIFT) << MSI_ADDR_DEST_SHIFT;
    m.addr |= ((rte >> RTE_EXT_DEST_SHIFT) & 0x7f) << MSI_ADDR_EXT_DEST_SHIFT;
    if (rte & RTE_DEST_LOGICAL)
        m.addr |= MSI_ADDR_LOGICAL;
    if (delivery == DELIVERY_LOWEST)
        m.addr |= MSI_ADDR_REDIRECTION_HINT;
    m.data = (uint32_t)(rte & RTE_VECTOR) | (delivery << 8);
    if (rte & RTE_LEVEL)
        m.data |= MSI_DATA_LEVEL | MSI_DATA_ASSERT;
    return m;
}

/* Remote IRR exists only for interrupts that end with an EOI. */
static bool is_level(uint64_t rte)
{
    unsigned delivery = (unsigned)((rte & RTE_DELIVERY) >> RTE_DELIVERY_SHIFT);

    return (rte & RTE_LEVEL) && (delivery == DELIVERY_FIXED || delivery == DELIVERY_LOWEST);
}

static void fire_locked(struct ioapic *io, unsigned pin, struct messages *out)
{
    if (is_level(io->rte[pin]))
        io->rte[pin] |= RTE_REMOTE_IRR;
    out->m[out->count++] = message_of(io->rte[pin]);
}

static void fire_if_level_locked(struct ioapic *io, unsigned pin, struct messages *out)
{
    if ((io->level & (1u << pin)) && is_level(io->rte[pin]) &&
        !(io->rte[pin] & (RTE_MASKED | RTE_REMOTE_IRR)))
        fire_locked(io, pin, out);
}

static void unlock_and_send(struct ioapic *io, const struct messages *out)
{
    pthread_mutex_unlock(&io->lock);
    for (unsigned i = 0; i < out->count; i++)
        msi_send(io->msi, out->m[i].addr, out->m[i].data);
}

static void pin_set(void *ctx, unsigned pin, bool level)
{
    struct ioapic *io = ctx;
    struct messages out = { .count = 0 };
    uint32_t bit = 1u << pin;
    bool rise;

    pthread_mutex_lock(&io->lock);
    rise = level && !(io->level & bit);
    io->level = level ? io->level | bit : io->level & ~bit;
    if (is_level(io->rte[pin]))
        fire_if_level_locked(io, pin, &out);
    else if (rise && !(io->rte[pin] & RTE_MASKED))
        fire_locked(io, pin, &out);
    unlock_and_send(io, &out);
}

struct line ioapic_line(struct ioapic *io, unsigned pin)
{
    BUG_ON(pin >= IOAPIC_PINS);
    return (struct line){ .set = pin_set, .ctx = io, .n = pin };
}

void ioapic_eoi(struct ioapic *io, unsigned vector)
{
    struct messages out = { .count = 0 };

    pthread_mutex_lock(&io->lock);
    for (unsigned pin = 0; pin < IOAPIC_PINS; pin++) {
        if (!(io->rte[pin] & RTE_REMOTE_IRR) || (io->rte[pin] & RTE_VECTOR) != vector)
            continue;
        io->rte[pin] &= ~RTE_REMOTE_IRR;
        fire_if_level_locked(io, pin, &out);
    }
    unlock_and_send(io, &out);
}

static void reset_locked(struct ioapic *io)
{
    io->index = 0;
    io->id = (uint32_t)io->id_at_reset << 24;
    for (unsigned pin = 0; pin < IOAPIC_PINS; pin++)
        io->rte[pin] = RTE_MASKED;
}

struct ioapic *ioapic_new(const struct ioapic_config *cfg, struct yado_error *err)
{
    struct ioapic *io = calloc(1, sizeof(*io));

    if (!io) {
        err_set(err, YADO_ERR_HOST, "I/O APIC: out of memory");
        return NULL;
    }
    io->msi = cfg->msi;
    io->id_at_reset = cfg->id & 0xf;
    pthread_mutex_init(&io->lock, NULL);
    reset_locked(io);
    return io;
}

void ioapic_free(struct ioapic *io)
{
    if (!io)
        return;
    pthread_mutex_destroy(&io->lock);
    free(io);
}

void ioapic_reset(struct ioapic *io)
{
    pthread_mutex_lock(&io->lock);
    reset_locked(io);
    pthread_mutex_unlock(&io->lock);
}

static uint32_t register_read_locked(const struct ioapic *io)
{
    unsigned n = io->index;

    if (n >= REG_REDIRECTION && n < REG_REDIRECTION + 2 * IOAPIC_PINS) {
        uint64_t rte = io->rte[(n - REG_REDIRECTION) / 2];

        return (uint32_t)(n & 1 ? rte >> 32 : rte);
    }
    switch (n) {
    case REG_ID:
    case REG_ARBITRATION: return io->id;
    case REG_VERSION: return VERSION | (IOAPIC_PINS - 1) << 16;
    default: return 0;
    }
}

static void rte_write_locked(struct ioapic *io, unsigned pin, bool high, uint32_t value, struct messages *out)
{
    uint64_t old = io->rte[pin], rte;

    rte = high ? (old & 0xffffffffull) | (uint64_t)value << 32 : (old & ~0xffffffffull) | value;
    rte = (rte & RTE_WRITABLE) | (old & RTE_REMOTE_IRR);
    if (!is_level(rte)) /* turning a pin to edge forgets an interrupt in service, which drivers rely on */
        rte &= ~RTE_REMOTE_IRR;
    io->rte[pin] = rte;
    fire_if_level_locked(io, pin, out);
}

static void register_write_locked(struct ioapic *io, uint32_t value, struct messages *out)
{
    unsigned n = io->index;

    if (n == REG_ID)
        io->id = value & 0x0f000000;
    else if (n >= REG_REDIRECTION && n < REG_REDIRECTION + 2 * IOAPIC_PINS)
        rte_write_locked(io, (n - REG_REDIRECTION) / 2, n & 1, value, out);
}

static uint64_t ioapic_read(void *ctx, uint64_t off, unsigned width)
{
    struct ioapic *io = ctx;
    uint32_t value = 0;

    (void)width;
    pthread_mutex_lock(&io->lock);
    if (off == MMIO_INDEX)
        value = io->index;
    else if (off == MMIO_WINDOW)
        value = register_read_locked(io);
    pthread_mutex_unlock(&io->lock);
    return value;
}

static void ioapic_write(void *ctx, uint64_t off, unsigned width, uint64_t value)
{
    struct ioapic *io = ctx;
    struct messages out = { .count = 0 };

    (void)width;
    if (off == MMIO_EOI) {
        ioapic_eoi(io, (uint8_t)value);
        return;
    }
    pthread_mutex_lock(&io->lock);
    if (off == MMIO_INDEX)
        io->index = (uint8_t)value;
    else if (off == MMIO_WINDOW)
        register_write_locked(io, (uint32_t)value, &out);
    unlock_and_send(io, &out);
}

const struct region_ops ioapic_ops = {
    .name = "ioapic",
    .min_width = 4,
    .max_width = 4,
    .read = ioapic_read,
    .write = ioapic_write,
};
