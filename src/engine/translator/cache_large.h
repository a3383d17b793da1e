/* Large host pages for translated code. Theory in cache_large.c. */
#ifndef TRANSLATOR_CACHE_LARGE_H
#define TRANSLATOR_CACHE_LARGE_H

#include "engine/translator/large_worker.h"
#include "host/jitmem.h"

#define LARGE_AFTER                                                                                          \
    (256u << 10) /* so much of the first stretch is in use before a large page is made of it */
#define LARGE_BEFORE (512u << 10) /* and so much is left of one when the next is made */

struct cache_large;

/* Where code is made: the hot part and the cold one, each from its start up. */
enum large_front { LARGE_HOT, LARGE_COLD, LARGE_FRONTS };

/* The cold part starts at `cold`. NULL: the host has no large pages, or there is no worker. The worker is
 * stopped before the memory goes. */
struct cache_large *cache_large_open(struct large_worker *worker, struct jitmem *mem, size_t cold);
/* The worker has stopped. Fine on NULL. */
void cache_large_close(struct cache_large *l);
/* Code has been made up to pos, an offset in the cache. Never waits for the host; one caller at a time.
 * Heavy. Fine on NULL. */
void cache_large_reached(struct cache_large *l, enum large_front front, size_t pos);
/* How many large pages there are. Any thread; fine on NULL. */
uint64_t cache_large_count(const struct cache_large *l);

#endif
