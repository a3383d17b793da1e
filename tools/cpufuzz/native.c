/* The host CPU's side: a child process with the fixed layout that runs batches on request.
 *
 * The child only ever runs the driver and a signal handler. The handler may be entered with any FS base, so
 * it uses nothing of libc: it notes the fault in the save area and lets the interrupted context go on at the
 * driver's exit. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#include "fuzz.h"
#include "util/err.h"

#define SHARED_CODE align_up(FUZZ_HIGH_SIZE, FUZZ_PAGE)
#define SHARED_RO (SHARED_CODE + FUZZ_CODE_SIZE)
#define SHARED_DRIVER (SHARED_RO + FUZZ_PAGE)
#define SHARED_SIZE (SHARED_DRIVER + FUZZ_DRIVER_SIZE)
#define DRIVER_EXIT (FUZZ_DRIVER_VA + (uint64_t)(fuzz_driver_exit - fuzz_driver_start))
#define DRIVER_EXIT32 (FUZZ_DRIVER_VA + (uint64_t)(fuzz_driver_exit32 - fuzz_driver_start))
#define BATCH_TIMEOUT_MS 20000

struct fuzz_native {
    struct fuzz_world world;
    uint8_t *shared;
    int fd, request, reply; /* memfd; pipe ends of the parent */
    pid_t child;
};

__attribute__((no_stack_protector)) static void to_exit(greg_t *r)
{
    r[REG_EFL] &= ~(greg_t)0x40100; /* TF, AC: a POPF of the sequence may have set them */
    r[REG_CSGSFS] = (r[REG_CSGSFS] & ~(greg_t)0xffff) | 0x33;
    r[REG_RIP] = (greg_t)DRIVER_EXIT;
}

__attribute__((no_stack_protector)) static void on_fault(int sig, siginfo_t *info, void *context)
{
    greg_t *r = ((ucontext_t *)context)->uc_mcontext.gregs;
    struct fuzz_regs *save = (struct fuzz_regs *)FUZZ_DATA_PAGE_VA;
    uint64_t rip = (uint64_t)r[REG_RIP];

    (void)sig;
    (void)info;
    /* In the driver itself nothing can be trusted, but a single step may end at its exit. */
    if (rip - FUZZ_DRIVER_VA < FUZZ_DRIVER_SIZE &&
        (r[REG_TRAPNO] != 1 || (rip != DRIVER_EXIT && rip != DRIVER_EXIT32))) {
        r[REG_EFL] = 2;
        r[REG_RIP] = (greg_t)&_exit;
        r[REG_RDI] = 99;
        r[REG_RSP] = FUZZ_DATA_PAGE_VA + FUZZ_PAGE - 8;
        return;
    }
    /* A single step that a POPF at the very end has left behind traps in whatever comes after. */
    bool left_over = r[REG_TRAPNO] == 1 && rip - FUZZ_CODE_VA >= FUZZ_CODE_SIZE;
    save->vector = left_over ? FUZZ_SKIP : (uint64_t)r[REG_TRAPNO];
    save->error = (uint64_t)r[REG_ERR];
    save->cr2 = r[REG_TRAPNO] == 14 ? (uint64_t)r[REG_CR2] : 0;
    save->rip = rip;
    to_exit(r);
}

/* Every 10 ms of the child's own time. A sequence that two ticks find going on goes round in circles (a
 * return address that it stored somewhere can take it back): it is ended and not compared. */
__attribute__((no_stack_protector)) static void on_tick(int sig, siginfo_t *info, void *context)
{
    greg_t *r = ((ucontext_t *)context)->uc_mcontext.gregs;
    uint64_t *data = (uint64_t *)FUZZ_DATA_PAGE_VA, rip = (uint64_t)r[REG_RIP];

    (void)sig;
    (void)info;
    if (rip - FUZZ_CODE_VA >= FUZZ_CODE_SIZE)
        return;
    if (data[FUZZ_P_TICK / 8] != data[FUZZ_P_INDEX / 8] + 1) {
        data[FUZZ_P_TICK / 8] = data[FUZZ_P_INDEX / 8] + 1;
        return;
    }
    data[FUZZ_R_VECTOR / 8] = FUZZ_SKIP;
    to_exit(r);
}

static bool map_at(uint64_t va, uint64_t len, int prot, int fd, uint64_t off)
{
    int flags = MAP_FIXED_NOREPLACE | MAP_POPULATE | (fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED);

    return mmap((void *)va, len, prot, flags, fd, (off_t)off) == (void *)va;
}

