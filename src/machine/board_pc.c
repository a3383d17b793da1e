/* The PC board.
 *
 * Theory of operation. One table, `parts`, lists what the board is made of. It is built downwards and torn
 * down upwards; reset, the ACPI description and the listing walk it downwards. A part that needs another
 * stands below it. Each part's functions accept a board that was built only half, so there is one way to take
 * it down.
 *
 * Two orders are not free. The PCI bridge is made above the virtio devices that are plugged into it, but its
 * address decoding must be gone before they are, so the last part ("pci addresses") owns the end of the
 * bridge as well as the assignment of addresses that firmware would make once all devices are there. And
 * devices of one kind are plugged in in the order of the configuration, because guests name them in bus order
 * (hvc0, vda).
 *
 * Threads. vCPU threads come in by board_io and run a device's callbacks under that device's own lock. The
 * event loop serves timers and continuations of virtio devices, disks have their own threads, and so has each
 * serial port (pump.c). */
#include "machine/board.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>

#include "acpi/acpi.h"
#include "bus/region.h"
#include "chip/debug_exit.h"
#include "chip/i8042.h"
#include "chip/ioapic.h"
#include "chip/pci_host.h"
#include "chip/pm.h"
#include "chip/pvpanic.h"
#include "chip/rtc.h"
#include "chip/uart16550.h"
#include "host/loop.h"
#include "machine/consoles.h"
#include "machine/legacy.h"
#include "machine/nets.h"
#include "machine/pc_layout.h"
#include "machine/reset_watch.h"
#include "machine/vsocks.h"
#include "virtio/balloon.h"
#include "virtio/blk.h"
#include "virtio/rng.h"
#include "virtio/transport_pci.h"

_Static_assert(PC_ECAM_LEN == PCI_HOST_ECAM_LEN && PC_PCI_CONFIG_PORT == PCI_HOST_PORT_BASE,
               "the bridge's own facts");
_Static_assert(PC_IOAPIC_LEN == IOAPIC_REGION_LEN, "the chip's own fact");

#define BLK_QUEUES_MAX 8 /* more do not pay: requests are handed to the disk's few threads anyway */

enum {
    REGION_IOAPIC,
    REGION_PM,
    REGION_I8042,
    REGION_RTC,
    REGION_UART,
    REGION_PVPANIC,
    REGION_DEBUG_EXIT,
    REGION_PCI_PORTS,
    REGION_ECAM,
    REGION_COUNT
};

struct board_blk {
    struct vblk *blk;
    struct virtio_pci *pci;
};

struct board_rng {
    struct vrng *rng;
    struct virtio_pci *pci;
};

struct board {
    struct board_config cfg;
    struct bus *mmio, *ports;
    struct loop *loop;
    struct region regions[REGION_COUNT];

    struct ioapic *ioapic;
    struct reset_watch watch;
    struct legacy *legacy; /* NULL: there are none */
    struct pm *pm;
    struct i8042 *i8042;
    struct rtc *rtc;
    struct loop_timer *rtc_timer;
    struct uart *uart;
    struct pump *uart_pump; /* NULL: nobody listens */
    struct pvpanic pvpanic;
    struct debug_exit *debug_exit; /* NULL: there is none */
    struct pci_host *pci;
    struct consoles *consoles;
    struct board_blk disks[BOARD_DEVICE_MAX];
    struct board_rng rngs[BOARD_DEVICE_MAX];
    unsigned disk_count, rng_count;
    struct vballoon *balloon; /* NULL: there is none */
    struct virtio_pci *balloon_pci;
    struct nets *nets;
    struct vsocks *sockets; /* NULL: there are none */
};

struct part {
    const char *name;
    bool (*build)(struct board *b, struct yado_error *err);
    bool (*reset)(struct board *b, struct yado_error *err); /* NULL: nothing to reset */
    void (*describe)(const struct board *b, struct acpi_board *a);
    void (*destroy)(struct board *b);
};

/* ---- what chips ask of the machine ---- */

static void ask_power_off(void *ctx)
{
    struct board *b = ctx;

    b->cfg.request(b->cfg.ctx, BOARD_POWER_OFF);
}

static void ask_reset(void *ctx)
{
    struct board *b = ctx;

    b->cfg.request(b->cfg.ctx, BOARD_RESET);
}

static void ask_panic(void *ctx)
{
    struct board *b = ctx;

    b->cfg.request(b->cfg.ctx, BOARD_PANIC);
}

