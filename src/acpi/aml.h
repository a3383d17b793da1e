/* A writer of ACPI machine language (ACPI 6.4, chapter 20): bytes into a growing buffer, packages nested by
 * begin and end. Running out of memory is remembered and told once, by aml_failed. */
#ifndef ACPI_AML_H
#define ACPI_AML_H

#include "util/base.h"

struct aml {
    uint8_t *bytes;
    size_t len, room;
    bool failed;
};

void aml_free(struct aml *a);
bool aml_failed(const struct aml *a);
void aml_bytes(struct aml *a, const void *bytes, size_t len);

/* Objects that contain others: begin returns a mark that the matching end takes. Names are as in ASL:
 * "\\_SB", "PCI0" (one segment, padded with underscores; an optional leading backslash). */
size_t aml_scope_begin(struct aml *a, const char *name);
size_t aml_device_begin(struct aml *a, const char *name);
size_t aml_package_begin(struct aml *a, uint8_t count);
void aml_end(struct aml *a, size_t mark);

void aml_name(struct aml *a, const char *name); /* the next object written is its value */
void aml_integer(struct aml *a, uint64_t value);
void aml_string(struct aml *a, const char *text);
void aml_eisa_id(struct aml *a, const char *id); /* "PNP0A08" */

/* A resource template in a buffer: begin, descriptors, end (ACPI 6.4, 6.4). The buffer's length is at most
 * 65535. */
size_t aml_resources_begin(struct aml *a);
void aml_resources_end(struct aml *a, size_t mark);
void aml_io(struct aml *a, uint16_t port, uint8_t len); /* fixed, decodes 16 bits */
void aml_irq(struct aml *a, unsigned gsi);              /* edge, active high; below 16 */
void aml_memory32_fixed(struct aml *a, uint32_t base, uint32_t len);
void aml_bus_range(struct aml *a, uint16_t first, uint16_t last);
void aml_memory32_window(struct aml *a, uint32_t base, uint32_t len);
void aml_memory64_window(struct aml *a, uint64_t base, uint64_t len);

#endif
