/* A virtio device under the KVM engine: doorbells and interrupt descriptors in the place where they are used.
 * The test is the driver that makes rings, the guest rings and takes interrupts. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "../virtio/driver.h"
#include "chip/pci_host.h"
#include "engine/kvm/kvm_priv.h"
#include "kvm_codes.h"
#include "long_guest.h"
#include "machine/msi_route.h"
#include "virtio/rng.h"
#include "virtio/transport_pci.h"

CODE(driver);
CODE(odd_rings);
CODE(storm);
CODE(ringers);

#define CODE_AT 0x80000u
#define HANDLERS_AT 0xa0000u
#define STACK_AT 0x70000u
#define RINGS_AT 0x400000u
#define MMIO_BASE 0xc0000000u
#define ECAM_BASE 0xe0000000u
#define TELL_PORT 0xf4
#define END_PORT 0xf5
#define VECTOR 0x60u
#define NOTIFY 0x3000u /* in BAR 0, of queue 0 */

struct box {
    struct drv d;
    struct long_guest lg;
    const struct engine_ops *ops;
    struct engine_vm *vm;
    struct bus *mmio;
    struct pci_host *host;
    struct region ecam;
    struct loop *loop;
    struct vrng *rng;
    struct virtio_pci *vp;
    uint64_t bar0, msix_table;
    unsigned msix_cap;

    /* vCPU's thread */
    unsigned served, wanted, interrupts[2];
    uint32_t move_message_at; /* after so many: vector VECTOR + 1 */
    uint32_t told;
};

static uint32_t config_read(struct box *b, unsigned off, unsigned width)
{
    uint64_t v;

    bus_read(b->mmio, ECAM_BASE + (1u << 15 | off), width, &v);
    return (uint32_t)v;
}

static void config_write(struct box *b, unsigned off, unsigned width, uint32_t v)
{
    bus_write(b->mmio, ECAM_BASE + (1u << 15 | off), width, v);
}

static void reg(struct box *b, unsigned off, unsigned width, uint64_t v)
{
    bus_write(b->mmio, b->bar0 + off, width, v);
}

static void message_set(struct box *b, unsigned entry, uint32_t data)
{
    bus_write(b->mmio, b->msix_table + 16 * entry, 4, 0xfee00000);
    bus_write(b->mmio, b->msix_table + 16 * entry + 8, 4, data);
    bus_write(b->mmio, b->msix_table + 16 * entry + 12, 4, 0);
}

/* virtio 1.2, 3.1.1, with offsets of 4.1.4.3. */
static void device_start(struct box *b)
{
    struct drv_queue *q = &b->d.queues[0];

    b->d.next_gpa = RINGS_AT;
    reg(b, 20, 1, 0);
    reg(b, 20, 1, 3);
    reg(b, 8, 4, 1);
    reg(b, 12, 4, 1); /* VERSION_1 */
    reg(b, 20, 1, 11);
    config_write(b, b->msix_cap + 2, 2, 0x8000);
    message_set(b, 1, VECTOR);
    drv_rings(&b->d, q, 8);
    reg(b, 22, 2, 0);
    reg(b, 24, 2, 8);
    reg(b, 26, 2, 1);
    reg(b, 32, 8, q->desc_gpa);
    reg(b, 40, 8, q->avail_gpa);
    reg(b, 48, 8, q->used_gpa);
    reg(b, 28, 2, 1);
    reg(b, 20, 1, 15);
}

static void buffer_add(struct box *b)
{
    const struct drv_seg seg = { RINGS_AT + 0x10000, 64, true };

    drv_add(&b->d.queues[0], 0, &seg, 1);
}

/* An interrupt came: the buffer is back, and goes in again. */
static void interrupt_told(struct box *b, unsigned vector)
{
    uint32_t id, len;

    b->interrupts[vector - VECTOR]++;
    if (!drv_used(&b->d.queues[0], &id, &len))
        return;
    if (++b->served == b->wanted)
        b->ops->kick(b->ops->vcpu(b->vm, 0));
    if (b->served == b->move_message_at)
        message_set(b, 1, VECTOR + 1);
    buffer_add(b);
}

