/* Configuration objects of Virtualization.framework: what validates, what their initializers refuse. The
 * rules are those that Apple documents; numbers that it does not (limits) come from standin_world. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "rt.h"

id init_result(struct call *c);

#define COCOA "NSCocoaErrorDomain"
#define VZ "VZErrorDomain"

/* VZErrorCode (the manifest's constants are checked against the backend's numbers elsewhere). */
enum { INTERNAL = 1, INVALID_CONFIGURATION = 2, INVALID_DISK_IMAGE = 5 };

/* The scripted failure of a method with an error argument, if there is one. */
static bool scripted(struct call *c, unsigned error_arg)
{
    id e = scripted_error(c->method->selector);

    if (!e)
        return false;
    fail_with(c, error_arg, e);
    return true;
}

static void good_init(struct call *c, unsigned error_arg)
{
    error_trap(c, error_arg);
    give(c, init_result(c));
}

/* ---- the whole ---- */

static bool array_each(id config, const char *key, const char *(*check)(id e))
{
    id a = property_object(config, key);
    const char *why;

    for (unsigned long i = 0; i < array_count(a); i++) {
        why = check(array_at(a, i));
        if (!why)
            continue;
        property_set_text(config, "why", why);
        return false;
    }
    return true;
}

static const char *network_check(id device)
{
    id a = property_object(device, "Attachment");
    int64_t mtu;

    if (!a)
        return "a network device has no attachment";
    if (is_kind(a, "VZBridgedNetworkDeviceAttachment") && standin_world.networking != ENTITLEMENT_TRUE)
        return "bridged networking needs com.apple.vm.networking";
    if (!is_kind(a, "VZFileHandleNetworkDeviceAttachment"))
        return NULL;
    mtu = property_has(a, "MaximumTransmissionUnit") ? property_number(a, "MaximumTransmissionUnit") : 1500;
    if (mtu < 1500 || mtu > 65535)
        return "the maximum transmission unit is out of range";
    handle_fd(property_object(a, "FileHandle"));
    return NULL;
}

static const char *serial_check(id port)
{
    id a = property_object(port, "Attachment");

    if (!a)
        return "a serial port has no attachment";
    handle_fd(property_object(a, "FileHandleForReading"));
    handle_fd(property_object(a, "FileHandleForWriting"));
    return NULL;
}

static const char *console_check(id device)
{
    id ports = property_object(device, "Ports");
    char key[24];

    if (!ports)
        return NULL;
    if (property_has(ports, "MaximumPortCount") &&
        property_number(ports, "MaximumPortCount") < property_number(ports, "count"))
        return "a console has a port beyond its maximum number of ports";
    for (int64_t i = 0; i < property_number(ports, "count"); i++) {
        id port, a;

        snprintf(key, sizeof(key), "%lld", (long long)i);
        port = property_object(ports, key);
        a = port ? property_object(port, "Attachment") : NULL;
        if (!a || !is_kind(a, "VZFileHandleSerialPortAttachment"))
            continue;
        handle_fd(property_object(a, "FileHandleForReading"));
        handle_fd(property_object(a, "FileHandleForWriting"));
    }
    return NULL;
}

static const char *share_check(id device)
{
    return property_object(device, "Share") ? NULL : "a directory sharing device has no share";
}

static const char *graphics_check(id device)
{
    return array_count(property_object(device, "Scanouts")) > 1 ? "more than one scanout" : NULL;
}

static const char *numbers_check(id config)
{
    uint64_t memory = (uint64_t)property_number(config, "MemorySize");
    uint64_t cpus = (uint64_t)property_number(config, "CPUCount");

    if (!standin_world.is_supported)
        return "virtualization is not supported on this Mac";
    if (standin_world.virtualization != ENTITLEMENT_TRUE)
        return "the process does not have the entitlement com.apple.security.virtualization";
    if (!property_object(config, "BootLoader"))
        return "there is no boot loader";
    if (memory % MIB(1) || memory < standin_world.memory_min || memory > standin_world.memory_max)
        return "the memory size is out of range";
    if (cpus < standin_world.cpus_min || cpus > standin_world.cpus_max)
        return "the number of CPUs is out of range";
    if (array_count(property_object(config, "SocketDevices")) > 1)
        return "there is more than one socket device";
    if (array_count(property_object(config, "MemoryBalloonDevices")) > 1)
        return "there is more than one memory balloon device";
    return NULL;
}

