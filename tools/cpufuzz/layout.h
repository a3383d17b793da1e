/* Addresses and sizes that C and driver.S share.
 *
 * What a sequence may touch lies low, so that 32-bit displacements and 32-bit addresses reach it. What must
 * survive wild stores lies high, where they cannot reach it. */
#ifndef CPUFUZZ_LAYOUT_H
#define CPUFUZZ_LAYOUT_H

#define FUZZ_PAGE 4096
#define FUZZ_BATCH 128
#define FUZZ_INSNS 48
#define FUZZ_CODE_MAX 1024

#define FUZZ_DRIVER_VA 0x2b6d0000 /* no shift or rotation of a code address */
#define FUZZ_DRIVER_SIZE 4096
#define FUZZ_CODE_VA 0x10000000 /* r-x */
#define FUZZ_CODE_SIZE 0x40000  /* so no code address has bit 18, AC, when it gets into RFLAGS */
#define FUZZ_DATA_VA 0x20000000 /* rw, 2 pages; then 1 read-only page; nothing around them */
#define FUZZ_DATA_SIZE 0x2000
#define FUZZ_STACK_VA 0x30000000 /* rw, 1 page */
#define FUZZ_STACK_SIZE 0x1000
#define FUZZ_MEM (FUZZ_DATA_SIZE + FUZZ_STACK_SIZE)

#define FUZZ_HIGH_VA 0x600000000000    /* rw: the records, in this order */
#define FUZZ_DATA_PAGE_VA FUZZ_HIGH_VA /* save area and parameters; the driver's stack ends with the page */
#define FUZZ_INPUT_VA (FUZZ_DATA_PAGE_VA + 0x1000)
#define FUZZ_OUTPUT_VA (FUZZ_INPUT_VA + FUZZ_BATCH * FUZZ_INPUT_SIZE)
#define FUZZ_INIT_VA (FUZZ_OUTPUT_VA + FUZZ_BATCH * FUZZ_OUTPUT_SIZE)
#define FUZZ_HIGH_SIZE (0x1000 + FUZZ_BATCH * (FUZZ_INPUT_SIZE + FUZZ_OUTPUT_SIZE) + FUZZ_MEM)

#define FUZZ_KERNEL_VA 0xffffffff80000000 /* guest only */

#define FUZZ_XSAVE 2688 /* up to zmm16 to 31, where Intel has them; AMD's end sooner */
#define FUZZ_XSAVE_OFF 192
#define FUZZ_INPUT_SIZE (FUZZ_XSAVE_OFF + FUZZ_XSAVE)
#define FUZZ_OUTPUT_SIZE (FUZZ_INPUT_SIZE + FUZZ_MEM)

/* struct fuzz_regs */
#define FUZZ_R_RFLAGS 128
#define FUZZ_R_FS 136
#define FUZZ_R_GS 144
#define FUZZ_R_TARGET 152
#define FUZZ_R_ERROR 160
#define FUZZ_R_CS 160 /* input */
#define FUZZ_R_CR2 168
#define FUZZ_R_RIP 176
#define FUZZ_R_VECTOR 184
#define FUZZ_R_SIZE 192

/* the driver's data page: struct fuzz_regs first */
#define FUZZ_P_INDEX 256
#define FUZZ_P_COUNT 264
#define FUZZ_P_DONE 272 /* where to go when all are done */
#define FUZZ_P_HOST_RSP 280
#define FUZZ_P_HOST_FS 288
#define FUZZ_P_IN 296    /* current input record */
#define FUZZ_P_STATE 312 /* components of the vector state: struct fuzz_vectors */
#define FUZZ_P_TICK 304  /* native: 1 + index that the last tick of its clock saw */

/* exceptions after which an attack ends */
#define FUZZ_ATTACK_FAULTS 2000

/* vector */
#define FUZZ_NO_FAULT 0xff
#define FUZZ_SKIP 0xfe /* native: not to be compared; see native.c */

#endif
