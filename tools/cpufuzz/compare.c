/* Whether the two worlds came to the same end. */
#include <cpuid.h>
#include <inttypes.h>
#include <string.h>

#include "fuzz.h"
#include "x86/cpuid_model.h"

static const char *const reg_names[16] = { "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                           "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15" };

struct diff {
    FILE *f;
    unsigned count;
};

static void differ(struct diff *d, const char *what, uint64_t native, uint64_t guest)
{
    d->count++;
    if (d->f && d->count <= 40)
        fprintf(d->f, "    %-12s host %016" PRIx64 "  engine %016" PRIx64 "\n", what, native, guest);
}

static void check(struct diff *d, const char *what, uint64_t native, uint64_t guest)
{
    if (native != guest)
        differ(d, what, native, guest);
}

static uint64_t get(const uint8_t *p, unsigned n)
{
    uint64_t v = 0;

    memcpy(&v, p, n);
    return v;
}

/* Intel SDM volume 1 (2023-12), 13.6: a component whose XSTATE_BV bit is clear has its initial value,
 * whatever the area holds. */
static void normalise(uint8_t *to, const uint8_t *from, const struct fuzz_vectors *v)
{
    static const unsigned size[8] = { 0, 0, 256, 0, 0, 64, 512, 1024 };
    uint64_t bv = get(from + 512, 8);

    memcpy(to, from, FUZZ_XSAVE);
    if (!(bv & 1)) {
        memset(to, 0, 24);
        to[0] = 0x7f;
        to[1] = 0x03;
        memset(to + 32, 0, 128);
    }
    if (!(bv & 2))
        memset(to + 160, 0, 256);
    for (unsigned i = 2; i < 8; i++) {
        if (v->at[i] && !(bv >> i & 1))
            memset(to + v->at[i], 0, size[i]);
    }
    if (!(bv & 6) && !(bv & 1))
        memcpy(to + 24, "\x80\x1f\0", 4);
}

static void compare_avx512(struct diff *d, const uint8_t *a, const uint8_t *b, const struct fuzz_vectors *v)
{
    char name[16];

    for (unsigned i = 0; i < 8; i++) {
        snprintf(name, sizeof(name), "k%u", i);
        check(d, name, get(a + v->at[5] + i * 8, 8), get(b + v->at[5] + i * 8, 8));
    }
    for (unsigned i = 0; i < 64; i++) {
        snprintf(name, sizeof(name), "zmm%u[%u]", i >> 2, 4 + (i & 3));
        check(d, name, get(a + v->at[6] + i * 8, 8), get(b + v->at[6] + i * 8, 8));
    }
    for (unsigned i = 0; i < 128; i++) {
        snprintf(name, sizeof(name), "zmm%u[%u]", 16 + (i >> 3), i & 7);
        check(d, name, get(a + v->at[7] + i * 8, 8), get(b + v->at[7] + i * 8, 8));
    }
}

static void compare_vectors(struct diff *d, const uint8_t *native, const uint8_t *guest,
                            const struct fuzz_vectors *v)
{
    uint8_t a[FUZZ_XSAVE], b[FUZZ_XSAVE];
    char name[16];

    normalise(a, native, v);
    normalise(b, guest, v);
    check(d, "fcw", get(a, 2), get(b, 2));
    check(d, "fsw", get(a + 2, 2), get(b + 2, 2));
    check(d, "ftw", a[4], b[4]);
    check(d, "mxcsr", get(a + 24, 4), get(b + 24, 4));
    for (unsigned i = 0; i < 8; i++) {
        snprintf(name, sizeof(name), "st%u", i);
        check(d, name, get(a + 32 + i * 16, 8), get(b + 32 + i * 16, 8));
        snprintf(name, sizeof(name), "st%u.exp", i);
        check(d, name, get(a + 40 + i * 16, 2), get(b + 40 + i * 16, 2));
    }
    for (unsigned i = 0; i < 64; i++) {
        unsigned off = (i & 2 ? 576 : 160) + (i >> 2) * 16 + (i & 1) * 8;

        snprintf(name, sizeof(name), "ymm%u[%u]", i >> 2, i & 3);
        check(d, name, get(a + off, 8), get(b + off, 8));
    }
    if (v->state & FUZZ_AVX512)
        compare_avx512(d, a, b, v);
}

static void host_cpuid(uint32_t leaf, uint32_t sub, struct cpuid_regs *r)
{
    __cpuid_count(leaf, sub, r->eax, r->ebx, r->ecx, r->edx);
}

void fuzz_vectors_find(struct fuzz_vectors *v)
{
    struct cpuid_model m;
    uint32_t lo, hi;

    __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0)); /* the engine needs XSAVE too */
    cpuid_model_init(&m, 1, 0, lo, host_cpuid);
    *v = (struct fuzz_vectors){ .state = 7 | (m.has_avx512 ? FUZZ_AVX512 : 0) };
    for (unsigned i = 2; i < 8; i++)
        v->at[i] = v->state >> i & 1 ? m.host_d[i].ebx : 0;
}

