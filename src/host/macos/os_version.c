/* The version of macOS: see host/os_version.h. */
#include "host/os_version.h"

#include <stdlib.h>
#include <sys/sysctl.h>

struct os_version os_version_get(void)
{
    struct os_version v = { 0, 0 };
    char text[32], *end;
    size_t len = sizeof(text);

    if (sysctlbyname("kern.osproductversion", text, &len, NULL, 0) || !len)
        return v;
    text[sizeof(text) - 1] = '\0';
    v.major = (unsigned)strtoul(text, &end, 10);
    if (*end == '.')
        v.minor = (unsigned)strtoul(end + 1, NULL, 10);
    return v;
}
