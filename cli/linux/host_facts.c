/* The host's facts on Linux: see host_facts.h. */
#include "../host_facts.h"

#include <cpuid.h>
#include <stdio.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include "../cli.h"

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

void host_facts_print(void)
{
    char brand[49];

    cpu_brand(brand);
    printf("cpu: %s, %ld online\n", brand, sysconf(_SC_NPROCESSORS_ONLN));
    print_features();
    print_memory();
}
