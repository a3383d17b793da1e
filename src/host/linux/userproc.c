/* The process is a program of one page that is put together in a memory file and executed: so nothing of this
 * process, whatever its size and its threads, is ever copied, and the new one has neither our memory nor
 * signal handlers or other registrations of a C library. The page is loaded at the hole. Behind it come the
 * list pages, which the process sees read-only and which are written here.
 *
 * The code in the page does system calls one after another as the list says and stops at INT3. It does them
 * when the process is resumed by PTRACE_CONT; that happens with registers set here and before any code of the
 * guest runs again. Guest code runs under PTRACE_SYSEMU alone, where all system calls, those of this page
 * included, stop without being done. The guest can jump into the page, then, but that is of no use to it: it
 * can neither write the list nor have one call done.
 *
 * It stays in our process group: what stops that, as a terminal does, stops it too, which otherwise would go
 * on computing beside a program that stands still.
 *
 * With its first list the process takes away all that the kernel gave it: stack, vdso, descriptors. */
#include "host/userproc.h"

#include <asm/prctl.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "host/anonfile.h"
#include "host/linux/userproc_seat.h"
#include "host/random.h"

#define PAGE 4096u
#define USER_TOP 0x7ffffffff000u /* where user space ends, with five levels of page tables too */
#define HOLE_LOW 0x100000000000u /* no place where programs are usually loaded, on any system */
#define HOLE_HIGH 0x500000000000u
#define LIST_PAGES 16u
#define HOLE_LEN ((1 + LIST_PAGES) * PAGE)
#define CODE_OFFSET 0x100u /* in the page, behind the headers */
#define CODE_ONE CODE_OFFSET
#define CODE_ONE_END (CODE_OFFSET + 0x3)
#define CODE_LIST CODE_ONE_END
#define CODE_LIST_END (CODE_OFFSET + 0x31)
#define CODE_FLAGS CODE_LIST_END
#define CODE_FLAGS_END (CODE_OFFSET + 0x33)
/* Writable pieces of these sizes get their pages at once, 1.4 us and 0.2 us a page against 0.9 us for each
 * page that is touched. Reads find 16 pages at each fault, and of large pieces most may never be touched. */
#define POPULATE_MIN (4 * PAGE)
#define POPULATE_MAX (16 * PAGE)

#define CHILD_RAM_FD 0
#define CHILD_OWN_FD 1

#define BIRTH_STACK 16384

#define FLAGS_IF 0x200u
#define FLAGS_ID 0x200000u
#define FLAGS_IN                                                                                             \
    (0x1u | 0x4u | 0x10u | 0x40u | 0x80u | 0x400u | 0x800u | 0x40000u) /* CF PF AF ZF SF DF OF AC */

struct list_entry {
    uint64_t nr;
    uint64_t arg[6];
    uint64_t unused;
};
#define LIST_MAX (LIST_PAGES * PAGE / sizeof(struct list_entry))

/* The page as the file has it, and then the list. */
struct image {
    union {
        struct {
            Elf64_Ehdr ehdr;
            Elf64_Phdr phdr[2];
        };
        uint8_t bytes[PAGE];
    };
    struct list_entry list[LIST_MAX];
};

