/* Reboot or crash?
 *
 * Theory of operation. With `panic=-1` (or a time) on its command line a panicking Linux resets the machine
 * by the very same register that a reboot uses, so the reset itself says nothing. What differs is what came
 * before:
 *
 *  - kernel_restart() runs machine_restart(), whose first step on x86 (native_machine_shutdown) clears every
 *    redirection entry of the I/O APIC: all pins are masked when the reset register is written. So do kernels
 * of all versions since SMP exists, whatever drivers they have.
 *  - panic() ends in emergency_restart(), which goes straight to the reset register. Some pin is open then: a
 * kernel that came as far as ACPI has at least the SCI's.
 *
 * (Device shutdown would be another mark, but Linux resets its virtio devices on reboot only from 6.15 on.)
 *
 * So a reset is orderly if the guest had opened a pin and now all pins are masked. One that had opened none
 * has crashed before it got that far: nothing reboots that early by intent. Two requests of an administrator
 * look like a crash, since they are the same code path: `echo b > /proc/sysrq-trigger`, and rebooting with
 * `reboot=force`. A triple fault never comes here; it counts as a crash always. A guest with a pvpanic driver
 * tells of its panic itself.
 *
 * To know whether a pin was ever opened, this stands in front of the I/O APIC and reads along. The select
 * register is shadowed without a lock: Linux takes one of its own around the pair of accesses, and a guest
 * that does not only misleads itself. */
#include "machine/reset_watch.h"

#define SELECT_OFF 0x00
#define DATA_OFF 0x10
#define REDIR_FIRST 0x10 /* register number of pin 0's low half; two per pin (82093AA data sheet, 3.2.4) */
#define REDIR_MASKED 0x10000u

static uint64_t watch_read(void *ctx, uint64_t off, unsigned width)
{
    struct reset_watch *w = ctx;

    return ioapic_ops.read(w->ioapic, off, width);
}

static void watch_write(void *ctx, uint64_t off, unsigned width, uint64_t value)
{
    struct reset_watch *w = ctx;

    if (off == SELECT_OFF) {
        atomic_store_explicit(&w->selected, (uint32_t)value & 0xff, memory_order_relaxed);
    } else if (off == DATA_OFF) {
        uint32_t reg = atomic_load_explicit(&w->selected, memory_order_relaxed);
        bool is_low_half = reg >= REDIR_FIRST && reg < REDIR_FIRST + 2 * IOAPIC_PINS && reg % 2 == 0;

        if (is_low_half && !(value & REDIR_MASKED))
            atomic_store_explicit(&w->unmasked, true, memory_order_relaxed);
    }
    ioapic_ops.write(w->ioapic, off, width, value);
}

/* Widths are those of ioapic_ops; that table is in another file and cannot be copied in a constant. */
const struct region_ops reset_watch_ops = {
    .name = "ioapic",
    .min_width = 4,
    .max_width = 4,
    .read = watch_read,
    .write = watch_write,
};

void reset_watch_init(struct reset_watch *w, struct ioapic *ioapic)
{
    w->ioapic = ioapic;
    reset_watch_reset(w);
}

void reset_watch_reset(struct reset_watch *w)
{
    atomic_store(&w->selected, 0);
    atomic_store(&w->unmasked, false);
}

bool reset_watch_orderly(struct reset_watch *w)
{
    if (!atomic_load(&w->unmasked))
        return false;
    for (unsigned pin = 0; pin < IOAPIC_PINS; pin++) {
        ioapic_ops.write(w->ioapic, SELECT_OFF, 4, REDIR_FIRST + 2 * pin);
        if (!(ioapic_ops.read(w->ioapic, DATA_OFF, 4) & REDIR_MASKED))
            return false;
    }
    return true;
}
