/* Threads of macOS. */
#ifndef DARWIN_PTHREAD_H
#define DARWIN_PTHREAD_H

#include <signal.h>
#include <sys/types.h>
#include <time.h>

typedef struct darwin_pthread *pthread_t;
typedef struct {
    long sig;
    char opaque[56];
} pthread_mutex_t, pthread_attr_t;
typedef struct {
    long sig;
    char opaque[40];
} pthread_cond_t;
typedef struct {
    long sig;
    char opaque[8];
} pthread_once_t, pthread_condattr_t, pthread_mutexattr_t;

#define PTHREAD_MUTEX_INITIALIZER                                                                            \
    {                                                                                                        \
        0x32aaaba7,                                                                                          \
        {                                                                                                    \
            0                                                                                                \
        }                                                                                                    \
    }
#define PTHREAD_COND_INITIALIZER                                                                             \
    {                                                                                                        \
        0x3cb0b1bb,                                                                                          \
        {                                                                                                    \
            0                                                                                                \
        }                                                                                                    \
    }
#define PTHREAD_ONCE_INIT                                                                                    \
    {                                                                                                        \
        0x30b1bcba,                                                                                          \
        {                                                                                                    \
            0                                                                                                \
        }                                                                                                    \
    }

int pthread_create(pthread_t *out, const pthread_attr_t *attr, void *(*fn)(void *), void *arg);
int pthread_join(pthread_t thread, void **result);
int pthread_detach(pthread_t thread);
pthread_t pthread_self(void);
int pthread_equal(pthread_t a, pthread_t b);
int pthread_setname_np(const char *name);
int pthread_sigmask(int how, const sigset_t *set, sigset_t *old);
int pthread_once(pthread_once_t *once, void (*fn)(void));
int pthread_mutex_init(pthread_mutex_t *mutex, const pthread_mutexattr_t *attr);
int pthread_mutex_destroy(pthread_mutex_t *mutex);
int pthread_mutex_lock(pthread_mutex_t *mutex);
int pthread_mutex_trylock(pthread_mutex_t *mutex);
int pthread_mutex_unlock(pthread_mutex_t *mutex);
int pthread_cond_init(pthread_cond_t *cond, const pthread_condattr_t *attr);
int pthread_cond_destroy(pthread_cond_t *cond);
int pthread_cond_signal(pthread_cond_t *cond);
int pthread_cond_broadcast(pthread_cond_t *cond);
int pthread_cond_wait(pthread_cond_t *cond, pthread_mutex_t *mutex);
int pthread_cond_timedwait_relative_np(pthread_cond_t *cond, pthread_mutex_t *mutex,
                                       const struct timespec *t);

#endif
