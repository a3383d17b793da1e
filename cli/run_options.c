/* See run_options.h. */
#include "run_options.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "args.h"
#include "disk_format.h"

static const char default_cmdline[] = "console=hvc0";
static const char multiboot_cmdline[] = ""; /* nothing that the user did not say */
static const char image_cmdline[] = "console=hvc0 root=/dev/vda rw";

enum option {
    OPT_USER_DATA,
    OPT_META_DATA,
    OPT_NETWORK_CONFIG,
    OPT_NAME, /* as in enum seed_option */
    OPT_ENGINE,
    OPT_CPUS,
    OPT_MEMORY,
    OPT_TIMEOUT,
    OPT_KERNEL,
    OPT_INITRD,
    OPT_CMDLINE,
    OPT_DISK,
    OPT_SERIAL,
    OPT_CONSOLE,
    OPT_TRACE,
    OPT_NET,
    OPT_VSOCK,
    OPT_BALLOON,
    OPT_DEBUG_EXIT,
    OPT_TRACE_FILE,
    OPT_COUNTERS,
    OPT_PERF_MAP,
    OPT_SHADOW,
    OPT_NO_DIRECT,
    OPT_CODE_CACHE,
    OPT_COUNT,
};

static const char *const names[] = {
    [OPT_USER_DATA] = "--user-data",
    [OPT_META_DATA] = "--meta-data",
    [OPT_NETWORK_CONFIG] = "--network-config",
    [OPT_NAME] = "--name",
    [OPT_ENGINE] = "--engine",
    [OPT_CPUS] = "--cpus",
    [OPT_MEMORY] = "--memory",
    [OPT_TIMEOUT] = "--timeout",
    [OPT_KERNEL] = "--kernel",
    [OPT_INITRD] = "--initrd",
    [OPT_CMDLINE] = "--cmdline",
    [OPT_DISK] = "--disk",
    [OPT_SERIAL] = "--serial",
    [OPT_CONSOLE] = "--console",
    [OPT_TRACE] = "--trace",
    [OPT_NET] = "--net",
    [OPT_VSOCK] = "--vsock",
    [OPT_BALLOON] = "--balloon",
    [OPT_DEBUG_EXIT] = "--debug-exit!",
    [OPT_TRACE_FILE] = "--trace-file",
    [OPT_COUNTERS] = "--counters!",
    [OPT_PERF_MAP] = "--perf-map!",
    [OPT_SHADOW] = "--shadow!",
    [OPT_NO_DIRECT] = "--no-direct!",
    [OPT_CODE_CACHE] = "--code-cache",
    [OPT_COUNT] = NULL,
};

static char *text_copy(const char *text)
{
    char *copy = strdup(text);

    if (!copy)
        abort(); /* a few bytes at the start of a command: there is nothing left to say it with */
    return copy;
}

static void text_put(char **place, const char *text)
{
    free(*place);
    *place = text_copy(text);
}

/* ---- values ---- */

static int engine_set(struct run_options *o, const char *value)
{
    char known[128] = "auto";

    if (yado_engine_from_name(value, &o->engine))
        return EXIT_OK;
    for (unsigned i = 0; i < yado_engine_count(); i++) {
        size_t len = strlen(known);

        snprintf(known + len, sizeof(known) - len, ", %s", yado_engine_name(yado_engine_at(i)));
    }
    return usage_error("--engine: there is no engine \"%s\"; it is one of %s", value, known);
}

static int cpus_set(struct run_options *o, const char *value)
{
    uint64_t n;

    if (!number_parse(value, YADO_CPU_COUNT_MIN, YADO_CPU_COUNT_MAX, &n))
        return usage_error("--cpus: \"%s\" is not a number from %u to %u", value, YADO_CPU_COUNT_MIN,
                           YADO_CPU_COUNT_MAX);
    o->cpus = (unsigned)n;
    return EXIT_OK;
}

