"""UDP services through an intercept: each question is answered to its asker, by the side that has the service."""

import json
import socket
import subprocess
import urllib.request

import pytest

from harness.agents import Sidecar, Workspace, endpoint
from harness.keys import KeyPair
from harness.ports import free_port
from harness.udp import FixedClient, ask, free_datagram_port, start_server, who
from harness.waiting import eventually

SERVICE = 53


class Service:
    """A sidecar in front of a UDP service on `public`, and a workspace with a server of its own."""

    def __init__(self, processes, binaries, folder, *, host="127.0.0.1"):
        self.processes, self.binaries, self.folder = processes, binaries, folder
        self.keys = {"sidecar": KeyPair(), "workspace": KeyPair()}
        self.files = {name: key.write(folder / f"{name}.key") for name, key in self.keys.items()}
        self.public = (host, free_datagram_port())
        self.original, self.local = free_datagram_port(), free_datagram_port()

    def start_sidecar(self, *flags):
        arguments = ["--private-key-file", self.files["sidecar"], "--peer", self.keys["workspace"].public]
        arguments += ["--listen-tcp", "127.0.0.1:0", "--service-port", f"{SERVICE}:127.0.0.1:{self.original}/udp"]
        arguments += ["--divert", f"listen={self.public[0]}:{self.public[1]}", *flags]
        self.sidecar = Sidecar(self.processes, self.binaries, arguments)
        return self.sidecar

    def start_workspace(self, *flags):
        there = endpoint(self.keys["sidecar"].public, *self.sidecar.tunnel)
        arguments = ["--private-key-file", self.files["workspace"], "--sidecar", there]
        arguments += ["--map", f"{SERVICE}:{self.local}/udp", *flags]
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


def test_refused_where_the_workspace_is_to_be_had_alone(service):
    service.serve("original")
    service.start_sidecar()
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


def test_tcp_and_udp_of_one_number_are_two_ports(processes, binaries, folder, closing):
    from harness.web import WebServer
    from harness.load import ask as ask_web

    service = Service(processes, binaries, folder)
    service.serve("original", "ada")
    web, mine = closing(WebServer("original")), closing(WebServer("ada"))
    public = free_port()
    arguments = ["--private-key-file", service.files["sidecar"], "--peer", service.keys["workspace"].public]
    arguments += ["--listen-tcp", "127.0.0.1:0", "--divert", "listen=127.0.0.1"]
    arguments += ["--service-port", f"{public}:127.0.0.1:{service.original}/udp"]
    arguments += ["--service-port", f"{public}:127.0.0.1:{web.address[1]}"]
    service.sidecar = Sidecar(processes, binaries, arguments)
    place = ("127.0.0.1", public)
    assert (who(place), ask_web(place)) == ("original", "original")
    there = endpoint(service.keys["sidecar"].public, *service.sidecar.tunnel)
    both = ["--private-key-file", service.files["workspace"], "--sidecar", there, "--map", f"{public}:{service.local}/udp"]
    workspace = Workspace(processes, binaries, both)
    assert (who(place), ask_web(place)) == ("ada", "original")
    workspace.stop()
    Workspace(processes, binaries, [*both, "--map", f"{public}:{mine.address[1]}"])
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
