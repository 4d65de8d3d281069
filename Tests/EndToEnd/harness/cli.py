"""`kl` as a developer types it, in an environment of their own making."""

import contextlib
import json
import os
import pathlib
import signal
import socket
import struct
import subprocess
import sys
import time

from .load import who
from .ports import free_port
from .waiting import NotSeen, eventually

WEB = pathlib.Path(__file__).with_name("web_process.py")
SCHEMA = json.loads((pathlib.Path(__file__).parents[3] / "docs/cli-schema.json").read_text())
SCHEMA_OF = {
    ("env", "list"): "environmentList",
    ("env", "status"): "environmentStatus",
    ("env", "connect"): "environmentStatus",
    ("env", "up"): "environmentStatus",
    ("env", "down"): "environmentStatus",
    ("env", "disconnect"): "environmentStatus",
    ("intercept", "start"): "start",
    ("intercept", "list"): "interceptList",
    ("intercept", "status"): "interceptList",
    ("intercept", "stop"): "stop",
}
# A command takes a fraction of a second; past this it hangs.
COMMAND_DEADLINE = 60


@contextlib.contextmanager
def in_folder(path):
    """A short name for a folder: a socket's address has room for 107 bytes."""
    folder = os.open(path, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}"
    finally:
        os.close(folder)


class Ran:
    """A command that has ended: what it printed, and its code."""

    def __init__(self, arguments, code, out, error):
        self.arguments, self.code, self.out, self.error = arguments, code, out, error

    @property
    def json(self):
        """What it printed with `-o json`, checked against the schema that docs/CLI.md promises."""
        # The demo runs without it: it comes with the tests.
        from jsonschema import Draft202012Validator as validator

        found = json.loads(self.out)
        # What a doctor finds is no failure of the command.
        name = "doctor" if self.arguments[0] == "doctor" else SCHEMA_OF[tuple(self.arguments[:2])]
        name = "error" if self.code and name != "doctor" else name
        validator({"$defs": SCHEMA["$defs"], "$ref": f"#/$defs/{name}"}).validate(found)
        return found

    def __repr__(self):
        return f"kl {' '.join(self.arguments)} → {self.code}\n{self.out}{self.error}"


