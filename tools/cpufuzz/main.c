/* cpufuzz: the command. See fuzz.h. */
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "fuzz.h"

static const char usage[] =
    "usage: cpufuzz [options]\n"
    "  --seed N         first seed (default: from the clock; always printed)\n"
    "  --count N        stop after N executed instructions (default 1000000)\n"
    "  --time SECONDS   stop after this time\n"
    "  --classes LIST   of: int,string,branch,stack,x87,mmx,sse,avx,avx512,priv,raw (default all)\n"
    "  --bits 64|32     of the code: 64-bit (default), or compatibility mode\n"
    "  --fast           blocks are made for speed at once, not for size\n"
    "  --replay N       run only the sequence with this seed\n"
    "  --at ADDRESS     with --replay: put its code there\n"
    "  --differences N  stop after N differences (default 1)\n"
    "  --no-fault-flags do not compare status flags at a fault\n"
    "  --native-only    run both times on the host: checks the tool itself\n"
    "  --dump           with --replay: print the sequence and its outcome also when equal\n"
    "  --attack N       run N guests of hostile bytes instead; nothing may happen to this process (--replay "
    "N: one)\n"
    "  --list           print the number of templates per class\n"
    "Exit status: 0 no difference, 1 differences or failure, 2 usage, 77 the host has not what --classes "
    "names.\n";

struct options {
    uint64_t seed, count, replay, differences, at, attack;
    unsigned seconds, bits;
    uint32_t classes;
    bool seed_given, replay_given, fault_flags, native_only, fast, list, dump;
};

struct run {
    struct options o;
    struct fuzz_vectors vectors;
    struct fuzz_gen *gen;
    struct fuzz_native *native;
    struct fuzz_guest *guest;
    struct fuzz_seq *seq; /* FUZZ_BATCH */
    uint64_t va[FUZZ_BATCH];
    struct fuzz_output *first; /* native_only: the outputs of the first run */
    uint64_t code_off;
    uint64_t va_first; /* code_off where the last whole batch began */
    uint64_t place;    /* not 0: where the code of a batch of one goes */
    uint64_t executed, sequences, differences, accepted;
    uint64_t faults[32]; /* by vector */
};

static struct fuzz_world *world_of(struct run *r, unsigned i)
{
    return i == 0 ? fuzz_native_world(r->native) : fuzz_guest_world(r->guest);
}

static const struct fuzz_output *output_of(struct run *r, bool guest, unsigned i)
{
    if (r->o.native_only && !guest)
        return &r->first[i];
    return (const struct fuzz_output *)(void *)world_of(r, guest && !r->o.native_only)->output + i;
}

/* Puts `count` sequences into both worlds. Code goes round the whole code area, so that the engine sees
 * code replaced under translated blocks. */
static void place_batch(struct run *r, const struct fuzz_seq *seq, unsigned count)
{
    unsigned worlds = r->o.native_only ? 1 : 2;
    uint64_t start;

    if (r->code_off + count * (FUZZ_CODE_MAX + 64) > FUZZ_CODE_SIZE)
        r->code_off = fuzz_mix(seq->seed) % 64;
    if (count == 1 && r->place)
        r->code_off = r->place;
    start = r->code_off;
    for (unsigned i = 0; i < count; i++) {
        uint8_t code[FUZZ_CODE_MAX];
        unsigned len;

        r->va[i] = FUZZ_CODE_VA + r->code_off;
        len = fuzz_seq_layout(&seq[i], r->va[i], code);
        for (unsigned w = 0; w < worlds; w++) {
            struct fuzz_input *in = (struct fuzz_input *)(void *)world_of(r, w)->input + i;

            memcpy(world_of(r, w)->code + r->code_off, code, len);
            *in = seq[i].in;
            in->r.target = r->va[i];
        }
        r->code_off += len + fuzz_mix(seq[i].seed) % 16;
    }
    if (r->guest)
        fuzz_guest_code_written(r->guest, start, r->code_off - start);
}

/* A spoilt return address can lead into the middle of another sequence's bytes, where instructions stand that
 * no template makes (far transfers, system calls). What ends there says nothing. */
