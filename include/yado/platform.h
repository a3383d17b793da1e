/* The platform: what kind of computer the guest finds itself on, and who that computer is. */
#ifndef YADO_PLATFORM_H
#define YADO_PLATFORM_H

#include <yado/base.h>

#ifdef __cplusplus
extern "C" {
#endif

struct yado_platform;
struct yado_machine_identifier;

/* The platform of Linux guests, and the default. NULL only when out of memory. */
struct yado_platform *yado_generic_platform_new(void);

/* Gives the machine its identity: the guest sees the same computer each time, and a saved machine can be
 * restored. Two machines with one identifier must not run at once. `identifier` is copied and stays the
 * caller's. Apple's engine (macOS 13); without one, each struct yado_machine has one of its own, so that it
 * can restore what it has saved itself, and nobody else can. */
void yado_generic_platform_set_machine_identifier(struct yado_platform *platform,
                                                  const struct yado_machine_identifier *identifier);

/* Whether guests may run guests of their own with the CPU's help. Default false. Apple's engine (macOS 15 on
 * an M3 or later). The native engines have none to give. */
void yado_generic_platform_set_nested_virtualization(struct yado_platform *platform, bool enabled);

/* For a platform that was not given to a configuration. */
void yado_platform_free(struct yado_platform *platform);

/* A new identifier, unlike any other. NULL and err: YADO_ERR_UNSUPPORTED where no engine knows identifiers.
 * Any thread. */
struct yado_machine_identifier *yado_machine_identifier_new(struct yado_error *err);

/* One that was kept: the bytes that yado_machine_identifier_data gave. NULL and err if they are no identifier
 * (YADO_ERR_INVALID_CONFIG). Any thread. */
struct yado_machine_identifier *yado_machine_identifier_from_data(const void *data, size_t len,
                                                                  struct yado_error *err);

/* Opaque bytes to keep. Valid as long as the identifier. */
const void *yado_machine_identifier_data(const struct yado_machine_identifier *identifier, size_t *len);
void yado_machine_identifier_free(struct yado_machine_identifier *identifier);

#ifdef __cplusplus
}
#endif

#endif
