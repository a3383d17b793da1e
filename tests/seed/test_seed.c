/* The seed image: read back by libarchive's reader, and by a small reader of our own for the names that the
 * Joliet and plain trees show, since libarchive shows one tree only. */
#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "seed/seed.h"

#define FILE_OF(s) ((struct seed_file){ .data = (s), .len = strlen(s) })

static void seed_get(const struct seed_input *in, struct seed_image *img)
{
    struct yado_error err = YADO_ERROR_INIT;

    if (!seed_build(in, img, &err))
        fail_msg("%s", err.message);
}

/* What libarchive finds under `name`, NUL-terminated on the heap, or NULL. `options` choose the tree. */
static char *image_file(const struct seed_image *img, const char *options, const char *name, size_t *len)
{
    struct archive *a = archive_read_new();
    struct archive_entry *entry;
    char *data = NULL;

    assert_int_equal(archive_read_support_format_iso9660(a), ARCHIVE_OK);
    if (options)
        assert_int_equal(archive_read_set_options(a, options), ARCHIVE_OK);
    assert_int_equal(lseek(img->fd, 0, SEEK_SET), 0);
    assert_int_equal(archive_read_open_fd(a, img->fd, 2048), ARCHIVE_OK);
    while (archive_read_next_header(a, &entry) == ARCHIVE_OK) {
        if (strcmp(archive_entry_pathname(entry), name))
            continue;
        *len = (size_t)archive_entry_size(entry);
        data = calloc(1, *len + 1);
        assert_int_equal(archive_read_data(a, data, *len), *len);
        break;
    }
    archive_read_free(a);
    return data;
}

static void assert_file(const struct seed_image *img, const char *options, const char *name, const void *want,
                        size_t want_len)
{
    size_t len = 0;
    char *data = image_file(img, options, name, &len);

    if (!data)
        fail_msg("%s is not there", name);
    assert_int_equal(len, want_len);
    assert_memory_equal(data, want, want_len);
    free(data);
}

static void all_files_are_there_under_exact_names(void **state)
{
    /* Any bytes, NUL and non-ASCII too. */
    static const char user[] = "#cloud-config\n\0\xff\xfe\x80 not yaml\n";
    struct seed_input in = { .user_data = { user, sizeof(user) },
                             .meta_data = FILE_OF("instance-id: a\n"),
                             .network_config = FILE_OF("version: 2\n") };
    static const char *const trees[] = { "iso9660:!joliet", "iso9660:!rockridge" };
    struct seed_image img;

    (void)state;
    seed_get(&in, &img);
    for (size_t i = 0; i < array_size(trees); i++) {
        assert_file(&img, trees[i], "user-data", user, sizeof(user));
        assert_file(&img, trees[i], "meta-data", "instance-id: a\n", 15);
        assert_file(&img, trees[i], "network-config", "version: 2\n", 11);
    }
    seed_image_close(&img);
    assert_int_equal(img.fd, -1);
    seed_image_close(&img);
}

static void label_and_size_are_as_documented(void **state)
{
    struct seed_input in = { .user_data = FILE_OF("x") };
    struct seed_image img;
    unsigned char sector[2048];
    struct stat st;
    uint32_t sectors;

    (void)state;
    seed_get(&in, &img);
    assert_int_equal(fstat(img.fd, &st), 0);
    assert_int_equal(st.st_size, img.size);
    assert_int_equal(img.size % 2048, 0);
    assert_true(img.size < MIB(1));
    assert_int_equal(lseek(img.fd, 0, SEEK_CUR), 0);
    /* ECMA-119, 8.4: type, identifier, version, volume identifier at 40, number of blocks at 80. */
    assert_int_equal(pread(img.fd, sector, sizeof(sector), 0x8000), sizeof(sector));
    assert_memory_equal(sector, "\1CD001\1", 7);
    assert_memory_equal(sector + 0x28, "cidata                          ", 32);
    memcpy(&sectors, sector + 80, 4);
    assert_int_equal((uint64_t)sectors * 2048, img.size);
    /* Joliet: type 2, escape sequence %/E at 88, label in UCS-2. */
    assert_int_equal(pread(img.fd, sector, sizeof(sector), 0x8800), sizeof(sector));
    assert_memory_equal(sector, "\2CD001\1", 7);
    assert_memory_equal(sector + 88, "%/E", 3);
    assert_memory_equal(sector + 0x28, "\0c\0i\0d\0a\0t\0a", 12);
    seed_image_close(&img);
}

