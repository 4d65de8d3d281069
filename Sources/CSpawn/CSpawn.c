#define _GNU_SOURCE
#include "CSpawn.h"

short kl_spawn_setsid(void) { return POSIX_SPAWN_SETSID; }

int kl_spawn_add_chdir(posix_spawn_file_actions_t *actions, const char *path) {
    return posix_spawn_file_actions_addchdir_np(actions, path);
}

int kl_spawn_add_closefrom(posix_spawn_file_actions_t *actions, int from) {
    return posix_spawn_file_actions_addclosefrom_np(actions, from);
}
