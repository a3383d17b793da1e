/* What the test kernels share: ports, printing to COM1, the end through port 0xf4. Freestanding, 32 and 64
 * bit. */
#ifndef MULTIBOOT_LIB_H
#define MULTIBOOT_LIB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

static inline void outb(uint16_t port, uint8_t v)
{
    __asm__ volatile("outb %0, %1" : : "a"(v), "Nd"(port) : "memory");
}
static inline void outw(uint16_t port, uint16_t v)
{
    __asm__ volatile("outw %0, %1" : : "a"(v), "Nd"(port) : "memory");
}
static inline void outl(uint16_t port, uint32_t v)
{
    __asm__ volatile("outl %0, %1" : : "a"(v), "Nd"(port) : "memory");
}
static inline uint8_t inb(uint16_t port)
{
    uint8_t v;
    __asm__ volatile("inb %1, %0" : "=a"(v) : "Nd"(port) : "memory");
    return v;
}
static inline uint16_t inw(uint16_t port)
{
    uint16_t v;
    __asm__ volatile("inw %1, %0" : "=a"(v) : "Nd"(port) : "memory");
    return v;
}
static inline uint32_t inl(uint16_t port)
{
    uint32_t v;
    __asm__ volatile("inl %1, %0" : "=a"(v) : "Nd"(port) : "memory");
    return v;
}

static inline uint64_t rdmsr(uint32_t n)
{
    uint32_t l, h;
    __asm__ volatile("rdmsr" : "=a"(l), "=d"(h) : "c"(n) : "memory");
    return (uint64_t)h << 32 | l;
}
static inline void wrmsr(uint32_t n, uint64_t v)
{
    __asm__ volatile("wrmsr" : : "c"(n), "a"((uint32_t)v), "d"((uint32_t)(v >> 32)) : "memory");
}
static inline uint64_t rdtsc(void)
{
    uint32_t l, h;
    __asm__ volatile("rdtsc" : "=a"(l), "=d"(h));
    return (uint64_t)h << 32 | l;
}
static inline uint32_t rd32(uintptr_t a)
{
    return *(volatile uint32_t *)a;
}
static inline void wr32(uintptr_t a, uint32_t v)
{
    *(volatile uint32_t *)a = v;
}

/* Formats: %s %d %u %x (32 bits), %X (64 bits, hexadecimal). */
void print(const char *fmt, ...);
/* One line "ok NAME" or "NOT ok NAME"; counts. */
void check(bool ok, const char *fmt, ...);
/* Ends the machine by QEMU's isa-debug-exit: the process's status is (value << 1) | 1. */
void finish(uint32_t value) __attribute__((noreturn));
extern unsigned failures;

uint32_t kernel_main(void); /* the value to end with */
#endif
