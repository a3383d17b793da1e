/* The general path against the host CPU: random operands and encodings of every integer instruction that user
 * mode may run, executed once by the host and once by interp_step on the same bytes at the same addresses;
 * registers, all flags (undefined ones too), memory, next address and faults (vector, error code, CR2) must
 * be equal.
 *
 * YADO_TEST_SEED and YADO_TEST_COUNT in the environment override the defaults; the seed is printed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "test_interp_fake.h"
#include "test_interp_forms.h"
#include "test_interp_native.h"

struct bench {
    struct native nat;
    struct tcpu *c;
    uint64_t rng, seed;
    bool code32;
    uint8_t data0[ARENA_DATA_LEN], data1[ARENA_DATA_LEN]; /* before; after the host's run */
    struct native_regs in;
    uint8_t code[24];
    unsigned len, imm_len;
    uint32_t at; /* arena offset of the instruction */
    const struct form *form;
    uint64_t count, faults, taken;
};

static uint64_t rnd(struct bench *b, uint64_t n)
{
    return fake_random(&b->rng) % n;
}
static uint32_t base_of(const struct bench *b)
{
    return (uint32_t)(uintptr_t)b->nat.arena;
}

static uint64_t random_value(struct bench *b)
{
    static const uint64_t edge[] = { 0,
                                     1,
                                     2,
                                     0x7f,
                                     0x80,
                                     0xff,
                                     0x7fff,
                                     0x8000,
                                     0xffff,
                                     0x7fffffff,
                                     0x80000000,
                                     0xffffffff,
                                     0x7fffffffffffffff,
                                     0x8000000000000000,
                                     ~0ull };
    switch (rnd(b, 4)) {
    case 0: return edge[rnd(b, array_size(edge))];
    case 1: return rnd(b, 256) - 64;
    default: return fake_random(&b->rng);
    }
}

/* An address for data: mostly inside, at times over an edge of a page or of the arena. */
static uint32_t random_target(struct bench *b)
{
    static const uint32_t edges[] = { ARENA_DATA, ARENA_DATA + 0x1000, ARENA_DATA + 0x2000, ARENA_RO,
                                      ARENA_RO + 0x1000 };
    uint32_t off;
    switch (rnd(b, 16)) {
    case 0: off = edges[rnd(b, 5)] + (uint32_t)rnd(b, 32) - 16; break;
    case 1: off = ARENA_DATA + 0x1000 * (uint32_t)rnd(b, 3) - 16 + (uint32_t)rnd(b, 32); break;
    default: off = ARENA_DATA + 0x100 + (uint32_t)rnd(b, ARENA_DATA_LEN - 0x200); break;
    }
    if (rnd(b, 3) == 0)
        off &= ~15u;
    return base_of(b) + off;
}

/* ---- encoding ---- */

static void emit8(struct bench *b, uint64_t v)
{
    b->code[b->len++] = (uint8_t)v;
}
static void emit_n(struct bench *b, uint64_t v, unsigned n)
{
    for (unsigned k = 0; k < n; k++)
        emit8(b, v >> (8 * k));
}

/* ModRM with a memory operand that hits `target`, by an addressing form of the mode. Sets the registers it
 * uses. */
