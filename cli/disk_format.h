/* Disk images that are not raw, told by their first bytes. */
#ifndef CLI_DISK_FORMAT_H
#define CLI_DISK_FORMAT_H

/* The name of the format that the file begins like: "qcow2" ... NULL: none that is known (then it is raw, or
 * cannot be read, which is told later). Never waits. */
const char *disk_format_of(const char *path);

#endif
