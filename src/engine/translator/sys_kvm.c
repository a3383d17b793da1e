/* KVM's paravirtual interface as far as CPUID offers it (CPUID_KVM_FEATURES). Linux
 * Documentation/virt/kvm/x86/msr.rst, hypercalls.rst and cpuid.rst. Light.
 *
 * The clock. A vCPU's clock page tells the guest a line: time = system_time + (TSC - tsc_timestamp) * scale.
 * The guest is promised that all vCPUs' pages are the same line (TSC_STABLE), so that it may read any of them
 * without guarding against steps back. Two samples of the host's clock never lie on one line exactly, so none
 * is taken: the line starts where the TSC that the machine was given is 0, at time 0. Then every vCPU and
 * every update has the same line by construction, whatever a vCPU did to its own TSC, and a saved machine
 * goes on where it was. The wall clock page is the difference to real time.
 *
 * Stops. The TSC runs on while the process is stopped or the machine is paused, and with it all clocks of the
 * guest: they are right when it goes on, without anyone having to set them. But to the guest's watchdogs such
 * a time looks like a CPU that hangs, so they are told (GUEST_STOPPED, upon which Linux touches them). After
 * a pause the machine says so. A process that SIGSTOP stopped is not told by anyone, but it finds its local
 * APIC timer overdue, and whatever a watchdog does begins with that interrupt. A vCPU that the host's
 * scheduler kept waiting for so long is none the worse for the same. */
#include <time.h>

#include "engine/translator/light_sys.h"
#include "engine/translator/sys_priv.h"
#include "engine/translator/tvm.h"

/* pvclock_vcpu_time_info */
struct clock_page {
    uint32_t version; /* odd: being written */
    uint32_t pad0;
    uint64_t tsc_timestamp;
    uint64_t system_time; /* ns */
    uint32_t tsc_to_system_mul;
    int8_t tsc_shift;
    uint8_t flags;
    uint8_t pad[2];
};
_Static_assert(sizeof(struct clock_page) == 32, "size of the clock page's structure");

/* pvclock_wall_clock */
struct wall_page {
    uint32_t version, sec, nsec;
};

#define CLOCK_ENABLE 1ull
#define CLOCK_TSC_STABLE 1u
#define CLOCK_GUEST_STOPPED 2u /* set here, cleared by the guest */
#define PV_EOI_ENABLE 1ull
#define LATE_MS 2000 /* a timer that is overdue by so much: Linux minds from 20 s on */

enum { HC_VAPIC_POLL_IRQ = 1, HC_KICK_CPU = 5, HC_SEND_IPI = 10, HC_SCHED_YIELD = 11 };
#define HC_EPERM 1
#define HC_EINVAL 22
#define HC_ENOSYS 1000

/* ns = ((tsc << shift) * mul) >> 32, mul with its top bit set (the most precise) */
struct scale {
    uint32_t mul;
    int8_t shift;
};

static struct scale clock_scale(uint64_t khz)
{
    uint64_t num = 1000000ull << 32; /* ns per kHz tick, times 2^32 */
    struct scale s = { 0 };

    if (!khz)
        return s;
    while (num / khz >> 32) {
        num >>= 1;
        s.shift++;
    }
    while (!(num / khz >> 31) && s.shift > -31) {
        num <<= 1;
        s.shift--;
    }
    s.mul = (uint32_t)(num / khz);
    return s;
}

/* What the guest computes: of the machine's TSC, the time on the line. */
static uint64_t clock_ns(uint64_t tsc, struct scale s)
{
    unsigned __int128 v = tsc;

    v = s.shift < 0 ? v >> -s.shift : v << s.shift;
    return (uint64_t)((v * s.mul) >> 32);
}

