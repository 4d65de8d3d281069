"""A Docker engine of the tests' own, from Debian's docker.io, in a machine of its own. No other engine is touched."""

import contextlib
import json
import os
import pathlib
import shlex
import shutil
import signal
import subprocess

from . import images
from .machine import Machine, processes_in_cgroup, sweep_cgroups
from .waiting import NotSeen, eventually

# A folder that holds another Debian, whose engines and client are tried in place of this machine's: CONTRIBUTING.md.
ROOT = pathlib.Path(os.environ["KL_TEST_ENGINE_ROOT"]).resolve() if os.environ.get("KL_TEST_ENGINE_ROOT") else None
# Debian's: another client or engine that may be in the path is not what users of Debian have.
PROGRAMS = {"dockerd": "/usr/sbin/dockerd", "docker": "/usr/bin/docker"}
NEEDED = ("unshare", "nsenter", "ip", "nft", "iptables", "containerd", "runc", "debootstrap")


def missing():
    """Why no engine can be started here, in a sentence; None if one can."""
    if os.geteuid() != 0:
        return "a Docker engine of its own needs root. Run the tests as root"
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    lacking = [name for name, file in PROGRAMS.items() if not os.access(in_root(file), os.X_OK)]
    lacking += [name for name in NEEDED if not shutil.which(name, path=path)]
    if lacking:
        return f"a Docker engine of its own needs {', '.join(lacking)}. Install them: agent/install"
    return None


def in_root(file):
    return f"{ROOT or ''}{file}"


def borrow(file, script):
    """Makes a script that is a program of the other Debian, with its own libraries, and sees this machine's files."""
    (loader,) = ROOT.glob("usr/lib/*-linux-gnu/ld-linux-*.so.*")
    words = [loader, "--library-path", loader.parent, file]
    script.parent.mkdir(exist_ok=True)
    script.write_text(f'#!/bin/sh\nexec {shlex.join(map(str, words))} "$@"\n')
    script.chmod(0o755)


