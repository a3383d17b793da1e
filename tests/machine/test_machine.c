/* A machine on a stand-in engine whose "guest" is a C function on the CPU's thread. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "machine/machine.h"
#include "machine/pc_layout.h"
#include "tiny_kernel.h"

/* ---- the stand-in engine ---- */

struct engine_vcpu {
    struct engine_vm *vm;
    unsigned index;
    sem_t wake;
    atomic_bool kicked;
    atomic_uint runs;
    struct x86_state state;
    unsigned states_set;
};

struct engine_vm {
    struct engine_config cfg;
    struct engine_vcpu cpus[4];
    uint64_t mapped;
    struct engine_memslot low; /* guest physical 0 */
};

/* What CPU 0's guest does, once per start of the guest. Sets out->kind if run() shall return with it. */
typedef void (*guest_fn)(struct engine_vcpu *cpu, struct exit *out, struct yado_error *err);

static struct {
    guest_fn guest;
    struct engine_vm *vm; /* the last that was opened */
    unsigned closed, stood_still;
    uint64_t seen[3]; /* by guest_looks_around; asserted on the test's own thread */
} fake;               /* a test's own state: one machine at a time */

static bool fake_available(struct yado_error *err)
{
    (void)err;
    return true;
}

static bool fake_open(struct engine_vm **out, const struct engine_config *cfg, struct yado_error *err)
{
    struct engine_vm *vm = calloc(1, sizeof(*vm));

    (void)err;
    vm->cfg = *cfg;
    for (unsigned i = 0; i < cfg->vcpu_count; i++) {
        vm->cpus[i].vm = vm;
        vm->cpus[i].index = i;
        sem_init(&vm->cpus[i].wake, 0, 0);
    }
    fake.vm = *out = vm;
    return true;
}

static void fake_close(struct engine_vm *vm)
{
    fake.closed++;
    free(vm);
}

static bool fake_map(struct engine_vm *vm, const struct engine_memslot *slot, struct yado_error *err)
{
    (void)err;
    vm->mapped += slot->len;
    if (!slot->gpa)
        vm->low = *slot;
    return true;
}

static struct engine_vcpu *fake_vcpu(struct engine_vm *vm, unsigned index)
{
    return &vm->cpus[index];
}

static void fake_run(struct engine_vcpu *cpu, struct exit *out, struct yado_error *err)
{
    out->kind = EXIT_KICKED;
    if (cpu->index == 0 && atomic_fetch_add(&cpu->runs, 1) == cpu->states_set - 1) {
        fake.guest(cpu, out, err);
        if (out->kind != EXIT_KICKED)
            return;
    }
    while (!atomic_exchange(&cpu->kicked, false))
        sem_wait(&cpu->wake);
}

static void fake_kick(struct engine_vcpu *cpu)
{
    atomic_store(&cpu->kicked, true);
    sem_post(&cpu->wake);
}

static bool fake_get_state(struct engine_vcpu *cpu, struct x86_state *out, struct yado_error *err)
{
    (void)err;
    *out = cpu->state;
    return true;
}

static bool fake_set_state(struct engine_vcpu *cpu, const struct x86_state *in, struct yado_error *err)
{
    (void)err;
    cpu->state = *in;
    cpu->states_set++;
    atomic_store(&cpu->runs, cpu->states_set - 1);
    return true;
}

static void fake_msi(struct engine_vm *vm, uint64_t addr, uint32_t data)
{
    (void)vm;
    (void)addr;
    (void)data;
}

static void fake_written(struct engine_vm *vm, uint64_t gpa, uint64_t len)
{
    (void)vm;
    (void)gpa;
    (void)len;
}

static uint64_t fake_tsc_khz(struct engine_vm *vm)
{
    (void)vm;
    return 1000000;
}

static void fake_counters(struct engine_vm *vm, void (*fn)(void *ctx, const char *name, uint64_t value),
                          void *ctx)
{
    (void)vm;
    fn(ctx, "answers", 42);
}

static void fake_stood_still(struct engine_vm *vm)
{
    (void)vm;
    fake.stood_still++;
}

static const struct engine_ops fake_engine = {
    .name = "fake",
    .ram_in_file = true,
    .available = fake_available,
    .open = fake_open,
    .close = fake_close,
    .map = fake_map,
    .vcpu = fake_vcpu,
    .run = fake_run,
    .kick = fake_kick,
    .get_state = fake_get_state,
    .set_state = fake_set_state,
    .msi = fake_msi,
    .memory_written = fake_written,
    .stood_still = fake_stood_still,
    .tsc_khz = fake_tsc_khz,
    .counters = fake_counters,
};

