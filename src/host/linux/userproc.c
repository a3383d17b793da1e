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
 * that we have asked for. Guest code can jump into the page and can write what is behind it, but all it can
 * get by that is what it has anyway: to stop, and other registers of its own.
 *
 * A signal may come while the page's code runs: a kick, or one from outside. What was on its way to us is
 * then found from the registers of that code, and what was on its way to the guest's code is begun once more
 * (take_stop).
 *
 * It stays in our process group: what stops that, as a terminal does, stops it too, which otherwise would go
 * on computing beside a program that stands still. The kernel kills it when the thread that made it ends.
 *
 * With its first list the process takes away all that the kernel gave it: stack, vdso, descriptors. Only
 * breakpoints are set by ptrace, as nothing else can, while the process waits. */
#include "host/userproc.h"

#include <asm/prctl.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "host/anonfile.h"
#include "host/linux/userproc_seat.h"
#include "host/linux/userproc_stub.h"
#include "host/random.h"

#define PAGE 4096u
#define USER_TOP 0x7ffffffff000u /* where user space ends, with five levels of page tables too */
#define HOLE_LOW 0x100000000000u /* no place where programs are usually loaded, on any system */
#define HOLE_HIGH 0x500000000000u
#define HOLE_LEN ((uint64_t)sizeof(struct image))
#define LIST_MAX array_size(((struct stub_data *)0)->list)
#define VSYSCALL 0xffffffffff600000u
/* Writable pieces of these sizes get their pages at once, 1.4 us and 0.2 us a page against 0.9 us for each
 * page that is touched. Reads find 16 pages at each fault, and of large pieces most may never be touched. */
#define POPULATE_MIN (4 * PAGE)
#define POPULATE_MAX (16 * PAGE)

#ifndef HWCAP2_FSGSBASE
#define HWCAP2_FSGSBASE 2 /* asm/hwcap2.h */
#endif

#define CHILD_RAM_FD 0
#define CHILD_OWN_FD STUB_OWN_FD

#define BIRTH_STACK 16384

#define FLAGS_IF 0x200u
#define FLAGS_IN                                                                                             \
    (0x1u | 0x4u | 0x10u | 0x40u | 0x80u | 0x400u | 0x800u | 0x40000u |                                      \
     0x200000u) /* CF PF AF ZF SF DF OF AC ID */
#define USER_CS 0x33
#define USER_SS 0x2b

#define XSAVE_HEADER 512
#define XSAVE_PKRU 0x200u /* not loaded: it could lock the page's code out of its data */
#define FX_MXCSR 24
#define FX_MXCSR_MASK 28
#define FX_SOFTWARE 464 /* what the kernel adds for programs (asm/sigcontext.h, struct _fpx_sw_bytes) */

/* The page as the file has it, and the data. */
struct image {
    union {
        struct {
            Elf64_Ehdr ehdr;
            Elf64_Phdr phdr[2];
        };
        uint8_t bytes[STUB_PAGE];
    };
    struct stub_data data;
};

/* What the kernel puts on the stack for a signal, as far as it matters here (asm/ucontext.h,
 * asm/sigcontext.h: the C library's own type is larger). */
struct context {
    uint64_t unused[5];
    uint64_t r8, r9, r10, r11, r12, r13, r14, r15, rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp, rip, rflags;
    uint16_t cs, gs, fs, ss;
    uint64_t err, trapno, oldmask, cr2;
    uint64_t fpstate; /* address */
};

