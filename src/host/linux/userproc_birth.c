/* How a process for user code comes to be, and ends. Theory in userproc.c. */
#include "host/linux/userproc_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "host/anonfile.h"
#include "host/random.h"

#define HOLE_LOW 0x100000000000u /* no place where programs are usually loaded, on any system */
#define HOLE_HIGH 0x500000000000u
#define BIRTH_STACK 16384

#ifndef HWCAP2_FSGSBASE
#define HWCAP2_FSGSBASE 2 /* asm/hwcap2.h */
#endif

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

/* Guest code can jump to any byte of the page, and the address of the hole is in its headers by chance: no
 * system call must begin there, or anywhere but where the code has one. */
static bool page_is_clean(const struct image *image)
{
    static const uint8_t calls[][2] = { { 0x0f, 0x05 }, { 0x0f, 0x34 }, { 0xcd, 0x80 } };
    size_t found = 0;

    for (size_t i = 0; i + 1 < sizeof(image->bytes); i++)
        for (size_t k = 0; k < array_size(calls); k++)
            found += memcmp(image->bytes + i, calls[k], 2) == 0;
    return found == STUB_CALLS;
}

static uint64_t hole_choose(void)
{
    uint64_t r;

    random_bytes(&r, sizeof(r));
    return HOLE_LOW + r % ((HOLE_HIGH - HOLE_LOW) / PAGE - HOLE_LEN / PAGE) * PAGE;
}

/* Hardly one address in a thousand has such bytes. */
#define HOLES 100
static void page_make(struct userproc *p)
{
    for (unsigned i = 0; i < HOLES; i++) {
        p->hole = hole_choose();
        image_write(p->image, p->hole);
        if (page_is_clean(p->image))
            return;
    }
    p->hole = 0;
}

#define LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define LOAD_HIGH(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field) + 4)
#define GO_ON_IF(value, otherwise) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, 0, otherwise)
#define RETURN(action) BPF_STMT(BPF_RET | BPF_K, action)
/* Whether the call is in the page. The address is the one behind it, which at the page's beginning is that of
 * a call in front of the page. */
#define GO_ON_IF_IN(page, otherwise)                                                                         \
    LOAD_HIGH(instruction_pointer), GO_ON_IF((uint32_t)((page) >> 32), (otherwise) + 4),                     \
        LOAD(instruction_pointer),                                                                           \
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)(page), (otherwise) + 2, 0),                           \
        BPF_STMT(BPF_ALU | BPF_AND | BPF_K, ~(PAGE - 1)), GO_ON_IF((uint32_t)(page), otherwise)

/* Calls from the page wait for an answer, but for changes of mappings that have a pass. Others are not done,
 * once the second filter is there. */
#define FILTER_LEN 17
static void filter_write(struct sock_filter filter[FILTER_LEN], uint64_t page, uint64_t pass)
{
    const struct sock_filter f[FILTER_LEN] = {
        GO_ON_IF_IN(page, 10),
        LOAD_HIGH(args[4]),
        GO_ON_IF((uint32_t)pass, 7),
        LOAD_HIGH(args[3]),
        GO_ON_IF((uint32_t)(pass >> 32), 5),
        LOAD(nr),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_munmap, 4, 0),
        GO_ON_IF(SYS_mmap, 2),
        LOAD(args[4]),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, CHILD_RAM_FD, 1, 0),
        RETURN(SECCOMP_RET_USER_NOTIF),
        RETURN(SECCOMP_RET_ALLOW),
    };

    memcpy(filter, f, sizeof(f));
}

#define FILTER2_LEN 8
static void filter2_write(struct sock_filter filter[FILTER2_LEN], uint64_t page)
{
    const struct sock_filter f[FILTER2_LEN] = {
        GO_ON_IF_IN(page, 1),
        RETURN(SECCOMP_RET_ALLOW),
        RETURN(SECCOMP_RET_TRAP),
    };

    memcpy(filter, f, sizeof(f));
}

/* Neither half is what registers have by themselves. */
static uint64_t pass_choose(void)
{
    uint64_t r;

    do {
        random_bytes(&r, sizeof(r));
        r &= (UINT64_C(1) << STUB_PASS_BITS) - 1;
    } while (!(uint32_t)r || (uint32_t)r == UINT32_MAX || !(r >> 32));
    return r;
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
    return !b->error && userproc_wait_stop(p);
}

/* Has the process see its data. */
static bool data_map(struct userproc *p)
{
    const struct stub_entry map = { SYS_mmap,
                                    { p->hole + STUB_PAGE, STUB_DATA_LEN, PROT_READ | PROT_WRITE,
                                      MAP_SHARED | MAP_FIXED, CHILD_OWN_FD, STUB_PAGE },
                                    0 };

    errno = ESRCH;
    return userproc_is_call(p, &map) && userproc_answer(p, 0, SECCOMP_USER_NOTIF_FLAG_CONTINUE) &&
           userproc_wait_stop(p);
}

/* What the kernel takes from the process's memory with its first list (the kernel's sigaction has no type).
 */
struct gifts {
    uint64_t mask;
    char name[16];
    struct {
        uint64_t handler, flags, restorer, mask;
    } action;
    stack_t stack;
    struct sock_fprog prog;
    struct sock_filter filter[FILTER2_LEN];
};

/* The signals that end a run. */
static const int handled[] = { SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP, SIGSYS, SIGURG };

#define ACTION_RESTORER 0x04000000u /* there has to be one; ours returns otherwise */

