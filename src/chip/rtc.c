/* Real-time clock.
 *
 * Nothing ticks. The chip holds the moment at which a second of the guest's began, in guest time, monotonic
 * time and the host's wall time, and computes what the registers show when they are looked at; interrupt
 * flags of the seconds that went by are found in the same way, and a timer of the machine is asked for only
 * when an interrupt is enabled that has not come yet. Guest time follows the host's wall clock: when that is
 * stepped by more than a second, so is the guest's. While the guest holds the clock (SET, or the divider in
 * reset) the time registers are plain memory, and what they hold when it lets go becomes the time. */
#include "chip/rtc.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define NS_PER_SEC 1000000000ull
#define SEC_PER_DAY 86400
#define SAMPLE_NS 100000
#define SAMPLE_TRIES 16
#define UPDATE_NS 244000 /* "update in progress" leads each update by 244 us at the least */

enum {
    REG_SEC,
    REG_SEC_ALARM,
    REG_MIN,
    REG_MIN_ALARM,
    REG_HOUR,
    REG_HOUR_ALARM,
    REG_WEEKDAY,
    REG_DAY,
    REG_MONTH,
    REG_YEAR,
    REG_A,
    REG_B,
    REG_C,
    REG_D,
};

#define A_UIP 0x80
#define A_DIVIDER 0x70
#define A_DIVIDER_RUN 0x20 /* 32768 Hz crystal */
#define A_RATE 0x0f
#define A_INITIAL 0x26

#define B_SET 0x80
#define B_PIE 0x40
#define B_AIE 0x20
#define B_UIE 0x10
#define B_BINARY 0x04
#define B_24H 0x02

#define C_IRQF 0x80
#define C_PF 0x40
#define C_AF 0x20
#define C_UF 0x10

#define D_VALID 0x80

#define HOUR_PM 0x80
#define ALARM_ANY 0xc0 /* both bits set: every value matches */

#define INDEX_MASK 0x7f /* bit 7 is the NMI mask of the PC */

struct rtc {
    /* Order: rtc.lock, then whatever the interrupt line and the timer take. */
    pthread_mutex_t lock;
    struct rtc_config cfg;
    uint8_t index;
    uint8_t cmos[RTC_CMOS_SIZE]; /* time registers are current only while the clock is held */
    int64_t base_sec;            /* guest time, seconds since 1970: whatever the guest has set ... */
    uint64_t base_ns;            /* ... at this monotonic ... */
    int64_t base_wall_ns;        /* ... and this wall time of the host's */
    int64_t seen_sec;            /* flags are computed up to this guest second */
    uint64_t seen_period;        /* and up to this period */
    bool irq_level;
};

struct calendar {
    int year;
    unsigned month, day, weekday; /* 1-12, 1-31, 0 is Sunday */
    unsigned hour, min, sec;
};

/* Days since 1970-01-01 of a date in the Gregorian calendar, and back; years start in March here so that the
 * leap day is the last. */
static int64_t days_of_date(int year, unsigned month, unsigned day)
{
    int64_t y = month <= 2 ? year - 1 : year;
    int64_t era = (y >= 0 ? y : y - 399) / 400;
    int64_t year_of_era = y - era * 400;
    int64_t month_from_march = (month + 9) % 12;
    int64_t day_of_year = (153 * month_from_march + 2) / 5 + day - 1;

    return era * 146097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719468;
}

static struct calendar calendar_of(int64_t sec)
{
    int64_t days = sec / SEC_PER_DAY, rest = sec % SEC_PER_DAY;
    int64_t era, doe, yoe, doy, mp;
    struct calendar c;

    if (rest < 0) {
        rest += SEC_PER_DAY;
        days--;
    }
    c.hour = (unsigned)(rest / 3600);
    c.min = (unsigned)(rest / 60 % 60);
    c.sec = (unsigned)(rest % 60);
    c.weekday = (unsigned)(((days + 4) % 7 + 7) % 7); /* 1970-01-01 was a Thursday */
    days += 719468;
    era = (days >= 0 ? days : days - 146096) / 146097;
    doe = days - era * 146097;
    yoe = (doe - doe / 1460 + doe / 36524 - doe / 146096) / 365;
    doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    mp = (5 * doy + 2) / 153;
    c.day = (unsigned)(doy - (153 * mp + 2) / 5 + 1);
    c.month = (unsigned)(mp < 10 ? mp + 3 : mp - 9);
    c.year = (int)(yoe + era * 400 + (c.month <= 2));
    return c;
}

static uint8_t encode(const struct rtc *r, unsigned v)
{
    return (uint8_t)(r->cmos[REG_B] & B_BINARY ? v : v / 10 << 4 | v % 10);
}

