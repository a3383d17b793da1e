/* What the KVM engine does when the kernel fails it. Every ioctl of this program goes through a wrapper (the
 * linker's --wrap) that can answer one of them with an error, or a KVM_RUN with an exit, that this host's KVM
 * does not give by itself. Everything around that one answer is real. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <yado/yado.h>

#include "engine/kvm/kvm_priv.h"
#include "host/anonfile.h"
#include "kvm_codes.h"
#include "kvm_guest.h"

#undef PF_W /* of page faults here, of ELF files there */
#include "../machine/tiny_kernel.h"

#define PATIENCE_MS 20000

int __real_ioctl(int fd, unsigned long request, ...);
int __wrap_ioctl(int fd, unsigned long request, ...);

/* ---- the wrapper ---- */

static struct {
    _Atomic(unsigned long) request; /* 0: none; it falls with its last answer */
    unsigned long cap;              /* for KVM_CHECK_EXTENSION and KVM_ENABLE_CAP: which; 0: any */
    int answer;                     /* < 0: -1 and errno; else what the call returns */
    const struct kvm_run *exit;     /* for KVM_RUN that returns 0: what the kernel says */
    atomic_uint fired;
} fault;

static void exit_put(int cpu_fd, const struct kvm_run *said)
{
    struct kvm_run *run = mmap(NULL, sizeof(*run), PROT_READ | PROT_WRITE, MAP_SHARED, cpu_fd, 0);

    if (run == MAP_FAILED)
        abort();
    run->exit_reason = said->exit_reason;
    memcpy(run->padding, said->padding, sizeof(run->padding)); /* the union of all exits' data */
    munmap(run, sizeof(*run));
}

static unsigned long cap_of(unsigned long request, unsigned long arg)
{
    return request == KVM_ENABLE_CAP ? ((const struct kvm_enable_cap *)arg)->cap : arg;
}

int __wrap_ioctl(int fd, unsigned long request, ...)
{
    unsigned long arg, wanted = request;
    va_list ap;

    va_start(ap, request);
    arg = va_arg(ap, unsigned long);
    va_end(ap);
    if (atomic_load(&fault.request) != request || (fault.cap && fault.cap != cap_of(request, arg)) ||
        !atomic_compare_exchange_strong(&fault.request, &wanted, 0))
        return __real_ioctl(fd, request, arg);
    atomic_fetch_add(&fault.fired, 1);
    if (fault.exit)
        exit_put(fd, fault.exit);
    if (fault.answer >= 0)
        return fault.answer;
    errno = -fault.answer;
    return -1;
}

static void fail_next(unsigned long request, unsigned long cap, int answer, const struct kvm_run *exit)
{
    fault.cap = cap;
    fault.answer = answer;
    fault.exit = exit;
    atomic_store(&fault.fired, 0);
    atomic_store(&fault.request, request);
}

static unsigned fds_open(void)
{
    DIR *d = opendir("/proc/self/fd");
    unsigned n = 0;

    assert_non_null(d);
    while (readdir(d))
        n++;
    closedir(d);
    return n;
}

static void check_error(const struct yado_error *err, enum yado_error_code code, int os_errno,
                        const char *words)
{
    if (err->code != code || err->os_errno != os_errno || !strstr(err->message, words))
        fail_msg("code %d, errno %d, \"%s\"; wanted code %d, errno %d, \"%s\"", err->code, err->os_errno,
                 err->message, code, os_errno, words);
    assert_null(strchr(err->message, '\n'));
}

/* ---- opening ---- */

struct open_fault {
    unsigned long request, cap;
    int answer;
    enum yado_error_code code;
    const char *words;
};