bool config_is_valid(id config)
{
    const char *why = numbers_check(config);

    property_set_text(config, "why", why);
    return !why && array_each(config, "NetworkDevices", network_check) &&
           array_each(config, "SerialPorts", serial_check) &&
           array_each(config, "ConsoleDevices", console_check) &&
           array_each(config, "DirectorySharingDevices", share_check) &&
           array_each(config, "GraphicsDevices", graphics_check);
}

static void validate(struct call *c)
{
    if (scripted(c, 0))
        return;
    if (!config_is_valid(c->self)) {
        fail_with(c, 0,
                  error_new(VZ, INVALID_CONFIGURATION, "Invalid virtual machine configuration.",
                            property_text(c->self, "why")));
        return;
    }
    error_trap(c, 0);
    property_set_number(c->self, "isValid", 1);
    c->ret = 1;
}

static void validate_save(struct call *c)
{
    if (scripted(c, 0))
        return;
    error_trap(c, 0);
    c->ret = 1;
}

static void memory_min(struct call *c)
{
    c->ret = standin_world.memory_min;
}

static void memory_max(struct call *c)
{
    c->ret = standin_world.memory_max;
}

static void cpus_min(struct call *c)
{
    c->ret = standin_world.cpus_min;
}

static void cpus_max(struct call *c)
{
    c->ret = standin_world.cpus_max;
}

/* ---- EFI and the platform ---- */

static void store_create(struct call *c)
{
    const char *path = url_path(arg_id(c, 0));
    int fd;

    if (scripted(c, 2))
        return;
    fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | (c->args[1] & 1 ? O_TRUNC : O_EXCL), 0644);
    if (fd < 0) {
        fail_with(c, 2, error_new("NSPOSIXErrorDomain", errno, strerror(errno), NULL));
        return;
    }
    if (write(fd, "store", 5) != 5)
        standin_fail(c->caller, "cannot write %s", path);
    close(fd);
    good_init(c, 2);
}

#define IDENTIFIER "standin identifier "

static void identifier_init(struct call *c)
{
    static unsigned number;
    char bytes[40];
    id obj = init_result(c), data;

    snprintf(bytes, sizeof(bytes), IDENTIFIER "%u", ++number);
    data = data_new(bytes, strlen(bytes));
    property_set_object(obj, "DataRepresentation", data);
    object_release(data, NULL);
    give(c, obj);
}

static void identifier_with(struct call *c)
{
    size_t len;
    const char *text = data_get(arg_id(c, 0), &len);

    if (len > strlen(IDENTIFIER) && !memcmp(text, IDENTIFIER, strlen(IDENTIFIER)))
        give(c, init_result(c));
    else
        object_release(c->self, c->caller);
}

static void nested_is_supported(struct call *c)
{
    c->ret = standin_world.nested_supported;
}

/* ---- storage ---- */

static void image_init(struct call *c)
{
    unsigned e = c->count - 1;
    const char *path = url_path(arg_id(c, 0));
    struct stat st;

    if (scripted(c, e))
        return;
    if (c->count == 5 && (c->args[2] > 2 || c->args[3] < 1 || c->args[3] > 3))
        standin_fail(c->caller, "-[%s %s]: modes %llu and %llu", c->cls->name, c->method->selector,
                     (unsigned long long)c->args[2], (unsigned long long)c->args[3]);
    if (access(path, c->args[1] ? R_OK : R_OK | W_OK))
        fail_with(c, e, error_new(COCOA, 260, "The file couldn't be opened.", strerror(errno)));
    else if (stat(path, &st) || !S_ISREG(st.st_mode) || st.st_size % 512)
        fail_with(c, e, error_new(VZ, INVALID_DISK_IMAGE, "Invalid disk image.", "its size"));
    else
        good_init(c, e);
}

static void block_device_init(struct call *c)
{
    if (scripted(c, 3))
        return;
    handle_fd(arg_id(c, 0));
    good_init(c, 3);
}

static void nbd_init(struct call *c)
{
    if (!scripted(c, c->count - 1))
        good_init(c, c->count - 1);
}

static void nbd_validate(struct call *c)
{
    const char *text = property_text(arg_id(c, 0), "text");

    if (scripted(c, 1))
        return;
    if (!text || strncmp(text, "nbd", 3) || !strstr(text, "://")) {
        fail_with(c, 1, error_new(VZ, INVALID_CONFIGURATION, "Invalid URL.", "not an nbd URL"));
        return;
    }
    error_trap(c, 1);
    c->ret = 1;
}

