/// What the Swift module of the C library doesn't show: glibc's additions to posix_spawn(3), and the macros of cmsg(3).
#ifndef KL_CSPAWN_H
#define KL_CSPAWN_H

#include <spawn.h>
#include <sys/types.h>

/// A session of its own for the child.
short kl_spawn_setsid(void);
/// The child begins in this folder.
int kl_spawn_add_chdir(posix_spawn_file_actions_t *actions, const char *path);
/// The child gets no descriptor from this one on.
int kl_spawn_add_closefrom(posix_spawn_file_actions_t *actions, int from);
/// The next datagram, and who sent it as the kernel says it (SO_PASSCRED is set on the socket); no process, and user -1, where
/// it doesn't say.
ssize_t kl_receive_from(int socket, void *bytes, size_t size, pid_t *sender, uid_t *user);

#endif
