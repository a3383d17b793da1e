/* libarchive, loaded when first used.
 *
 * It brings some twenty libraries with it (XML, character sets, every compression), whose relocation takes
 * the dynamic linker longer than all that yado itself does up to a guest's first instruction; yet it is
 * needed only to make a seed, to look into a gzip initrd and to unpack kernels and initrds. So it is not
 * linked: the functions that we call are defined here, by the prototypes of its own header, and hand on to
 * the library. The table is written once, as the linker's own would be.
 *
 * Without the library the two functions that make an archive return NULL, which their users have an answer
 * to; the others are then never called. Why it could not be loaded is kept for archive_lazy_load(). */
#include <archive.h>
#include <archive_entry.h>
#include <dlfcn.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>

#include "seed/archive_lazy.h"

#define SONAME "libarchive.so.13"

#define FUNCTIONS(X)                                                                                         \
    X(archive_entry_clear)                                                                                   \
    X(archive_entry_free)                                                                                    \
    X(archive_entry_new)                                                                                     \
    X(archive_entry_set_filetype)                                                                            \
    X(archive_entry_set_mtime)                                                                               \
    X(archive_entry_set_pathname)                                                                            \
    X(archive_entry_set_perm)                                                                                \
    X(archive_entry_set_size)                                                                                \
    X(archive_error_string)                                                                                  \
    X(archive_filter_bytes)                                                                                  \
    X(archive_read_data_block)                                                                               \
    X(archive_read_free)                                                                                     \
    X(archive_read_new)                                                                                      \
    X(archive_read_next_header)                                                                              \
    X(archive_read_open_memory)                                                                              \
    X(archive_read_support_filter_bzip2)                                                                     \
    X(archive_read_support_filter_gzip)                                                                      \
    X(archive_read_support_filter_lz4)                                                                       \
    X(archive_read_support_filter_lzma)                                                                      \
    X(archive_read_support_filter_xz)                                                                        \
    X(archive_read_support_filter_zstd)                                                                      \
    X(archive_read_support_format_raw)                                                                       \
    X(archive_set_error)                                                                                     \
    X(archive_write_close)                                                                                   \
    X(archive_write_data)                                                                                    \
    X(archive_write_free)                                                                                    \
    X(archive_write_header)                                                                                  \
    X(archive_write_new)                                                                                     \
    X(archive_write_open)                                                                                    \
    X(archive_write_set_bytes_per_block)                                                                     \
    X(archive_write_set_format_iso9660)                                                                      \
    X(archive_write_set_options)

#define POINTER(name) __typeof__(name) *name;

static struct {
    pthread_once_t once;
    bool is_there;
    char why[256]; /* it is not */
    struct {
        FUNCTIONS(POINTER)
    } f;
} lib = { .once = PTHREAD_ONCE_INIT };

