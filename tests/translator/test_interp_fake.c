/* Stand-ins for the MMU, the system layer and the ports: flat memory in a few regions, calls written down. */
#include "test_interp_fake.h"

#include <stdlib.h>
#include <string.h>

/* xorshift64* (Vigna 2016) */
uint64_t fake_random(uint64_t *state)
{
    uint64_t x = *state;
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    *state = x;
    return x * 0x2545f4914f6cdd1dull;
}

struct tcpu *fake_cpu_new(void)
{
    struct tcpu *c = aligned_alloc(4096, (sizeof(*c) + 4095) & ~4095ul);
    struct tvm *vm = calloc(1, sizeof(*vm));
    if (!c || !vm)
        abort();
    memset(c, 0, sizeof(*c));
    c->vm = vm;
    c->rflags = FL_1;
    c->fl = 0x200;
    vm->rng = 1;
    return c;
}

void fake_cpu_free(struct tcpu *c)
{
    free(c->vm);
    free(c);
}

void fake_map(struct tcpu *c, uint64_t lin, uint64_t len, void *host, unsigned rights, bool careful)
{
    c->vm->region[c->vm->regions++] = (struct fake_region){ lin, len, host, rights, careful };
}

void fake_mode(struct tcpu *c, unsigned bits, uint8_t cpl)
{
    c->code_bits = (uint8_t)bits;
    c->cpl = cpl;
    c->cr0 = bits == 16 ? 0 : CR0_PE | CR0_PG;
    c->efer = bits == 64 ? EFER_LMA | EFER_LME : 0;
    for (unsigned s = 0; s < S_COUNT; s++) {
        uint16_t attr = SEG_P | SEG_S | SEG_RW | SEG_ACCESSED | (uint16_t)(cpl << SEG_DPL_SHIFT);
        if (s == S_CS)
            attr |= SEG_CODE;
        if (bits == 64 && s == S_CS)
            attr |= SEG_L;
        else if (bits != 16)
            attr |= SEG_DB;
        c->seg[s] = (struct x86_segment){ .limit = bits == 16 ? 0xffff : 0xffffffff, .attr = attr };
    }
}

/* ---- memory ---- */

static struct fake_region *region_at(struct tcpu *c, uint64_t lin)
{
    for (unsigned i = 0; i < c->vm->regions; i++) {
        struct fake_region *r = &c->vm->region[i];
        if (lin - r->lin < r->len)
            return r;
    }
    return NULL;
}

static unsigned right_of(enum mmu_acc acc)
{
    return acc == MMU_READ ? FAKE_R : acc == MMU_WRITE ? FAKE_W : FAKE_X;
}

bool mmu_probe(struct tcpu *c, uint64_t lin, unsigned n, enum mmu_acc acc, enum mmu_as as)
{
    if (!cpu_canonical(lin))
        return cpu_raise_gp(c, 0);
    for (unsigned k = 0; k < n; k++) {
        struct fake_region *r = region_at(c, lin + k);
        if (r && (r->rights & right_of(acc)))
            continue;
        uint32_t err = acc == MMU_WRITE ? PF_W : acc == MMU_EXEC ? PF_I : 0;
        if (as == MMU_AS_CPL && c->cpl == 3)
            err |= PF_U;
        if (r && r->rights)
            err |= PF_P;
        cpu_raise_error(c, EXC_PF, err);
        c->exc.cr2 = lin + k;
        return false;
    }
    return true;
}

static uint8_t *host_at(struct tcpu *c, uint64_t lin)
{
    struct fake_region *r = region_at(c, lin);
    return r->host + (lin - r->lin);
}

bool mmu_read(struct tcpu *c, uint64_t lin, void *buf, unsigned n, enum mmu_as as)
{
    if (!mmu_probe(c, lin, n, MMU_READ, as))
        return false;
    for (unsigned k = 0; k < n; k++)
        ((uint8_t *)buf)[k] = *host_at(c, lin + k);
    return true;
}

bool mmu_write(struct tcpu *c, uint64_t lin, const void *buf, unsigned n, enum mmu_as as)
{
    if (!mmu_probe(c, lin, n, MMU_WRITE, as))
        return false;
    for (unsigned k = 0; k < n; k++)
        *host_at(c, lin + k) = ((const uint8_t *)buf)[k];
    return true;
}

