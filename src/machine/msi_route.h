/* The short way for interrupt messages of devices: a descriptor that the engine turns into a message. */
#ifndef MACHINE_MSI_ROUTE_H
#define MACHINE_MSI_ROUTE_H

#include "bus/line.h"
#include "engine/engine.h"

/* Sends one, by the descriptor of `src` if it has sent this message often enough to have been given one. Any
 * thread. */
void msi_route_send(const struct engine_ops *ops, struct engine_vm *vm, struct msi_source *src, uint64_t addr,
                    uint32_t data);
/* Nobody sends from src any more. */
void msi_route_forget(const struct engine_ops *ops, struct engine_vm *vm, struct msi_source *src);

#endif