static const uint8_t image_code[] = {
    /* CODE_ONE */
    0x0f, 0x05, /* syscall */
    0xcc,       /* int3 */
    /* CODE_LIST: RBX is the entry's address, EBP the number of entries, at least 1 */
    0x48, 0x8b, 0x03,                   /* mov (%rbx), %rax */
    0x48, 0x8b, 0x7b, 0x08,             /* mov 0x8(%rbx), %rdi */
    0x48, 0x8b, 0x73, 0x10,             /* mov 0x10(%rbx), %rsi */
    0x48, 0x8b, 0x53, 0x18,             /* mov 0x18(%rbx), %rdx */
    0x4c, 0x8b, 0x53, 0x20,             /* mov 0x20(%rbx), %r10 */
    0x4c, 0x8b, 0x43, 0x28,             /* mov 0x28(%rbx), %r8 */
    0x4c, 0x8b, 0x4b, 0x30,             /* mov 0x30(%rbx), %r9 */
    0x0f, 0x05,                         /* syscall */
    0x48, 0x3d, 0x01, 0xf0, 0xff, 0xff, /* cmp $-4095, %rax */
    0x73, 0x08,                         /* jae 1f: it has failed, EBP is not 0 */
    0x48, 0x83, 0xc3, 0x40,             /* add $0x40, %rbx */
    0xff, 0xcd,                         /* dec %ebp */
    0x75, 0xd3,                         /* jnz CODE_LIST */
    0xcc,                               /* 1: int3 */
    /* CODE_FLAGS: the list begins with the flags */
    0x9d, /* popfq */
    0xcc, /* int3 */
};

struct userproc {
    pid_t pid;
    clockid_t clock;            /* its CPU time */
    struct userproc_seat *seat; /* may be NULL */
    struct seat_child place;
    bool gone;  /* nothing can be done with it */
    bool dying; /* somebody has killed it; it stands at its end, with the registers that it was killed with */
    bool reaped; /* it is no child of ours any more, not even a dead one */
    uint64_t hole;
    uint64_t breaks; /* DR7 */
    struct image *image;
    struct user_regs_struct regs; /* as they were last, with the selectors of a 64-bit program */
    size_t xsave_size;
    void *xsave; /* what the process has in its vector registers, if known */
    bool xsave_known;
    /* A kick is never lost: one side sets kicked and then looks at running, the other sets running and then
     * looks at kicked. A signal that comes late, when another stop was first, finds kicked already taken and
     * the run goes on. */
    atomic_bool kicked;
    atomic_bool running;
};

/* ---- stopping and resuming ---- */

/* Waits until it has stopped; *sig is the signal of the stop. */
static bool wait_stop(struct userproc *p, int *sig)
{
    int status;

    for (;;) {
        if (waitpid(p->pid, &status, __WALL) >= 0)
            break;
        if (errno != EINTR) {
            p->gone = p->reaped = true;
            return false;
        }
    }
    if (!WIFSTOPPED(status)) {
        p->gone = p->reaped = true;
        return false;
    }
    p->dying = status >> 16 == PTRACE_EVENT_EXIT;
    *sig = WSTOPSIG(status);
    return true;
}

static bool resume(struct userproc *p, int request)
{
    /* glibc has an enum for the requests, others an int. */
    if (ptrace((__typeof__(PTRACE_CONT))request, p->pid, NULL, NULL) == 0)
        return true;
    p->gone = true;
    return false;
}

static bool siginfo_get(struct userproc *p, siginfo_t *info)
{
    if (ptrace(PTRACE_GETSIGINFO, p->pid, NULL, info) == 0)
        return true;
    p->gone = true;
    return false;
}

/* Whether the code raised the signal, rather than somebody sent it. */
static bool signal_is_own(int sig, const siginfo_t *info)
{
    static const int own[] = { SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP, SIGSYS };

    for (size_t i = 0; i < array_size(own); i++)
        if (sig == own[i])
            return info->si_code > 0;
    return false;
}

/* Runs our own code in the process, which stops at the INT3 before `end`. p->regs holds with what, and then
 * what it came to. */
static bool code_run(struct userproc *p, uint64_t begin, uint64_t end)
{
    int sig;

    p->regs.rip = p->hole + begin;
    p->regs.orig_rax = UINT64_MAX;
    p->regs.eflags = FLAGS_IF;
    p->regs.fs_base = p->regs.gs_base = 0; /* guest code can give itself some that ptrace would not */
    if (p->gone || ptrace(PTRACE_SETREGS, p->pid, NULL, &p->regs)) {
        p->gone = true;
        return false;
    }
    /* Another stop is a signal from outside, or a kick that has come too late. */
    do {
        if (!resume(p, PTRACE_CONT) || !wait_stop(p, &sig))
            return false;
        if (p->dying || ptrace(PTRACE_GETREGS, p->pid, NULL, &p->regs)) {
            p->gone = true;
            return false;
        }
    } while (p->regs.rip != p->hole + end);
    return true;
}

