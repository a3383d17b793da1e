/* Our own declarations of what else macOS exports to C and we use: libdispatch and blocks (libSystem),
 * Security, CoreFoundation, and the one data symbol of Virtualization.framework. On Linux the tests supply
 * them. */
#ifndef BACKEND_APPLE_DARWIN_DECLS_H
#define BACKEND_APPLE_DARWIN_DECLS_H

#include "backend/apple/objc_rt.h"

/* ---- libdispatch. A queue is an object ---- */

id dispatch_queue_create(const char *label, id attributes); /* attributes NULL: serial. Owned by the caller */
void dispatch_async_f(id queue, void *ctx, void (*fn)(void *ctx));
void dispatch_sync_f(id queue, void *ctx, void (*fn)(void *ctx)); /* not from the queue itself */
void dispatch_release(id queue);

/* ---- blocks (the Block ABI of Clang's documentation) ---- */

extern void *_NSConcreteStackBlock[32];
#define BLOCK_HAS_SIGNATURE (1 << 30)

/* ---- Security and CoreFoundation: what this process is entitled to ---- */

typedef const void *CFTypeRef;

CFTypeRef SecTaskCreateFromSelf(CFTypeRef allocator);
CFTypeRef SecTaskCopyValueForEntitlement(CFTypeRef task, CFTypeRef name, CFTypeRef *error);
void CFRelease(CFTypeRef object);            /* not NULL */
unsigned long CFGetTypeID(CFTypeRef object); /* not NULL */
unsigned long CFBooleanGetTypeID(void);
unsigned char CFBooleanGetValue(CFTypeRef boolean);

/* ---- Virtualization ---- */

extern id VZErrorDomain; /* NSString */

#endif
