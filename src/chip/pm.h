/* ACPI fixed hardware: PM1 event and control, power button, soft off, the power management timer, and the
 * reset control register. The machine is always in ACPI mode (FADT.SMI_CMD is 0), so SCI_EN reads as one.
 * Source: ACPI 6.4, section 4.8; reset control as the "CF9" register of Intel chipsets (500 Series PCH data
 * sheet). */
#ifndef CHIP_PM_H
#define CHIP_PM_H

#include "bus/line.h"
#include "bus/region.h"
#include "host/clock.h"

/* Offsets in the port region of pm_ops, for the FADT. */
#define PM_REGION_LEN 12
#define PM1_EVT_OFF 0 /* status (2 bytes), enable (2 bytes) */
#define PM1_EVT_LEN 4
#define PM1_CNT_OFF 4
#define PM1_CNT_LEN 2
#define PM_TMR_OFF 8
#define PM_TMR_LEN 4

#define PM_SLP_TYP_S5 5 /* value of SLP_TYP that means soft off; \_S5 in the DSDT must say the same */

#define PM_RESET_REGION_LEN 1 /* byte port 0xcf9 */
#define PM_RESET_VALUE 0x06   /* for FADT.RESET_VALUE: full reset */

struct pm;

struct pm_config {
    struct clock clock;
    struct line sci;              /* level */
    void (*power_off)(void *ctx); /* the guest asked for S5. vCPU thread, no chip lock held */
    void (*reset)(void *ctx);     /* the guest wrote the reset register. vCPU thread, no chip lock held */
    void *ctx;
};

struct pm *pm_new(const struct pm_config *cfg, struct yado_error *err); /* reset already done */
void pm_free(struct pm *p);                                             /* NULL is fine */
void pm_reset(struct pm *p);

/* Any thread. Does nothing visible until the guest has enabled the power button event; the press stays
 * latched. */
void pm_press_power_button(struct pm *p);

extern const struct region_ops pm_ops; /* ctx: struct pm *. Port space, PM_REGION_LEN */
/* ctx: struct pm *. Byte port 0xcf9. It lies inside the PCI configuration address port 0xcf8 and is therefore
 * given to the PCI host (pci_host_config.reset_ops), which decodes byte accesses there to it. */
extern const struct region_ops pm_reset_ops;

#endif
