/* Raw disks: random scribble against a model in memory, several requests in flight, locks, refusals. */
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "disk/disk.h"
#include "disk/format.h"

#define SECTOR 512

static const struct disk_options writable = { .read_only = false, .sync = DISK_SYNC_FULL };
static const struct disk_options read_only = { .read_only = true, .sync = DISK_SYNC_FULL };

static void temp_path(char *path, size_t size)
{
    const char *dir = getenv("TMPDIR");

    snprintf(path, size, "%s/yado-disk-XXXXXX", dir ? dir : "/tmp");
}

/* An image of `bytes` zeroes. */
static int temp_image(char *path, size_t size, uint64_t bytes)
{
    int fd;

    temp_path(path, size);
    fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, (off_t)bytes), 0);
    return fd;
}

static struct disk *disk_get(int fd, const struct disk_options *opt)
{
    struct yado_error err = YADO_ERROR_INIT;
    struct disk *d = disk_open_raw(fd, "test.img", opt, &err);

    if (!d)
        fail_msg("%s", err.message);
    return d;
}

/* A request that can be waited for. */
struct job {
    struct disk_request req;
    pthread_mutex_t lock;
    pthread_cond_t finished;
    unsigned calls;
    int error;
    pthread_t by;
};

static void job_done(struct disk_request *req, int error)
{
    struct job *job = container_of(req, struct job, req);

    pthread_mutex_lock(&job->lock);
    job->calls++;
    job->error = error;
    job->by = pthread_self();
    pthread_cond_broadcast(&job->finished);
    pthread_mutex_unlock(&job->lock);
}

static void job_submit(struct disk *d, struct job *job)
{
    pthread_mutex_init(&job->lock, NULL);
    pthread_cond_init(&job->finished, NULL);
    job->calls = 0;
    job->req.done = job_done;
    disk_submit(d, &job->req);
}

static int job_wait(struct job *job)
{
    pthread_mutex_lock(&job->lock);
    while (!job->calls)
        pthread_cond_wait(&job->finished, &job->lock);
    pthread_mutex_unlock(&job->lock);
    return job->error;
}

static int disk_do(struct disk *d, enum disk_op op, uint64_t off, uint64_t len, void *buf)
{
    const struct iovec iov = { .iov_base = buf, .iov_len = len };
    struct job job = { .req = { .op = op, .off = off, .len = len, .iov = &iov, .iov_count = buf ? 1 : 0 } };

    job_submit(d, &job);
    job_wait(&job);
    assert_false(pthread_equal(job.by, pthread_self()));
    return job.error;
}

static void facts_and_simple_requests(void **state)
{
    char path[200], data[SECTOR], back[SECTOR];
    int fd = temp_image(path, sizeof(path), 8 * SECTOR);
    struct disk *d = disk_get(fd, &writable);

    (void)state;
    assert_int_equal(disk_size(d), 8 * SECTOR);
    assert_false(disk_read_only(d));
    memset(data, 'w', sizeof(data));
    assert_int_equal(disk_do(d, DISK_WRITE, 7 * SECTOR, SECTOR, data), 0);
    assert_int_equal(disk_do(d, DISK_FLUSH, 0, 0, NULL), 0);
    assert_int_equal(disk_do(d, DISK_READ, 7 * SECTOR, SECTOR, back), 0);
    assert_memory_equal(back, data, SECTOR);
    disk_drain(d);
    disk_close(d);
    disk_close(NULL);
    assert_int_equal(fcntl(fd, F_GETFD), -1); /* taken over */
    unlink(path);
}

/* ---- scribble ---- */

#define SCRIBBLE_SIZE ((size_t)1 << 20)
#define DEPTH 16
#define PARTS_MAX 200

struct slot {
    struct job job;
    struct iovec iov[PARTS_MAX];
    uint8_t *data; /* what is written, or what was read */
    uint8_t *want; /* of a read: as the model had it when it was submitted */
    bool is_busy;
};

struct scribble {
    struct disk *d;
    uint8_t *model;
    uint8_t *unknown; /* 1: discarded, either the old bytes or zeroes, as the file system likes */
    struct slot slots[DEPTH];
    unsigned seed;
};

