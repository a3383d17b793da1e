/* What the tests of the backend share: configurations and machines through the public API, on the stand-in.
 */
#ifndef TESTS_APPLE_API_H
#define TESTS_APPLE_API_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <yado/yado.h>

#include "standin.h"

struct heard {
    char text[1024]; /* events and completions, each with ";" */
    unsigned completions;
    struct yado_error last; /* of the last completion or event */
    unsigned index;         /* of the last event */
};

/* The kernel of the running test (a file that passes for a bzImage), and a disk of 1 MiB. */
extern char api_kernel[64], api_disk[64];

int api_begin(void **state); /* setup and teardown of every test; the second looks for leaks */
int api_end(void **state);

struct yado_config *api_config(void); /* with a kernel and 64 MiB */
/* A machine of it, which consumes the configuration. Fails the test if it cannot be made. */
struct yado_machine *api_machine(struct yado_config *c, struct heard *h);
/* Does a verb and waits for its completion. */
typedef bool (*api_verb)(struct yado_machine *m, yado_completion done, void *ctx);
void api_do(struct yado_machine *m, struct heard *h, api_verb verb);
void api_on_done(void *ctx, const struct yado_error *err);
void api_completions_wait(struct yado_machine *m, struct heard *h, unsigned count);
/* Dispatches until the text has been heard. */
void api_hear(struct yado_machine *m, struct heard *h, const char *text);
/* The configuration (which it frees) is found valid, or not: with this code, and all words (NULL ends). */
void api_valid(struct yado_config *c);
void api_invalid(struct yado_config *c, enum yado_error_code code, ...);
/* Valid if the played macOS has it; else an error that names the version (and Apple silicon). */
void api_needs(struct yado_config *c, unsigned major, unsigned minor, bool is_arm64_only, const char *field);
bool api_plays(unsigned major, unsigned minor);

#endif
