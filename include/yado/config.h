/* The description of a machine: inert data, copied by yado_machine_new, so that later changes touch no
 * machine. */
#ifndef YADO_CONFIG_H
#define YADO_CONFIG_H

#include <yado/base.h>
#include <yado/audio.h>
#include <yado/balloon.h>
#include <yado/boot.h>
#include <yado/console.h>
#include <yado/entropy.h>
#include <yado/graphics.h>
#include <yado/network.h>
#include <yado/platform.h>
#include <yado/share.h>
#include <yado/socket.h>
#include <yado/storage.h>

#ifdef __cplusplus
extern "C" {
#endif

#define YADO_CPU_COUNT_MIN 1u
#define YADO_CPU_COUNT_MAX 64u
#define YADO_MEMORY_SIZE_STEP (1ull << 20)  /* memory is a multiple of this ... */
#define YADO_MEMORY_SIZE_MIN (16ull << 20)  /* ... at least this ... */
#define YADO_MEMORY_SIZE_MAX (256ull << 30) /* ... and at most this, or what the host can give */
#define YADO_DEVICE_COUNT_MAX 24u           /* all kinds together */

struct yado_config;

/* A configuration with 1 CPU, 1 GiB of memory, no boot loader and no devices. NULL only when out of memory.
 */
struct yado_config *yado_config_new(void);
void yado_config_free(struct yado_config *config);

/* Virtual CPUs, YADO_CPU_COUNT_MIN to _MAX. More than the host has are legal and slow. */
void yado_config_set_cpu_count(struct yado_config *config, unsigned count);

/* Guest memory in bytes. The host gives pages as the guest touches them. */
void yado_config_set_memory_size(struct yado_config *config, uint64_t size);

/* Takes the object over; an earlier boot loader is freed. */
/* A port (0xf4, any width up to 4 bytes) at which the guest can end itself: a write stops the machine
 * (YADO_STOP_DEBUG_EXIT), and yado_machine_exit_value tells what was written; as QEMU's isa-debug-exit. A
 * multiboot kernel also finds QEMU's pc-testdev. For test kernels. Default: none. Not on Apple's engine. */
void yado_config_set_debug_exit(struct yado_config *config, bool on);
void yado_config_set_boot_loader(struct yado_config *config, struct yado_boot_loader *loader);

/* Takes the object over; an earlier platform is freed. Default: a generic one. */
void yado_config_set_platform(struct yado_config *config, struct yado_platform *platform);

/* Each takes the object over. Order is the order of device names in the guest. */
void yado_config_add_storage(struct yado_config *config, struct yado_storage *storage);
void yado_config_add_serial_port(struct yado_config *config, struct yado_serial_port *port);
void yado_config_add_console(struct yado_config *config, struct yado_console *console);
void yado_config_add_entropy(struct yado_config *config, struct yado_entropy *entropy);
void yado_config_add_balloon(struct yado_config *config, struct yado_balloon *balloon); /* one at most */
void yado_config_add_socket(struct yado_config *config, struct yado_socket *socket);    /* one at most */
void yado_config_add_network(struct yado_config *config, struct yado_network *network);
void yado_config_add_share(struct yado_config *config, struct yado_share *share);
void yado_config_add_graphics(struct yado_config *config, struct yado_graphics *graphics);
void yado_config_add_keyboard(struct yado_config *config, struct yado_keyboard *keyboard);
void yado_config_add_pointing(struct yado_config *config, struct yado_pointing *pointing);
void yado_config_add_sound(struct yado_config *config, struct yado_sound *sound);

/* What a configuration may ask for on this host, memory in bytes and whole MiB: the ranges above, less what
 * the host or its framework does not allow. Of memory, our own engines allow no more than the host has with
 * its swap. Where no machine can run, the ranges above. Any thread. Apple:
 * VZVirtualMachineConfiguration.minimumAllowedCPUCount and the like. */
unsigned yado_config_minimum_allowed_cpu_count(void);
unsigned yado_config_maximum_allowed_cpu_count(void);
uint64_t yado_config_minimum_allowed_memory_size(void);
uint64_t yado_config_maximum_allowed_memory_size(void);

/* Whether a machine could be made of it, as far as can be known without making one: ranges, files that are
 * missing, unreadable or of the wrong kind, what no engine can do. The message names the field, as in
 * "storage[0]: disk.img: no such file". Opens, reads and closes the files (so it blocks), and changes
 * nothing. That a disk is in use by another machine is found out at the start. */
bool yado_config_validate(const struct yado_config *config, struct yado_error *err);

/* Whether a machine of it could be saved and restored (machine.h); if not, what is in the way. */
bool yado_config_validate_save_restore(const struct yado_config *config, struct yado_error *err);

#ifdef __cplusplus
}
#endif

#endif
