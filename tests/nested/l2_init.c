/* The first program of a guest whose start is timed: shows the trace of KVM that it runs, and waits.
 *
 * By CPUID with a leaf that nobody else asks for: it leaves the guest under every monitor, needs no device
 * and no privilege. A port needs the latter, and QEMU 7.2's emulated CPU refuses ring 3 all ports unless the
 * type of the task register is "available TSS". KVM tells of it as "busy", and so it is once a monitor has
 * set what it got (KVM_GET_SREGS, KVM_SET_SREGS), as QEMU does for q35. */
#include <cpuid.h>
#include <unistd.h>

#include "l2_mark.h"

int main(void)
{
    unsigned eax, ebx, ecx, edx;

    __cpuid(L2_MARK_LEAF, eax, ebx, ecx, edx);
    for (;;)
        pause();
}