static bool region_place(struct bus *bus, struct region *r, const struct region_ops *ops, void *ctx,
                         uint64_t base, uint64_t len, struct yado_error *err)
{
    r->ops = ops;
    r->ctx = ctx;
    return region_map(bus, r, base, len, err);
}

/* ---- buses ---- */

static bool buses_build(struct board *b, struct yado_error *err)
{
    b->mmio = bus_new("memory");
    b->ports = bus_new("ports");
    if (!b->mmio || !b->ports)
        return err_set(err, YADO_ERR_HOST, "out of memory");
    b->loop = loop_new(err);
    return b->loop != NULL;
}

static void buses_destroy(struct board *b)
{
    loop_free(b->loop);
    if (b->ports)
        bus_free(b->ports);
    if (b->mmio)
        bus_free(b->mmio);
}

/* ---- I/O APIC ---- */

static bool ioapic_build(struct board *b, struct yado_error *err)
{
    struct ioapic_config cfg = { .msi = b->cfg.msi, .id = 0 };

    b->ioapic = ioapic_new(&cfg, err);
    if (!b->ioapic)
        return false;
    reset_watch_init(&b->watch, b->ioapic);
    return region_place(b->mmio, &b->regions[REGION_IOAPIC], &reset_watch_ops, &b->watch, PC_IOAPIC_BASE,
                        PC_IOAPIC_LEN, err);
}

static bool ioapic_part_reset(struct board *b, struct yado_error *err)
{
    (void)err;
    ioapic_reset(b->ioapic);
    reset_watch_reset(&b->watch);
    return true;
}

static void ioapic_describe(const struct board *b, struct acpi_board *a)
{
    (void)b;
    a->ioapic_base = PC_IOAPIC_BASE;
    a->ioapic_id = 0;
    a->lapic_base = PC_LAPIC_BASE;
}

static void ioapic_destroy(struct board *b)
{
    ioapic_free(b->ioapic);
}

/* ---- older chips ---- */

static bool legacy_build(struct board *b, struct yado_error *err)
{
    struct legacy_config cfg = {
        .ports = b->ports,
        .mmio = b->mmio,
        .loop = b->loop,
        .clock = b->cfg.clock,
        .ioapic = b->ioapic,
        .mem = b->cfg.mem,
        .vcpu_count = b->cfg.vcpu_count,
        .intr = b->cfg.intr,
        .test_device = b->cfg.debug_exit,
        .reset = ask_reset,
        .ctx = b,
    };

    if (b->cfg.legacy)
        b->legacy = legacy_new(&cfg, err);
    return b->legacy || !b->cfg.legacy;
}

static bool legacy_part_reset(struct board *b, struct yado_error *err)
{
    (void)err;
    if (b->legacy)
        legacy_reset(b->legacy);
    return true;
}

static void legacy_describe(const struct board *b, struct acpi_board *a)
{
    a->legacy_pic = b->legacy != NULL;
}

static void legacy_destroy(struct board *b)
{
    legacy_free(b->legacy);
}

/* An ISA interrupt: with older chips it goes to them too. */
static struct line isa_line(struct board *b, unsigned gsi)
{
    return b->legacy ? legacy_line(b->legacy, gsi) : ioapic_line(b->ioapic, gsi);
}

/* ---- power management ---- */

static bool pm_build(struct board *b, struct yado_error *err)
{
    struct pm_config cfg = {
        .clock = b->cfg.clock,
        .sci = isa_line(b, PC_SCI_GSI),
        .power_off = ask_power_off,
        .reset = ask_reset,
        .ctx = b,
    };

    b->pm = pm_new(&cfg, err);
    return b->pm &&
           region_place(b->ports, &b->regions[REGION_PM], &pm_ops, b->pm, PC_PM_PORT, PM_REGION_LEN, err);
}

static bool pm_part_reset(struct board *b, struct yado_error *err)
{
    (void)err;
    pm_reset(b->pm);
    return true;
}

static void pm_describe(const struct board *b, struct acpi_board *a)
{
    (void)b;
    a->sci_gsi = PC_SCI_GSI;
    a->pm1_evt_port = PC_PM_PORT + PM1_EVT_OFF;
    a->pm1_cnt_port = PC_PM_PORT + PM1_CNT_OFF;
    a->pm_tmr_port = PC_PM_PORT + PM_TMR_OFF;
    a->reset_port = PC_RESET_PORT;
    a->reset_value = PM_RESET_VALUE;
    a->slp_typ_s5 = PM_SLP_TYP_S5;
}