static const struct open_fault open_faults[] = {
    { KVM_GET_API_VERSION, 0, 11, YADO_ERR_UNSUPPORTED, "version 11" },
    { KVM_GET_API_VERSION, 0, -ENOTTY, YADO_ERR_UNSUPPORTED, "does not answer as KVM does" },
    { KVM_CHECK_EXTENSION, KVM_CAP_SPLIT_IRQCHIP, 0, YADO_ERR_UNSUPPORTED, "too old" },
    { KVM_CHECK_EXTENSION, KVM_CAP_IMMEDIATE_EXIT, 0, YADO_ERR_UNSUPPORTED, "too old" },
    { KVM_CHECK_EXTENSION, KVM_CAP_XSAVE, 0, YADO_ERR_UNSUPPORTED, "too old" },
    { KVM_GET_VCPU_MMAP_SIZE, 0, 64, YADO_ERR_UNSUPPORTED, "too old" },
    { KVM_GET_MSR_INDEX_LIST, 0, 0, YADO_ERR_UNSUPPORTED, "no model-specific registers" },
    { KVM_CREATE_VM, 0, -EBUSY, YADO_ERR_HOST, "another hypervisor" },
    { KVM_CREATE_VM, 0, -ENOMEM, YADO_ERR_HOST, "cannot make a virtual machine" },
    { KVM_SET_IDENTITY_MAP_ADDR, 0, -EEXIST, YADO_ERR_HOST, "kernel's own pages" },
    { KVM_SET_TSS_ADDR, 0, -EEXIST, YADO_ERR_HOST, "kernel's own pages" },
    { KVM_ENABLE_CAP, KVM_CAP_SPLIT_IRQCHIP, -EINVAL, YADO_ERR_HOST, "KVM_CAP_SPLIT_IRQCHIP" },
    { KVM_CREATE_VCPU, 0, -EMFILE, YADO_ERR_HOST, "cannot make vCPU 0" },
    { KVM_GET_TSC_KHZ, 0, -EIO, YADO_ERR_UNSUPPORTED, "TSC's frequency" },
    { KVM_GET_SUPPORTED_CPUID, 0, -E2BIG, YADO_ERR_HOST, "KVM_GET_SUPPORTED_CPUID" },
    { KVM_SET_CPUID2, 0, -EINVAL, YADO_ERR_HOST, "refuses its CPU model" },
    { KVM_SET_SREGS, 0, -EINVAL, YADO_ERR_UNSUPPORTED, "control and segment registers" },
    { KVM_SET_LAPIC, 0, -EINVAL, YADO_ERR_UNSUPPORTED, "local APIC" },
};

static void test_open_fails(void **state)
{
    const struct engine_config cfg = { .vcpu_count = 2 };
    unsigned before;

    (void)state;
    before = fds_open();
    for (size_t i = 0; i < array_size(open_faults); i++) {
        const struct open_fault *f = &open_faults[i];
        struct yado_error err = YADO_ERROR_INIT;
        struct engine_vm *vm = NULL;

        fail_next(f->request, f->cap, f->answer, NULL);
        if (engine_kvm.open(&vm, &cfg, &err))
            fail_msg("fault %zu: it opens", i);
        assert_int_equal(fault.fired, 1);
        assert_null(vm);
        check_error(&err, f->code, f->answer < 0 ? -f->answer : 0, f->words);
        assert_int_equal(fds_open(), before); /* nothing half made stays */
    }
}

/* A signal that comes while the VM is made, which KVM_CREATE_VM does not survive. */
static void test_open_interrupted(void **state)
{
    const struct engine_config cfg = { .vcpu_count = 1 };
    struct yado_error err = YADO_ERROR_INIT;
    struct engine_vm *vm = NULL;

    (void)state;
    fail_next(KVM_CREATE_VM, 0, -EINTR, NULL);
    if (!engine_kvm.open(&vm, &cfg, &err))
        fail_msg("%s", err.message);
    assert_int_equal(fault.fired, 1);
    engine_kvm.close(vm);
}