static unsigned roll(struct scribble *s, unsigned sides)
{
    return (unsigned)rand_r(&s->seed) % sides;
}

static void slot_collect(struct scribble *s, struct slot *slot)
{
    const struct disk_request *req = &slot->job.req;

    if (!slot->is_busy)
        return;
    assert_int_equal(job_wait(&slot->job), 0);
    slot->is_busy = false;
    if (req->op != DISK_READ)
        return;
    for (size_t i = 0; i < req->len; i++)
        if (slot->data[i] != slot->want[i] && !(s->unknown[req->off + i] && !slot->data[i]))
            fail_msg("byte %zu of a read at %llu is %#x, not %#x", i, (unsigned long long)req->off,
                     slot->data[i], slot->want[i]);
}

/* Guests never have overlapping requests of which one writes in flight; neither has the test. */
static void slots_collect_overlapping(struct scribble *s, uint64_t off, uint64_t len, bool is_write)
{
    for (int i = 0; i < DEPTH; i++) {
        const struct disk_request *req = &s->slots[i].job.req;

        if (s->slots[i].is_busy && req->off < off + len && off < req->off + req->len &&
            (is_write || req->op != DISK_READ))
            slot_collect(s, &s->slots[i]);
    }
}

/* Cuts the slot's data into segments of random length, not only whole sectors. */
static unsigned slot_cut(struct scribble *s, struct slot *slot, size_t len)
{
    unsigned count = 0;
    size_t at = 0;

    while (at < len) {
        size_t n = 1 + roll(s, (unsigned)(roll(s, 4) ? 700 : 20000));

        if (n > len - at || count == PARTS_MAX - 1)
            n = len - at;
        slot->iov[count++] = (struct iovec){ .iov_base = slot->data + at, .iov_len = n };
        at += n;
    }
    return count;
}

static void model_apply(struct scribble *s, struct slot *slot)
{
    const struct disk_request *req = &slot->job.req;

    switch (req->op) {
    case DISK_READ:
        memcpy(slot->want, s->model + req->off, req->len);
        memset(slot->data, 0xa5, req->len);
        break;
    case DISK_WRITE:
        for (size_t i = 0; i < req->len; i++)
            slot->data[i] = (uint8_t)roll(s, 256);
        memcpy(s->model + req->off, slot->data, req->len);
        memset(s->unknown + req->off, 0, req->len);
        break;
    case DISK_WRITE_ZEROES:
        memset(s->model + req->off, 0, req->len);
        memset(s->unknown + req->off, 0, req->len);
        break;
    case DISK_DISCARD: memset(s->unknown + req->off, 1, req->len); break;
    case DISK_FLUSH: break;
    }
}

static void scribble_step(struct scribble *s, struct slot *slot)
{
    static const enum disk_op ops[] = { DISK_READ,  DISK_READ,    DISK_READ,         DISK_WRITE, DISK_WRITE,
                                        DISK_WRITE, DISK_DISCARD, DISK_WRITE_ZEROES, DISK_FLUSH };
    struct disk_request *req = &slot->job.req;

    slot_collect(s, slot);
    memset(req, 0, sizeof(*req));
    req->op = ops[roll(s, array_size(ops))];
    if (req->op != DISK_FLUSH) {
        const unsigned sectors = (unsigned)(SCRIBBLE_SIZE / SECTOR);
        const unsigned count = 1 + roll(s, roll(s, 4) ? 16 : 256);

        req->off = (uint64_t)roll(s, sectors - count + 1) * SECTOR;
        req->len = (uint64_t)count * SECTOR;
        req->unmap = roll(s, 2);
        slots_collect_overlapping(s, req->off, req->len, req->op != DISK_READ);
    }
    model_apply(s, slot);
    req->iov = slot->iov;
    if (req->op == DISK_READ || req->op == DISK_WRITE)
        req->iov_count = slot_cut(s, slot, req->len);
    slot->is_busy = true;
    job_submit(s->d, &slot->job);
}