static void emit_mem(struct bench *b, unsigned reg, unsigned rex, bool a67, bool gs)
{
    uint64_t target = random_target(b), disp;
    if (gs)
        target -= base_of(b) + ARENA_DATA;
    unsigned r3 = (reg & 7) << 3, kind = (unsigned)rnd(b, 8), rm = (unsigned)rnd(b, 8);
    if (b->code32 && a67) { /* 16-bit addressing cannot reach the arena: good for LEA and for faults */
        unsigned mod = (unsigned)rnd(b, 3);
        emit8(b, mod << 6 | r3 | rm);
        emit_n(b, fake_random(&b->rng), mod == 1 ? 1 : mod == 2 || rm == 6 ? 2 : 0);
        return;
    }
    if (kind == 0) { /* disp32 alone: RIP-relative in 64-bit code */
        emit8(b, r3 | 5);
        uint32_t end = base_of(b) + b->at + b->len + 4 + b->imm_len;
        emit_n(b, b->code32 ? target : target - end, 4);
        return;
    }
    unsigned mod = (unsigned)rnd(b, 3), index = 4, scale = (unsigned)rnd(b, 4);
    unsigned base = rm | ((rex & 1) << 3);
    disp = mod == 1   ? (uint64_t)(int8_t)rnd(b, 256)
           : mod == 2 ? (uint64_t)(int32_t)(fake_random(&b->rng) >> 40)
                      : 0;
    if (kind < 4 || rm == 4) {
        index = (unsigned)rnd(b, 8) | ((rex & 2) << 2);
        if (index == base)
            index = 4;
        if (kind == 1) { /* no base */
            uint64_t d = index == 4 ? target : target - (b->in.gpr[index] << scale);
            if (index != 4 && !a67 && (int64_t)d != (int32_t)d) {
                b->in.gpr[index] = rnd(b, 64);
                d = target - (b->in.gpr[index] << scale);
            }
            emit8(b, r3 | 4);
            emit8(b, scale << 6 | (index & 7) << 3 | 5);
            emit_n(b, d, 4);
            return;
        }
    }
    if (mod == 0 && rm == 5)
        mod = 1;
    emit8(b, mod << 6 | r3 | (kind < 4 || rm == 4 ? 4 : rm));
    if (kind < 4 || rm == 4)
        emit8(b, scale << 6 | (index & 7) << 3 | rm);
    emit_n(b, disp, mod == 1 ? 1 : mod == 2 ? 4 : 0);
    uint64_t idx = index == 4 ? 0 : b->in.gpr[index] << scale;
    b->in.gpr[base] = target - disp - idx;
    if (a67)
        b->in.gpr[base] ^= fake_random(&b->rng) << 32;
    else if (b->code32)
        b->in.gpr[base] = (uint32_t)b->in.gpr[base];
}

static void emit_vex(struct bench *b, const struct form *f, unsigned rex)
{
    unsigned pp = f->prefix == 0x66 ? 1 : f->prefix == 0xf3 ? 2 : f->prefix == 0xf2 ? 3 : 0;
    unsigned vvvv = f->flags & F_NOVVVV ? 0 : (unsigned)rnd(b, b->code32 ? 8 : 16);
    emit8(b, 0xc4);
    emit8(b, ((~rex << 5) & 0xe0) | f->map);
    emit8(b, (rex & 8 ? 0x80 : 0) | ((~vvvv << 3) & 0x78) | pp);
}

/* Where the branch goes, and the operands that take it there. */
static uint32_t choose_target(struct bench *b, unsigned total)
{
    return rnd(b, 2) ? base_of(b) + b->at + total + (b->code32 ? 17 : NATIVE_TARGET_AFTER)
                     : base_of(b) + b->at - NATIVE_TARGET_BEFORE;
}

static void put_data(struct bench *b, uint64_t lin, uint64_t v, unsigned n)
{
    uint64_t off = lin - base_of(b) - ARENA_DATA;
    if (off <= ARENA_DATA_LEN - n)
        memcpy(b->data0 + off, &v, n);
}

static unsigned imm_bytes(const struct form *f, bool p66, bool w)
{
    switch (f->imm) {
    case 'b': return 1;
    case 'w': return 2;
    case 'e': return 3;
    case 'z': return f->flags & F_BRANCH ? 4 : p66 && !w ? 2 : 4;
    case 'v': return w ? 8 : p66 ? 2 : 4;
    default: return 0;
    }
}

static void emit_prefixes(struct bench *b, const struct form *f, bool p66, bool a67, bool gs, bool lock,
                          unsigned rex)
{
    if (f->flags & F_STRING) {
        static const uint8_t reps[4] = { 0, 0, 0xf2, 0xf3 };
        uint8_t rep = reps[rnd(b, 4)];
        if (rep)
            emit8(b, rep);
    }
    if (a67)
        emit8(b, 0x67);
    if (p66)
        emit8(b, 0x66);
    if (gs)
        emit8(b, 0x65);
    if (lock)
        emit8(b, 0xf0);
    if (f->flags & F_VEX) {
        emit_vex(b, f, rex);
        emit8(b, f->op);
        return;
    }
    if (f->prefix)
        emit8(b, f->prefix);
    if (rex)
        emit8(b, 0x40 | rex);
    if (f->map)
        emit8(b, 0x0f);
    if (f->map >= 2)
        emit8(b, f->map == 2 ? 0x38 : 0x3a);
    emit8(b, f->op | (f->flags & F_OPREG ? rnd(b, 8) : 0));
}

