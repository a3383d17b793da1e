/* The block translator.
 *
 * Theory of operation. A block is a stretch of guest code inside one page: straight code, and on past
 * conditional branches that are not taken (each taken branch is a side exit), until an unconditional
 * transfer, the end of the page or a limit. Zydis decodes what has no form yet (trans_form.c); each
 * instruction goes one of four ways:
 *
 *   - generic (nearly all): the instruction is written again with the same opcode, registers renamed
 * (trans_encode.c), its memory operand replaced by a checked one (trans_mem.c). The host executes it, so
 * results and flags are the CPU's own.
 *   - stack and branches (trans_flow.c);
 *   - in C: system and string instructions call the interpreter (flow_interp);
 *   - not allowed now (x87/SSE/AVX switched off by CR0, CR4, XCR0; instructions that CPUID denies): a call
 * that raises the right exception (flow_special).
 *
 * Register map: see stubs.c.
 *
 * Precise exceptions: an instruction changes nothing before its last check, flags included (trans_mem.c), so
 * a fault in a check needs only the instruction's offset. Host signals (divide error, SSE alignment, unmasked
 * SIMD exceptions, opcodes that the host lacks) are mapped back by a side table of the places where they can
 * come from.
 *
 * Small and fast. Most code runs a few times and never again, and what it costs is making it and the room
 * that it takes in the cache. So blocks are made small first: checks of memory operands and the look-ups of
 * the jump cache are calls of shared code (stubs.c), and only larger groups of accesses share a check. A
 * timer of the vCPU's CPU time notes where translated code is (fault_linux.c); what is met there, twice while
 * there is much new code, is in a page whose blocks are made again to be fast, with everything in line
 * (vcpu_heavy.c), as are those to come.
 *
 * An instruction that runs into the next page is a block of its own, found only through the dispatcher and
 * the jump cache, because the second page's mapping can change. */
#include "engine/translator/mmu.h"
#include "engine/translator/trans.h"

#include <stdio.h>
#include <string.h>

static void translate_insn(struct trans *t)
{
    const struct ginsn *g = &t->g[t->cur];
    if (g->f.way != WAY_GENERIC && g->f.way != WAY_VECTOR && g->f.way != WAY_NOTHING)
        t->x87_noted = false; /* other code may run before the next instruction */
    switch ((enum way)g->f.way) {
    case WAY_NOTHING: break;
    case WAY_SPECIAL:
        if (g->f.special ==
            SPECIAL_MMX_MEM) { /* as every MMX instruction: #MF if one is pending, TOP 0, all tags valid */
            side_note(t, &t->h);
            e_rm0f(&t->h, 0, 0x7f, 0, GS(scratch)); /* movq [], mm0 */
        }
        if (g->f.special == SPECIAL_GP && insn_waits_for_fpu(t->in, t->ops)) { /* #MF goes first */
            side_note(t, &t->h);
            e_byte(&t->h, 0x9b); /* FWAIT */
        }
        flow_special(t, g->f.special);
        break;
    case WAY_GENERIC:
    case WAY_VECTOR:
        if (g->form->lea >= 0)
            generic_lea(t);
        else
            generic_translate(t, g->f.way == WAY_VECTOR);
        break;
    case WAY_FLOW: flow_translate(t); break;
    case WAY_SYS: sysinsn_translate(t); break;
    case WAY_INTERP:
        flow_interp(t);
        if (g->f.ends)
            flow_exit_direct(t, next_off(t));
        break;
    }
}

/* ---- looking at the block before writing it ---- */

/* Decodes at off. Not decoded: the bytes are no instruction (length 1), or they run out of the page and the
 * second page is not there (length 0). */
