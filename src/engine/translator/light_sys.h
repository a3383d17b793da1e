/* System calls for light code, without libc. Linux x86-64 syscall ABI; the kernel keeps vector registers. */
#ifndef TRANSLATOR_LIGHT_SYS_H
#define TRANSLATOR_LIGHT_SYS_H

#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>

static inline long light_syscall4(long nr, long a, long b, long c, long d)
{
    long ret;
    register long r10 __asm__("r10") = d;
    __asm__ volatile("syscall"
                     : "=a"(ret)
                     : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10)
                     : "rcx", "r11", "memory");
    return ret;
}
/* most: NULL, or for how long. */
static inline void light_futex_wait(_Atomic uint32_t *word, uint32_t seen, const struct timespec *most)
{
    light_syscall4(SYS_futex, (long)(uintptr_t)word, 0 | 128, (long)seen, (long)(uintptr_t)most);
}
static inline void light_futex_wake(_Atomic uint32_t *word)
{
    light_syscall4(SYS_futex, (long)(uintptr_t)word, 1 | 128, 0x7fffffff, 0);
}
static inline void light_yield(void)
{
    light_syscall4(SYS_sched_yield, 0, 0, 0, 0);
}

#endif
