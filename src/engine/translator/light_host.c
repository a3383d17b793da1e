/* Where light code meets the host and heavy code: the brackets that put the guest's vector state away, calls
 * through them, the timer behind the local APIC, and what the local APIC asks of its vCPU. Light: nothing
 * here may touch a vector register before cpu_heavy_begin or after cpu_heavy_end, so all of it is built
 * without them. */
#include "engine/translator/direct.h"
#include "engine/translator/lapic.h"
#include "engine/translator/light_sys.h"
#include "engine/translator/sys.h"
#include "engine/translator/tvm.h"
#include "engine/translator/mmu.h"
#include "engine/translator/ram_large.h"
#include "engine/translator/vcpu.h"
#include "engine/translator/x87_pointers.h"

void fault_timer_arm(struct tcpu *c, uint64_t delta_ns)
{
    struct {
        int64_t interval_sec, interval_nsec, value_sec, value_nsec;
    } its = { 0, 0, 0, 0 };
    if (!c->timer_made)
        return;
    if (delta_ns != ~0ull) {
        uint64_t limit = 1000000000ull * 86400 * 365;
        uint64_t d = delta_ns == 0 ? 1 : delta_ns > limit ? limit : delta_ns;
        its.value_sec = (int64_t)(d / 1000000000u);
        its.value_nsec = (int64_t)(d % 1000000000u);
    }
    light_syscall4(SYS_timer_settime, c->timer, 0, (long)(uintptr_t)&its, 0);
}

uint64_t cpu_now_ns(void)
{
    struct {
        int64_t sec, nsec;
    } ts;
    light_syscall4(SYS_clock_gettime, 1 /* CLOCK_MONOTONIC */, (long)(uintptr_t)&ts, 0, 0);
    return (uint64_t)ts.sec * 1000000000u + (uint64_t)ts.nsec;
}

void tvm_futex_wake_all(_Atomic uint32_t *word)
{
    light_futex_wake(word);
}

/* ---- brackets ---- */

#define MXCSR_DEFAULT 0x1f80u

void cpu_heavy_begin(struct tcpu *c)
{
    if (c->heavy_depth++)
        return;
    uint64_t mask = c->vm->cpuid.xcr0_mask;
    uint32_t mxcsr = MXCSR_DEFAULT;
    /* Of some 2,700 bytes with AVX-512 much is not in use, or as it was at cpu_heavy_end: nobody writes to
     * the area between an XRSTOR from it and this (SDM volume 1, 13.6 and 13.9). Of 832 there is nothing to
     * gain.
     */
    if ((mask & XSTATE_AVX512) && (c->vm->cpuid.host_d1.eax & 1))
        __asm__ volatile("xsaveopt64 %0"
                         : "+m"(c->xsave_area)
                         : "a"((uint32_t)mask), "d"((uint32_t)(mask >> 32))
                         : "memory");
    else
        __asm__ volatile("xsave64 %0"
                         : "+m"(c->xsave_area)
                         : "a"((uint32_t)mask), "d"((uint32_t)(mask >> 32))
                         : "memory");
    if (mask & 4)
        __asm__ volatile("vzeroupper");
    __asm__ volatile("fninit; ldmxcsr %0" : : "m"(mxcsr));
}

void cpu_heavy_end(struct tcpu *c)
{
    BUG_ON(c->heavy_depth == 0);
    if (--c->heavy_depth)
        return;
    uint64_t mask = c->vm->cpuid.xcr0_mask;
    __asm__ volatile("xrstor64 %0"
                     :
                     : "m"(c->xsave_area), "a"((uint32_t)mask), "d"((uint32_t)(mask >> 32))
                     : "memory");
}

/* ---- calls through them ---- */

uint8_t vcpu_acknowledge(struct tcpu *c)
{
    cpu_heavy_begin(c);
    uint8_t vector = heavy_acknowledge(c);
    cpu_heavy_end(c);
    return vector;
}

uint64_t cpu_io_read(struct tcpu *c, bool port, uint64_t addr, unsigned width)
{
    uint64_t value = 0;
    cpu_heavy_begin(c);
    heavy_io(c, port, false, addr, width, &value);
    cpu_heavy_end(c);
    return value;
}

