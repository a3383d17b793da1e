/* The native backend: our own machine, fed a spec. Opens files, which the machine itself never does by name.
 */
#include "backend/backend.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "backend/native_engines.h"
#include "backend/native_lacks.h"
#include "backend/native_ports.h"
#include "backend/native_sockets.h"
#include "backend/ports_check.h"
#include "disk/disk.h"
#include "host/anonfile.h"
#include "machine/machine.h"

_Static_assert(SPEC_DEVICE_MAX == BOARD_DEVICE_MAX, "one limit, two names");

struct backend {
    const struct spec *spec;
    struct machine *machine;
    struct disk *disks[SPEC_DEVICE_MAX];
    struct boot_files boot;
    struct board_devices devices;
    struct native_sockets *sockets;
    struct native_ports *ports;
};

/* ---- files ---- */

/* Never waits: a FIFO that nobody writes to is opened as well, and found out to be none of what is wanted. */
static int path_open(const char *path, int flags, struct yado_error *err)
{
    int fd = open(path, flags | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);

    if (fd < 0)
        err_set_errno(err, YADO_ERR_FILE, errno, "%s: cannot open", path);
    return fd;
}

static void boot_close(struct boot_files *f)
{
    if (f->kernel.fd >= 0)
        close(f->kernel.fd);
    if (f->initrd.fd >= 0)
        close(f->initrd.fd);
    f->kernel.fd = f->initrd.fd = -1;
}

static bool boot_open(const struct spec_boot *boot, struct boot_files *f, struct yado_error *err)
{
    f->cmdline = boot->command_line;
    f->kernel = (struct boot_open_file){ .name = boot->kernel, .fd = path_open(boot->kernel, O_RDONLY, err) };
    f->initrd = (struct boot_open_file){ .name = boot->initrd, .fd = -1 };
    if (f->kernel.fd >= 0 && boot->initrd)
        f->initrd.fd = path_open(boot->initrd, O_RDONLY, err);
    return f->kernel.fd >= 0 && (f->initrd.fd >= 0 || !boot->initrd);
}

static int disk_fd(const struct spec_disk *d, struct yado_error *err)
{
    int fd;

    if (d->fd < 0) {
        struct stat st;

        /* Said here because opening a directory for writing gives a message that helps nobody. */
        if (stat(d->name, &st) == 0 && S_ISDIR(st.st_mode)) {
            err_set(err, YADO_ERR_FILE, "%s: is a directory; a disk is an image file or a block device",
                    d->name);
            return -1;
        }
        return path_open(d->name, d->read_only ? O_RDONLY : O_RDWR, err);
    }
    fd = fcntl(d->fd, F_DUPFD_CLOEXEC, 0);
    if (fd < 0)
        err_set_errno(err, YADO_ERR_HOST, errno, "%s", d->name);
    return fd;
}

static struct disk *disk_open(const struct spec_disk *d, struct yado_error *err)
{
    struct disk_options opt = {
        .read_only = d->read_only,
        .sync = d->sync == SPEC_SYNC_NONE    ? DISK_SYNC_NONE
                : d->sync == SPEC_SYNC_FSYNC ? DISK_SYNC_FSYNC
                                             : DISK_SYNC_FULL,
    };
    int fd = disk_fd(d, err);

    return fd < 0 ? NULL : disk_open_raw(fd, d->name, &opt, err);
}

/* ---- validation ---- */

/* Of CPUs there may be more than the host has; nor has our machine a least memory of its own. */
static bool native_limits(struct backend_limits *out)
{
    const struct memory_facts facts = memory_facts_get();

    *out = (struct backend_limits){ .cpu_max = UINT64_MAX,
                                    .memory_max = facts.total ? facts.total : UINT64_MAX };
    return true;
}

static bool memory_check(const struct spec *spec, struct yado_error *err)
{
    struct backend_limits limits;

    native_limits(&limits);
    if (spec->memory_size > limits.memory_max)
        return err_set(err, YADO_ERR_MEMORY,
                       "memory_size: %" PRIu64 " MiB is more than the %" PRIu64
                       " MiB of memory and swap of this host",
                       spec->memory_size >> 20, limits.memory_max >> 20);
    return true;
}

static bool boot_validate(const struct spec *spec, struct yado_error *err)
{
    struct boot_files files = { .kernel.fd = -1, .initrd.fd = -1 };
    bool ok = boot_open(&spec->boot, &files, err) && boot_files_check(&files, spec->memory_size, err);

    boot_close(&files);
    return ok || err_prepend(err, "boot_loader");
}