struct userproc {
    pid_t pid;
    int pidfd, listener;
    clockid_t clock;            /* its CPU time */
    struct userproc_seat *seat; /* may be NULL */
    struct seat_child place;
    bool ends_are_told; /* at the listener, to who waits for a notification */
    bool gone;          /* nothing can be done with it */
    bool reaped;        /* it is no child of ours any more, not even a dead one */
    struct {
        uint64_t id;
        struct seccomp_data call;
    } stop; /* where it waits */
    uint64_t hole;
    uint64_t breaks; /* DR7 */
    struct image *image;
    bool resumed;          /* it may have run since */
    size_t listed;         /* entries of the list that are to be done before it goes on */
    bool selectors_loaded; /* by the guest's code: to be undone */
    size_t xsave_size;
    uint64_t xsave_features;
    uint32_t mxcsr_mask;
    const uint8_t *xsave; /* in the image: what the process has in its vector registers */
    /* A kick is never lost: one side sets kicked and then looks at running, the other sets running and then
     * looks at kicked. A signal that comes late, when another stop was first, finds kicked already taken and
     * the run goes on. */
    atomic_bool kicked;
    atomic_bool running;
};

static struct stub_data *data_of(const struct userproc *p)
{
    return &p->image->data;
}

static uint64_t stub_at(const struct userproc *p, const uint8_t *where)
{
    return p->hole + STUB_OFFSET + (uint64_t)(where - userproc_stub);
}

/* ---- stops ---- */

static bool is_dead(struct userproc *p, int options)
{
    int status;

    if (waitpid(p->pid, &status, __WALL | options) == 0)
        return false;
    p->gone = p->reaped = true;
    return true;
}

/* Waits until it waits for us. Kernels before 6.11 do not tell that by then it has ended, unless by poll. */
static bool wait_stop(struct userproc *p)
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
static bool answer(struct userproc *p, uint64_t value, uint32_t flags)
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

static bool is_call(const struct userproc *p, const struct stub_entry *e)
{
    const struct seccomp_data *call = &p->stop.call;

    return call->arch == AUDIT_ARCH_X86_64 && (uint32_t)call->nr == e->nr &&
           memcmp(call->args, e->arg, sizeof(e->arg)) == 0;
}

/* Copies what a signal has left on the stack. False: the address is none there. */
static bool copy_from_stack(const struct userproc *p, void *to, uint64_t va, size_t len)
{
    const uint64_t offset = va - (p->hole + STUB_PAGE + STUB_STACK);

    if (offset > STUB_STACK_LEN || len > STUB_STACK_LEN - offset)
        return false;
    memcpy(to, data_of(p)->stack + offset, len);
    return true;
}

/* What a stop means. */
enum meaning {
    STOP_LISTED,  /* the list is done, but for its last entry maybe */
    STOP_AGAIN,   /* it was kept from going on */
    STOP_REFUSED, /* it could not, with these registers */
    STOP_NOTHING, /* guest code has called the page's, or changed what it left */
    STOP_EXIT,
};

struct stop {
    struct context context; /* both of STOP_EXIT */
    siginfo_t info;
};

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

/* What interrupted the page's code is told by where: before the stop, the signal that was to be told of is in
 * the registers; behind it, the owner has seen that one already. */
static enum meaning take_stop(struct userproc *p, struct stop *s)
{
    const struct stub_data *d = data_of(p);
    uint64_t context = d->context, info = d->info;

    if (!d->signal)
        return STOP_LISTED;
    for (;;) {
        if (!copy_from_stack(p, &s->context, context, sizeof(s->context)) ||
            !copy_from_stack(p, &s->info, info, sizeof(s->info)))
            return STOP_NOTHING;
        const uint64_t rip = s->context.rip;
        const bool own = signal_is_own(&s->info);
        const bool waited = rip == stub_at(p, userproc_stub_stopped) && s->context.rax == (uint64_t)-EINTR;

        if (is_in(p, rip, userproc_stub_resume, userproc_stub_end))
            return own ? STOP_REFUSED : STOP_AGAIN;
        if (own || !is_in(p, rip, userproc_stub_signal, userproc_stub_resume))
            return STOP_EXIT;
        if (!waited && !is_in(p, rip, userproc_stub_signal, userproc_stub_stopped))
            return STOP_AGAIN;
        if (s->context.rdx <= context) /* the one before is above it on the stack */
            return STOP_NOTHING;
        context = s->context.rdx;
        info = s->context.rsi;
    }
}

