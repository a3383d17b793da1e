/* What the KVM engine says of hosts that lack something. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine/kvm/kvm_priv.h"
#include "x86/regs.h"

static void test_no_device(void **state)
{
    struct yado_error err = YADO_ERROR_INIT;

    (void)state;
    assert_int_equal(kvm_device_open("/nonexistent/kvm", &err), -1);
    assert_int_equal(err.code, YADO_ERR_UNSUPPORTED);
    assert_int_equal(err.os_errno, ENOENT);
    assert_non_null(strstr(err.message, "/nonexistent/kvm: not there"));
}

static void test_no_permission(void **state)
{
    char path[] = "/tmp/yado-kvm-XXXXXX";
    int fd = mkstemp(path), status = -1;
    pid_t child;

    (void)state;
    assert_true(fd >= 0);
    assert_int_equal(fchmod(fd, 0), 0);
    close(fd);
    child = fork();
    if (child == 0) {
        struct yado_error err = YADO_ERROR_INIT;

        if (geteuid() == 0 && seteuid(65534) < 0) /* root may open anything */
            _exit(3);
        if (kvm_device_open(path, &err) != -1 || err.code != YADO_ERR_UNSUPPORTED || err.os_errno != EACCES)
            _exit(1);
        _exit(strstr(err.message, "no permission; ") ? 0 : 2);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    unlink(path);
    assert_int_equal(status, 0);
}

/* What to do depends on what the host is. */
static void test_advice(void **state)
{
    static const struct {
        int e;
        struct kvm_host_facts facts;
        const char *words[2];
    } cases[] = {
        { ENOENT, { .cpu_virtualizes = true }, { "modprobe kvm_intel or kvm_amd", "firmware (BIOS)" } },
        { ENOENT, { .module_loaded = true }, { "container", "--device /dev/kvm" } },
        { ENOENT, { .cpu_virtualizes = false }, { "CPU does not offer", "nested virtualization" } },
        { EACCES, { .group = "kvm" }, { "no permission; become a member", "usermod -aG kvm" } },
        { EACCES, { .group = "" }, { "no permission; let a group", "container" } },
        { EPERM, { .group = "virt" }, { "usermod -aG virt", "in a container, allow the device" } },
        { ENODEV, { .cpu_virtualizes = true }, { "no driver behind it", "modprobe" } },
        { EMFILE, { .cpu_virtualizes = true }, { "/dev/kvm: cannot open", "Too many open files" } },
    };

    (void)state;
    for (size_t i = 0; i < array_size(cases); i++) {
        struct yado_error err = YADO_ERROR_INIT;

        kvm_device_explain("/dev/kvm", cases[i].e, &cases[i].facts, &err);
        assert_int_equal(err.code, YADO_ERR_UNSUPPORTED);
        assert_int_equal(err.os_errno, cases[i].e);
        assert_null(strchr(err.message, '\n'));
        for (unsigned w = 0; w < 2; w++) {
            if (!strstr(err.message, cases[i].words[w]))
                fail_msg("\"%s\" does not say \"%s\"", err.message, cases[i].words[w]);
        }
    }
}

static void test_not_kvm(void **state)
{
    struct yado_error err = YADO_ERROR_INIT;
    struct kvm_caps caps;
    int fd = kvm_device_open("/dev/null", NULL);

    (void)state;
    assert_true(fd >= 0);
    assert_false(kvm_caps_read(fd, NULL, &caps, &err));
    close(fd);
    assert_int_equal(err.code, YADO_ERR_UNSUPPORTED);
    assert_non_null(strstr(err.message, "does not answer as KVM does"));
}

/* ---- a stand-in kernel; fd carries what it lacks ---- */

enum { LACKS_NOTHING, LACKS_VERSION, LACKS_SPLIT, LACKS_IMMEDIATE_EXIT, LACKS_ROOM, LACKS_DEADLINE };

static int fake_kernel(int lacks, unsigned long request, unsigned long arg)
{
    struct kvm_msr_list *list = (struct kvm_msr_list *)arg;

    switch (request) {
    case KVM_GET_API_VERSION: return lacks == LACKS_VERSION ? 11 : KVM_API_VERSION;
    case KVM_GET_VCPU_MMAP_SIZE: return lacks == LACKS_ROOM ? 64 : 12288;
    case KVM_GET_MSR_INDEX_LIST:
        if (list->nmsrs < 2) {
            list->nmsrs = 2;
            errno = E2BIG;
            return -1;
        }
        list->indices[0] = MSR_STAR;
        list->indices[1] = 0x12345;
        return 0;
    case KVM_CHECK_EXTENSION:
        if ((arg == KVM_CAP_SPLIT_IRQCHIP && lacks == LACKS_SPLIT) ||
            (arg == KVM_CAP_TSC_DEADLINE_TIMER && lacks == LACKS_DEADLINE) ||
            (arg == KVM_CAP_IMMEDIATE_EXIT && lacks == LACKS_IMMEDIATE_EXIT))
            return 0;
        return arg == KVM_CAP_NR_MEMSLOTS ? 509 : 1;
    default: return -1;
    }
}

static void test_whole_kernel(void **state)
{
    struct yado_error err = YADO_ERROR_INIT;
    struct kvm_caps caps;

    (void)state;
    assert_true(kvm_caps_read(LACKS_NOTHING, fake_kernel, &caps, &err));
    assert_int_equal(caps.memslots, 509);
    assert_int_equal(caps.run_size, 12288);
    /* and the memory type registers, which are asked for in any case */
    assert_int_equal(caps.msr_count, 1 + 1 + X86_MTRR_FIXED + 2 * X86_MTRR_VAR);
    assert_int_equal(caps.msrs[0], MSR_STAR);
    assert_true(caps.has_tsc_deadline);
    assert_true(kvm_caps_read(LACKS_DEADLINE, fake_kernel, &caps, &err)); /* can do without */
    assert_false(caps.has_tsc_deadline);
}

static void check_lack(int lacks, const char *words)
{
    struct yado_error err = YADO_ERROR_INIT;
    struct kvm_caps caps;

    assert_false(kvm_caps_read(lacks, fake_kernel, &caps, &err));
    assert_int_equal(err.code, YADO_ERR_UNSUPPORTED);
    if (!strstr(err.message, words))
        fail_msg("\"%s\" does not say \"%s\"", err.message, words);
}

static void test_old_kernels(void **state)
{
    (void)state;
    check_lack(LACKS_VERSION, "version 11");
    check_lack(LACKS_SPLIT, "too old: it lacks a split interrupt controller");
    check_lack(LACKS_IMMEDIATE_EXIT, "too old: it lacks immediate exits; Linux 4.13");
    check_lack(LACKS_ROOM, "too old: its vCPU area has 64 bytes");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_no_device),    cmocka_unit_test(test_no_permission),
        cmocka_unit_test(test_advice),       cmocka_unit_test(test_not_kvm),
        cmocka_unit_test(test_whole_kernel), cmocka_unit_test(test_old_kernels),
    };

    return cmocka_run_group_tests_name("kvm host", tests, NULL, NULL);
}
