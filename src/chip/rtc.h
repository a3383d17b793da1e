/* MC146818 real-time clock with 128 bytes of CMOS memory. The clock shows wall time (UTC) plus the offset
 * that the guest made by setting it; the offset lives as long as the chip. Source: Motorola MC146818A data
 * sheet (1984). Century byte: index 0x32, as FADT.CENTURY says. */
#ifndef CHIP_RTC_H
#define CHIP_RTC_H

#include "bus/line.h"
#include "bus/region.h"
#include "host/clock.h"

#define RTC_REGION_LEN 2 /* index and data port */
#define RTC_CENTURY_INDEX 0x32
#define RTC_CMOS_SIZE 128
#define RTC_NEVER UINT64_MAX

struct rtc;

struct rtc_config {
    struct clock clock;
    struct line irq; /* level: register C bit 7 */
    /* Asks for a call of rtc_timer() at monotonic time deadline_ns (RTC_NEVER: no call wanted). The last call
     * replaces earlier ones. Called with the chip locked, so it must not call the chip back; loop_timer_arm
     * and loop_timer_disarm are right. NULL: the chip raises no interrupts, and ACPI must not name one for
     * it. */
    void (*arm)(void *ctx, uint64_t deadline_ns);
    void *ctx;
};

struct rtc *rtc_new(const struct rtc_config *cfg, struct yado_error *err); /* reset already done */
void rtc_free(struct rtc *r);                                              /* NULL is fine */
void rtc_reset(
    struct rtc *r); /* interrupt enables and flags fall; time and memory stay (they have a battery) */
void rtc_timer(
    struct rtc *r); /* the time asked for by cfg.arm has come. Any thread, spurious calls are fine */

extern const struct region_ops rtc_ops; /* ctx: struct rtc *. Port space, RTC_REGION_LEN */

#endif
