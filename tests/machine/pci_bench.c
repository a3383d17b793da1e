#include "pci_bench.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define BAR 0xe0000000ull
#define NOTIFY 0x3000
#define ECAM_DEVICE (1u << 15) /* the first after the bridge */
#define RING 16

static void on_msi(void *ctx, uint64_t addr, uint32_t data)
{
    (void)ctx;
    (void)addr;
    (void)data;
}

static void on_line(void *ctx, unsigned n, bool level)
{
    (void)ctx;
    (void)n;
    (void)level;
}

void pci_bench_open(struct pci_bench *b)
{
    struct yado_error err = YADO_ERROR_INIT;

    memset(b, 0, sizeof(*b));
    drv_init(&b->d);
    b->mmio = bus_new("memory");
    b->loop = loop_new(&err);
    struct pci_host_config pc = { .mmio = b->mmio, .msi = { .send = on_msi, .ctx = b } };
    for (unsigned i = 0; i < 4; i++)
        pc.intx[i] = (struct line){ on_line, b, i };
    b->host = pci_host_new(&pc, &err);
    if (!b->mmio || !b->loop || !b->host)
        fail_msg("%s", err.message);
}

void pci_bench_start(struct pci_bench *b)
{
    struct yado_error err = YADO_ERROR_INIT;

    pci_host_reset(b->host);
    assert_true(pci_host_assign_bars(b->host, BAR, MIB(16), 1ull << 40, MIB(64), &err));
    pci_host_ecam_ops.write(b->host, ECAM_DEVICE | 4, 2, 6); /* memory, bus master */
    b->bar = pci_host_ecam_ops.read(b->host, ECAM_DEVICE | 0x10, 4) & ~15ull;
    b->bar |= pci_host_ecam_ops.read(b->host, ECAM_DEVICE | 0x14, 4) << 32;
    assert_true(loop_start(b->loop, "test", &err));
}

void pci_bench_stop(struct pci_bench *b)
{
    loop_stop(b->loop);
}

void pci_bench_close(struct pci_bench *b)
{
    pci_host_free(b->host);
    loop_free(b->loop);
    bus_free(b->mmio);
    drv_free(&b->d);
}

/* Drivers have threads of their own, where cmocka cannot fail. */
static void wr(struct pci_bench *b, unsigned off, unsigned width, uint64_t v)
{
    if (!bus_write(b->mmio, b->bar + off, width, v))
        abort();
}

void pci_bench_reset(struct pci_bench *b)
{
    wr(b, 20, 1, 0);
}

void pci_bench_drive(struct pci_bench *b, uint32_t features, unsigned queues)
{
    wr(b, 20, 1, 3);
    wr(b, 8, 4, 0);
    wr(b, 12, 4, features);
    wr(b, 8, 4, 1);
    wr(b, 12, 4, 1); /* VERSION_1 */
    wr(b, 20, 1, 11);
    for (unsigned i = 0; i < queues; i++) {
        struct drv_queue *q = &b->d.queues[i];

        drv_rings(&b->d, q, RING);
        wr(b, 22, 2, i);
        wr(b, 24, 2, RING);
        wr(b, 32, 8, q->desc_gpa);
        wr(b, 40, 8, q->avail_gpa);
        wr(b, 48, 8, q->used_gpa);
        wr(b, 28, 2, 1);
    }
    wr(b, 20, 1, 15);
}

void pci_bench_kick(struct pci_bench *b, unsigned queue)
{
    wr(b, NOTIFY + 4 * queue, 2, queue);
}
