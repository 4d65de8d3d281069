"""Clients behind a slow link with 40 ms: what is sent to them is still on its way when its sender has long closed."""

import pathlib
import signal
import socket
import time

import pytest

from harness import programs
from harness.machine import Machine, needs_root
from harness.networks import network_of
from harness.pair import Pair
from harness.servers import Server
from harness.sockets import close_unread, ending, receive, unsent
from harness.waiting import eventually

LINK = pathlib.Path(__file__).parents[2] / "Benchmarks/load/link.c"
CLIENT, SERVICE = "10.117.0.1", "10.117.0.2"
DELAY_MS, RATE_MBIT, QUEUE_MS = 20, 20, 200
ANSWER = bytes(range(256)) * (1 << 12)


class FarClient:
    """A service's machine and a client's, with a link between them: 20 ms each way, 20 Mbit/s, no loss."""

    def __init__(self, processes, folder):
        self.client, self.service = Machine(), Machine()
        program = programs.compile_c(LINK, folder / "link")
        ends = [f"/proc/{machine.pid}/ns/net" for machine in (self.client, self.service)]
        shape = [DELAY_MS, 0, RATE_MBIT, QUEUE_MS, 1]
        self.link = processes.start("link", [program, ends[0], "wire", ends[1], "wire", *shape])
        assert self.link.first_line(30) == "ready"
        for machine, address in ((self.client, CLIENT), (self.service, SERVICE)):
            machine.run("ip", "address", "add", f"{address}/24", "dev", "wire")
            machine.run("ip", "link", "set", "wire", "up", "mtu", 1500)

    def connect(self, address):
        with network_of(self.client):
            connection = socket.socket()
        connection.settimeout(30)
        connection.connect(address)
        return connection

    def close(self):
        self.client.close()
        self.service.close()


@pytest.fixture
def far(processes, folder, closing):
    needs_root()
    return closing(FarClient(processes, folder))


@pytest.fixture(params=["intercepted", "passed on"])
def start_pair(request, far, processes, binaries, folder, closing):
    """Starts the agents, and servers of which the one that is to answer has this handler."""

    def start(handle):
        with network_of(far.service):
            server, other = closing(Server(handle)), closing(Server(lambda connection: None))
            answering, silent = ("local", "original") if request.param == "intercepted" else ("original", "local")
            addresses = {answering: server.address, silent: other.address}
            pair = Pair(processes, binaries, folder / "pair", host=SERVICE, **addresses)
            pair.tunnel = pair.dialled = ("127.0.0.1", pair.tunnel[1])
            pair.start_sidecar()
            if request.param == "intercepted":
                pair.start_workspace()
        return pair

    return start


def read_until(client, is_over):
    """Reads little by little until then, when some is still on its way."""
    got = receive(client, 1000)
    while not is_over():
        got += receive(client, 2000)
        time.sleep(0.002)
    assert len(got) < len(ANSWER)
    return got


def test_a_reset_comes_behind_what_is_still_on_its_way(far, start_pair):
    closed = []

    def say(connection):
        connection.sendall(ANSWER)
        eventually("all has left the server", lambda: unsent(connection) == 0, 30)
        close_unread(connection)
        closed.append(connection)

    pair = start_pair(say)
    with far.connect(pair.public) as client:
        client.sendall(b"unread")
        got = read_until(client, lambda: closed)
        rest, how = ending(client, 60)
    assert got + rest == ANSWER
    assert how == "reset"


@pytest.mark.parametrize("agents", ["run on", "are told to end"])
def test_a_slow_reader_gets_the_last_bytes_behind_a_proper_end(far, start_pair, agents):
    closed = []

    def say(connection):
        connection.sendall(ANSWER)
        connection.close()
        closed.append(connection)

    pair = start_pair(say)
    with far.connect(pair.public) as client:
        client.shutdown(socket.SHUT_WR)
        got = read_until(client, lambda: closed)
        if agents == "are told to end":
            for agent in (pair.workspace, pair.sidecar):
                if agent:
                    agent.process.signal(signal.SIGTERM)
        rest, how = ending(client, 60)
    assert got + rest == ANSWER
    assert how == "fin"
