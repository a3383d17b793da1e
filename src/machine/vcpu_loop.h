/* The host threads that run a machine's CPUs. Theory of operation in vcpu_loop.c. */
#ifndef MACHINE_VCPU_LOOP_H
#define MACHINE_VCPU_LOOP_H

#include "engine/engine.h"

struct vcpus;

struct vcpus_config {
    const struct engine_ops *engine;
    struct engine_vm *vm;
    unsigned count;
    /* A CPU shut down or its engine failed (exit kind SHUTDOWN or FAULT). All are asked to park right after.
     * vCPU thread, no lock held. */
    void (*ended)(void *ctx, unsigned index, const struct exit *exit, const struct yado_error *err);
    void *ctx;
};

struct vcpus *vcpus_new(const struct vcpus_config *cfg, struct yado_error *err);
/* Makes the threads; they are parked. On failure the rest is done by vcpus_free. */
bool vcpus_start(struct vcpus *v, struct yado_error *err);
void vcpus_free(struct vcpus *v); /* parks, ends and joins the threads; NULL is fine */

/* The machine's control thread. */
void vcpus_park(
    struct vcpus *v); /* returns when all are parked: no guest instruction runs until vcpus_unpark */
void vcpus_unpark(struct vcpus *v);

/* Begins parking and returns. Any thread, vCPU threads too. */
void vcpus_ask_park(struct vcpus *v);

#endif
