/* Finding out what this host's KVM is. Linux Documentation/virt/kvm/api.rst, KVM_GET_API_VERSION and
 * KVM_CHECK_EXTENSION. */
#include <cpuid.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/kvm/kvm_priv.h"
#include "x86/regs.h"

/* What the engine cannot do without; the newest of them came with Linux 4.13. */
static const struct {
    unsigned long cap;
    const char *name;
} needed[] = {
    { KVM_CAP_USER_MEMORY, "memory slots" },       { KVM_CAP_SET_TSS_ADDR, "TSS address" },
    { KVM_CAP_EXT_CPUID, "CPUID tables" },         { KVM_CAP_IRQ_ROUTING, "interrupt routing" },
    { KVM_CAP_SIGNAL_MSI, "interrupt messages" },  { KVM_CAP_SPLIT_IRQCHIP, "a split interrupt controller" },
    { KVM_CAP_MP_STATE, "processor states" },      { KVM_CAP_VCPU_EVENTS, "processor events" },
    { KVM_CAP_DEBUGREGS, "debug registers" },      { KVM_CAP_XSAVE, "XSAVE state" },
    { KVM_CAP_IMMEDIATE_EXIT, "immediate exits" },
};

#define MTRR_PAIR(n) MSR_MTRR_VAR0 + 2 * (n), MSR_MTRR_VAR0 + 2 * (n) + 1

/* The model-specific registers of struct x86_state that KVM does not hand out by other calls. What a guest of
 * this machine can change besides are registers without effect on it (AMD's HWCR and DE_CFG). */
static const uint32_t state_msrs[] = {
    MSR_SYSENTER_CS,
    MSR_SYSENTER_ESP,
    MSR_SYSENTER_EIP,
    MSR_STAR,
    MSR_LSTAR,
    MSR_CSTAR,
    MSR_FMASK,
    MSR_KERNEL_GS_BASE,
    MSR_TSC,
    MSR_TSC_ADJUST,
    MSR_TSC_AUX,
    MSR_PAT,
    MSR_MISC_ENABLE,
    MSR_DEBUGCTL,
    MSR_MISC_FEATURES,
    MSR_SPEC_CTRL,
    MSR_MTRR_DEF_TYPE,
    MSR_MTRR_FIX64K,
    MSR_MTRR_FIX16K,
    MSR_MTRR_FIX16K + 1,
    MSR_MTRR_FIX4K,
    MSR_MTRR_FIX4K + 1,
    MSR_MTRR_FIX4K + 2,
    MSR_MTRR_FIX4K + 3,
    MSR_MTRR_FIX4K + 4,
    MSR_MTRR_FIX4K + 5,
    MSR_MTRR_FIX4K + 6,
    MSR_MTRR_FIX4K + 7,
    MTRR_PAIR(0),
    MTRR_PAIR(1),
    MTRR_PAIR(2),
    MTRR_PAIR(3),
    MTRR_PAIR(4),
    MTRR_PAIR(5),
    MTRR_PAIR(6),
    MTRR_PAIR(7),
    MSR_KVM_SYSTEM_TIME,
    MSR_KVM_WALL_CLOCK,
    MSR_KVM_PV_EOI,
};
_Static_assert(array_size(state_msrs) <= KVM_MSRS_MAX, "room for the state's MSRs");

/* ---- the device ---- */

static bool cpu_has_virtualization(void)
{
    unsigned a, b, c, d;

    if (__get_cpuid(1, &a, &b, &c, &d) && (c & 1u << 5)) /* VMX */
        return true;
    return __get_cpuid(0x80000001, &a, &b, &c, &d) && (c & 1u << 2); /* SVM */
}

static void facts_read(const char *path, struct kvm_host_facts *f)
{
    struct stat st;
    struct group group, *found = NULL;
    char names[1024]; /* of the group's members too: without room for them it stays nameless */

    *f = (struct kvm_host_facts){ 0 };
    f->cpu_virtualizes = cpu_has_virtualization();
    f->module_loaded = access("/sys/module/kvm_intel", F_OK) == 0 || access("/sys/module/kvm_amd", F_OK) == 0;
    if (stat(path, &st) == 0 && (st.st_mode & S_IWGRP) && st.st_gid != 0 &&
        getgrgid_r(st.st_gid, &group, names, sizeof(names), &found) == 0 && found)
        snprintf(f->group, sizeof(f->group), "%s", group.gr_name);
}