static unsigned decode(const struct rtc *r, uint8_t v)
{
    return r->cmos[REG_B] & B_BINARY ? v : (v >> 4) * 10u + (v & 0xf);
}

static uint8_t encode_hour(const struct rtc *r, unsigned hour)
{
    if (r->cmos[REG_B] & B_24H)
        return encode(r, hour);
    return (uint8_t)(encode(r, hour % 12 ? hour % 12 : 12) | (hour >= 12 ? HOUR_PM : 0));
}

static unsigned decode_hour(const struct rtc *r, uint8_t v)
{
    if (r->cmos[REG_B] & B_24H)
        return decode(r, v);
    return decode(r, v & (uint8_t)~HOUR_PM) % 12 + (v & HOUR_PM ? 12 : 0);
}

static bool is_held(const struct rtc *r)
{
    return (r->cmos[REG_B] & B_SET) || (r->cmos[REG_A] & A_DIVIDER) != A_DIVIDER_RUN;
}

/* The host's wall clock in ns, and the monotonic time that belongs to it: a thread that was kept waiting
 * between the two asks again. */
static int64_t wall_now(const struct rtc *r, uint64_t *now)
{
    uint64_t before, after;
    int64_t wall;
    unsigned tries = 0;

    do {
        before = clock_now(&r->cfg.clock);
        wall = clock_wall_ns(&r->cfg.clock);
        after = clock_now(&r->cfg.clock);
    } while (after - before > SAMPLE_NS && ++tries < SAMPLE_TRIES);
    *now = before + (after - before) / 2;
    return wall;
}

/* At `now`, when the host's time is `wall`, the guest's is `ns` after the base: moves the base to the
 * beginning of that second. */
static void base_move(struct rtc *r, int64_t ns, int64_t wall, uint64_t now)
{
    int64_t into = ns % (int64_t)NS_PER_SEC;

    if (into < 0)
        into += (int64_t)NS_PER_SEC;
    r->base_sec += (ns - into) / (int64_t)NS_PER_SEC;
    r->base_ns = now - (uint64_t)into;
    r->base_wall_ns = wall - into;
}

/* Guest time in whole seconds; *into_ns is how far the second has gone. The clock is not held. */
static int64_t time_now(struct rtc *r, uint64_t *into_ns)
{
    uint64_t now;
    int64_t wall = wall_now(r, &now);
    int64_t ahead = wall - r->base_wall_ns - (int64_t)(now - r->base_ns);

    if (ahead > (int64_t)NS_PER_SEC || ahead < -(int64_t)NS_PER_SEC) /* the host's clock was stepped */
        base_move(r, wall - r->base_wall_ns, wall, now);
    if (into_ns)
        *into_ns = (now - r->base_ns) % NS_PER_SEC;
    return r->base_sec + (int64_t)((now - r->base_ns) / NS_PER_SEC);
}

static void registers_from_time(struct rtc *r)
{
    struct calendar c = calendar_of(time_now(r, NULL));

    r->cmos[REG_SEC] = encode(r, c.sec);
    r->cmos[REG_MIN] = encode(r, c.min);
    r->cmos[REG_HOUR] = encode_hour(r, c.hour);
    r->cmos[REG_WEEKDAY] = encode(r, c.weekday + 1);
    r->cmos[REG_DAY] = encode(r, c.day);
    r->cmos[REG_MONTH] = encode(r, c.month);
    r->cmos[REG_YEAR] = encode(r, (unsigned)c.year % 100);
    r->cmos[RTC_CENTURY_INDEX] = encode(r, (unsigned)c.year / 100 % 100);
}

/* The registers hold what the guest wrote, sense or not: out-of-range values only give a strange time. */
static void time_from_registers(struct rtc *r, uint64_t second_began_ns)
{
    int year = (int)(decode(r, r->cmos[RTC_CENTURY_INDEX]) * 100 + decode(r, r->cmos[REG_YEAR]));
    unsigned month = decode(r, r->cmos[REG_MONTH]);
    uint64_t now;

    month = month < 1 ? 1 : month > 12 ? 12 : month;
    r->base_sec = days_of_date(year, month, decode(r, r->cmos[REG_DAY])) * SEC_PER_DAY +
                  decode_hour(r, r->cmos[REG_HOUR]) * 3600 + decode(r, r->cmos[REG_MIN]) * 60 +
                  decode(r, r->cmos[REG_SEC]);
    r->base_ns = second_began_ns;
    r->base_wall_ns = wall_now(r, &now);
    r->base_wall_ns -= (int64_t)(now - second_began_ns);
    r->seen_sec = r->base_sec;
}

