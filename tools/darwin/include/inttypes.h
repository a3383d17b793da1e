/* Formats of the fixed-width types: 64 bits are long long on macOS. */
#ifndef DARWIN_INTTYPES_H
#define DARWIN_INTTYPES_H

#include <stdint.h>

#define PRId32 "d"
#define PRIi32 "i"
#define PRIu32 "u"
#define PRIx32 "x"
#define PRIu16 "hu"
#define PRIx16 "hx"
#define PRIu8 "hhu"
#define PRId64 "lld"
#define PRIi64 "lli"
#define PRIu64 "llu"
#define PRIx64 "llx"
#define SCNu64 "llu"
#define SCNx64 "llx"

#endif
