/* Inside of the block translator (translate.c, trans_mem.c, trans_flow.c, trans_encode.c). Theory in
 * translate.c. */
#ifndef TRANSLATOR_TRANS_H
#define TRANSLATOR_TRANS_H

#include <Zydis/Zydis.h>

#include "engine/translator/cache.h"
#include "engine/translator/emit.h"
#include "engine/translator/fixed.h"

/* Scratch host registers. */
#define T0 H_9
#define T1 H_10
#define DC H_11 /* holds the delta of one group of accesses (trans_group.c), else free */
#define H_GUEST_SP H_15

/* A place in struct tcpu, by its offset. */
static inline struct hmem hm_cpu(size_t off)
{
    return hm_gs_disp((int32_t)off - (int32_t)TCPU_GS);
}
static inline struct hmem gs_gpr(unsigned r)
{
    return hm_cpu(offsetof(struct tcpu, gpr) + r * 8);
}
#define GS(field) hm_cpu(offsetof(struct tcpu, field))

#define TRANS_MAX_INSNS 64
#define TRANS_MAX_BRANCHES 4
/* A few for each instruction, so that no block ends for want of them where flags are forgotten
 * (trans_flags.c). */
#define TRANS_MAX_SIDE 252

/* What an instruction is translated by (translate.c). */
enum way { WAY_GENERIC, WAY_VECTOR, WAY_INTERP, WAY_NOTHING, WAY_SPECIAL, WAY_FLOW, WAY_SYS };

/* A guest memory operand. */
struct gaddr {
    int64_t disp;
    int8_t base, index; /* guest register numbers, or -1 */
    uint8_t scale;
    uint8_t width;     /* address size in bits: 16, 32 or 64 */
    bool rip;          /* disp is relative to the start of the code page (tcpu.vpage) */
    uint32_t seg_base; /* offset in tcpu of a segment base to add, or 0 */
    uint32_t seg_room; /* offset in tcpu of what the segment's limit leaves, or 0: nothing to be checked */
};

#define BASE_SCRATCH 16 /* as gaddr.base: the address is in tcpu.scratch[2] */

/* Where an access is, told by values instead of registers, so that it can be compared with others. */
struct gspot {
    union {
        struct {
            uint16_t base, index; /* numbers of values, or GSPOT_NONE */
            uint8_t scale, width;
            bool rip;
            uint8_t seg; /* S_FS, S_GS, or 0 */
        };
        uint64_t where; /* all of that */
    };
    int64_t disp;
};
#define GSPOT_NONE 0xffffu

/* One access that an instruction of the block will make, for looking ahead. */
struct gaccess {
    struct gspot spot;
    uint16_t len;
    bool write;
    bool groups;   /* may share a check */
    uint8_t insn;  /* whose it is */
    uint8_t exits; /* side exits before it */
    uint8_t calls; /* barriers before it */
};

/* A register's content: off more than what number id stands for (trans_values.c). */
struct gvalue {
    uint16_t id;
    int16_t off;
};

/* What becomes of the stack pointer. */
enum stack_use { STACK_NONE, STACK_PUSH, STACK_POP, STACK_LEAVE };

/* What is added to the source of a result that is known (trans_values.c). */
enum addend { ADD_NOTHING, ADD_ONE, ADD_MINUS_ONE, ADD_IMM, ADD_MINUS_IMM, ADD_DISP };

/* What the translator finds out about an instruction before it writes it. */
struct insn_facts {
    uint8_t way;      /* enum way */
    uint8_t special;  /* enum special, for WAY_SPECIAL */
    bool barrier;     /* goes to C, where anything may change */
    bool unknown;     /* no instruction, or none that the guest has */
    bool reads_flags; /* any status flag, or leaves one as it was */
    bool tests_flags; /* what it does depends on one */
    bool writes_flags;
    bool kills_flags; /* writes all of them without reading any */
    bool signals;     /* the host may raise a signal for it, SSE and x87 apart */
    bool side_exit;   /* conditional branch in place */
    bool transfers;   /* any branch */
    bool ends;        /* nothing of the block comes behind it */
    bool jumps;       /* in place to a known target: conditional by flags, or in any case */
    bool plain;       /* the same if it is done again (shadow.c) */
    uint8_t stack;    /* enum stack_use */
    uint8_t addend;   /* enum addend */
    int8_t to, from;  /* full registers: `to` becomes `from` and the addend; -1: nothing is known */
    uint16_t writes;  /* general registers it changes */
    uint16_t undefined_flags;
};

