/* What the files of the PCI host share: pci_host.c (configuration space, BARs) and pci_msix.c. */
#ifndef CHIP_PCI_PRIV_H
#define CHIP_PCI_PRIV_H

#include <pthread.h>

#include "chip/pci_host.h"

#define PCI_CONFIG_LEN 256

/* Type 0 header (PCI Local Bus 3.0, 6.1). */
#define PCI_VENDOR 0x00
#define PCI_DEVICE 0x02
#define PCI_COMMAND 0x04
#define PCI_STATUS 0x06
#define PCI_REVISION 0x08
#define PCI_CLASS 0x09
#define PCI_CACHE_LINE 0x0c
#define PCI_BAR0 0x10
#define PCI_SUBSYSTEM_VENDOR 0x2c
#define PCI_SUBSYSTEM 0x2e
#define PCI_CAP_POINTER 0x34
#define PCI_INTERRUPT_LINE 0x3c
#define PCI_INTERRUPT_PIN 0x3d
#define PCI_FIRST_CAP 0x40

#define PCI_COMMAND_MEMORY 0x0002u
#define PCI_COMMAND_MASTER 0x0004u
#define PCI_COMMAND_INTX_OFF 0x0400u
#define PCI_STATUS_INTX 0x0008u
#define PCI_STATUS_CAPS 0x0010u

#define PCI_BAR_64BIT 0x4u

#define PCI_CAP_VENDOR 0x09
#define PCI_CAP_MSIX 0x11

#define MSIX_CAP_LEN 12
#define MSIX_CONTROL 2 /* offsets in the capability */
#define MSIX_TABLE 4
#define MSIX_PBA 8
#define MSIX_CONTROL_MASK_ALL 0x4000u
#define MSIX_CONTROL_ENABLE 0x8000u
#define MSIX_VECTORS_MAX 2048

#define MSIX_ENTRY_LEN 16
#define MSIX_ENTRY_MASKED 1u

struct msix_entry {
    uint64_t addr;
    uint32_t data;
    uint32_t control;
};

struct msix {
    pthread_mutex_t lock; /* a leaf: messages are sent after it is released */
    unsigned vectors;     /* 0: the function has no MSI-X */
    unsigned cap;         /* offset of the capability */
    uint64_t pba_off;     /* in the BAR */
    bool enabled, mask_all, master;
    struct msix_entry *table;
    struct msi_source *sources; /* per vector */
    uint32_t *pending;          /* bit per vector */
};

struct pci_bar_state {
    uint64_t len; /* 0: absent */
    bool is_64bit;
    struct region region; /* ops and ctx are those of the function, or of the MSI-X table */
};

struct pci_function {
    struct pci_host *host;
    unsigned device;
    struct pci_function_desc desc;
    uint8_t config[PCI_CONFIG_LEN];
    uint8_t writable[PCI_CONFIG_LEN]; /* bits that the guest may change */
    uint8_t power_on[PCI_CONFIG_LEN];
    unsigned caps_end, last_cap;
    struct pci_bar_state bars[PCI_BAR_COUNT];
    bool intx;       /* what the function asserts */
    bool intx_drive; /* what reaches the line */
    struct msix msix;
};

struct pci_host {
    /* Guards configuration space of all functions, BAR placement and INTx. Order: the lock of a device, then
     * pci_host.lock, then msix.lock, the bus, and what interrupt lines take. Functions' callbacks run without
     * it. */
    pthread_mutex_t lock;
    struct pci_host_config cfg;
    uint32_t address;                                 /* latch of port 0xcf8 */
    struct pci_function *functions[PCI_HOST_DEVICES]; /* fixed once the machine runs */
    unsigned intx_count[4];                           /* functions that assert each line */
};

/* Adds a capability with `len` bytes after id and next. Returns its offset, 0 if there is no room. The host
 * is locked or not yet running. */
unsigned pci_function_add_cap(struct pci_function *fn, uint8_t id, const uint8_t *body,
                              const uint8_t *writable, unsigned len);

/* Allocates the table, adds the capability and the BAR. */
bool pci_msix_init(struct pci_function *fn, struct yado_error *err);
void pci_msix_free(struct pci_function *fn);
/* Table as after power-on: all vectors masked, nothing pending. */
void pci_msix_reset(struct pci_function *fn);
/* The control word or the bus master bit may have changed. Host lock held; sends what was held back. */
void pci_msix_config_changed(struct pci_function *fn);
bool pci_msix_enabled_locked(const struct pci_function *fn); /* host lock held */

#endif
