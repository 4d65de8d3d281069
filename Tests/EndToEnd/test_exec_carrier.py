"""The tunnel over a command's standard input and output, and `kl-sidecar dial` at the other end of it."""

import contextlib
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import time

import pytest
from harness.agents import Agent, endpoint
from harness.bulk import BulkServer, Receiver, Sender, finish
from harness.line import Line
from harness.load import Load, summary, who
from harness.pair import Pair
from harness.ports import address, free_port
from harness.servers import Server, echo
from harness.sockets import connect, exchange
from harness.waiting import eventually
from harness.web import WebServer

MIB = 1 << 20


class Commanded(Pair):
    """A pair whose workspace has these ways to its sidecar, in this order."""

    ways = ()

    def dial(self):
        """The command that leads to this sidecar, whatever others run on this machine."""
        return [str(self.binaries / "kl-sidecar"), "dial", "--to", address(*self.tunnel)]

    def workspace_flags(self):
        flags = super().workspace_flags()
        at = flags.index("--sidecar")
        key = self.sidecar_key.public
        ways = [way if isinstance(way, str) else f"{key}@exec:{shlex.join(way)}" for way in self.ways or [self.dial()]]
        return flags[:at] + [part for way in ways for part in ("--sidecar", way)] + flags[at + 2 :]

    def tcp(self, host, port):
        return endpoint(self.sidecar_key.public, host, port)


@pytest.fixture
def commanded(processes, binaries, folder, closing):
    def make(*ways, original=None, local=None):
        original = original or closing(WebServer("environment"))
        local = local or closing(WebServer("workspace"))
        pair = Commanded(processes, binaries, folder / "pair", original=original.address, local=local.address)
        pair.ways = ways
        pair.start_sidecar()
        return pair

    return make


def children(pid):
    """Its children, with their states: Z has ended and isn't waited for."""
    found = {}
    for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            if int(fields[1]) == pid:
                found[int(path.parent.name)] = fields[0]
    return found


def only_child(workspace):
    return eventually(
        "the carrier's command runs, and no other",
        lambda: (found := children(workspace.process.pid)) and list(found.values()) != ["Z"] and len(found) == 1 and found,
        2,
    )


def failure(pair, deadline=40):
    """What a workspace says that never becomes ready."""
    process = pair.processes.start(
        "kl-workspace", [pair.binaries / "kl-workspace", "run", *map(str, pair.workspace_flags())]
    )
    code = process.wait(deadline)
    assert not process.lines, process.lines
    return code, process.log()


def test_a_command_is_a_carrier(commanded):
    pair = commanded()
    workspace = pair.start_workspace()
    assert workspace.ready["carrier"] == "exec"
    assert who(pair.public) == "workspace"
    (child,) = only_child(workspace)
    assert workspace.stop() == 0
    assert not pathlib.Path(f"/proc/{child}").exists(), "the command outlived the workspace"
    assert who(pair.public) == "environment"


@pytest.mark.deadline(180)
def test_a_command_that_is_killed_again_and_again_in_a_transfer(commanded, closing):
    size, cuts = 192 * MIB, 20
    bulk = closing(BulkServer(size))
    pair = commanded(original=closing(Server(lambda connection: None)), local=bulk)
    # Slow enough that the transfer outlives the last cut.
    line = closing(Line(pair.tunnel, 24_000_000))
    pair.ways = [[str(pair.binaries / "kl-sidecar"), "dial", "--to", address(*line.listen_address)]]
    workspace = pair.start_workspace()
    before = workspace.process.descriptors()
    killed = set()
    with connect(pair.public) as connection:
        up, down = Sender(connection, size), Receiver(connection)
        transfer = bulk.next_transfer()
        for number in range(cuts):
            time.sleep(0.2)
            (child,) = only_child(workspace)
            assert child not in killed
            os.kill(child, (signal.SIGKILL, signal.SIGTERM)[number % 2])
            killed.add(child)
            eventually("the command that was killed is waited for", lambda: child not in children(workspace.process.pid), 1)
        assert transfer.receiver.received < size, "the transfer ended before the last cut"
        finish(up, transfer.receiver, 90)
        finish(transfer.sender, down, 90)
    assert len(killed) == cuts
    only_child(workspace)
    eventually("no descriptor is left over", lambda: workspace.process.descriptors() <= before + 1, 2)


