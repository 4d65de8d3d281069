"""The supervisor of a local environment: what it starts, what it holds, and what it leaves."""

import contextlib
import json
import os
import pathlib
import random
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from harness.environment import Environment, ask_supervisor, is_alive
from harness.keys import KeyPair
from harness.load import Load, ask, summary, who
from harness.ports import free_port
from harness.programs import run
from harness.waiting import eventually


@pytest.fixture
def environment(processes, binaries, folder):
    made = Environment(processes, binaries, folder / "demo")
    yield made
    made.close()


def refused(outcomes):
    return [outcome for outcome in outcomes if "refused" in (outcome.failure or "")]


def test_up_and_down(environment):
    (public,) = environment.add("api")
    first, second = environment.add("db", ports=2)
    environment.up()
    assert ask(public) == "api" and ask(first) == "db" and ask(second) == "db"

    state = environment.state()
    assert (state["version"], state["name"], state["file"]) == (1, "demo", str(environment.file))
    assert is_alive(state["supervisor"]) and state["supervisor"]["pid"] == environment.supervisor.pid
    api = environment.service("api")
    assert api["service"]["state"] == "running" and api["restarts"] == 0 and is_alive(api["process"])
    sidecar = environment.sidecar("api")
    assert sidecar["name"] == "api-1" and is_alive(sidecar["process"])
    assert sidecar["location"]["listens"] == [f"127.0.0.1:{public[1]}"]
    assert environment.ask("status") == [{"state": {"_0": environment.state()}}]
    assert "api listens" in (environment.kl / "logs/api.log").read_text()
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in environment.kl.iterdir()}
    assert stat.S_IMODE(environment.kl.stat().st_mode) == 0o700
    assert {mode for name, mode in modes.items() if name != "logs"} == {0o600}, modes
    # A second one finds it up.
    assert environment.supervise() == {"ready": True}

    answers = environment.down()
    assert [answer for answer in answers if "progress" in answer]
    assert environment.marked() == {}
    assert not {"state.json", "supervisor.sock", "peers", "notify", "notify.sock"} & {path.name for path in environment.kl.iterdir()}
    for address in (public, first, second):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address)


def test_signal_is_down(environment):
    environment.add("api")
    environment.up()
    assert environment.supervisor.stop() == 0
    assert environment.marked() == {}


def test_sidecar_killed_under_load(environment):
    """Clients that come meanwhile wait; no one is refused, and whoever wasn't open is answered."""
    (public,) = environment.add("api")
    environment.up()
    load = Load(public, per_second=200)
    before = environment.sidecar("api")
    for _ in range(5):
        killed = environment.sidecar("api")["process"]
        os.kill(killed["pid"], signal.SIGKILL)

        def is_back(killed=killed):
            sidecar = environment.sidecar("api")
            return sidecar["state"] == "ready" and sidecar["process"] != killed

        eventually("a killed sidecar is back, the fifth time in a row too", is_back, 1.5)
        time.sleep(0.3)
    outcomes = load.stop()
    assert not refused(outcomes), summary(outcomes)
    # Those that were open in it are reset: a few milliseconds' worth each time, and on a busy machine a tenth of a second's.
    assert sum(outcome.failure is not None for outcome in outcomes) <= 100, summary(outcomes)
    after = environment.sidecar("api")
    assert after["location"]["tcp"] == before["location"]["tcp"]
    assert after["location"]["publicKey"] != before["location"]["publicKey"]
    environment.down()
    assert environment.marked() == {}


def test_supervisor_killed_under_load(environment):
    """Nothing changes for clients, and the next one takes over what runs."""
    (public,) = environment.add("api")
    environment.up()
    before = environment.service("api")
    load = Load(public, per_second=100)
    eventually("the load is under way", lambda: len(load.outcomes) > 50, 2)
    environment.supervisor.kill()
    time.sleep(0.5)
    assert is_alive(before["process"]) and is_alive(before["sidecars"][0]["process"])
    environment.up()
    after = environment.service("api")
    assert after["process"] == before["process"]
    assert after["sidecars"][0]["process"] == before["sidecars"][0]["process"]
    assert after["sidecars"][0]["location"] == before["sidecars"][0]["location"]
    outcomes = load.stop()
    assert not [outcome for outcome in outcomes if outcome.failure], summary(outcomes)

    # What it has taken over it restarts like its own.
    os.kill(after["sidecars"][0]["process"]["pid"], signal.SIGKILL)
    eventually("a sidecar that was taken over is replaced", lambda: who(public) == "api", 1)
    os.kill(after["process"]["pid"], signal.SIGKILL)
    eventually("a service that was taken over is started again", lambda: environment.service("api")["restarts"] == 1, 1)
    eventually("it answers", lambda: who(public) == "api", 1)
    environment.down()
    assert environment.marked() == {}


