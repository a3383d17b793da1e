/* Older chips of the board: see legacy.h. Addresses and interrupts are every PC's; they stand here and not in
 * pc_layout.h because no other part of the machine may lie there or speak of them. */
#include "machine/legacy.h"

#include <stdlib.h>

#include "chip/fw_cfg.h"
#include "chip/kbc.h"
#include "chip/pic.h"
#include "chip/pit.h"
#include "chip/test_device.h"

#define ISA_LINES 16
#define TIMER_IRQ 0
#define KEYBOARD_IRQ 1
#define CASCADE_IRQ 2
#define TIMER_PIN 2 /* of the I/O APIC; the MADT says so too */

enum {
    R_PIC1,
    R_PIC2,
    R_ELCR,
    R_PIT,
    R_CONTROL,
    R_KBD_DATA,
    R_KBD_STATUS,
    R_FAST,
    R_FW_CFG,
    R_TEST_PORT,
    R_TEST_LINES,
    R_TEST_MEMORY,
    R_COUNT
};

struct legacy {
    struct legacy_config cfg;
    struct pic *pic;
    struct pit *pit;
    struct loop_timer *pit_timer;
    struct kbc *kbc;
    struct fw_cfg *fw_cfg;
    struct test_device *test_device;
    struct region regions[R_COUNT];
};

/* ---- interrupts ---- */

static unsigned pin_of(unsigned irq)
{
    return irq == TIMER_IRQ ? TIMER_PIN : irq;
}

static void isa_set(void *ctx, unsigned n, bool level)
{
    struct legacy *l = ctx;

    line_set(pic_line(l->pic, n), level);
    line_set(ioapic_line(l->cfg.ioapic, pin_of(n)), level);
}

struct line legacy_line(struct legacy *l, unsigned n)
{
    return (struct line){ .set = isa_set, .ctx = l, .n = n };
}

uint8_t legacy_acknowledge(struct legacy *l)
{
    return pic_acknowledge(l->pic);
}

/* ---- timer ---- */

static void pit_due(void *ctx)
{
    struct legacy *l = ctx;

    pit_timer(l->pit);
}

static void pit_arm(void *ctx, uint64_t deadline_ns)
{
    struct legacy *l = ctx;

    if (deadline_ns == PIT_NEVER)
        loop_timer_disarm(l->pit_timer);
    else
        loop_timer_arm(l->pit_timer, deadline_ns);
}

/* ---- making ---- */

static bool place(struct legacy *l, unsigned which, struct bus *bus, const struct region_ops *ops, void *chip,
                  uint64_t base, uint64_t len, struct yado_error *err)
{
    struct region *r = &l->regions[which];

    r->ops = ops;
    r->ctx = chip;
    return region_map(bus, r, base, len, err);
}

static bool port(struct legacy *l, unsigned which, const struct region_ops *ops, void *chip, uint64_t base,
                 uint64_t len, struct yado_error *err)
{
    return place(l, which, l->cfg.ports, ops, chip, base, len, err);
}

static bool pic_make(struct legacy *l, struct yado_error *err)
{
    l->pic = pic_new(&(struct pic_config){ .out = l->cfg.intr }, err);
    return l->pic && port(l, R_PIC1, &pic_unit_ops, pic_unit(l->pic, 0), 0x20, PIC_REGION_LEN, err) &&
           port(l, R_PIC2, &pic_unit_ops, pic_unit(l->pic, 1), 0xa0, PIC_REGION_LEN, err) &&
           port(l, R_ELCR, &pic_elcr_ops, l->pic, 0x4d0, PIC_REGION_LEN, err);
}

static bool pit_make(struct legacy *l, struct yado_error *err)
{
    struct pit_config cfg = {
        .clock = l->cfg.clock, .irq = legacy_line(l, TIMER_IRQ), .arm = pit_arm, .ctx = l
    };

    l->pit_timer = loop_timer_new(l->cfg.loop, pit_due, l);
    if (!l->pit_timer)
        return err_set(err, YADO_ERR_HOST, "out of memory");
    l->pit = pit_new(&cfg, err);
    return l->pit && port(l, R_PIT, &pit_ops, l->pit, 0x40, PIT_REGION_LEN, err) &&
           port(l, R_CONTROL, &pit_control_ops, l->pit, 0x61, 1, err);
}

