/* PCI host: configuration space, BARs on a real bus, INTx, MSI-X. Sections are those of PCI Local Bus 3.0. */
#include "chip_test.h"

#include "chip/pci_host.h"

#define COMMAND 0x04
#define STATUS 0x06
#define BAR0 0x10
#define BAR2 0x18
#define BAR4 0x20

#define MMIO32 0xc0000000u
#define MMIO64 0x800000000ull

#define DEVICES 5

struct card {
    struct pci_function *fn;
    uint8_t regs[16384];
    unsigned reads, config_reads;
    unsigned written_off, written_width;
};

struct fixture {
    struct bus *mmio;
    struct pci_host *host;
    struct fake_line intx[4];
    struct card cards[DEVICES];
    unsigned sent;
    uint64_t addr;
    uint32_t data;
    uint8_t reset_value;
};

static uint64_t card_read(void *ctx, uint64_t off, unsigned width)
{
    struct card *c = ctx;
    uint64_t v = 0;

    c->reads++;
    assert_true(off + width <= sizeof(c->regs));
    memcpy(&v, c->regs + off, width);
    return v;
}

static void card_write(void *ctx, uint64_t off, unsigned width, uint64_t value)
{
    struct card *c = ctx;

    assert_true(off + width <= sizeof(c->regs));
    memcpy(c->regs + off, &value, width);
}

static const struct region_ops card_bar = {
    .name = "card",
    .min_width = 1,
    .max_width = 4,
    .read = card_read,
    .write = card_write,
};

static void card_config_written(void *ctx, unsigned off, unsigned width)
{
    struct card *c = ctx;

    c->written_off = off;
    c->written_width = width;
}

static void card_config_reading(void *ctx, unsigned off, unsigned width)
{
    struct card *c = ctx;

    (void)width;
    c->config_reads++;
    if (off >= 0x54) /* may call back */
        pci_function_config_write(c->fn, 0x58, 4, 0x11220000 + c->config_reads);
}

static const struct pci_function_ops card_ops = {
    .config_written = card_config_written,
    .config_reading = card_config_reading,
};

static uint64_t reset_read(void *ctx, uint64_t off, unsigned width)
{
    (void)off;
    (void)width;
    return ((struct fixture *)ctx)->reset_value;
}

static void reset_write(void *ctx, uint64_t off, unsigned width, uint64_t value)
{
    assert_int_equal(off, 0);
    assert_int_equal(width, 1);
    ((struct fixture *)ctx)->reset_value = (uint8_t)value;
}

static const struct region_ops reset_ops = {
    .name = "reset",
    .min_width = 1,
    .max_width = 1,
    .read = reset_read,
    .write = reset_write,
};

static void on_msi(void *ctx, uint64_t addr, uint32_t data)
{
    struct fixture *f = ctx;

    f->sent++;
    f->addr = addr;
    f->data = data;
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    struct pci_host_config cfg = {
        .msi = { .send = on_msi, .ctx = f },
        .reset_ops = &reset_ops,
        .reset_ctx = f,
    };

    f->mmio = bus_new("mmio");
    cfg.mmio = f->mmio;
    for (unsigned i = 0; i < 4; i++)
        cfg.intx[i] = fake_line_get(&f->intx[i]);
    f->host = pci_host_new(&cfg, NULL);
    for (unsigned i = 0; i < DEVICES; i++) {
        struct pci_function_desc desc = {
            .name = "card",
            .ident = { .vendor = 0x1af4,
                       .device = 0x1042,
                       .subsystem_vendor = 0x1af4,
                       .subsystem = 0x40,
                       .class_code = 0x018000,
                       .revision = 1 },
            .bars = { { .len = 4096, .ops = &card_bar, .ctx = &f->cards[i] },
                      [4] = { .len = 16384, .is_64bit = true, .ops = &card_bar, .ctx = &f->cards[i] } },
            .msix_vectors = 3,
            .msix_bar = 2,
            .ops = &card_ops,
            .ctx = &f->cards[i],
        };

        f->cards[i].fn = pci_host_add(f->host, &desc, NULL);
    }
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    pci_host_free(f->host);
    bus_free(f->mmio);
    free(f);
    return 0;
}

