"""Behind a redirect: what the original's own network lets a client reach, and no more, while the workspace can't answer."""

import base64
import subprocess
import sys
import time

import pytest

from harness.cable import RedirectingAgents
from harness.docker_project import PROGRAMS
from harness.machine import needs_root
from harness.networks import Networks, network_of
from harness.ports import free_port
from harness.udp import FixedClient, free_datagram_port, start_server
from harness.waiting import eventually
from peer import control
from peer.initiator import Workspace as Peer

pytestmark = pytest.mark.filterwarnings("ignore:One of ephemeral keypairs")

PORT = 8080
ROUTER_V6, SERVICE_V6 = "fd6b:6c03::1", "fd6b:6c03::2"
PROBE = "User-Agent: kube-probe/1.30"


class Redirected(RedirectingAgents):
    """A service's network, whose router is the neighbour that asks, and a sidecar and a workspace for it."""

    def __init__(self, processes, binaries, folder):
        self.networks = Networks("service")
        super().__init__(processes, binaries, folder, self.networks.service)
        self.neighbour = self.networks.router
        self.service.run("ip", "address", "add", f"{SERVICE_V6}/64", "dev", "eth0", "nodad")
        self.neighbour.run("ip", "address", "add", f"{ROUTER_V6}/64", "dev", self.service.device, "nodad")
        self.addresses = (self.service.address, SERVICE_V6)
        self.neighbours = ("10.113.1.1", ROUTER_V6)

    def serve(self, name, port, host, inside=True):
        """A web server in the service's network, or in the workspace's."""
        command = [*(self.service.prefix if inside else ()), sys.executable, "-B", PROGRAMS / "who_server.py"]
        server = self.processes.start(name, [*command, "--name", name, "--port", str(port), "--host", host])
        server.first_line(30)
        return server

    def start_sidecar(self, *ports, flags=()):
        """One that sees within a second that its workspace is gone."""
        return super().start_sidecar(*ports, flags=["--dead-after", "1s", *flags])

    def start_peer(self):
        """A workspace that is the tests' own."""
        private, public = (base64.b64decode(key) for key in (self.keys["workspace"].private, self.keys["sidecar"].public))
        peer = Peer(private, public, self.sidecar.tunnel)
        peer.wait_connected()
        return peer

    def ask(self, address, machine=None, header="X-None: 1"):
        """Who answers, and what client that one sees; None where the connection is refused or reset."""
        url = f"http://[{address}]:{PORT}/" if ":" in address else f"http://{address}:{PORT}/"
        command = ["curl", "-s", "-g", "-m", "15", "-H", header, url]
        return tuple((machine or self.neighbour).run(*command, check=False).split()) or None

    def ask_datagram(self, address, machine=None, timeout=5):
        command = [sys.executable, "-B", PROGRAMS / "udp_client.py", "--count", "1", "--host", address]
        return (machine or self.neighbour).run(*command, "--port", PORT, "--timeout", timeout).strip()

    def close(self):
        self.networks.close()


@pytest.fixture
def redirected(processes, binaries, folder, closing):
    needs_root()
    return closing(Redirected(processes, binaries, folder))


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_what_listens_on_the_loopback_alone_is_no_neighbours(redirected, host):
    """While nothing listens in the workspace, for the node's health probes, and while the workspace hangs."""
    redirected.serve("original", PORT, host)
    node = [word for address in redirected.neighbours for word in ("--node-address", address)]
    redirected.start_sidecar(PORT, flags=node)
    assert [redirected.ask(address) for address in redirected.addresses] == [None, None]
    redirected.start_workspace(f"{PORT}:{free_port()}")
    for address in redirected.addresses:
        assert redirected.ask(address) is None
        assert redirected.ask(address, header=PROBE) is None
        assert redirected.ask(address, redirected.service) is None
    # It is there all the time, for its own machine.
    assert redirected.ask(host, redirected.service)[0] == "original"
    redirected.workspace.freeze()
    # What comes first waits in the sidecar for the workspace, and then for the original.
    for address in redirected.addresses:
        assert redirected.ask(address) is None
    assert redirected.ask(host, redirected.service)[0] == "original"


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_datagram_service_on_the_loopback_alone_is_no_neighbours(redirected, host):
    start_server(redirected.processes, "original", PORT, host, redirected.service.prefix)
    redirected.start_sidecar(f"{PORT}/udp")
    redirected.start_workspace(f"{PORT}:{free_datagram_port()}/udp")
    for address in redirected.addresses:
        assert redirected.ask_datagram(address, timeout=0.5) == "-"
        assert redirected.ask_datagram(address, redirected.service, timeout=0.5) == "-"
    assert redirected.ask_datagram(host, redirected.service) == "original"


