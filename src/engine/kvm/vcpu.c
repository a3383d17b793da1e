/* One virtual CPU in the kernel: running it, its exits, and taking it out again. Linux
 * Documentation/virt/kvm/api.rst, KVM_RUN, KVM_SET_SIGNAL_MASK, and section 5 (the kvm_run structure).
 *
 * Theory of operation of kicks. A thread in KVM_RUN is taken out by a signal, one that is about to enter it
 * by the immediate_exit byte that the kernel looks at on entry. A kick does both, byte first. The signal is
 * blocked in the vCPU's thread and let in by the kernel only for the time of KVM_RUN (KVM_SET_SIGNAL_MASK),
 * which ends with EINTR while the signal stays pending; the thread takes it away with sigtimedwait. So no
 * handler is ever installed and the program around the library keeps all of its own.
 *
 * `tid` tells kickers whom to signal. A signal must not arrive when run() has returned, for the thread may
 * have it unblocked then and its default action ends the process: a kicker counts itself in `kickers` before
 * it reads `tid`, and run() clears `tid` before it waits for the count to fall to zero and takes the last
 * signals away. All of that is sequentially consistent; a kick costs a system call, nothing else here is on a
 * hot path.
 *
 * The byte falls when run() returns EXIT_KICKED, and only then: with another exit the kick is still to be
 * answered.
 *
 * A read from a device reaches the guest's register with the next KVM_RUN only, so run() never returns
 * between a device access and that: a kick in between makes the kernel finish the instruction and come
 * straight back. */
#include <errno.h>
#include <inttypes.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "engine/kvm/kvm_priv.h"

#define KERNEL_SIGSET_BYTES 8 /* 64 signals, whatever libc thinks */

int kvm_kick_signal(void)
{
    return SIGRTMAX - 4;
}

static void count(struct engine_vcpu *cpu, enum kvm_counter n)
{
    atomic_fetch_add_explicit(&cpu->counters[n], 1, memory_order_relaxed);
}

/* ---- making ---- */

bool kvm_vcpu_make(struct engine_vm *vm, unsigned index, struct yado_error *err)
{
    struct engine_vcpu *cpu = &vm->cpus[index];
    void *run;

    cpu->vm = vm;
    cpu->index = index;
    cpu->fd = ioctl(vm->fd, KVM_CREATE_VCPU, (unsigned long)index);
    if (cpu->fd < 0)
        return err_set_errno(err, YADO_ERR_HOST, errno, "kvm: cannot make vCPU %u", index);
    run = mmap(NULL, vm->caps.run_size, PROT_READ | PROT_WRITE, MAP_SHARED, cpu->fd, 0);
    if (run == MAP_FAILED)
        return err_set_errno(err, YADO_ERR_HOST, errno, "kvm: cannot map the area of vCPU %u", index);
    cpu->run = run;
    return true;
}

void kvm_vcpu_unmake(struct engine_vcpu *cpu)
{
    if (cpu->run)
        munmap(cpu->run, cpu->vm->caps.run_size);
    if (cpu->fd >= 0)
        close(cpu->fd);
}

/* ---- kicks ---- */

static void set_immediate_exit(struct engine_vcpu *cpu, uint8_t v)
{
    __atomic_store_n(&cpu->run->immediate_exit, v, __ATOMIC_SEQ_CST);
}

static bool is_kicked(struct engine_vcpu *cpu)
{
    return __atomic_load_n(&cpu->run->immediate_exit, __ATOMIC_SEQ_CST) != 0;
}

void kvm_vcpu_kick(struct engine_vcpu *cpu)
{
    int saved = errno, tid;

    atomic_fetch_add(&cpu->kickers, 1);
    set_immediate_exit(cpu, 1);
    tid = atomic_load(&cpu->tid);
    if (tid)
        syscall(SYS_tgkill, getpid(), tid, kvm_kick_signal());
    atomic_fetch_sub(&cpu->kickers, 1);
    errno = saved;
}

