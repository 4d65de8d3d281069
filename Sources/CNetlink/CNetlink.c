#ifdef __linux__
#define _GNU_SOURCE
#include "CNetlink.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/nsfs.h>
#include <netinet/in.h>
#include <sched.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

int kl_netlink_open(int protocol)
{
    int descriptor = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol);
    if (descriptor < 0)
        return -1;
    struct sockaddr_nl kernel;
    memset(&kernel, 0, sizeof kernel);
    kernel.nl_family = AF_NETLINK;
    // The kernel answers at once; the timeout is for safety.
    struct timeval patience = {.tv_sec = 1};
    setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    if (connect(descriptor, (struct sockaddr *)&kernel, sizeof kernel) < 0) {
        int code = errno;
        close(descriptor);
        errno = code;
        return -1;
    }
    return descriptor;
}

int kl_take_descriptor(int descriptor, int second)
{
    return dup3(descriptor, second, O_CLOEXEC);
}

int kl_enter_network_namespace(int descriptor)
{
    return setns(descriptor, CLONE_NEWNET);
}

int kl_is_network_namespace(int descriptor)
{
    return ioctl(descriptor, NS_GET_NSTYPE) == CLONE_NEWNET;
}

ssize_t kl_send_from(int descriptor, const void *bytes, size_t count, const struct sockaddr *to, unsigned int to_size,
                     const struct sockaddr *from)
{
    union {
        struct cmsghdr header;
        unsigned char space[CMSG_SPACE(sizeof(struct in6_pktinfo))];
    } control;
    struct iovec piece = {.iov_base = (void *)bytes, .iov_len = count};
    struct msghdr message;
    memset(&control, 0, sizeof control);
    memset(&message, 0, sizeof message);
    message.msg_name = (void *)to;
    message.msg_namelen = to_size;
    message.msg_iov = &piece;
    message.msg_iovlen = 1;
    message.msg_control = &control;
    if (from->sa_family == AF_INET) {
        struct in_pktinfo info;
        memset(&info, 0, sizeof info);
        info.ipi_spec_dst = ((const struct sockaddr_in *)from)->sin_addr;
        control.header.cmsg_level = IPPROTO_IP;
        control.header.cmsg_type = IP_PKTINFO;
        control.header.cmsg_len = CMSG_LEN(sizeof info);
        memcpy(CMSG_DATA(&control.header), &info, sizeof info);
        message.msg_controllen = CMSG_SPACE(sizeof info);
    } else {
        struct in6_pktinfo info;
        memset(&info, 0, sizeof info);
        info.ipi6_addr = ((const struct sockaddr_in6 *)from)->sin6_addr;
        // A link-local address needs its interface; for all others this is 0, and the routes decide.
        info.ipi6_ifindex = ((const struct sockaddr_in6 *)from)->sin6_scope_id;
        control.header.cmsg_level = IPPROTO_IPV6;
        control.header.cmsg_type = IPV6_PKTINFO;
        control.header.cmsg_len = CMSG_LEN(sizeof info);
        memcpy(CMSG_DATA(&control.header), &info, sizeof info);
        message.msg_controllen = CMSG_SPACE(sizeof info);
    }
    return sendmsg(descriptor, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
}

void kl_enlarge_receive_buffer(int descriptor, int bytes)
{
    if (setsockopt(descriptor, SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof bytes) < 0)
        setsockopt(descriptor, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof bytes);
}
#else
typedef int kl_nothing_here;
#endif
