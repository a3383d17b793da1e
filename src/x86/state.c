/* Reset values of a virtual CPU. Intel SDM volume 3 (2023-12), table 10-1. */
#include "x86/state.h"

#include <string.h>

#define DATA_ATTR (SEG_P | SEG_S | SEG_RW | SEG_ACCESSED)

#define LAPIC_BASE_DEFAULT 0xfee00000u
#define LAPIC_BASE_BSP 0x100u
#define LAPIC_BASE_ENABLE 0x800u

/* Local APIC after power-on: 11.4.7.1. Index is the register's offset / 0x10. */
static void reset_lapic(struct x86_lapic_state *l, uint32_t apic_id)
{
    l->apic_base = LAPIC_BASE_DEFAULT | LAPIC_BASE_ENABLE | (apic_id == 0 ? LAPIC_BASE_BSP : 0);
    l->regs[0x02] = apic_id << 24;
    l->regs[0x03] = 0x50014;    /* version 0x14, six local vector entries */
    l->regs[0x0e] = 0xffffffff; /* destination format: flat */
    l->regs[0x0f] = 0xff;       /* spurious vector, APIC disabled by software */
    for (unsigned i = 0x32; i <= 0x37; i++)
        l->regs[i] = 0x10000; /* local vector entries: masked */
}

/* x87 and SSE as FNINIT and the power-on value of MXCSR leave them: volume 1, 13.4.1. */
static void reset_xsave(uint8_t *xsave)
{
    const uint16_t fcw = 0x37f;
    const uint32_t mxcsr = 0x1f80, mxcsr_mask = 0xffff;

    memcpy(xsave, &fcw, sizeof(fcw));
    memcpy(xsave + 24, &mxcsr, sizeof(mxcsr));
    memcpy(xsave + 28, &mxcsr_mask, sizeof(mxcsr_mask));
}

void x86_state_reset(struct x86_state *s, uint32_t apic_id)
{
    memset(s, 0, sizeof(*s));
    s->gpr[R_DX] = 0x600; /* family 6; the engine that knows the CPUID model may say more */
    s->rip = 0xfff0;
    s->rflags = FL_1;
    for (unsigned i = 0; i <= S_GS; i++)
        s->seg[i] = (struct x86_segment){ .limit = 0xffff, .attr = DATA_ATTR };
    s->seg[S_CS].sel = 0xf000;
    s->seg[S_CS].base = 0xffff0000u;
    s->seg[S_CS].attr = DATA_ATTR | SEG_CODE;
    s->seg[S_LDTR] = (struct x86_segment){ .limit = 0xffff, .attr = SEG_P | 2 };
    s->seg[S_TR] = (struct x86_segment){ .limit = 0xffff, .attr = SEG_P | 11 }; /* busy 32-bit TSS */
    s->gdt.limit = 0xffff;
    s->idt.limit = 0xffff;
    s->cr0 = CR0_CD | CR0_NW | CR0_ET;
    s->xcr0 = 1;
    s->dr[6] = 0xffff0ff0;
    s->dr[7] = 0x400;
    s->pat = 0x0007040600070406;
    s->misc_enable = 0x1801;  /* fast strings; no branch trace store, no PEBS */
    s->mtrr_def_type = 0x806; /* enabled, all write-back: there is no firmware that would set it */
    s->mp_state = apic_id == 0 ? X86_MP_RUNNING : X86_MP_WAIT_SIPI;
    reset_lapic(&s->lapic, apic_id);
    reset_xsave(s->xsave);
}