/* How the status flags of an instruction can be made anew (trans_flags.c). */
enum recipe_kind { RECIPE_NONE, RECIPE_ZERO, RECIPE_CMP, RECIPE_TEST, RECIPE_ADD, RECIPE_SUB };
struct flag_recipe {
    uint8_t kind, size; /* enum recipe_kind; bits */
    int8_t a, b;        /* guest registers; b -1: imm */
    uint16_t regs;      /* mask of both */
    int32_t imm;
};

/* Host operands for re-encoding the current instruction. */
struct recode {
    int8_t reg;        /* ModRM.reg if it names a GPR, else -1 */
    int8_t rm;         /* ModRM.rm if it names a GPR, else -1 */
    int8_t vvvv;       /* VEX.vvvv if a GPR, else -1 */
    int8_t opreg;      /* register in the opcode byte, else -1 */
    uint8_t opcode;    /* instead of the guest's when not 0 */
    uint8_t subst_reg; /* replaces the opcode extension in ModRM.reg when not 0xff */
    bool has_mem;
    struct hmem mem;
};

/* A register of the instruction that lives in memory, and the scratch register that it gets. */
struct slot {
    uint8_t gpr;
    int8_t tmp;
    bool load, store;
};

/* How a generic instruction is written again (trans_generic.c). */
struct plan {
    struct recode r;
    struct slot slots[4];
    uint8_t slot_count;
    int8_t swap; /* register whose two low bytes are exchanged around the instruction, or -1 */
    bool reads_flags, writes_flags;
    bool mask;                          /* XSAVE family: EDX:EAX is limited to the guest's XCR0 */
    bool restore;                       /* XRSTOR: the header must name no more than that either */
    bool denied;                        /* by its segment, always */
    bool moves_pointers, sets_pointers; /* of x87 */
    uint16_t flags;                     /* MEM_* */
};

/* A legacy encoding as it is written again, its operands apart. */
struct encoding {
    bool legacy; /* false: it is another */
    bool modrm;
    uint8_t rex, opcode, reg, rm; /* rex 0: none */
    uint8_t imm_at, imm_bytes;
    uint8_t prefix_count, escape_count;
    uint8_t escapes[2], prefixes[ZYDIS_MAX_INSTRUCTION_LENGTH + 1];
};

#define FORM_BITS 12
#define FORM_WHOLE_BITS 10
#define FORM_OPERANDS 5 /* of forms that are kept */

/* A decoded instruction, as others may be too that differ in displacement and immediate (trans_form.c). */
struct form {
    struct insn_facts facts;
    bool decoded;
    bool kept;   /* it may be others' too */
    bool counts; /* a shift, whose immediate says what becomes of the flags */
    int8_t lea;  /* the destination of LEA, or -1 */
    uint8_t length, operand_width;
    uint8_t access;      /* MMU_SLOW_*, of the memory operand of WAY_GENERIC and WAY_VECTOR ... */
    uint16_t access_len; /* ... and its bytes; 0: no such access */
    uint8_t disp_at, disp_bits, imm_at, imm_bits;
    bool imm_signed;
    int8_t disp_op, imm_op; /* operands with its displacement and immediate, or -1 */
    bool recipe_imm;        /* recipe.imm is the immediate */
    uint32_t block;         /* the last that refers to it */
    struct gaddr addr;      /* of the operand with the displacement, or else of mem */
    struct plan plan;
    struct encoding encoding;
    struct flag_recipe recipe;
    const ZydisDecodedOperand *mem; /* insn_find_mem */
    ZydisDecodedOperand *ops;
    ZydisDecodedInstruction *in; /* NULL: nobody will ask; nor for mem and ops */
};

