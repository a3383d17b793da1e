/* See test_sys_fake.h. */
#include "test_sys_fake.h"

#include <stdlib.h>

struct fake *fake;

/* ---- memory ---- */

static bool page_ok(struct tcpu *c, uint64_t lin, enum mmu_acc acc, bool user)
{
    uint8_t p = lin < FAKE_RAM ? fake->prot[lin >> 12] : PAGE_ABSENT;
    bool bad = (p & PAGE_ABSENT) || ((p & PAGE_READONLY) && acc == MMU_WRITE) || ((p & PAGE_SYSTEM) && user);

    if (!bad)
        return true;
    cpu_raise_error(c, EXC_PF,
                    (p & PAGE_ABSENT ? 0 : PF_P) | (acc == MMU_WRITE ? PF_W : 0) | (user ? PF_U : 0));
    c->exc.cr2 = lin;
    return false;
}

static bool range_ok(struct tcpu *c, uint64_t lin, unsigned n, enum mmu_acc acc, enum mmu_as as)
{
    bool user = as == MMU_AS_CPL && c->mmu_idx == MMU_U;

    for (uint64_t at = lin; at < lin + n; at = (at | 0xfff) + 1) {
        if (!page_ok(c, at, acc, user))
            return false;
    }
    return true;
}

bool mmu_read(struct tcpu *c, uint64_t lin, void *buf, unsigned n, enum mmu_as as)
{
    if (!range_ok(c, lin, n, MMU_READ, as))
        return false;
    memcpy(buf, fake->ram + lin, n);
    return true;
}

bool mmu_write(struct tcpu *c, uint64_t lin, const void *buf, unsigned n, enum mmu_as as)
{
    if (!range_ok(c, lin, n, MMU_WRITE, as))
        return false;
    memcpy(fake->ram + lin, buf, n);
    return true;
}

bool mmu_probe(struct tcpu *c, uint64_t lin, unsigned n, enum mmu_acc acc, enum mmu_as as)
{
    return range_ok(c, lin, n, acc, as);
}

bool mmu_fetch(struct tcpu *c, uint64_t lin, void *buf, unsigned n, unsigned *got)
{
    *got = n;
    return mmu_read(c, lin, buf, n, MMU_AS_CPL);
}

void *mmu_fast_ptr(struct tcpu *c, uint64_t lin, unsigned n, enum mmu_acc acc, enum mmu_as as)
{
    (void)c, (void)lin, (void)n, (void)acc, (void)as;
    return NULL;
}

bool mmu_cmpxchg(struct tcpu *c, uint64_t lin, unsigned n, void *expected, const void *desired, bool *swapped)
{
    if (!range_ok(c, lin, n, MMU_WRITE, MMU_AS_CPL))
        return false;
    *swapped = memcmp(fake->ram + lin, expected, n) == 0;
    if (*swapped)
        memcpy(fake->ram + lin, desired, n);
    else
        memcpy(expected, fake->ram + lin, n);
    return true;
}

bool mmu_phys_read(struct tcpu *c, uint64_t gpa, void *buf, unsigned n)
{
    const uint8_t *p = mmu_phys_ptr(c, gpa, n);

    if (p)
        memcpy(buf, p, n);
    return p != NULL;
}

bool mmu_phys_write(struct tcpu *c, uint64_t gpa, const void *buf, unsigned n)
{
    uint8_t *p = mmu_phys_ptr(c, gpa, n);

    if (p)
        memcpy(p, buf, n);
    return p != NULL;
}

uint8_t *mmu_phys_ptr(struct tcpu *c, uint64_t gpa, unsigned n)
{
    (void)c;
    return gpa + n <= FAKE_RAM && gpa >> 12 == (gpa + n - 1) >> 12 ? fake->ram + gpa : NULL;
}

void mmu_flush_all(struct tcpu *c)
{
    (void)c;
    fake->flush_all++;
}

void mmu_flush_nonglobal(struct tcpu *c)
{
    (void)c;
    fake->flush_nonglobal++;
}

void mmu_flush_pcid(struct tcpu *c, uint64_t pcid)
{
    (void)c;
    fake->flushed_pcid = pcid;
}

void mmu_flush_pcids(struct tcpu *c)
{
    (void)c;
    fake->flush_pcids++;
}

