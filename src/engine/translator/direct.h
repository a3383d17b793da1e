/* Direct execution: user code of the guest that the host CPU runs as it is. Theory in direct.c. */
#ifndef TRANSLATOR_DIRECT_H
#define TRANSLATOR_DIRECT_H

#include "engine/translator/tvm.h"

struct direct; /* of a vCPU; tcpu.direct, NULL: everything is translated */

/* ---- light: what the MMU tells (direct_mirror.c). Each is fine without a struct direct. ---- */

void direct_forget_all(struct tcpu *c);                  /* every translation is gone */
void direct_forget_pcid(struct tcpu *c, uint64_t pcid);  /* those of this PCID */
void direct_forget_others(struct tcpu *c);               /* those of all PCIDs but the loaded one */
void direct_forget_page(struct tcpu *c, uint64_t lin);   /* that of this page, of the loaded PCID */
void direct_change_space(struct tcpu *c);                /* CR3 was loaded */
uint64_t direct_pcid(const struct tcpu *c);              /* that is loaded; without CR4.PCIDE 0 */
void direct_drop_writes(struct tcpu *c, uint64_t hpage); /* no write to this page of RAM any more */

/* ---- light: the dispatcher (direct_policy.c) ---- */

/* User code of the loaded space was met by a sample, in this page of RAM. Under code_lock. */
void direct_sampled(struct tcpu *c, uint64_t gpage);
/* Whether to try with the present state of the vCPU; tcpu.direct_wish is set. */
bool direct_may_run(const struct tcpu *c);

/* light_host.c. Runs user code until something is to be done, at which rip then is. */
enum direct_end {
    DIRECT_REQUEST,   /* somebody asks for something, or nothing could be run */
    DIRECT_SYSCALL,   /* SYSCALL or INT 80h of two bytes */
    DIRECT_STEP,      /* an instruction that faults, or that the host CPU may not run for the guest */
    DIRECT_TRANSLATE, /* code of a page that may not run, and what is around it not for long enough */
    DIRECT_EXCURSION, /* the same, and the rest is worth coming back to soon */
    DIRECT_DEBUG,     /* a single-step trap is due */
    DIRECT_LOST,      /* the process was killed in a run, and the guest's registers are gone with it */
};
enum direct_end vcpu_direct(struct tcpu *c);
/* Before the vCPU sleeps or goes on in translated code for long; tcpu.direct_seated is set. */
void vcpu_direct_rest(struct tcpu *c);

/* ---- heavy (direct.c) ---- */

bool direct_open(struct tcpu *c); /* false: not with this host */
void direct_close(struct tcpu *c);
enum direct_end heavy_direct(struct tcpu *c);
bool direct_is_lost(const struct tcpu *c); /* DIRECT_LOST was told */
bool heavy_direct_is_over(const struct tcpu *c); /* user code has not run directly for a while */
void heavy_direct_rest(struct tcpu *c);

#endif
