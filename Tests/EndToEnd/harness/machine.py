"""A small machine of its own inside this one: its own network, mounts and processes, nothing of which can outlive it."""

import contextlib
import os
import pathlib
import subprocess
import sys
import time
import uuid

import pytest

from .waiting import NotSeen, eventually

CGROUPS = pathlib.Path("/sys/fs/cgroup")
# The first process takes over orphans, lets the kernel reap them, and ends when the other end of its input is closed,
# which whatever ends the test run does. With the first process of a process namespace the kernel ends all others.
FIRST = """
import os, signal, subprocess, sys
signal.signal(signal.SIGCHLD, signal.SIG_DFL)
subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=0755", "tmpfs", "/run"], check=True)
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
for root in sys.argv[1:]:
    for path in ("/var/lib", "/etc"):
        written = "/run/written" + path
        os.makedirs(written + "/upper"), os.makedirs(written + "/work")
        layers = f"lowerdir={root}{path},upperdir={written}/upper,workdir={written}/work"
        subprocess.run(["mount", "-t", "overlay", "-o", layers, "overlay", path], check=True)
    subprocess.run(["mount", "--bind", "-o", "ro", root + "/usr", "/usr"], check=True)
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
print("ready", flush=True)
while os.read(0, 1):
    pass
"""


def needs_root():
    """Ends the test where network namespaces can't be made."""
    if os.geteuid() != 0:
        if os.environ.get("KL_REQUIRE_ENGINE") == "1":
            pytest.fail("network namespaces need root. (KL_REQUIRE_ENGINE=1)", pytrace=False)
        pytest.skip("network namespaces need root. Run the tests as root")


class Machine:
    """Network, mount and process namespaces without a name. `/run` is its own, so nothing meets an engine's files.

    With a root, a folder that holds another Debian, its programs are that one's, and their settings, which stay as they are.
    """

    def __init__(self, root=None):
        self.name = f"kl-e2e-{uuid.uuid4().hex[:8]}"
        flags = ["--net", "--mount", "--propagation", "private", "--pid", "--fork", "--mount-proc"]
        self._outer = subprocess.Popen(
            ["unshare", *flags, sys.executable, "-S", "-c", FIRST, *([str(root)] if root else [])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        if self._outer.stdout.readline() != "ready\n":
            raise NotSeen("a machine of its own can't be made: unshare, mount or ip failed")
        children = pathlib.Path(f"/proc/{self._outer.pid}/task/{self._outer.pid}/children").read_text().split()
        self.pid = int(children[0])

    @property
    def prefix(self):
        """Put before a command, runs it in this network: as a developer of that machine would."""
        return ["nsenter", f"--net=/proc/{self.pid}/ns/net", "--"]

    @property
    def seeing(self):
        """Put before a command, runs it in this network and with these processes, as the machine numbers them."""
        enter = ["nsenter", f"--target={self.pid}", "--net", "--pid", "--"]
        return [*enter, "unshare", "--mount", "--propagation", "private", "--mount-proc", "--"]

    @property
    def inside(self):
        """Put before a command, runs it as a process of the machine: it ends with it."""
        return ["nsenter", f"--target={self.pid}", "--mount", "--net", "--pid", "--"]

    def run(self, *command, prefix=None, deadline=60, check=True, **options):
        """Runs a program in this network to its end, and returns what it printed."""
        command = [*(self.prefix if prefix is None else prefix), *map(str, command)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=deadline, **options)
        if check and done.returncode:
            raise NotSeen(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        return done.stdout

    def mount(self, file, path):
        """Puts a file in the place of another one, for processes of the machine (`inside`)."""
        self.run("mount", "--bind", file, path, prefix=self.inside)

    def close(self):
        """Ends every process, and waits until the kernel has dissolved all."""
        self._outer.stdin.close()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, 9)
        self._outer.wait(30)
        self._outer.stdout.close()
        eventually("the control groups of a machine are gone", lambda: remove_cgroups(self.name), 3, pause=0.05)


def remove_cgroups(name):
    """Removes the control groups below this parent in every hierarchy; False while a process is left in one."""
    for parent in [CGROUPS / name, *CGROUPS.glob(f"*/{name}")]:
        for folder, _, _ in os.walk(parent, topdown=False):
            with contextlib.suppress(FileNotFoundError):
                try:
                    os.rmdir(folder)
                except OSError:
                    return False
    return True


def sweep_cgroups():
    """Removes empty control groups of machines whose test run was killed; only they can't be left to the kernel."""
    for path in [*CGROUPS.glob("kl-e2e-*"), *CGROUPS.glob("*/kl-e2e-*")]:
        remove_cgroups(path.name)


def processes_in_cgroup(parent, group):
    """The processes of a control group, as this machine numbers them; the oldest first."""
    for folder in [CGROUPS / "pids" / parent / group, CGROUPS / parent / group, *CGROUPS.glob(f"*/{parent}/{group}")]:
        with contextlib.suppress(OSError):
            if found := [int(line) for line in (folder / "cgroup.procs").read_text().split()]:
                return sorted(found, key=_started)
    return []


def _started(pid):
    with contextlib.suppress(OSError):
        return int(pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    return time.monotonic_ns()
