"""A UDP service in a container: intercepted by redirect, with nothing of it restarted."""

import subprocess
import sys

import pytest

from harness.docker_project import PROGRAMS
from harness.udp import FixedClient, free_datagram_port, start_server
from harness.waiting import eventually

PORT = 5300


@pytest.fixture
def dns(engine, shop):
    """Another service of the project, for as long as the test."""
    flags = ["--expose", f"{PORT}/udp", "--expose", "9000"]
    container = shop.run("dns", 1, ["python3", "-B", "-u", "/programs/udp_server.py", "--name", "dns-1", "--port", PORT], *flags)
    shop.services.pop("dns")
    started = engine.inspect(container)["State"]["StartedAt"]
    eventually("it answers", lambda: who(engine, shop, container) == "dns-1", 3)
    yield container
    assert engine.inspect(container)["State"]["StartedAt"] == started
    engine.docker("rm", "--force", container)


def client(engine, shop):
    """The network of another container."""
    return ["nsenter", f"--net=/proc/{engine.pids(shop.services['web'].container)[0]}/ns/net", "--", sys.executable, "-B", "-u"]


def who(engine, shop, container, family=4):
    command = [*client(engine, shop), str(PROGRAMS / "udp_client.py"), "--host", engine.address(container, family)]
    return subprocess.run([*command, "--port", str(PORT), "--count", "1"], capture_output=True, text=True).stdout.strip()


def test_a_udp_service_comes_to_the_workspace_and_goes_back(engine, shop, dns, ada, processes, closing):
    (service,) = [one for one in ada.ok("env", "status", "-o", "json").json["services"] if one["name"] == "dns"]
    assert [(port["port"], port["transport"]) for port in service["ports"]] == [(PORT, "udp"), (9000, "tcp")]
    mine = free_datagram_port()
    start_server(processes, "ada", mine, prefix=engine.machine.prefix)
    fixed = closing(FixedClient(engine.address(dns), PORT, 40_053, client(engine, shop)))
    fixed.comes_to("dns-1")
    rules = engine.ruleset(dns)
    for _ in range(2):
        said = ada.ok("intercept", "start", "dns", "-p", f"{PORT}:{mine}/udp").out
        assert f"port {PORT}/udp → localhost:{mine}" in said
        fixed.comes_to("ada", 5)
        assert who(engine, shop, dns) == who(engine, shop, dns, 6) == "ada"
        (intercept,) = ada.ok("intercept", "list", "-o", "json").json["intercepts"]
        assert [(port["service"], port["transport"]) for port in intercept["ports"]] == [(PORT, "udp")]
        ada.ok("intercept", "stop", "dns")
        fixed.comes_to("dns-1", 5)
        assert who(engine, shop, dns) == who(engine, shop, dns, 6) == "dns-1"
        eventually("no rule is left", lambda: engine.ruleset(dns) == rules, 2)
