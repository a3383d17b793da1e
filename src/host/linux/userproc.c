/* Theory of operation. The process is a program of one page that is put together in a memory file and
 * executed: so nothing of this process, whatever its size and its threads, is ever copied, and the new one
 * has neither our memory nor signal handlers or other registrations of a C library. The page is loaded at the
 * hole. Behind it come pages of the same file that both sides read and write (struct stub_data), with a stack
 * for signals.
 *
 * Whatever ends a run is a signal in the process: faults and traps as they are, system calls since a filter
 * has them raise SIGSYS, kicks are SIGURG. The kernel leaves the registers on that stack, where we see them
 * too, and the handler, in the page, makes a system call that the filter has us answer (seccomp's user
 * notification): so the kernel tells, and not the process, that it has stopped, and it stays so until we
 * answer. Then it loads the registers that we have put there. Nobody else runs in its address space
 * meanwhile. That is about half as long as a stop by ptrace takes.
 *
 * No system call is done for the guest's code: those from elsewhere than the page are signals, and those from
 * the page wait for an answer, which lets a call be done only if it is the very one that is due, of the list
 * that we have asked for. Changes of mappings are done unasked, as there are many of them, if they bring a
 * pass: a number that the filter knows, in halves of arguments that these calls do not look at. It comes with
 * the answer and is in registers until the list is done. A signal meanwhile puts it on the stack, where it is
 * wiped out before anything goes on. Guest code can jump into the page and can write what is behind it, but
 * all it can get by that is what it has anyway: to stop, and other registers of its own.
 *
 * A signal may come while the page's code runs: a kick, or one from outside. What was on its way to us is
 * then found from the registers of that code, and what was on its way to the guest's code is begun once more
 * (take_stop). What we go by is what the kernel says, or has written where no guest code has run since.
 *
 * It stays in our process group: what stops that, as a terminal does, stops it too, which otherwise would go
 * on computing beside a program that stands still. The kernel kills it when the thread that made it ends.
 *
 * With its first list the process takes away all that the kernel gave it: stack, vdso, descriptors. Only
 * breakpoints are set by ptrace, as nothing else can, while the process waits. */
#include "host/linux/userproc_priv.h"

#include <asm/prctl.h>
#include <errno.h>
#include <linux/audit.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define LIST_MAX array_size(((struct stub_data *)0)->list)
#define VSYSCALL 0xffffffffff600000u
/* Writable pieces of these sizes get their pages at once, 1.4 us and 0.2 us a page against 0.9 us for each
 * page that is touched. Reads find 16 pages at each fault, and of large pieces most may never be touched. */
#define POPULATE_MIN (4 * PAGE)
#define POPULATE_MAX (16 * PAGE)

#define FLAGS_IF 0x200u
#define FLAGS_IN                                                                                             \
    (0x1u | 0x4u | 0x10u | 0x40u | 0x80u | 0x400u | 0x800u | 0x40000u |                                      \
     0x200000u) /* CF PF AF ZF SF DF OF AC ID */
#define USER_CS 0x33
#define USER_SS 0x2b

uint64_t userproc_cpu_ns(const struct userproc *p)
{
    return userproc_clock_ns(p->clock);
}

/* ---- stops ---- */

static bool is_dead(struct userproc *p, int options)
{
    int status = 0;

    if (waitpid(p->pid, &status, __WALL | options) == 0)
        return false;
    p->gone = p->reaped = true;
    /* The kernel does that where a signal does not fit on the stack, if guest code has its own there. */
    p->ended_by_guest = WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV;
    return true;
}

/* Waits until it waits for us. Kernels before 6.11 do not tell that by then it has ended, unless by poll. */
bool userproc_wait_stop(struct userproc *p)
{
    union {
        struct seccomp_notif notif;
        uint8_t room[256]; /* for what later kernels add */
    } u;

    for (;;) {
        struct pollfd fd = { .fd = p->listener, .events = POLLIN };

        if (!p->ends_are_told && poll(&fd, 1, -1) == 1 && !(fd.revents & POLLIN))
            return is_dead(p, 0) && false;
        memset(&u, 0, sizeof(u));
        if (ioctl(p->listener, SECCOMP_IOCTL_NOTIF_RECV, &u) == 0)
            break;
        /* Else a signal was faster, here or there. */
        if (errno != EINTR && is_dead(p, errno == ENOENT ? WNOHANG : 0))
            return false;
    }
    p->stop.id = u.notif.id;
    p->stop.call = u.notif.data;
    return true;
}

