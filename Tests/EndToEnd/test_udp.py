"""UDP services through an intercept: each question is answered to its asker, by the side that has the service."""

import os
import pathlib
import socket
import statistics
import subprocess
import sys
import time
import urllib.request

import pytest

from harness.agents import Sidecar, Workspace, endpoint, split_address
from harness.keys import KeyPair
from harness.load import ask as ask_web
from harness.ports import address, free_port
from harness.udp import FixedClient, LateServer, ask, free_datagram_port, start_server, who, who_each
from harness.waiting import eventually, note
from harness.web import WebServer

SERVICE = 53
NEW_CLIENTS = pathlib.Path(__file__).parent / "harness" / "new_clients.py"


class Service:
    """A sidecar in front of a UDP service on `public`, and a workspace with a server of its own.

    With `alone` false there may be other ports beside it: the service's is the public one's.
    """

    def __init__(self, processes, binaries, folder, *, host="127.0.0.1", alone=True):
        self.processes, self.binaries, self.folder = processes, binaries, folder
        self.keys = {"sidecar": KeyPair(), "workspace": KeyPair()}
        self.files = {name: key.write(folder / f"{name}.key") for name, key in self.keys.items()}
        self.public = (host, free_datagram_port() if alone else free_port())
        self.number, self.listen = (SERVICE, address(*self.public)) if alone else (self.public[1], host)
        self.original, self.local = free_datagram_port(), free_datagram_port()

    def start_sidecar(self, *flags):
        arguments = ["--private-key-file", self.files["sidecar"], "--peer", self.keys["workspace"].public]
        arguments += ["--listen-tcp", "127.0.0.1:0", "--service-port", f"{self.number}:127.0.0.1:{self.original}/udp"]
        arguments += ["--divert", f"listen={self.listen}", *flags]
        self.sidecar = Sidecar(self.processes, self.binaries, arguments)
        return self.sidecar

    def start_workspace(self, *flags, carrier="tcp"):
        there = endpoint(self.keys["sidecar"].public, *split_address(self.sidecar.ready[carrier]), carrier=carrier)
        arguments = ["--private-key-file", self.files["workspace"], "--sidecar", there]
        arguments += ["--map", f"{self.number}:{self.local}/udp", *flags]
        self.workspace = Workspace(self.processes, self.binaries, arguments)
        return self.workspace

    def serve(self, *names):
        for name in names:
            start_server(self.processes, name, self.original if name == "original" else self.local)


@pytest.fixture
def service(processes, binaries, folder):
    return Service(processes, binaries, folder)


def metric(sidecar, name):
    text = urllib.request.urlopen(f"http://{sidecar.ready['metrics']}/metrics", timeout=10).read().decode()
    return next(float(line.split()[1]) for line in text.splitlines() if line.startswith(f"{name} "))


def test_original_answers_until_a_workspace_comes_and_after_it_has_gone(service):
    service.serve("original", "ada")
    sidecar = service.start_sidecar()
    assert sidecar.ready["listen"] == {f"{SERVICE}/udp": f"127.0.0.1:{service.public[1]}"}
    assert ask(service.public) == ("original", b"hello")
    service.start_workspace()
    assert ask(service.public) == ("ada", b"hello")
    assert ask(service.public, b"") == ("ada", b"")
    assert service.workspace.stop() == 0
    assert who(service.public) == "original"
    assert service.sidecar.stop() == 0


def test_a_client_with_one_port_moves_at_start_and_at_stop(service, closing):
    service.serve("original", "ada")
    service.start_sidecar()
    client = closing(FixedClient(*service.public, free_datagram_port()))
    client.comes_to("original")
    service.start_workspace()
    client.comes_to("ada")
    assert service.workspace.stop() == 0
    client.comes_to("original")


def test_original_answers_the_first_question_while_nothing_listens_in_the_workspace(service, closing):
    service.serve("original")
    service.start_sidecar()
    service.start_workspace()
    # Not the second: what the workspace couldn't give to anybody is handed on.
    assert ask(service.public) == ("original", b"hello")
    client = closing(FixedClient(*service.public, free_datagram_port()))
    client.comes_to("original")
    service.serve("ada")
    client.comes_to("ada", 10)


