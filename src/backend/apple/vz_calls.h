/* One typed function for each row of vz_table.h: class_name(self, arguments...), which sends the row's
 * selector to self (for class methods: vz_class(class)) through the exact type that its encoding says. NULL
 * as self returns 0. What is returned is owned by the caller for alloc and init... (which consumes self),
 * else borrowed until the autorelease pool ends. */
#ifndef BACKEND_APPLE_VZ_CALLS_H
#define BACKEND_APPLE_VZ_CALLS_H

#include "backend/apple/block.h"
#include "backend/apple/vz.h"

/* Through a function, because GCC takes a call of a function that it sees under another type for a mistake.
 */
static inline IMP msg_send(void)
{
    return objc_msgSend;
}

#define VZ_CALL_o_(fn, sel)                                                                                  \
    static inline id fn(id self)                                                                             \
    {                                                                                                        \
        return ((id(*)(id, SEL))msg_send())(self, sel_registerName(sel));                                    \
    }
#define VZ_CALL_o_o(fn, sel)                                                                                 \
    static inline id fn(id self, id a)                                                                       \
    {                                                                                                        \
        return ((id(*)(id, SEL, id))msg_send())(self, sel_registerName(sel), a);                             \
    }
#define VZ_CALL_o_oo(fn, sel)                                                                                \
    static inline id fn(id self, id a, id b)                                                                 \
    {                                                                                                        \
        return ((id(*)(id, SEL, id, id))msg_send())(self, sel_registerName(sel), a, b);                      \
    }
#define VZ_CALL_o_s(fn, sel)                                                                                 \
    static inline id fn(id self, const char *a)                                                              \
    {                                                                                                        \
        return ((id(*)(id, SEL, const char *))msg_send())(self, sel_registerName(sel), a);                   \
    }
#define VZ_CALL_o_e(fn, sel)                                                                                 \
    static inline id fn(id self, id *a)                                                                      \
    {                                                                                                        \
        return ((id(*)(id, SEL, id *))msg_send())(self, sel_registerName(sel), a);                           \
    }
#define VZ_CALL_o_Q(fn, sel)                                                                                 \
    static inline id fn(id self, unsigned long a)                                                            \
    {                                                                                                        \
        return ((id(*)(id, SEL, unsigned long))msg_send())(self, sel_registerName(sel), a);                  \
    }
#define VZ_CALL_o_oB(fn, sel)                                                                                \
    static inline id fn(id self, id a, BOOL b)                                                               \
    {                                                                                                        \
        return ((id(*)(id, SEL, id, BOOL))msg_send())(self, sel_registerName(sel), a, b);                    \
    }
#define VZ_CALL_o_iB(fn, sel)                                                                                \
    static inline id fn(id self, int a, BOOL b)                                                              \
    {                                                                                                        \
        return ((id(*)(id, SEL, int, BOOL))msg_send())(self, sel_registerName(sel), a, b);                   \
    }
#define VZ_CALL_o_qq(fn, sel)                                                                                \
    static inline id fn(id self, long a, long b)                                                             \
    {                                                                                                        \
        return ((id(*)(id, SEL, long, long))msg_send())(self, sel_registerName(sel), a, b);                  \
    }
#define VZ_CALL_o_oBe(fn, sel)                                                                               \
    static inline id fn(id self, id a, BOOL b, id *c)                                                        \
    {                                                                                                        \
        return ((id(*)(id, SEL, id, BOOL, id *))msg_send())(self, sel_registerName(sel), a, b, c);           \
    }
#define VZ_CALL_o_oQe(fn, sel)                                                                               \
    static inline id fn(id self, id a, unsigned long b, id *c)                                               \
    {                                                                                                        \
        return ((id(*)(id, SEL, id, unsigned long, id *))msg_send())(self, sel_registerName(sel), a, b, c);  \
    }
#define VZ_CALL_o_oBqe(fn, sel)                                                                              \
    static inline id fn(id self, id a, BOOL b, long c, id *d)                                                \
    {                                                                                                        \
        return ((id(*)(id, SEL, id, BOOL, long, id *))msg_send())(self, sel_registerName(sel), a, b, c, d);  \
    }
