/* Strings and memory. */
#ifndef DARWIN_STRING_H
#define DARWIN_STRING_H

#include <stddef.h>
#include <sys/types.h>

void *memcpy(void *to, const void *from, size_t len);
void *memmove(void *to, const void *from, size_t len);
void *memset(void *to, int c, size_t len);
int memcmp(const void *a, const void *b, size_t len);
void *memchr(const void *p, int c, size_t len);
size_t strlen(const char *s);
size_t strnlen(const char *s, size_t max);
char *strdup(const char *s);
char *strndup(const char *s, size_t max);
char *strchr(const char *s, int c);
char *strrchr(const char *s, int c);
char *strstr(const char *s, const char *part);
char *strcpy(char *to, const char *from);
char *strncpy(char *to, const char *from, size_t len);
char *strncat(char *to, const char *from, size_t len);
int strcmp(const char *a, const char *b);
int strncmp(const char *a, const char *b, size_t len);
size_t strcspn(const char *s, const char *stop);
size_t strspn(const char *s, const char *pass);
char *strpbrk(const char *s, const char *any);
char *strtok_r(char *s, const char *stop, char **state);
char *strerror(int error);
int strerror_r(int error, char *buf, size_t size);
char *strsignal(int signo);

#endif
