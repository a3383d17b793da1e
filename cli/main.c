/* yado: creates and runs Linux virtual machines. */
#include "cli.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "terminal.h"

static const char help[] =
    "usage: yado run [options] [IMAGE]     boot a guest on this terminal\n"
    "       yado seed --user-data FILE [--meta-data FILE] [--network-config FILE]\n"
    "                 [--name NAME] -o FILE   write a cloud-init seed image\n"
    "       yado doctor                    what this host can do\n"
    "       yado --version\n"
    "\n"
    "run: IMAGE is a directory with vmlinuz, initrd.img and disk.img, or a disk file\n"
    "  --engine auto|kvm|translator|apple   what runs the CPUs\n"
    "  --cpus N                   1 to 64 (default 1)\n"
    "  --memory SIZE              with K, M or G (default 1G)\n"
    "  --balloon SIZE             ask the guest to do with so much of it\n"
    "  --kernel FILE              bzImage, ELF vmlinux, or a multiboot kernel (console: the UART)\n"
    "  --initrd FILE\n"
    "  --cmdline TEXT             (default console=hvc0; with a directory IMAGE also\n"
    "                             root=/dev/vda rw)\n"
    "  --disk FILE[,ro][,format=raw][,sync=full|fsync|none]   again for more\n"
    "  --user-data FILE, --meta-data FILE, --network-config FILE\n"
    "                             seed for cloud-init, as the last disk\n"
    "  --name NAME                host name in a seed without --meta-data\n"
    "  --serial KIND              hvc0, again for hvc1 ... (default stdio); KIND is stdio, pty,\n"
    "                             none, file:PATH, append:PATH, socket:PATH or fd:N\n"
    "  --console [name=NAME,][hvc,]KIND   a port, /dev/virtio-ports/NAME in the guest, or\n"
    "                             with hvc a terminal; again for more\n"
    "  --net none|nat[,mac=M][,forward=tcp|udp:[HOSTADDR:]HOSTPORT:GUESTPORT]...\n"
    "                             |tap=NAME[,mac=M]|fd=N[,mac=M][,mtu=N]\n"
    "                             again for more (default nat; forwards listen on\n"
    "                             127.0.0.1 unless they name an address)\n"
    "  --vsock PORT=SOCKET        what connects to the host's PORT in the guest reaches\n"
    "                             the Unix socket SOCKET\n"
    "  --vsock guest:PORT=SOCKET  what connects to SOCKET here reaches the guest's PORT\n"
    "  --debug-exit               a guest that writes V to port 0xf4 ends with status (V << 1) | 1\n"
    "  --timeout SECONDS          stop the guest then\n"
    "  --trace CATEGORIES         or \"all\": say what happens inside, on standard error;\n"
    "                             \"help\" lists them\n"
    "  --trace-file FILE          there instead\n"
    "  --counters                 the engine's counters at the end, on standard error\n"
    "  --code-cache SIZE          of the translator: 2M to 1G (default 64M)\n"
    "  --shadow                   run every block twice and compare (translator, one CPU)\n"
    "  --no-direct                translate the guest's busy programs, too, instead of running them\n"
    "                             on the CPU itself (translator)\n"
    "  --perf-map                 /tmp/perf-PID.map for profilers (translator)\n"
    "On the terminal, Ctrl-] or Ctrl-A x leaves; everything else goes to the guest.\n"
    "Exit status: 0 powered off, 1 could not start, 2 usage, 3 the guest crashed,\n"
    "4 time limit.\n";

static void printf_like(1, 0) say_va(const char *fmt, va_list ap)
{
    char line[1024];

    vsnprintf(line, sizeof(line), fmt, ap);
    terminal_restore();
    fprintf(stderr, "yado: %s\n", line);
}

void say(const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    say_va(fmt, ap);
    va_end(ap);
}

int usage_error(const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    say_va(fmt, ap);
    va_end(ap);
    return EXIT_USAGE;
}

int report(const struct yado_error *err)
{
    say("%s", err->message);
    return err->code == YADO_ERR_INVALID_CONFIG ? EXIT_USAGE : EXIT_FAILED;
}

static int print_help(FILE *to, int status)
{
    fputs(help, to);
    return status;
}

/* A caller may have closed descriptors 0 to 2. The next file opened would take the number, and a disk would
 * get the guest's console. */
static bool standard_files_open(void)
{
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++) {
        if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", O_RDWR) < 0)
            return false;
    }
    return true;
}

/* What was printed counts only once it has arrived. */
static int output_finish(int status)
{
    if (fflush(stdout) == 0 && !ferror(stdout))
        return status;
    say("standard output: cannot write: %s", strerror(errno));
    return status == EXIT_OK ? EXIT_FAILED : status;
}

static int verb_run(int argc, char **argv)
{
    static const struct {
        const char *name;
        int (*run)(int argc, char **argv);
    } verbs[] = { { "run", cli_run }, { "seed", cli_seed }, { "doctor", cli_doctor } };

    if (argc < 2)
        return print_help(stderr, EXIT_USAGE);
    for (int i = 1; i < argc && strcmp(argv[i], "--"); i++) {
        if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h"))
            return print_help(stdout, EXIT_OK);
    }
    if (!strcmp(argv[1], "help"))
        return print_help(stdout, EXIT_OK);
    if (!strcmp(argv[1], "--version") || !strcmp(argv[1], "version")) {
        printf("yado %s\n", yado_version());
        return EXIT_OK;
    }
    for (size_t i = 0; i < count_of(verbs); i++) {
        if (!strcmp(argv[1], verbs[i].name))
            return verbs[i].run(argc - 2, argv + 2);
    }
    return usage_error("there is no verb \"%s\"; see yado --help", argv[1]);
}

int main(int argc, char **argv)
{
    return standard_files_open() ? output_finish(verb_run(argc, argv)) : EXIT_FAILED;
}