void mmu_change_space(struct tcpu *c, uint64_t old_pcid, uint64_t pcid, bool keep)
{
    (void)c;
    fake->space.count++;
    fake->space.old = old_pcid;
    fake->space.pcid = pcid;
    fake->space.keep = keep;
}

void mmu_flush_page(struct tcpu *c, uint64_t lin)
{
    (void)c, (void)lin;
    fake->flush_page++;
}

/* ---- machine ---- */

struct tcpu *tvm_vcpu(struct tvm *vm, unsigned index)
{
    (void)vm;
    return index == 0 ? fake->c : index == 1 ? fake->other : NULL;
}

unsigned tvm_vcpu_count(const struct tvm *vm)
{
    (void)vm;
    return fake->other ? 2 : 1;
}

const struct cpuid_model *tvm_cpuid(const struct tvm *vm)
{
    (void)vm;
    return &fake->model;
}

uint64_t tvm_tsc_khz(const struct tvm *vm)
{
    (void)vm;
    return fake->model.tsc_khz;
}

uint64_t cpu_host_tsc(void)
{
    return fake->host_tsc;
}

void cpu_request(struct tcpu *c, uint32_t xr)
{
    fake->requests[c->index] |= xr;
}

void cpu_heavy_begin(struct tcpu *c)
{
    (void)c;
    fake->heavy++;
}

void cpu_heavy_end(struct tcpu *c)
{
    (void)c;
    fake->heavy--;
}

void cpuid_model_get(const struct cpuid_model *m, uint32_t leaf, uint32_t sub,
                     const struct cpuid_dynamic *dyn, struct cpuid_regs *out)
{
    (void)m;
    *out = (struct cpuid_regs){ leaf, sub, (uint32_t)dyn->xcr0, fake->heavy };
}

/* ---- local APIC ---- */

void lapic_reset(struct lapic *l, bool keep_id_and_base)
{
    (void)l, (void)keep_id_and_base;
    fake->lapic_resets++;
}

bool lapic_msr_read(struct lapic *l, uint32_t msr, uint64_t *v)
{
    (void)l;
    *v = msr;
    return msr == 0x802;
}

bool lapic_msr_write(struct lapic *l, uint32_t msr, uint64_t v)
{
    (void)l, (void)v;
    return msr == 0x80b;
}

uint64_t lapic_base(const struct lapic *l)
{
    (void)l;
    return fake->lapic_base;
}

bool lapic_set_base(struct lapic *l, uint64_t v)
{
    (void)l;
    fake->lapic_base = v;
    return true;
}

uint64_t lapic_tsc_deadline(const struct lapic *l)
{
    (void)l;
    return fake->tsc_deadline;
}

void lapic_set_tsc_deadline(struct lapic *l, uint64_t v)
{
    (void)l;
    fake->deadline_sets++;
    fake->tsc_deadline = v;
}

uint8_t lapic_cr8(const struct lapic *l)
{
    (void)l;
    return fake->cr8;
}

void lapic_set_cr8(struct lapic *l, uint8_t v)
{
    (void)l;
    fake->cr8 = v;
}

void lapic_route_icr(struct tvm *vm, int source, uint64_t icr, bool x2apic)
{
    (void)vm, (void)source;
    assert_true(x2apic);
    fake->icr[fake->icr_count++ % 8] = icr;
}

/* ---- bytes ---- */

void put16(uint32_t at, uint16_t v)
{
    memcpy(fake->ram + at, &v, 2);
}

void put32(uint32_t at, uint32_t v)
{
    memcpy(fake->ram + at, &v, 4);
}

void put64(uint32_t at, uint64_t v)
{
    memcpy(fake->ram + at, &v, 8);
}

uint16_t get16(uint32_t at)
{
    uint16_t v;

    memcpy(&v, fake->ram + at, 2);
    return v;
}

uint32_t get32(uint32_t at)
{
    uint32_t v;

    memcpy(&v, fake->ram + at, 4);
    return v;
}

uint64_t get64(uint32_t at)
{
    uint64_t v;

    memcpy(&v, fake->ram + at, 8);
    return v;
}

void put_desc(uint32_t at, uint32_t base, uint32_t limit, uint8_t type, uint8_t flags)
{
    put32(at, (limit & 0xffff) | base << 16);
    put32(at + 4, (base >> 16 & 0xff) | (uint32_t)type << 8 | (limit & 0xf0000) | (uint32_t)flags << 20 |
                      (base & 0xff000000));
}