static uint32_t get(struct fixture *f, unsigned device, unsigned reg, unsigned width)
{
    return (uint32_t)reg_read(&pci_host_ecam_ops, f->host, device << 15 | reg, width);
}

static void put(struct fixture *f, unsigned device, unsigned reg, unsigned width, uint32_t value)
{
    reg_write(&pci_host_ecam_ops, f->host, device << 15 | reg, width, value);
}

/* Offset of capability `id`, as a driver finds it. */
static unsigned find_cap(struct fixture *f, unsigned device, unsigned id)
{
    unsigned off = get(f, device, 0x34, 1);

    assert_true(get(f, device, STATUS, 2) & 0x10);
    for (unsigned n = 0; off && n < 48; n++, off = get(f, device, off + 1, 1))
        if (get(f, device, off, 1) == id)
            return off;
    return 0;
}

static void assign(struct fixture *f)
{
    struct yado_error err = YADO_ERROR_INIT;

    if (!pci_host_assign_bars(f->host, MMIO32, MIB(512), MMIO64, GIB(16), &err))
        fail_msg("%s", err.message);
}

static void headers(void **state) /* 6.1 */
{
    struct fixture *f = *state;

    assert_int_equal(get(f, 0, 0, 4), 0x00081b36);
    assert_int_equal(get(f, 0, 8, 4) >> 8, 0x060000);
    assert_int_equal(get(f, 0, 0x3d, 1), 0);
    assert_int_equal(get(f, 1, 0, 4), 0x10421af4);
    assert_int_equal(get(f, 1, 8, 4), 0x01800001);
    assert_int_equal(get(f, 1, 0x0e, 1), 0);
    assert_int_equal(get(f, 1, 0x2c, 4), 0x00401af4);
    assert_int_equal(get(f, 1, 0x3d, 1), 1);
    put(f, 1, 0, 4, 0);
    assert_int_equal(get(f, 1, 0, 4), 0x10421af4);
    assert_int_equal(get(f, 20, 0, 4), 0xffffffff); /* nobody there */
    assert_int_equal(get(f, 20, 0, 1), 0xff);
    assert_int_equal(reg_read(&pci_host_ecam_ops, f->host, 1 << 15 | 1 << 12, 4),
                     0xffffffff); /* function 1 */
    assert_int_equal(get(f, 1, 0x100, 4), 0xffffffff);
    put(f, 1, COMMAND, 2, 0xffff);
    assert_int_equal(get(f, 1, COMMAND, 2), 0x0406); /* memory, master, INTx off */
}

static void ports(void **state) /* 3.2.2.3.2 */
{
    struct fixture *f = *state;
    const struct region_ops *p = &pci_host_port_ops;

    reg_write(p, f->host, 0, 4, 0x80000000 | 1 << 11 | 0x2c);
    assert_int_equal(reg_read(p, f->host, 0, 4), 0x80000000 | 1 << 11 | 0x2c);
    assert_int_equal(reg_read(p, f->host, 4, 4), 0x00401af4);
    assert_int_equal(reg_read(p, f->host, 6, 2), 0x0040);
    assert_int_equal(reg_read(p, f->host, 7, 1), 0x00);
    reg_write(p, f->host, 0, 4, 0x80000000 | 1 << 11 | 0x3c);
    reg_write(p, f->host, 4, 1, 0x0b);
    assert_int_equal(get(f, 1, 0x3c, 1), 0x0b);
    reg_write(p, f->host, 0, 4, 1 << 11);
    assert_int_equal(reg_read(p, f->host, 4, 4), 0xffffffff); /* not enabled */
    reg_write(p, f->host, 0, 4, 0x80000000 | 1 << 16 | 1 << 11);
    assert_int_equal(reg_read(p, f->host, 4, 4), 0xffffffff); /* bus 1 */
    reg_write(p, f->host, 1, 1, 0x06);                        /* 0xcf9 */
    assert_int_equal(f->reset_value, 0x06);
    assert_int_equal(reg_read(p, f->host, 1, 1), 0x06);
    assert_int_equal(reg_read(p, f->host, 0, 4), 0x80000000 | 1 << 16 | 1 << 11);
    assert_int_equal(reg_read(p, f->host, 3, 1), 0xff);
}