static void say_missing(const char *path, const struct kvm_host_facts *f, struct yado_error *err)
{
    if (f->module_loaded)
        err_set(err, YADO_ERR_UNSUPPORTED,
                "%s: not there, though the kernel's module is; if this is a container, pass the device in "
                "(--device %s)",
                path, path);
    else if (f->cpu_virtualizes)
        err_set(err, YADO_ERR_UNSUPPORTED,
                "%s: not there; load the module (sudo modprobe kvm_intel or kvm_amd), and if that fails, "
                "switch on VT-x or AMD-V in the firmware (BIOS)",
                path);
    else
        err_set(err, YADO_ERR_UNSUPPORTED,
                "%s: not there, and the CPU does not offer virtualization; switch on VT-x or AMD-V in the "
                "firmware (BIOS), or nested virtualization if this is a virtual machine",
                path);
}

static void say_forbidden(const char *path, const struct kvm_host_facts *f, struct yado_error *err)
{
    if (f->group[0])
        err_set(err, YADO_ERR_UNSUPPORTED,
                "%s: no permission; become a member of its group (sudo usermod -aG %s \"$USER\") and log in "
                "again; in a container, allow the device",
                path, f->group);
    else
        err_set(
            err, YADO_ERR_UNSUPPORTED,
            "%s: no permission; let a group have it (sudo chgrp kvm %s; sudo chmod 660 %s) and become its "
            "member; in a container, allow the device",
            path, path, path);
}

void kvm_device_explain(const char *path, int e, const struct kvm_host_facts *facts, struct yado_error *err)
{
    switch (e) {
    case ENOENT: say_missing(path, facts, err); break;
    case EACCES:
    case EPERM: say_forbidden(path, facts, err); break;
    case ENODEV:
    case ENXIO:
        err_set(err, YADO_ERR_UNSUPPORTED,
                "%s: there is no driver behind it; load the module (sudo modprobe kvm_intel or kvm_amd), and "
                "if that fails, switch on VT-x or AMD-V in the firmware (BIOS)",
                path);
        break;
    default: err_set(err, YADO_ERR_UNSUPPORTED, "%s: cannot open: %s", path, strerror(e));
    }
    if (err)
        err->os_errno = e; /* for programs; people were told in words */
}

int kvm_device_open(const char *path, struct yado_error *err)
{
    int fd = open(path, O_RDWR | O_CLOEXEC);
    struct kvm_host_facts facts;
    int e = errno;

    if (fd >= 0)
        return fd;
    facts_read(path, &facts);
    kvm_device_explain(path, e, &facts, err);
    return -1;
}

/* ---- what it can do ---- */

static int query_ioctl(int fd, unsigned long request, unsigned long arg)
{
    return ioctl(fd, request, arg);
}

static bool read_numbers(int fd, kvm_query_fn query, struct kvm_caps *caps, struct yado_error *err)
{
    int n = query(fd, KVM_CHECK_EXTENSION, KVM_CAP_NR_MEMSLOTS);
    int run = query(fd, KVM_GET_VCPU_MMAP_SIZE, 0);

    if (run < (int)sizeof(struct kvm_run))
        return err_set(err, YADO_ERR_UNSUPPORTED,
                       "kvm: this kernel's KVM is too old: its vCPU area has %d bytes", run);
    caps->run_size = (size_t)run;
    caps->memslots = n > 0 ? (unsigned)n : 32; /* api.rst: 32 where the kernel does not say */
    n = query(fd, KVM_CHECK_EXTENSION, KVM_CAP_MAX_VCPUS);
    if (n <= 0)
        n = query(fd, KVM_CHECK_EXTENSION, KVM_CAP_NR_VCPUS);
    caps->vcpus_max = n > 0 ? (unsigned)n : 4; /* api.rst: 4 where the kernel does not say */
    caps->has_xcrs = query(fd, KVM_CHECK_EXTENSION, KVM_CAP_XCRS) > 0;
    caps->has_tsc_deadline = query(fd, KVM_CHECK_EXTENSION, KVM_CAP_TSC_DEADLINE_TIMER) > 0;
    caps->has_irqfd = query(fd, KVM_CHECK_EXTENSION, KVM_CAP_IRQFD) > 0;
    caps->has_ioeventfd = query(fd, KVM_CHECK_EXTENSION, KVM_CAP_IOEVENTFD) > 0;
    caps->has_any_width = query(fd, KVM_CHECK_EXTENSION, KVM_CAP_IOEVENTFD_ANY_LENGTH) > 0;
    return true;
}

