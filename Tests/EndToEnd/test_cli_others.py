"""What a developer of a local environment is told of the others, and what the others' ends leave behind."""

import base64
import contextlib
import json
import os
import signal
import time

import pytest
from harness.load import ask
from harness.processes import freeze_whole, kill_whole
from harness.waiting import eventually
from harness.web import WebServer

START = ["intercept", "start", "api-server", "-p"]
STOP = ["intercept", "stop", "api-server"]


class Place:
    """A service with two ports, and developers who are connected, each with a server of their own."""

    def __init__(self, project, make_developer, closing):
        self.project, self.make_developer, self.closing = project, make_developer, closing
        self.ports = [project.port(), project.add_port()]
        self.servers = {}

    def developer(self, name):
        developer = self.make_developer(name, self.project.folder)
        developer.ok("env", "connect", self.project.name)
        self.servers[name] = self.closing(WebServer(name))
        return developer

    def mapping(self, name, number=0):
        return f"{self.ports[number]}:{self.servers[name].address[1]}"

    @property
    def record_file(self):
        return self.project.folder / ".kl/record.json"

    def change_record(self, change):
        """As a workspace does it: the whole file is replaced."""
        content = json.loads(self.record_file.read_text())
        change(content)
        new = self.record_file.with_name("record.new")
        new.write_text(json.dumps(content, ensure_ascii=False))
        new.replace(self.record_file)

    def age(self, seconds):
        """Has the record last have heard of everybody that long ago."""
        then = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - seconds))

        def change(content):
            for entry in content["intercepts"]:
                entry["lastSeen"] = then

        self.change_record(change)

    def sidecar(self):
        return self.project.service_state()["sidecars"][0]

    def forget_all(self):
        """Another sidecar comes, which knows nobody."""
        pid = self.sidecar()["process"]["pid"]
        os.kill(pid, signal.SIGKILL)
        eventually(
            "the next sidecar reports that nobody holds anything",
            lambda: self.sidecar().get("holders") == [] and self.sidecar()["process"]["pid"] != pid,
            5,
        )

    def ask(self, number=0):
        return ask(("127.0.0.1", self.ports[number]))


@pytest.fixture
def place(make_project, make_developer, closing):
    return Place(make_project(), make_developer, closing)


def entries(place):
    return [entry["service"] for entry in json.loads(place.record_file.read_text())["intercepts"]]


def test_entries_that_no_sidecar_confirms(place):
    """Their workspaces' machines are gone for good: after the time for which a sidecar waits, they are in nobody's way."""
    ada, eve, bob = (place.developer(name) for name in ("ada", "eve", "bob"))
    ada.ok(*START, place.mapping("ada"))
    eve.ok(*START, place.mapping("eve"), "--mirror")
    for gone in (ada, eve):
        kill_whole(gone.daemon())
    place.forget_all()
    # A workspace that was there a moment ago may come back.
    assert [holder["phase"] for holder in bob.holders()] == ["Degraded"] * 2
    assert bob.run(*START, place.mapping("bob")).code == 5
    place.age(9 * 60)
    assert bob.run(*START, place.mapping("bob")).code == 5
    assert len(bob.holders()) == 2

    place.age(11 * 60)
    assert bob.holders() == [] and ada.holders() == []
    assert bob.run(*STOP).code == 4
    bob.ok(*START, place.mapping("bob"))
    assert place.ask() == "bob"
    assert [holder["isOwn"] for holder in bob.holders()] == [True]
    refused = ada.run(*START, place.mapping("ada"))
    assert refused.code == 5, refused
    bob.ok(*STOP)
    ada.ok(*START, place.mapping("ada"))
    assert place.ask() == "ada"
    ada.ok(*STOP)


