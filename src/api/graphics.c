/* Screens, keyboards, pointers and sound: objects, and what is checked of them. */
#include <stdlib.h>

#include "api/config_priv.h"

_Static_assert(YADO_SCANOUT_COUNT_MAX == SPEC_SCANOUT_MAX, "one limit, two names");
_Static_assert(YADO_SOUND_STREAM_COUNT_MAX == SPEC_STREAM_MAX, "one limit, two names");

/* ---- screens ---- */

struct yado_graphics *yado_virtio_gpu_new(void)
{
    return calloc(1, sizeof(struct yado_graphics));
}

void yado_graphics_add_scanout(struct yado_graphics *graphics, unsigned width, unsigned height)
{
    struct spec_graphics *g;
    unsigned i;

    if (!graphics)
        return;
    g = &graphics->graphics;
    i = g->scanout_count++;
    if (i >= SPEC_SCANOUT_MAX)
        return;
    g->scanouts[i].width = width;
    g->scanouts[i].height = height;
}

void yado_graphics_free(struct yado_graphics *graphics)
{
    free(graphics);
}

void yado_config_add_graphics(struct yado_config *config, struct yado_graphics *graphics)
{
    if (!graphics)
        config_lacks_device(config, "graphics", config->spec.graphics_count);
    else if (device_fits(config))
        config->spec.graphics[config->spec.graphics_count++] = graphics->graphics;
    yado_graphics_free(graphics);
}

static bool size_fits(unsigned n)
{
    return n >= 1 && n <= YADO_SCANOUT_SIZE_MAX;
}

bool graphics_check(const struct spec *s, struct yado_error *err)
{
    for (unsigned i = 0; i < s->graphics_count; i++) {
        const struct spec_graphics *g = &s->graphics[i];

        if (g->scanout_count > SPEC_SCANOUT_MAX)
            return err_set(err, YADO_ERR_INVALID_CONFIG, "graphics[%u]: %u screens, at most %u are possible",
                           i, g->scanout_count, SPEC_SCANOUT_MAX);
        for (unsigned j = 0; j < g->scanout_count; j++) {
            if (!size_fits(g->scanouts[j].width) || !size_fits(g->scanouts[j].height))
                return err_set(err, YADO_ERR_INVALID_CONFIG,
                               "graphics[%u].scanouts[%u]: %u x %u is not from 1 to %u pixels", i, j,
                               g->scanouts[j].width, g->scanouts[j].height, YADO_SCANOUT_SIZE_MAX);
        }
    }
    return true;
}

/* ---- keyboards and pointers ---- */

struct yado_keyboard *yado_usb_keyboard_new(void)
{
    return calloc(1, sizeof(struct yado_keyboard));
}

void yado_keyboard_free(struct yado_keyboard *keyboard)
{
    free(keyboard);
}

void yado_config_add_keyboard(struct yado_config *config, struct yado_keyboard *keyboard)
{
    if (!keyboard)
        config_lacks_device(config, "keyboards", config->spec.keyboard_count);
    else if (device_fits(config))
        config->spec.keyboard_count++;
    yado_keyboard_free(keyboard);
}

struct yado_pointing *yado_usb_pointing_new(void)
{
    return calloc(1, sizeof(struct yado_pointing));
}

void yado_pointing_free(struct yado_pointing *pointing)
{
    free(pointing);
}

void yado_config_add_pointing(struct yado_config *config, struct yado_pointing *pointing)
{
    if (!pointing)
        config_lacks_device(config, "pointing", config->spec.pointing_count);
    else if (device_fits(config))
        config->spec.pointing_count++;
    yado_pointing_free(pointing);
}

/* ---- sound ---- */

struct yado_sound *yado_virtio_sound_new(void)
{
    return calloc(1, sizeof(struct yado_sound));
}

static void stream_add(struct yado_sound *sound, bool is_input, bool has_host)
{
    unsigned i;

    if (!sound)
        return;
    i = sound->sound.stream_count++;
    if (i < SPEC_STREAM_MAX)
        sound->sound.streams[i] = (struct spec_stream){ .is_input = is_input, .has_host = has_host };
}

void yado_sound_add_output(struct yado_sound *sound, bool to_host)
{
    stream_add(sound, false, to_host);
}

void yado_sound_add_input(struct yado_sound *sound, bool from_host)
{
    stream_add(sound, true, from_host);
}

void yado_sound_free(struct yado_sound *sound)
{
    free(sound);
}

void yado_config_add_sound(struct yado_config *config, struct yado_sound *sound)
{
    if (!sound)
        config_lacks_device(config, "sound", config->spec.sound_count);
    else if (device_fits(config))
        config->spec.sounds[config->spec.sound_count++] = sound->sound;
    yado_sound_free(sound);
}

bool sounds_check(const struct spec *s, struct yado_error *err)
{
    for (unsigned i = 0; i < s->sound_count; i++) {
        if (s->sounds[i].stream_count > SPEC_STREAM_MAX)
            return err_set(err, YADO_ERR_INVALID_CONFIG, "sound[%u]: %u streams, at most %u are possible", i,
                           s->sounds[i].stream_count, SPEC_STREAM_MAX);
    }
    return true;
}