static void bar_sizing(void **state) /* 6.2.5.1 */
{
    struct fixture *f = *state;

    put(f, 1, BAR0, 4, 0xffffffff);
    assert_int_equal(get(f, 1, BAR0, 4), 0xfffff000);
    put(f, 1, BAR2, 4, 0xffffffff);
    assert_int_equal(get(f, 1, BAR2, 4), 0xfffff000); /* MSI-X */
    put(f, 1, BAR4, 4, 0xffffffff);
    put(f, 1, BAR4 + 4, 4, 0xffffffff);
    assert_int_equal(get(f, 1, BAR4, 4), 0xffffc004);
    assert_int_equal(get(f, 1, BAR4 + 4, 4), 0xffffffff);
    put(f, 1, 0x14, 4, 0xffffffff);
    assert_int_equal(get(f, 1, 0x14, 4), 0); /* absent */
    put(f, 1, 0x30, 4, 0xffffffff);
    assert_int_equal(get(f, 1, 0x30, 4), 0); /* no ROM */
}

static void bars_move_on_the_bus(void **state)
{
    struct fixture *f = *state;
    uint64_t v;

    f->cards[0].regs[8] = 0x5a;
    put(f, 1, BAR0, 4, MMIO32);
    assert_false(bus_read(f->mmio, MMIO32 + 8, 1, &v)); /* decoding is off */
    put(f, 1, COMMAND, 2, 2);
    assert_true(bus_read(f->mmio, MMIO32 + 8, 1, &v));
    assert_int_equal(v, 0x5a);
    put(f, 1, BAR0, 4, MMIO32 + 0x10000);
    assert_false(bus_read(f->mmio, MMIO32 + 8, 1, &v));
    assert_true(bus_read(f->mmio, MMIO32 + 0x10008, 1, &v));
    put(f, 1, BAR4, 4, 0x4000);
    put(f, 1, BAR4 + 4, 4, 0x12);
    assert_true(bus_read(f->mmio, 0x1200004008, 1, &v));
    assert_int_equal(v, 0x5a);
    put(f, 1, COMMAND, 2, 0);
    assert_false(bus_read(f->mmio, MMIO32 + 0x10008, 1, &v));
    assert_false(bus_read(f->mmio, 0x1200004008, 1, &v));
}

/* One over the other: the second stays out, and comes in when it is moved. */
static void overlap_is_the_guests_loss(void **state)
{
    struct fixture *f = *state;
    uint64_t v;

    f->cards[0].regs[0] = 1;
    f->cards[1].regs[0] = 2;
    put(f, 1, BAR0, 4, MMIO32);
    put(f, 1, COMMAND, 2, 2);
    put(f, 2, BAR0, 4, MMIO32);
    put(f, 2, COMMAND, 2, 2);
    assert_true(bus_read(f->mmio, MMIO32, 1, &v));
    assert_int_equal(v, 1);
    put(f, 2, BAR0, 4, MMIO32 + 0x1000);
    assert_true(bus_read(f->mmio, MMIO32 + 0x1000, 1, &v));
    assert_int_equal(v, 2);
}

static void firmware_assignment(void **state)
{
    struct fixture *f = *state;
    uint64_t v;

    assign(f);
    for (unsigned d = 1; d <= DEVICES; d++) {
        uint64_t bar0 = get(f, d, BAR0, 4), bar2 = get(f, d, BAR2, 4);
        uint64_t bar4 = (get(f, d, BAR4, 4) & ~0xfu) | (uint64_t)get(f, d, BAR4 + 4, 4) << 32;

        assert_in_range(bar0, MMIO32, MMIO32 + MIB(1));
        assert_in_range(bar2, MMIO32, MMIO32 + MIB(1));
        assert_in_range(bar4, MMIO64, MMIO64 + MIB(1));
        assert_int_equal(bar4 % 16384, 0);
        assert_int_equal(get(f, d, COMMAND, 2), 2);
        f->cards[d - 1].regs[16] = (uint8_t)d;
        assert_true(bus_read(f->mmio, bar4 + 16, 1, &v));
        assert_int_equal(v, d);
        assert_true(bus_read(f->mmio, bar2, 4, &v));
    }
    pci_host_reset(f->host);
    assert_int_equal(get(f, 1, BAR0, 4), 0);
    assert_false(bus_read(f->mmio, MMIO32, 1, &v));
    assign(f);
    assert_true(bus_read(f->mmio, MMIO32, 1, &v));
}

