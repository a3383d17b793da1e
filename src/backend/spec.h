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
enum spec_disk_cache { SPEC_CACHE_AUTO, SPEC_CACHE_UNCACHED, SPEC_CACHE_CACHED };
enum spec_disk_source { SPEC_SOURCE_FILE, SPEC_SOURCE_BLOCK_DEVICE, SPEC_SOURCE_NBD };
enum spec_disk_device { SPEC_DEVICE_VIRTIO_BLOCK, SPEC_DEVICE_NVME, SPEC_DEVICE_USB_STORAGE };

struct spec_disk {
    char *name; /* path, URL of an NBD export, or what messages call the descriptor */
    int fd;     /* -1: open `name` */
    enum spec_disk_source source;
    enum spec_disk_device device;
    enum spec_disk_format format;
    enum spec_disk_sync sync;
    enum spec_disk_cache cache;
    unsigned timeout_ms; /* NBD */
    bool read_only;
    bool timeout_unfit; /* set on one that is no NBD export; reported by validation */
    char *identifier;   /* NULL: none. Unchecked length until validated */
};

enum spec_serial_kind { SPEC_SERIAL_VIRTIO_CONSOLE, SPEC_SERIAL_UART };

enum spec_attachment_kind {
    SPEC_ATTACH_NONE,
    SPEC_ATTACH_FDS,
    SPEC_ATTACH_FILE,
    SPEC_ATTACH_PTY,
    SPEC_ATTACH_SOCKET,
};

/* What the host's side of a serial or console port is. */
struct spec_attachment {
    enum spec_attachment_kind kind;
    int read_fd, write_fd; /* FDS; PTY: both are the master. -1: none */
    int hold_fd;           /* PTY: the other side, if it must stay open. -1: none */
    char *path;            /* FILE, PTY, SOCKET; else NULL */
    bool append;           /* FILE */
};

struct spec_serial {
    enum spec_serial_kind kind;
    struct spec_attachment attachment;
    uint16_t columns, rows; /* of the terminal; 0: not known */
};

#define SPEC_PORTS_MAX 31     /* of one console: virtio 1.2, 5.3.2, in 64 queues */
#define SPEC_PORT_NAME_MAX 63 /* bytes */

struct spec_port {
    bool is_present;
    char *name; /* NULL: none */
    bool is_console;
    struct spec_attachment attachment;
    uint16_t columns, rows; /* of the terminal; 0: not known */
};

/* A console with several ports. */
struct spec_console {
    struct spec_port *ports; /* SPEC_PORTS_MAX of them; NULL: there is none */
    unsigned port_count;     /* the highest index in use and one */
    unsigned index_over;     /* of a port that is out of range, reported by validation; 0: none */
};

struct spec_net {
    bool has_attachment;
    struct net_config config;       /* owns what it points to */
    bool mtu_unfit, forwards_unfit; /* set on an attachment that has none; reported by validation */
    uint8_t mac[6];
};

/* A port that a Unix socket of the host stands for. */
struct spec_socket_path {
    uint32_t port;
    char *path;
    bool to_guest; /* programs of the host connect to `path`, which we make, and reach the guest's port; else
                      the guest's programs connect to the host's port and reach `path` */
};

struct spec_socket {
    struct spec_socket_path *paths;
    unsigned path_count;
};

enum spec_boot_kind { SPEC_BOOT_NONE, SPEC_BOOT_LINUX, SPEC_BOOT_EFI };

struct spec_boot {
    enum spec_boot_kind kind;
    char *kernel; /* LINUX */
    char *initrd; /* LINUX; NULL: none */
    char *command_line;
    char *variable_store; /* EFI; NULL: none */
};

struct spec_platform {
    uint8_t *identifier; /* the machine identifier, opaque bytes; NULL: none was set */
    size_t identifier_len;
    bool nested_virtualization;
};

enum spec_share_kind { SPEC_SHARE_SINGLE, SPEC_SHARE_MULTIPLE, SPEC_SHARE_ROSETTA };