static void pm_destroy(struct board *b)
{
    pm_free(b->pm);
}

/* ---- keyboard controller: its reset line ---- */

static bool i8042_build(struct board *b, struct yado_error *err)
{
    struct i8042_config cfg = { .reset = ask_reset, .ctx = b };

    if (b->legacy) /* has all of the controller */
        return true;
    b->i8042 = i8042_new(&cfg, err);
    return b->i8042 && region_place(b->ports, &b->regions[REGION_I8042], &i8042_ops, b->i8042, PC_I8042_PORT,
                                    I8042_REGION_LEN, err);
}

static void i8042_destroy(struct board *b)
{
    i8042_free(b->i8042);
}

/* ---- clock ---- */

static void rtc_due(void *ctx)
{
    struct board *b = ctx;

    rtc_timer(b->rtc);
}

static void rtc_arm(void *ctx, uint64_t deadline_ns)
{
    struct board *b = ctx;

    if (deadline_ns == RTC_NEVER)
        loop_timer_disarm(b->rtc_timer);
    else
        loop_timer_arm(b->rtc_timer, deadline_ns);
}

static bool rtc_build(struct board *b, struct yado_error *err)
{
    struct rtc_config cfg = {
        .clock = b->cfg.clock,
        .irq = isa_line(b, PC_RTC_GSI),
        .arm = rtc_arm,
        .ctx = b,
    };

    b->rtc_timer = loop_timer_new(b->loop, rtc_due, b);
    if (!b->rtc_timer)
        return err_set(err, YADO_ERR_HOST, "out of memory");
    b->rtc = rtc_new(&cfg, err);
    return b->rtc && region_place(b->ports, &b->regions[REGION_RTC], &rtc_ops, b->rtc, PC_RTC_PORT,
                                  RTC_REGION_LEN, err);
}

static bool rtc_part_reset(struct board *b, struct yado_error *err)
{
    (void)err;
    rtc_reset(b->rtc);
    return true;
}

static void rtc_describe(const struct board *b, struct acpi_board *a)
{
    (void)b;
    a->rtc_port = PC_RTC_PORT;
    a->rtc_gsi = PC_RTC_GSI;
    a->rtc_century = RTC_CENTURY_INDEX;
}

static void rtc_destroy(struct board *b)
{
    rtc_free(b->rtc);
    if (b->rtc_timer)
        loop_timer_free(b->rtc_timer);
}

/* ---- UART ---- */

static void uart_output(void *ctx, const uint8_t *bytes, size_t len)
{
    struct board *b = ctx;

    if (b->uart_pump)
        pump_write_all(b->uart_pump, bytes, len);
}

static void uart_room(void *ctx)
{
    struct board *b = ctx;

    if (b->uart_pump)
        pump_room(b->uart_pump);
}

static size_t uart_input(void *ctx, const uint8_t *bytes, size_t len)
{
    struct board *b = ctx;

    return uart_receive(b->uart, bytes, len);
}

static const struct board_serial *uart_serial(const struct board *b)
{
    const struct board_devices *d = b->cfg.devices;

    for (unsigned i = 0; i < d->serial_count; i++) {
        if (d->serials[i].kind == BOARD_UART)
            return &d->serials[i];
    }
    return NULL;
}

static bool uart_build(struct board *b, struct yado_error *err)
{
    struct uart_config cfg = {
        .irq = isa_line(b, PC_UART_GSI), .output = uart_output, .room = uart_room, .ctx = b
    };
    const struct board_serial *serial = uart_serial(b);

    b->uart = uart_new(&cfg, err);
    if (!b->uart)
        return false;
    if (serial) {
        struct pump_config pump = {
            .name = "yado-uart", .ends = serial->ends, .receive = uart_input, .ctx = b
        };

        b->uart_pump = pump_new(&pump, err);
        if (!b->uart_pump)
            return false;
    }
    return region_place(b->ports, &b->regions[REGION_UART], &uart_ops, b->uart, PC_UART_PORT, UART_REGION_LEN,
                        err);
}

static bool uart_part_reset(struct board *b, struct yado_error *err)
{
    (void)err;
    uart_reset(b->uart);
    return true;
}