/* The type registers of memory ranges came to the kernel's list late (Linux 6.6), but can be had without. */
static bool is_mtrr(uint32_t index)
{
    return index == MSR_MTRR_DEF_TYPE ||
           (index >= MSR_MTRR_VAR0 && index < MSR_MTRR_VAR0 + 2 * X86_MTRR_VAR) || index == MSR_MTRR_FIX64K ||
           index == MSR_MTRR_FIX16K || index == MSR_MTRR_FIX16K + 1 ||
           (index >= MSR_MTRR_FIX4K && index < MSR_MTRR_FIX4K + 8);
}

/* Which of the state's MSRs this kernel can save (KVM_GET_MSR_INDEX_LIST). */
static bool read_msrs(int fd, kvm_query_fn query, struct kvm_caps *caps, struct yado_error *err)
{
    struct kvm_msr_list head = { .nmsrs = 0 }, *list;

    query(fd, KVM_GET_MSR_INDEX_LIST, (unsigned long)&head); /* E2BIG, and says how many there are */
    if (head.nmsrs == 0 || head.nmsrs > 100000)
        return err_set(err, YADO_ERR_UNSUPPORTED, "kvm: the kernel names no model-specific registers");
    list = calloc(1, sizeof(*list) + head.nmsrs * sizeof(list->indices[0]));
    if (!list)
        return err_set(err, YADO_ERR_HOST, "out of memory");
    list->nmsrs = head.nmsrs;
    if (query(fd, KVM_GET_MSR_INDEX_LIST, (unsigned long)list) < 0) {
        err_set_errno(err, YADO_ERR_HOST, errno, "kvm: KVM_GET_MSR_INDEX_LIST");
        free(list);
        return false;
    }
    for (size_t i = 0; i < array_size(state_msrs); i++) {
        for (unsigned j = 0; j < list->nmsrs; j++) {
            if (list->indices[j] == state_msrs[i] || is_mtrr(state_msrs[i])) {
                caps->msrs[caps->msr_count++] = state_msrs[i];
                break;
            }
        }
    }
    free(list);
    return true;
}

bool kvm_caps_read(int fd, kvm_query_fn query, struct kvm_caps *caps, struct yado_error *err)
{
    int version;

    if (!query)
        query = query_ioctl;
    *caps = (struct kvm_caps){ 0 };
    version = query(fd, KVM_GET_API_VERSION, 0);
    if (version < 0)
        return err_set_errno(err, YADO_ERR_UNSUPPORTED, errno, "kvm: the device does not answer as KVM does");
    if (version != KVM_API_VERSION)
        return err_set(err, YADO_ERR_UNSUPPORTED,
                       "kvm: the kernel speaks version %d of KVM's interface, not %d", version,
                       KVM_API_VERSION);
    for (size_t i = 0; i < array_size(needed); i++) {
        if (query(fd, KVM_CHECK_EXTENSION, needed[i].cap) <= 0)
            return err_set(
                err, YADO_ERR_UNSUPPORTED,
                "kvm: this kernel's KVM is too old: it lacks %s; Linux 4.13 or later has what is needed",
                needed[i].name);
    }
    return read_numbers(fd, query, caps, err) && read_msrs(fd, query, caps, err);
}
