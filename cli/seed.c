/* yado seed: a cloud-init seed image in a file. */
#include "cli.h"

#include <signal.h>
#include <sys/stat.h>

#include "args.h"
#include "seed.h"

void seed_options_set(struct seed_options *o, enum seed_option which, const char *value)
{
    const char **place = which == SEED_NAME ? &o->name : &o->files[which];

    *place = value;
}

struct yado_seed *seed_make(const struct seed_options *o, struct yado_error *err)
{
    struct yado_seed *s = yado_seed_new();
    bool ok = s != NULL;

    for (int i = 0; ok && i < SEED_FILE_COUNT; i++)
        ok = !o->files[i] || yado_seed_set_file(s, (enum yado_seed_part)i, o->files[i], err);
    ok = ok && (!o->name || yado_seed_set_host_name(s, o->name, err));
    if (ok)
        return s;
    yado_seed_free(s);
    return NULL;
}

/* Nothing half made may stay, so a signal waits until the file has its name. */
static bool write_undisturbed(const struct yado_seed *s, const char *path, struct yado_error *err)
{
    sigset_t all, before;
    bool ok;

    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, &before);
    ok = yado_seed_write(s, path, err);
    sigprocmask(SIG_SETMASK, &before, NULL);
    return ok;
}

/* Writing the seed over what it is made from would lose that. */
static bool is_input(const struct seed_options *o, const char *output)
{
    struct stat out, in;

    if (stat(output, &out) < 0)
        return false;
    for (int i = 0; i < SEED_FILE_COUNT; i++) {
        if (o->files[i] && stat(o->files[i], &in) == 0 && in.st_dev == out.st_dev && in.st_ino == out.st_ino)
            return true;
    }
    return false;
}

int cli_seed(int argc, char **argv)
{
    static const char *const names[] = { "--user-data", "--meta-data", "--network-config", "--name", "-o",
                                         "--output",    NULL };
    struct args a = { .argc = argc, .argv = argv };
    struct yado_error err = YADO_ERROR_INIT;
    struct seed_options o = { 0 };
    const char *value, *output = NULL;
    struct yado_seed *s;
    enum args_item item;
    int index = 0;
    bool ok;

    while ((item = args_next(&a, names, &index, &value)) == ARGS_OPTION) {
        if (index <= SEED_NAME)
            seed_options_set(&o, (enum seed_option)index, value);
        else
            output = value;
    }
    if (item == ARGS_ERROR)
        return EXIT_USAGE;
    if (item == ARGS_WORD)
        return usage_error("seed: what is \"%s\"? see yado --help", value);
    if (!o.files[SEED_USER_DATA])
        return usage_error("seed: --user-data FILE is missing");
    if (!output || !*output)
        return usage_error("seed: -o FILE is missing");
    if (is_input(&o, output))
        return usage_error("seed: -o %s: this is one of the files that the seed is made from", output);
    s = seed_make(&o, &err);
    ok = s && write_undisturbed(s, output, &err);
    yado_seed_free(s);
    return ok ? EXIT_OK : report(&err);
}