void put_gate(unsigned vector, uint16_t sel, uint32_t off, uint8_t type)
{
    put32(A_IDT + vector * 8, (off & 0xffff) | (uint32_t)sel << 16);
    put32(A_IDT + vector * 8 + 4, (off & 0xffff0000) | (uint32_t)type << 8);
}

void put_gate64(unsigned vector, uint16_t sel, uint64_t off, uint8_t type, unsigned ist)
{
    put32(A_IDT + vector * 16, (off & 0xffff) | (uint32_t)sel << 16);
    put32(A_IDT + vector * 16 + 4, ((uint32_t)off & 0xffff0000) | (uint32_t)type << 8 | ist);
    put64(A_IDT + vector * 16 + 8, off >> 32);
}

/* ---- states ---- */

static void make_gdt(void)
{
    put_desc(A_GDT + SEL_CODE64, 0, 0xfffff, 0x9b, 0xa);
    put_desc(A_GDT + SEL_DATA0, 0, 0xfffff, 0x93, 0xc);
    put_desc(A_GDT + SEL_UCODE32, 0, 0xfffff, 0xfb, 0xc);
    put_desc(A_GDT + SEL_UDATA, 0, 0xfffff, 0xf3, 0xc);
    put_desc(A_GDT + SEL_UCODE64, 0, 0xfffff, 0xfb, 0xa);
    put_desc(A_GDT + SEL_TSS, A_TSS, 0xff, 0x89, 0);
    put_desc(A_GDT + SEL_CODE32, 0, 0xfffff, 0x9b, 0xc);
    put_desc(A_GDT + SEL_CONFORM, 0, 0xfffff, 0x9f, 0xa);
    put_desc(A_GDT + SEL_ABSENT, 0, 0xfffff, 0x13, 0xc);
    put_desc(A_GDT + SEL_XONLY, 0, 0xfffff, 0x99, 0xc);
    put_desc(A_GDT + SEL_LDT, A_LDT, 0x1f, 0x82, 0);
    put_desc(A_GDT + SEL_TSS2, A_TSS2, 0xff, 0x89, 0);
    put_desc(A_GDT + SEL_CODE16, 0, 0xffff, 0x9b, 0);
    put_desc(A_GDT + SEL_UDATA_BIG, 0, 0xfffff, 0xf2, 0xc); /* not accessed yet */
    put_desc(A_GDT + SEL_DATA1, 0, 0xfffff, 0xb3, 0xc);
    put_desc(A_GDT + SEL_ROM0, 0, 0xfffff, 0x91, 0xc);
    put_desc(A_LDT + 8, 0x7000, 0xfff, 0xf3, 0x4);
}

static struct x86_segment flat(uint16_t sel, uint16_t attr)
{
    return (struct x86_segment){ .limit = 0xffffffff, .sel = sel, .attr = attr };
}

static void set_flat(uint16_t cs, uint16_t cs_attr, unsigned cpl)
{
    struct tcpu *c = fake->c;
    uint16_t dpl = (uint16_t)(cpl << 5);
    uint16_t data = (uint16_t)((cpl ? SEL_UDATA : SEL_DATA0) | cpl);

    for (unsigned i = 0; i <= S_GS; i++)
        c->seg[i] = flat(data, (uint16_t)(0xc093 | dpl));
    c->seg[S_CS] = flat((uint16_t)(cs | cpl), (uint16_t)(cs_attr | dpl));
    c->gpr[R_SP] = cpl ? A_USTACK : A_STACK;
    c->rip = A_CODE;
    cpu_set_rflags(c, FL_1 | FL_IF);
}

static void set_tables(uint16_t idt_limit)
{
    struct tcpu *c = fake->c;

    make_gdt();
    c->gdt = (struct x86_table){ .base = A_GDT, .limit = GDT_LIMIT };
    c->idt = (struct x86_table){ .base = A_IDT, .limit = idt_limit };
    c->seg[S_TR] = (struct x86_segment){ .base = A_TSS, .limit = 0xff, .sel = SEL_TSS, .attr = 0x8b };
    c->seg[S_LDTR] = (struct x86_segment){ 0 };
}

