"""A port that nothing listens on, and that is the only one that the kernel gives to who connects: it would connect to itself.

Each machine here has two such ports; the other one of UDP is taken, of TCP the kernel gives the even one first.
"""

import contextlib
import json
import subprocess
import sys
import time

import pytest

from harness import machine as machines
from harness.agents import READY_DEADLINE, Sidecar, Workspace, endpoint
from harness.keys import KeyPair
from harness.udp import start_server
from harness.waiting import eventually

DEAD, OTHER = 40_000, 40_001
SERVICE, ORIGINAL, TUNNEL = 8_080, 21_090, 24_900
HOLD = "import socket,sys\ns = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)\ns.bind(('::', int(sys.argv[1])))\n"
HOLD += "print('held', flush=True)\nsys.stdin.read()"
SERVE = """
import socket, sys
server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
print("listens", flush=True)
while True:
    client, _ = server.accept()
    client.sendall(b"original " + client.recv(1000))
    client.close()
"""
# From a port of its own: those two aren't for it.
ASK = """
import socket, sys
kind, port, own = (int(word) for word in sys.argv[1:])
client = socket.socket(socket.AF_INET, kind)
client.bind(("127.0.0.1", own))
client.settimeout(10)
client.connect(("127.0.0.1", port))
client.send(b"question")
print(client.recv(1000).split()[0].decode())
"""


@pytest.fixture
def machine(closing):
    machines.needs_root()
    machine = closing(machines.Machine())
    machine.run("sysctl", "-qw", f"net.ipv4.ip_local_port_range={DEAD} {OTHER}")
    return machine


@pytest.fixture
def keys(folder):
    made = {"sidecar": KeyPair(), "workspace": KeyPair()}
    return made, {name: key.write(folder / f"{name}.key") for name, key in made.items()}


@contextlib.contextmanager
def held(machine, port):
    """A UDP port that somebody has."""
    command = [*machine.prefix, sys.executable, "-c", HOLD, str(port)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        yield
        holder.stdin.close()


def ask(machine, kind, own):
    return machine.run(sys.executable, "-c", ASK, kind, SERVICE, own).strip()


def start_sidecar(machine, keys, processes, binaries, *flags):
    made, files = keys
    command = [*machine.prefix, binaries / "kl-sidecar", "run", "--private-key-file", files["sidecar"]]
    command += ["--peer", made["workspace"].public, "--divert", f"listen=127.0.0.1:{SERVICE}", *flags]
    return Sidecar.started_by(processes, command)


def workspace_arguments(keys, carrier, port, *flags):
    made, files = keys
    there = endpoint(made["sidecar"].public, "127.0.0.1", port, carrier)
    return ["--private-key-file", files["workspace"], "--sidecar", there, *flags]


def connections(machine):
    """Of TCP, from the port to itself, in whatever state."""
    number = f":{DEAD:04X}"
    tables = machine.run("cat", "/proc/self/net/tcp", "/proc/self/net/tcp6").splitlines()
    return [line for line in tables if line.count(number) > 1]


@pytest.mark.parametrize("kind", ["tcp", "udp"])
def test_the_original_answers_in_place_of_a_dead_local_port(machine, keys, processes, binaries, kind):
    suffix = "/udp" if kind == "udp" else ""
    flags = ["--listen-tcp", f"127.0.0.1:{TUNNEL}", "--service-port", f"{SERVICE}:127.0.0.1:{ORIGINAL}{suffix}"]
    start_sidecar(machine, keys, processes, binaries, *flags)
    if kind == "udp":
        start_server(processes, "original", ORIGINAL, "127.0.0.1", machine.prefix)
    else:
        command = [*machine.prefix, sys.executable, "-c", SERVE, str(ORIGINAL)]
        processes.start("original", command).first_line(30)
    arguments = workspace_arguments(keys, "tcp", TUNNEL, "--map", f"{SERVICE}:{DEAD}{suffix}")
    Workspace(processes, binaries, arguments, machine.prefix)
    if kind == "udp":
        with held(machine, OTHER):
            assert ask(machine, 2, 30_000) == "original"
    else:
        assert [ask(machine, 1, own) for own in range(30_000, 30_003)] == ["original"] * 3
        assert connections(machine) == []


def test_the_original_is_dead(machine, keys, processes, binaries):
    """Passed on to nobody: the client is refused, as without a sidecar."""
    flags = ["--listen-tcp", f"127.0.0.1:{TUNNEL}", "--service-port", f"{SERVICE}:127.0.0.1:{DEAD}"]
    start_sidecar(machine, keys, processes, binaries, *flags)
    with pytest.raises(machines.NotSeen, match="ConnectionResetError"):
        ask(machine, 1, 30_000)
    assert connections(machine) == []


def test_a_dead_sidecar_over_udp_finds_its_port_free(machine, keys, processes, binaries):
    """The workspace's own socket doesn't sit on the port that it dials."""
    with held(machine, OTHER):
        command = [*machine.prefix, binaries / "kl-workspace", "run"]
        command += workspace_arguments(keys, "udp", DEAD, "--map", f"{SERVICE}:3000")
        workspace = processes.start("kl-workspace", command)
        eventually("the workspace has tried", lambda: str(DEAD) in workspace.log(), 6)
        flags = ["--listen-tcp", f"127.0.0.1:{TUNNEL}", "--listen-udp", f"127.0.0.1:{DEAD}"]
        start_sidecar(machine, keys, processes, binaries, *flags, "--service-port", f"{SERVICE}:127.0.0.1:{ORIGINAL}")
    # There is a port for it now.
    assert json.loads(workspace.first_line(READY_DEADLINE))["ready"]


def test_a_dead_sidecar_over_tcp_is_refused(machine, keys, processes, binaries):
    command = [*machine.prefix, binaries / "kl-workspace", "run"]
    command += workspace_arguments(keys, "tcp", DEAD, "--map", f"{SERVICE}:3000")
    workspace = processes.start("kl-workspace", command)
    eventually("it has ended", lambda: not workspace.is_running, 12)
    assert "refused" in workspace.log() and "protocol" not in workspace.log()
    assert connections(machine) == []


def test_kl_sidecar_dial_is_refused(machine, binaries):
    command = [*machine.prefix, binaries / "kl-sidecar", "dial", "--to", f"127.0.0.1:{DEAD}"]
    done = subprocess.run(command, input="hello", capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (1, "")
    assert "connection refused" in done.stderr
    assert connections(machine) == []


def test_a_service_that_does_not_listen_is_not_running(machine, make_developer, folder):
    """The supervisor's look at a port finds nothing, and leaves it to the service."""
    (folder / "compose.yaml").write_text(
        f'name: demo\nservices:\n  web:\n    command: sleep 1000\n    ports: ["{SERVICE}:{DEAD}"]\n'
    )
    ada = make_developer("ada", folder)
    ada.prefix = machine.prefix
    up = ada.begin("env", "up", start_new_session=True)
    try:
        file = folder / ".kl/state.json"

        def state():
            with contextlib.suppress(OSError, ValueError):
                service = json.loads(file.read_text())["services"][0]["service"]
                return service["state"], service.get("reason")

        waits = ("starting", f"doesn't listen on {DEAD} yet")
        eventually("the service is started", lambda: state() in (waits, ("running", None)), 3)
        # Every 50 ms it is looked whether it listens.
        until = time.monotonic() + 2
        while time.monotonic() < until:
            assert state() == waits
            assert connections(machine) == []
            time.sleep(0.1)
    finally:
        up.kill()
        up.communicate()
        ada.ok("env", "down", "--file", folder / "compose.yaml")
