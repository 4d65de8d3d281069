"""Behind a redirect, the original sees its clients' own addresses, also of those that the sidecar passes on to it."""

import json
import shutil
import socket
import subprocess
import sys
import time

import pytest

from harness.cable import Cable, RedirectingAgents
from harness.docker_project import PROGRAMS
from harness.machine import needs_root
from harness.networks import network_of
from harness.ports import free_port
from harness.udp import free_datagram_port, start_server
from harness.waiting import eventually

V4, V6 = "10.112.0.2", "fd6b:6c00:112::2"
CLIENTS = {V4: "10.112.0.1", V6: "fd6b:6c00:112::1"}
PORT, OTHER = 8080, 8081
# With this, the sidecar passes a client on for as long as the workspace has the port.
PROBE = "kube-probe/1.30"


class Service(Cable):
    """A web service's network and a client's, all of whose addresses are those of the node's probes."""

    def __init__(self, processes, binaries, folder):
        super().__init__(112)
        strict = [f"net.ipv4.conf.{name}.rp_filter=1" for name in ("all", "default", "eth0", "lo")]
        self.service.run("sysctl", "-qw", *strict)
        self.processes = processes
        self.agents = RedirectingAgents(processes, binaries, folder, self.service)
        # The kernel makes the table of local addresses a rule's when a namespace gets its first rule.
        self.before = self.state()

    def state(self):
        """All that the kernel routes and filters by."""
        words = [f"ip {version} {what}" for version in ("-4", "-6") for what in ("rule", "route show table all")]
        said = [self.service.run(*text.split()) for text in [*words, "nft -s list ruleset"]]
        # The link is up, and has addresses of its own, a moment later.
        lines = [text.replace(" linkdown", "").splitlines() for text in said]
        return [sorted(line.rstrip() for line in one if "fe80:" not in line) for one in lines]

    def serve(self, name="original", port=PORT, host="::"):
        command = [*self.service.prefix, sys.executable, "-B", PROGRAMS / "who_server.py", "--name", name]
        server = self.processes.start(name, [*command, "--port", str(port), "--host", host])
        server.first_line(30)
        return server

    def serve_here(self, name="ada"):
        """A server in the workspace's network; its port."""
        port = free_port()
        command = [sys.executable, "-B", PROGRAMS / "who_server.py", "--host", "127.0.0.1", "--name", name]
        self.processes.start(name, [*command, "--port", str(port)]).first_line(30)
        return port

    def start(self, *ports, flags=()):
        node = [word for pair in CLIENTS.items() for address in pair for word in ("--node-address", address)]
        return self.agents.start_sidecar(*(ports or [PORT]), flags=[*node, "--announce-intercepts", *flags])

    def ask(self, address=V4, agent="test", port=PORT, machine=None, wait=15):
        """Who answers, and what client that one sees; None where the connection is refused or reset."""
        url = f"http://[{address}]:{port}/" if ":" in address else f"http://{address}:{port}/"
        command = ["curl", "-s", "-g", "-m", str(wait), "-A", agent, url]
        return tuple((machine or self.client).run(*command, check=False).split()) or None

    def passed_on(self, **options):
        """What the original sees of clients that are passed on to it: at each address."""
        return [self.ask(address, PROBE, **options) for address in CLIENTS]

    def datagram(self, address, text=b"whom", wait=5):
        """The answer to a client's datagram, in words, and the port that it was sent from."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with network_of(self.client):
            client = socket.socket(family, socket.SOCK_DGRAM)
        with client:
            client.settimeout(wait)
            client.connect((address, PORT))
            client.send(text)
            return client.recv(65_536).decode().split(), client.getsockname()[1]


OWN = [("original", client) for client in CLIENTS.values()]


@pytest.fixture
def service(processes, binaries, folder, closing):
    needs_root()
    return closing(Service(processes, binaries, folder))


def sees(sidecar):
    """What the sidecar's last line says that the original sees."""
    return json.loads(sidecar.process.lines[-1])["originalSees"]


NGINX = """
daemon off; worker_processes 1; error_log stderr warn; pid FOLDER/nginx.pid;
events { worker_connections 1024; }
http {
    log_format plain "$remote_addr $http_user_agent"; access_log FOLDER/access.log plain;
    client_body_temp_path FOLDER/a; proxy_temp_path FOLDER/b; fastcgi_temp_path FOLDER/c; uwsgi_temp_path FOLDER/d;
    scgi_temp_path FOLDER/e;
    server { listen PORT; listen [::]:PORT; location / { return 200 "original $remote_addr"; } }
}
"""