/* Lets it go on. False: it does not wait any more, or not there. */
bool userproc_answer(struct userproc *p, uint64_t value, uint32_t flags)
{
    union {
        struct seccomp_notif_resp resp;
        uint8_t room[256];
    } u = { .resp = { .id = p->stop.id, .val = (int64_t)value, .flags = flags } };
    int failed;

    do
        failed = ioctl(p->listener, SECCOMP_IOCTL_NOTIF_SEND, &u);
    while (failed && errno == EINTR);
    return !failed;
}

bool userproc_is_call(const struct userproc *p, const struct stub_entry *e)
{
    const struct seccomp_data *call = &p->stop.call;

    return call->arch == AUDIT_ARCH_X86_64 && (uint32_t)call->nr == e->nr &&
           memcmp(call->args, e->arg, sizeof(e->arg)) == 0;
}

/* Copies what a signal has left on the stack. False: the address is none there. */
bool userproc_copy_from_stack(const struct userproc *p, void *to, uint64_t va, size_t len)
{
    const uint64_t offset = va - (p->hole + STUB_PAGE + STUB_STACK);

    if (offset > STUB_STACK_LEN || len > STUB_STACK_LEN - offset)
        return false;
    memcpy(to, data_of(p)->stack + offset, len);
    return true;
}

static bool is_in(const struct userproc *p, uint64_t rip, const uint8_t *begin, const uint8_t *end)
{
    return rip >= stub_at(p, begin) && rip < stub_at(p, end);
}

/* Whether the code raised the signal, rather than somebody sent it. */
static bool signal_is_own(const siginfo_t *info)
{
    static const int own[] = { SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP, SIGSYS };

    for (size_t i = 0; i < array_size(own); i++)
        if (info->si_signo == own[i])
            return info->si_code > 0;
    return false;
}

/* Notes that the signal of the stop where it waits has been seen, so that it is not taken for another. That
 * of the next one is written anew, wherever it is. */
static void mark_seen(struct userproc *p)
{
    const uint64_t info = p->stop.call.args[1];
    const uint64_t offset = info - (p->hole + STUB_PAGE + STUB_STACK) + offsetof(siginfo_t, si_signo);

    if (offset <= STUB_STACK_LEN - sizeof(int))
        memset(data_of(p)->stack + offset, 0, sizeof(int));
}

/* What interrupted the page's code is told by where: before the stop, the signal that was to be told of is in
 * the registers; behind it, the owner has seen that one already. While it waited, both may be: the kernel may
 * take an answer although a signal has ended the waiting.
 *
 * A stop's own signal is in the arguments of its call, which are the kernel's word: the process may be in the
 * handler of another signal by now, as long as it has no answer. */
enum meaning userproc_take_stop(struct userproc *p, struct stop *s)
{
    const __u64 *arg = p->stop.call.args;
    uint64_t info = arg[1], context = arg[2];
    enum meaning otherwise = STOP_NOTHING;

    p->list_interrupted = p->kept = false;
    if (p->stop.call.instruction_pointer != stub_at(p, userproc_stub_stopped))
        return STOP_NOTHING;
    if (!arg[0])
        return STOP_LISTED;
    for (;;) {
        struct stop now;

        if (!userproc_copy_from_stack(p, &now.context, context, sizeof(now.context)) ||
            !userproc_copy_from_stack(p, &now.info, info, sizeof(now.info)))
            return otherwise;
        p->kept |= !now.info.si_signo;
        if (p->kept)
            return STOP_AGAIN;
        *s = now;
        const uint64_t rip = s->context.rip;
        const bool own = signal_is_own(&s->info);
        const bool waited = rip == stub_at(p, userproc_stub_stopped) && s->context.rax == (uint64_t)-EINTR;

        p->list_interrupted |= !waited && is_in(p, rip, userproc_stub_stopped, userproc_stub_resume);
        if (is_in(p, rip, userproc_stub_resume, userproc_stub_end))
            return own ? STOP_REFUSED : STOP_AGAIN;
        if (own || !is_in(p, rip, userproc_stub_signal, userproc_stub_resume))
            return STOP_EXIT;
        if (!waited && !is_in(p, rip, userproc_stub_signal, userproc_stub_stopped))
            return STOP_AGAIN;
        if (waited)
            otherwise = STOP_AGAIN;
        if (s->context.rdx <= context) /* the one before is above it on the stack */
            return otherwise;
        context = s->context.rdx;
        info = s->context.rsi;
    }
}

