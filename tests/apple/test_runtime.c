/* The stand-in itself: right messages work, and every kind of wrong one ends the process with a line that
 * says so.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "backend/apple/block.h"
#include "rt.h"

/* GCC takes a call of a function that it sees under another type for a mistake. */
static IMP send_fn(void)
{
    return objc_msgSend;
}

#define SEND(type, ...) ((type)send_fn())(__VA_ARGS__)
#define CLS(name) ((id)(void *)objc_getClass(name))
#define S(name) sel_registerName(name)

typedef id (*send_o)(id, SEL);
typedef id (*send_oo)(id, SEL, id);
typedef void (*send_vo)(id, SEL, id);

static id alloc(const char *cls)
{
    return SEND(send_o, CLS(cls), S("alloc"));
}

static id make(const char *cls)
{
    return SEND(send_o, alloc(cls), S("init"));
}

static id string(const char *text)
{
    return SEND(id(*)(id, SEL, const char *), CLS("NSString"), S("stringWithUTF8String:"), text);
}

/* Runs fn in a process of its own, which must end by a failure that says `line`. */
static void fails(void (*fn)(void), const char *line)
{
    char text[4096];
    int fds[2], status;
    size_t len = 0;
    ssize_t got;
    pid_t pid;

    assert_int_equal(pipe(fds), 0);
    fflush(NULL);
    pid = fork();
    if (!pid) {
        dup2(fds[1], STDERR_FILENO);
        close(fds[0]);
        close(fds[1]);
        alarm(20);
        fn();
        standin_end();
        _exit(0);
    }
    close(fds[1]);
    while ((got = read(fds[0], text + len, sizeof(text) - 1 - len)) > 0)
        len += (size_t)got;
    text[len] = '\0';
    close(fds[0]);
    waitpid(pid, &status, 0);
    if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGABRT || !strstr(text, line))
        fail_msg("status %x, not \"%s\", but: %s", status, line, text);
}

/* ---- what is wrong ---- */

static void no_such_class(void)
{
    objc_getClass("VZQuantumDevice");
}

static void no_such_method(void)
{
    SEND(send_o, make("VZVirtualMachineConfiguration"), S("setKernel:"));
}

static void instance_for_class(void)
{
    SEND(send_o, make("VZVirtioNetworkDeviceConfiguration"), S("networkInterfaces"));
    SEND(send_o, CLS("VZBridgedNetworkInterface"), S("identifier"));
}

static void class_for_instance(void)
{
    SEND(send_oo, CLS("VZMACAddress"), S("initWithString:"), NULL);
}

static void init_is_unavailable(void)
{
    make("VZLinuxBootLoader");
}

static void new_is_unavailable(void)
{
    SEND(send_o, CLS("VZMACAddress"), S("new"));
}

static void wrong_class_of_argument(void)
{
    void *pool = objc_autoreleasePoolPush();

    SEND(send_oo, alloc("VZLinuxBootLoader"), S("initWithKernelURL:"), string("/vmlinuz"));
    objc_autoreleasePoolPop(pool);
}

static void wrong_element(void)
{
    id s, a, c = make("VZVirtualMachineConfiguration");

    objc_autoreleasePoolPush();
    s = string("x");
    a = SEND(id(*)(id, SEL, const id *, unsigned long), CLS("NSArray"), S("arrayWithObjects:count:"), &s, 1);
    SEND(send_vo, c, S("setStorageDevices:"), a);
}

static void no_file(void)
{
    id url;

    objc_autoreleasePoolPush();
    url = SEND(send_oo, CLS("NSURL"), S("URLWithString:"), string("/vmlinuz"));
    SEND(send_oo, alloc("VZLinuxBootLoader"), S("initWithKernelURL:"), url);
}

static void no_object(void)
{
    SEND(send_vo, make("VZVirtualMachineConfiguration"), S("setBootLoader:"), (id)(uintptr_t)64);
}