def test_nginxs_log_has_its_clients_addresses(service, folder):
    """Before, while a workspace has the port, while it hangs, once it is gone, while its server isn't there, and after."""
    if shutil.which("nginx") is None:
        pytest.skip("nginx isn't installed")
    folder.chmod(0o777)
    configuration, log = folder / "nginx.conf", folder / "access.log"
    configuration.write_text(NGINX.replace("FOLDER", str(folder)).replace("PORT", str(PORT)))
    service.processes.start("nginx", [*service.service.prefix, "nginx", "-c", configuration])
    eventually("nginx answers", lambda: service.ask(agent="starts"), 10)
    service.ask(V6, "starts")
    service.start(flags=["--dead-after", "2s"])
    for address in CLIENTS:
        assert service.ask(address, "before")[0] == "original"
    workspace = service.agents.start_workspace(f"{PORT}:{service.serve_here()}")
    for address in CLIENTS:
        assert service.ask(address, "taken")[0] == "ada"
    assert service.passed_on() == OWN
    workspace.freeze()
    for address in CLIENTS:
        original = lambda address=address: (service.ask(address, "hangs", wait=2) or [None])[0] == "original"
        eventually("the original answers: the workspace hangs", original, 10)
    workspace.thaw()
    eventually("the workspace has its clients", lambda: service.ask(agent="back")[0] == "ada", 5)
    workspace.kill()
    for address in CLIENTS:
        original = lambda address=address: (service.ask(address, "killed", wait=2) or [None])[0] == "original"
        eventually("the original answers: the workspace is killed", original, 10)
    eventually("the port is left", lambda: "kl_" not in service.rules(), 20)
    for address in CLIENTS:
        workspace = service.agents.start_workspace(f"{PORT}:{free_port()}")
        # The first one is passed on by the sidecar.
        assert service.ask(address, "absent")[0] == "original"
        workspace.stop()
    for address in CLIENTS:
        assert service.ask(address, "after")[0] == "original"
    seen = {}
    for line in log.read_text().splitlines():
        address, agent = line.split(" ", 1)
        seen.setdefault(agent, set()).add(address)
    print(seen)
    both = set(CLIENTS.values())
    assert seen.pop("starts") == both
    seen.pop("back", None)
    assert seen == {name: both for name in ("before", PROBE, "hangs", "killed", "absent", "after")}


def test_it_is_the_kernels_again_at_the_end(service):
    service.serve()
    sidecar = service.start()
    assert service.state() == service.before
    workspace = service.agents.start_workspace(f"{PORT}:{service.serve_here()}")
    assert service.ask()[0] == service.ask(V6)[0] == "ada"
    assert service.passed_on() == OWN
    # A client of the service's own network, at its own address.
    for address in CLIENTS:
        assert service.ask(address, PROBE, machine=service.service) == ("original", address)
    assert sees(sidecar) == "client"
    workspace.stop()
    eventually("all is as before", lambda: service.state() == service.before, 3)
    sidecar.stop()
    assert service.state() == service.before


def test_what_a_killed_one_leaves_does_nothing_and_goes_with_the_next(service):
    service.serve()
    port = service.serve_here()
    sidecar = service.start()
    service.agents.start_workspace(f"{PORT}:{port}")
    assert service.passed_on() == OWN
    sidecar.kill()
    service.agents.workspace.kill()
    eventually("the original has its clients", lambda: [service.ask(address) for address in CLIENTS] == OWN, 5)
    assert service.state() != service.before
    # Of a table that nobody has, and so nobody's: another program's rule stays.
    service.service.run(*"ip rule add pref 9 fwmark 0x206e lookup 1802240292".split())
    sidecar = service.start()
    assert [line for line in service.state()[0] if "0x2068" in line] == []
    service.service.run(*"ip rule del pref 9".split())
    assert service.state() == service.before
    service.agents.start_workspace(f"{PORT}:{port}")
    assert service.passed_on() == OWN


def test_a_refusal_stays_one(service):
    original = service.serve()
    service.start()
    service.agents.start_workspace(f"{PORT}:{service.serve_here()}")
    assert service.passed_on() == OWN
    original.kill()
    before = time.monotonic()
    assert service.passed_on() == [None, None]
    assert time.monotonic() - before < 10
    assert service.ask()[0] == "ada"
    service.serve()
    assert service.passed_on() == OWN


HOLD = """
import itertools, socket, sys
address, port, first, last, agent = sys.argv[1:]
family = socket.AF_INET6 if ":" in address else socket.AF_INET
held = []
for number in range(int(first), int(last) + 1):
    one = socket.socket(family)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    one.bind(("", number))
    one.settimeout(30)
    one.connect((address, int(port)))
    held.append(one)
for line in itertools.chain([""], sys.stdin):
    said = set()
    for one in held:
        one.send(f"GET / HTTP/1.1\\r\\nHost: a\\r\\nUser-Agent: {agent}\\r\\n\\r\\n".encode())
        answer = b""
        while not answer.partition(b"\\r\\n\\r\\n")[2].endswith(b"\\n"):
            answer += one.recv(4096) or b"ended\\r\\n\\r\\nended\\n"
        said.add(answer.decode().split("\\r\\n\\r\\n", 1)[1].strip())
    print(";".join(sorted(said)), flush=True)
"""


