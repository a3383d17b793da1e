/* What the systems do differently under host/socket.h. */
#ifndef HOST_SOCKET_IMPL_H
#define HOST_SOCKET_IMPL_H

#include <sys/un.h>

/* A Unix stream socket that neither blocks nor raises SIGPIPE (with socket_send_flags), closed on exec. 0 or
 * errno; *out is -1 then. */
int socket_new(int *out);
void socket_address_init(struct sockaddr_un *a); /* without a path */
extern const int socket_send_flags;              /* for sendmsg */

#endif
