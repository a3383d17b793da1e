/* Register scripts for the local APIC with a fake clock and a fake machine. Sections are of Intel SDM volume
 * 3 (2023-12), chapter 11. */
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/translator/lapic_priv.h"

#define CPUS 4
#define XAPIC_MODE LAPIC_BASE_EN
#define X2APIC_MODE (LAPIC_BASE_EN | LAPIC_BASE_EXTD)

/* One fake machine; cpu_request and the env calls leave their traces here. */
struct bench {
    struct tcpu *cpu[CPUS];
    struct lapic *l;   /* cpu[0]'s */
    uint64_t now, tsc; /* fake clocks */
    uint64_t armed;    /* last arm(), ~0: disarmed */
    unsigned arms, wakes;
    int eoi;      /* last level EOI, -1 */
    uint64_t icr; /* last ipi() */
    unsigned ipis;
    uint32_t requests[CPUS];
};

/* struct tvm is opaque here: the bench stands in for it. */
struct tcpu *tvm_vcpu(struct tvm *vm, unsigned index)
{
    struct bench *b = (struct bench *)(void *)vm;

    return index < CPUS ? b->cpu[index] : NULL;
}
unsigned tvm_vcpu_count(const struct tvm *vm)
{
    (void)vm;
    return CPUS;
}
void cpu_request(struct tcpu *c, uint32_t xr)
{
    struct bench *b = (struct bench *)(void *)c->vm;

    b->requests[c->index] |= xr;
}

static uint64_t env_now(void *ctx)
{
    return ((struct bench *)ctx)->now;
}
static uint64_t env_tsc(void *ctx)
{
    return ((struct bench *)ctx)->tsc;
}
static void env_arm(void *ctx, uint64_t delta)
{
    ((struct bench *)ctx)->armed = delta;
    ((struct bench *)ctx)->arms++;
}
static void env_wake(void *ctx, uint32_t xr)
{
    assert_int_equal(xr, XR_INTR);
    __atomic_fetch_add(&((struct bench *)ctx)->wakes, 1, __ATOMIC_SEQ_CST);
}
static void env_eoi(void *ctx, unsigned vector)
{
    ((struct bench *)ctx)->eoi = (int)vector;
}
static void env_ipi(void *ctx, uint64_t icr)
{
    ((struct bench *)ctx)->icr = icr;
    ((struct bench *)ctx)->ipis++;
}

static struct tvm *bench_vm(struct bench *b)
{
    return (struct tvm *)(void *)b;
}

static int setup(void **state)
{
    struct bench *b = calloc(1, sizeof(*b));
    struct lapic_env env = { b, env_now, env_tsc, env_arm, env_wake, env_eoi, env_ipi, 2000000 };

    if (!b)
        return -1;
    b->now = 1000000;
    b->tsc = 5000000;
    b->eoi = -1;
    b->armed = ~0ull;
    for (unsigned i = 0; i < CPUS; i++) {
        b->cpu[i] = aligned_alloc(4096, align_up(sizeof(struct tcpu), 4096));
        memset(b->cpu[i], 0, sizeof(struct tcpu));
        b->cpu[i]->index = i;
        b->cpu[i]->vm = bench_vm(b);
        b->cpu[i]->lapic = lapic_new(i, &env);
    }
    b->l = b->cpu[0]->lapic;
    *state = b;
    return 0;
}

static int teardown(void **state)
{
    struct bench *b = *state;

    for (unsigned i = 0; i < CPUS; i++) {
        lapic_free(b->cpu[i]->lapic);
        free(b->cpu[i]);
    }
    free(b);
    return 0;
}

static void set_mode(struct lapic *l, uint64_t mode)
{
    assert_true(lapic_set_base(l, 0xfee00000 | mode));
}

static void enable_all(struct bench *b, bool x2)
{
    for (unsigned i = 0; i < CPUS; i++) {
        struct lapic *l = b->cpu[i]->lapic;

        if (x2) {
            set_mode(l, X2APIC_MODE);
            assert_true(lapic_msr_write(l, 0x80f, 0x1ff));
        } else {
            lapic_mmio_write(l, 0xf0, 0x1ff);
        }
    }
}

static uint64_t msr(struct lapic *l, uint32_t n)
{
    uint64_t v = 0;

    assert_true(lapic_msr_read(l, n, &v));
    return v;
}

