/* MAC addresses as text. */
#include <stdio.h>

#include "net/net.h"

void net_mac_format(const uint8_t mac[6], char *text)
{
    snprintf(text, 18, "%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1], mac[2], mac[3], mac[4], mac[5]);
}
