"""A podman of the tests' own, from Debian's package, that answers Docker's client; in a machine of its own."""

import os
import pathlib
import shutil
import subprocess

from . import engine as engines
from . import images
from .machine import Machine
from .waiting import NotSeen, eventually

PROGRAM = "/usr/bin/podman"


def missing():
    """Why none can be started here, in a sentence; None if one can."""
    if why := engines.missing():
        return why
    return None if os.access(PROGRAM, os.X_OK) else "a podman of its own needs podman. Install it: agent/install"


class Podman(engines.Engine):
    """Its storage, its networks and its socket are its own; what it keeps elsewhere is the machine's, and gone with it."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.folder.mkdir(parents=True)
        self.folder.chmod(0o755)
        self.log_path = self.folder / "podman.log"
        self.socket = self.folder / "podman.sock"
        self.config = self.folder / "client"
        self.config.mkdir()
        self.machine = Machine()
        self._nsenter = None
        try:
            for path in ("/etc/cni/net.d", "/var/lib/cni", "/var/lib/containers"):
                if os.path.isdir(path):
                    self.machine.run("mount", "-t", "tmpfs", "tmpfs", path, prefix=self.machine.inside)
            self.start()
        except BaseException:
            self.close()
            raise

    def start(self):
        flags = ["--root", self.folder / "root", "--runroot", "/run/podman-root", "--cgroup-manager", "cgroupfs"]
        flags += ["--events-backend", "file"]
        command = [PROGRAM, *flags, "system", "service", "--time", "0", f"unix://{self.socket}"]
        with open(self.log_path, "ab") as log:
            self._nsenter = subprocess.Popen(
                [*self.machine.inside, *map(str, command)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

        def answers():
            if self._nsenter.poll() is not None:
                raise NotSeen(f"podman ended with {self._nsenter.returncode}:\n{self.log()}")
            return self.run("version", "--format", "{{.Server.Version}}", check=False).code == 0

        eventually("podman answers", answers, 6, pause=0.1)

    def close(self):
        # Its storage is mounted in the machine alone, and goes with it.
        super().close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def base_image(self):
        if not self.has_image(images.BASE):
            self.import_tar(images.base_tar(), images.BASE)
        return images.BASE

    def run_in(self, container, *command, **options):
        """Its process numbers are the machine's."""
        pid = self.inspect(container)["State"]["Pid"]
        prefix = [*self.machine.inside, "nsenter", f"--net=/proc/{pid}/ns/net", "--"]
        return self.machine.run(*command, prefix=prefix, **options)