/* ---- going on ---- */

/* Guest code may have called from elsewhere in the page, from where it would go on as its registers say, even
 * to guest code. An error leads to the one place that takes answers. */
static bool come_to_stop(struct userproc *p)
{
    while (p->stop.call.instruction_pointer != stub_at(p, userproc_stub_stopped)) {
        userproc_answer(p, (uint64_t)-EPERM, 0); /* if not, a signal has made it stop anew */
        if (!userproc_wait_stop(p))
            return false;
    }
    return true;
}

/* Answers each call of the list that it makes, if it is the one that is due. */
static size_t answer_calls(struct userproc *p)
{
    size_t done = 0;

    while (!p->gone && userproc_wait_stop(p)) {
        if (done == p->listed || !userproc_is_call(p, &p->list[done]))
            break;
        done += userproc_answer(p, 0, SECCOMP_USER_NOTIF_FLAG_CONTINUE);
    }
    return done;
}

#define RESULT_NONE INT64_MIN /* no entry has been tried */

/* Whether it has done the list if it needed no answers. If it has not, then nothing but the page's code has
 * run, and what that has said of the last entry is true. Guest code that says otherwise has the list done
 * again. */
static bool is_behind_list(const struct userproc *p, enum meaning meaning, const struct stop *s)
{
    if (p->kept || (int64_t)data_of(p)->result < 0) /* also: RESULT_NONE */
        return false;
    return meaning == STOP_LISTED || meaning == STOP_NOTHING ||
           !is_in(p, s->context.rip, userproc_stub_stopped, userproc_stub_resume);
}

/* Has it do the list, and then, if that is wanted, go on with the registers, until it stops. Entries are such
 * that they can be done once more, if a signal comes. *all: each was done, but for the last maybe, which may
 * have failed. False if the process is gone, with errno. */
static bool go_on(struct userproc *p, bool resume, bool *all, enum meaning *meaning, struct stop *s)
{
    const uint64_t pass = p->listed && !p->listed_others ? p->pass : 0;
    struct stub_data *d = data_of(p);
    size_t done = 0;

    do {
        if (!come_to_stop(p))
            break;
        if (resume && atomic_load(&p->kicked)) { /* its signal may have been the one that made it stop anew */
            *all = false;
            *meaning = STOP_AGAIN;
            return true;
        }
        d->result = (uint64_t)RESULT_NONE;
        mark_seen(p);
        memcpy(d->list, p->list, p->listed * sizeof(p->list[0])); /* guest code can write there */
        if (userproc_answer(p, p->listed | (uint64_t)resume << STUB_RESUME_BIT | pass << STUB_PASS_SHIFT, 0))
            break;
    } while (userproc_wait_stop(p)); /* a signal has made it stop anew */
    p->resumed = resume && !p->gone;
    if (!p->gone && pass)
        userproc_wait_stop(p);
    else
        done = answer_calls(p);
    if (p->gone) {
        errno = ESRCH;
        return false;
    }
    *meaning = userproc_take_stop(p, s);
    *all = pass ? is_behind_list(p, *meaning, s) : done == p->listed;
    if (p->list_interrupted) /* with the pass in a register */
        memset(d->stack, 0, sizeof(d->stack));
    return true;
}

/* NULL: what the process has. */
static void xsave_set(struct userproc *p, const void *xsave)
{
    struct stub_data *d = data_of(p);

    if (!xsave)
        xsave = p->xsave;
    if (xsave != d->xsave)
        memcpy(d->xsave, xsave, p->xsave_size);
    p->xsave = d->xsave;
}

static void list_clear(struct userproc *p)
{
    p->listed = 0;
    p->listed_others = false;
}

/* Does what is on the list. False if an entry fails, with errno. */
bool userproc_list_do(struct userproc *p)
{
    const size_t n = p->listed;
    enum meaning meaning = STOP_LISTED;
    int64_t result = 0;
    struct stop s;
    bool done, all = true, running;

    errno = ESRCH;
    if (p->gone || !n)
        return !p->gone;
    seat_begin(p->seat, &p->place);
    xsave_set(p, NULL);                            /* off the stack */
    running = atomic_exchange(&p->running, false); /* kicks have time until it is done */
    do { /* guest code may have left the flag for single steps, which ends it before the list is done */
        done = go_on(p, false, &all, &meaning, &s);
        result = (int64_t)data_of(p)->result;
    } while (done && (meaning != STOP_LISTED || (!all && (result >= 0 || result == RESULT_NONE))));
    atomic_store(&p->running, running);
    if (!p->gone && result < 0) {
        errno = (int)-result;
        done = false;
    }
    list_clear(p);
    return done;
}

