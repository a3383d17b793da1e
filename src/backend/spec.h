/* A machine described as plain data that owns itself: what src/api fills and backends read. Strings are
 * copies and descriptors are duplicates, so nothing in it points to the caller. */
#ifndef BACKEND_SPEC_H
#define BACKEND_SPEC_H

#include "net/net.h"
#include "util/err.h"

#define SPEC_DEVICE_MAX 24     /* of each kind, and of all kinds together: they share PCI bus 0 */
#define SPEC_IDENTIFIER_MAX 20 /* virtio 1.2, 5.2.6: VIRTIO_BLK_T_GET_ID has 20 bytes */

enum spec_disk_format { SPEC_DISK_RAW };
enum spec_disk_sync { SPEC_SYNC_FULL, SPEC_SYNC_FSYNC, SPEC_SYNC_NONE };

struct spec_disk {
    char *name; /* path, or what messages call the descriptor */
    int fd;     /* -1: open `name` */
    enum spec_disk_format format;
    enum spec_disk_sync sync;
    bool read_only;
    char *identifier; /* NULL: none. Unchecked length until validated */
};

enum spec_serial_kind { SPEC_SERIAL_VIRTIO_CONSOLE, SPEC_SERIAL_UART };

struct spec_serial {
    enum spec_serial_kind kind;
    int read_fd, write_fd;  /* -1: none */
    uint16_t columns, rows; /* of the terminal; 0: not known */
};

struct spec_net {
    bool has_attachment;
    struct net_config config;       /* owns what it points to */
    bool mtu_unfit, forwards_unfit; /* set on an attachment that has none; reported by validation */
    uint8_t mac[6];
};

struct spec_boot {
    char *kernel; /* NULL: no boot loader */
    char *initrd; /* NULL: none */
    char *command_line;
};

struct spec {
    unsigned cpu_count;
    uint64_t memory_size;
    const char *engine; /* name of a static string, or NULL: the best one */
    struct spec_boot boot;
    struct spec_disk disks[SPEC_DEVICE_MAX];
    unsigned disk_count;
    struct spec_serial serials[SPEC_DEVICE_MAX];
    unsigned serial_count;
    unsigned entropy_count;
    struct spec_net nets[SPEC_DEVICE_MAX];
    unsigned net_count;
};

/* All are empty, with no descriptors. */
void spec_init(struct spec *s);
/* Copies everything, duplicating descriptors. On failure `to` is empty. */
bool spec_copy(struct spec *to, const struct spec *from, struct yado_error *err);
void spec_clear(struct spec *s); /* frees and closes what it owns; empty afterwards */

void spec_disk_clear(struct spec_disk *d);
void spec_serial_clear(struct spec_serial *s);
void spec_boot_clear(struct spec_boot *b);
void spec_net_clear(struct spec_net *n);

/* Adds a copy. False: out of memory. */
bool spec_forward_add(struct net_config *c, const struct net_forward *f);

/* A duplicate of fd that is closed on exec, -1 stays -1. False: no descriptor. */
bool spec_fd_dup(int fd, int *out);

#endif
