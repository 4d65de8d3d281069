#ifdef __linux__
#define _GNU_SOURCE
#include "CDatagrams.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif

static const int buffer_size = 4 * 1024 * 1024;

struct control {
    _Alignas(struct cmsghdr) char bytes[CMSG_SPACE(sizeof(uint16_t)) + CMSG_SPACE(sizeof(struct in6_pktinfo))];
};

static struct cmsghdr *append(struct msghdr *header, struct cmsghdr *last, int level, int type, const void *data, size_t size)
{
    struct cmsghdr *next = last ? (struct cmsghdr *)((char *)last + CMSG_ALIGN(last->cmsg_len)) : header->msg_control;
    next->cmsg_level = level;
    next->cmsg_type = type;
    next->cmsg_len = CMSG_LEN(size);
    memcpy(CMSG_DATA(next), data, size);
    header->msg_controllen = (size_t)((char *)next - (char *)header->msg_control) + CMSG_SPACE(size);
    return next;
}

static void fill(struct msghdr *header, struct iovec *piece, struct control *control, const struct kl_datagram *from)
{
    memset(header, 0, sizeof *header);
    memset(control, 0, sizeof *control);
    piece->iov_base = (void *)from->bytes;
    piece->iov_len = from->length;
    header->msg_iov = piece;
    header->msg_iovlen = 1;
    header->msg_name = (void *)&from->destination;
    header->msg_namelen = from->destination.sin6_family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6);
    header->msg_control = control->bytes;
    struct cmsghdr *last = NULL;
    if (from->segment != 0 && from->segment < from->length)
        last = append(header, last, IPPROTO_UDP, UDP_SEGMENT, &from->segment, sizeof from->segment);
    if (from->source_family == AF_INET) {
        struct in_pktinfo info = {0};
        memcpy(&info.ipi_spec_dst, from->source, 4);
        last = append(header, last, IPPROTO_IP, IP_PKTINFO, &info, sizeof info);
    } else if (from->source_family == AF_INET6) {
        struct in6_pktinfo info = {0};
        memcpy(&info.ipi6_addr, from->source, 16);
        info.ipi6_ifindex = from->source_interface;
        last = append(header, last, IPPROTO_IPV6, IPV6_PKTINFO, &info, sizeof info);
    }
    if (last == NULL)
        header->msg_control = NULL;
}

int kl_send_datagrams(int descriptor, const struct kl_datagram *datagrams, unsigned count)
{
    struct mmsghdr headers[KL_DATAGRAMS_AT_ONCE];
    struct iovec pieces[KL_DATAGRAMS_AT_ONCE];
    struct control controls[KL_DATAGRAMS_AT_ONCE];
    if (count > KL_DATAGRAMS_AT_ONCE)
        count = KL_DATAGRAMS_AT_ONCE;
    for (unsigned at = 0; at < count; at++) {
        fill(&headers[at].msg_hdr, &pieces[at], &controls[at], &datagrams[at]);
        headers[at].msg_len = 0;
    }
    int sent;
    do
        sent = sendmmsg(descriptor, headers, count, MSG_DONTWAIT | MSG_NOSIGNAL);
    while (sent < 0 && errno == EINTR);
    return sent;
}

static void set(int descriptor, int level, int option, int value)
{
    // Errors are ignored: these options only make things faster or allow larger messages.
    (void)setsockopt(descriptor, level, option, &value, sizeof value);
}

int kl_prepare_datagrams(int descriptor)
{
    int flags = fcntl(descriptor, F_GETFL);
    if (flags < 0 || fcntl(descriptor, F_SETFL, flags | O_NONBLOCK) < 0)
        return -1;
    set(descriptor, IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_PROBE);
    set(descriptor, IPPROTO_IPV6, IPV6_MTU_DISCOVER, IPV6_PMTUDISC_PROBE);
    // First up to the user's limit, then beyond it, which needs CAP_NET_ADMIN.
    set(descriptor, SOL_SOCKET, SO_RCVBUF, buffer_size);
    set(descriptor, SOL_SOCKET, SO_SNDBUF, buffer_size);
    set(descriptor, SOL_SOCKET, SO_RCVBUFFORCE, buffer_size);
    set(descriptor, SOL_SOCKET, SO_SNDBUFFORCE, buffer_size);
    return 0;
}

int kl_open_datagrams(const struct sockaddr_in6 *address)
{
    int family = address->sin6_family;
    int descriptor = socket(family, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (descriptor < 0)
        return -1;
    if (family == AF_INET6)
        set(descriptor, IPPROTO_IPV6, IPV6_V6ONLY, 0);
    socklen_t size = family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6);
    if (kl_prepare_datagrams(descriptor) < 0 || bind(descriptor, (const struct sockaddr *)address, size) < 0) {
        int code = errno;
        close(descriptor);
        errno = code;
        return -1;
    }
    return descriptor;
}

int kl_watch_addresses(void)
{
    int descriptor = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_ROUTE);
    if (descriptor < 0)
        return -1;
    struct sockaddr_nl groups;
    memset(&groups, 0, sizeof groups);
    groups.nl_family = AF_NETLINK;
    groups.nl_groups = RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR | RTMGRP_IPV4_ROUTE | RTMGRP_IPV6_ROUTE;
    if (bind(descriptor, (struct sockaddr *)&groups, sizeof groups) < 0) {
        int code = errno;
        close(descriptor);
        errno = code;
        return -1;
    }
    return descriptor;
}
#else
typedef int kl_nothing_here;
#endif
