"""The tunnel in datagrams through real networks: a NAT that forgets, a laptop that moves, walls, and floods."""

import base64
import json
import os
import sys
import threading
import time
import urllib.request

import pytest
from harness.bulk import BulkServer, Receiver, Sender, finish
from harness.keys import KeyPair
from harness.load import Load, ask, summary
from harness.machine import needs_root
from harness.networks import DistantPair, Networks, network_of
from harness.servers import Server
from harness.sockets import connect
from harness.waiting import eventually, note
from harness.web import WebServer
from peer import handshake, wire

pytestmark = pytest.mark.filterwarnings("ignore:One of ephemeral keypairs")

MIB = 1 << 20
FLOOD = os.path.join(os.path.dirname(__file__), "harness", "flood.py")


@pytest.fixture
def networks(closing):
    """A workspace's network, a service's and a stranger's, with a router between them."""
    needs_root()
    return closing(Networks("laptop", "service", "stranger"))


@pytest.fixture
def make_distant_pair(networks, processes, binaries, folder, closing):
    """Makes a pair with its servers: `make_local` and `make_original` are called in their networks."""

    def make(make_local, make_original, **options):
        with network_of(networks.laptop):
            local = closing(make_local())
        with network_of(networks.service):
            original = closing(make_original())
        places = {"near": networks.laptop, "far": networks.service}
        addresses = {"original": original.address, "local": local.address}
        pair = DistantPair(processes, binaries, folder / "pair", **places, **addresses, **options)
        pair.original_server, pair.local_server = original, local
        return pair

    return make


@pytest.fixture
def web_pair(make_distant_pair):
    def make(**options):
        return make_distant_pair(lambda: WebServer("workspace"), lambda: WebServer("environment"), **options)

    return make


class Transfer:
    """Bytes each way at once through a pair, by a client in the service's network, for as long as the test wants."""

    def __init__(self, make_distant_pair, networks, **options):
        self.enough = threading.Event()

        def server():
            return BulkServer(64 * MIB, enough=self.enough)

        self.pair = make_distant_pair(server, lambda: Server(lambda connection: None), **options).start()
        with network_of(networks.service):
            self.client = connect(self.pair.public)
        self.up, self.down = Sender(self.client, 64 * MIB, self.enough), Receiver(self.client)
        self.there = self.pair.local_server.next_transfer()

    @property
    def received(self):
        """By both ends."""
        return self.down.received + self.there.receiver.received

    def goes_on(self, what, aim, count):
        wanted = self.received + count
        eventually(what, lambda: self.received >= wanted, aim, pause=0.001)

    def is_whole(self):
        self.enough.set()
        finish(self.up, self.there.receiver, 200)
        finish(self.there.sender, self.down, 200)
        assert self.pair.original_server.accepted == 0

    def close(self):
        self.enough.set()
        self.client.close()


def test_not_a_byte_differs_behind_a_nat_that_forgets(networks, make_distant_pair, closing):
    """The kernel's own NAT. What comes next leaves from another port, and answers to the old one come back by ICMP."""
    networks.hide(networks.laptop)
    transfer = closing(Transfer(make_distant_pair, networks))
    began = time.monotonic()
    for _ in range(20):
        transfer.goes_on("6 MiB more", 10, 6 * MIB)
        before = networks.mappings()
        networks.forget_flows()
        eventually("a NAT has another port", lambda: networks.mappings() > before, 1)
        transfer.goes_on("a transfer goes on after a NAT has forgotten", 1, 2 * MIB)
    transfer.is_whole()
    note(f"{transfer.received >> 20} MiB in all, a NAT forgets 20 times", 20, time.monotonic() - began)


@pytest.mark.parametrize("how", ["another address", "another link", "with a byte stream"])
def test_not_a_byte_differs_while_a_laptop_moves(networks, make_distant_pair, closing, how):
    """Its address goes, and with it every way out; another one comes in another network."""
    carriers = ("udp", "tcp") if how == "with a byte stream" else ("udp",)
    transfer = closing(Transfer(make_distant_pair, networks, carriers=carriers))
    eventually("datagrams", lambda: transfer.pair.carrier() == "udp", 1)
    for number, away in ((101, 0.5), (102, 0.02)):
        transfer.goes_on("16 MiB more", 10, 16 * MIB)
        networks.laptop.leave()
        if how == "another link":
            networks.laptop.run("ip", "link", "set", "eth0", "down")
        time.sleep(away)
        if how == "another link":
            networks.laptop.run("ip", "link", "set", "eth0", "up")
        networks.laptop.move_to(number)
        transfer.goes_on(f"a transfer goes on after a move ({how})", 1, 2 * MIB)
        eventually("datagrams are used after a move", lambda: transfer.pair.carrier() == "udp", 6)
    transfer.is_whole()


