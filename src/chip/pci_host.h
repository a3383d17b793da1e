/* PCI host bridge and bus 0. What a function on the bus sees is in bus/pci.h; this is the machine's side.
 * PCI Local Bus 3.0, sections 3.2.2.3.2 and 6; PCI Express Base 3.0, section 7.2.2 (ECAM). */
#ifndef CHIP_PCI_HOST_H
#define CHIP_PCI_HOST_H

#include "bus/pci.h"
#include "util/log.h"

#define PCI_HOST_PORT_BASE 0xcf8 /* configuration address and data ports: architectural */
#define PCI_HOST_PORT_LEN 8
#define PCI_HOST_ECAM_LEN MIB(1) /* bus 0: 32 devices of 8 functions of 4 KiB */
#define PCI_HOST_DEVICES 32      /* on bus 0, the bridge itself is number 0 */

struct pci_host_config {
    struct bus *mmio; /* where BARs are mapped */
    struct msi_sink
        msi; /* MSI-X messages. May be called with bridge locks held: must not call the bridge back */
    struct line intx[4]; /* pin p (0: INTA) of device d drives intx[(d + p) % 4], level, joined here */
    /* Byte accesses to port 0xcf9 go here at offset 0 (pm_reset_ops), or nowhere if NULL. */
    const struct region_ops *reset_ops;
    void *reset_ctx;
    const struct log *log; /* may be NULL */
};

struct pci_host *pci_host_new(const struct pci_host_config *cfg, struct yado_error *err);
/* Unmaps all BARs and frees the functions' handles. No vCPU runs. NULL is fine. */
void pci_host_free(struct pci_host *host);

/* Configuration space of every function as after power-on: BARs empty and unmapped, decoding off, MSI-X off.
 * The functions' own BAR contents are reset by their owners. No vCPU runs. */
void pci_host_reset(struct pci_host *host);

/* What firmware would do: gives each BAR an address (64-bit BARs in the 64-bit window if there is one, all
 * others in the 32-bit one), programs it, and turns memory decoding on. After pci_host_reset and before the
 * guest runs. Fails if a window is too small. The 64-bit window may have length 0. */
bool pci_host_assign_bars(struct pci_host *host, uint64_t mmio32_base, uint64_t mmio32_len,
                          uint64_t mmio64_base, uint64_t mmio64_len, struct yado_error *err);

/* Calls fn for each function in device order (the machine listing; ACPI needs none of it). */
void pci_host_each(struct pci_host *host, void (*fn)(void *ctx, unsigned device, const char *name),
                   void *ctx);

extern const struct region_ops pci_host_port_ops; /* ctx: struct pci_host *. Ports 0xcf8, PCI_HOST_PORT_LEN */
extern const struct region_ops pci_host_ecam_ops; /* ctx: struct pci_host *. Memory, PCI_HOST_ECAM_LEN */

#endif
