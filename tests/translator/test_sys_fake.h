/* A vCPU over flat memory for the tests of sys_*.c: linear address = offset in ram, protection by page, no
 * paging; a local APIC and a machine that only note what they were asked. */
#ifndef TEST_SYS_FAKE_H
#define TEST_SYS_FAKE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "engine/translator/lapic.h"
#include "engine/translator/mmu.h"
#include "engine/translator/sys.h"
#include "engine/translator/tvm.h"

#define FAKE_RAM (1u << 20)

enum { PAGE_ABSENT = 1, PAGE_READONLY = 2, PAGE_SYSTEM = 4 };

/* Where things are in fake memory */
#define A_GDT 0x1000u
#define A_LDT 0x2000u
#define A_IDT 0x3000u
#define A_TSS 0x5000u
#define A_TSS2 0x6000u
#define A_STACK0 0x9000u /* RSP0 */
#define A_STACK_IST 0xb000u
#define A_USTACK 0xd000u
#define A_STACK 0xf000u /* of the code that runs at level 0 */
#define A_CODE 0x10000u

/* Selectors of the fake GDT. Long mode and legacy mode share it. */
enum {
    SEL_CODE64 = 0x08,
    SEL_DATA0 = 0x10,
    SEL_UCODE32 = 0x18,
    SEL_UDATA = 0x20,
    SEL_UCODE64 = 0x28,
    SEL_TSS = 0x30,
    SEL_CODE32 = 0x40,
    SEL_CONFORM = 0x48,
    SEL_ABSENT = 0x50,
    SEL_XONLY = 0x58,
    SEL_LDT = 0x60,
    SEL_GATE = 0x70,
    SEL_TSS2 = 0x80,
    SEL_CODE16 = 0x90,
    SEL_TASKGATE = 0x98,
    SEL_UDATA_BIG = 0xa0,
    SEL_DATA1 = 0xa8,
    SEL_ROM0 = 0xb0,
    GDT_LIMIT = 0xff,
};

struct fake {
    struct tcpu *c;
    uint8_t *ram;
    uint8_t prot[FAKE_RAM >> 12];
    struct cpuid_model model;
    struct tvm vm;      /* only its tsc_offset */
    struct tcpu *other; /* a second vCPU, or NULL */
    unsigned flush_all, flush_nonglobal, flush_page, flush_pcids;
    uint64_t flushed_pcid; /* the last one */
    struct {
        unsigned count;
        uint64_t old, pcid;
        bool keep;
    } space;              /* mmu_change_space */
    uint32_t requests[2]; /* XR_* per vCPU */
    uint64_t host_tsc;
    uint64_t icr[8];
    unsigned icr_count;
    uint64_t lapic_base, tsc_deadline;
    uint8_t cr8;
    unsigned lapic_resets, deadline_sets, heavy;
};

extern struct fake *fake; /* of the running test */

int fake_setup(void **state);
int fake_teardown(void **state);

/* Brings the CPU into a state. code_bits 64: long mode. cpl 0 or 3. */
void fake_long(unsigned cpl);
void fake_compat(unsigned cpl);
void fake_protected(unsigned cpl);
void fake_v86(void);
void fake_real(void);

void put16(uint32_t at, uint16_t v);
void put32(uint32_t at, uint32_t v);
void put64(uint32_t at, uint64_t v);
uint16_t get16(uint32_t at);
uint32_t get32(uint32_t at);
uint64_t get64(uint32_t at);
/* Descriptors and gates. type: the byte with P, DPL, S and type. */
void put_desc(uint32_t at, uint32_t base, uint32_t limit, uint8_t type, uint8_t flags);
void put_gate(unsigned vector, uint16_t sel, uint32_t off, uint8_t type);
void put_gate64(unsigned vector, uint16_t sel, uint64_t off, uint8_t type, unsigned ist);

/* Checks that an exception is pending, takes it away. error -1: has none. */
void expect_exception(unsigned vector, int64_t error);

#endif
