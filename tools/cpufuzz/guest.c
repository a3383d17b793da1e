/* The engine's side: a 64-bit guest whose ring 3 has the layout that the native child has. */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "../../tests/cpu/long_guest.h"
#include "engine/engine.h"
#include "fuzz.h"
#include "util/err.h"

/* Guest physical places. */
#define RAM_SIZE MIB(8)
#define KERNEL_AT 0x7000ull
#define DRIVER_AT 0x8000ull
#define STACK_AT 0x9000ull
#define DATA_AT 0xa000ull /* the read-only page follows */
#define CODE_AT MIB(1)
#define HIGH_AT MIB(2)

#define VECTOR_DONE 0x30
#define BATCH_TIMEOUT_S 20

_Static_assert(HIGH_AT + FUZZ_HIGH_SIZE <= RAM_SIZE, "RAM_SIZE");

struct fuzz_guest {
    struct fuzz_world world;
    uint8_t *ram;
    struct engine_vm *vm;
    struct engine_vcpu *cpu;
    uint32_t report; /* what the guest wrote to the port: 1 batch done, 2 exception in ring 0 */
    bool loaded;
    /* watch dog */
    pthread_t watcher;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool watching, quit, timed_out;
};

static void on_io(void *ctx, unsigned vcpu, struct exit *access)
{
    struct fuzz_guest *g = ctx;

    (void)vcpu;
    if (!access->is_write) {
        access->data = ~0ull;
        return;
    }
    if (access->kind == EXIT_PORT && access->addr == 0xf4) {
        g->report = (uint32_t)access->data;
        engine_translator.kick(g->cpu);
    }
}

static void on_eoi(void *ctx, unsigned vector)
{
    (void)ctx;
    (void)vector;
}

/* Kicks a vCPU that does not come back. */
static void *watch(void *arg)
{
    struct fuzz_guest *g = arg;

    pthread_mutex_lock(&g->lock);
    while (!g->quit) {
        struct timespec t;

        if (!g->watching) {
            pthread_cond_wait(&g->wake, &g->lock);
            continue;
        }
        clock_gettime(CLOCK_REALTIME, &t);
        t.tv_sec += BATCH_TIMEOUT_S;
        if (pthread_cond_timedwait(&g->wake, &g->lock, &t) == ETIMEDOUT && g->watching) {
            g->timed_out = true;
            engine_translator.kick(g->cpu);
        }
    }
    pthread_mutex_unlock(&g->lock);
    return NULL;
}

static void set_watching(struct fuzz_guest *g, bool on)
{
    pthread_mutex_lock(&g->lock);
    g->watching = on;
    pthread_cond_signal(&g->wake);
    pthread_mutex_unlock(&g->lock);
}

static void build_memory(struct fuzz_guest *g, bool fast)
{
    const uint64_t user = PTE_P | PTE_U | PTE_A, rw = user | PTE_W | PTE_D;
    struct long_guest lg;
    size_t kernel_size = (size_t)(fuzz_kernel_end - fuzz_kernel_start);

    long_guest_init(&lg, g->ram, RAM_SIZE, FUZZ_KERNEL_VA);
    long_guest_map(&lg, FUZZ_KERNEL_VA, 0, CODE_AT, PTE_P | PTE_W | PTE_A | PTE_D);
    long_guest_map(&lg, FUZZ_DRIVER_VA, DRIVER_AT, FUZZ_DRIVER_SIZE, user);
    long_guest_map(&lg, FUZZ_CODE_VA, CODE_AT, FUZZ_CODE_SIZE, user);
    /* What crosses a page takes another way when the next one follows in memory too. */
    long_guest_map(&lg, FUZZ_DATA_VA, DATA_AT + (fast ? 0 : FUZZ_PAGE), FUZZ_PAGE, rw | PTE_NX);
    long_guest_map(&lg, FUZZ_DATA_VA + FUZZ_PAGE, DATA_AT + (fast ? FUZZ_PAGE : 0), FUZZ_PAGE, rw | PTE_NX);
    long_guest_map(&lg, FUZZ_DATA_VA + FUZZ_DATA_SIZE, DATA_AT + FUZZ_DATA_SIZE, FUZZ_PAGE, user | PTE_NX);
    long_guest_map(&lg, FUZZ_STACK_VA, STACK_AT, FUZZ_STACK_SIZE, rw | PTE_NX);
    long_guest_map(&lg, FUZZ_HIGH_VA, HIGH_AT, align_up(FUZZ_HIGH_SIZE, FUZZ_PAGE), rw | PTE_NX);
    memcpy(g->ram + KERNEL_AT, fuzz_kernel_start, kernel_size);
    memcpy(g->ram + DRIVER_AT, fuzz_driver_start, (size_t)(fuzz_driver_end - fuzz_driver_start));
    for (unsigned v = 0; v < 32; v++)
        long_guest_gate(&lg, v, FUZZ_KERNEL_VA + KERNEL_AT + v * 16, v == 3 || v == 4 ? 3 : 0, 0);
    long_guest_gate(&lg, VECTOR_DONE,
                    FUZZ_KERNEL_VA + KERNEL_AT + (uint64_t)(fuzz_kernel_done - fuzz_kernel_start), 3, 0);
    g->world = (struct fuzz_world){
        .driver_data = g->ram + HIGH_AT,
        .input = g->ram + HIGH_AT + (FUZZ_INPUT_VA - FUZZ_HIGH_VA),
        .output = g->ram + HIGH_AT + (FUZZ_OUTPUT_VA - FUZZ_HIGH_VA),
        .memory_init = g->ram + HIGH_AT + (FUZZ_INIT_VA - FUZZ_HIGH_VA),
        .read_only = g->ram + DATA_AT + FUZZ_DATA_SIZE,
        .code = g->ram + CODE_AT,
    };
}