bool mmu_fetch(struct tcpu *c, uint64_t lin, void *buf, unsigned n, unsigned *got)
{
    if (!mmu_probe(c, lin, 1, MMU_EXEC, MMU_AS_CPL))
        return false;
    unsigned k = 0;
    for (; k < n; k++) {
        struct fake_region *r = region_at(c, lin + k);
        if (!r || !(r->rights & FAKE_X))
            break;
        ((uint8_t *)buf)[k] = *host_at(c, lin + k);
    }
    *got = k;
    return true;
}

void *mmu_fast_ptr(struct tcpu *c, uint64_t lin, unsigned n, enum mmu_acc acc, enum mmu_as as)
{
    (void)as;
    struct fake_region *r = region_at(c, lin);
    if ((lin & 0xfff) + n > 0x1000 || !r || lin - r->lin + n > r->len || !(r->rights & right_of(acc)))
        return NULL;
    if ((acc == MMU_WRITE && r->careful) || fake_random(&c->vm->rng) >> 62 < c->vm->slow_of_4)
        return NULL;
    return host_at(c, lin);
}

bool mmu_cmpxchg(struct tcpu *c, uint64_t lin, unsigned n, void *expected, const void *desired, bool *swapped)
{
    uint8_t old[16];
    if (!mmu_probe(c, lin, n, MMU_WRITE, MMU_AS_CPL) || !mmu_read(c, lin, old, n, MMU_AS_CPL))
        return false;
    if (c->vm->lost_races) {
        c->vm->lost_races--;
        old[0] ^= 1; /* another CPU was here */
        if (!mmu_write(c, lin, old, n, MMU_AS_CPL))
            return false;
    }
    *swapped = !memcmp(old, expected, n);
    if (*swapped)
        return mmu_write(c, lin, desired, n, MMU_AS_CPL);
    memcpy(expected, old, n);
    return true;
}

/* ---- ports ---- */

/* Nothing sets tcpu.watch here. */
bool sys_watch_access(struct tcpu *c, uint64_t lin, unsigned size, bool write)
{
    (void)c;
    (void)lin;
    (void)size;
    (void)write;
    abort();
}

bool sys_io_allowed(struct tcpu *c, uint16_t port, unsigned width)
{
    (void)port, (void)width;
    return c->vm->io_denied ? cpu_raise_gp(c, 0) : true;
}

uint64_t cpu_io_read(struct tcpu *c, bool port, uint64_t addr, unsigned width)
{
    (void)port;
    c->vm->io_port = (uint16_t)addr;
    c->vm->io_len++;
    uint64_t v = 0x8877665544332211ull + c->vm->io_len - 1;
    return width == 8 ? v : v & ((1ull << (8 * width)) - 1);
}

void cpu_io_write(struct tcpu *c, bool port, uint64_t addr, unsigned width, uint64_t value)
{
    (void)port;
    c->vm->io_port = (uint16_t)addr;
    for (unsigned k = 0; k < width && c->vm->io_len < sizeof(c->vm->io_log); k++)
        c->vm->io_log[c->vm->io_len++] = (uint8_t)(value >> (8 * k));
}

/* ---- system layer ---- */

static void note(struct tcpu *c, const char *name, uint64_t a, uint64_t b, uint64_t d, uint64_t e)
{
    c->vm->call = (struct fake_call){ name, { a, b, d, e } };
}