/* Does the first n entries of the list. False if one fails. */
static bool list_run(struct userproc *p, size_t n)
{
    bool done;

    if (!n)
        return true;
    errno = ESRCH;
    p->regs.rbx = p->hole + PAGE;
    p->regs.rbp = n;
    done = code_run(p, CODE_LIST, CODE_LIST_END) && p->regs.rbp == 0;
    if (!done && !p->gone)
        errno = (int)-(int64_t)p->regs.rax;
    memset(p->image->list, 0, n * sizeof(p->image->list[0]));
    return done;
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
        .e_entry = hole + CODE_ONE + 2, /* INT3: not traced it would die at once */
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
    memcpy(image->bytes + CODE_OFFSET, image_code, sizeof(image_code));
}

static uint64_t hole_choose(void)
{
    uint64_t r;

    random_bytes(&r, sizeof(r));
    return HOLE_LOW + r % ((HOLE_HIGH - HOLE_LOW) / PAGE - HOLE_LEN / PAGE) * PAGE;
}

/* What the child is to do before it is a program of its own. It shares our memory until then, while this
 * thread waits. */
struct birth {
    int ram_fd, own_fd;
    int error; /* errno, and the step that failed */
    const char *step;
};

static bool birth_steps(struct birth *b)
{
    char *none[] = { NULL };
    sigset_t mask;
    int ram, own;

    /* The signal of a successful exec has to come through; all others wait until it is done. */
    sigfillset(&mask);
    sigdelset(&mask, SIGTRAP);
    b->step = "ptrace";
    if (syscall(SYS_rt_sigprocmask, SIG_SETMASK, &mask, NULL, 8) ||
        syscall(SYS_ptrace, PTRACE_TRACEME, 0, 0, 0))
        return false;
    b->step = "descriptors";
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
    b->error = errno;
    syscall(SYS_exit_group, 1);
    return 1;
}

/* Starts the process, stopped at its first instruction. */
static bool start(struct userproc *p, struct birth *b)
{
    uint8_t *stack = malloc(BIRTH_STACK);
    sigset_t all, callers;
    int sig;

    if (!stack) {
        b->error = ENOMEM;
        b->step = "stack";
        return false;
    }

    /* A signal handler of ours must not run in the child. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &callers);
    /* No signal at its end: nobody but us is to notice. */
    p->pid = clone(birth_main, stack + BIRTH_STACK, CLONE_VM | CLONE_VFORK, b);
    if (p->pid < 0) {
        b->error = errno;
        b->step = "clone";
    }
    pthread_sigmask(SIG_SETMASK, &callers, NULL);
    free(stack);
    if (p->pid < 0)
        return false;
    p->reaped = false;
    if (clock_getcpuclockid(p->pid, &p->clock)) {
        b->error = ESRCH;
        b->step = "its clock";
    }
    seat_child_init(&p->place, p->pid);
    return wait_stop(p, &sig) && sig == SIGTRAP && !b->error &&
           ptrace(PTRACE_SETOPTIONS, p->pid, NULL,
                  PTRACE_O_EXITKILL | PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACEEXIT) == 0 &&
           ptrace(PTRACE_GETREGS, p->pid, NULL, &p->regs) == 0;
}

/* Has the process see the list. */
static bool list_map(struct userproc *p)
{
    p->regs.rax = SYS_mmap;
    p->regs.rdi = p->hole + PAGE;
    p->regs.rsi = LIST_PAGES * PAGE;
    p->regs.rdx = PROT_READ;
    p->regs.r10 = MAP_SHARED | MAP_FIXED;
    p->regs.r8 = CHILD_OWN_FD;
    p->regs.r9 = offsetof(struct image, list);
    errno = ESRCH;
    if (!code_run(p, CODE_ONE, CODE_ONE_END))
        return false;
    errno = (int)-(int64_t)p->regs.rax; /* of some meaning if it failed */
    return p->regs.rax == p->hole + PAGE;
}

