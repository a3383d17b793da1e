/* Shifts, multiply and divide, bit operations, BMI, ADX, CRC32 of the general path.
 * Results and flags come from the host's own instruction, as in interp_alu.c. Which of them the guest may use
 * is what its CPUID says: an instruction that it was not told about raises #UD. Source: Intel SDM volume 2
 * (2023-12), by mnemonic. */
#include "engine/translator/interp_ops.h"

#define F1C_SSE42 (1u << 20)
#define F1C_MOVBE (1u << 22)
#define F1C_POPCNT (1u << 23)
#define F7B_BMI1 (1u << 3)
#define F7B_BMI2 (1u << 8)
#define F7B_ADX (1u << 19)
#define FEC_LZCNT (1u << 5)

/* ---- shifts and rotates ---- */

#define SHIFT_AT(T, insn)                                                                                    \
    do {                                                                                                     \
        T d_ = (T)a;                                                                                         \
        __asm__(FLAGS_LOAD insn " %%cl, %[d]" FLAGS_SAVE : "+a"(f), [d] "+r"(d_) : "c"(count) : "cc");       \
        r = d_;                                                                                              \
    } while (0)
#define SHIFT(insn)                                                                                          \
    do {                                                                                                     \
        if (size == 8)                                                                                       \
            SHIFT_AT(uint64_t, insn);                                                                        \
        else if (size == 4)                                                                                  \
            SHIFT_AT(uint32_t, insn);                                                                        \
        else if (size == 2)                                                                                  \
            SHIFT_AT(uint16_t, insn);                                                                        \
        else                                                                                                 \
            SHIFT_AT(uint8_t, insn);                                                                         \
    } while (0)

static uint64_t alu_shift(unsigned op, unsigned size, uint64_t a, uint8_t count, uint16_t *fl)
{
    uint16_t f = *fl;
    uint64_t r = 0;
    switch (op & 7) {
    case 0: SHIFT("rol"); break;
    case 1: SHIFT("ror"); break;
    case 2: SHIFT("rcl"); break;
    case 3: SHIFT("rcr"); break;
    case 5: SHIFT("shr"); break;
    case 7: SHIFT("sar"); break;
    default: SHIFT("shl"); break; /* 6 is an alias */
    }
    *fl = f;
    return r;
}

/* c0 c1 d0 d1 d2 d3 */
enum step op_shift(struct tcpu *c, struct insn *i)
{
    struct rmw m;
    uint16_t fl;
    uint64_t r;
    uint8_t count = i->op < 0xd0 ? (uint8_t)i->imm : i->op < 0xd2 ? 1 : (uint8_t)c->gpr[R_CX];
    if (!rmw_begin(c, i, op_size(i), &m))
        return STEP_FAULT;
    /* OF after a rotation by more than 1 is undefined, and differs by form: Intel's leave it alone when a
     * register is rotated by an immediate. */
    bool keeps_of = i->op < 0xd0 && !i->is_mem && (i->reg & 6) == 0 &&
                    (count & (m.size == 8 ? 63 : 31)) > 1 && !tvm_cpuid(c->vm)->is_amd;
    do {
        fl = c->fl;
        r = alu_shift(i->reg & 7, m.size, m.old, count, &fl);
        if (keeps_of)
            fl = (uint16_t)((fl & 0xff00) | (c->fl & 1));
    } while (rmw_end(c, i, &m, r));
    if (m.fault)
        return STEP_FAULT;
    c->fl = fl;
    return STEP_NEXT;
}

#define SHIFTD_AT(T, insn)                                                                                   \
    do {                                                                                                     \
        T d_ = (T)a;                                                                                         \
        __asm__(FLAGS_LOAD insn " %%cl, %[s], %[d]" FLAGS_SAVE                                               \
                : "+a"(f), [d] "+r"(d_)                                                                      \
                : [s] "r"((T)b), "c"(count)                                                                  \
                : "cc");                                                                                     \
        r = d_;                                                                                              \
    } while (0)
