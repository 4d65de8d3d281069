"""`kl env` and `kl intercept` as a developer types them, against real services."""

import json
import os
import pathlib
import re
import select
import shutil
import signal
import socket
import subprocess
import time

import pytest
from harness.load import Load, ask, who
from harness.processes import kill_whole
from harness.waiting import eventually, note
from harness.web import WebServer

START = ("intercept", "start", "api-server", "--port")


def test_the_whole_day(demo, closing):
    """Connect, start, list, status, stop, disconnect: what each says, and who answers meanwhile."""
    project, ada = demo
    mine = closing(WebServer("workspace"))
    port = project.port()
    mapping = f"{port}:{mine.address[1]}"

    assert ask(project.address()) == "api-server"
    said = ada.ok(*START, mapping).out
    assert ask(project.address()) == "workspace"
    lines = said.splitlines()
    assert lines[0] == "Intercepting api-server in environment demo"
    assert re.fullmatch(r"  ✓ sidecar running next to api-server +\d+\.\d+ s", lines[1])
    assert re.fullmatch(
        r"  ✓ tunnel up: (udp|tcp) 127\.0\.0\.1:\d+, peer .{4}….{3}, rtt \d+\.\d ms +\d+\.\d+ s", lines[2]
    ), "whichever was up first, on a busy machine"
    assert lines[3] == f"  ✓ port {port} → localhost:{mine.address[1]}"
    assert lines[4:] == [
        "Traffic to api-server now reaches your workspace.",
        "Stop with: kl intercept stop api-server",
    ]

    eventually("it goes over UDP", lambda: " udp " in ada.ok("i", "ls").out, 5)
    table = ada.ok("i", "ls").out.splitlines()
    assert table[0].split() == ["SERVICE", "KIND", "PHASE", "PORTS", "WORKSPACE", "SINCE", "CONNECTIONS", "TUNNEL"]
    assert re.search(rf"^api-server +intercept +Active +{port} → {mine.address[1]} .*udp \d+\.\d ms$", table[1])

    details = ada.ok("int", "st", "api-server").out
    for word in ("Service:", "Phase:", "Active", "Workspace:", "Sidecars:", "1 of 1 ready", "Traffic:"):
        assert word in details
    status = ada.ok("e", "st").out
    assert "demo (local)   up" in status and "Intercepts:" in status

    said = ada.ok("intercept", "stop", "api-server").out.splitlines()
    assert ask(project.address()) == "api-server"
    assert re.fullmatch(r"  ✓ new connections reach the original service +\d+\.\d+ s", said[0])
    assert said[-1] == "api-server answers from the environment again."
    assert ada.intercepts() == []

    assert ada.ok("env", "disconnect").out == "Disconnected from environment demo.\n"
    gone = ada.run("intercept", "list")
    assert (gone.code, gone.error) == (3, "kl: not connected to an environment. Connect first: kl env connect\n")


def test_nothing_listens_yet(demo, closing):
    """The original answers until the local server is there; from then on it does, without a command."""
    project, ada = demo
    mine = WebServer("workspace")
    address = mine.address
    mine.close()
    ran = ada.ok(*START, f"{project.port()}:{address[1]}")
    assert f"! nothing is listening on localhost:{address[1]} yet: until it does, the original service answers." in ran.error
    assert ask(project.address()) == "api-server"
    assert ada.intercepts()[0]["ports"][0]["isListening"] is False
    closing(WebServer("workspace", port=address[1]))
    project.answers("workspace")
    eventually("status says that it listens", lambda: ada.intercepts()[0]["ports"][0]["isListening"], 2)


