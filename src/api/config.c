/* Configuration objects: inert data on its way into a struct spec.
 *
 * Setters cannot fail: an object that could not be made is NULL, and that is remembered until validation, so
 * that a program may build a whole configuration in one expression and look once. */
#include "api/config_priv.h"
#include "backend/backend.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char default_command_line[] = "console=hvc0";

/* ---- boot loader ---- */

struct yado_boot_loader *yado_linux_boot_loader_new(const char *kernel, const char *initrd,
                                                    const char *command_line)
{
    struct yado_boot_loader *l = calloc(1, sizeof(*l));

    if (!l)
        return NULL;
    l->boot.kind = SPEC_BOOT_LINUX;
    l->boot.kernel = strdup(kernel ? kernel : "");
    l->boot.initrd = initrd ? strdup(initrd) : NULL;
    l->boot.command_line = strdup(command_line ? command_line : default_command_line);
    if (!l->boot.kernel || (initrd && !l->boot.initrd) || !l->boot.command_line) {
        yado_boot_loader_free(l);
        return NULL;
    }
    return l;
}

struct yado_boot_loader *yado_efi_boot_loader_new(const char *variable_store)
{
    struct yado_boot_loader *l = calloc(1, sizeof(*l));

    if (!l)
        return NULL;
    l->boot.kind = SPEC_BOOT_EFI;
    l->boot.variable_store = variable_store ? strdup(variable_store) : NULL;
    if (variable_store && !l->boot.variable_store) {
        yado_boot_loader_free(l);
        return NULL;
    }
    return l;
}

bool yado_efi_variable_store_create(const char *path, bool overwrite, struct yado_error *err)
{
    const struct backend_ops *ops = backend_here();

    if (!ops->variable_store_create)
        return err_set(err, YADO_ERR_UNSUPPORTED,
                       "%s: EFI variable stores are made by Apple's framework only", path);
    return ops->variable_store_create(path, overwrite, err);
}

bool yado_kernel_is_multiboot(const char *kernel)
{
    const struct backend_ops *ops = backend_here();

    return ops->kernel_is_multiboot && ops->kernel_is_multiboot(kernel);
}

void yado_boot_loader_free(struct yado_boot_loader *loader)
{
    if (!loader)
        return;
    spec_boot_clear(&loader->boot);
    free(loader);
}

/* ---- storage ---- */

static struct yado_disk *disk_new(const char *name, int fd, unsigned flags)
{
    struct yado_disk *d = calloc(1, sizeof(*d));

    if (!d)
        return NULL;
    d->disk.format = SPEC_DISK_RAW;
    d->disk.read_only = (flags & YADO_DISK_READ_ONLY) != 0;
    d->disk.name = strdup(name ? name : "");
    if (!spec_fd_dup(fd, &d->disk.fd) || !d->disk.name) {
        yado_disk_free(d);
        return NULL;
    }
    return d;
}

/* YADO_DISK_RAW is the only format, so a value that is none is taken for a defect of the caller and refused.
 */
struct yado_disk *yado_disk_image_new(const char *path, enum yado_disk_format format, unsigned flags)
{
    return format == YADO_DISK_RAW ? disk_new(path, -1, flags) : NULL;
}

struct yado_disk *yado_disk_fd_new(int fd, const char *name, enum yado_disk_format format, unsigned flags)
{
    return format == YADO_DISK_RAW && fd >= 0 ? disk_new(name, fd, flags) : NULL;
}

void yado_disk_set_sync(struct yado_disk *disk, enum yado_disk_sync sync)
{
    if (disk)
        disk->disk.sync = sync == YADO_SYNC_NONE    ? SPEC_SYNC_NONE
                          : sync == YADO_SYNC_FSYNC ? SPEC_SYNC_FSYNC
                                                    : SPEC_SYNC_FULL;
}

void yado_disk_set_cache(struct yado_disk *disk, enum yado_disk_cache cache)
{
    if (disk)
        disk->disk.cache = cache == YADO_CACHE_UNCACHED ? SPEC_CACHE_UNCACHED
                           : cache == YADO_CACHE_CACHED ? SPEC_CACHE_CACHED
                                                        : SPEC_CACHE_AUTO;
}

struct yado_disk *yado_block_device_new(const char *path, unsigned flags)
{
    struct yado_disk *d = disk_new(path, -1, flags);

    if (d)
        d->disk.source = SPEC_SOURCE_BLOCK_DEVICE;
    return d;
}

struct yado_disk *yado_nbd_new(const char *url, unsigned flags)
{
    struct yado_disk *d = disk_new(url, -1, flags);

    if (!d)
        return NULL;
    d->disk.source = SPEC_SOURCE_NBD;
    d->disk.timeout_ms = YADO_NBD_TIMEOUT_DEFAULT_MS;
    return d;
}

void yado_nbd_set_timeout(struct yado_disk *disk, unsigned milliseconds)
{
    if (!disk)
        return;
    disk->disk.timeout_ms = milliseconds;
    disk->disk.timeout_unfit = disk->disk.source != SPEC_SOURCE_NBD;
}

void yado_disk_free(struct yado_disk *disk)
{
    if (!disk)
        return;
    spec_disk_clear(&disk->disk);
    free(disk);
}