static int memory_set(struct run_options *o, const char *value)
{
    if (!size_parse(value, &o->memory))
        return usage_error("--memory: \"%s\" is not a size such as 512M or 2G", value);
    if (o->memory == 0 || o->memory % YADO_MEMORY_SIZE_STEP)
        return usage_error("--memory: %s is not a multiple of 1 MiB; say for example 512M or 2G", value);
    if (o->memory < YADO_MEMORY_SIZE_MIN)
        return usage_error("--memory: %s is less than the %llu MiB that a machine needs", value,
                           YADO_MEMORY_SIZE_MIN >> 20);
    return EXIT_OK;
}

static int balloon_set(struct run_options *o, const char *value)
{
    if (!size_parse(value, &o->balloon))
        return usage_error("--balloon: \"%s\" is not a size such as 512M or 2G", value);
    if (o->balloon < YADO_MEMORY_SIZE_MIN || o->balloon % YADO_MEMORY_SIZE_STEP)
        return usage_error("--balloon: %s is not a multiple of 1 MiB and at least %llu MiB", value,
                           YADO_MEMORY_SIZE_MIN >> 20);
    return EXIT_OK;
}

static int timeout_set(struct run_options *o, const char *value)
{
    if (!number_parse(value, 1, 1000000000, &o->timeout))
        return usage_error("--timeout: \"%s\" is not a number of seconds from 1 up", value);
    return EXIT_OK;
}

static struct run_disk *disk_add(struct run_options *o)
{
    return o->disk_count < count_of(o->disks) ? &o->disks[o->disk_count++] : NULL;
}

static bool word_is(const char *word, size_t len, const char *what)
{
    return strlen(what) == len && !memcmp(word, what, len);
}

static bool disk_word(struct run_disk *d, const char *word, size_t len)
{
    if (word_is(word, len, "ro"))
        d->read_only = true;
    else if (word_is(word, len, "sync=full"))
        d->sync = YADO_SYNC_FULL;
    else if (word_is(word, len, "sync=fsync"))
        d->sync = YADO_SYNC_FSYNC;
    else if (word_is(word, len, "sync=none"))
        d->sync = YADO_SYNC_NONE;
    else if (word_is(word, len, "format=raw"))
        d->is_raw = true;
    else
        return false;
    return true;
}

/* FILE[,word]... A comma belongs to the file name when the whole value is the name of a file. */
static int disk_set(struct run_options *o, const char *value)
{
    size_t len = access(value, F_OK) == 0 ? strlen(value) : strcspn(value, ",");
    struct run_disk *d = disk_add(o);

    if (!d)
        return usage_error("--disk: more than %zu disks", count_of(o->disks));
    if (!len)
        return usage_error("--disk: the file name is missing in \"%s\"", value);
    *d = (struct run_disk){ .path = strndup(value, len) };
    value += len;
    while (*value == ',') {
        len = strcspn(++value, ",");
        if (!disk_word(d, value, len))
            return usage_error(
                "--disk %s: \"%.*s\" is none of ro, format=raw, sync=full, sync=fsync, sync=none",
                d->path ? d->path : "", (int)len, value);
        value += len;
    }
    return EXIT_OK;
}

static bool is_category(const char *word, size_t len)
{
    const char *known;

    for (unsigned i = 0; (known = yado_trace_category(i)); i++) {
        if (word_is(word, len, known))
            return true;
    }
    return word_is(word, len, "all");
}

static int trace_set(struct run_options *o, const char *value)
{
    for (const char *p = value; *p; p += strspn(p, ",")) {
        size_t len = strcspn(p, ",");

        if (len && !is_category(p, len) && strcmp(value, "help"))
            return usage_error("--trace: there is no category \"%.*s\"; --trace help lists them", (int)len,
                               p);
        p += len;
    }
    o->trace = value;
    return EXIT_OK;
}

