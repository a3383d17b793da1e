/* See long_guest.h. Descriptor formats: Intel SDM volume 3 (2023-12), 3.4.5 and 6.14.1; page tables: 4.5. */
#include "long_guest.h"

#include <string.h>

static void put64(struct long_guest *g, uint64_t gpa, uint64_t v)
{
    BUG_ON(gpa + 8 > g->ram_size);
    memcpy(g->ram + gpa, &v, 8);
}

static uint64_t get64(const struct long_guest *g, uint64_t gpa)
{
    uint64_t v;

    BUG_ON(gpa + 8 > g->ram_size);
    memcpy(&v, g->ram + gpa, 8);
    return v;
}

static void put_gdt(struct long_guest *g, unsigned sel, uint64_t descriptor)
{
    put64(g, LG_GDT + (sel & ~7u), descriptor);
}

void long_guest_init(struct long_guest *g, uint8_t *ram, uint64_t ram_size, uint64_t kva)
{
    uint64_t tss = kva + LG_TSS_AT;

    *g =
        (struct long_guest){ .ram = ram, .ram_size = ram_size, .next_table = LG_TABLES + 0x1000, .kva = kva };
    put_gdt(g, LG_CODE32, 0x00cf9b000000ffff);
    put_gdt(g, LG_CODE64, 0x00af9b000000ffff);
    put_gdt(g, LG_DATA, 0x00cf93000000ffff);
    put_gdt(g, LG_USER_CODE32, 0x00cffb000000ffff);
    put_gdt(g, LG_USER_DATA, 0x00cff3000000ffff);
    put_gdt(g, LG_USER_CODE64, 0x00affb000000ffff);
    put_gdt(g, LG_CODE16, 0x00009b000000ffff);
    put_gdt(g, LG_USER_CODE16, 0x0000fb000000ffff);
    put_gdt(g, LG_TSS, 0x67 | (tss & 0xffffff) << 16 | 0x8bull << 40 | (tss >> 24 & 0xff) << 56);
    put64(g, LG_GDT + LG_TSS + 8, tss >> 32);
    put64(g, LG_TSS_AT + 4, kva + LG_STACK0); /* RSP0 */
    put64(g, LG_TSS_AT + 36, kva + LG_IST1);  /* IST1 */
    ram[LG_TSS_AT + 102] = 0x68;              /* no I/O permission map */
}

static uint64_t *entry(struct long_guest *g, uint64_t va, bool make)
{
    uint64_t table = LG_TABLES;

    for (unsigned level = 3; level > 0; level--) {
        uint64_t at = table + (va >> (12 + 9 * level) & 511) * 8;

        if (!(get64(g, at) & PTE_P)) {
            if (!make)
                return NULL;
            BUG_ON(g->next_table >= LG_TABLES_END);
            put64(g, at, g->next_table | PTE_P | PTE_W | PTE_U | PTE_A);
            g->next_table += 0x1000;
        }
        table = get64(g, at) & 0xffffffffff000ull;
    }
    return (uint64_t *)(void *)(g->ram + table + (va >> 12 & 511) * 8);
}

void long_guest_map(struct long_guest *g, uint64_t va, uint64_t gpa, uint64_t len, uint64_t pte_bits)
{
    for (uint64_t off = 0; off < len; off += 0x1000)
        *entry(g, va + off, true) = (gpa + off) | pte_bits;
}

uint64_t *long_guest_pte(struct long_guest *g, uint64_t va)
{
    uint64_t *pte = entry(g, va, false);

    BUG_ON(!pte);
    return pte;
}

void long_guest_gate(struct long_guest *g, unsigned vector, uint64_t handler, unsigned dpl, unsigned ist)
{
    uint64_t at = LG_IDT + vector * 16;

    put64(g, at,
          (handler & 0xffff) | (uint64_t)LG_CODE64 << 16 | (uint64_t)ist << 32 | 0x8eull << 40 |
              (uint64_t)dpl << 45 | (handler >> 16 & 0xffff) << 48);
    put64(g, at + 8, handler >> 32);
}

struct x86_segment long_guest_segment(const struct long_guest *g, uint16_t sel)
{
    struct x86_segment s = { .sel = sel };
    uint64_t d;

    if (!(sel & ~3u))
        return s;
    d = get64(g, LG_GDT + (sel & ~7u));
    s.base = (d >> 16 & 0xffffff) | (d >> 56 << 24);
    s.limit = (uint32_t)((d & 0xffff) | (d >> 32 & 0xf0000));
    s.attr = (uint16_t)(d >> 40 & 0xf0ff);
    if (s.attr & SEG_G)
        s.limit = s.limit << 12 | 0xfff;
    if (!(s.attr & SEG_S))
        s.base |= get64(g, LG_GDT + (sel & ~7u) + 8) << 32;
    return s;
}

void long_guest_state(const struct long_guest *g, struct x86_state *s, unsigned ring, uint64_t rip,
                      uint64_t rsp)
{
    s->cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_PG;
    s->cr3 = LG_TABLES;
    s->cr4 = CR4_PAE | CR4_PGE | CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE | CR4_FSGSBASE;
    s->efer = EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE;
    s->xcr0 = 7;
    s->gdt = (struct x86_table){ g->kva + LG_GDT, 0xfff };
    s->idt = (struct x86_table){ g->kva + LG_IDT, 0xfff };
    s->seg[S_CS] = long_guest_segment(g, ring ? LG_USER_CODE64 : LG_CODE64);
    s->seg[S_SS] = long_guest_segment(g, ring ? LG_USER_DATA : LG_DATA);
    s->seg[S_DS] = s->seg[S_ES] = s->seg[S_FS] = s->seg[S_GS] = long_guest_segment(g, 0);
    s->seg[S_LDTR] = long_guest_segment(g, 0);
    s->seg[S_TR] = long_guest_segment(g, LG_TSS);
    s->rip = rip;
    s->gpr[R_SP] = rsp;
    s->rflags = FL_1;
    s->mp_state = X86_MP_RUNNING;
}
