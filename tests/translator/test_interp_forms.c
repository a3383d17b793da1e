/* See test_interp_forms.h. Opcodes from Intel SDM volume 2 (2023-12), appendix A. */
#include "test_interp_forms.h"

#include <stdio.h>
#include <stdlib.h>

static void add(struct form_list *l, const char *name, unsigned map, unsigned op, int digit, char imm,
                uint32_t flags)
{
    if (l->n == array_size(l->form))
        abort();
    struct form *f = &l->form[l->n++];
    *f = (struct form){
        .flags = flags, .map = (uint8_t)map, .op = (uint8_t)op, .digit = (int8_t)digit, .imm = imm
    };
    snprintf(f->name, sizeof(f->name), "%s", name);
}

static void add_pfx(struct form_list *l, const char *name, unsigned prefix, unsigned map, unsigned op,
                    int digit, char imm, uint32_t flags)
{
    add(l, name, map, op, digit, imm, flags);
    l->form[l->n - 1].prefix = (uint8_t)prefix;
}

static void add_alu(struct form_list *l)
{
    for (unsigned k = 0; k < 8; k++) {
        for (unsigned form = 0; form < 4; form++)
            add(l, "alu", 0, k * 8 + form, -1, 0, F_M | (form < 2 && k < 7 ? F_LOCK : 0));
        add(l, "alu al,i", 0, k * 8 + 4, -1, 'b', 0);
        add(l, "alu ax,i", 0, k * 8 + 5, -1, 'z', 0);
        add(l, "alu m8,i", 0, 0x80, (int)k, 'b', F_M | F_LOCK);
        add(l, "alu m,iz", 0, 0x81, (int)k, 'z', F_M | F_LOCK);
        add(l, "alu m,ib", 0, 0x83, (int)k, 'b', F_M | F_LOCK);
        for (unsigned op = 0xd0; op < 0xd4; op++)
            add(l, "shift", 0, op, (int)k, 0, F_M);
        add(l, "shift8 i", 0, 0xc0, (int)k, 'b', F_M | F_SHIFT);
        add(l, "shift i", 0, 0xc1, (int)k, 'b', F_M | F_SHIFT);
    }
    for (unsigned w = 0; w < 2; w++) {
        add(l, "test", 0, 0x84 + w, -1, 0, F_M);
        add(l, "test i", 0, 0xf6 + w, 0, w ? 'z' : 'b', F_M);
        add(l, "test i alias", 0, 0xf6 + w, 1, w ? 'z' : 'b', F_M);
        add(l, "test acc", 0, 0xa8 + w, -1, w ? 'z' : 'b', 0);
        add(l, "not", 0, 0xf6 + w, 2, 0, F_M | F_LOCK);
        add(l, "neg", 0, 0xf6 + w, 3, 0, F_M | F_LOCK);
        add(l, "mul", 0, 0xf6 + w, 4, 0, F_M);
        add(l, "imul", 0, 0xf6 + w, 5, 0, F_M);
        add(l, "div", 0, 0xf6 + w, 6, 0, F_M | F_DIV);
        add(l, "idiv", 0, 0xf6 + w, 7, 0, F_M | F_DIV);
        add(l, "inc", 0, 0xfe + w, 0, 0, F_M | F_LOCK);
        add(l, "dec", 0, 0xfe + w, 1, 0, F_M | F_LOCK);
        add(l, "xchg", 0, 0x86 + w, -1, 0, F_M | F_LOCK);
        add(l, "xadd", 1, 0xc0 + w, -1, 0, F_M | F_LOCK);
        add(l, "cmpxchg", 1, 0xb0 + w, -1, 0, F_M | F_LOCK | F_SAME);
    }
    add(l, "cmpxchg8b", 1, 0xc7, 1, 0, F_M | F_MEMONLY | F_LOCK | F_SAME);
    add(l, "imul r,m,iz", 0, 0x69, -1, 'z', F_M);
    add(l, "imul r,m,ib", 0, 0x6b, -1, 'b', F_M);
    add(l, "imul r,m", 1, 0xaf, -1, 0, F_M);
}

