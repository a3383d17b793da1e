/* The translator behind the engine seam: opening a VM, its memory, vCPU state in and out, run and kick. */
#include <cpuid.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "engine/engine.h"
#include "engine/translator/direct.h"
#include "engine/translator/lapic.h"
#include "engine/translator/mmu.h"
#include "engine/translator/perf_map.h"
#include "engine/translator/ram_large.h"
#include "engine/translator/shadow.h"
#include "engine/translator/sys.h"
#include "engine/translator/vcpu.h"
#include "engine/translator/x87_pointers.h"
#include "util/err.h"

#define CODE_CACHE_DEFAULT MIB(54)
#define CODE_CACHE_MIN (2ull << 20)
#define CODE_CACHE_MAX (1024ull << 20) /* branches inside reach 2 GiB */

struct engine_vm {
    struct tvm vm;
};
struct engine_vcpu {
    struct tcpu cpu;
};

static void host_cpuid(uint32_t leaf, uint32_t sub, struct cpuid_regs *r)
{
    __cpuid_count(leaf, sub, r->eax, r->ebx, r->ecx, r->edx);
}

/* What the host's system lets programs use. CR4.OSXSAVE is set (translator_available). */
static uint64_t host_xcr0(void)
{
    uint32_t lo, hi;
    __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    return (uint64_t)hi << 32 | lo;
}

static bool translator_available(struct yado_error *err)
{
    struct cpuid_regs r1, r81;
    host_cpuid(1, 0, &r1);
    host_cpuid(0x80000001, 0, &r81);
    if (!(r1.ecx & (1u << 27)))
        return err_set(err, YADO_ERR_UNSUPPORTED,
                       "translator: the host CPU or its system does not offer XSAVE");
    if (!(r81.ecx & 1))
        return err_set(err, YADO_ERR_UNSUPPORTED, "translator: the host CPU lacks LAHF in 64-bit mode");
    return true;
}

/* ---- time ---- */

static uint64_t now_raw_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* A pair of readings taken close together: the tightest of several tries. */
static void read_pair(uint64_t *tsc, uint64_t *ns)
{
    uint64_t best = ~0ull;
    for (unsigned i = 0; i < 8; i++) {
        uint64_t a = cpu_host_tsc(), n = now_raw_ns(), b = cpu_host_tsc();
        if (b - a < best) {
            best = b - a;
            *tsc = a + (b - a) / 2;
            *ns = n;
        }
    }
}

/* The host's TSC frequency: told by CPUID where it is, else measured against the monotonic clock for 10 ms.
 */
static uint64_t measure_tsc_khz(void)
{
    struct cpuid_regs r;
    host_cpuid(1, 0, &r);
    if (r.ecx & (1u << 31)) { /* a hypervisor may tell: leaf 0x40000010 */
        host_cpuid(0x40000000, 0, &r);
        if (r.eax >= 0x40000010 && r.eax < 0x40000100) {
            host_cpuid(0x40000010, 0, &r);
            if (r.eax > 100000 && r.eax < 10000000)
                return r.eax;
        }
    }
    uint64_t t0, n0, t1, n1;
    read_pair(&t0, &n0);
    struct timespec ts = { 0, 10000000 };
    nanosleep(&ts, NULL);
    read_pair(&t1, &n1);
    return (uint64_t)((unsigned __int128)(t1 - t0) * 1000000u / (n1 - n0));
}

/* ---- open and close ---- */

static void free_cpu_memory(struct tcpu *c)
{
    struct anonmem memory = c->memory;
    anonmem_unmap(&memory);
}