/* Without taking the lock for longer than a moment; whether someone else has it is found out at the start. */
static bool disk_validate(const struct spec_disk *d, unsigned index, struct yado_error *err)
{
    struct yado_error e = YADO_ERROR_INIT;
    struct disk *disk = disk_open(d, &e);

    disk_close(disk);
    if (disk || e.code == YADO_ERR_IN_USE)
        return true;
    err_set(err, e.code, "storage[%u]: %s", index, e.message);
    if (err && !err->os_errno)
        err->os_errno = e.os_errno;
    return false;
}

static bool native_validate(const struct spec *spec, struct yado_error *err)
{
    if (!native_lacks_nothing(spec, err) || !memory_check(spec, err) || !boot_validate(spec, err) ||
        !ports_check(spec, err))
        return false;
    for (unsigned i = 0; i < spec->disk_count; i++) {
        if (!disk_validate(&spec->disks[i], i, err))
            return false;
    }
    return true;
}

/* ---- life ---- */

static void devices_fill(struct backend *b)
{
    const struct spec *s = b->spec;
    struct board_devices *d = &b->devices;

    d->disk_count = s->disk_count;
    for (unsigned i = 0; i < s->disk_count; i++)
        d->disks[i] = (struct board_disk){ .disk = b->disks[i],
                                           .name = s->disks[i].name,
                                           .identifier = s->disks[i].identifier };
    d->entropy_count = s->entropy_count;
    d->balloon = s->balloon_count > 0;
    d->net_count = s->net_count;
    for (unsigned i = 0; i < s->net_count; i++) {
        d->nets[i].config = s->nets[i].config;
        memcpy(d->nets[i].mac, s->nets[i].mac, sizeof(d->nets[i].mac));
    }
}

static void native_stop(struct backend *b)
{
    machine_free(b->machine);
    for (unsigned i = 0; i < SPEC_DEVICE_MAX; i++)
        disk_close(b->disks[i]);
    boot_close(&b->boot);
    native_sockets_close(b->sockets);
    native_ports_close(b->ports);
    free(b);
}

static bool disks_open(struct backend *b, struct yado_error *err)
{
    for (unsigned i = 0; i < b->spec->disk_count; i++) {
        b->disks[i] = disk_open(&b->spec->disks[i], err);
        if (!b->disks[i])
            return err_prepend(err, "storage[%u]", i);
    }
    return true;
}

static bool machine_make(struct backend *b, const struct backend_host *host, struct yado_error *err)
{
    struct machine_config cfg = {
        .engine = b->spec->engine ? native_engine_find(b->spec->engine) : native_engine_default(),
        .engine_options = { .code_cache_size = b->spec->engine_options.code_cache_size,
                            .perf_map = b->spec->engine_options.perf_map,
                            .shadow = b->spec->engine_options.shadow,
                            .direct = b->spec->engine_options.direct ? ENGINE_DIRECT_WHEN_HOT
                                                                     : ENGINE_DIRECT_OFF },
        .vcpu_count = b->spec->cpu_count,
        .ram_size = b->spec->memory_size,
        .boot = b->boot,
        .devices = &b->devices,
        .log = host->log,
        .stop_on_reset = host->stop_on_reset,
        .debug_exit = b->spec->debug_exit,
        .attention = host->attention,
        .net_lost = host->net_lost,
        .port_open = host->port_open,
        .ctx = host->ctx,
    };

    if (!cfg.engine)
        return err_set(err, YADO_ERR_UNSUPPORTED, "engine: there is none called \"%s\"", b->spec->engine);
    b->machine = machine_new(&cfg, err);
    return b->machine && machine_start(b->machine, err);
}

static bool native_start(struct backend **out, const struct spec *spec, const struct backend_host *host,
                         struct yado_error *err)
{
    struct backend *b = calloc(1, sizeof(*b));

    if (!b)
        return err_set(err, YADO_ERR_HOST, "out of memory");
    b->spec = spec;
    b->boot.kernel.fd = b->boot.initrd.fd = -1;
    if (!boot_open(&spec->boot, &b->boot, err) || !disks_open(b, err))
        goto fail;
    devices_fill(b);
    b->ports = native_ports_open(spec, &b->devices, err);
    if (!b->ports)
        goto fail;
    if (spec->socket_count) {
        b->sockets = native_sockets_open(&spec->socket, host, &b->devices.sockets, err);
        if (!b->sockets)
            goto fail;
    }
    if (!machine_make(b, host, err))
        goto fail;
    *out = b;
    return true;
fail:
    native_stop(b);
    return false;
}

