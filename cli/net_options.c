/* See net_options.h. */
#include "net_options.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "args.h"
#include "cli.h"

static const char forward_form[] = "tcp|udp:[HOSTADDR:]HOSTPORT:GUESTPORT";

/* A copy of a word's `len` bytes in `buf`; false if it is too long. */
static bool word_copy(char *buf, size_t room, const char *word, size_t len)
{
    if (len >= room)
        return false;
    memcpy(buf, word, len);
    buf[len] = '\0';
    return true;
}

static bool port_parse(const char *text, uint16_t *port)
{
    uint64_t n;

    if (!number_parse(text, 1, 65535, &n))
        return false;
    *port = (uint16_t)n;
    return true;
}

/* tcp:8080:80, udp:127.0.0.1:5353:53, tcp:[::1]:8080:80. Changes `text`. */
static bool forward_parse(struct run_forward *f, char *text)
{
    char *guest, *port;
    size_t len;

    if (!strncmp(text, "tcp:", 4))
        f->protocol = YADO_TCP;
    else if (!strncmp(text, "udp:", 4))
        f->protocol = YADO_UDP;
    else
        return false;
    text += 4;
    guest = strrchr(text, ':');
    if (!guest || !port_parse(guest + 1, &f->guest_port))
        return false;
    *guest = '\0';
    port = strrchr(text, ':');
    f->host[0] = '\0';
    if (!port)
        return port_parse(text, &f->host_port);
    *port = '\0';
    len = strlen(text);
    if (len >= 2 && text[0] == '[' && text[len - 1] == ']') {
        text++;
        len -= 2;
    }
    return len && port_parse(port + 1, &f->host_port) && word_copy(f->host, sizeof(f->host), text, len);
}

static int forward_add(struct run_net *n, const char *value, const char *word, size_t len)
{
    struct run_forward f;
    char text[128];

    if (n->kind != RUN_NET_NAT)
        return usage_error("--net %s: only nat has forwards", value);
    if (n->forward_count == RUN_FORWARD_MAX)
        return usage_error("--net %s: more than %d forwards", value, RUN_FORWARD_MAX);
    if (!word_copy(text, sizeof(text), word, len) || !forward_parse(&f, text))
        return usage_error("--net: forward=%.*s is not of the form forward=%s", (int)len, word, forward_form);
    n->forwards[n->forward_count++] = f;
    return EXIT_OK;
}

static int mac_set(struct run_net *n, const char *word, size_t len)
{
    char text[32];

    n->has_mac = word_copy(text, sizeof(text), word, len) && yado_mac_parse(text, &n->mac);
    return n->has_mac
               ? EXIT_OK
               : usage_error("--net: mac=%.*s is not an address such as 52:54:00:12:34:56", (int)len, word);
}

static int mtu_set(struct run_net *n, const char *value, const char *word, size_t len)
{
    char text[16];
    uint64_t mtu;

    if (n->kind != RUN_NET_FD)
        return usage_error("--net %s: only fd has an mtu", value);
    if (!word_copy(text, sizeof(text), word, len) || !number_parse(text, YADO_MTU_MIN, YADO_MTU_MAX, &mtu))
        return usage_error("--net: mtu=%.*s is not a number from %u to %u", (int)len, word, YADO_MTU_MIN,
                           YADO_MTU_MAX);
    n->mtu = (unsigned)mtu;
    return EXIT_OK;
}

