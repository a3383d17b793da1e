/* Hostile bytes: instructions of any kind, known or not, and plain noise. Nothing is filtered. */
#include <string.h>

#include "attack.h"

static uint64_t rnd(struct attack_gen *g)
{
    return fuzz_mix(g->random++);
}

static unsigned below(struct attack_gen *g, unsigned n)
{
    return (unsigned)(rnd(g) % n);
}

static void put(struct attack_gen *g, unsigned byte)
{
    if (g->len < g->room)
        g->out[g->len++] = (uint8_t)byte;
}

static void put_random(struct attack_gen *g, unsigned n)
{
    while (n--)
        put(g, (unsigned)rnd(g) & 0xff);
}

/* ModRM with what belongs to it; `reg` < 8 fixes the register field. */
static void put_modrm(struct attack_gen *g, unsigned reg)
{
    unsigned modrm = (unsigned)rnd(g) & 0xff, mod = modrm >> 6, rm = modrm & 7;

    if (reg < 8)
        modrm = (modrm & 0xc7) | reg << 3;
    put(g, modrm);
    if (mod == 3)
        return;
    if (rm == 4)
        put_random(g, 1);
    if (mod == 1 || (mod == 2 && below(g, 2)))
        put_random(g, 1);
    if (mod == 2 || (mod == 0 && rm == 5)) { /* a displacement that leads back to good memory, or does not */
        put_random(g, 2);
        put(g, 0);
        put(g, below(g, 3) ? 0 : (unsigned)rnd(g));
    }
}

static void put_prefixes(struct attack_gen *g)
{
    static const uint8_t legacy[] = { 0x66, 0x67, 0xf2, 0xf3, 0xf0, 0x2e, 0x36, 0x3e, 0x26, 0x64, 0x65 };

    while (!below(g, 3))
        put(g, legacy[below(g, array_size(legacy))]);
    if (!below(g, 3))
        put(g, 0x40 | below(g, 16));
}

static void put_vex(struct attack_gen *g)
{
    unsigned kind = below(g, 8);

    if (kind < 3) {
        put(g, 0xc5);
        put_random(g, 1);
    } else if (kind < 6) {
        put(g, 0xc4);
        put(g, 0xe0 | (1 + below(g, 3)));
        put(g, below(g, 2) ? (unsigned)rnd(g) : 0x78 | below(g, 8) | below(g, 2) << 7);
    } else if (kind < 7) { /* XOP */
        put(g, 0x8f);
        put(g, 0xe8 | below(g, 3));
        put_random(g, 1);
    } else { /* EVEX */
        put(g, 0x62);
        put(g, 0xf0 | below(g, 8));
        put(g, 0x7c | below(g, 4) | below(g, 2) << 7);
        put_random(g, 1);
    }
    put_random(g, 1);
    put_modrm(g, 8);
    if (below(g, 2))
        put_random(g, 1);
}

/* Where a mistake would cost most: what names memory in unusual ways, changes what the host keeps, or enters
 * the host's kernel. ModRM follows where `modrm` says so; 8 or more: any, else the register field. */
