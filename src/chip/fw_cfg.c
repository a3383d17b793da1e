/* Firmware configuration port: see fw_cfg.h. */
#include "chip/fw_cfg.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define SELECT_SIGNATURE 0x00
#define SELECT_ID 0x01
#define SELECT_RAM_SIZE 0x03
#define SELECT_NB_CPUS 0x05
#define SELECT_MAX_CPUS 0x0f
#define SELECT_DIRECTORY 0x19
#define SELECT_E820 0x20

#define ID_TRADITIONAL 1 /* port interface, no DMA */
#define FILE_ENTRY_LEN 64
#define FILE_NAME_OFF 8
#define E820_ENTRY_LEN 20
#define E820_RAM 1

#define ITEM_MAX 96
_Static_assert(4 + FILE_ENTRY_LEN <= ITEM_MAX && FW_CFG_RAM_MAX * E820_ENTRY_LEN <= ITEM_MAX,
               "items have room");

struct fw_cfg {
    pthread_mutex_t lock;
    struct fw_cfg_config cfg;
    uint8_t item[ITEM_MAX]; /* what is selected */
    size_t len, at;
};

static void put(struct fw_cfg *f, uint64_t v, unsigned bytes)
{
    for (unsigned i = 0; i < bytes; i++)
        f->item[f->len++] = (uint8_t)(v >> (8 * i));
}

static void put_big_endian(struct fw_cfg *f, uint64_t v, unsigned bytes)
{
    while (bytes--)
        f->item[f->len++] = (uint8_t)(v >> (8 * bytes));
}

static void put_directory(struct fw_cfg *f)
{
    static const char name[FILE_ENTRY_LEN - FILE_NAME_OFF] = "etc/e820";

    put_big_endian(f, 1, 4);
    put_big_endian(f, f->cfg.ram_count * E820_ENTRY_LEN, 4);
    put_big_endian(f, SELECT_E820, 2);
    put_big_endian(f, 0, 2);
    memcpy(f->item + f->len, name, sizeof(name));
    f->len += sizeof(name);
}

static void select_item(struct fw_cfg *f, uint16_t key)
{
    uint64_t ram = 0;

    f->len = f->at = 0;
    for (unsigned i = 0; i < f->cfg.ram_count; i++)
        ram += f->cfg.ram[i].len;
    switch (key) {
    case SELECT_SIGNATURE: put_big_endian(f, 0x51454d55, 4); break; /* "QEMU" */
    case SELECT_ID: put(f, ID_TRADITIONAL, 4); break;
    case SELECT_RAM_SIZE: put(f, ram, 8); break;
    case SELECT_NB_CPUS:
    case SELECT_MAX_CPUS: put(f, f->cfg.vcpu_count, 2); break;
    case SELECT_DIRECTORY: put_directory(f); break;
    case SELECT_E820:
        for (unsigned i = 0; i < f->cfg.ram_count; i++) {
            put(f, f->cfg.ram[i].gpa, 8);
            put(f, f->cfg.ram[i].len, 8);
            put(f, E820_RAM, 4);
        }
        break;
    default: break;
    }
}

static uint64_t fw_cfg_read(void *ctx, uint64_t off, unsigned width)
{
    struct fw_cfg *f = ctx;
    uint8_t v = 0;

    if (off != 1 || width != 1)
        return 0;
    pthread_mutex_lock(&f->lock);
    if (f->at < f->len)
        v = f->item[f->at++];
    pthread_mutex_unlock(&f->lock);
    return v;
}

static void fw_cfg_write(void *ctx, uint64_t off, unsigned width, uint64_t value)
{
    struct fw_cfg *f = ctx;

    if (off != 0 || width != 2)
        return;
    pthread_mutex_lock(&f->lock);
    select_item(f, (uint16_t)value);
    pthread_mutex_unlock(&f->lock);
}

const struct region_ops fw_cfg_ops = {
    .name = "fw-cfg", .min_width = 1, .max_width = 2, .read = fw_cfg_read, .write = fw_cfg_write
};

void fw_cfg_reset(struct fw_cfg *f)
{
    pthread_mutex_lock(&f->lock);
    select_item(f, SELECT_SIGNATURE);
    pthread_mutex_unlock(&f->lock);
}

struct fw_cfg *fw_cfg_new(const struct fw_cfg_config *cfg, struct yado_error *err)
{
    struct fw_cfg *f = calloc(1, sizeof(*f));

    if (!f) {
        err_set(err, YADO_ERR_HOST, "firmware configuration port: out of memory");
        return NULL;
    }
    f->cfg = *cfg;
    pthread_mutex_init(&f->lock, NULL);
    fw_cfg_reset(f);
    return f;
}

void fw_cfg_free(struct fw_cfg *f)
{
    if (!f)
        return;
    pthread_mutex_destroy(&f->lock);
    free(f);
}
