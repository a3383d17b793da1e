/* Every instruction with a memory operand, on RAM and on a device's memory: both must come to the same end,
 * whatever path the processor takes to them (Intel SDM volume 3 (2023-12), 12.3.2: uncached memory is
 * memory). The third place is the border between the two: an operand that begins in RAM and ends in the
 * device, and the other way round. */
#include "trap64.h"

#define DEVICE 0xff000000u /* test_device's memory */
#define WINDOW 0x140000000ull
#define BYTES 64
#define OFF (BYTES / 2 - 1) /* of the operand: across the border */

struct state {
    uint64_t gpr[16]; /* RSP's is a difference */
    uint64_t rflags, vector, error;
    uint8_t xmm[16][16], mm[8][8];
    uint8_t memory[BYTES];
};
static struct state before, after[4];
uint64_t snippet_rsp, snippet_kept, *snippet_in, *snippet_out;
static uint8_t code[64] __attribute__((aligned(4096)));
static uint8_t ram[2 * 4096] __attribute__((aligned(4096)));
static uint64_t window_pd[512] __attribute__((aligned(4096))), window_pt[512] __attribute__((aligned(4096)));
static uint8_t snippet_stack[4096] __attribute__((aligned(16)));
extern uint64_t pdpt[];
static const char *place_name[4] = { "RAM", "device", "RAM to device", "device to RAM" };
static unsigned done, different;

/* rdi: code; snippet_in and snippet_out: struct state's first 17 words. The snippet comes back to
 * snippet_done. */
__asm__(
    ".globl snippet_run, snippet_done\n"
    "snippet_run: push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15; pushf\n"
    "mov %rsp, snippet_kept; mov snippet_in, %rax; mov snippet_rsp, %rsp; push %rdi; pushq 128(%rax); popf\n"
    "mov 8(%rax), %rcx; mov 16(%rax), %rdx; mov 24(%rax), %rbx; mov 40(%rax), %rbp; mov 48(%rax), %rsi\n"
    "mov 56(%rax), %rdi; mov 64(%rax), %r8; mov 72(%rax), %r9; mov 80(%rax), %r10; mov 88(%rax), %r11\n"
    "mov 96(%rax), %r12; mov 104(%rax), %r13; mov 112(%rax), %r14; mov 120(%rax), %r15; mov (%rax), %rax\n"
    "ret\n"
    "snippet_done: mov %rsp, snippet_rsp; mov snippet_kept, %rsp; push %rax; pushf; mov snippet_out, %rax\n"
    "popq 128(%rax); popq (%rax); mov %rcx, 8(%rax); mov %rdx, 16(%rax); mov %rbx, 24(%rax); mov %rbp, "
    "40(%rax)\n"
    "mov %rsi, 48(%rax); mov %rdi, 56(%rax); mov %r8, 64(%rax); mov %r9, 72(%rax); mov %r10, 80(%rax)\n"
    "mov %r11, 88(%rax); mov %r12, 96(%rax); mov %r13, 104(%rax); mov %r14, 112(%rax); mov %r15, 120(%rax)\n"
    "popf; cld; pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx; ret\n");
extern void snippet_run(const void *code);
extern char snippet_done[];

static void on_fault(struct trap_frame *f)
{
    f->rip = (uint64_t)snippet_done;
    f->rflags &= ~0x400ull;
}

static void vectors_load(const struct state *s)
{
#define LOAD(n) __asm__ volatile("movups %0, %%xmm" #n : : "m"(s->xmm[n]))
#define LOADM(n) __asm__ volatile("movq %0, %%mm" #n : : "m"(s->mm[n]))
    LOAD(0);
    LOAD(1);
    LOAD(2);
    LOAD(3);
    LOAD(4);
    LOAD(5);
    LOAD(6);
    LOAD(7);
    LOAD(8);
    LOAD(9);
    LOAD(10);
    LOAD(11);
    LOAD(12);
    LOAD(13);
    LOAD(14);
    LOAD(15);
    __asm__ volatile("fninit");
    LOADM(0);
    LOADM(1);
    LOADM(2);
    LOADM(3);
    LOADM(4);
    LOADM(5);
    LOADM(6);
    LOADM(7);
}