static void assignment_without_room(void **state)
{
    struct fixture *f = *state;
    struct yado_error err = YADO_ERROR_INIT;

    assert_false(pci_host_assign_bars(f->host, MMIO32, 0x3000, MMIO64, GIB(1), &err));
    assert_non_null(strstr(err.message, "does not fit"));
    pci_host_reset(f->host);
    assert_true(pci_host_assign_bars(f->host, MMIO32, MIB(1), 0, 0, NULL)); /* 64-bit BARs go low */
    assert_int_equal(get(f, 1, BAR4 + 4, 4), 0);
}

static void vendor_caps(void **state) /* 6.7 */
{
    struct fixture *f = *state;
    const uint8_t body[] = { 1, 4, 0, 0, 0, 0, 0x20, 0, 0, 0, 0x10, 0, 0 },
                  mask[sizeof(body)] = { [1] = 0xff };
    unsigned a = pci_function_add_vendor_cap(f->cards[0].fn, body, sizeof(body), mask);
    unsigned b = pci_function_add_vendor_cap(f->cards[0].fn, body, sizeof(body), NULL);

    assert_int_equal(a % 4, 0);
    assert_int_equal(b % 4, 0);
    assert_true(b >= a + 16);
    assert_int_equal(find_cap(f, 1, 0x09), a);
    assert_int_equal(get(f, 1, a + 1, 1), b);
    assert_int_equal(get(f, 1, a + 2, 1), 16);
    assert_int_equal(get(f, 1, a + 3, 1), 1);
    f->cards[0].written_off = 0;
    put(f, 1, a + 4, 4, 0xffffffff);
    assert_int_equal(get(f, 1, a + 4, 4), 0x000000ff);
    assert_int_equal(f->cards[0].written_off, a + 4);
    assert_int_equal(f->cards[0].written_width, 4);
    put(f, 1, b + 4, 4, 0xffffffff);
    assert_int_equal(get(f, 1, b + 4, 4), 0x00000004);
    assert_true(f->cards[0].config_reads >= 2);
    assert_int_equal(get(f, 1, 0x58, 4) & 0xffff0000, 0x11220000); /* the callback wrote, and was heard */
    pci_host_reset(f->host);
    assert_int_equal(get(f, 1, a + 4, 1), 4);
    while (pci_function_add_vendor_cap(f->cards[0].fn, body, sizeof(body), NULL))
        ;
    assert_int_equal(find_cap(f, 1, 0x55), 0); /* the list still ends */
}

static void own_bar_access(void **state)
{
    struct fixture *f = *state;

    pci_function_bar_write(f->cards[0].fn, 4, 0x10, 8, 0x1122334455667788);
    assert_int_equal(f->cards[0].regs[0x17], 0x11);
    assert_int_equal(pci_function_bar_read(f->cards[0].fn, 4, 0x10, 8), 0x1122334455667788);
    assert_int_equal(f->cards[0].reads, 2);
    assert_true(pci_function_bar_read(f->cards[0].fn, 4, 16384, 4) == UINT64_MAX);
    assert_true(pci_function_bar_read(f->cards[0].fn, 1, 0, 4) == UINT64_MAX);
    assert_true(pci_function_bar_read(f->cards[0].fn, 4, 2, 4) == UINT64_MAX);
}

