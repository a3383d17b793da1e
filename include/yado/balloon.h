/* A memory balloon: takes memory from the guest while it runs, and gives it back. */
#ifndef YADO_BALLOON_H
#define YADO_BALLOON_H

#include <yado/base.h>

#ifdef __cplusplus
extern "C" {
#endif

struct yado_balloon;

/* A traditional virtio balloon (virtio 1.2, 5.5). At most one in a machine. It does two things: the guest's
 * memory follows yado_machine_set_balloon_target (machine.h); and, on our own engines, pages that the guest
 * has free at the moment go back to the host within seconds without anyone asking (free page reporting). The
 * guest needs a driver for either; Linux has had the second since 5.7. NULL only when out of memory. */
struct yado_balloon *yado_virtio_balloon_new(void);

/* For a device that was not given to a configuration. */
void yado_balloon_free(struct yado_balloon *balloon);

#ifdef __cplusplus
}
#endif

#endif