static void vectors_store(struct state *s)
{
#define STORE(n) __asm__ volatile("movups %%xmm" #n ", %0" : "=m"(s->xmm[n]))
#define STOREM(n) __asm__ volatile("movq %%mm" #n ", %0" : "=m"(s->mm[n]))
    STORE(0);
    STORE(1);
    STORE(2);
    STORE(3);
    STORE(4);
    STORE(5);
    STORE(6);
    STORE(7);
    STORE(8);
    STORE(9);
    STORE(10);
    STORE(11);
    STORE(12);
    STORE(13);
    STORE(14);
    STORE(15);
    STOREM(0);
    STOREM(1);
    STOREM(2);
    STOREM(3);
    STOREM(4);
    STOREM(5);
    STOREM(6);
    STOREM(7);
    __asm__ volatile("fninit");
}

/* The same linear addresses everywhere, so that registers that hold one are equal too. */
static void map_window(unsigned place)
{
    static const uint8_t on_device[4][2] = { { 0, 0 }, { 1, 1 }, { 0, 1 }, { 1, 0 } };

    pdpt[WINDOW >> 30] = (uint64_t)window_pd + 3;
    window_pd[0] = (uint64_t)window_pt + 3;
    for (unsigned i = 0; i < 2; i++) {
        window_pt[i] = (on_device[place][i] ? DEVICE : (uint64_t)ram) + 4096 * i + 3;
        __asm__ volatile("invlpg (%0)" : : "r"(WINDOW + 4096 * i) : "memory");
    }
}

static void run_at(unsigned place, unsigned off, struct state *out)
{
    volatile uint8_t *m = (volatile uint8_t *)WINDOW + 4096 - BYTES / 2;

    map_window(place);
    for (unsigned i = 0; i < BYTES; i++)
        m[i] = before.memory[i];
    before.gpr[7] = before.gpr[6] = (uint64_t)(m + off);
    snippet_in = (uint64_t *)&before;
    snippet_out = (uint64_t *)out;
    snippet_rsp = (uint64_t)snippet_stack + 2048;
    trap_clear();
    trap_hook = on_fault;
    vectors_load(&before);
    snippet_run(code);
    vectors_store(out);
    trap_hook = 0;
    out->vector = trap.vector;
    out->error = trap.error;
    out->gpr[4] = snippet_rsp - (uint64_t)snippet_stack;
    out->gpr[6] -= (uint64_t)m;
    out->gpr[7] -= (uint64_t)m;
    for (unsigned i = 0; i < BYTES; i++)
        out->memory[i] = m[i];
}

static bool same(const struct state *a, const struct state *b, const char **what)
{
    const uint8_t *x = (const uint8_t *)a, *y = (const uint8_t *)b;

    for (unsigned i = 0; i < sizeof(*a); i++) {
        if (x[i] == y[i])
            continue;
        *what = i < 128   ? "registers"
                : i < 136 ? "flags"
                : i < 152 ? "exception"
                : i < 472 ? "vectors"
                          : "memory";
        return false;
    }
    return true;
}

static void compare(const uint8_t *bytes, unsigned len, unsigned off)
{
    const char *what = "";
    uint8_t *p = code;

    for (unsigned i = 0; i < len; i++)
        *p++ = bytes[i];
    *p++ = 0xff; /* jmp *0(%rip) */
    *p++ = 0x25;
    *(uint32_t *)p = 0;
    *(uint64_t *)(p + 4) = (uint64_t)snippet_done;
    for (unsigned place = 0; place < 4; place++) {
        run_at(place, off, &after[place]);
        done++;
        if (same(&after[0], &after[place], &what))
            continue;
        if (different++ < 40) {
            print("NOT ok");
            for (unsigned i = 0; i < len; i++)
                print(" %x", bytes[i]);
            print(" on %s: %s differ (vector %X, RAM %X)\n", place_name[place], what, after[place].vector,
                  after[0].vector);
            for (unsigned i = 0; i < 16; i++)
                if (after[0].gpr[i] != after[place].gpr[i])
                    print("  r%u %X RAM %X\n", i, after[place].gpr[i], after[0].gpr[i]);
            if (after[0].rflags != after[place].rflags)
                print("  flags %X RAM %X\n", after[place].rflags, after[0].rflags);
        }
        break;
    }
}

/* ---- which instructions ---- */

