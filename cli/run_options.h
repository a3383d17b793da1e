/* The options of `yado run`, read and completed, nothing opened yet. */
#ifndef CLI_RUN_OPTIONS_H
#define CLI_RUN_OPTIONS_H

#include "cli.h"
#include "net_options.h"
#include "seed.h"
#include "serial_options.h"
#include "vsock_options.h"

struct run_disk {
    char *path;             /* owned */
    bool read_only, is_raw; /* is_raw: said to be, whatever it begins with */
    enum yado_disk_sync sync;
};

struct run_options {
    enum yado_engine engine;
    unsigned cpus;
    uint64_t memory;
    uint64_t balloon;      /* what the guest shall keep of it; 0: all */
    uint64_t timeout;      /* seconds; 0: none */
    char *kernel, *initrd; /* owned */
    const char *cmdline;
    struct run_disk disks[YADO_DEVICE_COUNT_MAX];
    unsigned disk_count;
    struct serial_options serial;
    struct net_options net;
    struct vsock_options vsock;
    struct seed_options seed;
    bool has_seed;
    bool multiboot; /* the kernel is one; its console is the UART */
    bool debug_exit;
    const char *trace;      /* categories */
    const char *trace_file; /* NULL: standard error */
    bool counters, perf_map, shadow, no_direct;
    uint64_t code_cache; /* bytes; 0: default */
};

/* Fills *o. EXIT_OK, or the status to end with after the reason was said. run_options_free in any case. */
int run_options_read(struct run_options *o, int argc, char **argv);
void run_options_free(struct run_options *o);

/* Which device the kernel makes /dev/console: that of the last console= on its command line. */
enum run_console { RUN_CONSOLE_HVC, RUN_CONSOLE_UART };
enum run_console run_console_of(const char *cmdline);
/* Whether the kernel was told to write to the UART at all. */
bool run_uses_uart(const char *cmdline);

#endif