static const struct {
    uint8_t n, bytes[4], modrm;
} chosen[] = {
    { 4, { 0x66, 0x0f, 0x38, 0xf8 }, 8 }, /* MOVDIR64B */
    { 4, { 0xf2, 0x0f, 0x38, 0xf8 }, 8 }, /* ENQCMD */
    { 3, { 0x0f, 0x38, 0xf9 }, 8 },       /* MOVDIRI */
    { 3, { 0x0f, 0x38, 0xf6 }, 8 },       /* WRSS */
    { 4, { 0x66, 0x0f, 0x38, 0xf5 }, 8 }, /* WRUSS */
    { 3, { 0xf3, 0x0f, 0xae }, 0 },       /* RDFSBASE to WRGSBASE */
    { 3, { 0xf3, 0x0f, 0xae }, 2 },
    { 3, { 0xf3, 0x0f, 0xae }, 3 },
    { 3, { 0xf3, 0x0f, 0xae }, 6 }, /* UMONITOR, CLRSSBSY */
    { 2, { 0x0f, 0xae }, 8 },       /* FXSAVE to CLFLUSH */
    { 2, { 0x0f, 0xae }, 1 },
    { 2, { 0x0f, 0xae }, 2 },
    { 2, { 0x0f, 0xae }, 5 },
    { 3, { 0x48, 0x0f, 0xae }, 5 },
    { 2, { 0x0f, 0xc7 }, 8 }, /* CMPXCHG8B, XRSTORS, XSAVEC, XSAVES, VMPTRLD, RDRAND */
    { 3, { 0xf3, 0x0f, 0xc7 }, 8 },
    { 2, { 0x0f, 0x01 }, 8 },
    { 3, { 0x0f, 0x01, 0xc0 }, 16 }, /* VM functions, MONITOR, ENCLS, XGETBV, VMRUN, RDPKRU ... */
    { 3, { 0x0f, 0x01, 0xd0 }, 16 },
    { 3, { 0x0f, 0x01, 0xd8 }, 16 },
    { 3, { 0x0f, 0x01, 0xe8 }, 16 },
    { 3, { 0x0f, 0x01, 0xf8 }, 16 },
    { 2, { 0x0f, 0x05 }, 17 },
    { 2, { 0x0f, 0x34 }, 17 },
    { 2, { 0x0f, 0x07 }, 17 },
    { 2, { 0x0f, 0x35 }, 17 },
    { 1, { 0xcd }, 18 },
    { 1, { 0xcf }, 17 },
    { 2, { 0x48, 0xcf }, 17 },
    { 1, { 0x9d }, 17 },
    { 1, { 0xfd }, 17 },
    { 1, { 0xd9 }, 8 }, /* x87: control word, environment */
    { 1, { 0xdd }, 8 },
    { 1, { 0xdb }, 8 },
    { 2, { 0x0f, 0x22 }, 8 },
    { 2, { 0x0f, 0x23 }, 8 },
    { 2, { 0x0f, 0x30 }, 17 },
    { 2, { 0x0f, 0x00 }, 8 },
    { 1, { 0x8e }, 8 },
    { 1, { 0xff }, 8 },
    { 1, { 0xca }, 18 },
    { 2, { 0x0f, 0xf7 }, 8 }, /* MASKMOVQ */
    { 3, { 0x66, 0x0f, 0xf7 }, 8 },
    { 3, { 0x0f, 0x38, 0x82 }, 8 },
    { 1, { 0xf3 }, 19 }, /* a string instruction */
};

static void put_chosen(struct attack_gen *g)
{
    unsigned i = below(g, array_size(chosen));

    for (unsigned k = 0; k + 1 < chosen[i].n; k++)
        put(g, chosen[i].bytes[k]);
    if (chosen[i].modrm == 16) {
        put(g, chosen[i].bytes[chosen[i].n - 1] | below(g, 8));
        return;
    }
    put(g, chosen[i].bytes[chosen[i].n - 1]);
    if (chosen[i].modrm <= 8)
        put_modrm(g, chosen[i].modrm);
    else if (chosen[i].modrm == 18)
        put_random(g, 1);
    else if (chosen[i].modrm == 19)
        put(g, 0xa4 + below(g, 12));
}

static void put_plain(struct attack_gen *g)
{
    unsigned map = below(g, 8);

    put_prefixes(g);
    if (map >= 3)
        put(g, 0x0f);
    if (map == 6)
        put(g, 0x38);
    if (map == 7)
        put(g, 0x3a);
    put_random(g, 1);
    put_modrm(g, 8);
    if (map == 7 || !below(g, 3))
        put_random(g, below(g, 2) ? 1 : 4);
}

void attack_gen_code(struct attack_gen *g, uint8_t *out, unsigned room)
{
    g->out = out;
    g->room = room;
    g->len = 0;
    while (g->len < room) {
        unsigned kind = below(g, 10);

        if (kind < 2)
            put_random(g, 1 + below(g, 12));
        else if (kind < 5)
            put_plain(g);
        else if (kind < 7)
            put_vex(g);
        else
            put_chosen(g);
    }
}

uint64_t attack_gen_register(struct attack_gen *g)
{
    switch (below(g, 8)) {
    case 0: return rnd(g);
    case 1: return below(g, 256);
    case 2: return ATTACK_CANARY + below(g, ATTACK_CANARY_SIZE);
    case 3: return FUZZ_CODE_VA + below(g, FUZZ_CODE_SIZE);
    case 4: return below(g, 2) ? ~0ull << below(g, 64) : 1ull << below(g, 64);
    default: return FUZZ_DATA_VA + below(g, FUZZ_DATA_SIZE) * (1 + 7 * !below(g, 4));
    }
}