/* The whole file against the model, read past the disk code. */
static void scribble_compare(struct scribble *s, int fd)
{
    uint8_t *file = malloc(SCRIBBLE_SIZE);

    for (int i = 0; i < DEPTH; i++)
        slot_collect(s, &s->slots[i]);
    disk_drain(s->d);
    assert_int_equal(pread(fd, file, SCRIBBLE_SIZE, 0), SCRIBBLE_SIZE);
    for (size_t i = 0; i < SCRIBBLE_SIZE; i++)
        if (file[i] != s->model[i] && !(s->unknown[i] && !file[i]))
            fail_msg("byte %zu of the file is %#x, not %#x", i, file[i], s->model[i]);
    free(file);
}

static void scribble_run(int fd, int peek, unsigned seed)
{
    struct scribble *s = calloc(1, sizeof(*s));
    struct stat st;

    print_message("scribble seed %u\n", seed);
    s->d = disk_get(fd, &writable);
    s->seed = seed;
    s->model = calloc(1, SCRIBBLE_SIZE);
    s->unknown = calloc(1, SCRIBBLE_SIZE);
    for (int i = 0; i < DEPTH; i++) {
        s->slots[i].data = malloc(SCRIBBLE_SIZE);
        s->slots[i].want = malloc(SCRIBBLE_SIZE);
    }
    for (unsigned n = 0; n < 6000; n++) {
        scribble_step(s, &s->slots[roll(s, DEPTH)]);
        if (n % 1500 == 1499)
            scribble_compare(s, peek);
    }
    assert_int_equal(fstat(peek, &st), 0);
    assert_int_equal(st.st_size, SCRIBBLE_SIZE);
    disk_close(s->d);
    for (int i = 0; i < DEPTH; i++) {
        free(s->slots[i].data);
        free(s->slots[i].want);
    }
    free(s->model);
    free(s->unknown);
    free(s);
}

static void scribble_on_a_file(void **state)
{
    char path[200];
    int fd = temp_image(path, sizeof(path), SCRIBBLE_SIZE), peek = open(path, O_RDONLY);
    const char *given = getenv("YADO_TEST_SEED");

    (void)state;
    scribble_run(fd, peek, given ? (unsigned)strtoul(given, NULL, 10) : (unsigned)time(NULL));
    close(peek);
    unlink(path);
}

/* tmpfs cannot zero a range in place: zeroes are written there. */
static void scribble_on_a_memory_file(void **state)
{
    int fd = memfd_create("disk", MFD_CLOEXEC), peek = dup(fd);

    (void)state;
    assert_int_equal(ftruncate(fd, SCRIBBLE_SIZE), 0);
    scribble_run(fd, peek, 12345);
    close(peek);
}

static void unmapped_zeroes_give_space_back(void **state)
{
    int fd = memfd_create("disk", MFD_CLOEXEC), peek = dup(fd);
    struct disk *d;
    struct stat before, after;
    char *data = malloc(MIB(1));

    (void)state;
    assert_int_equal(ftruncate(fd, MIB(1)), 0);
    d = disk_get(fd, &writable);
    memset(data, 'x', MIB(1));
    assert_int_equal(disk_do(d, DISK_WRITE, 0, MIB(1), data), 0);
    fstat(peek, &before);
    {
        struct job job = { .req = { .op = DISK_WRITE_ZEROES, .off = 0, .len = MIB(1) / 2, .unmap = true } };

        job_submit(d, &job);
        assert_int_equal(job_wait(&job), 0);
    }
    assert_int_equal(disk_do(d, DISK_DISCARD, MIB(1) / 2, MIB(1) / 4, NULL), 0);
    fstat(peek, &after);
    assert_true(after.st_blocks <= before.st_blocks / 4 + 8);
    assert_int_equal(disk_do(d, DISK_READ, 0, MIB(1), data), 0);
    for (size_t i = 0; i < MIB(1) / 4 * 3; i++)
        assert_int_equal(data[i], 0);
    for (size_t i = MIB(1) / 4 * 3; i < MIB(1); i++)
        assert_int_equal(data[i], 'x');
    disk_close(d);
    close(peek);
    free(data);
}

/* Makes fallocate fail in this process from now on, as on file systems without it. */
static bool fallocate_forbid(void)
{
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_fallocate, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EOPNOTSUPP),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog prog = { .len = array_size(filter), .filter = filter };

    return !prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) && !prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog);
}

