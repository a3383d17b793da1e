/* A process that runs user-mode x86-64 code on the host's CPU and can do nothing else.
 *
 * It starts out empty. What it sees are pieces of one memory file, at the addresses and with the rights that
 * its owner asks for, besides a hole of its own, a few pages at a random address. Its code runs until it
 * makes a system call, faults or is kicked, and then its owner has its registers. No system call is ever
 * done: not by SYSCALL, not by SYSENTER or INT 0x80, not even through the code in the hole, which is how the
 * owner's changes of the mappings are made. What it does there else, or to the data behind that code, may end
 * its run as USERPROC_TRAP without a signal, with registers that it had before, or as USERPROC_GONE. It dies
 * with the thread that made it, and no signal but SIGKILL does anything to it; if its owner is stopped, it
 * goes on until its run ends, but if its owner's process group is, as by a terminal, then it is, too.
 *
 * All calls come from the thread that made it, but for userproc_kick and, once that thread has ended,
 * userproc_free.
 *
 * A program that waits for any child (wait, waitpid(-1)) on another thread takes the reports that the owner
 * waits for when it sets breakpoints, by ptrace: there is no hiding them from threads of one process. So none
 * is made in a program that handles SIGCHLD. Where that does nothing, it is set to SA_NOCLDSTOP, for good:
 * else each stop would be one. */
#ifndef HOST_USERPROC_H
#define HOST_USERPROC_H

#include <sched.h>
#include <stdatomic.h>
#include <sys/types.h>

#include "util/err.h"

struct userproc;

/* CS, SS, DS, ES, FS and GS are as in any 64-bit program of the host at the beginning of each run. */
struct userproc_regs {
    uint64_t gpr[16]; /* by their numbers in instructions: RAX RCX RDX RBX RSP RBP RSI RDI R8... */
    uint64_t rip;
    uint64_t rflags;           /* in: the arithmetic flags, DF, AC and ID count. Out: as the host has them */
    uint64_t fs_base, gs_base; /* below 2^47 - 4096 */
};

#define USERPROC_R 1u
#define USERPROC_W 2u   /* R comes with it, as x86 has it */
#define USERPROC_X 4u   /* R comes with it */
#define USERPROC_OWN 8u /* without W: its own copy, once something is put there (userproc_put_traps) */

struct userproc_map {
    uint64_t va, len, offset; /* multiples of the page size; offset: in the memory file */
    unsigned prot;            /* 0: take away what is there */
};

#define USERPROC_CHANGE_NS 2400 /* CPU time, about, that the process takes to change a mapping */

enum userproc_why {
    USERPROC_SYSCALL, /* RIP is behind the instruction, which did nothing. RCX and R11 after SYSCALL are what
                         that instruction makes them */
    USERPROC_FAULT,   /* an access to memory; RIP is at the instruction */
    USERPROC_TRAP,    /* another exception: INT3 or INT 3 (RIP behind it), #UD, #DE... */
    USERPROC_KICKED,
    USERPROC_REFUSED, /* the host takes no such registers; nothing ran */
    USERPROC_GONE,    /* the process is of no use any more */
};

struct userproc_exit {
    enum userproc_why why;
    int signal;    /* FAULT, TRAP: by which the host tells it */
    bool step;     /* TRAP: a single step is done, which may have been the last (RFLAGS.TF) */
    bool int3;     /* TRAP: INT3 or INT 3 */
    bool has_addr; /* FAULT: addr is the address that was accessed. Else the host does not tell any, as with
                      general protection and with alignment checks */
    uint64_t addr; /* If it is the host's vsyscall page, where code was to run, then RAX is lost */
    uint16_t cs, ss, ds, es, fs, gs;
    uint32_t changes;       /* of mappings that were made before the code ran; USERPROC_CHANGE_NS each */
    bool lost;              /* GONE: it was killed in this run, and its registers with it */
    bool selectors_changed; /* the code has loaded a segment register; it is undone at the next run */
};

/* Where seats are of threads that are to keep out of each other's way, as the vCPUs of a machine. Zeroed at
 * first; it lives longer than they. */
struct userproc_room {
    _Atomic uint16_t seats[CPU_SETSIZE]; /* that are taken, by CPU */
};

