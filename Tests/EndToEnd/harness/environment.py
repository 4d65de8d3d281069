"""A local environment under test: its compose file, its supervisor, and what that says."""

import contextlib
import json
import os
import pathlib
import signal
import socket
import sys
import time

from .ports import free_port
from .waiting import NotSeen, eventually

SERVER = pathlib.Path(__file__).with_name("named_server.py")


class Environment:
    """A folder with a compose file. The supervisor is started as `kl env up` starts it."""

    def __init__(self, processes, binaries, folder):
        self.processes, self.binaries, self.folder = processes, binaries, pathlib.Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.file = self.folder / "compose.yaml"
        self.kl = self.folder / ".kl"
        self.services = {}
        self.supervisor = None

    def add(self, name, *, command=None, ports=1, options=""):
        """A service that answers with its name on each of its target ports; the published ones are returned."""
        pairs = [(free_port(), free_port()) for _ in range(ports)]
        if command is None:
            command = [sys.executable, str(SERVER), name, *[str(target) for _, target in pairs]]
        lines = [f"  {name}:", f"    command: {json.dumps(command)}"]
        if pairs:
            lines.append("    ports: " + json.dumps([f"{published}:{target}" for published, target in pairs]))
        lines += [f"    {line}" for line in options.splitlines()]
        self.services[name] = "\n".join(lines)
        self.write()
        return [("127.0.0.1", published) for published, _ in pairs]

    def write(self):
        self.file.write_text("name: demo\nservices:\n" + "\n".join(self.services.values()) + "\n")

    def supervise(self, **options):
        """Starts a supervisor, and returns what it says at once; the process itself is `supervisor`."""
        reads, writes = os.pipe()
        # Descriptor 3 in the child, whatever it is here.
        command = ["/bin/bash", "-c", 'exec 3>&"$1"; shift; exec "$@"', "bash", str(writes)]
        command += [self.binaries / "kl", "supervise", "--file", self.file]
        try:
            process = self.processes.start("supervisor", command, pass_descriptors=[writes], **options)
        finally:
            os.close(writes)
        with os.fdopen(reads) as report:
            line = report.readline()
        if not line:
            raise NotSeen(f"the supervisor ended before it said how it went:\n{process.log()}")
        report = json.loads(line)
        if report.get("ready") and process.is_running:
            self.supervisor = process
        return report

    def up(self, **options):
        report = self.supervise(**options)
        assert report == {"ready": True}, report
        eventually("all services run, all sidecars are ready", self.is_settled, 3)
        return self

    def is_settled(self):
        services = self.state()["services"]
        return all(
            service["service"]["state"] == "running"
            and all(sidecar["state"] == "ready" for sidecar in service["sidecars"])
            for service in services
        )

    def state(self):
        """What `state.json` says."""
        return json.loads((self.kl / "state.json").read_text())

    def service(self, name):
        return next(service for service in self.state()["services"] if service["service"]["name"] == name)

    def sidecar(self, name):
        return self.service(name)["sidecars"][0]

    def ask(self, request, until=None):
        return ask_supervisor(self.kl, request, until)

    def down(self):
        answers = self.ask("down", until="done")
        assert "done" in answers[-1], answers
        if self.supervisor:
            assert self.supervisor.wait(10) == 0
        return answers

    def marked(self):
        """The numbers of all processes of this environment that live, by what they are."""
        start = f"KL_SUPERVISED={self.kl}:".encode()
        found = {}
        for entry in pathlib.Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if not entry.name.isdigit() or is_zombie(entry):
                    continue
                for variable in (entry / "environ").read_bytes().split(b"\0"):
                    if variable.startswith(start):
                        found[int(entry.name)] = variable.removeprefix(start).decode()
        return found

    def supervisors(self):
        """The numbers of the supervisors of this environment that live, whoever started them."""
        found = []
        for entry in pathlib.Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit():
                    arguments = (entry / "cmdline").read_bytes().split(b"\0")
                    if b"supervise" in arguments and str(self.file).encode() in arguments:
                        found.append(int(entry.name))
        return found

    def close(self):
        """Whatever a test has left."""
        for pid in self.supervisors():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        until = time.monotonic() + 5
        while (left := self.marked()) and time.monotonic() < until:
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)


def ask_supervisor(folder, request, until=None):
    """Sends one request to the supervisor's socket, and returns the answers up to the last."""
    with socket.socket(socket.AF_UNIX) as connection:
        # However long its name is. It blocks where the queue is full; with a time limit Python's socket would refuse.
        descriptor = os.open(folder, os.O_PATH)
        try:
            connection.connect(f"/proc/self/fd/{descriptor}/supervisor.sock")
        finally:
            os.close(descriptor)
        connection.settimeout(30)
        connection.sendall(json.dumps({request: {}}).encode() + b"\n")
        answers = []
        with connection.makefile() as lines:
            for line in lines:
                answers.append(json.loads(line))
                if not until or until in answers[-1] or "failed" in answers[-1]:
                    break
    return answers


def is_zombie(entry):
    return (entry / "stat").read_bytes().rpartition(b")")[2].split()[0] in (b"Z", b"X")


def is_alive(process):
    """Whether a process lives that the state names."""
    try:
        entry = pathlib.Path(f"/proc/{process['pid']}")
        fields = (entry / "stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return False
    return fields[0] not in (b"Z", b"X") and int(fields[19]) == process["startTime"]