static int kind_set(struct run_net *n, const char *word, size_t len)
{
    char text[16];
    uint64_t fd;

    if (len == 3 && !memcmp(word, "nat", 3)) {
        n->kind = RUN_NET_NAT;
    } else if (len > 4 && !memcmp(word, "tap=", 4)) {
        n->kind = RUN_NET_TAP;
        if (asprintf(&n->tap, "%.*s", (int)len - 4, word + 4) < 0)
            n->tap = NULL;
    } else if (len > 3 && !memcmp(word, "fd=", 3)) {
        n->kind = RUN_NET_FD;
        if (!word_copy(text, sizeof(text), word + 3, len - 3) || !number_parse(text, 0, 1 << 20, &fd))
            return usage_error("--net: \"%.*s\" is not the number of a descriptor", (int)len, word);
        n->fd = (int)fd;
        if (fcntl(n->fd, F_GETFD) < 0)
            return usage_error("--net: descriptor %d is not open", n->fd);
    } else {
        return usage_error("--net: \"%.*s\" is none of none, nat, tap=NAME, fd=N", (int)len, word);
    }
    return EXIT_OK;
}

static int word_read(struct run_net *n, const char *value, const char *word, size_t len)
{
    if (len > 4 && !memcmp(word, "mac=", 4))
        return mac_set(n, word + 4, len - 4);
    if (len > 4 && !memcmp(word, "mtu=", 4))
        return mtu_set(n, value, word + 4, len - 4);
    if (len > 8 && !memcmp(word, "forward=", 8))
        return forward_add(n, value, word + 8, len - 8);
    return usage_error("--net %s: \"%.*s\" is none of mac=M, mtu=N, forward=%s", value, (int)len, word,
                       forward_form);
}

int net_options_add(struct net_options *o, const char *value)
{
    const char *word = value;
    struct run_net *n;
    int status;

    if (!strncmp(value, "none,", 5))
        return usage_error("--net %s: nothing comes after \"none\"", value);
    if (o->none || (!strcmp(value, "none") && o->count))
        return usage_error("--net: \"none\" goes with no other --net");
    if (!strcmp(value, "none")) {
        o->none = true;
        return EXIT_OK;
    }
    if (o->count == RUN_NET_MAX)
        return usage_error("--net: more than %d", RUN_NET_MAX);
    n = &o->nets[o->count++];
    *n = (struct run_net){ .fd = -1 };
    status = kind_set(n, word, strcspn(word, ","));
    word += strcspn(word, ",");
    while (status == EXIT_OK && *word == ',') {
        size_t len = strcspn(++word, ",");

        status = word_read(n, value, word, len);
        word += len;
    }
    return status;
}

void net_options_complete(struct net_options *o)
{
    if (!o->count && !o->none)
        o->nets[o->count++] = (struct run_net){ .kind = RUN_NET_NAT, .fd = -1 };
}

void net_options_free(struct net_options *o)
{
    for (unsigned i = 0; i < o->count; i++)
        free(o->nets[i].tap);
    o->count = 0;
}

struct yado_forward net_options_forward(const struct run_forward *f)
{
    return (struct yado_forward){ .protocol = f->protocol,
                                  .host_address = f->host[0] ? f->host : NULL,
                                  .host_port = f->host_port,
                                  .guest_port = f->guest_port };
}

struct yado_network_attachment *net_options_attachment(const struct run_net *n)
{
    struct yado_network_attachment *a;

    switch (n->kind) {
    case RUN_NET_TAP: return yado_tap_new(n->tap);
    case RUN_NET_FD:
        a = yado_fd_network_new(n->fd);
        if (n->mtu)
            yado_fd_network_set_mtu(a, n->mtu);
        return a;
    case RUN_NET_NAT: break;
    }
    a = yado_nat_new();
    for (unsigned i = 0; i < n->forward_count; i++) {
        struct yado_forward f = net_options_forward(&n->forwards[i]);

        yado_nat_add_forward(a, &f);
    }
    return a;
}

void net_options_apply(const struct net_options *o, struct yado_config *cfg)
{
    for (unsigned i = 0; i < o->count; i++) {
        struct yado_network *n = yado_virtio_net_new(net_options_attachment(&o->nets[i]));

        if (o->nets[i].has_mac)
            yado_network_set_mac(n, &o->nets[i].mac);
        yado_config_add_network(cfg, n);
    }
}