static bool is_wanted(unsigned map, unsigned op, unsigned reg)
{
    if (map == 0) {
        if (op < 0x40)
            return (op & 7) < 4;
        if (op >= 0xd8 && op <= 0xdf)
            return !(op == 0xd9 && (reg == 4 || reg == 6)) &&
                   !(op == 0xdd && (reg == 4 || reg == 6)); /* states */
        return op == 0x63 || op == 0x69 || op == 0x6b || (op >= 0x80 && op <= 0x8b && op != 0x82) ||
               (op == 0x8f && !reg) || (op == 0x8c && reg < 4) || op == 0xc0 || op == 0xc1 ||
               (op == 0xc6 && !reg) || (op == 0xc7 && !reg) || (op >= 0xd0 && op <= 0xd3) || op == 0xf6 ||
               op == 0xf7 || (op == 0xfe && reg < 2) || (op == 0xff && reg != 3 && reg != 5 && reg != 7);
    }
    if (map == 1) {
        if (op == 0x01)
            return reg == 0 || reg == 1 || reg == 4;
        if (op == 0xae)
            return reg == 3;
        if (op == 0xc7)
            return reg == 1;
        return (op >= 0x10 && op <= 0x17) || (op >= 0x28 && op <= 0x2f) || (op >= 0x40 && op <= 0x76) ||
               op == 0x7c || op == 0x7d || op == 0x7e || op == 0x7f || (op >= 0x90 && op <= 0x9f) ||
               (op >= 0xa3 && op <= 0xa5) || (op >= 0xab && op <= 0xad) || op == 0xaf || op == 0xb0 ||
               op == 0xb1 || op == 0xb3 || (op >= 0xb6 && op <= 0xb8) ||
               (op >= 0xba && op <= 0xc6 && op != 0xb9) || op >= 0xd0;
    }
    return true;
}

static unsigned immediate_of(unsigned map, unsigned op, unsigned reg, unsigned prefix)
{
    unsigned z = prefix == 0x66 ? 2 : 4;

    if (map == 0)
        return op == 0x69 || op == 0x81 || op == 0xc7                                             ? z
               : op == 0x6b || op == 0x80 || op == 0x83 || op == 0xc0 || op == 0xc1 || op == 0xc6 ? 1
               : op == 0xf6 && reg < 2                                                            ? 1
               : op == 0xf7 && reg < 2                                                            ? z
                                                                                                  : 0;
    if (map == 1)
        return (op >= 0x70 && op <= 0x73) || op == 0xa4 || op == 0xac || op == 0xba || op == 0xc2 ||
                       op == 0xc4 || op == 0xc5 || op == 0xc6
                   ? 1
                   : 0;
    return map == 3;
}

static unsigned char seed = 7;
static uint8_t next_byte(void)
{
    seed = (uint8_t)(seed * 109 + 57);
    return seed;
}

static void fill(unsigned op)
{
    for (unsigned i = 0; i < sizeof(before); i++)
        ((uint8_t *)&before)[i] = next_byte();
    before.rflags = 2 | (next_byte() & 1);
    for (unsigned i = 0; i < 16; i++)
        before.gpr[i] &= 0x7f7f7f7f; /* so that DIV goes well at times */
    before.gpr[1] &= 31;
    before.gpr[2] = 0;
    for (unsigned i = 0; i < 16; i++) /* BT and its kin reach as far as a register says */
        if (op == 0xa3 || op == 0xab || op == 0xb3 || op == 0xbb)
            before.gpr[i] &= 0x3f;
    if (op == 0xff) /* CALL and JMP may go there */
        *(uint64_t *)(before.memory + OFF) = (uint64_t)snippet_done;
}

static void one(unsigned map, unsigned prefix, unsigned op, unsigned reg)
{
    static const uint8_t escape[4][2] = { { 0 }, { 0x0f }, { 0x0f, 0x38 }, { 0x0f, 0x3a } };
    uint8_t b[16];
    unsigned n = 0, imm = immediate_of(map, op, reg, prefix);

    if (prefix)
        b[n++] = (uint8_t)prefix;
    for (unsigned i = 0; i < 2 && escape[map][i]; i++)
        b[n++] = escape[map][i];
    b[n++] = (uint8_t)op;
    b[n++] = (uint8_t)(7 | reg << 3); /* [rdi] */
    for (unsigned i = 0; i < imm; i++)
        b[n++] = (uint8_t)(i ? 0 : 0x35);
    fill(op);
    compare(b, n, OFF);
}

/* Here the register holds an address. */
static bool is_bit_offset(unsigned map, unsigned op, unsigned reg)
{
    return map == 1 && (reg == 4 || reg >= 6) && (op == 0xa3 || op == 0xab || op == 0xb3 || op == 0xbb);
}