@pytest.mark.long
@pytest.mark.parametrize("name", ["ada", "original"])
def test_what_a_server_says_after_75_seconds_of_silence_arrives(service, name):
    """After one question and its answer, intercepted and passed on."""
    port = service.local if name == "ada" else service.original
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        server.bind(("127.0.0.1", port))
        service.start_sidecar()
        if name == "ada":
            service.start_workspace()
        client.connect(service.public)
        server.settimeout(10)
        client.settimeout(10)
        client.send(b"question")
        _, asker = server.recvfrom(1_000)
        server.sendto(b"answer", asker)
        assert client.recv(1_000) == b"answer"
        time.sleep(75)
        server.sendto(b"news", asker)
        assert client.recv(1_000) == b"news"


def is_refused(place):
    """Whether a client is told that nobody takes what it sends."""
    with socket.socket(socket.AF_INET6 if ":" in place[0] else socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(5)
        client.connect(place)
        client.send(b"hello")
        try:
            client.recv(1_000)
        except ConnectionRefusedError:
            return True
        except TimeoutError:
            pass
        return False


@pytest.mark.skipif(os.geteuid() != 0, reason="ICMP messages need CAP_NET_RAW. Run the tests as root")
@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "0.0.0.0"])
def test_what_nobody_takes_is_refused(processes, binaries, folder, host):
    service = Service(processes, binaries, folder, host=host)
    if host == "0.0.0.0":
        service.public = ("127.0.0.2", service.public[1])
    service.start_sidecar("--allow-refuse")
    assert is_refused(service.public)
    workspace = service.start_workspace()
    assert is_refused(service.public)
    assert workspace.stop() == 0
    service.start_workspace("--on-unavailable", "refuse")
    # By the workspace's word, then for 5 s without asking it again.
    assert is_refused(service.public)
    service.serve("original")
    assert is_refused(service.public)
    service.serve("ada")
    eventually("the workspace answers", lambda: who(service.public, timeout=0.5) == "ada", 2)


def test_refused_where_the_workspace_is_to_be_had_alone(service):
    service.serve("original")
    service.start_sidecar("--allow-refuse")
    service.start_workspace("--on-unavailable", "refuse")
    assert who(service.public, timeout=1) is None
    service.serve("ada")
    eventually("the workspace answers", lambda: who(service.public, timeout=0.5) == "ada", 2)


def test_with_its_workspace_gone_the_original_answers(service, closing):
    service.serve("original", "ada")
    service.start_sidecar("--dead-after", "1s")
    workspace = service.start_workspace()
    client = closing(FixedClient(*service.public, free_datagram_port()))
    client.comes_to("ada")
    workspace.kill()
    client.comes_to("original", 4)
    service.start_workspace()
    client.comes_to("ada")


@pytest.mark.parametrize("size", [16_300, 16_500, 40_000, 65_400])
def test_what_no_message_holds_goes_over_a_stream(service, size):
    service.serve("original", "ada")
    service.start_sidecar()
    service.start_workspace()
    question = bytes(range(256)) * 256
    assert ask(service.public, question[:size], timeout=10) == ("ada", question[:size])
    # A short question with a long answer: only the sidecar can open a stream.
    name, answer = ask(service.public, b"answer %d" % size, timeout=10)
    assert (name, len(answer)) == ("ada", size - len("ada "))


def test_answers_come_from_the_address_that_was_asked(processes, binaries, folder):
    service = Service(processes, binaries, folder, host="0.0.0.0")
    service.serve("original", "ada")
    service.start_sidecar()
    places = [(f"127.0.0.{last}", service.public[1]) for last in (1, 2, 77)]
    assert [who(place) for place in places] == ["original"] * 3
    service.start_workspace()
    assert [who(place) for place in places] == ["ada"] * 3


@pytest.fixture
def service_and_web(processes, binaries, folder, closing):
    """A service by UDP and by TCP on one number, and the web servers of both sides."""
    service = Service(processes, binaries, folder, alone=False)
    service.web, service.mine = closing(WebServer("original")), closing(WebServer("ada"))
    service.by_tcp = ["--service-port", f"{service.number}:{address(*service.web.address)}"]
    service.to_mine = ["--map", f"{service.number}:{address(*service.mine.address)}"]
    return service


def test_tcp_and_udp_of_one_number_are_two_ports(service_and_web):
    service, place = service_and_web, service_and_web.public
    service.serve("original", "ada")
    service.start_sidecar(*service.by_tcp)
    assert (who(place), ask_web(place)) == ("original", "original")
    workspace = service.start_workspace()
    assert (who(place), ask_web(place)) == ("ada", "original")
    workspace.stop()
    service.start_workspace(*service.to_mine)
    assert (who(place), ask_web(place)) == ("ada", "ada")


