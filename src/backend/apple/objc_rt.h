/* Our own declarations of the Objective-C runtime's C interface, as macOS exports it from libobjc. On Linux
 * the tests supply what GNU's runtime does not have (objc_msgSend, the ownership calls).
 *
 * BOOL is the type that Apple's compilers give it: bool on Apple silicon, signed char on x86-64 (where only
 * the low byte of a result is defined). */
#ifndef BACKEND_APPLE_OBJC_RT_H
#define BACKEND_APPLE_OBJC_RT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct objc_object *id;
typedef struct objc_class *Class;
typedef const struct objc_selector *SEL;
typedef struct objc_ivar *Ivar;
typedef void (*IMP)(void);
#if defined(__aarch64__)
typedef bool BOOL;
#else
typedef signed char BOOL;
#endif
struct objc_protocol;

Class objc_getClass(const char *name); /* NULL if there is none */
SEL sel_registerName(const char *name);
struct objc_protocol *objc_getProtocol(const char *name); /* NULL if no loaded image carries it */
BOOL class_respondsToSelector(Class cls, SEL sel);
Class object_getClass(id obj);

Class objc_allocateClassPair(Class super, const char *name, size_t extra_bytes); /* NULL: the name is taken */
void objc_registerClassPair(Class cls);
BOOL class_addIvar(Class cls, const char *name, size_t size, uint8_t log2_alignment, const char *type);
BOOL class_addMethod(Class cls, SEL sel, IMP imp, const char *types);
BOOL class_addProtocol(Class cls, struct objc_protocol *protocol);
Ivar object_getInstanceVariable(id obj, const char *name, void **value);
Ivar object_setInstanceVariable(id obj, const char *name, void *value);

/* Never called as it is declared: always through a pointer of the method's exact type (vz.h), because
 * variadic and fixed arguments travel differently on Apple silicon. A message to NULL does nothing and
 * returns 0. */
void objc_msgSend(void);

id objc_retain(id obj);
void objc_release(id obj);
id objc_autorelease(id obj);
void *objc_autoreleasePoolPush(void);
void objc_autoreleasePoolPop(void *pool);

#endif
