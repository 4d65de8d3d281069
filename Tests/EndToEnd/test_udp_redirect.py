"""UDP services that are diverted in the kernel: the service keeps its port, and a client that always sends from one port moves."""

import subprocess
import sys

import pytest

from harness.cable import Cable, RedirectingAgents
from harness.docker_project import PROGRAMS
from harness.machine import needs_root
from harness.udp import FixedClient, LateServer, free_datagram_port, start_server
from harness.waiting import eventually

V4, V6 = "10.112.0.2", "fd6b:6c00:112::2"
PORT = 5353
FIXED = 40_053
REFUSED = """
import socket, sys
client = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
client.settimeout(5)
client.connect((sys.argv[1], int(sys.argv[2])))
client.send(b"hello")
try:
    print(client.recv(1000))
except OSError as error:
    print(type(error).__name__)
"""
ASK = [sys.executable, "-B", PROGRAMS / "udp_client.py", "--count", "1"]


class Pair(Cable):
    """A UDP service's network and a client's."""

    def __init__(self, processes):
        super().__init__(112)
        start_server(processes, "original", PORT, "::", self.service.prefix)

    def who(self, address=V4, machine=None, port=PORT, timeout=2):
        command = [*ASK, "--host", address, "--port", port, "--timeout", timeout]
        return (machine or self.client).run(*command).strip()

    def is_refused(self, address=V4):
        """Whether a client is told that nobody takes what it sends."""
        said = self.client.run(sys.executable, "-B", "-c", REFUSED, address, PORT).strip()
        return said == "ConnectionRefusedError"

    def fixed(self, address=V4, port=FIXED):
        prefix = [*self.client.prefix, sys.executable, "-B", "-u"]
        return FixedClient(address, PORT, port, prefix)


@pytest.fixture
def pair(processes, closing):
    needs_root()
    return closing(Pair(processes))


@pytest.fixture
def run(pair, processes, binaries, folder, closing):
    """Starts a sidecar in the service's namespace, and a workspace for it with a server of its own."""
    agents = RedirectingAgents(processes, binaries, folder, pair.service)

    def start(*flags, serves=True, late=None, refuses=False):
        port = free_datagram_port()
        if late:
            closing(LateServer("ada", port, late))
        elif serves:
            start_server(processes, "ada", port)
        allowed, wanted = (["--allow-refuse"], ["--on-unavailable", "refuse"]) if refuses else ([], [])
        sidecar = agents.start_sidecar(f"{PORT}/udp", flags=["--dead-after", "1s", *allowed, *flags])
        return sidecar, lambda: agents.start_workspace(f"{PORT}:{port}/udp", flags=wanted)

    return start


def test_taken_in_the_services_namespace_and_given_back(pair, run):
    before = pair.rules()
    assert pair.who() == pair.who(V6) == "original"
    sidecar, workspace = run()
    assert pair.rules() == before
    workspace = workspace()
    assert pair.who() == pair.who(V6) == "ada"
    # From inside: the own address is the workspace, localhost the original.
    assert pair.who(machine=pair.service) == pair.who(V6, machine=pair.service) == "ada"
    assert pair.who("127.0.0.1", machine=pair.service) == pair.who("::1", machine=pair.service) == "original"
    assert workspace.stop() == 0
    assert pair.who() == pair.who(V6) == "original"
    assert sidecar.stop() == 0
    assert pair.rules() == before


def test_localhost_too_where_it_is_wanted(pair, run):
    _, workspace = run("--loopback", "workspace")
    workspace()
    assert pair.who("127.0.0.1", machine=pair.service) == pair.who("::1", machine=pair.service) == "ada"


@pytest.mark.parametrize("address", [V4, V6])
@pytest.mark.parametrize("tracked", [False, True], ids=["alone", "with another rule"])
def test_a_client_with_one_port_moves_at_start_and_at_stop(pair, run, closing, address, tracked):
    """With another rule that translates, the kernel remembers flows also while nothing is diverted."""
    if tracked:
        pair.service.run("nft", "add table inet others; add chain inet others out { type nat hook postrouting priority 100; }")
        pair.service.run("nft", "add rule inet others out oifname never masquerade")
    sidecar, workspace = run()
    client = closing(pair.fixed(address))
    client.comes_to("original")
    for _ in range(2):
        running = workspace()
        client.comes_to("ada", 5)
        assert running.stop() == 0
        client.comes_to("original", 5)
    assert sidecar.stop() == 0
    client.comes_to("original")


def test_moves_when_the_workspace_is_gone_and_when_it_is_back(pair, run, closing):
    _, workspace = run()
    client = closing(pair.fixed())
    client.comes_to("original")
    running = workspace()
    client.comes_to("ada", 5)
    running.kill()
    client.comes_to("original", 5)
    workspace()
    client.comes_to("ada", 5)


def test_original_answers_while_nothing_listens_in_the_workspace(pair, run, closing):
    _, workspace = run(serves=False)
    workspace()
    # Handed over by the sidecar, and answered from the address that was asked.
    assert pair.who() == pair.who(V6) == "original"
    assert pair.who(machine=pair.service) == "original"


def test_killed_it_leaves_nothing(pair, run, closing):
    before = pair.rules()
    sidecar, workspace = run()
    workspace()
    client = closing(pair.fixed())
    client.comes_to("ada", 5)
    sidecar.kill()
    eventually("no rule is left", lambda: pair.rules() == before, 1)
    # An answer that leaves while the kernel takes the table down may be lost.
    eventually("the original answers", lambda: pair.who(timeout=0.5) == "original", 1)
    client.comes_to("original", 5)


def test_whoever_sends_to_a_listener_itself_is_not_heard(pair, run):
    _, workspace = run()
    workspace()
    lines = pair.service.run("ss", "-Hlun").splitlines()
    ports = {int(line.split()[3].rsplit(":", 1)[1]) for line in lines} - {PORT}
    assert len(ports) == 1
    for address in (V4, V6):
        assert pair.who(address, port=ports.copy().pop(), timeout=0.5) == "-"
    assert pair.who() == "ada"


def test_fifty_clients_at_once(pair, run):
    _, workspace = run()
    workspace()
    command = [*pair.client.prefix, *ASK[:-1], "20", "--pause", "0", "--host", V4, "--port", str(PORT), "--timeout", "10"]
    askers = [subprocess.Popen([*map(str, command)], stdout=subprocess.PIPE, text=True) for _ in range(50)]
    for asker in askers:
        assert asker.communicate(timeout=120)[0].split() == ["ada"] * 20



@pytest.mark.parametrize("address", [V4, V6])
def test_an_answer_comes_back_though_the_kernel_has_forgotten_its_flow(pair, run, address):
    _, workspace = run(late=6.5)
    pair.service.run("sysctl", "-qw", "net.netfilter.nf_conntrack_udp_timeout=1")
    workspace()
    assert pair.who(address, timeout=20) == "ada"


def test_what_nobody_takes_is_refused(pair, run):
    """To the client, the message is about the port that it called."""
    _, workspace = run(serves=False, refuses=True)
    workspace()
    assert pair.is_refused(V4) and pair.is_refused(V6)
