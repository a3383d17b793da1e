/* Walking a command line of "--name value", "--name=value" and plain words. */
#ifndef CLI_ARGS_H
#define CLI_ARGS_H

#include <stdbool.h>
#include <stdint.h>

struct args {
    int argc;
    char **argv;
    int next;
    bool only_words; /* "--" was seen */
};

enum args_item { ARGS_END, ARGS_OPTION, ARGS_WORD, ARGS_ERROR };

/* One option. `names` ends with NULL; an option takes a value unless the name ends in '!' here (the value is
 * then ""). On ARGS_OPTION *index is the name's place and *value its value; on ARGS_WORD *value is the word.
 * ARGS_ERROR: the reason was said. */
enum args_item args_next(struct args *a, const char *const *names, int *index, const char **value);

/* A whole decimal number from min to max. False, and nothing said, if it is none. */
bool number_parse(const char *text, uint64_t min, uint64_t max, uint64_t *out);
/* A number of bytes with an optional K, M or G (powers of 1024), as in 512M. */
bool size_parse(const char *text, uint64_t *out);

#endif