static void translator_close(struct engine_vm *evm)
{
    if (!evm)
        return;
    struct tvm *vm = &evm->vm;
    large_worker_stop(vm->large_worker);
    for (unsigned i = 0; i < TVM_VCPUS_MAX; i++) {
        if (!vm->cpus[i])
            continue;
        lapic_free(vm->cpus[i]->lapic);
        free(vm->cpus[i]->shadow);
        direct_close(vm->cpus[i]);
        free(vm->cpus[i]->translation);
        munmap(vm->cpus[i]->return_stack, RETURN_STACK_SIZE + SIGNAL_STACK_SIZE);
        free_cpu_memory(vm->cpus[i]);
    }
    for (unsigned i = 0; i < vm->slot_count; i++) {
        munmap(vm->slots[i].pages, (vm->slots[i].len >> 12) * sizeof(struct page_info));
        ram_large_close(&vm->slots[i]);
    }
    free(vm->direct_room);
    cache_free(vm->cache);
    perf_map_close(vm->perf_map);
    pthread_mutex_destroy(&vm->excl_lock);
    fault_uninstall();
    free(evm);
}

/* In large pages: its TLB is looked at for nearly each access to memory, all over it, and would take a host's
 * TLB by itself. */
static struct tcpu *new_cpu(struct tvm *vm, unsigned index)
{
    struct anonmem memory;
    if (!anonmem_map(&memory, "yado-vcpu", align_up(sizeof(struct tcpu), ANONMEM_LARGE), false))
        return NULL;
    struct tcpu *c = (struct tcpu *)(void *)memory.at;
    c->memory = memory;
    c->self = c;
    c->vm = vm;
    c->index = index;
    c->heavy_depth = 1;
    c->x87_page = X87_SHOWN;
    struct lapic_env env = vcpu_lapic_env(c);
    c->lapic = lapic_new(index, &env);
    void *stack = mmap(NULL, RETURN_STACK_SIZE + SIGNAL_STACK_SIZE, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (!c->lapic || stack == MAP_FAILED || mprotect(stack, PAGE_SIZE, PROT_NONE) != 0) {
        lapic_free(c->lapic);
        if (stack != MAP_FAILED)
            munmap(stack, RETURN_STACK_SIZE + SIGNAL_STACK_SIZE);
        free_cpu_memory(c);
        return NULL;
    }
    c->return_stack = stack;
    c->return_top = c->return_base = (uint64_t)(uintptr_t)stack + RETURN_STACK_SIZE;
    mmu_init(c);
    vm->cpus[index] = c;
    vm->cpu_count = index + 1;
    return c;
}

static bool translator_set_state(struct engine_vcpu *cpu, const struct x86_state *in, struct yado_error *err);

static bool translator_open(struct engine_vm **out, const struct engine_config *cfg, struct yado_error *err)
{
    *out = NULL;
    if (!translator_available(err))
        return false;
    if (cfg->options.code_cache_size &&
        (cfg->options.code_cache_size < CODE_CACHE_MIN || cfg->options.code_cache_size > CODE_CACHE_MAX))
        return err_set(err, YADO_ERR_INVALID_CONFIG,
                       "code_cache_size: %llu bytes; the translator takes from %llu MiB to %llu MiB",
                       (unsigned long long)cfg->options.code_cache_size, CODE_CACHE_MIN >> 20,
                       CODE_CACHE_MAX >> 20);
    if (cfg->options.shadow && cfg->vcpu_count != 1)
        return err_set(err, YADO_ERR_INVALID_CONFIG,
                       "engine_options.shadow: %u vCPUs; blocks can be compared with one vCPU only",
                       cfg->vcpu_count);
    if (cfg->options.shadow && cfg->options.direct)
        return err_set(err, YADO_ERR_INVALID_CONFIG,
                       "engine_options: shadow and direct; code that is not translated cannot be compared");
    if (cfg->vcpu_count == 0 || cfg->vcpu_count > TVM_VCPUS_MAX)
        return err_set(err, YADO_ERR_INVALID_CONFIG, "translator: %u vCPUs; 1 to %d are possible",
                       cfg->vcpu_count, TVM_VCPUS_MAX);
    struct engine_vm *evm = calloc(1, sizeof *evm);
    if (!evm)
        return err_set(err, YADO_ERR_MEMORY, "translator: out of memory");
    if (!fault_install(err)) {
        free(evm);
        return false;
    }
    struct tvm *vm = &evm->vm;
    vm->cfg = *cfg;
    pthread_mutex_init(&vm->excl_lock, NULL);
    vm->host_tsc_khz = measure_tsc_khz();
    vm->tsc_base = cpu_host_tsc();
    struct cpuid_regs r7;
    host_cpuid(7, 0, &r7);
    vm->flags = flags_probe();
    vm->host_bmi2 = (r7.ebx & 1u << 8) != 0;
    cpuid_model_init(&vm->cpuid, cfg->vcpu_count, vm->host_tsc_khz, host_xcr0(), host_cpuid);
    vm->direct_xsave_differs = host_xcr0() != vm->cpuid.xcr0_mask;
    vm->gpa_reserved = ~((1ull << vm->cpuid.phys_bits) - 1);
    vm->large_worker = large_worker_start();
    vm->cache = cache_new(cfg->options.code_cache_size ? cfg->options.code_cache_size : CODE_CACHE_DEFAULT,
                          vm->large_worker, err);
    if (vm->cache && cfg->options.perf_map)
        vm->perf_map = perf_map_open(err);
    bool ok = vm->cache && (vm->perf_map || !cfg->options.perf_map);
    for (unsigned i = 0; ok && i < cfg->vcpu_count; i++) {
        struct tcpu *c = new_cpu(vm, i);
        struct x86_state s;
        ok = c != NULL;
        if (ok) {
            c->translation = calloc(1, translation_size());
            ok = c->translation != NULL;
        }
        if (ok && cfg->options.direct)
            ok = direct_open(c);
        if (ok && cfg->options.shadow) {
            c->shadow = calloc(1, sizeof(*c->shadow));
            ok = c->shadow != NULL;
        }
        if (ok) {
            x86_state_reset(&s, i);
            s.mp_state = i == 0 ? X86_MP_RUNNING : X86_MP_WAIT_SIPI;
            ok = translator_set_state((struct engine_vcpu *)(void *)c, &s, err);
        }
    }
    if (!ok) {
        err_set(err, YADO_ERR_MEMORY, "translator: out of memory for vCPUs");
        translator_close(evm);
        return false;
    }
    *out = evm;
    return true;
}

static bool translator_map(struct engine_vm *evm, const struct engine_memslot *slot, struct yado_error *err)
{
    struct tvm *vm = &evm->vm;
    if (vm->slot_count == TVM_SLOTS)
        return err_set(err, YADO_ERR_INTERNAL, "translator: more than %d memory slots", TVM_SLOTS);
    if ((slot->gpa | slot->len | (uint64_t)(uintptr_t)slot->hva) & (PAGE_SIZE - 1))
        return err_set(err, YADO_ERR_INTERNAL, "translator: memory slot is not page aligned");
    if (slot->gpa > TB_GPA_END || slot->len > TB_GPA_END - slot->gpa)
        return err_set(err, YADO_ERR_INTERNAL, "translator: memory slot ends behind 16 TiB");
    size_t n = (size_t)(slot->len >> 12) * sizeof(struct page_info);
    void *pages = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (pages == MAP_FAILED)
        return err_set(err, YADO_ERR_MEMORY, "translator: out of memory for page tables of guest memory");
    struct tvm_slot *s = &vm->slots[vm->slot_count++];
    *s = (struct tvm_slot){ .gpa = slot->gpa,
                            .len = slot->len,
                            .hva = slot->hva,
                            .pages = pages,
                            .in_file = slot->in_file,
                            .fd = slot->fd,
                            .offset = slot->offset };
    if (slot->in_file)
        ram_large_open(s);
    return true;
}

static struct engine_vcpu *translator_vcpu(struct engine_vm *evm, unsigned index)
{
    return (struct engine_vcpu *)(void *)tvm_vcpu(&evm->vm, index);
}

/* ---- run ---- */

static void translator_run(struct engine_vcpu *cpu, struct exit *out, struct yado_error *err)
{
    struct tcpu *c = &cpu->cpu;
    fault_thread_begin(c);
    uint64_t due = lapic_next_timer_ns(c->lapic);
    if (due != ~0ull)
        fault_timer_arm(c, due);
    cpu_heavy_end(c);
    cpu_run_in(c);
    enum exit_kind kind = vcpu_loop(c);
    cpu_run_out(c);
    cpu_heavy_begin(c);
    if (c->direct_seated)
        heavy_direct_rest(c);
    *out = (struct exit){ .kind = kind, .rip = c->rip };
    if (kind == EXIT_FAULT && direct_is_lost(c))
        err_set(
            err, YADO_ERR_ENGINE,
            "translator: somebody has killed a process that ran a program of the guest's, whose registers "
            "are lost (is the host out of memory?)");
    else if (kind == EXIT_FAULT)
        err_set(err, YADO_ERR_ENGINE,
                "translator: host fault %u (error %#x) at %#llx in translated code, guest rip %#llx: guest "
                "memory could not be "
                "reached (is the host out of memory?)",
                c->fault_trap, c->fault_error, (unsigned long long)c->fault_rip, (unsigned long long)c->rip);
    fault_thread_end(c);
}

static void translator_kick(struct engine_vcpu *cpu)
{
    cpu_request(&cpu->cpu, XR_KICK);
}

static void translator_msi(struct engine_vm *evm, uint64_t addr, uint32_t data)
{
    lapic_route_msi(&evm->vm, addr, data);
}

/* A change of the guest's own LINT0 looks at `intr` again, so a level that is there is not missed. */
static void translator_intr(struct engine_vm *evm, bool level)
{
    struct tvm *vm = &evm->vm;
    if (!vm->cfg.host.acknowledge || atomic_exchange(&vm->intr, level) == level || !level)
        return;
    for (unsigned i = 0; i < vm->cpu_count; i++)
        lapic_lint0_rise(vm->cpus[i]->lapic);
}

static void translator_memory_written(struct engine_vm *evm, uint64_t gpa, uint64_t len)
{
    cache_invalidate(&evm->vm, NULL, gpa, len);
    ram_large_forget(&evm->vm, gpa, len);
}

static uint64_t translator_tsc_khz(struct engine_vm *evm)
{
    return evm->vm.host_tsc_khz;
}

/* ---- state ---- */

static bool translator_get_state(struct engine_vcpu *cpu, struct x86_state *s, struct yado_error *err)
{
    struct tcpu *c = &cpu->cpu;
    (void)err;
    memset(s, 0, sizeof *s);
    memcpy(s->gpr, c->gpr, sizeof s->gpr);
    s->rip = c->rip;
    s->rflags = cpu_rflags(c);
    memcpy(s->seg, c->seg, sizeof s->seg);
    s->gdt = c->gdt, s->idt = c->idt;
    s->cr0 = c->cr0, s->cr2 = c->cr2, s->cr3 = c->cr3, s->cr4 = c->cr4, s->cr8 = lapic_cr8(c->lapic);
    s->xcr0 = c->xcr0, s->efer = c->efer;
    memcpy(s->dr, c->dr, sizeof s->dr);
    s->star = c->star, s->lstar = c->lstar, s->cstar = c->cstar, s->fmask = c->fmask;
    s->kernel_gs_base = c->kernel_gs_base;
    s->sysenter_cs = c->sysenter_cs, s->sysenter_esp = c->sysenter_esp, s->sysenter_eip = c->sysenter_eip;
    s->tsc = cpu_host_tsc() + c->tsc_offset;
    s->tsc_aux = c->tsc_aux, s->pat = c->pat, s->misc_enable = c->misc_enable, s->spec_ctrl = c->spec_ctrl;
    s->tsc_adjust = c->tsc_adjust, s->mtrr_def_type = c->mtrr_def_type, s->debugctl = c->debugctl;
    memcpy(s->mtrr_fixed, c->mtrr_fixed, sizeof s->mtrr_fixed);
    memcpy(s->mtrr_var, c->mtrr_var, sizeof s->mtrr_var);
    s->kvm_system_time = c->kvm_system_time, s->kvm_wall_clock = c->kvm_wall_clock,
    s->kvm_pv_eoi = c->kvm_pv_eoi;
    s->mp_state = c->wait_sipi ? X86_MP_WAIT_SIPI : c->halted ? X86_MP_HALTED : X86_MP_RUNNING;
    s->sipi_vector = c->sipi_vector;
    s->nmi_pending = c->nmi_pending, s->nmi_masked = c->nmi_masked, s->int_shadow = c->int_shadow != 0;
    s->exc_pending = c->exc.pending, s->exc_vector = c->exc.vector;
    s->exc_has_error = c->exc.has_error, s->exc_error = c->exc.error;
    lapic_save(c->lapic, &s->lapic);
    memcpy(s->xsave, c->xsave_area, sizeof s->xsave);
    x87_show_in(c, s->xsave);
    return true;
}

/* All vCPUs that are set to the same TSC value get the same offset, so that the guest finds them synchronous.
 * Of any values the host's own is best: user code can read that directly. */
static void set_tsc(struct tcpu *c, const struct x86_state *s)
{
    struct tvm *vm = c->vm;
    if (s->tsc_any) {
        vm->tsc_set = false;
        vm->tsc_offset = 0;
    } else if (!vm->tsc_set || vm->tsc_first != s->tsc || c->index == 0) {
        vm->tsc_set = true;
        vm->tsc_first = s->tsc;
        vm->tsc_offset = s->tsc - cpu_host_tsc();
    }
    c->tsc_offset = vm->tsc_offset;
}

static bool refuse_msr(uint32_t index, uint64_t value, struct yado_error *err)
{
    return err_set(err, YADO_ERR_UNSUPPORTED,
                   "translator: state has MSR %#x at %#llx, which this engine does not offer", index,
                   (unsigned long long)value);
}

static bool translator_set_state(struct engine_vcpu *cpu, const struct x86_state *s, struct yado_error *err)
{
    struct tcpu *c = &cpu->cpu;
    if (s->xcr0 & ~c->vm->cpuid.xcr0_mask)
        return err_set(err, YADO_ERR_UNSUPPORTED, "translator: state has XCR0 %#llx, this host offers %#llx",
                       (unsigned long long)s->xcr0, (unsigned long long)c->vm->cpuid.xcr0_mask);
    if (s->misc_features)
        return refuse_msr(MSR_MISC_FEATURES, s->misc_features, err);
    if (s->debugctl & ~(DEBUGCTL_LBR | DEBUGCTL_BTF))
        return refuse_msr(MSR_DEBUGCTL, s->debugctl, err);
    memcpy(c->gpr, s->gpr, sizeof c->gpr);
    c->rip = s->rip;
    cpu_set_rflags(c, s->rflags);
    memcpy(c->seg, s->seg, sizeof c->seg);
    c->gdt = s->gdt, c->idt = s->idt;
    c->cr0 = s->cr0, c->cr2 = s->cr2, c->cr3 = s->cr3, c->cr4 = s->cr4;
    c->xcr0 = s->xcr0, c->efer = s->efer;
    memcpy(c->dr, s->dr, sizeof c->dr);
    c->star = s->star, c->lstar = s->lstar, c->cstar = s->cstar, c->fmask = s->fmask;
    c->kernel_gs_base = s->kernel_gs_base;
    c->sysenter_cs = s->sysenter_cs, c->sysenter_esp = s->sysenter_esp, c->sysenter_eip = s->sysenter_eip;
    set_tsc(c, s);
    c->tsc_aux = s->tsc_aux, c->pat = s->pat, c->misc_enable = s->misc_enable, c->spec_ctrl = s->spec_ctrl;
    c->tsc_adjust = s->tsc_adjust, c->mtrr_def_type = s->mtrr_def_type, c->debugctl = s->debugctl;
    memcpy(c->mtrr_fixed, s->mtrr_fixed, sizeof c->mtrr_fixed);
    memcpy(c->mtrr_var, s->mtrr_var, sizeof c->mtrr_var);
    c->kvm_system_time = s->kvm_system_time, c->kvm_wall_clock = s->kvm_wall_clock,
    c->kvm_pv_eoi = s->kvm_pv_eoi;
    c->wait_sipi = s->mp_state == X86_MP_WAIT_SIPI || s->mp_state == X86_MP_WAIT_INIT;
    c->halted = s->mp_state == X86_MP_HALTED;
    c->sipi_vector = s->sipi_vector;
    c->nmi_pending = s->nmi_pending, c->nmi_masked = s->nmi_masked, c->int_shadow = s->int_shadow;
    c->exc = (struct tcpu_exception){ .pending = s->exc_pending,
                                      .vector = s->exc_vector,
                                      .has_error = s->exc_has_error,
                                      .error = s->exc_error };
    lapic_load(c->lapic, &s->lapic);
    lapic_set_cr8(c->lapic, (uint8_t)s->cr8);
    memcpy(c->xsave_area, s->xsave, sizeof c->xsave_area);
    /* The area is for XRSTOR: only components that the guest can have, standard format. */
    uint64_t *header = (uint64_t *)(void *)(c->xsave_area + 512);
    header[0] &= c->vm->cpuid.xcr0_mask;
    memset(&header[1], 0, 56);
    memset(c->xsave_area + 28, 0, 4);
    c->x87_page = X87_SHOWN;
    atomic_store(&c->exit_request, XR_INTR);
    atomic_store(&c->intr_deferred, 0);
    sys_mode_changed(c);
    mmu_flush_all(c);
    return true;
}

static void translator_stood_still(struct engine_vm *evm)
{
    for (unsigned i = 0; i < evm->vm.cpu_count; i++)
        sys_kvmclock_stopped(evm->vm.cpus[i]);
}

static void translator_counters(struct engine_vm *evm,
                                void (*fn)(void *ctx, const char *name, uint64_t value), void *ctx)
{
    static const char *const names[TC_COUNTER_END] = {
        "blocks",          "block_insns",    "lookups",
        "links",           "interp",         "tlb_fill",
        "staged",          "mmio",           "code_writes",
        "invalidated",     "evictions",      "flush_all",
        "flush_nonglobal", "flush_page",     "exceptions",
        "interrupts",      "halts",          "signals",
        "exclusive",       "poll_exits",     "tlb_miss_read",
        "tlb_miss_write",  "tlb_miss_group", "tlb_miss_code",
        "tlb_miss_c",      "helper_special", "device_access",
        "shadow_compared", "shadow_skipped", "shadow_different",
        "unknown_insns",   "blocks_fast",    "samples",
        "direct_runs",     "direct_us",      "direct_lost",
        "direct_unfit",    "spins",          "ram_large_pages",
    };
    struct tvm *vm = &evm->vm;
    for (unsigned k = 0; k < TC_COUNTER_END; k++) {
        uint64_t sum = 0;
        for (unsigned i = 0; i < vm->cpu_count; i++)
            sum += vm->cpus[i]->counters[k];
        fn(ctx, names[k], sum);
    }
    uint64_t code = vm->cache->stub_len;
    for (unsigned i = 0; i < vm->cache->segment_count; i++) {
        const struct cache_segment *s = &vm->cache->segments[i];
        code += s->hot_pos - s->hot + (s->cold_pos - s->cold);
    }
    fn(ctx, "ram_large_ahead", atomic_load(&vm->large_ahead));
    fn(ctx, "code_bytes", code);
    fn(ctx, "code_large_pages", cache_large_count(vm->cache->large));
}

const struct engine_ops engine_translator = {
    .name = "translator",
    .ram_in_file = true,
    .available = translator_available,
    .open = translator_open,
    .close = translator_close,
    .map = translator_map,
    .vcpu = translator_vcpu,
    .run = translator_run,
    .kick = translator_kick,
    .get_state = translator_get_state,
    .set_state = translator_set_state,
    .msi = translator_msi,
    .intr = translator_intr,
    .memory_written = translator_memory_written,
    .stood_still = translator_stood_still,
    .tsc_khz = translator_tsc_khz,
    .counters = translator_counters,
};