static void nil_where_it_may_not(void)
{
    SEND(send_vo, make("VZVirtualMachineConfiguration"), S("setStorageDevices:"), NULL);
}

/* An argument short: what the register holds is no object. */
static void argument_missing(void)
{
    SEND(void (*)(id, SEL, long), make("VZVirtualMachineConfiguration"), S("setPlatform:"), 0x77);
}

static void bool_of_two(void)
{
    SEND(void (*)(id, SEL, int), make("VZGenericPlatformConfiguration"), S("setNestedVirtualizationEnabled:"),
         2);
}

static void error_is_null(void)
{
    SEND(BOOL(*)(id, SEL, id *), make("VZVirtualMachineConfiguration"), S("validateWithError:"), NULL);
}

static void error_is_read_only(void)
{
    SEND(BOOL(*)(id, SEL, const void *), make("VZVirtualMachineConfiguration"), S("validateWithError:"),
         "error");
}

static void error_of_success_is_read(void)
{
    id error = NULL, name;

    objc_autoreleasePoolPush();
    name = string("tag");
    if (SEND(BOOL(*)(id, SEL, id, id *), CLS("VZVirtioFileSystemDeviceConfiguration"),
             S("validateTag:error:"), name, &error))
        SEND(long (*)(id, SEL), error, S("code"));
}

static void not_a_block(void)
{
    SEND(void (*)(id, SEL, void *), CLS("VZLinuxRosettaDirectoryShare"),
         S("installRosettaWithCompletionHandler:"), standin_begin);
}

static void leak(void)
{
    make("VZVirtioEntropyDeviceConfiguration");
}

static void released_twice(void)
{
    id o = make("VZVirtioEntropyDeviceConfiguration");

    objc_release(o);
    objc_release(o);
}

static void autoreleased_and_released(void)
{
    void *pool = objc_autoreleasePoolPush();
    id o = objc_autorelease(make("VZVirtioEntropyDeviceConfiguration"));

    objc_release(o);
    objc_autoreleasePoolPop(pool);
}

/* What a convenience constructor gives belongs to the pool. */
static void pooled_and_released(void)
{
    void *pool = objc_autoreleasePoolPush();

    objc_release(string("x"));
    objc_autoreleasePoolPop(pool);
}

static void message_to_the_dead(void)
{
    id c = make("VZVirtualMachineConfiguration");

    objc_release(c);
    SEND(send_o, c, S("bootLoader"));
}

static void no_pool(void)
{
    string("x");
}

static void used_before_init(void)
{
    SEND(send_o, alloc("VZVirtualMachineConfiguration"), S("bootLoader"));
}

/* init may return another object; what alloc gave is gone. */
static void result_of_init_ignored(void)
{
    id c = alloc("VZVirtualMachineConfiguration");

    SEND(send_o, c, S("init"));
    SEND(send_o, c, S("bootLoader"));
}

static void initialized_twice(void)
{
    SEND(send_o, make("VZVirtualMachineConfiguration"), S("init"));
}

static void nothing(void *ctx)
{
    (void)ctx;
}

static void sync_again(void *ctx)
{
    dispatch_sync_f(ctx, NULL, nothing);
}

static void deadlock(void)
{
    id q = dispatch_queue_create("q", NULL);

    dispatch_sync_f(q, q, sync_again);
}

static void queue_leaks(void)
{
    dispatch_queue_create("q", NULL);
}

static void impossible(id self, SEL cmd)
{
    (void)self;
    (void)cmd;
}

static void delegate_encoding(void)
{
    Class c = objc_allocateClassPair(objc_getClass("NSObject"), "D", 0);

    class_addMethod(c, S("guestDidStopVirtualMachine:"), (IMP)impossible, "v16@0:8");
}

static void delegate_unknown(void)
{
    Class c = objc_allocateClassPair(objc_getClass("NSObject"), "D", 0);

    class_addMethod(c, S("guestDidSleep:"), (IMP)impossible, "v24@0:8@16");
}

/* ---- machines ---- */

