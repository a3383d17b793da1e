/* The network devices of a board. */
#ifndef MACHINE_NETS_H
#define MACHINE_NETS_H

#include "chip/pci_host.h"
#include "machine/board.h"

struct nets;

struct nets_config {
    const struct board_net *nets;
    unsigned count;
    unsigned vcpu_count;
    struct pci_host *pci;
    struct gmem *mem;
    struct loop *loop;
    const struct log *log;
    void (*lost)(void *ctx, unsigned index, const struct yado_error *why); /* loop thread */
    void *ctx;
};

/* Makes devices and attachments and plugs them in. NULL and err on failure; the message begins with
 * "network[index]". */
struct nets *nets_new(const struct nets_config *cfg, struct yado_error *err);
void nets_reset(struct nets *n); /* no vCPU runs */
void nets_free(struct nets *n);  /* no vCPU runs and the loop has ended; NULL is fine */

/* While the loop runs, from any thread but the loop's; they return when it is done. */
bool nets_forward(struct nets *n, unsigned index, const struct net_forward *f, bool add,
                  struct yado_error *err);
/* cfg NULL: unplugs. Without an attachment after a failure. */
bool nets_attach(struct nets *n, unsigned index, const struct net_config *cfg, struct yado_error *err);

#endif