/* What Zydis has made of the instruction of a form that is kept. */
struct form_whole {
    struct form *of;
    ZydisDecodedInstruction in;
    ZydisDecodedOperand ops[FORM_OPERANDS];
};

/* Which one is kept at this place. */
struct form_key {
    uint64_t bytes; /* the first */
    uint32_t mode;
    uint32_t len; /* how many; 0: none is kept */
};

/* One instruction of the block. */
struct ginsn {
    struct form *form;
    uint64_t key;      /* of forms; key_len 0: none is kept */
    int64_t disp, imm; /* its numbers */
    uint16_t off;
    uint8_t length;
    uint8_t seen; /* bytes, how many were there */
    uint8_t key_len;
    bool decoded; /* false: no instruction (length 1), or it runs into a page that is not there (0) */
    uint8_t access_count, access_first; /* in trans.accesses */
    struct insn_facts f;
    uint8_t bytes[24]; /* 15 count; words are read from any of them */
    struct gvalue before[16];
};

/* Accesses near one address that share a check (trans_group.c). */
struct group {
    bool write;
    struct gspot spot; /* disp is 0 */
    int64_t lo, hi;    /* bytes [lo, hi) from there */
    unsigned last;     /* index of the last instruction that will use it */
    int slot;          /* tcpu.group_delta[slot] holds the delta; -1: DC does */
};
#define TRANS_GROUPS 8
#define GROUP_SPAN_MAX 512 /* the longer, the oftener it crosses a page */

/* What the scratch registers hold beside their use: a guest register that lives in memory, or a group's
 * delta. True as long as nothing else has been written behind it, which the place in the hot code tells. */
struct held {
    const uint8_t *at;
    int8_t what[2]; /* of T0 and T1: a guest register's number, HELD_DELTA and a slot's, or HELD_NONE */
    uint8_t last;   /* which of the two was used last */
};
#define HELD_NONE (-1)
#define HELD_DELTA 32

/* A loop that is one block, with checks in front of it (trans_loop.c). */
struct loop {
    const uint8_t *again; /* where the next round begins; NULL: no such loop */
    unsigned at;          /* index of the instruction that goes back */
    bool flags_dead;      /* nobody looks at the flags that a round begins with */
};

struct trans {
    struct tvm *vm;
    struct tcpu *c;
    struct code_cache *cc;
    struct emit h, k; /* hot and cold */
    ZydisDecoder decoder;
    uint64_t gpage;
    uint64_t gpage2; /* ~0: not there */
    const uint8_t *page;
    unsigned start, off; /* guest offsets in the page: of the block, of the current instruction */
    unsigned length;     /* of that */
    unsigned end;        /* guest bytes read so far end here */
    uint64_t vpage;      /* linear page; known only under MODE_FIXED */
    uint32_t mode;
    unsigned idx; /* enum mmu_index */
    uint8_t bits; /* 32 or 64 */
    unsigned insns, branches;
    bool host_flags;  /* EFLAGS holds the guest's status flags */
    bool saved_flags; /* tcpu.fl holds them (both may be true) */
    struct flag_recipe recipe;
    bool goes_back; /* there is a jump that must not be taken for ever without a look at exit_request */
    bool polled;    /* a look at exit_request stands before the current instruction's work, in this block */
    bool accessed;  /* this instruction has made an access already */
    bool x87_noted; /* tcpu.x87_page has been stored since the block's start or control came back to it */
    bool rehearses; /* the instruction is made for before_access, and taken back there */
    bool done;
    bool small;          /* calls shared checks instead of having them in line */
    unsigned count, cur; /* decoded instructions; the current one */
    struct gvalue values[16];
    uint16_t value_count;
    struct group groups[TRANS_GROUPS];
    unsigned live_groups; /* mask */
    unsigned barriers, access_count;
    struct loop loop;
    struct held held;
    const ZydisDecodedInstruction *in; /* the current one's */
    const ZydisDecodedOperand *ops;
    const ZydisDecodedOperand *mem; /* insn_find_mem */
    const uint8_t *bytes;
    struct tb_side *side; /* TRANS_MAX_SIDE of them */
    unsigned side_count;
    struct ginsn *g;          /* TRANS_MAX_INSNS + 1 of them */
    struct gaccess *accesses; /* of those, access_count of twice as many */
    struct forms *forms;
};