static void uart_describe(const struct board *b, struct acpi_board *a)
{
    (void)b;
    a->uart_port = PC_UART_PORT;
    a->uart_gsi = PC_UART_GSI;
}

static void uart_destroy(struct board *b)
{
    pump_free(b->uart_pump);
    uart_free(b->uart);
}

/* ---- panic port ---- */

static bool pvpanic_build(struct board *b, struct yado_error *err)
{
    b->pvpanic = (struct pvpanic){ .panicked = ask_panic, .ctx = b };
    return region_place(b->ports, &b->regions[REGION_PVPANIC], &pvpanic_ops, &b->pvpanic, PC_PVPANIC_PORT,
                        PVPANIC_REGION_LEN, err);
}

static void pvpanic_describe(const struct board *b, struct acpi_board *a)
{
    (void)b;
    a->pvpanic_port = PC_PVPANIC_PORT;
}

/* ---- debug exit port ---- */

static void debug_exited(void *ctx, uint32_t value)
{
    struct board *b = ctx;

    b->cfg.debug_exited(b->cfg.ctx, value);
}

static bool debug_exit_build(struct board *b, struct yado_error *err)
{
    struct debug_exit_config cfg = { .ended = debug_exited, .ctx = b };

    if (!b->cfg.debug_exit)
        return true;
    b->debug_exit = debug_exit_new(&cfg, err);
    return b->debug_exit && region_place(b->ports, &b->regions[REGION_DEBUG_EXIT], &debug_exit_ops,
                                         b->debug_exit, DEBUG_EXIT_PORT, DEBUG_EXIT_REGION_LEN, err);
}

static void debug_exit_destroy(struct board *b)
{
    debug_exit_free(b->debug_exit);
}

/* ---- PCI ---- */

static struct acpi_window window64(const struct board *b)
{
    struct acpi_window w = { .base = PC_HIGH_RAM_BASE, .len = PC_PCI_MMIO64_LEN };

    for (unsigned i = 0; i < gmem_slot_count(b->cfg.mem); i++) {
        struct gmem_slot s = gmem_slot_at(b->cfg.mem, i);

        w.base = max_u64(w.base, align_up(s.gpa + s.len, PC_PCI_MMIO64_ALIGN));
    }
    return w;
}

static bool pci_build(struct board *b, struct yado_error *err)
{
    struct pci_host_config cfg = {
        .mmio = b->mmio, .msi = b->cfg.msi, .reset_ops = &pm_reset_ops, .reset_ctx = b->pm, .log = b->cfg.log
    };

    for (unsigned i = 0; i < array_size(cfg.intx); i++)
        cfg.intx[i] = ioapic_line(b->ioapic, PC_PCI_INTX_GSI + i);
    b->pci = pci_host_new(&cfg, err);
    return b->pci &&
           region_place(b->ports, &b->regions[REGION_PCI_PORTS], &pci_host_port_ops, b->pci,
                        PC_PCI_CONFIG_PORT, PCI_HOST_PORT_LEN, err) &&
           region_place(b->mmio, &b->regions[REGION_ECAM], &pci_host_ecam_ops, b->pci, PC_ECAM_BASE,
                        PC_ECAM_LEN, err);
}

static bool pci_reset(struct board *b, struct yado_error *err)
{
    (void)err;
    pci_host_reset(b->pci);
    return true;
}

static void pci_describe(const struct board *b, struct acpi_board *a)
{
    a->ecam = (struct acpi_window){ PC_ECAM_BASE, PC_ECAM_LEN };
    a->pci_mmio32 = (struct acpi_window){ PC_PCI_MMIO32_BASE, PC_PCI_MMIO32_LEN };
    a->pci_mmio64 = window64(b);
    for (unsigned i = 0; i < array_size(a->pci_intx_gsi); i++)
        a->pci_intx_gsi[i] = (uint8_t)(PC_PCI_INTX_GSI + i);
}

/* ---- consoles ---- */

static void port_open(void *ctx, unsigned device, unsigned port, bool is_open)
{
    struct board *b = ctx;

    if (b->cfg.port_open)
        b->cfg.port_open(b->cfg.ctx, device, port, is_open);
}

static bool consoles_build(struct board *b, struct yado_error *err)
{
    struct consoles_config cfg = {
        .devices = b->cfg.devices,
        .pci = b->pci,
        .mem = b->cfg.mem,
        .loop = b->loop,
        .log = b->cfg.log,
        .port_open = port_open,
        .ctx = b,
    };

    b->consoles = consoles_new(&cfg, err);
    return b->consoles != NULL;
}

