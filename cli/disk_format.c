/* See disk_format.h. What is looked at is a guest's to write if the disk is raw. So nothing is ever opened by
 * the format found here: it only refuses what was not said to be raw.
 *
 * Signatures: QEMU, docs/interop/qcow2.txt (Header); VMware, Virtual Disk Format 5.0 (hosted sparse extents,
 * text descriptors); VirtualBox, VDICore.h; Microsoft, [MS-VHDX] 2.2.1 and the VHD specification (Hard Disk
 * Footer Format, whose copy begins dynamic disks). */
#include "disk_format.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli.h"

static const struct {
    unsigned off, len;
    const char *bytes, *name;
} formats[] = {
    { 0, 4, "QFI\xfb", "qcow2" }, { 0, 4, "KDMV", "VMDK" },     { 0, 21, "# Disk DescriptorFile", "VMDK" },
    { 0, 8, "conectix", "VHD" },  { 0, 8, "vhdxfile", "VHDX" }, { 0x40, 4, "\x7f\x10\xda\xbe", "VDI" },
};

const char *disk_format_of(const char *path)
{
    char head[0x44] = { 0 };
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    const char *name = NULL;
    struct stat st;

    if (fd < 0)
        return NULL;
    if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && pread(fd, head, sizeof(head), 0) > 0) {
        for (size_t i = 0; !name && i < count_of(formats); i++) {
            if (!memcmp(head + formats[i].off, formats[i].bytes, formats[i].len))
                name = formats[i].name;
        }
    }
    close(fd);
    return name;
}