static int without_fallocate(void)
{
    static char data[MIB(1)], zero[MIB(1)];
    struct job job = {
        .req = { .op = DISK_WRITE_ZEROES, .off = SECTOR, .len = MIB(1) - 2 * SECTOR, .unmap = true }
    };
    int fd = memfd_create("disk", MFD_CLOEXEC);
    struct disk *d;

    if (fd < 0 || ftruncate(fd, MIB(1)) || !fallocate_forbid())
        return 77;
    d = disk_open_raw(fd, "test.img", &writable, NULL);
    memset(data, 'x', sizeof(data));
    if (!d || disk_do(d, DISK_WRITE, 0, MIB(1), data))
        return 1;
    for (int i = 0; i < 2; i++) /* asked, then remembered */
        if (disk_do(d, DISK_DISCARD, 0, MIB(1), NULL))
            return 2;
    job_submit(d, &job);
    if (job_wait(&job) || disk_do(d, DISK_READ, 0, MIB(1), data))
        return 3;
    if (data[SECTOR - 1] != 'x' || data[MIB(1) - SECTOR] != 'x' ||
        memcmp(data + SECTOR, zero, MIB(1) - 2 * SECTOR))
        return 4;
    disk_close(d);
    return 7;
}

static void files_that_cannot_deallocate_work(void **state)
{
    int status;
    pid_t pid;

    (void)state;
    pid = fork();
    if (pid == 0)
        _exit(without_fallocate());
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    if (WEXITSTATUS(status) == 77) {
        print_message("seccomp filters are not to be had here\n");
        skip();
    }
    assert_int_equal(WEXITSTATUS(status), 7);
}

/* ---- the request engine, over a format that can be held up ---- */

struct gate {
    pthread_mutex_t lock;
    pthread_cond_t turn;
    bool is_open;
    unsigned running, most_running, flushes;
};

static int gate_pass(struct gate *g)
{
    pthread_mutex_lock(&g->lock);
    if (++g->running > g->most_running)
        g->most_running = g->running;
    pthread_cond_broadcast(&g->turn);
    while (!g->is_open)
        pthread_cond_wait(&g->turn, &g->lock);
    g->running--;
    pthread_mutex_unlock(&g->lock);
    return 0;
}

static int gate_io(void *format, const struct disk_request *req)
{
    return req->off ? gate_pass(format) : ENOSPC;
}

static int gate_flush(void *format)
{
    struct gate *g = format;

    pthread_mutex_lock(&g->lock);
    g->flushes++;
    pthread_mutex_unlock(&g->lock);
    return 0;
}

static void gate_close(void *format)
{
    (void)format;
}

static const struct disk_format_ops gate_ops = {
    .name = "gate", .read = gate_io, .write = gate_io, .flush = gate_flush, .close = gate_close
};

static void *gate_opener(void *arg)
{
    struct gate *g = arg;
    const struct timespec ts = { .tv_nsec = 50000000 };

    nanosleep(&ts, NULL);
    pthread_mutex_lock(&g->lock);
    g->is_open = true;
    pthread_cond_broadcast(&g->turn);
    pthread_mutex_unlock(&g->lock);
    return NULL;
}

static void requests_run_side_by_side_and_close_waits(void **state)
{
    struct gate g = { .lock = PTHREAD_MUTEX_INITIALIZER, .turn = PTHREAD_COND_INITIALIZER };
    struct disk *d = disk_new(&gate_ops, &g, "gate", MIB(1), &writable, NULL);
    struct job jobs[12];
    pthread_t opener;

    (void)state;
    assert_non_null(d);
    memset(jobs, 0, sizeof(jobs));
    for (size_t i = 0; i < array_size(jobs); i++) {
        jobs[i].req = (struct disk_request){ .op = DISK_READ, .off = SECTOR, .len = SECTOR };
        job_submit(d, &jobs[i]);
    }
    pthread_mutex_lock(&g.lock);
    while (g.running < 4)
        pthread_cond_wait(&g.turn, &g.lock);
    pthread_mutex_unlock(&g.lock);
    assert_int_equal(pthread_create(&opener, NULL, gate_opener, &g), 0);
    disk_close(d);
    for (size_t i = 0; i < array_size(jobs); i++)
        assert_int_equal(jobs[i].calls, 1);
    assert_int_equal(g.most_running, 4);
    pthread_join(opener, NULL);
}