def test_keys_after_a_takeover(environment):
    """A sidecar that was taken over still tells its state, and reads the keys when it is asked to."""
    environment.add("api")
    environment.up()
    environment.supervisor.kill()
    environment.up()
    key = KeyPair().public
    record = {"version": 1, "members": [{"label": "ada@thinkpad", "publicKey": key}], "intercepts": []}
    (environment.kl / "record.json").write_text(json.dumps(record))
    began = time.monotonic()
    assert environment.ask("refresh") == [{"refreshed": {}}]
    assert time.monotonic() - began < 0.45, "the sidecars were waited for, not asked"
    assert (environment.kl / "peers").read_text() == f"{key} # ada@thinkpad\n"
    environment.down()
    assert json.loads((environment.kl / "record.json").read_text())["members"] == record["members"]


def test_intercept(environment, binaries, processes, closing):
    """A workspace whose key is in the record: `state.json` tells it, and its connections; `down` clears its claim."""
    from harness.agents import Workspace, endpoint, split_address
    from harness.web import WebServer

    (public,) = environment.add("api")
    environment.up()
    local = closing(WebServer("workspace"))
    key = KeyPair()
    member = {"label": "ada@thinkpad", "publicKey": key.public}
    since = "2026-11-22T21:40:03Z"
    claim = {"service": "api", "holder": member, "since": since, "ports": []}
    record = {"version": 1, "members": [member], "intercepts": [claim]}
    (environment.kl / "record.json").write_text(json.dumps(record))
    location = environment.sidecar("api")["location"]
    assert environment.ask("refresh") == [{"refreshed": {}}]
    where = endpoint(location["publicKey"], *split_address(location["tcp"]))
    file = key.write(environment.folder / "private.key")
    flags = ["--private-key-file", file, "--sidecar", where, "--map", f"{public[1]}:{local.address[1]}"]
    workspace = Workspace(processes, binaries, flags)
    eventually("the state tells who intercepts", lambda: environment.sidecar("api").get("divertingTo") == key.public, 0.2)
    for _ in range(4):
        assert ask(public) == "workspace"
    eventually("the state counts", lambda: environment.sidecar("api")["total"] == 4, 3)
    assert workspace.stop() == 0
    eventually("the state tells the end", lambda: environment.sidecar("api").get("divertingTo") is None, 0.2)
    environment.down()
    assert json.loads((environment.kl / "record.json").read_text()) == {**record, "intercepts": []}


def test_service_that_dies(environment):
    (public,) = environment.add("api")
    environment.up()
    os.kill(environment.service("api")["process"]["pid"], signal.SIGKILL)
    eventually("its end is told", lambda: environment.service("api")["restarts"] == 1, 0.3)
    eventually("it is started again", environment.is_settled, 1)
    assert ask(public) == "api"
    environment.down()


def test_services_that_fail(environment):
    """The environment comes up all the same, and says of each why it doesn't run."""
    (public,) = environment.add("api")
    environment.add("dead", command=["/bin/sh", "-c", "exit 3"])
    environment.add("once", command=["/bin/sh", "-c", "exit 3"], options='restart: "no"')
    environment.add("typo", command=["no-such-program"])
    environment.add("mute", command=["sleep", "1000"])
    environment.add("after", options="depends_on: [mute]")
    environment.add("job", command=["/bin/true"], ports=0, options='restart: "no"')
    environment.add("afterjob", options="depends_on: [job]")
    assert environment.supervise() == {"ready": True}
    states = {}

    def told():
        for service in environment.state()["services"]:
            states[service["service"]["name"]] = service["service"]["state"], service["service"].get("reason", "")
        return states["api"][0] == "running" and states["once"][0] == "stopped" and states["afterjob"][0] == "running"

    eventually("all are told", told, 3)
    eventually("a dead one is tried again and again", lambda: environment.service("dead")["restarts"] > 2, 2)
    told()
    assert states["dead"] == ("restarting", "exited with code 3")
    assert states["once"] == ("stopped", "exited with code 3")
    assert states["typo"] == ("restarting", "its command 'no-such-program' isn't found")
    assert states["mute"][0] == "starting" and states["mute"][1].startswith("doesn't listen on ")
    assert states["after"] == ("starting", "waits for mute")
    assert states["job"] == ("stopped", "exited with code 0")
    assert ask(public) == "api"
    environment.down()
    assert environment.marked() == {}


