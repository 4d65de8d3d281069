"""Which of a service's addresses a client may call, and how, while the kernel diverts: those that it may without a sidecar."""

import os
import pathlib
import subprocess
import sys

import pytest

from harness.cable import Cable, RedirectingAgents
from harness.docker_project import PROGRAMS
from harness.machine import needs_root
from harness.ports import free_port
from harness.udp import free_datagram_port, start_server
from harness.waiting import eventually

PORT = 8080
V4, V6 = "10.113.0.2", "fd6b:6c00:113::2"
OTHERS = ("10.113.0.22", "10.114.0.2", "fd6b:6c00:113::22", "10.115.0.1", "fd6b:6c00:115::1")

# Who answers each of the clients: protocol, address, device or "-", source or "-".
ASK = """
import socket, sys
def ask(protocol, address, device, source):
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    family, *_, place = socket.getaddrinfo(address, PORT, type=kind)[0]
    with socket.socket(family, kind) as client:
        client.settimeout(3)
        if device != "-":
            client.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
        if source != "-":
            client.bind(socket.getaddrinfo(source, 0, type=kind)[0][-1])
        try:
            client.connect(place)
            client.send(b"GET / HTTP/1.0\\r\\n\\r\\n" if protocol == "tcp" else b"hello")
            said = b""
            while block := client.recv(65_536):
                said += block
                if protocol == "udp":
                    break
            return said.rpartition(b"\\r\\n\\r\\n")[2].split()[0].decode()
        except OSError as problem:
            return type(problem).__name__
for line in sys.argv[1:]:
    print(ask(*line.split()), flush=True)
""".replace("PORT", str(PORT))

# A UDP server that answers from the address that was called, as one of a machine with several has to.
CAREFUL = """
import socket, sys
server = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
server.bind(("::", PORT))
print("ready", flush=True)
while True:
    payload, control, _, client = server.recvmsg(65_536, 256)
    called = control[0][2][:16]
    # A link-local address is one of its interface's.
    interface = control[0][2][16:] if called[:2] == b"\\xfe\\x80" else bytes(4)
    information = (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, called + interface)
    server.sendmsg([b"original " + payload], [information], 0, client)
""".replace("PORT", str(PORT))

# An address that several interfaces have, or a peer's own, can't be called from everywhere; these can, as they could before.
OUTSIDE = [(address, "-", "-") for address in (V4, V6, *OTHERS)] + [("LINK%v0", "-", "-")]
INSIDE = (
    [(address, "-", "-") for address in (V4, V6, *OTHERS, "LINK%eth0")]
    + [(address, "eth0", "-") for address in (V4, V6, "10.113.0.22", "fd6b:6c00:113::22", "LINK%eth0")]
    + [(V4, "lo", "-"), (V4, "-", "127.0.0.1"), (V6, "-", "::1"), (V6, "-", "fd6b:6c00:113::22")]
)
LOOPBACK = [(address, device, "-") for address in ("127.0.0.1", "127.0.0.9", "::1") for device in ("-", "lo")]


class Pair(Cable):
    """A service's network with several addresses, and a client's."""

    def __init__(self, processes):
        super().__init__(113, 114)
        self.service.run("ip", "address", "add", "10.113.0.22/24", "dev", "eth0")
        self.service.run("ip", "address", "add", "fd6b:6c00:113::22/64", "dev", "eth0", "nodad")
        self.service.run("ip", "address", "add", "10.115.0.1/32", "dev", "lo")
        self.service.run("ip", "address", "add", "fd6b:6c00:115::1/128", "dev", "lo", "nodad")
        self.client.run("ip", "route", "add", "10.115.0.1", "via", V4)
        self.client.run("ip", "route", "add", "fd6b:6c00:115::1", "via", V6)
        self.link = eventually("the service has a link-local address", self._link_local, 5)
        command = [*self.service.prefix, sys.executable, "-B", PROGRAMS / "who_server.py"]
        processes.start("original", [*command, "--name", "original", "--port", PORT]).first_line(30)
        careful = [*self.service.prefix, sys.executable, "-B", "-S", "-c", CAREFUL]
        processes.start("original of UDP", careful).first_line(30)

    def _link_local(self):
        words = self.service.run("ip", "-6", "-o", "address", "show", "dev", "eth0", "scope", "link").split()
        return words[3].split("/")[0] if "inet6" in words and "tentative" not in words else None

    def ask(self, machine, clients):
        """Who answers each, by its protocol, address, device and source."""
        lines = [
            " ".join((protocol, address.replace("LINK", self.link), device, source))
            for protocol in ("tcp", "udp")
            for address, device, source in clients
        ]
        said = machine.run(sys.executable, "-B", "-S", "-c", ASK, *lines).split()
        return dict(zip(lines, said, strict=True))