/* A part of a vCPU's state that the kernel does not tell is an error, not a zero. */
static void test_state_not_told(void **state)
{
    static const struct {
        unsigned long request;
        const char *words;
    } cases[] = {
        { KVM_GET_MP_STATE, "activity" },         { KVM_GET_REGS, "general registers" },
        { KVM_GET_SREGS, "control and segment" }, { KVM_GET_LAPIC, "local APIC" },
        { KVM_GET_VCPU_EVENTS, "events" },        { KVM_GET_DEBUGREGS, "debug registers" },
        { KVM_GET_XSAVE, "vector registers" },    { KVM_GET_MSRS, "KVM_GET_MSRS" },
    };
    struct x86_state s;
    struct guest g;

    (void)state;
    guest_open(&g, 1);
    for (unsigned i = 0; i < array_size(cases); i++) {
        struct yado_error err = YADO_ERROR_INIT;

        fail_next(cases[i].request, 0, -EIO, NULL);
        assert_false(g.ops->get_state(g.ops->vcpu(g.vm, 0), &s, &err));
        assert_int_equal(fault.fired, 1);
        check_error(&err, YADO_ERR_HOST, EIO, cases[i].words);
        assert_true(g.ops->get_state(g.ops->vcpu(g.vm, 0), &s, &err));
    }
    guest_close(&g);
}

static void test_memory_refused(void **state)
{
    static const struct {
        int e;
        enum yado_error_code code;
    } cases[] = { { ENOMEM, YADO_ERR_MEMORY }, { EINVAL, YADO_ERR_HOST }, { EEXIST, YADO_ERR_HOST } };
    struct guest g;

    (void)state;
    guest_open(&g, 1);
    for (unsigned i = 0; i < array_size(cases); i++) {
        struct engine_memslot slot = { .gpa = 0x10000000, .len = 0x100000, .hva = g.ram };
        struct yado_error err = YADO_ERROR_INIT;

        fail_next(KVM_SET_USER_MEMORY_REGION, 0, -cases[i].e, NULL);
        assert_false(g.ops->map(g.vm, &slot, &err));
        check_error(&err, cases[i].code, cases[i].e, "1 MiB of memory at 0x10000000");
        err = (struct yado_error)YADO_ERROR_INIT;
        if (i + 1 == array_size(cases)) /* its slot was not used up */
            assert_true(g.ops->map(g.vm, &slot, &err));
    }
    REAL(&g, ports);
    assert_int_equal(guest_run(&g).kind, EXIT_KICKED);
    guest_close(&g);
}

/* ---- running ---- */

/* The kernel's answer to KVM_RUN, and what is made of it. b0 5a e6 f4 is how code_ports begins: the bytes
 * that are said unless the kernel gives some. */
static const struct kvm_run emulation_with_bytes = {
    .exit_reason = KVM_EXIT_INTERNAL_ERROR,
    .emulation_failure = { .suberror = KVM_INTERNAL_ERROR_EMULATION,
                           .ndata = 3,
                           .flags = KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES,
                           .insn_size = 3,
                           .insn_bytes = { 0x0f, 0xc7, 0xf8 } },
};
static const struct kvm_run emulation_with_too_many = {
    .exit_reason = KVM_EXIT_INTERNAL_ERROR,
    .emulation_failure = { .suberror = KVM_INTERNAL_ERROR_EMULATION,
                           .ndata = 3,
                           .flags = KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES,
                           .insn_size = 255,
                           .insn_bytes = { 0x26, 0x26, 0x26, 0x26, 0x26, 0x26, 0x26, 0x26, 0x26, 0x26, 0x26,
                                           0x26, 0x26, 0x26, 0x27 } },
};
static const struct kvm_run emulation_without_bytes = {
    .exit_reason = KVM_EXIT_INTERNAL_ERROR,
    .internal = { .suberror = KVM_INTERNAL_ERROR_EMULATION },
};
static const struct kvm_run delivery = {
    .exit_reason = KVM_EXIT_INTERNAL_ERROR,
    .internal = { .suberror = KVM_INTERNAL_ERROR_DELIVERY_EV,
                  .ndata = 3,
                  .data = { 0x80000b0e, 0x30, 0x181 } },
};
static const struct kvm_run other_internal = {
    .exit_reason = KVM_EXIT_INTERNAL_ERROR,
    .internal = { .suberror = KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON, .ndata = 2, .data = { 0x4d, 3 } },
};
static const struct kvm_run refused_entry = {
    .exit_reason = KVM_EXIT_FAIL_ENTRY,
    .fail_entry = { .hardware_entry_failure_reason = 0x80000021, .cpu = 1 },
};
static const struct kvm_run unknown_exit = { .exit_reason = KVM_EXIT_UNKNOWN };
static const struct kvm_run new_exit = { .exit_reason = 4711 };