/* Where the register is only a register, two of eight do. */
static bool is_sampled(unsigned map, unsigned op, unsigned reg)
{
    bool group = map == 0 ? op >= 0x80 && op != 0x84 && op != 0x85
                          : map == 1 && (op == 1 || op == 0xba || (op >= 0xae && op < 0xc8));

    return group || reg == 1 || reg == (op & 7);
}

static void modrm_forms(void)
{
    static const uint8_t prefixes[] = { 0, 0x66, 0x48, 0xf3, 0xf2, 0xf0 };

    for (unsigned map = 0; map < 4; map++)
        for (unsigned p = 0; p < sizeof(prefixes); p++)
            for (unsigned op = 0; op < 256; op++)
                for (unsigned reg = 0; reg < 8; reg++)
                    if (is_wanted(map, op, reg) && (prefixes[p] != 0xf0 || map < 2) &&
                        (p < 3 || p == 5 || map) && !is_bit_offset(map, op, reg) && is_sampled(map, op, reg))
                        one(map, prefixes[p], op, reg);
}

static void vex_forms(void)
{
    for (unsigned map = 1; map < 4; map++)
        for (unsigned k = 0; k < 16; k++)
            for (unsigned op = 0; op < 256; op++)
                for (unsigned v = op & 1; v < 2; v += 2) {
                    uint8_t b[8] = {
                        0xc4,        (uint8_t)(0xe0 | map), (uint8_t)((v ? 15 : 9) << 3 | (k & 7)),
                        (uint8_t)op, (uint8_t)(7 | 3 << 3), 0x35
                    };
                    bool imm = map == 3 || (map == 1 && immediate_of(1, op, 3, 0));

                    if (k & 8)
                        b[2] |= 0x80;
                    if ((map == 1 && (op == 0x77 || op == 0xae)) || (map == 2 && op >= 0x90 && op <= 0x93))
                        continue;
                    fill(op);
                    compare(b, imm ? 6 : 5, OFF);
                }
}

static void string_forms(void)
{
    static const uint8_t ops[] = { 0xa4, 0xa5, 0xa6, 0xa7, 0xaa, 0xab, 0xac, 0xad, 0xae, 0xaf };
    static const uint8_t prefixes[] = { 0, 0xf3, 0xf2 };

    for (unsigned o = 0; o < sizeof(ops); o++)
        for (unsigned p = 0; p < sizeof(prefixes); p++)
            for (unsigned size = 0; size < 3; size++)
                for (unsigned down = 0; down < 2; down++) {
                    uint8_t b[4];
                    unsigned n = 0;

                    fill(0);
                    before.gpr[1] = 3;
                    before.rflags |= down << 10;
                    if (prefixes[p])
                        b[n++] = prefixes[p];
                    if (size)
                        b[n++] = size == 1 ? 0x66 : 0x48;
                    b[n++] = ops[o];
                    compare(b, n, OFF - 4);
                }
}

static void moffs_forms(void)
{
    for (unsigned op = 0xa0; op < 0xa4; op++) {
        uint8_t b[9] = { (uint8_t)op };

        *(uint64_t *)(b + 1) = WINDOW + 4095;
        fill(0);
        compare(b, 9, OFF);
    }
}

uint32_t kernel_main(void)
{
    uint64_t cr0 = read_cr0(), cr4 = read_cr4();

    traps_init();
    __asm__ volatile("mov %0, %%cr0" : : "r"((cr0 & ~0xcull) | 0x22));
    __asm__ volatile("mov %0, %%cr4" : : "r"(cr4 | 0x600));
    modrm_forms();
    check(!different, "instructions with a ModRM byte (%u runs)", done);
    done = different = 0;
    string_forms();
    moffs_forms();
    check(!different, "string instructions and absolute addresses (%u runs)", done);
    done = different = 0;
    {
        uint32_t r[4];

        cpuid(1, 0, r);
        if ((r[2] & 1u << 28) && (r[2] & 1u << 26)) {
            __asm__ volatile("mov %0, %%cr4" : : "r"(read_cr4() | 0x40000));
            __asm__ volatile("xsetbv" : : "a"(7), "d"(0), "c"(0));
            vex_forms();
            check(!different, "VEX instructions (%u runs)", done);
        }
    }
    return failures ? 0x20 : 0x10;
}