def test_what_listens_where_it_is_called_still_answers(redirected):
    """Each on one of the service's addresses alone, while nothing listens in the workspace."""
    for number, address in enumerate(redirected.addresses):
        redirected.serve(f"original-{number}", PORT, address)
    redirected.start_sidecar(PORT)
    redirected.start_workspace(f"{PORT}:{free_port()}")
    for number, address in enumerate(redirected.addresses):
        assert redirected.ask(address)[0] == f"original-{number}"
        assert redirected.ask(address, header=PROBE)[0] == f"original-{number}"


def test_a_link_local_address_is_where_it_is_called(redirected):
    """The kernel tells it without its interface."""
    redirected.serve("original", PORT, "::")
    start_server(redirected.processes, "original", PORT, "::", redirected.service.prefix)
    redirected.start_sidecar(PORT, f"{PORT}/udp")
    redirected.start_workspace(f"{PORT}:{free_port()}", f"{PORT}:{free_datagram_port()}/udp")

    def place(machine, device):
        """Once the kernel has made sure that no other machine has it."""
        lines = machine.run("ip", "-6", "-o", "address", "show", "dev", device, "scope", "link").splitlines()
        return next((line.split()[3].split("/")[0] for line in lines if "tentative" not in line), None)

    device = redirected.service.device
    eventually("the neighbour has an address on the link", lambda: place(redirected.neighbour, device), 3, pause=0.1)
    address = eventually("the link has an address", lambda: place(redirected.service, "eth0"), 3, pause=0.1)
    assert redirected.ask(f"{address}%{device}")[0] == "original"
    assert redirected.ask_datagram(f"{address}%{device}") == "original"


def whom_it_sees(redirected):
    """The client that whoever answers sees, at each of the service's addresses."""
    return [redirected.ask(address) for address in redirected.addresses]


class Held:
    """A connection of the neighbour's that is kept."""

    PROGRAM = """
import http.client, sys
connection = http.client.HTTPConnection(sys.argv[1], int(sys.argv[2]), timeout=30)
connection.connect()
kept = connection.sock
print("open", flush=True)
for _ in sys.stdin:
    try:
        connection.request("GET", "/")
        answer = connection.getresponse().read().decode().split()[0]
    except OSError:
        answer = "ended"
    print(answer if connection.sock is kept else "ended", flush=True)
"""

    def __init__(self, redirected, port=PORT):
        command = [*redirected.neighbour.prefix, sys.executable, "-S", "-c", self.PROGRAM]
        command += [redirected.service.address, str(port)]
        self.child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.child.stdout.readline() == "open\n"

    def who(self):
        self.child.stdin.write("\n")
        self.child.stdin.flush()
        return self.child.stdout.readline().strip()

    def close(self):
        self.child.kill()
        self.child.wait(30)
        self.child.stdin.close()
        self.child.stdout.close()