static void skip_strays(struct run *r, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        struct fuzz_output *o = (struct fuzz_output *)(void *)world_of(r, 0)->output + i;
        uint64_t end = i + 1 < count ? r->va[i + 1] : FUZZ_CODE_VA + r->code_off;

        if (o->r.vector < 32 && o->r.rip - FUZZ_CODE_VA < FUZZ_CODE_SIZE &&
            (o->r.rip < r->va[i] || o->r.rip > end))
            o->r.vector = FUZZ_SKIP;
    }
}

/* Sequences that are not compared (some have no end) are over for the engine before they begin. Their code
 * stays: others may read it. */
static void drop_skipped(struct run *r, unsigned count)
{
    struct fuzz_input *in = (struct fuzz_input *)(void *)world_of(r, 1)->input;

    for (unsigned i = 0; i < count; i++) {
        if (output_of(r, false, i)->r.vector == FUZZ_SKIP)
            in[i].r.target = FUZZ_DRIVER_VA + (uint64_t)(fuzz_driver_exit - fuzz_driver_start);
    }
}

static bool run_batch(struct run *r, const struct fuzz_seq *seq, unsigned count, struct yado_error *err)
{
    place_batch(r, seq, count);
    if (!fuzz_native_run(r->native, count, err))
        return false;
    skip_strays(r, count);
    if (!r->o.native_only) {
        drop_skipped(r, count);
        return fuzz_guest_run(r->guest, count, err);
    }
    memcpy(r->first, world_of(r, 0)->output, count * sizeof(*r->first));
    return fuzz_native_run(r->native, count, err);
}

static bool is_equal(struct run *r, unsigned i, FILE *f)
{
    if (output_of(r, false, i)->r.vector == FUZZ_SKIP)
        return true;
    if (fuzz_accepts(output_of(r, false, i), output_of(r, true, i), &r->seq[i])) {
        r->accepted++;
        return true;
    }
    return fuzz_compare(output_of(r, false, i), output_of(r, true, i), &r->vectors, r->o.bits,
                        r->o.fault_flags, f);
}

static void remove_insn(struct fuzz_seq *s, unsigned at)
{
    memmove(&s->insn[at], &s->insn[at + 1], (s->count - at - 1) * sizeof(s->insn[0]));
    s->count--;
    for (unsigned i = 0; i < s->count; i++) {
        if (s->insn[i].to_insn > (int)at)
            s->insn[i].to_insn--;
    }
}

/* Leaves out what the difference does not need, one instruction at a time. */
static bool minimise(struct run *r, struct fuzz_seq *s, struct yado_error *err)
{
    bool smaller = true;

    while (smaller) {
        smaller = false;
        for (unsigned i = s->count; i-- > 0;) {
            struct fuzz_seq t = *s;

            remove_insn(&t, i);
            if (!run_batch(r, &t, 1, err)) {
                *s = t;
                return false;
            }
            if (!is_equal(r, 0, NULL)) {
                *s = t;
                smaller = true;
            }
        }
    }
    return true;
}

