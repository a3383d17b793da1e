/* talk: many connections at once, for tests of sockets between guest and host. Statically linked, so that it
 * runs in any guest.
 *
 *   talk serve ADDRESS [BACKLOG]
 *
 * answers every connection, a thread each, until it is killed;
 *
 *   talk ask ADDRESS COUNT THREADS [SEED [together]]
 *
 * makes COUNT connections by THREADS threads, and prints one line. With "together" each thread connects and
 * waits until all have, before any byte is sent. Status 0 if nothing failed;
 *
 *   talk beside ADDRESS PROGRAM ARGUMENT...
 *
 * serves in a process of its own, and becomes PROGRAM;
 *
 *   talk refused ADDRESS
 *
 * status 0 if a connection is refused. ADDRESS is unix:PATH or vsock:CID:PORT. */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/un.h>
#include <time.h>

#include <linux/vm_sockets.h>

#include "talk.h"

#define STACK 262144

union address {
    struct sockaddr any;
    struct sockaddr_un unix_;
    struct sockaddr_vm vsock;
};

static union address address;
static socklen_t address_len;

static bool address_parse(const char *text)
{
    unsigned cid, port;

    if (!strncmp(text, "unix:", 5) && strlen(text + 5) < sizeof(address.unix_.sun_path)) {
        address.unix_.sun_family = AF_UNIX;
        strcpy(address.unix_.sun_path, text + 5);
        address_len = sizeof(address.unix_);
        return true;
    }
    if (sscanf(text, "vsock:%u:%u", &cid, &port) != 2)
        return false;
    address.vsock.svm_family = AF_VSOCK;
    address.vsock.svm_cid = cid;
    address.vsock.svm_port = port;
    address_len = sizeof(address.vsock);
    return true;
}

static int address_connect(void)
{
    struct timeval patience = { .tv_sec = 60 };
    int fd = socket(address.any.sa_family, SOCK_STREAM, 0);

    if (fd < 0)
        return -1;
    if (address.any.sa_family == AF_VSOCK) /* a guest that is busy with 1,000 at once */
        setsockopt(fd, AF_VSOCK, SO_VM_SOCKETS_CONNECT_TIMEOUT, &patience, sizeof(patience));
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    if (connect(fd, &address.any, address_len) == 0)
        return fd;
    close(fd);
    return -1;
}

static void thread_start(pthread_t *t, void *(*fn)(void *arg), void *arg)
{
    pthread_attr_t attr;

    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, STACK);
    if (pthread_create(t, &attr, fn, arg)) {
        perror("talk: thread");
        exit(2);
    }
}

/* ---- serve ---- */

static void *answer(void *arg)
{
    talk_answer((int)(intptr_t)arg);
    return NULL;
}

/* program: what to become, while a child serves; or NULL. */
static int serve(int backlog, char **program)
{
    int fd = socket(address.any.sa_family, SOCK_STREAM, 0);

    if (address.any.sa_family == AF_UNIX)
        unlink(address.unix_.sun_path);
    if (fd < 0 || bind(fd, &address.any, address_len) < 0 || listen(fd, backlog) < 0) {
        perror("talk: listen");
        return 2;
    }
    if (program && fork()) {
        execv(program[0], program);
        perror("talk: program");
        return 2;
    }
    if (!program)
        printf("serving\n");
    fflush(stdout);
    for (;;) {
        int c = accept(fd, NULL, NULL);
        pthread_t t;

        if (c < 0)
            continue;
        thread_start(&t, answer, (void *)(intptr_t)c);
        pthread_detach(t);
    }
}

/* ---- ask ---- */

static unsigned long count;
static unsigned long next, failed; /* atomic */
static uint64_t seed, moved;       /* moved: atomic */
static bool together;
static pthread_barrier_t all_connected;

static void *ask(void *arg)
{
    uint64_t bytes = 0;
    int held = -1;

    (void)arg;
    if (together) {
        held = address_connect();
        pthread_barrier_wait(&all_connected);
    }
    for (;;) {
        unsigned long i = __atomic_fetch_add(&next, 1, __ATOMIC_SEQ_CST);
        int fd = held;

        if (i >= count)
            break;
        if (fd < 0)
            fd = address_connect();
        held = -1;
        if (fd < 0 || !talk_ask(fd, seed + i, &bytes)) {
            if (__atomic_fetch_add(&failed, 1, __ATOMIC_SEQ_CST) < 3)
                fprintf(stderr, "talk: connection %lu %s: %s\n", i, fd < 0 ? "not made" : "failed",
                        strerror(errno));
        }
        if (fd >= 0)
            close(fd);
    }
    if (held >= 0)
        close(held);
    __atomic_fetch_add(&moved, bytes, __ATOMIC_SEQ_CST);
    return NULL;
}

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static int ask_all(unsigned threads)
{
    pthread_t *t = calloc(threads, sizeof(*t));
    double begin = now();

    pthread_barrier_init(&all_connected, NULL, threads);
    for (unsigned i = 0; i < threads; i++)
        thread_start(&t[i], ask, NULL);
    for (unsigned i = 0; i < threads; i++)
        pthread_join(t[i], NULL);
    printf("talk: %lu connections, %u at once, %lu failed, %llu bytes, %.1f s\n", count, threads, failed,
           (unsigned long long)moved, now() - begin);
    return failed ? 1 : 0;
}

static int refused(void)
{
    int fd = address_connect();

    if (fd >= 0 || (errno != ECONNRESET && errno != ECONNREFUSED)) {
        fprintf(stderr, "talk: %s\n", fd >= 0 ? "connected" : strerror(errno));
        return 1;
    }
    return 0;
}

int main(int argc, char **argv)
{
    struct rlimit l;

    if (getrlimit(RLIMIT_NOFILE, &l) == 0) {
        l.rlim_cur = l.rlim_max;
        setrlimit(RLIMIT_NOFILE, &l);
    }
    if (argc >= 3 && address_parse(argv[2])) {
        if (!strcmp(argv[1], "serve"))
            return serve(argc > 3 ? atoi(argv[3]) : 1024, NULL);
        if (argc > 3 && !strcmp(argv[1], "beside"))
            return serve(1024, argv + 3);
        if (argc == 3 && !strcmp(argv[1], "refused"))
            return refused();
        if (argc >= 5 && !strcmp(argv[1], "ask")) {
            count = strtoul(argv[3], NULL, 10);
            seed = argc > 5 ? strtoull(argv[5], NULL, 10) : 1;
            together = argc > 6;
            return ask_all((unsigned)strtoul(argv[4], NULL, 10));
        }
    }
    fprintf(stderr, "usage: talk serve ADDRESS [BACKLOG] | ask ADDRESS COUNT THREADS [SEED [together]] | "
                    "beside ADDRESS PROGRAM... | refused ADDRESS\n");
    return 2;
}
