/* A stand-in for macOS under the backend over Virtualization.framework, on Linux: what a test scripts and
 * asks.
 *
 * Theory of operation. The classes of Virtualization.framework and Foundation are registered in GNU's
 * Objective-C runtime from the manifest of facts, those alone that the macOS version and the kind of Mac have
 * that are played: YADO_STANDIN_MACOS ("13.0"; default 15.0) and YADO_STANDIN_ARCH ("arm64" or "x86_64") in
 * the environment (and YADO_STANDIN_LACKS, "entitlement" or "support": what the Mac or the process has not),
 * because a runtime's classes are there for ever. The backend finds them with objc_getClass and talks to them
 * with our objc_msgSend, which looks at every message before GNU's runtime looks up its method: receiver,
 * selector, each argument. What is not as the manifest says ends the process with one line on standard error
 * ("standin: ...") that names message and caller; there is no going on after it.
 *
 * Ownership is counted: an object that dies stays known as dead, so a message to it or a release too many is
 * told with its class and where it was made and died. standin_end fails if an object is left over.
 *
 * Files: send.S and message.c (messages), classes.c (registration), object.c (ownership), dispatch.c,
 * block.c, foundation.c, vz_*.c (behaviour). Objects' behaviour is written against struct call (rt.h).
 *
 * Threads: the functions here come from the test's thread. */
#ifndef TESTS_APPLE_STANDIN_H
#define TESTS_APPLE_STANDIN_H

#include <stdbool.h>
#include <stdint.h>

/* What the signature of the process says of an entitlement. */
enum standin_entitlement { ENTITLEMENT_ABSENT, ENTITLEMENT_FALSE, ENTITLEMENT_TRUE };

/* What is played. From the environment; the rest as below until a test changes it. */
struct standin_world {
    unsigned major, minor;
    bool is_arm64;
    bool is_supported;     /* virtual machines run on this Mac */
    bool nested_supported; /* nested virtualization does */
    enum standin_entitlement virtualization, networking, network_client;
    long rosetta; /* VZLinuxRosettaAvailability */
    uint64_t memory_min, memory_max;
    unsigned long cpus_min, cpus_max;
};

extern struct standin_world standin_world;

/* Before the first message, once: registers the classes. */
void standin_init(void);
/* Afresh for a test: the world as it is by default, nothing scripted. */
void standin_begin(void);
/* After a test: everything that was made must be gone, or the process ends with a list of it. */
void standin_end(void);

/* Objects alive now, of a class or its subclasses; NULL: all. */
unsigned standin_alive(const char *cls);
/* How often a message was received since standin_begin. */
unsigned standin_count(const char *selector);

/* The next message with this selector fails: NSError of domain "VZErrorDomain" or another, code, words.
 * `reason` may be NULL. */
void standin_fail_next(const char *selector, const char *domain, long code, const char *text,
                       const char *reason);

/* ---- running machines: in the order in which they were made, those that still are. `machine` counts them
 * ---- */

unsigned standin_machine_count(void);
long standin_machine_state(unsigned machine); /* VZVirtualMachineState */
/* What guest and framework do by themselves; returns when the delegate was told. */
void standin_guest_stops(unsigned machine);
void standin_machine_fails(unsigned machine, const char *domain, long code, const char *text);
void standin_network_disconnects(unsigned machine, unsigned device, const char *text);

/* The framework keeps the machine from now on, as it may do for its own ends, whoever else lets go of it;
 * until then. Once everybody else has, it stops and tells its delegate, if it still has one: whether it has.
 */
void standin_machine_keep(unsigned machine);
bool standin_kept_machine_stops(void);

/* A program in the guest connects to a port of the host (CID 2). Whether the listener took it; the guest's
 * end in *fd. */
bool standin_guest_connects(unsigned machine, uint32_t port, int *fd);
/* The same in two steps: its listener has been found, the delegate is not asked until the release. Whatever
 * the program does in between, the framework has its listener. */
struct guest_connect *standin_guest_connect_hold(unsigned machine, uint32_t port, int *fd);
bool standin_guest_connect_release(struct guest_connect *g);
/* A program in the guest listens on a port; the guest's end of the next connection from the host: -1, none.
 */
void standin_guest_listens(unsigned machine, uint32_t port);
int standin_guest_accepts(unsigned machine, uint32_t port);
/* Connects of the host get no answer from now on, until they get theirs all at once: also after the machine
 * is gone, as the framework may do. */
void standin_connects_hold(void);
void standin_connects_answer(void);
/* A program in the guest opens or closes a port of a console; returns when the delegate was told. */
void standin_guest_opens_port(unsigned machine, unsigned device, unsigned port, bool is_open);
/* The class of what is attached to a port of a running machine's console; NULL: nothing. */
const char *standin_port_attachment(unsigned machine, unsigned device, unsigned port);
/* The balloon device's target in bytes. */
uint64_t standin_balloon_target(unsigned machine);

/* A number, or the text (NULL: none) of an object, at a path of getters from the running machine's
 * configuration, as "storageDevices.0.attachment.cachingMode". */
long standin_config_number(unsigned machine, const char *path);
double standin_config_double(unsigned machine, const char *path);
const char *standin_config_text(unsigned machine,
                                const char *path); /* also the class, with a last ".class" */

#endif
