/* A machine: made from a configuration, started, paused, stopped.
 *
 * Threads. Every call may come from any thread. A machine has threads of its own for its CPUs and devices;
 * callbacks (completions and events) never run there, only on the caller's queue, which is one of
 *  - YADO_DELIVERY_DISPATCH: they wait until the program calls yado_machine_dispatch (or yado_machine_wait)
 * and run inside that call. yado_machine_event_fd tells a poll loop when to;
 *  - YADO_DELIVERY_THREAD: a thread that the library makes for this machine runs them.
 * Either way they run one at a time, in order, with no lock held, and may call everything here except
 * yado_machine_free and yado_machine_wait.
 *
 * States are those of Apple's framework and have its numbers:
 *
 *   STOPPED, ERROR --start--> STARTING --> RUNNING
 *   RUNNING --pause--> PAUSING --> PAUSED --resume--> RESUMING --> RUNNING
 *   RUNNING, PAUSED --stop--> STOPPING --> STOPPED
 *   PAUSED --save--> SAVING --> PAUSED        STOPPED --restore--> RESTORING --> PAUSED
 *   RUNNING --the guest powers off--> STOPPED
 *   RUNNING --the guest crashes, or cannot be run on--> ERROR
 *
 * A verb moves the state at once if the move is legal and returns; the work is done on a thread of the
 * machine; the completion tells how it ended. A verb in a state where it is not legal completes with
 * YADO_ERR_STATE. */
#ifndef YADO_MACHINE_H
#define YADO_MACHINE_H

#include <yado/base.h>
#include <yado/config.h>
#include <yado/host.h>