static void take_signals(void)
{
    const struct timespec now = { 0, 0 };
    sigset_t kick;

    sigemptyset(&kick);
    sigaddset(&kick, kvm_kick_signal());
    while (sigtimedwait(&kick, NULL, &now) > 0 || errno == EINTR)
        continue;
}

bool kvm_signal_mask_set(int cpu_fd, const sigset_t *outside)
{
    union {
        struct kvm_signal_mask mask;
        uint8_t room[sizeof(struct kvm_signal_mask) + KERNEL_SIGSET_BYTES];
    } arg = { .room = { 0 } };
    sigset_t inside = *outside;

    sigdelset(&inside, kvm_kick_signal());
    arg.mask.len = KERNEL_SIGSET_BYTES;
    memcpy(arg.mask.sigset, &inside, KERNEL_SIGSET_BYTES);
    return ioctl(cpu_fd, KVM_SET_SIGNAL_MASK, &arg) == 0;
}

/* Blocks the kick's signal, except inside KVM_RUN. `old` is the thread's mask. */
static bool thread_enter(struct engine_vcpu *cpu, sigset_t *old, struct yado_error *err)
{
    int tid = (int)syscall(SYS_gettid);
    sigset_t kick;

    sigemptyset(&kick);
    sigaddset(&kick, kvm_kick_signal());
    pthread_sigmask(SIG_BLOCK, &kick, old);
    if (cpu->mask_tid != tid) {
        if (!kvm_signal_mask_set(cpu->fd, old)) {
            err_set_errno(err, YADO_ERR_ENGINE, errno, "kvm: KVM_SET_SIGNAL_MASK");
            pthread_sigmask(SIG_SETMASK, old, NULL);
            return false;
        }
        cpu->mask_tid = tid;
    }
    atomic_store(&cpu->tid, tid);
    return true;
}

static void thread_leave(struct engine_vcpu *cpu, const sigset_t *old, bool kicked)
{
    atomic_store(&cpu->tid, 0);
    while (atomic_load(&cpu->kickers))
        sched_yield();
    take_signals();
    if (kicked)
        set_immediate_exit(cpu, 0);
    pthread_sigmask(SIG_SETMASK, old, NULL);
}

/* ---- exits ---- */

static void do_port(struct engine_vcpu *cpu)
{
    const struct engine_host *host = &cpu->vm->cfg.host;
    struct kvm_run *run = cpu->run;
    uint8_t *p = (uint8_t *)run + run->io.data_offset;

    count(cpu, KC_PORT);
    for (uint32_t i = 0; i < run->io.count; i++, p += run->io.size) {
        struct exit x = {
            .kind = EXIT_PORT,
            .addr = run->io.port,
            .width = run->io.size,
            .is_write = run->io.direction == KVM_EXIT_IO_OUT,
        };

        if (x.is_write)
            memcpy(&x.data, p, x.width);
        host->io(host->ctx, cpu->index, &x);
        if (!x.is_write)
            memcpy(p, &x.data, x.width);
    }
}

/* The kernel passes an access that crosses a page in two parts, which may have any length: they go on in
 * pieces of the widths that exit.h allows. */
static void do_mmio(struct engine_vcpu *cpu)
{
    const struct engine_host *host = &cpu->vm->cfg.host;
    struct kvm_run *run = cpu->run;
    unsigned len = run->mmio.len, at = 0;

    count(cpu, KC_MMIO);
    while (at < len && at < sizeof(run->mmio.data)) {
        unsigned left = len - at;
        struct exit x = {
            .kind = EXIT_MMIO,
            .addr = run->mmio.phys_addr + at,
            .is_write = run->mmio.is_write,
            .width = left >= 8   ? 8
                     : left >= 4 ? 4
                     : left >= 2 ? 2
                                 : 1,
        };

        if (x.is_write)
            memcpy(&x.data, run->mmio.data + at, x.width);
        host->io(host->ctx, cpu->index, &x);
        if (!x.is_write)
            memcpy(run->mmio.data + at, &x.data, x.width);
        at += x.width;
    }
}

