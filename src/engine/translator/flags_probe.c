/* What this host's shifts and multiplications do to the flags that the manuals leave undefined.
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

#define SAMPLE(insn)                                                                                         \
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
        if ((got[0] ^ got[1]) & STATUS_FLAGS)                                                                \
            return false;                                                                                    \
    } while (0)

bool flags_probe_independent(void)
{
    uint64_t value = 1;
    for (unsigned i = 0; i < 128; i++) {
        value = value * 6364136223846793005ull + 1442695040888963407ull;
        uint64_t with, as;
        FLAGS_OF("test %1, %1", as);
        FLAGS_OF("and $-1, %1", with);
        if ((with ^ as) & STATUS_FLAGS)
            return false;
        FLAGS_OF("or %1, %1", with);
        if ((with ^ as) & STATUS_FLAGS)
            return false;
        FLAGS_OF("xor $0, %1", with);
        if ((with ^ as) & STATUS_FLAGS)
            return false;
        FLAGS_OF("cmp %1, %1", as);
        FLAGS_OF("xor %1, %1", with);
        if ((with ^ as) & STATUS_FLAGS)
            return false;
        SAMPLE("shlq $1, %1");
        SAMPLE("shlq $13, %1");
        SAMPLE("shll $5, %k1");
        SAMPLE("shlw $15, %w1");
        SAMPLE("shlb $3, %b1");
        SAMPLE("shrq $1, %1");
        SAMPLE("shrq $63, %1");
        SAMPLE("shrl $9, %k1");
        SAMPLE("shrw $4, %w1");
        SAMPLE("shrb $7, %b1");
        SAMPLE("sarq $1, %1");
        SAMPLE("sarq $12, %1");
        SAMPLE("sarl $31, %k1");
        SAMPLE("sarw $2, %w1");
        SAMPLE("sarb $6, %b1");
        SAMPLE("imulq $77, %1, %1");
        SAMPLE("imull %k1, %k1");
        SAMPLE("imulq %1");
        SAMPLE("mulq %1");
        SAMPLE("mull %k1");
    }
    return true;
}
