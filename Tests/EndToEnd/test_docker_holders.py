"""Several developers at one service of three replicas: one has a port, two get copies, a fourth has another port."""

import itertools
import json
import os
import random
import signal

import pytest

from harness.docker_project import Service, check_sides, now
from harness.waiting import eventually

LONG = os.environ.get("KL_LONG") == "1"
REPLICAS = 3
# Each one's port of the service, and what else is typed.
PLAN = {"ada": (8080, []), "bob": (8080, ["--mirror"]), "eve": (8080, ["--mirror"]), "dan": (8081, [])}
DRAIN = ["--drain", "1s"]
SIDES = {8080: "ada", 8081: "dan"}


@pytest.fixture
def pair(engine, shop):
    """A service with two ports and three replicas, as two entries of the project: one for each port."""
    script = (
        "python3 -B /programs/who_server.py --name $1 --port 8080 & exec python3 -B /programs/who_server.py --name $1 --port 8081"
    )
    for number in range(1, REPLICAS + 1):
        command = ["sh", "-c", script, "sh", f"pair-{number}"]
        shop.run("pair", number, command, "--expose", "8080", "--expose", "8081")
    second = Service("pair", "http", 8081)
    second.containers = list(shop.services["pair"].containers)
    shop.services["pair-8081"] = second
    try:
        shop.ready()
        networks = rules_and_routes(engine, shop)
        yield second.containers
        eventually("no sidecar is left", lambda: not shop.sidecars(), 2, pause=0.1)
        assert rules_and_routes(engine, shop) == networks
    finally:
        for name in ("pair", "pair-8081"):
            del shop.services[name]
        engine.docker("rm", "--force", *second.containers)


def rules_and_routes(engine, shop):
    commands = (["nft", "-s", "list", "ruleset"], ["ip", "rule"], ["ip", "-6", "rule"], ["ip", "route", "show", "table", "all"])
    found = {}
    for container in shop.services["pair"].containers:
        for command in commands:
            lines = engine.run_in(container, *command).splitlines()
            # The kernel adds its own routes for IPv6 some seconds after a network has come up.
            found[container, *command] = [line for line in lines if "proto kernel" not in line and "multicast" not in line]
    return found


@pytest.fixture
def room(engine, shop, pair, join_shop, serve):
    return Room(engine, shop, pair, join_shop, serve)


class Room:
    """The four developers, what each has typed, and when."""

    def __init__(self, engine, shop, containers, join_shop, serve):
        self.engine, self.shop, self.containers = engine, shop, containers
        self.developers = {name: join_shop(name) for name in PLAN}
        self.servers = {name: serve(name) for name in PLAN}
        self.originals = {container.removeprefix("shop-") for container in containers}
        self.switches = {port: [] for port in SIDES}
        self.loads = []

    def words(self, name):
        port, flags = PLAN[name]
        return ["intercept", "start", "pair", "-p", f"{port}:{self.servers[name].port}", *(flags or DRAIN)]

    def begin_load(self, closing):
        """More than 100 new connections a second, to all replicas and both ports."""
        for number, container in enumerate(self.containers):
            address = self.engine.address(container)
            for port, service in ((8080, "pair"), (8081, "pair-8081")):
                if number == 0 or port == 8080:
                    load = closing(self.shop.client(service, "network", address, pause=0.015))
                    self.loads.append((port, load.under_way()))
        self.began = now()

    def join(self, name):
        self._switch(name, name, self.words(name))

    def leave(self, name):
        self._switch(name, self.originals, ["intercept", "stop", "pair"])

    def _switch(self, name, side, words):
        typed = now()
        self.developers[name].ok(*words)
        port = PLAN[name][0]
        if SIDES[port] == name:
            self.switches[port].append((typed, now(), side))
            for loaded, load in self.loads:
                if loaded == port:
                    load.under_way(5)

    def check(self, unsure=None, between=()):
        """Every answer came from the right side, and none failed; but of `unsure`'s port in these times."""
        took = now() - self.began
        total = 0
        for port, load in self.loads:
            answers = load.stop()
            total += len(answers)
            if port == unsure:
                answers = [a for a in answers if not any(a["end"] >= begin and a["start"] <= end for begin, end in between)]
            check_sides(answers, self.switches[port], self.originals)
        print(f"{total} connections in {took:.0f} s: {total / took:.0f} a second")
        self.loads = []

    def holders(self, container):
        """By the sidecar itself: each holder's key, kind and ports."""
        sidecar = f"kl-{container}"
        said = json.loads(self.engine.docker("exec", sidecar, "/kl-sidecar", "holders"))
        return sorted((h["key"], h["kind"], *h["ports"]) for h in said["holders"])

    def key(self, name):
        return self.developers[name].own()["publicKey"]

    def stands(self, names):
        """Waits until each replica's sidecar has these holders and no other, all served, and the list says so."""

        def check():
            listed = [self.developers[name].own() for name in names]
            return all(holder and holder["phase"] == "Active" for holder in listed)

        eventually(f"{len(names)} hold what they asked for", check, 5, pause=0.1)
        for container in self.containers:
            assert len(self.holders(container)) == len(names), (container, self.holders(container))


