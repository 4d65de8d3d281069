"""The carrier breaks again and again; nobody who uses the service may notice."""

import os
import random
import time

import pytest
from harness.bulk import GIB, BulkServer, Receiver, Sender, finish
from harness.line import Line
from harness.load import Load, summary
from harness.pair import Pair
from harness.ports import address, free_port
from harness.servers import Server, echo
from harness.sockets import connect, exchange
from harness.waiting import eventually, note
from harness.web import WebServer

RATE = 30_000_000


@pytest.mark.parametrize(
    ("wanted", "size"),
    [
        pytest.param(50, GIB, marks=pytest.mark.deadline(400)),
        pytest.param(500, 8 * GIB, marks=[pytest.mark.deadline(3000), pytest.mark.long]),
    ],
)
def test_cuts_while_gibibytes_flow_and_requests_come(processes, binaries, folder, closing, wanted, size):
    """Two service ports share the tunnel: one moves so much each way, the other answers 100 requests a second."""
    seed = int(os.environ.get("KL_SEED", random.randrange(1 << 32)))
    print(f"KL_SEED={seed}")
    chance = random.Random(seed)

    bulk, bulk_original = closing(BulkServer(size)), closing(Server(lambda connection: None))
    web, web_original = closing(WebServer("workspace")), closing(WebServer("environment"))
    pair = TwoPorts(processes, binaries, folder / "pair", (bulk_original, web_original), (bulk, web))
    pair.start_sidecar()
    line = closing(Line(pair.tunnel, RATE))
    pair.dialled = line.listen_address
    pair.start_workspace()

    load = Load(pair.web, per_second=100)
    start = time.monotonic()
    with connect(pair.bulk) as connection:
        up, down = Sender(connection, size), Receiver(connection)
        transfer = bulk.next_transfer()
        cuts = 0
        while cuts < wanted:
            # On average the cuts take three quarters of the time that the transfer takes on an uncut line.
            time.sleep(chance.uniform(0, 1.5 * size / RATE / wanted))
            # A cut in the midst of a handshake may cost more than the second that clients wait: not here, but below.
            eventually("a new carrier after a cut", line.carries, 1, pause=0.001)
            cuts += line.cut(by_reset=chance.random() < 0.5)
        assert transfer.receiver.received < size, "the transfer ended before the last cut"
        finish(up, transfer.receiver, 10 * size / RATE)
        finish(transfer.sender, down, 10 * size / RATE)
        took = time.monotonic() - start
    outcomes = load.stop()
    note(f"{size / GIB:g} GiB each way at {RATE // 1_000_000} MB/s with {wanted} cuts", 1.5 * size / RATE, took)
    note("the longest request between cuts", 1, max(outcome.took for outcome in outcomes))
    assert not [outcome for outcome in outcomes if outcome.failure], summary(outcomes)
    assert bulk_original.accepted == 0
    print(summary(outcomes))


class TwoPorts(Pair):
    """A pair whose sidecar stands in front of two ports: bulk and web."""

    def __init__(self, processes, binaries, folder, originals, locals_):
        super().__init__(processes, binaries, folder, original=originals[0].address, local=locals_[0].address)
        self.originals, self.locals = originals, locals_
        self.bulk, self.web = ("127.0.0.1", free_port()), ("127.0.0.1", free_port())

    def sidecar_flags(self):
        flags = super().sidecar_flags()
        flags[flags.index("--divert") + 1] = "listen=127.0.0.1"
        at = flags.index("--service-port")
        ports = zip((self.bulk, self.web), self.originals, strict=True)
        named = [part for public, server in ports for part in ("--service-port", _mapping(public, server))]
        return flags[:at] + named + flags[at + 2 :]

    def workspace_flags(self):
        flags = super().workspace_flags()
        at = flags.index("--map")
        ports = zip((self.bulk, self.web), self.locals, strict=True)
        named = [part for public, server in ports for part in ("--map", _mapping(public, server))]
        return flags[:at] + named + flags[at + 2 :]


def _mapping(public, server):
    return f"{public[1]}:{address(*server.address)}"


@pytest.mark.parametrize("delay", [0, 0.001, 0.003])
def test_carriers_that_break_as_soon_as_they_are_there(make_pair, closing, delay):
    """Cut in the handshake, or just after it: the connection comes through all of them."""
    original, local = closing(Server(echo)), closing(Server(echo))
    pair = make_pair(original=original.address, local=local.address)
    pair.start_sidecar()
    line = closing(Line(pair.tunnel))
    pair.dialled = line.listen_address
    pair.start_workspace()
    with connect(pair.public, timeout=60) as held:
        exchange(held, b"before")
        line.cut()
        for _ in range(3):
            eventually("the next carrier after one that broke at once", lambda: line.live, 5, pause=0)
            time.sleep(delay)
            line.cut()
        started = time.monotonic()
        exchange(held, b"after")
        note("a connection goes on after carriers that broke at once", 5, time.monotonic() - started)
    assert (original.accepted, local.accepted) == (0, 1)


def test_line_that_is_silent_for_a_moment_costs_nothing(make_pair, closing):
    """A stall shorter than a third of dead_after: nothing is reset, nothing goes to the original."""
    original, local = closing(Server(echo)), closing(Server(echo))
    pair = make_pair(original=original.address, local=local.address)
    pair.start_sidecar()
    line = closing(Line(pair.tunnel))
    pair.dialled = line.listen_address
    pair.start_workspace()
    with connect(pair.public) as held:
        exchange(held, b"before")
        line.stall()
        with connect(pair.public) as waiting:
            waiting.sendall(b"hello")
            held.sendall(b"meanwhile")
            time.sleep(1)
            line.resume()
            assert waiting.recv(5) == b"hello"
            assert held.recv(9) == b"meanwhile"
    assert original.accepted == 0


@pytest.mark.deadline(180)
def test_line_that_goes_silent_without_a_word_is_given_up(make_pair, closing):
    """No FIN, no RST: only that nothing is acknowledged for dead_after tells that the workspace is gone."""
    original, local = closing(WebServer("environment")), closing(WebServer("workspace"))
    pair = make_pair(original=original.address, local=local.address, sidecar=["--dead-after", "3s"])
    pair.start_sidecar()
    line = closing(Line(pair.tunnel))
    pair.dialled = line.listen_address
    pair.start_workspace()
    load = Load(pair.public, per_second=20)
    time.sleep(1)
    line.is_down = True
    line.stall()
    began = time.monotonic()
    eventually(
        "the original answers after the line went silent (dead_after 3 s)",
        lambda: any(o.answer == "environment" for o in list(load.outcomes)),
        3.5,
    )
    line.is_down = False
    line.resume()
    restored = time.monotonic()
    eventually(
        "the workspace answers again after the line came back (dials again after 5 s at most)",
        lambda: any(o.answer == "workspace" and o.began > restored for o in list(load.outcomes)),
        6,
    )
    outcomes = load.stop()
    # What was sent into the silent line may have reached the workspace's server: it is reset, never run twice.
    doubtful = [o for o in outcomes if o.failure and not (began - 0.5 <= o.began <= began + 3)]
    assert not doubtful, summary(outcomes)
    assert outcomes[-1].answer == "workspace"
