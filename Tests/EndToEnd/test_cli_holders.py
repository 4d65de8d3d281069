"""Several developers at one service of a local environment: one has a port, others get copies of it, another has another port."""

import itertools
import json
import os
import re
import signal
import time

import pytest
from harness.load import Load, ask, summary
from harness.processes import freeze_whole, kill_whole
from harness.waiting import eventually
from harness.web import WebServer

LONG = os.environ.get("KL_LONG") == "1"
ORIGINAL = "api-server"
# Which port of the two each of them holds, and how.
PARTS = {"ada": (0, "intercept"), "grace": (0, "mirror"), "hedy": (0, "mirror"), "ida": (1, "intercept")}


class Room:
    """A service with two ports, and four developers, each with a server of their own."""

    def __init__(self, project, make_developer, closing):
        self.project = project
        self.ports = [project.port(), project.add_port()]
        self.developers = {name: make_developer(name, project.folder) for name in PARTS}
        self.servers = {name: closing(WebServer(name)) for name in PARTS}
        for developer in self.developers.values():
            developer.ok("env", "connect", project.name)
        for number in range(2):
            eventually("the original answers", lambda: self.ask(number) == ORIGINAL, 2)
        # Who may answer on each port, from when on.
        self.sides = [[(0.0, {ORIGINAL})], [(0.0, {ORIGINAL})]]

    def ask(self, number):
        return ask(("127.0.0.1", self.ports[number]))

    def start_words(self, name, *more):
        number, kind = PARTS[name]
        words = ["intercept", "start", "api-server", "-p", f"{self.ports[number]}:{self.servers[name].address[1]}"]
        return words + (["--mirror"] if kind == "mirror" else []) + list(more)

    def start(self, name, *more):
        self.changing(name)
        ran = self.developers[name].ok(*self.start_words(name, *more))
        self.has_changed(name, name)
        return ran

    def stop(self, name):
        self.changing(name)
        ran = self.developers[name].ok("intercept", "stop", "api-server")
        self.has_changed(name, ORIGINAL)
        return ran

    def changing(self, name):
        number, kind = PARTS[name]
        if kind == "intercept":
            self.sides[number].append((time.monotonic(), {name, ORIGINAL}))

    def has_changed(self, name, side):
        number, kind = PARTS[name]
        if kind == "intercept":
            self.sides[number].append((time.monotonic(), {side}))

    def check(self, number, outcomes):
        """Every request was answered, and by a side that had the port at some time between its begin and its end."""
        assert outcomes
        assert not [outcome for outcome in outcomes if outcome.failure], summary(outcomes)
        sides = self.sides[number]
        for outcome in outcomes:
            ended = outcome.began + outcome.took
            ends = [began for began, _ in sides[1:]] + [float("inf")]
            allowed = set().union(
                *(names for (began, names), end in zip(sides, ends) if began <= ended and end >= outcome.began)
            )
            assert outcome.answer in allowed, (outcome, allowed)

    def load(self, per_second=50):
        return [Load(("127.0.0.1", port), per_second, timeout=120) for port in self.ports]

    def gets_copies(self, name):
        before = self.servers[name].requests
        eventually(f"copies reach {name}", lambda: self.servers[name].requests > before, 2)

    def held(self, by):
        """Key, kind and phase of each holder, as one developer sees them."""
        return {holder["publicKey"]: (holder["kind"], holder["phase"]) for holder in self.developers[by].holders()}

    def key(self, name):
        return self.developers[name].own()["publicKey"]


@pytest.fixture
def room(make_project, make_developer, closing):
    return Room(make_project(name="several"), make_developer, closing)


@pytest.mark.deadline(600)
def test_joining_and_leaving_in_all_orders(room):
    """Under load: every answer comes from the right side, no request fails, and who is left goes on."""
    orders = list(itertools.permutations(PARTS))
    chosen = range(len(orders)) if LONG else (0, 5, 14, 23)
    loads = room.load()
    for number in chosen:
        joined = []
        for name in orders[number]:
            room.start(name)
            joined.append(name)
            listed = room.developers[name].holders()
            assert sorted(h["kind"] for h in listed) == sorted(PARTS[other][1] for other in joined), listed
            for other in joined:
                room.gets_copies(other)
        held = room.held(by="ada")
        assert sorted(held.values()) == [("intercept", "Active")] * 2 + [("mirror", "Active")] * 2
        for name in orders[(number * 7 + 5) % len(orders)]:
            room.stop(name)
            joined.remove(name)
            for other in joined:
                room.gets_copies(other)
    for number, load in enumerate(loads):
        room.check(number, load.stop())
    check_nothing_left(room)


def check_nothing_left(room):
    """The record is as before anybody came, and the sidecar has nobody."""
    record = json.loads((room.project.folder / ".kl/record.json").read_text())
    assert (record["version"], record["intercepts"]) == (1, [])
    eventually("the sidecar has no holder", lambda: not room.project.service_state()["sidecars"][0].get("holders"), 2)
    assert all(developer.holders() == [] for developer in room.developers.values())
    before = {name: server.requests for name, server in room.servers.items()}
    assert [room.ask(number) for number in range(2)] == [ORIGINAL] * 2
    assert before == {name: server.requests for name, server in room.servers.items()}


