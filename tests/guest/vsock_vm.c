/* vsock_vm: a machine whose program talks with the guest by the public API, for the guest cases.
 *
 *   vsock_vm KERNEL INITRD CMDLINE CPUS MEMORY_MIB REPORT_FD DISK...
 *
 * The guest's console is standard input and output. At port 7000 of the host the program answers as talk.h
 * says, a thread for each connection; a connection to 7002 removes that listener; 7003 refuses. A connection
 * to 7004 makes it connect to port 9 of the guest, where nobody listens, then CONNECTS times to port 7001,
 * and write a line to REPORT_FD: how the first ended, how many of the others failed, and bytes. */
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <yado/yado.h>

#include "talk.h"

#define CONNECTS 300
#define AT_ONCE 50

static struct yado_machine *machine;
static int report_fd;

/* ---- the guest connects ---- */

static void *answer(void *arg)
{
    talk_answer((int)(intptr_t)arg);
    return NULL;
}

static void thread_start(void *(*fn)(void *arg), void *arg)
{
    pthread_t t;

    if (pthread_create(&t, NULL, fn, arg))
        abort();
    pthread_detach(t);
}

static bool on_talk(void *ctx, const struct yado_socket_connection *c)
{
    (void)ctx;
    thread_start(answer, (void *)(intptr_t)c->fd);
    return true;
}

static bool on_remove(void *ctx, const struct yado_socket_connection *c)
{
    (void)ctx;
    yado_machine_remove_socket_listener(machine, 7000);
    close(c->fd);
    return true;
}

static bool on_refuse(void *ctx, const struct yado_socket_connection *c)
{
    (void)ctx;
    (void)c;
    return false;
}

/* ---- the host connects ---- */

static unsigned begun, ended, failed; /* on the delivery thread or with `lock` */
static uint64_t moved;
static enum yado_error_code first_code;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void on_connected(void *ctx, const struct yado_socket_connection *c, const struct yado_error *err);

static void connects_go_on(void)
{
    while (begun < CONNECTS && begun - ended < AT_ONCE) {
        begun++;
        if (!yado_machine_connect_socket(machine, 7001, on_connected, (void *)(uintptr_t)begun))
            abort();
    }
    if (ended == CONNECTS)
        dprintf(report_fd, "%d %u %llu\n", (int)first_code, failed, (unsigned long long)moved);
}

struct talk {
    int fd;
    uint64_t seed;
};

static void talk_over(bool ok, uint64_t bytes)
{
    pthread_mutex_lock(&lock);
    ended++;
    failed += !ok;
    moved += bytes;
    connects_go_on();
    pthread_mutex_unlock(&lock);
}

static void *talk(void *arg)
{
    struct talk t = *(struct talk *)arg;
    uint64_t bytes = 0;
    bool ok = talk_ask(t.fd, t.seed, &bytes);

    free(arg);
    close(t.fd);
    talk_over(ok, bytes);
    return NULL;
}

static void on_connected(void *ctx, const struct yado_socket_connection *c, const struct yado_error *err)
{
    struct talk *t = malloc(sizeof(*t));

    if (err || !t) {
        fprintf(stderr, "vsock_vm: %s\n", err ? err->message : "memory");
        free(t);
        talk_over(false, 0);
        return;
    }
    *t = (struct talk){ .fd = c->fd, .seed = 5000 + (uintptr_t)ctx };
    thread_start(talk, t);
}

static void on_first(void *ctx, const struct yado_socket_connection *c, const struct yado_error *err)
{
    (void)ctx;
    if (c)
        close(c->fd);
    pthread_mutex_lock(&lock);
    first_code = err ? err->code : YADO_OK;
    connects_go_on();
    pthread_mutex_unlock(&lock);
}

static bool on_start(void *ctx, const struct yado_socket_connection *c)
{
    (void)ctx;
    close(c->fd);
    yado_machine_connect_socket(machine, 9, on_first, NULL);
    return true;
}

/* ---- the machine ---- */

static void on_started(void *ctx, const struct yado_error *err)
{
    (void)ctx;
    if (err)
        fprintf(stderr, "vsock_vm: %s\n", err->message);
}

int main(int argc, char **argv)
{
    static const struct {
        uint32_t port;
        yado_socket_accept accept;
    } ports[] = { { 7000, on_talk }, { 7002, on_remove }, { 7003, on_refuse }, { 7004, on_start } };
    struct yado_machine_options o = { .delivery = YADO_DELIVERY_THREAD };
    struct yado_config *c = yado_config_new();
    struct yado_error err = YADO_ERROR_INIT;

    if (argc < 8)
        return 2;
    report_fd = atoi(argv[6]);
    yado_config_set_boot_loader(c, yado_linux_boot_loader_new(argv[1], argv[2], argv[3]));
    yado_config_set_cpu_count(c, (unsigned)atoi(argv[4]));
    yado_config_set_memory_size(c, (uint64_t)atoi(argv[5]) << 20);
    for (int i = 7; i < argc; i++)
        yado_config_add_storage(c, yado_virtio_block_new(yado_disk_image_new(argv[i], YADO_DISK_RAW, 0)));
    yado_config_add_serial_port(
        c, yado_virtio_console_port_new(yado_fd_serial_new(STDIN_FILENO, STDOUT_FILENO)));
    yado_config_add_entropy(c, yado_virtio_entropy_new());
    yado_config_add_socket(c, yado_virtio_socket_new());
    machine = yado_machine_new(c, &o, &err);
    yado_config_free(c);
    for (size_t i = 0; machine && i < sizeof(ports) / sizeof(ports[0]); i++) {
        if (!yado_machine_set_socket_listener(machine, ports[i].port, ports[i].accept, NULL, &err)) {
            yado_machine_free(machine);
            machine = NULL;
        }
    }
    if (!machine || !yado_machine_start(machine, on_started, NULL)) {
        fprintf(stderr, "vsock_vm: %s\n", err.message);
        return 1;
    }
    while (yado_machine_state(machine) == YADO_STATE_STARTING)
        usleep(1000);
    yado_machine_wait(machine, -1);
    int status = yado_machine_stop_reason(machine) == YADO_STOP_POWER_OFF ? 0 : 1;
    yado_machine_free(machine);
    return status;
}
