/* 16550A UART.
 *
 * The transmitter takes no time: a byte written to THR leaves at once, so THR and the shift register are
 * always empty and the "THR empty" interrupt is pending again directly after each write, until IIR has been
 * read. The receiver has no bit clock either: bytes below the trigger level raise the character time-out
 * interrupt at once, which drivers treat like data. Baud rate, word length and parity are stored and have no
 * effect. OUT2 does not gate the interrupt line, as it would on a PC board: drivers that use interrupts set
 * it, and those that poll do not enable any. */
#include "chip/uart16550.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define FIFO_LEN 16

enum { REG_DATA, REG_IER, REG_IIR_FCR, REG_LCR, REG_MCR, REG_LSR, REG_MSR, REG_SCR };

#define IER_RX 0x01
#define IER_THRE 0x02
#define IER_LINE 0x04
#define IER_MODEM 0x08
#define IER_ALL 0x0f

#define IIR_NONE 0x01
#define IIR_MODEM 0x00
#define IIR_THRE 0x02
#define IIR_RX 0x04
#define IIR_LINE 0x06
#define IIR_TIMEOUT 0x0c
#define IIR_FIFO_ON 0xc0

#define FCR_ENABLE 0x01
#define FCR_CLEAR_RX 0x02

#define LCR_DLAB 0x80

#define MCR_DTR 0x01
#define MCR_RTS 0x02
#define MCR_OUT1 0x04
#define MCR_OUT2 0x08
#define MCR_LOOP 0x10
#define MCR_ALL 0x1f

#define LSR_DR 0x01
#define LSR_OE 0x02
#define LSR_THRE 0x20
#define LSR_TEMT 0x40

#define MSR_DCTS 0x01
#define MSR_DDSR 0x02
#define MSR_TERI 0x04
#define MSR_DDCD 0x08
#define MSR_DELTA 0x0f
#define MSR_CTS 0x10
#define MSR_DSR 0x20
#define MSR_RI 0x40
#define MSR_DCD 0x80

struct uart {
    /* Order: uart.lock, then whatever the interrupt line takes. The line is moved under the lock so that its
     * levels cannot overtake each other. */
    pthread_mutex_t lock;
    struct uart_config cfg;
    uint8_t ier, fcr, lcr, mcr, msr, scr;
    uint8_t dll, dlm;
    bool overrun;
    bool thre_pending;
    uint8_t fifo[FIFO_LEN];
    unsigned fifo_head, fifo_count;
    bool room_wanted; /* uart_receive turned bytes away */
    bool irq_level;
};

static unsigned fifo_capacity(const struct uart *u)
{
    return u->fcr & FCR_ENABLE ? FIFO_LEN : 1;
}

static unsigned fifo_trigger(const struct uart *u)
{
    static const uint8_t levels[] = { 1, 4, 8, 14 };

    return u->fcr & FCR_ENABLE ? levels[u->fcr >> 6] : 1;
}

static void fifo_clear(struct uart *u)
{
    u->fifo_head = 0;
    u->fifo_count = 0;
}

/* A byte arrives at the receiver; one too many is an overrun, and the FIFO keeps what it had. */
static void fifo_put(struct uart *u, uint8_t byte)
{
    if (u->fifo_count >= fifo_capacity(u)) {
        u->overrun = true;
        return;
    }
    u->fifo[(u->fifo_head + u->fifo_count++) % FIFO_LEN] = byte;
}

static uint8_t fifo_take(struct uart *u)
{
    uint8_t byte;

    if (!u->fifo_count)
        return 0;
    byte = u->fifo[u->fifo_head];
    u->fifo_head = (u->fifo_head + 1) % FIFO_LEN;
    u->fifo_count--;
    return byte;
}

/* The highest-priority interrupt, in the coding of IIR without the FIFO bits (table 8.5 of the data sheet).
 */