static int code_cache_set(struct run_options *o, const char *value)
{
    if (!size_parse(value, &o->code_cache))
        return usage_error("--code-cache: \"%s\" is not a size such as 16M or 1G", value);
    if (o->code_cache < YADO_CODE_CACHE_MIN || o->code_cache > YADO_CODE_CACHE_MAX)
        return usage_error("--code-cache: %s is not from %lluM to %lluM", value, YADO_CODE_CACHE_MIN >> 20,
                           YADO_CODE_CACHE_MAX >> 20);
    return EXIT_OK;
}

static int option_set(struct run_options *o, enum option which, const char *value)
{
    switch (which) {
    case OPT_USER_DATA:
    case OPT_META_DATA:
    case OPT_NETWORK_CONFIG:
        o->has_seed = true;
        seed_options_set(&o->seed, (enum seed_option)which, value);
        return EXIT_OK;
    case OPT_NAME: seed_options_set(&o->seed, SEED_NAME, value); return EXIT_OK;
    case OPT_ENGINE: return engine_set(o, value);
    case OPT_CPUS: return cpus_set(o, value);
    case OPT_MEMORY: return memory_set(o, value);
    case OPT_TIMEOUT: return timeout_set(o, value);
    case OPT_KERNEL: text_put(&o->kernel, value); return EXIT_OK;
    case OPT_INITRD: text_put(&o->initrd, value); return EXIT_OK;
    case OPT_CMDLINE: o->cmdline = value; return EXIT_OK;
    case OPT_DISK: return disk_set(o, value);
    case OPT_SERIAL: return serial_options_add(&o->serial, value);
    case OPT_CONSOLE: return console_options_add(&o->serial, value);
    case OPT_TRACE: return trace_set(o, value);
    case OPT_TRACE_FILE: o->trace_file = value; return EXIT_OK;
    case OPT_COUNTERS: o->counters = true; return EXIT_OK;
    case OPT_SHADOW: o->shadow = true; return EXIT_OK;
    case OPT_NO_DIRECT: o->no_direct = true; return EXIT_OK;
    case OPT_PERF_MAP: o->perf_map = true; return EXIT_OK;
    case OPT_CODE_CACHE: return code_cache_set(o, value);
    case OPT_DEBUG_EXIT: o->debug_exit = true; return EXIT_OK;
    case OPT_COUNT: break;
    case OPT_BALLOON: return balloon_set(o, value);
    case OPT_NET: return net_options_add(&o->net, value);
    case OPT_VSOCK: return vsock_options_add(&o->vsock, value);
    }
    return EXIT_USAGE;
}

/* ---- IMAGE ---- */

static char *path_join(const char *dir, const char *name)
{
    char *path = NULL;

    if (asprintf(&path, "%s/%s", dir, name) < 0)
        abort();
    return path;
}

/* The image's disk is the first, /dev/vda. */
static int image_disk(struct run_options *o, char *path)
{
    if (o->disk_count == count_of(o->disks)) {
        free(path);
        return usage_error("--disk: more than %zu disks", count_of(o->disks));
    }
    memmove(&o->disks[1], &o->disks[0], o->disk_count * sizeof(o->disks[0]));
    o->disks[0] = (struct run_disk){ .path = path };
    o->disk_count++;
    return EXIT_OK;
}

static int image_use(struct run_options *o, const char *image)
{
    struct stat st;

    if (stat(image, &st) < 0) {
        say("%s: %s", image, strerror(errno));
        return EXIT_FAILED;
    }
    if (!S_ISDIR(st.st_mode)) {
        if (!o->kernel)
            return usage_error("%s: a disk alone cannot be started yet; give --kernel FILE too", image);
        return image_disk(o, text_copy(image));
    }
    if (!o->kernel) {
        char *initrd = path_join(image, "initrd.img");

        o->kernel = path_join(image, "vmlinuz");
        if (!o->initrd && access(initrd, F_OK) == 0)
            o->initrd = initrd;
        else
            free(initrd);
    }
    if (!o->cmdline)
        o->cmdline = image_cmdline;
    return image_disk(o, path_join(image, "disk.img"));
}

/* ---- all ---- */