static void load(void)
{
    void *handle = dlopen(SONAME, RTLD_NOW | RTLD_LOCAL);
    bool all = handle != NULL;

/* POSIX allows the conversion of what dlsym returns; C has no way to write it. */
#define FIND(name)                                                                                           \
    if (all) {                                                                                               \
        *(void **)(void *)&lib.f.name = dlsym(handle, #name);                                                \
        all = lib.f.name != NULL;                                                                            \
    }
    FUNCTIONS(FIND)
    lib.is_there = all;
    if (!all) {
        const char *why = dlerror();

        snprintf(lib.why, sizeof(lib.why), "%s", why ? why : SONAME);
    }
}

static bool is_there(void)
{
    pthread_once(&lib.once, load);
    return lib.is_there;
}

bool archive_lazy_load(struct yado_error *err)
{
    return is_there() || err_set(err, YADO_ERR_UNSUPPORTED,
                                 "libarchive cannot be loaded (%s); install it (on Debian and Ubuntu: sudo "
                                 "apt-get install libarchive13, or libarchive13t64 where it is called so)",
                                 lib.why);
}

/* ---- what makes an archive ---- */

struct archive *archive_read_new(void)
{
    return is_there() ? lib.f.archive_read_new() : NULL;
}

struct archive *archive_write_new(void)
{
    return is_there() ? lib.f.archive_write_new() : NULL;
}

/* ---- what one needs an archive for ---- */

struct archive_entry *archive_entry_new(void)
{
    return is_there() ? lib.f.archive_entry_new() : NULL;
}

struct archive_entry *archive_entry_clear(struct archive_entry *e)
{
    return lib.f.archive_entry_clear(e);
}

void archive_entry_free(struct archive_entry *e)
{
    if (e)
        lib.f.archive_entry_free(e);
}

void archive_entry_set_filetype(struct archive_entry *e, unsigned int type)
{
    lib.f.archive_entry_set_filetype(e, type);
}

void archive_entry_set_mtime(struct archive_entry *e, time_t s, long ns)
{
    lib.f.archive_entry_set_mtime(e, s, ns);
}

void archive_entry_set_pathname(struct archive_entry *e, const char *name)
{
    lib.f.archive_entry_set_pathname(e, name);
}

void archive_entry_set_perm(struct archive_entry *e, __LA_MODE_T mode)
{
    lib.f.archive_entry_set_perm(e, mode);
}

void archive_entry_set_size(struct archive_entry *e, la_int64_t size)
{
    lib.f.archive_entry_set_size(e, size);
}

const char *archive_error_string(struct archive *a)
{
    return lib.f.archive_error_string(a);
}

void archive_set_error(struct archive *a, int number, const char *format, ...)
{
    char text[256];
    va_list ap;

    va_start(ap, format);
    vsnprintf(text, sizeof(text), format, ap);
    va_end(ap);
    lib.f.archive_set_error(a, number, "%s", text);
}

la_int64_t archive_filter_bytes(struct archive *a, int filter)
{
    return lib.f.archive_filter_bytes(a, filter);
}

int archive_read_data_block(struct archive *a, const void **block, size_t *len, la_int64_t *off)
{
    return lib.f.archive_read_data_block(a, block, len, off);
}

int archive_read_free(struct archive *a)
{
    return lib.f.archive_read_free(a);
}

int archive_read_next_header(struct archive *a, struct archive_entry **e)
{
    return lib.f.archive_read_next_header(a, e);
}

int archive_read_open_memory(struct archive *a, const void *bytes, size_t len)
{
    return lib.f.archive_read_open_memory(a, bytes, len);
}

int archive_read_support_filter_bzip2(struct archive *a)
{
    return lib.f.archive_read_support_filter_bzip2(a);
}

int archive_read_support_filter_gzip(struct archive *a)
{
    return lib.f.archive_read_support_filter_gzip(a);
}

int archive_read_support_filter_lz4(struct archive *a)
{
    return lib.f.archive_read_support_filter_lz4(a);
}

int archive_read_support_filter_lzma(struct archive *a)
{
    return lib.f.archive_read_support_filter_lzma(a);
}

int archive_read_support_filter_xz(struct archive *a)
{
    return lib.f.archive_read_support_filter_xz(a);
}

int archive_read_support_filter_zstd(struct archive *a)
{
    return lib.f.archive_read_support_filter_zstd(a);
}

int archive_read_support_format_raw(struct archive *a)
{
    return lib.f.archive_read_support_format_raw(a);
}

int archive_write_close(struct archive *a)
{
    return lib.f.archive_write_close(a);
}

la_ssize_t archive_write_data(struct archive *a, const void *bytes, size_t len)
{
    return lib.f.archive_write_data(a, bytes, len);
}

int archive_write_free(struct archive *a)
{
    return lib.f.archive_write_free(a);
}

int archive_write_header(struct archive *a, struct archive_entry *e)
{
    return lib.f.archive_write_header(a, e);
}

int archive_write_open(struct archive *a, void *ctx, archive_open_callback *on_open,
                       archive_write_callback *on_write, archive_close_callback *on_close)
{
    return lib.f.archive_write_open(a, ctx, on_open, on_write, on_close);
}

int archive_write_set_bytes_per_block(struct archive *a, int bytes)
{
    return lib.f.archive_write_set_bytes_per_block(a, bytes);
}

int archive_write_set_format_iso9660(struct archive *a)
{
    return lib.f.archive_write_set_format_iso9660(a);
}

int archive_write_set_options(struct archive *a, const char *options)
{
    return lib.f.archive_write_set_options(a, options);
}
