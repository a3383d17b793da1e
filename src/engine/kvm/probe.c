/* Whether this KVM is worth having: a guest of some hundred instructions, run once.
 *
 * Some clouds give their machines a /dev/kvm that interprets guest code in the kernel, at about a millionth
 * of a second per instruction and without whole groups of instructions. It answers every ioctl as the real
 * one does; only running something tells. The guest, in long mode, (1) times a loop by its own TSC, three
 * times, the best counts, so that the cost of exits and of being scheduled away does not; (2) adds with SSE;
 * (3) does CMPXCHG16B; telling by a port write after each how far it came. A kernel that cannot do one of
 * them ends KVM_RUN with an error. One that does not come back at all is stopped by a timer, whose signal
 * KVM_RUN alone lets in (see vcpu.c).
 *
 * Hardware does an instruction of the loop in well under a nanosecond, hardware emulated by another monitor's
 * translator (nested tests) in about 3, an interpreter in about 1,000. The limit is between. */
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "engine/kvm/kvm_priv.h"
#include "x86/regs.h"

#define RAM_SIZE 0x5000u
#define CODE_AT 0x0000u
#define DATA_AT 0x1000u /* 16 bytes for CMPXCHG16B, 16 for SSE */
#define PML4_AT 0x2000u
#define PDPT_AT 0x3000u
#define PD_AT 0x4000u

#define STEP_PORT 0xf4
enum step { STEP_LOOP, STEP_SSE, STEP_CX16, STEP_COUNT };

#define LOOP_TURNS 100u
#define LOOP_INSTRUCTIONS (2 * LOOP_TURNS) /* dec, jnz */
#define SLOW_NS 100u                       /* per instruction */
/* For a guest that does not come back: of CPU time, and of the wall's for one that sleeps. Hardware needs a
 * fraction of a millisecond, an interpreter about one; emulated hardware on a busy host needed more than 20.
 */
#define CPU_LIMIT_NS 100000000
#define WALL_LIMIT_S 2

/* The best of three times, in TSC ticks, is in r8d when STEP_LOOP is told. */
static const uint8_t guest_code[] = {
    0x41, 0xb8, 0xff, 0xff, 0xff, 0x7f, /* mov r8d, 0x7fffffff */
    0x41, 0xb9, 0x03, 0x00, 0x00, 0x00, /* mov r9d, 3 */
    /* again: */
    0x0f, 0x31,                         /* rdtsc */
    0x89, 0xc3,                         /* mov ebx, eax */
    0xb9, LOOP_TURNS, 0x00, 0x00, 0x00, /* mov ecx, LOOP_TURNS */
    0xff, 0xc9,                         /* dec ecx */
    0x75, 0xfc,                         /* jnz -4 */
    0x0f, 0x31,                         /* rdtsc */
    0x29, 0xd8,                         /* sub eax, ebx */
    0x44, 0x39, 0xc0,                   /* cmp eax, r8d */
    0x73, 0x03,                         /* jae +3 */
    0x41, 0x89, 0xc0,                   /* mov r8d, eax */
    0x41, 0xff, 0xc9,                   /* dec r9d */
    0x75, 0xe2,                         /* jnz again */
    0x44, 0x89, 0xc0,                   /* mov eax, r8d */
    0xe7, STEP_PORT,                    /* out STEP_PORT, eax */
    /* SSE: the four words of data[1] are added to themselves */
    0x0f, 0x10, 0x04, 0x25, 0x10, 0x10, 0, 0, /* movups xmm0, [0x1010] */
    0x66, 0x0f, 0xfe, 0xc0,                   /* paddd xmm0, xmm0 */
    0x0f, 0x11, 0x04, 0x25, 0x10, 0x10, 0, 0, /* movups [0x1010], xmm0 */
    0x8b, 0x04, 0x25, 0x10, 0x10, 0, 0,       /* mov eax, [0x1010] */
    0xe7, STEP_PORT,                          /* out STEP_PORT, eax */
    /* CMPXCHG16B: data[0] is zero and becomes rcx:rbx */
    0x31, 0xc0,                                     /* xor eax, eax */
    0x31, 0xd2,                                     /* xor edx, edx */
    0xbb, 0x2a, 0, 0, 0,                            /* mov ebx, 42 */
    0x31, 0xc9,                                     /* xor ecx, ecx */
    0x48, 0x0f, 0xc7, 0x0c, 0x25, 0x00, 0x10, 0, 0, /* cmpxchg16b [0x1000] */
    0x8b, 0x04, 0x25, 0x00, 0x10, 0, 0,             /* mov eax, [0x1000] */
    0xe7, STEP_PORT,                                /* out STEP_PORT, eax */
    0xf4,                                           /* hlt: not reached */
};