/* Nanoseconds between periodic interrupts, 0 for none. Table 5 of the data sheet: rates 1 and 2 repeat 8
 * and 9. */
static uint64_t period_ns(const struct rtc *r)
{
    unsigned rate = r->cmos[REG_A] & A_RATE;

    if (!rate || (r->cmos[REG_A] & A_DIVIDER) != A_DIVIDER_RUN)
        return 0;
    if (rate <= 2)
        rate += 7;
    return NS_PER_SEC * (1u << (rate - 1)) / 32768;
}

static uint64_t period_number(const struct rtc *r)
{
    uint64_t period = period_ns(r);

    return period ? clock_now(&r->cfg.clock) / period : 0;
}

/* The first second after `from` at which the alarm matches, or -1. Steps over hours and minutes that cannot
 * match, so it ends after at most 25 + 60 + 60 turns. */
static int64_t next_alarm(const struct rtc *r, int64_t from)
{
    uint8_t ah = r->cmos[REG_HOUR_ALARM], am = r->cmos[REG_MIN_ALARM], as = r->cmos[REG_SEC_ALARM];
    bool any_h = (ah & ALARM_ANY) == ALARM_ANY;
    bool any_m = (am & ALARM_ANY) == ALARM_ANY;
    bool any_s = (as & ALARM_ANY) == ALARM_ANY;
    int64_t t = from + 1;

    while (t <= from + SEC_PER_DAY) {
        struct calendar c = calendar_of(t);

        if (!any_h && c.hour != decode_hour(r, ah))
            t += 3600 - (int64_t)(c.min * 60 + c.sec);
        else if (!any_m && c.min != decode(r, am))
            t += 60 - (int64_t)c.sec;
        else if (!any_s && c.sec != decode(r, as))
            t++;
        else
            return t;
    }
    return -1;
}

/* Sets the flags of all that has happened since this was last called. */
static void catch_up_locked(struct rtc *r)
{
    uint64_t period = period_number(r);

    if (period != r->seen_period)
        r->cmos[REG_C] |= C_PF;
    r->seen_period = period;
    if (!is_held(r)) {
        int64_t sec = time_now(r, NULL), alarm;

        if (sec != r->seen_sec) {
            r->cmos[REG_C] |= C_UF;
            alarm = next_alarm(r, r->seen_sec);
            if (alarm >= 0 && alarm <= sec)
                r->cmos[REG_C] |= C_AF;
        }
        r->seen_sec = sec;
    }
}

static void update_irq_locked(struct rtc *r)
{
    bool level = (r->cmos[REG_B] & r->cmos[REG_C] & (C_PF | C_AF | C_UF)) != 0; /* same bits in both */

    if (level)
        r->cmos[REG_C] |= C_IRQF;
    else
        r->cmos[REG_C] &= (uint8_t)~C_IRQF;
    if (level == r->irq_level)
        return;
    r->irq_level = level;
    line_set(r->cfg.irq, level);
}

static uint64_t deadline_of(const struct rtc *r, int64_t guest_sec)
{
    return guest_sec <= r->base_sec ? r->base_ns
                                    : r->base_ns + (uint64_t)(guest_sec - r->base_sec) * NS_PER_SEC;
}

/* Asks for the timer at the next event that is enabled and has not come yet. */
static void rearm_locked(struct rtc *r)
{
    uint8_t wanted = (uint8_t)(r->cmos[REG_B] & ~r->cmos[REG_C]);
    uint64_t deadline = RTC_NEVER, period = period_ns(r);

    if (!r->cfg.arm)
        return;
    if ((wanted & B_PIE) && period)
        deadline = (r->seen_period + 1) * period;
    if ((wanted & B_UIE) && !is_held(r))
        deadline = min_u64(deadline, deadline_of(r, r->seen_sec + 1));
    if ((wanted & B_AIE) && !is_held(r)) {
        int64_t alarm = next_alarm(r, r->seen_sec);

        if (alarm >= 0)
            deadline = min_u64(deadline, deadline_of(r, alarm));
    }
    r->cfg.arm(r->cfg.ctx, deadline);
}

static void settle_locked(struct rtc *r)
{
    update_irq_locked(r);
    rearm_locked(r);
}

struct rtc *rtc_new(const struct rtc_config *cfg, struct yado_error *err)
{
    struct rtc *r = calloc(1, sizeof(*r));
    uint64_t now;
    int64_t wall;

    if (!r) {
        err_set(err, YADO_ERR_HOST, "real-time clock: out of memory");
        return NULL;
    }
    r->cfg = *cfg;
    pthread_mutex_init(&r->lock, NULL);
    r->cmos[REG_A] = A_INITIAL;
    r->cmos[REG_B] = B_24H;
    r->cmos[REG_D] = D_VALID;
    wall = wall_now(r, &now);
    base_move(r, wall, wall, now); /* from 1970 */
    r->seen_sec = r->base_sec;
    r->seen_period = period_number(r);
    return r;
}