static void emit_imm(struct bench *b, const struct form *f)
{
    uint64_t imm = random_value(b);
    if (f->imm == 'e') /* ENTER: small frame, small level */
        imm = rnd(b, 64) | (uint64_t)rnd(b, 6) << 16;
    else if (f->imm == 'w')
        imm = rnd(b, 32);
    else if (f->flags & F_BRANCH)
        imm = choose_target(b, b->len + b->imm_len) - (base_of(b) + b->at + b->len + b->imm_len);
    emit_n(b, imm, b->imm_len);
}

/* False: the address took the register of the bit offset, which may then reach anywhere. */
static bool make_insn(struct bench *b, const struct form *f)
{
    uint64_t bit = rnd(b, 4000) - 2000;
    bool ok = true;
    bool p66 = !(f->flags & (F_NO66 | F_VEX)) && rnd(b, 4) == 0,
         lock = rnd(b, f->flags & F_LOCK ? 3 : 64) == 0;
    bool mem = !(f->flags & F_REGONLY) && (f->flags & F_M) && ((f->flags & F_MEMONLY) || rnd(b, 2));
    bool a67 = (mem || (f->flags & (F_STRING | F_A67))) && rnd(b, 8) == 0;
    bool gs = !b->code32 && (mem || (f->flags & F_STRING)) && rnd(b, 8) == 0;
    unsigned rex = b->code32 || rnd(b, 3) == 0 ? 0 : (unsigned)rnd(b, 16);
    if ((f->flags & F_VEX) || (f->flags & F_NOLOCK))
        lock = false;
    if (f->flags & F_VEX && b->code32)
        rex = 0;
    if (f->flags & F_NOREXB)
        rex &= ~1u;
    b->imm_len = imm_bytes(f, p66 || f->prefix == 0x66, rex & 8);
    b->len = 0;
    emit_prefixes(b, f, p66, a67, gs, lock, rex);
    if (f->flags & F_M) {
        unsigned reg = f->digit >= 0 ? (unsigned)f->digit : (unsigned)rnd(b, 8);
        if (f->flags & F_BITOFF)
            b->in.gpr[reg | ((rex & 4) << 1)] = bit;
        if (mem)
            emit_mem(b, reg, rex, a67, gs);
        else
            emit8(b, 0xc0 | reg << 3 | rnd(b, 8));
        ok = !(f->flags & F_BITOFF) || b->in.gpr[reg | ((rex & 4) << 1)] == bit;
        if ((f->flags & F_BRANCH) && !mem) {
            unsigned rm = (b->code[b->len - 1] & 7u) | ((rex & 1) << 3);
            b->in.gpr[rm] = choose_target(b, b->len);
        }
    }
    emit_imm(b, f);
    return ok;
}

static void make_state(struct bench *b, const struct form *f)
{
    for (unsigned r = 0; r < 16; r++)
        b->in.gpr[r] = random_value(b);
    b->in.flags = FL_1 | FL_IF | (fake_random(&b->rng) & (FL_STATUS | FL_DF));
    if (f->flags & F_DIV) { /* a dividend whose high half is often below the divisor */
        b->in.gpr[R_DX] = rnd(b, 3) ? rnd(b, 5) - 2 : fake_random(&b->rng) >> rnd(b, 64);
        if (rnd(b, 4) == 0)
            b->in.gpr[R_AX] = rnd(b, 0x8000);
    }
    if (f->flags & F_STACK) {
        do { /* what RET and POPF take is put there, so not in the page that is read only */
            b->in.gpr[R_SP] = random_target(b);
        } while ((f->flags & (F_RET | F_POPF)) && b->in.gpr[R_SP] + 7 - base_of(b) - ARENA_RO < 0x1007);
        b->in.gpr[R_BP] = random_target(b);
    }
    if (f->flags & F_STRING) {
        b->in.gpr[R_SI] = random_target(b);
        b->in.gpr[R_DI] = rnd(b, 4) ? random_target(b) : b->in.gpr[R_SI] + rnd(b, 64) - 32;
        b->in.gpr[R_CX] = rnd(b, 8) ? rnd(b, 40) : rnd(b, 6000);
        if (rnd(b, 2))
            b->in.gpr[R_AX] = 0x4141414141414141;
    }
    if (f->flags & F_COUNT)
        b->in.gpr[R_CX] = rnd(b, 2) ? rnd(b, 3) : random_value(b);
    if (f->flags & F_XLAT)
        b->in.gpr[R_BX] = random_target(b) - 128;
}

