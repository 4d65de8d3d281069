/// What glibc has beyond POSIX, for posix_spawn(3): the Swift module of the C library doesn't show it.
#ifndef KL_CSPAWN_H
#define KL_CSPAWN_H

#include <spawn.h>

/// A session of its own for the child.
short kl_spawn_setsid(void);
/// The child begins in this folder.
int kl_spawn_add_chdir(posix_spawn_file_actions_t *actions, const char *path);
/// The child gets no descriptor from this one on.
int kl_spawn_add_closefrom(posix_spawn_file_actions_t *actions, int from);

#endif
