/* virtio over PCI, modern devices only (virtio 1.2, section 4.1). */
#ifndef VIRTIO_TRANSPORT_PCI_H
#define VIRTIO_TRANSPORT_PCI_H

#include "bus/pci.h"
#include "mem/gmem.h"
#include "virtio/vdev.h"

struct virtio_pci;

/* Makes a PCI function for vd on the host bridge. Before the machine starts. `vd` and `mem` stay the caller's
 * and must outlive the result. NULL and err on failure. */
struct virtio_pci *virtio_pci_attach(struct pci_host *host, struct vdev *vd, struct gmem *mem,
                                     struct yado_error *err);

/* Machine reset: the virtio part (the host bridge resets configuration space and MSI-X). No vCPU runs. May
 * wait for requests in flight. */
void virtio_pci_reset(struct virtio_pci *vp);

/* When no vCPU runs any more, before the host bridge and the device are freed: requests still in flight would
 * interrupt through the function. NULL is fine. */
void virtio_pci_free(struct virtio_pci *vp);

struct pci_function *virtio_pci_function(struct virtio_pci *vp);

#endif