static void clock_page_write(struct tcpu *c, uint8_t more_flags)
{
    uint64_t gpa = c->kvm_system_time & ~CLOCK_ENABLE;
    struct scale s = clock_scale(tvm_tsc_khz(c->vm));
    struct clock_page p;

    if (!(c->kvm_system_time & CLOCK_ENABLE) || !mmu_phys_read(c, gpa, &p, sizeof(p)))
        return;
    p.version = (p.version + 1) | 1;
    p.pad0 = 0;
    p.tsc_timestamp = c->tsc_offset - c->vm->tsc_offset; /* this vCPU's TSC when the machine's is 0 */
    p.system_time = 0;
    p.tsc_to_system_mul = s.mul;
    p.tsc_shift = s.shift;
    p.flags = (uint8_t)((p.flags & CLOCK_GUEST_STOPPED) | CLOCK_TSC_STABLE | more_flags);
    p.pad[0] = p.pad[1] = 0;
    /* Three stores in order: readers on other vCPUs go by the version. */
    mmu_phys_write(c, gpa, &p.version, 4);
    mmu_phys_write(c, gpa + 4, &p.pad0, sizeof(p) - 4);
    p.version++;
    mmu_phys_write(c, gpa, &p.version, 4);
}

void sys_kvmclock_update(struct tcpu *c)
{
    clock_page_write(c, 0);
}

void sys_kvmclock_stopped(struct tcpu *c)
{
    clock_page_write(c, CLOCK_GUEST_STOPPED);
}

void sys_late_look(struct tcpu *c)
{
    uint64_t deadline = lapic_tsc_deadline(c->lapic), now = cpu_host_tsc() + c->tsc_offset;

    if (deadline && now > deadline && now - deadline > tvm_tsc_khz(c->vm) * LATE_MS)
        sys_kvmclock_stopped(c);
}

/* Real time when the line is at 0, ns. A thread that was kept waiting between the two clocks asks again: what
 * it is off by here, the guest's wall clock is off by for good. */
static uint64_t real_at_zero(struct tcpu *c)
{
    const uint64_t khz = tvm_tsc_khz(c->vm);
    uint64_t before, after, middle;
    struct timespec ts = { 0 };
    unsigned tries = 0;

    do {
        before = cpu_host_tsc();
        light_syscall4(SYS_clock_gettime, CLOCK_REALTIME, (long)&ts, 0, 0);
        after = cpu_host_tsc();
    } while (after - before > khz / 10 /* 100 us */ && ++tries < 16);
    middle = before + (after - before) / 2;
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec -
           clock_ns(middle + c->vm->tsc_offset, clock_scale(khz));
}

static bool wall_clock_update(struct tcpu *c, uint64_t gpa)
{
    uint64_t real = real_at_zero(c);
    struct wall_page p;

    if (!mmu_phys_read(c, gpa, &p.version, 4))
        return false;
    p.version = (p.version + 1) | 1;
    p.sec = (uint32_t)(real / 1000000000u);
    p.nsec = (uint32_t)(real % 1000000000u);
    mmu_phys_write(c, gpa, &p.version, 4);
    mmu_phys_write(c, gpa + 4, &p.sec, 8);
    p.version++;
    return mmu_phys_write(c, gpa, &p.version, 4);
}

void sys_tsc_moved(struct tcpu *c)
{
    uint64_t deadline = lapic_tsc_deadline(c->lapic);

    if (deadline) /* the same TSC value comes at another time now */
        lapic_set_tsc_deadline(c->lapic, deadline);
    sys_kvmclock_update(c);
}

/* ---- MSRs ---- */

bool sys_kvm_rdmsr(struct tcpu *c, uint32_t n, uint64_t *v)
{
    switch (n) {
    case MSR_KVM_WALL_CLOCK: *v = c->kvm_wall_clock; return true;
    case MSR_KVM_SYSTEM_TIME: *v = c->kvm_system_time; return true;
    case MSR_KVM_PV_EOI: *v = c->kvm_pv_eoi; return true;
    default: return false;
    }
}