struct run_fault {
    int answer;
    const struct kvm_run *exit;
    const char *words[3];
};

static const struct run_fault run_faults[] = {
    { 0, &emulation_with_bytes, { "cannot emulate", "(bytes 0f c7 f8)", "--engine translator" } },
    { 0, &emulation_with_too_many, { "cannot emulate", "26 26 27)", "" } },
    { 0, &emulation_without_bytes, { "cannot emulate", "(bytes b0 5a e6 f4", "" } },
    { 0, &delivery, { "cannot be delivered", "0x80000b0e 0x30 0x181", "(bytes b0 5a e6 f4" } },
    { 0, &other_internal, { "internal error 4", "0x4d 0x3", "(bytes b0 5a e6 f4" } },
    { 0, &refused_entry, { "refuses to enter the guest", "0x80000021", "" } },
    { 0, &unknown_exit, { "unexpected exit 0", "(bytes b0 5a e6 f4", "" } },
    { 0, &new_exit, { "unexpected exit 4711", "(bytes b0 5a e6 f4", "" } },
    { -EFAULT, NULL, { "KVM_RUN fails", "(bytes b0 5a e6 f4", "guest memory could not be reached" } },
    { -ENOMEM, NULL, { "KVM_RUN fails", "(bytes b0 5a e6 f4", "Cannot allocate memory" } },
    { -EIO, NULL, { "KVM_RUN fails", "Input/output error", "" } },
};

/* Each fault comes out of run() as an EXIT_FAULT with the place and what is known; the vCPU is as it was and
 * runs on. */
static void test_run_fails(void **state)
{
    struct guest g;

    (void)state;
    guest_open(&g, 1);
    for (size_t i = 0; i < array_size(run_faults); i++) {
        const struct run_fault *f = &run_faults[i];
        struct exit x;

        REAL(&g, ports);
        fail_next(KVM_RUN, 0, f->answer, f->exit);
        x = guest_run(&g);
        assert_int_equal(fault.fired, 1);
        assert_int_equal(x.kind, EXIT_FAULT);
        assert_int_equal(x.rip, 0);
        for (unsigned w = 0; w < array_size(f->words); w++)
            check_error(&g.errors[0], YADO_ERR_ENGINE, f->answer < 0 ? -f->answer : 0, f->words[w]);
        check_error(&g.errors[0], YADO_ERR_ENGINE, f->answer < 0 ? -f->answer : 0, " at 0");
        g.log_count = 0;
        assert_int_equal(guest_run(&g).kind, EXIT_KICKED);
        assert_int_equal(g.log_count, 8);
    }
    guest_close(&g);
}

/* Signals of the program's own and a vCPU's INIT are no failures. */
static void test_run_interrupted(void **state)
{
    static const int errnos[] = { EINTR, EAGAIN };
    static const struct kvm_run interrupted = { .exit_reason = KVM_EXIT_INTR };
    struct guest g;

    (void)state;
    guest_open(&g, 1);
    for (unsigned i = 0; i < array_size(errnos); i++) {
        REAL(&g, ports);
        g.log_count = 0;
        fail_next(KVM_RUN, 0, -errnos[i], NULL);
        assert_int_equal(guest_run(&g).kind, EXIT_KICKED);
        assert_int_equal(fault.fired, 1);
        assert_int_equal(g.log_count, 8);
    }
    REAL(&g, ports);
    g.log_count = 0;
    fail_next(KVM_RUN, 0, 0, &interrupted);
    assert_int_equal(guest_run(&g).kind, EXIT_KICKED);
    assert_int_equal(g.log_count, 8);
    guest_close(&g);
}