static bool kbc_make(struct legacy *l, struct yado_error *err)
{
    struct kbc_config cfg = { .irq = legacy_line(l, KEYBOARD_IRQ), .reset = l->cfg.reset, .ctx = l->cfg.ctx };

    l->kbc = kbc_new(&cfg, err);
    return l->kbc && port(l, R_KBD_DATA, &kbc_data_ops, l->kbc, 0x60, 1, err) &&
           port(l, R_KBD_STATUS, &kbc_status_ops, l->kbc, 0x64, 1, err) &&
           port(l, R_FAST, &kbc_fast_ops, l->kbc, 0x92, 1, err);
}

static bool fw_cfg_make(struct legacy *l, struct yado_error *err)
{
    struct fw_cfg_config cfg = { .vcpu_count = l->cfg.vcpu_count };

    for (unsigned i = 0; i < gmem_slot_count(l->cfg.mem) && i < FW_CFG_RAM_MAX; i++) {
        struct gmem_slot s = gmem_slot_at(l->cfg.mem, i);

        cfg.ram[cfg.ram_count].gpa = s.gpa;
        cfg.ram[cfg.ram_count++].len = s.len;
    }
    l->fw_cfg = fw_cfg_new(&cfg, err);
    return l->fw_cfg && port(l, R_FW_CFG, &fw_cfg_ops, l->fw_cfg, FW_CFG_PORT, FW_CFG_REGION_LEN, err);
}

/* QEMU's lines are ISA interrupts; those above belong to the I/O APIC alone. */
static struct line test_line(struct legacy *l, unsigned n)
{
    if (n == CASCADE_IRQ)
        return (struct line){ 0 };
    return n < ISA_LINES ? legacy_line(l, n) : ioapic_line(l->cfg.ioapic, n);
}

static bool test_make(struct legacy *l, struct yado_error *err)
{
    struct test_device_config cfg;

    for (unsigned n = 0; n < TEST_DEVICE_LINES; n++)
        cfg.lines[n] = test_line(l, n);
    l->test_device = test_device_new(&cfg, err);
    return l->test_device &&
           port(l, R_TEST_PORT, &test_device_port_ops, l->test_device, TEST_DEVICE_PORT, TEST_DEVICE_PORT_LEN,
                err) &&
           port(l, R_TEST_LINES, &test_device_line_ops, l->test_device, TEST_DEVICE_LINES_PORT,
                TEST_DEVICE_LINES, err) &&
           place(l, R_TEST_MEMORY, l->cfg.mmio, &test_device_memory_ops, l->test_device, TEST_DEVICE_MEMORY,
                 TEST_DEVICE_MEMORY_LEN, err);
}

struct legacy *legacy_new(const struct legacy_config *cfg, struct yado_error *err)
{
    struct legacy *l = calloc(1, sizeof(*l));

    if (!l) {
        err_set(err, YADO_ERR_HOST, "out of memory");
        return NULL;
    }
    l->cfg = *cfg;
    if (pic_make(l, err) && pit_make(l, err) && kbc_make(l, err) && fw_cfg_make(l, err) &&
        (!cfg->test_device || test_make(l, err)))
        return l;
    legacy_free(l);
    return NULL;
}

void legacy_free(struct legacy *l)
{
    if (!l)
        return;
    for (unsigned i = 0; i < R_COUNT; i++)
        region_unmap(i == R_TEST_MEMORY ? l->cfg.mmio : l->cfg.ports, &l->regions[i]);
    test_device_free(l->test_device);
    fw_cfg_free(l->fw_cfg);
    kbc_free(l->kbc);
    pit_free(l->pit);
    loop_timer_free(l->pit_timer);
    pic_free(l->pic);
    free(l);
}

void legacy_reset(struct legacy *l)
{
    pic_reset(l->pic);
    pit_reset(l->pit);
    kbc_reset(l->kbc);
    fw_cfg_reset(l->fw_cfg);
}
