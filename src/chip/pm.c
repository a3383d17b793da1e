/* ACPI fixed hardware.
 *
 * The timer is computed from the clock when it is read. Its status bit is kept lazily in the same way, and
 * the chip raises no interrupt for it: TMR_EN cannot be set. Nobody but very old systems uses that interrupt,
 * and it would cost a wake-up every 10 minutes. Sleep states other than S5 are not named in the DSDT; asking
 * for one wakes at once. */
#include "chip/pm.h"

#include <pthread.h>
#include <stdlib.h>

#define TIMER_HZ 3579545u /* ACPI 6.4, 4.8.2.1 */
#define NS_PER_SEC 1000000000u

#define STS_TMR 0x0001
#define STS_GBL 0x0020
#define STS_PWRBTN 0x0100
#define STS_SLPBTN 0x0200
#define STS_RTC 0x0400
#define STS_WAK 0x8000
#define STS_ALL (STS_TMR | STS_GBL | STS_PWRBTN | STS_SLPBTN | STS_RTC | STS_WAK)

#define EN_GBL 0x0020
#define EN_PWRBTN 0x0100
#define EN_SLPBTN 0x0200
#define EN_RTC 0x0400
#define EN_ALL (EN_GBL | EN_PWRBTN | EN_SLPBTN | EN_RTC)

#define CNT_SCI_EN 0x0001
#define CNT_BM_RLD 0x0002
#define CNT_SLP_TYP 0x1c00
#define CNT_SLP_TYP_SHIFT 10
#define CNT_SLP_EN 0x2000

#define RESET_CPU 0x04  /* the reset happens when this bit is written as one */
#define RESET_KEPT 0x0a /* bits that read back: full reset, system reset */

struct pm {
    /* Order: pm.lock, then whatever the interrupt line takes. Callbacks of the machine run without it. */
    pthread_mutex_t lock;
    struct pm_config cfg;
    uint64_t start_ns;
    uint16_t status, enable, control;
    uint8_t reset_control;
    bool timer_msb; /* bit 31 of the timer when it was last looked at */
    bool sci_level;
};

static uint32_t timer_value(const struct pm *p)
{
    uint64_t ns = clock_now(&p->cfg.clock) - p->start_ns;

    /* In two parts, as ns * TIMER_HZ overflows after an hour and a half. */
    return (uint32_t)(ns / NS_PER_SEC * TIMER_HZ + ns % NS_PER_SEC * TIMER_HZ / NS_PER_SEC);
}

static void catch_up_timer_locked(struct pm *p)
{
    bool msb = timer_value(p) >> 31;

    if (msb != p->timer_msb)
        p->status |= STS_TMR;
    p->timer_msb = msb;
}

static void update_sci_locked(struct pm *p)
{
    bool level = (p->status & p->enable & EN_ALL) != 0;

    if (level == p->sci_level)
        return;
    p->sci_level = level;
    line_set(p->cfg.sci, level);
}

static void reset_locked(struct pm *p)
{
    p->status = 0;
    p->enable = 0;
    p->control = CNT_SCI_EN;
    p->reset_control = 0;
    p->start_ns = clock_now(&p->cfg.clock);
    p->timer_msb = false;
    update_sci_locked(p);
}

struct pm *pm_new(const struct pm_config *cfg, struct yado_error *err)
{
    struct pm *p = calloc(1, sizeof(*p));

    if (!p) {
        err_set(err, YADO_ERR_HOST, "power management: out of memory");
        return NULL;
    }
    p->cfg = *cfg;
    pthread_mutex_init(&p->lock, NULL);
    reset_locked(p);
    return p;
}

void pm_free(struct pm *p)
{
    if (!p)
        return;
    pthread_mutex_destroy(&p->lock);
    free(p);
}

void pm_reset(struct pm *p)
{
    pthread_mutex_lock(&p->lock);
    reset_locked(p);
    pthread_mutex_unlock(&p->lock);
}

void pm_press_power_button(struct pm *p)
{
    pthread_mutex_lock(&p->lock);
    p->status |= STS_PWRBTN;
    update_sci_locked(p);
    pthread_mutex_unlock(&p->lock);
}

