/* What the best-known binding of the framework (virtualization-rs, a Rust crate, 0.1.2) offers, line by line:
 * each of its items is there in this library too, and sends what it should. And its known defects are not
 * ours. */
#include <sys/socket.h>

#include "api.h"
#include "util/base.h"

#define VZ "VZErrorDomain"

/* Of each item what it sends. `ours` is what this library sends for it if that is another message; "" if it
 * needs none, with the reason. */
static const struct {
    const char *item, *sends, *ours, *why;
} items[] = {
    { "NSArray::array_with_objects", "arrayWithObjects:count:", NULL, NULL },
    { "NSArray::count", "count", NULL, NULL },
    { "NSArray::object_at_index", "objectAtIndex:", NULL, NULL },
    { "NSString::new",
      "initWithBytes:length:encoding:", "stringWithUTF8String:", "C strings end with a zero" },
    { "NSString::len", "lengthOfBytesUsingEncoding:", "", "strlen of the bytes" },
    { "NSString::as_str", "UTF8String", NULL, NULL },
    { "NSURL::url_with_string", "URLWithString:", NULL, NULL },
    { "NSURL::file_url_with_path", "fileURLWithPath:isDirectory:", NULL, NULL },
    { "NSURL::check_resource_is_reachable", "checkResourceIsReachableAndReturnError:", "",
      "access, open: as everywhere" },
    { "NSURL::absolute_url", "absoluteURL", "", "nobody asks" },
    { "NSFileHandle::new", "new", "initWithFileDescriptor:closeOnDealloc:", "of a descriptor" },
    { "NSFileHandle::file_handle_with_standard_input", "fileHandleWithStandardInput",
      "initWithFileDescriptor:closeOnDealloc:", "0 is a descriptor" },
    { "NSFileHandle::file_handle_with_standard_output", "fileHandleWithStandardOutput",
      "initWithFileDescriptor:closeOnDealloc:", "1 is a descriptor" },
    { "NSDictionary::all_keys, all_values", "allKeys", "objectForKey:", "the one key that is wanted" },
    { "NSError::code", "code", NULL, NULL },
    { "NSError::localized_description", "localizedDescription", NULL, NULL },
    { "NSError::localized_failure_reason", "localizedFailureReason", NULL, NULL },
    { "NSError::localized_recovery_suggestion", "localizedRecoverySuggestion", "",
      "hints of our own, which know C" },
    { "NSError::help_anchor", "helpAnchor", "", "leads to no help on the framework" },
    { "NSError::user_info", "userInfo", NULL, NULL },
    { "VZLinuxBootLoaderBuilder::kernel_url", "setKernelURL:", "initWithKernelURL:", "new is unavailable" },
    { "VZLinuxBootLoaderBuilder::initial_ramdisk_url", "setInitialRamdiskURL:", NULL, NULL },
    { "VZLinuxBootLoaderBuilder::command_line", "setCommandLine:", NULL, NULL },
    { "VZEFIVariableStore::create", "initCreatingVariableStoreAtURL:options:error:", NULL, NULL },
    { "VZEFIVariableStore::open", "initWithURL:", NULL, NULL },
    { "VZEFIBootLoaderBuilder::with_variable_store", "setVariableStore:", NULL, NULL },
    { "VZVirtioEntropyDeviceConfiguration::new", "setEntropyDevices:", NULL, NULL },
    { "VZMacGraphicsDisplayConfiguration::new_for", "initWithScreen:sizeInPoints:", "", "does not exist" },
    { "VZMacGraphicsDisplayConfiguration::new_with",
      "initWithWidthInPixels:heightInPixels:pixelsPerInch:", "", "for macOS guests" },
    { "VZMacGraphicsDeviceConfiguration::new", "setDisplays:", "", "for macOS guests" },
    { "VZVirtioGraphicsScanoutConfiguration::new", "initWithWidthInPixels:heightInPixels:", NULL, NULL },
    { "VZVirtioGraphicsDeviceConfiguration::new", "setScanouts:", NULL, NULL },
    { "VZUSBKeyboardConfiguration::new", "setKeyboards:", NULL, NULL },
    { "VZVirtioTraditionalMemoryBalloonDeviceConfiguration::new", "setMemoryBalloonDevices:", NULL, NULL },
    { "VZNATNetworkDeviceAttachment::new", "setAttachment:", NULL, NULL },
    { "VZBridgedNetworkInterface::localized_display_name", "localizedDisplayName", NULL, NULL },
    { "VZBridgedNetworkInterface::identifier", "identifier", NULL, NULL },
    { "VZBridgedNetworkDeviceAttachment::new", "initWithInterface:", NULL, NULL },
    { "VZMACAddress::random_locally_administered_address", "randomLocallyAdministeredAddress",
      "initWithString:", "yado_mac_random makes it, on every engine" },
    { "VZMACAddress::init_with_string", "initWithString:", NULL, NULL },
    { "VZVirtioNetworkDeviceConfiguration::set_mac_address", "setMACAddress:", NULL, NULL },
    { "VZVirtioNetworkDeviceConfiguration::new, set_attachment", "setAttachment:", NULL, NULL },
    { "VZMACAddress::new", "new", "", "is unavailable" },
    { "VZUSBScreenCoordinatePointingDeviceConfiguration::new", "setPointingDevices:", NULL, NULL },
    { "VZMacTrackpadConfiguration::new", "setPointingDevices:", NULL,
      "as the USB pointer; the trackpad is for macOS" },
    { "VZFileHandleSerialPortAttachmentBuilder::build",
      "initWithFileHandleForReading:fileHandleForWriting:", NULL, NULL },
    { "VZVirtioConsoleDeviceSerialPortConfiguration::new", "setSerialPorts:", NULL, NULL },
    { "VZDiskImageStorageDeviceAttachmentBuilder::build",
      "initWithURL:readOnly:cachingMode:synchronizationMode:error:", NULL, NULL },
    { "VZVirtioBlockDeviceConfiguration, VZUSBMassStorageDeviceConfiguration::new",
      "initWithAttachment:", NULL, NULL },
    { "VZVirtualMachineConfigurationBuilder::boot_loader", "setBootLoader:", NULL, NULL },
    { "VZVirtualMachineConfigurationBuilder::cpu_count", "setCPUCount:", NULL, NULL },
    { "VZVirtualMachineConfigurationBuilder::memory_size", "setMemorySize:", NULL, NULL },
    { "VZVirtualMachineConfigurationBuilder::entropy_devices", "setEntropyDevices:", NULL, NULL },
    { "VZVirtualMachineConfigurationBuilder::keyboards", "setKeyboards:", NULL, NULL },
    { "VZVirtualMachineConfigurationBuilder::memory_balloon_devices", "setMemoryBalloonDevices:", NULL,
      NULL },
    { "VZVirtualMachineConfigurationBuilder::pointing_devices", "setPointingDevices:", NULL, NULL },
    { "VZVirtualMachineConfigurationBuilder::serial_ports", "setSerialPorts:", NULL, NULL },
    { "VZVirtualMachineConfigurationBuilder::socket_devices", "setSocketDevices:", NULL, NULL },
    { "VZVirtualMachineConfigurationBuilder::graphics_devices", "setGraphicsDevices:", NULL, NULL },
    { "VZVirtualMachineConfigurationBuilder::network_devices", "setNetworkDevices:", NULL, NULL },
    { "VZVirtualMachineConfigurationBuilder::storage_devices", "setStorageDevices:", NULL, NULL },
    { "VZVirtualMachineConfiguration::validate_with_error", "validateWithError:", NULL, NULL },
    { "dispatch_queue_create, dispatch_sync, dispatch_async", "dispatch_queue_create", "",
      "functions: every machine of these tests runs on its queue" },
    { "VZVirtualMachine::new", "initWithConfiguration:queue:", NULL, NULL },
    { "VZVirtualMachine::new_without_queue",
      "initWithConfiguration:", "initWithConfiguration:queue:", "the main queue is the program's" },
    { "VZVirtualMachine::start_with_completion_handler", "startWithCompletionHandler:", NULL, NULL },
    { "VZVirtualMachine::request_stop_with_error", "requestStopWithError:", NULL, NULL },
    { "VZVirtualMachine::supported", "isSupported", NULL, NULL },
    { "VZVirtualMachine::state", "state", "", "yado_machine_state, which events announce" },
};

