/* The pointers of x87: Intel SDM volume 1 (2023-12), 8.1.8 and 8.1.9; AMD APM volume 2, 11.4.4. Light.
 *
 * Theory of operation. The guest's x87 instructions run in the code cache, so FIP in the host's registers is
 * a place there, and FDP one in the process's memory. The guest must not see either. Nearly none looks, so
 * what is done at each x87 instruction must cost next to nothing: behind the first one of a block, the block
 * stores its linear page in tcpu.x87_page. An instruction that stores the pointers, or loads some, comes here
 * first if such a page is there (generic_translate). Then FIP is looked up among the blocks' places, the
 * guest's address put into the host's registers in its stead, and the page forgotten. From then on the
 * registers hold what the guest may see, and what it loads it gets back.
 *
 * So whether an address is translated never depends on what the guest has loaded: a guest could else find out
 * by trying where the code cache is. The registers are changed before the guest's instruction runs, rather
 * than what that has stored: another vCPU could read it in between.
 *
 * FDP becomes 0, as it is after FNINIT, and on processors that keep it for unmasked exceptions only: by now
 * the registers that made the address may have changed. FIP is 0 if its block is gone. AMD's give up all
 * pointers when a state is saved with no exception pending, which happens at any exit from translated code.
 */
#include "engine/translator/x87_pointers.h"

#include "engine/translator/cache.h"
#include "engine/translator/mmu.h"
#include "engine/translator/tvm.h"

#define AREA_STATUS 2
#define AREA_FOP 6
#define AREA_FIP 8
#define AREA_FDP 16
#define STATUS_ES 0x80u

struct pointers {
    uint64_t ip;
    uint16_t op;
};

/* FNSTENV's form of 32-bit operand size. */
struct environment {
    uint32_t control, status, tags, ip;
    uint16_t cs, op;
    uint32_t dp;
    uint16_t ds, ones;
};

static bool is_prefix(const struct tcpu *c, uint8_t b)
{
    switch (b) {
    case 0x26:
    case 0x2e:
    case 0x36:
    case 0x3e:
    case 0x64:
    case 0x65:
    case 0x66:
    case 0x67:
    case 0xf0:
    case 0xf2:
    case 0xf3: return true;
    default: return c->code_bits == 64 && (b & 0xf0) == 0x40;
    }
}

/* The opcode as FOP has it, of the instruction at gpa. 0: no x87 instruction stands there any more. */
static uint16_t opcode_at(struct tcpu *c, uint64_t gpa)
{
    uint8_t b[15];
    unsigned n = (unsigned)min_u64(sizeof b, PAGE_SIZE - gpa % PAGE_SIZE), i = 0;

    if (!mmu_phys_read(c, gpa, b, n))
        return 0;
    while (i < n && is_prefix(c, b[i]))
        i++;
    return i + 1 < n && (b[i] & 0xf8) == 0xd8 ? (uint16_t)((b[i] & 7) << 8 | b[i + 1]) : 0;
}

/* Of the host's: FIP's lower half, which is enough to tell a place in the cache, and FOP. */
static struct pointers guest_pointers(struct tcpu *c, uint32_t host_ip, uint16_t op)
{
    struct code_cache *cc = c->vm->cache;
    const struct tb_side *side = NULL;
    uint64_t gpa = ~0ull;
    unsigned off = 0;

    tvm_code_lock(c->vm);
    uint32_t at = host_ip - (uint32_t)(uintptr_t)cc->mem.rx;
    const struct tb *tb = host_ip ? cache_by_host(cc, at) : NULL;
    if (tb)
        side = cache_side_of(cc, tb, at);
    if (side) {
        off = side->off;
        gpa = off < PAGE_SIZE ? tb_gpage(tb) + off : tb_gpage2(tb) + off - PAGE_SIZE;
    }
    tvm_code_unlock(c->vm);
    if (gpa == ~0ull)
        return (struct pointers){ 0 };
    uint64_t ip = c->x87_page + off;
    return (struct pointers){ .ip = c->code_bits == 64 ? ip : (uint32_t)(ip - c->seg[S_CS].base),
                              .op = op ? opcode_at(c, gpa) : 0 };
}

static uint32_t load32(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static void store64(uint8_t *p, uint64_t v)
{
    for (unsigned i = 0; i < 8; i++)
        p[i] = (uint8_t)(v >> (8 * i));
}

void x87_show_in(struct tcpu *c, uint8_t *area)
{
    if (c->x87_page == X87_SHOWN)
        return;
    struct pointers p =
        guest_pointers(c, load32(area + AREA_FIP), (uint16_t)(load32(area + AREA_FOP) & 0xffff));
    area[AREA_FOP] = (uint8_t)p.op;
    area[AREA_FOP + 1] = (uint8_t)(p.op >> 8);
    store64(area + AREA_FIP, p.ip);
    store64(area + AREA_FDP, 0);
}

/* Of 32 bits, with selectors. These are the present ones, if the processor keeps any. */
static void show_narrow(struct tcpu *c)
{
    struct environment env;

    __asm__ volatile("fnstenv %0" : "=m"(env));
    struct pointers p = guest_pointers(c, env.ip, env.op);
    env.ip = (uint32_t)p.ip;
    env.op = p.op;
    env.cs = env.cs && p.ip ? c->seg[S_CS].sel : 0;
    env.dp = env.ds = 0;
    __asm__ volatile("fldenv %0" : : "m"(env));
}

void x87_show(struct tcpu *c)
{
    struct {
        _Alignas(16) uint8_t bytes[512];
    } area;

    __asm__ volatile("fxsave64 %0" : "=m"(area));
    bool kept = !c->vm->cpuid.is_amd || (area.bytes[AREA_STATUS] & STATUS_ES);
    if (kept && c->code_bits == 64) {
        x87_show_in(c, area.bytes);
        __asm__ volatile("fxrstor64 %0" : : "m"(area));
    } else {
        show_narrow(c);
    }
    c->x87_page = X87_SHOWN;
}
