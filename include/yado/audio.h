/* Sound for the guest. Apple's engine (macOS 12). */
#ifndef YADO_AUDIO_H
#define YADO_AUDIO_H

#include <yado/base.h>

#ifdef __cplusplus
extern "C" {
#endif

#define YADO_SOUND_STREAM_COUNT_MAX 16u

struct yado_sound;

/* A virtio sound device (virtio 1.2, 5.14) without streams. NULL only when out of memory. */
struct yado_sound *yado_virtio_sound_new(void);

/* Adds a stream that the guest plays to, or records from: the host's default device (a program that records
 * must be allowed the microphone by the user), or nothing: what is played is dropped, what is recorded is
 * silence. At most YADO_SOUND_STREAM_COUNT_MAX together; checked by yado_config_validate. */
void yado_sound_add_output(struct yado_sound *sound, bool to_host);
void yado_sound_add_input(struct yado_sound *sound, bool from_host);

/* For a device that was not given to a configuration. */
void yado_sound_free(struct yado_sound *sound);

#ifdef __cplusplus
}
#endif

#endif
