/* Large host pages under guest RAM that is in a file.
 *
 * Theory of operation. Private memory comes in large pages, one page fault for 2 MiB. Few hosts do that for
 * shared memory: there the first touch of each 4 KiB costs a page fault, several times what zeroing it takes,
 * and RAM in small pages is one more level of the host's page walks. But they make a large page of a stretch
 * when asked to (anonmem_make_large). So the first vCPU that fills a TLB entry for a stretch of 2 MiB asks
 * for it: soon enough, as hardly anything of it is in use yet, and what devices have put there is copied. It
 * takes memory as private RAM does.
 *
 * That takes 0.1 ms where the host has the memory at hand, and milliseconds where it is a virtual machine
 * that has to get it first. Guests' kernels take their RAM in order of addresses for the most part, so behind
 * stretches that have been met next to each other half as many more are made ahead, up to a limit, by a
 * thread of its own (large_worker.h). So many may have been taken for nothing where the guest goes on
 * elsewhere.
 *
 * `met` says how it stands with each stretch. A large page that was given back whole (free page reporting) is
 * asked for again when it is touched again. One of which a part was given back stays as it is: the balloon
 * wants the host to keep that part.
 *
 * A stretch that stays small costs time only, so nothing is told of it. */
#include "engine/translator/ram_large.h"

#include <stdlib.h>

#include "engine/translator/large_worker.h"

#define AHEAD_MOST 4 /* stretches */
#define RUN_MOST (2 * AHEAD_MOST)

void ram_large_open(struct tvm_slot *s)
{
    const size_t whole = (size_t)(s->len / ANONMEM_LARGE);

    s->met = calloc(whole + 1, sizeof(*s->met));
    if (s->met)
        atomic_store(&s->met[whole], RAM_MET); /* a rest is too short */
}

void ram_large_close(struct tvm_slot *s)
{
    free(s->met);
    s->met = NULL;
}

static bool make(const struct tvm_slot *s, uint64_t stretch)
{
    return anonmem_make_large(s->hva + stretch * ANONMEM_LARGE, ANONMEM_LARGE);
}

static void make_ahead(void *arg, size_t gpa)
{
    struct tvm *vm = arg;
    const struct tvm_slot *s = tvm_slot_of(vm, gpa);

    if (make(s, (gpa - s->gpa) / ANONMEM_LARGE))
        atomic_fetch_add(&vm->large_ahead, 1);
}

static void look_ahead(struct tvm *vm, struct tvm_slot *s, uint64_t stretch)
{
    unsigned run = 0;
    uint8_t state;

    while (run < RUN_MOST && run < stretch && atomic_load(&s->met[stretch - run - 1]) == RAM_MET)
        run++;
    for (uint64_t i = stretch + 1; i <= stretch + run / 2; i++) {
        state = RAM_NOT_MET;
        if (atomic_compare_exchange_strong(&s->met[i], &state, RAM_AHEAD)) {
            if (large_worker_ask(vm->large_worker, make_ahead, vm, (size_t)(s->gpa + i * ANONMEM_LARGE)))
                continue;
            atomic_store(&s->met[i], RAM_NOT_MET);
            return;
        }
        if (state == RAM_MET)
            return;
    }
}

void ram_large_make(struct tcpu *c, struct tvm_slot *s, uint64_t stretch)
{
    const uint8_t was = atomic_exchange(&s->met[stretch], RAM_MET);

    if (was == RAM_MET)
        return;
    look_ahead(c->vm, s, stretch); /* first: at the same time is best */
    if (was == RAM_AHEAD && !large_worker_take_back(c->vm->large_worker, make_ahead, c->vm,
                                                    (size_t)(s->gpa + stretch * ANONMEM_LARGE)))
        return;
    if (make(s, stretch))
        c->counters[TC_RAM_LARGE]++;
}

void ram_large_forget(struct tvm *vm, uint64_t gpa, uint64_t len)
{
    struct tvm_slot *s = tvm_slot_of(vm, gpa);

    if (!s || !s->met)
        return;
    const uint64_t off = gpa - s->gpa, end = off + min_u64(len, s->len - off);
    for (uint64_t at = align_up(off, ANONMEM_LARGE); at + ANONMEM_LARGE <= end; at += ANONMEM_LARGE)
        atomic_store(&s->met[at / ANONMEM_LARGE], RAM_NOT_MET);
}
