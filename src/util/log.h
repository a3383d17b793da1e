/* Run-time trace categories. A machine owns one struct log; nothing is global and nothing is printed unless
 * the embedder gave a sink. Any thread. */
#ifndef UTIL_LOG_H
#define UTIL_LOG_H

#include "util/base.h"

enum log_category {
    LOG_GUEST_FAULT, /* the guest broke a rule of a device */
    LOG_DISK,
    LOG_VIRTIO,
    LOG_PCI,
    LOG_IRQ,
    LOG_CPU,
    LOG_MACHINE,
    LOG_CATEGORY_COUNT,
};

struct log {
    void (*sink)(void *ctx, enum log_category cat, const char *line); /* NULL: silent */
    void *ctx;
    uint32_t enabled; /* bit per category */
};

const char *log_category_name(enum log_category cat);

/* Formats and hands one line (no newline) to the sink if the category is enabled. `log` may be NULL. */
void log_line(const struct log *log, enum log_category cat, const char *fmt, ...) printf_like(3, 4);

#endif