#ifdef __cplusplus
extern "C" {
#endif

struct yado_machine;

enum yado_state {
    YADO_STATE_STOPPED = 0,
    YADO_STATE_RUNNING = 1,
    YADO_STATE_PAUSED = 2,
    YADO_STATE_ERROR = 3, /* ended by a failure; may be started again */
    YADO_STATE_STARTING = 4,
    YADO_STATE_PAUSING = 5,
    YADO_STATE_RESUMING = 6,
    YADO_STATE_STOPPING = 7,
    YADO_STATE_SAVING = 8,
    YADO_STATE_RESTORING = 9,
};

/* Why a machine last went to STOPPED or ERROR. */
enum yado_stop_reason {
    YADO_STOP_NONE = 0,  /* it has not yet */
    YADO_STOP_HOST,      /* yado_machine_stop */
    YADO_STOP_POWER_OFF, /* the guest powered off */
    YADO_STOP_RESET,     /* the guest rebooted, and options.stop_on_reset was set */
    YADO_STOP_PANIC, /* the guest kernel panicked (state ERROR). How this is known: the reset came without the
                        interrupt controllers being shut down first, or the guest reported a panic */
    YADO_STOP_TRIPLE_FAULT, /* a CPU of the guest shut down (state ERROR) */
    YADO_STOP_FAILURE,      /* it could not start, or the host or the engine could not go on (state ERROR) */
    YADO_STOP_DEBUG_EXIT,   /* the guest wrote to the debug exit port (config.h) */
};

enum yado_event_kind {
    YADO_EVENT_STATE_CHANGED,      /* old_state and state */
    YADO_EVENT_GUEST_STOPPED,      /* the guest ended by itself; reason. After the state change to STOPPED */
    YADO_EVENT_STOPPED_WITH_ERROR, /* reason and error. After the state change to ERROR */
    YADO_EVENT_GUEST_RESET,        /* the guest rebooted and goes on; no state change */
    YADO_EVENT_NETWORK_DISCONNECTED, /* the attachment of network device `index` is gone for good; error says
                                        why. The guest sees the link go down. No state change */
    /* A program in the guest opened or closed port `port` of console `index`; it is closed when the guest
     * resets and when the machine stops. No state change. They alternate for each port; of a guest that opens
     * and closes faster than callbacks run, not each pair is told. */
    YADO_EVENT_CONSOLE_PORT_OPENED,
    YADO_EVENT_CONSOLE_PORT_CLOSED,
};

struct yado_event {
    enum yado_event_kind kind;
    enum yado_state old_state, state;
    enum yado_stop_reason reason;
    struct yado_error error; /* code YADO_OK if there is none */
    unsigned index;          /* of the device, in the order of the configuration */
    unsigned port;           /* of the console */
};

enum yado_delivery {
    YADO_DELIVERY_DISPATCH = 0,
    YADO_DELIVERY_THREAD = 1,
};

/* On the machine's queue. `err` is NULL on success and else valid until the callback returns. */
typedef void (*yado_completion)(void *ctx, const struct yado_error *err);

#define YADO_CODE_CACHE_MIN (2ull << 20)    /* bytes of translated code: at least ... */
#define YADO_CODE_CACHE_MAX (1024ull << 20) /* ... and at most */

/* Of the translator; other engines refuse all but zeros (YADO_ERR_UNSUPPORTED when the machine starts),
 * except for `direct`, which is how they run all code. All zero is the default. */
struct yado_engine_options {
    size_t size; /* sizeof(struct yado_engine_options), or 0 for the one of version 0.1 */
    /* How much memory translated code may take, in bytes: from YADO_CODE_CACHE_MIN to YADO_CODE_CACHE_MAX; 0:
     * 64 MiB. When it is full, translation begins anew. */
    uint64_t code_cache_size;
    /* Write /tmp/perf-PID.map, which tells profilers such as perf(1) what guest code is where. It stays
     * there. A file of that name that is not this user's own plain file is refused (YADO_ERR_FILE). */
    bool perf_map;
    /* Run every block twice, by the interpreter too, and compare: very slow, and with one CPU only. The first
     * difference is told in the trace category "cpu"; counters say how many blocks were compared
     * (shadow_compared), could not be (shadow_skipped: privileged, vector and string instructions, device
     * accesses) and differed (shadow_different). The guest goes on with the interpreter's result. */
    bool shadow;
    /* Let the host CPU run user code of the guest's busy programs as it is, in processes of their own that
     * can reach nothing but that program's memory, instead of translating it: several times as fast for
     * programs that compute, not yet for those that call their kernel or touch new memory all the time, and
     * slower than translation where other programs want the host's CPUs. Such code sees the host CPU's
     * extensions, whether or not the guest's CPUID tells of them. The program must not handle SIGCHLD nor
     * wait for any child (wait(2), waitpid(-1)). Where the host does not allow it (ptrace, memory files),
     * everything is translated, and the trace category "cpu" says why. Not together with shadow. */
    bool direct;
};

/* All zero is a good default. */
struct yado_machine_options {
    size_t size; /* sizeof(struct yado_machine_options), or 0 for the one of version 0.1 */
    enum yado_engine engine;
    enum yado_delivery delivery;
    bool stop_on_reset; /* a reboot of the guest stops the machine instead of starting it again */
    /* On the machine's queue. May be NULL. `event` is valid until it returns. */
    void (*on_event)(void *ctx, const struct yado_event *event);
    void *event_ctx;
    /* Trace: a comma-separated list of categories (names of yado_trace_category, or "all";
     * NULL: none) whose lines go to `trace`. That one is called on any thread of the machine, several at
     * once, and must not call back into the library. */
    const char *trace_categories;
    void (*trace)(void *ctx, const char *category, const char *line);
    void *trace_ctx;
    const struct yado_engine_options *engine_options; /* copied; NULL: none */
};

/* The trace categories: index 0 up; NULL past the last. Any thread. */
const char *yado_trace_category(unsigned index);

/* Validates and copies `config`. `options` may be NULL. NULL and `err` on failure. Opens no file for longer
 * than the call, and takes no memory for the guest yet. */
struct yado_machine *yado_machine_new(const struct yado_config *config,
                                      const struct yado_machine_options *options, struct yado_error *err);

/* Stops the machine as yado_machine_stop does, waits for it, and frees it. Callbacks that did not run yet
 * never will. Not from a callback. Blocks while disk requests in flight end. */
void yado_machine_free(struct yado_machine *machine);

enum yado_state yado_machine_state(const struct yado_machine *machine);
enum yado_stop_reason yado_machine_stop_reason(const struct yado_machine *machine);
/* What the guest last wrote to the debug exit port; 0 before that. */
uint32_t yado_machine_exit_value(const struct yado_machine *machine);
/* The engine that it runs on, never YADO_ENGINE_AUTO. */
enum yado_engine yado_machine_engine(const struct yado_machine *machine);

/* Whether the verb is legal now. Another thread, or the guest, may change that at any moment. */
bool yado_machine_can_start(const struct yado_machine *machine);
bool yado_machine_can_stop(const struct yado_machine *machine);
bool yado_machine_can_pause(const struct yado_machine *machine);
bool yado_machine_can_resume(const struct yado_machine *machine);
bool yado_machine_can_request_stop(const struct yado_machine *machine);

/* The verbs. None blocks. `done` may be NULL; else it is called exactly once, except when the return value is
 * false (out of memory; nothing was begun). */
bool yado_machine_start(struct yado_machine *machine, yado_completion done, void *ctx);
/* CPUs stop between two instructions. Requests that devices have taken are finished; time goes on, so that
 * the guest's clocks are right when it is resumed. On our own engines its kernel's watchdogs are told;
 * services in it see their time limits pass. */
bool yado_machine_pause(struct yado_machine *machine, yado_completion done, void *ctx);
bool yado_machine_resume(struct yado_machine *machine, yado_completion done, void *ctx);
/* Pulls the plug: the guest is not asked. What it had flushed to its disks is there. */
bool yado_machine_stop(struct yado_machine *machine, yado_completion done, void *ctx);

/* Writes the paused machine to the file `path`, without its disks, and leaves it paused. An existing file is
 * replaced. Restoring makes the stopped machine what it was then, paused; its configuration must be the saved
 * one's, machine identifier (platform.h) and MAC addresses included, and the disks as they were. Apple's
 * engine (macOS 14 on Apple silicon, on the same Mac); else YADO_ERR_UNSUPPORTED.
 * yado_config_validate_save_restore says beforehand whether a configuration allows it. */
bool yado_machine_save(struct yado_machine *machine, const char *path, yado_completion done, void *ctx);
bool yado_machine_restore(struct yado_machine *machine, const char *path, yado_completion done, void *ctx);

/* Presses the power button; a guest that listens shuts down, and YADO_EVENT_GUEST_STOPPED follows some time
 * later. */
bool yado_machine_request_stop(struct yado_machine *machine, struct yado_error *err);

/* Tells virtio console `index` (0: hvc0) how large the terminal is. Remembered over stops and starts. A
 * console whose size is not known when the machine starts has none for the guest until the next start.
 * Ignored for indexes that do not exist. */
void yado_machine_set_console_size(struct yado_machine *machine, unsigned index, uint16_t columns,
                                   uint16_t rows);

/* The same for port `port` of console `device` (yado_config_add_console), if it is a console for the guest;
 * its size may also become known while the guest runs. A pty's own size, once it has one, takes its place.
 * Our own engines. */
void yado_machine_set_console_port_size(struct yado_machine *machine, unsigned device, unsigned port,
                                        uint16_t columns, uint16_t rows);

/* Attaches something else to port `port` of console `device` while the machine runs or is paused, until it is
 * stopped; NULL attaches nothing. Takes `serial` over. Output that the attachment before has not taken goes
 * to the new one if somebody is there; the guest does not see the change unless nobody is. If the new one
 * cannot be opened, the one before stays. Waits until that one is let go of. */
bool yado_machine_set_console_attachment(struct yado_machine *machine, unsigned device, unsigned port,
                                         struct yado_serial *serial, struct yado_error *err);

enum yado_serial_kind {
    YADO_SERIAL_NONE = 0,
    YADO_SERIAL_FDS,
    YADO_SERIAL_FILE,
    YADO_SERIAL_PTY,
    YADO_SERIAL_SOCKET,
};

struct yado_console_port_info {
    const char *name; /* NULL: none. Lives as long as the machine */
    bool is_console;
    bool is_open; /* by a program in the guest */
    enum yado_serial_kind attachment;
};

/* How the port stands now. False if there is no such port. */
bool yado_machine_console_port(struct yado_machine *machine, unsigned device, unsigned port,
                               struct yado_console_port_info *info);
/* The path of its attachment now, as snprintf gives it: its length, cut at `size`; "" if it has none. */
size_t yado_machine_console_port_path(struct yado_machine *machine, unsigned device, unsigned port,
                                      char *path, size_t size);

/* How much memory the guest shall have, in bytes: rounded down to whole MiB, then to at least
 * YADO_MEMORY_SIZE_MIN and at most the configured memory size, which is what it is at first. A request to the
 * guest's balloon driver, which follows at its own pace and only as far as it can; memory that it gives up
 * goes back to the host. Any state; remembered over stops and starts. A machine without a balloon device has
 * no use for it. Returns what the target is now. */
uint64_t yado_machine_set_balloon_target(struct yado_machine *machine, uint64_t size);
uint64_t yado_machine_balloon_target(const struct yado_machine *machine);

/* Adds or removes a forward of NAT device `index` (in the order of the configuration) while the machine runs
 * or is paused; until it is stopped. Connections that exist go on. Removing wants protocol, host address and
 * host port. */
bool yado_machine_add_forward(struct yado_machine *machine, unsigned index,
                              const struct yado_forward *forward, struct yado_error *err);
bool yado_machine_remove_forward(struct yado_machine *machine, unsigned index,
                                 const struct yado_forward *forward, struct yado_error *err);

/* Plugs network device `index` into another attachment while the machine runs or is paused, until it is
 * stopped; NULL unplugs it. Takes `attachment` over. The earlier one is closed first; if the new one cannot
 * be opened, none is attached. */
bool yado_machine_set_network_attachment(struct yado_machine *machine, unsigned index,
                                         struct yado_network_attachment *attachment, struct yado_error *err);

/* Gives share device `index` another directory share while the machine runs or is paused, until it is
 * stopped. Takes `share` over. Not for Rosetta. Apple's engine (macOS 12). */
bool yado_machine_set_share(struct yado_machine *machine, unsigned index, struct yado_directory_share *share,
                            struct yado_error *err);

/* A descriptor that is readable while callbacks wait, for poll. It stays the machine's; read nothing from it.
 * -1 with YADO_DELIVERY_THREAD. */
int yado_machine_event_fd(const struct yado_machine *machine);

/* Runs the callbacks that wait, and returns how many there were. Does not block. With YADO_DELIVERY_THREAD,
 * or while another thread is in it: 0. */
unsigned yado_machine_dispatch(struct yado_machine *machine);

/* Blocks until the machine is in STOPPED or ERROR and its callbacks have run, or `timeout_ms` milliseconds
 * have passed (negative: no limit). True if it has ended. With YADO_DELIVERY_DISPATCH it dispatches
 * meanwhile, on this thread. */
bool yado_machine_wait(struct yado_machine *machine, int timeout_ms);

/* Calls fn for each counter of the engine ("blocks", "tlb_miss_read" ...), for people: as they are now, or
 * after the machine has ended as they were then. Names are static. Nothing before the first start. */
void yado_machine_each_counter(struct yado_machine *machine,
                               void (*fn)(void *ctx, const char *name, uint64_t value), void *ctx);

/* A fixed word for a state or reason ("running", "power off"). Never NULL. */
const char *yado_state_name(enum yado_state state);
const char *yado_stop_reason_name(enum yado_stop_reason reason);

#ifdef __cplusplus
}
#endif

#endif
