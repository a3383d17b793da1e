/* Sizes of whole disks of macOS. */
#ifndef DARWIN_SYS_DISK_H
#define DARWIN_SYS_DISK_H

#define DKIOCGETBLOCKSIZE 0x40046418ul  /* uint32_t */
#define DKIOCGETBLOCKCOUNT 0x40086419ul /* uint64_t */

#endif