static bool native_pause(struct backend *b, struct yado_error *err)
{
    (void)err;
    machine_pause(b->machine);
    return true;
}

static bool native_resume(struct backend *b, struct yado_error *err)
{
    (void)err;
    machine_resume(b->machine);
    return true;
}

static bool native_time_skip(struct backend *b, uint64_t ns, struct yado_error *err)
{
    return machine_time_skip(b->machine, ns, err);
}

static enum backend_end end_of(enum machine_end end)
{
    switch (end) {
    case MACHINE_RUNS: return BACKEND_RUNS;
    case MACHINE_POWER_OFF: return BACKEND_POWER_OFF;
    case MACHINE_RESET: return BACKEND_RESET;
    case MACHINE_PANIC: return BACKEND_PANIC;
    case MACHINE_TRIPLE_FAULT: return BACKEND_TRIPLE_FAULT;
    case MACHINE_DEBUG_EXIT: return BACKEND_DEBUG_EXIT;
    case MACHINE_FAILURE: break;
    }
    return BACKEND_FAILURE;
}

static void native_service(struct backend *b, struct backend_status *out)
{
    struct machine_status st;

    machine_service(b->machine, &st);
    *out = (struct backend_status){
        .end = end_of(st.end), .was_reset = st.was_reset, .exit_value = st.exit_value, .error = st.error
    };
}

static bool native_request_stop(struct backend *b, struct yado_error *err)
{
    (void)err;
    machine_press_power_button(b->machine);
    return true;
}

static void native_console_size(struct backend *b, unsigned index, uint16_t columns, uint16_t rows)
{
    machine_console_size(b->machine, index, columns, rows);
}

static void native_port_size(struct backend *b, unsigned device, unsigned port, uint16_t columns,
                             uint16_t rows)
{
    machine_port_size(b->machine, device, port, columns, rows);
}

static bool native_port_attach(struct backend *b, unsigned device, unsigned port,
                               const struct spec_attachment *to, struct yado_error *err)
{
    return native_ports_attach(b->ports, b->machine, device, port, to, err);
}

static void native_balloon_target(struct backend *b, uint64_t size)
{
    machine_balloon_target(b->machine, size);
}

static bool native_net_forward(struct backend *b, unsigned index, const struct net_forward *f, bool add,
                               struct yado_error *err)
{
    return machine_net_forward(b->machine, index, f, add, err);
}

static bool native_net_attach(struct backend *b, unsigned index, const struct net_config *cfg,
                              struct yado_error *err)
{
    return (!cfg || native_can_attach(cfg, index, err)) && machine_net_attach(b->machine, index, cfg, err);
}

static void native_socket_answer(struct backend *b, uint64_t id, int fd)
{
    machine_socket_answer(b->machine, id, fd);
}

static bool native_socket_connect(struct backend *b, uint32_t guest_port, int fd, uint64_t tag,
                                  struct yado_error *err)
{
    return machine_socket_connect(b->machine, guest_port, fd, tag, err);
}

static void native_counters(struct backend *b, void (*fn)(void *ctx, const char *name, uint64_t value),
                            void *ctx)
{
    machine_counters(b->machine, fn, ctx);
}

static bool native_kernel_is_multiboot(const char *path)
{
    struct yado_error err = YADO_ERROR_INIT;
    struct boot_open_file f = { .name = path, .fd = path_open(path, O_RDONLY, &err) };
    bool is = f.fd >= 0 && boot_files_multiboot(&f);

    if (f.fd >= 0)
        close(f.fd);
    return is;
}

const struct backend_ops backend_native = {
    .name = "native",
    .limits = native_limits,
    .validate = native_validate,
    .start = native_start,
    .stop = native_stop,
    .pause = native_pause,
    .resume = native_resume,
    .time_skip = native_time_skip,
    .service = native_service,
    .request_stop = native_request_stop,
    .console_size = native_console_size,
    .port_size = native_port_size,
    .port_attach = native_port_attach,
    .balloon_target = native_balloon_target,
    .net_forward = native_net_forward,
    .net_attach = native_net_attach,
    .socket_answer = native_socket_answer,
    .socket_connect = native_socket_connect,
    .counters = native_counters,
    .kernel_is_multiboot = native_kernel_is_multiboot,
};