/* 11.4.7.1: state after power-up */
static void test_reset(void **state)
{
    struct bench *b = *state;
    struct lapic *l = b->l;

    assert_int_equal(lapic_base(l), 0xfee00900);
    assert_int_equal(lapic_base(b->cpu[1]->lapic), 0xfee00800); /* only the first is the boot processor */
    assert_int_equal(lapic_mmio_read(l, 0x20), 0);
    assert_int_equal(lapic_mmio_read(b->cpu[3]->lapic, 0x20), 3u << 24);
    assert_int_equal(lapic_mmio_read(l, 0x30), 0x50014);
    assert_int_equal(lapic_mmio_read(l, 0xe0), 0xffffffff);
    assert_int_equal(lapic_mmio_read(l, 0xf0), 0xff);
    for (unsigned off = 0x320; off <= 0x370; off += 0x10)
        assert_int_equal(lapic_mmio_read(l, off), 0x10000);
    assert_int_equal(lapic_pending(l), -1);
    assert_int_equal(lapic_next_timer_ns(l), ~0ull);
    /* 11.4.7.2: disabled by software, fixed interrupts are not accepted */
    lapic_post(l, 0x40, false);
    assert_int_equal(lapic_pending(l), -1);
    assert_int_equal(lapic_mmio_read(l, 0x220), 0);
}

/* 11.8.3.1, 11.8.4, 11.8.5: IRR to ISR to nothing, by priority class */
static void test_priorities(void **state)
{
    struct bench *b = *state;
    struct lapic *l = b->l;

    enable_all(b, false);
    lapic_post(l, 0x31, false);
    lapic_post(l, 0x35, false);
    lapic_post(l, 0x52, false);
    assert_int_equal(lapic_pending(l), 0x52);
    assert_int_equal(lapic_mmio_read(l, 0x220), 1u << 0x12); /* IRR of 0x40-0x5f */
    assert_int_equal(lapic_ack(l), 0x52);
    assert_int_equal(lapic_mmio_read(l, 0xa0), 0x50); /* PPR */
    assert_int_equal(lapic_mmio_read(l, 0x120), 1u << 0x12);
    assert_int_equal(lapic_ack(l), -1);
    lapic_post(l, 0x5f, false); /* same class does not nest */
    assert_int_equal(lapic_pending(l), -1);
    lapic_post(l, 0x61, false);
    assert_int_equal(lapic_ack(l), 0x61);
    lapic_mmio_write(l, 0xb0, 0); /* EOI of 0x61 */
    assert_int_equal(lapic_pending(l), -1);
    b->wakes = 0;
    lapic_mmio_write(l, 0xb0, 0); /* EOI of 0x52 uncovers 0x5f */
    assert_int_equal(b->wakes, 1);
    assert_int_equal(lapic_ack(l), 0x5f);
    lapic_mmio_write(l, 0xb0, 0);
    assert_int_equal(lapic_ack(l), 0x35);
    lapic_mmio_write(l, 0xb0, 0);
    assert_int_equal(lapic_ack(l), 0x31);
    lapic_mmio_write(l, 0xb0, 0);
    assert_int_equal(lapic_mmio_read(l, 0xa0), 0);
    assert_int_equal(b->eoi, -1);
    b->wakes = 0;
    lapic_mmio_write(l, 0xb0, 0); /* spurious EOI: nothing */
    assert_int_equal(b->wakes, 0);
}

/* 11.8.3.1 and 11.8.6: TPR, and CR8 as its upper half */
static void test_tpr(void **state)
{
    struct bench *b = *state;
    struct lapic *l = b->l;

    enable_all(b, false);
    lapic_mmio_write(l, 0x80, 0x5a);
    assert_int_equal(lapic_cr8(l), 5);
    assert_int_equal(lapic_mmio_read(l, 0xa0), 0x5a);
    lapic_post(l, 0x5f, false);
    assert_int_equal(lapic_pending(l), -1);
    b->wakes = 0;
    lapic_set_cr8(l, 4);
    assert_int_equal(b->wakes, 1);
    assert_int_equal(lapic_mmio_read(l, 0x80), 0x40);
    assert_int_equal(lapic_ack(l), 0x5f);
    lapic_set_cr8(l, 15);
    lapic_post(l, 0xfe, false);
    assert_int_equal(lapic_pending(l), -1);
}

/* 11.8.5: level-triggered vectors are broadcast at EOI; the trigger mode register follows each acceptance
 * (11.8.4) */
static void test_level_eoi(void **state)
{
    struct bench *b = *state;
    struct lapic *l = b->l;

    enable_all(b, false);
    lapic_post(l, 0x44, true);
    assert_int_equal(lapic_ack(l), 0x44);
    assert_int_equal(lapic_mmio_read(l, 0x1a0), 1u << 4);
    lapic_post(l, 0x44, true); /* asserted again while in service */
    lapic_mmio_write(l, 0xb0, 0);
    assert_int_equal(b->eoi, 0x44);
    b->eoi = -1;
    assert_int_equal(lapic_ack(l), 0x44);
    lapic_mmio_write(l, 0xb0, 0);
    assert_int_equal(b->eoi, 0x44);
    b->eoi = -1;
    lapic_post(l, 0x44, false);
    assert_int_equal(lapic_ack(l), 0x44);
    assert_int_equal(lapic_mmio_read(l, 0x1a0), 0);
    lapic_mmio_write(l, 0xb0, 0);
    assert_int_equal(b->eoi, -1);
}

