/* Host signals of vCPU threads.
 *
 * Theory of operation. Translated code can make the host CPU fault in ways that belong to the guest: divide
 * errors, x87 and SIMD exceptions, misaligned SSE operands, opcodes that this host lacks. The handler, if the
 * fault is inside this thread's code cache, notes it in struct tcpu and lets the thread go on at the `signal`
 * stub, which leaves to the dispatcher. Every other fault goes to the handler that was there before. The
 * local APIC's timer of each vCPU is a POSIX timer whose signal is sent to the vCPU's thread; its handler
 * only sets a request bit.
 *
 * A handler is process-wide and needs to find the vCPU of its thread, so this file has the library's only
 * mutable file-scope state: the previous handlers with a user count, and a thread-local pointer. Functions
 * called from the handlers: cpu_request (atomics and a futex call). */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <asm/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#include "engine/translator/vcpu.h"
#include "util/err.h"

static const int fault_signals[] = { SIGSEGV, SIGFPE, SIGILL, SIGBUS };

static struct {
    pthread_mutex_t lock;
    unsigned users;
    struct sigaction old_fault[array_size(fault_signals)];
    struct sigaction old_timer;
} installed = { .lock = PTHREAD_MUTEX_INITIALIZER };

static __thread struct tcpu *thread_cpu __attribute__((tls_model("initial-exec")));

#define SAMPLE 1                 /* what the sampling timer says */
#define SAMPLE_PERIOD_NS 1000000 /* of the thread's CPU time; the kernel makes its tick of it */

static int timer_signal(void)
{
    return SIGRTMAX - 3;
}

static void chain(const struct sigaction *old, int sig, siginfo_t *info, void *uc)
{
    if (old->sa_flags & SA_SIGINFO) {
        old->sa_sigaction(sig, info, uc);
    } else if (old->sa_handler == SIG_DFL) {
        signal(sig, SIG_DFL); /* the instruction faults again and the default action is taken */
    } else if (old->sa_handler != SIG_IGN) {
        old->sa_handler(sig);
    }
}

static void on_fault(int sig, siginfo_t *info, void *ctx)
{
    struct tcpu *c = thread_cpu;
    ucontext_t *uc = ctx;
    uint64_t rip = (uint64_t)uc->uc_mcontext.gregs[REG_RIP];
    if (c && cache_contains(c->vm->cache, rip)) {
        c->fault_rip = rip;
        c->fault_eflags = (uint64_t)uc->uc_mcontext.gregs[REG_EFL];
        c->fault_address = (uint64_t)uc->uc_mcontext.gregs[REG_CR2];
        c->fault_trap = (uint32_t)uc->uc_mcontext.gregs[REG_TRAPNO];
        c->fault_error = (uint32_t)uc->uc_mcontext.gregs[REG_ERR];
        uc->uc_mcontext.gregs[REG_RIP] = (greg_t)(uintptr_t)c->vm->cache->stubs.signal;
        return;
    }
    for (unsigned i = 0; i < array_size(fault_signals); i++) {
        if (fault_signals[i] == sig)
            chain(&installed.old_fault[i], sig, info, ctx);
    }
}

/* Where translated code is now. A check that blocks share was called by the block at its return address. */
static void note_sample(struct tcpu *c, const ucontext_t *uc)
{
    struct code_cache *cc = c->vm->cache;
    uint64_t rip = (uint64_t)uc->uc_mcontext.gregs[REG_RIP];
    uint32_t n = atomic_load(&c->sample_count);
    c->counters[TC_SAMPLES]++;
    if (!cache_contains(cc, rip) || n == SAMPLES_MAX)
        return;
    uint64_t off = rip - (uint64_t)(uintptr_t)cc->mem.rx;
    const uint8_t *at = cache_rx(cc, (uint32_t)off);
    if (at >= cc->stubs.check[0][0][0][0] && at < cc->stubs.checks_end)
        off = *(const uint64_t *)(uintptr_t)uc->uc_mcontext.gregs[REG_RSP] - (uint64_t)(uintptr_t)cc->mem.rx;
    if (off < cc->stub_len || off >= cc->mem.size)
        return;
    c->samples[n] = (uint32_t)off;
    atomic_store(&c->sample_count, n + 1);
}