#define SHIFTD(insn)                                                                                         \
    do {                                                                                                     \
        if (size == 8)                                                                                       \
            SHIFTD_AT(uint64_t, insn);                                                                       \
        else if (size == 4)                                                                                  \
            SHIFTD_AT(uint32_t, insn);                                                                       \
        else                                                                                                 \
            SHIFTD_AT(uint16_t, insn);                                                                       \
    } while (0)

/* 0f a4 a5 SHLD, ac ad SHRD */
enum step op_shiftd(struct tcpu *c, struct insn *i)
{
    struct rmw m;
    uint16_t f;
    uint64_t a, b, r;
    unsigned size = i->opsize;
    uint8_t count = (uint8_t)(i->op & 1 ? c->gpr[R_CX] : i->imm);
    if (!rmw_begin(c, i, size, &m))
        return STEP_FAULT;
    b = reg_get(c, i, i->reg, size);
    do {
        f = c->fl;
        a = m.old;
        if (i->op & 8)
            SHIFTD("shrd");
        else
            SHIFTD("shld");
    } while (rmw_end(c, i, &m, r));
    if (m.fault)
        return STEP_FAULT;
    c->fl = f;
    return STEP_NEXT;
}

/* ---- multiply and divide ---- */

/* One operand; the result is in lo and hi, for bytes in lo alone (as AX). The input flags are loaded too,
 * because a CPU may leave the undefined ones as they were. */
#define WIDE_AT(insn, sfx, k)                                                                                \
    __asm__("mov %k[f], %%eax\n\taddb $0x7f, %%al\n\tsahf\n\tmov %[a], %%rax\n\t" insn " %" k "[s]\n\t"      \
            "mov %%rax, %[lo]" FLAGS_SAVE                                                                    \
            : "=&a"(fo), "+d"(hi), [lo] "=&r"(lo)                                                            \
            : [f] "r"((uint32_t)*fl), [a] "r"(a), [s] "r"(s)                                                 \
            : "cc")
#define WIDE(insn)                                                                                           \
    do {                                                                                                     \
        if (size == 8)                                                                                       \
            WIDE_AT(insn, "q", "q");                                                                         \
        else if (size == 4)                                                                                  \
            WIDE_AT(insn, "l", "k");                                                                         \
        else if (size == 2)                                                                                  \
            WIDE_AT(insn, "w", "w");                                                                         \
        else                                                                                                 \
            WIDE_AT(insn, "b", "b");                                                                         \
    } while (0)

static void alu_wide(unsigned op, unsigned size, uint64_t a, uint64_t *hip, uint64_t *lop, uint64_t s,
                     uint16_t *fl)
{
    uint64_t hi = *hip, lo, fo;
    switch (op & 3) {
    case 0: WIDE("mul"); break;
    case 1: WIDE("imul"); break;
    case 2: WIDE("div"); break;
    default: WIDE("idiv"); break;
    }
    *hip = hi;
    *lop = lo;
    *fl = (uint16_t)fo;
}

/* Whether hi:lo / s does not fit `size` bytes (s == 0 included). */
static bool div_overflows(unsigned size, uint64_t hi, uint64_t lo, uint64_t s)
{
    if (size == 1)
        return (uint8_t)(lo >> 8) >= s;
    return hi >= s;
}

static bool idiv_overflows(unsigned size, uint64_t hi, uint64_t lo, uint64_t s)
{
    unsigned bits = 8 * size;
    __int128 n = size == 1
                     ? (__int128)(int16_t)lo
                     : (__int128)(((unsigned __int128)(__int128)sext(hi, size) << bits) | cut(lo, size));
    int64_t d = sext(s, size);
    if (!d)
        return true;
    unsigned __int128 un = n < 0 ? 0 - (unsigned __int128)n : (unsigned __int128)n;
    uint64_t ud = d < 0 ? 0 - (uint64_t)d : (uint64_t)d;
    uint64_t max = 1ull << (bits - 1); /* magnitude of the most negative quotient */
    unsigned __int128 bound = (unsigned __int128)max * ud;
    if ((n < 0) != (d < 0))
        bound += ud;
    return un >= bound;
}