static char *made_meta_data(const char *user, const char *network, const char *hostname)
{
    struct seed_input in = { .user_data = FILE_OF(user), .hostname = hostname };
    struct seed_image img;
    char *meta;
    size_t len;

    if (network)
        in.network_config = FILE_OF(network);
    seed_get(&in, &img);
    meta = image_file(&img, NULL, "meta-data", &len);
    assert_non_null(meta);
    seed_image_close(&img);
    return meta;
}

static void meta_data_is_made_up_from_the_inputs(void **state)
{
    char *first = made_meta_data("a", NULL, NULL), *again = made_meta_data("a", NULL, "yado");
    char *others[] = { made_meta_data("b", NULL, NULL), made_meta_data("a", "", NULL),
                       made_meta_data("a", "n", NULL), made_meta_data("an", NULL, NULL),
                       made_meta_data("a", NULL, "foobar") };

    (void)state;
    assert_memory_equal(first, "instance-id: \"iid-", 18);
    assert_non_null(strstr(first, "\nlocal-hostname: \"yado\"\n"));
    assert_string_equal(first, again);
    assert_non_null(strstr(others[4], "\nlocal-hostname: \"foobar\"\n"));
    /* An empty network-config is one, but says as much as none. */
    assert_string_equal(first, others[1]);
    for (size_t i = 0; i < array_size(others); i++)
        for (size_t j = 0; j < i; j++)
            if (j != 1)
                assert_string_not_equal(others[i], others[j]);
    free(first);
    free(again);
    for (size_t i = 0; i < array_size(others); i++)
        free(others[i]);
}

static void optional_files_are_left_out(void **state)
{
    struct seed_input in = { .user_data = { "", 0 } };
    struct seed_image img;
    size_t len = 1;
    char *data;

    (void)state;
    seed_get(&in, &img);
    assert_file(&img, NULL, "user-data", "", 0);
    data = image_file(&img, NULL, "network-config", &len);
    assert_null(data);
    seed_image_close(&img);
}

static void largest_inputs_fit(void **state)
{
    char *big = malloc(SEED_INPUT_MAX + 1);
    struct seed_input in = { .user_data = { big, SEED_INPUT_MAX },
                             .meta_data = { big, SEED_INPUT_MAX },
                             .network_config = { big, SEED_INPUT_MAX } };
    struct yado_error err = YADO_ERROR_INIT;
    struct seed_image img;

    (void)state;
    for (size_t i = 0; i < SEED_INPUT_MAX + 1; i++)
        big[i] = (char)(i * 2654435761u >> 13);
    seed_get(&in, &img);
    assert_file(&img, NULL, "network-config", big, SEED_INPUT_MAX);
    seed_image_close(&img);
    in.user_data.len++;
    assert_false(seed_build(&in, &img, &err));
    assert_int_equal(img.fd, -1);
    assert_int_equal(err.code, YADO_ERR_INVALID_CONFIG);
    assert_memory_equal(err.message, "user-data: ", 11);
    assert_non_null(strstr(err.message, "16 MiB"));
    in.user_data.len--;
    in.network_config.len++;
    err = (struct yado_error)YADO_ERROR_INIT;
    assert_false(seed_build(&in, &img, &err));
    assert_memory_equal(err.message, "network-config: ", 16);
    free(big);
}

static void missing_user_data_is_told(void **state)
{
    struct seed_input in = { .meta_data = FILE_OF("a: b\n") };
    struct yado_error err = YADO_ERROR_INIT;
    struct seed_image img;

    (void)state;
    assert_false(seed_build(&in, &img, &err));
    assert_int_equal(err.code, YADO_ERR_INVALID_CONFIG);
    assert_memory_equal(err.message, "user-data: ", 11);
    assert_int_equal(img.fd, -1);
}

