/* Facts about Virtualization.framework (and what is used of Foundation), from manifest.json: see
 * tools/vz-manifest. Encodings are those of x86-64. */
#ifndef TESTS_APPLE_MANIFEST_H
#define TESTS_APPLE_MANIFEST_H

#include "host/os_version.h"

#define FACT_ARGUMENTS_MAX 6

struct fact_method {
    const char *selector, *encoding;
    const char *returns;                       /* in Objective-C; NULL: not known (Foundation) */
    const char *arguments[FACT_ARGUMENTS_MAX]; /* likewise */
    struct os_version since;
    bool is_class_method, is_arm64_only;
    long value; /* by default, of a getter that returns a number */
};

struct fact_class {
    const char *name, *super; /* NULL: a root */
    const char *conforms[3];  /* protocols of the framework */
    struct os_version since;
    bool is_arm64_only;
    bool new_unavailable, not_created;
    const struct fact_method *methods; /* the last one has no selector */
};

struct fact_constant {
    const char *name;
    long value;
    struct os_version since;
};

/* The last of each has no name. */
extern const struct fact_class fact_classes[];
extern const struct fact_class fact_protocols[];
extern const struct fact_constant fact_constants[];

#endif