def test_while_nothing_listens_the_original_sees_its_clients_own_address(redirected, closing):
    """And what it accepts meanwhile is its own for good: neither the server's return nor the start's drain time ends it."""
    own = [("original", neighbour) for neighbour in redirected.neighbours]
    redirected.serve("original", PORT, "::")
    redirected.start_sidecar(PORT)
    local = free_port()
    redirected.start_workspace(f"{PORT}:{local}", flags=["--drain", "2s"])
    started = time.monotonic()
    # The first is passed on by the sidecar.
    assert redirected.ask(redirected.service.address)[0] == "original"
    eventually("the original sees its clients' own addresses", lambda: whom_it_sees(redirected) == own, 2, pause=0.1)
    held = closing(Held(redirected))
    assert held.who() == "original"
    server = redirected.serve("ada", local, "127.0.0.1", inside=False)
    ada = lambda: {said[0] for said in whom_it_sees(redirected)} == {"ada"}
    eventually("the workspace's server has its clients", ada, 1, pause=0.1)
    # The drain time of the start, and one of the return, had there been one.
    time.sleep(max(0, started + 2.5 - time.monotonic()) + 2)
    assert held.who() == "original"
    # Another time: the server is ended, and answers nobody's clients again.
    server.kill()
    eventually("the original sees them again", lambda: whom_it_sees(redirected) == own, 2, pause=0.1)
    assert held.who() == "original"
    assert redirected.workspace.stop() == 0
    assert held.who() == "original"


class Changes:
    """Counts a sidecar's transactions of nf_tables in a machine's network."""

    def __init__(self, machine, log):
        self.machine, self.log = machine, log
        with open(log, "wb") as file:
            self.child = subprocess.Popen([*machine.prefix, "nft", "monitor"], stdout=file)
        eventually("the monitor listens", self.hears, 10, pause=0.1)

    def hears(self, name="kl_test_begin"):
        """By a table of its own, which is made and removed."""
        self.machine.run("nft", f"add table ip {name}; delete table ip {name}")
        return name in self.log.read_text()

    def count(self):
        eventually("the monitor has heard all", lambda: self.hears("kl_test_end"), 10, pause=0.1)
        lines = self.log.read_text().splitlines()
        # The sidecar is named by its thread.
        return sum(line.startswith("# new generation") and "(nft)" not in line for line in lines)

    def close(self):
        self.child.kill()
        self.child.wait(30)


def test_a_service_that_is_taken_and_left_again_and_again_changes_the_rules_a_few_times(redirected, folder, closing):
    """The kernel follows what is wanted last, and each message has its answer, in order."""
    redirected.serve("original", PORT, "::")
    redirected.start_sidecar(PORT)
    changes = closing(Changes(redirected.service, folder / "changes.log"))
    peer = redirected.start_peer()
    try:
        pairs, said = 50, b""
        ports = [{"service": PORT}]
        for number in range(pairs + 1):
            start = {"type": "start", "generation": number, "workspace": "x", "ports": ports, "drainSeconds": 0}
            said += control.encode(start) + (control.encode({"type": "stop"}) if number < pairs else b"")
        began = time.monotonic()
        with peer.changed:
            peer.connection.streams[0].sending.write(said)
        peer.wake()
        answers = []
        while not answers or answers[-1] != ("started", pairs):
            message = peer.wait_message("started", "withdrawn", "stopped", "failed", timeout=30)
            answers.append((message["type"], message.get("generation")))
        took = time.monotonic() - began
        right = [(("started", number), ("withdrawn", None), ("stopped", None)) for number in range(pairs)]
        assert answers == [answer for three in right for answer in three] + [("started", pairs)]
        count = changes.count()
        print(f"{count} transactions for {pairs} pairs and a start, in {took:.2f} s")
        # One for a start, two for a stop; four changes at once, and one each 100 ms.
        assert 1 <= count <= 2 * (4 + 1 + 10 * took), count
        assert count <= pairs, count
        # The last that was wanted is what is so.
        assert "set live {" in redirected.service.run("nft", "list", "ruleset")
        peer.send_control({"type": "stop"})
        assert peer.wait_message("stopped", timeout=30)
        own = ("original", redirected.neighbours[0])
        eventually("the original has its clients", lambda: redirected.ask(redirected.service.address) == own, 2, pause=0.1)
    finally:
        peer.shut()