static bool consoles_part_reset(struct board *b, struct yado_error *err)
{
    (void)err;
    consoles_reset(b->consoles);
    return true;
}

static void consoles_destroy(struct board *b)
{
    consoles_free(b->consoles);
}

/* ---- disks ---- */

static bool disks_build(struct board *b, struct yado_error *err)
{
    const struct board_devices *d = b->cfg.devices;

    for (unsigned i = 0; i < d->disk_count; i++) {
        struct board_blk *k = &b->disks[b->disk_count++];
        struct vblk_config cfg = {
            .disk = d->disks[i].disk,
            .label = d->disks[i].name,
            .serial = d->disks[i].identifier,
            .queue_count = (unsigned)min_u64(b->cfg.vcpu_count, BLK_QUEUES_MAX),
            .log = b->cfg.log,
            .loop = b->loop,
        };

        k->blk = vblk_new(&cfg, err);
        k->pci = k->blk ? virtio_pci_attach(b->pci, vblk_vdev(k->blk), b->cfg.mem, err) : NULL;
        if (!k->pci)
            return false;
    }
    return true;
}

static bool disks_reset(struct board *b, struct yado_error *err)
{
    (void)err;
    for (unsigned i = 0; i < b->disk_count; i++)
        virtio_pci_reset(b->disks[i].pci);
    return true;
}

static void disks_destroy(struct board *b)
{
    for (unsigned i = 0; i < b->disk_count; i++) {
        virtio_pci_free(b->disks[i].pci);
        vblk_free(b->disks[i].blk);
    }
}

/* ---- entropy ---- */

static bool rngs_build(struct board *b, struct yado_error *err)
{
    for (unsigned i = 0; i < b->cfg.devices->entropy_count; i++) {
        struct board_rng *r = &b->rngs[b->rng_count++];
        struct vrng_config cfg = { .log = b->cfg.log, .loop = b->loop };

        r->rng = vrng_new(&cfg, err);
        r->pci = r->rng ? virtio_pci_attach(b->pci, vrng_vdev(r->rng), b->cfg.mem, err) : NULL;
        if (!r->pci)
            return false;
    }
    return true;
}

static bool rngs_reset(struct board *b, struct yado_error *err)
{
    (void)err;
    for (unsigned i = 0; i < b->rng_count; i++)
        virtio_pci_reset(b->rngs[i].pci);
    return true;
}

static void rngs_destroy(struct board *b)
{
    for (unsigned i = 0; i < b->rng_count; i++) {
        virtio_pci_free(b->rngs[i].pci);
        vrng_free(b->rngs[i].rng);
    }
}

/* ---- balloon ---- */

static bool balloon_build(struct board *b, struct yado_error *err)
{
    struct vballoon_config cfg = { .log = b->cfg.log, .loop = b->loop };

    if (!b->cfg.devices->balloon)
        return true;
    b->balloon = vballoon_new(&cfg, err);
    if (b->balloon)
        b->balloon_pci = virtio_pci_attach(b->pci, vballoon_vdev(b->balloon), b->cfg.mem, err);
    return b->balloon_pci != NULL;
}

static bool balloon_part_reset(struct board *b, struct yado_error *err)
{
    (void)err;
    if (b->balloon_pci)
        virtio_pci_reset(b->balloon_pci);
    return true;
}

static void balloon_destroy(struct board *b)
{
    virtio_pci_free(b->balloon_pci);
    vballoon_free(b->balloon);
}

void board_balloon_target(struct board *b, uint64_t size)
{
    const uint64_t all = gmem_size(b->cfg.mem);

    if (b->balloon)
        vballoon_set_target(b->balloon, (uint32_t)((all - min_u64(size, all)) / VBALLOON_PAGE));
}

/* ---- network ---- */

static void net_lost(void *ctx, unsigned index, const struct yado_error *why)
{
    struct board *b = ctx;

    if (b->cfg.net_lost)
        b->cfg.net_lost(b->cfg.ctx, index, why);
}

static bool nets_build(struct board *b, struct yado_error *err)
{
    struct nets_config cfg = {
        .nets = b->cfg.devices->nets,
        .count = b->cfg.devices->net_count,
        .vcpu_count = b->cfg.vcpu_count,
        .pci = b->pci,
        .mem = b->cfg.mem,
        .loop = b->loop,
        .log = b->cfg.log,
        .lost = net_lost,
        .ctx = b,
    };

    b->nets = nets_new(&cfg, err);
    return b->nets != NULL;
}