def test_several_ports_at_once(make_project, make_developer, closing):
    """All of several ports or none; a second start replaces the list."""
    project = make_project(name="two")
    published, second = project.port(), project.add_port()
    ada = make_developer("ada", project.folder)
    ada.ok("env", "connect", "--file", "compose.yaml")
    one, two = closing(WebServer("one")), closing(WebServer("two"))
    ada.ok("i", "s", "api-server", "-p", f"{published}:{one.address[1]}", "-p", f"{second}:{two.address[1]}")
    assert ask(("127.0.0.1", published)) == "one"
    assert ask(("127.0.0.1", second)) == "two"
    assert ada.intercepts()[0]["generation"] == 1
    ada.ok("i", "s", "api-server", "-p", f"{published}:{two.address[1]}")
    assert ada.intercepts()[0]["generation"] == 2
    assert ask(("127.0.0.1", published)) == "two"
    ada.ok("i", "sp", "--all")
    assert ask(("127.0.0.1", published)) == "api-server"


@pytest.mark.deadline(600)
def test_a_hundred_cycles(make_project, make_developer, closing):
    """Start and stop a hundred times under a hundred requests a second: none fails, and the counts add up."""
    project = make_project()
    count = project.folder / "count"
    text = project.file.read_text()
    project.file.write_text(text.replace('"--port"', f'"--count", "{count}", "--port"'))
    ada = make_developer("ada", project.folder)
    ada.ok("env", "connect", "demo")
    project.answers("api-server", aim=2)
    served_before = original_count(project, count)
    mine = closing(WebServer("workspace"))
    load = Load(project.address(), 100)
    carried = 0
    starts, stops = [], []
    cycles = 100
    for _ in range(cycles):
        began = time.monotonic()
        ada.ok(*START, f"{project.port()}:{mine.address[1]}", "-q")
        starts.append(time.monotonic() - began)
        time.sleep(0.1)
        began = time.monotonic()
        stopped = ada.ok("intercept", "stop", "api-server", "-o", "json").json["stopped"][0]
        stops.append(time.monotonic() - began)
        assert stopped["reset"] == 0
        carried += stopped["total"] - stopped["passed"]
    outcomes = load.stop()
    failed = [outcome for outcome in outcomes if outcome.failure]
    assert not failed, failed[:5]
    by = {name: sum(o.answer == name for o in outcomes) for name in ("workspace", "api-server")}
    note(f"kl intercept start, median of {cycles}", 0.3, sorted(starts)[cycles // 2])
    note(f"kl intercept stop, median of {cycles}", 0.3, sorted(stops)[cycles // 2])
    assert by["workspace"] == carried == mine.requests
    assert by["api-server"] == original_count(project, count) - served_before
    assert sum(by.values()) == len(outcomes)


def original_count(project, count):
    """How many requests the original has answered by now, as it says itself."""
    with_time = count.stat().st_mtime_ns if count.exists() else 0
    os.kill(project.service_state()["process"]["pid"], signal.SIGUSR1)
    eventually("the original tells its count", lambda: count.exists() and count.stat().st_mtime_ns > with_time, 1)
    return int(count.read_text())


def test_switching_times(demo, closing):
    """From typing start to the first intercepted request, and from stop to the first original one."""
    project, ada = demo
    mine = closing(WebServer("workspace"))
    there, back = [], []
    for _ in range(50 if os.environ.get("KL_LONG") == "1" else 10):
        there.append(switch(project, lambda: ada.begin(*START, f"{project.port()}:{mine.address[1]}"), "workspace"))
        back.append(switch(project, lambda: ada.begin("intercept", "stop", "api-server"), "api-server"))
    note("from typing start to the first intercepted request, median", 0.3, sorted(there)[len(there) // 2])
    note("from typing stop to the first original request, median", 0.1, sorted(back)[len(back) // 2])


def switch(project, begin, name):
    began = time.monotonic()
    command = begin()
    while ask(project.address()) != name:
        assert time.monotonic() - began < 10
        time.sleep(0.002)
    took = time.monotonic() - began
    command.communicate(timeout=60)
    assert command.returncode == 0
    return took


class TestKilled:
    """kill -9 of each part in turn, under load: what clients see, and what list says."""

    @pytest.fixture
    def running(self, demo, closing):
        project, ada = demo
        mine = WebServer("workspace")
        ada.ok(*START, f"{project.port()}:{mine.address[1]}")
        assert ask(project.address()) == "workspace"
        load = Load(project.address(), 50)
        yield project, ada, mine, load
        load.stop()
        mine.close()

    def failed(self, load):
        return [outcome for outcome in load.stop() if outcome.failure]

    def test_the_daemon(self, running):
        project, ada, mine, load = running
        kill_whole(ada.daemon())
        gone = time.monotonic()
        project.answers("api-server", aim=2)
        listed = ada.intercepts()[0]
        assert listed["phase"] == "Degraded"
        assert "daemon isn't running" in listed["reason"]
        time.sleep(0.5)
        # What had been answered in part when it was killed is lost with it; nothing that came later.
        failed = self.failed(load)
        assert not [outcome for outcome in failed if outcome.began > gone], failed
        ada.ok("intercept", "stop", "api-server")
        assert ada.intercepts() == []
        ada.ok(*START, f"{project.port()}:{mine.address[1]}")
        project.answers("workspace")

    def test_the_daemon_and_start_again(self, running):
        project, ada, mine, load = running
        os.kill(ada.daemon(), signal.SIGKILL)
        project.answers("api-server", aim=2)
        ada.ok(*START, f"{project.port()}:{mine.address[1]}")
        project.answers("workspace")
        assert ada.phase("api-server") == "Active"

    def test_the_sidecar(self, running):
        project, ada, mine, load = running
        before = project.service_state()
        os.kill(before["sidecars"][0]["process"]["pid"], signal.SIGKILL)
        eventually(
            "another sidecar is ready",
            lambda: project.service_state()["sidecars"][0].get("location")
            and project.service_state()["sidecars"][0]["process"] != before["sidecars"][0]["process"],
            1,
        )
        project.answers("workspace", aim=2)
        eventually("list says Active", lambda: ada.phase("api-server") == "Active", 2)
        assert project.service_state()["process"] == before["process"]
        # Connections that were in the tunnel are reset; no new one is refused.
        failed = self.failed(load)
        assert len(failed) <= 5, failed
        assert not [o for o in failed if "refused" in o.failure.lower()]

    def test_the_supervisor(self, running):
        project, ada, mine, load = running
        before = project.service_state()
        os.kill(project.state["supervisor"]["pid"], signal.SIGKILL)
        time.sleep(0.5)
        assert ask(project.address()) == "workspace"
        assert ada.phase("api-server") == "Active"
        ada.ok("env", "up")
        assert project.service_state()["process"] == before["process"]
        assert not self.failed(load)
        # The new one watches what it found running.
        os.kill(project.service_state()["sidecars"][0]["process"]["pid"], signal.SIGKILL)
        project.answers("workspace", aim=5)

    def test_the_workspaces_server(self, running):
        project, ada, mine, load = running
        mine.close()
        closed = time.monotonic()
        project.answers("api-server")
        eventually(
            "list says that nothing listens", lambda: ada.intercepts()[0]["ports"][0]["isListening"] is False, 2
        )
        with WebServer("workspace", port=mine.address[1]):
            project.answers("workspace")
            ada.ok("intercept", "stop", "api-server")
        # What it had taken when it was closed it has reset itself.
        assert not [outcome for outcome in self.failed(load) if outcome.began > closed]


def test_two_developers_race(demo, make_developer, closing):
    """Fifty times both start at once: one wins, the other is told who has it, with exit code 5."""
    project, ada = demo
    grace = make_developer("grace", project.folder)
    grace.ok("env", "connect", "demo")
    servers = {ada: closing(WebServer("ada")), grace: closing(WebServer("grace"))}
    wins = {ada: 0, grace: 0}
    for round_number in range(50):
        pair = [ada, grace] if round_number % 2 else [grace, ada]
        commands = {d: d.begin(*START, f"{project.port()}:{servers[d].address[1]}") for d in pair}
        ended = {d: (c.communicate(timeout=60), c.returncode) for d, c in commands.items()}
        codes = sorted(code for _, code in ended.values())
        assert codes == [0, 5], ended
        winner = next(d for d, (_, code) in ended.items() if code == 0)
        loser = next(d for d in pair if d is not winner)
        sentence = ended[loser][0][1]
        assert re.fullmatch(
            r"kl: port \d+ of 'api-server' is intercepted by \S+@\S+ \S+ since \d\d:\d\d\. "
            r"Ask them to stop it, or take it over with --force\.\n",
            sentence,
        ), sentence
        assert ask(project.address()) == ("ada" if winner is ada else "grace")
        others = loser.intercepts()[0]
        assert (others["isOwn"], others["phase"]) == (False, "Active")
        assert loser.run("intercept", "stop", "api-server").code == 5
        winner.ok("intercept", "stop", "api-server")
        wins[winner] += 1
    assert ask(project.address()) == "api-server"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs other users")
def test_two_users_of_one_group(make_project, make_developer, binaries, scratch, closing):
    """Two users meet in a folder of their group; a third, of another group, finds nothing."""
    tools = scratch / "tools"
    tools.mkdir(exist_ok=True)
    for name in ("kl", "kl-sidecar"):
        shutil.copy(binaries / name, tools)
    shutil.copy(pathlib.Path(__file__).parent / "harness/web_process.py", tools)
    project = make_project(("api-server",))
    own = project.services["api-server"][1]
    command = f"command: python3 -B {tools}/web_process.py --name api-server --port {own}"
    project.file.write_text(re.sub(r"command: .*", command, project.file.read_text()))
    os.chown(project.folder, 0, 2000)
    project.folder.chmod(0o2775)

    def user(number, group):
        person = make_developer(f"user-{number}", project.folder)
        os.chown(person.home, number, group)
        person.binaries = tools
        person.prefix = ["setpriv", f"--reuid={number}", f"--regid={group}", "--clear-groups"]
        person.environment["PATH"] = "/usr/bin:/bin"
        return person

    ada, grace, eve = user(61001, 2000), user(61002, 2000), user(61003, 3000)
    one, two = closing(WebServer("ada")), closing(WebServer("grace"))
    ada.ok("env", "connect", "demo")
    grace.ok("env", "connect", "demo")
    assert eve.run("env", "connect", "--file", project.file).code == 1
    ada.ok(*START, f"{project.port()}:{one.address[1]}")
    assert ask(project.address()) == "ada"
    assert grace.intercepts()[0]["workspace"] == ada.intercepts()[0]["workspace"]
    assert grace.run(*START, f"{project.port()}:{two.address[1]}").code == 5
    grace.ok(*START, f"{project.port()}:{two.address[1]}", "--force")
    assert ask(project.address()) == "grace"
    # Who has lost it clears what is left of it, and takes nothing back.
    ada.ok("intercept", "stop", "api-server")
    assert ask(project.address()) == "grace"
    assert eve.run("env", "down", "--file", project.file).code == 1
    grace.ok("env", "down")


def test_taking_over(demo, make_developer, closing):
    project, ada = demo
    grace = make_developer("grace", project.folder)
    grace.ok("env", "connect", "demo")
    first, second = closing(WebServer("ada")), closing(WebServer("grace"))
    ada.ok(*START, f"{project.port()}:{first.address[1]}")
    grace.ok(*START, f"{project.port()}:{second.address[1]}", "--force")
    assert ask(project.address()) == "grace"
    eventually("the first one is told", lambda: ada.phase("api-server") in ("Failed", "Active"), 2)
    assert not [i for i in ada.intercepts() if i["isOwn"] and i["phase"] == "Active"]
    grace.ok("intercept", "stop", "api-server")
    assert ask(project.address()) == "api-server"


def test_twenty_starts_at_once(demo, closing):
    """One daemon, one intercept; every command says the same."""
    project, ada = demo
    mine = closing(WebServer("workspace"))
    commands = [ada.begin(*START, f"{project.port()}:{mine.address[1]}") for _ in range(20)]
    ended = [(c.communicate(timeout=60), c.returncode) for c in commands]
    assert [code for _, code in ended] == [0] * 20, ended
    assert ask(project.address()) == "workspace"
    assert len(ada.intercepts()) == 1
    daemons = [
        entry
        for entry in pathlib.Path("/proc").iterdir()
        if entry.name.isdigit() and is_daemon_of(entry, ada)
    ]
    assert len(daemons) == 1


def is_daemon_of(entry, developer):
    try:
        return b"\0daemon" in (entry / "cmdline").read_bytes() and str(developer.home).encode() in (
            entry / "environ"
        ).read_bytes() + (entry / "cmdline").read_bytes()
    except OSError:
        return False


def test_interrupted_start_leaves_nothing(demo, closing):
    """Ctrl-C and kill -9 at many moments of a start: afterwards the original answers, or the intercept is whole."""
    project, ada = demo
    mine = closing(WebServer("workspace"))
    for number in (signal.SIGINT, signal.SIGKILL):
        for delay in (0, 0.005, 0.01, 0.02, 0.03, 0.05, 0.08):
            command = ada.begin(*START, f"{project.port()}:{mine.address[1]}")
            time.sleep(delay)
            command.send_signal(number)
            command.communicate(timeout=60)
            if command.returncode == 0:
                assert ask(project.address()) == "workspace"
                ada.ok("intercept", "stop", "api-server")
            elif number == signal.SIGINT:
                assert command.returncode in (130, -signal.SIGINT)
            eventually("nothing is left", lambda: ada.intercepts() == [] or settled(ada), 2)
            if ada.intercepts():
                ada.ok("intercept", "stop", "api-server")
            assert ask(project.address()) == "api-server"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_stop_is_finished_without_its_kl(demo, closing, number):
    """kl ended while it waits for what is open: that goes on to its end, and then nothing is left."""
    project, ada = demo
    echo = closing(socket.create_server(("127.0.0.1", 0)))
    ada.ok(*START, f"{project.port()}:{echo.getsockname()[1]}", "--drain", "5s")
    client = closing(socket.create_connection(project.address(), timeout=5))
    echo.settimeout(5)
    client.sendall(b"hello")
    # kl looks now and then whether somebody listens, and says nothing.
    while (server := closing(echo.accept()[0])).recv(10) != b"hello":
        pass
    command = ada.begin("intercept", "stop", "api-server")
    eventually("it is being stopped", lambda: ada.phase("api-server") == "Stopping", 2)
    command.send_signal(number)
    command.communicate(timeout=10)
    assert ask(project.address()) == "api-server"
    time.sleep(1)
    server.sendall(b"still here")
    assert client.recv(10) == b"still here"
    client.close()
    server.close()
    eventually("nothing is left", lambda: ada.intercepts() == [], 2)


def settled(developer):
    """kill -9 after the daemon had said that it is done: then it is."""
    return developer.phase("api-server") == "Active"


def test_a_reader_that_leaves_stops_nothing(demo, closing):
    """`kl intercept start … | head -1`: what was asked for is done."""
    project, ada = demo
    mine = closing(WebServer("workspace"))
    command = ada.begin(*START, f"{project.port()}:{mine.address[1]}")
    command.stdout.close()
    command.stderr.close()
    assert command.wait(60) == 0
    assert ask(project.address()) == "workspace"


def test_survives_its_shell(demo, closing):
    """The intercept goes on when the session of the shell that started it ends."""
    project, ada = demo
    mine = closing(WebServer("workspace"))
    command = ada.begin(*START, f"{project.port()}:{mine.address[1]}", start_new_session=True)
    command.communicate(timeout=60)
    for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(command.pid, number)
        except ProcessLookupError:
            pass
    assert ask(project.address()) == "workspace"
    ada.ok("intercept", "stop", "api-server")


def test_foreground(demo):
    """Stays, says when the local server comes, and stops on Ctrl-C."""
    project, ada = demo
    mine = WebServer("workspace")
    mine.close()
    command = ada.begin(*START, f"{project.port()}:{mine.address[1]}", "--foreground")
    eventually("it is active", lambda: ada.phase("api-server") == "Active", 2)
    with WebServer("workspace", port=mine.address[1]):
        project.answers("workspace", aim=2)
        time.sleep(0.2)
        command.send_signal(signal.SIGINT)
        out, error = command.communicate(timeout=60)
    assert command.returncode == 0, error
    assert f"✓ localhost:{mine.address[1]} listens now" in out
    assert out.endswith("api-server answers from the environment again.\n")
    assert ask(project.address()) == "api-server"


def test_the_daemon_ends_when_idle(make_project, make_developer, closing):
    project = make_project()
    ada = make_developer("ada", project.folder, KL_DAEMON_IDLE_SECONDS="1")
    ada.ok("env", "connect", "demo")
    mine = closing(WebServer("workspace"))
    ada.ok(*START, f"{project.port()}:{mine.address[1]}")
    daemon = pathlib.Path(f"/proc/{ada.daemon()}")
    ada.ok("intercept", "stop", "api-server")
    eventually("the daemon has ended", lambda: not daemon.exists(), 2)


def test_environment_down_and_up(demo, closing):
    """`down` ends an intercept in it; `up` brings the original back."""
    project, ada = demo
    mine = closing(WebServer("workspace"))
    ada.ok(*START, f"{project.port()}:{mine.address[1]}")
    ada.ok("env", "down")
    assert who(project.address(), 5) is None
    eventually("nothing of the environment is left", lambda: project.processes() == [], 1)
    ran = ada.run(*START, f"{project.port()}:{mine.address[1]}")
    assert ran.code == 1 and "kl env up" in ran.error
    ada.ok("env", "up")
    project.answers("api-server", aim=2)
    assert ada.intercepts() == []


def test_a_file_that_is_broken_by_now(demo):
    """What runs can be ended whatever its compose file says, or if there is none any more."""
    project, ada = demo
    text = project.file.read_text()
    project.file.write_text("services: [")
    assert ada.ok("env", "up").out == "Environment demo is up already.\n"
    assert ada.ok("env", "down").out.endswith("Environment demo is down.\n")
    ran = ada.run("env", "up")
    assert ran.code == 1 and "compose.yaml:2:1" in ran.error
    project.file.write_text(text)
    ada.ok("env", "up")
    project.file.unlink()
    assert ada.ok("env", "down", "--file", project.file).out.endswith("Environment demo is down.\n")
    eventually("nothing of the environment is left", lambda: project.processes() == [], 1)


@pytest.mark.parametrize("how", ["moved", "removed", "cleaned"])
def test_a_folder_that_goes(demo, closing, how):
    """The folder, or .kl/ alone, is taken away from an environment that is up: it ends, and so does what is in it."""
    project, ada = demo
    mine = closing(WebServer("workspace"))
    ada.ok(*START, f"{project.port()}:{mine.address[1]}")
    if how == "moved":
        project.folder.rename(project.folder.with_name("elsewhere"))
    else:
        gone = project.folder if how == "removed" else project.folder / ".kl"
        # What runs there may be writing a file in it.
        eventually("the folder is gone", lambda: shutil.rmtree(gone, ignore_errors=True) or not gone.exists(), 1)
    home = ada.home
    assert "demo (local)   down" in ada.ok("env", "status", directory=home).out
    ada.ok("intercept", "list", directory=home)
    assert ada.ok("intercept", "stop", "--all", directory=home).out
    ada.ok("env", "disconnect", directory=home)
    eventually("nothing of the environment is left", lambda: project.processes() == [], 5)
    assert who(project.address(), 5) is None


def test_many_services(make_project, make_developer):
    """All their sidecars tell at once that they know a new key: more than the kernel keeps for the supervisor."""
    project = make_project([f"service-{number}" for number in range(24)])
    for name in ("ada", "grace", "edsger"):
        make_developer(name, project.folder).ok("env", "connect", "demo")


COMPLETIONS = [
    ("kl intercept start ", ["api-server"]),
    ("kl intercept stop ap", ["api-server"]),
    ("kl env connect ", ["demo"]),
    ("kl int", ["intercept"]),
    ("kl intercept start -p 80:80 a", ["api-server"]),
    ("kl intercept start -p80:80 a", ["api-server"]),
    ("kl i s -p 80:[::1]:80 a", ["api-server"]),
    ("kl i begin --carrier ex", ["exec"]),
    ("kl i s --on-unavailable=refuse a", ["api-server"]),
    ("kl e conn d", ["demo"]),
]


def test_bash_completes(demo, closing, folder):
    """A real bash on a terminal, with the script that kl prints. There is a folder of the service's name."""
    project, ada = demo
    mine = closing(WebServer("workspace"))
    ada.ok(*START, f"{project.port()}:{mine.address[1]}")
    (project.folder / "api-server").mkdir(exist_ok=True)
    script = folder / "kl.bash"
    script.write_text("PS1='$ '; bind 'set bell-style none'; bind 'set enable-bracketed-paste off'\n" + ada.ok("completion", "bash").out)
    environment = {**ada.environment, "PATH": f"{ada.binaries}:{os.environ['PATH']}", "TERM": "dumb"}
    bash = ["bash", "--noprofile", "--rcfile", script, "-i"]
    typed = [
        ("kl intercept start ap", "kl intercept start api-server "),
        ("kl i s -p 80:80 ap", "kl i s -p 80:80 api-server "),
        ("kl i s --carrier=u", "kl i s --carrier=udp "),
        ("kl i s --mi", "kl i s --mirror "),
        ("kl i be", "kl i begin "),
        ("kl env connect -f comp", "kl env connect -f compose.yaml "),
    ]
    for begin, whole in typed:
        shell, terminal = os.forkpty()
        if shell == 0:
            os.chdir(project.folder)
            os.execvpe(bash[0], bash, environment)
        try:
            os.write(terminal, f"{begin}\t".encode())
            seen = b""
            while f"$ {whole}".encode() not in seen:
                assert select.select([terminal], [], [], 30)[0], (begin, seen)
                seen += os.read(terminal, 65_536)
        finally:
            os.kill(shell, signal.SIGKILL)
            os.waitpid(shell, 0)
            os.close(terminal)

    def completed(line):
        words = re.findall(r"[^\s:=]+|[:=]+", line) + ([""] if line.endswith(" ") else [])
        text = """source "$1"; COMP_LINE="$2"; shift 2; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
            COMP_POINT=${#COMP_LINE}; __kl_complete kl "${@: -1}" "${@: -2:1}"; printf '%s\\n' "${COMPREPLY[@]}" """
        done = subprocess.run(
            ["bash", "-c", text, "bash", script, line, *words],
            cwd=project.folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=30,
        )
        return [line.strip() for line in done.stdout.splitlines()]

    for line, names in COMPLETIONS:
        assert completed(line) == names, line
    assert "intercept" in completed("kl ")


def test_fish_completes(demo, folder):
    project, ada = demo
    (folder / "kl.fish").write_text(ada.ok("completion", "fish").out)
    environment = {**ada.environment, "PATH": f"{ada.binaries}:{os.environ['PATH']}", "HOME": str(folder)}
    for line, names in COMPLETIONS:
        if "stop" in line:
            continue  # nothing is intercepted
        done = subprocess.run(
            ["fish", "-c", "source $argv[1]; complete -C $argv[2]", folder / "kl.fish", line],
            cwd=project.folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        found = [found.split("\t")[0] for found in done.stdout.splitlines()]
        assert (found, done.stderr) == (names, ""), line


def test_zsh_completes(demo, folder):
    """On a terminal: zsh completes nowhere else."""
    project, ada = demo
    home = folder / "zsh-home"
    home.mkdir()
    (home / "_kl").write_text(ada.ok("completion", "zsh").out)
    (home / ".zshrc").write_text("PS1='$ '; unsetopt beep; fpath=($ZDOTDIR $fpath); autoload -Uz compinit; compinit -u -D\n")
    environment = {**ada.environment, "PATH": f"{ada.binaries}:{os.environ['PATH']}", "ZDOTDIR": str(home), "TERM": "dumb"}
    shell, terminal = os.forkpty()
    if shell == 0:
        os.chdir(project.folder)
        os.execvpe("zsh", ["zsh", "-i"], environment)
    try:
        for begin, end in (("kl i s -p80:80 ap", "i-server"), ("kl e conn de", "mo"), ("kl intercept begin --carrier ex", "ec")):
            os.write(terminal, f"{begin}\t".encode())
            seen = b""
            while end not in re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]|\x08|\r", b"", seen).decode(errors="replace").rpartition(begin)[2]:
                assert select.select([terminal], [], [], 30)[0], (begin, seen)
                seen += os.read(terminal, 65_536)
            os.write(terminal, b"\x15")  # the line is emptied
    finally:
        os.kill(shell, signal.SIGKILL)
        os.waitpid(shell, 0)
        os.close(terminal)


def test_json_and_yaml_agree(demo, closing):
    import yaml

    project, ada = demo
    mine = closing(WebServer("workspace"))
    ada.ok(*START, f"{project.port()}:{mine.address[1]}")
    for command in (("env", "list"), ("env", "status"), ("intercept", "list"), ("intercept", "status", "api-server")):
        one = json.loads(ada.ok(*command, "-o", "json").out)
        other = yaml.safe_load(ada.ok(*command, "-o", "yaml").out)
        assert one.keys() == other.keys()


@pytest.mark.parametrize("daemon_lives", [True, False])
def test_nothing_is_left_that_could_answer(demo, closing, daemon_lives):
    """Sidecar and supervisor are dead: nobody says that the original answers."""
    project, ada = demo
    mine = closing(WebServer("workspace"))
    ada.ok("intercept", "start", "api-server", "--port", f"{project.port()}:{mine.address[1]}")
    os.kill(project.state["supervisor"]["pid"], signal.SIGKILL)
    os.kill(project.service_state()["sidecars"][0]["process"]["pid"], signal.SIGKILL)
    if not daemon_lives:
        os.kill(ada.daemon(), signal.SIGKILL)
    why = "its sidecar ended, and no supervisor runs to start another; kl env up does"

    def reason():
        return next((i for i in ada.intercepts() if i["phase"] == "Degraded"), {}).get("reason", "")

    eventually("list says that nothing answers", lambda: reason().endswith(f"nothing answers: {why}"), 2)
    ran = ada.ok("intercept", "stop", "api-server")
    assert f"! nothing answers for api-server: {why}" in ran.out, ran
    assert "answers from the environment" not in ran.out and "reach the original" not in ran.out
    assert ada.intercepts() == []
    ada.ok("env", "up")
    project.answers("api-server", aim=2)


def test_what_a_stop_tells_programs_of_a_service_that_is_gone(demo, closing):
    project, ada = demo
    mine = closing(WebServer("workspace"))
    ada.ok("intercept", "start", "api-server", "--port", f"{project.port()}:{mine.address[1]}")
    os.kill(project.state["supervisor"]["pid"], signal.SIGKILL)
    os.kill(project.service_state()["sidecars"][0]["process"]["pid"], signal.SIGKILL)
    stopped = ada.ok("intercept", "stop", "api-server", "-o", "json").json["stopped"][0]
    assert stopped["reason"].startswith("its sidecar ended")
    assert [step["name"] for step in stopped["steps"]] == ["nothingAnswers", "drained"]


def test_a_start_that_waits_for_the_stop_before(demo, closing):
    """It says what it waits for: the connections that are still open."""
    project, ada = demo
    mine = closing(WebServer("workspace"))
    port = f"{project.port()}:{mine.address[1]}"
    ada.ok("intercept", "start", "api-server", "--port", port, "--drain", "4s")
    client = closing(socket.create_connection(project.address()))
    client.sendall(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
    assert client.recv(1000)
    stop = ada.begin("intercept", "stop", "api-server")
    eventually("it stops", lambda: ada.phase("api-server") == "Stopping", 2)
    stop.send_signal(signal.SIGINT)
    assert stop.wait(5) == 130
    ran = ada.ok("intercept", "start", "api-server", "--port", port)
    assert "waiting for open connections of the intercept before to end" in ran.out, ran
    stop.communicate()
