/* The KVM engine behind the engine seam: opening a VM, its memory, and which function does what.
 *
 * Theory of operation. The kernel runs the vCPUs, and their local APICs with it (split irqchip): interrupts,
 * IPIs, timers, HLT and the wait for SIPI never come out. What comes out of KVM_RUN is the guest's talk with
 * devices (vcpu.c), which goes to engine_host.io in place on the vCPU's thread, the end of level-triggered
 * interrupts (irqchip.c), and failures. The board has no timer chip and no 8259, so none is made.
 *
 * One vCPU per thread, and the kernel serializes the calls on each vCPU: state calls from another thread wait
 * until KVM_RUN returns, so they are for when no vCPU runs, as engine.h says.
 *
 * Dirty pages come from two sides. The kernel's log (KVM_GET_DIRTY_LOG) knows what vCPUs wrote; writes by
 * device code through the mapping are unknown to it and are noted by memory_written in a bitmap per slot.
 * dirty_take joins both. A device's note is made after its write, a reader that clears the bit before copying
 * the page sees either the write or, at the next turn, the bit.
 *
 * Time. The TSC is the host's with an offset; its frequency is told to the guest. All vCPUs that are set to
 * TSC 0 together get one offset, which is the kernel's way to keep them synchronous. kvmclock is the
 * kernel's. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <unistd.h>

#include "engine/kvm/kvm_priv.h"

#define PAGE 4096u

/* ---- whether ---- */

static bool kvm_available(struct yado_error *err)
{
    struct kvm_caps caps;
    int fd = kvm_device_open(KVM_DEVICE, err);
    bool ok = fd >= 0 && kvm_caps_read(fd, NULL, &caps, err);

    if (fd >= 0)
        close(fd);
    return ok;
}

static bool kvm_good(struct yado_error *why)
{
    int fd = kvm_device_open(KVM_DEVICE, why);
    bool ok = fd >= 0 && kvm_probe(fd, why);

    if (fd >= 0)
        close(fd);
    return ok;
}

/* ---- open and close ---- */

static void kvm_close(struct engine_vm *vm)
{
    if (!vm)
        return;
    for (unsigned i = 0; i < vm->cfg.vcpu_count; i++)
        kvm_vcpu_unmake(&vm->cpus[i]);
    kvm_irqchip_unmake(vm);
    for (unsigned i = 0; i < vm->slot_count; i++)
        free(vm->slots[i].written);
    if (vm->fd >= 0)
        close(vm->fd);
    if (vm->device_fd >= 0)
        close(vm->device_fd);
    free(vm);
}

/* The state has no place for performance counters, and CPUID does not offer them; but AMD's first four are
 * there whatever CPUID says, unless the whole unit is off. Kernels before Linux 5.18 cannot: a guest that
 * counts there loses its counts when it is saved. */
static void performance_counters_off(struct engine_vm *vm)
{
    struct kvm_enable_cap cap = { .cap = KVM_CAP_PMU_CAPABILITY, .args = { KVM_PMU_CAP_DISABLE } };

    int n = ioctl(vm->fd, KVM_CHECK_EXTENSION, KVM_CAP_PMU_CAPABILITY);

    if (n > 0 && (n & KVM_PMU_CAP_DISABLE))
        ioctl(vm->fd, KVM_ENABLE_CAP, &cap);
}

/* Making one takes all locks of the process's memory, which a signal interrupts. */
int kvm_vm_create(int device_fd)
{
    int fd;

    do
        fd = ioctl(device_fd, KVM_CREATE_VM, 0ul);
    while (fd < 0 && errno == EINTR);
    return fd;
}

static bool vm_create(struct engine_vm *vm, struct yado_error *err)
{
    uint64_t identity = KVM_IDENTITY_MAP_ADDR;

    vm->fd = kvm_vm_create(vm->device_fd);
    if (vm->fd < 0)
        return err_set_errno(err, YADO_ERR_HOST, errno, "kvm: cannot make a virtual machine%s",
                             errno == EBUSY ? "; another hypervisor holds the CPU's virtualization" : "");
    /* VMX without unrestricted guests needs both; elsewhere they do nothing. */
    if (ioctl(vm->fd, KVM_SET_IDENTITY_MAP_ADDR, &identity) < 0 ||
        ioctl(vm->fd, KVM_SET_TSS_ADDR, KVM_TSS_ADDR) < 0)
        return err_set_errno(err, YADO_ERR_HOST, errno, "kvm: cannot place the kernel's own pages");
    performance_counters_off(vm);
    return true;
}

