/* Processes that run user code, when somebody kills them or their owner, and on hosts that refuse what they
 * need. */
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "host/anonfile.h"
#include "host/userproc.h"

#define PAGE 4096u
#define CODE_VA 0x400000u
#define DATA_VA 0x7fff00000000u

enum { RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI };

struct fixture {
    int fd;
    uint8_t *ram; /* code, and behind it a page of data */
    struct userproc *p;
    struct userproc_regs regs;
    uint8_t *xsave;
};

/* Counts in RAX and in memory, and once in every 2^24 rounds makes a system call. */
static const uint8_t counting[] = {
    0x48, 0xff, 0xc0,                   /* 1: inc %rax */
    0x48, 0x89, 0x07,                   /* mov %rax, (%rdi) */
    0xf3, 0x48, 0x0f, 0x2a, 0xc0,       /* cvtsi2ss %rax, %xmm0: the vector registers change too */
    0x48, 0xa9, 0xff, 0xff, 0xff, 0x00, /* test $0xffffff, %rax */
    0x75, 0xed,                         /* jnz 1b */
    0x0f, 0x05,                         /* syscall */
    0xeb, 0xe9,                         /* jmp 1b */
};

static bool make(struct fixture *f, struct yado_error *err)
{
    if (!userproc_make(&f->p, f->fd, err))
        return false;
    f->xsave = calloc(1, userproc_xsave_size(f->p));
    f->regs = (struct userproc_regs){ .rip = CODE_VA, .rflags = 0x202 };
    f->regs.gpr[RDI] = DATA_VA;
    return userproc_get_xsave(f->p, f->xsave) &&
           userproc_set_maps(f->p,
                             (struct userproc_map[]){ { CODE_VA, PAGE, 0, USERPROC_X },
                                                      { DATA_VA, PAGE, PAGE, USERPROC_W } },
                             2);
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));

    f->fd = anonfile_open("ram", 2 * PAGE, true);
    f->ram = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, f->fd, 0);
    assert_ptr_not_equal(f->ram, MAP_FAILED);
    memcpy(f->ram, counting, sizeof(counting));
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    userproc_free(f->p);
    munmap(f->ram, 2 * PAGE);
    close(f->fd);
    free(f->xsave);
    free(f);
    return 0;
}

static uint64_t counter(const struct fixture *f)
{
    return *(volatile uint64_t *)(void *)(f->ram + PAGE);
}

static void *killer_main(void *arg)
{
    struct fixture *f = arg;

    while (counter(f) < 1000)
        ;
    kill(userproc_pid(f->p), SIGKILL);
    return NULL;
}

/* What it did before it was killed must not be done again: it is told that its registers are lost, if it ran.
 */
static void killed_in_a_run(void **state)
{
    struct fixture *f = *state;
    struct userproc_exit exit;
    pthread_t killer;
    uint64_t counted;
    bool ran;

    for (int i = 0; i < 50; i++) {
        memset(f->ram + PAGE, 0, 8);
        assert_true(make(f, NULL));
        assert_int_equal(pthread_create(&killer, NULL, killer_main, f), 0);
        do {
            memcpy(&counted, f->ram + PAGE, 8);
            assert_true(f->regs.gpr[RAX] == counted);
            ran = userproc_run(f->p, &f->regs, f->xsave, &exit);
        } while (ran && exit.why == USERPROC_SYSCALL);
        pthread_join(killer, NULL);
        assert_false(ran);
        assert_int_equal(exit.why, USERPROC_GONE);
        assert_true(exit.lost || memcmp(&counted, f->ram + PAGE, 8) == 0);
        assert_false(userproc_run(f->p, &f->regs, f->xsave, &exit));
        assert_int_equal(exit.why, USERPROC_GONE);
        assert_false(exit.lost);
        userproc_free(f->p);
        free(f->xsave);
        f->p = NULL;
        f->xsave = NULL;
    }
    assert_int_equal(waitpid(-1, NULL, __WALL), -1);
    assert_int_equal(errno, ECHILD);
}

