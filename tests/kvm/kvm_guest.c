#include "kvm_guest.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

static void on_io(void *ctx, unsigned vcpu, struct exit *x)
{
    struct guest *g = ctx;

    pthread_mutex_lock(&g->lock);
    if (!x->is_write)
        x->data = g->reads_count ? g->read_value++ : g->read_value;
    if (g->log_count < GUEST_LOG)
        g->log[g->log_count++] = *x;
    pthread_cond_broadcast(&g->told_more);
    pthread_mutex_unlock(&g->lock);
    if ((x->kind == EXIT_PORT && x->is_write && x->addr == GUEST_END) ||
        (g->reads_count && g->log_count % 3 == 0))
        g->ops->kick(g->ops->vcpu(g->vm, vcpu));
}

static void on_eoi(void *ctx, unsigned vector)
{
    struct guest *g = ctx;

    pthread_mutex_lock(&g->lock);
    if (g->eoi_count < array_size(g->eois))
        g->eois[g->eoi_count++] = vector;
    pthread_cond_broadcast(&g->told_more);
    pthread_mutex_unlock(&g->lock);
}

void guest_open(struct guest *g, unsigned cpus)
{
    struct engine_config cfg = { .vcpu_count = cpus, .host = { .io = on_io, .eoi = on_eoi, .ctx = g } };
    struct engine_memslot slot = { .len = GUEST_RAM };
    struct yado_error err = YADO_ERROR_INIT;

    *g = (struct guest){ .ops = &engine_kvm, .cpus = cpus };
    pthread_mutex_init(&g->lock, NULL);
    pthread_cond_init(&g->told_more, NULL);
    g->ram = mmap(NULL, GUEST_RAM, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    BUG_ON(g->ram == MAP_FAILED);
    slot.hva = g->ram;
    if (!g->ops->open(&g->vm, &cfg, &err) || !g->ops->map(g->vm, &slot, &err))
        bug_at(__FILE__, __LINE__, err.message);
}

void guest_close(struct guest *g)
{
    g->ops->close(g->vm);
    munmap(g->ram, GUEST_RAM);
    pthread_cond_destroy(&g->told_more);
    pthread_mutex_destroy(&g->lock);
}

void guest_put(struct guest *g, uint32_t gpa, const void *bytes, size_t len)
{
    BUG_ON(gpa + len > GUEST_RAM);
    memcpy(g->ram + gpa, bytes, len);
}

static void state_put(struct guest *g, const struct x86_state *s)
{
    struct yado_error err = YADO_ERROR_INIT;

    if (!g->ops->set_state(g->ops->vcpu(g->vm, 0), s, &err))
        bug_at(__FILE__, __LINE__, err.message);
}

void guest_real(struct guest *g, const uint8_t *code, size_t len)
{
    struct x86_state s;

    guest_put(g, GUEST_CODE, code, len);
    x86_state_reset(&s, 0);
    for (unsigned i = S_ES; i <= S_GS; i++)
        s.seg[i] = (struct x86_segment){ .limit = 0xffff, .attr = 0x93 };
    s.seg[S_CS] =
        (struct x86_segment){ .base = GUEST_CODE, .sel = GUEST_CODE >> 4, .limit = 0xffff, .attr = 0x9b };
    s.rip = 0;
    s.gpr[R_SP] = 0x7000;
    state_put(g, &s);
}

void guest_long(struct guest *g, const uint8_t *code, size_t len)
{
    const uint64_t rw = PTE_P | PTE_W | PTE_A | PTE_D;
    struct x86_state s;

    guest_put(g, GUEST_CODE, code, len);
    long_guest_init(&g->lg, g->ram, GUEST_RAM, 0);
    long_guest_map(&g->lg, 0, 0, GUEST_RAM, rw);
    long_guest_map(&g->lg, GUEST_MMIO, GUEST_MMIO, 0x2000, rw);
    long_guest_map(&g->lg, 0xfee00000, 0xfee00000, 0x1000, rw);
    x86_state_reset(&s, 0);
    long_guest_state(&g->lg, &s, 0, GUEST_CODE, GUEST_STACK);
    s.cr4 = CR4_PAE | CR4_PGE | CR4_OSFXSR | CR4_OSXMMEXCPT;
    s.xcr0 = 1;
    state_put(g, &s);
}

struct exit guest_run(struct guest *g)
{
    g->errors[0] = (struct yado_error)YADO_ERROR_INIT;
    g->ops->run(g->ops->vcpu(g->vm, 0), &g->exits[0], &g->errors[0]);
    return g->exits[0];
}

static void *thread_main(void *arg)
{
    struct guest_thread *t = arg;
    struct guest *g = t->guest;

    g->ops->run(g->ops->vcpu(g->vm, t->cpu), &g->exits[t->cpu], &g->errors[t->cpu]);
    return NULL;
}

void guest_start(struct guest *g, unsigned cpu)
{
    BUG_ON(cpu >= array_size(g->threads));
    g->errors[cpu] = (struct yado_error)YADO_ERROR_INIT;
    g->threads[cpu].guest = g;
    g->threads[cpu].cpu = cpu;
    BUG_ON(pthread_create(&g->threads[cpu].thread, NULL, thread_main, &g->threads[cpu]));
}

struct exit guest_join(struct guest *g, unsigned cpu)
{
    pthread_join(g->threads[cpu].thread, NULL);
    return g->exits[cpu];
}

static bool wait_for(struct guest *g, const unsigned *count, unsigned n)
{
    struct timespec limit;
    int rc = 0;

    clock_gettime(CLOCK_REALTIME, &limit);
    limit.tv_sec += 10;
    pthread_mutex_lock(&g->lock);
    while (*count < n && rc != ETIMEDOUT)
        rc = pthread_cond_timedwait(&g->told_more, &g->lock, &limit);
    pthread_mutex_unlock(&g->lock);
    for (unsigned i = 0; rc == ETIMEDOUT && i < g->cpus; i++) {
        if (g->errors[i].code)
            printf("# vCPU %u: %s\n", i, g->errors[i].message);
    }
    return rc != ETIMEDOUT;
}

bool guest_wait_log(struct guest *g, unsigned n)
{
    return wait_for(g, &g->log_count, n);
}

bool guest_wait_eoi(struct guest *g, unsigned n)
{
    return wait_for(g, &g->eoi_count, n);
}

uint64_t guest_told(struct guest *g, unsigned n)
{
    for (unsigned i = 0; i < g->log_count; i++) {
        if (g->log[i].kind == EXIT_PORT && g->log[i].is_write && g->log[i].addr == GUEST_TELL && n-- == 0)
            return g->log[i].data;
    }
    return ~0ull;
}

struct counter_wanted {
    const char *name;
    uint64_t value;
};

static void on_counter(void *ctx, const char *name, uint64_t value)
{
    struct counter_wanted *w = ctx;

    if (!strcmp(w->name, name))
        w->value = value;
}

uint64_t guest_counter(struct guest *g, const char *name)
{
    struct counter_wanted w = { name, ~0ull };

    g->ops->counters(g->vm, on_counter, &w);
    return w.value;
}