def test_with_refuse_clients_are_refused_however_long_nothing_listens(redirected):
    redirected.serve("original", PORT, "::")
    redirected.start_sidecar(PORT, flags=["--allow-refuse"])
    local = free_port()
    redirected.start_workspace(f"{PORT}:{local}", flags=["--on-unavailable", "refuse"])
    until = time.monotonic() + 3
    while time.monotonic() < until:
        assert whom_it_sees(redirected) == [None, None]
    redirected.serve("ada", local, "127.0.0.1", inside=False)
    assert {said[0] for said in whom_it_sees(redirected)} == {"ada"}


def test_a_port_that_is_left_takes_no_other_with_it(redirected, closing):
    """Also not the UDP port of the same number, whose client always sends from one port."""
    redirected.serve("original", PORT, "::")
    start_server(redirected.processes, "original", PORT, "::", redirected.service.prefix)
    redirected.start_sidecar(PORT, f"{PORT}/udp")
    datagrams = free_datagram_port()
    start_server(redirected.processes, "ada", datagrams)
    redirected.start_workspace(f"{PORT}:{free_port()}", f"{PORT}:{datagrams}/udp")
    prefix = [*redirected.neighbour.prefix, sys.executable, "-B", "-u"]
    client = closing(FixedClient(redirected.service.address, PORT, 40_054, prefix))
    client.comes_to("ada", 5)
    asked = len(client.answers)
    own = ("original", redirected.neighbours[0])
    eventually("the port is left", lambda: redirected.ask(redirected.service.address) == own, 2, pause=0.1)
    client.comes_to("ada")
    assert set(client.answers[asked:]) == {"ada"}


def test_a_server_on_another_machine_is_found_again(redirected):
    """Nothing of it can be seen from here but that it takes a connection."""
    redirected.serve("original", PORT, "::")
    local, (address, _) = free_port(), redirected.neighbours
    with network_of(redirected.neighbour):
        redirected.start_sidecar(PORT)
        redirected.start_workspace(f"{PORT}:{address}:{local}")
    own = ("original", address)
    redirected.ask(redirected.service.address)
    eventually("the port is left", lambda: redirected.ask(redirected.service.address) == own, 2, pause=0.1)
    command = [*redirected.neighbour.prefix, sys.executable, "-B", PROGRAMS / "who_server.py", "--name", "ada"]
    redirected.processes.start("ada", [*command, "--port", str(local), "--host", address]).first_line(30)
    ada = lambda: redirected.ask(redirected.service.address)[0] == "ada"
    eventually("the workspace's server has its clients", ada, 4, pause=0.1)


def test_what_was_open_before_is_ended_on_each_port_that_is_asked_for(redirected, closing):
    """On both, though the second one is asked for while the first one's clients have their time; and on none that comes back."""
    other = PORT + 1
    for port in (PORT, other):
        redirected.serve(f"original-{port}", port, "::")
    redirected.start_sidecar(PORT, other)
    before = [closing(Held(redirected, port)) for port in (PORT, other)]
    peer = redirected.start_peer()
    try:
        peer.start(1, PORT, drainSeconds=1)
        assert peer.wait_message("started", "failed") == {"type": "started", "generation": 1}
        peer.start(2, PORT, other, drainSeconds=1)
        assert peer.wait_message("started", "failed") == {"type": "started", "generation": 2}
        for held in before:
            eventually("what was open before is ended", lambda held=held: held.who() == "ended", 2, pause=0.1)
        peer.start(3, other, drainSeconds=1)
        assert peer.wait_message("started", "failed") == {"type": "started", "generation": 3}
        held = closing(Held(redirected))
        peer.start(4, PORT, other, drainSeconds=1)
        assert peer.wait_message("started", "failed") == {"type": "started", "generation": 4}
        time.sleep(1.5)
        assert held.who() == f"original-{PORT}"
        # With no port at all it holds the service still, and the original has it.
        peer.start(5, drainSeconds=1)
        assert peer.wait_message("started", "failed") == {"type": "started", "generation": 5}
        assert redirected.ask(redirected.service.address) == (f"original-{PORT}", redirected.neighbours[0])
    finally:
        peer.shut()
