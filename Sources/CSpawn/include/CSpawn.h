/// What the C library's Swift module lacks: glibc's additions to posix_spawn(3), the macros of cmsg(3), pidfd_open(2),
/// prctl(2) and capset(2).
#ifndef KL_CSPAWN_H
#define KL_CSPAWN_H

#include <spawn.h>
#include <sys/types.h>

/// The flag that gives the child a session of its own.
short kl_spawn_setsid(void);
/// Makes the child start in this folder.
int kl_spawn_add_chdir(posix_spawn_file_actions_t *actions, const char *path);
/// Makes the child inherit no descriptor from this number on.
int kl_spawn_add_closefrom(posix_spawn_file_actions_t *actions, int from);
/// Receives a datagram with its sender's process and user, according to the kernel (the socket has SO_PASSCRED set);
/// process 0 and user -1 if it doesn't tell.
ssize_t kl_receive_from(int socket, void *bytes, size_t size, pid_t *sender, uid_t *user);
/// A descriptor that can be read from once the process has ended; closed on exec; -1 and errno.
int kl_open_process(pid_t process);
/// Lets other processes of the same user look at this one in /proc, even if its file has given it capabilities.
void kl_be_visible(void);
/// Gives up all capabilities of the calling thread, and so of a process that has one; -1 and errno.
int kl_drop_capabilities(void);

#endif