/* Of a vCPU: 1.6 MB. */
struct forms {
    uint32_t block;                       /* number of the one in the making */
    struct form own[TRANS_MAX_INSNS + 1]; /* of that block's instructions, as far as they are not kept */
    ZydisDecodedInstruction own_in[TRANS_MAX_INSNS + 1];
    ZydisDecodedOperand own_ops[TRANS_MAX_INSNS + 1][ZYDIS_MAX_OPERAND_COUNT];
    struct form_key keys[1 << FORM_BITS];
    struct form kept[1 << FORM_BITS];
    struct form_whole wholes[1 << FORM_WHOLE_BITS];
};

static inline bool held_valid(const struct trans *t, const struct emit *e)
{
    return e == &t->h && t->held.at == e->p;
}
static inline bool held_is(const struct trans *t, const struct emit *e, unsigned i, int what)
{
    return held_valid(t, e) && t->held.what[i] == what;
}
/* From here on; valid: what was held before is still. */
static inline void held_keep(struct trans *t, const struct emit *e, bool valid)
{
    if (e != &t->h)
        return;
    if (!valid)
        t->held.what[0] = t->held.what[1] = HELD_NONE;
    t->held.at = e->p;
}
static inline void held_note(struct trans *t, unsigned i, int what)
{
    if (t->held.what[!i] == what)
        t->held.what[!i] = HELD_NONE;
    t->held.what[i] = (int8_t)what;
    t->held.last = (uint8_t)i;
}

static inline bool is_slot(unsigned gpr) /* guest registers that live in memory */
{
    return gpr == R_9 || gpr == R_10 || gpr == R_11 || gpr == R_15;
}
static inline int host_reg(unsigned gpr) /* for those that do not */
{
    return gpr == R_SP ? H_GUEST_SP : (int)gpr;
}
static inline bool is_fixed(const struct trans *t) /* the linear address is known */
{
    return (t->mode & MODE_FIXED) != 0;
}
/* r10 (or r11) = what a stub wants there, with the linear page if it is known. */
static inline void e_desc(const struct trans *t, struct emit *e, int reg, uint32_t desc)
{
    e_mov_ri64(e, reg, desc | (is_fixed(t) ? (uint64_t)(uint32_t)t->vpage << 32 : 0));
}
/* dst = RFLAGS as instructions store them, without RF and VM. Flags are saved, and lost; uses tmp. */
void e_stored_rflags(struct emit *e, int dst, int tmp);
/* Stores EFLAGS' status flags in tcpu.fl. Keeps EFLAGS, uses T1. */
void e_save_flags(struct emit *e);

/* A field of the TLB entry whose index emit_tlb_index has left in T1. */
static inline struct hmem hm_tlb(unsigned idx, size_t field)
{
    struct hmem entry =
        hm_cpu(offsetof(struct tcpu, tlb) + idx * sizeof(struct tlb_entry) * TLB_SIZE + field);
    entry.base = T1;
    return entry;
}

/* T0 = linear address. Uses T1, which the answer, the place of the translated code's address, needs. out: the
 * place of a jump for when the jump cache does not know the address, or exit_request is set. */