class Engine:
    """Started with its own data root, exec root, pid file, socket, containerd and control group."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.folder.mkdir(parents=True)
        # Who runs `docker` may run as another user; the folder above is closed.
        self.folder.chmod(0o755)
        self.log_path = self.folder / "engine.log"
        self.socket = self.folder / "engine.sock"
        self.config = self.folder / "client"
        self.config.mkdir()
        self.client = PROGRAMS["docker"]
        if ROOT:
            self.client = str(self.folder / "bin/docker")
            borrow(in_root(PROGRAMS["docker"]), pathlib.Path(self.client))
            for plugin in ROOT.glob("usr/libexec/docker/cli-plugins/*"):
                borrow(plugin, self.config / "cli-plugins" / plugin.name)
        sweep_cgroups()
        self.machine = Machine(ROOT)
        self._nsenter = None
        try:
            self.start()
        except BaseException:
            self.close()
            raise

    # MARK: The engine

    def start(self):
        """Starts the engine. The pid file of one that was killed may be left."""
        (self.folder / "docker.pid").unlink(missing_ok=True)
        command = [
            PROGRAMS["dockerd"],
            f"--host=unix://{self.socket}",
            f"--data-root={self.folder / 'data'}",
            "--exec-root=/run/docker",
            f"--pidfile={self.folder / 'docker.pid'}",
            f"--cgroup-parent=/{self.machine.name}",
            f"--config-file={self._configuration()}",
        ]
        self.start_program(command)

    def start_program(self, command):
        """In the machine; returns when the engine answers."""
        with open(self.log_path, "ab") as log:
            self._nsenter = subprocess.Popen(
                [*self.machine.inside, *map(str, command)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "DOCKER_RAMDISK": "1"},
                start_new_session=True,
            )

        def answers():
            if self._nsenter.poll() is not None:
                raise NotSeen(f"the engine ended with {self._nsenter.returncode}:\n{self.log()}")
            return self.run("version", "--format", "{{.Server.Version}}", check=False).code == 0

        eventually("an engine answers", answers, 6, pause=0.1)

    def stop(self):
        """Ends the engine as `systemctl stop docker` does, and with it all containers."""
        inner = (self.folder / "docker.pid").read_text().strip()
        self.machine.run("sh", "-c", f"kill {inner}", prefix=self.machine.inside)
        self._nsenter.wait(60)

    def crash(self):
        """Ends engine and containers at once, as when the machine loses its power; the disk and the network stay."""
        self.machine.run("sh", "-c", "kill -KILL -1", prefix=self.machine.inside, check=False)
        self._nsenter.wait(60)

    def freeze(self):
        """The engine answers nothing, as one whose disk hangs."""
        self._signal("STOP")

    def thaw(self):
        self._signal("CONT")
        # It stops with what it waits for, and doesn't go on with it.
        self._nsenter.send_signal(signal.SIGCONT)

    def _signal(self, name):
        inner = (self.folder / "docker.pid").read_text().strip()
        self.machine.run("sh", "-c", f"kill -{name} {inner}", prefix=self.machine.inside)

    def _configuration(self):
        file = self.folder / "daemon.json"
        # Small subnets far from what a machine uses; IPv6 for the networks that ask for it.
        pools = [{"base": "172.30.0.0/16", "size": 24}, {"base": "fd6b:6c00::/56", "size": 64}]
        settings = {"default-address-pools": pools, "shutdown-timeout": 5, "max-concurrent-uploads": 1}
        file.write_text(json.dumps(settings))
        return file

    def close(self):
        """Ends all that ran in it, and removes every trace."""
        self.machine.close()
        if self._nsenter:
            with contextlib.suppress(ProcessLookupError):
                self._nsenter.kill()
            self._nsenter.wait(10)
        shutil.rmtree(self.folder, ignore_errors=True)

    def log(self, tail=40):
        lines = self.log_path.read_text(errors="replace").splitlines() if self.log_path.exists() else []
        return "\n".join(lines[-tail:])

    # MARK: Its client

    @property
    def environment(self):
        """What `docker`, and what calls it, needs to be told: this engine, Debian's client, no settings of a person."""
        path = os.environ.get("PATH", "")
        client = pathlib.Path(self.client).parent
        return {
            "DOCKER_HOST": f"unix://{self.socket}",
            "DOCKER_CONFIG": str(self.config),
            "DOCKER_BUILDKIT": "0",
            "PATH": f"{client}:/usr/bin:/usr/sbin:/bin:/sbin:{path}",
        }

    def run(self, *arguments, deadline=120, check=True, **options):
        """`docker …` to its end. What it printed and its code."""
        command = [self.client, *map(str, arguments)]
        done = subprocess.run(
            command,
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            timeout=deadline,
            **options,
        )
        ran = Docker(command, done.returncode, done.stdout, done.stderr)
        if check and ran.code:
            raise NotSeen(f"{ran}\n{self.log(10)}")
        return ran

    def docker(self, *arguments, **options):
        """`docker …`, which must succeed; what it printed, without the last newline."""
        return self.run(*arguments, **options).out.strip()

    def inspect(self, container, kind="container"):
        return json.loads(self.docker(kind, "inspect", container))[0]

    def containers(self, *filters):
        """Names of all containers, running or not, that match `docker ps` filters."""
        flags = [part for text in filters for part in ("--filter", text)]
        return self.docker("ps", "--all", "--format", "{{.Names}}", *flags).split()

    def has_image(self, name):
        return self.run("image", "inspect", name, check=False).code == 0

    def import_tar(self, tar, name, *changes):
        """Makes an image of a tar of its root."""
        flags = [part for change in changes for part in ("--change", change)]
        with open(tar, "rb") as stream:
            self.docker("import", *flags, "-", name, stdin=stream, deadline=300)

    def base_image(self):
        """The image of which the tests' services are made."""
        if not self.has_image(images.BASE):
            self.import_tar(images.base_tar(), images.BASE)
        return images.BASE

    # MARK: What is inside

    def pids(self, container):
        """Its processes as this machine numbers them, the first one first."""
        return processes_in_cgroup(self.machine.name, self.inspect(container)["Id"])

    def run_in(self, container, *command, **options):
        """Runs a program of this machine in a container's network."""
        pids = self.pids(container)
        if not pids:
            raise NotSeen(f"container {container} has no process:\n{self.run('logs', container, check=False)}")
        prefix = ["nsenter", f"--net=/proc/{pids[0]}/ns/net", "--"]
        return self.machine.run(*command, prefix=prefix, **options)

    def ruleset(self, container):
        """What nftables holds in a container's network, without counters and what else changes by itself."""
        return self.run_in(container, "nft", "-s", "list", "ruleset")

    def address(self, container, family=4, network=None):
        networks = self.inspect(container)["NetworkSettings"]["Networks"]
        found = networks[network] if network else next(iter(networks.values()))
        return found["IPAddress" if family == 4 else "GlobalIPv6Address"]


class Docker:
    """A `docker` command that has ended."""

    def __init__(self, command, code, out, error):
        self.command, self.code, self.out, self.error = command, code, out, error

    def __repr__(self):
        return f"{' '.join(self.command)} → {self.code}\n{self.out}{self.error}"