/* 11.4.7.2: what software disable does to LVT entries and to what is pending */
static void test_software_disable(void **state)
{
    struct bench *b = *state;
    struct lapic *l = b->l;

    lapic_mmio_write(l, 0x320, 0x20); /* cannot be unmasked while disabled */
    assert_int_equal(lapic_mmio_read(l, 0x320), 0x10020);
    enable_all(b, false);
    lapic_mmio_write(l, 0x320, 0x20);
    lapic_mmio_write(l, 0x350, 0xffffffff);
    assert_int_equal(lapic_mmio_read(l, 0x320), 0x20);
    assert_int_equal(lapic_mmio_read(l, 0x350), 0x1a7ff); /* status and remote IRR are read only */
    lapic_post(l, 0x77, false);
    assert_int_equal(lapic_pending(l), 0x77);
    lapic_mmio_write(l, 0xf0, 0xff);
    assert_int_equal(lapic_mmio_read(l, 0x320), 0x10020);
    assert_int_equal(lapic_pending(l), 0x77); /* held */
    lapic_post(l, 0x88, false);
    assert_int_equal(lapic_pending(l), 0x77);
}

/* 11.4.3, 11.4.4, 11.12.5: legal and illegal mode changes */
static void test_mode_changes(void **state)
{
    struct bench *b = *state;
    struct lapic *l = b->cpu[3]->lapic;
    uint64_t v;

    assert_false(lapic_msr_read(l, 0x802, &v)); /* x2APIC registers only in x2APIC mode */
    assert_false(lapic_set_base(l, 0xfee00000 | LAPIC_BASE_EXTD));
    assert_false(lapic_set_base(l, 0xfee00001 | XAPIC_MODE)); /* reserved bit */
    assert_false(lapic_set_base(l, 1ull << 60 | XAPIC_MODE));
    lapic_mmio_write(l, 0xd0, 0x08000000);
    lapic_mmio_write(l, 0xf0, 0x1aa);
    set_mode(l, X2APIC_MODE);
    assert_int_equal(msr(l, 0x802), 3);
    assert_int_equal(msr(l, 0x80d), 1u << 3); /* 11.12.10.2 */
    assert_int_equal(msr(l, 0x80f), 0x1aa);   /* 11.12.5.1: kept */
    assert_int_equal(lapic_mmio_read(l, 0x20), 0xffffffff);
    assert_false(lapic_set_base(l, 0xfee00000 | XAPIC_MODE));
    set_mode(l, 0);
    assert_false(lapic_set_base(l, 0xfee00000 | X2APIC_MODE));
    assert_int_equal(lapic_mmio_read(l, 0x20), 0xffffffff);
    set_mode(l, XAPIC_MODE);
    assert_int_equal(lapic_mmio_read(l, 0xf0), 0xff); /* as after power-on */
    assert_int_equal(lapic_mmio_read(l, 0x20), 3u << 24);
    assert_int_equal(lapic_mmio_read(l, 0xd0), 0);
}

/* 11.12.10.2: the logical id of x2APIC is cluster and bit of the id */
static void test_x2_ldr(void **state)
{
    struct bench *b = *state;
    struct lapic_env env = b->l->env;
    struct lapic *l = lapic_new(0x1234, &env);

    set_mode(l, X2APIC_MODE);
    assert_int_equal(msr(l, 0x802), 0x1234);
    assert_int_equal(msr(l, 0x80d), 0x123u << 16 | 1u << 4);
    lapic_free(l);
}