ORDERS = list(itertools.permutations(PLAN))
FEW = [ORDERS[0], ORDERS[-1], ORDERS[9]]


@pytest.mark.deadline(1800)
def test_joining_and_leaving_in_all_orders(room, closing):
    """All orders of joining with --long, each with another one of leaving; a few without."""
    leaving = list(ORDERS)
    random.Random(18).shuffle(leaving)
    room.begin_load(closing)
    for joins, leaves in list(zip(ORDERS, leaving)) if LONG else list(zip(FEW, leaving)):
        for name in joins:
            room.join(name)
        room.stands(joins)
        for name in leaves:
            room.leave(name)
        eventually("no sidecar is left after the last one's stop", lambda: not room.shop.sidecars(), 3, pause=0.1)
    room.check()


def test_each_is_told_who_holds_what(room):
    for name in PLAN:
        room.join(name)
    room.stands(PLAN)
    for name in PLAN:
        listed = room.developers[name].holders()
        assert sorted(holder["kind"] for holder in listed) == ["intercept", "intercept", "mirror", "mirror"]
        assert {number["service"] for holder in listed for number in holder["ports"]} == {8080, 8081}
    # The maker of the containers leaves; what its labels say counts no more.
    room.leave("ada")
    assert len(room.developers["bob"].holders()) == 3
    assert {room.shop.who("pair", container) for container in room.containers} == room.originals
    # A port that one intercepts is refused to another, whose words name the holder.
    refused = room.developers["ada"].run("intercept", "start", "pair", "-p", f"8081:{room.servers['ada'].port}")
    assert refused.code == 5 and "'pair' is intercepted by " in refused.error, refused
    # One that the sidecars don't serve: they aren't replaced under the others.
    refused = room.developers["ada"].run("intercept", "start", "pair", "-p", f"7777:{room.servers['ada'].port}")
    assert refused.code == 1 and "doesn't serve port 7777, and isn't replaced while others need it" in refused.error, refused
    for name in ("bob", "eve", "dan"):
        room.leave(name)


@pytest.mark.deadline(600)
@pytest.mark.parametrize("how", ["KILL", "STOP"])
def test_a_daemon_is_lost(room, closing, how):
    """Each in turn: nobody else notices, and its part falls to the originals."""
    for name in PLAN:
        room.join(name)
    room.stands(PLAN)
    for name, (port, flags) in PLAN.items():
        room.begin_load(closing)
        daemon, since = room.developers[name].daemon(), now()
        os.kill(daemon, getattr(signal, f"SIG{how}"))
        holds = not flags
        try:
            if holds:
                for container in room.containers:
                    entry = "pair" if port == 8080 else "pair-8081"
                    eventually(
                        f"the original answers after SIG{how}", lambda: room.shop.who(entry, container) in room.originals, 10, pause=0.2
                    )
            else:
                for _, load in room.loads:
                    load.under_way(100)
        finally:
            if how == "STOP":
                os.kill(daemon, signal.SIGCONT)
        if how == "KILL":
            room.developers[name].ok("intercept", "stop", "pair")
            room.developers[name].ok(*room.words(name))
        room.stands(PLAN)
        # What was in the tunnel at that moment breaks or waits; the others' doesn't.
        room.switches = {other: [(0, 0, side)] for other, side in SIDES.items()}
        room.check(port if holds else None, [(since - 0.5, now())])
    for name in PLAN:
        room.leave(name)


@pytest.mark.deadline(1800)
def test_of_three_at_once_one_gets_a_port(room):
    racers = ["ada", "bob", "eve"]
    words = {name: ["intercept", "start", "pair", "-p", f"8080:{room.servers[name].port}", *DRAIN] for name in racers}
    for number in range(50 if LONG else 3):
        children = {name: room.developers[name].begin(*words[name]) for name in racers}
        said = {name: child.communicate(timeout=120) for name, child in children.items()}
        codes = {name: child.returncode for name, child in children.items()}
        assert sorted(codes.values()) == [0, 5, 5], said
        winner = next(name for name, code in codes.items() if code == 0)
        for name in racers:
            if name != winner:
                assert "'pair' is intercepted by " in said[name][1], said[name]
        for container in room.containers:
            assert room.holders(container) == [(room.key(winner), "intercept", "8080")], number
            assert room.shop.who("pair", container) == winner
        room.developers[winner].ok("intercept", "stop", "pair")
        eventually("no sidecar is left after a race", lambda: not room.shop.sidecars(), 3, pause=0.1)


def test_the_last_one_that_leaves_ends_no_open_connection(engine, shop, room, closing):
    """What a sidecar passes on is nobody's, and lasts as long as its client wants."""
    room.join("bob")
    address = engine.address(room.containers[0])
    held = closing(shop.client("pair", "network", address, hold=True, pause=0.05)).under_way()
    room.leave("bob")
    held.under_way(40)
    assert shop.sidecars() == [f"kl-{room.containers[0]}"]
    # Who comes meanwhile is admitted there.
    room.join("dan")
    held.under_way(10)
    room.leave("dan")
    answers = held.stop()
    assert not [answer for answer in answers if answer["error"]]
    assert {answer["who"].split()[0] for answer in answers} == {"pair-1"}
