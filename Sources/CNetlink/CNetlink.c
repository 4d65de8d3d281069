#ifdef __linux__
#define _GNU_SOURCE
#include "CNetlink.h"

#include <errno.h>
#include <linux/nsfs.h>
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
    // The kernel answers at once; should it ever not, this side doesn't wait for ever.
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

int kl_enter_network_namespace(int descriptor)
{
    return setns(descriptor, CLONE_NEWNET);
}

int kl_is_network_namespace(int descriptor)
{
    return ioctl(descriptor, NS_GET_NSTYPE) == CLONE_NEWNET;
}
#else
typedef int kl_nothing_here;
#endif