static void identifier_set(struct call *c)
{
    const char *text = string_text(arg_id(c, 0));

    if (strlen(text) > 20)
        standin_fail(c->caller, "-[%s %s]: %zu bytes raise an exception", c->cls->name, c->method->selector,
                     strlen(text));
    property_set_object(c->self, "BlockDeviceIdentifier", arg_id(c, 0));
}

/* ---- networks ---- */

static void mac_init(struct call *c)
{
    const char *text = string_text(arg_id(c, 0));
    unsigned n[6];
    int len = 0;

    if (sscanf(text, "%2x:%2x:%2x:%2x:%2x:%2x%n", n, n + 1, n + 2, n + 3, n + 4, n + 5, &len) == 6 &&
        len == 17 && !text[17])
        give(c, init_result(c));
    else
        object_release(c->self, c->caller);
}

static id interface_new(const char *name, const char *display)
{
    id i = object_make_named("VZBridgedNetworkInterface", NULL), text = string_new(name);

    property_set_object(i, "Identifier", text);
    object_release(text, NULL);
    if (display) {
        text = string_new(display);
        property_set_object(i, "LocalizedDisplayName", text);
        object_release(text, NULL);
    }
    return i;
}

static void interfaces(struct call *c)
{
    id list[2] = { interface_new("en0", "Wi-Fi"), interface_new("en7", NULL) }, a = array_new(list, 2);

    object_release(list[0], NULL);
    object_release(list[1], NULL);
    give(c, object_pooled(a));
}

static void socket_init(struct call *c)
{
    int fd = handle_fd(arg_id(c, 0)), type = 0;
    socklen_t len = sizeof(type);

    if (fd < 0 || getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) || type != SOCK_DGRAM)
        standin_fail(c->caller, "-[%s %s]: descriptor %d is no datagram socket", c->cls->name,
                     c->method->selector, fd);
    give(c, init_result(c));
}

/* ---- shares ---- */

static bool name_is_good(const char *name)
{
    return *name && strcmp(name, ".") && strcmp(name, "..") && !strchr(name, '/') && strlen(name) < 256;
}

static void name_validate(struct call *c)
{
    if (scripted(c, 1))
        return;
    if (!name_is_good(string_text(arg_id(c, 0)))) {
        fail_with(c, 1, error_new(VZ, INVALID_CONFIGURATION, "Invalid name.", NULL));
        return;
    }
    error_trap(c, 1);
    c->ret = 1;
}

static bool tag_is_good(const char *tag)
{
    return *tag && strlen(tag) < 36;
}

static void tag_validate(struct call *c)
{
    if (scripted(c, 1))
        return;
    if (!tag_is_good(string_text(arg_id(c, 0)))) {
        fail_with(c, 1, error_new(VZ, INVALID_CONFIGURATION, "Invalid tag.", NULL));
        return;
    }
    error_trap(c, 1);
    c->ret = 1;
}

static void tag_init(struct call *c)
{
    if (!tag_is_good(string_text(arg_id(c, 0))))
        standin_fail(c->caller, "-[%s %s]: a bad tag raises an exception", c->cls->name, c->method->selector);
    give(c, init_result(c));
}

static void directories_init(struct call *c)
{
    id d = arg_id(c, 0);

    for (unsigned long i = 0; i < (unsigned long)property_number(d, "count"); i++) {
        if (!name_is_good(string_text(dictionary_key_at(d, i))))
            standin_fail(c->caller, "-[%s %s]: a bad name raises an exception", c->cls->name,
                         c->method->selector);
    }
    give(c, init_result(c));
}

static void rosetta_init(struct call *c)
{
    if (scripted(c, 0))
        return;
    if (standin_world.rosetta != 2)
        fail_with(c, 0, error_new(VZ, INTERNAL, "Rosetta is not installed.", NULL));
    else
        good_init(c, 0);
}

static void rosetta_availability(struct call *c)
{
    c->ret = (uint64_t)standin_world.rosetta;
}

struct install {
    struct held_block *block;
    id error;
};

static void *install_run(void *arg)
{
    struct install *i = arg;

    if (!i->error)
        standin_world.rosetta = 2;
    block_call_error(i->block, i->error);
    if (i->error)
        object_release(i->error, NULL);
    free(i);
    return NULL;
}

/* Its handler comes on a queue of the framework's. */
static void rosetta_install(struct call *c)
{
    struct install *i = malloc(sizeof(*i));
    pthread_t thread;

    *i = (struct install){ block_hold(c->args[0], "v16@?0@\"NSError\"8", c->caller),
                           scripted_error(c->method->selector) };
    if (pthread_create(&thread, NULL, install_run, i))
        standin_fail(c->caller, "no thread");
    pthread_detach(thread);
}

