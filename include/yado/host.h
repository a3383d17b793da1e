/* What this host can do. */
#ifndef YADO_HOST_H
#define YADO_HOST_H

#include <yado/base.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What runs the guest's CPUs. Numbers are stable. */
enum yado_engine {
    YADO_ENGINE_AUTO = 0,       /* the best one that this host can run */
    YADO_ENGINE_TRANSLATOR = 1, /* binary translation in user space: x86-64 Linux, no privileges */
    YADO_ENGINE_KVM = 2,        /* hardware virtualization by Linux: needs /dev/kvm */
    YADO_ENGINE_APPLE = 3,      /* Virtualization.framework: macOS 11 or later */
};

/* The engines in order of preference: index 0 up to the count, without AUTO. Any thread. */
unsigned yado_engine_count(void);
enum yado_engine yado_engine_at(unsigned index);

/* The word for an engine ("auto", "translator"), NULL if it is not one. Any thread. */
const char *yado_engine_name(enum yado_engine engine);
/* The other way round. False if there is no such engine. */
bool yado_engine_from_name(const char *name, enum yado_engine *engine);

/* Whether this host can run it (for AUTO: any), and if not, why (YADO_ERR_UNSUPPORTED). Any thread; may take
 * some milliseconds. */
bool yado_engine_usable(enum yado_engine engine, struct yado_error *err);
/* Whether it is fit to be taken when nobody names an engine: usable, and fast and complete as far as a quick
 * test can tell. If not, why. Any thread; may take some milliseconds. */
bool yado_engine_good(enum yado_engine engine, struct yado_error *why);
/* The engine that YADO_ENGINE_AUTO stands for here: the first good one, else the first usable one;
 * YADO_ENGINE_AUTO and err if there is none. */
enum yado_engine yado_engine_choose(struct yado_error *err);

#ifdef __cplusplus
}
#endif

#endif