static id vm_queue;

static id machine(void)
{
    char path[] = "/tmp/x";
    id config = make("VZVirtualMachineConfiguration"), url, loader, m;
    void *pool = objc_autoreleasePoolPush();

    vm_queue = dispatch_queue_create("vm", NULL);
    url = SEND(id(*)(id, SEL, id, BOOL), CLS("NSURL"), S("fileURLWithPath:isDirectory:"), string(path), 0);
    loader = SEND(send_oo, alloc("VZLinuxBootLoader"), S("initWithKernelURL:"), url);
    SEND(send_vo, config, S("setBootLoader:"), loader);
    objc_release(loader);
    SEND(void (*)(id, SEL, unsigned long), config, S("setCPUCount:"), 1);
    SEND(void (*)(id, SEL, unsigned long), config, S("setMemorySize:"), 64 << 20);
    m = SEND(id(*)(id, SEL, id, id), alloc("VZVirtualMachine"), S("initWithConfiguration:queue:"), config,
             vm_queue);
    objc_release(config);
    objc_autoreleasePoolPop(pool);
    return m;
}

static void off_the_queue(void)
{
    SEND(BOOL(*)(id, SEL), machine(), S("canStart"));
}

static void invalid_machine(void)
{
    SEND(id(*)(id, SEL, id, id), alloc("VZVirtualMachine"), S("initWithConfiguration:queue:"),
         make("VZVirtualMachineConfiguration"), dispatch_queue_create("vm", NULL));
}

static void can_start(void *ctx)
{
    SEND(BOOL(*)(id, SEL), ctx, S("canStart"));
}

static void machine_leaks(void)
{
    id m = machine();

    dispatch_sync_f(vm_queue, m, can_start);
    dispatch_release(vm_queue);
}

static void error_ignore(void *ctx, id error)
{
    (void)ctx;
    (void)error;
}

static void start_with_wrong_block(void *ctx)
{
    struct block b = block_connection((void (*)(void *, id, id))(void (*)(void))error_ignore, NULL);

    SEND(void (*)(id, SEL, const struct block *), ctx, S("startWithCompletionHandler:"), &b);
}

static void wrong_block(void)
{
    id m = machine();

    dispatch_sync_f(vm_queue, m, start_with_wrong_block);
}

static void machines_have_rules(void **state)
{
    (void)state;
    fails(off_the_queue, "-[VZVirtualMachine canStart]: not on the machine's queue");
    fails(invalid_machine, "an invalid configuration raises an exception: there is no boot loader");
    fails(machine_leaks, "a VZVirtualMachine is left over");
    fails(wrong_block, "a block of signature v24@?0@\"VZVirtioSocketConnection\"8@\"NSError\"16, not "
                       "v16@?0@\"NSError\"8");
}

static void script_unused(void)
{
    standin_fail_next("startWithCompletionHandler:", "VZErrorDomain", 1, "x", NULL);
}

static void wrong_is_told(void **state)
{
    (void)state;
    fails(no_such_class, "objc_getClass(\"VZQuantumDevice\"): no macOS has such a class");
    fails(no_such_method, "-[VZVirtualMachineConfiguration setKernel:]: there is no such method");
    fails(instance_for_class,
          "-[VZVirtioNetworkDeviceConfiguration networkInterfaces]: there is no such method");
    fails(class_for_instance, "+[VZMACAddress initWithString:]: it is an instance method");
    fails(init_is_unavailable, "-[VZLinuxBootLoader init]: it is unavailable");
    fails(new_is_unavailable, "+[VZMACAddress new]: it is unavailable");
    fails(wrong_class_of_argument,
          "-[VZLinuxBootLoader initWithKernelURL:]: argument 1 is a NSString, not a NSURL");
    fails(wrong_element, "setStorageDevices:]: argument 1 is an array with a NSString, not of "
                         "VZStorageDeviceConfiguration");
    fails(no_file, "initWithKernelURL:]: argument 1 is not the URL of a file");
    fails(no_object, "setBootLoader:]: argument 1 is no object: 0x40");
    fails(nil_where_it_may_not, "setStorageDevices:]: argument 1 is nil, which a NSArray");
    fails(argument_missing, "setPlatform:]: argument 1 is no object");
    fails(bool_of_two, "setNestedVirtualizationEnabled:]: argument 1 is a BOOL of value 2");
    fails(error_is_null, "validateWithError:]: argument 1 is NULL");
    fails(error_is_read_only, "validateWithError:]: argument 1 (^@) points to nothing that can be written");
    fails(error_of_success_is_read, "\"code\" to the NSError of a call that succeeded");
    fails(script_unused, "scripted failure of \"startWithCompletionHandler:\"");
}