static void gifts_write(const struct userproc *p, struct gifts *g, uint64_t at)
{
    static const int stopping[] = { SIGTSTP, SIGTTIN, SIGTTOU };

    memset(g, 0, sizeof(*g));
    g->mask = ~UINT64_C(0);
    for (size_t i = 0; i < array_size(handled); i++)
        g->mask &= ~(UINT64_C(1) << (handled[i] - 1));
    for (size_t i = 0; i < array_size(stopping); i++)
        g->mask &= ~(UINT64_C(1) << (stopping[i] - 1));
    memcpy(g->name, "yadouser", sizeof("yadouser"));
    g->action.handler = stub_at(p, userproc_stub_signal);
    g->action.restorer = stub_at(p, userproc_stub_signal);
    g->action.flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER | ACTION_RESTORER;
    g->stack.ss_sp = (void *)(uintptr_t)(p->hole + STUB_PAGE + STUB_STACK); // NOLINT: its address there
    g->stack.ss_size = STUB_STACK_LEN;
    g->prog.len = FILTER2_LEN;
    g->prog.filter =
        (struct sock_filter *)(uintptr_t)(at + offsetof(struct gifts, filter)); // NOLINT: the same
    filter2_write(g->filter, p->hole);
}

/* Takes away what the process was born with, and the right to do any system call from elsewhere than its
 * page, the kernel's vsyscall page included. */
static bool make_empty(struct userproc *p)
{
    struct gifts *g = (struct gifts *)(void *)data_of(p)->xsave; /* not in use yet */
    const uint64_t at = p->hole + STUB_PAGE + STUB_XSAVE;
    bool ok;

    gifts_write(p, g, at);
    ok = userproc_list_add(p, (struct stub_entry){ SYS_close, { CHILD_OWN_FD }, 0 }) &&
         userproc_list_add(
             p, (struct stub_entry){ SYS_prctl, { PR_SET_NAME, at + offsetof(struct gifts, name) }, 0 }) &&
         userproc_list_add(p,
                           (struct stub_entry){ SYS_sigaltstack, { at + offsetof(struct gifts, stack) }, 0 });
    for (size_t i = 0; ok && i < array_size(handled); i++)
        ok = userproc_list_add(
            p, (struct stub_entry){ SYS_rt_sigaction,
                                    { (uint64_t)handled[i], at + offsetof(struct gifts, action), 0, 8 },
                                    0 });
    ok = ok && userproc_list_add_clear(p) &&
         userproc_list_add(p, (struct stub_entry){ SYS_seccomp,
                                                   { SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_SPEC_ALLOW,
                                                     at + offsetof(struct gifts, prog) },
                                                   0 }) &&
         userproc_list_add(p, (struct stub_entry){ SYS_rt_sigprocmask,
                                                   { SIG_SETMASK, at + offsetof(struct gifts, mask), 0, 8 },
                                                   0 });
    ok = ok && userproc_list_do(p);
    memset(g, 0, sizeof(*g));
    return ok;
}

static bool make_process(struct userproc *p, int ram_fd, int own_fd, struct yado_error *err)
{
    struct birth b = { .ram_fd = ram_fd, .own_fd = own_fd, .parent = getpid(), .listener = -1 };

    p->pass = pass_choose();
    filter_write(b.filter, p->hole, p->pass);
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

/* What vector registers look like is learned from a first signal. */
static bool make_xsave(struct userproc *p, struct yado_error *err)
{
    enum meaning meaning = STOP_LISTED;
    struct _fpx_sw_bytes sw = { 0 };
    uint8_t legacy[XSAVE_HEADER];
    struct stop s;

    /* It waits, so the signal makes it stop anew. */
    if (syscall(SYS_pidfd_send_signal, p->pidfd, SIGURG, NULL, 0) == 0 && userproc_wait_stop(p))
        meaning = userproc_take_stop(p, &s);
    if (meaning == STOP_LISTED || !userproc_copy_from_stack(p, legacy, s.context.fpstate, sizeof(legacy)))
        return err_set(err, YADO_ERR_HOST, "the process for user code takes no signals");
    memcpy(&sw, legacy + FX_SOFTWARE, sizeof(sw));
    if (sw.magic1 != FP_XSTATE_MAGIC1 || sw.xstate_size > sizeof(data_of(p)->xsave))
        return err_set(err, YADO_ERR_HOST, "the host does not tell vector registers");
    memcpy(&p->mxcsr_mask, legacy + FX_MXCSR_MASK, sizeof(p->mxcsr_mask));
    p->xsave_size = sw.xstate_size;
    p->xsave_features = sw.xstate_bv & ~(uint64_t)XSAVE_PKRU;
    userproc_xsave_reset(p);
    return true;
}

/* Better known now than when the first one is wanted. */
static bool can_break(struct userproc *p, struct yado_error *err)
{
    static const uint64_t nowhere[USERPROC_BREAKS];

    if (userproc_set_breaks(p, nowhere))
        return true;
    return err_set_errno(err, YADO_ERR_HOST, errno, "the host allows no breakpoints in user code: ptrace");
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
    fd = anonfile_open("yado-user", sizeof(*p->image), true);
    if (fd >= 0)
        p->image = mmap(NULL, sizeof(*p->image), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (p->image == MAP_FAILED) {
        err_set_errno(err, YADO_ERR_HOST, errno, "the host gives no memory file");
    } else {
        struct userproc_seat seat = { 0 };

        page_make(p);
        seat_take(&seat);
        if (!p->hole)
            err_set(err, YADO_ERR_HOST, "no place for the code of a process for user code");
        else if (make_process(p, ram_fd, fd, err) && make_xsave(p, err) && can_break(p, err))
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