static void add_moves(struct form_list *l)
{
    for (unsigned op = 0x88; op < 0x8c; op++)
        add(l, "mov", 0, op, -1, 0, F_M);
    add(l, "mov m8,i", 0, 0xc6, 0, 'b', F_M);
    add(l, "mov m,i", 0, 0xc7, 0, 'z', F_M);
    add(l, "mov r8,i", 0, 0xb0, -1, 'b', F_OPREG);
    add(l, "mov r,i", 0, 0xb8, -1, 'v', F_OPREG);
    add(l, "mov m,sreg", 0, 0x8c, -1, 0, F_M);
    add(l, "lea", 0, 0x8d, -1, 0, F_M);
    add(l, "xchg acc", 0, 0x90, -1, 0, F_OPREG);
    add(l, "pause", 0, 0x90, -1, 0, F_NO66 | F_NOREXB);
    l->form[l->n - 1].prefix = 0xf3;
    add(l, "cbw", 0, 0x98, -1, 0, 0);
    add(l, "cwd", 0, 0x99, -1, 0, 0);
    add(l, "sahf", 0, 0x9e, -1, 0, 0);
    add(l, "lahf", 0, 0x9f, -1, 0, 0);
    add(l, "xlat", 0, 0xd7, -1, 0, F_XLAT | F_A67);
    for (unsigned k = 0; k < 4; k++)
        add(l, "movx", 1, k < 2 ? 0xb6 + k : 0xbc + k, -1, 0, F_M);
    for (unsigned k = 0; k < 16; k++) {
        add(l, "cmov", 1, 0x40 + k, -1, 0, F_M);
        add(l, "setcc", 1, 0x90 + k, -1, 0, F_M);
    }
    add(l, "bswap", 1, 0xc8, -1, 0, F_OPREG);
    add(l, "movnti", 1, 0xc3, -1, 0, F_M | F_MEMONLY | F_NO66);
    add(l, "cmc", 0, 0xf5, -1, 0, 0);
    add(l, "clc", 0, 0xf8, -1, 0, 0);
    add(l, "stc", 0, 0xf9, -1, 0, 0);
    add(l, "cld", 0, 0xfc, -1, 0, 0);
    add(l, "std", 0, 0xfd, -1, 0, 0);
    add(l, "nop", 1, 0x1f, 0, 0, F_M);
    add(l, "prefetch", 1, 0x18, -1, 0, F_M | F_MEMONLY);
    add(l, "prefetchw", 1, 0x0d, 1, 0, F_M | F_MEMONLY);
    add_pfx(l, "endbr64", 0xf3, 1, 0x1e, 7, 0, F_M | F_REGONLY | F_NO66);
    add(l, "lfence", 1, 0xae, 5, 0, F_M | F_REGONLY | F_NO66);
    add(l, "mfence", 1, 0xae, 6, 0, F_M | F_REGONLY | F_NO66);
    add(l, "sfence", 1, 0xae, 7, 0, F_M | F_REGONLY | F_NO66);
    add(l, "clflush", 1, 0xae, 7, 0, F_M | F_MEMONLY | F_NO66);
    add(l, "ud2", 1, 0x0b, -1, 0, 0);
    add(l, "ud1", 1, 0xb9, -1, 0, F_M);
}

static void add_bits(struct form_list *l, const struct cpuid_model *m)
{
    for (unsigned k = 0; k < 4; k++) {
        add(l, "bt m,r", 1, 0xa3 + 8 * k, -1, 0, F_M | F_BITOFF | (k ? F_LOCK : 0));
        add(l, "bt r,r", 1, 0xa3 + 8 * k, -1, 0, F_M | F_REGONLY);
        add(l, "bt m,i", 1, 0xba, (int)k + 4, 'b', F_M | (k ? F_LOCK : 0));
        add(l, "group8 ud", 1, 0xba, (int)k, 'b', F_M);
    }
    add(l, "bsf", 1, 0xbc, -1, 0, F_M);
    add(l, "bsr", 1, 0xbd, -1, 0, F_M);
    add_pfx(l, "tzcnt", 0xf3, 1, 0xbc, -1, 0, F_M);
    add_pfx(l, "lzcnt", 0xf3, 1, 0xbd, -1, 0, F_M);
    if (m->f1_ecx & 1u << 23)
        add_pfx(l, "popcnt", 0xf3, 1, 0xb8, -1, 0, F_M);
    for (unsigned k = 0; k < 2; k++) {
        add(l, "shld/shrd i", 1, 0xa4 + 8 * k, -1, 'b', F_M | F_SHIFT);
        add(l, "shld/shrd cl", 1, 0xa5 + 8 * k, -1, 0, F_M);
        if (m->f1_ecx & 1u << 22)
            add(l, "movbe", 2, 0xf0 + k, -1, 0, F_M | F_MEMONLY);
        if (m->f1_ecx & 1u << 20)
            add_pfx(l, "crc32", 0xf2, 2, 0xf0 + k, -1, 0, F_M);
    }
    if (m->f7_ebx & 1u << 19) {
        add_pfx(l, "adcx", 0x66, 2, 0xf6, -1, 0, F_M | F_NO66);
        add_pfx(l, "adox", 0xf3, 2, 0xf6, -1, 0, F_M | F_NO66);
    }
    if (m->f7_ebx & 1u << 3) {
        add(l, "andn", 2, 0xf2, -1, 0, F_M | F_VEX);
        for (int d = 0; d < 5; d++)
            add(l, "blsr...", 2, 0xf3, d, 0, F_M | F_VEX);
        add(l, "bextr", 2, 0xf7, -1, 0, F_M | F_VEX);
    }
    if (m->f7_ebx & 1u << 8) {
        add(l, "bzhi", 2, 0xf5, -1, 0, F_M | F_VEX);
        add_pfx(l, "pext", 0xf3, 2, 0xf5, -1, 0, F_M | F_VEX);
        add_pfx(l, "pdep", 0xf2, 2, 0xf5, -1, 0, F_M | F_VEX);
        add_pfx(l, "mulx", 0xf2, 2, 0xf6, -1, 0, F_M | F_VEX);
        add_pfx(l, "shlx", 0x66, 2, 0xf7, -1, 0, F_M | F_VEX);
        add_pfx(l, "sarx", 0xf3, 2, 0xf7, -1, 0, F_M | F_VEX);
        add_pfx(l, "shrx", 0xf2, 2, 0xf7, -1, 0, F_M | F_VEX);
        add_pfx(l, "rorx", 0xf2, 3, 0xf0, -1, 'b', F_M | F_VEX | F_NOVVVV);
    }
}

