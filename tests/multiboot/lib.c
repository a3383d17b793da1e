#include "lib.h"

#include <stdarg.h>

unsigned failures;

static void put(char c)
{
    while (!(inb(0x3fd) & 0x20))
        ;
    outb(0x3f8, (uint8_t)c);
}

static void put_hex(uint64_t v)
{
    unsigned i = 60;

    while (i && !(v >> i))
        i -= 4;
    for (;; i -= 4) {
        put("0123456789abcdef"[v >> i & 15]);
        if (!i)
            break;
    }
}

static void put_dec(uint32_t v)
{
    if (v >= 10)
        put_dec(v / 10);
    put((char)('0' + v % 10));
}

static void vprint(const char *f, va_list ap)
{
    for (; *f; f++) {
        if (*f != '%') {
            put(*f);
            continue;
        }
        switch (*++f) {
        case 's':
            for (const char *s = va_arg(ap, const char *); *s; s++)
                put(*s);
            break;
        case 'd': {
            int v = va_arg(ap, int);

            if (v < 0)
                put('-');
            put_dec(v < 0 ? 0u - (unsigned)v : (unsigned)v);
            break;
        }
        case 'u': put_dec(va_arg(ap, unsigned)); break;
        case 'x': put_hex(va_arg(ap, unsigned)); break;
        case 'X': put_hex(va_arg(ap, uint64_t)); break;
        }
    }
}

void print(const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    vprint(fmt, ap);
    va_end(ap);
}

void check(bool ok, const char *fmt, ...)
{
    va_list ap;

    if (!ok)
        failures++;
    print(ok ? "ok " : "NOT ok ");
    va_start(ap, fmt);
    vprint(fmt, ap);
    va_end(ap);
    put('\n');
}

void finish(uint32_t value)
{
    outl(0xf4, value);
    for (;;)
        __asm__ volatile("cli; hlt");
}