/* ---- what guests do ---- */

static uint64_t guest_io(struct engine_vcpu *cpu, enum exit_kind kind, uint64_t addr, uint8_t width,
                         bool is_write, uint64_t value)
{
    struct exit x = { .kind = kind, .addr = addr, .width = width, .is_write = is_write, .data = value };

    cpu->vm->cfg.host.io(cpu->vm->cfg.host.ctx, cpu->index, &x);
    return x.data;
}

static void guest_out(struct engine_vcpu *cpu, uint16_t port, uint8_t width, uint64_t value)
{
    guest_io(cpu, EXIT_PORT, port, width, true, value);
}

static void guest_power_off(struct engine_vcpu *cpu, struct exit *out, struct yado_error *err)
{
    (void)out;
    (void)err;
    guest_out(cpu, 0x604, 2, 0x3400); /* PM1 control: SLP_TYP 5, SLP_EN */
}

static void ioapic_pin(struct engine_vcpu *cpu, unsigned pin, uint32_t low)
{
    guest_io(cpu, EXIT_MMIO, PC_IOAPIC_BASE, 4, true, 0x10 + 2 * pin);
    guest_io(cpu, EXIT_MMIO, PC_IOAPIC_BASE + 0x10, 4, true, low);
}

static void guest_panic_reset(struct engine_vcpu *cpu, struct exit *out, struct yado_error *err)
{
    (void)out;
    (void)err;
    ioapic_pin(cpu, 9, 0x31);
    guest_out(cpu, 0xcf9, 1, 6);
}

static void guest_early_reset(struct engine_vcpu *cpu, struct exit *out, struct yado_error *err)
{
    (void)out;
    (void)err;
    guest_out(cpu, 0x64, 1, 0xfe); /* the keyboard controller's reset line */
}

/* Reboots in order the first time, powers off the second. */
static void guest_reboot(struct engine_vcpu *cpu, struct exit *out, struct yado_error *err)
{
    if (cpu->states_set > 1) {
        guest_power_off(cpu, out, err);
        return;
    }
    ioapic_pin(cpu, 9, 0x31);
    ioapic_pin(cpu, 9, 0x10000);
    guest_out(cpu, 0xcf9, 1, 6);
}

static void guest_pvpanic(struct engine_vcpu *cpu, struct exit *out, struct yado_error *err)
{
    (void)out;
    (void)err;
    guest_out(cpu, PC_PVPANIC_PORT, 1, 1);
}

static void guest_triple_fault(struct engine_vcpu *cpu, struct exit *out, struct yado_error *err)
{
    (void)cpu;
    (void)err;
    *out = (struct exit){ .kind = EXIT_SHUTDOWN, .rip = 0x1234 };
}

static void guest_engine_fault(struct engine_vcpu *cpu, struct exit *out, struct yado_error *err)
{
    (void)cpu;
    err->code = YADO_ERR_ENGINE;
    strcpy(err->message, "out of code memory");
    *out = (struct exit){ .kind = EXIT_FAULT };
}

static void guest_idle(struct engine_vcpu *cpu, struct exit *out, struct yado_error *err)
{
    (void)cpu;
    (void)out;
    (void)err;
}

static void guest_says_hi(struct engine_vcpu *cpu, struct exit *out, struct yado_error *err)
{
    guest_out(cpu, PC_UART_PORT, 1, 'h');
    guest_out(cpu, PC_UART_PORT, 1, 'i');
    guest_power_off(cpu, out, err);
}

/* An unclaimed port, the bridge, the device after it. */
static void guest_looks_around(struct engine_vcpu *cpu, struct exit *out, struct yado_error *err)
{
    fake.seen[0] = guest_io(cpu, EXIT_PORT, 0x1234, 1, false, 0);
    fake.seen[1] = guest_io(cpu, EXIT_MMIO, PC_ECAM_BASE, 4, false, 0);
    fake.seen[2] = guest_io(cpu, EXIT_MMIO, PC_ECAM_BASE + (1 << 15), 4, false, 0);
    guest_power_off(cpu, out, err);
}

/* ---- the test bench ---- */

struct bench {
    struct machine *m;
    sem_t attention;
    char kernel[64];
    int kernel_fd;
    struct board_devices devices;
};

