/* yado doctor: what this host can do, and what `--engine auto` would choose. */
#include "cli.h"

#include <cpuid.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/sysinfo.h>
#include <sys/utsname.h>
#include <unistd.h>

#define HWCAP2_FSGSBASE (1u << 1) /* Linux arch/x86/include/uapi/asm/hwcap2.h */

static void cpu_brand(char out[49])
{
    unsigned regs[12] = { 0 };

    for (unsigned i = 0; i < 3; i++)
        __get_cpuid(0x80000002u + i, &regs[4 * i], &regs[4 * i + 1], &regs[4 * i + 2], &regs[4 * i + 3]);
    memcpy(out, regs, sizeof(regs));
    out[48] = 0;
}

enum { EAX, EBX, ECX, EDX };

static const struct feature {
    const char *name;
    unsigned leaf;
    int reg;
    unsigned bit;
} features[] = {
    /* Intel SDM volume 2, CPUID */
    { "sse4.2", 1, ECX, 20 },
    { "popcnt", 1, ECX, 23 },
    { "cx16", 1, ECX, 13 },
    { "aes", 1, ECX, 25 },
    { "xsave", 1, ECX, 26 },
    { "avx", 1, ECX, 28 },
    { "rdrand", 1, ECX, 30 },
    { "avx2", 7, EBX, 5 },
    { "bmi2", 7, EBX, 8 },
    { "fsgsbase", 7, EBX, 0 },
    { "sha", 7, EBX, 29 },
    { "erms", 7, EBX, 9 },
    { "rdtscp", 0x80000001, EDX, 27 },
    { "invariant-tsc", 0x80000007, EDX, 8 },
};

static void print_features(void)
{
    printf("features:");
    for (size_t i = 0; i < count_of(features); i++) {
        unsigned regs[4] = { 0 };

        __get_cpuid_count(features[i].leaf, 0, &regs[EAX], &regs[EBX], &regs[ECX], &regs[EDX]);
        if (regs[features[i].reg] >> features[i].bit & 1)
            printf(" %s", features[i].name);
    }
    printf("\nfsgsbase instructions in user mode: %s\n",
           getauxval(AT_HWCAP2) & HWCAP2_FSGSBASE ? "yes" : "no (kernel older than 5.9, or nofsgsbase)");
}

static void print_memory(void)
{
    struct sysinfo info;
    char line[128];
    unsigned long long available = 0;
    FILE *f = fopen("/proc/meminfo", "re");

    while (f && fgets(line, sizeof(line), f)) {
        if (sscanf(line, "MemAvailable: %llu kB", &available) == 1)
            break;
    }
    if (f)
        fclose(f);
    if (sysinfo(&info) == 0)
        printf("memory: %llu MiB, %llu MiB available\n",
               (unsigned long long)info.totalram * info.mem_unit >> 20, available >> 10);
}

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

int cli_doctor(int argc, char **argv)
{
    struct yado_error err = YADO_ERROR_INIT;
    struct utsname uts;
    char brand[49];

    if (argc > 0)
        return usage_error("doctor: what is \"%s\"? It takes no arguments", argv[0]);
    printf("yado %s\n", yado_version());
    if (uname(&uts) == 0)
        printf("host: %s %s %s\n", uts.sysname, uts.release, uts.machine);
    cpu_brand(brand);
    printf("cpu: %s, %ld online\n", brand, sysconf(_SC_NPROCESSORS_ONLN));
    print_features();
    print_memory();
    print_engines();
    return yado_engine_usable(YADO_ENGINE_AUTO, &err) ? EXIT_OK : EXIT_FAILED;
}