def test_taken_port(environment):
    """The error names the port, the service and who has it; nothing is left half up."""
    environment.add("api")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        options = f'ports: ["{port}:{free_port()}"]'
        environment.add("web", command=["sleep", "1000"], ports=0, options=options)
        report = environment.supervise()
    assert report["error"].startswith(f"port {port} of service 'web' can't be opened on 127.0.0.1: ")
    assert f"(pid {os.getpid()})" in report["error"] and report["code"] == "failed"
    assert environment.marked() == {}
    assert not (environment.kl / "state.json").exists() and not (environment.kl / "supervisor.sock").exists()


def test_wrong_file(environment):
    environment.file.write_text("services:\n  api:\n    command: 7: 8\n")
    report = environment.supervise()
    assert report["code"] == "file" and "compose.yaml" in report["error"]


def test_order(environment):
    """Each after those that it depends on; `down` the other way round."""
    environment.add("front", options="depends_on: [api]")
    environment.add("api", options="depends_on: [db]")
    environment.add("db")
    environment.up()
    began = {name: environment.service(name)["process"]["startTime"] for name in ("db", "api", "front")}
    assert sorted(began, key=began.get) == ["db", "api", "front"]
    answers = environment.down()
    said = [answer["progress"]["_0"].split()[0] for answer in answers if "progress" in answer]
    assert said == ["front", "api", "db"]


def test_order_without_ports(environment):
    """What has no port to listen on runs at once, and those before it in the file needn't wait for anything else."""
    environment.add("last", command=["sleep", "1000"], ports=0, options="depends_on: [middle]")
    environment.add("middle", command=["sleep", "1000"], ports=0, options="depends_on: [first]")
    environment.add("first", command=["sleep", "1000"], ports=0)
    environment.up()
    environment.down()
    assert environment.marked() == {}


def test_file_changes_before_a_takeover(environment):
    """What the file still describes goes on, what it doesn't ends, and what has other ports starts anew."""
    (stays,) = environment.add("stays")
    (goes,) = environment.add("goes")
    (moves,) = environment.add("moves")
    environment.up()
    before = {name: environment.service(name)["process"] for name in ("stays", "goes", "moves")}
    environment.supervisor.kill()
    del environment.services["goes"]
    (moved,) = environment.add("moves")
    environment.up()
    assert environment.service("stays")["process"] == before["stays"] and ask(stays) == "stays"
    assert environment.service("moves")["process"] != before["moves"] and ask(moved) == "moves"
    assert not is_alive(before["goes"]) and not is_alive(before["moves"])
    for address in (goes, moves):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address)
    environment.down()
    assert environment.marked() == {}


def kl(environment, *arguments):
    """A command of `kl` as a person types it."""
    home = {**os.environ, "KL_HOME": str(environment.folder / "home")}
    command = [environment.binaries / "kl", *arguments, "--file", environment.file]
    return subprocess.run(command, env=home, capture_output=True, text=True, timeout=60)


def test_killed_at_any_moment(environment):
    """SIGKILL of the supervisor while it starts: `down`, or `up` and `down`, leave nothing."""
    environment.add("api")
    environment.add("db")
    environment.add("job", command=["sleep", "1000"], ports=0)
    chance = random.Random(7)
    for number in range(20):
        up = threading.Thread(target=kl, args=(environment, "env", "up"))
        up.start()
        time.sleep(chance.uniform(0, 0.12))
        for pid in environment.supervisors():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        up.join()
        if number % 2:
            assert kl(environment, "env", "up").returncode == 0
            assert sorted(environment.marked().values()) == [
                *("service:api", "service:db", "service:job", "sidecar:api-1", "sidecar:db-1")
            ]
        down = kl(environment, "env", "down")
        assert (down.returncode, environment.marked()) == (0, {}), down.stdout + down.stderr
        assert sorted(path.name for path in environment.kl.iterdir()) in (["logs"], ["logs", "supervisor.lock"])


