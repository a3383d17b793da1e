/* A source of randomness for the guest. */
#ifndef YADO_ENTROPY_H
#define YADO_ENTROPY_H

#include <yado/base.h>

#ifdef __cplusplus
extern "C" {
#endif

struct yado_entropy;

/* A virtio entropy device (virtio 1.2, 5.4), fed by the host's random number generator. */
struct yado_entropy *yado_virtio_entropy_new(void);

/* For a device that was not given to a configuration. */
void yado_entropy_free(struct yado_entropy *entropy);

#ifdef __cplusplus
}
#endif

#endif