/* `done` submits the next request, from inside the callback, until none is left. */
struct chain {
    struct disk *d;
    struct disk_request req;
    unsigned left;
};

static void chain_next(struct disk_request *req, int error)
{
    struct chain *c = container_of(req, struct chain, req);

    if (!error && c->left-- > 1)
        disk_submit(c->d, &c->req);
}

static void done_may_submit_and_drain_sees_it(void **state)
{
    struct gate g = { .lock = PTHREAD_MUTEX_INITIALIZER, .turn = PTHREAD_COND_INITIALIZER, .is_open = true };
    struct chain c = { .left = 1000 };

    (void)state;
    c.d = disk_new(&gate_ops, &g, "gate", MIB(1), &writable, NULL);
    c.req = (struct disk_request){ .op = DISK_READ, .off = SECTOR, .len = SECTOR, .done = chain_next };
    disk_submit(c.d, &c.req);
    disk_drain(c.d);
    assert_int_equal(c.left, 0);
    disk_close(c.d);
}

static void errors_and_sync_modes_come_through(void **state)
{
    const struct disk_options no_sync = { .sync = DISK_SYNC_NONE };
    const struct disk_options fsync_mode = { .sync = DISK_SYNC_FSYNC };
    struct gate g = { .lock = PTHREAD_MUTEX_INITIALIZER, .turn = PTHREAD_COND_INITIALIZER, .is_open = true };
    char buf[SECTOR] = "";
    struct disk *d;

    (void)state;
    d = disk_new(&gate_ops, &g, "gate", MIB(1), &fsync_mode, NULL);
    assert_int_equal(disk_do(d, DISK_WRITE, 0, SECTOR, buf), ENOSPC);
    assert_int_equal(disk_do(d, DISK_FLUSH, 0, 0, NULL), 0);
    assert_int_equal(g.flushes, 1);
    disk_close(d);
    d = disk_new(&gate_ops, &g, "gate", MIB(1), &no_sync, NULL);
    assert_int_equal(disk_do(d, DISK_FLUSH, 0, 0, NULL), 0);
    assert_int_equal(g.flushes, 1);
    disk_close(d);
}

static void read_only_disk_writes_nothing(void **state)
{
    char path[200], data[SECTOR] = "x", back[SECTOR], zero[SECTOR] = "";
    int fd = temp_image(path, sizeof(path), 4 * SECTOR);
    /* Even with a descriptor that could write. */
    struct disk *d = disk_get(fd, &read_only);

    (void)state;
    assert_true(disk_read_only(d));
    assert_int_equal(disk_do(d, DISK_WRITE, 0, SECTOR, data), EROFS);
    assert_int_equal(disk_do(d, DISK_DISCARD, 0, SECTOR, NULL), EROFS);
    assert_int_equal(disk_do(d, DISK_WRITE_ZEROES, 0, SECTOR, NULL), EROFS);
    assert_int_equal(disk_do(d, DISK_FLUSH, 0, 0, NULL), 0);
    assert_int_equal(disk_do(d, DISK_READ, 0, SECTOR, back), 0);
    assert_memory_equal(back, zero, SECTOR);
    disk_close(d);
    unlink(path);
}

static void file_cut_under_the_disk_is_an_error(void **state)
{
    char path[200], back[4 * SECTOR];
    int fd = temp_image(path, sizeof(path), 4 * SECTOR);
    struct disk *d = disk_get(fd, &writable);

    (void)state;
    assert_int_equal(truncate(path, SECTOR), 0);
    assert_int_equal(disk_do(d, DISK_READ, 0, sizeof(back), back), EIO);
    disk_close(d);
    unlink(path);
}

