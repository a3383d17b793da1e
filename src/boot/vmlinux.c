/* The kernel that a bzImage holds, put into memory without the guest's help.
 *
 * Theory of operation. A bzImage is a packed ELF kernel with a program in front of it that unpacks it, moves
 * its segments to where they shall be and adjusts addresses in it; it is the first that a guest runs, with
 * nothing warm and, translated, for a third of the time that a kernel takes to its first process. All of this
 * can be done here: the setup header says where the packed kernel lies (payload_offset, payload_length,
 * protocol 2.08), its last four bytes say how long it is unpacked, and what the program does is written down
 * with it (Linux arch/x86/boot/compressed/misc.c and kaslr.c).
 *
 * Addresses are random as the program would have them (KASLR): where in RAM the kernel lies, in steps of
 * kernel_alignment, and, apart from that, where it believes to lie. A kernel that can do this brings a table
 * behind its ELF file, of places that hold addresses: lists of the low 32 bits of where each was linked to
 * be, each list ended by a zero in front of it. Seen from the end they are 32-bit addresses, 32-bit addresses
 * to be subtracted from (kernels since 6.15 have no such list), and 64-bit ones. A kernel without the table
 * stays where it was linked, as it would by itself.
 *
 * The ELF file is not held anywhere: as its bytes come out of the packer, those of segments go to guest
 * memory and the table is kept. When anything is not as expected, which the guest's program then may deal
 * with, the answer is false: it is loaded as boot.rst has it, over what was done here. So are kernels whose
 * command line has the program keep out of parts of RAM. */
#include "boot/vmlinux.h"

#include <stdlib.h>
#include <string.h>

#include "boot/elf64.h"
#include "boot/unpack.h"
#include "host/random.h"

#define SIZE_LEN 4                                   /* of the unpacked size, behind the packed kernel */
#define GZIP_MAGIC 0x8b1f                            /* which ends with it anyway */
#define KERNEL_MAP_BASE UINT64_C(0xffffffff80000000) /* __START_KERNEL_map */
#define KERNEL_MAP_LEN GIB(1)                        /* KERNEL_IMAGE_SIZE of kernels that can be moved */
#define PAGE_2M MIB(2)                               /* startup_64 takes less for an error */

struct load {
    const struct vmlinux_place *place;
    struct gmem *mem;
    uint8_t *ram;       /* at `base` */
    uint64_t base, len; /* where it lies */
    uint64_t entry;
    uint64_t off, total; /* in the ELF file and table: how far we are, and how many there are */
    struct elf64_segment segments[BOOT_SEGMENT_MAX];
    unsigned segment_count;
    uint64_t table_off;
    uint8_t *table;
};

/* ---- choosing addresses ---- */

static bool cmdline_has_word(const char *cmdline, const char *word)
{
    for (const char *p = cmdline; *p;) {
        size_t len = 0;

        while ((unsigned char)p[len] > ' ')
            len++;
        if (len == strlen(word) && !memcmp(p, word, len))
            return true;
        p += len;
        while (*p && (unsigned char)*p <= ' ')
            p++;
    }
    return false;
}

/* Options that say where in RAM a kernel may not be put. Where they are is all the same: a word that only
 * ends in one costs time, one in quotes that is overlooked may cost the boot. */
static bool cmdline_limits_ram(const char *cmdline)
{
    static const char *const options[] = { "mem=", "memmap=", "hugepages=", "hugepagesz=" };

    for (unsigned i = 0; i < array_size(options); i++)
        if (strstr(cmdline, options[i]))
            return true;
    return false;
}

/* A multiple of `step` up to `room`. */
static uint64_t random_step(uint64_t room, uint64_t step)
{
    uint64_t r;

    random_bytes(&r, sizeof(r));
    return r % (room / step + 1) * step;
}

/* ---- the ELF file, as it comes ---- */

static bool add_segment(struct load *l, const struct elf64_segment *s)
{
    const struct vmlinux_place *place = l->place;

    if (s->type != PT_LOAD || !s->memsz)
        return true;
    if (l->segment_count == BOOT_SEGMENT_MAX || s->filesz > s->memsz || s->off > l->total ||
        s->filesz > l->total - s->off || s->paddr < place->linked || s->memsz > place->room ||
        s->paddr - place->linked > place->room - s->memsz)
        return false;
    l->segments[l->segment_count++] = *s;
    l->len = max_u64(l->len, s->paddr - place->linked + s->memsz);
    l->table_off = max_u64(l->table_off, s->off + s->filesz);
    return true;
}

/* The file's headers: false if it is not a kernel that we know how to load. */
static bool take_headers(struct load *l, const uint8_t *p, size_t len)
{
    uint64_t sections, entry;

    if (len < EHDR_LEN || !elf64_is(p, len) || !elf64_is_x86_64(p) ||
        load_le(p + EHDR_TYPE, 2) != ELF_EXECUTABLE || load_le(p + EHDR_PHENTSIZE, 2) != PHDR_LEN ||
        !elf64_has_segments(p, len))
        return false;
    sections = load_le(p + EHDR_SHOFF, 8);
    if (sections > l->total)
        return false;
    l->table_off = sections + load_le(p + EHDR_SHNUM, 2) * load_le(p + EHDR_SHENTSIZE, 2);
    for (unsigned i = 0; i < elf64_segment_count(p); i++) {
        struct elf64_segment s = elf64_segment_at(p, i);

        if (!add_segment(l, &s))
            return false;
    }
    entry = load_le(p + EHDR_ENTRY, 8);
    if (entry < l->place->linked || entry - l->place->linked >= l->len || l->table_off > l->total ||
        (l->total - l->table_off) % 4)
        return false;
    l->entry = entry - l->place->linked;
    return true;
}

