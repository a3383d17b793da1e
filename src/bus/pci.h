/* What a PCI function is to its bus. The host bridge (chip/pci_host.c) implements configuration space with
 * its standard header, BAR sizing and mapping, the capability list and MSI-X; a function gives identity, BAR
 * contents and a few callbacks. PCI Local Bus 3.0 section 6; PCI Express Base 3.0 section 7. */
#ifndef BUS_PCI_H
#define BUS_PCI_H

#include "bus/line.h"
#include "bus/region.h"

#define PCI_BAR_COUNT 6

struct pci_ident {
    uint16_t vendor, device, subsystem_vendor, subsystem;
    uint32_t class_code; /* 24 bits: class, subclass, interface */
    uint8_t revision;
};

struct pci_bar {
    uint64_t len;  /* 0: absent; power of two, at least 16 */
    bool is_64bit; /* memory BARs only; takes the next index too */
    const struct region_ops *ops;
    void *ctx;
};

struct pci_function; /* opaque handle from the host bridge */

struct pci_function_ops {
    /* Bytes of configuration space that belong to a capability of the function were written. Optional. */
    void (*config_written)(void *ctx, unsigned off, unsigned width);
    /* Called before a configuration read of a function capability so that it can refresh bytes. Optional. */
    void (*config_reading)(void *ctx, unsigned off, unsigned width);
};

struct pci_function_desc {
    const char *name;
    struct pci_ident ident;
    struct pci_bar bars[PCI_BAR_COUNT];
    unsigned msix_vectors; /* 0: none. The table and PBA are put by the bridge in BAR `msix_bar`, which the
                              function leaves absent (len 0). */
    unsigned msix_bar;
    const struct pci_function_ops *ops;
    void *ctx;
};

struct pci_host;

/* Adds a function at the next free device number of bus 0 (function 0). Before the machine starts. */
struct pci_function *pci_host_add(struct pci_host *host, const struct pci_function_desc *desc,
                                  struct yado_error *err);

/* Appends a vendor capability (id 0x09): id, next, length byte, then `len` bytes of `body`. Returns its
 * offset in configuration space (that of the id byte), 0 if there is no room. `writable` is a mask of the
 * same length as body (1 bits: guest may write), or NULL for read-only. */
unsigned pci_function_add_vendor_cap(struct pci_function *fn, const void *body, unsigned len,
                                     const void *writable);

/* Raw bytes of configuration space, for the function's own capabilities. Any thread, config lock taken
 * inside. */
uint32_t pci_function_config_read(struct pci_function *fn, unsigned off, unsigned width);
void pci_function_config_write(struct pci_function *fn, unsigned off, unsigned width, uint32_t value);

/* Accesses the function's own BAR as a driver would (virtio's PCI configuration access capability). */
uint64_t pci_function_bar_read(struct pci_function *fn, unsigned bar, uint64_t off, unsigned width);
void pci_function_bar_write(struct pci_function *fn, unsigned bar, uint64_t off, unsigned width,
                            uint64_t value);

/* The doorbells of a BAR: region_set_doorbells, wherever the guest puts the BAR. Any thread. */
void pci_function_doorbells(struct pci_function *fn, unsigned bar, struct doorbell *bells, unsigned count);

/* Raises MSI-X vector v. Pending if masked; dropped if MSI-X is off. Any thread. */
void pci_function_msix_raise(struct pci_function *fn, unsigned v);
bool pci_function_msix_enabled(struct pci_function *fn);
/* Legacy INTx level for drivers that do not use MSI-X. Any thread. */
void pci_function_intx(struct pci_function *fn, bool level);
bool pci_function_bus_master(struct pci_function *fn);

#endif
