/* What this host's logical instructions, shifts and multiplications do to the flags that the manuals leave
 * undefined.
 *
 * If such an instruction gives the same flags whatever they were before, translated code need not bring the
 * guest's old flags back for it. The manuals do not say (SDM volume 2, SHL: "For non-zero shift counts, the
 * AF flag is undefined"); the CPU can be asked. */
#include "engine/translator/flags_probe.h"

#define STATUS_FLAGS 0x8d5u

/* Flags behind insn with value in RAX (%1). */
#define FLAGS_OF(insn, f)                                                                                    \
    do {                                                                                                     \
        uint64_t v = value;                                                                                  \
        __asm__ volatile("lea -128(%%rsp), %%rsp\n\t" insn "\n\tpushfq\n\tpop %0\n\tlea 128(%%rsp), %%rsp"   \
                         : "=&r"(f), "+a"(v)                                                                 \
                         :                                                                                   \
                         : "cc", "memory");                                                                  \
    } while (0)

/* Behind two instructions. */
#define SAME(one, other)                                                                                     \
    do {                                                                                                     \
        uint64_t a, b;                                                                                       \
        FLAGS_OF(one, a);                                                                                    \
        FLAGS_OF(other, b);                                                                                  \
        same &= ((a ^ b) & STATUS_FLAGS) == 0;                                                               \
    } while (0)

/* Behind one, whether all flags were set before or none. */
#define INDEPENDENT(insn)                                                                                    \
    do {                                                                                                     \
        uint64_t got[2], v, d;                                                                               \
        for (unsigned old = 0; old < 2; old++) {                                                             \
            v = value;                                                                                       \
            __asm__ volatile("lea -128(%%rsp), %%rsp\n\tpush %3\n\tpopfq\n\t" insn                           \
                             "\n\tpushfq\n\tpop %0\n\tlea 128(%%rsp), %%rsp"                                 \
                             : "=&r"(got[old]), "+a"(v), "=&d"(d)                                            \
                             : "r"(old ? (uint64_t)STATUS_FLAGS | 2u : (uint64_t)2)                          \
                             : "cc", "memory");                                                              \
        }                                                                                                    \
        same &= ((got[0] ^ got[1]) & STATUS_FLAGS) == 0;                                                     \
    } while (0)

static bool logic_as_test(uint64_t value)
{
    bool same = true;
    SAME("and $-1, %1", "test %1, %1");
    SAME("or %1, %1", "test %1, %1");
    SAME("xor $0, %1", "test %1, %1");
    SAME("xor %1, %1", "cmp %1, %1");
    INDEPENDENT("and $-1, %1");
    INDEPENDENT("or %1, %1");
    INDEPENDENT("xor $0, %1");
    INDEPENDENT("test %1, %1");
    return same;
}

static bool shifts_independent(uint64_t value)
{
    bool same = true;
    INDEPENDENT("shlq $1, %1");
    INDEPENDENT("shlq $13, %1");
    INDEPENDENT("shll $5, %k1");
    INDEPENDENT("shlw $15, %w1");
    INDEPENDENT("shlb $3, %b1");
    INDEPENDENT("shrq $1, %1");
    INDEPENDENT("shrq $63, %1");
    INDEPENDENT("shrl $9, %k1");
    INDEPENDENT("shrw $4, %w1");
    INDEPENDENT("shrb $7, %b1");
    INDEPENDENT("sarq $1, %1");
    INDEPENDENT("sarq $12, %1");
    INDEPENDENT("sarl $31, %k1");
    INDEPENDENT("sarw $2, %w1");
    INDEPENDENT("sarb $6, %b1");
    return same;
}

static bool products_independent(uint64_t value)
{
    bool same = true;
    INDEPENDENT("imulq $77, %1, %1");
    INDEPENDENT("imull %k1, %k1");
    INDEPENDENT("imulq %1");
    INDEPENDENT("mulq %1");
    INDEPENDENT("mull %k1");
    return same;
}

struct flags_probe flags_probe(void)
{
    struct flags_probe p = { true, true, true };
    uint64_t value = 1;
    for (unsigned i = 0; i < 128; i++) {
        value = value * 6364136223846793005ull + 1442695040888963407ull;
        p.logic &= logic_as_test(value);
        p.shifts &= shifts_independent(value);
        p.products &= products_independent(value);
    }
    return p;
}
