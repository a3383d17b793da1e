/* Network configuration objects, MAC addresses, and what is checked of them. */
#include <arpa/inet.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "api/config_priv.h"
#include "backend/backend.h"
#include "host/random.h"

#define INTERFACE_NAME_MAX 15 /* bytes, Linux's IFNAMSIZ without the final zero */

_Static_assert(YADO_MTU_MIN == NET_MTU_MIN && YADO_MTU_MAX == NET_MTU_MAX, "one limit, two names");

/* ---- addresses ---- */

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

bool yado_mac_parse(const char *text, struct yado_mac *mac)
{
    struct yado_mac m;

    for (unsigned i = 0; i < 6; i++, text += 3) {
        int high = hex_digit(text[0]), low = high < 0 ? -1 : hex_digit(text[1]);

        if (low < 0 || text[2] != (i < 5 ? ':' : '\0'))
            return false;
        m.octet[i] = (uint8_t)(high << 4 | low);
    }
    *mac = m;
    return true;
}

void yado_mac_format(const struct yado_mac *mac, char text[YADO_MAC_TEXT_LEN])
{
    net_mac_format(mac->octet, text);
}

struct yado_mac yado_mac_random(void)
{
    struct yado_mac m = { { 0 } };

    random_bytes(m.octet, sizeof(m.octet));
    m.octet[0] = (uint8_t)((m.octet[0] & ~1) | 2); /* unicast, locally administered */
    return m;
}

/* ---- attachments ---- */

static struct yado_network_attachment *attachment_new(enum net_kind kind)
{
    struct yado_network_attachment *a = calloc(1, sizeof(*a));

    if (a)
        a->net = (struct spec_net){ .has_attachment = true,
                                    .config = { .kind = kind, .fd = -1, .mtu = NET_MTU_DEFAULT } };
    return a;
}

struct yado_network_attachment *yado_nat_new(void)
{
    return attachment_new(NET_NAT);
}

struct net_forward forward_of(const struct yado_forward *f)
{
    const char *host = f->host_address ? f->host_address : "127.0.0.1";
    struct net_forward to = { .udp = f->protocol == YADO_UDP,
                              .host_port = f->host_port,
                              .guest_port = f->guest_port };

    /* What does not fit is no address, cut or not. */
    memcpy(to.host, host, strnlen(host, sizeof(to.host) - 1));
    if (strlen(host) >= sizeof(to.host))
        to.host[0] = '?';
    return to;
}

void yado_nat_add_forward(struct yado_network_attachment *nat, const struct yado_forward *forward)
{
    struct net_forward f = forward_of(forward);

    if (!nat)
        return;
    if (nat->net.config.kind != NET_NAT)
        nat->net.forwards_unfit = true;
    else if (!spec_forward_add(&nat->net.config, &f))
        nat->out_of_memory = true;
}

static struct yado_network_attachment *named_new(enum net_kind kind, const char *name)
{
    struct yado_network_attachment *a = attachment_new(kind);

    if (a)
        a->net.config.name = strdup(name ? name : "");
    if (a && a->net.config.name)
        return a;
    yado_network_attachment_free(a);
    return NULL;
}

struct yado_network_attachment *yado_tap_new(const char *name)
{
    return named_new(NET_TAP, name);
}

struct yado_network_attachment *yado_bridged_new(const char *name)
{
    return named_new(NET_BRIDGED, name);
}

unsigned yado_each_bridged_interface(void (*fn)(void *ctx, const char *name, const char *display_name),
                                     void *ctx)
{
    const struct backend_ops *ops = backend_here();

    return ops->each_bridged_interface ? ops->each_bridged_interface(fn, ctx) : 0;
}

struct yado_network_attachment *yado_fd_network_new(int fd)
{
    struct yado_network_attachment *a = fd >= 0 ? attachment_new(NET_FD) : NULL;

    if (a && spec_fd_dup(fd, &a->net.config.fd))
        return a;
    yado_network_attachment_free(a);
    return NULL;
}

void yado_fd_network_set_mtu(struct yado_network_attachment *attachment, unsigned mtu)
{
    if (!attachment)
        return;
    attachment->net.config.mtu = mtu;
    attachment->net.mtu_unfit = attachment->net.config.kind != NET_FD;
}

void yado_network_attachment_free(struct yado_network_attachment *attachment)
{
    if (!attachment)
        return;
    spec_net_clear(&attachment->net);
    free(attachment);
}

/* ---- devices ---- */

struct yado_network *yado_virtio_net_new(struct yado_network_attachment *attachment)
{
    struct yado_network *n = calloc(1, sizeof(*n));
    struct yado_mac mac;

    if (!n || !attachment) {
        yado_network_attachment_free(attachment);
        free(n);
        return NULL;
    }
    n->net = attachment->net; /* moved */
    n->out_of_memory = attachment->out_of_memory;
    free(attachment);
    mac = yado_mac_random();
    yado_network_set_mac(n, &mac);
    return n;
}

void yado_network_set_mac(struct yado_network *network, const struct yado_mac *mac)
{
    if (network)
        memcpy(network->net.mac, mac->octet, sizeof(network->net.mac));
}

