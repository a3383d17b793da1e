/* The CPU cases on every engine of this host. Arguments: names of cases to run alone. YADO_TEST_ENGINE: an
 * engine to test alone. YADO_TEST_FAST, YADO_TEST_DIRECT: kinds of running in the translator (cpu_case.c). */
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmocka.h>

#include "cpu_case.h"
#include "host/anonfile.h"
#include "host/userproc.h"
#include "limits.h"

static const struct engine_ops *const engines[] = { &engine_translator, &engine_kvm };
static const struct cpu_group *const groups[] = { &cpu_group_long, &cpu_group_system, &cpu_group_privilege,
                                                  &cpu_group_user, &cpu_group_smp,    &cpu_group_legacy };

struct plan {
    const struct engine_ops *engine;
    const struct cpu_group *group;
    const struct cpu_case *c;
};

static void run_plan(void **state)
{
    const struct plan *p = *state;
    const char *limit = cpu_limit(p->engine, p->c->name);
    char why[512] = "";

    if (cpu_case_run(p->engine, p->group, p->c, limit ? CPU_CASE_LIMITED_S : CPU_CASE_TIMEOUT_S, why,
                     sizeof(why))) {
        if (limit)
            printf("# %s on %s holds, though a limit is known: %s\n", p->c->name, p->engine->name, limit);
        return;
    }
    if (!limit)
        fail_msg("%s on %s: %s", p->c->name, p->engine->name, why);
    printf("# %s on %s: known limit: %s (%s)\n", p->c->name, p->engine->name, limit, why);
    skip();
}

static bool is_wanted(const char *name, int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], name))
            return true;
    }
    return argc < 2;
}

/* Adds the cases of all groups to plans and tests (if not NULL) and returns their number. */
static size_t collect(const struct engine_ops *engine, struct plan *plans, struct CMUnitTest *tests, int argc,
                      char **argv)
{
    size_t n = 0;

    for (size_t i = 0; i < array_size(groups); i++) {
        for (uint64_t j = 0; j < groups[i]->count; j++) {
            const struct cpu_case *c = &groups[i]->cases[j];

            if (!is_wanted(c->name, argc, argv))
                continue;
            if (argc < 2 && cpu_case_alone(engine, c->name)) {
                if (plans)
                    printf("# %s on %s: to be run alone\n", c->name, engine->name);
                continue;
            }
            if (plans) {
                plans[n] = (struct plan){ engine, groups[i], c };
                tests[n] = (struct CMUnitTest){ c->name, run_plan, NULL, NULL, &plans[n] };
            }
            n++;
        }
    }
    return n;
}

static bool engine_is_wanted(const struct engine_ops *engine)
{
    const char *only = getenv("YADO_TEST_ENGINE");

    return !only || !strcmp(only, engine->name);
}

#define MESON_SKIPPED 77

/* Whether the host runs user code directly, if that is to be tested. */
static bool direct_is_possible(void)
{
    struct yado_error err = YADO_ERROR_INIT;
    struct userproc *p = NULL;
    int fd = getenv("YADO_TEST_DIRECT") ? anonfile_open("ram", KIB(4), true) : -1;
    bool possible = !getenv("YADO_TEST_DIRECT") || userproc_make(&p, fd, &err);

    if (!possible)
        printf("# not directly: %s\n", err.message);
    userproc_free(p);
    if (fd >= 0)
        close(fd);
    return possible;
}

/* As a container or a setting of the host's may. */
static void refuse_ptrace(void)
{
    const struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_ptrace, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog prog = { array_size(filter), (struct sock_filter *)filter };

    BUG_ON(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog));
}

int main(int argc, char **argv)
{
    const char *direct = getenv("YADO_TEST_DIRECT");
    int failed = 0;

    if (direct && !strcmp(direct, "refused"))
        refuse_ptrace();
    else if (!direct_is_possible())
        return MESON_SKIPPED;

    for (size_t i = 0; i < array_size(engines); i++) {
        struct yado_error err = YADO_ERROR_INIT;
        size_t n = collect(engines[i], NULL, NULL, argc, argv);
        struct plan *plans = calloc(n, sizeof(*plans));
        struct CMUnitTest *tests = calloc(n, sizeof(*tests));

        if (!engine_is_wanted(engines[i])) {
            printf("# %s: not asked for\n", engines[i]->name);
        } else if (!engines[i]->available(&err)) {
            printf("# %s: %s\n", engines[i]->name, err.message);
        } else if (plans && tests) {
            collect(engines[i], plans, tests, argc, argv);
            failed += _cmocka_run_group_tests(engines[i]->name, tests, n, NULL, NULL);
        }
        free(plans);
        free(tests);
        if (!n) {
            fprintf(stderr, "no such case\n");
            return 2;
        }
    }
    return failed ? 1 : 0;
}
