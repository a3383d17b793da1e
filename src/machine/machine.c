/* Where memory, engine, board and CPU threads meet.
 *
 * Theory of operation. The machine has no control thread of its own; its owner's is the one that makes,
 * pauses, resets and frees it. What the guest does to the whole machine (power off, reset, a panic report, a
 * CPU that shut down) is noted on a vCPU thread as a bit, all CPUs are asked to park, and the owner is told
 * by attention(). machine_service, on the control thread, waits until no CPU runs, reads the bits and acts.
 * So a reset finds the machine at rest, and a power off followed by more guest instructions cannot happen
 * beyond the few that other CPUs get through on their way out.
 *
 * Several bits at once: a failure of ours first, then debug exit and power off (the guest's last word), then
 * what looks like a crash.
 *
 * A reboot resets the board and the CPUs and loads kernel and initrd again from the files that were opened at
 * the start. RAM keeps what it held otherwise, as on a PC.
 *
 * Order of making: memory, board, engine, CPUs (the board sends interrupts to the engine only once the guest
 * runs). Order of ending: CPU threads, then devices (their last completions may still signal interrupts),
 * then engine, then memory. */
#include "machine/machine.h"

#include <inttypes.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "machine/msi_route.h"
#include "machine/pc_layout.h"
#include "machine/reset_rom.h"
#include "machine/vcpu_loop.h"

enum {
    ASK_POWER_OFF = 1 << BOARD_POWER_OFF,
    ASK_RESET = 1 << BOARD_RESET,
    ASK_PANIC = 1 << BOARD_PANIC,
    ASK_SHUTDOWN = 8,
    ASK_FAULT = 16,
    ASK_DEBUG_EXIT = 32,
};

struct machine {
    struct machine_config cfg;
    struct gmem *mem;
    struct board *board;
    struct engine_vm *vm;
    struct vcpus *vcpus;
    uint64_t acpi_len;
    bool paused;
    bool legacy;  /* the board has the older chips */
    uint8_t *rom; /* then: what stands at the reset vector */

    _Atomic uint32_t asked; /* ASK_* */
    _Atomic bool exit_taken;
    uint32_t exit_value; /* as ended_cpu */
    /* Of the first CPU that ended; written by it alone, read after it parked. */
    _Atomic bool ended_taken;
    unsigned ended_cpu;
    uint64_t ended_rip;
    struct yado_error ended_error;
};

/* ---- on vCPU threads ---- */

static void machine_ask(struct machine *m, uint32_t what)
{
    atomic_fetch_or(&m->asked, what);
    board_hurry(m->board, true);
    vcpus_ask_park(m->vcpus);
    m->cfg.attention(m->cfg.ctx);
}

static void on_board_request(void *ctx, enum board_request what)
{
    machine_ask(ctx, 1u << what);
}

static void on_debug_exit(void *ctx, uint32_t value)
{
    struct machine *m = ctx;

    if (!atomic_exchange(&m->exit_taken, true))
        m->exit_value = value;
    machine_ask(m, ASK_DEBUG_EXIT);
}

static void on_intr(void *ctx, unsigned n, bool level)
{
    struct machine *m = ctx;

    (void)n;
    if (m->vm && m->cfg.engine->intr)
        m->cfg.engine->intr(m->vm, level);
}

static void on_vcpu_ended(void *ctx, unsigned index, const struct exit *exit, const struct yado_error *err)
{
    struct machine *m = ctx;

    if (!atomic_exchange(&m->ended_taken, true)) {
        m->ended_cpu = index;
        m->ended_rip = exit->rip;
        m->ended_error = *err;
    }
    log_line(m->cfg.log, LOG_CPU, "cpu %u ended: %s at %#" PRIx64, index,
             exit->kind == EXIT_SHUTDOWN ? "triple fault" : "engine fault", exit->rip);
    machine_ask(m, exit->kind == EXIT_SHUTDOWN ? ASK_SHUTDOWN : ASK_FAULT);
}

static void on_msi(void *ctx, uint64_t addr, uint32_t data)
{
    struct machine *m = ctx;

    if (m->vm)
        m->cfg.engine->msi(m->vm, addr, data);
}