static void ownership_is_counted(void **state)
{
    (void)state;
    fails(leak, "a VZVirtioEntropyDeviceConfiguration is left over with 1 owners");
    fails(released_twice, "release to a dead VZVirtioEntropyDeviceConfiguration");
    fails(released_twice, "released_twice"); /* the place */
    fails(autoreleased_and_released, "release to a dead VZVirtioEntropyDeviceConfiguration");
    fails(pooled_and_released, "release to a dead NSString");
    fails(message_to_the_dead, "bootLoader to a dead VZVirtualMachineConfiguration");
    fails(no_pool, "a NSString is autoreleased without a pool");
    fails(used_before_init, "-[VZVirtualMachineConfiguration bootLoader]: the object was not initialized");
    fails(result_of_init_ignored, "bootLoader to a dead VZVirtualMachineConfiguration");
    fails(initialized_twice, "-[VZVirtualMachineConfiguration init]: the object is already initialized");
    fails(queue_leaks, "a OS_dispatch_queue_serial is left over");
    fails(deadlock, "a deadlock");
}

static void delegates_are_checked(void **state)
{
    (void)state;
    fails(delegate_encoding, "encoding \"v16@0:8\", protocol VZVirtualMachineDelegate has \"v24@0:8@16\"");
    fails(delegate_unknown, "class_addMethod(\"guestDidSleep:\"): no delegate protocol has it");
}

static void too_new_method(void)
{
    SEND(void (*)(id, SEL, BOOL), make("VZGenericPlatformConfiguration"),
         S("setNestedVirtualizationEnabled:"), 1);
}

static void too_new_class(void)
{
    make("VZNVMExpressControllerDeviceConfiguration");
}

static void rosetta_elsewhere(void)
{
    SEND(long (*)(id, SEL), alloc("VZLinuxRosettaDirectoryShare"), S("init"));
}

/* Under another macOS: in a process of its own, whose classes are those of that one. */
static void versions_are_played(void **state)
{
    (void)state;
    if (!standin_world.is_arm64 || standin_world.major < 13)
        fails(rosetta_elsewhere, "[nil alloc]: of a class that macOS");
    else
        fails(not_a_block, "argument 1 is no block: its isa");
    if (standin_world.major == 14)
        fails(too_new_method,
              "-[VZGenericPlatformConfiguration setNestedVirtualizationEnabled:] needs macOS 15.0");
    if (standin_world.major < 14) {
        assert_null(objc_getClass("VZNVMExpressControllerDeviceConfiguration"));
        fails(too_new_class, "[nil alloc]: of a class that macOS 1");
    }
}

/* ---- what is right ---- */

static void six_registers_and_more(void **state)
{
    void *pool = objc_autoreleasePoolPush();
    id url = SEND(send_oo, CLS("NSURL"), S("URLWithString:"), string("nbd://host/x")), error = NULL, a;

    (void)state;
    a = SEND(id(*)(id, SEL, id, double, BOOL, long, id *),
             alloc("VZNetworkBlockDeviceStorageDeviceAttachment"),
             S("initWithURL:timeout:forcedReadOnly:synchronizationMode:error:"), url, 2.5, 1, 1, &error);
    assert_non_null(a);
    assert_true(SEND(double (*)(id, SEL), a, S("timeout")) == 2.5);
    assert_int_equal(SEND(BOOL(*)(id, SEL), a, S("isForcedReadOnly")), 1);
    assert_int_equal(SEND(long (*)(id, SEL), a, S("synchronizationMode")), 1);
    assert_ptr_equal(SEND(send_o, a, S("URL")), url);
    objc_release(a);
    objc_autoreleasePoolPop(pool);
    standin_end();
}