enum step op_muldiv(struct tcpu *c, struct insn *i)
{
    unsigned size = op_size(i), op = i->reg & 3;
    uint64_t s, lo, hi, a = c->gpr[R_AX];
    if (!rm_get(c, i, size, &s))
        return STEP_FAULT;
    hi = cut(c->gpr[R_DX], size);
    if ((op == 2 && div_overflows(size, hi, cut(a, size == 1 ? 2 : size), s)) ||
        (op == 3 && idiv_overflows(size, hi, a, s)))
        return step_fault(c, EXC_DE);
    alu_wide(op, size, a, &hi, &lo, s, &c->fl);
    if (size == 1) {
        gpr_set(c, R_AX, 2, lo);
    } else {
        gpr_set(c, R_AX, size, lo);
        gpr_set(c, R_DX, size, hi);
    }
    return STEP_NEXT;
}

#define IMUL_AT(T)                                                                                           \
    do {                                                                                                     \
        T d_ = (T)a;                                                                                         \
        __asm__(FLAGS_LOAD "imul %[s], %[d]" FLAGS_SAVE : "+a"(f), [d] "+r"(d_) : [s] "r"((T)b) : "cc");     \
        r = d_;                                                                                              \
    } while (0)

/* 69 6b 0f-af */
enum step op_imul(struct tcpu *c, struct insn *i)
{
    uint64_t a, b, r;
    uint16_t f = c->fl;
    if (!rm_get(c, i, i->opsize, &b))
        return STEP_FAULT;
    a = i->map == MAP_ONE ? i->imm : c->gpr[i->reg];
    if (i->opsize == 8)
        IMUL_AT(uint64_t);
    else if (i->opsize == 4)
        IMUL_AT(uint32_t);
    else
        IMUL_AT(uint16_t);
    gpr_set(c, i->reg, i->opsize, r);
    c->fl = f;
    return STEP_NEXT;
}

/* ---- single bits ---- */

#define BIT_AT(T, insn)                                                                                      \
    do {                                                                                                     \
        T d_ = (T)a;                                                                                         \
        __asm__(FLAGS_LOAD insn " %[s], %[d]" FLAGS_SAVE : "+a"(f), [d] "+r"(d_) : [s] "r"((T)b) : "cc");    \
        r = d_;                                                                                              \
    } while (0)
#define BIT(insn)                                                                                            \
    do {                                                                                                     \
        if (size == 8)                                                                                       \
            BIT_AT(uint64_t, insn);                                                                          \
        else if (size == 4)                                                                                  \
            BIT_AT(uint32_t, insn);                                                                          \
        else                                                                                                 \
            BIT_AT(uint16_t, insn);                                                                          \
    } while (0)

static uint64_t alu_bit(unsigned op, unsigned size, uint64_t a, uint64_t b, uint16_t *fl)
{
    uint16_t f = *fl;
    uint64_t r;
    switch (op & 3) {
    case 0: BIT("bt"); break;
    case 1: BIT("bts"); break;
    case 2: BIT("btr"); break;
    default: BIT("btc"); break;
    }
    *fl = f;
    return r;
}

/* 0f a3 ab b3 bb by register; 0f ba /4 to /7 by immediate. A register index reaches memory beyond the
 * operand. */
enum step op_bit_test(struct tcpu *c, struct insn *i)
{
    struct rmw m;
    uint16_t fl;
    uint64_t r, bit;
    unsigned op = (i->op >> 3) & 3, size = i->opsize;
    if (i->op == 0xba) {
        if ((i->reg & 7) < 4)
            return step_fault(c, EXC_UD);
        op = i->reg & 3;
        bit = i->imm;
    } else {
        bit = reg_get(c, i, i->reg, size);
        if (i->is_mem) {
            unsigned shift = size == 8 ? 6 : size == 4 ? 5 : 4;
            uint64_t unit = (uint64_t)(sext(bit, size) >> shift);
            i->ea = cut(i->ea + unit * size, i->adsize);
        }
    }
    bit &= 8 * size - 1;
    if (op == 0) {
        if (!rm_get(c, i, size, &r))
            return STEP_FAULT;
        alu_bit(0, size, r, bit, &c->fl);
        return STEP_NEXT;
    }
    if (!rmw_begin(c, i, size, &m))
        return STEP_FAULT;
    do {
        fl = c->fl;
        r = alu_bit(op, size, m.old, bit, &fl);
    } while (rmw_end(c, i, &m, r));
    if (m.fault)
        return STEP_FAULT;
    c->fl = fl;
    return STEP_NEXT;
}

