/* Inside of processes for user code (userproc*.c). */
#ifndef HOST_LINUX_USERPROC_PRIV_H
#define HOST_LINUX_USERPROC_PRIV_H

#include "host/userproc.h"

#include <elf.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdatomic.h>

#include "host/linux/userproc_seat.h"
#include "host/linux/userproc_stub.h"

#define PAGE 4096u
#define USER_TOP 0x7ffffffff000u /* where user space ends, with five levels of page tables too */
#define HOLE_LEN ((uint64_t)sizeof(struct image))
#define CHILD_RAM_FD 0
#define CHILD_OWN_FD STUB_OWN_FD

#define XSAVE_HEADER 512
#define XSAVE_PKRU 0x200u /* not loaded: it could lock the page's code out of its data */
#define FX_MXCSR 24
#define FX_MXCSR_MASK 28
#define FX_SOFTWARE 464 /* what the kernel adds for programs (asm/sigcontext.h, struct _fpx_sw_bytes) */

/* The page as the file has it, and the data. */
struct image {
    union {
        struct {
            Elf64_Ehdr ehdr;
            Elf64_Phdr phdr[2];
        };
        uint8_t bytes[STUB_PAGE];
    };
    struct stub_data data;
};

/* What the kernel puts on the stack for a signal, as far as it matters here (asm/ucontext.h,
 * asm/sigcontext.h: the C library's own type is larger). */
struct context {
    uint64_t unused[5];
    uint64_t r8, r9, r10, r11, r12, r13, r14, r15, rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp, rip, rflags;
    uint16_t cs, gs, fs, ss;
    uint64_t err, trapno, oldmask, cr2;
    uint64_t fpstate; /* address */
};

struct userproc {
    pid_t pid;
    int pidfd, listener;
    clockid_t clock;            /* its CPU time */
    struct userproc_seat *seat; /* may be NULL */
    struct seat_child place;
    bool ends_are_told;  /* at the listener, to who waits for a notification */
    bool gone;           /* nothing can be done with it */
    bool ended_by_guest; /* and that is guest code's own doing, by its stack pointer */
    bool reaped;         /* it is no child of ours any more, not even a dead one */
    struct {
        uint64_t id;
        struct seccomp_data call;
    } stop; /* where it waits */
    uint64_t hole;
    struct image *image;
    uint64_t pass;         /* secret: see userproc.c */
    bool list_interrupted; /* by a signal, before it stopped last */
    bool kept;             /* from going on at all, though the kernel had taken our answer */
    bool resumed;          /* it may have run since */
    struct stub_entry list[STUB_LIST_LEN / sizeof(struct stub_entry)]; /* out of guest code's reach */
    size_t listed;         /* entries of the list that are to be done before it goes on */
    bool listed_others;    /* not all of them change mappings */
    bool selectors_loaded; /* by the guest's code: to be undone */
    size_t xsave_size;
    uint64_t xsave_features;
    uint32_t mxcsr_mask;
    const uint8_t *xsave; /* in the image: what the process has in its vector registers */
    /* A kick is never lost: one side sets kicked and then looks at running, the other sets running and then
     * looks at kicked. A signal that comes late, when another stop was first, finds kicked already taken and
     * the run goes on. */
    atomic_bool kicked;
    atomic_bool running;
};

/* What a stop means. */
enum meaning {
    STOP_LISTED,  /* the list is done, but for its last entry maybe */
    STOP_AGAIN,   /* it was kept from going on */
    STOP_REFUSED, /* it could not, with these registers */
    STOP_NOTHING, /* guest code has called the page's, or changed what it left */
    STOP_EXIT,
};

struct stop {
    struct context context; /* both of STOP_EXIT */
    siginfo_t info;
};

static inline struct stub_data *data_of(const struct userproc *p)
{
    return &p->image->data;
}

static inline uint64_t stub_at(const struct userproc *p, const uint8_t *where)
{
    return p->hole + STUB_OFFSET + (uint64_t)(where - userproc_stub);
}

/* Waits until it waits for us. False: it has ended. */
bool userproc_wait_stop(struct userproc *p);
/* Lets it go on. False: it does not wait any more, or not there. */
bool userproc_answer(struct userproc *p, uint64_t value, uint32_t flags);
/* Whether the call that it waits in is this one. */
bool userproc_is_call(const struct userproc *p, const struct stub_entry *e);
/* Copies what a signal has left on the stack. False: the address is none there. */
bool userproc_copy_from_stack(const struct userproc *p, void *to, uint64_t va, size_t len);
/* *s is left as it was in part where it has no meaning. */
enum meaning userproc_take_stop(struct userproc *p, struct stop *s);
/* An entry for the list, and the list. False if one fails, with errno. */
bool userproc_list_add(struct userproc *p, struct stub_entry e);
bool userproc_list_add_clear(struct userproc *p); /* that unmap all but the hole */
bool userproc_list_do(struct userproc *p);
/* Vector registers as a program begins. */
void userproc_xsave_reset(struct userproc *p);

#endif
