/* The engine seam: what runs vCPUs and their memory for our own machine. Implementations: kvm, translator.
 *
 * Interrupts enter as MSI messages only; the engine owns the local APICs. Halted vCPUs (HLT, wait for SIPI)
 * wait inside run(). Port and memory-mapped accesses call engine_host.io in place, on the vCPU's thread, with
 * no engine lock held. Unless said otherwise a call is for the machine's thread while no vCPU runs. */
#ifndef ENGINE_ENGINE_H
#define ENGINE_ENGINE_H

#include "engine/exit.h"
#include "util/err.h"
#include "util/log.h"
#include "x86/state.h"

struct engine_vm;
struct engine_vcpu;

struct engine_host {
    void (*io)(void *ctx, unsigned vcpu, struct exit *access); /* PORT and MMIO; fills data for reads */
    /* The guest signalled end of interrupt for a level-triggered vector (for the IO-APIC). Any vCPU thread.
     */
    void (*eoi)(void *ctx, unsigned vector);
    /* A vCPU takes the interrupt that `intr` announced: its vector. vCPU thread. NULL: the board has no
     * 8259s. */
    uint8_t (*acknowledge)(void *ctx);
    void *ctx;
};

/* Whether user code may run on the host CPU as it is (translator/direct.c). */
enum engine_direct {
    ENGINE_DIRECT_OFF,
    ENGINE_DIRECT_WHEN_HOT, /* where that pays */
    ENGINE_DIRECT_ALWAYS,   /* at each return to it; for tests */
};

/* What the translator can be told. All zero: nothing special. */
struct engine_options {
    uint64_t code_cache_size; /* bytes of translated code, 0: default */
    bool perf_map;            /* say in /tmp/perf-PID.map where blocks are */
    bool fast_blocks;         /* make every block fast at once, however seldom it runs; for tests */
    enum engine_direct direct;
    bool shadow;              /* check every block against the general path; one vCPU */
};

struct engine_config {
    unsigned vcpu_count; /* APIC ids 0 .. vcpu_count - 1 */
    struct engine_host host;
    const struct log *log;
    struct engine_options options;
};

struct engine_memslot {
    uint64_t gpa, len;
    void *hva;    /* page aligned, stays mapped until close */
    bool in_file; /* it is pages of the memory file `fd`, which is open until close, from `offset` on */
    int fd;
    uint64_t offset;
};

/* A place that the guest writes to in order to wake a device. */
struct engine_doorbell {
    uint64_t addr; /* port number or guest physical address */
    /* Bytes: 1, 2, 4 or 8; 0: of any width, as far as the engine can. A write that the doorbell does not take
     * comes by engine_host.io. */
    uint8_t width;
    bool is_port;
    bool match_data; /* only writes of `data`; otherwise any value */
    uint64_t data;
    int fd; /* eventfd; the caller's, open until the doorbell is dropped */
};

struct engine_ops {
    const char *name;
    bool ram_in_file; /* wants RAM in a memory file, where the host has one, if options.direct is set */
    /* Whether this host can run it, with the reason if not. */
    bool (*available)(struct yado_error *err);
    /* Whether an engine that is available should be taken by itself, with the reason if not. NULL: always.
     * May take some milliseconds. */
    bool (*good)(struct yado_error *why);
    bool (*open)(struct engine_vm **out, const struct engine_config *cfg, struct yado_error *err);
    void (*close)(struct engine_vm *vm); /* no vCPU runs; NULL is fine */
    bool (*map)(struct engine_vm *vm, const struct engine_memslot *slot, struct yado_error *err);
    struct engine_vcpu *(*vcpu)(struct engine_vm *vm, unsigned index); /* made by open */

    /* Runs until an exit that io cannot handle. Only on the one thread that the vCPU belongs to. */
    void (*run)(struct engine_vcpu *cpu, struct exit *out, struct yado_error *err);
    /* Makes run() return EXIT_KICKED soon, also if it is called just before run(). Any thread, signal safe.
     */
    void (*kick)(struct engine_vcpu *cpu);

    bool (*get_state)(struct engine_vcpu *cpu, struct x86_state *out, struct yado_error *err);
    bool (*set_state)(struct engine_vcpu *cpu, const struct x86_state *in, struct yado_error *err);
    void (*msi)(struct engine_vm *vm, uint64_t addr, uint32_t data); /* any thread */
    /* RAM was written by someone other than a vCPU. Any thread. */
    void (*memory_written)(struct engine_vm *vm, uint64_t gpa, uint64_t len);
    /* The guest did not run for a while, and its time went on: its watchdogs are told. An engine finds out by
     * itself when the whole process was stopped. */
    void (*stood_still)(struct engine_vm *vm);
    uint64_t (*tsc_khz)(struct engine_vm *vm);
    /* Counters for --trace / doctor: calls fn once per counter. Any thread. */
    void (*counters)(struct engine_vm *vm, void (*fn)(void *ctx, const char *name, uint64_t value),
                     void *ctx);

    /* ---- optional: NULL where an engine has no such thing, so that whoever uses one has another way too
     * ---- */

    /* From now on a write to eventfd `fd` sends this message, without a turn through the process. With an fd
     * that is set already: it sends another message. The fd stays the caller's, open until it is dropped. Any
     * thread. */
    bool (*irqfd_set)(struct engine_vm *vm, int fd, uint64_t addr, uint32_t data, struct yado_error *err);
    void (*irqfd_drop)(struct engine_vm *vm, int fd);
    /* A guest's write to the doorbell signals its fd instead of calling engine_host.io. Any thread. */
    bool (*doorbell_add)(struct engine_vm *vm, const struct engine_doorbell *bell, struct yado_error *err);
    void (*doorbell_drop)(struct engine_vm *vm, const struct engine_doorbell *bell);
    /* Begins or ends recording which pages of RAM are written. vCPUs may run. */
    bool (*dirty_track)(struct engine_vm *vm, bool on, struct yado_error *err);
    /* Ors the pages that were written since the last call into bits, one per 4 KiB page of the slot that
     * begins at gpa, lowest first, in words of 64, and forgets them. Writes of devices count
     * (memory_written). vCPUs may run. */
    bool (*dirty_take)(struct engine_vm *vm, uint64_t gpa, uint64_t *bits, struct yado_error *err);
    /* The output of the board's 8259s, wired to LINT0 of the local APICs. Any thread; takes no lock and calls
     * nothing back. */
    void (*intr)(struct engine_vm *vm, bool level);
    /* The paravirtual clock's time in ns, for saving and restoring. It runs on while the vCPUs do not. */
    uint64_t (*clock_get)(struct engine_vm *vm);
    bool (*clock_set)(struct engine_vm *vm, uint64_t ns, struct yado_error *err);
};

extern const struct engine_ops engine_kvm;
extern const struct engine_ops engine_translator;

#endif