/* Entries of the list that unmap all but the hole. */
static size_t list_add_clear(struct userproc *p, size_t n)
{
    const uint64_t end = p->hole + HOLE_LEN;

    p->image->list[n] = (struct list_entry){ SYS_munmap, { 0, p->hole }, 0 };
    p->image->list[n + 1] = (struct list_entry){ SYS_munmap, { end, USER_TOP - end }, 0 };
    return n + 2;
}

/* Takes away what the process was born with, and the right to do any system call from elsewhere than its
 * page. That is for the kernel's vsyscall page, too, whose calls PTRACE_SYSEMU does not see: they become
 * SIGSYS. */
static bool make_empty(struct userproc *p)
{
    struct {
        uint64_t no_signals;
        char name[8];
        struct sock_fprog prog;
        struct sock_filter filter[7];
    } *data = (void *)&p->image->list[LIST_MAX / 2]; /* entries that are none */
    const uint64_t at = p->hole + (uint64_t)((uint8_t *)data - p->image->bytes);
    const uint32_t ip = offsetof(struct seccomp_data, instruction_pointer);
    const struct sock_filter filter[7] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, ip + 4),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)(p->hole >> 32), 0, 4),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, ip),
        BPF_STMT(BPF_ALU | BPF_AND | BPF_K, ~(PAGE - 1)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)p->hole, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
    };
    struct list_entry *list = p->image->list;
    size_t n = 0;
    bool done;

    memcpy(data->name, "yadouser", sizeof(data->name));
    memcpy(data->filter, filter, sizeof(filter));
    data->prog.len = array_size(filter);
    data->prog.filter = (struct sock_filter *)(at + offsetof(__typeof__(*data), filter));
    list[n++] = (struct list_entry){ SYS_close, { CHILD_OWN_FD }, 0 };
    list[n++] = (struct list_entry){ SYS_rt_sigprocmask, { SIG_SETMASK, at, 0, 8 }, 0 };
    list[n++] = (struct list_entry){ SYS_prctl, { PR_SET_NAME, at + offsetof(__typeof__(*data), name) }, 0 };
    list[n++] = (struct list_entry){ SYS_prctl, { PR_SET_NO_NEW_PRIVS, 1 }, 0 };
    list[n++] = (struct list_entry){ SYS_seccomp,
                                     { SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_SPEC_ALLOW,
                                       at + offsetof(__typeof__(*data), prog) },
                                     0 };
    n = list_add_clear(p, n);
    done = list_run(p, n);
    memset(data, 0, sizeof(*data));
    return done;
}

static bool make_process(struct userproc *p, int ram_fd, int own_fd, struct yado_error *err)
{
    struct birth b = { .ram_fd = ram_fd, .own_fd = own_fd };

    if (!start(p, &b)) {
        if (!b.error)
            return err_set(err, YADO_ERR_HOST, "the process for user code did not start");
        return err_set_errno(err, YADO_ERR_HOST, b.error, "the host allows no process for user code: %s",
                             b.step);
    }
    if (!list_map(p) || !make_empty(p))
        return err_set_errno(err, YADO_ERR_HOST, errno, "the process for user code cannot be made empty");
    return true;
}