/* 11.12.1.3, table 11-6: which MSRs can be read and written, and reserved bits */
static void test_x2_msr_rules(void **state)
{
    static const uint16_t write_bad[] = { 0x802, 0x803, 0x80a, 0x80d, 0x80e, 0x810,
                                          0x818, 0x820, 0x82f, 0x831, 0x839, 0x800 };
    static const uint16_t read_bad[] = { 0x800, 0x809, 0x80b, 0x80c, 0x80e, 0x82f, 0x831, 0x83f, 0x83a };
    static const struct {
        uint16_t msr;
        uint64_t v;
    } reserved[] = {
        { 0x808, 0x100 },    { 0x80b, 1 },        { 0x828, 1 },          { 0x80f, 0x1000 },
        { 0x832, 1u << 11 }, { 0x837, 1u << 8 },  { 0x838, 1ull << 32 }, { 0x83e, 4 },
        { 0x83f, 0x100 },    { 0x830, 1u << 13 }, { 0x830, 1u << 20 },
    };
    struct bench *b = *state;
    struct lapic *l = b->l;
    uint64_t v;

    enable_all(b, true);
    for (unsigned i = 0; i < array_size(write_bad); i++)
        assert_false(lapic_msr_write(l, write_bad[i], 0));
    for (unsigned i = 0; i < array_size(read_bad); i++)
        assert_false(lapic_msr_read(l, read_bad[i], &v));
    for (unsigned i = 0; i < array_size(reserved); i++)
        assert_false(lapic_msr_write(l, reserved[i].msr, reserved[i].v));
    assert_true(lapic_msr_write(l, 0x80b, 0));
    assert_true(lapic_msr_write(l, 0x828, 0));
    assert_true(lapic_msr_write(l, 0x832, 0x400ec));
    assert_int_equal(msr(l, 0x832), 0x400ec);
}

/* 11.5.3: writing ESR shows and clears what was collected; errors give the error LVT's vector */
static void test_errors(void **state)
{
    struct bench *b = *state;
    struct lapic *l = b->l;

    enable_all(b, false);
    lapic_mmio_write(l, 0x370, 0xe1);
    lapic_mmio_read(l, 0x3a0); /* no such register */
    assert_int_equal(lapic_ack(l), 0xe1);
    lapic_mmio_write(l, 0xb0, 0);
    assert_int_equal(lapic_mmio_read(l, 0x280), 0);
    lapic_mmio_write(l, 0x280, 0);
    assert_int_equal(lapic_mmio_read(l, 0x280), 0x80);
    lapic_post(l, 9, false); /* received a vector below 16 */
    assert_int_equal(lapic_ack(l), 0xe1);
    lapic_mmio_write(l, 0xb0, 0);
    lapic_mmio_write(l, 0x300, 5); /* sent one */
    assert_int_equal(b->ipis, 0);
    lapic_mmio_write(l, 0x280, 0);
    assert_int_equal(lapic_mmio_read(l, 0x280), 0x60);
    lapic_mmio_write(l, 0x280, 0);
    assert_int_equal(lapic_mmio_read(l, 0x280), 0);
}

/* 11.5.4: one shot, current count, divider table */
static void test_timer_one_shot(void **state)
{
    static const struct {
        uint8_t dcr;
        unsigned div;
    } dividers[] = { { 0, 2 }, { 1, 4 }, { 2, 8 }, { 3, 16 }, { 8, 32 }, { 9, 64 }, { 10, 128 }, { 11, 1 } };
    struct bench *b = *state;
    struct lapic *l = b->l;

    enable_all(b, false);
    lapic_mmio_write(l, 0x320, 0xec);
    for (unsigned i = 0; i < array_size(dividers); i++) {
        unsigned div = dividers[i].div;

        lapic_mmio_write(l, 0x3e0, dividers[i].dcr);
        lapic_mmio_write(l, 0x380, 1000);
        assert_int_equal(b->armed, 1000 * div);
        assert_int_equal(lapic_mmio_read(l, 0x390), 1000);
        b->now += 400 * div;
        assert_int_equal(lapic_mmio_read(l, 0x390), 600);
        lapic_timer_expired(l); /* too early: armed anew for the rest */
        assert_int_equal(b->armed, 600 * div);
        assert_int_equal(lapic_pending(l), -1);
        b->now += 600 * div;
        assert_int_equal(lapic_mmio_read(l, 0x390), 0);
        lapic_timer_expired(l);
        assert_int_equal(lapic_ack(l), 0xec);
        lapic_mmio_write(l, 0xb0, 0);
        b->now += 5000 * div;
        lapic_timer_expired(l);
        assert_int_equal(lapic_pending(l), -1); /* once only */
        assert_int_equal(lapic_next_timer_ns(l), ~0ull);
    }
    lapic_mmio_write(l, 0x380, 1000);
    lapic_mmio_write(l, 0x380, 0); /* stops it */
    assert_int_equal(b->armed, ~0ull);
    b->now += 10000;
    lapic_timer_expired(l);
    assert_int_equal(lapic_pending(l), -1);
}

