"""Wrong invocations and wrong states: the exact sentence and the exit code of each, and no word of a crash."""

import contextlib
import fcntl
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import threading
import time

import pytest
from harness.cli import Developer, in_folder
from harness.load import ask
from harness.ports import free_port
from harness.waiting import eventually
from harness.web import WebServer

USAGE = 2


@pytest.fixture(scope="module")
def nobody(binaries, tmp_path_factory):
    """A developer who is connected to nothing, in a folder without a compose file."""
    folder = tmp_path_factory.mktemp("nobody")
    return Developer(binaries, folder / "home", folder)


NOT_CONNECTED = "kl: not connected to an environment. Connect first: kl env connect"

# What is typed; the exit code; the first line of standard error, as a pattern where it begins with ^.
WITHOUT_ENVIRONMENT = [
    (["intercept", "list"], 3, NOT_CONNECTED),
    (["intercept", "status"], 3, NOT_CONNECTED),
    (["intercept", "status", "api-server"], 3, NOT_CONNECTED),
    (["intercept", "start", "api-server", "-p", "8080:3000"], 3, NOT_CONNECTED),
    (["intercept", "start"], 3, NOT_CONNECTED),
    (["intercept", "stop", "api-server"], 3, NOT_CONNECTED),
    (["intercept", "stop", "--all"], 3, NOT_CONNECTED),
    (["env", "disconnect"], 3, NOT_CONNECTED),
    (
        ["env", "connect"],
        USAGE,
        "kl: no environment is named. Give its name, or a compose file by --file. (kl env list lists what is found here)",
    ),
    (
        ["env", "connect", "nowhere"],
        1,
        "kl: no environment 'nowhere' was found. Name its compose file by --file, a project of Docker's by --docker, or a namespace by --context and --namespace.",
    ),
    (
        ["env", "connect", "demo", "--file", "compose.yaml"],
        USAGE,
        "kl: An environment is named by NAME, --file, --docker, --docker-network, or --context and --namespace. Give one of them.",
    ),
    (["env", "up"], USAGE, "kl: there is no compose file in this folder. Name one: kl env up --file compose.yaml"),
    (["env", "down"], USAGE, "kl: there is no compose file in this folder. Name one: kl env down --file compose.yaml"),
    (["env", "up", "--file", "none.yaml"], 1, "kl: there is no none.yaml. Name a compose file with --file."),
    (["intercept", "start", "a", "-p", "http:x"], USAGE, r"^kl: .*'x' isn't a port\. Ports are numbers from 1 to 65535\."),
    (["intercept", "start", "a", "-p", "0:3000"], USAGE, r"^kl: .*'0' isn't a port\."),
    (["intercept", "start", "a", "-p", "8080:65536"], USAGE, r"^kl: .*'65536' isn't a port\."),
    (["intercept", "start", "a", "-p", "8080:-1"], USAGE, r"^kl: .*'-1' isn't a port\."),
    (["intercept", "start", "a", "-p", "8080:"], USAGE, r"^kl: .*'' isn't a port\."),
    (["intercept", "start", "a", "-p", "8080:h:1:2"], USAGE, r"^kl: .*'8080:h:1:2' isn't a port mapping\."),
    (["intercept", "start", "a", "-p", "53:53/sctp"], USAGE, r"^kl: .*'53:53/sctp' names no transport"),
    (["intercept", "start", "a", "-p", "8080:[::1:3000"], USAGE, r"^kl: .*lacks a '\]'"),
    (
        ["intercept", "start", "a", "-p", "8080", "--all-ports"],
        USAGE,
        "kl: --all-ports and --port exclude each other. Give one of them.",
    ),
    *[
        (["intercept", "start", "a", "-p", "8080", "--mirror", *flag], USAGE, f"kl: {why} Leave it out, or --mirror.")
        for flag, why in (
            (["--force"], "--force takes a service from another workspace, and a mirror takes nothing."),
            (
                ["--on-unavailable", "refuse"],
                "--on-unavailable refuse is for clients that come to you, not for copies.",
            ),
            (["--drain", "0s"], "--drain is for connections that you answer, and a mirror answers none."),
        )
    ],
    (["intercept", "start", "a", "-p", "8080", "--drain", "11m"], USAGE, r"^kl: The value '11m' is invalid for '--drain <time>': '11m' is too long. .*10m at most"),
    (["intercept", "start", "a", "-p", "8080", "--drain", "soon"], USAGE, r"^kl: .*'soon' isn't a length of time\."),
    (["intercept", "start", "a", "--on-unavailable", "never"], USAGE, r"^kl: The value 'never' is invalid"),
    (
        ["intercept", "stop", "a", "--all"],
        USAGE,
        "kl: --all stops every intercept, so a service can't be named too. Give one of them.",
    ),
    (["intercept", "stop", "a", "--drain", "11m"], USAGE, r"^kl: The value '11m' is invalid for '--drain <time>': '11m' is too long. .*10m at most"),
    (["intercept", "start", "a", "-p8080:h:1:2"], USAGE, r"^kl: .*'8080:h:1:2' isn't a port mapping\."),
    (["intercept", "list", "-oxml"], USAGE, r"^kl: The value 'xml' is invalid"),
    (["env", "up", "-fnone.yaml"], 1, "kl: there is no none.yaml. Name a compose file with --file."),
    (["intercept", "list", "-o", "xml"], USAGE, r"^kl: The value 'xml' is invalid"),
    (["intercept", "list", "extra"], USAGE, r"^kl: Unexpected argument 'extra'|^kl: 1 unexpected argument"),
    (["intercept", "begin-again"], USAGE, r"^kl: "),
    (["completion", "tcsh"], USAGE, r"^kl: The value 'tcsh' is invalid"),
    (["completion"], USAGE, r"^kl: Missing expected argument '<shell>'"),
]


