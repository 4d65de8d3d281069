"""A podman of the tests' own, from Debian's package, that answers Docker's client; in a machine of its own."""

import os

from . import engine as engines

PROGRAM = "/usr/bin/podman"


def missing():
    """Why none can be started here, in a sentence; None if one can."""
    if why := engines.missing():
        return why
    return None if os.access(engines.in_root(PROGRAM), os.X_OK) else "a podman of its own needs podman. Install it: agent/install"


class Podman(engines.Engine):
    """Its storage, its networks and its socket are its own; what it keeps elsewhere is the machine's, and gone with it."""

    def start(self):
        # Networks are files in /etc, leases in /var/lib; where /etc is another Debian's, what is written there goes anyway.
        for path in ("/etc/cni/net.d", "/var/lib/cni", "/var/lib/containers", "/etc/containers/networks"):
            mount = f"test ! -d {path} || mount -t tmpfs tmpfs {path}"
            self.machine.run("sh", "-c", mount, prefix=self.machine.inside)
        flags = ["--root", self.folder / "root", "--runroot", "/run/podman-root", "--cgroup-manager", "cgroupfs"]
        # crun 1.28 runs nothing where the control groups of version 2 have controllers beside those of version 1.
        flags += ["--events-backend", "file", "--runtime", "runc"]
        self.start_program([PROGRAM, *flags, "system", "service", "--time", "0", f"unix://{self.socket}"])

    def run_in(self, container, *command, **options):
        """Its process numbers are the machine's."""
        pid = self.inspect(container)["State"]["Pid"]
        prefix = [*self.machine.inside, "nsenter", f"--net=/proc/{pid}/ns/net", "--"]
        return self.machine.run(*command, prefix=prefix, **options)
