/* Hostile guests: whatever bytes a guest runs, in any mode and ring, this process lives and nothing of it
 * changes.
 *
 * Each trial fills a guest's code with bytes that attack_gen.c makes from the trial's seed and runs them for
 * some milliseconds, in 64-bit, compatibility, 16-bit, protected or real mode, as a program or as a kernel.
 * Exceptions lead one byte further (driver.S), so that a trial tries thousands of instructions. Afterwards:
 * memory of this process whose address the guest had in its registers is as it was; so are the host's x87,
 * SSE and flag states; and the engine has not given up. All this happens in a child, so that its death is
 * seen too. */
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../../tests/cpu/long_guest.h"
#include "attack.h"
#include "engine/engine.h"
#include "util/err.h"

#define RAM_SIZE MIB(4)
#define KERNEL_AT 0x80000ull
#define DATA_AT 0x90000ull
#define STACK_AT 0x98000ull
#define CODE_AT MIB(1)
#define TRIAL_MS 3
#define HANG_S 10
#define STILL_S 120
#define GUARD MIB(1)

/* Shared with the parent. */
struct report {
    uint64_t trial_seed, trials, exceptions, shutdowns, stopped, timed_out;
    char what[700]; /* what went wrong, empty: nothing */
};

struct attack {
    struct report *report;
    uint8_t *ram;
    struct engine_vm *vm;
    struct engine_vcpu *cpu;
    struct attack_gen gen;
    bool stopped; /* by the guest's own port write */
    uint64_t mode;
    _Atomic bool running, quit;
    pthread_t watcher;
};

static const char *const mode_names[] = { "64-bit ring 3",   "64-bit ring 3", "64-bit ring 0",
                                          "64-bit ring 0",   "32-bit ring 3", "32-bit ring 0",
                                          "16-bit ring 0",   "16-bit ring 3", "real",
                                          "protected 32-bit" };

static void on_io(void *ctx, unsigned vcpu, struct exit *access)
{
    struct attack *a = ctx;

    (void)vcpu;
    if (!access->is_write) {
        access->data = ~0ull;
    } else if (access->kind == EXIT_PORT && access->addr == 0xf4) {
        a->stopped = true;
        engine_translator.kick(a->cpu);
    }
}

static void on_eoi(void *ctx, unsigned vector)
{
    (void)ctx;
    (void)vector;
}

/* Ends trials that do not end. */
static void *watch(void *arg)
{
    struct attack *a = arg;
    struct timespec t = { 0, TRIAL_MS * 1000000 };

    while (!a->quit) {
        nanosleep(&t, NULL);
        if (a->running)
            engine_translator.kick(a->cpu);
    }
    return NULL;
}

static void build_memory(struct attack *a)
{
    const uint64_t user = PTE_P | PTE_U | PTE_A | PTE_W | PTE_D;
    struct long_guest lg;

    memset(a->ram, 0, CODE_AT);
    long_guest_init(&lg, a->ram, RAM_SIZE, FUZZ_KERNEL_VA);
    long_guest_map(&lg, FUZZ_KERNEL_VA, 0, CODE_AT, PTE_P | PTE_W | PTE_A | PTE_D);
    long_guest_map(&lg, FUZZ_CODE_VA, CODE_AT, FUZZ_CODE_SIZE, user);
    long_guest_map(&lg, FUZZ_DATA_VA, DATA_AT, FUZZ_DATA_SIZE, user);
    long_guest_map(&lg, FUZZ_STACK_VA, STACK_AT, FUZZ_STACK_SIZE, user);
    memcpy(a->ram + KERNEL_AT, fuzz_attack_start, (size_t)(fuzz_attack_end - fuzz_attack_start));
    for (unsigned v = 0; v < 256; v++)
        long_guest_gate(&lg, v, FUZZ_KERNEL_VA + KERNEL_AT + v * 16, 3, 1);
    attack_gen_code(&a->gen, a->ram + CODE_AT, FUZZ_CODE_SIZE);
    attack_gen_code(&a->gen, a->ram + DATA_AT, FUZZ_DATA_SIZE);
}