static bool nets_part_reset(struct board *b, struct yado_error *err)
{
    (void)err;
    nets_reset(b->nets);
    return true;
}

static void nets_destroy(struct board *b)
{
    nets_free(b->nets);
}

/* ---- sockets ---- */

static bool sockets_build(struct board *b, struct yado_error *err)
{
    struct vsocks_config cfg = {
        .sockets = &b->cfg.devices->sockets,
        .pci = b->pci,
        .mem = b->cfg.mem,
        .loop = b->loop,
        .clock = b->cfg.clock,
        .log = b->cfg.log,
    };

    if (!cfg.sockets->present)
        return true;
    b->sockets = vsocks_new(&cfg, err);
    return b->sockets != NULL;
}

static bool sockets_part_reset(struct board *b, struct yado_error *err)
{
    (void)err;
    if (b->sockets)
        vsocks_reset(b->sockets);
    return true;
}

static void sockets_destroy(struct board *b)
{
    vsocks_free(b->sockets);
}

bool board_socket_answer(struct board *b, uint64_t id, int fd)
{
    return vsocks_answer(b->sockets, id, fd);
}

bool board_socket_connect(struct board *b, uint32_t guest_port, int fd, uint64_t tag, struct yado_error *err)
{
    return vsocks_connect(b->sockets, guest_port, fd, tag, err);
}

/* ---- PCI addresses: what firmware would do, and the end of the bridge ---- */

static bool addresses_assign(struct board *b, struct yado_error *err)
{
    struct acpi_window high = window64(b);

    return pci_host_assign_bars(b->pci, PC_PCI_MMIO32_BASE, PC_PCI_MMIO32_LEN, high.base, high.len, err);
}

static void bridge_destroy(struct board *b)
{
    pci_host_free(b->pci);
}

/* ---- the table ---- */

static const struct part parts[] = {
    { "buses", buses_build, NULL, NULL, buses_destroy },
    { "ioapic", ioapic_build, ioapic_part_reset, ioapic_describe, ioapic_destroy },
    { "legacy", legacy_build, legacy_part_reset, legacy_describe, legacy_destroy },
    { "pm", pm_build, pm_part_reset, pm_describe, pm_destroy },
    { "i8042", i8042_build, NULL, NULL, i8042_destroy },
    { "rtc", rtc_build, rtc_part_reset, rtc_describe, rtc_destroy },
    { "uart", uart_build, uart_part_reset, uart_describe, uart_destroy },
    { "pvpanic", pvpanic_build, NULL, pvpanic_describe, NULL },
    { "debug exit", debug_exit_build, NULL, NULL, debug_exit_destroy },
    { "pci", pci_build, pci_reset, pci_describe, bridge_destroy }, /* behind the devices on it */
    { "consoles", consoles_build, consoles_part_reset, NULL, consoles_destroy },
    { "disks", disks_build, disks_reset, NULL, disks_destroy },
    { "entropy", rngs_build, rngs_reset, NULL, rngs_destroy },
    { "balloon", balloon_build, balloon_part_reset, NULL, balloon_destroy },
    { "network", nets_build, nets_part_reset, NULL, nets_destroy },
    { "sockets", sockets_build, sockets_part_reset, NULL, sockets_destroy },
    { "pci addresses", addresses_assign, addresses_assign, NULL, NULL },
};

static void region_list(void *ctx, const struct region *r)
{
    const struct log *log = ctx;

    log_line(log, LOG_MACHINE, "  %#14" PRIx64 " +%#-10" PRIx64 " %s", r->base, r->len, r->ops->name);
}

static void board_list(struct board *b)
{
    log_line(b->cfg.log, LOG_MACHINE, "memory space:");
    bus_each(b->mmio, region_list, (void *)(uintptr_t)b->cfg.log);
    log_line(b->cfg.log, LOG_MACHINE, "port space:");
    bus_each(b->ports, region_list, (void *)(uintptr_t)b->cfg.log);
}

struct board *board_new(const struct board_config *cfg, struct yado_error *err)
{
    struct board *b = calloc(1, sizeof(*b));