/* 11.5.4: periodic reload; lost periods give one interrupt and no drift */
static void test_timer_periodic(void **state)
{
    struct bench *b = *state;
    struct lapic *l = b->l;
    uint64_t start = b->now;

    enable_all(b, false);
    lapic_mmio_write(l, 0x3e0, 11);
    lapic_mmio_write(l, 0x320, 0x20000 | 0xec);
    lapic_mmio_write(l, 0x380, 1000000);
    for (unsigned i = 1; i <= 3; i++) {
        b->now = start + i * 1000000ull + 70; /* a little late each time */
        lapic_timer_expired(l);
        assert_int_equal(b->armed, 1000000 - 70);
        assert_int_equal(lapic_ack(l), 0xec);
        lapic_mmio_write(l, 0xb0, 0);
        assert_int_equal(lapic_pending(l), -1);
    }
    b->now = start + 10 * 1000000ull + 300000;
    assert_int_equal(lapic_mmio_read(l, 0x390), 700000);
    lapic_timer_expired(l);
    assert_int_equal(lapic_ack(l), 0xec);
    lapic_mmio_write(l, 0xb0, 0);
    assert_int_equal(lapic_pending(l), -1);
    assert_int_equal(b->armed, 700000);
    /* A divider change goes on from the count: 700000 ticks at half the speed. */
    lapic_mmio_write(l, 0x3e0, 0);
    assert_int_equal(lapic_mmio_read(l, 0x390), 700000);
    assert_int_equal(b->armed, 1400000);
    /* Masked: keeps counting, needs no host timer, gives nothing. */
    lapic_mmio_write(l, 0x320, 0x30000 | 0xec);
    assert_int_equal(b->armed, ~0ull);
    b->now += 1400000 + 500000;
    assert_int_equal(lapic_mmio_read(l, 0x390), 750000);
    lapic_mmio_write(l, 0x320, 0x20000 | 0xec);
    assert_int_equal(lapic_pending(l), -1);
    assert_int_equal(b->armed, 1500000);
}

/* A guest cannot have the host timer run wild. */
static void test_timer_storm(void **state)
{
    struct bench *b = *state;
    struct lapic *l = b->l;

    enable_all(b, false);
    lapic_mmio_write(l, 0x3e0, 11);
    lapic_mmio_write(l, 0x320, 0x20000 | 0xec);
    lapic_mmio_write(l, 0x380, 1);
    b->now += 1;
    lapic_timer_expired(l);
    assert_int_equal(lapic_ack(l), 0xec);
    assert_true(b->armed >= 50000);
}

/* 11.5.4.1: TSC deadline */
static void test_timer_deadline(void **state)
{
    struct bench *b = *state;
    struct lapic *l = b->l;

    enable_all(b, true);
    lapic_set_tsc_deadline(l, b->tsc + 100); /* not in deadline mode: no effect, reads 0 */
    assert_int_equal(lapic_tsc_deadline(l), 0);
    assert_true(lapic_msr_write(l, 0x832, 0x40000 | 0xec));
    assert_true(lapic_msr_write(l, 0x838, 1000)); /* no effect either */
    assert_int_equal(msr(l, 0x839), 0);
    assert_int_equal(b->armed, ~0ull);
    lapic_set_tsc_deadline(l, b->tsc + 2000000); /* 1 ms at 2 GHz */
    assert_int_equal(lapic_tsc_deadline(l), b->tsc + 2000000);
    assert_in_range(b->armed, 1000000, 1000001);
    b->tsc += 1999999;
    lapic_timer_expired(l);
    assert_int_equal(lapic_pending(l), -1);
    assert_in_range(b->armed, 1, 2);
    b->tsc++;
    lapic_timer_expired(l);
    assert_int_equal(lapic_ack(l), 0xec);
    assert_int_equal(lapic_tsc_deadline(l), 0); /* disarmed by firing */
    assert_true(lapic_msr_write(l, 0x80b, 0));
    /* A deadline in the past is due at once and the owner hears of it. */
    b->wakes = b->arms = 0;
    lapic_set_tsc_deadline(l, 1);
    assert_int_equal(b->wakes, 1);
    assert_int_equal(lapic_ack(l), 0xec);
    assert_true(lapic_msr_write(l, 0x80b, 0));
    /* Zero disarms; so does leaving the mode. */
    lapic_set_tsc_deadline(l, b->tsc + 1000);
    lapic_set_tsc_deadline(l, 0);
    assert_int_equal(b->armed, ~0ull);
    lapic_set_tsc_deadline(l, b->tsc + 1000);
    assert_true(lapic_msr_write(l, 0x832, 0xec));
    assert_int_equal(b->armed, ~0ull);
    b->tsc += 5000;
    lapic_timer_expired(l);
    assert_int_equal(lapic_pending(l), -1);
    /* Far future: no overflow, the host timer is asked again later. */
    assert_true(lapic_msr_write(l, 0x832, 0x40000 | 0xec));
    lapic_set_tsc_deadline(l, ~0ull);
    assert_int_equal(b->armed, 600000000000ull);
    assert_int_equal(lapic_pending(l), -1);
}

