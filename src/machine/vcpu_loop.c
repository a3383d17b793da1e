/* One host thread per virtual CPU.
 *
 * Theory of operation. A thread is in one of two places: inside engine->run(), where the guest runs, halts,
 * and reaches devices through engine_host.io; or parked, waiting for `go`. It starts parked. Whoever wants
 * the machine to itself (control thread: pause, reset, stop) or has seen something that concerns all of it (a
 * device on some vCPU thread: power off, reset) sets `park` and kicks every CPU; each leaves run() with
 * EXIT_KICKED, finds `park` set and counts itself as parked. A kick before run() counts too (engine.h), so
 * there is no window between the look at `park` and the entry.
 *
 * Kicks have no other meaning here: interrupts and halts are the engine's own business, and a stray one costs
 * a turn of the loop. A CPU that shut down or failed sets `park` itself, so that the others stop close to
 * that moment; it is run again only after the control thread gave it a new state. */
#include "machine/vcpu_loop.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "host/thread.h"

struct vcpu {
    struct vcpus *owner;
    unsigned index;
    struct engine_vcpu *cpu;
    pthread_t thread;
    bool running;
};

struct vcpus {
    struct vcpus_config cfg;
    /* Taken on vCPU threads without any device's lock, or with one (a device that asks for parking).
     * engine->kick is called under it and takes no lock of ours. */
    pthread_mutex_t lock;
    pthread_cond_t go;     /* park fell, or quit */
    pthread_cond_t parked; /* parked_count rose */
    unsigned parked_count, started;
    bool park, quit;
    struct vcpu cpus[];
};

static void park_locked(struct vcpus *v)
{
    v->park = true;
    for (unsigned i = 0; i < v->started; i++)
        v->cfg.engine->kick(v->cpus[i].cpu);
}

void vcpus_ask_park(struct vcpus *v)
{
    pthread_mutex_lock(&v->lock);
    park_locked(v);
    pthread_mutex_unlock(&v->lock);
}

void vcpus_park(struct vcpus *v)
{
    pthread_mutex_lock(&v->lock);
    park_locked(v);
    while (v->parked_count < v->started)
        pthread_cond_wait(&v->parked, &v->lock);
    pthread_mutex_unlock(&v->lock);
}

void vcpus_unpark(struct vcpus *v)
{
    pthread_mutex_lock(&v->lock);
    v->park = false;
    pthread_cond_broadcast(&v->go);
    pthread_mutex_unlock(&v->lock);
}

/* Waits until the guest may run. False: the thread shall end. */
static bool wait_for_go(struct vcpus *v)
{
    bool quit;

    pthread_mutex_lock(&v->lock);
    if (v->park || v->quit) {
        v->parked_count++;
        pthread_cond_broadcast(&v->parked);
        while (v->park && !v->quit)
            pthread_cond_wait(&v->go, &v->lock);
        v->parked_count--;
    }
    quit = v->quit;
    pthread_mutex_unlock(&v->lock);
    return !quit;
}

static void *vcpu_main(void *arg)
{
    struct vcpu *c = arg;
    struct vcpus *v = c->owner;

    while (wait_for_go(v)) {
        struct yado_error err = YADO_ERROR_INIT;
        struct exit exit = { .kind = EXIT_KICKED };

        v->cfg.engine->run(c->cpu, &exit, &err);
        if (exit.kind == EXIT_KICKED)
            continue;
        v->cfg.ended(v->cfg.ctx, c->index, &exit, &err);
        vcpus_ask_park(v);
    }
    return NULL;
}

struct vcpus *vcpus_new(const struct vcpus_config *cfg, struct yado_error *err)
{
    struct vcpus *v = calloc(1, sizeof(*v) + cfg->count * sizeof(v->cpus[0]));

    if (!v) {
        err_set(err, YADO_ERR_HOST, "out of memory");
        return NULL;
    }
    v->cfg = *cfg;
    v->park = true;
    pthread_mutex_init(&v->lock, NULL);
    pthread_cond_init(&v->go, NULL);
    pthread_cond_init(&v->parked, NULL);
    for (unsigned i = 0; i < cfg->count; i++) {
        v->cpus[i].owner = v;
        v->cpus[i].index = i;
        v->cpus[i].cpu = cfg->engine->vcpu(cfg->vm, i);
    }
    return v;
}

bool vcpus_start(struct vcpus *v, struct yado_error *err)
{
    for (unsigned i = 0; i < v->cfg.count; i++) {
        struct vcpu *c = &v->cpus[i];
        char name[24];

        snprintf(name, sizeof(name), "yado-cpu%u", i);
        c->running = thread_start(&c->thread, name, vcpu_main, c, err);
        if (!c->running)
            return false;
        pthread_mutex_lock(&v->lock);
        v->started++;
        pthread_mutex_unlock(&v->lock);
    }
    return true;
}

void vcpus_free(struct vcpus *v)
{
    if (!v)
        return;
    pthread_mutex_lock(&v->lock);
    v->quit = true;
    park_locked(v);
    pthread_cond_broadcast(&v->go);
    pthread_mutex_unlock(&v->lock);
    for (unsigned i = 0; i < v->cfg.count; i++) {
        if (v->cpus[i].running)
            pthread_join(v->cpus[i].thread, NULL);
    }
    pthread_cond_destroy(&v->parked);
    pthread_cond_destroy(&v->go);
    pthread_mutex_destroy(&v->lock);
    free(v);
}