static void print_input(const struct fuzz_seq *s)
{
    static const char *const names[16] = { "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                           "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15" };
    uint32_t mxcsr;
    uint16_t fcw;

    memcpy(&mxcsr, s->in.xsave + 24, 4);
    memcpy(&fcw, s->in.xsave, 2);
    for (unsigned i = 0; i < 16; i++)
        printf("    %-3s %016" PRIx64 "%s", names[i], s->in.r.gpr[i], i % 4 == 3 ? "\n" : "");
    printf("    rflags %05" PRIx64 "  fs %08" PRIx64 "  gs %08" PRIx64 "  fcw %04x  mxcsr %04x\n",
           s->in.r.rflags, s->in.r.fs_base, s->in.r.gs_base, fcw, mxcsr);
}

/* A batch did not come to its end: shows where each world is. */
static void print_stopped(struct run *r, const struct fuzz_seq *seq, unsigned count)
{
    for (unsigned w = 0; w < (r->guest ? 2u : 1u); w++) {
        uint64_t at = ((uint64_t *)(void *)world_of(r, w)->driver_data)[FUZZ_P_INDEX / 8];

        if (at >= count)
            continue;
        printf("%s stopped in sequence %" PRIu64 " of the batch (--replay %" PRIu64 "):\n",
               w ? "engine" : "host", at, seq[at].seed);
        fuzz_seq_print(stdout, &seq[at], r->va[at]);
        print_input(&seq[at]);
    }
}

static void print_end(const char *who, const struct fuzz_output *o)
{
    if (o->r.vector == FUZZ_NO_FAULT)
        printf("  %s: ran to the end\n", who);
    else
        printf("  %s: vector %" PRIu64 " error %#" PRIx64 " cr2 %#" PRIx64 " at %#" PRIx64 "\n", who,
               o->r.vector, o->r.error, o->r.cr2, o->r.rip);
}

static void report(struct run *r, const struct fuzz_seq *s, unsigned i)
{
    printf("sequence %" PRIu64 ":\n", s->seed);
    fuzz_seq_print(stdout, s, r->va[i]);
    print_input(s);
    print_end("host", output_of(r, false, i));
    print_end("engine", output_of(r, true, i));
    is_equal(r, i, stdout);
}

static bool on_difference(struct run *r, unsigned i, struct yado_error *err)
{
    struct fuzz_seq *s = malloc(sizeof(*s));
    bool ok = true;

    r->differences++;
    printf("DIFFERENCE %" PRIu64 " (repeat with --replay %" PRIu64 " --at %#" PRIx64 ")\n", r->differences,
           r->seq[i].seed, r->va[i]);
    if (!s)
        return false;
    *s = r->seq[i];
    if (r->o.replay_given)
        report(r, s, i);
    r->place =
        r->va[i] - FUZZ_CODE_VA; /* what is on the stack and in registers depends on where the code is */
    ok = run_batch(r, s, 1, err);
    if (ok && is_equal(r, 0, NULL)) {
        printf("does not show when run alone; ");
        r->code_off = r->va_first;
        ok = run_batch(r, r->seq, i + 1, err);
        if (ok)
            report(r, s, i);
    } else if (ok) {
        if (!minimise(r, s, err) || !run_batch(r, s, 1, err)) {
            print_stopped(r, s, 1);
            free(s);
            return false;
        }
        printf("shortest ");
        report(r, s, 0);
    }
    fflush(stdout);
    free(s);
    return ok;
}

static void count_batch(struct run *r, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        const struct fuzz_output *o = output_of(r, false, i);
        uint64_t at = 3;

        if (o->r.vector == FUZZ_SKIP)
            continue;
        r->sequences++;
        if (o->r.vector < 32)
            r->faults[o->r.vector]++;
        for (unsigned j = 0; j < r->seq[i].count; j++) {
            if (o->r.vector != FUZZ_NO_FAULT && r->va[i] + at > o->r.rip)
                break;
            r->executed++;
            at += r->seq[i].insn[j].len;
        }
    }
}