static void append_mode_does_not_misplace(void **state)
{
    char path[200], data[SECTOR];
    int fd = temp_image(path, sizeof(path), 4 * SECTOR), append = open(path, O_RDWR | O_APPEND);
    struct disk *d = disk_get(append, &writable);
    struct stat st;

    (void)state;
    memset(data, 'p', sizeof(data));
    assert_int_equal(disk_do(d, DISK_WRITE, SECTOR, SECTOR, data), 0);
    assert_int_equal(fstat(fd, &st), 0);
    assert_int_equal(st.st_size, 4 * SECTOR);
    disk_close(d);
    close(fd);
    unlink(path);
}

/* ---- opening ---- */

static void second_writer_is_locked_out(void **state)
{
    char path[200];
    int fd = temp_image(path, sizeof(path), 4 * SECTOR);
    struct yado_error err = YADO_ERROR_INIT;
    struct disk *d = disk_get(fd, &writable), *shared[2];

    (void)state;
    assert_null(disk_open_raw(open(path, O_RDWR), "my.img", &writable, &err));
    assert_int_equal(err.code, YADO_ERR_IN_USE);
    assert_non_null(strstr(err.message, "my.img: is in use"));
    err = (struct yado_error)YADO_ERROR_INIT;
    assert_null(disk_open_raw(open(path, O_RDONLY), "my.img", &read_only, &err));
    assert_int_equal(err.code, YADO_ERR_IN_USE);
    disk_close(d);
    shared[0] = disk_get(open(path, O_RDONLY), &read_only);
    shared[1] = disk_get(open(path, O_RDONLY), &read_only);
    err = (struct yado_error)YADO_ERROR_INIT;
    assert_null(disk_open_raw(open(path, O_RDWR), "my.img", &writable, &err));
    assert_int_equal(err.code, YADO_ERR_IN_USE);
    disk_close(shared[0]);
    disk_close(shared[1]);
    disk_close(disk_get(open(path, O_RDWR), &writable));
    unlink(path);
}

static void refuse(int fd, const struct disk_options *opt, const char *reason)
{
    struct yado_error err = YADO_ERROR_INIT;

    assert_true(fd >= 0);
    assert_null(disk_open_raw(fd, "my.img", opt, &err));
    assert_int_equal(err.code, YADO_ERR_FILE);
    assert_memory_equal(err.message, "my.img: ", 8);
    if (!strstr(err.message, reason))
        fail_msg("\"%s\" does not say \"%s\"", err.message, reason);
    assert_null(strchr(err.message, '\n'));
    assert_int_equal(fcntl(fd, F_GETFD), -1); /* taken over on failure too */
}

static void what_is_no_disk_is_refused(void **state)
{
    char path[200];
    int fd = temp_image(path, sizeof(path), 4 * SECTOR), ends[2];

    (void)state;
    refuse(open("/tmp", O_RDONLY | O_DIRECTORY), &read_only, "is a directory");
    refuse(open("/dev/null", O_RDWR), &writable, "neither a regular file");
    assert_int_equal(pipe(ends), 0);
    refuse(ends[0], &read_only, "neither a regular file");
    close(ends[1]);
    refuse(open(path, O_RDONLY), &writable, "not open for writing");
    refuse(open(path, O_WRONLY), &writable, "not open for reading");
    assert_int_equal(ftruncate(fd, 0), 0);
    refuse(open(path, O_RDWR), &writable, "is empty");
    assert_int_equal(ftruncate(fd, 1000), 0);
    refuse(open(path, O_RDWR), &writable, "1000 bytes");
    close(fd);
    unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(facts_and_simple_requests),
        cmocka_unit_test(scribble_on_a_file),
        cmocka_unit_test(scribble_on_a_memory_file),
        cmocka_unit_test(unmapped_zeroes_give_space_back),
        cmocka_unit_test(files_that_cannot_deallocate_work),
        cmocka_unit_test(requests_run_side_by_side_and_close_waits),
        cmocka_unit_test(done_may_submit_and_drain_sees_it),
        cmocka_unit_test(errors_and_sync_modes_come_through),
        cmocka_unit_test(read_only_disk_writes_nothing),
        cmocka_unit_test(file_cut_under_the_disk_is_an_error),
        cmocka_unit_test(append_mode_does_not_misplace),
        cmocka_unit_test(second_writer_is_locked_out),
        cmocka_unit_test(what_is_no_disk_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