def test_more_clients_than_flows_are_kept(service):
    """The longest idle end; who asks again is answered."""
    service.serve("original", "ada")
    sidecar = service.start_sidecar("--metrics", "127.0.0.1:0")
    service.start_workspace()
    clients = []
    for _ in range(1_500):
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        client.connect(service.public)
        client.settimeout(10)
        client.send(b"one")
        assert client.recv(100) == b"ada one"
        clients.append(client)
    assert metric(sidecar, "kl_sidecar_streams") == 1_024
    for client in clients[:50]:
        client.send(b"two")
        assert client.recv(100) == b"ada two"
    for client in clients:
        client.close()


@pytest.mark.parametrize("side", ["original", "ada"])
def test_clients_of_a_server_that_takes_its_time_are_waited_for(service, closing, side):
    """More in all than flows are kept, many of them at once; each is answered before the next ones come."""
    closing(LateServer(side, service.original if side == "original" else service.local, late=0.05))
    service.start_sidecar()
    if side == "ada":
        service.start_workspace()
    for before in range(0, 1_400, 50):
        answers = who_each(service.public, 50)
        assert answers == [side] * 50, f"after {before} others: {answers.count(side)} of 50"


@pytest.mark.parametrize("carrier", ["tcp", "udp"])
def test_requests_are_answered_amid_a_flood_of_new_clients(service_and_web, processes, closing, carrier):
    """One byte each, which nobody answers, beside a TCP port of the same workspace."""
    service = service_and_web
    silent = closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    silent.bind(("127.0.0.1", service.local))
    sidecar = service.start_sidecar(*service.by_tcp, "--listen-udp", "127.0.0.1:0", "--metrics", "127.0.0.1:0")
    service.start_workspace(*service.to_mine, carrier=carrier)
    assert ask_web(service.public) == "ada"
    words = [sys.executable, "-B", "-S", NEW_CLIENTS, "--port", service.public[1], "--per-second", 15_000]
    flood = processes.start("flood", words)
    eventually("a flood has come", lambda: metric(sidecar, "kl_sidecar_streams") > 100, 3)
    times = []
    for _ in range(20):
        began = time.monotonic()
        assert ask_web(service.public, timeout=10) == "ada"
        times.append(time.monotonic() - began)
        # The flood goes on meanwhile.
        time.sleep(0.2)
    assert flood.stop() == 0, flood.log()
    median = statistics.median(times)
    print(f"{flood.lines[-1]} new clients a second; requests: {median:.3f} s, the slowest {max(times):.3f} s")
    note("the slowest request amid a flood of new clients", 1, max(times))
    assert median < 1


def dns_server(processes, name, port):
    """dnsmasq with one answer for every name, and its own name as a text."""
    address = {"original": "192.0.2.1", "ada": "192.0.2.2"}[name]
    command = ["dnsmasq", "--keep-in-foreground", "--no-hosts", "--no-resolv", "--conf-file=/dev/null", "--pid-file="]
    command += [f"--port={port}", "--listen-address=127.0.0.1", "--bind-interfaces", f"--address=/test/{address}"]
    command += ["--user=", "--group=", f"--txt-record=who.test,{name}"]
    processes.start(name, command)
    eventually(f"{name} answers for names", lambda: dig(("127.0.0.1", port), "who.test", "TXT") == [f'"{name}"'], 3)
    return address


def dig(place, *question):
    command = ["dig", "+short", "+tries=1", "+timeout=2", f"@{place[0]}", "-p", str(place[1]), *question]
    return subprocess.run(command, capture_output=True, text=True).stdout.split()


def test_a_thousand_names_asked_from_fifty_ports_at_once(service, processes, folder):
    dns_server(processes, "original", service.original)
    address = dns_server(processes, "ada", service.local)
    service.start_sidecar()
    assert dig(service.public, "who.test", "TXT") == ['"original"']
    service.start_workspace()
    assert dig(service.public, "who.test", "TXT") == ['"ada"']
    askers = []
    for client in range(50):
        names = folder / f"names-{client}"
        names.write_text("".join(f"c{client}-q{number}.test A\n" for number in range(20)))
        source = f"127.0.0.1#{free_datagram_port()}"
        command = ["dig", "+noall", "+answer", "+tries=1", "+timeout=10", "-b", source, f"@{service.public[0]}"]
        command += ["-p", str(service.public[1]), "-f", str(names)]
        askers.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
    for client, asker in enumerate(askers):
        lines = [line.split() for line in asker.communicate(timeout=120)[0].splitlines() if line.strip()]
        found = [(line[0], line[-1]) for line in lines]
        assert found == [(f"c{client}-q{number}.test.", address) for number in range(20)]