#define VZ_CALL_o_oBqqe(fn, sel)                                                                             \
    static inline id fn(id self, id a, BOOL b, long c, long d, id *e)                                        \
    {                                                                                                        \
        return ((id(*)(id, SEL, id, BOOL, long, long, id *))msg_send())(self, sel_registerName(sel), a, b,   \
                                                                        c, d, e);                            \
    }
#define VZ_CALL_o_odBqe(fn, sel)                                                                             \
    static inline id fn(id self, id a, double b, BOOL c, long d, id *e)                                      \
    {                                                                                                        \
        return ((id(*)(id, SEL, id, double, BOOL, long, id *))msg_send())(self, sel_registerName(sel), a, b, \
                                                                          c, d, e);                          \
    }
#define VZ_CALL_o_pQ(fn, sel)                                                                                \
    static inline id fn(id self, const id *a, unsigned long b)                                               \
    {                                                                                                        \
        return ((id(*)(id, SEL, const id *, unsigned long))msg_send())(self, sel_registerName(sel), a, b);   \
    }
#define VZ_CALL_o_ppQ(fn, sel)                                                                               \
    static inline id fn(id self, const id *a, const id *b, unsigned long c)                                  \
    {                                                                                                        \
        return ((id(*)(id, SEL, const id *, const id *, unsigned long))msg_send())(                          \
            self, sel_registerName(sel), a, b, c);                                                           \
    }
#define VZ_CALL_o_xQ(fn, sel)                                                                                \
    static inline id fn(id self, const void *a, unsigned long b)                                             \
    {                                                                                                        \
        return ((id(*)(id, SEL, const void *, unsigned long))msg_send())(self, sel_registerName(sel), a, b); \
    }
#define VZ_CALL_s_(fn, sel)                                                                                  \
    static inline const char *fn(id self)                                                                    \
    {                                                                                                        \
        return ((const char *(*)(id, SEL))msg_send())(self, sel_registerName(sel));                          \
    }
#define VZ_CALL_x_(fn, sel)                                                                                  \
    static inline const void *fn(id self)                                                                    \
    {                                                                                                        \
        return ((const void *(*)(id, SEL))msg_send())(self, sel_registerName(sel));                          \
    }
#define VZ_CALL_B_(fn, sel)                                                                                  \
    static inline BOOL fn(id self)                                                                           \
    {                                                                                                        \
        return ((BOOL(*)(id, SEL))msg_send())(self, sel_registerName(sel));                                  \
    }
#define VZ_CALL_B_e(fn, sel)                                                                                 \
    static inline BOOL fn(id self, id *a)                                                                    \
    {                                                                                                        \
        return ((BOOL(*)(id, SEL, id *))msg_send())(self, sel_registerName(sel), a);                         \
    }
#define VZ_CALL_B_oe(fn, sel)                                                                                \
    static inline BOOL fn(id self, id a, id *b)                                                              \
    {                                                                                                        \
        return ((BOOL(*)(id, SEL, id, id *))msg_send())(self, sel_registerName(sel), a, b);                  \
    }
#define VZ_CALL_B_ooo(fn, sel)                                                                               \
    static inline BOOL fn(id self, id a, id b, id c)                                                         \
    {                                                                                                        \
        return ((BOOL(*)(id, SEL, id, id, id))msg_send())(self, sel_registerName(sel), a, b, c);             \
    }
#define VZ_CALL_i_(fn, sel)                                                                                  \
    static inline int fn(id self)                                                                            \
    {                                                                                                        \
        return ((int (*)(id, SEL))msg_send())(self, sel_registerName(sel));                                  \
    }
#define VZ_CALL_I_(fn, sel)                                                                                  \
    static inline uint32_t fn(id self)                                                                       \
    {                                                                                                        \
        return ((uint32_t(*)(id, SEL))msg_send())(self, sel_registerName(sel));                              \
    }