bool userproc_list_add(struct userproc *p, struct stub_entry e)
{
    if (p->gone || (p->listed == LIST_MAX && !userproc_list_do(p)))
        return false;
    p->list[p->listed++] = e;
    p->listed_others |= e.nr != SYS_mmap && e.nr != SYS_munmap;
    return true;
}

/* Entries of the list that unmap all but the hole. */
bool userproc_list_add_clear(struct userproc *p)
{
    const uint64_t end = p->hole + HOLE_LEN;

    return userproc_list_add(p, (struct stub_entry){ SYS_munmap, { 0, p->hole }, 0 }) &&
           userproc_list_add(p, (struct stub_entry){ SYS_munmap, { end, USER_TOP - end }, 0 });
}

/* As a program begins. */
void userproc_xsave_reset(struct userproc *p)
{
    struct stub_data *d = data_of(p);

    memset(d->xsave, 0, sizeof(d->xsave));
    memcpy(d->xsave, &(uint16_t){ 0x37f }, 2);
    memcpy(d->xsave + FX_MXCSR, &(uint32_t){ 0x1f80 }, 4);
    memcpy(d->xsave + FX_MXCSR_MASK, &p->mxcsr_mask, sizeof(p->mxcsr_mask));
    p->xsave = d->xsave;
}

bool userproc_trap(struct userproc *p, unsigned what, bool on)
{
    bool ok = true;

    if (what & USERPROC_TRAP_CPUID) /* first: it is the one that may fail */
        ok = userproc_list_add(p, (struct stub_entry){ SYS_arch_prctl, { ARCH_SET_CPUID, !on }, 0 });
    if (what & USERPROC_TRAP_TSC)
        ok = ok &&
             userproc_list_add(
                 p, (struct stub_entry){ SYS_prctl, { PR_SET_TSC, on ? PR_TSC_SIGSEGV : PR_TSC_ENABLE }, 0 });
    return ok && userproc_list_do(p);
}

void userproc_sit(struct userproc *p, struct userproc_seat *seat)
{
    p->seat = seat;
}

void userproc_hole(const struct userproc *p, uint64_t *va, uint64_t *len)
{
    *va = p->hole;
    *len = HOLE_LEN;
}

size_t userproc_xsave_size(const struct userproc *p)
{
    return p->xsave_size;
}

pid_t userproc_pid(const struct userproc *p)
{
    return p->pid;
}

/* ---- mappings ---- */

static bool map_is_allowed(const struct userproc *p, const struct userproc_map *m)
{
    if ((m->va | m->len | m->offset) % PAGE || !m->len || m->va >= USER_TOP || m->len > USER_TOP - m->va)
        return false;
    if ((m->prot & USERPROC_OWN) && (m->prot & USERPROC_W))
        return false;
    return m->va + m->len <= p->hole || m->va >= p->hole + HOLE_LEN;
}

static bool map_goes_on(const struct userproc_map *a, const struct userproc_map *b)
{
    return a->prot == b->prot && a->va + a->len == b->va && (!a->prot || a->offset + a->len == b->offset);
}

static struct stub_entry map_entry(const struct userproc_map *m)
{
    int prot = PROT_READ, flags = MAP_FIXED;

    if (!m->prot)
        return (struct stub_entry){ SYS_munmap, { m->va, m->len }, 0 };
    if (m->prot & USERPROC_W)
        prot |= PROT_WRITE;
    if (m->prot & USERPROC_X)
        prot |= PROT_EXEC;
    flags |= m->prot & USERPROC_OWN ? MAP_PRIVATE : MAP_SHARED;
    if ((m->prot & USERPROC_W) && m->len >= POPULATE_MIN && m->len <= POPULATE_MAX)
        flags |= MAP_POPULATE;
    return (struct stub_entry){ SYS_mmap, { m->va, m->len, prot, flags, CHILD_RAM_FD, m->offset }, 0 };
}