static void on_attention(void *ctx)
{
    struct bench *b = ctx;

    sem_post(&b->attention);
}

/* The engine finds RAM in the file, too, with the kernel in it. */
static void check_file(const struct engine_memslot *slot)
{
    static const uint8_t want[] = { TINY_HALT };
    uint8_t code[sizeof(want)];

    if (!slot->in_file) {
        print_message("RAM cannot be a memory file here\n");
        return;
    }
    assert_int_equal(pread(slot->fd, code, sizeof(code), (off_t)(slot->offset + TINY_ENTRY)), sizeof(code));
    assert_memory_equal(code, want, sizeof(want));
}

static void bench_open(struct bench *b, guest_fn guest, bool stop_on_reset)
{
    static const uint8_t code[] = { TINY_HALT };
    struct yado_error err = YADO_ERROR_INIT;
    struct machine_config cfg;

    fake.guest = guest;
    fake.closed = 0;
    sem_init(&b->attention, 0, 0);
    tiny_kernel_write(b->kernel, code, sizeof(code));
    b->kernel_fd = open(b->kernel, O_RDONLY);
    unlink(b->kernel);
    cfg = (struct machine_config){
        .engine = &fake_engine,
        .engine_options = { .direct = true },
        .vcpu_count = 2,
        .ram_size = MIB(64),
        .boot = { .kernel = { "tiny", b->kernel_fd }, .initrd = { NULL, -1 }, .cmdline = "test" },
        .devices = &b->devices,
        .stop_on_reset = stop_on_reset,
        .attention = on_attention,
        .ctx = b,
    };
    b->m = machine_new(&cfg, &err);
    if (!b->m)
        fail_msg("%s", err.message);
    assert_int_equal(fake.vm->mapped, MIB(64));
    check_file(&fake.vm->low);
    assert_int_equal(fake.vm->cpus[0].state.rip, TINY_ENTRY);
    assert_int_equal(fake.vm->cpus[1].state.mp_state, X86_MP_WAIT_SIPI);
    assert_true(machine_start(b->m, &err));
}

static void bench_close(struct bench *b)
{
    machine_free(b->m);
    assert_int_equal(fake.closed, 1);
    close(b->kernel_fd);
    sem_destroy(&b->attention);
}

static bool attention_wait(struct bench *b)
{
    struct timespec end;

    clock_gettime(CLOCK_REALTIME, &end);
    end.tv_sec += 10;
    return sem_timedwait(&b->attention, &end) == 0;
}

static void expect_end(guest_fn guest, bool stop_on_reset, enum machine_end end, const char *says)
{
    struct bench b = { 0 };
    struct machine_status st;

    bench_open(&b, guest, stop_on_reset);
    assert_true(attention_wait(&b));
    machine_service(b.m, &st);
    assert_int_equal(st.end, end);
    if (says)
        assert_non_null(strstr(st.error.message, says));
    else
        assert_int_equal(st.error.code, YADO_OK);
    bench_close(&b);
}

static void test_power_off(void **state)
{
    (void)state;
    expect_end(guest_power_off, false, MACHINE_POWER_OFF, NULL);
}

static void test_panic_reset(void **state)
{
    (void)state;
    expect_end(guest_panic_reset, false, MACHINE_PANIC, "without shutting down");
}

static void test_early_reset(void **state)
{
    (void)state;
    expect_end(guest_early_reset, false, MACHINE_PANIC, "without shutting down");
}

static void test_pvpanic(void **state)
{
    (void)state;
    expect_end(guest_pvpanic, false, MACHINE_PANIC, "reported a panic");
}

static void test_triple_fault(void **state)
{
    (void)state;
    expect_end(guest_triple_fault, false, MACHINE_TRIPLE_FAULT, "triple fault of cpu 0 at 0x1234");
}

static void test_engine_fault(void **state)
{
    (void)state;
    expect_end(guest_engine_fault, false, MACHINE_FAILURE, "out of code memory");
}

static void test_stop_on_reset(void **state)
{
    (void)state;
    expect_end(guest_reboot, true, MACHINE_RESET, NULL);
}

static void test_looks_around(void **state)
{
    struct bench b = { .devices = { .entropy_count = 1 } };
    struct machine_status st;

    (void)state;
    bench_open(&b, guest_looks_around, false);
    assert_true(attention_wait(&b));
    machine_service(b.m, &st);
    assert_int_equal(st.end, MACHINE_POWER_OFF);
    assert_int_equal(fake.seen[0], 0xff);
    assert_int_equal(fake.seen[1], 0x00081b36);
    assert_int_equal(fake.seen[2], 0x10441af4); /* virtio entropy (virtio 1.2, 4.1.2) */
    bench_close(&b);
}

