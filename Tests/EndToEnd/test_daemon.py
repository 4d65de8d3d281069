"""The workspace daemon as a process: what it leaves on the disk, how it ends, and what it says when it can't begin."""

import os
import pathlib
import signal
import socket
import stat
import subprocess
import time

import pytest
from harness.cli import in_folder
from harness.load import Load, ask
from harness.waiting import eventually
from harness.web import WebServer

START = ("intercept", "start", "api-server", "--port")


@pytest.fixture
def running(demo, closing):
    """An intercept, and the daemon that holds it."""
    project, ada = demo
    mine = closing(WebServer("workspace"))
    ada.ok(*START, f"{project.port()}:{mine.address[1]}")
    assert ask(project.address()) == "workspace"
    return project, ada, ada.daemon()


def is_alive(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_what_it_leaves_to_others(running):
    """Its files are this user's alone; it has a session of its own, and nothing open that its starter had."""
    _, ada, daemon = running
    assert mode(ada.home) == 0o700
    names = ("daemon.sock", "daemon.log", "daemon.lock", "intercepts.json", "private.key")
    assert {mode(ada.home / name) for name in names} == {0o600}
    assert os.getsid(daemon) == daemon
    opened = {os.readlink(entry) for entry in pathlib.Path(f"/proc/{daemon}/fd").iterdir()}
    kinds = ("/dev/null", str(ada.home), "socket:", "anon_inode:")
    assert not {name for name in opened if not name.startswith(kinds)}, opened
    assert os.readlink(f"/proc/{daemon}/cwd") == "/"


def test_told_to_end_it_gives_everything_back(running, closing):
    project, ada, daemon = running
    load = Load(project.address(), 50)
    time.sleep(0.3)
    os.kill(daemon, signal.SIGTERM)
    project.answers("api-server", aim=1)
    eventually("the daemon has ended", lambda: not is_alive(daemon), 2)
    assert not [outcome for outcome in load.stop() if outcome.failure]
    assert ada.intercepts() == []
    assert not (ada.home / "daemon.sock").exists()


def test_one_at_a_time(running):
    _, ada, daemon = running
    second = subprocess.run(
        [ada.binaries / "kl", "daemon"], env=ada.environment, capture_output=True, text=True, timeout=30
    )
    assert second.returncode == 1
    assert second.stderr == "kl: the workspace daemon runs already. Let kl start it by itself.\n"
    assert ada.daemon() == daemon


def test_killed_again_and_again(demo, closing):
    """Each time the next one finds what the one before held, and nothing is left in the end."""
    project, ada = demo
    mine = closing(WebServer("workspace"))
    for round_number in range(6):
        ada.ok(*START, f"{project.port()}:{mine.address[1]}")
        assert ask(project.address()) == "workspace"
        os.kill(ada.daemon(), signal.SIGKILL)
        if round_number % 2:
            ada.ok("intercept", "stop", "api-server")
            assert ask(project.address()) == "api-server"
            assert ada.intercepts() == []


def test_a_sidecar_that_dies_often(running):
    """Each time it is dialled under its new key, within a second or so."""
    project, ada, daemon = running
    for _ in range(5):
        before = project.service_state()["sidecars"][0]["process"]["pid"]
        os.kill(before, signal.SIGKILL)
        eventually(
            "another sidecar runs",
            lambda: (project.service_state()["sidecars"][0].get("process") or {"pid": before})["pid"] != before,
            1,
        )
        project.answers("workspace", aim=2)
        eventually("list says Active", lambda: ada.phase("api-server") == "Active", 2)
    assert ada.daemon() == daemon


def test_it_keeps_nothing_of_what_is_over(demo, closing):
    """It may live for days: neither descriptors nor memory grow with what was asked of it."""
    project, ada = demo
    mine = closing(WebServer("workspace"))

    def cycles(count):
        for _ in range(count):
            ada.ok(*START, f"{project.port()}:{mine.address[1]}", "-q")
            ada.ok("intercept", "stop", "api-server", "-q")
        daemon = pathlib.Path(f"/proc/{ada.daemon()}")
        resident = next(line for line in (daemon / "status").read_text().splitlines() if line.startswith("VmRSS"))
        return int(resident.split()[1])

    def descriptors():
        return len(os.listdir(f"/proc/{ada.daemon()}/fd"))

    resident = cycles(50)
    before = descriptors()
    later_resident = cycles(100)
    closed = lambda: descriptors() <= before + 3
    eventually("the daemon has closed what the last commands opened", closed, 1)
    # An API connection that was kept cost 16 KiB a cycle.
    assert later_resident - resident < 1_000, (resident, later_resident)


def test_a_home_with_a_space_and_a_long_path(demo, make_developer, closing):
    project, _ = demo
    grace = make_developer("grace" + " long" * 30, project.folder)
    assert len(str(grace.home / "daemon.sock")) > 150
    mine = closing(WebServer("workspace"))
    grace.ok("env", "connect", "demo")
    grace.ok(*START, f"{project.port()}:{mine.address[1]}")
    assert ask(project.address()) == "workspace"
    grace.ok("intercept", "stop", "api-server")


def test_a_memory_that_cannot_be_read(demo, closing):
    """It is said in the log, and nothing else suffers."""
    project, ada = demo
    mine = closing(WebServer("workspace"))
    (ada.home / "intercepts.json").write_text('{"version": 1, "intercepts": [7]')
    ada.ok(*START, f"{project.port()}:{mine.address[1]}")
    assert ask(project.address()) == "workspace"
    assert "intercepts.json can't be read" in (ada.home / "daemon.log").read_text()
    ada.ok("intercept", "stop", "api-server")


def test_a_daemon_that_cannot_begin(demo):
    """Whoever started it says why."""
    project, ada = demo
    (ada.home / "daemon.sock").mkdir()
    ran = ada.run(*START, f"{project.port()}:3000")
    (ada.home / "daemon.sock").rmdir()
    assert ran.code == 1
    assert ran.error.startswith("kl: ") and "daemon.sock" in ran.error, ran.error
    assert ada.intercepts() == []


def test_one_that_hangs(running):
    """Each command says so, with what ends it, and soon; after that the next daemon finds what it held."""
    project, ada, daemon = running
    os.kill(daemon, signal.SIGSTOP)
    says = f"the workspace daemon (pid {daemon}) doesn't answer"

    def timed(*arguments):
        began = time.monotonic()
        return ada.run(*arguments), time.monotonic() - began

    try:
        for arguments in (("intercept", "list"), ("env", "status")):
            ran, took = timed(*arguments, "-o", "json")
            assert ran.code == 0 and took < 2.5, (ran, took)
            found = ran.json["intercepts"][0]
            assert found["phase"] == "Degraded"
            assert found["reason"] == f"{says}. End it with 'kill -9 {daemon}', then start the intercept again, or stop it"
        ran, took = timed("intercept", "stop", "api-server")
        assert ran.code == 1 and took < 8, (ran, took)
        assert ran.error.endswith(f"kl: {says}. End it with 'kill -9 {daemon}', then try again.\n"), ran
        ran, took = timed("env", "disconnect")
        assert ran.code == 1 and took < 8 and says in ran.error, (ran, took)
    finally:
        os.kill(daemon, signal.SIGKILL)
    project.answers("api-server", aim=1)
    ada.ok("intercept", "stop", "api-server")
    assert ada.intercepts() == []


def test_one_that_hangs_does_not_keep_an_environment_up(running):
    project, ada, daemon = running
    os.kill(daemon, signal.SIGSTOP)
    try:
        ran = ada.ok("env", "down")
        assert f"(pid {daemon}) doesn't answer" in ran.error
        assert not project.processes()
    finally:
        os.kill(daemon, signal.SIGKILL)


def test_its_log_is_cut_while_it_lives(running):
    _, ada, _ = running
    log = ada.home / "daemon.log"
    with log.open("a") as file:
        file.write("x" * 3_000_000 + "the end\n")
    eventually("the log begins anew", lambda: log.stat().st_size < 100_000, 7)
    kept = (ada.home / "daemon.log.1").read_text()
    # What the daemon says of this machine's addresses may come behind it.
    assert len(kept) == 1_048_576 and "xxxthe end\n" in kept
    assert mode(ada.home / "daemon.log.1") == 0o600


def test_few_descriptors(binaries, demo, make_developer, closing):
    """Of 64, clients that only look have a quarter; an intercept still has its connections."""
    project, _ = demo
    grace = make_developer("grace", project.folder)
    mine = closing(WebServer("workspace"))
    grace.ok("env", "connect", "demo")
    grace.prefix = ["sh", "-c", 'ulimit -n 64; exec "$@"', "sh"]
    grace.ok(*START, f"{project.port()}:{mine.address[1]}")
    with in_folder(grace.home) as name:
        held = [closing(socket.socket(socket.AF_UNIX)) for _ in range(40)]
        for connection in held:
            connection.connect(f"{name}/daemon.sock")
    time.sleep(0.3)
    assert ask(project.address()) == "workspace"
    for connection in held:
        connection.close()
    assert grace.phase("api-server") == "Active"