static void hostnames_are_checked(void **state)
{
    static const char *const bad[] = { "",     "a b", "a\"b", "a\nb", "-a",      "a-",
                                       "a..b", ".a",  "a.",   "a_b",  "\xc3\xa9" };
    static const char *const good[] = { "a", "foobar", "node-1", "n1.example.org", "123", "A-b" };
    char longest[256];

    (void)state;
    for (size_t i = 0; i < array_size(bad); i++) {
        struct seed_input in = { .user_data = FILE_OF("x"), .hostname = bad[i] };
        struct yado_error err = YADO_ERROR_INIT;
        struct seed_image img;

        assert_false(seed_build(&in, &img, &err));
        assert_int_equal(err.code, YADO_ERR_INVALID_CONFIG);
        assert_memory_equal(err.message, "host name: ", 11);
        assert_null(strchr(err.message, '\n'));
    }
    for (size_t i = 0; i < array_size(good); i++)
        free(made_meta_data("x", NULL, good[i]));
    memset(longest, 'h', 253);
    longest[253] = '\0';
    free(made_meta_data("x", NULL, longest));
    memcpy(longest + 253, "h", 2);
    {
        struct seed_input in = { .user_data = FILE_OF("x"), .hostname = longest };
        struct seed_image img;

        assert_false(seed_build(&in, &img, NULL));
        /* With meta-data of the caller's own the name is not used. */
        in.meta_data = FILE_OF("instance-id: x\n");
        assert_true(seed_build(&in, &img, NULL));
        seed_image_close(&img);
    }
}

static void image_is_written_out_whole(void **state)
{
    struct seed_input in = { .user_data = FILE_OF("x") };
    struct yado_error err = YADO_ERROR_INIT;
    struct seed_image img;
    char path[] = "/tmp/yado-seed-XXXXXX", *a, *b;
    int fd = mkstemp(path), full = open("/dev/full", O_WRONLY);

    (void)state;
    seed_get(&in, &img);
    assert_true(seed_image_write(&img, fd, path, &err));
    a = malloc(img.size);
    b = malloc(img.size + 1);
    assert_int_equal(pread(img.fd, a, img.size, 0), img.size);
    assert_int_equal(pread(fd, b, img.size + 1, 0), img.size);
    assert_memory_equal(a, b, img.size);
    if (full >= 0) {
        assert_false(seed_image_write(&img, full, "seed.iso", &err));
        assert_int_equal(err.code, YADO_ERR_FILE);
        assert_int_equal(err.os_errno, ENOSPC);
        assert_memory_equal(err.message, "seed.iso: ", 10);
        close(full);
    }
    free(a);
    free(b);
    close(fd);
    unlink(path);
    seed_image_close(&img);
}

/* Another program's reader must see the same. Skipped where there is none. */
static void isoinfo_reads_it(void **state)
{
    struct seed_input in = { .user_data = FILE_OF("#cloud-config\n") };
    struct seed_image img;
    char path[] = "/tmp/yado-seed-XXXXXX", command[300], out[200] = "";
    int fd = mkstemp(path);
    FILE *p;

    (void)state;
    if (system("command -v isoinfo >/dev/null 2>&1")) {
        close(fd);
        unlink(path);
        print_message("no isoinfo here\n");
        skip();
    }
    seed_get(&in, &img);
    assert_true(seed_image_write(&img, fd, path, NULL));
    for (int i = 0; i < 2; i++) {
        snprintf(command, sizeof(command), "isoinfo -i %s -%c -x /user-data", path, "RJ"[i]);
        p = popen(command, "r");
        assert_non_null(p);
        memset(out, 0, sizeof(out));
        assert_true(fread(out, 1, sizeof(out) - 1, p) > 0);
        assert_int_equal(pclose(p), 0);
        assert_string_equal(out, "#cloud-config\n");
    }
    seed_image_close(&img);
    close(fd);
    unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_files_are_there_under_exact_names),
        cmocka_unit_test(label_and_size_are_as_documented),
        cmocka_unit_test(meta_data_is_made_up_from_the_inputs),
        cmocka_unit_test(optional_files_are_left_out),
        cmocka_unit_test(largest_inputs_fit),
        cmocka_unit_test(missing_user_data_is_told),
        cmocka_unit_test(hostnames_are_checked),
        cmocka_unit_test(image_is_written_out_whole),
        cmocka_unit_test(isoinfo_reads_it),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