static void on_io(void *ctx, unsigned vcpu, struct exit *x)
{
    struct box *b = ctx;

    if (x->kind == EXIT_MMIO && x->is_write) {
        bus_write(b->mmio, x->addr, x->width, x->data);
    } else if (x->kind == EXIT_MMIO) {
        bus_read(b->mmio, x->addr, x->width, &x->data);
    } else if (x->addr == TELL_PORT) {
        b->told = (uint32_t)x->data;
        if (x->data == VECTOR || x->data == VECTOR + 1)
            interrupt_told(b, (unsigned)x->data);
    } else if (x->addr == END_PORT) {
        b->ops->kick(b->ops->vcpu(b->vm, vcpu));
    }
}

static void on_eoi(void *ctx, unsigned vector)
{
    (void)ctx;
    (void)vector;
}

static void on_msi(void *ctx, uint64_t addr, uint32_t data)
{
    struct box *b = ctx;

    b->ops->msi(b->vm, addr, data);
}

static void on_msi_from(void *ctx, struct msi_source *src, uint64_t addr, uint32_t data)
{
    struct box *b = ctx;

    msi_route_send(b->ops, b->vm, src, addr, data);
}

static void on_forget(void *ctx, struct msi_source *src)
{
    struct box *b = ctx;

    msi_route_forget(b->ops, b->vm, src);
}

static bool on_bell_add(void *ctx, uint64_t addr, int fd)
{
    struct box *b = ctx;

    return b->ops->doorbell_add(b->vm, &(struct engine_doorbell){ .addr = addr, .fd = fd }, NULL);
}

static void on_bell_drop(void *ctx, uint64_t addr, int fd)
{
    struct box *b = ctx;

    b->ops->doorbell_drop(b->vm, &(struct engine_doorbell){ .addr = addr, .fd = fd });
}

static void device_open(struct box *b)
{
    struct yado_error err = YADO_ERROR_INIT;
    struct pci_host_config cfg = { .mmio = b->mmio, .msi = { on_msi, on_msi_from, on_forget, b } };

    b->host = pci_host_new(&cfg, &err);
    b->ecam = (struct region){ .ops = &pci_host_ecam_ops, .ctx = b->host };
    assert_true(region_map(b->mmio, &b->ecam, ECAM_BASE, PCI_HOST_ECAM_LEN, &err));
    b->rng = vrng_new(&(struct vrng_config){ .log = &b->d.log, .loop = b->loop }, &err);
    b->vp = virtio_pci_attach(b->host, vrng_vdev(b->rng), b->d.mem, &err);
    assert_non_null(b->vp);
    pci_host_reset(b->host);
    if (!pci_host_assign_bars(b->host, MMIO_BASE, MIB(1), 0, 0, &err))
        fail_msg("%s", err.message);
    config_write(b, 4, 2, 6);
    b->bar0 = config_read(b, 0x10, 4) & ~15u;
    b->msix_table = config_read(b, 0x20, 4) & ~15u;
    for (unsigned at = config_read(b, 0x34, 1); at; at = config_read(b, at + 1, 1)) {
        if (config_read(b, at, 1) == 0x11)
            b->msix_cap = at;
    }
    bus_set_doorbell_sink(b->mmio, (struct doorbell_sink){ on_bell_add, on_bell_drop, b });
}

static void cpu_set(struct box *b, const uint8_t *code, size_t len)
{
    struct yado_error err = YADO_ERROR_INIT;
    struct x86_state s;

    memcpy(drv_at(&b->d, CODE_AT, len), code, len);
    x86_state_reset(&s, 0);
    long_guest_state(&b->lg, &s, 0, CODE_AT, STACK_AT);
    s.cr4 = CR4_PAE | CR4_PGE | CR4_OSFXSR | CR4_OSXMMEXCPT;
    s.xcr0 = 1;
    s.gpr[R_SI] = b->bar0 + NOTIFY;
    if (!b->ops->set_state(b->ops->vcpu(b->vm, 0), &s, &err))
        fail_msg("%s", err.message);
}

