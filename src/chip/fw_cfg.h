/* QEMU's firmware configuration port, as much of it as test kernels ask for: signature, number of CPUs, size
 * of RAM, and the directory with the file etc/e820. No DMA, nothing to write. Source: QEMU
 * docs/specs/fw_cfg.rst (7.2). */
#ifndef CHIP_FW_CFG_H
#define CHIP_FW_CFG_H

#include "bus/region.h"

#define FW_CFG_PORT 0x510 /* selector, 16 bits; data at the next port, 8 bits */
#define FW_CFG_REGION_LEN 2
#define FW_CFG_RAM_MAX 4

struct fw_cfg;

struct fw_cfg_config {
    unsigned vcpu_count;
    struct {
        uint64_t gpa, len;
    } ram[FW_CFG_RAM_MAX];
    unsigned ram_count;
};

struct fw_cfg *fw_cfg_new(const struct fw_cfg_config *cfg, struct yado_error *err);
void fw_cfg_free(struct fw_cfg *f); /* NULL is fine */
void fw_cfg_reset(struct fw_cfg *f);

extern const struct region_ops fw_cfg_ops; /* ctx: struct fw_cfg * */

#endif