class Held:
    """Connections from some ports of the client's, which are kept."""

    def __init__(self, service, address, first, last, agent="test", port=PORT):
        command = [*service.client.prefix, sys.executable, "-S", "-c", HOLD, address]
        command += [*map(str, (port, first, last)), agent]
        self.child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.who = self.child.stdout.readline().strip()

    def ask(self):
        self.child.stdin.write("\n")
        self.child.stdin.flush()
        return self.child.stdout.readline().strip()

    def close(self):
        self.child.kill()
        self.child.wait(30)
        self.child.stdin.close()
        self.child.stdout.close()


@pytest.mark.parametrize("address", CLIENTS)
def test_with_the_very_ports_of_the_clients_own_connections(service, closing, address):
    """The kernel has few ports to choose from, each of which the client uses: to the workspace, or to the original itself."""
    service.serve()
    direct = closing(Held(service, address, 40_000, 40_004))
    service.service.run("sysctl", "-qw", "net.ipv4.ip_local_port_range=40000 40063")
    service.start()
    service.agents.start_workspace(f"{PORT}:{service.serve_here()}", flags=["--drain", "10m"])
    taken = closing(Held(service, address, 40_005, 40_009))
    assert taken.who == f"ada {'127.0.0.1'}"
    assert direct.ask() == f"original {CLIENTS[address]}"
    for _ in range(20):
        assert service.ask(address, PROBE) == ("original", CLIENTS[address])
    # And the other way round.
    passed = closing(Held(service, address, 41_000, 41_004, PROBE))
    assert passed.who == f"original {CLIENTS[address]}"
    later = closing(Held(service, address, 40_010, 40_014))
    for held in (taken, later):
        assert held.ask().startswith("ada")
    for held in (direct, passed):
        assert held.ask() == f"original {CLIENTS[address]}"


def test_what_is_passed_on_outlives_the_redirect(service, closing):
    service.serve()
    sidecar = service.start()
    workspace = service.agents.start_workspace(f"{PORT}:{service.serve_here()}")
    passed = [closing(Held(service, address, 41_000, 41_004, PROBE)) for address in CLIENTS]
    workspace.stop()
    for address, held in zip(CLIENTS, passed):
        assert service.ask(address) == ("original", CLIENTS[address])
        assert held.ask() == f"original {CLIENTS[address]}"
    time.sleep(1)
    for address, held in zip(CLIENTS, passed):
        assert held.ask() == f"original {CLIENTS[address]}"
    assert service.state() != service.before
    for held in passed:
        held.child.stdin.close()
        held.child.wait(30)
    eventually("all is as before", lambda: service.state() == service.before, 5)
    assert sees(sidecar) == "client"


def test_two_in_one_network_leave_each_other_alone(service, folder, closing):
    """Each has a port; one is stopped while the other has clients."""
    folder = folder / "second"
    folder.mkdir()
    service.serve()
    service.serve("other", OTHER)
    first = service.start()
    workspace = service.agents.start_workspace(f"{PORT}:{service.serve_here()}")
    agents = RedirectingAgents(service.processes, service.agents.binaries, folder, service.service)
    node = [word for address in CLIENTS.values() for word in ("--node-address", address)]
    agents.start_sidecar(OTHER, flags=node)
    agents.start_workspace(f"{OTHER}:{service.serve_here('eve')}")
    others = [("other", client) for client in CLIENTS.values()]
    assert (service.passed_on(), service.passed_on(port=OTHER)) == (OWN, others)
    held = closing(Held(service, V4, 41_000, 41_004, PROBE, OTHER))
    workspace.stop()
    assert service.passed_on(port=OTHER) == others
    first.kill()
    assert service.passed_on(port=OTHER) == others
    service.start()
    service.agents.start_workspace(f"{PORT}:{service.serve_here('ada again')}")
    assert (service.passed_on(), service.passed_on(port=OTHER)) == (OWN, others)
    agents.workspace.stop()
    assert held.ask() == f"other {CLIENTS[V4]}"
    held.close()
    agents.sidecar.stop()
    assert service.passed_on() == OWN
    service.agents.workspace.stop()
    service.agents.sidecar.stop()
    assert service.state() == service.before