static void box_open(struct box *b)
{
    struct engine_config cfg = { .vcpu_count = 1, .host = { .io = on_io, .eoi = on_eoi, .ctx = b } };
    struct yado_error err = YADO_ERROR_INIT;
    const uint64_t rw = PTE_P | PTE_W | PTE_A | PTE_D;
    struct engine_memslot slot = { .len = DRV_MEM_SIZE };

    memset(b, 0, sizeof(*b));
    b->ops = &engine_kvm;
    drv_init(&b->d);
    slot.hva = drv_at(&b->d, 0, DRV_MEM_SIZE);
    if (!b->ops->open(&b->vm, &cfg, &err) || !b->ops->map(b->vm, &slot, &err))
        fail_msg("%s", err.message);
    long_guest_init(&b->lg, slot.hva, DRV_MEM_SIZE, 0);
    long_guest_map(&b->lg, 0, 0, 0x200000, rw);
    long_guest_map(&b->lg, MMIO_BASE, MMIO_BASE, 0x20000, rw);
    memcpy(drv_at(&b->d, HANDLERS_AT, LEN(ringers)), code_ringers, LEN(ringers));
    for (unsigned v = 0; v < 2; v++)
        long_guest_gate(&b->lg, VECTOR + v, HANDLERS_AT + 16 * v, 0, 0);
    b->mmio = bus_new("mmio");
    b->loop = loop_new(&err);
    assert_true(b->mmio && b->loop && loop_start(b->loop, "test-loop", &err));
    device_open(b);
}

struct counter_wanted {
    const char *name;
    uint64_t value;
};

static void on_counter(void *ctx, const char *name, uint64_t value)
{
    struct counter_wanted *w = ctx;

    if (!strcmp(w->name, name))
        w->value = value;
}

static uint64_t counter(struct box *b, const char *name)
{
    struct counter_wanted w = { name, ~0ull };

    b->ops->counters(b->vm, on_counter, &w);
    return w.value;
}

static void box_close(struct box *b)
{
    loop_stop(b->loop);
    virtio_pci_free(b->vp);
    vrng_free(b->rng);
    region_unmap(b->mmio, &b->ecam);
    pci_host_free(b->host);
    assert_int_equal(counter(b, "doorbells"), 0); /* nothing is left in the kernel */
    assert_int_equal(counter(b, "irqfds"), 0);
    b->ops->close(b->vm);
    bus_free(b->mmio);
    loop_free(b->loop);
    drv_free(&b->d);
}

static enum exit_kind run(struct box *b)
{
    struct yado_error err = YADO_ERROR_INIT;
    struct exit x;

    b->ops->run(b->ops->vcpu(b->vm, 0), &x, &err);
    if (x.kind != EXIT_KICKED)
        printf("# run ended: %s\n", err.message);
    return x.kind;
}

/* No request costs an exit, and after the first 31 no interrupt a call into the kernel. */
static void test_requests(void **state)
{
    struct box b;

    (void)state;
    box_open(&b);
    device_start(&b);
    assert_int_equal(counter(&b, "doorbells"), 1);
    buffer_add(&b);
    cpu_set(&b, code_driver, LEN(driver));
    b.wanted = 100;
    assert_int_equal(run(&b), EXIT_KICKED);
    assert_int_equal(b.served, 100);
    assert_int_equal(b.interrupts[0], 100);
    assert_int_equal(counter(&b, "exit_mmio"), 0);
    assert_int_equal(counter(&b, "messages"), 31);
    assert_int_equal(counter(&b, "irqfds"), 1);
    assert_int_equal(*(uint8_t *)drv_at(&b.d, HANDLERS_AT, 1), code_ringers[0]);
    /* The guest moves the interrupt: the new message comes, and no old one. */
    b.move_message_at = 120;
    b.wanted = 200;
    assert_int_equal(run(&b), EXIT_KICKED);
    assert_int_equal(b.served, 200);
    assert_int_equal(b.interrupts[0], 120);
    assert_int_equal(b.interrupts[1], 80);
    assert_int_equal(counter(&b, "messages"), 31 + 31);
    assert_int_equal(counter(&b, "irqfds"), 1); /* the same one, told anew */
    box_close(&b);
}