/* The most likely mistake of all: a cloud image as it was downloaded. */
static int disks_check(const struct run_options *o)
{
    for (unsigned i = 0; i < o->disk_count; i++) {
        const struct run_disk *d = &o->disks[i];
        const char *format = d->is_raw ? NULL : disk_format_of(d->path);

        if (!format)
            continue;
        say("%s: is a %s image; make a raw one (qemu-img convert -O raw), or add ,format=raw to give the "
            "guest "
            "these very bytes",
            d->path, format);
        return EXIT_FAILED;
    }
    return EXIT_OK;
}

static int options_complete(struct run_options *o, const char *image)
{
    int status = image ? image_use(o, image) : EXIT_OK;

    if (status != EXIT_OK)
        return status;
    if (o->trace && !strcmp(o->trace, "help"))
        return EXIT_OK; /* nothing is started */
    if (o->trace_file && !o->trace)
        return usage_error("--trace-file: nothing to write without --trace CATEGORIES");
    if (!o->kernel)
        return usage_error("run: nothing to start: give an IMAGE directory or --kernel FILE");
    if (o->has_seed && !o->seed.files[SEED_USER_DATA])
        return usage_error("run: --meta-data and --network-config need --user-data FILE too");
    if (o->seed.name && !o->has_seed)
        return usage_error("--name: is the host name in a seed; give --user-data FILE too");
    if (o->balloon > o->memory)
        return usage_error("--balloon: %llu MiB is more than the guest's memory, %llu MiB",
                           (unsigned long long)o->balloon >> 20, (unsigned long long)o->memory >> 20);
    o->multiboot = yado_kernel_is_multiboot(o->kernel);
    if (!o->cmdline)
        o->cmdline = o->multiboot ? multiboot_cmdline : default_cmdline;
    net_options_complete(&o->net);
    serial_options_complete(&o->serial);
    return disks_check(o);
}

int run_options_read(struct run_options *o, int argc, char **argv)
{
    struct args a = { .argc = argc, .argv = argv };
    const char *value, *image = NULL;
    enum args_item item;
    int index = 0;

    *o = (struct run_options){ .engine = YADO_ENGINE_AUTO, .cpus = 1, .memory = 1ull << 30 };
    while ((item = args_next(&a, names, &index, &value)) != ARGS_END) {
        int status = EXIT_OK;

        if (item == ARGS_ERROR)
            return EXIT_USAGE;
        if (item == ARGS_OPTION)
            status = option_set(o, (enum option)index, value);
        else if (image)
            status = usage_error("run: one IMAGE only; what is \"%s\"?", value);
        else
            image = value;
        if (status != EXIT_OK)
            return status;
    }
    return options_complete(o, image);
}

void run_options_free(struct run_options *o)
{
    free(o->kernel);
    free(o->initrd);
    net_options_free(&o->net);
    serial_options_free(&o->serial);
    for (unsigned i = 0; i < o->disk_count; i++)
        free(o->disks[i].path);
}

/* ---- the kernel's consoles ---- */

/* Calls for each word that begins with `key`; returns what comes after the key in the last one, NULL if there
 * is none. */
static const char *last_value(const char *cmdline, const char *key)
{
    const char *found = NULL;
    size_t key_len = strlen(key);

    for (const char *p = cmdline; *p; p += strcspn(p, " ")) {
        p += strspn(p, " ");
        if (!strncmp(p, key, key_len))
            found = p + key_len;
    }
    return found;
}

enum run_console run_console_of(const char *cmdline)
{
    const char *value = last_value(cmdline, "console=");

    return value && (!strncmp(value, "ttyS0", 5) || !strncmp(value, "uart", 4)) ? RUN_CONSOLE_UART
                                                                                : RUN_CONSOLE_HVC;
}

bool run_uses_uart(const char *cmdline)
{
    return strstr(cmdline, "ttyS0") || strstr(cmdline, "console=uart") || strstr(cmdline, "earlycon=uart");
}