static uint8_t interrupt_source(const struct uart *u)
{
    if ((u->ier & IER_LINE) && u->overrun)
        return IIR_LINE;
    if ((u->ier & IER_RX) && u->fifo_count)
        return u->fifo_count >= fifo_trigger(u) ? IIR_RX : IIR_TIMEOUT;
    if ((u->ier & IER_THRE) && u->thre_pending)
        return IIR_THRE;
    if ((u->ier & IER_MODEM) && (u->msr & MSR_DELTA))
        return IIR_MODEM;
    return IIR_NONE;
}

static void update_irq_locked(struct uart *u)
{
    bool level = interrupt_source(u) != IIR_NONE;

    if (level == u->irq_level)
        return;
    u->irq_level = level;
    line_set(u->cfg.irq, level);
}

/* Modem inputs: a peer that is always ready, or the outputs in loopback mode (section 8.6.5). */
static uint8_t modem_inputs(const struct uart *u)
{
    uint8_t in = 0;

    if (!(u->mcr & MCR_LOOP))
        return MSR_CTS | MSR_DSR | MSR_DCD;
    if (u->mcr & MCR_RTS)
        in |= MSR_CTS;
    if (u->mcr & MCR_DTR)
        in |= MSR_DSR;
    if (u->mcr & MCR_OUT1)
        in |= MSR_RI;
    if (u->mcr & MCR_OUT2)
        in |= MSR_DCD;
    return in;
}

static void update_modem_locked(struct uart *u)
{
    uint8_t old = u->msr, in = modem_inputs(u), changed = (uint8_t)(old ^ in);

    u->msr = (uint8_t)((old & MSR_DELTA) | in);
    if (changed & MSR_CTS)
        u->msr |= MSR_DCTS;
    if (changed & MSR_DSR)
        u->msr |= MSR_DDSR;
    if ((changed & MSR_RI) && !(in & MSR_RI)) /* only the trailing edge counts */
        u->msr |= MSR_TERI;
    if (changed & MSR_DCD)
        u->msr |= MSR_DDCD;
}

static void reset_locked(struct uart *u)
{
    u->ier = 0;
    u->fcr = 0;
    u->lcr = 0;
    u->mcr = 0;
    u->scr = 0;
    u->dll = 0x0c; /* 9600 baud: what firmware leaves; the data sheet leaves it undefined */
    u->dlm = 0;
    u->msr = modem_inputs(u);
    u->overrun = false;
    u->thre_pending = true;
    fifo_clear(u);
    update_irq_locked(u);
}

/* Whether cfg.room is due; forgets it. The caller calls it after unlocking. */
static bool take_room_locked(struct uart *u)
{
    if (!u->room_wanted || (u->mcr & MCR_LOOP) || u->fifo_count >= fifo_capacity(u))
        return false;
    u->room_wanted = false;
    return true;
}

static void unlock_and_tell(struct uart *u)
{
    bool room = take_room_locked(u);

    pthread_mutex_unlock(&u->lock);
    if (room && u->cfg.room)
        u->cfg.room(u->cfg.ctx);
}

struct uart *uart_new(const struct uart_config *cfg, struct yado_error *err)
{
    struct uart *u = calloc(1, sizeof(*u));

    if (!u) {
        err_set(err, YADO_ERR_HOST, "serial port: out of memory");
        return NULL;
    }
    u->cfg = *cfg;
    pthread_mutex_init(&u->lock, NULL);
    reset_locked(u);
    return u;
}

void uart_free(struct uart *u)
{
    if (!u)
        return;
    pthread_mutex_destroy(&u->lock);
    free(u);
}

void uart_reset(struct uart *u)
{
    pthread_mutex_lock(&u->lock);
    reset_locked(u);
    unlock_and_tell(u);
}

size_t uart_receive(struct uart *u, const uint8_t *bytes, size_t len)
{
    size_t taken = 0;

    pthread_mutex_lock(&u->lock);
    if (!(u->mcr & MCR_LOOP)) {
        while (taken < len && u->fifo_count < fifo_capacity(u))
            fifo_put(u, bytes[taken++]);
    }
    if (taken < len)
        u->room_wanted = true;
    update_irq_locked(u);
    pthread_mutex_unlock(&u->lock);
    return taken;
}