static inline struct hmem jump_cache_probe(struct emit *e, unsigned idx, bool bmi2, uint8_t **out)
{
    size_t jc = offsetof(struct tcpu, jc) + idx * sizeof(struct jc_entry) * JC_SIZE;
    struct hmem entry = hm_cpu(jc + offsetof(struct jc_entry, pc));
    entry.base = T1;
    if (bmi2) {
        e_rorx(e, 0, T1, T0, 32 - JC_ROTATE);
    } else {
        e_mov_rr(e, 0, T1, T0);
        e_rol_ri(e, 0, T1, JC_ROTATE);
    }
    e_alu_rr(e, 0, ALU_XOR, T1, T0);
    e_alu_rm(e, 0, ALU_AND, T1, GS(jc_mask));
    e_alu_rm(e, 1, ALU_CMP, T0, entry);
    *out = e_jcc_fwd(e, CC_NE);
    entry.disp += (int32_t)(offsetof(struct jc_entry, host) - offsetof(struct jc_entry, pc));
    return entry;
}

static inline unsigned next_off(const struct trans *t)
{
    return t->off + t->length;
}

/* ---- flags (trans_flags.c) ---- */
void fl_save(struct trans *t, struct emit *e);    /* makes tcpu.fl valid; uses T1 */
void fl_clobber(struct trans *t, struct emit *e); /* saves, then EFLAGS are free */
bool fl_passed_on(const struct trans *t); /* somebody sees the flags that the current instruction leaves */
bool fl_forgotten(const struct trans *t); /* nobody can see the flags that the current instruction finds */
bool fl_free(const struct trans *t);      /* EFLAGS can be lost and nothing need be saved for that */
void fl_lose(struct trans *t, struct emit *e); /* EFLAGS are free; saves only if it must */
void fl_cold(struct trans *t, struct emit *k); /* cold code behind fl_lose: makes tcpu.fl valid */
bool fl_carries(const struct trans *t);
void fl_carry(struct emit *e);   /* EFLAGS are free, RAX is not what it was ... */
void fl_carried(struct emit *e); /* ... and both are again */
/* Cold: makes tcpu.fl valid; carry: behind fl_carry, else behind fl_lose. _call: then calls a slow path. */
void fl_cold_save(struct trans *t, struct emit *k, bool carry);
void fl_cold_call(struct trans *t, struct emit *k, bool carry, const uint8_t *slow, uint32_t desc);
void fl_carry_back(struct emit *k); /* cold code, on the way to what stands before fl_carried */
void fl_need(struct trans *t, struct emit *e, int tmp); /* makes EFLAGS valid */
void fl_written(struct trans *t);                       /* the guest's flags were just written in EFLAGS */
void fl_before_insn(struct trans *t);
void fl_after_insn(struct trans *t);
void fl_learn(const struct trans *t, struct form *f); /* fills recipe */

/* ---- memory (trans_mem.c) ---- */

/* dst = linear address (effective address if seg_base is 0). Uses T1 too. No flags. */
void lea_guest(struct trans *t, struct emit *e, int dst, const struct gaddr *a);
struct gaddr gaddr_of(const struct trans *t);            /* of the current instruction's operand */
void gaddr_learn(const struct trans *t, struct form *f); /* what is known of it without its displacement */

/* A scratch register that ref does not use; ref is reduced to one register if it must be. */
int body_tmp(struct emit *e, struct hmem *ref);

/* Emits `body` behind a check of n bytes at a; for writes once more in cold code for staged accesses. */
typedef void body_fn(struct trans *t, struct emit *e, struct hmem ref, void *arg);
void mem_access(struct trans *t, const struct gaddr *a, unsigned n, unsigned acc, unsigned flags,
                body_fn *body, void *arg);