def test_killed_while_it_ends(environment):
    """Whoever asked for the end still gets it."""
    environment.add("deaf", options='environment: {DEAF: "1"}\nstop_grace_period: 2s')
    environment.up()
    with ThreadPoolExecutor(1) as pool:
        down = pool.submit(kl, environment, "env", "down")
        eventually("it is being ended", lambda: environment.service("deaf")["service"]["state"] == "stopped", 1)
        environment.supervisor.kill()
        assert down.result().returncode == 0, down.result().stderr
    assert environment.marked() == {}


def test_children_end_with_their_service(environment):
    """What a service forks ends with it, whether it is asked to end or is killed; also one that hears no SIGTERM."""
    environment.add("forks", options='environment: {WORKERS: "3"}')
    environment.add("deaf", options='environment: {WORKERS: "2", DEAF: "1"}\nstop_grace_period: 500ms')
    environment.add("daemon", command=["/bin/sh", "-c", "setsid sleep 1000 & exec sleep 1000"], ports=0)
    environment.up()
    assert sum(role == "service:forks" for role in environment.marked().values()) == 4
    killed = environment.service("forks")["process"]["pid"]
    os.kill(killed, signal.SIGKILL)
    eventually("it is started again", lambda: environment.service("forks")["restarts"] == 1, 1)
    eventually("it runs", environment.is_settled, 1)
    eventually(
        "what it left is gone", lambda: sum(r == "service:forks" for r in environment.marked().values()) == 4, 1
    )
    environment.down()
    assert environment.marked() == {}


def test_many_at_once(environment):
    """Twenty starts: one supervisor, and each says that it is up."""
    (public,) = environment.add("api")
    with ThreadPoolExecutor(20) as pool:
        reports = list(pool.map(lambda _: environment.supervise(), range(20)))
    assert reports == [{"ready": True}] * 20
    eventually("it runs", environment.is_settled, 3)
    assert ask(public) == "api"
    assert sorted(environment.marked().values()) == ["service:api", "sidecar:api-1"]
    supervisor = environment.state()["supervisor"]["pid"]
    os.kill(supervisor, signal.SIGTERM)
    eventually("all has ended", lambda: environment.marked() == {}, 3)


def test_a_long_path(processes, binaries, folder):
    """A folder with blanks whose name alone is longer than a Unix socket's address."""
    environment = Environment(processes, binaries, folder / "a folder with blanks" / ("x" * 150))
    try:
        (public,) = environment.add("api")
        environment.up()
        assert ask(public) == "api"
        environment.down()
        assert environment.marked() == {}
    finally:
        environment.close()


def test_large_logs_are_cut(environment):
    """The service goes on writing into the same file."""
    script = "while :; do head -c 1048576 /dev/zero; sleep 0.02; done"
    environment.add("loud", command=["/bin/sh", "-c", script], ports=0)
    environment.up()
    log = environment.kl / "logs/loud.log"
    eventually("it is cut", lambda: (environment.kl / "logs/loud.log.1").exists(), 3)
    eventually("it goes on", lambda: 0 < log.stat().st_size, 1)
    assert (environment.kl / "logs/loud.log.1").stat().st_size >= 10 << 20
    environment.down()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system")