/* The frequency of the TSC that guests see. */
static bool tsc_read(struct engine_vm *vm, struct yado_error *err)
{
    int khz = ioctl(vm->cpus[0].fd, KVM_GET_TSC_KHZ, 0ul);

    if (khz <= 0)
        return err_set_errno(err, YADO_ERR_UNSUPPORTED, khz < 0 ? errno : 0,
                             "kvm: the host does not know its own TSC's frequency");
    vm->tsc_khz = (uint64_t)khz;
    return true;
}

static bool vcpu_first_state(struct engine_vcpu *cpu, struct yado_error *err)
{
    struct x86_state *s = aligned_alloc(_Alignof(struct x86_state), sizeof(*s));
    bool ok;

    if (!s)
        return err_set(err, YADO_ERR_HOST, "out of memory");
    x86_state_reset(s, cpu->index);
    ok = kvm_state_set(cpu, s, err);
    free(s);
    return ok;
}

static bool vcpus_make(struct engine_vm *vm, struct yado_error *err)
{
    for (unsigned i = 0; i < vm->cfg.vcpu_count; i++) {
        if (!kvm_vcpu_make(vm, i, err))
            return false;
        if (i == 0 && (!tsc_read(vm, err) || !kvm_cpuid_init(vm, err)))
            return false;
        if (!kvm_cpuid_set(&vm->cpus[i], err) || !vcpu_first_state(&vm->cpus[i], err))
            return false;
    }
    return true;
}

static bool kvm_open(struct engine_vm **out, const struct engine_config *cfg, struct yado_error *err)
{
    struct engine_vm *vm;

    *out = NULL;
    if (cfg->vcpu_count == 0 || cfg->vcpu_count > KVM_VCPUS_MAX)
        return err_set(err, YADO_ERR_INVALID_CONFIG, "kvm: %u vCPUs; 1 to %d are possible", cfg->vcpu_count,
                       KVM_VCPUS_MAX);
    if (cfg->options.code_cache_size || cfg->options.perf_map || cfg->options.shadow)
        return err_set(err, YADO_ERR_UNSUPPORTED,
                       "engine_options: the kvm engine translates nothing; use the translator for them");
    vm = calloc(1, sizeof(*vm) + cfg->vcpu_count * sizeof(vm->cpus[0]));
    if (!vm)
        return err_set(err, YADO_ERR_HOST, "out of memory");
    vm->cfg = *cfg;
    vm->fd = -1;
    pthread_mutex_init(&vm->routes.lock, NULL);
    for (unsigned i = 0; i < cfg->vcpu_count; i++)
        vm->cpus[i].fd = -1;
    vm->device_fd = kvm_device_open(KVM_DEVICE, err);
    if (vm->device_fd < 0 || !kvm_caps_read(vm->device_fd, NULL, &vm->caps, err))
        goto fail;
    if (cfg->vcpu_count > vm->caps.vcpus_max) {
        err_set(err, YADO_ERR_INVALID_CONFIG, "kvm: %u vCPUs; this kernel's KVM allows %u", cfg->vcpu_count,
                vm->caps.vcpus_max);
        goto fail;
    }
    if (!vm_create(vm, err) || !kvm_irqchip_make(vm, err) || !vcpus_make(vm, err))
        goto fail;
    *out = vm;
    return true;
fail:
    kvm_close(vm);
    return false;
}

static struct engine_vcpu *kvm_vcpu(struct engine_vm *vm, unsigned index)
{
    return &vm->cpus[index];
}

/* ---- memory ---- */

static bool slot_tell(struct engine_vm *vm, unsigned index, bool tracked, struct yado_error *err)
{
    const struct engine_memslot *m = &vm->slots[index].mem;
    struct kvm_userspace_memory_region region = {
        .slot = index,
        .flags = tracked ? KVM_MEM_LOG_DIRTY_PAGES : 0,
        .guest_phys_addr = m->gpa,
        .memory_size = m->len,
        .userspace_addr = (uint64_t)(uintptr_t)m->hva,
    };

    if (ioctl(vm->fd, KVM_SET_USER_MEMORY_REGION, &region) == 0)
        return true;
    return err_set_errno(err, errno == ENOMEM ? YADO_ERR_MEMORY : YADO_ERR_HOST, errno,
                         "kvm: the kernel refuses %llu MiB of memory at %#llx",
                         (unsigned long long)(m->len >> 20), (unsigned long long)m->gpa);
}