WALLS = {
    "drop": ("router", "forward", "drop"),
    "drop one way": ("router", "forward", "iifname laptop drop"),
    "drop the other way": ("router", "forward", "oifname laptop drop"),
    "reject": ("router", "forward", "reject"),
    "forbid": ("laptop", "output", "drop"),
}


@pytest.mark.parametrize("kind", WALLS)
def test_a_wall_against_datagrams_comes_and_goes(networks, web_pair, kind):
    """On the way, without a word or with one by ICMP; or on the laptop, whose program gets EPERM. Nobody notices."""
    where, hook, verdict = WALLS[kind]
    machine = getattr(networks, where)
    networks.block_datagrams(machine, hook, verdict)
    pair = web_pair(carriers=("udp", "tcp")).start()
    assert pair.workspace.ready["carrier"] == "tcp"
    with network_of(networks.service):
        load = Load(pair.public, per_second=100)
    time.sleep(0.5)
    networks.unblock(machine)
    eventually("datagrams are used once a wall is gone", lambda: pair.carrier() == "udp", 6)
    time.sleep(0.5)
    networks.block_datagrams(machine, hook, verdict)
    eventually(f"tcp takes over from datagrams ({kind})", lambda: pair.carrier() == "tcp", 3)
    time.sleep(0.5)
    networks.unblock(machine)
    eventually("datagrams are used once a wall is gone", lambda: pair.carrier() == "udp", 6)
    outcomes = load.stop()
    assert len(outcomes) > 100
    assert {outcome.answer for outcome in outcomes} == {"workspace"}, summary(outcomes)


def test_datagrams_that_carry_handshakes_alone_are_left_alone(networks, web_pair):
    """Each time they seem to be back, and aren't: the tunnel doesn't go back and forth."""
    pair = web_pair(carriers=("udp", "tcp")).start()
    eventually("datagrams", lambda: pair.carrier() == "udp", 1)
    with network_of(networks.service):
        load = Load(pair.public, per_second=100)
    # Data messages: their first byte is 4.
    networks.block_datagrams(networks.router, "forward", "@th,64,8 4 drop")
    used, since = [], 0

    def stays():
        nonlocal used, since
        if used != (now := pair.carriers_used()):
            used, since = now, time.monotonic()
        assert len(used) < 12, f"back and forth: {used}"
        return used[-1] == "tcp" and time.monotonic() - since > 10

    eventually("the tunnel has stayed on tcp for 10 s", stays, 20, pause=0.1)
    outcomes = load.stop()
    assert used.count("udp") > 1, "datagrams were not tried again"
    assert {outcome.answer for outcome in outcomes} == {"workspace"}, summary(outcomes)
    note("the slowest request while datagrams carry handshakes alone", 3, max(outcome.took for outcome in outcomes))


@pytest.mark.parametrize("first", ["silent", "refusing"])
def test_a_name_whose_first_address_is_nobodys(networks, web_pair, folder, first):
    """The next one is tried, by datagrams alone."""
    stranger = networks.stranger
    if first == "silent":
        networks.block_datagrams(stranger, "input", "drop")
    pair = web_pair()
    pair.start_sidecar()
    hosts = folder / "hosts"
    hosts.write_text(f"{stranger.address} sidecar.test\n{networks.service.address} sidecar.test\n")
    networks.laptop.mount(hosts, "/etc/hosts")
    found = networks.laptop.run("getent", "ahostsv4", "sidecar.test", prefix=networks.laptop.inside).split()
    assert found.index(stranger.address) < found.index(networks.service.address)
    pair.tunnel = ("sidecar.test", pair.tunnel[1])
    pair.start_workspace(prefix=networks.laptop.inside)
    assert pair.workspace.ready["carrier"] == "udp"
    with network_of(networks.service):
        assert ask(pair.public) == "workspace"


def initiations(responder, count):
    """Whole ones, of keys that nobody knows, as long as they are in datagrams."""
    made = []
    for _ in range(count):
        parameters = wire.Parameters(os.urandom(8), max_data=1 << 20, max_stream_data=1 << 17, max_streams=64)
        index = int.from_bytes(os.urandom(4), "little")
        stamp = handshake.timestamp()
        one = handshake.Initiation(handshake.generate_key(), responder, handshake.NO_PSK, index, stamp, parameters)
        one.payload = wire.pad_parameters(one.payload, handshake.LARGEST_HANDSHAKE - handshake.INITIATION_OVERHEAD)
        made.append(one.begin())
    return made


