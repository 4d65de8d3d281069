"""Memory and descriptors: many idle connections, a reader that doesn't read, and what happens when files run out."""

import contextlib
import resource
import socket
import threading
import time

import pytest
from harness import sockets
from harness.bulk import BulkServer, Receiver, Sender, finish
from harness.idle import IdleServer
from harness.servers import Server, say
from harness.waiting import NotSeen, eventually, note

MIB = 1 << 20
RESIDENT_LIMIT = 64  # MiB, each agent
CONNECTIONS = 2_000


class Watch:
    """Samples the resident memory of both agents until it is told to stop."""

    def __init__(self, pair):
        self.agents = {"sidecar": pair.sidecar.process, "workspace": pair.workspace.process}
        self.highest = dict.fromkeys(self.agents, 0.0)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def _sample(self):
        while not self._stopping.wait(0.1):
            for name, process in self.agents.items():
                # An agent that ends is for the test to notice.
                with contextlib.suppress(OSError, NotSeen):
                    self.highest[name] = max(self.highest[name], process.resident_mib())

    def stop(self, doing):
        self._stopping.set()
        self._thread.join()
        print(f"resident memory {doing}: " + ", ".join(f"{n} {mib:.0f} MiB" for n, mib in self.highest.items()))
        assert max(self.highest.values()) < RESIDENT_LIMIT, self.highest


def test_two_thousand_idle_connections(make_pair, closing):
    if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < 2 * CONNECTIONS + 200:
        pytest.skip("this machine's limit of open files is too low for the test's own ends")
    original, local = closing(Server(lambda connection: None)), closing(IdleServer())
    pair = make_pair(original=original.address, local=local.address).start()
    watch = Watch(pair)
    held = []
    start = time.monotonic()
    for number in range(CONNECTIONS):
        held.append(sockets.connect(pair.public))
        sockets.exchange(held[-1], b"%04d" % number)
    note("2,000 connections opened and used once, one after the other", 4, time.monotonic() - start)
    time.sleep(2)
    assert all(map(sockets.is_quiet, held))
    for number, connection in enumerate(held):
        sockets.exchange(connection, b"%04d" % number)
    watch.stop("with 2,000 connections")
    for connection in held:
        connection.close()
    eventually("the agents close what their clients closed", lambda: pair.sidecar.process.descriptors() < 100, 2)
    assert original.accepted == 0


def test_slow_readers_of_the_original(make_pair, closing):
    """What is passed on is bounded too, for all of them together."""
    readers, content = 500, bytes(4 * MIB)
    if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < 2 * readers + 200:
        pytest.skip("this machine's limit of open files is too low for the test's own ends")

    # With large buffers the kernel would run out of memory for TCP, and reset some.
    def send(connection):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536)
        # Ended in the middle.
        with contextlib.suppress(OSError):
            connection.sendall(content)

    def connect():
        connection = socket.socket()
        connection.settimeout(30)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        connection.connect(pair.public)
        return connection

    original = closing(Server(send))
    pair = make_pair(original=original.address, local=original.address)
    pair.start_sidecar()
    with contextlib.ExitStack() as held:
        connections = [held.enter_context(connect()) for _ in range(readers)]
        time.sleep(3)  # all buffers on the way fill up
        resident = pair.sidecar.process.resident_mib()
        print(f"resident memory with {readers} slow readers: {resident:.0f} MiB")
        assert resident < 2 * RESIDENT_LIMIT
        # Each of them gets all, as soon as it reads.
        for connection in connections[:3]:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, MIB)
            assert sockets.receive(connection, len(content)) == content


def test_a_limit_of_memory_holds(make_pair, closing):
    """Hundreds of clients send all they can, and read nothing of what the workspace's server sends; that reads nothing either."""
    clients, limit = 500, 16
    if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < 2 * clients + 200:
        pytest.skip("this machine's limit of open files is too low for the test's own ends")

    def fill(connection):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536)
        connection.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while connection.send(bytes(65_536)):
                pass

    def serve(connection):
        while not stopping.wait(0.2):
            fill(connection)

    stopping = threading.Event()
    original, local = closing(Server(lambda connection: None)), closing(Server(serve))
    pair = make_pair(original=original.address, local=local.address, sidecar=["--memory", f"{limit}m"]).start()
    before = pair.sidecar.process.resident_mib("RssAnon")
    with contextlib.ExitStack() as held:
        held.callback(stopping.set)
        connections = []
        for _ in range(clients):
            connections.append(held.enter_context(socket.socket()))
            connections[-1].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            connections[-1].settimeout(60)
            connections[-1].connect(pair.public)
            fill(connections[-1])
        for _ in range(15):
            for connection in connections:
                fill(connection)
            time.sleep(0.2)
        grown = pair.sidecar.process.resident_mib("RssAnon") - before
    print(f"grown by {grown:.0f} MiB with {clients} clients")
    assert grown < 3 * limit
    # What the load has left unused is given back.
    def rests():
        return pair.sidecar.process.resident_mib("RssAnon") < before + limit / 2

    eventually("the memory is given back", rests, 30, pause=1)