static bool kvm_map(struct engine_vm *vm, const struct engine_memslot *slot, struct yado_error *err)
{
    unsigned limit = (unsigned)min_u64(vm->caps.memslots, KVM_SLOTS_MAX);

    if (vm->slot_count >= limit)
        return err_set(err, YADO_ERR_UNSUPPORTED,
                       "kvm: no memory slot is left for %llu MiB at %#llx; there is room for %u",
                       (unsigned long long)(slot->len >> 20), (unsigned long long)slot->gpa, limit);
    if ((slot->gpa | slot->len | (uint64_t)(uintptr_t)slot->hva) & (PAGE - 1))
        return err_set(err, YADO_ERR_INTERNAL, "kvm: memory slot is not page aligned");
    vm->slots[vm->slot_count].mem = *slot;
    if (!slot_tell(vm, vm->slot_count, false, err))
        return false;
    vm->slot_count++;
    return true;
}

/* By way of the kernel: this is asked when something is wrong, and that may be that the host cannot give the
 * page, which a plain access would answer with a signal. */
static unsigned peek_host(void *at, uint8_t *buf, unsigned len)
{
    const struct iovec local = { buf, len }, remote = { at, len };
    ssize_t n = process_vm_readv(getpid(), &local, 1, &remote, 1, 0);

    return n > 0 ? (unsigned)n : 0;
}

unsigned kvm_ram_peek(const struct engine_vm *vm, uint64_t gpa, uint8_t *buf, unsigned len)
{
    for (unsigned i = 0; i < vm->slot_count; i++) {
        const struct engine_memslot *m = &vm->slots[i].mem;

        if (gpa >= m->gpa && gpa - m->gpa < m->len) {
            unsigned n = (unsigned)min_u64(len, m->len - (gpa - m->gpa));

            n = (unsigned)min_u64(n,
                                  PAGE - gpa % PAGE); /* what the guest maps behind a page is another one */
            return peek_host((uint8_t *)m->hva + (gpa - m->gpa), buf, n);
        }
    }
    return 0;
}

/* ---- dirty pages ---- */

static size_t slot_words(const struct kvm_slot *s)
{
    return (size_t)((s->mem.len / PAGE + 63) / 64);
}

static void kvm_memory_written(struct engine_vm *vm, uint64_t gpa, uint64_t len)
{
    if (!atomic_load(&vm->tracking) || !len)
        return;
    for (unsigned i = 0; i < vm->slot_count; i++) {
        struct kvm_slot *s = &vm->slots[i];
        uint64_t first = max_u64(gpa, s->mem.gpa), end = min_u64(gpa + len, s->mem.gpa + s->mem.len);

        for (uint64_t at = align_down(first, PAGE); first < end && at < end; at += PAGE) {
            uint64_t page = (at - s->mem.gpa) / PAGE;

            atomic_fetch_or(&s->written[page / 64], 1ull << page % 64);
        }
    }
}

static bool kvm_dirty_track(struct engine_vm *vm, bool on, struct yado_error *err)
{
    bool ok = true;

    for (unsigned i = 0; i < vm->slot_count; i++) {
        struct kvm_slot *s = &vm->slots[i];

        if (on && !s->written)
            s->written = calloc(slot_words(s), sizeof(*s->written));
        if (on && !s->written)
            return err_set(err, YADO_ERR_HOST, "out of memory");
        for (size_t w = 0; on && !s->tracked && w < slot_words(s); w++)
            atomic_store(&s->written[w], 0);
    }
    atomic_store(&vm->tracking, on);
    for (unsigned i = 0; i < vm->slot_count && ok; i++) {
        ok = vm->slots[i].tracked == on || slot_tell(vm, i, on, err);
        if (ok)
            vm->slots[i].tracked = on;
    }
    return ok;
}