/* ---- consoles ---- */

static void ports_get(struct call *c)
{
    id ports = property_object(c->self, "Ports");

    if (!ports) {
        ports = object_make_named("VZVirtioConsolePortConfigurationArray", c->caller);
        property_set_object(c->self, "Ports", ports);
        object_release(ports, NULL);
    }
    object_retain(ports, NULL);
    give(c, object_pooled(ports));
}

static void port_set(struct call *c)
{
    char key[24];

    snprintf(key, sizeof(key), "%llu", (unsigned long long)c->args[1]);
    property_set_object(c->self, key, arg_id(c, 0));
    if (arg_id(c, 0) && (int64_t)c->args[1] >= property_number(c->self, "count"))
        property_set_number(c->self, "count", (int64_t)c->args[1] + 1);
}

static void file_serial_init(struct call *c)
{
    const char *path = url_path(arg_id(c, 0));
    int fd;

    if (scripted(c, 2))
        return;
    fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | (c->args[1] ? O_APPEND : O_TRUNC), 0644);
    if (fd < 0) {
        fail_with(c, 2, error_new("NSPOSIXErrorDomain", errno, strerror(errno), NULL));
        return;
    }
    close(fd);
    good_init(c, 2);
}

const struct behaviour_row config_behaviour[] = {
    { "VZVirtualMachineConfiguration", "-validateWithError:", validate },
    { "VZVirtualMachineConfiguration", "-validateSaveRestoreSupportWithError:", validate_save },
    { "VZVirtualMachineConfiguration", "+minimumAllowedMemorySize", memory_min },
    { "VZVirtualMachineConfiguration", "+maximumAllowedMemorySize", memory_max },
    { "VZVirtualMachineConfiguration", "+minimumAllowedCPUCount", cpus_min },
    { "VZVirtualMachineConfiguration", "+maximumAllowedCPUCount", cpus_max },
    { "VZEFIVariableStore", "-initCreatingVariableStoreAtURL:options:error:", store_create },
    { "VZGenericMachineIdentifier", "-init", identifier_init },
    { "VZGenericMachineIdentifier", "-initWithDataRepresentation:", identifier_with },
    { "VZGenericPlatformConfiguration", "+isNestedVirtualizationSupported", nested_is_supported },
    { "VZDiskImageStorageDeviceAttachment", "-initWithURL:readOnly:error:", image_init },
    { "VZDiskImageStorageDeviceAttachment",
      "-initWithURL:readOnly:cachingMode:synchronizationMode:error:", image_init },
    { "VZDiskBlockDeviceStorageDeviceAttachment",
      "-initWithFileHandle:readOnly:synchronizationMode:error:", block_device_init },
    { "VZNetworkBlockDeviceStorageDeviceAttachment",
      "-initWithURL:timeout:forcedReadOnly:synchronizationMode:error:", nbd_init },
    { "VZNetworkBlockDeviceStorageDeviceAttachment", "-initWithURL:error:", nbd_init },
    { "VZNetworkBlockDeviceStorageDeviceAttachment", "+validateURL:error:", nbd_validate },
    { "VZVirtioBlockDeviceConfiguration", "-setBlockDeviceIdentifier:", identifier_set },
    { "VZMACAddress", "-initWithString:", mac_init },
    { "VZBridgedNetworkInterface", "+networkInterfaces", interfaces },
    { "VZFileHandleNetworkDeviceAttachment", "-initWithFileHandle:", socket_init },
    { "VZMultipleDirectoryShare", "+validateName:error:", name_validate },
    { "VZMultipleDirectoryShare", "-initWithDirectories:", directories_init },
    { "VZVirtioFileSystemDeviceConfiguration", "+validateTag:error:", tag_validate },
    { "VZVirtioFileSystemDeviceConfiguration", "-initWithTag:", tag_init },
    { "VZLinuxRosettaDirectoryShare", "-initWithError:", rosetta_init },
    { "VZLinuxRosettaDirectoryShare", "+availability", rosetta_availability },
    { "VZLinuxRosettaDirectoryShare", "+installRosettaWithCompletionHandler:", rosetta_install },
    { "VZVirtioConsoleDeviceConfiguration", "-ports", ports_get },
    { "VZVirtioConsolePortConfigurationArray", "-setObject:atIndexedSubscript:", port_set },
    { "VZFileSerialPortAttachment", "-initWithURL:append:error:", file_serial_init },
    { NULL, NULL, NULL },
};
