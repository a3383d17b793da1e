/* Trace lines to the embedder's sink: see util/log.h. */
#include "util/log.h"

#include <stdarg.h>
#include <stdio.h>

#define LOG_LINE_MAX 512

const char *log_category_name(enum log_category cat)
{
    static const char *const names[LOG_CATEGORY_COUNT] = {
        [LOG_GUEST_FAULT] = "guest-fault",
        [LOG_DISK] = "disk",
        [LOG_VIRTIO] = "virtio",
        [LOG_PCI] = "pci",
        [LOG_IRQ] = "irq",
        [LOG_CPU] = "cpu",
        [LOG_MACHINE] = "machine",
    };

    return (unsigned)cat < LOG_CATEGORY_COUNT && names[cat] ? names[cat] : "unknown";
}

void log_line(const struct log *log, enum log_category cat, const char *fmt, ...)
{
    char line[LOG_LINE_MAX];
    va_list args;

    if (!log || !log->sink || (unsigned)cat >= LOG_CATEGORY_COUNT || !(log->enabled >> cat & 1))
        return;
    va_start(args, fmt);
    if (vsnprintf(line, sizeof(line), fmt, args) < 0)
        line[0] = '\0';
    va_end(args);
    for (char *p = line; *p; p++)
        if ((unsigned char)*p < 0x20 || *p == 0x7f)
            *p = '?'; /* guests choose some of these bytes */
    log->sink(log->ctx, cat, line);
}
