/* The socket device of a board, and where its connections come from: descriptors that its owner gives when
 * the guest asks, and listening sockets whose connections go to ports of the guest. */
#ifndef MACHINE_VSOCKS_H
#define MACHINE_VSOCKS_H

#include "chip/pci_host.h"
#include "host/clock.h"
#include "machine/board.h"

struct vsocks;

struct vsocks_config {
    const struct board_sockets *sockets; /* read by vsocks_new only, what it points to too */
    struct pci_host *pci;
    struct gmem *mem;
    struct loop *loop;
    struct clock clock;
    const struct log *log;
};

struct vsocks *vsocks_new(const struct vsocks_config *cfg, struct yado_error *err);
void vsocks_reset(struct vsocks *s); /* no vCPU runs */
void vsocks_free(struct vsocks *s);  /* no vCPU runs and the loop has ended; NULL is fine */

/* As vsock_answer and vsock_connect of virtio/vsock.h. Any thread. */
bool vsocks_answer(struct vsocks *s, uint64_t id, int fd);
bool vsocks_connect(struct vsocks *s, uint32_t guest_port, int fd, uint64_t tag, struct yado_error *err);

#endif