static double now_seconds(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void print_summary(const struct run *r, double seconds)
{
    printf("%" PRIu64 " instructions in %" PRIu64 " sequences, %" PRIu64
           " differences, %.1f s, %.0f instructions/s\n",
           r->executed, r->sequences, r->differences, seconds, (double)r->executed / seconds);
    if (r->accepted)
        printf("%" PRIu64 " sequences ended in a way that is the processor's own (see fuzz_accepts)\n",
               r->accepted);
    printf("sequences ended by a fault, by vector:");
    for (unsigned i = 0; i < 32; i++) {
        if (r->faults[i])
            printf(" %u: %" PRIu64, i, r->faults[i]);
    }
    printf("\n");
}

static bool fuzz_all(struct run *r, struct yado_error *err)
{
    uint64_t next = fuzz_mix(r->o.seed);
    double start = now_seconds(), end = r->o.seconds ? start + r->o.seconds : 0;

    while (r->executed < r->o.count && r->differences < r->o.differences &&
           !(end > 0 && now_seconds() > end)) {
        unsigned count = r->o.replay_given ? 1 : FUZZ_BATCH;

        for (unsigned i = 0; i < count; i++)
            fuzz_gen_sequence(r->gen, &r->seq[i], r->o.replay_given ? r->o.replay : fuzz_mix(next++));
        if (!run_batch(r, r->seq, count, err)) {
            print_stopped(r, r->seq, count);
            return false;
        }
        r->va_first = r->va[0] - FUZZ_CODE_VA;
        count_batch(r, count);
        if (r->o.replay_given && r->o.dump)
            report(r, r->seq, 0);
        for (unsigned i = 0; i < count && r->differences < r->o.differences; i++) {
            if (is_equal(r, i, NULL))
                continue;
            if (!on_difference(r, i, err))
                return false;
            if (count > 1 && r->differences < r->o.differences && !run_batch(r, r->seq, count, err))
                return false;
        }
        if (r->o.replay_given)
            break;
    }
    print_summary(r, now_seconds() - start);
    return r->differences == 0;
}

static bool parse_classes(const char *list, uint32_t *out)
{
    *out = 0;
    while (*list) {
        size_t n = strcspn(list, ",");
        unsigned i;

        for (i = 0; i < FC_COUNT; i++) {
            if (strlen(fuzz_class_name(i)) == n && !strncmp(fuzz_class_name(i), list, n))
                break;
        }
        if (i == FC_COUNT) {
            fprintf(stderr, "cpufuzz: --classes: no class '%.*s'\n", (int)n, list);
            return false;
        }
        *out |= 1u << i;
        list += n + (list[n] == ',');
    }
    return *out != 0;
}

static bool parse_number(const char *name, const char *text, uint64_t *out)
{
    char *end;

    *out = strtoull(text, &end, 0);
    if (*text && !*end)
        return true;
    fprintf(stderr, "cpufuzz: --%s: '%s' is not a number\n", name, text);
    return false;
}

enum {
    SEED = 1,
    COUNT,
    TIME,
    CLASSES,
    REPLAY,
    DIFFERENCES,
    NO_FAULT_FLAGS,
    NATIVE_ONLY,
    FAST,
    LIST,
    DUMP,
    PLACE,
    ATTACK,
    BITS
};
static const struct option longs[] = {
    { "seed", 1, NULL, SEED },
    { "count", 1, NULL, COUNT },
    { "time", 1, NULL, TIME },
    { "classes", 1, NULL, CLASSES },
    { "replay", 1, NULL, REPLAY },
    { "differences", 1, NULL, DIFFERENCES },
    { "no-fault-flags", 0, NULL, NO_FAULT_FLAGS },
    { "native-only", 0, NULL, NATIVE_ONLY },
    { "fast", 0, NULL, FAST },
    { "list", 0, NULL, LIST },
    { "dump", 0, NULL, DUMP },
    { "at", 1, NULL, PLACE },
    { "attack", 1, NULL, ATTACK },
    { "bits", 1, NULL, BITS },
    { NULL, 0, NULL, 0 },
};

static bool parse(int argc, char **argv, struct options *o)
{
    uint64_t n;
    int c, at = 0;

    while ((c = getopt_long(argc, argv, "", longs, &at)) != -1) {
        const char *name = c == '?' ? NULL : longs[at].name;
        bool ok = true;

        switch (c) {
        case SEED:
            ok = parse_number(name, optarg, &o->seed);
            o->seed_given = true;
            break;
        case COUNT: ok = parse_number(name, optarg, &o->count); break;
        case TIME:
            ok = parse_number(name, optarg, &n);
            o->seconds = (unsigned)n;
            o->count = ~0ull;
            break;
        case CLASSES: ok = parse_classes(optarg, &o->classes); break;
        case REPLAY:
            ok = parse_number(name, optarg, &o->replay);
            o->replay_given = true;
            break;
        case BITS:
            ok = parse_number(name, optarg, &n) && (n == 64 || n == 32);
            o->bits = (unsigned)n;
            break;
        case ATTACK: ok = parse_number(name, optarg, &o->attack); break;
        case PLACE: ok = parse_number(name, optarg, &o->at); break;
        case DIFFERENCES: ok = parse_number(name, optarg, &o->differences); break;
        case NO_FAULT_FLAGS: o->fault_flags = false; break;
        case NATIVE_ONLY: o->native_only = true; break;
        case FAST: o->fast = true; break;
        case LIST: o->list = true; break;
        case DUMP: o->dump = true; break;
        default: ok = false;
        }
        if (!ok)
            return false;
    }
    return optind == argc;
}

static bool start(struct run *r, struct yado_error *err)
{
    uint8_t *memory = malloc(FUZZ_MEM + FUZZ_PAGE);

    r->gen = fuzz_gen_new(r->o.classes, r->o.bits, &r->vectors);
    r->seq = calloc(FUZZ_BATCH, sizeof(*r->seq));
    r->first = calloc(FUZZ_BATCH, sizeof(*r->first));
    if (!memory || !r->gen || !r->seq || !r->first) {
        free(memory);
        return false;
    }
    /* The child first: it must not inherit the engine's threads and mappings. */
    r->native = fuzz_native_new(err);
    if (r->native && !r->o.native_only)
        r->guest = fuzz_guest_new(r->o.fast, r->vectors.state, err);
    if (!r->native || (!r->guest && !r->o.native_only)) {
        free(memory);
        return false;
    }
    fuzz_gen_memory(r->gen, memory, FUZZ_MEM + FUZZ_PAGE);
    for (unsigned w = 0; w < (r->o.native_only ? 1u : 2u); w++) {
        memcpy(world_of(r, w)->memory_init, memory, FUZZ_MEM);
        memcpy(world_of(r, w)->read_only, memory + FUZZ_MEM, FUZZ_PAGE);
        memcpy(world_of(r, w)->driver_data + FUZZ_P_STATE, &r->vectors.state, 8);
    }
    free(memory);
    return true;
}

static void finish(struct run *r)
{
    fuzz_guest_free(r->guest);
    fuzz_native_free(r->native);
    fuzz_gen_free(r->gen);
    free(r->seq);
    free(r->first);
}

int main(int argc, char **argv)
{
    struct run r = { .o = { .count = 1000000,
                            .bits = 64,
                            .differences = 1,
                            .classes = (1u << FC_COUNT) - 1,
                            .fault_flags = true } };
    struct yado_error err = YADO_ERROR_INIT;
    struct timespec t;
    bool ok;

    if (!parse(argc, argv, &r.o)) {
        fputs(usage, stderr);
        return 2;
    }
    if (!r.o.seed_given) {
        clock_gettime(CLOCK_REALTIME, &t);
        r.o.seed = fuzz_mix((uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec) >> 32;
    }
    signal(SIGPIPE, SIG_IGN);
    if (r.o.attack) {
        printf("seed %" PRIu64 "\n", r.o.seed);
        ok = fuzz_attack(r.o.seed, r.o.attack, r.o.replay_given ? &r.o.replay : NULL, &err);
        if (err.code != YADO_OK)
            fprintf(stderr, "cpufuzz: %s\n", err.message);
        return ok ? 0 : 1;
    }
    fuzz_vectors_find(&r.vectors);
    if (r.o.classes == 1u << FC_AVX512 && !(r.vectors.state & FUZZ_AVX512)) {
        puts("skipped: this host has no AVX-512");
        return 77;
    }
    ok = start(&r, &err);
    if (ok && r.o.list) {
        for (unsigned i = 0; i < FC_COUNT; i++)
            printf("%-8s %u\n", fuzz_class_name(i), fuzz_gen_templates(r.gen, i));
    } else if (ok) {
        printf("seed %" PRIu64 "\n", r.o.seed);
        r.place = r.o.at ? (r.o.at - FUZZ_CODE_VA) % (FUZZ_CODE_SIZE - FUZZ_CODE_MAX) : 0;
        fflush(stdout);
        ok = fuzz_all(&r, &err);
    }
    if (err.code != YADO_OK)
        fprintf(stderr, "cpufuzz: %s\n", err.message);
    finish(&r);
    return ok ? 0 : 1;
}