bool userproc_set_maps(struct userproc *p, const struct userproc_map *map, unsigned n)
{
    struct userproc_map piece;

    for (unsigned i = 0; i < n;) {
        piece = map[i];
        if (!map_is_allowed(p, &piece))
            return false;
        for (i++; i < n && map_is_allowed(p, &map[i]) && map_goes_on(&piece, &map[i]); i++)
            piece.len += map[i].len;
        if (!userproc_list_add(p, map_entry(&piece)))
            return false;
    }
    return !p->gone;
}

bool userproc_clear(struct userproc *p)
{
    list_clear(p);
    return userproc_list_add_clear(p) && userproc_list_do(p);
}

/* ---- running ---- */

static void selectors_note(struct userproc *p, const struct context *c, struct userproc_exit *exit)
{
    const uint16_t *seen = data_of(p)->seen_selectors;

    exit->cs = c->cs, exit->ss = c->ss, exit->ds = seen[0];
    exit->es = seen[1], exit->fs = seen[2], exit->gs = seen[3];
    p->selectors_loaded = exit->ds | exit->es | exit->fs | exit->gs;
    exit->selectors_changed = p->selectors_loaded || exit->cs != USER_CS || exit->ss != USER_SS;
}

static void regs_get(const struct userproc *p, const struct context *c, struct userproc_regs *regs)
{
    uint64_t *g = regs->gpr;

    g[0] = c->rax, g[1] = c->rcx, g[2] = c->rdx, g[3] = c->rbx;
    g[4] = c->rsp, g[5] = c->rbp, g[6] = c->rsi, g[7] = c->rdi;
    g[8] = c->r8, g[9] = c->r9, g[10] = c->r10, g[11] = c->r11;
    g[12] = c->r12, g[13] = c->r13, g[14] = c->r14, g[15] = c->r15;
    regs->rip = c->rip;
    regs->rflags = c->rflags;
    regs->fs_base = data_of(p)->seen_fs_base;
    regs->gs_base = data_of(p)->seen_gs_base;
}

static void regs_set(struct userproc *p, const struct userproc_regs *regs)
{
    struct stub_data *d = data_of(p);

    memcpy(d->gpr, regs->gpr, sizeof(d->gpr));
    d->iret[0] = regs->rip;
    d->iret[1] = USER_CS;
    d->iret[2] = (regs->rflags & FLAGS_IN) | FLAGS_IF;
    d->iret[3] = regs->gpr[4];
    d->iret[4] = USER_SS;
    d->fs_base = regs->fs_base;
    d->gs_base = regs->gs_base;
    d->selectors = p->selectors_loaded;
    d->xsave_mask = p->xsave_features;
}

/* XRSTOR would fault with others (SDM volume 1, 13.8). */
static bool xsave_is_fine(const struct userproc *p, const uint8_t *xsave)
{
    uint64_t header[8];
    uint32_t mxcsr;
    uint64_t others = 0;

    memcpy(&mxcsr, xsave + FX_MXCSR, sizeof(mxcsr));
    memcpy(header, xsave + XSAVE_HEADER, sizeof(header));
    for (size_t i = 1; i < array_size(header); i++)
        others |= header[i];
    return !(mxcsr & ~p->mxcsr_mask) && !others && !(header[0] & ~(p->xsave_features | XSAVE_PKRU));
}

static bool regs_are_fine(const struct userproc_regs *regs)
{
    return regs->fs_base < USER_TOP && regs->gs_base < USER_TOP && regs->rip < USER_TOP;
}

/* What has ended the run. False: it has not, the signal came from outside. */
static bool exit_get(struct userproc *p, const struct stop *s, struct userproc_regs *regs,
                     struct userproc_exit *exit)
{
    const siginfo_t *info = &s->info;
    const int sig = info->si_signo;