static void on_timer(int sig, siginfo_t *info, void *ctx)
{
    struct tcpu *c = thread_cpu;
    if (c && info->si_code == SI_TIMER) {
        int saved = errno;
        if (info->si_value.sival_int == SAMPLE)
            note_sample(c, ctx);
        else
            cpu_request(c, XR_TIMER);
        errno = saved;
        return;
    }
    if (installed.old_timer.sa_handler != SIG_DFL || (installed.old_timer.sa_flags & SA_SIGINFO))
        chain(&installed.old_timer, sig, info, ctx);
}

bool fault_install(struct yado_error *err)
{
    bool ok = true;
    pthread_mutex_lock(&installed.lock);
    if (installed.users++ == 0) {
        struct sigaction sa = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_ONSTACK };
        sigemptyset(&sa.sa_mask);
        for (unsigned i = 0; i < array_size(fault_signals); i++)
            ok &= sigaction(fault_signals[i], &sa, &installed.old_fault[i]) == 0;
        sa.sa_sigaction = on_timer;
        sa.sa_flags |= SA_RESTART;
        ok &= sigaction(timer_signal(), &sa, &installed.old_timer) == 0;
    }
    pthread_mutex_unlock(&installed.lock);
    return ok || err_set(err, YADO_ERR_HOST, "translator: signal handlers cannot be installed");
}

void fault_uninstall(void)
{
    pthread_mutex_lock(&installed.lock);
    if (--installed.users == 0) {
        struct sigaction now;
        for (unsigned i = 0; i < array_size(fault_signals); i++) {
            /* leave it if somebody put theirs in front of ours since */
            if (sigaction(fault_signals[i], NULL, &now) == 0 && now.sa_sigaction == on_fault)
                sigaction(fault_signals[i], &installed.old_fault[i], NULL);
        }
        if (sigaction(timer_signal(), NULL, &now) == 0 && now.sa_sigaction == on_timer)
            sigaction(timer_signal(), &installed.old_timer, NULL);
    }
    pthread_mutex_unlock(&installed.lock);
}

void fault_thread_begin(struct tcpu *c)
{
    sigset_t set;
    thread_cpu = c;
    c->tid = (int)syscall(SYS_gettid);
    sigemptyset(&set);
    for (unsigned i = 0; i < array_size(fault_signals); i++)
        sigaddset(&set, fault_signals[i]);
    sigaddset(&set, timer_signal());
    /* Translated code's stack is small and full of return addresses: signals have one of their own. */
    stack_t alt = { .ss_sp = c->return_stack + RETURN_STACK_SIZE, .ss_size = SIGNAL_STACK_SIZE };
    _Static_assert(sizeof(stack_t) <= sizeof c->old_signal_stack, "cpu.h");
    sigaltstack(&alt, (stack_t *)(void *)c->old_signal_stack);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
    syscall(SYS_arch_prctl, ARCH_SET_GS, (uint8_t *)c + TCPU_GS);
    struct sigevent ev = { .sigev_notify = SIGEV_THREAD_ID, .sigev_signo = timer_signal() };
    ev._sigev_un._tid = c->tid;
    if (!c->timer_made)
        c->timer_made = syscall(SYS_timer_create, CLOCK_MONOTONIC, &ev, &c->timer) == 0;
    ev.sigev_value.sival_int = SAMPLE;
    if (!c->sample_timer_made && !c->vm->cfg.options.fast_blocks) {
        struct itimerspec each = { { 0, SAMPLE_PERIOD_NS }, { 0, SAMPLE_PERIOD_NS } };
        c->sample_timer_made =
            syscall(SYS_timer_create, CLOCK_THREAD_CPUTIME_ID, &ev, &c->sample_timer) == 0 &&
            syscall(SYS_timer_settime, c->sample_timer, 0, &each, NULL) == 0;
    }
}

void fault_thread_end(struct tcpu *c)
{
    if (c->timer_made)
        syscall(SYS_timer_delete, c->timer);
    if (c->sample_timer_made)
        syscall(SYS_timer_delete, c->sample_timer);
    c->timer_made = c->sample_timer_made = 0;
    sigaltstack((const stack_t *)(const void *)c->old_signal_stack, NULL);
    syscall(SYS_arch_prctl, ARCH_SET_GS, 0);
    thread_cpu = NULL;
}