static void intx_lines_are_shared(void **state)
{
    struct fixture *f = *state;

    pci_function_intx(f->cards[0].fn, true); /* device 1 */
    assert_true(f->intx[1].level);
    assert_true(get(f, 1, STATUS, 2) & 8);
    pci_function_intx(f->cards[4].fn, true); /* device 5, same line */
    pci_function_intx(f->cards[0].fn, false);
    assert_true(f->intx[1].level);
    pci_function_intx(f->cards[4].fn, false);
    assert_false(f->intx[1].level);
    assert_int_equal(f->intx[1].rises, 1);
    pci_function_intx(f->cards[1].fn, true);
    put(f, 2, COMMAND, 2, 0x400); /* interrupt disable, 6.2.2 */
    assert_false(f->intx[2].level);
    assert_true(get(f, 2, STATUS, 2) & 8);
    put(f, 2, COMMAND, 2, 0);
    assert_true(f->intx[2].level);
    pci_host_reset(f->host);
    assert_false(f->intx[2].level);
}

struct msix {
    unsigned cap;
    uint64_t table, pba;
};

static struct msix msix_enable(struct fixture *f, unsigned device)
{
    struct msix x = { .cap = find_cap(f, device, 0x11) };

    assert_true(x.cap);
    assign(f);
    x.table = get(f, device, BAR2, 4) + (get(f, device, x.cap + 4, 4) & ~7u);
    x.pba = get(f, device, BAR2, 4) + (get(f, device, x.cap + 8, 4) & ~7u);
    assert_int_equal(get(f, device, x.cap + 4, 4) & 7, 2);
    assert_int_equal(get(f, device, x.cap + 2, 2), 2); /* size minus one, off, not masked */
    put(f, device, COMMAND, 2, 6);
    put(f, device, x.cap + 2, 2, 0x8000);
    for (unsigned v = 0; v < 3; v++) {
        bus_write(f->mmio, x.table + 16 * v, 4, 0xfee01000);
        bus_write(f->mmio, x.table + 16 * v + 8, 4, 0x40 + v);
    }
    return x;
}

static uint64_t pending(struct fixture *f, const struct msix *x)
{
    uint64_t v = 0;

    assert_true(bus_read(f->mmio, x->pba, 8, &v));
    return v;
}

static void msix_masks_and_pending(void **state) /* 6.8.2, 6.8.3.5 */
{
    struct fixture *f = *state;
    struct pci_function *fn = f->cards[0].fn;
    struct msix x;
    uint64_t v;

    pci_function_msix_raise(fn, 0);
    assert_false(pci_function_msix_enabled(fn));
    x = msix_enable(f, 1);
    assert_true(pci_function_msix_enabled(fn));
    assert_int_equal(f->sent, 0);
    assert_true(bus_read(f->mmio, x.table + 12, 4, &v));
    assert_int_equal(v, 1); /* masked after reset */

    pci_function_msix_raise(fn, 1);
    assert_int_equal(f->sent, 0);
    assert_int_equal(pending(f, &x), 2);
    bus_write(f->mmio, x.table + 16 + 12, 4, 0);
    assert_int_equal(f->sent, 1);
    assert_int_equal(f->addr, 0xfee01000);
    assert_int_equal(f->data, 0x41);
    assert_int_equal(pending(f, &x), 0);
    pci_function_msix_raise(fn, 1);
    assert_int_equal(f->sent, 2);

    put(f, 1, x.cap + 2, 2, 0xc000); /* function mask */
    pci_function_msix_raise(fn, 1);
    pci_function_msix_raise(fn, 1);
    assert_int_equal(f->sent, 2);
    put(f, 1, x.cap + 2, 2, 0x8000);
    assert_int_equal(f->sent, 3);

    put(f, 1, COMMAND, 2, 2); /* may not master the bus */
    assert_false(pci_function_bus_master(fn));
    pci_function_msix_raise(fn, 1);
    assert_int_equal(f->sent, 3);
    put(f, 1, COMMAND, 2, 6);
    assert_int_equal(f->sent, 4);

    pci_function_msix_raise(fn, 3); /* no such vector */
    assert_int_equal(f->sent, 4);
    put(f, 1, x.cap + 2, 2, 0);
    pci_function_msix_raise(fn, 1);
    put(f, 1, x.cap + 2, 2, 0x8000);
    assert_int_equal(f->sent, 4); /* raised while off: lost */
}