@pytest.mark.parametrize("arguments, code, sentence", WITHOUT_ENVIRONMENT, ids=lambda value: str(value)[:60])
def test_without_an_environment(nobody, arguments, code, sentence):
    check(nobody.run(*arguments), code, sentence)


def check(ran, code, sentence, out=""):
    first = ran.error.splitlines()[0] if ran.error else ""
    assert ran.code == code, ran
    assert re.match(sentence, first) if sentence.startswith("^") else first == sentence, ran
    assert out is None or ran.out == out, ran


def test_in_an_environment(demo, make_developer, closing):
    """The states that need a service, one after the other: their setting up is what takes time."""
    project, ada = demo
    port = project.port()
    mine = closing(WebServer("workspace"))
    start = ["intercept", "start"]

    check(
        ada.run(*start, "api-sever", "-p", "8080:3000"),
        4,
        "kl: service 'api-sever' isn't in environment 'demo'. Did you mean 'api-server'? (kl env status lists them)",
    )
    check(
        ada.run(*start, "database", "-p", "1"),
        4,
        "kl: service 'database' isn't in environment 'demo'. (kl env status lists them)",
    )
    check(
        ada.run(*start),
        USAGE,
        "kl: no service is named. Give one: kl intercept start SERVICE --port 8080:3000 (kl env status lists them)",
    )
    check(
        ada.run(*start, "api-server"),
        USAGE,
        f"kl: no port is named. Give one by --port, such as --port {port}:3000, or all by --all-ports.",
    )
    check(ada.run(*start, "api-server", "-p", "1:3000"), USAGE, f"kl: 'api-server' has no port 1. It has {port}.")
    check(
        ada.run(*start, "api-server", "-p", "http:3000"),
        USAGE,
        f"kl: 'api-server' has no port named 'http'. It has {port}.",
    )
    check(
        ada.run(*start, "api-server", "-p", f"{port}:3000", "-p", f"{port}:3001"),
        USAGE,
        f"kl: '{port}:3000' and '{port}:3001' are for the same port of 'api-server'. Give each port once.",
    )
    check(
        ada.run(*start, "api-server", "-p", f"{port}"),
        USAGE,
        f"kl: localhost:{port} is where clients reach the service itself, so connections would go in a circle. "
        f"Give another local port, such as {port}:3000.",
    )
    check(ada.run(*start, "api-server", "--all-ports"), USAGE, r"^kl: localhost:\d+ is where clients reach")
    for command in ("stop", "status"):
        check(
            ada.run("intercept", command, "api-server"),
            4,
            "kl: 'api-server' isn't intercepted, so the environment answers. Start with: kl intercept start api-server",
        )
        check(ada.run("intercept", command, "api"), 4, r"^kl: service 'api' isn't in environment 'demo'\.")
    check(
        ada.run("intercept", "stop"),
        USAGE,
        "kl: no service is named. Give one: kl intercept stop SERVICE, or --all (kl intercept list lists them)",
    )
    assert ada.ok("intercept", "stop", "--all").out == "You intercept nothing in environment demo.\n"

    grace = make_developer("grace", project.folder)
    grace.ok("env", "connect", "demo")
    grace.ok(*start, "api-server", "-p", f"{port}:{mine.address[1]}")
    check(
        ada.run(*start, "api-server", "-p", f"{port}:3000"),
        5,
        r"^kl: port \d+ of 'api-server' is intercepted by \S+@\S+ \S+ since \d\d:\d\d\. Ask them to stop it, or take it over "
        r"with --force\.$",
        out=None,
    )
    check(
        ada.run("intercept", "stop", "api-server"),
        5,
        r"^kl: 'api-server' is intercepted by \S+@\S+ since \d\d:\d\d, not by you\. Ask them to stop it, or take it over: "
        r"kl intercept start api-server -p \d+:LOCAL_PORT --force$",
    )
    grace.ok("intercept", "stop", "api-server")

    ada.ok(*start, "api-server", "-p", f"{port}:{mine.address[1]}")
    other = pathlib.Path(ada.directory).parent / "other"
    other.mkdir()
    (other / "compose.yaml").write_text("name: other\nservices:\n  a:\n    command: sleep 1000\n")
    check(
        ada.run("env", "connect", "--file", other / "compose.yaml"),
        1,
        "kl: you intercept 'api-server' in environment 'demo'. Disconnect from it first: kl env disconnect",
    )
    ada.ok("intercept", "stop", "--all")


