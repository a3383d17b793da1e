/* Internet addresses as text. */
#ifndef DARWIN_ARPA_INET_H
#define DARWIN_ARPA_INET_H

#include <sys/socket.h>

int inet_pton(int family, const char *text, void *address);
const char *inet_ntop(int family, const void *address, char *text, socklen_t size);

#endif
