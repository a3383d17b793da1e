/* A file that tells profilers where translated code is: /tmp/perf-PID.map, one line for each block, as
 * perf(1) reads it (Linux tools/perf/Documentation/jit-interface.txt). Heavy. */
#ifndef TRANSLATOR_PERF_MAP_H
#define TRANSLATOR_PERF_MAP_H

#include "engine/translator/tvm.h"

struct perf_map;

/* The file is made, readable by its owner alone. One that is there is added to if it is this user's own, a
 * plain file with one name (a process may have several machines); anything else, above all a symbolic link,
 * is refused. */
struct perf_map *perf_map_open(struct yado_error *err);
void perf_map_close(struct perf_map *p); /* the file stays; NULL is fine */

/* `len` bytes of host code at `host` are guest code from linear address `rip` on. Any thread. */
void perf_map_add(struct perf_map *p, const void *host, uint32_t len, uint64_t rip);

#endif
