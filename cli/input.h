/* From standard input to the guest, with the keys that leave taken out. */
#ifndef CLI_INPUT_H
#define CLI_INPUT_H

#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct input {
    int to;           /* non-blocking, the guest's side; -1: standard input is not read */
    bool is_terminal; /* the keys for leaving are looked for */
    bool ended;       /* end of file */
    bool after_ctrl_a;
    uint8_t held[1024]; /* read, not yet taken by the guest */
    size_t held_len;
};

void input_init(struct input *in, int to); /* is_terminal is false at first */

/* What to poll for: fds[0] is standard input, fds[1] the guest's side; unused ones get fd -1. */
void input_poll(const struct input *in, struct pollfd fds[2]);
/* After poll. True: the user wants to leave. */
bool input_step(struct input *in, const struct pollfd fds[2]);

/* Takes the keys out of `bytes` in place. Returns the bytes left, *leave set if the user wants to leave (what
 * comes after is dropped). Exposed for tests. `bytes` has room for twice `len`: a held-back Ctrl-A may come
 * out. */
size_t input_filter(struct input *in, uint8_t *bytes, size_t len, bool *leave);

#endif
