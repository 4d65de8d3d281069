"""A kubelet's gRPC probe says nothing until the server's settings have come: the original gets it nevertheless."""

import time

import pytest
from harness.cable import Cable, RedirectingAgents
from harness.http2 import Client, HealthServer
from harness.machine import needs_root
from harness.networks import network_of
from harness.sockets import connect

PORT, NUMBER = 8080, 142
POD = (f"10.{NUMBER}.0.2", PORT)
CHECK, KUBELET = b"/grpc.health.v1.Health/Check", b"kube-probe/1.36 grpc-go/1.78.0"
OTHER, GO = b"/shop.Cart/Add", b"grpc-go/1.78.0"


@pytest.fixture
def original(closing):
    needs_root()
    cable = closing(Cable(NUMBER))
    with network_of(cable.service):
        server = closing(HealthServer("environment", host="0.0.0.0", port=PORT))
    server.cable = cable
    return server


@pytest.fixture
def local(closing):
    return closing(HealthServer("workspace"))


@pytest.fixture
def ask(processes, binaries, folder, original, local):
    """Asks once, as a client of the node's that waits for the server's settings or doesn't, and asks more on the same connection."""
    agents = RedirectingAgents(processes, binaries, folder, original.cable.service)
    agents.start_sidecar(PORT, flags=["--node-address", f"10.{NUMBER}.0.1"])
    agents.start_workspace(f"{PORT}:{local.address[1]}")

    def ask(path, agent, waits=True, pause=0.0):
        with network_of(original.cable.client):
            connection = connect(POD, 60)
        with connection:
            client = Client(connection)
            if waits:
                client.wait_for_settings()
            time.sleep(pause)
            answer = client.ask(path, agent)
            # Each side's bytes go on as they are.
            client.ping()
            assert client.ask(path, agent) == answer
            # Those of the sidecar and the server; without a pause the sidecar may not have been asked for any.
            assert client.settings == 2 or (not waits and pause == 0)
        assert original.errors == [] and local.errors == []
        return answer

    return ask


def test_a_probe_reaches_the_original(ask):
    assert ask(CHECK, KUBELET) == "environment"
    assert ask(CHECK, GO) == "environment"
    assert ask(OTHER, KUBELET) == "environment"
    assert ask(CHECK, KUBELET, waits=False) == "environment"


def test_others_from_there_reach_the_workspace(ask):
    """As through a NodePort."""
    assert ask(OTHER, GO) == "workspace"
    assert ask(OTHER, GO, waits=False) == "workspace"


@pytest.mark.parametrize("path, name", [(CHECK, "environment"), (OTHER, "workspace")])
def test_what_comes_late_is_still_recognised(ask, path, name):
    """A client that has its settings may take its time, and one that doesn't wait may be slow."""
    assert ask(path, GO, pause=1.0) == name
    assert ask(path, GO, waits=False, pause=1.0) == name


def test_one_that_says_nothing_is_the_workspaces(ask, original, local):
    """After five seconds, as a client of anybody's that has nothing to ask yet; its acknowledgement isn't missed then, either."""
    with network_of(original.cable.client):
        connection = connect(POD, 60)
    with connection:
        connection.settimeout(60)
        client = Client(connection)
        client.wait_for_settings()
        while client.settings < 2:
            client._take()
        assert client.ask(CHECK, GO) == "workspace"
    assert original.errors == [] and local.errors == []