static bool make_xsave(struct userproc *p, struct yado_error *err)
{
    struct iovec io = { .iov_len = KIB(64) };

    p->xsave = calloc(1, io.iov_len);
    if (!p->xsave)
        return err_set(err, YADO_ERR_MEMORY, "no memory for registers");
    io.iov_base = p->xsave;
    if (ptrace(PTRACE_GETREGSET, p->pid, NT_X86_XSTATE, &io))
        return err_set_errno(err, YADO_ERR_HOST, errno, "the host does not tell vector registers");
    p->xsave_size = io.iov_len;
    p->xsave_known = true;
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

bool userproc_make(struct userproc **out, int ram_fd, struct yado_error *err)
{
    struct userproc *p;
    int fd;

    *out = NULL;
    if (!have_quiet_stops())
        return err_set(err, YADO_ERR_HOST, "no process for user code: this program handles SIGCHLD");
    p = calloc(1, sizeof(*p));
    if (!p)
        return err_set(err, YADO_ERR_MEMORY, "no memory for a process");
    p->reaped = true;
    p->place.cpu = -1;
    p->image = MAP_FAILED;
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
    int status;

    if (!p)
        return;
    if (!p->reaped) {
        /* Its number is not that of another process by now, which kill() could not be sure of. If its thread
         * has ended it has been killed. */
        ptrace(PTRACE_KILL, p->pid, NULL, NULL);
        if (p->dying) /* by itself, once it may */
            ptrace(PTRACE_CONT, p->pid, NULL, NULL);
        while (waitpid(p->pid, &status, __WALL) < 0 ? errno == EINTR : WIFSTOPPED(status))
            ptrace(PTRACE_CONT, p->pid, NULL, NULL);
    }
    if (p->image != MAP_FAILED)
        munmap(p->image, sizeof(*p->image));
    free(p->xsave);
    free(p);
}

bool userproc_trap(struct userproc *p, unsigned what, bool on)
{
    size_t n = 0;

    if (what & USERPROC_TRAP_CPUID) /* first: it is the one that may fail */
        p->image->list[n++] = (struct list_entry){ SYS_arch_prctl, { ARCH_SET_CPUID, !on }, 0 };
    if (what & USERPROC_TRAP_TSC)
        p->image->list[n++] =
            (struct list_entry){ SYS_prctl, { PR_SET_TSC, on ? PR_TSC_SIGSEGV : PR_TSC_ENABLE }, 0 };
    return list_run(p, n);
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

static struct list_entry map_entry(const struct userproc_map *m)
{
    int prot = PROT_READ, flags = MAP_SHARED | MAP_FIXED;

    if (!m->prot)
        return (struct list_entry){ SYS_munmap, { m->va, m->len }, 0 };
    if (m->prot & USERPROC_W)
        prot |= PROT_WRITE;
    if (m->prot & USERPROC_X)
        prot |= PROT_EXEC;
    if ((m->prot & USERPROC_W) && m->len >= POPULATE_MIN && m->len <= POPULATE_MAX)
        flags |= MAP_POPULATE;
    return (struct list_entry){ SYS_mmap, { m->va, m->len, prot, flags, CHILD_RAM_FD, m->offset }, 0 };
}

bool userproc_set_maps(struct userproc *p, const struct userproc_map *map, unsigned n)
{
    struct userproc_map piece;
    size_t used = 0;

    seat_begin(p->seat, &p->place);
    for (unsigned i = 0; i < n;) {
        piece = map[i];
        if (!map_is_allowed(p, &piece))
            return false;
        for (i++; i < n && map_is_allowed(p, &map[i]) && map_goes_on(&piece, &map[i]); i++)
            piece.len += map[i].len;
        p->image->list[used++] = map_entry(&piece);
        if (used == LIST_MAX) {
            if (!list_run(p, used))
                return false;
            used = 0;
        }
    }
    return list_run(p, used);
}

bool userproc_clear(struct userproc *p)
{
    seat_begin(p->seat, &p->place);
    return list_run(p, list_add_clear(p, 0));
}

/* ---- running ---- */

/* ptrace does not set ID; the process has to do that itself. Programs change it to find out about CPUID and
 * hardly ever else. */
static bool flags_set_id(struct userproc *p, uint64_t rflags)
{
    if (((p->regs.eflags ^ rflags) & FLAGS_ID) == 0)
        return true;
    memcpy(p->image->list, &(uint64_t){ FLAGS_IF | (rflags & FLAGS_ID) }, 8);
    p->regs.rsp = p->hole + PAGE;
    return code_run(p, CODE_FLAGS, CODE_FLAGS_END);
}

static bool regs_set(struct userproc *p, const struct userproc_regs *regs)
{
    struct user_regs_struct *r = &p->regs;
    const uint64_t *g = regs->gpr;

    if (!flags_set_id(p, regs->rflags))
        return false;
    r->rax = g[0], r->rcx = g[1], r->rdx = g[2], r->rbx = g[3];
    r->rsp = g[4], r->rbp = g[5], r->rsi = g[6], r->rdi = g[7];
    r->r8 = g[8], r->r9 = g[9], r->r10 = g[10], r->r11 = g[11];
    r->r12 = g[12], r->r13 = g[13], r->r14 = g[14], r->r15 = g[15];
    r->rip = regs->rip;
    r->eflags = (regs->rflags & FLAGS_IN) | FLAGS_IF;
    r->orig_rax = UINT64_MAX; /* no system call is to be begun again */
    r->fs_base = regs->fs_base;
    r->gs_base = regs->gs_base;
    return ptrace(PTRACE_SETREGS, p->pid, NULL, r) == 0;
}

static bool regs_get(struct userproc *p, struct userproc_regs *regs, struct userproc_exit *exit)
{
    const struct user_regs_struct old = p->regs;
    struct user_regs_struct *r = &p->regs;
    uint64_t *g = regs->gpr;

    if (ptrace(PTRACE_GETREGS, p->pid, NULL, r))
        return false;
    if (p->dying && (int64_t)r->orig_rax >= 0)
        exit->why = USERPROC_SYSCALL; /* which was not done */
    g[0] = exit->why == USERPROC_SYSCALL ? r->orig_rax : r->rax;
    g[1] = r->rcx, g[2] = r->rdx, g[3] = r->rbx;
    g[4] = r->rsp, g[5] = r->rbp, g[6] = r->rsi, g[7] = r->rdi;
    g[8] = r->r8, g[9] = r->r9, g[10] = r->r10, g[11] = r->r11;
    g[12] = r->r12, g[13] = r->r13, g[14] = r->r14, g[15] = r->r15;
    regs->rip = r->rip;
    if (exit->signal == SIGSYS) {
        /* The kernel has returned from the page already, with nothing done. */
        regs->rip = exit->addr;
        g[4] -= 8;
    }
    regs->rflags = r->eflags;
    regs->fs_base = r->fs_base;
    regs->gs_base = r->gs_base;
    exit->selectors_changed = r->cs != old.cs || r->ss != old.ss || r->ds != old.ds || r->es != old.es ||
                              r->fs != old.fs || r->gs != old.gs;
    exit->cs = (uint16_t)r->cs, exit->ss = (uint16_t)r->ss, exit->ds = (uint16_t)r->ds;
    exit->es = (uint16_t)r->es, exit->fs = (uint16_t)r->fs, exit->gs = (uint16_t)r->gs;
    r->cs = old.cs, r->ss = old.ss, r->ds = old.ds, r->es = old.es, r->fs = old.fs, r->gs = old.gs;
    return true;
}

static bool xsave_set(struct userproc *p, const void *xsave)
{
    struct iovec io = { .iov_base = (void *)xsave, .iov_len = p->xsave_size };

    if (!xsave || (p->xsave_known && memcmp(xsave, p->xsave, p->xsave_size) == 0))
        return true;
    p->xsave_known = false;
    return ptrace(PTRACE_SETREGSET, p->pid, NT_X86_XSTATE, &io) == 0;
}

/* A register of the debug facility. SDM volume 3, 18.2. */
static bool debug_set(struct userproc *p, unsigned n, uint64_t v)
{
    return ptrace(PTRACE_POKEUSER, p->pid, offsetof(struct user, u_debugreg) + n * sizeof(v), v) == 0;
}

bool userproc_break(struct userproc *p, unsigned slot, uint64_t addr)
{
    uint64_t bit = 1u << 2 * slot; /* of DR7; 0 in the rest of it: instructions */

    if (p->gone || slot >= USERPROC_BREAKS || !debug_set(p, 7, p->breaks & ~bit))
        return false;
    p->breaks &= ~bit;
    if (!addr)
        return true;
    if (!debug_set(p, slot, addr) || !debug_set(p, 7, p->breaks | bit))
        return false;
    p->breaks |= bit;
    return true;
}

uint64_t userproc_cpu_ns(const struct userproc *p)
{
    struct timespec t = { 0 };

    clock_gettime(p->clock, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

bool userproc_get_xsave(struct userproc *p, void *xsave)
{
    struct iovec io = { .iov_base = p->xsave, .iov_len = p->xsave_size };

    if (!p->xsave_known && ptrace(PTRACE_GETREGSET, p->pid, NT_X86_XSTATE, &io)) {
        p->gone = true;
        return false;
    }
    p->xsave_known = true;
    memcpy(xsave, p->xsave, p->xsave_size);
    return true;
}

/* Whether a stop ends the run, and as what. */
static bool stop_counts(struct userproc *p, int sig, struct userproc_exit *exit)
{
    siginfo_t info;

    *exit = (struct userproc_exit){ .why = USERPROC_SYSCALL };
    if (sig == (SIGTRAP | 0x80))
        return true;
    exit->why = USERPROC_KICKED;
    if (p->dying)
        return true;
    if (sig == SIGURG && atomic_exchange(&p->kicked, false))
        return true;
    exit->why = USERPROC_GONE;
    if (!siginfo_get(p, &info))
        return true;
    exit->signal = sig;
    if (sig == SIGSYS) {
        exit->why = USERPROC_FAULT;
        exit->has_addr = true;
        exit->addr = (uintptr_t)info.si_call_addr;
        return signal_is_own(sig, &info);
    }
    exit->step = sig == SIGTRAP && info.si_code == TRAP_TRACE;
    exit->int3 = sig == SIGTRAP && info.si_code == SI_KERNEL;
    exit->why = sig == SIGSEGV || sig == SIGBUS ? USERPROC_FAULT : USERPROC_TRAP;
    exit->has_addr = exit->why == USERPROC_FAULT && info.si_code != SI_KERNEL &&
                     (sig == SIGSEGV || info.si_code != BUS_ADRALN);
    exit->addr = exit->has_addr ? (uintptr_t)info.si_addr : 0;
    return signal_is_own(sig, &info);
}

static void run_until_stop(struct userproc *p, struct userproc_exit *exit)
{
    int sig;

    do {
        if (!resume(p, PTRACE_SYSEMU) || !wait_stop(p, &sig)) {
            exit->why = USERPROC_GONE;
            return;
        }
    } while (!stop_counts(p, sig, exit));
}

bool userproc_run(struct userproc *p, struct userproc_regs *regs, void *xsave, struct userproc_exit *exit)
{
    *exit = (struct userproc_exit){ .why = USERPROC_GONE };
    if (p->gone)
        return false;
    atomic_store(&p->running, true);
    if (atomic_exchange(&p->kicked, false)) {
        atomic_store(&p->running, false);
        exit->why = USERPROC_KICKED;
        return true;
    }
    seat_begin(p->seat, &p->place);
    if (!regs_set(p, regs) || !xsave_set(p, xsave)) {
        p->gone = p->gone || errno == ESRCH;
        exit->why = p->gone ? USERPROC_GONE : USERPROC_REFUSED;
    } else {
        p->xsave_known = false;
        run_until_stop(p, exit);
    }
    atomic_store(&p->running, false);
    if (exit->why == USERPROC_GONE || exit->why == USERPROC_REFUSED)
        return false;
    bool got = regs_get(p, regs, exit) && (!xsave || userproc_get_xsave(p, xsave));
    p->gone = !got || p->dying;
    if (got)
        return true;
    exit->why = USERPROC_GONE;
    return false;
}

void userproc_kick(struct userproc *p)
{
    atomic_store(&p->kicked, true);
    if (atomic_load(&p->running))
        syscall(SYS_tgkill, p->pid, p->pid, SIGURG);
}