static void msix_table_is_memory(void **state)
{
    struct fixture *f = *state;
    struct msix x = msix_enable(f, 1);
    uint64_t v;

    bus_write(f->mmio, x.table + 16, 8, 0x00000012fee02003);
    assert_true(bus_read(f->mmio, x.table + 16, 8, &v));
    assert_int_equal(v, 0x00000012fee02000); /* 6.8.2.7: low two bits are zero */
    bus_write(f->mmio, x.table + 28, 4, 0xffffffff);
    bus_read(f->mmio, x.table + 28, 4, &v);
    assert_int_equal(v, 1);
    bus_write(f->mmio, x.pba, 4, 0xffffffff);
    assert_int_equal(pending(f, &x), 0);    /* read-only */
    bus_write(f->mmio, x.table + 48, 4, 1); /* behind the last vector */
    bus_read(f->mmio, x.table + 48, 4, &v);
    assert_int_equal(v, 0);
    pci_host_reset(f->host);
    assert_false(pci_function_msix_enabled(f->cards[0].fn));
}

static void msix_takes_intx_away(void **state)
{
    struct fixture *f = *state;

    pci_function_intx(f->cards[0].fn, true);
    assert_true(f->intx[1].level);
    msix_enable(f, 1);
    assert_false(f->intx[1].level);
}

static void bus_is_finite(void **state)
{
    struct fixture *f = *state;
    const struct pci_function_desc desc = { .name = "one-more" };
    struct yado_error err = YADO_ERROR_INIT;
    unsigned n = DEVICES + 1;

    while (pci_host_add(f->host, &desc, &err))
        n++;
    assert_int_equal(n, 32);
    assert_non_null(strstr(err.message, "one-more"));
}

/* Any access anywhere does no harm. */
static void scribble(void **state)
{
    struct fixture *f = *state;
    uint64_t x = 88172645463325252ull, v;

    assign(f);
    for (unsigned i = 0; i < 300000; i++) {
        unsigned width = 1u << (i % 3), reg;

        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        reg = (unsigned)(x >> 40) & 0xff & ~(width - 1);
        if (x & 1)
            put(f, (unsigned)(x >> 8) % 7, reg, width, (uint32_t)(x >> 32));
        else
            get(f, (unsigned)(x >> 8) % 7, reg, width);
        pci_function_intx(f->cards[i % DEVICES].fn, x & 2);
        pci_function_msix_raise(f->cards[i % DEVICES].fn, i % 4);
        bus_write(f->mmio, MMIO32 + (x >> 20) % 0x20000 / 4 * 4, 4, x >> 32);
        bus_read(f->mmio, MMIO32 + (x >> 20) % 0x20000 / 4 * 4, 4, &v);
    }
    pci_host_reset(f->host);
    for (unsigned i = 0; i < 4; i++)
        assert_false(f->intx[i].level);
    headers(state);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(headers, setup, teardown),
        cmocka_unit_test_setup_teardown(ports, setup, teardown),
        cmocka_unit_test_setup_teardown(bar_sizing, setup, teardown),
        cmocka_unit_test_setup_teardown(bars_move_on_the_bus, setup, teardown),
        cmocka_unit_test_setup_teardown(overlap_is_the_guests_loss, setup, teardown),
        cmocka_unit_test_setup_teardown(firmware_assignment, setup, teardown),
        cmocka_unit_test_setup_teardown(assignment_without_room, setup, teardown),
        cmocka_unit_test_setup_teardown(vendor_caps, setup, teardown),
        cmocka_unit_test_setup_teardown(own_bar_access, setup, teardown),
        cmocka_unit_test_setup_teardown(intx_lines_are_shared, setup, teardown),
        cmocka_unit_test_setup_teardown(msix_masks_and_pending, setup, teardown),
        cmocka_unit_test_setup_teardown(msix_table_is_memory, setup, teardown),
        cmocka_unit_test_setup_teardown(msix_takes_intx_away, setup, teardown),
        cmocka_unit_test_setup_teardown(bus_is_finite, setup, teardown),
        cmocka_unit_test_setup_teardown(scribble, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