    if (!b) {
        err_set(err, YADO_ERR_HOST, "out of memory");
        return NULL;
    }
    b->cfg = *cfg;
    for (size_t i = 0; i < array_size(parts); i++) {
        if (!parts[i].build(b, err)) {
            err_set(err, YADO_ERR_HOST, "board: cannot make \"%s\"",
                    parts[i].name); /* if it gave no reason */
            board_free(b);
            return NULL;
        }
    }
    b->cfg.devices = NULL; /* the caller's */
    board_list(b);
    return b;
}

void board_free(struct board *b)
{
    if (!b)
        return;
    board_stop(b);
    for (size_t i = array_size(parts); i-- > 0;) {
        if (parts[i].destroy)
            parts[i].destroy(b);
    }
    free(b);
}

bool board_reset(struct board *b, struct yado_error *err)
{
    for (size_t i = 0; i < array_size(parts); i++) {
        if (parts[i].reset && !parts[i].reset(b, err))
            return false;
    }
    return true;
}

void board_set_doorbell_sink(struct board *b, struct doorbell_sink sink)
{
    bus_set_doorbell_sink(b->mmio, sink);
}

uint64_t board_write_acpi(struct board *b, struct yado_error *err)
{
    struct acpi_board a = { .vcpu_count = b->cfg.vcpu_count };
    struct acpi_tables t;
    uint64_t len = 0;

    for (size_t i = 0; i < array_size(parts); i++) {
        if (parts[i].describe)
            parts[i].describe(b, &a);
    }
    const uint64_t base = b->legacy ? PC_ACPI_LEGACY_BASE : PC_ACPI_BASE;

    if (!acpi_build(&a, base, PC_BIOS_END - base, &t, err))
        return 0;
    if (gmem_write(b->cfg.mem, base, t.bytes, t.len))
        len = t.len;
    else
        err_set(err, YADO_ERR_INTERNAL, "the ACPI tables do not lie in memory");
    acpi_tables_free(&t);
    return len;
}

/* ---- running ---- */

bool board_start(struct board *b, struct yado_error *err)
{
    if (!loop_start(b->loop, "yado-devices", err))
        return false;
    if (b->uart_pump && !pump_start(b->uart_pump, err))
        return false;
    return consoles_start(b->consoles, err);
}

void board_stop(struct board *b)
{
    if (b->uart_pump)
        pump_ask_stop(b->uart_pump);
    if (b->consoles)
        consoles_stop(b->consoles);
    if (b->uart_pump)
        pump_stop(b->uart_pump);
    if (b->loop)
        loop_stop(b->loop);
}

void board_io(void *ctx, unsigned vcpu, struct exit *access)
{
    struct board *b = ctx;
    struct bus *bus = access->kind == EXIT_PORT ? b->ports : b->mmio;

    (void)vcpu;
    if (access->is_write)
        bus_write(bus, access->addr, access->width, access->data);
    else
        bus_read(bus, access->addr, access->width, &access->data);
}

void board_eoi(void *ctx, unsigned vector)
{
    struct board *b = ctx;

    ioapic_eoi(b->ioapic, vector);
}

uint8_t board_acknowledge(void *ctx)
{
    struct board *b = ctx;

    return legacy_acknowledge(b->legacy);
}

bool board_reset_was_orderly(struct board *b)
{
    if (b->legacy) /* no Linux: the mark that tells a panic is none */
        return true;
    return reset_watch_orderly(&b->watch);
}

void board_hurry(struct board *b, bool hurry)
{
    if (b->uart_pump)
        pump_hurry(b->uart_pump, hurry);
}

void board_press_power_button(struct board *b)
{
    pm_press_power_button(b->pm);
}

void board_console_size(struct board *b, unsigned index, uint16_t columns, uint16_t rows)
{
    consoles_size(b->consoles, index, columns, rows);
}

void board_port_size(struct board *b, unsigned device, unsigned port, uint16_t columns, uint16_t rows)
{
    consoles_port_size(b->consoles, device, port, columns, rows);
}

bool board_port_attach(struct board *b, unsigned device, unsigned port, const struct pump_ends *ends,
                       struct yado_error *err)
{
    return consoles_attach(b->consoles, device, port, ends, err);
}

bool board_net_forward(struct board *b, unsigned index, const struct net_forward *f, bool add,
                       struct yado_error *err)
{
    return nets_forward(b->nets, index, f, add, err);
}

bool board_net_attach(struct board *b, unsigned index, const struct net_config *cfg, struct yado_error *err)
{
    return nets_attach(b->nets, index, cfg, err);
}