static uint8_t read_iir_locked(struct uart *u)
{
    uint8_t source = interrupt_source(u);

    if (source == IIR_THRE) /* reading it as the source acknowledges it */
        u->thre_pending = false;
    return (uint8_t)(source | (u->fcr & FCR_ENABLE ? IIR_FIFO_ON : 0));
}

static uint8_t read_lsr_locked(struct uart *u)
{
    uint8_t lsr = LSR_THRE | LSR_TEMT;

    if (u->fifo_count)
        lsr |= LSR_DR;
    if (u->overrun)
        lsr |= LSR_OE;
    u->overrun = false;
    return lsr;
}

static uint64_t uart_read(void *ctx, uint64_t off, unsigned width)
{
    struct uart *u = ctx;
    bool dlab;
    uint8_t value = 0xff;

    (void)width;
    pthread_mutex_lock(&u->lock);
    dlab = u->lcr & LCR_DLAB;
    switch (off) {
    case REG_DATA: value = dlab ? u->dll : fifo_take(u); break;
    case REG_IER: value = dlab ? u->dlm : u->ier; break;
    case REG_IIR_FCR: value = read_iir_locked(u); break;
    case REG_LCR: value = u->lcr; break;
    case REG_MCR: value = u->mcr; break;
    case REG_LSR: value = read_lsr_locked(u); break;
    case REG_MSR:
        value = u->msr;
        u->msr &= (uint8_t)~MSR_DELTA;
        break;
    case REG_SCR: value = u->scr; break;
    default: break;
    }
    update_irq_locked(u);
    unlock_and_tell(u);
    return value;
}

static void write_ier_locked(struct uart *u, uint8_t value)
{
    /* Enabling it with THR empty makes it pending, also if it was acknowledged before: drivers test for that.
     */
    if ((value & IER_THRE) && !(u->ier & IER_THRE))
        u->thre_pending = true;
    u->ier = value & IER_ALL;
}

static void write_fcr_locked(struct uart *u, uint8_t value)
{
    if (((value ^ u->fcr) & FCR_ENABLE) || (value & FCR_CLEAR_RX))
        fifo_clear(u);
    /* The trigger level may only be set together with the enable bit (section 8.4). */
    u->fcr = value & FCR_ENABLE ? (uint8_t)(value & (FCR_ENABLE | 0xc0)) : 0;
}

/* Returns whether the byte goes to the outside. */
static bool write_thr_locked(struct uart *u, uint8_t value)
{
    u->thre_pending = true;
    if (!(u->mcr & MCR_LOOP))
        return true;
    fifo_put(u, value);
    return false;
}

static void uart_write(void *ctx, uint64_t off, unsigned width, uint64_t value64)
{
    struct uart *u = ctx;
    uint8_t value = (uint8_t)value64;
    bool dlab, out = false;

    (void)width;
    pthread_mutex_lock(&u->lock);
    dlab = u->lcr & LCR_DLAB;
    switch (off) {
    case REG_DATA:
        if (dlab)
            u->dll = value;
        else
            out = write_thr_locked(u, value);
        break;
    case REG_IER:
        if (dlab)
            u->dlm = value;
        else
            write_ier_locked(u, value);
        break;
    case REG_IIR_FCR: write_fcr_locked(u, value); break;
    case REG_LCR: u->lcr = value; break;
    case REG_MCR:
        u->mcr = value & MCR_ALL;
        update_modem_locked(u);
        break;
    case REG_SCR: u->scr = value; break;
    default: /* LSR and MSR are read-only */ break;
    }
    update_irq_locked(u);
    unlock_and_tell(u);
    if (out && u->cfg.output)
        u->cfg.output(u->cfg.ctx, &value, 1);
}

const struct region_ops uart_ops = {
    .name = "uart16550",
    .min_width = 1,
    .max_width = 1,
    .read = uart_read,
    .write = uart_write,
};