static void do_eoi(struct engine_vcpu *cpu)
{
    const struct engine_host *host = &cpu->vm->cfg.host;
    unsigned vector = cpu->run->eoi.vector;

    count(cpu, KC_EOI);
    kvm_eoi_seen(cpu->vm, vector);
    host->eoi(host->ctx, vector);
}

/* ---- failures ---- */

static uint64_t rip_of(struct engine_vcpu *cpu)
{
    struct kvm_regs regs = { 0 };

    ioctl(cpu->fd, KVM_GET_REGS, &regs);
    return regs.rip;
}

/* The bytes at CS:RIP, as the guest maps them; returns how many. */
static unsigned bytes_at_rip(struct engine_vcpu *cpu, uint64_t rip, uint8_t *buf, unsigned len)
{
    struct kvm_sregs sregs;
    struct kvm_translation tr = { 0 };

    if (ioctl(cpu->fd, KVM_GET_SREGS, &sregs) < 0)
        return 0;
    tr.linear_address = rip + (sregs.cs.l ? 0 : sregs.cs.base);
    if (ioctl(cpu->fd, KVM_TRANSLATE, &tr) < 0 || !tr.valid)
        return 0;
    return kvm_ram_peek(cpu->vm, tr.physical_address, buf, len);
}

/* " (bytes 0f 0b ...)" for the instruction that the kernel could not emulate. */
static void describe_bytes(struct engine_vcpu *cpu, uint64_t rip, char *out, size_t size)
{
    struct kvm_run *run = cpu->run;
    uint8_t bytes[15];
    unsigned n = 0;
    size_t used;

    if (run->exit_reason == KVM_EXIT_INTERNAL_ERROR &&
        run->internal.suberror == KVM_INTERNAL_ERROR_EMULATION && run->emulation_failure.ndata >= 3 &&
        (run->emulation_failure.flags & KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES)) {
        n = (unsigned)min_u64(run->emulation_failure.insn_size, sizeof(bytes));
        memcpy(bytes, run->emulation_failure.insn_bytes, n);
    }
    if (!n)
        n = bytes_at_rip(cpu, rip, bytes, sizeof(bytes));
    used = (size_t)snprintf(out, size, n ? " (bytes" : " (its bytes cannot be read");
    for (unsigned i = 0; i < n && used < size; i++)
        used += (size_t)snprintf(out + used, size - used, " %02x", bytes[i]);
    if (used < size)
        snprintf(out + used, size - used, ")");
}

static void fault_internal(struct engine_vcpu *cpu, uint64_t rip, struct yado_error *err)
{
    const struct kvm_run *run = cpu->run;
    char bytes[80];

    describe_bytes(cpu, rip, bytes, sizeof(bytes));
    switch (run->internal.suberror) {
    case KVM_INTERNAL_ERROR_EMULATION:
        err_set(err, YADO_ERR_ENGINE,
                "kvm: the kernel cannot emulate the guest's instruction at %#" PRIx64
                "%s; --engine translator may",
                rip, bytes);
        return;
    case KVM_INTERNAL_ERROR_DELIVERY_EV:
        err_set(err, YADO_ERR_ENGINE,
                "kvm: an interrupt or exception cannot be delivered at %#" PRIx64
                "%s, data %#llx %#llx %#llx",
                rip, bytes, (unsigned long long)run->internal.data[0],
                (unsigned long long)run->internal.data[1], (unsigned long long)run->internal.data[2]);
        return;
    default:
        err_set(err, YADO_ERR_ENGINE,
                "kvm: internal error %u of the kernel at %#" PRIx64 "%s, data %#llx %#llx",
                run->internal.suberror, rip, bytes, (unsigned long long)run->internal.data[0],
                (unsigned long long)run->internal.data[1]);
    }
}