static void add_stack(struct form_list *l)
{
    add(l, "push r", 0, 0x50, -1, 0, F_OPREG | F_STACK);
    add(l, "pop r", 0, 0x58, -1, 0, F_OPREG | F_STACK);
    add(l, "push iz", 0, 0x68, -1, 'z', F_STACK);
    add(l, "push ib", 0, 0x6a, -1, 'b', F_STACK);
    add(l, "push m", 0, 0xff, 6, 0, F_M | F_STACK);
    add(l, "pop m", 0, 0x8f, 0, 0, F_M | F_STACK);
    add(l, "push fs", 1, 0xa0, -1, 0, F_STACK);
    add(l, "push gs", 1, 0xa8, -1, 0, F_STACK);
    add(l, "pushf", 0, 0x9c, -1, 0, F_STACK);
    add(l, "popf", 0, 0x9d, -1, 0, F_STACK | F_POPF);
    add(l, "enter", 0, 0xc8, -1, 'e', F_STACK);
    add(l, "leave", 0, 0xc9, -1, 0, F_STACK);
}

static void add_branches(struct form_list *l)
{
    for (unsigned k = 0; k < 16; k++) {
        add(l, "jcc b", 0, 0x70 + k, -1, 'b', F_BRANCH | F_NO66);
        add(l, "jcc z", 1, 0x80 + k, -1, 'z', F_BRANCH | F_NO66);
    }
    for (unsigned k = 0; k < 4; k++)
        add(l, "loop", 0, 0xe0 + k, -1, 'b', F_BRANCH | F_NO66 | F_COUNT | F_A67);
    add(l, "jmp b", 0, 0xeb, -1, 'b', F_BRANCH | F_NO66);
    add(l, "jmp z", 0, 0xe9, -1, 'z', F_BRANCH | F_NO66);
    add(l, "call z", 0, 0xe8, -1, 'z', F_BRANCH | F_NO66 | F_STACK);
    add(l, "jmp r", 0, 0xff, 4, 0, F_M | F_REGONLY | F_BRANCH | F_NO66);
    add(l, "call r", 0, 0xff, 2, 0, F_M | F_REGONLY | F_BRANCH | F_NO66 | F_STACK);
    add(l, "ret", 0, 0xc3, -1, 0, F_RET | F_NO66 | F_STACK);
    add(l, "ret w", 0, 0xc2, -1, 'w', F_RET | F_NO66 | F_STACK);
}

static void add_strings(struct form_list *l)
{
    for (unsigned op = 0xa4; op < 0xb0; op++)
        if (op != 0xa8 && op != 0xa9)
            add(l, "string", 0, op, -1, 0,
                F_STRING | ((op & 0xf) > 5 && (op & 0xf) != 10 ? F_FILL : 0) |
                    ((op & ~1u) == 0xa6 ? F_ANYFAULT : 0));
}

/* Not in 64-bit mode. */
static void add_legacy(struct form_list *l)
{
    add(l, "inc r", 0, 0x40, -1, 0, F_OPREG);
    add(l, "dec r", 0, 0x48, -1, 0, F_OPREG);
    add(l, "daa", 0, 0x27, -1, 0, F_BCD);
    add(l, "das", 0, 0x2f, -1, 0, F_BCD);
    add(l, "aaa", 0, 0x37, -1, 0, F_BCD);
    add(l, "aas", 0, 0x3f, -1, 0, F_BCD);
    add(l, "aam", 0, 0xd4, -1, 'b', F_BCD);
    add(l, "aad", 0, 0xd5, -1, 'b', F_BCD);
    add(l, "salc", 0, 0xd6, -1, 0, 0);
    add(l, "pusha", 0, 0x60, -1, 0, F_STACK | F_ANYFAULT);
    add(l, "popa", 0, 0x61, -1, 0, F_STACK | F_ANYFAULT);
    add(l, "arpl", 0, 0x63, -1, 0, F_M);
    add(l, "bound", 0, 0x62, -1, 0, F_M | F_MEMONLY);
    add(l, "push es", 0, 0x06, -1, 0, F_STACK);
    add(l, "push cs", 0, 0x0e, -1, 0, F_STACK);
    add(l, "alu 82", 0, 0x82, 0, 'b', F_M | F_LOCK);
}

void forms_fill(struct form_list *l, bool code32, const struct cpuid_model *m)
{
    l->n = 0;
    add_alu(l);
    add_moves(l);
    add_bits(l, m);
    add_stack(l);
    add_branches(l);
    add_strings(l);
    if (code32)
        add_legacy(l);
    else
        add(l, "movsxd", 0, 0x63, -1, 0, F_M);
}
