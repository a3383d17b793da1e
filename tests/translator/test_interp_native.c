/* See test_interp_native.h. */
#include "test_interp_native.h"

#include <asm/prctl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#define CS_64 0x33
#define CS_32 0x23

static struct native *active; /* for the signal handler */

/* A fault leaves through the same way out, with the registers of the faulting instruction. */
static void on_fault(int sig, siginfo_t *info, void *ucv)
{
    ucontext_t *uc = ucv;
    struct native_ctx *ctx = active ? active->ctx : NULL;
    if (!ctx || ctx->vector != -2) {
        signal(sig, SIG_DFL); /* not ours */
        return;
    }
    (void)info;
    ctx->vector = uc->uc_mcontext.gregs[REG_TRAPNO];
    ctx->error = (uint64_t)uc->uc_mcontext.gregs[REG_ERR];
    ctx->cr2 = (uint64_t)uc->uc_mcontext.gregs[REG_CR2];
    uc->uc_mcontext.gregs[REG_RIP] = (greg_t)(uintptr_t)(active->arena + active->exit_at);
    uc->uc_mcontext.gregs[REG_CSGSFS] = (uc->uc_mcontext.gregs[REG_CSGSFS] & ~0xffffll) | CS_64;
}

struct out {
    struct native *n;
    uint32_t at;
};

static void put(struct out *o, const void *bytes, unsigned len)
{
    memcpy(o->n->arena + o->at, bytes, len);
    o->at += len;
}

static void put_rel(struct out *o, uint32_t target, unsigned after)
{
    uint32_t rel = target - (o->at + 4 + after);
    put(o, &rel, 4);
}

/* mov between register r and the arena at `where`: opcode 8b loads, 89 stores */
static void put_mov(struct out *o, uint8_t opcode, unsigned r, uint32_t where)
{
    uint8_t b[3] = { (uint8_t)(0x48 | (r >> 3) << 2), opcode, (uint8_t)(5 | (r & 7) << 3) };
    put(o, b, 3);
    put_rel(o, where, 0);
}

#define CTX(field) ((uint32_t)offsetof(struct native_ctx, field))

static void make_stubs(struct native *n)
{
    struct out o = { n, ARENA_CODE };
    /* way in, 64-bit code: ends in a jump through far_off that native_run points at the instruction */
    put(&o, "\x53\x55\x41\x54\x41\x55\x41\x56\x41\x57", 10); /* push rbx rbp r12-r15 */
    put_mov(&o, 0x89, 4, CTX(host_rsp));
    put(&o, "\xff\x35", 2); /* push [in.flags] */
    put_rel(&o, CTX(in.flags), 0);
    put(&o, "\x9d", 1); /* popfq */
    for (unsigned r = 0; r < 16; r++)
        put_mov(&o, 0x8b, r, CTX(in.gpr) + 8 * r);
    put(&o, "\xff\x2d", 2); /* ljmp [far_off] */
    put_rel(&o, CTX(far_off), 0);
    n->exit_at = o.at;
    for (unsigned r = 0; r < 16; r++)
        put_mov(&o, 0x89, r, CTX(out.gpr) + 8 * r);
    put_mov(&o, 0x8b, 4, CTX(host_rsp));
    put(&o, "\x9c\x8f\x05", 3); /* pushfq; pop [out.flags] */
    put_rel(&o, CTX(out.flags), 0);
    put(&o, "\xfc\x41\x5f\x41\x5e\x41\x5d\x41\x5c\x5d\x5b\xc3", 12); /* cld; pops; ret */
}

/* No access for this far on both sides: an address that is a little off must not hit what else the process
 * has there, an arena before this one for instance. */
#define GUARD_LEN 0x100000u

bool native_open(struct native *n)
{
    uint8_t *p = mmap(NULL, ARENA_LEN + 2 * GUARD_LEN, PROT_NONE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_32BIT, -1, 0);
    stack_t ss = { .ss_size = 65536, .ss_sp = malloc(65536) };
    struct sigaction sa = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER };
    if (p == MAP_FAILED || !ss.ss_sp || sigaltstack(&ss, NULL))
        return false;
    p += GUARD_LEN;
    if (mprotect(p, ARENA_LEN, PROT_READ | PROT_WRITE | PROT_EXEC))
        return false;
    *n = (struct native){ .arena = p, .ctx = (void *)p };
    make_stubs(n);
    memset(n->arena + ARENA_DATA, 0, ARENA_LEN - ARENA_DATA); /* every page present: fault error codes tell */
    if (mprotect(n->arena + 0x3000, 0x1000, PROT_NONE) || mprotect(n->arena + 0x8000, 0x1000, PROT_NONE) ||
        mprotect(n->arena + ARENA_DATA, ARENA_DATA_LEN, PROT_READ | PROT_WRITE) ||
        mprotect(n->arena + ARENA_RO, 0x1000, PROT_READ))
        return false;
    sigaction(SIGSEGV, &sa, NULL);
    sigaction(SIGBUS, &sa, NULL);
    sigaction(SIGFPE, &sa, NULL);
    sigaction(SIGILL, &sa, NULL);
    /* data segments for 32-bit code: null ones would fault there; 64-bit code does not care */
    __asm__ volatile("mov %0, %%ds\n\tmov %0, %%es" : : "r"(0x2b));
    /* GS is free in a 64-bit process: point it at the data */
    return syscall(SYS_arch_prctl, ARCH_SET_GS, (unsigned long)(uintptr_t)(n->arena + ARENA_DATA)) == 0;
}

void native_close(struct native *n)
{
    munmap(n->arena - GUARD_LEN, ARENA_LEN + 2 * GUARD_LEN);
}

/* taken = how; out */
static void put_landing(struct out *o, uint32_t how, bool code32)
{
    uint32_t base = (uint32_t)(uintptr_t)o->n->arena;
    put(o, "\xc7\x05", 2);
    if (code32) {
        uint32_t a = base + CTX(taken);
        put(o, &a, 4);
    } else {
        put_rel(o, CTX(taken), 4);
    }
    put(o, &how, 4);
    if (code32) {
        uint32_t a = base + o->n->exit_at;
        put(o, "\xea", 1);
        put(o, &a, 4);
        put(o, "\x33\x00", 2);
    } else {
        put(o, "\xe9", 1);
        put_rel(o, o->n->exit_at, 0);
    }
}

void native_place(struct native *n, uint32_t at, const uint8_t *code, unsigned len, bool code32)
{
    struct out o = { n, at - NATIVE_TARGET_BEFORE };
    put_landing(&o, 2, code32);
    o.at = at;
    put(&o, code, len);
    put_landing(&o, 1, code32);
    put_landing(&o, 2, code32);
}

void native_run(struct native *n, uint32_t at, bool code32)
{
    struct native_ctx *ctx = n->ctx;
    void (*enter)(void) = (void (*)(void))(uintptr_t)(n->arena + ARENA_CODE);
    ctx->far_off = (uint32_t)(uintptr_t)(n->arena + at);
    ctx->far_sel = code32 ? CS_32 : CS_64;
    ctx->taken = 0;
    ctx->vector = -2;
    active = n;
    enter();
    active = NULL;
    if (ctx->vector == -2)
        ctx->vector = -1;
}