#define VZ_CALL_q_(fn, sel)                                                                                  \
    static inline long fn(id self)                                                                           \
    {                                                                                                        \
        return ((long (*)(id, SEL))msg_send())(self, sel_registerName(sel));                                 \
    }
#define VZ_CALL_Q_(fn, sel)                                                                                  \
    static inline unsigned long fn(id self)                                                                  \
    {                                                                                                        \
        return ((unsigned long (*)(id, SEL))msg_send())(self, sel_registerName(sel));                        \
    }
#define VZ_CALL_v_o(fn, sel)                                                                                 \
    static inline void fn(id self, id a)                                                                     \
    {                                                                                                        \
        ((void (*)(id, SEL, id))msg_send())(self, sel_registerName(sel), a);                                 \
    }
#define VZ_CALL_v_oo(fn, sel)                                                                                \
    static inline void fn(id self, id a, id b)                                                               \
    {                                                                                                        \
        ((void (*)(id, SEL, id, id))msg_send())(self, sel_registerName(sel), a, b);                          \
    }
#define VZ_CALL_v_ooo(fn, sel)                                                                               \
    static inline void fn(id self, id a, id b, id c)                                                         \
    {                                                                                                        \
        ((void (*)(id, SEL, id, id, id))msg_send())(self, sel_registerName(sel), a, b, c);                   \
    }
#define VZ_CALL_v_B(fn, sel)                                                                                 \
    static inline void fn(id self, BOOL a)                                                                   \
    {                                                                                                        \
        ((void (*)(id, SEL, BOOL))msg_send())(self, sel_registerName(sel), a);                               \
    }
#define VZ_CALL_v_I(fn, sel)                                                                                 \
    static inline void fn(id self, uint32_t a)                                                               \
    {                                                                                                        \
        ((void (*)(id, SEL, uint32_t))msg_send())(self, sel_registerName(sel), a);                           \
    }
#define VZ_CALL_v_q(fn, sel)                                                                                 \
    static inline void fn(id self, long a)                                                                   \
    {                                                                                                        \
        ((void (*)(id, SEL, long))msg_send())(self, sel_registerName(sel), a);                               \
    }
#define VZ_CALL_v_Q(fn, sel)                                                                                 \
    static inline void fn(id self, unsigned long a)                                                          \
    {                                                                                                        \
        ((void (*)(id, SEL, unsigned long))msg_send())(self, sel_registerName(sel), a);                      \
    }
#define VZ_CALL_v_b(fn, sel)                                                                                 \
    static inline void fn(id self, const struct block *a)                                                    \
    {                                                                                                        \
        ((void (*)(id, SEL, const struct block *))msg_send())(self, sel_registerName(sel), a);               \
    }
#define VZ_CALL_v_ob(fn, sel)                                                                                \
    static inline void fn(id self, id a, const struct block *b)                                              \
    {                                                                                                        \
        ((void (*)(id, SEL, id, const struct block *))msg_send())(self, sel_registerName(sel), a, b);        \
    }
#define VZ_CALL_v_Ib(fn, sel)                                                                                \
    static inline void fn(id self, uint32_t a, const struct block *b)                                        \
    {                                                                                                        \
        ((void (*)(id, SEL, uint32_t, const struct block *))msg_send())(self, sel_registerName(sel), a, b);  \
    }
#define VZ_CALL_v_oI(fn, sel)                                                                                \
    static inline void fn(id self, id a, uint32_t b)                                                         \
    {                                                                                                        \
        ((void (*)(id, SEL, id, uint32_t))msg_send())(self, sel_registerName(sel), a, b);                    \
    }
#define VZ_CALL_v_oQ(fn, sel)                                                                                \
    static inline void fn(id self, id a, unsigned long b)                                                    \
    {                                                                                                        \
        ((void (*)(id, SEL, id, unsigned long))msg_send())(self, sel_registerName(sel), a, b);               \
    }

#define VZ_CALL(cls, name, kind, selector, shape, arch, major, minor) VZ_CALL_##shape(cls##_##name, selector)
VZ_METHODS(VZ_CALL)
#undef VZ_CALL

#endif