static unsigned posted_set(struct bench *b, int vector)
{
    unsigned set = 0;

    for (unsigned i = 0; i < CPUS; i++) {
        if (lapic_pending(b->cpu[i]->lapic) != vector)
            continue;
        set |= 1u << i;
        lapic_ack(b->cpu[i]->lapic);
        if (lapic_is_x2apic(b->cpu[i]->lapic))
            lapic_msr_write(b->cpu[i]->lapic, 0x80b, 0);
        else
            lapic_mmio_write(b->cpu[i]->lapic, 0xb0, 0);
    }
    return set;
}

/* 11.6.2.1, 11.6.2.2: physical, flat and cluster destinations; 11.11: MSI */
static void test_xapic_destinations(void **state)
{
    struct bench *b = *state;
    struct tvm *vm = bench_vm(b);

    enable_all(b, false);
    lapic_route_msi(vm, 0xfee02000, 0x41);
    assert_int_equal(posted_set(b, 0x41), 1u << 2);
    lapic_route_msi(vm, 0xfeeff000, 0x41);
    assert_int_equal(posted_set(b, 0x41), 0xf);
    lapic_route_msi(vm, 0xfee09000, 0x41);
    assert_int_equal(posted_set(b, 0x41), 0);
    lapic_route_msi(vm, 0xfed02000, 0x41); /* not the interrupt range */
    assert_int_equal(posted_set(b, 0x41), 0);
    for (unsigned i = 0; i < CPUS; i++)
        lapic_mmio_write(b->cpu[i]->lapic, 0xd0, 0x01000000u << i);
    lapic_route_msi(vm, 0xfee0a004, 0x42); /* flat: bits 1 and 3 */
    assert_int_equal(posted_set(b, 0x42), 0xa);
    lapic_route_icr(vm, 0, 0x0600000000000800ull | 0x43, false);
    assert_int_equal(posted_set(b, 0x43), 0x6);
    for (unsigned i = 0; i < CPUS; i++) { /* two clusters of two */
        lapic_mmio_write(b->cpu[i]->lapic, 0xe0, 0x0fffffff);
        lapic_mmio_write(b->cpu[i]->lapic, 0xd0, (i / 2) << 28 | 0x01000000u << (i % 2));
    }
    lapic_route_msi(vm, 0xfee13004, 0x44);
    assert_int_equal(posted_set(b, 0x44), 0xc);
    lapic_route_msi(vm, 0xfee02004, 0x44);
    assert_int_equal(posted_set(b, 0x44), 0x2);
    lapic_route_msi(vm, 0xfeef1004, 0x44); /* all clusters */
    assert_int_equal(posted_set(b, 0x44), 0x5);
}

/* 11.12.10: x2APIC destinations, 32 bits */
static void test_x2apic_destinations(void **state)
{
    struct bench *b = *state;
    struct tvm *vm = bench_vm(b);

    enable_all(b, true);
    lapic_route_icr(vm, 0, 3ull << 32 | 0x51, true);
    assert_int_equal(posted_set(b, 0x51), 0x8);
    lapic_route_icr(vm, 0, 0x800ull | 0x6ull << 32 | 0x52, true); /* cluster 0, bits 1 and 2 */
    assert_int_equal(posted_set(b, 0x52), 0x6);
    lapic_route_icr(vm, 0, 0x800ull | 0x10006ull << 32 | 0x52, true);
    assert_int_equal(posted_set(b, 0x52), 0);
    lapic_route_icr(vm, 0, 0xffffffffull << 32 | 0x53, true);
    assert_int_equal(posted_set(b, 0x53), 0xf);
    lapic_route_icr(vm, 0, 0xffull << 32 | 0x53, true); /* no broadcast here, and nobody's id */
    assert_int_equal(posted_set(b, 0x53), 0);
    lapic_route_msi(vm, 0xfee03000, 0x54);
    assert_int_equal(posted_set(b, 0x54), 0x8);
}