/* ---- going on ---- */

/* Has it do the list, and then, if that is wanted, go on with the registers, until it stops. Entries are such
 * that they can be done once more, if a signal comes. False if one fails, with errno, or the process is gone.
 */
static bool go_on(struct userproc *p, bool resume, enum meaning *meaning, struct stop *s)
{
    struct stub_data *d = data_of(p);
    size_t done = 0;

    do {
        d->signal = d->result = 0;
        if (answer(p, p->listed | (uint64_t)resume << STUB_RESUME_BIT, 0))
            break;
    } while (wait_stop(p)); /* a signal has made it stop anew */
    p->resumed = resume && !p->gone;
    for (; !p->gone && wait_stop(p); done++) {
        if (done == p->listed || !is_call(p, &d->list[done]))
            break;
        answer(p, 0, SECCOMP_USER_NOTIF_FLAG_CONTINUE);
    }
    if (p->gone) {
        errno = ESRCH;
        return false;
    }
    *meaning = take_stop(p, s);
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
    memset(data_of(p)->list, 0, p->listed * sizeof(struct stub_entry));
    p->listed = 0;
}

/* Does what is on the list. False if an entry fails, with errno. */
static bool list_do(struct userproc *p)
{
    const size_t n = p->listed;
    enum meaning meaning = STOP_LISTED;
    struct stop s;
    bool done;

    errno = ESRCH;
    if (p->gone || !n)
        return !p->gone;
    seat_begin(p->seat, &p->place);
    xsave_set(p, NULL); /* off the stack */
    do
        done = go_on(p, false, &meaning, &s);
    while (done && meaning != STOP_LISTED);
    if (!p->gone && (int64_t)data_of(p)->result < 0) {
        errno = (int)-(int64_t)data_of(p)->result;
        done = false;
    }
    list_clear(p);
    return done;
}

static bool list_add(struct userproc *p, struct stub_entry e)
{
    if (p->gone || (p->listed == LIST_MAX && !list_do(p)))
        return false;
    data_of(p)->list[p->listed++] = e;
    return true;
}

/* ---- making one ---- */

/* The page: a program with one segment. The other header says that nothing becomes executable unasked. */
static void image_write(struct image *image, uint64_t hole)
{
    image->ehdr = (Elf64_Ehdr){
        .e_ident = { ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS64, ELFDATA2LSB, EV_CURRENT },
        .e_type = ET_EXEC,
        .e_machine = EM_X86_64,
        .e_version = EV_CURRENT,
        .e_entry = hole + STUB_OFFSET,
        .e_phoff = offsetof(struct image, phdr),
        .e_ehsize = sizeof(Elf64_Ehdr),
        .e_phentsize = sizeof(Elf64_Phdr),
        .e_phnum = 2,
    };
    image->phdr[0] = (Elf64_Phdr){ .p_type = PT_LOAD,
                                   .p_flags = PF_R | PF_X,
                                   .p_vaddr = hole,
                                   .p_paddr = hole,
                                   .p_filesz = PAGE,
                                   .p_memsz = PAGE,
                                   .p_align = PAGE };
    image->phdr[1] = (Elf64_Phdr){ .p_type = PT_GNU_STACK, .p_flags = PF_R | PF_W };
    memcpy(image->bytes + STUB_OFFSET, userproc_stub, (size_t)(userproc_stub_end - userproc_stub));
}

static uint64_t hole_choose(void)
{
    uint64_t r;

    random_bytes(&r, sizeof(r));
    return HOLE_LOW + r % ((HOLE_HIGH - HOLE_LOW) / PAGE - HOLE_LEN / PAGE) * PAGE;
}