static void enter_long(uint16_t cs, uint16_t attr, unsigned cpl)
{
    struct tcpu *c = fake->c;

    c->cr0 = CR0_PE | CR0_PG | CR0_ET | CR0_NE | CR0_WP;
    c->cr4 = CR4_PAE;
    c->efer = EFER_LME | EFER_LMA | EFER_SCE | EFER_NXE;
    set_flat(cs, attr, cpl);
    set_tables(0xfff);
    put64(A_TSS + 4, A_STACK0);
    put64(A_TSS + 28 + 8, A_STACK_IST);
    sys_mode_changed(c);
}

void fake_long(unsigned cpl)
{
    enter_long(cpl ? SEL_UCODE64 : SEL_CODE64, 0xa09b, cpl);
}

void fake_compat(unsigned cpl)
{
    enter_long(cpl ? SEL_UCODE32 : SEL_CODE32, 0xc09b, cpl);
}

void fake_protected(unsigned cpl)
{
    struct tcpu *c = fake->c;

    c->cr0 = CR0_PE | CR0_ET | CR0_NE;
    c->cr4 = 0;
    c->efer = 0;
    set_flat(cpl ? SEL_UCODE32 : SEL_CODE32, 0xc09b, cpl);
    set_tables(0x7ff);
    put32(A_TSS + 4, A_STACK0);
    put16(A_TSS + 8, SEL_DATA0);
    sys_mode_changed(c);
}

void fake_v86(void)
{
    struct tcpu *c = fake->c;

    fake_protected(3);
    for (unsigned i = 0; i <= S_GS; i++)
        c->seg[i] = (struct x86_segment){
            .base = 0x100 * i, .limit = 0xffff, .sel = (uint16_t)(0x10 * i), .attr = 0xf3
        };
    c->gpr[R_SP] = 0x8000;
    c->rip = 0x1234;
    cpu_set_rflags(c, FL_1 | FL_IF | FL_VM | FL_IOPL);
    sys_mode_changed(c);
}

void fake_real(void)
{
    struct tcpu *c = fake->c;

    c->cr0 = CR0_ET;
    for (unsigned i = 0; i <= S_GS; i++)
        c->seg[i] = (struct x86_segment){ .limit = 0xffff, .attr = i == S_CS ? 0x9b : 0x93 };
    c->idt = (struct x86_table){ .limit = 0x3ff };
    c->gpr[R_SP] = 0x8000;
    c->rip = 0x1234;
    cpu_set_rflags(c, FL_1 | FL_IF);
    sys_mode_changed(c);
}

int fake_setup(void **state)
{
    (void)state;
    fake = calloc(1, sizeof(*fake));
    assert_non_null(fake);
    fake->c = aligned_alloc(4096, (sizeof(struct tcpu) + 4095) & ~4095ul);
    fake->ram = calloc(1, FAKE_RAM);
    assert_non_null(fake->c);
    assert_non_null(fake->ram);
    memset(fake->c, 0, sizeof(struct tcpu));
    fake->c->vm = &fake->vm;
    fake->model = (struct cpuid_model){
        .vcpu_count = 2,
        .tsc_khz = 2596125,
        .is_amd = true,
        .phys_bits = 48,
        .xcr0_mask = 7,
        .f1_ecx = 1u << 26,
        .f1_edx = 0x0703ffff,
        .f7_ebx = 1u << 0 | 1u << 7 | 1u << 20,
        .f7_ecx = 1u << 2,
        .f8_ebx = 1u << 12 | 1u << 14 | 1u << 15,
        .f21_eax = 1u << 8,
    };
    fake->host_tsc = 1000000000000ull;
    fake->c->dr[6] = 0xffff0ff0;
    fake->c->dr[7] = 0x400;
    fake->lapic_base = 0xfee00900;
    return 0;
}

int fake_teardown(void **state)
{
    (void)state;
    free(fake->ram);
    free(fake->c);
    free(fake);
    fake = NULL;
    return 0;
}

void expect_exception(unsigned vector, int64_t error)
{
    struct tcpu_exception *e = &fake->c->exc;

    assert_int_equal(e->pending, 1);
    assert_int_equal(e->vector, vector);
    assert_int_equal(e->has_error, error >= 0);
    if (error >= 0)
        assert_int_equal(e->error, error);
    e->pending = 0;
}