void rtc_free(struct rtc *r)
{
    if (!r)
        return;
    pthread_mutex_destroy(&r->lock);
    free(r);
}

void rtc_reset(struct rtc *r)
{
    pthread_mutex_lock(&r->lock);
    catch_up_locked(r);
    r->index = 0;
    r->cmos[REG_B] &= (uint8_t) ~(B_PIE | B_AIE | B_UIE);
    r->cmos[REG_C] = 0;
    settle_locked(r);
    pthread_mutex_unlock(&r->lock);
}

void rtc_timer(struct rtc *r)
{
    pthread_mutex_lock(&r->lock);
    catch_up_locked(r);
    settle_locked(r);
    pthread_mutex_unlock(&r->lock);
}

static bool is_time_register(unsigned i)
{
    return i == REG_SEC || i == REG_MIN || i == REG_HOUR || (i >= REG_WEEKDAY && i <= REG_YEAR) ||
           i == RTC_CENTURY_INDEX;
}

static uint8_t read_a_locked(struct rtc *r)
{
    uint64_t into;

    if (is_held(r))
        return r->cmos[REG_A];
    time_now(r, &into);
    return (uint8_t)(r->cmos[REG_A] | (into >= NS_PER_SEC - UPDATE_NS ? A_UIP : 0));
}

static uint8_t data_read_locked(struct rtc *r)
{
    unsigned i = r->index;
    uint8_t value;

    if (i == REG_A)
        return read_a_locked(r);
    if (i == REG_C) { /* reading it acknowledges all */
        catch_up_locked(r);
        update_irq_locked(r);
        value = r->cmos[REG_C];
        r->cmos[REG_C] = 0;
        settle_locked(r);
        return value;
    }
    if (is_time_register(i) && !is_held(r))
        registers_from_time(r);
    return r->cmos[i];
}

/* Registers A and B: what holds the clock, what lets it go, and how numbers are written. */
static void control_write_locked(struct rtc *r, unsigned i, uint8_t value)
{
    bool was_held = is_held(r), divider_was_off = (r->cmos[REG_A] & A_DIVIDER) != A_DIVIDER_RUN;
    uint64_t now = clock_now(&r->cfg.clock);

    catch_up_locked(r);
    if (!was_held) /* in the old number format: a change of format does not convert the registers */
        registers_from_time(r);
    if (i == REG_A) {
        r->cmos[REG_A] = value & (uint8_t)~A_UIP;
        r->seen_period = period_number(r);
    } else {
        r->cmos[REG_B] = value & B_SET ? value & (uint8_t)~B_UIE : value; /* SET clears UIE */
    }
    /* After the divider was in reset the first update comes half a second later. */
    if (was_held && !is_held(r))
        time_from_registers(r, i == REG_A && divider_was_off ? now - NS_PER_SEC / 2 : now);
}

static void data_write_locked(struct rtc *r, uint8_t value)
{
    unsigned i = r->index;
    uint64_t into = 0;

    if (i == REG_C || i == REG_D)
        return;
    if (i == REG_A || i == REG_B) {
        control_write_locked(r, i, value);
    } else if (is_time_register(i) && !is_held(r)) {
        catch_up_locked(r);
        time_now(r, &into);
        registers_from_time(r);
        r->cmos[i] = value;
        time_from_registers(r, clock_now(&r->cfg.clock) - into);
    } else {
        catch_up_locked(r); /* an old alarm time counts up to now */
        r->cmos[i] = value;
    }
    settle_locked(r);
}

static uint64_t rtc_read(void *ctx, uint64_t off, unsigned width)
{
    struct rtc *r = ctx;
    uint8_t value;

    (void)width;
    if (off == 0)
        return 0xff; /* the index port cannot be read back on a PC */
    pthread_mutex_lock(&r->lock);
    value = data_read_locked(r);
    pthread_mutex_unlock(&r->lock);
    return value;
}

static void rtc_write(void *ctx, uint64_t off, unsigned width, uint64_t value)
{
    struct rtc *r = ctx;

    (void)width;
    pthread_mutex_lock(&r->lock);
    if (off == 0)
        r->index = value & INDEX_MASK;
    else
        data_write_locked(r, (uint8_t)value);
    pthread_mutex_unlock(&r->lock);
}

const struct region_ops rtc_ops = {
    .name = "rtc",
    .min_width = 1,
    .max_width = 1,
    .read = rtc_read,
    .write = rtc_write,
};