static void test_reboot(void **state)
{
    struct bench b = { 0 };
    struct machine_status st;

    (void)state;
    bench_open(&b, guest_reboot, false);
    assert_true(attention_wait(&b));
    machine_service(b.m, &st);
    assert_int_equal(st.end, MACHINE_RUNS);
    assert_true(st.was_reset);
    assert_int_equal(fake.vm->cpus[0].states_set, 2);
    assert_true(attention_wait(&b));
    machine_service(b.m, &st);
    assert_int_equal(st.end, MACHINE_POWER_OFF);
    bench_close(&b);
}

static void test_pause(void **state)
{
    struct bench b = { 0 };
    struct machine_status st;
    struct timespec ms20 = { .tv_nsec = 20000000 };
    unsigned runs;

    (void)state;
    bench_open(&b, guest_idle, false);
    fake.stood_still = 0;
    for (int i = 0; i < 50; i++) {
        assert_int_equal(fake.stood_still, i);
        machine_pause(b.m);
        runs = atomic_load(&fake.vm->cpus[0].runs);
        if (i == 0)
            nanosleep(&ms20, NULL);
        assert_int_equal(atomic_load(&fake.vm->cpus[0].runs), runs);
        machine_resume(b.m);
    }
    machine_service(b.m, &st); /* nothing was asked for */
    assert_int_equal(st.end, MACHINE_RUNS);
    assert_false(st.was_reset);
    bench_close(&b); /* while it runs */
}

/* A pause that is made longer: all CPUs have the same time, as much later. */
static void test_time_skip(void **state)
{
    struct bench b = { 0 };
    struct yado_error err = YADO_ERROR_INIT;
    uint64_t tsc;

    (void)state;
    bench_open(&b, guest_idle, false);
    machine_pause(b.m);
    tsc = fake.vm->cpus[0].state.tsc = 12345;
    fake.vm->cpus[1].state.tsc = 12399;
    assert_true(machine_time_skip(b.m, 3600000000000u, &err));
    assert_int_equal(fake.vm->cpus[0].state.tsc, tsc + 3600000000000u); /* of 1 GHz */
    assert_int_equal(fake.vm->cpus[1].state.tsc, tsc + 3600000000000u);
    machine_resume(b.m);
    bench_close(&b);
}

static void test_uart(void **state)
{
    struct bench b = { 0 };
    char buf[8];
    int out[2];

    (void)state;
    assert_int_equal(pipe(out), 0);
    b.devices.serials[0] =
        (struct board_serial){ .kind = BOARD_UART,
                               .ends = { .read_fd = -1, .write_fd = out[1], .listen_fd = -1 } };
    b.devices.serial_count = 1;
    bench_open(&b, guest_says_hi, false);
    assert_true(attention_wait(&b));
    bench_close(&b);
    assert_int_equal(read(out[0], buf, sizeof(buf)), 2);
    assert_memory_equal(buf, "hi", 2);
    close(out[0]);
    close(out[1]);
}

/* A missing kernel file is found out at the reboot. */
static void test_reboot_fails(void **state)
{
    struct bench b = { 0 };
    struct machine_status st;

    (void)state;
    bench_open(&b, guest_reboot, false);
    assert_true(attention_wait(&b));
    assert_int_equal(dup2(open("/dev/null", O_RDONLY), b.kernel_fd), b.kernel_fd);
    machine_service(b.m, &st);
    assert_int_equal(st.end, MACHINE_FAILURE);
    assert_non_null(strstr(st.error.message, "cannot be rebooted: tiny"));
    bench_close(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_power_off),     cmocka_unit_test(test_panic_reset),
        cmocka_unit_test(test_early_reset),   cmocka_unit_test(test_pvpanic),
        cmocka_unit_test(test_triple_fault),  cmocka_unit_test(test_engine_fault),
        cmocka_unit_test(test_stop_on_reset), cmocka_unit_test(test_looks_around),
        cmocka_unit_test(test_reboot),        cmocka_unit_test(test_pause),
        cmocka_unit_test(test_time_skip),     cmocka_unit_test(test_uart),
        cmocka_unit_test(test_reboot_fails),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