class Watch(threading.Thread):
    """The greatest resident memory of a program, looked at again and again."""

    def __init__(self, process):
        super().__init__(daemon=True)
        self.process, self.before = process, process.resident_mib()
        self.greatest = self.before
        self._ended = threading.Event()
        self.start()

    def run(self):
        while not self._ended.wait(0.05):
            self.greatest = max(self.greatest, self.process.resident_mib())

    def grown(self):
        self._ended.set()
        self.join()
        return self.greatest - self.before


def dropped(pair):
    """How many messages a sidecar has dropped, by the reason."""
    with network_of(pair.far):
        text = urllib.request.urlopen(f"http://{pair.sidecar.ready['metrics']}/metrics", timeout=30).read().decode()
    lines = [line.split('"') for line in text.splitlines() if line.startswith("kl_tunnel_dropped_total{")]
    return {reason: int(float(value.strip("} "))) for _, reason, value in lines}


SOURCES = {
    "one address": [],
    "sixteen thousand addresses": ["--network", "10.114.0.0/16"],
    "the workspace's own": ["--forge"],
}


def start_flood(networks, pair, processes, folder, source):
    """Initiations whose mac1 is right, and the same with a wrong one, in turn."""
    right = initiations(base64.b64decode(pair.sidecar_key.public), 512)
    wrong = [one[:-32] + os.urandom(16) + bytes(16) for one in right]
    for name, messages in (("right", right), ("wrong", wrong)):
        (folder / name).write_bytes(b"".join(messages))
    host, port = pair.tunnel
    words = [sys.executable, "-B", "-S", FLOOD, "--host", host, "--port", port, "--size", 1200, "--seconds", 120]
    words += SOURCES[source]
    if "--network" in words:
        networks.stranger.own(words[-1])
    if "--forge" in words:
        (line,) = networks.laptop.run("ss", "-Hlun").splitlines()
        words.append(f"{networks.laptop.address}:{line.split()[3].rpartition(':')[2]}")
    with network_of(networks.stranger):
        flood = processes.start("flood", [*words, folder / "right", folder / "wrong"])
    flood.first_line(30)
    return flood


def end_flood(flood):
    """What each of the two got back: (type, length, count)."""
    assert flood.is_running, flood.log()
    assert flood.stop(60) == 0, flood.log()
    right, wrong = [json.loads(line) for line in flood.lines[1:]]
    return right["answers"], wrong["answers"]


@pytest.mark.parametrize("source", SOURCES)
def test_a_flood_of_initiations(networks, web_pair, processes, binaries, folder, source):
    """Right macs get cookies and wrong ones nothing; who is there stays, who comes gets in. By datagrams alone."""
    second = KeyPair()
    pair = web_pair(sidecar=["--metrics", "127.0.0.1:0", "--peer", second.public]).start()
    flags = pair.workspace_flags()
    flags[flags.index("--private-key-file") + 1] = second.write(folder / "second.key")

    def gets_in():
        # It is told that somebody else has the service: that takes a session, and a stream in it.
        with network_of(networks.laptop):
            program = processes.start("second", [binaries / "kl-workspace", "run", *flags])
        return program.wait(60) == 5

    with network_of(networks.service):
        load = Load(pair.public, per_second=100)
    time.sleep(1)
    watch = Watch(pair.sidecar.process)
    began = time.monotonic()
    flood = start_flood(networks, pair, processes, folder, source)
    time.sleep(1)
    eventually(f"another workspace is answered amid a flood from {source}", gets_in, 10)
    time.sleep(max(0, began + 4 - time.monotonic()))
    right, wrong = end_flood(flood)
    lasted = time.monotonic() - began
    outcomes, grown, drops = load.stop(), watch.grown(), dropped(pair)
    note(f"the slowest request amid a flood from {source}", 1, max(outcome.took for outcome in outcomes))
    assert {outcome.answer for outcome in outcomes} == {"workspace"}, summary(outcomes)
    assert grown < 8, f"{grown:.1f} MiB more than {watch.before:.1f}"
    # 100 a second are opened without a cookie, and 50 of who seems to be the workspace.
    opened, beyond = drops["key_not_accepted"], drops["over_budget"]
    assert 0 < opened <= 150 * (lasted + 2) and opened < beyond and drops["wrong_mac1"] > 0, drops
    # Nothing else, and no more: each has 64 bytes for 1,200. What is forged is answered to the workspace.
    assert wrong == []
    answers = sum(count for kind, length, count in right if (kind, length) == (wire.COOKIE_REPLY, 64))
    assert len(right) <= 1 and answers <= beyond
    assert (answers > 0) == (source != "the workspace's own"), right
