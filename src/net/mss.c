/* Long TCP segments to a guest with an ordinary MTU.
 *
 * Theory of operation. The network stack behind NAT ends each TCP connection of the guest in this process. It
 * cuts what it sends by the maximum segment size that the guest announced when the connection was opened
 * (1460 bytes on Ethernet), and each piece costs a pass through that stack, the device and the guest's. But
 * nothing between it and the guest has a size limit: virtio-net can hand over a packet of 64 KiB that stands
 * for many segments (GSO). So the announced size is raised on its way to the stack, and what comes back
 * longer than the guest's own size is marked as GSO with that size, as network hardware marks what it has put
 * together from many packets (large receive offload). The guest sees its own size everywhere: in
 * acknowledgements, in what it forwards to containers, in its statistics.
 *
 * The sizes are kept in a table by addresses and ports. A flow may be overwritten by another of equal hash,
 * and then has the smallest size that every host must take, which is right and a little slower. */
#include "net/mss.h"

#include <string.h>

#include "net/offload.h"

enum { TCP_SYN = 2, TCP_FLAGS = 13, TCP_CSUM = 16, TCP_LEN = 20 };
enum { OPT_END = 0, OPT_NOP = 1, OPT_MSS = 2, OPT_MSS_LEN = 4 };
#define MSS_LEAST4 536 /* RFC 9293, 3.7.1 */
#define MSS_LEAST6 1220

static struct mss_flow flow_of(const uint8_t *data, const struct net_layers *l, bool from_guest)
{
    const uint8_t *ip = data + l->l3, *tcp = data + l->l4;
    unsigned len = l->v6 ? 16 : 4, src = from_guest ? 0 : 1;
    struct mss_flow f = { .mss = 0 };

    memcpy(f.addr[src] + 16 - len, ip + (l->v6 ? 8 : 12), len);
    memcpy(f.addr[!src] + 16 - len, ip + (l->v6 ? 24 : 16), len);
    memcpy(&f.port[src], tcp, 2);
    memcpy(&f.port[!src], tcp + 2, 2);
    return f;
}

static unsigned flow_slot(const struct mss_flow *f)
{
    uint32_t h = (uint32_t)f->port[0] << 16 | f->port[1], a, b;

    memcpy(&a, f->addr[1] + 12, 4);
    memcpy(&b, f->addr[1] + 8, 4);
    h = (h ^ a ^ b << 7) * 0x9e3779b1u;
    return h >> 16 & (MSS_FLOWS - 1);
}

static bool same_flow(const struct mss_flow *a, const struct mss_flow *b)
{
    return !memcmp(a->addr, b->addr, sizeof(a->addr)) && !memcmp(a->port, b->port, sizeof(a->port));
}

/* The value of the MSS option, NULL if there is none. */
static uint8_t *option_find(uint8_t *p, const uint8_t *end)
{
    while (p < end && *p != OPT_END) {
        if (*p == OPT_NOP) {
            p++;
            continue;
        }
        if (end - p < 2 || p[1] < 2 || p[1] > end - p)
            return NULL;
        if (*p == OPT_MSS)
            return p[1] == OPT_MSS_LEN ? p + 2 : NULL;
        p += p[1];
    }
    return NULL;
}

void mss_raise(struct mss_table *t, struct net_frame *f, uint16_t size)
{
    struct net_layers l;
    struct mss_flow flow;
    uint8_t *option, *tcp;
    uint16_t csum, fresh;

    if (!net_layers_find(f->data, f->len, &l) || l.udp)
        return;
    tcp = f->data + l.l4;
    option = tcp[TCP_FLAGS] & TCP_SYN ? option_find(tcp + TCP_LEN, f->data + l.payload) : NULL;
    if (!option)
        return;
    flow = flow_of(f->data, &l, true);
    flow.mss = (uint16_t)(option[0] << 8 | option[1]);
    if (flow.mss == 0 || flow.mss >= size)
        return;
    t->flows[flow_slot(&flow)] = flow;

    /* A checksum that was right before is right after; a wrong one stays wrong. */
    memcpy(&csum, tcp + TCP_CSUM, 2);
    if ((option - tcp) % 2 == 0) {
        uint16_t old;

        memcpy(&old, option, 2);
        option[0] = (uint8_t)(size >> 8);
        option[1] = (uint8_t)size;
        memcpy(&fresh, option, 2);
        csum = (uint16_t)~net_sum_fold((uint64_t)(uint16_t)~csum + (uint16_t)~old + fresh); /* RFC 1624 */
    } else { /* the option lies across two words, each with one byte of it */
        uint16_t old[2], now[2];

        memcpy(old, option - 1, 4);
        option[0] = (uint8_t)(size >> 8);
        option[1] = (uint8_t)size;
        memcpy(now, option - 1, 4);
        csum = (uint16_t)~net_sum_fold((uint64_t)(uint16_t)~csum + (uint16_t)~old[0] + (uint16_t)~old[1] +
                                       now[0] + now[1]);
    }
    memcpy(tcp + TCP_CSUM, &csum, 2);
}

void mss_mark(const struct mss_table *t, struct net_frame *f)
{
    struct net_layers l;
    struct mss_flow flow;
    const struct mss_flow *known;
    uint16_t mss, pseudo;

    f->off = (struct net_offload){ .flags = NET_DATA_VALID };
    if (!net_layers_find(f->data, f->len, &l) || l.udp)
        return;
    flow = flow_of(f->data, &l, false);
    known = &t->flows[flow_slot(&flow)];
    mss = known->mss && same_flow(known, &flow) ? known->mss : l.v6 ? MSS_LEAST6 : MSS_LEAST4;
    /* Options take room in each segment beside the payload. */
    if (l.payload - l.l4 > TCP_LEN && mss > l.payload - l.l4)
        mss = (uint16_t)(mss - (l.payload - l.l4 - TCP_LEN));
    if (l.end - l.payload <= mss)
        return;
    f->len = l.end;
    f->off = (struct net_offload){
        .flags = NET_NEEDS_CSUM,
        .gso_type = l.v6 ? NET_GSO_TCPV6 : NET_GSO_TCPV4,
        .hdr_len = (uint16_t)l.payload,
        .gso_size = mss,
        .csum_start = (uint16_t)l.l4,
        .csum_offset = TCP_CSUM,
    };
    pseudo = net_sum_fold(net_pseudo_sum(f->data, &l, l.end - l.l4));
    memcpy(f->data + l.l4 + TCP_CSUM, &pseudo, 2);
}