static bool load_state(struct fuzz_guest *g, uint64_t state, struct yado_error *err)
{
    struct long_guest lg = { .ram = g->ram, .ram_size = RAM_SIZE, .kva = FUZZ_KERNEL_VA };
    struct x86_state *s = aligned_alloc(64, sizeof(*s));
    bool ok;

    if (!s)
        return err_set(err, YADO_ERR_MEMORY, "out of memory");
    ok = engine_translator.get_state(g->cpu, s, err);
    long_guest_state(&lg, s, 3, FUZZ_DRIVER_VA, FUZZ_DATA_PAGE_VA + FUZZ_PAGE);
    s->xcr0 = state;
    s->rflags |= FL_IF; /* as in a process; nothing here sends interrupts */
    ok = ok && engine_translator.set_state(g->cpu, s, err);
    free(s);
    return ok;
}

struct fuzz_guest *fuzz_guest_new(bool fast, uint64_t state, struct yado_error *err)
{
    struct fuzz_guest *g = calloc(1, sizeof(*g));
    struct engine_config cfg = { .vcpu_count = 1,
                                 .host = { .io = on_io, .eoi = on_eoi, .ctx = g },
                                 .options = { .fast_blocks = fast } };
    struct engine_memslot slot = { .gpa = 0, .len = RAM_SIZE };

    if (!g) {
        err_set(err, YADO_ERR_MEMORY, "out of memory");
        return NULL;
    }
    pthread_mutex_init(&g->lock, NULL);
    pthread_cond_init(&g->wake, NULL);
    g->ram = mmap(NULL, RAM_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (g->ram == MAP_FAILED) {
        err_set_errno(err, YADO_ERR_MEMORY, errno, "guest memory");
        free(g);
        return NULL;
    }
    build_memory(g, fast);
    slot.hva = g->ram;
    if (!engine_translator.available(err) || !engine_translator.open(&g->vm, &cfg, err) ||
        !engine_translator.map(g->vm, &slot, err))
        goto fail;
    g->cpu = engine_translator.vcpu(g->vm, 0);
    if (pthread_create(&g->watcher, NULL, watch, g)) {
        err_set(err, YADO_ERR_HOST, "no thread");
        goto fail;
    }
    g->loaded = true;
    if (!load_state(g, state, err))
        goto fail;
    return g;
fail:
    fuzz_guest_free(g);
    return NULL;
}

void fuzz_guest_free(struct fuzz_guest *g)
{
    if (!g)
        return;
    if (g->loaded) {
        pthread_mutex_lock(&g->lock);
        g->quit = true;
        pthread_cond_signal(&g->wake);
        pthread_mutex_unlock(&g->lock);
        pthread_join(g->watcher, NULL);
    }
    engine_translator.close(g->vm);
    munmap(g->ram, RAM_SIZE);
    pthread_cond_destroy(&g->wake);
    pthread_mutex_destroy(&g->lock);
    free(g);
}

struct fuzz_world *fuzz_guest_world(struct fuzz_guest *g)
{
    return &g->world;
}

void fuzz_guest_code_written(struct fuzz_guest *g, uint64_t off, uint64_t len)
{
    engine_translator.memory_written(g->vm, CODE_AT + off, len);
}

bool fuzz_guest_run(struct fuzz_guest *g, unsigned count, struct yado_error *err)
{
    uint64_t *data = (uint64_t *)(void *)g->world.driver_data;
    struct exit e = { 0 };

    data[FUZZ_P_COUNT / 8] = count;
    data[FUZZ_P_DONE / 8] = FUZZ_DRIVER_VA + (uint64_t)(fuzz_driver_guest_done - fuzz_driver_start);
    g->report = 0;
    g->timed_out = false;
    set_watching(g, true);
    do {
        engine_translator.run(g->cpu, &e, err);
    } while (e.kind == EXIT_KICKED && !g->report && !g->timed_out);
    set_watching(g, false);
    if (e.kind == EXIT_KICKED && g->report == 1)
        return true;
    if (g->timed_out)
        return err_set(err, YADO_ERR_ENGINE, "engine does not come back from sequence %u of the batch",
                       (unsigned)data[FUZZ_P_INDEX / 8]);
    if (g->report)
        return err_set(err, YADO_ERR_ENGINE, "exception %u of the guest's kernel in sequence %u of the batch",
                       (unsigned)data[FUZZ_R_VECTOR / 8], (unsigned)data[FUZZ_P_INDEX / 8]);
    return err_set(err, YADO_ERR_ENGINE, "engine left with exit %d at %#llx in sequence %u of the batch",
                   (int)e.kind, (unsigned long long)e.rip, (unsigned)data[FUZZ_P_INDEX / 8]);
}
