/* Guest memory and first state of a small 64-bit guest: page tables, GDT, IDT, TSS. Used by the CPU cases and
 * by cpufuzz.
 *
 * Selectors are those of Linux, so that code which reads them sees the same as a Linux process does. */
#ifndef TESTS_CPU_LONG_GUEST_H
#define TESTS_CPU_LONG_GUEST_H

#include "util/base.h"
#include "x86/state.h"

#define LG_CODE32 0x08
#define LG_CODE64 0x10
#define LG_DATA 0x18
#define LG_USER_CODE32 0x23
#define LG_USER_DATA 0x2b
#define LG_USER_CODE64 0x33
#define LG_CODE16 0x38
#define LG_TSS 0x40
#define LG_USER_CODE16 0x53 /* free places for the cases: 0x58 up */
#define LG_FREE 0x58

/* Guest physical places within the first pages. */
#define LG_GDT 0x1000
#define LG_IDT 0x2000
#define LG_TSS_AT 0x3000
#define LG_STACK0 0x5000  /* top of ring 0's stack from the TSS (page 4) */
#define LG_IST1 0x6000    /* top of IST 1's stack (page 5) */
#define LG_TABLES 0x10000 /* page tables from here to LG_TABLES_END */
#define LG_TABLES_END 0x40000

/* Page-table entry bits. Intel SDM volume 3 (2023-12), table 4-20. */
#define PTE_P 0x1ull
#define PTE_W 0x2ull
#define PTE_U 0x4ull
#define PTE_A 0x20ull
#define PTE_D 0x40ull
#define PTE_PS 0x80ull
#define PTE_G 0x100ull
#define PTE_NX (1ull << 63)

struct long_guest {
    uint8_t *ram;
    uint64_t ram_size;
    uint64_t next_table;
    uint64_t kva; /* linear address of guest physical 0, where tables are reached */
};

/* `ram` is zeroed memory for guest physical 0. Writes GDT, IDT limit place and TSS. */
void long_guest_init(struct long_guest *g, uint8_t *ram, uint64_t ram_size, uint64_t kva);
/* Maps 4 KiB pages. Upper levels allow everything. */
void long_guest_map(struct long_guest *g, uint64_t va, uint64_t gpa, uint64_t len, uint64_t pte_bits);
/* The page-table entry of a mapped page. */
uint64_t *long_guest_pte(struct long_guest *g, uint64_t va);
/* 64-bit interrupt gate to `handler`. */
void long_guest_gate(struct long_guest *g, unsigned vector, uint64_t handler, unsigned dpl, unsigned ist);
/* Turns the state of a vCPU after reset into: long mode, ring 0 or 3, at rip with rsp, interrupts off. */
void long_guest_state(const struct long_guest *g, struct x86_state *s, unsigned ring, uint64_t rip,
                      uint64_t rsp);
/* A segment register as loading `sel` from the GDT would make it. */
struct x86_segment long_guest_segment(const struct long_guest *g, uint16_t sel);

#endif