static void compare_fault(struct diff *d, const struct fuzz_regs *a, const struct fuzz_regs *b)
{
    uint64_t mask = ~0ull;

    check(d, "vector", a->vector, b->vector);
    if (a->vector != b->vector || a->vector == FUZZ_NO_FAULT)
        return;
    check(d, "fault rip", a->rip, b->rip);
    if (a->vector == 14) {
        /* Linux always reports P for addresses that no process can map. */
        if (a->cr2 >= 0x7ffffffff000)
            mask = ~1ull;
        check(d, "cr2", a->cr2, b->cr2);
    }
    check(d, "error", a->error & mask, b->error & mask);
}

static bool near_end(uint64_t lin, uint64_t base)
{
    return (uint32_t)(lin - base + 0x80) < 0x100;
}

/* Where the host's process has a stack and libraries of its own. */
static bool is_hosts_own(uint64_t lin)
{
    return (1ull << 47) - lin < 1ull << 32;
}

bool fuzz_accepts(const struct fuzz_output *native, const struct fuzz_output *guest, const struct fuzz_seq *s)
{
    const struct fuzz_regs *a = &native->r, *b = &guest->r;

    if (b->vector == 14 && is_hosts_own(b->cr2) &&
        (a->vector != 14 || a->cr2 != b->cr2 || ((a->error ^ b->error) & ~1ull)))
        return true;
    const struct fuzz_regs *pf = a->vector == 14 ? a : b, *other = pf == a ? b : a;
    return s->bits == 32 && pf->vector == 14 && other->vector == 13 && !__builtin_cpu_is("amd") &&
           (near_end(pf->cr2, pf->fs_base) || near_end(pf->cr2, pf->gs_base));
}

bool fuzz_compare(const struct fuzz_output *native, const struct fuzz_output *guest,
                  const struct fuzz_vectors *v, unsigned bits, bool fault_flags, FILE *f)
{
    struct diff d = { .f = f };
    const struct fuzz_regs *a = &native->r, *b = &guest->r;
    uint64_t flags = a->vector == FUZZ_NO_FAULT || fault_flags ? 0xcd5 : 0x400;
    char name[32];

    compare_fault(&d, a, b);
    /* SDM volume 1, 3.4.1.1: the upper halves are undefined behind 32-bit code */
    for (unsigned i = 0; i < 16; i++)
        check(&d, reg_names[i], a->gpr[i] & (bits == 32 && i < 8 ? 0xffffffff : ~0ull),
              b->gpr[i] & (bits == 32 && i < 8 ? 0xffffffff : ~0ull));
    check(&d, "rflags", a->rflags & flags, b->rflags & flags);
    check(&d, "fs_base", a->fs_base, b->fs_base);
    check(&d, "gs_base", a->gs_base, b->gs_base);
    check(&d, "es, ds", a->target & 0xffffffff, b->target & 0xffffffff);
    if (memcmp(native->xsave, guest->xsave, FUZZ_XSAVE))
        compare_vectors(&d, native->xsave, guest->xsave, v);
    if (memcmp(native->memory, guest->memory, FUZZ_MEM)) {
        for (unsigned i = 0; i < FUZZ_MEM; i += 8) {
            snprintf(name, sizeof(name), "[%08x]",
                     i < FUZZ_DATA_SIZE ? FUZZ_DATA_VA + i : FUZZ_STACK_VA + i - FUZZ_DATA_SIZE);
            check(&d, name, get(native->memory + i, 8), get(guest->memory + i, 8));
        }
    }
    return !d.count;
}