/* Memory that the instruction takes something special from. */
static void make_memory(struct bench *b, const struct form *f)
{
    if (f->flags & F_POPF)
        put_data(b, b->in.gpr[R_SP], fake_random(&b->rng) & ~(uint64_t)(FL_TF | FL_AC | FL_NT), 8);
    if (f->flags & F_RET)
        put_data(b, b->in.gpr[R_SP], choose_target(b, b->len), 8);
    if (f->flags & F_FILL) /* long runs of equal bytes, for comparisons that go on */
        memset(b->data0 + rnd(b, 0x800), 0x41, 0x1800);
    if ((f->flags & F_SAME) && rnd(b, 2)) { /* CMPXCHG that succeeds */
        for (unsigned k = 0; k + 16 <= ARENA_DATA_LEN; k += 8)
            memcpy(b->data0 + k, &b->in.gpr[k & 8 ? R_DX : R_AX], 8);
    }
}

/* ---- running and comparing ---- */

static void load_cpu(struct bench *b)
{
    struct tcpu *c = b->c;
    memcpy(c->gpr, b->in.gpr, sizeof(c->gpr));
    cpu_set_rflags(c, b->in.flags);
    c->rip = base_of(b) + b->at;
    c->exc = (struct tcpu_exception){ 0 };
    c->exit_request = rnd(b, 4) == 0;
}

static void report(struct bench *b, const char *what, enum step s)
{
    const struct native_ctx *n = b->nat.ctx;
    printf("seed %#llx case %llu: %s differs: %s%s:", (unsigned long long)b->seed,
           (unsigned long long)b->count, what, b->form->name, b->code32 ? " (32-bit)" : "");
    for (unsigned k = 0; k < b->len; k++)
        printf(" %02x", b->code[k]);
    printf("\n at %#x; host: vector %d error %#llx cr2 %#llx taken %u; ours: step %d vector %d error %#x cr2 "
           "%#llx rip %#llx\n",
           base_of(b) + b->at, (int)n->vector, (unsigned long long)n->error, (unsigned long long)n->cr2,
           n->taken, s, b->c->exc.pending ? b->c->exc.vector : -1, b->c->exc.error,
           (unsigned long long)b->c->exc.cr2, (unsigned long long)b->c->rip);
    for (unsigned r = 0; r < 16; r++)
        printf(" r%-2u in %016llx host %016llx ours %016llx%s\n", r, (unsigned long long)b->in.gpr[r],
               (unsigned long long)n->out.gpr[r], (unsigned long long)b->c->gpr[r],
               n->out.gpr[r] == b->c->gpr[r] ? "" : " <");
    printf(" fl  in %016llx host %016llx ours %016llx\n", (unsigned long long)b->in.flags,
           (unsigned long long)n->out.flags, (unsigned long long)cpu_rflags(b->c));
    for (unsigned k = 0; k < ARENA_DATA_LEN; k++)
        if (b->data1[k] != b->nat.arena[ARENA_DATA + k])
            printf(" mem %#x in %02x host %02x ours %02x\n", base_of(b) + ARENA_DATA + k, b->data0[k],
                   b->data1[k], b->nat.arena[ARENA_DATA + k]);
    fflush(stdout);
    fail();
}

