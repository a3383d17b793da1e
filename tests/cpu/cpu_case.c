/* Theory of operation: a case gets a fresh VM with CASE_RAM of memory, the blob of its group, page tables,
 * GDT and IDT as case.h says, and a thread per vCPU. vCPU 0 starts at the case in the mode that it wants, the
 * others wait for INIT and SIPI with their trampoline in place. It is over when a vCPU writes to DONE_PORT,
 * shuts down, the engine fails, or time is up; then every vCPU is kicked out.
 *
 * With YADO_TEST_DIRECT the translator runs ring 3 directly whenever it may (engine_options.direct). RAM is a
 * memory file for that, and ring 3 runs with interrupts on and with all of XCR0 that the engine offers, as
 * that is what such code needs. A case whose ring 3 never ran like that has failed, and one of those that are
 * listed if it did. "refused": the host is kept from letting anything run directly; "no_file": RAM is no memory
 * file; then all is as without, and told. */
#include "cpu_case.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "host/anonfile.h"
#include "limits.h"
#include "long_guest.h"

#define CPUS_MAX 4

enum outcome { OUT_NONE, OUT_DONE, OUT_SHUTDOWN, OUT_FAULT };

struct device {
    uint8_t memory[0x800];
    uint32_t last_width, reads, writes;
    uint32_t echo, sum, count, place;
};

struct run;
struct cpu_thread {
    struct run *run;
    struct engine_vcpu *cpu;
    pthread_t thread;
};

struct run {
    const struct engine_ops *engine;
    struct engine_vm *vm;
    uint8_t *ram;
    int ram_fd; /* -1: RAM is no file */
    bool direct;
    bool refused; /* the engine has said that the host lets nothing run directly */
    struct log log;
    struct long_guest lg;
    struct cpu_thread cpus[CPUS_MAX];
    unsigned cpu_count;
    struct device dev;

    pthread_mutex_t lock; /* guards what follows and dev; a leaf */
    pthread_cond_t over;
    enum outcome outcome;
    uint32_t value; /* OUT_DONE: what was written */
    uint64_t rip;   /* OUT_SHUTDOWN, OUT_FAULT */
    char message[YADO_ERROR_MESSAGE_MAX];
};

static void finish(struct run *r, enum outcome o, uint32_t value, uint64_t rip, const char *message)
{
    pthread_mutex_lock(&r->lock);
    if (r->outcome == OUT_NONE) {
        r->outcome = o;
        r->value = value;
        r->rip = rip;
        snprintf(r->message, sizeof(r->message), "%s", message);
    }
    pthread_cond_signal(&r->over);
    pthread_mutex_unlock(&r->lock);
    for (unsigned i = 0; i < r->cpu_count; i++)
        r->engine->kick(r->cpus[i].cpu);
}

static void device_port(struct device *d, struct exit *a)
{
    uint64_t mask = a->width == 4 ? 0xffffffff : (1ull << a->width * 8) - 1;

    if (a->addr == ECHO_PORT && a->is_write)
        d->echo = (uint32_t)a->data;
    else if (a->addr == ECHO_PORT)
        a->data = ~d->echo & mask;
    else if (a->addr == SUM_PORT && a->is_write)
        d->sum = d->sum * 31 + a->width * 256u + (uint32_t)a->data;
    else if (a->addr == SUM_PORT)
        a->data = d->sum;
    else if (a->addr == COUNT_PORT && !a->is_write)
        a->data = (++d->count | (a->width == 4 ? 4u << 24 : 0)) & mask;
    else if (!a->is_write)
        a->data = mask;
}

/* A device that works on RAM while vCPUs run. */
static void device_memory(struct run *r, const struct exit *a)
{
    uint64_t page = r->dev.place & ~0xfffull;

    if (a->addr == POKE_PLACE_PORT) {
        BUG_ON(a->data > CASE_RAM - 4);
        r->dev.place = (uint32_t)a->data;
    } else if (a->addr == POKE_PORT) {
        memcpy(r->ram + r->dev.place, &a->data, 4);
        r->engine->memory_written(r->vm, r->dev.place, 4);
    } else if (a->addr == DISCARD_PORT) {
        BUG_ON(madvise(r->ram + page, 0x1000, MADV_REMOVE));
        r->engine->memory_written(r->vm, page, 0x1000);
    } else if (a->addr == KICK_PORT) {
        for (unsigned i = 0; i < r->cpu_count; i++)
            r->engine->kick(r->cpus[i].cpu);
    }
}