/* The same through registers, for an engine or a kernel without doorbells. */
static void test_requests_without(void **state)
{
    struct box b;

    (void)state;
    box_open(&b);
    device_start(&b);
    pci_function_doorbells(virtio_pci_function(b.vp), 0, NULL, 0);
    assert_int_equal(counter(&b, "doorbells"), 0);
    buffer_add(&b);
    cpu_set(&b, code_driver, LEN(driver));
    b.wanted = 20;
    assert_int_equal(run(&b), EXIT_KICKED);
    assert_int_equal(b.served, 20);
    assert_true(counter(&b, "exit_mmio") >= 20);
    box_close(&b);
}

static void test_odd_rings(void **state)
{
    struct box b;
    uint32_t id, len;

    (void)state;
    box_open(&b);
    device_start(&b);
    cpu_set(&b, code_odd_rings, LEN(odd_rings));
    assert_int_equal(run(&b), EXIT_KICKED);
    assert_int_equal(b.told, 0); /* a notify register reads as 0 */
    assert_int_equal(bus_read(b.mmio, b.bar0 + 20, 1, &(uint64_t){ 0 }), true);
    buffer_add(&b); /* and the device is as good as before */
    reg(&b, NOTIFY, 2, 0);
    drv_wait_used(&b.d.queues[0], &id, &len);
    assert_string_equal(b.d.fault, "");
    box_close(&b);
}

static void *storm_thread(void *arg)
{
    struct box *b = arg;

    return (void *)(uintptr_t)run(b);
}

/* The doorbell is rung all the time, while the device is reset, started, moved away and back, and the vCPU is
 * taken out. */
static void test_storm(void **state)
{
    struct box b;
    pthread_t thread;
    uint32_t id, len;
    void *kind;

    (void)state;
    box_open(&b);
    device_start(&b);
    cpu_set(&b, code_storm, LEN(storm));
    for (unsigned i = 0; i < 8; i++) {
        assert_int_equal(pthread_create(&thread, NULL, storm_thread, &b), 0);
        for (unsigned j = 0; j < 4; j++) {
            device_start(&b);
            buffer_add(&b);
            config_write(&b, 0x10, 4, (uint32_t)b.bar0 + 0x8000);
            config_write(&b, 4, 2, 4);
            config_write(&b, 0x10, 4, (uint32_t)b.bar0);
            config_write(&b, 4, 2, 6);
        }
        b.ops->kick(b.ops->vcpu(b.vm, 0));
        pthread_join(thread, &kind);
        assert_int_equal((uintptr_t)kind, EXIT_KICKED);
    }
    device_start(&b);
    assert_int_equal(counter(&b, "doorbells"), 1);
    buffer_add(&b);
    assert_int_equal(pthread_create(&thread, NULL, storm_thread, &b), 0);
    drv_wait_used(&b.d.queues[0], &id, &len);
    b.ops->kick(b.ops->vcpu(b.vm, 0));
    pthread_join(thread, &kind);
    assert_int_equal(len, 64);
    box_close(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_requests),
        cmocka_unit_test(test_requests_without),
        cmocka_unit_test(test_odd_rings),
        cmocka_unit_test(test_storm),
    };
    struct yado_error err = YADO_ERROR_INIT;

    if (!engine_kvm.available(&err)) {
        printf("skipped: %s\n", err.message);
        return 77; /* meson: skipped */
    }
    return cmocka_run_group_tests_name("virtio on kvm", tests, NULL, NULL);
}