def test_a_command_that_does_not_hear_is_killed_with_its_children(commanded, folder):
    pair = commanded()
    notes = folder / "pids"
    script = f"trap '' TERM; echo $$ >>{notes}; sleep 1000 & echo $! >>{notes}; exec 2>/dev/null; {shlex.join(pair.dial())}; sleep 1000"
    pair.ways = [["sh", "-c", script]]
    workspace = pair.start_workspace()
    pids = [int(pid) for pid in notes.read_text().split()]
    assert workspace.stop() == 0
    for pid in pids:
        eventually("a command's group has ended", lambda pid=pid: not pathlib.Path(f"/proc/{pid}").exists(), 1)


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("echo Error: No such container: api >&2; exit 1", "ended with code 1: Error: No such container: api"),
        ("exit 127", "ended with code 127"),
        ("kill -9 $$", "was ended by signal 9"),
        ("yes 'a line of noise'", "doesn't speak the tunnel's protocol"),
        ("yes a flood of errors >&2", "No answer from the sidecar at sh -c"),
        ("sleep 1000", "No answer from the sidecar at sh -c"),
        (r"printf 'evil \033[2J line\n' >&2; exit 1", "ended with code 1: evil [2J line"),
    ],
)
def test_a_command_that_leads_nowhere(commanded, command, reason):
    pair = commanded(["sh", "-c", command])
    code, log = failure(pair)
    assert code == 1
    last = log.splitlines()[-1]
    assert last.startswith("kl-workspace: ") and reason in last, log
    assert "\033" not in log
    assert who(pair.public) == "environment"


@pytest.mark.parametrize("seconds", [3, 9])
def test_a_command_that_falls_silent(commanded, tmp_path, seconds):
    """As when a program on the way dies without closing anything: nothing tells either end. New clients don't wait for the dead-carrier
    deadline, and what is under way goes on if the command speaks again before it."""
    pair, silence = commanded(), tmp_path / "silence"
    # Other tests change this machine's addresses, for which a workspace dials anew: such a command is silent as well.
    wait = f"while [ -e {silence} ]; do sleep 0.05; done"
    pair.ways = [["sh", "-c", f"{wait}; exec {shlex.join(pair.dial())}"]]
    workspace = pair.start_workspace()
    signal_all = lambda number: [os.kill(child, number) for child in children(workspace.process.pid)]
    load = Load(pair.public, 50)
    time.sleep(1)
    silence.touch()
    silent = time.monotonic()
    with contextlib.suppress(ProcessLookupError):
        signal_all(signal.SIGSTOP)
    time.sleep(seconds)
    silence.unlink()
    with contextlib.suppress(ProcessLookupError):
        signal_all(signal.SIGCONT)
    until = min(time.monotonic() - 1, silent + 5)
    eventually("the workspace answers again", lambda: who(pair.public) == "workspace", 15)
    outcomes = load.stop()
    during = [outcome for outcome in outcomes if silent + 1 < outcome.began < until]
    assert len(during) >= 40
    assert {outcome.answer for outcome in during} == {"environment"}, summary(during)
    failed = [outcome for outcome in outcomes if outcome.failure]
    if seconds < 6:
        assert not failed, summary(outcomes)
    # Only the bytes of clients that came before the first acknowledgement was late had gone out already.
    assert all(outcome.began < silent + 0.5 for outcome in failed), [outcome.began - silent for outcome in failed]
    handed_over = [outcome for outcome in outcomes if outcome.answer == "environment"]
    assert max(outcome.took for outcome in handed_over) < 6, "clients waited for the dead-carrier deadline"


def test_a_flood_of_errors_beside_a_tunnel_that_works(commanded, closing):
    pair = commanded(local=closing(Server(echo)))
    pair.ways = [["sh", "-c", f"yes a flood of errors >&2 & exec {shlex.join(pair.dial())}"]]
    workspace = pair.start_workspace()
    with connect(pair.public) as held:
        exchange(held, os.urandom(100_000))
        size = workspace.process.resident_mib()
        for _ in range(20):
            time.sleep(0.1)
            exchange(held, b"still there")
    assert workspace.process.resident_mib() < size + 8