/* A KVM_RUN that is interrupted and not by a kick: that may have been a stop of the whole process, so a guest
 * with a clock is told. */
static void test_stop_is_told(void **state)
{
    static const unsigned wanted[] = { 0, 2, 0 }; /* PVCLOCK_GUEST_STOPPED in what the guest tells */
    struct guest g;

    (void)state;
    guest_open(&g, 1);
    LONG(&g, clock);
    for (unsigned i = 0; i < array_size(wanted); i++) {
        if (wanted[i])
            fail_next(KVM_RUN, 0, -EINTR, NULL);
        assert_int_equal(guest_run(&g).kind, EXIT_KICKED);
        assert_int_equal(guest_told(&g, i) & 2, wanted[i]);
    }
    guest_close(&g);
}

/* The thread's signals are as they were when the vCPU cannot even be entered. */
static void test_signal_mask_refused(void **state)
{
    sigset_t before, after;
    struct guest g;

    (void)state;
    guest_open(&g, 1);
    REAL(&g, ports);
    pthread_sigmask(SIG_SETMASK, NULL, &before);
    fail_next(KVM_SET_SIGNAL_MASK, 0, -EINVAL, NULL);
    assert_int_equal(guest_run(&g).kind, EXIT_FAULT);
    check_error(&g.errors[0], YADO_ERR_ENGINE, EINVAL, "KVM_SET_SIGNAL_MASK");
    pthread_sigmask(SIG_SETMASK, NULL, &after);
    for (int s = 1; s <= SIGRTMAX; s++)
        assert_int_equal(sigismember(&before, s), sigismember(&after, s));
    assert_int_equal(guest_run(&g).kind, EXIT_KICKED);
    guest_close(&g);
}

/* ---- whole machines ---- */

struct heard {
    unsigned ends;
    struct yado_error error, start_error;
};

static void on_event(void *ctx, const struct yado_event *e)
{
    struct heard *h = ctx;

    if (e->kind == YADO_EVENT_GUEST_STOPPED || e->kind == YADO_EVENT_STOPPED_WITH_ERROR) {
        h->ends++;
        h->error = e->error;
    }
}

static void on_started(void *ctx, const struct yado_error *err)
{
    if (err)
        ((struct heard *)ctx)->start_error = *err;
}

static struct yado_machine *machine_new(struct heard *h, char kernel[64], uint64_t memory)
{
    static const uint8_t halt[] = { TINY_HALT };
    struct yado_machine_options o = { .engine = YADO_ENGINE_KVM, .on_event = on_event, .event_ctx = h };
    struct yado_config *c = yado_config_new();
    struct yado_error err = YADO_ERROR_INIT;
    struct yado_machine *m;

    memset(h, 0, sizeof(*h));
    tiny_kernel_write(kernel, halt, sizeof(halt));
    yado_config_set_cpu_count(c, 2);
    yado_config_set_memory_size(c, memory);
    yado_config_set_boot_loader(c, yado_linux_boot_loader_new(kernel, NULL, NULL));
    m = yado_machine_new(c, &o, &err);
    yado_config_free(c);
    if (!m)
        fail_msg("%s", err.message);
    return m;
}

static void machine_start(struct yado_machine *m, struct heard *h)
{
    assert_true(yado_machine_start(m, on_started, h));
    while (yado_machine_state(m) == YADO_STATE_STARTING)
        usleep(1000);
}