/* A structure of n bytes at gpa: 4-byte aligned, in RAM, in one page (the guest's own are aligned to their
 * size). */
static bool in_ram(struct tcpu *c, uint64_t gpa, unsigned n)
{
    return !(gpa & 3) && mmu_phys_ptr(c, gpa, n);
}

bool sys_kvm_wrmsr(struct tcpu *c, uint32_t n, uint64_t v)
{
    switch (n) {
    case MSR_KVM_WALL_CLOCK:
        if (!in_ram(c, v, sizeof(struct wall_page)))
            return false;
        c->kvm_wall_clock = v;
        return wall_clock_update(c, v);
    case MSR_KVM_SYSTEM_TIME:
        if ((v & CLOCK_ENABLE) && !in_ram(c, v & ~CLOCK_ENABLE, sizeof(struct clock_page)))
            return false;
        c->kvm_system_time = v;
        sys_kvmclock_update(c);
        return true;
    case MSR_KVM_PV_EOI: /* not offered in CPUID: kept for saved states, without effect */
        if (v & ~PV_EOI_ENABLE & 3)
            return false;
        c->kvm_pv_eoi = v;
        return true;
    default: return false;
    }
}

/* ---- hypercalls ---- */

/* A processor that is not there is no error: KVM's answer is 0 whatever the number. */
static void kick_cpu(struct tcpu *c, uint64_t apic_id)
{
    struct tcpu *to = apic_id < tvm_vcpu_count(c->vm) ? tvm_vcpu(c->vm, (unsigned)apic_id) : NULL;

    if (!to)
        return;
    /* Sticks until its HLT, so that a kick between the waiter's last look and its HLT is not lost. */
    atomic_store(&to->pv_unhalted, 1);
    cpu_request(to, XR_INTR);
}

/* hypercalls.rst, KVM_HC_SEND_IPI: two words of a bit map that starts at APIC id `min`. */
static int64_t send_ipi(struct tcpu *c, const uint64_t *map, uint64_t min, uint64_t icr, unsigned word_bits)
{
    unsigned count = tvm_vcpu_count(c->vm);
    int64_t sent = 0;

    if (icr & 0xc0800ull) /* shorthand or logical: not defined here */
        return -HC_EINVAL;
    icr = (icr & 0xffffffffu) | 1u << 14; /* level: assert */
    for (unsigned w = 0; w < 2; w++) {
        for (uint64_t left = map[w]; left; left &= left - 1) {
            uint64_t id = min + w * word_bits + (unsigned)__builtin_ctzll(left);

            if (id >= count)
                continue;
            lapic_route_icr(c->vm, (int)c->index, icr | id << 32, true);
            sent++;
        }
    }
    return sent;
}

/* Number in RAX, arguments in RBX, RCX, RDX, RSI, answer in RAX. RIP is the caller's to move. */
enum step sys_hypercall(struct tcpu *c)
{
    uint64_t mask = cpu_code64(c) ? ~0ull : 0xffffffffull;
    uint64_t a[4] = { c->gpr[R_BX] & mask, c->gpr[R_CX] & mask, c->gpr[R_DX] & mask, c->gpr[R_SI] & mask };
    int64_t ret = -HC_ENOSYS;

    if (c->cpl) {
        c->gpr[R_AX] = (uint64_t)-HC_EPERM & mask;
        return STEP_NEXT;
    }
    switch (c->gpr[R_AX] & mask) {
    case HC_VAPIC_POLL_IRQ: ret = 0; break; /* that is done all the time */
    case HC_KICK_CPU:
        kick_cpu(c, a[1]);
        ret = 0;
        break;
    case HC_SEND_IPI: ret = send_ipi(c, a, a[2], a[3], cpu_code64(c) ? 64 : 32); break;
    case HC_SCHED_YIELD:
        light_yield();
        ret = 0;
        break;
    default: break;
    }
    c->gpr[R_AX] = (uint64_t)ret & mask;
    return STEP_NEXT;
}