static struct yado_storage *storage_new(struct yado_disk *disk, enum spec_disk_device device)
{
    struct yado_storage *s = calloc(1, sizeof(*s));

    if (s && disk) {
        s->disk = disk->disk; /* moved */
        s->disk.device = device;
        free(disk);
        return s;
    }
    yado_disk_free(disk);
    free(s);
    return NULL;
}

struct yado_storage *yado_virtio_block_new(struct yado_disk *disk)
{
    return storage_new(disk, SPEC_DEVICE_VIRTIO_BLOCK);
}

struct yado_storage *yado_nvme_new(struct yado_disk *disk)
{
    return storage_new(disk, SPEC_DEVICE_NVME);
}

struct yado_storage *yado_usb_storage_new(struct yado_disk *disk)
{
    return storage_new(disk, SPEC_DEVICE_USB_STORAGE);
}

void yado_storage_set_identifier(struct yado_storage *storage, const char *identifier)
{
    if (!storage)
        return;
    free(storage->disk.identifier);
    storage->disk.identifier = identifier ? strdup(identifier) : NULL;
    storage->out_of_memory |= identifier && !storage->disk.identifier;
}

void yado_storage_free(struct yado_storage *storage)
{
    if (!storage)
        return;
    spec_disk_clear(&storage->disk);
    free(storage);
}

/* ---- entropy ---- */

struct yado_entropy *yado_virtio_entropy_new(void)
{
    return calloc(1, sizeof(struct yado_entropy));
}

void yado_entropy_free(struct yado_entropy *entropy)
{
    free(entropy);
}

/* ---- memory balloon ---- */

struct yado_balloon *yado_virtio_balloon_new(void)
{
    return calloc(1, sizeof(struct yado_balloon));
}

void yado_balloon_free(struct yado_balloon *balloon)
{
    free(balloon);
}

/* ---- the configuration ---- */

struct yado_config *yado_config_new(void)
{
    struct yado_config *c = calloc(1, sizeof(*c));

    if (!c)
        return NULL;
    spec_init(&c->spec);
    c->spec.cpu_count = 1;
    c->spec.memory_size = GIB(1);
    return c;
}

void yado_config_free(struct yado_config *config)
{
    if (!config)
        return;
    spec_clear(&config->spec);
    free(config);
}

void yado_config_set_cpu_count(struct yado_config *config, unsigned count)
{
    config->spec.cpu_count = count;
}

void yado_config_set_memory_size(struct yado_config *config, uint64_t size)
{
    config->spec.memory_size = size;
}

void yado_config_set_debug_exit(struct yado_config *config, bool on)
{
    config->spec.debug_exit = on;
}

void yado_config_set_boot_loader(struct yado_config *config, struct yado_boot_loader *loader)
{
    spec_boot_clear(&config->spec.boot);
    if (!loader) {
        config_lacks(config, "boot_loader");
        return;
    }
    config->spec.boot = loader->boot; /* moved */
    free(loader);
}

void config_lacks(struct yado_config *c, const char *field)
{
    if (!c->lacks[0])
        snprintf(c->lacks, sizeof(c->lacks), "%s", field);
}

void config_lacks_device(struct yado_config *c, const char *list, unsigned index)
{
    char field[sizeof(c->lacks)];

    snprintf(field, sizeof(field), "%s[%u]", list, index);
    config_lacks(c, field);
}

bool device_fits(struct yado_config *c)
{
    struct spec *s = &c->spec;

    if (s->disk_count + s->serial_count + s->console_count + s->entropy_count + s->balloon_count +
            s->socket_count + s->net_count + s->share_count + s->graphics_count + s->sound_count +
            s->keyboard_count + s->pointing_count <
        SPEC_DEVICE_MAX)
        return true;
    c->devices_over++;
    return false;
}

void yado_config_add_storage(struct yado_config *config, struct yado_storage *storage)
{
    if (!storage || storage->out_of_memory) {
        config_lacks_device(config, "storage", config->spec.disk_count);
        yado_storage_free(storage);
    } else if (!device_fits(config)) {
        yado_storage_free(storage);
    } else {
        config->spec.disks[config->spec.disk_count++] = storage->disk; /* moved */
        free(storage);
    }
}

void yado_config_add_entropy(struct yado_config *config, struct yado_entropy *entropy)
{
    if (!entropy)
        config_lacks_device(config, "entropy", config->spec.entropy_count);
    else if (device_fits(config))
        config->spec.entropy_count++;
    yado_entropy_free(entropy);
}

void yado_config_add_balloon(struct yado_config *config, struct yado_balloon *balloon)
{
    if (!balloon)
        config_lacks_device(config, "balloons", config->spec.balloon_count);
    else if (device_fits(config))
        config->spec.balloon_count++;
    yado_balloon_free(balloon);
}

void yado_config_add_network(struct yado_config *config, struct yado_network *network)
{
    if (!network || network->out_of_memory) {
        config_lacks_device(config, "network", config->spec.net_count);
        yado_network_free(network);
    } else if (!device_fits(config)) {
        yado_network_free(network);
    } else {
        config->spec.nets[config->spec.net_count++] = network->net; /* moved */
        free(network);
    }
}