static void on_msi_from(void *ctx, struct msi_source *src, uint64_t addr, uint32_t data)
{
    struct machine *m = ctx;

    if (m->vm)
        msi_route_send(m->cfg.engine, m->vm, src, addr, data);
}

static void on_msi_forget(void *ctx, struct msi_source *src)
{
    struct machine *m = ctx;

    if (m->vm)
        msi_route_forget(m->cfg.engine, m->vm, src);
}

static bool on_doorbell_add(void *ctx, uint64_t addr, int fd)
{
    struct machine *m = ctx;
    const struct engine_doorbell bell = { .addr = addr, .fd = fd };
    struct yado_error err = YADO_ERROR_INIT;

    if (m->cfg.engine->doorbell_add(m->vm, &bell, &err))
        return true;
    log_line(m->cfg.log, LOG_MACHINE, "no doorbell: %s", err.message);
    return false;
}

static void on_doorbell_drop(void *ctx, uint64_t addr, int fd)
{
    struct machine *m = ctx;
    const struct engine_doorbell bell = { .addr = addr, .fd = fd };

    m->cfg.engine->doorbell_drop(m->vm, &bell);
}

static void on_memory_written(void *ctx, uint64_t gpa, uint64_t len)
{
    struct machine *m = ctx;

    m->cfg.engine->memory_written(m->vm, gpa, len);
}

static void on_net_lost(void *ctx, unsigned index, const struct yado_error *why)
{
    struct machine *m = ctx;

    if (m->cfg.net_lost)
        m->cfg.net_lost(m->cfg.ctx, index, why);
}

static void on_port_open(void *ctx, unsigned device, unsigned port, bool is_open)
{
    struct machine *m = ctx;

    if (m->cfg.port_open)
        m->cfg.port_open(m->cfg.ctx, device, port, is_open);
}

/* ---- making ---- */

static bool board_make(struct machine *m, struct yado_error *err)
{
    struct board_config cfg = {
        .vcpu_count = m->cfg.vcpu_count,
        .mem = m->mem,
        .msi = { .send = on_msi, .send_from = on_msi_from, .forget = on_msi_forget, .ctx = m },
        .legacy = m->legacy,
        .debug_exit = m->cfg.debug_exit,
        .intr = { .set = on_intr, .ctx = m },
        .clock = clock_host(),
        .log = m->cfg.log,
        .devices = m->cfg.devices,
        .request = on_board_request,
        .debug_exited = on_debug_exit,
        .net_lost = on_net_lost,
        .port_open = on_port_open,
        .ctx = m,
    };

    m->board = board_new(&cfg, err);
    return m->board != NULL;
}

static bool rom_make(struct machine *m, struct yado_error *err)
{
    struct engine_memslot slot = { .gpa = PC_RESET_ROM_BASE, .len = RESET_ROM_LEN };

    if (!m->legacy)
        return true;
    m->rom = reset_rom_new(err);
    slot.hva = m->rom;
    return m->rom && m->cfg.engine->map(m->vm, &slot, err);
}

static bool engine_make(struct machine *m, struct yado_error *err)
{
    const struct engine_ops *ops = m->cfg.engine;
    struct engine_config cfg = {
        .vcpu_count = m->cfg.vcpu_count,
        .options = m->cfg.engine_options,
        .host = { .io = board_io,
                  .eoi = board_eoi,
                  .acknowledge = m->legacy ? board_acknowledge : NULL,
                  .ctx = m->board },
        .log = m->cfg.log,
    };

    if (!ops->open(&m->vm, &cfg, err))
        return false;
    for (unsigned i = 0; i < gmem_slot_count(m->mem); i++) {
        struct gmem_slot s = gmem_slot_at(m->mem, i);
        struct engine_memslot slot = { .gpa = s.gpa,
                                       .len = s.len,
                                       .hva = s.hva,
                                       .in_file = gmem_fd(m->mem) >= 0,
                                       .fd = gmem_fd(m->mem),
                                       .offset = s.offset };

        if (!ops->map(m->vm, &slot, err))
            return false;
    }
    if (!rom_make(m, err))
        return false;
    gmem_set_write_hook(m->mem, on_memory_written, m);
    if (ops->doorbell_add)
        board_set_doorbell_sink(m->board, (struct doorbell_sink){ on_doorbell_add, on_doorbell_drop, m });
    return true;
}