/* The registers as one little-endian image, so that any width at any offset reads right. */
static void registers_locked(struct pm *p, uint8_t image[PM_REGION_LEN])
{
    uint32_t timer = timer_value(p);

    catch_up_timer_locked(p);
    image[PM1_EVT_OFF] = (uint8_t)p->status;
    image[PM1_EVT_OFF + 1] = (uint8_t)(p->status >> 8);
    image[PM1_EVT_OFF + 2] = (uint8_t)p->enable;
    image[PM1_EVT_OFF + 3] = (uint8_t)(p->enable >> 8);
    image[PM1_CNT_OFF] = (uint8_t)p->control;
    image[PM1_CNT_OFF + 1] = (uint8_t)(p->control >> 8);
    for (unsigned i = 0; i < PM_TMR_LEN; i++)
        image[PM_TMR_OFF + i] = (uint8_t)(timer >> (8 * i));
}

static uint64_t pm_read(void *ctx, uint64_t off, unsigned width)
{
    struct pm *p = ctx;
    uint8_t image[PM_REGION_LEN] = { 0 };
    uint64_t value = 0;

    pthread_mutex_lock(&p->lock);
    registers_locked(p, image);
    pthread_mutex_unlock(&p->lock);
    for (unsigned i = 0; i < width && off + i < PM_REGION_LEN; i++)
        value |= (uint64_t)image[off + i] << (8 * i);
    return value;
}

/* Returns whether the guest asked for soft off. */
static bool write_control_locked(struct pm *p, unsigned shift, uint8_t byte)
{
    uint16_t mask = (uint16_t)(0xff << shift), value = (uint16_t)(byte << shift);

    p->control = (uint16_t)((p->control & ~mask) | (value & (CNT_BM_RLD | CNT_SLP_TYP)) | CNT_SCI_EN);
    if (!(value & CNT_SLP_EN)) /* write-only, acts when written */
        return false;
    if ((p->control & CNT_SLP_TYP) >> CNT_SLP_TYP_SHIFT == PM_SLP_TYP_S5)
        return true;
    p->status |= STS_WAK;
    return false;
}

static bool write_byte_locked(struct pm *p, uint64_t off, uint8_t byte)
{
    switch (off) {
    case PM1_EVT_OFF: /* ones clear */
        catch_up_timer_locked(p);
        p->status &= (uint16_t) ~(byte & STS_ALL);
        return false;
    case PM1_EVT_OFF + 1: p->status &= (uint16_t) ~(byte << 8 & STS_ALL); return false;
    case PM1_EVT_OFF + 2: p->enable = (uint16_t)((p->enable & 0xff00) | (byte & EN_ALL)); return false;
    case PM1_EVT_OFF + 3: p->enable = (uint16_t)((p->enable & 0x00ff) | (byte << 8 & EN_ALL)); return false;
    case PM1_CNT_OFF: return write_control_locked(p, 0, byte);
    case PM1_CNT_OFF + 1: return write_control_locked(p, 8, byte);
    default: /* the timer is read-only */ return false;
    }
}

static void pm_write(void *ctx, uint64_t off, unsigned width, uint64_t value)
{
    struct pm *p = ctx;
    bool power_off = false;

    pthread_mutex_lock(&p->lock);
    for (unsigned i = 0; i < width; i++)
        power_off |= write_byte_locked(p, off + i, (uint8_t)(value >> (8 * i)));
    update_sci_locked(p);
    pthread_mutex_unlock(&p->lock);
    if (power_off && p->cfg.power_off)
        p->cfg.power_off(p->cfg.ctx);
}

const struct region_ops pm_ops = {
    .name = "acpi-pm",
    .min_width = 1,
    .max_width = 4,
    .read = pm_read,
    .write = pm_write,
};

static uint64_t reset_read(void *ctx, uint64_t off, unsigned width)
{
    struct pm *p = ctx;
    uint8_t value;

    (void)off;
    (void)width;
    pthread_mutex_lock(&p->lock);
    value = p->reset_control;
    pthread_mutex_unlock(&p->lock);
    return value;
}

static void reset_write(void *ctx, uint64_t off, unsigned width, uint64_t value)
{
    struct pm *p = ctx;

    (void)off;
    (void)width;
    pthread_mutex_lock(&p->lock);
    p->reset_control = (uint8_t)value & RESET_KEPT;
    pthread_mutex_unlock(&p->lock);
    if ((value & RESET_CPU) && p->cfg.reset)
        p->cfg.reset(p->cfg.ctx);
}

const struct region_ops pm_reset_ops = {
    .name = "reset-control",
    .min_width = 1,
    .max_width = 1,
    .read = reset_read,
    .write = reset_write,
};
