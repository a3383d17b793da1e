/* QEMU's pc-testdev: ports and memory with which a test kernel tries out accesses, and lines of interrupts
 * that it raises itself. There is no text about it; behaviour as observed of QEMU 7.2: a 32-bit register at
 * 0xe0 .. 0xe3, a byte at 0xe8, a write to 0xe4 drops the mapping of a page (without effect on what a guest
 * sees), line n at 0x2000 + n, 64 KiB of memory of its own at 0xff000000. */
#ifndef CHIP_TEST_DEVICE_H
#define CHIP_TEST_DEVICE_H

#include "bus/line.h"
#include "bus/region.h"

#define TEST_DEVICE_PORT 0xe0
#define TEST_DEVICE_PORT_LEN 9
#define TEST_DEVICE_LINES_PORT 0x2000
#define TEST_DEVICE_LINES 24
#define TEST_DEVICE_MEMORY 0xff000000ull
#define TEST_DEVICE_MEMORY_LEN 0x10000ull

struct test_device;

struct test_device_config {
    struct line lines[TEST_DEVICE_LINES];
};

struct test_device *test_device_new(const struct test_device_config *cfg, struct yado_error *err);
void test_device_free(struct test_device *t); /* NULL is fine */

/* ctx of all: struct test_device * */
extern const struct region_ops test_device_port_ops;
extern const struct region_ops test_device_line_ops;
extern const struct region_ops test_device_memory_ops;

#endif