_Noreturn static void child_main(int fd, int request, int reply)
{
    static const int signals[] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP };
    struct sigaction sa = { .sa_flags = SA_SIGINFO | SA_ONSTACK };
    stack_t ss = { .ss_size = 0x10000 };
    uint64_t *data = (uint64_t *)FUZZ_DATA_PAGE_VA;
    char c;

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (!map_at(FUZZ_HIGH_VA, SHARED_CODE, PROT_READ | PROT_WRITE, fd, 0) ||
        !map_at(FUZZ_CODE_VA, FUZZ_CODE_SIZE, PROT_READ | PROT_EXEC, fd, SHARED_CODE) ||
        !map_at(FUZZ_DATA_VA + FUZZ_DATA_SIZE, FUZZ_PAGE, PROT_READ, fd, SHARED_RO) ||
        !map_at(FUZZ_DRIVER_VA, FUZZ_DRIVER_SIZE, PROT_READ | PROT_EXEC, fd, SHARED_DRIVER) ||
        !map_at(FUZZ_DATA_VA, FUZZ_DATA_SIZE, PROT_READ | PROT_WRITE, -1, 0) ||
        !map_at(FUZZ_STACK_VA, FUZZ_STACK_SIZE, PROT_READ | PROT_WRITE, -1, 0))
        _exit(98);
    ss.ss_sp = malloc(ss.ss_size);
    sigaltstack(&ss, NULL);
    sa.sa_sigaction = on_fault;
    for (unsigned i = 0; i < array_size(signals); i++)
        sigaction(signals[i], &sa, NULL);
    sa.sa_sigaction = on_tick;
    sa.sa_flags |= SA_RESTART;
    sigaction(SIGVTALRM, &sa, NULL);
    setitimer(ITIMER_VIRTUAL, &(struct itimerval){ { 0, 10000 }, { 0, 10000 } }, NULL);
    while (read(request, &c, 1) == 1) {
        data[FUZZ_P_TICK / 8] = 0;
        data[FUZZ_P_DONE / 8] = (uint64_t)&fuzz_native_done;
        fuzz_native_enter(FUZZ_DRIVER_VA);
        if (write(reply, &c, 1) != 1)
            break;
    }
    _exit(0);
}

static bool start_child(struct fuzz_native *n, struct yado_error *err)
{
    int to[2], from[2];

    if (pipe(to) || pipe(from))
        return err_set_errno(err, YADO_ERR_HOST, errno, "pipe");
    n->child = fork();
    if (n->child == 0) {
        close(to[1]);
        close(from[0]);
        child_main(n->fd, to[0], from[1]);
    }
    close(to[0]);
    close(from[1]);
    n->request = to[1];
    n->reply = from[0];
    if (n->child < 0)
        return err_set_errno(err, YADO_ERR_HOST, errno, "fork");
    return true;
}

struct fuzz_native *fuzz_native_new(struct yado_error *err)
{
    struct fuzz_native *n = calloc(1, sizeof(*n));

    if (!n) {
        err_set(err, YADO_ERR_MEMORY, "out of memory");
        return NULL;
    }
    n->request = n->reply = -1;
    n->shared = MAP_FAILED;
    n->fd = memfd_create("cpufuzz", MFD_CLOEXEC);
    if (n->fd < 0 || ftruncate(n->fd, (off_t)SHARED_SIZE)) {
        err_set_errno(err, YADO_ERR_HOST, errno, "memfd");
        goto fail;
    }
    n->shared = mmap(NULL, SHARED_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, n->fd, 0);
    if (n->shared == MAP_FAILED) {
        err_set_errno(err, YADO_ERR_HOST, errno, "mmap");
        goto fail;
    }
    n->world = (struct fuzz_world){
        .driver_data = n->shared,
        .input = n->shared + (FUZZ_INPUT_VA - FUZZ_HIGH_VA),
        .output = n->shared + (FUZZ_OUTPUT_VA - FUZZ_HIGH_VA),
        .memory_init = n->shared + (FUZZ_INIT_VA - FUZZ_HIGH_VA),
        .read_only = n->shared + SHARED_RO,
        .code = n->shared + SHARED_CODE,
    };
    memcpy(n->shared + SHARED_DRIVER, fuzz_driver_start, (size_t)(fuzz_driver_end - fuzz_driver_start));
    if (!start_child(n, err))
        goto fail;
    return n;
fail:
    fuzz_native_free(n);
    return NULL;
}

void fuzz_native_free(struct fuzz_native *n)
{
    if (!n)
        return;
    if (n->request >= 0)
        close(n->request);
    if (n->reply >= 0)
        close(n->reply);
    if (n->child > 0) {
        kill(n->child, SIGKILL);
        waitpid(n->child, NULL, 0);
    }
    if (n->shared != MAP_FAILED)
        munmap(n->shared, SHARED_SIZE);
    if (n->fd >= 0)
        close(n->fd);
    free(n);
}

struct fuzz_world *fuzz_native_world(struct fuzz_native *n)
{
    return &n->world;
}

bool fuzz_native_run(struct fuzz_native *n, unsigned count, struct yado_error *err)
{
    struct pollfd p = { .fd = n->reply, .events = POLLIN };
    uint64_t *data = (uint64_t *)(void *)n->world.driver_data;
    char c = 0;
    int status;

    data[FUZZ_P_COUNT / 8] = count;
    if (write(n->request, &c, 1) != 1)
        return err_set_errno(err, YADO_ERR_HOST, errno, "native child");
    if (poll(&p, 1, BATCH_TIMEOUT_MS) <= 0)
        return err_set(err, YADO_ERR_HOST, "native child hangs in sequence %u of the batch",
                       (unsigned)data[FUZZ_P_INDEX / 8]);
    if (read(n->reply, &c, 1) == 1)
        return true;
    waitpid(n->child, &status, 0);
    n->child = 0;
    return err_set(err, YADO_ERR_HOST, "native child died with status %#x in sequence %u of the batch",
                   status, (unsigned)data[FUZZ_P_INDEX / 8]);
}