def error_object(ran):
    found = json.loads(ran.out)["error"]
    return found["code"], found["message"]


def test_errors_as_json(nobody):
    """A program that reads standard output finds the error there; the sentence is on standard error all the same."""
    ran = nobody.run("intercept", "list", "-o", "json")
    assert (ran.code, ran.error) == (3, NOT_CONNECTED + "\n")
    assert error_object(ran) == ("notConnected", NOT_CONNECTED.removeprefix("kl: "))


class TestFiles:
    """What can be wrong around a command: files, folders, ports, homes."""

    def test_a_taken_port(self, make_project, make_developer):
        project = make_project()
        ada = make_developer("ada", project.folder)
        with WebServer("other", port=project.port()):
            ran = ada.run("env", "up")
        assert ran.code == 1
        assert f"port {project.port()}" in ran.error.lower() and "'api-server'" in ran.error
        eventually("nothing of the environment is left", lambda: project.processes() == [], 1)

    def test_published_and_own_port_equal(self, make_project, make_developer):
        project = make_project()
        project.services["api-server"] = (21090, 21090)
        project.write()
        ran = make_developer("ada", project.folder).run("env", "up")
        assert ran.code == 1
        assert re.search(r"compose\.yaml:\d+:\d+: .*21090", ran.error)

    def test_a_service_that_dies(self, make_project, make_developer):
        project = make_project()
        project.write("  broken:\n    command: sh -c 'exit 3'\n    restart: \"no\"\n")
        ada = make_developer("ada", project.folder)
        ada.run("env", "up")
        ada.ok("env", "connect", "demo")
        services = {s["name"]: s for s in ada.ok("env", "status", "-o", "json").json["services"]}
        assert services["broken"]["state"] == "stopped"
        assert "3" in services["broken"]["reason"]
        assert services["api-server"]["state"] == "running"

    def test_a_service_that_never_listens(self, make_project, make_developer, closing):
        """It is said; and it can be intercepted all the same: the workspace answers in its place."""
        project = make_project()
        published, own = free_port(), free_port()
        project.write(f'  mute:\n    command: sleep 1000\n    ports: ["{published}:{own}"]\n')
        ada = make_developer("ada", project.folder)
        ada.run("env", "up", timeout=90)
        ada.ok("env", "connect", "demo")
        services = {s["name"]: s for s in ada.ok("env", "status", "-o", "json").json["services"]}
        assert services["mute"]["state"] == "starting"
        assert f"doesn't listen on {own}" in services["mute"]["reason"]
        mine = closing(WebServer("workspace"))
        ada.ok("intercept", "start", "mute", "-p", f"{published}:{mine.address[1]}")
        assert ask(("127.0.0.1", published)) == "workspace"

    def test_a_command_that_is_not_there(self, make_project, make_developer):
        project = make_project()
        project.write("  broken:\n    command: no-such-program --port 1\n")
        ada = make_developer("ada", project.folder)
        ada.run("env", "up")
        ada.ok("env", "connect", "demo")
        services = {s["name"]: s for s in ada.ok("env", "status", "-o", "json").json["services"]}
        assert services["broken"]["state"] != "running"
        assert "no-such-program" in services["broken"]["reason"]

    def test_a_long_home_with_blanks(self, make_project, make_developer, closing, folder):
        project = make_project()
        ada = make_developer("x" * 60 + " " + "y" * 90, project.folder)
        ada.ok("env", "connect", "demo")
        project.answers("api-server", aim=2)
        mine = closing(WebServer("workspace"))
        ada.ok("intercept", "start", "api-server", "-p", f"{project.port()}:{mine.address[1]}")
        project.answers("workspace")
        ada.ok("intercept", "stop", "api-server")

    def test_a_long_project_folder(self, make_project, make_developer, folder):
        project = make_project(folder_name="p" * 100 + "/" + "q q" * 30)
        ada = make_developer("ada", project.folder)
        ada.ok("env", "connect", "demo")
        project.answers("api-server", aim=2)

    def test_a_home_open_to_others(self, make_developer, make_project):
        ada = make_developer("ada", make_project().folder)
        ada.home.chmod(0o777)
        ran = ada.run("env", "list")
        assert ran.code == 1
        assert str(ada.home) in ran.error and "chmod" in ran.error

    @pytest.mark.skipif(os.geteuid() != 0, reason="needs another user")
    def test_a_home_that_sudo_kept(self, make_project, folder):
        """Root, with a user's HOME: what only looks leaves nothing there, what writes says why it doesn't."""
        project, home = make_project(), folder / "home-kept"
        home.mkdir(mode=0o700)
        os.chown(home, 12345, 12345)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("KL_", "XDG_"))}

        def run(*arguments):
            return subprocess.run(
                [project.binaries / "kl", *arguments],
                cwd=project.folder,
                env={**kept, "HOME": str(home)},
                capture_output=True,
                text=True,
                timeout=60,
            )

        for arguments, code in ((("env", "list"), 0), (("env", "status"), 0), (("intercept", "list"), 3), (("intercept", "stop", "a"), 3)):
            assert run(*arguments).returncode == code, arguments
        run("doctor")
        for command in ("up", "connect"):
            done = run("env", command, "--file", project.file)
            assert done.returncode == 1
            assert re.match(f"^kl: '{home}' belongs to user 12345, and kl runs as root", done.stderr), done.stderr
        assert list(home.iterdir()) == []
        assert not (project.folder / ".kl").exists()

    def test_a_home_that_is_no_folder(self, make_project):
        """As users of services have it: what only looks finds nothing of one's own there, and no fault."""
        project = make_project()
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("KL_", "XDG_"))}

        def run(*arguments):
            return subprocess.run(
                [project.binaries / "kl", *arguments],
                cwd=project.folder,
                env={**kept, "HOME": "/dev/null"},
                capture_output=True,
                text=True,
                timeout=60,
            )

        for arguments, code in ((("env", "list"), 0), (("env", "status"), 0), (("intercept", "list"), 3)):
            assert run(*arguments).returncode == code, arguments
        checks = {one["name"]: one["state"] for one in json.loads(run("doctor", "-o", "json").stdout)["checks"]}
        assert checks["home"] == "failed" and checks["daemon"] == "ok" and "key" not in checks, checks
        ran = run("env", "connect", "--file", project.file)
        assert ran.returncode == 1 and "/dev/null/.config/kl can't be made: not a directory" in ran.stderr, ran

    @pytest.mark.skipif(os.geteuid() != 0, reason="needs a mount")
    def test_a_home_that_nobody_can_write_to(self, demo, make_developer, closing):
        """What only looks works there, with the key that lies in it."""
        project, ada = demo
        mine = closing(WebServer("workspace"))
        ada.ok("intercept", "start", "api-server", "--port", f"{project.port()}:{mine.address[1]}")
        script = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@"'
        ada.prefix = ["unshare", "--mount", "sh", "-c", script, str(ada.home)]
        assert [one["isOwn"] for one in ada.ok("intercept", "list", "-o", "json").json["intercepts"]] == [True]
        for arguments in (("env", "list"), ("env", "status"), ("intercept", "status"), ("doctor",)):
            ada.ok(*arguments)
        for command in ("connect", "disconnect"):
            ran = ada.run("env", command)
            assert ran.code == 1 and re.search(r"can't be written: read-only file system\. Make it writable", ran.error), ran
        assert len(ada.intercepts()) == 1
        ada.prefix = []
        ada.ok("intercept", "stop", "api-server")

    @pytest.mark.skipif(os.geteuid() != 0, reason="needs another user")
    def test_a_read_only_folder(self, make_project, make_developer, folder):
        """As a user who may not write there."""
        project = make_project()
        home = folder / "home-reader"
        home.mkdir(mode=0o700)
        os.chown(home, 65534, 65534)
        for path in (project.folder, project.file):
            path.chmod(0o755)
        ran = subprocess.run(
            [project.binaries / "kl", "env", "up"],
            cwd=project.folder,
            env={**os.environ, "KL_HOME": str(home)},
            user=65534,
            group=65534,
            extra_groups=[],
            capture_output=True,
            text=True,
            timeout=60,
        )
        if "Permission denied" in ran.stderr and "kl:" not in ran.stderr:
            pytest.skip("that user can't reach the programs")
        assert ran.returncode == 1
        assert ".kl" in ran.stderr and "permission denied" in ran.stderr

    def test_no_room_on_the_disk(self, make_developer, make_project, binaries):
        """The home is on a file system without a free block: one sentence, and nothing half written."""
        if not pathlib.Path("/dev/full").exists():
            pytest.skip("no full disk at hand")
        project = make_project()
        ada = make_developer("ada", project.folder)
        ada.ok("env", "connect", "demo")
        before = (ada.home / "connected.json").read_bytes()
        # A limit on the size of a file is what a full disk is to a writer.
        ran = subprocess.run(
            ["sh", "-c", 'ulimit -f 0; trap "" XFSZ; exec "$@"', "sh", binaries / "kl", "env", "connect", "demo"],
            cwd=project.folder,
            env=ada.environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert ran.returncode == 1
        assert ran.stderr.startswith("kl: ") and "can't be written" in ran.stderr
        assert (ada.home / "connected.json").read_bytes() == before


# A process number that no process has.
NOBODY = 1 << 30


class OldDaemon(threading.Thread):
    """A daemon of an earlier version as another program sees it: its lock, its socket, its hello."""

    def __init__(self, home, gives_way):
        super().__init__(daemon=True)
        self.home, self.gives_way = home, gives_way
        self.lock = open(home / "daemon.lock", "w")
        fcntl.flock(self.lock, fcntl.LOCK_EX)
        (home / "daemon.sock").unlink(missing_ok=True)
        self.listener = socket.socket(socket.AF_UNIX)
        with in_folder(home) as name:
            self.listener.bind(f"{name}/daemon.sock")
        self.listener.listen()
        self.start()

    def run(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.talk, args=(connection,), daemon=True).start()

    def talk(self, connection):
        def say(message):
            connection.sendall(json.dumps(message).encode() + b"\n")

        with contextlib.suppress(OSError), connection, connection.makefile("r") as lines:
            say({"hello": {"version": "0.0.9", "pid": NOBODY}})
            for line in lines:
                if "handOver" not in json.loads(line):
                    continue
                if not self.gives_way:
                    return say({"failed": {"_0": {"code": "failed", "message": "never heard of it"}}})
                path = self.home / "intercepts.json"
                path.write_text(json.dumps({**json.loads(path.read_text()), "areHandedOver": True}))
                self.close()
                return say({"done": {}})

    def close(self):
        (self.home / "daemon.sock").unlink(missing_ok=True)
        # A thread that waits in accept() isn't woken by close() alone.
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.lock.close()


class TestAnotherVersion:
    @pytest.fixture
    def left(self, demo, closing):
        """An intercept whose daemon is gone, and will be an older one."""
        project, ada = demo
        mine = closing(WebServer("workspace"))
        mapping = f"{project.port()}:{mine.address[1]}"
        ada.ok("intercept", "start", "api-server", "-p", mapping)
        os.kill(ada.daemon(), signal.SIGKILL)
        project.answers("api-server", aim=2)
        return project, ada

    def test_is_replaced_and_its_intercept_goes_on(self, left):
        project, ada = left
        OldDaemon(ada.home, gives_way=True)
        ada.ok("intercept", "list")
        assert ada.daemon() != NOBODY
        eventually("it is active again", lambda: ada.phase("api-server") == "Active", 2)
        project.answers("workspace")
        ada.ok("intercept", "stop", "api-server")

    def test_that_does_not_give_way_is_named_with_the_mend(self, left):
        project, ada = left
        old = OldDaemon(ada.home, gives_way=False)
        ran = ada.run("intercept", "list")
        assert ran.code == 1
        assert "0.0.9" in ran.error and f"kill {NOBODY}" in ran.error
        old.close()
        ada.ok("intercept", "stop", "api-server")


def test_what_is_odd_is_told_also_of_a_file_that_is_wrong(make_developer, folder):
    """The key with a letter too few is the reason why there is no command."""
    (folder / "compose.yaml").write_text("services:\n  web:\n    comand: true\n")
    ada = make_developer("ada", folder)
    ran = ada.run("env", "up")
    assert ran.code == 1
    first, second = ran.error.splitlines()
    assert first.startswith("! ") and first.endswith("'comand' is ignored: it isn't a key of a service. Did you mean 'command'?")
    assert "has no command" in second


def test_a_supervisor_that_hangs(demo, make_developer):
    """Soon, and with its number."""
    project, ada = demo
    supervisor = project.state["supervisor"]["pid"]
    os.kill(supervisor, signal.SIGSTOP)
    try:
        grace = make_developer("grace", project.folder)
        began = time.monotonic()
        ran = grace.run("env", "connect", "demo")
        assert time.monotonic() - began < 5
        assert ran.code == 1
        says = f"its supervisor (pid {supervisor}) doesn't answer. End it with 'kill -9 {supervisor}'"
        assert ran.error.startswith(f"kl: environment 'demo' hasn't let your key in: {says}"), ran
        began = time.monotonic()
        assert ada.ok("env", "status", "-o", "json").json["reason"].startswith(says)
        assert time.monotonic() - began < 3
    finally:
        os.kill(supervisor, signal.SIGKILL)
    grace.ok("env", "connect", "demo")


def test_a_supervisor_that_is_not_understood(make_project, make_developer, closing):
    """Of another version, say: what to do is told, not what a decoder thinks of it."""
    project = make_project({"api": {"command": ["sleep", "1000"]}})
    state = project.folder / ".kl"
    state.mkdir(mode=0o700)
    listener = closing(socket.socket(socket.AF_UNIX))
    # By the folder: the whole path may be too long for an address.
    with in_folder(state) as name:
        listener.bind(f"{name}/supervisor.sock")
    listener.listen()

    def answer():
        connection, _ = listener.accept()
        with connection, connection.makefile() as lines:
            lines.readline()
            connection.sendall(b'{"greeting":{}}\n')
            lines.read()

    talking = threading.Thread(target=answer)
    talking.start()
    ran = make_developer("ada", project.folder).run("env", "down")
    talking.join()
    assert ran.code == 1
    problem = "kl: the environment's supervisor can't be asked: its answer can't be read."
    assert ran.error.strip() == f"{problem} Try again; if that doesn't help, look into {state}/logs/supervisor.log."