def test_mirrors_that_no_sidecar_confirms(place):
    """Sixteen of them keep nobody from mirroring, and after a day nothing of them is left."""
    ada, bob = place.developer("ada"), place.developer("bob")
    ada.ok(*START, place.mapping("ada"), "--mirror")
    kill_whole(ada.daemon())
    place.forget_all()
    def fill(content):
        (first,) = content["intercepts"]
        for number in range(15):
            key = base64.b64encode(bytes([number + 1]) * 32).decode()
            content["intercepts"].append({**first, "holder": {"label": f"gone{number}", "publicKey": key}})

    place.change_record(fill)
    place.age(60)
    refused = bob.run(*START, place.mapping("bob"), "--mirror")
    assert refused.code == 1 and "16 workspaces get copies" in refused.error, refused
    place.age(11 * 60)
    bob.ok(*START, place.mapping("bob"), "--mirror")
    assert [holder["isOwn"] for holder in bob.holders()] == [True]
    bob.ok(*STOP)
    ada.ok(*START, place.mapping("ada"), "--mirror")
    place.change_record(fill)
    place.age(25 * 60 * 60)
    bob.ok(*START, place.mapping("bob", 1))
    assert len(entries(place)) == 2, "ada's, which the sidecar has, and bob's"
    bob.ok(*STOP)
    ada.ok(*STOP)
    assert entries(place) == []


def test_a_stop_says_who_answers(place):
    """After a take-over, and where another developer has another port, the original isn't said to answer."""
    ada, bob = place.developer("ada"), place.developer("bob")
    for words in ((), ("-o", "json")):
        bob.ok(*START, place.mapping("bob"))
        ada.ok(*START, place.mapping("ada"), "--force")
        label, key = (ada.own()[name] for name in ("workspace", "publicKey"))
        # Both have the same name here.
        shown = f"{label} {key[:4]}…{key[-3:]}"
        eventually("bob is told", lambda: bob.own()["phase"] == "Failed", 2)
        stopped = bob.ok(*STOP, *words)
        if words:
            (one,) = stopped.json["stopped"]
            assert one["steps"][0]["name"] == "holdersAnswer"
            assert one["holders"] == [
                {"workspace": label, "publicKey": key, "ports": [str(place.ports[0])]}
            ]
        else:
            lines = stopped.out.splitlines()
            assert lines[0].startswith(f"  ✓ new connections reach {shown} "), lines
            assert lines[-1] == f"{shown} answers for port {place.ports[0]} of api-server."
        assert place.ask() == "ada"
        ada.ok(*STOP)

    ada.ok(*START, place.mapping("ada"))
    for words in ((), ("-o", "json")):
        bob.ok(*START, place.mapping("bob", 1))
        stopped = bob.ok(*STOP, *words)
        if words:
            (one,) = stopped.json["stopped"]
            assert one["steps"][0]["name"] == "originalAnswers"
            assert [holder["workspace"] for holder in one["holders"]] == [label]
        else:
            lines = stopped.out.splitlines()
            assert lines[0].startswith("  ✓ new connections reach the original service ")
            assert lines[-1] == (
                f"api-server answers from the environment again, but for port {place.ports[0]}: {shown} answers there."
            )
    ada.ok(*STOP)


def test_a_record_that_cannot_be_read(place):
    """The sidecars' reports are shown all the same, and the advice says what removing the file would do."""
    ada, bob = place.developer("ada"), place.developer("bob")
    ada.ok(*START, place.mapping("ada"))

    def spoil(content):
        content["members"][0]["label"] = "ada\u202e@thinkpad"

    place.change_record(spoil)
    listed = bob.ok("intercept", "list", "-o", "json")
    assert [holder["phase"] for holder in listed.json["intercepts"]] == ["Active"]
    assert "record.json isn't as kl wrote it" in listed.error and "cuts off" in listed.error, listed
    status = bob.ok("env", "status", "-o", "json").json
    assert [service["interceptedBy"] for service in status["services"]] == [ada.own()["workspace"]]
    refused = bob.run(*START, place.mapping("bob", 1))
    assert refused.code == 1 and "isn't as kl wrote it" in refused.error
    place.change_record(lambda content: content["members"][0].update(label="ada@thinkpad"))
    ada.ok(*STOP)


@contextlib.contextmanager
def frozen(pid):
    freeze_whole(pid)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_a_row_has_all_its_notes(place):
    """Why it is Degraded, and how many copies were cut off."""
    ada = place.developer("ada")
    ada.ok(*START, place.mapping("ada"), "--mirror")
    state_file = place.project.folder / ".kl/state.json"
    with frozen(ada.daemon()), frozen(place.project.state["supervisor"]["pid"]):
        state = json.loads(state_file.read_text())
        state["services"][0]["sidecars"][0]["holders"][0]["behind"] = 5
        state_file.write_text(json.dumps(state))
        listed = ada.ok("intercept", "list").out
        assert "5 copies were cut off" in listed and "doesn't answer" in listed, listed
    ada.ok(*STOP)