struct spec_directory {
    char *name; /* MULTIPLE: of the directory that the guest sees; else NULL */
    char *path;
    bool read_only;
};

struct spec_share {
    char *tag;
    enum spec_share_kind kind;
    struct spec_directory *directories; /* one for SINGLE, none for ROSETTA */
    unsigned directory_count;
};

#define SPEC_SCANOUT_MAX 16 /* virtio 1.2, 5.7.4 */

struct spec_graphics {
    struct {
        unsigned width, height; /* pixels */
    } scanouts[SPEC_SCANOUT_MAX];
    unsigned scanout_count; /* may be more than there is room for: reported by validation */
};

struct spec_stream {
    bool is_input;
    bool has_host; /* the host's default device; else silence */
};

#define SPEC_STREAM_MAX 16

struct spec_sound {
    struct spec_stream streams[SPEC_STREAM_MAX];
    unsigned stream_count; /* may be more than there is room for: reported by validation */
};

struct spec {
    unsigned cpu_count;
    uint64_t memory_size;
    const char *engine; /* name of a static string, or NULL: the best one */
    struct spec_engine_options {
        uint64_t code_cache_size; /* bytes; 0: default */
        bool perf_map, shadow, direct;
    } engine_options;
    struct spec_boot boot;
    struct spec_platform platform;
    bool debug_exit;
    struct spec_disk disks[SPEC_DEVICE_MAX];
    unsigned disk_count;
    struct spec_serial serials[SPEC_DEVICE_MAX];
    unsigned serial_count;
    struct spec_console consoles[SPEC_DEVICE_MAX];
    unsigned console_count;
    unsigned entropy_count;
    unsigned balloon_count; /* more than one is reported by validation */
    struct spec_net nets[SPEC_DEVICE_MAX];
    unsigned net_count;
    struct spec_socket socket;
    unsigned socket_count; /* more than one is reported by validation */
    struct spec_share shares[SPEC_DEVICE_MAX];
    unsigned share_count;
    struct spec_graphics graphics[SPEC_DEVICE_MAX];
    unsigned graphics_count;
    struct spec_sound sounds[SPEC_DEVICE_MAX];
    unsigned sound_count;
    unsigned keyboard_count, pointing_count;
};

/* All are empty, with no descriptors. */
void spec_init(struct spec *s);
/* Copies everything, duplicating descriptors. On failure `to` is empty. */
bool spec_copy(struct spec *to, const struct spec *from, struct yado_error *err);
void spec_clear(struct spec *s); /* frees and closes what it owns; empty afterwards */

void spec_disk_clear(struct spec_disk *d);
void spec_attachment_clear(struct spec_attachment *a); /* none afterwards */
bool spec_attachment_copy(struct spec_attachment *to, const struct spec_attachment *from);
void spec_serial_clear(struct spec_serial *s);
/* Puts a port at its place, moved; what was there is freed. False: out of memory, `p` is as it was. */
bool spec_console_set(struct spec_console *c, unsigned index, struct spec_port *p);
void spec_port_clear(struct spec_port *p);
void spec_console_clear(struct spec_console *c);
void spec_boot_clear(struct spec_boot *b);
void spec_net_clear(struct spec_net *n);
void spec_platform_clear(struct spec_platform *p);
void spec_share_clear(struct spec_share *s);
bool spec_share_copy(struct spec_share *to, const struct spec_share *from);
void spec_socket_clear(struct spec_socket *s);
/* Adds a copy. False: out of memory. */
bool spec_socket_path_add(struct spec_socket *s, const struct spec_socket_path *p);
/* Adds a directory, with copies of the strings. False: out of memory. */
bool spec_directory_add(struct spec_share *s, const struct spec_directory *d);

/* Adds a copy. False: out of memory. */
bool spec_forward_add(struct net_config *c, const struct net_forward *f);

/* A duplicate of fd that is closed on exec, -1 stays -1. False: no descriptor. */
bool spec_fd_dup(int fd, int *out);

#endif