/* The whole 64-bit register goes through the instruction: a CPU may leave it alone when the source is 0. */
#define SCAN(insn)                                                                                           \
    do {                                                                                                     \
        if (size == 8)                                                                                       \
            __asm__(FLAGS_LOAD insn " %q[s], %q[d]" FLAGS_SAVE : "+a"(f), [d] "+r"(d) : [s] "r"(s) : "cc");  \
        else if (size == 4)                                                                                  \
            __asm__(FLAGS_LOAD insn " %k[s], %k[d]" FLAGS_SAVE : "+a"(f), [d] "+r"(d) : [s] "r"(s) : "cc");  \
        else                                                                                                 \
            __asm__(FLAGS_LOAD insn " %w[s], %w[d]" FLAGS_SAVE : "+a"(f), [d] "+r"(d) : [s] "r"(s) : "cc");  \
    } while (0)

/* 0f b8 POPCNT, bc BSF and TZCNT, bd BSR and LZCNT */
enum step op_bit_scan(struct tcpu *c, struct insn *i)
{
    unsigned size = i->opsize;
    uint16_t f = c->fl;
    uint64_t s, d = c->gpr[i->reg];
    const struct cpuid_model *m = cpu_model(c);
    bool f3 = i->rep == 0xf3;
    if (i->op == 0xb8 && !(f3 && (m->f1_ecx & F1C_POPCNT)))
        return step_fault(c, EXC_UD);
    if (!rm_get(c, i, size, &s))
        return STEP_FAULT;
    if (i->op == 0xb8)
        SCAN("popcnt");
    else if (i->op == 0xbc && f3 && (m->f7_ebx & F7B_BMI1))
        SCAN("tzcnt");
    else if (i->op == 0xbc)
        SCAN("bsf");
    else if (f3 && (m->fext_ecx & FEC_LZCNT))
        SCAN("lzcnt");
    else
        SCAN("bsr");
    c->gpr[i->reg] = d;
    c->fl = f;
    return STEP_NEXT;
}

/* ---- 0f 38 f0 f1: MOVBE and CRC32 ---- */

static enum step op_crc32(struct tcpu *c, struct insn *i)
{
    unsigned size = op_size(i);
    uint64_t s, d = c->gpr[i->reg];
    if (!(cpu_model(c)->f1_ecx & F1C_SSE42))
        return step_fault(c, EXC_UD);
    if (!rm_get(c, i, size, &s))
        return STEP_FAULT;
    switch (size) {
    case 1: __asm__("crc32b %b1, %k0" : "+r"(d) : "r"(s)); break;
    case 2: __asm__("crc32w %w1, %k0" : "+r"(d) : "r"(s)); break;
    case 4: __asm__("crc32l %k1, %k0" : "+r"(d) : "r"(s)); break;
    default: __asm__("crc32q %q1, %q0" : "+r"(d) : "r"(s)); break;
    }
    c->gpr[i->reg] = (uint32_t)d;
    return STEP_NEXT;
}

static uint64_t swap_bytes(uint64_t v, unsigned size)
{
    return __builtin_bswap64(v) >> (64 - 8 * size);
}