def test_full_disk(environment):
    """The services go on, `status` says that the state can't be written, and once there is room it is."""
    (public,) = environment.add("api")
    run("mount", "-t", "tmpfs", "-o", "size=1m,mode=0700", "kl-test", environment.folder)
    try:
        environment.write()
        environment.up()
        filler = environment.folder / "filler"
        with contextlib.suppress(OSError), open(filler, "wb", buffering=0) as file:
            while file.write(b"x" * 4096):
                pass
        os.kill(environment.service("api")["process"]["pid"], signal.SIGKILL)

        def status():
            return environment.ask("status")[0]["state"]["_0"]

        eventually("it says that the disk is full", lambda: "no space" in status().get("problem", ""), 1)
        eventually("the service is back all the same", lambda: who(public) == "api", 1)
        assert status()["services"][0]["restarts"] == 1
        assert environment.service("api")["restarts"] == 0
        assert "no space" in environment.supervisor.log()
        filler.unlink()
        eventually("the state is written again", lambda: environment.service("api")["restarts"] == 1, 1.5)
        eventually("it says no more of it", lambda: "problem" not in status(), 1)
        environment.down()
        assert environment.marked() == {}
    finally:
        environment.close()
        run("umount", "-l", environment.folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_group(environment):
    """In a folder of a group its members may ask the supervisor, and others may not."""
    environment.add("api")
    group, member, stranger = 54_321, 65_501, 65_502
    for path in (environment.folder.parent, environment.folder.parent.parent):
        path.chmod(0o755)
    os.chown(environment.folder, 0, group)
    environment.folder.chmod(0o775)
    environment.up()
    assert stat.S_IMODE(environment.kl.stat().st_mode) == 0o2770
    for name, mode in {"state.json": 0o660, "supervisor.sock": 0o660, "peers": 0o600, "logs/api.log": 0o660}.items():
        status = (environment.kl / name).stat()
        assert (stat.S_IMODE(status.st_mode), status.st_gid) == (mode, group), name

    def may_ask(user, groups):
        """In a child: a process that has given up root can't take it back. Its interpreter may be root's alone."""
        child = os.fork()
        if child == 0:
            code = 2
            try:
                os.setgroups(groups)
                os.setgid(user)
                os.setuid(user)
                code = 0 if "state" in ask_supervisor(environment.kl, "status")[0] else 2
            except PermissionError:
                code = 1
            finally:
                os._exit(code)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    assert may_ask(member, [group]) == 0
    assert may_ask(stranger, []) == 1
    environment.down()


def test_a_stranger_on_a_services_own_port(environment, closing):
    """Whoever listens there isn't the service, and the state says who it is, until the service has the port."""
    address = environment.add("api", command=[sys.executable, "-c", "import time; time.sleep(1000)"])[0]
    port = int(environment.services["api"].rpartition(":")[2].split('"')[0])
    stranger = socket.create_server(("127.0.0.1", port))
    assert environment.supervise() == {"ready": True}
    expected = f"its port {port} is held by {process_name()} (pid {os.getpid()})"
    eventually("it is said who has the port", lambda: environment.service("api")["service"].get("reason") == expected, 2)
    assert environment.service("api")["service"]["state"] == "starting"
    assert environment.service("api")["stranger"] == f"{process_name()} (pid {os.getpid()})"
    stranger.close()
    expected = f"doesn't listen on {port} yet"
    eventually("nobody has it", lambda: environment.service("api")["service"].get("reason") == expected, 2)
    # Also one who comes later.
    later = closing(socket.create_server(("127.0.0.1", port)))
    expected = f"its port {port} is held by {process_name()} (pid {os.getpid()})"
    eventually("it is said again", lambda: environment.service("api")["service"].get("reason") == expected, 2)
    assert address and later


def test_a_services_port_held_by_its_descendant(environment):
    """In a session of its own, as programs that become daemons are: it is the service's all the same."""
    code = "import os,sys,subprocess,time; subprocess.Popen(sys.argv[1:], start_new_session=True); time.sleep(1000)"
    environment.add("api")
    line = environment.services["api"].splitlines()[1]
    command = json.loads(line.partition("command: ")[2])
    environment.services["api"] = environment.services["api"].replace(
        line, f"    command: {json.dumps([sys.executable, '-c', code, *command])}"
    )
    environment.write()
    environment.up()


def process_name():
    return pathlib.Path("/proc/self/comm").read_text().strip()


def test_many_who_only_connect(environment):
    """So many of them are let in; it still does what is asked of it, once there is room."""
    environment.add("api")
    environment.up()
    descriptor = os.open(environment.kl, os.O_PATH)
    held = [socket.socket(socket.AF_UNIX) for _ in range(200)]
    try:
        for connection in held:
            connection.connect(f"/proc/self/fd/{descriptor}/supervisor.sock")
        pid = environment.state()["supervisor"]["pid"]
        eventually("it has let in no more than 64", lambda: len(os.listdir(f"/proc/{pid}/fd")) < 64 + 30, 2)
    finally:
        for connection in held:
            connection.close()
        os.close(descriptor)
    eventually("it answers", lambda: "state" in (environment.ask("status") or [{}])[0], 2)


def test_sidecars_tell_through_the_folder(environment):
    """Where its path fits, the socket is a file that nobody but the owner may send to."""
    environment.add("api")
    environment.up()
    path = environment.kl / "notify.sock"
    fits = len(str(path)) <= 107
    assert path.exists() == fits and (environment.kl / "notify").exists() != fits
    if fits:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
