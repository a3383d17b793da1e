/* Streams of macOS. */
#ifndef DARWIN_STDIO_H
#define DARWIN_STDIO_H

#include <stdarg.h>
#include <sys/types.h>

typedef struct darwin_file FILE;
extern FILE *__stdinp, *__stdoutp, *__stderrp;
#define stdin __stdinp
#define stdout __stdoutp
#define stderr __stderrp
#define EOF (-1)
#define SEEK_SET 0
#define SEEK_CUR 1
#define SEEK_END 2
#define BUFSIZ 1024
#define DARWIN_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))

FILE *fopen(const char *path, const char *mode);
FILE *fdopen(int fd, const char *mode);
int fclose(FILE *f);
int fflush(FILE *f);
size_t fread(void *buf, size_t size, size_t count, FILE *f);
size_t fwrite(const void *buf, size_t size, size_t count, FILE *f);
char *fgets(char *buf, int size, FILE *f);
int fputs(const char *text, FILE *f);
int fputc(int c, FILE *f);
int putchar(int c);
int puts(const char *text);
int ferror(FILE *f);
int feof(FILE *f);
int fileno(FILE *f);
int setvbuf(FILE *f, char *buf, int mode, size_t size);
int remove(const char *path);
int rename(const char *from, const char *to);
void perror(const char *text);
int printf(const char *fmt, ...) DARWIN_PRINTF(1, 2);
int fprintf(FILE *f, const char *fmt, ...) DARWIN_PRINTF(2, 3);
int snprintf(char *buf, size_t size, const char *fmt, ...) DARWIN_PRINTF(3, 4);
int asprintf(char **out, const char *fmt, ...) DARWIN_PRINTF(2, 3);
int dprintf(int fd, const char *fmt, ...) DARWIN_PRINTF(2, 3);
int vprintf(const char *fmt, va_list ap) DARWIN_PRINTF(1, 0);
int vfprintf(FILE *f, const char *fmt, va_list ap) DARWIN_PRINTF(2, 0);
int vsnprintf(char *buf, size_t size, const char *fmt, va_list ap) DARWIN_PRINTF(3, 0);
int vasprintf(char **out, const char *fmt, va_list ap) DARWIN_PRINTF(2, 0);
int sscanf(const char *text, const char *fmt, ...) __attribute__((format(scanf, 2, 3)));

#endif