static void decode(struct trans *t, struct ginsn *g, unsigned off)
{
    unsigned room = (unsigned)PAGE_SIZE - off, n = 15;
    g->off = (uint16_t)off;
    if (likely(room >= 16)) {
        memcpy(g->bytes, t->page + off, 16);
    } else {
        n = room < 15 ? room : 15;
        memset(g->bytes, 0, sizeof g->bytes);
        memcpy(g->bytes, t->page + off, n);
        if (n < 15 && t->gpage2 != ~0ull && t->count == 0) {
            memcpy(g->bytes + n, tvm_hva(t->vm, t->gpage2), 15 - n);
            n = 15;
        }
    }
    g->seen = (uint8_t)n;
    if (!form_find(t, g, n))
        form_decode(t, g, n);
    g->decoded = g->form->decoded;
    g->length = g->form->length;
}

void trans_set_current(struct trans *t, unsigned i)
{
    struct ginsn *g = &t->g[i];
    t->cur = i;
    t->off = g->off;
    t->length = g->length;
    t->in = g->form->in;
    t->ops = g->form->ops;
    t->mem = g->form->mem;
    t->bytes = g->bytes;
    form_set_numbers(g->form, g);
}

/* The accesses that translating g will make, in their order. */
static void find_accesses(struct trans *t, struct ginsn *g)
{
    unsigned w = t->bits / 8;
    struct gaddr sp = { .base = R_SP, .index = -1, .scale = 1, .width = t->bits };
    if (g->f.way == WAY_GENERIC || g->f.way == WAY_VECTOR) {
        if (g->form->access_len) {
            struct gaddr a = gaddr_of(t);
            group_note_access(t, g, &a, g->form->access_len, g->form->access != MMU_SLOW_R);
        }
        return;
    }
    if (g->f.way != WAY_FLOW)
        return;
    if (t->mem && t->mem->visibility == ZYDIS_OPERAND_VISIBILITY_EXPLICIT) {
        struct gaddr a = gaddr_of(t);
        group_note_access(t, g, &a, w, false);
    }
    switch (t->in->mnemonic) {
    case ZYDIS_MNEMONIC_PUSH:
    case ZYDIS_MNEMONIC_CALL:
        sp.disp = -(int64_t)w;
        group_note_access(t, g, &sp, w, true);
        break;
    case ZYDIS_MNEMONIC_LEAVE: sp.base = R_BP; __attribute__((fallthrough));
    case ZYDIS_MNEMONIC_POP:
    case ZYDIS_MNEMONIC_RET: group_note_access(t, g, &sp, w, false); break;
    default: break;
    }
}

/* An instruction that is none, or of an extension that the guest does not have: told once. UD0, UD1 and UD2
 * are meant to be none. */
static void tell_unknown(const struct trans *t, const struct ginsn *g)
{
    struct tvm *vm = t->vm;
    unsigned room = (unsigned)PAGE_SIZE - g->off, n = 0;
    const ZydisDecodedInstruction *in = g->form->in;
    unsigned len = g->decoded ? g->length : room < 15 ? room : 15;
    char text[15 * 3 + 1];

    if (g->decoded && (in->mnemonic == ZYDIS_MNEMONIC_UD0 || in->mnemonic == ZYDIS_MNEMONIC_UD1 ||
                       in->mnemonic == ZYDIS_MNEMONIC_UD2))
        return;
    t->c->counters[TC_UNKNOWN]++;
    for (unsigned i = 0; i < vm->unknown_count; i++) {
        if (vm->unknown[i].len == len && !memcmp(vm->unknown[i].bytes, g->bytes, len))
            return;
    }
    if (vm->unknown_count == TVM_UNKNOWN)
        return;
    vm->unknown[vm->unknown_count].len = (uint8_t)len;
    memcpy(vm->unknown[vm->unknown_count++].bytes, g->bytes, len);
    for (unsigned i = 0; i < len; i++)
        n += (unsigned)snprintf(text + n, sizeof(text) - n, "%02x ", g->bytes[i]);
    log_line(vm->cfg.log, LOG_CPU, "unknown instruction at %#llx: %s(%s)",
             (unsigned long long)t->vpage + g->off, text,
             g->decoded ? ZydisMnemonicGetString(in->mnemonic) : "no encoding");
}