def test_what_busy_says(place):
    """The port, whether its holder is there, and a command that can be typed."""
    ada, bob = place.developer("ada"), place.developer("bob")
    ada.ok(*START, place.mapping("ada"))
    port = place.ports[0]
    both = [*START, place.mapping("bob"), "-p", place.mapping("bob", 1)]
    refused = bob.run(*both)
    assert refused.code == 5 and f"kl: port {port} of 'api-server' is intercepted by " in refused.error, refused
    assert "reached" not in refused.error
    refused = bob.run(*STOP)
    assert refused.error.endswith(f" kl intercept start api-server -p {port}:LOCAL_PORT --force\n"), refused
    kill_whole(ada.daemon())
    # Not a moment ago: then it may still be about to come.
    place.change_record(lambda content: content["intercepts"][0].update(since="2026-01-01T00:00:00Z"))
    eventually("ada's holding is Degraded", lambda: bob.holders()[0]["phase"] == "Degraded", 2)
    refused = bob.run(*START, place.mapping("bob"))
    assert refused.code == 5 and "whose workspace can't be reached (last seen" in refused.error, refused
    ada.ok(*STOP)


def test_holders_of_one_label(place):
    """Whoever looks sees which row is their own, and the key where names are the same."""
    ada, bob = place.developer("ada"), place.developer("bob")
    ada.ok(*START, place.mapping("ada"))
    bob.ok(*START, place.mapping("bob", 1))
    keys = {name: developer.own()["publicKey"] for name, developer in (("ada", ada), ("bob", bob))}
    label = ada.own()["workspace"]
    short = f"{label} {keys['bob'][:4]}…{keys['bob'][-3:]}"
    listed = ada.ok("intercept", "list").out
    assert f"{label} (you) " in listed and f"{short} " in listed, listed
    status = ada.ok("env", "status").out
    assert f"{label} (you) ({place.ports[0]})" in status and f"{short} ({place.ports[1]})" in status, status
    for developer in (ada, bob):
        developer.ok(*STOP)


def test_rights_of_a_local_environment(place):
    """What the file `rights` says of a key holds for good; a file with a mistake changes nothing, and is named."""
    ada, eve = place.developer("ada"), place.developer("eve")
    key = json.loads(place.record_file.read_text())["members"][1]["publicKey"]
    rights = place.project.folder / ".kl/rights"
    rights.touch(mode=0o600)
    rights.write_text(f"# eve only watches\n{key} may=mirror ports={place.ports[1]}\n")

    def refused(number, *more):
        ran = eve.run(*START, place.mapping("eve", number), *more)
        return ran.code == 1 and "has no right" in ran.error

    eventually("the sidecar has read it", lambda: refused(1), 5)
    dave = place.developer("dave")
    assert dave is not ada and refused(1) and refused(0, "--mirror"), "also after a new key"
    eve.ok(*START, place.mapping("eve", 1), "--mirror")
    eve.ok(*STOP)
    rights.write_text(f"{key} may=fly\n")
    eventually("it is said", lambda: "'fly' isn't a right" in ada.ok("env", "status").out, 5)
    assert refused(1)
    rights.write_text(f"{key} may=mirror\n")
    ada.ok("env", "down")
    ada.ok("env", "up")
    assert refused(0) and rights.exists(), "also in the next life of the environment"
    rights.unlink()
    eventually("it is removed", lambda: eve.run(*START, place.mapping("eve")).code == 0, 5)
    eve.ok(*STOP)


def test_words_at_the_end(place):
    """A mirror isn't called an intercept, and an environment that is down doesn't answer."""
    ada = place.developer("ada")
    ada.ok(*START, place.mapping("ada"), "--mirror")
    assert "✓ stopped the mirror of api-server" in ada.ok("env", "disconnect").out
    ada.ok("env", "connect", place.project.name)
    ada.ok(*START, place.mapping("ada"))
    assert "✓ stopped the intercept of api-server" in ada.ok("env", "disconnect").out
    ada.ok("env", "connect", place.project.name)
    ada.ok("env", "down")
    nothing = ada.run(*STOP)
    assert nothing.code == 4 and "isn't intercepted, and nothing answers: " in nothing.error, nothing
