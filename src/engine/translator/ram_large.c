/* Large host pages under guest RAM that is in a file.
 *
 * Theory of operation. Private memory comes in large pages, one page fault for 2 MiB. Few hosts do that for
 * shared memory: there the first touch of each 4 KiB costs a page fault, several times what zeroing it takes,
 * and RAM in small pages is one more level of the host's page walks. But they make a large page of a stretch
 * when asked to (anonmem_make_large). So the first vCPU that fills a TLB entry for a stretch of 2 MiB asks
 * for it: soon enough, as hardly anything of it is in use yet, and what devices have put there is copied. It
 * takes memory as private RAM does.
 *
 * `met` says which stretches have been asked for. A large page that was given back whole (free page
 * reporting) is asked for again when it is touched again. One of which a part was given back stays as it is:
 * the balloon wants the host to keep that part.
 *
 * A stretch that stays small costs time only, so nothing is told of it. */
#include "engine/translator/ram_large.h"

#include <stdlib.h>

void ram_large_open(struct tvm_slot *s)
{
    const size_t whole = (size_t)(s->len / ANONMEM_LARGE);

    s->met = calloc(whole + 1, sizeof(*s->met));
    if (s->met)
        atomic_store(&s->met[whole], 1); /* a rest is too short */
}

void ram_large_close(struct tvm_slot *s)
{
    free(s->met);
    s->met = NULL;
}

void ram_large_make(struct tcpu *c, struct tvm_slot *s, uint64_t stretch)
{
    if (!atomic_exchange(&s->met[stretch], 1) &&
        anonmem_make_large(s->hva + stretch * ANONMEM_LARGE, ANONMEM_LARGE))
        c->counters[TC_RAM_LARGE]++;
}

void ram_large_forget(struct tvm *vm, uint64_t gpa, uint64_t len)
{
    struct tvm_slot *s = tvm_slot_of(vm, gpa);

    if (!s || !s->met)
        return;
    const uint64_t off = gpa - s->gpa, end = off + min_u64(len, s->len - off);
    for (uint64_t at = align_up(off, ANONMEM_LARGE); at + ANONMEM_LARGE <= end; at += ANONMEM_LARGE)
        atomic_store(&s->met[at / ANONMEM_LARGE], 0);
}