/* ---- everything at once ---- */

static void devices_add(struct yado_config *c, int sock)
{
    struct yado_graphics *g = yado_virtio_gpu_new();
    struct yado_sound *s = yado_virtio_sound_new();
    struct yado_network *n = yado_virtio_net_new(yado_nat_new());
    struct yado_mac mac = { { 0x52, 0x54, 0, 0xab, 0xcd, 0xef } };
    struct yado_network_attachment *a = yado_fd_network_new(sock);

    yado_graphics_add_scanout(g, 1024, 768);
    yado_sound_add_output(s, true);
    yado_sound_add_input(s, false);
    yado_network_set_mac(n, &mac);
    yado_fd_network_set_mtu(a, 9000);
    yado_config_add_graphics(c, g);
    yado_config_add_keyboard(c, yado_usb_keyboard_new());
    yado_config_add_pointing(c, yado_usb_pointing_new());
    yado_config_add_sound(c, s);
    yado_config_add_network(c, n);
    yado_config_add_network(c, yado_virtio_net_new(yado_bridged_new("en7")));
    yado_config_add_network(c, yado_virtio_net_new(a));
    yado_config_add_entropy(c, yado_virtio_entropy_new());
    yado_config_add_balloon(c, yado_virtio_balloon_new());
    yado_config_add_socket(c, yado_virtio_socket_new());
    yado_config_add_serial_port(c, yado_virtio_console_port_new(yado_fd_serial_new(0, 1)));
    yado_config_add_share(
        c, yado_virtio_fs_new("tmp", yado_single_share_new(yado_shared_directory_new("/tmp", 0))));
}