static void device_mmio(struct device *d, struct exit *a)
{
    uint64_t off = a->addr - DEVICE_GPA;
    uint32_t v = off == DEV_LAST_WIDTH ? d->last_width : off == DEV_READS ? d->reads : d->writes;

    if (off >= 0x1000) {
        a->data = ~0ull;
        return;
    }
    if (off >= sizeof(d->memory)) { /* registers do not count themselves */
        a->data = v;
        return;
    }
    if (off + a->width > sizeof(d->memory))
        return;
    d->last_width = a->width;
    if (a->is_write) {
        d->writes++;
        memcpy(d->memory + off, &a->data, a->width);
    } else {
        d->reads++;
        a->data = 0;
        memcpy(&a->data, d->memory + off, a->width);
    }
}

static void on_io(void *ctx, unsigned vcpu, struct exit *a)
{
    struct run *r = ctx;

    (void)vcpu;
    if (a->kind == EXIT_PORT && a->addr == DONE_PORT && a->is_write) {
        finish(r, OUT_DONE, (uint32_t)a->data, 0, "");
        return;
    }
    pthread_mutex_lock(&r->lock);
    if (a->kind == EXIT_PORT)
        device_port(&r->dev, a);
    else
        device_mmio(&r->dev, a);
    pthread_mutex_unlock(&r->lock);
    if (a->kind == EXIT_PORT && a->is_write)
        device_memory(r, a);
}

static void on_eoi(void *ctx, unsigned vector)
{
    (void)ctx;
    (void)vector;
}

static void *cpu_main(void *arg)
{
    struct cpu_thread *t = arg;
    struct run *r = t->run;
    bool over = false;

    while (!over) {
        struct yado_error err = YADO_ERROR_INIT;
        struct exit e = { 0 };

        r->engine->run(t->cpu, &e, &err);
        if (e.kind == EXIT_SHUTDOWN)
            finish(r, OUT_SHUTDOWN, 0, e.rip, "");
        else if (e.kind != EXIT_KICKED)
            finish(r, OUT_FAULT, 0, e.rip, err.message);
        pthread_mutex_lock(&r->lock);
        over = r->outcome != OUT_NONE;
        pthread_mutex_unlock(&r->lock);
    }
    return NULL;
}

static void put64(struct run *r, uint64_t gpa, uint64_t v)
{
    memcpy(r->ram + gpa, &v, 8);
}