@pytest.mark.parametrize("command", ["kl-no-such-program dial", "/nowhere/kl-sidecar dial", "/etc/passwd"])
def test_a_command_that_is_not_there(commanded, command):
    pair = commanded(command.split())
    code, log = failure(pair, 5)
    assert code == 2
    assert f"'{command.split()[0]}'" in log and "can't be run" in log


@pytest.mark.parametrize("command", ["", "   ", "a 'b", "a | b", "a \\"])
def test_a_command_that_can_not_be_read(commanded, command):
    pair = commanded()
    pair.ways = [f"{pair.sidecar_key.public}@exec:{command}"]
    code, log = failure(pair, 5)
    assert code == 2, log


def test_the_next_address_is_tried_at_once(commanded):
    """Nothing listens at the first; what worked is kept, and the first gets its chance again when it stands alone."""
    pair = commanded()
    refused = free_port()
    pair.ways = [pair.tcp("127.0.0.1", refused), pair.dial()]
    began = time.monotonic()
    workspace = pair.start_workspace()
    assert workspace.ready["carrier"] == "exec"
    assert time.monotonic() - began < 5
    assert who(pair.public) == "workspace"


def test_an_address_that_takes_connections_and_says_nothing_gives_way(commanded, closing):
    pair = commanded()
    silent = closing(Server(lambda connection: time.sleep(30)))
    pair.ways = [pair.tcp(*silent.address), pair.dial()]
    assert pair.start_workspace().ready["carrier"] == "exec"


def test_the_preferred_address_is_taken_where_it_answers(commanded):
    pair = commanded()
    pair.ways = [pair.tcp(*pair.tunnel), pair.dial()]
    workspace = pair.start_workspace()
    assert workspace.ready["carrier"] == "tcp"
    assert not children(workspace.process.pid)


def test_all_ways_fail(commanded):
    pair = commanded(["sh", "-c", "echo No such container >&2; exit 1"])
    pair.ways = [pair.tcp("127.0.0.1", free_port()), *pair.ways]
    code, log = failure(pair)
    assert code == 1
    last = log.splitlines()[-1]
    assert "connection refused; 'sh -c " in last and "ended with code 1: No such container" in last


# kl-sidecar dial


def run_dial(binaries, *arguments, before=(), **options):
    command = [*before, str(binaries / "kl-sidecar"), "dial", *arguments]
    return subprocess.run(command, capture_output=True, timeout=30, **{"stdin": subprocess.DEVNULL, **options})


@pytest.fixture
def namespace(processes):
    """Runs programs in a network namespace of their own."""
    if os.geteuid() != 0 or not shutil.which("nsenter"):
        pytest.skip("network namespaces are made by root, with nsenter")
    holder = processes.start("unshare", ["unshare", "-n", "sh", "-c", "ip link set lo up && echo up && exec sleep 1000"])
    holder.first_line(10)
    return ["nsenter", f"--net=/proc/{holder.pid}/ns/net"]


@pytest.fixture
def sidecar_in(processes, binaries, commanded, namespace):
    def start(pair, **options):
        command = [*namespace, binaries / "kl-sidecar", "run", *pair.sidecar_flags()]
        sidecar = Agent(processes, "kl-sidecar", command, **options)
        return sidecar

    return start


def test_no_sidecar_to_dial(binaries, namespace):
    done = run_dial(binaries, before=namespace)
    assert done.returncode == 3
    assert b"no sidecar runs in this network namespace" in done.stderr


def test_the_only_sidecar_is_found(commanded, namespace, sidecar_in, binaries):
    """Across network namespaces, where no address leads."""
    pair = commanded()
    pair.sidecar.stop()
    sidecar_in(pair)
    pair.ways = [pair.tcp(*pair.tunnel), [*namespace, str(binaries / "kl-sidecar"), "dial"]]
    workspace = pair.start_workspace()
    assert workspace.ready["carrier"] == "exec"
    (child,) = only_child(workspace)
    before = processor_time(child)
    time.sleep(1)
    assert processor_time(child) - before <= 5, "dial is busy with nothing"