/* Ends this process with what it came to: 0 as wanted. */
static void refused_child(struct fixture *f, long nr, const char *word)
{
    const struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)nr, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog prog = { array_size(filter), (struct sock_filter *)filter };
    struct yado_error err = YADO_ERROR_INIT;

    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog))
        _exit(1);
    if (userproc_make(&f->p, f->fd, &err) || f->p)
        _exit(2);
    if (err.code != YADO_ERR_HOST || !strstr(err.message, word)) {
        fprintf(stderr, "%ld: %s\n", nr, err.message);
        _exit(3);
    }
    _exit(waitpid(-1, NULL, __WALL) == -1 && errno == ECHILD ? 0 : 4);
}

/* A host that refuses one of the system calls: no process, a reason, and nothing is left. */
static void refused_by_the_host(void **state)
{
    static const struct {
        long nr;
        const char *word;
    } calls[] = {
        { SYS_ptrace, "ptrace" },     { SYS_memfd_create, "memory file" },
        { SYS_clone, "clone" },       { SYS_prctl, "prctl" },
        { SYS_seccomp, "seccomp" },   { SYS_close_range, "close_range" },
        { SYS_execveat, "execveat" }, { SYS_rt_sigaction, "made empty" },
        { SYS_munmap, "made empty" }, { SYS_sigaltstack, "made empty" },
    };
    struct fixture *f = *state;

    for (size_t i = 0; i < array_size(calls); i++) {
        int status;
        pid_t pid = fork();

        assert_true(pid >= 0);
        if (!pid)
            refused_child(f, calls[i].nr, calls[i].word);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        if (status)
            print_message("system call %ld: status %#x\n", calls[i].nr, (unsigned)status);
        assert_int_equal(status, 0);
    }
}

/* As ps shows it; 0: there is none. */
static char state_of(pid_t pid)
{
    char path[64], state = 0;
    FILE *file;

    snprintf(path, sizeof(path), "/proc/%d/stat", pid);
    file = fopen(path, "r");
    if (!file)
        return 0;
    if (fscanf(file, "%*d (%*[^)]) %c", &state) != 1)
        state = 0;
    fclose(file);
    return state;
}

/* Not even as a zombie that nobody has waited for. */
static bool is_alive(pid_t pid)
{
    char state = state_of(pid);

    return state && state != 'Z' && state != 'X';
}

/* A program, in a process group of its own, that does one run after the other. *pid: the process that it
 * drives. */
static pid_t start_owner(struct fixture *f, pid_t *pid)
{
    struct userproc_exit exit;
    int pipes[2];
    pid_t owner;

    assert_int_equal(pipe(pipes), 0);
    owner = fork();
    assert_true(owner >= 0);
    if (!owner) {
        setpgid(0, 0);
        if (!make(f, NULL))
            _exit(1);
        *pid = userproc_pid(f->p);
        if (write(pipes[1], pid, sizeof(*pid)) != sizeof(*pid))
            _exit(1);
        while (userproc_run(f->p, &f->regs, f->xsave, &exit))
            ;
        _exit(1);
    }
    assert_int_equal(read(pipes[0], pid, sizeof(*pid)), sizeof(*pid));
    close(pipes[0]);
    close(pipes[1]);
    while (counter(f) < 1000)
        ;
    return owner;
}

/* Its program is killed in the middle of a run. */
static void it_ends_with_its_program(void **state)
{
    pid_t pid, owner = start_owner(*state, &pid);

    assert_true(is_alive(pid));
    kill(owner, SIGKILL);
    waitpid(owner, NULL, 0);
    while (is_alive(pid)) /* soon; else the test's time is up */
        usleep(1000);
}

/* Its program is stopped as a terminal does it, and goes on. */
static void it_stands_still_with_its_program(void **state)
{
    struct fixture *f = *state;
    pid_t pid, owner = start_owner(f, &pid);
    uint64_t counted;

    for (int i = 0; i < 5; i++) {
        kill(-owner, i & 1 ? SIGTSTP : SIGSTOP);
        while (state_of(owner) != 'T' || state_of(pid) != 'T')
            usleep(1000);
        counted = counter(f);
        usleep(10000);
        assert_int_equal(counter(f), counted);
        kill(-owner, SIGCONT);
        while (counter(f) == counted)
            usleep(1000);
    }
    kill(owner, SIGKILL);
    waitpid(owner, NULL, 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(killed_in_a_run),
        TEST(refused_by_the_host),
        TEST(it_ends_with_its_program),
        TEST(it_stands_still_with_its_program),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