struct probe {
    int vm, cpu;
    struct kvm_run *run;
    size_t run_size;
    uint8_t *ram;
    uint64_t tsc_khz;
    uint32_t told[STEP_COUNT];
    unsigned steps;
};

static void put32(uint8_t *p, uint32_t v)
{
    memcpy(p, &v, sizeof(v));
}

static void memory_fill(uint8_t *ram)
{
    memcpy(ram + CODE_AT, guest_code, sizeof(guest_code));
    put32(ram + DATA_AT + 16, 21);
    put32(ram + PML4_AT, PDPT_AT | 3);
    put32(ram + PDPT_AT, PD_AT | 3);
    put32(ram + PD_AT, 0x83); /* one page of 2 MiB at 0 */
}

static bool cpu_set(struct probe *p)
{
    struct kvm_sregs s;
    struct kvm_regs r = { .rip = CODE_AT, .rflags = FL_1 };
    struct kvm_segment code = {
        .limit = 0xffffffff, .selector = 8, .type = 11, .present = 1, .s = 1, .l = 1, .g = 1
    };
    struct kvm_segment data = {
        .limit = 0xffffffff, .selector = 16, .type = 3, .present = 1, .s = 1, .db = 1, .g = 1
    };

    if (ioctl(p->cpu, KVM_GET_SREGS, &s) < 0)
        return false;
    s.cs = code;
    s.ds = s.es = s.fs = s.gs = s.ss = data;
    s.cr0 = CR0_PE | CR0_ET | CR0_NE | CR0_MP | CR0_PG;
    s.cr3 = PML4_AT;
    s.cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT;
    s.efer = EFER_LME | EFER_LMA;
    return ioctl(p->cpu, KVM_SET_SREGS, &s) == 0 && ioctl(p->cpu, KVM_SET_REGS, &r) == 0;
}