static bool vcpus_make(struct machine *m, struct yado_error *err)
{
    struct vcpus_config cfg = {
        .engine = m->cfg.engine, .vm = m->vm, .count = m->cfg.vcpu_count, .ended = on_vcpu_ended, .ctx = m
    };

    m->vcpus = vcpus_new(&cfg, err);
    return m->vcpus != NULL;
}

/* Loads what the guest starts with and puts the CPUs at their start. No vCPU runs. */
static bool boot(struct machine *m, struct yado_error *err)
{
    struct x86_state state;

    if (m->rom) {
        reset_rom_fill(m->rom);
        on_memory_written(m, PC_RESET_ROM_BASE, RESET_ROM_LEN);
    }
    m->acpi_len = board_write_acpi(m->board, err);
    if (!m->acpi_len || !boot_files_load(&m->cfg.boot, m->mem, m->acpi_len, &state, err))
        return false;
    for (unsigned i = 0; i < m->cfg.vcpu_count; i++) {
        if (i > 0) {
            x86_state_reset(&state, i);
            state.mp_state = X86_MP_WAIT_SIPI;
        }
        state.tsc_any = true;
        if (!m->cfg.engine->set_state(m->cfg.engine->vcpu(m->vm, i), &state, err))
            return false;
    }
    return true;
}

struct machine *machine_new(const struct machine_config *cfg, struct yado_error *err)
{
    struct machine *m = calloc(1, sizeof(*m));

    if (!m) {
        err_set(err, YADO_ERR_HOST, "out of memory");
        return NULL;
    }
    m->cfg = *cfg;
    m->legacy = boot_files_multiboot(&cfg->boot.kernel);
    if (m->legacy && !cfg->engine->intr)
        log_line(cfg->log, LOG_MACHINE, "the %s engine does not take the 8259s' interrupts",
                 cfg->engine->name);
    m->mem = gmem_new(cfg->ram_size, PC_LOW_RAM_END, cfg->engine->ram_in_file && cfg->engine_options.direct, err);
    if (!m->mem || !board_make(m, err) || !engine_make(m, err) || !vcpus_make(m, err) || !boot(m, err)) {
        machine_free(m);
        return NULL;
    }
    return m;
}

bool machine_start(struct machine *m, struct yado_error *err)
{
    if (!board_start(m->board, err) || !vcpus_start(m->vcpus, err))
        return false;
    vcpus_unpark(m->vcpus);
    return true;
}

void machine_free(struct machine *m)
{
    if (!m)
        return;
    if (m->board)
        board_hurry(m->board, true);
    vcpus_free(m->vcpus);
    board_free(m->board);
    if (m->vm)
        m->cfg.engine->close(m->vm);
    reset_rom_free(m->rom);
    gmem_free(m->mem);
    free(m);
}

/* ---- running ---- */

static void park(struct machine *m)
{
    board_hurry(m->board, true);
    vcpus_park(m->vcpus);
}

static void unpark(struct machine *m)
{
    board_hurry(m->board, false);
    vcpus_unpark(m->vcpus);
}

void machine_pause(struct machine *m)
{
    m->paused = true;
    park(m);
}

bool machine_time_skip(struct machine *m, uint64_t ns, struct yado_error *err)
{
    const struct engine_ops *ops = m->cfg.engine;
    struct x86_state state;
    uint64_t tsc = 0;

    for (unsigned i = 0; i < m->cfg.vcpu_count; i++) {
        if (!ops->get_state(ops->vcpu(m->vm, i), &state, err))
            return false;
        /* All get the first one's, so that they stay synchronous. */
        if (i == 0)
            tsc = state.tsc + (uint64_t)((unsigned __int128)ns * ops->tsc_khz(m->vm) / 1000000);
        state.tsc = tsc;
        if (!ops->set_state(ops->vcpu(m->vm, i), &state, err))
            return false;
    }
    return !ops->clock_set || ops->clock_set(m->vm, ops->clock_get(m->vm) + ns, err);
}