static void stack_arguments(void **state)
{
    char path[] = "/tmp/yado-test-XXXXXX";
    int fd = mkstemp(path);
    void *pool = objc_autoreleasePoolPush();
    id url = SEND(id(*)(id, SEL, id, BOOL), CLS("NSURL"), S("fileURLWithPath:isDirectory:"), string(path), 0);
    id error = NULL, a;

    (void)state;
    assert_int_equal(ftruncate(fd, 1024), 0);
    a = SEND(id(*)(id, SEL, id, BOOL, long, long, id *), alloc("VZDiskImageStorageDeviceAttachment"),
             S("initWithURL:readOnly:cachingMode:synchronizationMode:error:"), url, 0, 2, 3, &error);
    assert_non_null(a);
    assert_int_equal(SEND(long (*)(id, SEL), a, S("cachingMode")), 2);
    assert_int_equal(SEND(long (*)(id, SEL), a, S("synchronizationMode")), 3);
    objc_release(a);
    assert_int_equal(ftruncate(fd, 1000), 0);
    a = SEND(id(*)(id, SEL, id, BOOL, long, long, id *), alloc("VZDiskImageStorageDeviceAttachment"),
             S("initWithURL:readOnly:cachingMode:synchronizationMode:error:"), url, 0, 2, 3, &error);
    assert_null(a);
    assert_int_equal(SEND(long (*)(id, SEL), error, S("code")), 5);
    close(fd);
    unlink(path);
    objc_autoreleasePoolPop(pool);
    standin_end();
}

static void nil_is_silent(void **state)
{
    (void)state;
    assert_null(SEND(send_o, NULL, S("domain")));
    assert_true(SEND(double (*)(id, SEL), NULL, S("timeout")) == 0);
}

static void count_up(void *ctx)
{
    ++*(int *)ctx;
}

static void queues_are_serial(void **state)
{
    id q = dispatch_queue_create("q", NULL);
    int n = 0;

    (void)state;
    for (int i = 0; i < 1000; i++)
        dispatch_async_f(q, &n, count_up);
    dispatch_sync_f(q, &n, count_up);
    assert_int_equal(n, 1001);
    dispatch_release(q);
    standin_end();
}

static int begin(void **state)
{
    (void)state;
    standin_begin();
    return 0;
}

int main(void)
{
    const struct CMUnitTest all[] = {
        cmocka_unit_test_setup(machines_have_rules, begin),
        cmocka_unit_test_setup(wrong_is_told, begin),
        cmocka_unit_test_setup(ownership_is_counted, begin),
        cmocka_unit_test_setup(delegates_are_checked, begin),
        cmocka_unit_test_setup(versions_are_played, begin),
        cmocka_unit_test_setup(six_registers_and_more, begin),
        cmocka_unit_test_setup(stack_arguments, begin),
        cmocka_unit_test_setup(nil_is_silent, begin),
        cmocka_unit_test_setup(queues_are_serial, begin),
    };
    const struct CMUnitTest old[] = {
        cmocka_unit_test_setup(versions_are_played, begin),
        cmocka_unit_test_setup(nil_is_silent, begin),
        cmocka_unit_test_setup(queues_are_serial, begin),
    };

    standin_init();
    /* The first list uses what came with macOS 15. */
    return standin_world.major >= 15 ? cmocka_run_group_tests_name("runtime", all, NULL, NULL)
                                     : cmocka_run_group_tests_name("old", old, NULL, NULL);
}