@pytest.mark.deadline(300)
@pytest.mark.parametrize("name", PARTS)
def test_a_daemon_is_killed(room, name):
    """kill -9 of one developer's daemon: the others go on, and it can start again."""
    for other in PARTS:
        room.start(other)
    key = room.key(name)
    watcher = next(other for other in PARTS if other != name)
    loads = room.load(25)
    room.changing(name)
    kill_whole(room.developers[name].daemon())
    killed = time.monotonic()
    eventually("its holding is Degraded", lambda: room.held(by=watcher)[key] == (PARTS[name][1], "Degraded"), 2)
    degraded = time.monotonic()
    others = {k: phase for k, phase in room.held(by=watcher).items() if k != key}
    assert [phase for _, phase in others.values()] == ["Active"] * 3, others
    own = room.developers[name].own()
    assert own["phase"] == "Degraded" and "daemon isn't running" in own["reason"], own
    for other in PARTS:
        if other != name:
            room.gets_copies(other)
    room.start(name)
    room.gets_copies(name)
    assert room.held(by=watcher)[key] == (PARTS[name][1], "Active")
    for number, load in enumerate(loads):
        outcomes = load.stop()
        if (number, "intercept") == PARTS[name]:
            # What had been answered in part when it was killed is lost with it.
            outcomes = [o for o in outcomes if not o.failure or not killed - 1 < o.began < degraded]
        room.check(number, outcomes)
    for other in PARTS:
        room.stop(other)
    check_nothing_left(room)


@pytest.mark.deadline(300)
@pytest.mark.parametrize("name", PARTS)
def test_a_daemon_is_stopped(room, name):
    """SIGSTOP of one developer's daemon: nobody but its own clients notices, and it goes on by itself."""
    for other in PARTS:
        room.start(other)
    key, pid = room.key(name), room.developers[name].daemon()
    watcher = next(other for other in PARTS if other != name)
    loads = room.load(25)
    room.changing(name)
    froze = time.monotonic()
    freeze_whole(pid)
    try:
        eventually("its holding is Degraded", lambda: room.held(by=watcher)[key] == (PARTS[name][1], "Degraded"), 8)
        degraded = time.monotonic()
        assert sorted(phase for _, phase in room.held(by=watcher).values()) == ["Active"] * 3 + ["Degraded"]
        for other in PARTS:
            if other != name:
                room.gets_copies(other)
    finally:
        os.kill(pid, signal.SIGCONT)
    eventually("it is Active again", lambda: room.held(by=watcher)[key] == (PARTS[name][1], "Active"), 5)
    room.gets_copies(name)
    room.has_changed(name, name)
    for number, load in enumerate(loads):
        outcomes = load.stop()
        if (number, "intercept") == PARTS[name]:
            # Until it is found out, its own clients wait, and are reset where it may have begun with them.
            outcomes = [o for o in outcomes if not o.failure or not froze - 1 < o.began < degraded]
        room.check(number, outcomes)
    for other in PARTS:
        room.stop(other)
    check_nothing_left(room)


@pytest.mark.deadline(600)
def test_three_race_for_one_port(room):
    """One gets it, the others are told who has it; those who only want copies get them meanwhile."""
    racers = ["ada", "grace", "hedy"]
    room.start("ida")
    for number in range(50 if LONG else 6):
        order = [racers[(number + place) % 3] for place in range(3)]
        words = {n: ["intercept", "start", "api-server", "-p", f"{room.ports[0]}:{room.servers[n].address[1]}"] for n in order}
        commands = {name: room.developers[name].begin(*words[name]) for name in order}
        ended = {name: (*command.communicate(timeout=60), command.returncode) for name, command in commands.items()}
        assert sorted(code for _, _, code in ended.values()) == [0, 5, 5], ended
        winner = next(name for name, (_, _, code) in ended.items() if code == 0)
        for name in order:
            if name != winner:
                assert re.fullmatch(
                    r"kl: port \d+ of 'api-server' is intercepted by \S+@\S+ \S+ since \d\d:\d\d\. "
                    r"Ask them to stop it, or take it over with --force\.\n",
                    ended[name][1],
                ), ended[name]
        assert [room.ask(0), room.ask(1)] == [winner, "ida"]
        room.developers[winner].ok("intercept", "stop", "api-server")
        assert [room.ask(0), room.ask(1)] == [ORIGINAL, "ida"]
    room.stop("ida")
    check_nothing_left(room)