void machine_resume(struct machine *m)
{
    if (m->paused)
        m->cfg.engine->stood_still(m->vm);
    m->paused = false;
    /* Something that the guest asked for before the pause comes first: its service, which is due, lets it go
     * on. */
    if (!atomic_load(&m->asked))
        unpark(m);
}

static bool machine_reboot(struct machine *m, struct yado_error *err)
{
    log_line(m->cfg.log, LOG_MACHINE, "the guest reboots");
    return board_reset(m->board, err) && boot(m, err);
}

static enum machine_end end_of(struct machine *m, uint32_t asked, struct yado_error *err)
{
    if (asked & ASK_FAULT) {
        *err = m->ended_error;
        err_set(err, YADO_ERR_ENGINE, "cpu %u: the %s engine cannot go on at %#" PRIx64, m->ended_cpu,
                m->cfg.engine->name, m->ended_rip);
        return MACHINE_FAILURE;
    }
    if (asked & ASK_DEBUG_EXIT)
        return MACHINE_DEBUG_EXIT;
    if (asked & ASK_POWER_OFF)
        return MACHINE_POWER_OFF;
    if (asked & ASK_PANIC) {
        err_set(err, YADO_ERR_GUEST, "the guest kernel reported a panic");
        return MACHINE_PANIC;
    }
    if (asked & ASK_SHUTDOWN) {
        err_set(err, YADO_ERR_GUEST, "the guest crashed: triple fault of cpu %u at %#" PRIx64, m->ended_cpu,
                m->ended_rip);
        return MACHINE_TRIPLE_FAULT;
    }
    if (!board_reset_was_orderly(m->board)) {
        err_set(
            err, YADO_ERR_GUEST,
            "the guest crashed: it reset the machine without shutting down, as a kernel does that panics");
        return MACHINE_PANIC;
    }
    return m->cfg.stop_on_reset ? MACHINE_RESET : MACHINE_RUNS;
}

void machine_service(struct machine *m, struct machine_status *out)
{
    uint32_t asked;

    *out = (struct machine_status){ .end = MACHINE_RUNS };
    if (!atomic_load(&m->asked))
        return;
    park(m);
    asked = atomic_exchange(&m->asked, 0);
    out->end = end_of(m, asked, &out->error);
    out->exit_value = m->exit_value;
    if (out->end != MACHINE_RUNS)
        return;
    if (!machine_reboot(m, &out->error)) {
        err_prepend(&out->error, "the guest cannot be rebooted");
        out->end = MACHINE_FAILURE;
        return;
    }
    out->was_reset = true;
    if (!m->paused)
        unpark(m);
}

void machine_press_power_button(struct machine *m)
{
    board_press_power_button(m->board);
}

void machine_console_size(struct machine *m, unsigned index, uint16_t columns, uint16_t rows)
{
    board_console_size(m->board, index, columns, rows);
}

void machine_port_size(struct machine *m, unsigned device, unsigned port, uint16_t columns, uint16_t rows)
{
    board_port_size(m->board, device, port, columns, rows);
}

bool machine_port_attach(struct machine *m, unsigned device, unsigned port, const struct pump_ends *ends,
                         struct yado_error *err)
{
    return board_port_attach(m->board, device, port, ends, err);
}

void machine_balloon_target(struct machine *m, uint64_t size)
{
    board_balloon_target(m->board, size);
}

bool machine_socket_answer(struct machine *m, uint64_t id, int fd)
{
    return board_socket_answer(m->board, id, fd);
}

bool machine_socket_connect(struct machine *m, uint32_t guest_port, int fd, uint64_t tag,
                            struct yado_error *err)
{
    return board_socket_connect(m->board, guest_port, fd, tag, err);
}

bool machine_net_forward(struct machine *m, unsigned index, const struct net_forward *f, bool add,
                         struct yado_error *err)
{
    return board_net_forward(m->board, index, f, add, err);
}

bool machine_net_attach(struct machine *m, unsigned index, const struct net_config *cfg,
                        struct yado_error *err)
{
    return board_net_attach(m->board, index, cfg, err);
}

void machine_counters(struct machine *m, void (*fn)(void *ctx, const char *name, uint64_t value), void *ctx)
{
    m->cfg.engine->counters(m->vm, fn, ctx);
}