def test_datagrams(service):
    """Until the workspace says that nothing listens there, they are passed on by the sidecar; then they arrive themselves."""
    start_server(service.processes, "original", PORT, "::", service.service.prefix)
    for address, client in CLIENTS.items():
        said, port = service.datagram(address)
        assert said == ["original", client, str(port)]
    sidecar = service.start(f"{PORT}/udp")
    for address, client in CLIENTS.items():
        workspace = service.agents.start_workspace(f"{PORT}:{free_datagram_port()}/udp")
        said, port = service.datagram(address)
        # Another port: so it was passed on.
        assert said[:2] == ["original", client] and said[2] != str(port)
        workspace.stop()
    assert sees(sidecar) == "client"
    eventually("all is as before", lambda: service.state() == service.before, 5)
    for address, client in CLIENTS.items():
        said, port = service.datagram(address)
        assert said == ["original", client, str(port)]


@pytest.mark.parametrize("address", CLIENTS)
def test_a_late_answer_comes_back(service, address):
    """Though the kernel would have forgotten by then which socket it is for."""
    service.service.run("sysctl", "-qw", "net.netfilter.nf_conntrack_udp_timeout=3")
    start_server(service.processes, "original", PORT, "::", service.service.prefix)
    copies = free_datagram_port()
    start_server(service.processes, "ada", copies, "127.0.0.1")
    sidecar = service.start(f"{PORT}/udp")
    # Of a mirror's port, the sidecar passes each client on.
    service.agents.start_workspace(f"{PORT}:{copies}/udp", flags=["--mirror"])
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with network_of(service.client):
        client = socket.socket(family, socket.SOCK_DGRAM)
    with client:
        client.connect((address, PORT))
        for wait in (7, 10):
            client.send(b"twice %d" % wait)
            for _ in range(2):
                client.settimeout(wait + 20)
                assert client.recv(100) == b"original twice %d" % wait
    assert sees(sidecar) == "client"


OTHERS = """
table ip nat {
    chain prerouting { type nat hook prerouting priority dstnat; tcp dport 9999 dnat to 10.112.0.2:8080; }
    chain output { type nat hook output priority -100; ip daddr 127.0.0.11 udp dport 53 dnat to 127.0.0.11:5353; }
    chain postrouting {
        type nat hook postrouting priority srcnat
        meta mark & 0x4000 == 0x4000 masquerade
        ip saddr 127.0.0.11 udp sport 5353 snat to :53
    }
}
table inet mesh {
    chain prerouting { type filter hook prerouting priority mangle; iifname "lo" accept; ct mark set meta mark | 0x1; }
    chain save { type filter hook postrouting priority mangle; ct mark set meta mark; }
    chain restore { type route hook output priority mangle; meta mark != 0x206c meta mark set ct mark & 0xff00; }
}
table inet fast {
    chain output { type filter hook output priority raw; oif lo notrack; }
    chain prerouting { type filter hook prerouting priority raw; iif lo notrack; }
}
table inet strict {
    chain prerouting {
        type filter hook prerouting priority raw + 10
        fib saddr . iif oif missing drop
    }
    chain input {
        type filter hook input priority filter; policy drop
        iifname "lo" accept
        ct state established,related accept
        meta l4proto { icmp, ipv6-icmp } accept
        tcp dport { 8080, 9999 } accept
        ct status dnat accept
    }
}
"""


def test_beside_other_programs_rules(service):
    """As Docker, kube-proxy, a mesh and a host's filter have them."""
    text = "\n".join(line.replace("; }", "\n}").replace("{ type", "{\ntype") for line in OTHERS.splitlines())
    service.service.run("nft", "-f", "-", input=text)
    service.service.run(*"ip rule add pref 100 fwmark 0x1/0x1 lookup 100".split())
    service.service.run(*"ip route add local default dev lo table 100".split())
    before = service.state()
    service.serve()
    sidecar = service.start()
    workspace = service.agents.start_workspace(f"{PORT}:{service.serve_here()}")
    assert service.ask()[0] == service.ask(V6)[0] == "ada"
    assert service.passed_on() == OWN
    assert sees(sidecar) == "client"
    workspace.stop()
    eventually("all is as before", lambda: service.state() == before, 3)


@pytest.mark.parametrize(
    "obstacle",
    [
        "ip rule add pref 20000 fwmark 0x2068 lookup 99",
        "ip rule add pref 3 from 10.112.0.2 lookup main",
    ],
    ids=["mark", "rule"],
)
def test_where_others_stand_in_the_way_it_is_as_ever(service, obstacle):
    """And the sidecar says so."""
    service.service.run(*obstacle.split())
    before = service.state()
    service.serve()
    sidecar = service.start()
    service.agents.start_workspace(f"{PORT}:{service.serve_here()}")
    assert service.ask(V4, PROBE) == ("original", V4)
    assert service.ask()[0] == "ada"
    eventually("it is logged", lambda: "the original sees this sidecar's address" in sidecar.process.log(), 3)
    eventually("the ready line tells", lambda: sees(sidecar) == "sidecar", 30)
    service.agents.workspace.stop()
    eventually("all is as before", lambda: service.state() == before, 3)
