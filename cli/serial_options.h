/* The values of --serial and --console. */
#ifndef CLI_SERIAL_OPTIONS_H
#define CLI_SERIAL_OPTIONS_H

#include <yado/yado.h>

#define RUN_SERIAL_MAX 8

enum run_serial_kind {
    RUN_SERIAL_STDIO,
    RUN_SERIAL_PTY,
    RUN_SERIAL_NONE,
    RUN_SERIAL_FILE,
    RUN_SERIAL_APPEND,
    RUN_SERIAL_SOCKET,
    RUN_SERIAL_FD,
};

struct run_serial {
    enum run_serial_kind kind;
    const char *path; /* of a FILE, APPEND or SOCKET */
    int fd;           /* FD */
};

/* A port of the console device that has all --console. */
struct run_port {
    char *name;  /* owned; NULL: none */
    bool is_hvc; /* a terminal for the guest */
    struct run_serial serial;
};

struct serial_options {
    struct run_serial serials[RUN_SERIAL_MAX];
    unsigned serial_count;
    struct run_port ports[YADO_CONSOLE_PORTS_MAX];
    unsigned port_count;
};

/* One --serial, and one --console: [name=NAME,][hvc,]KIND. EXIT_OK or EXIT_USAGE after the reason was said.
 */
int serial_options_add(struct serial_options *o, const char *value);
int console_options_add(struct serial_options *o, const char *value);
/* The terminal is hvc0 unless something else was said. */
void serial_options_complete(struct serial_options *o);
void serial_options_free(struct serial_options *o);

#endif