static void compare_fault(struct bench *b, enum step s)
{
    const struct native_ctx *n = b->nat.ctx;
    const struct tcpu_exception *e = &b->c->exc;
    b->faults++;
    if (s != STEP_FAULT || !e->pending || e->vector != n->vector || b->c->rip != base_of(b) + b->at)
        report(b, "fault", s);
    if (b->form->flags & F_ANYFAULT)
        return;
    if (e->vector == EXC_PF && e->cr2 != n->cr2)
        report(b, "CR2", s);
    if (e->vector == EXC_PF && e->cr2 - base_of(b) < ARENA_LEN && e->error != n->error)
        report(b, "error code", s);
}

static void compare(struct bench *b, enum step s)
{
    const struct native_ctx *n = b->nat.ctx;
    uint64_t mask = FL_STATUS | FL_DF | FL_ID | FL_IF;
    if ((b->form->flags & F_BCD) && !b->c->vm->model.is_amd)
        mask &= ~(uint64_t)FL_STATUS;
    if ((b->form->flags & F_SHIFT) && !b->c->vm->model.is_amd && (b->code[b->len - 1] & 0x3f) != 1)
        mask &= ~(uint64_t)FL_OF;
    if (n->vector >= 0) {
        compare_fault(b, s);
    } else {
        uint64_t next = base_of(b) + b->at + b->len;
        if (s != STEP_NEXT)
            report(b, "outcome", s);
        if (n->taken == 2) {
            b->taken++;
            next += b->code32 ? 17 : NATIVE_TARGET_AFTER;
        }
        if (b->c->rip != next && !(n->taken == 2 && b->c->rip == base_of(b) + b->at - NATIVE_TARGET_BEFORE))
            report(b, "next address", s);
    }
    bool odd = n->vector >= 0 && (b->form->flags & F_ANYFAULT);
    for (unsigned r = 0; r < (b->code32 ? 8u : 16u) && !odd; r++)
        if (cut32(b->code32, n->out.gpr[r]) != cut32(b->code32, b->c->gpr[r]))
            report(b, "register", s);
    if ((n->out.flags ^ cpu_rflags(b->c)) & mask)
        report(b, "flags", s);
    if (!odd && memcmp(b->nat.arena + ARENA_DATA, b->data1, ARENA_DATA_LEN))
        report(b, "memory", s);
}

static void fill_data(struct bench *b)
{
    for (unsigned k = 0; k < ARENA_DATA_LEN; k += 8) {
        uint64_t v = random_value(b);
        memcpy(b->data0 + k, &v, 8);
    }
}

static void one_case(struct bench *b, const struct form *f)
{
    uint8_t *data = b->nat.arena + ARENA_DATA;
    enum step s;
    b->form = f;
    b->count++;
    b->at = ARENA_CODE + 0x300 + (uint32_t)(rnd(b, 4) ? rnd(b, 0x1000) : 0xcf0 + rnd(b, 16));
    do {
        make_state(b, f);
    } while (!make_insn(b, f));
    if (b->code32)
        for (unsigned r = 0; r < 8; r++)
            b->in.gpr[r] = (uint32_t)b->in.gpr[r];
    make_memory(b, f);
    native_place(&b->nat, b->at, b->code, b->len, b->code32);
    memcpy(data, b->data0, ARENA_DATA_LEN);
    b->nat.ctx->in = b->in;
    native_run(&b->nat, b->at, b->code32);
    memcpy(b->data1, data, ARENA_DATA_LEN);
    memcpy(data, b->data0, ARENA_DATA_LEN);
    load_cpu(b);
    unsigned guard = 0;
    do {
        s = interp_step(b->c);
    } while (s == STEP_AGAIN && ++guard < 100000);
    compare(b, s);
    if (b->count % 64 == 0)
        fill_data(b);
}