static bool kvm_dirty_take(struct engine_vm *vm, uint64_t gpa, uint64_t *bits, struct yado_error *err)
{
    for (unsigned i = 0; i < vm->slot_count; i++) {
        struct kvm_slot *s = &vm->slots[i];
        size_t words = slot_words(s);
        struct kvm_dirty_log arg = { .slot = i };
        uint64_t *log;
        int rc;

        if (s->mem.gpa != gpa)
            continue;
        if (!s->tracked)
            return err_set(err, YADO_ERR_INTERNAL, "kvm: written pages at %#llx are not recorded",
                           (unsigned long long)gpa);
        log = calloc(words, sizeof(*log)); /* the kernel overwrites, the caller wants them added */
        if (!log)
            return err_set(err, YADO_ERR_HOST, "out of memory");
        arg.dirty_bitmap = log;
        rc = ioctl(vm->fd, KVM_GET_DIRTY_LOG, &arg);
        for (size_t w = 0; rc == 0 && w < words; w++)
            bits[w] |= log[w] | atomic_exchange(&s->written[w], 0);
        free(log);
        return rc == 0 || err_set_errno(err, YADO_ERR_HOST, errno, "kvm: KVM_GET_DIRTY_LOG");
    }
    return err_set(err, YADO_ERR_INTERNAL, "kvm: no memory begins at %#llx", (unsigned long long)gpa);
}

/* ---- time ---- */

static uint64_t kvm_tsc_khz(struct engine_vm *vm)
{
    return vm->tsc_khz;
}

static void kvm_stood_still(struct engine_vm *vm)
{
    for (unsigned i = 0; i < vm->cfg.vcpu_count; i++)
        kvm_vcpu_stood_still(&vm->cpus[i]);
}

static uint64_t kvm_clock_get(struct engine_vm *vm)
{
    struct kvm_clock_data clock = { 0 };

    ioctl(vm->fd, KVM_GET_CLOCK, &clock);
    return clock.clock;
}

static bool kvm_clock_set(struct engine_vm *vm, uint64_t ns, struct yado_error *err)
{
    struct kvm_clock_data clock = { .clock = ns };

    if (ioctl(vm->fd, KVM_SET_CLOCK, &clock) == 0)
        return true;
    return err_set_errno(err, YADO_ERR_HOST, errno, "kvm: KVM_SET_CLOCK");
}

/* ---- counters ---- */

static void kvm_counters(struct engine_vm *vm, void (*fn)(void *ctx, const char *name, uint64_t value),
                         void *ctx)
{
    static const char *const names[KC_COUNT] = { "exit_port", "exit_mmio",   "exit_eoi",
                                                 "exit_kick", "exit_signal", "exit_other" };
    unsigned irqfds;

    for (unsigned k = 0; k < KC_COUNT; k++) {
        uint64_t sum = 0;

        for (unsigned i = 0; i < vm->cfg.vcpu_count; i++)
            sum += atomic_load_explicit(&vm->cpus[i].counters[k], memory_order_relaxed);
        fn(ctx, names[k], sum);
    }
    fn(ctx, "messages", atomic_load_explicit(&vm->messages, memory_order_relaxed));
    fn(ctx, "doorbells", atomic_load_explicit(&vm->doorbells, memory_order_relaxed));
    pthread_mutex_lock(&vm->routes.lock);
    irqfds = vm->routes.irqfds_used;
    pthread_mutex_unlock(&vm->routes.lock);
    fn(ctx, "irqfds", irqfds);
}

const struct engine_ops engine_kvm = {
    .name = "kvm",
    .available = kvm_available,
    .good = kvm_good,
    .open = kvm_open,
    .close = kvm_close,
    .map = kvm_map,
    .vcpu = kvm_vcpu,
    .run = kvm_vcpu_run,
    .kick = kvm_vcpu_kick,
    .get_state = kvm_state_get,
    .set_state = kvm_state_set,
    .msi = kvm_msi_send,
    .memory_written = kvm_memory_written,
    .tsc_khz = kvm_tsc_khz,
    .counters = kvm_counters,
    .irqfd_set = kvm_irqfd_set,
    .irqfd_drop = kvm_irqfd_drop,
    .doorbell_add = kvm_doorbell_add,
    .doorbell_drop = kvm_doorbell_drop,
    .dirty_track = kvm_dirty_track,
    .dirty_take = kvm_dirty_take,
    .stood_still = kvm_stood_still,
    .clock_get = kvm_clock_get,
    .clock_set = kvm_clock_set,
};