static void disks_add(struct yado_config *c)
{
    struct yado_disk *d = yado_disk_image_new(api_disk, YADO_DISK_RAW, YADO_DISK_READ_ONLY), *e;
    struct yado_storage *s;

    yado_disk_set_sync(d, YADO_SYNC_NONE);
    s = yado_virtio_block_new(d);
    yado_storage_set_identifier(s, "root");
    yado_config_add_storage(c, s);
    e = yado_nbd_new("nbd://host/export", 0);
    yado_nbd_set_timeout(e, 2500);
    yado_config_add_storage(c, yado_nvme_new(e));
    d = yado_disk_image_new(api_disk, YADO_DISK_RAW, YADO_DISK_READ_ONLY);
    yado_disk_set_cache(d, YADO_CACHE_UNCACHED);
    yado_disk_set_sync(d, YADO_SYNC_FSYNC);
    yado_config_add_storage(c, yado_usb_storage_new(d));
}

static void number_is(const char *path, long want)
{
    long have = standin_config_number(0, path);

    if (have != want)
        fail_msg("%s is %ld, not %ld", path, have, want);
}

static void text_is(const char *path, const char *want)
{
    const char *have = standin_config_text(0, path);

    if (!have || strcmp(have, want) != 0)
        fail_msg("%s is %s, not %s", path, have ? have : "(none)", want);
}

static void disks_are_there(void)
{
    number_is("storageDevices.count", 3);
    text_is("storageDevices.0.class", "VZVirtioBlockDeviceConfiguration");
    text_is("storageDevices.0.blockDeviceIdentifier", "root");
    text_is("storageDevices.0.attachment.class", "VZDiskImageStorageDeviceAttachment");
    text_is("storageDevices.0.attachment.URL", api_disk);
    number_is("storageDevices.0.attachment.isReadOnly", 1);
    number_is("storageDevices.0.attachment.cachingMode", 2);
    number_is("storageDevices.0.attachment.synchronizationMode", 3);
    text_is("storageDevices.1.class", "VZNVMExpressControllerDeviceConfiguration");
    text_is("storageDevices.1.attachment.class", "VZNetworkBlockDeviceStorageDeviceAttachment");
    text_is("storageDevices.1.attachment.URL", "nbd://host/export");
    number_is("storageDevices.1.attachment.synchronizationMode", 0);
    number_is("storageDevices.1.attachment.isForcedReadOnly", 0);
    assert_true(standin_config_double(0, "storageDevices.1.attachment.timeout") == 2.5);
    text_is("storageDevices.2.class", "VZUSBMassStorageDeviceConfiguration");
    number_is("storageDevices.2.attachment.cachingMode", 1);
    number_is("storageDevices.2.attachment.synchronizationMode", 2);
}

