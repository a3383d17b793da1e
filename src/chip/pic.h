/* The pair of 8259A interrupt controllers of a PC, the second on input 2 of the first, with the edge/level
 * control registers of PCI chipsets. Source: Intel 8259A data sheet (231468-003, 1988); ELCR: Intel 82371FB
 * data sheet (1997), 2.1.3. 8086 mode alone; no buffered mode, no MCS-80 vectors.
 *
 * An edge that came is kept until it is acknowledged, also if the input has fallen since: the data sheet
 * would have that answered by a spurious interrupt 7, virtual PCs do as here and their guests pulse lines. */
#ifndef CHIP_PIC_H
#define CHIP_PIC_H

#include "bus/line.h"
#include "bus/region.h"

#define PIC_INPUTS 16
#define PIC_REGION_LEN 2 /* of each of the three regions */

struct pic;
struct pic_unit;

struct pic_config {
    struct line out; /* INT of the first chip. Called with the chips locked: it takes no lock and calls
                        nothing here */
};

/* Reset as firmware leaves it: vectors 0x08 and 0x70 up, inputs 0, 1, 2, 6 and 8, 12, 13, 14 open. */
struct pic *pic_new(const struct pic_config *cfg, struct yado_error *err);
void pic_free(struct pic *p); /* NULL is fine */
void pic_reset(struct pic *p);

/* The line of input n, 0 .. 15 but not 2. Any thread. */
struct line pic_line(struct pic *p, unsigned n);
/* The processor's acknowledge cycles: the vector. Without a request (it has gone meanwhile): the spurious 7
 * of the first chip. Any thread. */
uint8_t pic_acknowledge(struct pic *p);

struct pic_unit *pic_unit(struct pic *p, unsigned i); /* 0, 1 */
extern const struct region_ops pic_unit_ops;          /* ctx: struct pic_unit *. Ports 0x20, 0xa0 */
extern const struct region_ops pic_elcr_ops;          /* ctx: struct pic *. Ports 0x4d0, 0x4d1 */

#endif