@pytest.mark.parametrize("direction", ["down", "up"])
def test_reader_that_stops_while_four_gibibytes_wait(make_pair, closing, direction):
    """One end sends 4 GiB, the other stops reading: memory stays bounded, and other streams keep their speed."""
    size, beside = 4096 * MIB, 256 * MIB
    original = closing(Server(lambda connection: None))
    reading = threading.Event()

    def slow(connection):
        """The workspace's end of the connection that gets stuck."""
        if direction == "down":
            Sender(connection, size).join()
        else:
            sockets.receive(connection, MIB)
            reading.wait(100)
            # To the end: one that closed would leave what is on its way untaken.
            while connection.recv(MIB):
                pass

    # The first connection is the one that gets stuck, the others measure.
    fast = closing(BulkServer(beside))
    first = threading.Lock()

    def handle(connection):
        if first.acquire(blocking=False):
            slow(connection)
        else:
            fast.transfer(connection)

    local = closing(Server(handle))
    pair = make_pair(original=original.address, local=local.address).start()

    def measure():
        start = time.monotonic()
        with sockets.connect(pair.public) as connection:
            up, down = Sender(connection, beside), Receiver(connection)
            transfer = fast.next_transfer()
            finish(up, transfer.receiver, 50)
            finish(transfer.sender, down, 50)
        return time.monotonic() - start

    watch = Watch(pair)
    with sockets.connect(pair.public) as stuck:
        if direction == "up":
            sender = Sender(stuck, size)
        else:
            sockets.receive(stuck, MIB)
        time.sleep(1)  # all buffers on the way fill up
        beside_stuck = measure()
        watch.stop("beside a reader that stopped")
        # It reads again, and bytes flow.
        if direction == "up":
            before = sender.sent
            reading.set()
            eventually("the sender goes on when its reader does", lambda: sender.sent > before + 16 * MIB, 2)
        else:
            assert len(sockets.receive(stuck, 32 * MIB)) == 32 * MIB
    alone = measure()
    note(f"256 MiB each way at once, alone {alone:.2f} s, beside a stuck {direction}load", 2 * alone, beside_stuck)
    assert original.accepted == 0


@pytest.mark.parametrize("limited", ["workspace", "sidecar"])
def test_with_1024_descriptors_nobody_is_turned_away(make_pair, closing, limited):
    """1,500 clients at once. Those for whom the workspace has no descriptor reach the original; nobody fails.

    A sidecar without a descriptor can't even accept; who waits is served as others leave.
    """
    clients = 1_500
    original, local = closing(Server(say(b"elsewhere"))), closing(Server(say(b"workspace")))
    pair = make_pair(original=original.address, local=local.address)
    pair.start_sidecar(**({"descriptors": 1024} if limited == "sidecar" else {}))
    pair.start_workspace(**({"descriptors": 1024} if limited == "workspace" else {}))
    answers, failures = [], []
    everyone = threading.Event()

    def client():
        try:
            with sockets.connect(pair.public, timeout=90) as connection:
                answers.append(sockets.receive(connection, 9))
                sockets.exchange(connection, b"?" * 11)
                # With a limited workspace all stay until all are answered; a limited sidecar needs some to leave.
                everyone.wait(60 if limited == "workspace" else 1)
        except (OSError, AssertionError) as error:
            failures.append(error)

    threads = [threading.Thread(target=client, daemon=True) for _ in range(clients)]
    start = time.monotonic()
    for thread in threads:
        thread.start()
    eventually("1,500 clients are answered", lambda: len(answers) + len(failures) >= clients, 9)
    note(f"1,500 clients at once, a {limited} with 1,024 descriptors", 9, time.monotonic() - start)
    everyone.set()
    for thread in threads:
        thread.join(90)
    assert not failures, (len(failures), failures[:3])
    print({word: answers.count(word) for word in set(answers)})
    if limited == "workspace":
        assert original.accepted > 0, "a workspace with 1,024 descriptors can't have answered 1,500 clients"

    def answers_again():
        with sockets.connect(pair.public) as connection:
            return sockets.receive(connection, 9) == b"workspace"

    eventually("the workspace answers again: its descriptors are free", answers_again, 2)
