/* The host's facts on macOS: see host_facts.h. */
#include "../host_facts.h"

#include <stdint.h>
#include <stdio.h>
#include <sys/sysctl.h>
#include <unistd.h>

static void text_print(const char *what, const char *name)
{
    char text[128];
    size_t len = sizeof(text);

    if (!sysctlbyname(name, text, &len, NULL, 0) && len)
        printf("%s: %.*s\n", what, (int)(sizeof(text) - 1), text);
}

void host_facts_print(void)
{
    uint64_t memory = 0;
    size_t len = sizeof(memory);

    text_print("macOS", "kern.osproductversion");
    text_print("cpu", "machdep.cpu.brand_string");
    printf("cpus: %ld online\n", sysconf(_SC_NPROCESSORS_ONLN));
    if (!sysctlbyname("hw.memsize", &memory, &len, NULL, 0))
        printf("memory: %llu MiB\n", (unsigned long long)memory >> 20);
}