enum step op_crc32_movbe(struct tcpu *c, struct insn *i)
{
    uint64_t v;
    if (i->rep == 0xf2)
        return op_crc32(c, i);
    if (i->rep || !i->is_mem || !(cpu_model(c)->f1_ecx & F1C_MOVBE))
        return step_fault(c, EXC_UD);
    if (i->op == 0xf1)
        return step_of(rm_set(c, i, i->opsize, swap_bytes(reg_get(c, i, i->reg, i->opsize), i->opsize)));
    if (!rm_get(c, i, i->opsize, &v))
        return STEP_FAULT;
    gpr_set(c, i->reg, i->opsize, swap_bytes(v, i->opsize));
    return STEP_NEXT;
}

/* 0f 38 f6: ADCX (66), ADOX (f3) */
enum step op_adx(struct tcpu *c, struct insn *i)
{
    unsigned size = i->rex & 8 ? 8 : 4;
    uint16_t f = c->fl;
    uint64_t s, d = c->gpr[i->reg];
    bool adox = i->rep == 0xf3;
    if (!(cpu_model(c)->f7_ebx & F7B_ADX) || i->rep == 0xf2 || (!adox && !i->p66))
        return step_fault(c, EXC_UD);
    if (!rm_get(c, i, size, &s))
        return STEP_FAULT;
    if (size == 8 && adox)
        __asm__(FLAGS_LOAD "adox %q[s], %q[d]" FLAGS_SAVE : "+a"(f), [d] "+r"(d) : [s] "r"(s) : "cc");
    else if (size == 8)
        __asm__(FLAGS_LOAD "adcx %q[s], %q[d]" FLAGS_SAVE : "+a"(f), [d] "+r"(d) : [s] "r"(s) : "cc");
    else if (adox)
        __asm__(FLAGS_LOAD "adox %k[s], %k[d]" FLAGS_SAVE : "+a"(f), [d] "+r"(d) : [s] "r"(s) : "cc");
    else
        __asm__(FLAGS_LOAD "adcx %k[s], %k[d]" FLAGS_SAVE : "+a"(f), [d] "+r"(d) : [s] "r"(s) : "cc");
    gpr_set(c, i->reg, size, d);
    c->fl = f;
    return STEP_NEXT;
}

/* ---- VEX.0F38 f2 f3 f5 f6 f7 ---- */

/* d = op(s1, s2) with flags; s2 is the operand that may be in memory, except for those that take it first. */
#define BMI3(insn)                                                                                           \
    do {                                                                                                     \
        if (size == 8)                                                                                       \
            __asm__(FLAGS_LOAD insn " %q[x], %q[y], %q[d]" FLAGS_SAVE                                        \
                    : "+a"(f), [d] "=&r"(d)                                                                  \
                    : [x] "r"(x), [y] "r"(y)                                                                 \
                    : "cc");                                                                                 \
        else                                                                                                 \
            __asm__(FLAGS_LOAD insn " %k[x], %k[y], %k[d]" FLAGS_SAVE                                        \
                    : "+a"(f), [d] "=&r"(d)                                                                  \
                    : [x] "r"(x), [y] "r"(y)                                                                 \
                    : "cc");                                                                                 \
    } while (0)
#define BMI2(insn)                                                                                           \
    do {                                                                                                     \
        if (size == 8)                                                                                       \
            __asm__(FLAGS_LOAD insn " %q[x], %q[d]" FLAGS_SAVE : "+a"(f), [d] "=&r"(d) : [x] "r"(x) : "cc"); \
        else                                                                                                 \
            __asm__(FLAGS_LOAD insn " %k[x], %k[d]" FLAGS_SAVE : "+a"(f), [d] "=&r"(d) : [x] "r"(x) : "cc"); \
    } while (0)

enum bmi_op {
    BMI_NONE,
    BMI_ANDN,
    BMI_BLSR,
    BMI_BLSMSK,
    BMI_BLSI,
    BMI_BZHI,
    BMI_PEXT,
    BMI_PDEP,
    BMI_MULX,
    BMI_BEXTR,
    BMI_SHLX,
    BMI_SARX,
    BMI_SHRX,
};

