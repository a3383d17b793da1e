/* cpufuzz: random user-mode instructions, run by the host CPU and by the engine, compared.
 *
 * Both sides run the same driver (driver.S) over a batch of sequences, in memory that is laid out alike: the
 * native side in a forked child with fixed mappings, the engine side at ring 3 of a small 64-bit guest. For
 * every sequence the driver resets the data window, loads all registers from an input record, jumps to the
 * code, and at its end or fault writes registers and memory to an output record. Output records are compared.
 */
#ifndef CPUFUZZ_FUZZ_H
#define CPUFUZZ_FUZZ_H

#include "layout.h"

#ifndef __ASSEMBLER__
#include <stdio.h>

#include <yado/error.h>

#include "util/base.h"

struct fuzz_regs {
    uint64_t gpr[16]; /* by encoding: rax rcx rdx rbx rsp rbp rsi rdi r8 ... */
    uint64_t rflags, fs_base, gs_base;
    uint64_t target;          /* input: address of the code; output: DS, ES in bits 16 to 31 */
    uint64_t error, cr2, rip; /* output, when vector is not FUZZ_NO_FAULT */
    uint64_t vector;
};

struct fuzz_input {
    struct fuzz_regs r;
    _Alignas(64) uint8_t xsave[FUZZ_XSAVE];
};

struct fuzz_output {
    struct fuzz_regs r;
    _Alignas(64) uint8_t xsave[FUZZ_XSAVE];
    uint8_t memory[FUZZ_MEM]; /* data window, stack */
};

_Static_assert(sizeof(struct fuzz_input) == FUZZ_INPUT_SIZE, "driver.S");
_Static_assert(sizeof(struct fuzz_output) == FUZZ_OUTPUT_SIZE, "driver.S");
_Static_assert(offsetof(struct fuzz_input, xsave) == FUZZ_XSAVE_OFF, "driver.S");
_Static_assert(offsetof(struct fuzz_regs, vector) == FUZZ_R_VECTOR, "driver.S");
_Static_assert(offsetof(struct fuzz_regs, rip) == FUZZ_R_RIP, "driver.S");

/* One instruction, with what must be patched when it is moved. */
struct fuzz_insn {
    uint8_t bytes[16];
    uint8_t len;
    uint8_t fix_at;    /* offset of a displacement that is relative to the end of the instruction, 0: none */
    uint8_t fix_size;  /* 1 or 4 */
    bool fix_absolute; /* the field holds the target itself */
    int16_t to_insn;   /* branch: index of the target instruction, -1: fix_target is an address */
    uint64_t fix_target;
};

struct fuzz_seq {
    uint64_t seed;
    unsigned bits; /* 64 or 32 */
    unsigned count;
    struct fuzz_insn insn[FUZZ_INSNS];
    struct fuzz_input in;
};

enum fuzz_class {
    FC_INT,
    FC_STRING,
    FC_BRANCH,
    FC_STACK,
    FC_X87,
    FC_MMX,
    FC_SSE,
    FC_AVX,
    FC_AVX512,
    FC_PRIV,
    FC_RAW,
    FC_COUNT,
};

/* The vector state that both worlds have: components as in XCR0, and where they are in XSAVE's standard
 * format. */
struct fuzz_vectors {
    uint64_t state;
    unsigned at[8];
};
#define FUZZ_AVX512 0xe0u
void fuzz_vectors_find(struct fuzz_vectors *v);

struct fuzz_gen;
/* classes: bit per enum fuzz_class. bits: of the code, 64 or 32. NULL: out of memory, or no class. */
struct fuzz_gen *fuzz_gen_new(uint32_t classes, unsigned bits, const struct fuzz_vectors *v);
void fuzz_gen_free(struct fuzz_gen *g);
const char *fuzz_class_name(unsigned fc);
/* Number of templates found per class, for the listing. */
unsigned fuzz_gen_templates(const struct fuzz_gen *g, unsigned fc);
/* Fills `s` from its seed alone. */
void fuzz_gen_sequence(struct fuzz_gen *g, struct fuzz_seq *s, uint64_t seed);
/* What the data window holds before every sequence: the same in every run. */
void fuzz_gen_memory(struct fuzz_gen *g, uint8_t *mem, unsigned len);

/* Writes the code of `s` for address `va`; returns its length, at most FUZZ_CODE_MAX. */
unsigned fuzz_seq_layout(const struct fuzz_seq *s, uint64_t va, uint8_t *out);
void fuzz_seq_print(FILE *f, const struct fuzz_seq *s, uint64_t va);

/* A batch in one of the two worlds. Pointers are this process's view. */
struct fuzz_world {
    uint8_t *driver_data; /* FUZZ_DATA_PAGE_VA */
    uint8_t *input;       /* struct fuzz_input [FUZZ_BATCH] */
    uint8_t *output;      /* struct fuzz_output [FUZZ_BATCH] */
    uint8_t *memory_init; /* FUZZ_MEM, then the read-only page follows */
    uint8_t *read_only;   /* FUZZ_PAGE */
    uint8_t *code;        /* FUZZ_CODE_SIZE */
};

struct fuzz_native;
struct fuzz_native *fuzz_native_new(struct yado_error *err);
void fuzz_native_free(struct fuzz_native *n);
struct fuzz_world *fuzz_native_world(struct fuzz_native *n);
/* Runs `count` sequences that lie ready in the world. */
bool fuzz_native_run(struct fuzz_native *n, unsigned count, struct yado_error *err);

struct fuzz_guest;
/* fast: with blocks of the fast kind from the start; they are small else, until samples say more. */
struct fuzz_guest *fuzz_guest_new(bool fast, uint64_t state, struct yado_error *err);
void fuzz_guest_free(struct fuzz_guest *g);
struct fuzz_world *fuzz_guest_world(struct fuzz_guest *g);
void fuzz_guest_code_written(struct fuzz_guest *g, uint64_t off, uint64_t len);
bool fuzz_guest_run(struct fuzz_guest *g, unsigned count, struct yado_error *err);

/* Runs `count` guests of hostile bytes in a process of their own, or with `replay` the one of that seed, and
 * says what happened. False: the process died, or something outside of a guest changed. */
bool fuzz_attack(uint64_t seed, uint64_t count, const uint64_t *replay, struct yado_error *err);

/* Known differences, which are counted: accesses just below 2^47 meet the host process's own pages; and
 * 32-bit code's accesses through FS and GS that wrap at the end of 4 GiB fault or not as an Intel processor
 * likes (SDM volume 3, 5.3). */
bool fuzz_accepts(const struct fuzz_output *native, const struct fuzz_output *guest,
                  const struct fuzz_seq *s);

/* Whether two outputs agree. With `f`, prints what differs. */
bool fuzz_compare(const struct fuzz_output *native, const struct fuzz_output *guest,
                  const struct fuzz_vectors *v, unsigned bits, bool fault_flags, FILE *f);

static inline uint64_t fuzz_mix(uint64_t x) /* splitmix64 finalizer */
{
    x += 0x9e3779b97f4a7c15ull;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ x >> 27) * 0x94d049bb133111ebull;
    return x ^ x >> 31;
}

/* driver.S */
extern const uint8_t fuzz_driver_start[], fuzz_driver_exit[], fuzz_driver_exit32[], fuzz_driver_guest_done[],
    fuzz_driver_end[];
extern const uint8_t fuzz_attack_start[], fuzz_attack_end[];
extern const uint8_t fuzz_kernel_start[], fuzz_kernel_done[], fuzz_kernel_end[];
void fuzz_native_enter(uint64_t driver_va);
void fuzz_native_done(void);
#endif

#endif