    regs_get(p, &s->context, regs);
    selectors_note(p, &s->context, exit);
    exit->why = USERPROC_KICKED;
    if (!signal_is_own(info)) /* also if guest code has made it look like another than the kick's */
        return atomic_exchange(&p->kicked, false);
    exit->signal = sig;
    if (sig == SIGSYS) {
        exit->why = USERPROC_SYSCALL;
        exit->addr = (uintptr_t)info->si_call_addr;
        exit->has_addr = (exit->addr & ~(uint64_t)(PAGE - 1)) == VSYSCALL;
        regs->rip = exit->addr;
        /* The kernel takes some numbers for its own errors, after which a call is to be begun again. */
        if (regs->gpr[0] == (uint64_t)-EINTR)
            regs->gpr[0] = (uint64_t)info->si_syscall;
        if (exit->has_addr) { /* it has returned from there already, with nothing done */
            exit->why = USERPROC_FAULT;
            regs->gpr[4] -= 8;
        }
        return true;
    }
    exit->step = sig == SIGTRAP && info->si_code == TRAP_TRACE;
    exit->int3 = sig == SIGTRAP && info->si_code == SI_KERNEL;
    exit->why = sig == SIGSEGV || sig == SIGBUS ? USERPROC_FAULT : USERPROC_TRAP;
    exit->has_addr = exit->why == USERPROC_FAULT && info->si_code != SI_KERNEL &&
                     (sig == SIGSEGV || info->si_code != BUS_ADRALN);
    exit->addr = exit->has_addr ? (uintptr_t)info->si_addr : 0;
    return true;
}

static bool is_canonical(uint64_t va)
{
    return va + (UINT64_C(1) << 47) < UINT64_C(1) << 48;
}

/* No processor leaves others. */
static bool addresses_are_fine(const struct userproc *p, const struct context *c)
{
    return is_canonical(c->rip) && is_canonical(data_of(p)->seen_fs_base) &&
           is_canonical(data_of(p)->seen_gs_base);
}

/* The vector registers of a stop stay where the kernel has put them. */
static bool xsave_find(struct userproc *p, const struct context *c)
{
    const uint64_t offset = c->fpstate - (p->hole + STUB_PAGE + STUB_STACK);

    if (offset % 64 || offset > STUB_STACK_LEN || p->xsave_size > STUB_STACK_LEN - offset)
        return false;
    if (!xsave_is_fine(p, data_of(p)->stack + offset)) /* which a processor does not leave */
        return false;
    p->xsave = data_of(p)->stack + offset;
    return true;
}

/* It was kept from going on by a signal, which lies on the stack below those before. If that happens again
 * and again, the stack must not be used up. */
static bool come_to_rest(struct userproc *p)
{
    enum meaning meaning;
    struct stop s;
    bool ok, all;

    atomic_store(&p->running, false);
    do
        ok = go_on(p, false, &all, &meaning, &s);
    while (ok && meaning != STOP_LISTED);
    if (ok && all && (int64_t)data_of(p)->result >= 0)
        list_clear(p); /* or a long one would be begun again and again */
    atomic_store(&p->running, true);
    return ok;
}

/* One way to the guest's code and back. True: the run has ended. */
static bool run_once(struct userproc *p, struct userproc_regs *regs, const void *xsave,
                     struct userproc_exit *exit)
{
    enum meaning meaning;
    struct stop s;
    const size_t changes = p->listed;
    bool all;

    regs_set(p, regs);
    xsave_set(p, xsave);
    if (!go_on(p, true, &all, &meaning, &s)) {
        exit->lost = p->resumed && !p->ended_by_guest;
        return true;
    }
    /* Before the list was done it was no run, but what guest code has left, as the flag for single steps. */
    if (meaning == STOP_AGAIN || (!all && meaning != STOP_LISTED)) {
        exit->why = come_to_rest(p) ? USERPROC_KICKED : USERPROC_GONE;
        return p->gone || atomic_exchange(&p->kicked, false);
    }
    if (meaning == STOP_LISTED && !userproc_list_do(p)) {
        p->gone = true; /* as little as can be done with it */
        return true;
    }
    list_clear(p);
    if (meaning == STOP_REFUSED) {
        userproc_xsave_reset(p);
        exit->why = USERPROC_REFUSED;
        return true;
    }
    exit->changes = (uint32_t)changes;
    if (meaning != STOP_EXIT || !xsave_find(p, &s.context) || !addresses_are_fine(p, &s.context)) {
        exit->why = USERPROC_TRAP; /* what guest code does to the page's is its own affair */
        return true;
    }
    return exit_get(p, &s, regs, exit);
}

