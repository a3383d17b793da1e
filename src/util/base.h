/* Vocabulary that every file may use. Includes libc only. */
#ifndef UTIL_BASE_H
#define UTIL_BASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define array_size(a) (sizeof(a) / sizeof((a)[0]))
#define container_of(ptr, type, member) ((type *)(void *)((char *)(ptr)-offsetof(type, member)))
#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)
#define printf_like(fmt, args) __attribute__((format(printf, fmt, args)))
#define cold_path __attribute__((cold, noinline))

#define KIB(n) ((uint64_t)(n) << 10)
#define MIB(n) ((uint64_t)(n) << 20)
#define GIB(n) ((uint64_t)(n) << 30)

static inline uint64_t align_up(uint64_t v, uint64_t a)
{
    return (v + a - 1) & ~(a - 1);
}
static inline uint64_t align_down(uint64_t v, uint64_t a)
{
    return v & ~(a - 1);
}
static inline uint64_t min_u64(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}
static inline uint64_t max_u64(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

/* Broken invariant of our own: the only abort of the library. Never for guest or user input. */
#define BUG_ON(cond)                                                                                         \
    do {                                                                                                     \
        if (unlikely(cond))                                                                                  \
            bug_at(__FILE__, __LINE__, #cond);                                                               \
    } while (0)
_Noreturn void bug_at(const char *file, int line, const char *what);

#endif