/* Chooses where in RAM it goes; only a kernel with a table can be anywhere but where it was linked to be. */
static bool choose_base(struct load *l)
{
    const struct vmlinux_place *place = l->place;
    const uint64_t end = l->place->linked + l->len;

    l->base = place->linked;
    if (l->total > l->table_off && !place->fixed)
        l->base += random_step(place->end - end, place->align);
    gmem_will_fill(l->mem, l->base, l->len);
    l->ram = gmem_span(l->mem, l->base, l->len, GMEM_WRITE);
    l->table = malloc(l->total - l->table_off + 1);
    return l->ram && l->table;
}

/* The part of [off, off + size) that is in the `len` bytes at `bytes`, which are those from l->off on. */
static void take_part(const struct load *l, const uint8_t *bytes, size_t len, uint64_t off, uint64_t size,
                      uint8_t *to)
{
    uint64_t from = max_u64(off, l->off), end = min_u64(off + size, l->off + len);

    if (from < end)
        memcpy(to + (from - off), bytes + (from - l->off), end - from);
}

static bool take(void *ctx, const uint8_t *bytes, size_t len)
{
    struct load *l = ctx;

    if (len > l->total - l->off || (!l->off && (!take_headers(l, bytes, len) || !choose_base(l))))
        return false;
    for (unsigned i = 0; i < l->segment_count; i++) {
        const struct elf64_segment *s = &l->segments[i];

        take_part(l, bytes, len, s->off, s->filesz, l->ram + (s->paddr - l->place->linked));
    }
    take_part(l, bytes, len, l->table_off, l->total - l->table_off, l->table);
    l->off += len;
    return true;
}

static void clear_rest(const struct load *l)
{
    for (unsigned i = 0; i < l->segment_count; i++) {
        const struct elf64_segment *s = &l->segments[i];

        memset(l->ram + (s->paddr - l->place->linked) + s->filesz, 0, s->memsz - s->filesz);
    }
}

/* ---- adjusting addresses ---- */

/* One list, from its end, at *n entries, to the zero in front of it. `add` goes to each value of `width`
 * bytes. */
static bool adjust_list(const struct load *l, uint64_t *n, unsigned width, uint64_t add)
{
    while (*n) {
        const uint64_t linked = (uint64_t)(int64_t)(int32_t)load_le(l->table + 4 * --*n, 4);
        const uint64_t at = linked - KERNEL_MAP_BASE - l->place->linked;

        if (!linked)
            return true;
        if (at >= l->len || l->len - at < width)
            return false;
        store_le(l->ram + at, load_le(l->ram + at, width) + add, width);
    }
    return false;
}

static unsigned count_lists(const struct load *l, uint64_t n)
{
    unsigned lists = 0;

    for (uint64_t i = 0; i < n; i++)
        lists += !load_le(l->table + 4 * i, 4);
    return lists;
}

static bool adjust(const struct load *l)
{
    uint64_t n = (l->total - l->table_off) / 4;
    const unsigned lists = count_lists(l, n);
    const uint64_t room = KERNEL_MAP_LEN - l->place->linked;
    uint64_t by;

    if (!n || l->place->fixed)
        return true; /* no table, no lists */
    if ((lists != 2 && lists != 3) || l->len > room)
        return false;
    by = random_step(room - l->len, l->place->align);
    return adjust_list(l, &n, 4, by) && (lists == 2 || adjust_list(l, &n, 4, -by)) &&
           adjust_list(l, &n, 8, by) && !n;
}

/* ---- all of it ---- */

static bool load_packed(struct load *l, const uint8_t *packed, size_t len)
{
    l->total = load_le(packed + len - SIZE_LEN, SIZE_LEN);
    if (load_le(packed, 2) != GZIP_MAGIC)
        len -= SIZE_LEN;
    if (unpack(packed, len, take, l) != len || l->off != l->total || !l->off)
        return false;
    clear_rest(l);
    return adjust(l);
}

static bool place_is_sound(const struct vmlinux_place *place)
{
    const uint64_t align = place->align;

    return align >= PAGE_2M && align <= GIB(1) && !(align & (align - 1)) && !(place->linked % align) &&
           place->linked < KERNEL_MAP_LEN && place->linked < place->end &&
           place->room <= place->end - place->linked;
}

/* The packed kernel, read to the end of the RAM that is ours; the place ends below it then. */
static const uint8_t *get_packed(const struct boot_file *f, struct vmlinux_place *place, struct gmem *mem)
{
    const uint64_t off = place->payload_off, len = place->payload_len;

    if (len <= SIZE_LEN || off > f->len || len > f->len - off || place->end < len)
        return NULL;
    if (!f->read)
        return f->data + off;
    place->end = align_down(place->end - len, BOOT_PAGE);
    return boot_place(f, off, len, place->end, mem, NULL) ? gmem_span(mem, place->end, len, GMEM_READ) : NULL;
}

bool vmlinux_load(const struct boot_file *f, const struct vmlinux_place *where, const char *cmdline,
                  struct gmem *mem, struct vmlinux_at *at)
{
    struct vmlinux_place place = *where;
    struct load l = { .place = &place, .mem = mem };
    const uint8_t *packed;
    bool ok;

    if (cmdline_limits_ram(cmdline))
        return false;
    packed = get_packed(f, &place, mem);
    if (!packed || !place_is_sound(&place))
        return false;
    place.fixed |= cmdline_has_word(cmdline, "nokaslr");
    ok = load_packed(&l, packed, place.payload_len);
    if (l.ram)
        gmem_written(mem, l.base, l.len);
    if (ok)
        *at =
            (struct vmlinux_at){ .entry = l.base + l.entry, .moved = !place.fixed && l.total > l.table_off };
    free(l.table);
    return ok;
}
