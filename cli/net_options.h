/* The values of --net. */
#ifndef CLI_NET_OPTIONS_H
#define CLI_NET_OPTIONS_H

#include <yado/yado.h>

#define RUN_NET_MAX 8
#define RUN_FORWARD_MAX 32 /* of one device */

enum run_net_kind { RUN_NET_NAT, RUN_NET_TAP, RUN_NET_FD };

struct run_forward {
    enum yado_protocol protocol;
    char host[48]; /* empty: the default */
    uint16_t host_port, guest_port;
};

struct run_net {
    enum run_net_kind kind;
    char *tap; /* owned */
    int fd;
    unsigned mtu; /* 0: the default */
    bool has_mac;
    struct yado_mac mac;
    struct run_forward forwards[RUN_FORWARD_MAX];
    unsigned forward_count;
};

/* The network of a guest: NAT if the option was not given. */
struct net_options {
    struct run_net nets[RUN_NET_MAX];
    unsigned count;
    bool none; /* --net none */
};

/* Reads one --net. EXIT_OK or EXIT_USAGE after the reason was said. */
int net_options_add(struct net_options *o, const char *value);
void net_options_complete(struct net_options *o); /* after the last */
void net_options_free(struct net_options *o);

/* What the library is given for one. The forward borrows from f; the attachment is the caller's. */
struct yado_forward net_options_forward(const struct run_forward *f);
struct yado_network_attachment *net_options_attachment(const struct run_net *n);

/* Adds the devices to the configuration. */
void net_options_apply(const struct net_options *o, struct yado_config *cfg);

#endif