/* 11.6.1, table 11-3: shorthands; other delivery modes */
static void test_icr_modes(void **state)
{
    struct bench *b = *state;
    struct tvm *vm = bench_vm(b);

    enable_all(b, false);
    lapic_route_icr(vm, 1, 0x80000 | 0x61, false);
    assert_int_equal(posted_set(b, 0x61), 0xf);
    lapic_route_icr(vm, 1, 0xc0000 | 0x62, false);
    assert_int_equal(posted_set(b, 0x62), 0xd);
    lapic_route_icr(vm, 1, 0x40000 | 0x63, false);
    assert_int_equal(posted_set(b, 0x63), 0x2);
    memset(b->requests, 0, sizeof(b->requests));
    lapic_route_icr(vm, 0, 2ull << 56 | 0x4400, false); /* NMI */
    assert_int_equal(b->requests[2], XR_NMI);
    lapic_route_icr(vm, 0, 0xc4500, false); /* INIT to all others */
    assert_int_equal(b->requests[0], 0);
    assert_int_equal(b->requests[1], XR_INIT);
    lapic_route_icr(vm, 0, 3ull << 56 | 0x4600 | 0x9a, false);
    assert_int_equal(b->requests[3], XR_INIT | XR_SIPI);
    assert_int_equal(b->cpu[3]->sipi_vector, 0x9a);
    memset(b->requests, 0, sizeof(b->requests));
    lapic_route_icr(vm, 0, 0xc8500, false); /* INIT level de-assert */
    lapic_route_icr(vm, 0, 0xc4200, false); /* SMI */
    lapic_route_icr(vm, 0, 0xc4700, false); /* ExtINT */
    for (unsigned i = 0; i < CPUS; i++) {
        assert_int_equal(b->requests[i], 0);
        assert_int_equal(lapic_pending(b->cpu[i]->lapic), -1);
    }
    /* 11.4.7.2: NMI, INIT and SIPI are taken while disabled by software; 11.4.3: not while disabled
     * altogether */
    lapic_mmio_write(b->cpu[1]->lapic, 0xf0, 0xff);
    set_mode(b->cpu[2]->lapic, 0);
    lapic_route_icr(vm, 0, 0x80000 | 0x4400, false);
    assert_int_equal(b->requests[1], XR_NMI);
    assert_int_equal(b->requests[2], 0);
}

/* 11.6.2.4: lowest priority */
static void test_lowest_priority(void **state)
{
    struct bench *b = *state;
    struct tvm *vm = bench_vm(b);
    unsigned seen = 0;

    enable_all(b, false);
    lapic_mmio_write(b->cpu[0]->lapic, 0x80, 0x20);
    lapic_mmio_write(b->cpu[1]->lapic, 0x80, 0x30);
    lapic_mmio_write(b->cpu[2]->lapic, 0x80, 0x10);
    lapic_mmio_write(b->cpu[3]->lapic, 0xf0, 0xff); /* lowest, but disabled */
    lapic_route_msi(vm, 0xfeeff00c, 0x171);
    assert_int_equal(posted_set(b, 0x71), 1u << 2);
    for (unsigned i = 0; i < CPUS; i++) {
        lapic_mmio_write(b->cpu[i]->lapic, 0x80, 0);
        lapic_mmio_write(b->cpu[i]->lapic, 0xf0, 0x1ff);
    }
    for (unsigned v = 0x70; v < 0x78; v++) { /* equals share by vector, one at a time */
        unsigned set;

        lapic_route_icr(vm, 0, 0xffull << 56 | 0x900 | v, false);
        set = posted_set(b, (int)v);
        assert_int_equal(__builtin_popcount(set), 1);
        seen |= set;
    }
    assert_int_equal(seen, 0xf);
}

/* 11.6.1, 11.12.9, 11.12.11: what the guest writes reaches the router, or the APIC itself */
static void test_icr_registers(void **state)
{
    struct bench *b = *state;
    struct lapic *l = b->l;

    enable_all(b, false);
    lapic_mmio_write(l, 0x310, 0x05ffffff);
    lapic_mmio_write(l, 0x300, 0xffffffff & ~0xc0700u); /* reserved bits fall off, busy is read only */
    assert_int_equal(b->ipis, 1);
    assert_int_equal(b->icr, 0x0500000000000000ull | 0xc8ff);
    assert_int_equal(lapic_mmio_read(l, 0x300), 0xc8ff);
    lapic_mmio_write(l, 0x300, 0x40000 | 0x99); /* self */
    assert_int_equal(b->ipis, 1);
    assert_int_equal(lapic_ack(l), 0x99);
    lapic_mmio_write(l, 0xb0, 0);
    set_mode(l, X2APIC_MODE);
    assert_true(lapic_msr_write(l, 0x830, 0x12345678ull << 32 | 0x4099));
    assert_int_equal(b->ipis, 2);
    assert_int_equal(b->icr, 0x12345678ull << 32 | 0x4099);
    assert_int_equal(msr(l, 0x830), 0x12345678ull << 32 | 0x4099);
    assert_true(lapic_msr_write(l, 0x83f, 0x9b));
    assert_int_equal(b->ipis, 2);
    assert_int_equal(lapic_ack(l), 0x9b);
}