def processor_time(pid):
    """In hundredths of a second."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def test_several_sidecars_are_listed(commanded, namespace, sidecar_in, binaries):
    pair = commanded()
    pair.sidecar.stop()
    first = pair.tunnel
    sidecar_in(pair)
    pair.tunnel, pair.public = ("0.0.0.0", free_port()), ("127.0.0.1", free_port())
    sidecar_in(pair)
    done = run_dial(binaries, before=namespace)
    assert done.returncode == 1
    said = done.stderr.decode()
    assert "2 sidecars run here" in said
    assert set(re.findall(r"--to (\S+?)[,.](?= |$)", said.strip())) == {address(*first), f"127.0.0.1:{pair.tunnel[1]}"}
    assert run_dial(binaries, "--to", address(*first), before=namespace).returncode == 0


def test_other_users_are_turned_away(commanded, namespace, sidecar_in, binaries):
    pair = commanded()
    pair.sidecar.stop()
    sidecar_in(pair)
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    if subprocess.run([*nobody, binaries / "kl-sidecar", "--version"], capture_output=True).returncode:
        pytest.skip("the programs lie where another user can't run them")
    done = run_dial(binaries, before=[*namespace, *nobody])
    assert done.returncode == 1
    assert b"other users'" in done.stderr
    # Who doesn't ask first is closed upon by the sidecar.
    script = (
        "import socket, sys; s = socket.socket(socket.AF_UNIX); s.settimeout(3); "
        f"s.connect('\\0kl-sidecar/{address(*pair.tunnel)}'); sys.exit(len(s.recv(1)))"
    )
    assert subprocess.run([*namespace, *nobody, "/usr/bin/python3", "-c", script], timeout=10).returncode == 0


@pytest.mark.deadline(60)
def test_dial_ends_when_the_sidecar_does(commanded, binaries):
    pair = commanded()
    command = [binaries / "kl-sidecar", "dial", "--to", address(*pair.tunnel)]
    dial = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    with dial:
        time.sleep(0.3)
        assert dial.poll() is None
        pair.sidecar.kill()
        assert dial.wait(5) == 1
        assert b"closed the connection without an answer" in dial.stderr.read()


@pytest.mark.parametrize("kind", ["pipe", "socket", "file"])
def test_dial_carries_all_between_streams_of_any_kind(binaries, folder, closing, kind):
    """To and from a server that isn't a sidecar, which is nothing to it; the end of its input is passed on."""
    server = closing(Server(echo))
    data = os.urandom(4 * MIB)
    (folder / "in").write_bytes(data)
    command = [str(binaries / "kl-sidecar"), "dial", "--to", address(*server.address)]
    if kind == "socket":
        script = (
            "import socket, subprocess, sys, threading\n"
            "ours, theirs = socket.socketpair()\n"
            f"child = subprocess.Popen({command!r}, stdin=theirs, stdout=theirs); theirs.close()\n"
            "data = sys.stdin.buffer.read()\n"
            "def send():\n ours.sendall(data); ours.shutdown(socket.SHUT_WR)\n"
            "threading.Thread(target=send).start()\n"
            "while part := ours.recv(65536): sys.stdout.buffer.write(part)\n"
            "sys.stdout.flush(); sys.exit(child.wait())\n"
        )
        command = ["python3", "-c", script]
    if kind == "file":
        with open(folder / "in", "rb") as source, open(folder / "out", "wb") as sink:
            done = subprocess.run(command, stdin=source, stdout=sink, timeout=30)
        back = (folder / "out").read_bytes()
    else:
        done = subprocess.run(command, input=data, stdout=subprocess.PIPE, timeout=30)
        back = done.stdout
    assert done.returncode == 0
    assert back == data


def test_dial_to_nobody(binaries):
    done = run_dial(binaries, "--to", f"127.0.0.1:{free_port()}")
    assert done.returncode == 1
    assert b"connection refused" in done.stderr
    assert run_dial(binaries, "--to", "nonsense").returncode == 2
