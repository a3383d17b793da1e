/* 16550A UART: the register core of one serial port.
 * Source: National Semiconductor PC16550D data sheet (June 1995), section 8. */
#ifndef CHIP_UART16550_H
#define CHIP_UART16550_H

#include "bus/line.h"
#include "bus/region.h"

#define UART_REGION_LEN 8 /* bytes of port space */

struct uart;

struct uart_config {
    struct line irq; /* level: high while an enabled interrupt condition stands */
    /* Bytes that the guest sent. Called on a vCPU thread, one at a time per chip, with no chip lock held;
     * must not block for long. May be NULL: output is dropped. */
    void (*output)(void *ctx, const uint8_t *bytes, size_t len);
    /* The receive FIFO has room again after uart_receive took less than it was offered. Called on a vCPU
     * thread (or the thread of uart_reset) with no chip lock held. May be NULL. */
    void (*room)(void *ctx);
    void *ctx;
};

struct uart *uart_new(const struct uart_config *cfg, struct yado_error *err); /* reset already done */
void uart_free(struct uart *u);                                               /* NULL is fine */
void uart_reset(struct uart *u); /* master reset; received bytes not yet read are dropped */

/* Offers bytes to the receiver. Returns how many were taken (at most 16 with FIFOs on, 1 without; 0 in
 * loopback mode). When that is less than len, cfg.room is called once there is room. Any thread. */
size_t uart_receive(struct uart *u, const uint8_t *bytes, size_t len);

extern const struct region_ops uart_ops; /* ctx: struct uart *. Port space, UART_REGION_LEN */

#endif