/* 11.4.7.3 and 11.12.5.2: INIT keeps id, base and mode */
static void test_init(void **state)
{
    struct bench *b = *state;
    struct lapic *l = b->cpu[2]->lapic;

    enable_all(b, true);
    lapic_msr_write(l, 0x832, 0x40000 | 0xec);
    lapic_set_tsc_deadline(l, b->tsc + 1000);
    lapic_post(l, 0x80, false);
    lapic_reset(l, true);
    assert_int_equal(lapic_base(l), 0xfee00c00);
    assert_int_equal(msr(l, 0x802), 2);
    assert_int_equal(msr(l, 0x80d), 4);
    assert_int_equal(msr(l, 0x80f), 0xff);
    assert_int_equal(lapic_pending(l), -1);
    assert_int_equal(b->armed, ~0ull);
    lapic_reset(l, false);
    assert_int_equal(lapic_base(l), 0xfee00800);
}

static void test_save_load(void **state)
{
    struct bench *b = *state;
    struct lapic *l = b->l, *other = b->cpu[1]->lapic;
    struct x86_lapic_state s, t;

    enable_all(b, true);
    lapic_msr_write(l, 0x83e, 3);
    lapic_msr_write(l, 0x832, 0x20000 | 0xec);
    lapic_msr_write(l, 0x838, 100000);
    lapic_post(l, 0x50, true);
    lapic_ack(l);
    lapic_post(l, 0x40, false);
    lapic_post(l, 0x60, false);
    b->now += 16 * 30000;
    lapic_save(l, &s);
    lapic_load(other, &s);
    lapic_save(other, &t);
    assert_memory_equal(&s, &t, sizeof(s));
    assert_int_equal(msr(other, 0x839), 70000);
    assert_int_equal(b->armed, 16 * 70000);
    assert_int_equal(lapic_ack(other), 0x60);
    lapic_msr_write(other, 0x80b, 0);
    lapic_msr_write(other, 0x80b, 0);
    assert_int_equal(b->eoi, 0x50);
    assert_int_equal(lapic_ack(other), 0x40);
}

/* Posts from other threads: none is lost, level stays level. */
struct poster {
    struct lapic *l;
    unsigned char *seen; /* per vector: posts that wait to be taken */
    unsigned first;
    bool level;
};
#define POSTS 20000u

/* ThreadSanitizer has a lock of its own for each atomic variable; whoever spins on one keeps its writers out.
 */
static void spin_pause(void)
{
#ifdef __SANITIZE_THREAD__
    sched_yield();
#endif
}

static void *poster_run(void *arg)
{
    struct poster *p = arg;

    for (unsigned i = 0; i < POSTS; i++) {
        unsigned v = p->first + i % 8;

        while (__atomic_load_n(&p->seen[v], __ATOMIC_ACQUIRE))
            spin_pause();
        __atomic_store_n(&p->seen[v], 1, __ATOMIC_RELEASE);
        lapic_post(p->l, (uint8_t)v, p->level);
    }
    return NULL;
}

static void test_post_from_threads(void **state)
{
    struct bench *b = *state;
    unsigned char seen[256] = { 0 };
    struct poster posters[2] = { { b->l, seen, 0x30, false }, { b->l, seen, 0x38, true } };
    pthread_t threads[2];
    unsigned taken = 0;

    enable_all(b, false);
    for (unsigned i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, poster_run, &posters[i]), 0);
    while (taken < 2 * POSTS) {
        int v = lapic_ack(b->l);

        if (v < 0) {
            spin_pause();
            continue;
        }
        assert_int_equal(__atomic_load_n(&seen[v], __ATOMIC_ACQUIRE), 1);
        taken++;
        b->eoi = -1;
        __atomic_store_n(&seen[v], 0, __ATOMIC_RELEASE);
        lapic_mmio_write(b->l, 0xb0, 0);
        assert_int_equal(b->eoi, v >= 0x38 ? v : -1);
    }
    for (unsigned i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(lapic_pending(b->l), -1);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_reset),          CASE(test_priorities),         CASE(test_tpr),
        CASE(test_level_eoi),      CASE(test_software_disable),   CASE(test_mode_changes),
        CASE(test_x2_ldr),         CASE(test_x2_msr_rules),       CASE(test_errors),
        CASE(test_timer_one_shot), CASE(test_timer_periodic),     CASE(test_timer_storm),
        CASE(test_timer_deadline), CASE(test_xapic_destinations), CASE(test_x2apic_destinations),
        CASE(test_icr_modes),      CASE(test_lowest_priority),    CASE(test_icr_registers),
        CASE(test_init),           CASE(test_save_load),          CASE(test_post_from_threads),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
