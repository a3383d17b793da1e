/* The boot vCPU at the kernel's first instruction. */
#include <string.h>

#include "boot/boot_priv.h"

/* Selectors that the 64-bit boot protocol asks for (boot.rst, "64-bit Boot Protocol"). */
#define SEL_CODE 0x10
#define SEL_DATA 0x18
#define SEL_TSS 0x20

#define DESC_CODE64 0x00af9b000000ffffull /* base 0, limit 4 GiB, accessed */
#define DESC_CODE32 0x00cf9b000000ffffull
#define DESC_DATA 0x00cf93000000ffffull
#define DESC_TSS 0x00008b0000000067ull /* busy, base 0, as PVH wants a loaded TR */

#define TYPE_CODE (SEG_CODE | SEG_RW | SEG_ACCESSED | SEG_S | SEG_P | SEG_G)
#define TYPE_DATA (SEG_RW | SEG_ACCESSED | SEG_S | SEG_P | SEG_G | SEG_DB)
#define TYPE_TSS_BUSY 0xbu

#define GDT_ENTRIES 5
_Static_assert(GDT_ENTRIES * 8 <= BOOT_GDT_LEN, "the GDT has its room");

/* Page table entries; accessed and dirty are set so that no walk has to write. */
#define PTE_TABLE 0x23ull
#define PTE_2M 0xe3ull
#define PD_COUNT 4

static bool write_gdt(struct x86_state *s, const struct boot_layout *layout, struct gmem *mem, uint64_t code)
{
    const uint64_t entries[GDT_ENTRIES] = { 0, 0, code, DESC_DATA, DESC_TSS };
    uint8_t bytes[sizeof(entries)];

    for (unsigned i = 0; i < GDT_ENTRIES; i++)
        store_le(bytes + 8 * i, entries[i], 8);
    s->gdt = (struct x86_table){ .base = layout->gdt, .limit = sizeof(bytes) - 1 };
    return gmem_write(mem, layout->gdt, bytes, sizeof(bytes));
}

static void set_segments(struct x86_state *s, unsigned code_kind)
{
    const struct x86_segment data = { .limit = UINT32_MAX, .sel = SEL_DATA, .attr = TYPE_DATA };

    s->seg[S_CS] = (struct x86_segment){ .limit = UINT32_MAX,
                                         .sel = SEL_CODE,
                                         .attr = (uint16_t)(TYPE_CODE | code_kind) };
    s->seg[S_DS] = data;
    s->seg[S_ES] = data;
    s->seg[S_SS] = data;
    s->seg[S_FS] = data;
    s->seg[S_GS] = data;
    s->seg[S_LDTR] = (struct x86_segment){ 0 };
    s->seg[S_TR] = (struct x86_segment){ .limit = 0x67, .sel = SEL_TSS, .attr = TYPE_TSS_BUSY | SEG_P };
    s->idt = (struct x86_table){ 0 };
}

/* One top-level table, one table of four 1 GiB entries, four tables of 2 MiB pages. */
static bool write_page_tables(const struct boot_layout *layout, struct gmem *mem)
{
    uint8_t page[BOOT_PAGE];
    uint64_t gpa = layout->page_tables;

    memset(page, 0, sizeof(page));
    store_le(page, (gpa + BOOT_PAGE) | PTE_TABLE, 8);
    if (!gmem_write(mem, gpa, page, sizeof(page)))
        return false;
    for (unsigned i = 0; i < PD_COUNT; i++)
        store_le(page + 8 * i, (gpa + (2 + i) * BOOT_PAGE) | PTE_TABLE, 8);
    if (!gmem_write(mem, gpa + BOOT_PAGE, page, sizeof(page)))
        return false;
    for (unsigned pd = 0; pd < PD_COUNT; pd++) {
        for (unsigned i = 0; i < 512; i++)
            store_le(page + 8 * i, (pd * GIB(1) + i * MIB(2)) | PTE_2M, 8);
        if (!gmem_write(mem, gpa + (2 + pd) * BOOT_PAGE, page, sizeof(page)))
            return false;
    }
    return true;
}

bool boot_cpu_long_mode(const struct boot_input *in, const struct boot_plan *plan, struct gmem *mem,
                        struct x86_state *out)
{
    x86_state_reset(out, 0);
    set_segments(out, SEG_L);
    out->cr0 = CR0_PE | CR0_ET | CR0_NE | CR0_WP | CR0_PG;
    out->cr4 = CR4_PAE;
    out->efer = EFER_LME | EFER_LMA;
    out->cr3 = in->layout.page_tables;
    out->rflags = FL_1;
    out->rip = plan->entry;
    memset(out->gpr, 0, sizeof(out->gpr));
    out->gpr[R_SI] = in->layout.params;
    out->mp_state = X86_MP_RUNNING;
    return write_gdt(out, &in->layout, mem, DESC_CODE64) && write_page_tables(&in->layout, mem);
}

/* Xen pvh.pandoc: paging off, flat segments, EBX has the start info. */
bool boot_cpu_protected_mode(const struct boot_input *in, const struct boot_plan *plan, struct gmem *mem,
                             struct x86_state *out)
{
    x86_state_reset(out, 0);
    set_segments(out, SEG_DB);
    out->cr0 = CR0_PE | CR0_ET;
    out->cr4 = 0;
    out->efer = 0;
    out->rflags = FL_1;
    out->rip = plan->entry;
    memset(out->gpr, 0, sizeof(out->gpr));
    out->gpr[R_BX] = in->layout.params;
    out->mp_state = X86_MP_RUNNING;
    return write_gdt(out, &in->layout, mem, DESC_CODE32);
}

/* Local APIC and LINT pins as firmware leaves them on the boot processor of a PC with 8259s: enabled, LINT0
 * takes the 8259s' interrupts, LINT1 is NMI (MultiProcessor Specification 1.4, 3.6.2.2, virtual wire mode).
 */
#define LAPIC_SVR 0x0f
#define LAPIC_LINT0 0x35
#define LAPIC_LINT1 0x36
#define MULTIBOOT_EAX 0x2badb002u

/* Multiboot 0.6.96, 3.2. */
bool boot_cpu_multiboot(const struct boot_input *in, const struct boot_plan *plan, struct gmem *mem,
                        struct x86_state *out)
{
    if (!boot_cpu_protected_mode(in, plan, mem, out))
        return false;
    out->gpr[R_AX] = MULTIBOOT_EAX;
    out->lapic.regs[LAPIC_SVR] = 0x1ff;
    out->lapic.regs[LAPIC_LINT0] = 0x700;
    out->lapic.regs[LAPIC_LINT1] = 0x400;
    return true;
}
