"""The tunnel in datagrams: over lines that lose, change, and fall silent."""

import time

import pytest
from harness.agents import endpoint
from harness.bulk import BulkServer, Receiver, Sender, finish
from harness.datagram_line import DatagramLine
from harness.line import Line
from harness.load import Load, ask, summary, who
from harness.pair import Pair
from harness.ports import address, free_port
from harness.servers import Server
from harness.sockets import connect
from harness.waiting import eventually, note
from harness.web import WebServer

MIB = 1 << 20


class DatagramPair(Pair):
    """A pair whose sidecar takes datagrams too; `ways` are the addresses that the workspace is told, in order."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.datagrams = (self.host, free_port())
        self.sidecar_arguments += ["--listen-udp", address(*self.datagrams)]
        self.ways = [("udp", self.datagrams)]

    def workspace_flags(self):
        flags = super().workspace_flags()
        at = flags.index("--sidecar")
        ways = [("--sidecar", endpoint(self.sidecar_key.public, *place, carrier=way)) for way, place in self.ways]
        return flags[:at] + [flag for way in ways for flag in way] + flags[at + 2 :]

    def log_says(self, what):
        return what in self.workspace.process.log()


@pytest.fixture
def make_datagram_pair(processes, binaries, folder):
    def make(**options):
        return DatagramPair(processes, binaries, folder / "pair", **options)

    return make


def test_datagrams_alone(make_datagram_pair, closing):
    original, local = closing(WebServer("environment")), closing(WebServer("workspace"))
    pair = make_datagram_pair(original=original.address, local=local.address)
    pair.start_sidecar()
    assert pair.sidecar.ready["udp"] == address(*pair.datagrams)
    pair.start_workspace()
    assert pair.workspace.ready["carrier"] == "udp"
    assert ask(pair.public) == "workspace"
    assert pair.workspace.process.stop() == 0
    assert ask(pair.public) == "environment"


def test_not_a_byte_differs_where_two_of_a_hundred_are_lost(make_datagram_pair, closing):
    size = 20 * MIB
    bulk, original = closing(BulkServer(size)), closing(Server(lambda connection: None))
    pair = make_datagram_pair(original=original.address, local=bulk.address)
    pair.start_sidecar()
    line = closing(DatagramLine(pair.datagrams, loss=0.02, delay=0.005, jitter=0.002))
    pair.ways = [("udp", line.listen_address)]
    pair.start_workspace()
    took = _transfer(pair, bulk, size)
    assert line.lost > 30, "the line was to lose some"
    note("20 MiB each way, 2 % lost, 10 ms", 20, took)
    assert original.accepted == 0


def test_not_a_byte_differs_while_a_nat_forgets(make_datagram_pair, closing):
    """Twenty times what comes next leaves from another port."""
    size, wanted = 40 * MIB, 20
    bulk, original = closing(BulkServer(size)), closing(Server(lambda connection: None))
    pair = make_datagram_pair(original=original.address, local=bulk.address)
    pair.start_sidecar()
    line = closing(DatagramLine(pair.datagrams, delay=0.002))
    pair.ways = [("udp", line.listen_address)]
    pair.start_workspace()
    with connect(pair.public) as connection:
        up, down = Sender(connection, size), Receiver(connection)
        transfer = bulk.next_transfer()
        for number in range(wanted):
            _received(down, number * size // (wanted + 2))
            line.rebind()
        assert down.received < size, "the transfer ended before the last change"
        finish(up, transfer.receiver, 200)
        finish(transfer.sender, down, 200)
    assert original.accepted == 0


def _received(receiver, count):
    eventually(f"{count} bytes are there", lambda: receiver.received >= count, 20, pause=0.001)


def _transfer(pair, bulk, size):
    began = time.monotonic()
    with connect(pair.public) as connection:
        up, down = Sender(connection, size), Receiver(connection)
        transfer = bulk.next_transfer()
        finish(up, transfer.receiver, 200)
        finish(transfer.sender, down, 200)
    return time.monotonic() - began


@pytest.mark.parametrize("from_the_start", [False, True], ids=["in the middle", "from the start"])
def test_a_byte_stream_takes_over_where_datagrams_are_blocked(make_datagram_pair, closing, from_the_start):
    """At 100 requests a second none fails, and each is answered by the workspace; unblocked, datagrams are used again."""
    original, local = closing(WebServer("environment")), closing(WebServer("workspace"))
    pair = make_datagram_pair(original=original.address, local=local.address)
    pair.start_sidecar()
    line = closing(DatagramLine(pair.datagrams))
    stream = closing(Line(pair.tunnel))
    pair.ways = [("udp", line.listen_address), ("tcp", stream.listen_address)]
    line.is_blocked = from_the_start
    pair.start_workspace()
    load = Load(pair.public, per_second=100)
    if from_the_start:
        assert pair.workspace.ready["carrier"] == "tcp"
    else:
        eventually("datagrams", lambda: _carrier(pair) == "udp", 1)
        time.sleep(0.5)
        line.is_blocked = True
        eventually("tcp takes over", lambda: _carrier(pair) == "tcp", 3)
    time.sleep(1)
    line.is_blocked = False
    eventually("datagrams are used again", lambda: _carrier(pair) == "udp", 16)
    time.sleep(0.5)
    outcomes = load.stop()
    assert len(outcomes) > 100
    assert not [outcome for outcome in outcomes if outcome.failure], summary(outcomes)
    assert {outcome.answer for outcome in outcomes} == {"workspace"}, summary(outcomes)


def _carrier(pair):
    """By which way the tunnel goes on: as the ready line said, or the last line of the log that told of a change."""
    changes = [line.rsplit("carrier=", 1)[1].split()[0] for line in pair.workspace.process.log().splitlines()
               if "the tunnel goes on" in line]
    return changes[-1] if changes else pair.workspace.ready["carrier"]


@pytest.mark.parametrize("with_stream", [True, False], ids=["beside a stream", "alone"])
def test_a_killed_workspace_is_soon_known(make_datagram_pair, closing, with_stream):
    """The byte stream that stands by ends with the program; without one it takes as long as any silence."""
    original, local = closing(WebServer("environment")), closing(WebServer("workspace"))
    pair = make_datagram_pair(original=original.address, local=local.address)
    pair.start_sidecar()
    if with_stream:
        pair.ways.append(("tcp", pair.tunnel))
    pair.start_workspace()
    eventually("datagrams", lambda: _carrier(pair) == "udp", 1)
    assert ask(pair.public) == "workspace"
    if with_stream:
        # It stands by once it was answered.
        time.sleep(0.5)
    pair.workspace.process.kill()
    limit = 1.5 if with_stream else 8.5
    eventually("the original answers", lambda: who(pair.public, 1) == "environment", limit)


def test_a_sidecar_that_starts_again_is_found(make_datagram_pair, closing):
    original, local = closing(WebServer("environment")), closing(WebServer("workspace"))
    pair = make_datagram_pair(original=original.address, local=local.address)
    pair.start_sidecar()
    pair.ways.append(("tcp", pair.tunnel))
    pair.start_workspace()
    assert ask(pair.public) == "workspace"
    pair.sidecar.process.kill()
    pair.sidecar.process.wait(10)
    pair.start_sidecar()
    eventually("the workspace is back", lambda: who(pair.public, 1) == "workspace", 3)


def test_a_workspace_that_stands_still(make_datagram_pair, closing):
    """Only bytes of clients that come before the first acknowledgement is late are given to the tunnel: all others can still be handed
    to the original once the workspace is held to be gone."""
    original, local = closing(WebServer("environment")), closing(WebServer("workspace"))
    pair = make_datagram_pair(original=original.address, local=local.address)
    pair.start_sidecar()
    pair.ways.append(("tcp", pair.tunnel))
    pair.start_workspace()
    eventually("it goes by UDP", lambda: who(pair.public) == "workspace" and pair.workspace.ready["carrier"] == "udp", 2)
    load = Load(pair.public, 50)
    time.sleep(1)
    pair.workspace.freeze()
    still = time.monotonic()
    time.sleep(8)
    pair.workspace.thaw()
    eventually("the workspace answers again", lambda: who(pair.public) == "workspace", 5)
    outcomes = load.stop()
    failed = [outcome.began - still for outcome in outcomes if outcome.failure]
    assert all(began < 0.5 for began in failed), f"{len(failed)}: {failed}"
    late = [outcome for outcome in outcomes if still + 0.5 < outcome.began < still + 5]
    assert {outcome.answer for outcome in late} == {"environment"}, summary(late)