void cpu_io_write(struct tcpu *c, bool port, uint64_t addr, unsigned width, uint64_t value)
{
    cpu_heavy_begin(c);
    heavy_io(c, port, true, addr, width, &value);
    cpu_heavy_end(c);
}

struct tb *vcpu_translate(struct tcpu *c, uint64_t gpage, uint64_t gpage2, uint32_t mode)
{
    struct tb *tb;
    cpu_heavy_begin(c);
    do { /* while this vCPU was out, another may have emptied the segment that the block is in */
        cpu_run_out(c);
        tb = heavy_translate(c, gpage, gpage2, mode);
        cpu_run_in(c);
    } while (c->translate_gen != atomic_load(&c->vm->cache->flush_gen));
    cpu_heavy_end(c);
    return tb;
}

enum direct_end vcpu_direct(struct tcpu *c)
{
    x87_show(c);
    cpu_heavy_begin(c);
    enum direct_end end = heavy_direct(c);
    cpu_heavy_end(c);
    return end;
}

void vcpu_direct_rest(struct tcpu *c)
{
    cpu_heavy_begin(c);
    heavy_direct_rest(c);
    cpu_heavy_end(c);
}

void vcpu_samples(struct tcpu *c)
{
    cpu_heavy_begin(c);
    bool made = heavy_samples(c);
    cpu_heavy_end(c);
    /* The jump caches lead to the old blocks, which go on to the new: no hurry. Pages are made fast many in a
     * row. */
    if (!made && c->jumps_behind)
        mmu_follow_jumps(c);
    c->jumps_behind = made;
}

enum exit_reason vcpu_step_exclusive(struct tcpu *c)
{
    cpu_heavy_begin(c);
    cpu_run_out(c);
    tvm_exclusive_begin(c->vm, c);
    cpu_run_in(c);
    cpu_heavy_end(c);
    enum exit_reason why = vcpu_single_step(c);
    cpu_heavy_begin(c);
    tvm_exclusive_end(c->vm, c);
    cpu_heavy_end(c);
    return why;
}

void cpu_ram_large(struct tcpu *c, struct tvm_slot *s, uint64_t stretch)
{
    cpu_heavy_begin(c);
    ram_large_make(c, s, stretch);
    cpu_heavy_end(c);
}

bool vcpu_vec_mem(struct tcpu *c)
{
    cpu_heavy_begin(c);
    bool ok = heavy_vec_mem(c);
    cpu_heavy_end(c);
    return ok;
}

bool vcpu_native_prepare(struct tcpu *c, unsigned *len)
{
    cpu_heavy_begin(c);
    bool ok = heavy_native(c, len);
    cpu_heavy_end(c);
    return ok;
}

/* ---- what the local APIC asks ---- */

static uint64_t env_now(void *ctx)
{
    (void)ctx;
    return cpu_now_ns();
}
static uint64_t env_tsc(void *ctx)
{
    return sys_tsc(ctx);
}
static void env_arm(void *ctx, uint64_t delta)
{
    fault_timer_arm(ctx, delta);
}
static void env_wake(void *ctx, uint32_t xr)
{
    cpu_request(ctx, xr);
}
static void env_eoi(void *ctx, unsigned vector)
{
    struct tcpu *c = ctx;
    cpu_heavy_begin(c);
    tvm_eoi(c->vm, vector);
    cpu_heavy_end(c);
}
static void env_ipi(void *ctx, uint64_t icr)
{
    struct tcpu *c = ctx;
    lapic_route_icr(c->vm, (int)c->index, icr, (lapic_base(c->lapic) & 0x400) != 0);
}

struct lapic_env vcpu_lapic_env(struct tcpu *c)
{
    return (struct lapic_env){ .ctx = c,
                               .now_ns = env_now,
                               .guest_tsc = env_tsc,
                               .arm = env_arm,
                               .wake = env_wake,
                               .eoi = env_eoi,
                               .ipi = env_ipi,
                               .tsc_khz = c->vm->host_tsc_khz };
}
