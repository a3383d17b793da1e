/* yado doctor: what this host can do, and what `--engine auto` would choose. */
#include "cli.h"

#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>

#include "host_facts.h"

/* Rough, to tell apart what differs much. */
static const char *expected_speed(enum yado_engine e)
{
    switch (e) {
    case YADO_ENGINE_KVM:
    case YADO_ENGINE_APPLE: return "the speed of the host itself";
    case YADO_ENGINE_TRANSLATOR:
        return "computing at a half to nearly all of the host's speed, system calls and new processes "
               "several times slower";
    case YADO_ENGINE_AUTO: break;
    }
    return "a speed of its own";
}

/* Of one that is usable and not good: hundreds of nanoseconds an instruction, where the host needs a fraction
 * of one. */
#define POOR_SPEED "a thousandth of the host's speed: it interprets"

/* A reason as the library gives it, "what: why; what to do", in two lines. */
static void print_reason(const char *reason)
{
    const char *todo = strstr(reason, "; ");

    if (!todo) {
        printf("    why:   %s\n", reason);
        return;
    }
    printf("    why:   %.*s\n    to do: %s\n", (int)(todo - reason), reason, todo + 2);
}

static void print_engine(enum yado_engine e)
{
    struct yado_error why = YADO_ERROR_INIT;
    const char *name = yado_engine_name(e), *speed = expected_speed(e);

    if (!yado_engine_usable(e, &why)) {
        printf("engine %s: not usable\n", name);
        print_reason(why.message);
        printf("    speed: would be %s\n", speed);
    } else if (yado_engine_good(e, &why)) {
        printf("engine %s: usable\n    speed: expect %s\n", name, speed);
    } else {
        printf("engine %s: usable, but only if asked for\n", name);
        print_reason(why.message);
        printf("    speed: expect %s\n", POOR_SPEED);
    }
}

static void print_engines(void)
{
    struct yado_error err = YADO_ERROR_INIT;
    enum yado_engine choice = yado_engine_choose(&err);

    for (unsigned i = 0; i < yado_engine_count(); i++)
        print_engine(yado_engine_at(i));
    if (choice != YADO_ENGINE_AUTO)
        printf("--engine auto: %s\n", yado_engine_name(choice));
    else
        printf("--engine auto: none; no guest can run here\n");
}

/* Sizes of memory are whole MiB. */
static void print_limits(void)
{
    printf("a guest may have: %u to %u CPUs, %llu MiB to %llu MiB of memory\n",
           yado_config_minimum_allowed_cpu_count(), yado_config_maximum_allowed_cpu_count(),
           (unsigned long long)yado_config_minimum_allowed_memory_size() >> 20,
           (unsigned long long)yado_config_maximum_allowed_memory_size() >> 20);
}

int cli_doctor(int argc, char **argv)
{
    struct yado_error err = YADO_ERROR_INIT;
    struct utsname uts;

    if (argc > 0)
        return usage_error("doctor: what is \"%s\"? It takes no arguments", argv[0]);
    printf("yado %s\n", yado_version());
    if (uname(&uts) == 0)
        printf("host: %s %s %s\n", uts.sysname, uts.release, uts.machine);
    host_facts_print();
    print_engines();
    print_limits();
    return yado_engine_usable(YADO_ENGINE_AUTO, &err) ? EXIT_OK : EXIT_FAILED;
}
