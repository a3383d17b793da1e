/* The DSDT's AML: the devices that a kernel cannot find by itself. */
#ifndef ACPI_DSDT_H
#define ACPI_DSDT_H

#include "acpi/acpi.h"
#include "acpi/aml.h"

/* Appends the definition block (no table header). */
void dsdt_write(struct aml *a, const struct acpi_board *board);

#endif