/* By opcode and mandatory prefix (0: none, 1: 66, 2: f3, 3: f2). */
static enum bmi_op bmi_which(const struct insn *i)
{
    unsigned pp = i->p66 ? 1 : i->rep == 0xf3 ? 2 : i->rep == 0xf2 ? 3 : 0;
    static const uint8_t f5[4] = { BMI_BZHI, BMI_NONE, BMI_PEXT, BMI_PDEP };
    static const uint8_t f7[4] = { BMI_BEXTR, BMI_SHLX, BMI_SARX, BMI_SHRX };
    if (i->vex_l)
        return BMI_NONE;
    switch (i->op) {
    case 0xf2: return pp ? BMI_NONE : BMI_ANDN;
    case 0xf3:
        if (pp || (i->reg & 7) < 1 || (i->reg & 7) > 3)
            return BMI_NONE;
        return (enum bmi_op)(BMI_BLSR + (i->reg & 7) - 1);
    case 0xf5: return (enum bmi_op)f5[pp];
    case 0xf6: return pp == 3 ? BMI_MULX : BMI_NONE;
    default: return (enum bmi_op)f7[pp];
    }
}

static uint64_t alu_bmi(enum bmi_op op, unsigned size, uint64_t v, uint64_t rm, uint16_t *fl)
{
    uint16_t f = *fl;
    uint64_t d = 0, x = rm, y = v;
    switch (op) {
    case BMI_ANDN: BMI3("andn"); break;
    case BMI_PEXT: BMI3("pext"); break;
    case BMI_PDEP: BMI3("pdep"); break;
    case BMI_BLSR: BMI2("blsr"); break;
    case BMI_BLSMSK: BMI2("blsmsk"); break;
    case BMI_BLSI: BMI2("blsi"); break;
    default: /* the control operand is VEX.vvvv */
        x = v;
        y = rm;
        if (op == BMI_BZHI)
            BMI3("bzhi");
        else if (op == BMI_BEXTR)
            BMI3("bextr");
        else if (op == BMI_SHLX)
            BMI3("shlx");
        else if (op == BMI_SARX)
            BMI3("sarx");
        else
            BMI3("shrx");
        break;
    }
    *fl = f;
    return cut(d, size);
}

enum step op_bmi(struct tcpu *c, struct insn *i)
{
    enum bmi_op op = bmi_which(i);
    unsigned size = i->opsize;
    bool bmi1 = op == BMI_ANDN || (op >= BMI_BLSR && op <= BMI_BLSI) || op == BMI_BEXTR;
    uint64_t rm;
    if (op == BMI_NONE || !(cpu_model(c)->f7_ebx & (bmi1 ? F7B_BMI1 : F7B_BMI2)))
        return step_fault(c, EXC_UD);
    if (!rm_get(c, i, size, &rm))
        return STEP_FAULT;
    if (op == BMI_MULX) {
        unsigned __int128 p = (unsigned __int128)cut(c->gpr[R_DX], size) * rm;
        gpr_set(c, i->vex_reg, size, (uint64_t)p);
        gpr_set(c, i->reg, size, (uint64_t)(p >> (8 * size)));
        return STEP_NEXT;
    }
    uint64_t r = alu_bmi(op, size, cut(c->gpr[i->vex_reg], size), rm, &c->fl);
    bool blsx = i->op == 0xf3;
    gpr_set(c, blsx ? i->vex_reg : i->reg, size, r);
    return STEP_NEXT;
}

/* VEX.F2.0F3A f0 */
enum step op_rorx(struct tcpu *c, struct insn *i)
{
    uint64_t v;
    unsigned bits = 8u * i->opsize, n = (unsigned)i->imm & (bits - 1);
    if (i->vex_l || i->rep != 0xf2 || i->vex_reg || !(cpu_model(c)->f7_ebx & F7B_BMI2))
        return step_fault(c, EXC_UD);
    if (!rm_get(c, i, i->opsize, &v))
        return STEP_FAULT;
    if (n)
        v = v >> n | v << (bits - n);
    gpr_set(c, i->reg, i->opsize, v);
    return STEP_NEXT;
}
