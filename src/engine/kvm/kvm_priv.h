/* The KVM engine's own: the kernel's virtual machine, what it can do, and the parts of the engine. The only
 * folder that knows <linux/kvm.h>. Theory of operation in vm.c. Names of calls are headings of Linux
 * Documentation/virt/kvm/api.rst. */
#ifndef ENGINE_KVM_KVM_PRIV_H
#define ENGINE_KVM_KVM_PRIV_H

#include <linux/kvm.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>

#include "engine/engine.h"
#include "x86/cpuid_model.h"

#define KVM_DEVICE "/dev/kvm"
#define KVM_VCPUS_MAX 64 /* what 8-bit APIC ids and the board's tables go up to */
#define KVM_SLOTS_MAX 32
#define KVM_MSRS_MAX 48

/* Three pages that VMX needs when it runs real mode by itself (KVM_SET_TSS_ADDR, KVM_SET_IDENTITY_MAP_ADDR),
 * and the identity map of one page below them: in the gap between the local APICs and 4 GiB. */
#define KVM_IDENTITY_MAP_ADDR 0xfeffc000ull
#define KVM_TSS_ADDR 0xfeffd000ull

/* Global interrupt numbers are only names for routes here. The first ones are those that the kernel looks
 * through for level-triggered vectors whose end it reports (KVM_CAP_SPLIT_IRQCHIP). */
#define KVM_LEVEL_ROUTES 128
#define KVM_IRQFD_ROUTES 1024

/* ---- caps.c: what this host's KVM is ---- */

struct kvm_caps {
    unsigned memslots;
    unsigned vcpus_max;
    size_t run_size;
    bool has_xcrs, has_tsc_deadline, has_irqfd, has_ioeventfd, has_any_width;
    unsigned msr_count;
    uint32_t msrs[KVM_MSRS_MAX]; /* of those that struct x86_state holds */
};

/* A stand-in for ioctl on /dev/kvm, for tests. */
typedef int (*kvm_query_fn)(int fd, unsigned long request, unsigned long arg);

/* What decides the advice to one who cannot open the device. */
struct kvm_host_facts {
    bool cpu_virtualizes, module_loaded;
    char group[64]; /* that may use the device; "": none with a name */
};

void kvm_device_explain(const char *path, int e, const struct kvm_host_facts *facts, struct yado_error *err);
/* Opens the device. -1 and err (YADO_ERR_UNSUPPORTED) with what to do. */
int kvm_device_open(const char *path, struct yado_error *err);
/* False and err if it is not KVM, or too old a one. query NULL: ioctl. */
bool kvm_caps_read(int fd, kvm_query_fn query, struct kvm_caps *caps, struct yado_error *err);

/* ---- irqchip.c: routes ---- */

struct kvm_route {
    uint64_t addr;
    uint32_t data;
    bool used;
    bool in_service; /* level: sent, its end not yet reported */
    int fd;          /* irqfd */
};

struct kvm_routes {
    pthread_mutex_t
        lock; /* a leaf. Held over KVM_SET_GSI_ROUTING, so that tables reach the kernel in order */
    struct kvm_route level[KVM_LEVEL_ROUTES];
    unsigned level_next;      /* where the search for one to give up begins */
    struct kvm_route *irqfds; /* KVM_IRQFD_ROUTES, made with the first one */
    unsigned used;            /* of both */
    unsigned irqfds_used;
};

/* ---- the engine ---- */

enum kvm_counter {
    KC_PORT,
    KC_MMIO,
    KC_EOI,
    KC_KICK,
    KC_SIGNAL,
    KC_OTHER,
    KC_COUNT,
};

struct kvm_slot {
    struct engine_memslot mem;
    bool tracked;              /* as the kernel was told */
    _Atomic uint64_t *written; /* pages that devices wrote, while tracked; made with the first dirty_track */
};

struct engine_vcpu {
    struct engine_vm *vm;
    unsigned index;
    int fd;
    struct kvm_run *run;
    _Atomic int tid;                     /* of the thread that is inside run(); 0: none */
    _Atomic unsigned kickers;            /* threads that may be about to signal tid */
    int mask_tid;                        /* the thread for which KVM_SET_SIGNAL_MASK was done */
    _Atomic uint64_t counters[KC_COUNT]; /* written by the vCPU's thread */
};

struct engine_vm {
    struct engine_config cfg;
    struct kvm_caps caps;
    int device_fd, fd;
    struct cpuid_model cpuid;
    uint32_t cpuid_7_subs, cpuid_71_eax, cpuid_72_edx, kvm_features; /* what the model has no place for */
    uint64_t tsc_khz;
    unsigned slot_count;
    struct kvm_slot slots[KVM_SLOTS_MAX];
    _Atomic bool tracking;
    struct kvm_routes routes;
    _Atomic uint64_t messages;
    _Atomic uint64_t doorbells; /* there now */
    struct engine_vcpu cpus[];  /* cfg.vcpu_count */
};

/* vcpu.c */
bool kvm_vcpu_make(struct engine_vm *vm, unsigned index, struct yado_error *err);
void kvm_vcpu_unmake(struct engine_vcpu *cpu);
void kvm_vcpu_run(struct engine_vcpu *cpu, struct exit *out, struct yado_error *err);
void kvm_vcpu_stood_still(struct engine_vcpu *cpu); /* its own thread, or no vCPU runs */
void kvm_vcpu_kick(struct engine_vcpu *cpu);
/* The signal that takes a thread out of KVM_RUN. Always blocked while a vCPU's thread is in user space. */
int kvm_kick_signal(void);
/* Inside KVM_RUN the thread has this mask, without the kick's signal (KVM_SET_SIGNAL_MASK). */
bool kvm_signal_mask_set(int cpu_fd, const sigset_t *outside);

/* cpuid.c */
bool kvm_cpuid_init(struct engine_vm *vm, struct yado_error *err);
bool kvm_cpuid_set(struct engine_vcpu *cpu, struct yado_error *err);

/* irqchip.c */
bool kvm_irqchip_make(struct engine_vm *vm, struct yado_error *err);
void kvm_irqchip_unmake(struct engine_vm *vm);
void kvm_msi_send(struct engine_vm *vm, uint64_t addr, uint32_t data);
void kvm_eoi_seen(struct engine_vm *vm, unsigned vector);
bool kvm_irqfd_set(struct engine_vm *vm, int fd, uint64_t addr, uint32_t data, struct yado_error *err);
void kvm_irqfd_drop(struct engine_vm *vm, int fd);
bool kvm_doorbell_add(struct engine_vm *vm, const struct engine_doorbell *bell, struct yado_error *err);
void kvm_doorbell_drop(struct engine_vm *vm, const struct engine_doorbell *bell);

/* state.c */
bool kvm_state_get(struct engine_vcpu *cpu, struct x86_state *out, struct yado_error *err);
bool kvm_state_set(struct engine_vcpu *cpu, const struct x86_state *in, struct yado_error *err);

/* vm.c */
int kvm_vm_create(int device_fd); /* a descriptor, or -1 and errno */
/* Bytes of RAM, for messages; returns how many were there */
unsigned kvm_ram_peek(const struct engine_vm *vm, uint64_t gpa, uint8_t *buf, unsigned len);

/* probe.c: runs the probe guest on an open device. False and why if this KVM should be passed over. */
bool kvm_probe(int device_fd, struct yado_error *why);

#endif