/* Code segment selectors by mode; see mode_names. */
static void set_mode(struct attack *a, const struct long_guest *lg, struct x86_state *s, uint64_t at)
{
    static const uint16_t cs[8] = { LG_USER_CODE64, LG_USER_CODE64, LG_CODE64, LG_CODE64,
                                    LG_USER_CODE32, LG_CODE32,      LG_CODE16, LG_USER_CODE16 };

    if (a->mode == 8) { /* as after reset, somewhere in the first MiB */
        attack_gen_code(&a->gen, a->ram, 0xa0000);
        s->seg[S_CS].sel = (uint16_t)(at & 0x7000);
        s->seg[S_CS].base = (at & 0x7000) << 4;
        s->rip = at & 0xffff;
        return;
    }
    long_guest_state(lg, s, a->mode < 8 && (cs[a->mode] & 3) ? 3 : 0, FUZZ_CODE_VA + at,
                     FUZZ_STACK_VA + FUZZ_STACK_SIZE / 2);
    if (a->mode == 9) { /* no paging, no long mode */
        s->cr0 &= ~(uint64_t)CR0_PG;
        s->efer = 0;
        s->gdt.base = LG_GDT;
        s->rip = CODE_AT + at;
        s->gpr[R_SP] = STACK_AT + 0x800;
        s->seg[S_CS] = long_guest_segment(lg, LG_CODE32);
        s->seg[S_TR].base = LG_TSS_AT;
    } else {
        s->seg[S_CS] = long_guest_segment(lg, cs[a->mode]);
        if (s->seg[S_CS].limit == 0xffff)
            s->seg[S_CS].base = FUZZ_CODE_VA, s->rip = at & 0xffff;
    }
    for (unsigned i = S_ES; i <= S_GS; i++) {
        if (i != S_CS && a->mode >= 4)
            s->seg[i] = long_guest_segment(lg, a->mode < 8 && (cs[a->mode] & 3) ? LG_USER_DATA : LG_DATA);
    }
}

static bool load_state(struct attack *a, struct yado_error *err)
{
    struct long_guest lg = { .ram = a->ram, .ram_size = RAM_SIZE, .kva = FUZZ_KERNEL_VA };
    struct x86_state *s = aligned_alloc(64, sizeof(*s));
    bool ok;

    if (!s)
        return err_set(err, YADO_ERR_MEMORY, "out of memory");
    x86_state_reset(s, 0);
    set_mode(a, &lg, s, fuzz_mix(a->gen.random) % (FUZZ_CODE_SIZE / 2));
    for (unsigned i = 0; i < 16; i++) {
        uint64_t v = attack_gen_register(&a->gen);

        if (i != R_SP)
            s->gpr[i] = v;
    }
    s->seg[S_FS].base = attack_gen_register(&a->gen) & 0x7fffffffffff;
    s->seg[S_GS].base = attack_gen_register(&a->gen) & 0x7fffffffffff;
    s->rflags = FL_1 | (fuzz_mix(a->gen.random + 1) & FL_DF);
    ok = engine_translator.set_state(a->cpu, s, err);
    free(s);
    return ok;
}

/* What a guest must leave as it is. */
static void look_at_host(struct attack *a)
{
    const uint64_t *canary = (const uint64_t *)ATTACK_CANARY;
    struct report *r = a->report;
    uint64_t flags;
    uint32_t mxcsr;
    uint16_t fcw;

    __asm__ volatile("pushfq\n\tpop %0" : "=r"(flags));
    __asm__ volatile("stmxcsr %0" : "=m"(mxcsr));
    __asm__ volatile("fnstcw %0" : "=m"(fcw));
    if (flags & 0x44500) /* AC, NT, DF, TF */
        snprintf(r->what, sizeof(r->what), "host flags are %#" PRIx64, flags);
    if ((mxcsr & ~0x3fu) != 0x1f80 || fcw != 0x37f)
        snprintf(r->what, sizeof(r->what), "host MXCSR is %#x, x87 control word %#x", mxcsr, fcw);
    for (unsigned i = 0; i < ATTACK_CANARY_SIZE / 8; i++) {
        if (canary[i] != fuzz_mix(i))
            snprintf(r->what, sizeof(r->what), "memory of the host has changed at offset %#x", i * 8);
    }
}

static void run_trial(struct attack *a, uint64_t seed)
{
    struct report *r = a->report;
    struct yado_error err = YADO_ERROR_INIT;
    struct exit e = { 0 };
    uint32_t exceptions;

    r->trial_seed = seed;
    a->gen.random = fuzz_mix(seed);
    a->mode = seed % array_size(mode_names);
    a->stopped = false;
    build_memory(a);
    if (!load_state(a, &err)) {
        snprintf(r->what, sizeof(r->what), "state: %s", err.message);
        return;
    }
    engine_translator.memory_written(a->vm, 0, RAM_SIZE);
    a->running = true;
    engine_translator.run(a->cpu, &e, &err);
    a->running = false;
    memcpy(&exceptions, a->ram + KERNEL_AT + (fuzz_attack_end - fuzz_attack_start) - 4, 4);
    r->trials++;
    r->exceptions += exceptions <= FUZZ_ATTACK_FAULTS ? exceptions : 0;
    r->shutdowns += e.kind == EXIT_SHUTDOWN;
    r->stopped += e.kind == EXIT_KICKED && a->stopped;
    r->timed_out += e.kind == EXIT_KICKED && !a->stopped;
    look_at_host(a);
    if (e.kind == EXIT_FAULT && e.rip - FUZZ_CODE_VA < FUZZ_CODE_SIZE - 16) {
        printf("bytes there:");
        for (unsigned i = 0; i < 16; i++)
            printf(" %02x", a->ram[CODE_AT + (e.rip - FUZZ_CODE_VA) + i]);
        printf("\n");
        fflush(stdout);
    }
    if (e.kind == EXIT_FAULT)
        snprintf(r->what, sizeof(r->what), "the engine gave up at %#" PRIx64 ": %s", e.rip, err.message);
}

