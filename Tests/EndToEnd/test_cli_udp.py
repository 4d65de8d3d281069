"""`kl intercept` of a service with a UDP port, in a local environment."""

import json
import sys

import pytest
from harness.docker_project import PROGRAMS
from harness.processes import kill_whole
from harness.udp import FixedClient, ask, free_datagram_port, start_server, who
from harness.waiting import eventually


@pytest.fixture
def dns(make_project):
    """A project whose only service answers datagrams."""
    project = make_project(services=())
    published, own = free_datagram_port(), free_datagram_port()
    command = [sys.executable, "-B", PROGRAMS / "udp_server.py", "--name", "original", "--host", "127.0.0.1"]
    command = json.dumps([str(word) for word in [*command, "--port", own]])
    project.write(f'  dns:\n    command: {command}\n    ports: ["{published}:{own}/udp"]\n')
    project.place = ("127.0.0.1", published)
    return project


@pytest.fixture
def ada(dns, make_developer):
    ada = make_developer("ada", dns.folder)
    ada.ok("env", "connect", "demo")
    comes_to(dns.place, "original")
    return ada


def comes_to(place, name):
    eventually(f"datagrams come to {name}", lambda: who(place, timeout=0.5) == name, 3)


def test_questions_come_to_the_workspace_and_go_back(dns, ada, processes, closing):
    """Of new clients, and of one that always asks from one port."""
    place = dns.place
    (service,) = ada.ok("env", "status", "-o", "json").json["services"]
    assert [(port["port"], port["transport"]) for port in service["ports"]] == [(place[1], "udp")]
    mine = free_datagram_port()
    start_server(processes, "ada", mine, "127.0.0.1")
    fixed = closing(FixedClient(*place, free_datagram_port()))
    fixed.comes_to("original")
    for _ in range(2):
        said = ada.ok("intercept", "start", "dns", "-p", f"{place[1]}:{mine}/udp").out
        assert f"port {place[1]}/udp → localhost:{mine}" in said
        assert ask(place, b"where?") == ("ada", b"where?")
        fixed.comes_to("ada")
        (intercept,) = ada.intercepts()
        assert [(port["service"], port["transport"]) for port in intercept["ports"]] == [(place[1], "udp")]
        assert intercept["phase"] == "Active"
        ada.ok("intercept", "stop", "dns")
        assert ask(place, b"where?") == ("original", b"where?")
        fixed.comes_to("original")
    assert ada.intercepts() == []


def test_the_original_answers_where_nobody_else_does(dns, ada, processes):
    """Before something listens, and when the daemon is killed; a second start brings it back."""
    mine = free_datagram_port()
    start = ("intercept", "start", "dns", "-p", f"{dns.place[1]}:{mine}/udp")
    ada.ok(*start)
    assert ask(dns.place, b"one") == ("original", b"one")
    start_server(processes, "ada", mine, "127.0.0.1")
    comes_to(dns.place, "ada")
    kill_whole(ada.daemon())
    comes_to(dns.place, "original")
    ada.ok(*start)
    comes_to(dns.place, "ada")
    ada.ok("env", "disconnect")
    assert who(dns.place) == "original"


def test_a_tcp_port_of_the_number_is_none(dns, ada):
    refused = ada.run("intercept", "start", "dns", "-p", f"{dns.place[1]}:3000/tcp")
    assert refused.code and f"{dns.place[1]}/udp" in refused.error, refused
    assert who(dns.place) == "original" and ada.intercepts() == []