static void learn_branch(const struct trans *t, struct insn_facts *x)
{
    const ZydisDecodedInstruction *in = t->in;
    bool flow = x->way == WAY_FLOW, conditional = in->meta.category == ZYDIS_CATEGORY_COND_BR;
    bool jcc =
        in->opcode_map == ZYDIS_OPCODE_MAP_0F ? (in->opcode & 0xf0) == 0x80 : (in->opcode & 0xf0) == 0x70;
    x->transfers = in->meta.branch_type != ZYDIS_BRANCH_TYPE_NONE;
    x->ends = x->transfers && !conditional;
    x->side_exit = flow && conditional;
    x->jumps = flow && t->ops[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE &&
               ((conditional && jcc) || in->meta.category == ZYDIS_CATEGORY_UNCOND_BR);
}

/* The facts of the current instruction. */
static void learn(const struct trans *t, struct form *f)
{
    struct insn_facts *x = &f->facts;
    unsigned special = SPECIAL_UD;
    *x = (struct insn_facts){ .way = WAY_INTERP, .barrier = true, .to = -1, .from = -1 };
    f->access_len = 0;
    f->lea = -1;
    f->counts = false;
    x->unknown = !f->decoded && f->length;
    x->ends = !f->decoded;
    if (!f->decoded)
        return;
    x->way = (uint8_t)classify_insn(t, &special);
    x->special = (uint8_t)special;
    x->unknown = x->way == WAY_SPECIAL && special == SPECIAL_UD;
    x->barrier = x->way == WAY_INTERP || x->way == WAY_SPECIAL || x->way == WAY_SYS;
    insn_flags(t, &x->reads_flags, &x->writes_flags);
    x->kills_flags = x->writes_flags && !x->reads_flags;
    x->tests_flags = t->in->cpu_flags && (t->in->cpu_flags->tested & FL_STATUS);
    x->undefined_flags = t->in->cpu_flags ? (uint16_t)t->in->cpu_flags->undefined : 0;
    x->signals = insn_signals(t);
    x->plain = t->in->mnemonic != ZYDIS_MNEMONIC_RDRAND && t->in->mnemonic != ZYDIS_MNEMONIC_RDSEED &&
               (x->way == WAY_GENERIC || x->way == WAY_FLOW || x->way == WAY_NOTHING);
    learn_branch(t, x);
    values_learn(t, x);
    f->counts = insn_counts(t);
    gaddr_learn(t, f);
    generic_learn(t, f);
    encoding_learn(t, f);
    fl_learn(t, f);
}

/* Fills what looking ahead needs. Returns whether the block goes on behind g. */
static bool survey(struct trans *t, struct ginsn *g)
{
    struct form *f = g->form;
    if (!f->kept) {
        learn(t, f);
        form_keep(t, g);
    }
    g->f = f->facts;
    if (f->counts) {
        insn_flags(t, &g->f.reads_flags, &g->f.writes_flags);
        g->f.kills_flags = g->f.writes_flags && !g->f.reads_flags;
    }
    g->access_count = 0;
    g->access_first = (uint8_t)t->access_count;
    memcpy(g->before, t->values, sizeof g->before);
    if (!g->decoded)
        return false;
    find_accesses(t, g);
    t->goes_back |= g->f.way == WAY_FLOW && flow_goes_back(t);
    values_after(t, g);
    t->barriers += g->f.barrier;
    if (g->f.side_exit)
        return ++t->branches < TRANS_MAX_BRANCHES;
    return !g->f.ends;
}

static void look_at_block(struct trans *t)
{
    unsigned max = t->mode & MODE_ONE ? 1 : TRANS_MAX_INSNS, off = t->start;
    bool more = true;
    values_begin(t);
    while (more && t->count < max && off < PAGE_SIZE) {
        struct ginsn *g = &t->g[t->count];
        decode(t, g, off);
        if (!g->decoded && g->length == 0 && t->count > 0)
            break; /* runs into the next page: a block of its own */
        trans_set_current(t, t->count);
        more = survey(t, g);
        t->count++;
        off += g->length;
    }
    t->end = off;
}

/* ---- the block ---- */

static void translate_one(struct trans *t)
{
    t->accessed = false;
    fl_before_insn(t);
    if (!t->g[t->cur].decoded) {
        flow_interp(t); /* raises what is due: #UD, #GP, or the page fault of the second page */
        flow_exit_direct(t, next_off(t));
    } else {
        translate_insn(t);
    }
    group_after_insn(t);
    fl_after_insn(t);
    t->insns++;
}

static void translate_loop(struct trans *t)
{
    for (unsigned i = 0; i < t->count && !t->done && t->side_count + 4 <= TRANS_MAX_SIDE; i++) {
        trans_set_current(t, i);
        translate_one(t);
    }
    if (t->done)
        return;
    unsigned next = next_off(t);
    t->end = next;
    struct ginsn *g = &t->g[t->count];
    if (next < PAGE_SIZE && next + 15 > PAGE_SIZE && t->count < TRANS_MAX_INSNS && !g->decoded &&
        g->length == 0)
        flow_exit_far(t, next); /* the next instruction crosses the page: only the dispatcher finds it */
    else
        flow_exit_direct(t, next);
}

struct translation {
    struct trans t;
    struct tb_side side[TRANS_MAX_SIDE];
    struct ginsn g[TRANS_MAX_INSNS + 1];
    struct gaccess accesses[2 * TRANS_MAX_INSNS];
    struct forms forms;
};

size_t translation_size(void)
{
    return sizeof(struct translation);
}

static void judge(const struct trans *t, struct tb_facts *f)
{
    *f = (struct tb_facts){ .insns = (uint16_t)t->insns, .plain = true };
    for (unsigned i = 0; i < t->insns; i++) {
        f->plain &= t->g[i].f.plain;
        f->undefined_flags |= t->g[i].f.undefined_flags;
    }
}

void translate_look(struct tcpu *c, uint64_t gpage, unsigned off, uint64_t gpage2, uint32_t mode,
                    uint64_t vpage, bool small)
{
    struct trans *t = &c->translation->t;
    *t = (struct trans){ .vm = c->vm,
                         .c = c,
                         .cc = c->vm->cache,
                         .gpage = gpage,
                         .gpage2 = gpage2,
                         .page = tvm_hva(c->vm, gpage),
                         .start = off,
                         .off = off,
                         .end = off,
                         .mode = mode,
                         .vpage = vpage,
                         .small = small && !(mode & MODE_ONE),
                         .idx = mode & MODE_IDX,
                         .bits = mode & MODE_BITS ? 32 : 64,
                         .side = c->translation->side,
                         .g = c->translation->g,
                         .accesses = c->translation->accesses,
                         .forms = &c->translation->forms };
    t->forms->block++;
    insn_decoder_init(&t->decoder, (mode & MODE_BITS) == 2u << MODE_BITS_SHIFT ? 16 : t->bits);
    look_at_block(t);
}

/* Of sixteen bytes each. */
static bool begin_alike(const uint8_t *a, const uint8_t *b, unsigned n)
{
    uint64_t x[2], y[2];
    memcpy(x, a, sizeof x);
    memcpy(y, b, sizeof y);
    uint64_t low = x[0] ^ y[0], high = x[1] ^ y[1];
    return n < 8 ? (low & ((1ull << 8 * n) - 1)) == 0 : low == 0 && (high & ((1ull << 8 * (n - 8)) - 1)) == 0;
}

bool translate_is_current(const struct tcpu *c)
{
    const struct trans *t = &c->translation->t;
    for (unsigned i = 0; i < t->count; i++) {
        const struct ginsn *g = &t->g[i];
        unsigned n = g->decoded ? g->length : g->seen, room = (unsigned)PAGE_SIZE - g->off;
        if (likely(room >= 16)) {
            if (!begin_alike(t->page + g->off, g->bytes, n))
                return false;
            continue;
        }
        if (memcmp(t->page + g->off, g->bytes, n < room ? n : room) != 0)
            return false;
        if (n > room && memcmp(tvm_hva(t->vm, t->gpage2), g->bytes + room, n - room) != 0)
            return false;
    }
    return true;
}

/* Describes what was written at hot. */
static void describe(const struct trans *t, struct tb *tb, size_t hot)
{
    struct code_cache *cc = t->cc;
    bool crosses = t->end > PAGE_SIZE && t->gpage2 != ~0ull;
    *tb = (struct tb){ .frame = (uint32_t)(t->gpage >> 12),
                       .vpage = t->mode & MODE_FIXED ? (int32_t)t->vpage : 0,
                       .hot = (uint32_t)hot,
                       .cold = cache_now(cc)->cold_pos,
                       .off = (uint16_t)t->start,
                       .len = (uint16_t)(t->end - t->start),
                       .mode = (uint16_t)t->mode,
                       .small = t->small,
                       .loops = t->loop.again != NULL,
                       .crosses = crosses };
    if (crosses)
        tb[1] = (struct tb){ .frame = (uint32_t)(t->gpage2 >> 12),
                             .hot = tb->hot,
                             .cold = tb->cold,
                             .len = (uint16_t)(t->end - PAGE_SIZE),
                             .crosses = true,
                             .second = true };
    if (t->c->shadow)
        judge(t, cache_facts(cc, tb));
}

unsigned translate_insns(const struct tcpu *c)
{
    return c->translation->t.insns;
}

/* With less, forward jumps of a block that does not fit would be patched in the block before it. */
#define EMIT_ROOM 16

struct tb *translate_finish(struct tcpu *c)
{
    struct trans *t = &c->translation->t;
    struct code_cache *cc = t->cc;
    struct cache_segment *seg = cache_now(cc);
    struct tb *tb = cache_alloc(cc);
    if (!tb || seg->side_count + TRANS_MAX_SIDE > cc->segment_sides)
        return NULL;
    uint8_t *rw = cc->mem.rw;
    ptrdiff_t rx = (uint8_t *)cc->mem.rx - rw;
    /* The entry is overwritten with one aligned store; those of fast blocks begin in a fresh fetch window
     * too. */
    size_t hot = align_up(seg->hot_pos, t->small ? 8 : 16);
    uint32_t jumps = cc->jump_count;
    t->h = (struct emit){ rw + hot, rw + seg->hot + cc->segment_hot, rx, false };
    t->k = (struct emit){ rw + seg->cold_pos, rw + seg->cold + cc->segment_cold, rx, false };
    if (t->h.end - t->h.p < EMIT_ROOM || t->k.end - t->k.p < EMIT_ROOM)
        return NULL;
    t->host_flags = (t->mode & MODE_HOST_FLAGS) != 0;
    t->saved_flags = !t->host_flags;
    e_nop5(&t->h);
    loop_begin(t);
    translate_loop(t);
    if (t->h.full || t->k.full) {
        cc->jump_count = jumps;
        return NULL;
    }
    for (unsigned i = 0; i < t->count; i++) {
        if (t->g[i].f.unknown)
            tell_unknown(t, &t->g[i]);
    }
    describe(t, tb, hot);
    memcpy(&cc->side[cc->now * cc->segment_sides + seg->side_count], t->side,
           t->side_count * sizeof t->side[0]);
    seg->side_count += t->side_count;
    cache_advance(cc, (size_t)(t->h.p - rw), (size_t)(t->k.p - rw));
    cache_insert(t->vm, tb);
    return tb;
}