/* All that a guest's XCR0 can have. */
static uint64_t xcr0_full(void)
{
    uint32_t lo, hi;

    __asm__("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    return lo & 0xe7;
}

static void build_memory(struct run *r, const struct cpu_group *group)
{
    const uint64_t rw = PTE_P | PTE_W | PTE_A | PTE_D, user = rw | PTE_U;
    struct long_guest *g = &r->lg;
    size_t size = (size_t)(group->end - group->start);

    BUG_ON(size > CASE_BASE_SIZE);
    long_guest_init(g, r->ram, CASE_RAM, 0);
    long_guest_map(g, 0, 0, CASE_RAM, rw);
    long_guest_map(g, USER_BASE, CASE_BASE, CASE_BASE_SIZE, user);
    long_guest_map(g, USER_DATA, CASE_DATA, CASE_DATA_SIZE, user);
    long_guest_map(g, DEVICE, DEVICE_GPA, 0x1000, rw);
    long_guest_map(g, 0xfee00000, 0xfee00000, 0x1000, rw);
    long_guest_map(g, PAGES, 0, 0x1000, 0); /* makes the table, nothing present */
    memcpy(r->ram + CASE_BASE, group->start, size);
    memcpy(r->ram + CASE_REAL_BASE, group->start, size);
    /* prelude.S is at the start of groups with 64-bit cases */
    for (unsigned v = 0; v < 32; v++)
        long_guest_gate(g, v, CASE_BASE + v * 16, v == 3 || v == 4 ? 3 : 0, 0);
    long_guest_gate(g, 0x30, CASE_BASE + 0x200, 3, 0);
    for (unsigned v = 0; v < 16; v++)
        long_guest_gate(g, 0x40 + v, CASE_BASE + 0x210 + v * 16, 0, 0);
    put64(r, CASE_PARAM + P_PAGES_PT, (uint64_t)((uint8_t *)long_guest_pte(g, PAGES) - r->ram));
    put64(r, CASE_PARAM + P_TSC_KHZ, r->engine->tsc_khz(r->vm));
    if (r->direct) {
        put64(r, CASE_PARAM + P_USER_FLAGS, FL_IF);
        put64(r, CASE_PARAM + P_USER_XCR0, xcr0_full());
    }
}

static struct x86_segment flat(uint16_t sel, uint16_t attr)
{
    return (struct x86_segment){ .sel = sel, .limit = 0xffffffff, .attr = attr };
}

static void prot_state(struct x86_state *s, uint64_t entry)
{
    s->cr0 = CR0_PE | CR0_ET | CR0_NE | CR0_MP;
    s->cr4 = CR4_OSFXSR | CR4_OSXMMEXCPT;
    s->gdt = (struct x86_table){ LG_GDT, 0xfff };
    s->idt = (struct x86_table){ 0, 0xffff };
    s->seg[S_CS] = flat(LG_CODE32, 0xc09b);
    for (unsigned i = S_SS; i <= S_GS; i++)
        s->seg[i] = flat(LG_DATA, 0xc093);
    s->seg[S_ES] = flat(LG_DATA, 0xc093);
    s->rip = CASE_BASE + entry;
    s->gpr[R_SP] = CASE_STACK;
    s->rflags = FL_1;
    s->mp_state = X86_MP_RUNNING;
}

static void real_state(struct x86_state *s, uint64_t entry)
{
    for (unsigned i = S_ES; i <= S_GS; i++)
        s->seg[i] = (struct x86_segment){ .limit = 0xffff, .attr = 0x93 };
    s->seg[S_CS].sel = CASE_REAL_BASE >> 4;
    s->seg[S_CS].base = CASE_REAL_BASE;
    s->seg[S_CS].attr = 0x9b;
    s->rip = entry;
    s->gpr[R_SP] = 0x7000;
    s->idt = (struct x86_table){ 0, 0x3ff };
    s->rflags = FL_1;
    s->mp_state = X86_MP_RUNNING;
}

static bool load_states(struct run *r, const struct cpu_case *c, struct yado_error *err)
{
    struct x86_state *s = aligned_alloc(64, sizeof(*s));
    bool ok = s != NULL;

    for (unsigned i = 0; ok && i < r->cpu_count; i++) {
        ok = r->engine->get_state(r->cpus[i].cpu, s, err);
        if (i > 0)
            s->mp_state = X86_MP_WAIT_SIPI;
        else if (c->mode == MODE_LONG)
            long_guest_state(&r->lg, s, 0, CASE_BASE + c->entry, CASE_STACK);
        else if (c->mode == MODE_PROT)
            prot_state(s, c->entry);
        else
            real_state(s, c->entry);
        s->tsc_any = true; /* as machines begin */
        ok = ok && r->engine->set_state(r->cpus[i].cpu, s, err);
    }
    free(s);
    return ok;
}

static bool is_direct(const char *how)
{
    const char *direct = getenv("YADO_TEST_DIRECT");

    return direct && !strcmp(direct, how);
}

static void on_log(void *ctx, enum log_category cat, const char *line)
{
    struct run *r = ctx;

    if (cat != LOG_CPU || !strstr(line, "does not run directly any more"))
        return;
    r->refused = true;
    if (!is_direct("refused") && !(is_direct("no_file") && strstr(line, "no memory file")))
        finish(r, OUT_FAULT, 0, 0, line);
}

static bool open_vm(struct run *r, const struct cpu_group *group, const struct cpu_case *c,
                    struct yado_error *err)
{
    struct engine_config cfg = { .vcpu_count = c->cpus,
                                 .log = &r->log,
                                 .host = { .io = on_io, .eoi = on_eoi, .ctx = r },
                                 .options = { .fast_blocks = getenv("YADO_TEST_FAST") != NULL,
                                              .direct =
                                                  r->direct ? ENGINE_DIRECT_ALWAYS : ENGINE_DIRECT_OFF } };
    struct engine_memslot slot = { .gpa = 0, .len = CASE_RAM };

    r->log = (struct log){ .sink = on_log, .ctx = r, .enabled = 1u << LOG_CPU };
    slot.in_file = r->direct && !is_direct("no_file");
    r->ram_fd = slot.in_file ? anonfile_open("ram", CASE_RAM, true) : -1;
    r->ram = mmap(NULL, CASE_RAM, PROT_READ | PROT_WRITE,
                  slot.in_file ? MAP_SHARED : MAP_SHARED | MAP_ANONYMOUS, r->ram_fd, 0);
    slot.hva = r->ram;
    slot.fd = r->ram_fd;
    if (r->ram == MAP_FAILED || !r->engine->open(&r->vm, &cfg, err) || !r->engine->map(r->vm, &slot, err))
        return false;
    for (unsigned i = 0; i < c->cpus; i++)
        r->cpus[i] = (struct cpu_thread){ .run = r, .cpu = r->engine->vcpu(r->vm, i) };
    r->cpu_count = c->cpus;
    build_memory(r, group);
    return load_states(r, c, err);
}

/* Starts the vCPUs, waits for the end or the time limit, stops them. False: time is up. */
static bool run_threads(struct run *r, unsigned seconds)
{
    struct timespec limit;
    int rc = 0;

    clock_gettime(CLOCK_REALTIME, &limit);
    limit.tv_sec += seconds;
    for (unsigned i = 0; i < r->cpu_count; i++)
        BUG_ON(pthread_create(&r->cpus[i].thread, NULL, cpu_main, &r->cpus[i]));
    pthread_mutex_lock(&r->lock);
    while (r->outcome == OUT_NONE && rc != ETIMEDOUT)
        rc = pthread_cond_timedwait(&r->over, &r->lock, &limit);
    pthread_mutex_unlock(&r->lock);
    if (rc == ETIMEDOUT)
        finish(r, OUT_FAULT, 0, 0, "time is up");
    for (unsigned i = 0; i < r->cpu_count; i++)
        pthread_join(r->cpus[i].thread, NULL);
    return rc != ETIMEDOUT;
}

static void print_where(struct run *r, char *why, size_t size)
{
    struct x86_state *s = aligned_alloc(64, sizeof(*s));
    size_t used = strlen(why);

    for (unsigned i = 0; s && i < r->cpu_count && used < size; i++) {
        if (!r->engine->get_state(r->cpus[i].cpu, s, NULL))
            break;
        snprintf(why + used, size - used, "; vCPU %u at %04x:%" PRIx64, i, s->seg[S_CS].sel, s->rip);
        used = strlen(why);
    }
    free(s);
}

static bool judge(struct run *r, const struct cpu_case *c, char *why, size_t size)
{
    if (r->outcome == OUT_SHUTDOWN && c->exit == EXIT_SHUTDOWN)
        return true;
    if (r->outcome == OUT_DONE && c->exit == EXIT_KICKED && !r->value)
        return true;
    if (r->outcome == OUT_DONE && r->value >> 24)
        snprintf(why, size, "unexpected exception %u at ...%06x (blob at %x)", (r->value >> 24) - 1,
                 r->value & 0xffffff, CASE_BASE);
    else if (r->outcome == OUT_DONE)
        snprintf(why, size, "check on line %u failed", r->value);
    else if (r->outcome == OUT_SHUTDOWN)
        snprintf(why, size, "triple fault at %#" PRIx64, r->rip);
    else
        snprintf(why, size, "%s (rip %#" PRIx64 ")", r->message, r->rip);
    print_where(r, why, size);
    return false;
}

struct direct_counts {
    uint64_t runs, unfit;
};

static void note_direct_counts(void *ctx, const char *name, uint64_t value)
{
    struct direct_counts *n = ctx;

    if (!strcmp(name, "direct_runs"))
        n->runs = value;
    else if (!strcmp(name, "direct_unfit"))
        n->unfit = value;
}

/* Ring 3 ran, and so directly, where that was asked for; in cases that are about ring 3 all of it, and in
 * those that are listed nothing. */
static bool ran_as_wanted(struct run *r, const struct cpu_case *c, char *why, size_t size)
{
    struct direct_counts n = { 0 };

    if (!r->direct || !r->ram[CASE_PARAM + P_USER_ENTERED])
        return true;
    r->engine->counters(r->vm, note_direct_counts, &n);
    if (r->refused && !n.runs)
        return true;
    if (cpu_case_indirect(c->name) ? !n.runs : n.runs && (!n.unfit || strncmp(c->name, "user_", 5)))
        return true;
    snprintf(why, size,
             "ring 3 did not run directly, or did (%" PRIu64 " runs, %" PRIu64 " times unfit code)", n.runs,
             n.unfit);
    return false;
}

bool cpu_case_run(const struct engine_ops *engine, const struct cpu_group *group, const struct cpu_case *c,
                  unsigned seconds, char *why, size_t why_size)
{
    struct run *r = calloc(1, sizeof(*r));
    struct yado_error err = YADO_ERROR_INIT;
    bool ok = false;

    BUG_ON(!r || c->cpus > CPUS_MAX);
    r->engine = engine;
    r->ram_fd = -1;
    r->direct = getenv("YADO_TEST_DIRECT") != NULL;
    pthread_mutex_init(&r->lock, NULL);
    pthread_cond_init(&r->over, NULL);
    if (!open_vm(r, group, c, &err)) {
        snprintf(why, why_size, "%s", err.message);
    } else {
        run_threads(r, seconds);
        ok = judge(r, c, why, why_size) && ran_as_wanted(r, c, why, why_size);
    }
    engine->close(r->vm);
    munmap(r->ram, CASE_RAM);
    if (r->ram_fd >= 0)
        close(r->ram_fd);
    pthread_cond_destroy(&r->over);
    pthread_mutex_destroy(&r->lock);
    free(r);
    return ok;
}