/* For an access that its segment never lets through: what comes before that, then #GP. */
void mem_denied(struct trans *t, unsigned flags, body_fn *body, void *arg);
enum {
    MEM_LOCKED = 1,
    MEM_STACK = 2,
    MEM_NO_DELTA = 4,
    MEM_NO_EXIT = 8,
    MEM_SIDE = 16,
    MEM_NO_GROUP = 32,
    MEM_FPU_WAIT = 64,   /* x87 or MMX: a pending #MF goes before the faults of the operand */
    MEM_REHEARSE = 128,  /* the instruction comes before the faults of its operand (trans_mem.c) */
    MEM_ALIGN_SHIFT = 8, /* MMU_DESC_ALIGN, two bits */
    MEM_MASKED = 1024    /* masked.c */
};

void side_note(struct trans *t, struct emit *e); /* the next host instruction may raise a host signal */

/* ---- values of registers (trans_values.c) ---- */
void values_begin(struct trans *t);
void values_learn(const struct trans *t, struct insn_facts *x); /* of the current instruction */
void values_after(struct trans *t, const struct ginsn *g);

/* ---- forms (trans_form.c) ---- */

/* Looks for the form of g, of whose bytes `room` are there. */
bool form_find(const struct trans *t, struct ginsn *g, unsigned room);
void form_decode(struct trans *t, struct ginsn *g, unsigned room); /* makes it a form of its own */
void form_keep(struct trans *t, const struct ginsn *g);            /* that form, for others too */
void form_set_numbers(struct form *f, const struct ginsn *g);      /* to those of g */

/* ---- groups (trans_group.c) ---- */

void group_note_access(struct trans *t, struct ginsn *g, const struct gaddr *a, unsigned len, bool write);

/* If the access is covered by a group, or a group worth its check can be begun here: emits what is needed
 * (the check, the loading of the delta), sets *ref and returns true. */
bool group_access(struct trans *t, const struct gaddr *a, unsigned n, bool write, struct hmem *ref);
void group_after_insn(struct trans *t); /* drops groups that are over */
void group_take_dc(struct trans *t);    /* DC is needed as a scratch register */
static inline bool group_comparable(const struct gspot *a, const struct gspot *b) /* differ by a constant */
{
    return a->where == b->where;
}
/* The check of a group of reads at the start of the block, when registers hold the values of their numbers.
 */
void group_check_early(struct trans *t, const struct group *g);

/* ---- loops (trans_loop.c) ---- */
void loop_begin(struct trans *t);                        /* at the block's start: the checks, if it is one */
bool loop_closes(const struct trans *t, int64_t target); /* the current jump there begins the next round */
const uint8_t *loop_again(struct trans *t);              /* where; brings the flags in order */
void trans_set_current(struct trans *t, unsigned i);     /* translate.c */
void emit_tlb_check(struct trans *t, unsigned n,
                    bool write);      /* of n bytes at T0; a miss goes on in cold code */
void emit_tlb_index(struct trans *t); /* T1 = where T0's page is in the TLB */

/* ---- encoding (trans_encode.c) ---- */

void recode(struct trans *t, struct emit *e, const struct recode *r);
void encoding_learn(const struct trans *t, struct form *f);

/* ---- generic instructions (trans_generic.c) ---- */
#define ACT_READ ZYDIS_OPERAND_ACTION_MASK_READ
#define ACT_WRITE ZYDIS_OPERAND_ACTION_MASK_WRITE

/* Number of a general register, or -1 for others. */
static inline int insn_gpr_id(ZydisRegister r)
{
    if (r >= ZYDIS_REGISTER_AX && r <= ZYDIS_REGISTER_R15)
        return (int)(r - ZYDIS_REGISTER_AX) & 15; /* three sets of sixteen */
    if (r < ZYDIS_REGISTER_AL || r > ZYDIS_REGISTER_R15B)
        return -1;
    return r >= ZYDIS_REGISTER_SPL ? (int)(r - ZYDIS_REGISTER_SPL) + 4 : (int)(r - ZYDIS_REGISTER_AL) & 3;
}
_Static_assert(ZYDIS_REGISTER_EAX == ZYDIS_REGISTER_AX + 16 && ZYDIS_REGISTER_RAX == ZYDIS_REGISTER_AX + 32 &&
                   ZYDIS_REGISTER_R15 == ZYDIS_REGISTER_AX + 47,
               "general registers follow each other");
