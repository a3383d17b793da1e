/* What the code in a process for user code (userproc_stub.S) and its owner (userproc.c) tell each other, and
 * where. */
#ifndef HOST_LINUX_USERPROC_STUB_H
#define HOST_LINUX_USERPROC_STUB_H

#define STUB_PAGE 0x1000  /* of the code; behind it comes struct stub_data */
#define STUB_OFFSET 0x100 /* of the code in its page, behind the headers of the program */
#define STUB_CALLS 3      /* system calls in the code */
#define STUB_STOP 0x7fff  /* a number that no system call has: waits for the owner */
/* In the owner's answer: entries of the list; then go on with the registers; what lets these calls be done
 * unasked. Its lower half goes to the upper one of argument 5, the rest to that of argument 4. */
#define STUB_COUNT_MASK 0xffff
#define STUB_RESUME_BIT 16
#define STUB_PASS_SHIFT 17
#define STUB_PASS_BITS 46

#define STUB_GPR 0 /* offsets in struct stub_data */
#define STUB_IRET 128
#define STUB_FS_BASE 168
#define STUB_GS_BASE 176
#define STUB_XSAVE_MASK 184
#define STUB_SELECTORS 192
#define STUB_RESULT 200
#define STUB_SEEN_FS_BASE 208
#define STUB_SEEN_GS_BASE 216
#define STUB_SEEN_SELECTORS 224
#define STUB_XSAVE 0x1000
#define STUB_LIST 0x4000
#define STUB_LIST_LEN 0x10000
#define STUB_STACK 0x14000
#define STUB_STACK_LEN 0x10000
#define STUB_DATA_LEN 0x24000

#define STUB_OWN_FD 1 /* of the memory file with these pages, at first */

#ifndef __ASSEMBLER__
#include <stddef.h>
#include <stdint.h>

struct stub_entry {
    uint64_t nr;
    uint64_t arg[6];
    uint64_t unused;
};

struct stub_data {
    /* The owner's: registers to go on with. RSP is in iret. */
    uint64_t gpr[16];
    uint64_t iret[5]; /* RIP CS RFLAGS RSP SS */
    uint64_t fs_base, gs_base;
    uint64_t xsave_mask; /* state components to load */
    uint64_t selectors;  /* not 0: null ones have to be loaded first */
    /* The code's: what the last entry of the list came to, and what the last signal found. */
    uint64_t result;
    uint64_t seen_fs_base, seen_gs_base;
    uint16_t seen_selectors[4]; /* DS ES FS GS */
    uint8_t unused[STUB_XSAVE - STUB_SEEN_SELECTORS - 8];
    uint8_t xsave[STUB_LIST - STUB_XSAVE];
    struct stub_entry list[STUB_LIST_LEN / sizeof(struct stub_entry)]; /* system calls */
    uint8_t stack[STUB_STACK_LEN];                                     /* for signals */
};
_Static_assert(offsetof(struct stub_data, gpr) == STUB_GPR && offsetof(struct stub_data, iret) == STUB_IRET &&
                   offsetof(struct stub_data, fs_base) == STUB_FS_BASE &&
                   offsetof(struct stub_data, gs_base) == STUB_GS_BASE &&
                   offsetof(struct stub_data, xsave_mask) == STUB_XSAVE_MASK &&
                   offsetof(struct stub_data, selectors) == STUB_SELECTORS &&
                   offsetof(struct stub_data, result) == STUB_RESULT &&
                   offsetof(struct stub_data, seen_fs_base) == STUB_SEEN_FS_BASE &&
                   offsetof(struct stub_data, seen_gs_base) == STUB_SEEN_GS_BASE &&
                   offsetof(struct stub_data, seen_selectors) == STUB_SEEN_SELECTORS &&
                   offsetof(struct stub_data, xsave) == STUB_XSAVE &&
                   offsetof(struct stub_data, list) == STUB_LIST &&
                   offsetof(struct stub_data, stack) == STUB_STACK &&
                   sizeof(struct stub_data) == STUB_DATA_LEN,
               "as the code has them");

/* The code, to be copied to STUB_OFFSET. Its entry is its beginning. */
extern const uint8_t userproc_stub[], userproc_stub_end[];
extern const uint8_t userproc_stub_signal[];  /* handler of all signals */
extern const uint8_t userproc_stub_stopped[]; /* behind the system call that waits */
extern const uint8_t userproc_stub_resume[];
#endif

#endif
