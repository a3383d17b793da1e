/* Waking by an eventfd: see host/wake.h. */
#include "host/wake.h"

#include <errno.h>
#include <sys/eventfd.h>
#include <unistd.h>

bool wake_open(struct wake *w, struct yado_error *err)
{
    w->read_fd = w->write_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return w->read_fd >= 0 || err_set_errno(err, YADO_ERR_HOST, errno, "cannot make an event descriptor");
}

void wake_close(struct wake *w)
{
    if (w->read_fd >= 0)
        close(w->read_fd);
    w->read_fd = w->write_fd = -1;
}

void wake_set(const struct wake *w)
{
    const uint64_t one = 1;

    /* Fails only when the counter is full, and then the descriptor is readable anyway. */
    if (write(w->write_fd, &one, sizeof(one)) < 0)
        return;
}

void wake_clear(const struct wake *w)
{
    uint64_t ignored;

    if (read(w->read_fd, &ignored, sizeof(ignored)) < 0)
        return; /* clear already */
}
