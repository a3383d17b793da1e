/* Sound. */
#include "backend/apple/apple_priv.h"

static id input_make(bool has_host)
{
    id stream = NEW(VZVirtioSoundDeviceInputStreamConfiguration);

    if (has_host)
        VZVirtioSoundDeviceInputStreamConfiguration_setSource(stream, NEW(VZHostAudioInputStreamSource));
    return stream;
}

static id output_make(bool has_host)
{
    id stream = NEW(VZVirtioSoundDeviceOutputStreamConfiguration);

    if (has_host)
        VZVirtioSoundDeviceOutputStreamConfiguration_setSink(stream, NEW(VZHostAudioOutputStreamSink));
    return stream;
}

id sound_make(const struct spec_sound *s, unsigned index, struct yado_error *err)
{
    id streams[SPEC_STREAM_MAX], device;

    if (!NEEDED(VZVirtioSoundDeviceConfiguration, setStreams, err, "sound[%u]: a sound device", index))
        return NULL;
    device = NEW(VZVirtioSoundDeviceConfiguration);
    for (unsigned i = 0; i < s->stream_count; i++)
        streams[i] =
            s->streams[i].is_input ? input_make(s->streams[i].has_host) : output_make(s->streams[i].has_host);
    VZVirtioSoundDeviceConfiguration_setStreams(device, array_of(streams, s->stream_count));
    return device;
}