static void host_features(struct cpuid_model *m)
{
    uint32_t a, bx, cx, dx;
    __asm__("cpuid" : "=a"(a), "=b"(bx), "=c"(cx), "=d"(dx) : "a"(1), "c"(0));
    m->f1_ecx = cx;
    __asm__("cpuid" : "=a"(a), "=b"(bx), "=c"(cx), "=d"(dx) : "a"(7), "c"(0));
    m->f7_ebx = bx;
    m->f7_ecx = cx;
    __asm__("cpuid" : "=a"(a), "=b"(bx), "=c"(cx), "=d"(dx) : "a"(0x80000001), "c"(0));
    m->fext_ecx = cx;
    m->fext_edx = dx;
    __asm__("cpuid" : "=a"(a), "=b"(bx), "=c"(cx), "=d"(dx) : "a"(0), "c"(0));
    m->is_amd = cx == 0x444d4163; /* "cAMD" */
}

static uint64_t env_number(const char *name, uint64_t otherwise)
{
    const char *s = getenv(name);
    return s ? strtoull(s, NULL, 0) : otherwise;
}

static void bench_open(struct bench *b, bool code32)
{
    uint16_t sel[6];
    memset(b, 0, sizeof(*b));
    b->code32 = code32;
    b->seed = b->rng = env_number("YADO_TEST_SEED", 0x9a3c5f17) | 1;
    b->c = fake_cpu_new();
    fake_mode(b->c, code32 ? 32 : 64, 3);
    host_features(&b->c->vm->model);
    assert_true(native_open(&b->nat));
    uint8_t *a = b->nat.arena;
    uint64_t lin = base_of(b);
    fake_map(b->c, lin + ARENA_CODE, ARENA_CODE_LEN, a + ARENA_CODE, FAKE_R | FAKE_W | FAKE_X, false);
    fake_map(b->c, lin + ARENA_DATA, 0x2000, a + ARENA_DATA, FAKE_R | FAKE_W, false);
    fake_map(b->c, lin + ARENA_DATA + 0x2000, 0x1000, a + ARENA_DATA + 0x2000, FAKE_R | FAKE_W, true);
    fake_map(b->c, lin + ARENA_RO, 0x1000, a + ARENA_RO, FAKE_R, false);
    b->c->vm->slow_of_4 = 1;
    __asm__("mov %%es, %0" : "=r"(sel[S_ES]));
    __asm__("mov %%cs, %0" : "=r"(sel[S_CS]));
    __asm__("mov %%ss, %0" : "=r"(sel[S_SS]));
    __asm__("mov %%ds, %0" : "=r"(sel[S_DS]));
    __asm__("mov %%fs, %0" : "=r"(sel[S_FS]));
    __asm__("mov %%gs, %0" : "=r"(sel[S_GS]));
    for (unsigned s = 0; s < 6; s++)
        b->c->seg[s].sel = sel[s];
    if (code32)
        b->c->seg[S_CS].sel = 0x23;
    else
        b->c->seg[S_GS].base = lin + ARENA_DATA;
    fill_data(b);
}

static void run_bench(bool code32, uint64_t per_form)
{
    static struct bench b;
    struct form_list list = { 0 };
    bench_open(&b, code32);
    forms_fill(&list, code32, &b.c->vm->model);
    per_form = env_number("YADO_TEST_COUNT", per_form);
    for (uint64_t k = 0; k < per_form; k++)
        for (unsigned f = 0; f < list.n; f++)
            one_case(&b, &list.form[f]);
    printf("%s: seed %#llx, %u forms, %llu instructions, %llu faults, %llu branches taken\n",
           code32 ? "32-bit" : "64-bit", (unsigned long long)b.seed, list.n, (unsigned long long)b.count,
           (unsigned long long)b.faults, (unsigned long long)b.taken);
    assert_true(b.taken > 0 && b.faults > 0);
    native_close(&b.nat);
    fake_cpu_free(b.c);
}

/* The address sanitizer's shadow begins at 2 GiB, where wild addresses of the cases must find nothing. */
static void skip_with_shadow(void)
{
#ifdef __SANITIZE_ADDRESS__
    printf("skipped: random addresses would hit the address sanitizer's shadow\n");
    skip();
#endif
}

static void code64_equals_the_host(void **state)
{
    (void)state;
    skip_with_shadow();
    run_bench(false, 2000);
}

static void code32_equals_the_host(void **state)
{
    (void)state;
    skip_with_shadow();
    run_bench(true, 1000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(code64_equals_the_host),
        cmocka_unit_test(code32_equals_the_host),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