@pytest.fixture
def pair(processes, closing):
    needs_root()
    return closing(Pair(processes))


@pytest.fixture
def run(pair, processes, binaries, folder):
    """Starts a sidecar in the service's namespace, and a workspace for it with servers of its own."""
    agents = RedirectingAgents(processes, binaries, folder, pair.service)
    command = [sys.executable, "-B", PROGRAMS / "who_server.py", "--name", "ada", "--host", "127.0.0.1", "--port"]

    def start(*flags, serves=True):
        port, datagram_port = free_port(), free_datagram_port()
        if serves:
            processes.start("ada", [*command, port]).first_line(30)
            start_server(processes, "ada", datagram_port)
        sidecar = agents.start_sidecar(PORT, f"{PORT}/udp", flags=flags)
        return sidecar, agents.start_workspace(f"{PORT}:{port}", f"{PORT}:{datagram_port}/udp")

    return start


def everyone(said, name):
    """All but these were answered by someone else, or not at all."""
    return {line: who for line, who in said.items() if who != name}


def test_every_address_that_can_be_called_is_diverted(pair, run):
    # Control: the original answers all of them without a sidecar.
    assert everyone(pair.ask(pair.client, OUTSIDE), "original") == {}
    assert everyone(pair.ask(pair.service, INSIDE + LOOPBACK), "original") == {}
    _, workspace = run()
    assert everyone(pair.ask(pair.client, OUTSIDE), "ada") == {}
    assert everyone(pair.ask(pair.service, INSIDE), "ada") == {}
    assert everyone(pair.ask(pair.service, LOOPBACK), "original") == {}
    assert workspace.stop() == 0
    assert everyone(pair.ask(pair.client, OUTSIDE), "original") == {}


def test_the_loopback_too_where_it_is_wanted(pair, run):
    run("--loopback", "workspace")
    assert everyone(pair.ask(pair.service, LOOPBACK + INSIDE), "ada") == {}


def test_each_is_passed_on_to_where_it_was_called(pair, run):
    """While nothing listens in the workspace the sidecar dials the original, at the address that its client has called."""
    run(serves=False)
    assert everyone(pair.ask(pair.client, OUTSIDE), "original") == {}
    assert everyone(pair.ask(pair.service, INSIDE), "original") == {}


TWO = f"""
import socket
client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
client.settimeout(3)
for address in ("{V4}", "{OTHERS[0]}", "{V4}"):
    client.sendto(b"hello", (address, {PORT}))
    print(client.recvfrom(99)[1][0])
"""


def test_one_client_hears_from_each_address_that_it_asks(pair, run):
    run()
    assert pair.client.run(sys.executable, "-S", "-c", TWO).split() == [V4, OTHERS[0], V4]


HOLD = f"""
import socket, sys, time
clients = [socket.create_connection(("{V4}", {PORT})) for _ in range(40)]
print("open", flush=True)
sys.stdin.read()
end = time.monotonic() + 5
said = set()
for client in clients:
    client.settimeout(max(0.01, end - time.monotonic()))
    try:
        said.add("bytes" if client.recv(1) else "end")
    except OSError as problem:
        said.add(type(problem).__name__)
print(*sorted(said), flush=True)
"""


def holding(pair):
    """A client with connections through the sidecar, which tells how they ended once its input is closed."""
    command = [*pair.client.prefix, sys.executable, "-S", "-c", HOLD]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "open\n"
    # Each of them has been accepted by the sidecar, which has a socket for it.
    lines = ["ss", "-Htn", "state", "established", "src", V4]
    eventually("the clients are connected", lambda: len(pair.service.run(*lines).splitlines()) >= 40, 5)
    return child


@pytest.mark.parametrize("way", ["killed", "told to end"])
def test_open_connections_hear_of_the_sidecars_end(pair, run, way):
    """No other rules are in the namespace: with the sidecar's table the kernel forgets the translation, and what is closed
    later would leave from the listener's port, where no client hears it."""
    sidecar, _ = run("--linger", "1s")
    child = holding(pair)
    # The kernel closes a process's descriptors from the highest to the lowest: the table's owner is the last.
    inode = os.readlink(f"/proc/{sidecar.process.pid}/fd/0").removeprefix("socket:[").removesuffix("]")
    sockets = pathlib.Path(f"/proc/{pair.service.pid}/net/netlink").read_text().splitlines()
    # The second column is the protocol: NETLINK_NETFILTER.
    assert [line.split()[1] for line in sockets if line.split()[-1] == inode] == ["12"]
    if way == "killed":
        sidecar.kill()
    else:
        sidecar.stop()
    said = child.communicate(timeout=30)[0].split()
    assert "TimeoutError" not in said and "bytes" not in said, said
    eventually("no rule is left", lambda: "kl_" not in pair.service.run("nft", "list", "ruleset"), 2)