struct yado_mac yado_network_mac(const struct yado_network *network)
{
    struct yado_mac m;

    memcpy(m.octet, network->net.mac, sizeof(m.octet));
    return m;
}

void yado_network_free(struct yado_network *network)
{
    if (!network)
        return;
    spec_net_clear(&network->net);
    free(network);
}

/* ---- checks ---- */

bool forward_check(const struct net_forward *f, struct yado_error *err)
{
    uint8_t address[16];

    if (inet_pton(AF_INET, f->host, address) != 1 && inet_pton(AF_INET6, f->host, address) != 1)
        return err_set(err, YADO_ERR_INVALID_CONFIG, "forward: \"%s\" is not an IPv4 or IPv6 address",
                       f->host);
    if (!f->host_port || !f->guest_port)
        return err_set(err, YADO_ERR_INVALID_CONFIG, "forward: ports are from 1 to 65535");
    return true;
}

static bool same_listener(const struct net_forward *a, const struct net_forward *b)
{
    return a->udp == b->udp && a->host_port == b->host_port && !strcmp(a->host, b->host);
}

static bool forwards_check(const struct net_config *c, unsigned index, struct yado_error *err)
{
    for (unsigned i = 0; i < c->forward_count; i++) {
        if (!forward_check(&c->forwards[i], err))
            return err_prepend(err, "network[%u].forwards[%u]", index, i);
        for (unsigned j = 0; j < i; j++) {
            if (same_listener(&c->forwards[i], &c->forwards[j]))
                return err_set(err, YADO_ERR_INVALID_CONFIG,
                               "network[%u].forwards[%u]: %s port %u at %s is taken by forwards[%u]", index,
                               i, c->forwards[i].udp ? "udp" : "tcp", c->forwards[i].host_port,
                               c->forwards[i].host, j);
        }
    }
    return true;
}

bool attachment_check(const struct spec_net *n, unsigned index, struct yado_error *err)
{
    const struct net_config *c = &n->config;

    if (!n->has_attachment)
        return err_set(err, YADO_ERR_INVALID_CONFIG, "network[%u].attachment: there is none", index);
    if (n->forwards_unfit)
        return err_set(err, YADO_ERR_INVALID_CONFIG, "network[%u].forwards: only NAT has forwards", index);
    if (n->mtu_unfit)
        return err_set(err, YADO_ERR_INVALID_CONFIG, "network[%u].mtu: only a socket's can be set", index);
    if (c->mtu < NET_MTU_MIN || c->mtu > NET_MTU_MAX)
        return err_set(err, YADO_ERR_INVALID_CONFIG, "network[%u].mtu: %u is not from %u to %u", index,
                       c->mtu, NET_MTU_MIN, NET_MTU_MAX);
    if ((c->kind == NET_TAP || c->kind == NET_BRIDGED) &&
        (!c->name[0] || strlen(c->name) > INTERFACE_NAME_MAX))
        return err_set(err, YADO_ERR_INVALID_CONFIG,
                       "network[%u].attachment: \"%.40s\" is not the name of an interface", index, c->name);
    return forwards_check(c, index, err);
}

static bool mac_check(const struct spec *s, unsigned index, struct yado_error *err)
{
    static const uint8_t none[6];
    const uint8_t *mac = s->nets[index].mac;
    char text[YADO_MAC_TEXT_LEN];

    net_mac_format(mac, text);
    if ((mac[0] & 1) || !memcmp(mac, none, sizeof(none)))
        return err_set(err, YADO_ERR_INVALID_CONFIG, "network[%u].mac: %s is not a unicast address", index,
                       text);
    for (unsigned i = 0; i < index; i++) {
        if (!memcmp(mac, s->nets[i].mac, sizeof(none)))
            return err_set(err, YADO_ERR_INVALID_CONFIG, "network[%u].mac: %s is that of network[%u]", index,
                           text, i);
    }
    return true;
}

/* Two devices of one machine that listen on one port would find out at the start only. */
static bool listeners_check(const struct spec *s, unsigned index, struct yado_error *err)
{
    const struct net_config *c = &s->nets[index].config;

    for (unsigned i = 0; i < index; i++) {
        const struct net_config *o = &s->nets[i].config;

        for (unsigned j = 0; j < c->forward_count; j++) {
            for (unsigned k = 0; k < o->forward_count; k++) {
                if (same_listener(&c->forwards[j], &o->forwards[k]))
                    return err_set(err, YADO_ERR_INVALID_CONFIG,
                                   "network[%u].forwards[%u]: %s port %u at %s is taken by network[%u]",
                                   index, j, c->forwards[j].udp ? "udp" : "tcp", c->forwards[j].host_port,
                                   c->forwards[j].host, i);
            }
        }
    }
    return true;
}

bool networks_check(const struct spec *s, struct yado_error *err)
{
    for (unsigned i = 0; i < s->net_count; i++) {
        if (!attachment_check(&s->nets[i], i, err) || !mac_check(s, i, err) || !listeners_check(s, i, err))
            return false;
    }
    return true;
}
