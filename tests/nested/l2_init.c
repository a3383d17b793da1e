/* The first program of a guest whose start is timed: says so on port 0xf4, where the trace of KVM sees it,
 * and waits. */
#include <sys/io.h>
#include <unistd.h>

int main(void)
{
    if (iopl(3) == 0)
        outb(1, 0xf4);
    for (;;)
        pause();
}