static void devices_are_there(void)
{
    text_is("networkDevices.0.MACAddress.string", "52:54:00:ab:cd:ef");
    text_is("networkDevices.0.attachment.class", "VZNATNetworkDeviceAttachment");
    text_is("networkDevices.1.attachment.interface.identifier", "en7");
    number_is("networkDevices.2.attachment.maximumTransmissionUnit", 9000);
    text_is("graphicsDevices.0.class", "VZVirtioGraphicsDeviceConfiguration");
    number_is("graphicsDevices.0.scanouts.0.widthInPixels", 1024);
    number_is("graphicsDevices.0.scanouts.0.heightInPixels", 768);
    text_is("keyboards.0.class", "VZUSBKeyboardConfiguration");
    text_is("pointingDevices.0.class", "VZUSBScreenCoordinatePointingDeviceConfiguration");
    text_is("audioDevices.0.streams.0.class", "VZVirtioSoundDeviceOutputStreamConfiguration");
    text_is("audioDevices.0.streams.0.sink.class", "VZHostAudioOutputStreamSink");
    text_is("audioDevices.0.streams.1.class", "VZVirtioSoundDeviceInputStreamConfiguration");
    assert_null(standin_config_text(0, "audioDevices.0.streams.1.source.class"));
    text_is("entropyDevices.0.class", "VZVirtioEntropyDeviceConfiguration");
    text_is("memoryBalloonDevices.0.class", "VZVirtioTraditionalMemoryBalloonDeviceConfiguration");
    text_is("serialPorts.0.class", "VZVirtioConsoleDeviceSerialPortConfiguration");
    text_is("serialPorts.0.attachment.class", "VZFileHandleSerialPortAttachment");
    text_is("directorySharingDevices.0.tag", "tmp");
    text_is("directorySharingDevices.0.share.directory.URL", "/tmp");
    number_is("directorySharingDevices.0.share.directory.isReadOnly", 0);
}

static void linux_is_there(void)
{
    number_is("CPUCount", 2);
    number_is("memorySize", 64 << 20);
    text_is("bootLoader.class", "VZLinuxBootLoader");
    text_is("bootLoader.kernelURL", api_kernel);
    text_is("bootLoader.initialRamdiskURL", api_disk);
    text_is("bootLoader.commandLine", "quiet");
}

static void interface_ignore(void *ctx, const char *name, const char *display_name)
{
    (void)ctx;
    (void)name;
    (void)display_name;
}

/* What else the items ask for, and cannot be in the same configuration. */
static void others_ask(void)
{
    struct yado_config *c = api_config();
    char store[96];

    yado_each_bridged_interface(interface_ignore, NULL);
    snprintf(store, sizeof(store), "%s.store", api_kernel);
    assert_true(yado_efi_variable_store_create(store, false, NULL));
    yado_config_set_boot_loader(c, yado_efi_boot_loader_new(store));
    api_valid(c);
    unlink(store);
    standin_fail_next("validateWithError:", VZ, 2, "No.", "For a reason.");
    api_invalid(api_config(), YADO_ERR_INVALID_CONFIG, "For a reason", NULL);
}

static void every_item_is_covered(void **state)
{
    struct yado_config *c = api_config();
    struct yado_machine *m;
    struct heard h;
    int fds[2];

    (void)state;
    assert_int_equal(socketpair(AF_UNIX, SOCK_DGRAM, 0, fds), 0);
    standin_world.networking = ENTITLEMENT_TRUE;
    yado_config_set_boot_loader(c, yado_linux_boot_loader_new(api_kernel, api_disk, "quiet"));
    devices_add(c, fds[0]);
    disks_add(c);
    m = api_machine(c, &h);
    api_do(m, &h, yado_machine_start);
    assert_string_equal(h.last.message, "");
    linux_is_there();
    disks_are_there();
    devices_are_there();
    assert_true(yado_machine_request_stop(m, NULL));
    others_ask();
    for (size_t i = 0; i < array_size(items); i++) {
        const char *selector = items[i].ours ? items[i].ours : items[i].sends;

        assert_true(!items[i].ours || items[i].why);
        if (*selector && !standin_count(selector))
            fail_msg("%s: \"%s\" was never sent", items[i].item, selector);
    }
    yado_machine_free(m);
    close(fds[0]);
    close(fds[1]);
}