const struct cpuid_model *tvm_cpuid(const struct tvm *vm)
{
    return &vm->model;
}
void sys_mode_changed(struct tcpu *c)
{
    c->vm->mode_changes++;
}
enum step sys_soft_interrupt(struct tcpu *c, unsigned vector, unsigned insn_len, bool is_int_n)
{
    note(c, "soft_interrupt", vector, insn_len, is_int_n, 0);
    return STEP_NEXT;
}
enum step sys_iret(struct tcpu *c, unsigned opsize)
{
    note(c, "iret", opsize, 0, 0, 0);
    return STEP_NEXT;
}
bool sys_load_seg(struct tcpu *c, unsigned seg, uint16_t sel)
{
    note(c, "load_seg", seg, sel, 0, 0);
    if (sel == 0xdead)
        return cpu_raise_gp(c, sel);
    c->seg[seg].sel = sel;
    if (!(c->cr0 & CR0_PE))
        c->seg[seg].base = (uint64_t)sel << 4;
    c->int_shadow = seg == S_SS;
    return true;
}
enum step sys_far_jump(struct tcpu *c, uint16_t sel, uint64_t off, unsigned opsize)
{
    note(c, "far_jump", sel, off, opsize, 0);
    return STEP_NEXT;
}
enum step sys_far_call(struct tcpu *c, uint16_t sel, uint64_t off, unsigned opsize, uint64_t next_rip)
{
    note(c, "far_call", sel, off, opsize, next_rip);
    return STEP_NEXT;
}
enum step sys_far_ret(struct tcpu *c, unsigned opsize, unsigned pop_bytes)
{
    note(c, "far_ret", opsize, pop_bytes, 0, 0);
    return STEP_NEXT;
}
enum step sys_syscall(struct tcpu *c, uint64_t next_rip)
{
    note(c, "syscall", next_rip, 0, 0, 0);
    return STEP_NEXT;
}
enum step sys_sysret(struct tcpu *c, unsigned opsize)
{
    note(c, "sysret", opsize, 0, 0, 0);
    return STEP_NEXT;
}
enum step sys_sysenter(struct tcpu *c)
{
    note(c, "sysenter", 0, 0, 0, 0);
    return STEP_NEXT;
}
enum step sys_sysexit(struct tcpu *c, unsigned opsize)
{
    note(c, "sysexit", opsize, 0, 0, 0);
    return STEP_NEXT;
}
bool sys_lldt(struct tcpu *c, uint16_t sel)
{
    note(c, "lldt", sel, 0, 0, 0);
    return true;
}
bool sys_ltr(struct tcpu *c, uint16_t sel)
{
    note(c, "ltr", sel, 0, 0, 0);
    return true;
}
bool sys_lar(struct tcpu *c, uint16_t sel, uint32_t *value, bool *zf)
{
    note(c, "lar", sel, 0, 0, 0);
    *value = 0xcf9b00;
    *zf = sel == 8;
    return true;
}
bool sys_lsl(struct tcpu *c, uint16_t sel, uint32_t *value, bool *zf)
{
    note(c, "lsl", sel, 0, 0, 0);
    *value = 0xffffffff;
    *zf = sel == 8;
    return true;
}
bool sys_verify(struct tcpu *c, uint16_t sel, bool write, bool *zf)
{
    note(c, "verify", sel, write, 0, 0);
    *zf = sel == 8;
    return true;
}
bool sys_swapgs(struct tcpu *c)
{
    note(c, "swapgs", 0, 0, 0, 0);
    return true;
}
bool sys_read_cr(struct tcpu *c, unsigned n, uint64_t *v)
{
    *v = c->vm->cr[n];
    return true;
}
bool sys_write_cr(struct tcpu *c, unsigned n, uint64_t v)
{
    c->vm->cr[n] = v;
    return true;
}
bool sys_clts(struct tcpu *c)
{
    note(c, "clts", 0, 0, 0, 0);
    return true;
}
bool sys_lmsw(struct tcpu *c, uint16_t v)
{
    note(c, "lmsw", v, 0, 0, 0);
    return true;
}
bool sys_read_dr(struct tcpu *c, unsigned n, uint64_t *v)
{
    *v = c->vm->dr[n];
    return true;
}
bool sys_write_dr(struct tcpu *c, unsigned n, uint64_t v)
{
    c->vm->dr[n] = v;
    return true;
}
bool sys_rdmsr(struct tcpu *c, uint32_t n, uint64_t *v)
{
    note(c, "rdmsr", n, 0, 0, 0);
    *v = c->vm->msr_value;
    return true;
}
bool sys_wrmsr(struct tcpu *c, uint32_t n, uint64_t v)
{
    note(c, "wrmsr", n, v, 0, 0);
    return true;
}
void sys_cpuid(struct tcpu *c)
{
    note(c, "cpuid", 0, 0, 0, 0);
}
bool sys_xsetbv(struct tcpu *c, uint32_t n, uint64_t v)
{
    note(c, "xsetbv", n, v, 0, 0);
    return true;
}
bool sys_xgetbv(struct tcpu *c, uint32_t n, uint64_t *v)
{
    note(c, "xgetbv", n, 0, 0, 0);
    *v = 0x100000007ull;
    return true;
}
uint64_t sys_tsc(struct tcpu *c)
{
    (void)c;
    return 0x1122334455667788ull;
}
bool sys_invlpg(struct tcpu *c, uint64_t lin)
{
    note(c, "invlpg", lin, 0, 0, 0);
    return true;
}
bool sys_invpcid(struct tcpu *c, uint64_t type, uint64_t pcid, uint64_t lin)
{
    note(c, "invpcid", type, pcid, lin, 0);
    return true;
}
enum step sys_hypercall(struct tcpu *c)
{
    note(c, "hypercall", 0, 0, 0, 0);
    return STEP_NEXT;
}