static bool probe_make(struct probe *p, int device_fd)
{
    struct kvm_userspace_memory_region region = { .memory_size = RAM_SIZE };
    uint64_t identity = KVM_IDENTITY_MAP_ADDR;
    void *at;
    int n;

    n = ioctl(device_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
    p->vm = kvm_vm_create(device_fd);
    if (n < (int)sizeof(struct kvm_run) || p->vm < 0)
        return false;
    p->run_size = (size_t)n;
    at = mmap(NULL, RAM_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED)
        return false;
    p->ram = at;
    memory_fill(p->ram);
    region.userspace_addr = (uint64_t)(uintptr_t)p->ram;
    if (ioctl(p->vm, KVM_SET_IDENTITY_MAP_ADDR, &identity) < 0 ||
        ioctl(p->vm, KVM_SET_TSS_ADDR, KVM_TSS_ADDR) < 0 ||
        ioctl(p->vm, KVM_SET_USER_MEMORY_REGION, &region) < 0)
        return false;
    p->cpu = ioctl(p->vm, KVM_CREATE_VCPU, 0ul);
    if (p->cpu < 0)
        return false;
    at = mmap(NULL, p->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, p->cpu, 0);
    if (at == MAP_FAILED)
        return false;
    p->run = at;
    n = ioctl(p->cpu, KVM_GET_TSC_KHZ, 0ul);
    p->tsc_khz = n > 0 ? (uint64_t)n : 0;
    return cpu_set(p);
}

static void probe_unmake(struct probe *p)
{
    if (p->run)
        munmap(p->run, p->run_size);
    if (p->cpu >= 0)
        close(p->cpu);
    if (p->vm >= 0)
        close(p->vm);
    if (p->ram)
        munmap(p->ram, RAM_SIZE);
}

/* ---- running ---- */

static bool say(const struct probe *p, int e, struct yado_error *why)
{
    static const char *const lacks[STEP_COUNT] = { "plain code", "SSE arithmetic", "CMPXCHG16B" };
    const char *what = lacks[p->steps < STEP_COUNT ? p->steps : STEP_COUNT - 1];
    const char *hint = "--engine translator is faster"; /* and whole */

    if (e == EINTR)
        return err_set(why, YADO_ERR_UNSUPPORTED,
                       "%s: a test of %s does not come back, so it interprets guest code; %s", KVM_DEVICE,
                       what, hint);
    if (e)
        return err_set_errno(why, YADO_ERR_UNSUPPORTED, e, "%s: a test of %s fails", KVM_DEVICE, what);
    if (p->run->exit_reason == KVM_EXIT_INTERNAL_ERROR)
        return err_set(why, YADO_ERR_UNSUPPORTED, "%s: cannot run %s, so it interprets guest code; %s",
                       KVM_DEVICE, what, hint);
    return err_set(why, YADO_ERR_UNSUPPORTED, "%s: a test of %s ends with exit %u", KVM_DEVICE, what,
                   p->run->exit_reason);
}

static bool guest_run(struct probe *p, struct yado_error *why)
{
    while (p->steps < STEP_COUNT) {
        if (ioctl(p->cpu, KVM_RUN, 0) < 0)
            return say(p, errno, why);
        if (p->run->exit_reason != KVM_EXIT_IO || p->run->io.port != STEP_PORT)
            return say(p, 0, why);
        memcpy(&p->told[p->steps++], (uint8_t *)p->run + p->run->io.data_offset, 4);
    }
    return true;
}

/* The kick's signal to this thread after the limits; false if there can be no such timers. */
static bool limits_set(timer_t timers[2])
{
    static const clockid_t clocks[2] = { CLOCK_THREAD_CPUTIME_ID, CLOCK_MONOTONIC };
    static const struct itimerspec limits[2] = { { .it_value.tv_nsec = CPU_LIMIT_NS },
                                                 { .it_value.tv_sec = WALL_LIMIT_S } };
    struct sigevent ev = { .sigev_notify = SIGEV_THREAD_ID, .sigev_signo = kvm_kick_signal() };

    ev._sigev_un._tid = (int)syscall(SYS_gettid);
    for (unsigned i = 0; i < 2; i++) {
        if (timer_create(clocks[i], &ev, &timers[i]) < 0) {
            if (i)
                timer_delete(timers[0]);
            return false;
        }
        timer_settime(timers[i], 0, &limits[i], NULL);
    }
    return true;
}

/* KVM_RUN with time limits. */
static bool guest_run_limited(struct probe *p, struct yado_error *why)
{
    const struct timespec now = { 0, 0 };
    sigset_t kick, old, all;
    timer_t timers[2];
    bool ok;

    sigemptyset(&kick);
    sigaddset(&kick, kvm_kick_signal());
    pthread_sigmask(SIG_BLOCK, &kick, &old);
    sigfillset(&all);
    if (!kvm_signal_mask_set(p->cpu, &all) || !limits_set(timers)) {
        ok = err_set_errno(why, YADO_ERR_HOST, errno, "kvm: the probe cannot be given a time limit");
    } else {
        ok = guest_run(p, why);
        timer_delete(timers[0]);
        timer_delete(timers[1]);
        while (sigtimedwait(&kick, NULL, &now) > 0)
            continue;
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return ok;
}

static bool judge(const struct probe *p, struct yado_error *why)
{
    uint64_t ns = p->tsc_khz ? p->told[STEP_LOOP] * 1000000ull / p->tsc_khz : 0;

    if (ns > SLOW_NS * LOOP_INSTRUCTIONS)
        return err_set(why, YADO_ERR_UNSUPPORTED,
                       "%s: it interprets guest code, as some clouds' does, at %" PRIu64
                       " ns per instruction of a plain loop; --engine translator is faster",
                       KVM_DEVICE, ns / LOOP_INSTRUCTIONS);
    if (p->told[STEP_SSE] != 42 || p->told[STEP_CX16] != 42)
        return err_set(why, YADO_ERR_UNSUPPORTED, "%s: computes wrongly: %s", KVM_DEVICE,
                       p->told[STEP_SSE] != 42 ? "SSE" : "CMPXCHG16B");
    return true;
}

bool kvm_probe(int device_fd, struct yado_error *why)
{
    struct probe p = { .vm = -1, .cpu = -1 };
    bool ok;

    if (!probe_make(&p, device_fd))
        ok = err_set_errno(why, YADO_ERR_UNSUPPORTED, errno, "%s: a small virtual machine cannot be made",
                           KVM_DEVICE);
    else
        ok = guest_run_limited(&p, why);
    /* Slowness is said even of one that fails later on: it is the better reason. */
    if (p.steps > STEP_LOOP && !ok) {
        struct yado_error slow = YADO_ERROR_INIT;

        p.told[STEP_SSE] = p.told[STEP_CX16] = 42;
        if (!judge(&p, &slow) && why)
            *why = slow;
    } else if (ok) {
        ok = judge(&p, why);
    }
    probe_unmake(&p);
    return ok;
}