/* A filter: one answer for calls from the page, another for those from elsewhere. */
#define FILTER_LEN 7
static void filter_write(struct sock_filter filter[FILTER_LEN], uint64_t page, uint32_t inside,
                         uint32_t outside)
{
    const uint32_t ip = offsetof(struct seccomp_data, instruction_pointer);
    const struct sock_filter f[FILTER_LEN] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, ip + 4),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)(page >> 32), 0, 4),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, ip),
        BPF_STMT(BPF_ALU | BPF_AND | BPF_K, ~(PAGE - 1)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)page, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, inside),
        BPF_STMT(BPF_RET | BPF_K, outside),
    };

    memcpy(filter, f, sizeof(f));
}

/* What the child is to do before it is a program of its own. It shares our memory until then, while this
 * thread waits. */
struct birth {
    int ram_fd, own_fd;
    struct sock_filter filter[FILTER_LEN];
    pid_t parent;
    int listener; /* among our descriptors */
    int error;    /* errno, and the step that failed */
    const char *step;
};

static bool birth_steps(struct birth *b)
{
    struct sock_fprog prog = { .len = FILTER_LEN, .filter = b->filter };
    char *none[] = { NULL };
    sigset_t mask;
    int ram, own;

    sigfillset(&mask); /* until it can do with signals */
    b->step = "prctl";
    if (syscall(SYS_rt_sigprocmask, SIG_SETMASK, &mask, NULL, 8) ||
        syscall(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) || syscall(SYS_getppid) != b->parent ||
        syscall(SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        return false;
    /* The descriptors are ours still, so that the listener becomes one of them. */
    b->step = "seccomp";
    b->listener = (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER,
                               SECCOMP_FILTER_FLAG_NEW_LISTENER | SECCOMP_FILTER_FLAG_SPEC_ALLOW, &prog);
    if (b->listener < 0)
        return false;
    b->step = "descriptors";
    if (syscall(SYS_unshare, CLONE_FILES))
        return false;
    ram = (int)syscall(SYS_fcntl, b->ram_fd, F_DUPFD, 3);
    own = (int)syscall(SYS_fcntl, b->own_fd, F_DUPFD, 3);
    if (ram < 0 || own < 0 || syscall(SYS_dup2, ram, CHILD_RAM_FD) < 0 ||
        syscall(SYS_dup2, own, CHILD_OWN_FD) < 0)
        return false;
    b->step = "close_range";
    if (syscall(SYS_close_range, 2u, UINT32_MAX, 0u))
        return false;
    b->step = "execveat";
    syscall(SYS_execveat, CHILD_OWN_FD, "", none, none, AT_EMPTY_PATH);
    return false;
}

static int birth_main(void *arg)
{
    struct birth *b = arg;

    birth_steps(b);
    b->error = errno ? errno : ESRCH;
    syscall(SYS_exit_group, 1);
    return 1;
}

/* Starts the process, which waits at its first system call: to map its data. */
static bool start(struct userproc *p, struct birth *b)
{
    uint8_t *stack = malloc(BIRTH_STACK);
    sigset_t all, callers;

    if (!stack) {
        b->error = ENOMEM;
        b->step = "stack";
        return false;
    }

    /* A signal handler of ours must not run in the child. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &callers);
    /* No signal at its end: nobody but us is to notice. */
    p->pid = clone(birth_main, stack + BIRTH_STACK, CLONE_VM | CLONE_VFORK | CLONE_FILES | CLONE_PIDFD, b,
                   &p->pidfd);
    if (p->pid < 0) {
        p->pidfd = -1;
        b->error = errno;
        b->step = "clone";
    }
    pthread_sigmask(SIG_SETMASK, &callers, NULL);
    free(stack);
    p->listener = b->listener;
    if (p->pid < 0)
        return false;
    p->reaped = false;
    if (!b->error && clock_getcpuclockid(p->pid, &p->clock)) {
        b->error = ESRCH;
        b->step = "its clock";
    }
    seat_child_init(&p->place, p->pid);
    return !b->error && wait_stop(p);
}

/* Has the process see its data. */
static bool data_map(struct userproc *p)
{
    const struct stub_entry map = { SYS_mmap,
                                    { p->hole + STUB_PAGE, STUB_DATA_LEN, PROT_READ | PROT_WRITE,
                                      MAP_SHARED | MAP_FIXED, CHILD_OWN_FD, STUB_PAGE },
                                    0 };

    errno = ESRCH;
    return is_call(p, &map) && answer(p, 0, SECCOMP_USER_NOTIF_FLAG_CONTINUE) && wait_stop(p);
}

/* Entries of the list that unmap all but the hole. */
static bool list_add_clear(struct userproc *p)
{
    const uint64_t end = p->hole + HOLE_LEN;

    return list_add(p, (struct stub_entry){ SYS_munmap, { 0, p->hole }, 0 }) &&
           list_add(p, (struct stub_entry){ SYS_munmap, { end, USER_TOP - end }, 0 });
}

/* What the kernel takes from the process's memory with its first list (the kernel's sigaction has no type).
 */
struct gifts {
    uint64_t mask;
    char name[8];
    struct {
        uint64_t handler, flags, restorer, mask;
    } action;
    stack_t stack;
    struct sock_fprog prog;
    struct sock_filter filter[FILTER_LEN];
};

#define ACTION_RESTORER 0x04000000u /* there has to be one; ours returns otherwise */

static void gifts_write(const struct userproc *p, struct gifts *g, uint64_t at)
{
    static const int stopping[] = { SIGTSTP, SIGTTIN, SIGTTOU };
    static const int handled[] = { SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP, SIGSYS, SIGURG };

    memset(g, 0, sizeof(*g));
    g->mask = ~UINT64_C(0);
    for (size_t i = 0; i < array_size(handled); i++)
        g->mask &= ~(UINT64_C(1) << (handled[i] - 1));
    for (size_t i = 0; i < array_size(stopping); i++)
        g->mask &= ~(UINT64_C(1) << (stopping[i] - 1));
    memcpy(g->name, "yadouser", sizeof(g->name));
    g->action.handler = stub_at(p, userproc_stub_signal);
    g->action.restorer = stub_at(p, userproc_stub_signal);
    g->action.flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER | ACTION_RESTORER;
    g->stack.ss_sp = (void *)(uintptr_t)(p->hole + STUB_PAGE + STUB_STACK); // NOLINT: its address there
    g->stack.ss_size = STUB_STACK_LEN;
    g->prog.len = FILTER_LEN;
    g->prog.filter =
        (struct sock_filter *)(uintptr_t)(at + offsetof(struct gifts, filter)); // NOLINT: the same
    filter_write(g->filter, p->hole, SECCOMP_RET_ALLOW, SECCOMP_RET_TRAP);
}

/* Takes away what the process was born with, and the right to do any system call from elsewhere than its
 * page, the kernel's vsyscall page included. */
static bool make_empty(struct userproc *p)
{
    static const int handled[] = { SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP, SIGSYS, SIGURG };
    struct gifts *g = (struct gifts *)(void *)data_of(p)->xsave; /* not in use yet */
    const uint64_t at = p->hole + STUB_PAGE + STUB_XSAVE;
    bool ok;

    gifts_write(p, g, at);
    ok = list_add(p, (struct stub_entry){ SYS_close, { CHILD_OWN_FD }, 0 }) &&
         list_add(p,
                  (struct stub_entry){ SYS_prctl, { PR_SET_NAME, at + offsetof(struct gifts, name) }, 0 }) &&
         list_add(p, (struct stub_entry){ SYS_sigaltstack, { at + offsetof(struct gifts, stack) }, 0 });
    for (size_t i = 0; ok && i < array_size(handled); i++)
        ok = list_add(
            p, (struct stub_entry){ SYS_rt_sigaction,
                                    { (uint64_t)handled[i], at + offsetof(struct gifts, action), 0, 8 },
                                    0 });
    ok = ok && list_add_clear(p) &&
         list_add(p, (struct stub_entry){ SYS_seccomp,
                                          { SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_SPEC_ALLOW,
                                            at + offsetof(struct gifts, prog) },
                                          0 }) &&
         list_add(p, (struct stub_entry){
                         SYS_rt_sigprocmask, { SIG_SETMASK, at + offsetof(struct gifts, mask), 0, 8 }, 0 });
    ok = ok && list_do(p);
    memset(g, 0, sizeof(*g));
    return ok;
}

static bool make_process(struct userproc *p, int ram_fd, int own_fd, struct yado_error *err)
{
    struct birth b = { .ram_fd = ram_fd, .own_fd = own_fd, .parent = getpid(), .listener = -1 };

    filter_write(b.filter, p->hole, SECCOMP_RET_USER_NOTIF, SECCOMP_RET_ALLOW);
    if (!start(p, &b)) {
        if (!b.error)
            return err_set(err, YADO_ERR_HOST, "the process for user code did not start");
        return err_set_errno(err, YADO_ERR_HOST, b.error, "the host allows no process for user code: %s",
                             b.step);
    }
    if (!data_map(p) || !make_empty(p))
        return err_set_errno(err, YADO_ERR_HOST, errno, "the process for user code cannot be made empty");
    return true;
}

/* As a program begins. */
static void xsave_reset(struct userproc *p)
{
    struct stub_data *d = data_of(p);

    memset(d->xsave, 0, sizeof(d->xsave));
    memcpy(d->xsave, &(uint16_t){ 0x37f }, 2);
    memcpy(d->xsave + FX_MXCSR, &(uint32_t){ 0x1f80 }, 4);
    memcpy(d->xsave + FX_MXCSR_MASK, &p->mxcsr_mask, sizeof(p->mxcsr_mask));
    p->xsave = d->xsave;
}

/* What vector registers look like is learned from a first signal. */
static bool make_xsave(struct userproc *p, struct yado_error *err)
{
    enum meaning meaning = STOP_LISTED;
    struct _fpx_sw_bytes sw = { 0 };
    uint8_t legacy[XSAVE_HEADER];
    struct stop s;

    /* It waits, so the signal makes it stop anew. */
    if (syscall(SYS_pidfd_send_signal, p->pidfd, SIGURG, NULL, 0) == 0 && wait_stop(p))
        meaning = take_stop(p, &s);
    if (meaning == STOP_LISTED || !copy_from_stack(p, legacy, s.context.fpstate, sizeof(legacy)))
        return err_set(err, YADO_ERR_HOST, "the process for user code takes no signals");
    memcpy(&sw, legacy + FX_SOFTWARE, sizeof(sw));
    if (sw.magic1 != FP_XSTATE_MAGIC1 || sw.xstate_size > sizeof(data_of(p)->xsave))
        return err_set(err, YADO_ERR_HOST, "the host does not tell vector registers");
    memcpy(&p->mxcsr_mask, legacy + FX_MXCSR_MASK, sizeof(p->mxcsr_mask));
    p->xsave_size = sw.xstate_size;
    p->xsave_features = sw.xstate_bv & ~(uint64_t)XSAVE_PKRU;
    xsave_reset(p);
    return true;
}

static bool is_handled(const struct sigaction *action)
{
    return (action->sa_flags & SA_SIGINFO) ||
           (action->sa_handler != SIG_DFL && action->sa_handler != SIG_IGN);
}

/* Has stops not sent SIGCHLD. It is not dropped where it does nothing, if the thread that made the process
 * blocks it: the kernel then wakes another thread at each stop, for nothing, which takes the CPU from the two
 * and looks like work to its balancing. False if the program seems to wait for children as they come, which
 * would take our reports. */
static bool have_quiet_stops(void)
{
    const struct sigaction quiet = { .sa_handler = SIG_DFL, .sa_flags = SA_NOCLDSTOP };
    struct sigaction action;

    if (sigaction(SIGCHLD, NULL, &action))
        return true;
    if (is_handled(&action))
        return false;
    if (action.sa_handler == SIG_IGN || (action.sa_flags & SA_NOCLDSTOP))
        return true;
    if (sigaction(SIGCHLD, &quiet, &action) == 0 && is_handled(&action)) { /* since a moment ago */
        sigaction(SIGCHLD, &action, NULL);
        return false;
    }
    return true;
}

/* Kernels from 6.11 on tell of the end of who could send notifications. */
static bool ends_are_told(void)
{
    struct utsname u;
    char *end;
    unsigned long major, minor = 0;

    if (uname(&u))
        return false;
    major = strtoul(u.release, &end, 10);
    if (*end == '.')
        minor = strtoul(end + 1, NULL, 10);
    return major > 6 || (major == 6 && minor >= 11);
}

bool userproc_make(struct userproc **out, int ram_fd, struct yado_error *err)
{
    struct userproc *p;
    int fd;

    *out = NULL;
    if (!have_quiet_stops())
        return err_set(err, YADO_ERR_HOST, "no process for user code: this program handles SIGCHLD");
    if (!(getauxval(AT_HWCAP2) & HWCAP2_FSGSBASE))
        return err_set(err, YADO_ERR_HOST, "no process for user code: the host's programs have no WRFSBASE");
    p = calloc(1, sizeof(*p));
    if (!p)
        return err_set(err, YADO_ERR_MEMORY, "no memory for a process");
    p->reaped = true;
    p->pidfd = p->listener = -1;
    p->place.cpu = -1;
    p->image = MAP_FAILED;
    p->ends_are_told = ends_are_told();
    p->hole = hole_choose();
    fd = anonfile_open("yado-user", sizeof(*p->image), true);
    if (fd >= 0)
        p->image = mmap(NULL, sizeof(*p->image), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (p->image == MAP_FAILED) {
        err_set_errno(err, YADO_ERR_HOST, errno, "the host gives no memory file");
    } else {
        struct userproc_seat seat = { 0 };

        image_write(p->image, p->hole);
        seat_take(&seat);
        if (make_process(p, ram_fd, fd, err) && make_xsave(p, err))
            *out = p;
        userproc_rest(&seat);
    }
    if (fd >= 0)
        close(fd);
    if (!*out)
        userproc_free(p);
    return *out != NULL;
}

void userproc_free(struct userproc *p)
{
    if (!p)
        return;
    if (!p->reaped) {
        syscall(SYS_pidfd_send_signal, p->pidfd, SIGKILL, NULL, 0);
        while (waitpid(p->pid, NULL, __WALL) < 0 && errno == EINTR)
            ;
    }
    if (p->listener >= 0)
        close(p->listener);
    if (p->pidfd >= 0)
        close(p->pidfd);
    if (p->image != MAP_FAILED)
        munmap(p->image, sizeof(*p->image));
    free(p);
}

bool userproc_trap(struct userproc *p, unsigned what, bool on)
{
    bool ok = true;

    if (what & USERPROC_TRAP_CPUID) /* first: it is the one that may fail */
        ok = list_add(p, (struct stub_entry){ SYS_arch_prctl, { ARCH_SET_CPUID, !on }, 0 });
    if (what & USERPROC_TRAP_TSC)
        ok = ok && list_add(p, (struct stub_entry){
                                   SYS_prctl, { PR_SET_TSC, on ? PR_TSC_SIGSEGV : PR_TSC_ENABLE }, 0 });
    return ok && list_do(p);
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
    return m->va + m->len <= p->hole || m->va >= p->hole + HOLE_LEN;
}

static bool map_goes_on(const struct userproc_map *a, const struct userproc_map *b)
{
    return a->prot == b->prot && a->va + a->len == b->va && (!a->prot || a->offset + a->len == b->offset);
}

static struct stub_entry map_entry(const struct userproc_map *m)
{
    int prot = PROT_READ, flags = MAP_SHARED | MAP_FIXED;

    if (!m->prot)
        return (struct stub_entry){ SYS_munmap, { m->va, m->len }, 0 };
    if (m->prot & USERPROC_W)
        prot |= PROT_WRITE;
    if (m->prot & USERPROC_X)
        prot |= PROT_EXEC;
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
        if (!list_add(p, map_entry(&piece)))
            return false;
    }
    return !p->gone;
}

bool userproc_clear(struct userproc *p)
{
    list_clear(p);
    return list_add_clear(p);
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
    if (sig == SIGURG && atomic_exchange(&p->kicked, false))
        return true;
    if (!signal_is_own(info))
        return false;
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

/* The vector registers of a stop stay where the kernel has put them. */
static bool xsave_find(struct userproc *p, const struct context *c)
{
    const uint64_t offset = c->fpstate - (p->hole + STUB_PAGE + STUB_STACK);

    if (offset % 64 || offset > STUB_STACK_LEN || p->xsave_size > STUB_STACK_LEN - offset)
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
    bool ok;

    atomic_store(&p->running, false);
    do
        ok = go_on(p, false, &meaning, &s);
    while (ok && meaning != STOP_LISTED);
    atomic_store(&p->running, true);
    return ok;
}

/* One way to the guest's code and back. True: the run has ended. */
static bool run_once(struct userproc *p, struct userproc_regs *regs, const void *xsave,
                     struct userproc_exit *exit)
{
    enum meaning meaning;
    struct stop s;

    regs_set(p, regs);
    xsave_set(p, xsave);
    if (!go_on(p, true, &meaning, &s)) {
        exit->lost = p->resumed;
        return true;
    }
    if (meaning == STOP_AGAIN) {
        exit->why = come_to_rest(p) ? USERPROC_KICKED : USERPROC_GONE;
        return p->gone || atomic_exchange(&p->kicked, false);
    }
    if (meaning == STOP_LISTED && !list_do(p)) {
        p->gone = true; /* as little as can be done with it */
        return true;
    }
    list_clear(p);
    if (meaning == STOP_REFUSED) {
        xsave_reset(p);
        exit->why = USERPROC_REFUSED;
        return true;
    }
    if (meaning != STOP_EXIT || !xsave_find(p, &s.context)) {
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

static bool debug_set_all(struct userproc *p, const uint64_t addr[USERPROC_BREAKS])
{
    uint64_t control = 0; /* 0 but for the enabling bits: instructions */
    bool ok = debug_set(p, 7, 0);

    for (unsigned i = 0; i < USERPROC_BREAKS; i++) {
        if (addr[i])
            control |= UINT64_C(1) << 2 * i;
        ok = ok && (!addr[i] || debug_set(p, i, addr[i]));
    }
    return ok && debug_set(p, 7, control);
}

bool userproc_set_breaks(struct userproc *p, const uint64_t addr[USERPROC_BREAKS])
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
    ok = ok && debug_set_all(p, addr);
    return ptrace(PTRACE_DETACH, p->pid, NULL, NULL) == 0 && ok; /* and it waits anew */
}

uint64_t userproc_cpu_ns(const struct userproc *p)
{
    struct timespec t = { 0 };

    clock_gettime(p->clock, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

bool userproc_get_xsave(struct userproc *p, void *xsave)
{
    if (p->gone)
        return false;
    memcpy(xsave, p->xsave, p->xsave_size);
    memset((uint8_t *)xsave + FX_SOFTWARE, 0, XSAVE_HEADER - FX_SOFTWARE);
    return true;
}
void userproc_kick(struct userproc *p)
{
    atomic_store(&p->kicked, true);
    if (!atomic_load(&p->running))
        return;
    syscall(SYS_tgkill, p->pid, p->pid, SIGURG);
    syscall(SYS_tgkill, p->pid, p->pid, SIGCONT); /* if somebody has stopped it alone */
}