def test_taking_over_one_of_two(room, make_developer):
    """--force takes the port from its holder, and leaves those alone who have another port, or copies."""
    for name in PARTS:
        room.start(name)
    eve = make_developer("eve", room.project.folder)
    eve.ok("env", "connect", room.project.name)
    words = ["intercept", "start", "api-server", "-p", f"{room.ports[0]}:{room.servers['ida'].address[1]}"]
    assert eve.run(*words).code == 5
    eve.ok(*words, "--force")
    assert [room.ask(0), room.ask(1)] == ["ida", "ida"]
    eventually("ada is told", lambda: room.developers["ada"].own()["phase"] == "Failed", 2)
    assert "taken over by" in room.developers["ada"].own()["reason"]
    for name in ("grace", "hedy", "ida"):
        assert room.developers[name].own()["phase"] == "Active"
    before = room.servers["grace"].requests
    assert room.ask(0) == "ida"
    eventually("copies come as before", lambda: room.servers["grace"].requests > before, 2)
    eve.ok("intercept", "stop", "api-server")
    assert [room.ask(0), room.ask(1)] == [ORIGINAL, "ida"]
    for name in PARTS:
        room.stop(name)
    check_nothing_left(room)


def test_further_ports(room):
    """A holder who asks for another one's port as well keeps what it has, and gets it with --force."""
    ada, ida = room.developers["ada"], room.developers["ida"]
    room.start("ada")
    room.start("ida")
    both = ["intercept", "start", "api-server"]
    for port in room.ports:
        both += ["-p", f"{port}:{room.servers['ada'].address[1]}"]
    for _ in range(2):
        refused = ada.run(*both)
        assert refused.code == 5 and "'api-server' is intercepted by" in refused.error, refused
        assert [ada.own()["phase"], ida.own()["phase"]] == ["Active"] * 2
        assert [port["service"] for port in ada.own()["ports"]] == room.ports[:1]
        assert [room.ask(0), room.ask(1)] == ["ada", "ida"]
    ada.ok(*both, "--force")
    assert [room.ask(0), room.ask(1)] == ["ada", "ada"]
    eventually("ida is told", lambda: ida.own()["phase"] == "Failed", 2)
    room.stop("ada")
    room.stop("ida")
    check_nothing_left(room)


def test_what_a_mirror_says(room):
    """Each command, in words and as JSON."""
    ada, grace = room.developers["ada"], room.developers["grace"]
    port, local = room.ports[0], room.servers["grace"].address[1]
    ran = room.start("grace")
    lines = ran.out.splitlines()
    assert lines[0] == "Mirroring api-server in environment several"
    assert lines[3] == f"  ✓ copies of port {port} → localhost:{local}"
    assert lines[4:] == [
        "Copies of traffic to api-server now reach your workspace; the original answers.",
        "Stop with: kl intercept stop api-server",
    ]
    assert ran.error == (
        "! what your program writes to databases, queues and other services that others use too is written twice: by the side that "
        "answers, and by yours.\n"
    )
    assert room.ask(0) == ORIGINAL
    room.start("ada")
    again = grace.ok(*room.start_words("grace"))
    label = ada.own()["workspace"]
    assert f"Copies of traffic to api-server now reach your workspace; {label} answers.\n" in again.out
    assert room.ask(0) == "ada"

    table = ada.ok("intercept", "list").out.splitlines()
    assert table[0].split() == ["SERVICE", "KIND", "PHASE", "PORTS", "WORKSPACE", "SINCE", "CONNECTIONS", "TUNNEL"]
    assert [line.split()[:3] for line in table[1:]] == [["api-server", k, "Active"] for k in ("intercept", "mirror")]
    details = grace.ok("intercept", "status", "api-server").out
    assert "Kind:         mirror: another side answers" in details and "Copies: " in details
    assert "Last seen:" in details, "of the other one"
    status = ada.ok("env", "status").out
    assert "Intercepts:\n  api-server   Active" in status and "Mirrors:\n  api-server   Active" in status
    listed = grace.ok("intercept", "list", "-o", "json").json
    assert listed["schemaVersion"] == 2
    assert [holder["kind"] for holder in listed["intercepts"] + listed["mirrors"]] == ["intercept", "mirror"]
    assert listed["mirrors"][0]["connections"]["behind"] == 0

    # Nobody holds a service in two ways.
    for name, words, has in (
        ("grace", [word for word in room.start_words("grace") if word != "--mirror"], "you get copies of traffic to"),
        ("ada", [*room.start_words("ada"), "--mirror"], "you intercept"),
    ):
        ran = room.developers[name].run(*words)
        assert (ran.code, ran.error) == (
            1,
            f"kl: {has} 'api-server' already. Stop that first: kl intercept stop api-server\n",
        )
    assert [h["phase"] for h in ada.holders()] == ["Active"] * 2
    refused = room.developers["hedy"].run("intercept", "stop", "api-server")
    assert refused.code == 5 and "is intercepted by" in refused.error
    room.stop("ada")
    refused = room.developers["hedy"].run("intercept", "stop", "api-server")
    assert refused.code == 5 and "is mirrored by" in refused.error and refused.error.endswith("Ask them to stop it.\n")
    stopped = grace.ok("intercept", "stop", "api-server").out.splitlines()
    assert re.fullmatch(r"  ✓ nothing more is copied +\d+\.\d+ s", stopped[0])
    assert stopped[1:] == ["Copies of traffic to api-server no longer reach your workspace."]
    check_nothing_left(room)