static void fault_other(struct engine_vcpu *cpu, uint64_t rip, struct yado_error *err)
{
    const struct kvm_run *run = cpu->run;
    char bytes[80];

    if (run->exit_reason == KVM_EXIT_FAIL_ENTRY) {
        err_set(err, YADO_ERR_ENGINE,
                "kvm: the CPU refuses to enter the guest at %#" PRIx64 ", hardware reason %#llx", rip,
                (unsigned long long)run->fail_entry.hardware_entry_failure_reason);
        return;
    }
    describe_bytes(cpu, rip, bytes, sizeof(bytes));
    err_set(err, YADO_ERR_ENGINE, "kvm: unexpected exit %u at %#" PRIx64 "%s", run->exit_reason, rip, bytes);
}

static void fault_errno(struct engine_vcpu *cpu, int e, struct yado_error *err)
{
    uint64_t rip = rip_of(cpu);
    char bytes[80];

    cpu->run->exit_reason = KVM_EXIT_UNKNOWN; /* left from an earlier exit */
    describe_bytes(cpu, rip, bytes, sizeof(bytes));
    err_set_errno(err, YADO_ERR_ENGINE, e, "kvm: KVM_RUN fails at %#" PRIx64 "%s%s", rip, bytes,
                  e == EFAULT ? "; guest memory could not be reached (is the host out of memory?)" : "");
}

/* One exit. True: run on. */
static bool handle(struct engine_vcpu *cpu, struct exit *out, struct yado_error *err)
{
    switch (cpu->run->exit_reason) {
    case KVM_EXIT_IO: do_port(cpu); return true;
    case KVM_EXIT_MMIO: do_mmio(cpu); return true;
    case KVM_EXIT_IOAPIC_EOI: do_eoi(cpu); return true;
    case KVM_EXIT_INTR: count(cpu, KC_SIGNAL); return true;
    case KVM_EXIT_IRQ_WINDOW_OPEN:
    case KVM_EXIT_HLT: count(cpu, KC_OTHER); return true; /* not with local APICs in the kernel; harmless */
    case KVM_EXIT_SHUTDOWN: *out = (struct exit){ .kind = EXIT_SHUTDOWN, .rip = rip_of(cpu) }; return false;
    default:
        *out = (struct exit){ .kind = EXIT_FAULT, .rip = rip_of(cpu) };
        if (cpu->run->exit_reason == KVM_EXIT_INTERNAL_ERROR)
            fault_internal(cpu, out->rip, err);
        else
            fault_other(cpu, out->rip, err);
        return false;
    }
}

/* The guest's clock page says that it did not run for a while (KVM_KVMCLOCK_CTRL). The kernel refuses if the
 * guest has no such page: then there is nobody to tell. */
void kvm_vcpu_stood_still(struct engine_vcpu *cpu)
{
    ioctl(cpu->fd, KVM_KVMCLOCK_CTRL, 0);
}

/* KVM_RUN ended with an errno. True: run on. */
static bool handle_errno(struct engine_vcpu *cpu, int e, struct exit *out, struct yado_error *err)
{
    if (e == EAGAIN) /* a waiting vCPU was given its INIT or SIPI */
        return true;
    if (e == EINTR && is_kicked(cpu)) {
        count(cpu, KC_KICK);
        *out = (struct exit){ .kind = EXIT_KICKED };
        return false;
    }
    if (e == EINTR) { /* a signal of the program's own, or ours sent by somebody else; or SIGSTOP, for long */
        count(cpu, KC_SIGNAL);
        kvm_vcpu_stood_still(cpu);
        take_signals();
        return true;
    }
    *out = (struct exit){ .kind = EXIT_FAULT, .rip = rip_of(cpu) };
    fault_errno(cpu, e, err);
    return false;
}

void kvm_vcpu_run(struct engine_vcpu *cpu, struct exit *out, struct yado_error *err)
{
    sigset_t old;
    bool on = true;

    *out = (struct exit){ .kind = EXIT_FAULT };
    if (!thread_enter(cpu, &old, err))
        return;
    while (on) {
        if (ioctl(cpu->fd, KVM_RUN, 0) == 0)
            on = handle(cpu, out, err);
        else
            on = handle_errno(cpu, errno, out, err);
    }
    thread_leave(cpu, &old, out->kind == EXIT_KICKED);
}