static bool prepare(struct attack *a, struct yado_error *err)
{
    struct engine_config cfg = { .vcpu_count = 1, .host = { .io = on_io, .eoi = on_eoi, .ctx = a } };
    struct engine_memslot slot = { .gpa = 0, .len = RAM_SIZE };
    uint8_t *area = mmap(NULL, RAM_SIZE + 2 * GUARD, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    uint64_t *canary = mmap((void *)ATTACK_CANARY, ATTACK_CANARY_SIZE, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);

    if (area == MAP_FAILED || canary == MAP_FAILED)
        return err_set_errno(err, YADO_ERR_MEMORY, errno, "guest memory");
    a->ram =
        mmap(area + GUARD, RAM_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    if (a->ram == MAP_FAILED)
        return err_set_errno(err, YADO_ERR_MEMORY, errno, "guest memory");
    for (unsigned i = 0; i < ATTACK_CANARY_SIZE / 8; i++)
        canary[i] = fuzz_mix(i);
    slot.hva = a->ram;
    if (!engine_translator.available(err) || !engine_translator.open(&a->vm, &cfg, err) ||
        !engine_translator.map(a->vm, &slot, err))
        return false;
    a->cpu = engine_translator.vcpu(a->vm, 0);
    return !pthread_create(&a->watcher, NULL, watch, a) || err_set(err, YADO_ERR_HOST, "no thread");
}

_Noreturn static void child_main(struct report *report, uint64_t seed, uint64_t count, const uint64_t *replay)
{
    struct attack *a = calloc(1, sizeof(*a));
    struct yado_error err = YADO_ERROR_INIT;

    if (!a)
        _exit(1);
    a->report = report;
    if (!prepare(a, &err)) {
        snprintf(report->what, sizeof(report->what), "%s", err.message);
        _exit(1);
    }
    for (uint64_t i = 0; i < count && !report->what[0]; i++)
        run_trial(a, replay ? *replay : fuzz_mix(fuzz_mix(seed) + i));
    a->quit = true;
    pthread_join(a->watcher, NULL);
    engine_translator.close(a->vm);
    _exit(report->what[0] != 0);
}

/* What the child has used of a CPU. */
static double cpu_seconds(pid_t child)
{
    struct timespec t = { 0, 0 };
    clockid_t clock;

    if (clock_getcpuclockid(child, &clock) == 0)
        clock_gettime(clock, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* The child's end, by itself or because it has not come on for HANG_S seconds of its own on a CPU, so that a
 * busy host does not pass for a hang; or, if it waits for something, for STILL_S seconds. */
static int wait_for(pid_t child, const struct report *r, bool *hung)
{
    const volatile uint64_t *trials = &r->trials;
    uint64_t last = *trials;
    struct timespec t = { 0, 10000000 };
    double used = 0;
    int status = 0;

    for (unsigned still = 0; waitpid(child, &status, WNOHANG) == 0; still++) {
        nanosleep(&t, NULL);
        if (*trials != last) {
            still = 0;
            used = cpu_seconds(child);
        }
        last = *trials;
        if (still > STILL_S * 100 || cpu_seconds(child) - used > HANG_S) {
            *hung = true;
            kill(child, SIGKILL);
        }
    }
    return status;
}

bool fuzz_attack(uint64_t seed, uint64_t count, const uint64_t *replay, struct yado_error *err)
{
    struct report *r = mmap(NULL, sizeof(*r), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pid_t child;
    bool hung = false;
    int status;

    if (r == MAP_FAILED)
        return err_set_errno(err, YADO_ERR_MEMORY, errno, "shared memory");
    fflush(stdout);
    child = fork();
    if (child == 0)
        child_main(r, seed, replay ? 1 : count, replay);
    if (child < 0)
        return err_set_errno(err, YADO_ERR_HOST, errno, "child");
    status = wait_for(child, r, &hung);
    printf("%" PRIu64 " guests: %" PRIu64 " exceptions; %" PRIu64 " ended by their number, %" PRIu64
           " by the clock, %" PRIu64 " by a triple fault\n",
           r->trials, r->exceptions, r->stopped, r->timed_out, r->shutdowns);
    if (hung)
        printf("THE ENGINE HANGS");
    else if (WIFSIGNALED(status))
        printf("THE PROCESS DIED of signal %d", WTERMSIG(status));
    else if (status)
        printf("FAILED: %s", r->what);
    if (status)
        printf("; repeat with --attack 1 --replay %" PRIu64 " (%s)\n", r->trial_seed,
               mode_names[r->trial_seed % array_size(mode_names)]);
    munmap(r, sizeof(*r));
    return status == 0;
}