class Developer:
    """A developer with a home of their own. Each has their own key, and so their own intercepts."""

    def __init__(self, binaries, home, directory, *, prefix=(), **environment):
        self.binaries, self.home, self.directory = binaries, pathlib.Path(home), pathlib.Path(directory)
        # What runs kl: as another user, say.
        self.prefix = list(prefix)
        self.home.mkdir(parents=True, exist_ok=True)
        self.home.chmod(0o700)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("KL_", "XDG_"))}
        self.environment = {**kept, "KL_HOME": str(self.home), "NO_COLOR": "1", **environment}

    def run(self, *arguments, directory=None, timeout=COMMAND_DEADLINE, **environment):
        arguments = [str(argument) for argument in arguments]
        done = subprocess.run(
            [*self.prefix, self.binaries / "kl", *arguments],
            cwd=directory or self.directory,
            env={**self.environment, **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        return Ran(arguments, done.returncode, done.stdout, done.stderr)

    def ok(self, *arguments, **options):
        """Runs it; anything but success is the test's failure."""
        ran = self.run(*arguments, **options)
        if ran.code != 0:
            raise NotSeen(f"{ran}\n{self.logs()}")
        return ran

    def begin(self, *arguments, **options):
        """Starts it, for a test that does something meanwhile."""
        return subprocess.Popen(
            [*self.prefix, self.binaries / "kl", *map(str, arguments)],
            cwd=self.directory,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )

    def intercepts(self):
        return self.ok("intercept", "list", "-o", "json").json["intercepts"]

    def holders(self):
        """All who hold something in the environment, mirrors too."""
        listed = self.ok("intercept", "list", "-o", "json").json
        return listed["intercepts"] + listed["mirrors"]

    def own(self):
        """What this developer holds, as `kl intercept list` has it; None where it is nothing."""
        return next((holder for holder in self.holders() if holder["isOwn"]), None)

    def phase(self, service):
        """The phase of an intercept as `kl intercept list` has it; None where there is none."""
        return next((i["phase"] for i in self.intercepts() if i["service"] == service), None)

    def daemon(self):
        """The daemon's process number, or None. Its lock file is held by nobody else."""
        with contextlib.suppress(OSError, ValueError, IndexError):
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(5)
                with in_folder(self.home) as name:
                    connection.connect(f"{name}/daemon.sock")
                line = connection.makefile().readline()
                who = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("iII"))
            # Where it numbers processes in another way than this one, the kernel says the number that it has here.
            return struct.unpack("iII", who)[0] if "--pid" in self.prefix else json.loads(line)["hello"]["pid"]
        return None

    def logs(self):
        log = self.home / "daemon.log"
        return f"--- {log}\n{log.read_text(errors='replace')[-4000:]}" if log.exists() else ""

    def end(self):
        """Stops all that this developer has running."""
        with contextlib.suppress(subprocess.TimeoutExpired, OSError):
            self.run("env", "disconnect", timeout=30)
        if pid := self.daemon():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


class ComposeProject:
    """A folder with a compose file of web servers that say their own names."""

    def __init__(self, binaries, folder, services=("api-server",), name="demo"):
        self.binaries, self.folder, self.name = binaries, pathlib.Path(folder), name
        self.folder.mkdir(parents=True, exist_ok=True)
        self.services = {service: (free_port(), free_port()) for service in services}
        # Further ports of a service, published and own.
        self.more = {}
        self.write()

    def add_port(self, service="api-server"):
        """Another port of the service; returns the published one."""
        pair = (free_port(), free_port())
        self.more.setdefault(service, []).append(pair)
        self.write()
        return pair[0]

    def write(self, extra=""):
        lines = [f"name: {self.name}", "services:"]
        for service, (published, own) in self.services.items():
            pairs = [(published, own), *self.more.get(service, [])]
            command = [sys.executable, "-B", str(WEB), "--name", service]
            command += [word for _, own in pairs for word in ("--port", str(own))]
            lines += [
                f"  {service}:",
                f"    command: {json.dumps(command)}",
                f"    ports: {json.dumps([f'{published}:{own}' for published, own in pairs])}",
            ]
        self.file = self.folder / "compose.yaml"
        self.file.write_text("\n".join(lines) + "\n" + extra)

    def address(self, service="api-server"):
        return ("127.0.0.1", self.services[service][0])

    def port(self, service="api-server"):
        return self.services[service][0]

    @property
    def state(self):
        return json.loads((self.folder / ".kl/state.json").read_text())

    def service_state(self, service="api-server"):
        return next(s for s in self.state["services"] if s["service"]["name"] == service)

    def answers(self, name, service="api-server", aim=1):
        """Waits until this server answers for the service."""
        eventually(f"{name} answers", lambda: who(self.address(service), 5) == name, aim)

    def logs(self):
        parts = []
        for log in sorted((self.folder / ".kl/logs").glob("*.log")):
            parts.append(f"--- {log.name}\n{log.read_text(errors='replace')[-3000:]}")
        return "\n".join(parts)

    def down(self, developer):
        with contextlib.suppress(subprocess.TimeoutExpired, OSError):
            developer.run("env", "down", "--file", self.file, timeout=60)
        until = time.monotonic() + 10
        while (left := self.processes()) and time.monotonic() < until:
            time.sleep(0.05)
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return left

    def processes(self):
        """All processes that belong to this folder: by their command line, or by the folder in which they run."""
        found = []
        here = str(self.folder)
        for entry in pathlib.Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            with contextlib.suppress(OSError):
                command = (entry / "cmdline").read_bytes().decode(errors="replace")
                folder = os.readlink(entry / "cwd")
                if here in command or folder == here:
                    found.append(int(entry.name))
        return found
