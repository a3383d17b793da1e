/* One device of a board alone on a PCI bus, and a driver for it that knows where its registers are
 * (src/virtio/transport_pci.c). */
#ifndef TESTS_MACHINE_PCI_BENCH_H
#define TESTS_MACHINE_PCI_BENCH_H

#include "../virtio/driver.h"
#include "bus/region.h"
#include "chip/pci_host.h"
#include "host/loop.h"

struct pci_bench {
    struct drv d;
    struct bus *mmio;
    struct pci_host *host;
    struct loop *loop;
    uint64_t bar;
};

void pci_bench_open(struct pci_bench *b); /* the bus; the device is made next */
void pci_bench_start(
    struct pci_bench *b); /* the device is there: its registers get their place, the loop runs */
void pci_bench_stop(struct pci_bench *b); /* the loop; the device is freed next */
void pci_bench_close(struct pci_bench *b);

void pci_bench_reset(struct pci_bench *b); /* the driver's */
/* The driver accepts VERSION_1 and these features, and makes `queues` queues of 16. */
void pci_bench_drive(struct pci_bench *b, uint32_t features, unsigned queues);
void pci_bench_kick(struct pci_bench *b, unsigned queue);

#endif