/* ---- defects ---- */

/* "requestStopWithError: gets a nil pointer": the reason is not lost. */
static void the_reason_of_a_refused_stop(void **state)
{
    struct yado_error err = YADO_ERROR_INIT;
    struct yado_machine *m;
    struct heard h;

    (void)state;
    m = api_machine(api_config(), &h);
    api_do(m, &h, yado_machine_start);
    standin_fail_next("requestStopWithError:", VZ, 9, "The guest has no button.", NULL);
    assert_false(yado_machine_request_stop(m, &err));
    assert_non_null(strstr(err.message, "The guest has no button"));
    yado_machine_free(m);
}

/* "success is judged by error.code() != 0": what is returned decides. A success may leave anything in the
 * error (here: what may not be looked at), and a failure may have the code 0. */
static void the_return_value_decides(void **state)
{
    struct yado_config *c = api_config();

    (void)state;
    yado_config_add_storage(c, yado_virtio_block_new(yado_disk_image_new(api_disk, YADO_DISK_RAW, 0)));
    api_valid(c);
    standin_fail_next("validateWithError:", VZ, 0, "A failure without a number.", NULL);
    api_invalid(api_config(), YADO_ERR_ENGINE, "A failure without a number", NULL);
    c = api_config();
    yado_config_add_storage(c, yado_virtio_block_new(yado_disk_image_new(api_disk, YADO_DISK_RAW, 0)));
    standin_fail_next("initWithURL:readOnly:cachingMode:synchronizationMode:error:", VZ, 0, "No image.",
                      NULL);
    api_invalid(c, YADO_ERR_ENGINE, "No image", NULL);
}

/* "initWithString: is sent to the class, and new is unavailable": to an instance, which is not new's.
 * "Autoreleased results are wrapped as owned": whatever is left or goes too often fails each of these tests
 * at its end. */
static void addresses_are_instances(void **state)
{
    struct yado_machine *m;
    struct yado_config *c = api_config();
    struct heard h;

    (void)state;
    for (int i = 0; i < 10; i++)
        yado_config_add_network(c, yado_virtio_net_new(yado_nat_new()));
    m = api_machine(c, &h);
    api_do(m, &h, yado_machine_start);
    assert_int_equal(standin_alive("VZMACAddress"), 10);
    assert_int_equal(standin_count("new"), 0);
    assert_int_equal(standin_count("randomLocallyAdministeredAddress"), 0);
    yado_machine_free(m);
    assert_int_equal(standin_alive(NULL), 0);
}

/* "The bridged-interface accessors ask for a class called _obj": names come from the interface. */
static void interfaces_have_names(void **state)
{
    char text[64] = "";

    (void)state;
    assert_int_equal(yado_each_bridged_interface(interface_ignore, text), 2);
    assert_int_equal(standin_count("identifier"), 2);
    assert_int_equal(standin_count("localizedDisplayName"), 2);
}

/* "EFI store URLs are built with URLWithString:, and a wrapper is passed instead of the object." */
static void stores_are_files(void **state)
{
    struct yado_config *c = api_config();
    struct yado_machine *m;
    struct heard h;
    char store[96];

    (void)state;
    snprintf(store, sizeof(store), "%s store with blanks", api_kernel);
    assert_true(yado_efi_variable_store_create(store, false, NULL));
    yado_config_set_boot_loader(c, yado_efi_boot_loader_new(store));
    m = api_machine(c, &h);
    api_do(m, &h, yado_machine_start);
    text_is("bootLoader.class", "VZEFIBootLoader");
    text_is("bootLoader.variableStore.class", "VZEFIVariableStore");
    text_is("bootLoader.variableStore.URL", store);
    assert_int_equal(standin_count("URLWithString:"), 0);
    yado_machine_free(m);
    unlink(store);
}

#define T(f) cmocka_unit_test_setup_teardown(f, api_begin, api_end)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(every_item_is_covered),   T(the_reason_of_a_refused_stop), T(the_return_value_decides),
        T(addresses_are_instances), T(interfaces_have_names),        T(stores_are_files),
    };

    standin_init();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
