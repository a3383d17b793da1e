/* See input.h. Ctrl-] leaves. So does Ctrl-A x; Ctrl-A Ctrl-A is one Ctrl-A, and Ctrl-A before anything else
 * is itself. Input that is no terminal is passed on as it is. */
#include "input.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#define CTRL_A 0x01
#define CTRL_RIGHT_BRACKET 0x1d

void input_init(struct input *in, int to)
{
    *in = (struct input){ .to = to, .ended = to < 0 };
}

void input_poll(const struct input *in, struct pollfd fds[2])
{
    fds[0] = (struct pollfd){ .fd = in->ended || in->held_len ? -1 : STDIN_FILENO, .events = POLLIN };
    fds[1] = (struct pollfd){ .fd = in->held_len ? in->to : -1, .events = POLLOUT };
}

size_t input_filter(struct input *in, uint8_t *bytes, size_t len, bool *leave)
{
    uint8_t out[sizeof(in->held)];
    size_t n = 0;

    *leave = false;
    for (size_t i = 0; i < len && !*leave; i++) {
        uint8_t c = bytes[i];

        if (in->after_ctrl_a) {
            in->after_ctrl_a = false;
            *leave = c == 'x' || c == CTRL_RIGHT_BRACKET;
            if (!*leave) {
                out[n++] = CTRL_A;
                if (c != CTRL_A)
                    out[n++] = c;
            }
        } else if (c == CTRL_RIGHT_BRACKET) {
            *leave = true;
        } else if (c == CTRL_A) {
            in->after_ctrl_a = true;
        } else {
            out[n++] = c;
        }
    }
    memcpy(bytes, out, n);
    return n;
}

static bool input_read(struct input *in)
{
    ssize_t n = read(STDIN_FILENO, in->held, sizeof(in->held) / 2);
    bool leave = false;

    if (n < 0 && (errno == EINTR || errno == EAGAIN))
        return false;
    if (n <= 0) {
        in->ended = true; /* the guest goes on without input */
        return false;
    }
    in->held_len = in->is_terminal ? input_filter(in, in->held, (size_t)n, &leave) : (size_t)n;
    return leave;
}

static void input_write(struct input *in)
{
    ssize_t n = write(in->to, in->held, in->held_len);

    if (n < 0 && (errno == EINTR || errno == EAGAIN))
        return;
    if (n < 0)
        n = (ssize_t)in->held_len; /* nobody will ever read it */
    in->held_len -= (size_t)n;
    memmove(in->held, in->held + n, in->held_len);
}

bool input_step(struct input *in, const struct pollfd fds[2])
{
    bool leave = fds[0].fd >= 0 && fds[0].revents && input_read(in);

    if (in->held_len)
        input_write(in);
    return leave;
}
