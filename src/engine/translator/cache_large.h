/* Large host pages for translated code. Theory in cache_large.c. */
#ifndef TRANSLATOR_CACHE_LARGE_H
#define TRANSLATOR_CACHE_LARGE_H

#include "host/jitmem.h"

#define LARGE_AFTER (256u << 10) /* so much of a stretch is in use before a large page is made of it */

struct cache_large;

/* Where code is made: the hot part and the cold one, each from its start up. */
enum large_front { LARGE_HOT, LARGE_COLD, LARGE_FRONTS };

/* The cold part starts at `cold`. NULL: the host has no large pages, or the memory is too small for them. */
struct cache_large *cache_large_start(struct jitmem *mem, size_t cold);
/* Ends the thread; the memory is still there. Fine on NULL. */
void cache_large_stop(struct cache_large *l);
/* Code has been made up to pos, an offset in the cache. Never waits for the host; one caller at a time.
 * Heavy. Fine on NULL. */
void cache_large_reached(struct cache_large *l, enum large_front front, size_t pos);
/* How many large pages there are. Any thread; fine on NULL. */
uint64_t cache_large_count(const struct cache_large *l);

#endif
