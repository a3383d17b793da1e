/* yado doctor: what this host can do, and what `--engine auto` would choose. */
#include "cli.h"

#include <stdio.h>
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

static void print_engines(void)
{
    struct yado_error err = YADO_ERROR_INIT;
    enum yado_engine choice = yado_engine_choose(&err);

    for (unsigned i = 0; i < yado_engine_count(); i++) {
        struct yado_error why = YADO_ERROR_INIT;
        enum yado_engine e = yado_engine_at(i);

        if (!yado_engine_usable(e, &why))
            printf("engine %s: not usable: %s\n", yado_engine_name(e), why.message);
        else if (yado_engine_good(e, &why))
            printf("engine %s: usable; expect %s\n", yado_engine_name(e), expected_speed(e));
        else
            printf("engine %s: usable, but only if asked for: %s\n", yado_engine_name(e), why.message);
    }
    if (choice != YADO_ENGINE_AUTO)
        printf("--engine auto: %s\n", yado_engine_name(choice));
    else
        printf("--engine auto: none; no guest can run here\n");
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
    return yado_engine_usable(YADO_ENGINE_AUTO, &err) ? EXIT_OK : EXIT_FAILED;
}