/* The machine ends in the state "error" with that error, and can be started again. */
static void test_machine_fails(void **state)
{
    (void)state;
    for (size_t i = 0; i < array_size(run_faults); i++) {
        const struct run_fault *f = &run_faults[i];
        struct yado_machine *m;
        struct heard h;
        char kernel[64];

        m = machine_new(&h, kernel, MIB(32));
        fail_next(KVM_RUN, 0, f->answer, f->exit);
        machine_start(m, &h);
        assert_true(yado_machine_wait(m, PATIENCE_MS));
        assert_int_equal(fault.fired, 1);
        assert_int_equal(yado_machine_state(m), YADO_STATE_ERROR);
        assert_int_equal(yado_machine_stop_reason(m), YADO_STOP_FAILURE);
        assert_int_equal(h.ends, 1);
        check_error(&h.error, YADO_ERR_ENGINE, f->answer < 0 ? -f->answer : 0, f->words[0]);
        machine_start(m, &h);
        assert_int_equal(yado_machine_state(m), YADO_STATE_RUNNING);
        yado_machine_free(m);
        unlink(kernel);
    }
}

/* It ends in the state "error" with that error, and can be started again. */
static void start_fails(const struct open_fault *f, uint64_t memory)
{
    struct yado_machine *m;
    struct heard h;
    char kernel[64];

    m = machine_new(&h, kernel, memory);
    fail_next(f->request, f->cap, f->answer, NULL);
    machine_start(m, &h);
    assert_true(yado_machine_wait(m, PATIENCE_MS));
    assert_int_equal(fault.fired, 1);
    assert_int_equal(yado_machine_state(m), YADO_STATE_ERROR);
    check_error(&h.start_error, f->code, f->answer < 0 ? -f->answer : 0, f->words);
    machine_start(m, &h);
    assert_int_equal(yado_machine_state(m), YADO_STATE_RUNNING);
    yado_machine_free(m);
    unlink(kernel);
}

static void test_machine_does_not_start(void **state)
{
    static const struct open_fault memory_faults[] = {
        { KVM_SET_USER_MEMORY_REGION, 0, -ENOMEM, YADO_ERR_MEMORY, "32 MiB of memory at 0" },
        { KVM_SET_USER_MEMORY_REGION, 0, -EINVAL, YADO_ERR_HOST, "32 MiB of memory at 0" },
    };

    (void)state;
    for (size_t i = 0; i < array_size(open_faults); i++)
        start_fails(&open_faults[i], MIB(32));
    for (size_t i = 0; i < array_size(memory_faults); i++)
        start_fails(&memory_faults[i], MIB(32));
}

/* A machine with memory on both sides of the gap below 4 GiB needs two slots, and the kernel has one. */
static void test_machine_wants_more_slots(void **state)
{
    static const struct open_fault one_slot = { KVM_CHECK_EXTENSION, KVM_CAP_NR_MEMSLOTS, 1,
                                                YADO_ERR_UNSUPPORTED,
                                                "no memory slot is left for 1024 MiB at 0x100000000" };

    (void)state;
    if (memory_facts_get().total < GIB(4))
        skip();
    start_fails(&one_slot, GIB(4));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_open_fails),
        cmocka_unit_test(test_open_interrupted),
        cmocka_unit_test(test_state_not_told),
        cmocka_unit_test(test_memory_refused),
        cmocka_unit_test(test_run_fails),
        cmocka_unit_test(test_run_interrupted),
        cmocka_unit_test(test_stop_is_told),
        cmocka_unit_test(test_signal_mask_refused),
        cmocka_unit_test(test_machine_fails),
        cmocka_unit_test(test_machine_does_not_start),
        cmocka_unit_test(test_machine_wants_more_slots),
    };
    struct yado_error err = YADO_ERROR_INIT;

    if (!engine_kvm.available(&err)) {
        printf("skipped: %s\n", err.message);
        return 77; /* meson: skipped */
    }
    return cmocka_run_group_tests_name("kvm faults", tests, NULL, NULL);
}
