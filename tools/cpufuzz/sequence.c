/* Placing a sequence at an address, and showing it. */
#include <inttypes.h>
#include <string.h>

#include <Zydis/Zydis.h>

#include "fuzz.h"

unsigned fuzz_seq_layout(const struct fuzz_seq *s, uint64_t va, uint8_t *out)
{
    static const uint8_t prologue[] = { 0x0f, 0x1f, 0x00 }; /* a NOP: what jumps here is no template's */
    unsigned at[FUZZ_INSNS + 1], n = sizeof(prologue);
    const uint8_t *way_out = s->bits == 32 ? fuzz_driver_exit32 : fuzz_driver_exit;
    uint64_t exit_va = FUZZ_DRIVER_VA + (uint64_t)(way_out - fuzz_driver_start);
    uint32_t rel;

    for (unsigned i = 0; i < s->count; i++) {
        at[i] = n;
        n += s->insn[i].len;
    }
    at[s->count] = n;
    memcpy(out, prologue, sizeof(prologue));
    for (unsigned i = 0; i < s->count; i++) {
        const struct fuzz_insn *in = &s->insn[i];
        uint64_t end = va + at[i] + in->len;
        uint64_t target = in->to_insn >= 0 ? va + at[in->to_insn] : in->fix_target,
                 disp = in->fix_absolute ? target : target - end;

        memcpy(out + at[i], in->bytes, in->len);
        if (in->fix_at)
            memcpy(out + at[i] + in->fix_at, &disp, in->fix_size);
    }
    out[n] = 0xe9;
    rel = (uint32_t)(exit_va - (va + n + 5));
    memcpy(out + n + 1, &rel, 4);
    return n + 5;
}

void fuzz_seq_print(FILE *f, const struct fuzz_seq *s, uint64_t va)
{
    uint8_t code[FUZZ_CODE_MAX];
    unsigned at = 3;

    fuzz_seq_layout(s, va, code);
    for (unsigned i = 0; i < s->count; i++) {
        ZydisDisassembledInstruction d;

        fprintf(f, "  %3u  %08" PRIx64 "  ", i, va + at);
        for (unsigned j = 0; j < s->insn[i].len; j++)
            fprintf(f, "%02x ", code[at + j]);
        if (s->insn[i].len < 12)
            fprintf(f, "%*s", (12 - s->insn[i].len) * 3, "");
        if (ZYAN_SUCCESS(ZydisDisassembleIntel(s->bits == 32 ? ZYDIS_MACHINE_MODE_LONG_COMPAT_32
                                                             : ZYDIS_MACHINE_MODE_LONG_64,
                                               va + at, code + at, s->insn[i].len, &d)))
            fprintf(f, " %s", d.text);
        else
            fprintf(f, " (invalid)");
        if (s->insn[i].to_insn >= 0)
            fprintf(f, "  -> %d", s->insn[i].to_insn);
        fprintf(f, "\n");
        at += s->insn[i].len;
    }
}