/* Which CPU a thread and the processes that it drives use: the same, which makes a run and what follows it
 * five times as fast as when each wakes the other on a CPU of its own. The thread keeps to the CPU on which a
 * series of runs finds it, until it rests, or to another one if that has fewer seats of its room; from time
 * to time the series looks whether others want that CPU too, and then the host may choose anew. One for each
 * thread that has processes, its owner's memory, zeroed at first but for the room. */
struct userproc_seat {
    struct userproc_room *room; /* NULL: it has one for itself */
    bool taken;
    bool useless; /* the host does not let us choose */
    int cpu;
    cpu_set_t free;   /* the thread's CPUs while the seat is not taken */
    cpu_set_t usable; /* those of them that there are */
    long online;      /* CPUs, at counted_at */
    uint64_t counted_at, moved_at;
    const void *watched; /* the process whose use of the CPU is looked at, and whether others ran meanwhile */
    bool mixed;
    uint64_t watched_since, judged_at; /* nanoseconds */
    uint64_t used;                     /* CPU time of the two until watched_since */
};

/* Makes one that can map the file ram_fd, which stays the caller's. On failure *out is NULL; error: HOST. */
bool userproc_make(struct userproc **out, int ram_fd, struct yado_error *err);
/* Has instructions fault, without an address, that are no business of the kernel otherwise, or (on false) not
 * any more. False if the host cannot do that; then nothing has changed. The kernel switches this in CR4 or an
 * MSR twice a run: that is nothing on bare metal, but in a virtual machine it may double what a run takes. */
#define USERPROC_TRAP_TSC 1u   /* RDTSC, RDTSCP */
#define USERPROC_TRAP_CPUID 2u /* not all processors can do that */
bool userproc_trap(struct userproc *p, unsigned what, bool on);
/* Puts its runs on a seat, which lives longer than it. */
void userproc_sit(struct userproc *p, struct userproc_seat *seat);
/* Lets the host choose the thread's CPU again: before the thread waits for something or works for long
 * without a run, and before it makes a thread, which inherits its CPUs. They are as before the series, or as
 * somebody else has set them meanwhile. Fine when it rests already. */
void userproc_rest(struct userproc_seat *seat);
/* NULL is fine. */
void userproc_free(struct userproc *p);

/* The addresses that cannot be mapped. */
void userproc_hole(const struct userproc *p, uint64_t *va, uint64_t *len);
/* Bytes of the XSAVE area, in the standard format, for all that the host's kernel saves. */
size_t userproc_xsave_size(const struct userproc *p);
/* For messages. */
pid_t userproc_pid(const struct userproc *p);

/* Changes mappings, in order, at the latest before the next run. Entries that go on where the one before
 * ends, in the process and in the file and with the same rights, cost as much as one. False if the process is
 * gone, the host gives no more mappings (there are some 65000) or an entry lies outside of user space or in
 * the hole; then those before it may have been done. That the host gives no more may also be found by the
 * next run, which then says that the process is gone. */
bool userproc_set_maps(struct userproc *p, const struct userproc_map *map, unsigned n);
/* Takes away all that is mapped. */
bool userproc_clear(struct userproc *p);

/* Runs from regs and xsave, and leaves there what it came to. False if why is REFUSED or GONE, and then both
 * are as they were when the process was last seen to stop. xsave may be NULL: these registers stay as the
 * process has them, in and out. */
bool userproc_run(struct userproc *p, struct userproc_regs *regs, void *xsave, struct userproc_exit *exit);
/* Has the process stop before it runs any of the instructions at these addresses, and at no others any more;
 * 0: nowhere. The run ends as USERPROC_TRAP with SIGTRAP. False if the host cannot do that. It takes some
 * three times as long as a run. */
#define USERPROC_BREAKS 4
bool userproc_set_breaks(struct userproc *p, const uint64_t addr[USERPROC_BREAKS]);
/* Puts an INT3 at each of these addresses, which a mapping of its own has (USERPROC_OWN) and keeps as long as
 * it is there. The code can read them, but they cost nothing later. False if the host cannot do that or one
 * of them is not in such a mapping. It takes as long as breakpoints. */
bool userproc_put_traps(struct userproc *p, const uint64_t *addr, unsigned n);
/* CPU time that it has used, in nanoseconds. */
uint64_t userproc_cpu_ns(const struct userproc *p);
/* Fetches these registers alone. */
bool userproc_get_xsave(struct userproc *p, void *xsave);
/* Makes the run that goes on, or else the next one, return; if it returns for another reason, then the one
 * after. Any thread, also a signal handler. */
void userproc_kick(struct userproc *p);

#endif