bool userproc_run(struct userproc *p, struct userproc_regs *regs, void *xsave, struct userproc_exit *exit)
{
    const void *from = xsave;

    *exit = (struct userproc_exit){ .why = USERPROC_GONE };
    if (p->gone)
        return false;
    if (!regs_are_fine(regs) || (xsave && !xsave_is_fine(p, xsave))) {
        exit->why = USERPROC_REFUSED;
        return false;
    }
    atomic_store(&p->running, true);
    if (atomic_exchange(&p->kicked, false)) {
        atomic_store(&p->running, false);
        exit->why = USERPROC_KICKED;
        return true;
    }
    seat_begin(p->seat, &p->place);
    while (!run_once(p, regs, from, exit)) { /* a signal from outside */
        *exit = (struct userproc_exit){ .why = USERPROC_GONE };
        from = NULL;
    }
    atomic_store(&p->running, false);
    if (exit->why == USERPROC_GONE || exit->why == USERPROC_REFUSED)
        return false;
    return !xsave || userproc_get_xsave(p, xsave);
}

/* A register of the debug facility. SDM volume 3, 18.2. */
static bool debug_set(struct userproc *p, unsigned n, uint64_t v)
{
    return ptrace(PTRACE_POKEUSER, p->pid, offsetof(struct user, u_debugreg) + n * sizeof(v), v) == 0;
}

static bool debug_set_all(struct userproc *p, const uint64_t *addr, unsigned n)
{
    uint64_t control = 0; /* 0 but for the enabling bits: instructions */
    bool ok = debug_set(p, 7, 0);

    for (unsigned i = 0; i < n; i++) {
        if (addr[i])
            control |= UINT64_C(1) << 2 * i;
        ok = ok && (!addr[i] || debug_set(p, i, addr[i]));
    }
    return ok && debug_set(p, 7, control);
}

/* What ptrace does while the process waits for us, behind which it waits anew. */
static bool while_traced(struct userproc *p,
                         bool (*work)(struct userproc *p, const uint64_t *addr, unsigned n),
                         const uint64_t *addr, unsigned n)
{
    int status;
    bool ok;

    if (p->gone || ptrace(PTRACE_SEIZE, p->pid, NULL, NULL))
        return false;
    ok = ptrace(PTRACE_INTERRUPT, p->pid, NULL, NULL) == 0;
    while (waitpid(p->pid, &status, __WALL) < 0)
        if (errno != EINTR)
            return is_dead(p, 0) && false;
    if (!WIFSTOPPED(status)) {
        p->gone = p->reaped = true;
        return false;
    }
    ok = ok && work(p, addr, n);
    return ptrace(PTRACE_DETACH, p->pid, NULL, NULL) == 0 && ok;
}

bool userproc_set_breaks(struct userproc *p, const uint64_t addr[USERPROC_BREAKS])
{
    return while_traced(p, debug_set_all, addr, USERPROC_BREAKS);
}

/* The kernel writes whole words; the others of their bytes are put back as they were. */
static bool traps_put(struct userproc *p, const uint64_t *addr, unsigned n)
{
    bool ok = true;

    for (unsigned i = 0; ok && i < n; i++) {
        const uint64_t word = addr[i] & ~UINT64_C(7), shift = (addr[i] & 7) * 8;
        uint64_t v;

        ok = syscall(SYS_ptrace, PTRACE_PEEKTEXT, p->pid, word, &v) == 0;
        v = (v & ~(UINT64_C(0xff) << shift)) | UINT64_C(0xcc) << shift;
        ok = ok && ptrace(PTRACE_POKETEXT, p->pid, word, v) == 0;
    }
    return ok;
}

bool userproc_put_traps(struct userproc *p, const uint64_t *addr, unsigned n)
{
    return userproc_list_do(p) && while_traced(p, traps_put, addr, n);
}

/* Guest code may have written where they are, so they are looked at before anybody loads them. */
bool userproc_get_xsave(struct userproc *p, void *xsave)
{
    if (p->gone)
        return false;
    memcpy(xsave, p->xsave, p->xsave_size);
    if (!xsave_is_fine(p, xsave)) {
        userproc_xsave_reset(p);
        memcpy(xsave, p->xsave, p->xsave_size);
    }
    memset((uint8_t *)xsave + FX_SOFTWARE, 0, XSAVE_HEADER - FX_SOFTWARE);
    return true;
}

/* One that has not been seen to yet is enough: while the process waits each signal takes its place on the
 * stack, and its owner may not get the CPU for long. */
void userproc_kick(struct userproc *p)
{
    if (atomic_exchange(&p->kicked, true) || !atomic_load(&p->running))
        return;
    syscall(SYS_tgkill, p->pid, p->pid, SIGURG);
    syscall(SYS_tgkill, p->pid, p->pid, SIGCONT); /* if somebody has stopped it alone */
}