bool insn_has_class(const struct trans *t, ZydisRegisterClass cls);
bool insn_uses_class(const ZydisDecodedInstruction *in, const ZydisDecodedOperand *ops,
                     ZydisRegisterClass cls);
bool insn_is_x87(const struct trans *t);
/* x87 and MMX instructions that report a pending x87 exception first (SDM volume 1, 8.6). */
bool insn_waits_for_fpu(const ZydisDecodedInstruction *in, const ZydisDecodedOperand *ops);
/* Whether a store does something before its operand is looked at (trans_mem.c, before_access). */
bool insn_rehearses(const struct trans *t);
/* A store through CS outside of 64-bit mode (SDM volume 3, 5.5). Not asked where native.c has seen to it. */
bool insn_is_denied(const struct trans *t);
void insn_flags(const struct trans *t, bool *reads, bool *writes); /* status flags; reads: or leaves one */
bool insn_signals(const struct trans *t); /* DIV and others for which the host raises a signal */
/* What it really accesses (not LEA's), or NULL. */
const ZydisDecodedOperand *insn_find_mem(const ZydisDecodedInstruction *in, const ZydisDecodedOperand *ops);
/* Whether those flags depend on the immediate, as shifts' do. */
bool insn_counts(const struct trans *t);
unsigned generic_access(const struct trans *t, const ZydisDecodedOperand *mem, unsigned *acc);
void insn_decoder_init(ZydisDecoder *decoder, unsigned code_bits);
/* Zydis's decoder, put right where it errs. ops: ZYDIS_MAX_OPERAND_COUNT. */
ZyanStatus insn_decode_zydis(const ZydisDecoder *decoder, const void *bytes, unsigned len,
                             ZydisDecodedInstruction *in, ZydisDecodedOperand *ops);
/* Whether the guest has this instruction; else it raises #UD, before anything is asked of its operands. */
bool insn_is_known(const ZydisDecodedInstruction *in, const struct cpuid_model *m, unsigned bits);
/* Whether an operand of n bytes must be aligned (SDM volume 2, 2.4 and table 2-21; APM volume 4, 1.2). */
enum mmu_align operand_align(const ZydisDecodedInstruction *in, unsigned n, bool amd);
unsigned operand_segment(const ZydisDecodedOperand *op); /* S_* of a memory operand */
bool generic_can(
    const struct trans *t); /* whether generic_translate (or generic_lea) can do it; else the interpreter */
void generic_learn(const struct trans *t, struct form *f); /* how it will be written */
void generic_translate(struct trans *t, bool vector);
void generic_lea(struct trans *t);

/* ---- which way (trans_classify.c) ---- */
enum way classify_insn(const struct trans *t, unsigned *special);

/* ---- system instructions in place (trans_sys.c) ---- */
bool sysinsn_can(const struct trans *t);
void sysinsn_translate(struct trans *t);

/* ---- control flow (trans_flow.c) ---- */
bool flow_can(const struct trans *t); /* whether the current instruction is one that flow_translate does */
void flow_translate(struct trans *t); /* jumps, calls, returns, push, pop, leave */
void flow_exit_far(struct trans *t,
                   int64_t target); /* as flow_exit_direct, through the jump cache in any case */
void flow_exit_direct(struct trans *t, int64_t target);    /* target relative to the page start */
void flow_exit_indirect(struct trans *t, unsigned popped); /* T0 = linear address; popped: added to RSP */
void flow_no_group(struct trans *t);
bool flow_goes_back(const struct trans *t); /* the current instruction is a direct jump backward */
void flow_poll(struct trans *t);            /* at the start of an instruction; EFLAGS are free */
void flow_interp(struct trans *t);          /* the current instruction in C */
void flow_special(struct trans *t, unsigned what);
void flow_transfer(struct trans *t, unsigned what, const uint8_t *stub); /* ends the block there */

#endif
