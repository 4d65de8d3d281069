"""What a person does wrong at the command line: each is one sentence that says what, and an exit code."""

import os
import re
import socket
import subprocess

import pytest
from harness.agents import endpoint
from harness.keys import KeyPair, write_secret
from harness.load import ask
from harness.ports import free_port
from harness.web import WebServer

KEY = KeyPair().public
WRONG_USAGE, FAILED = 2, 1
# Signs that a program fell over, or shows its own insides instead of a sentence.
INSIDES = re.compile(r"Fatal error|Stack dump|Swift\.|NIO[A-Z]\w+|\w+Error\(|errno: ?\d|Optional\(|\.swift:\d+")


def changed(flags, **options):
    """Flags as a list, with some taken out (None) or replaced. A value may be a list: the flag is given that often."""
    flags = {**flags, **{"--" + name.replace("_", "-"): value for name, value in options.items()}}
    given = []
    for name, value in flags.items():
        for one in value if isinstance(value, list) else [value]:
            if one is not None:
                given += [name, str(one)]
    return given


def sidecar_flags(**options):
    right = {
        "--peer": KEY,
        "--listen-tcp": "127.0.0.1:0",
        "--service-port": "8080:127.0.0.1:9",
        "--divert": "listen=127.0.0.1:0",
    }
    return ["kl-sidecar", "run", *changed(right, **options)]


def workspace_flags(**options):
    return ["kl-workspace", "run", *changed({"--sidecar": f"{KEY}@tcp:127.0.0.1:9", "--map": "8080:3000"}, **options)]


@pytest.fixture
def refuse(processes, binaries):
    """Runs an agent that has to refuse to start; checks code, words, and that the rest is decent."""

    def run(arguments, code, *words, deadline=30):
        process = processes.start(arguments[0], [binaries / arguments[0], *arguments[1:]])
        ended = process.wait(deadline)
        said = process.log()
        assert ended == code, f"ended with {ended}:\n{said}"
        assert process.lines == [], "an error belongs on standard error"
        lowered = said.lower()
        for word in words:
            options = word if isinstance(word, tuple) else (word,)
            assert any(option.lower() in lowered for option in options), f"{word} isn't in:\n{said}"
        assert not INSIDES.search(said), said
        return said

    return run


PORT_WORDS = ("port", "65535", "65,535")
SIDECAR_USAGE = {
    "no peer": (sidecar_flags(peer=None), "--peer"),
    "no service port": (sidecar_flags(service_port=None), "--service-port"),
    "no diversion": (sidecar_flags(divert=None), "--divert"),
    "peer no key": (sidecar_flags(peer="not-a-key"), "key", "not-a-key"),
    "peer too short a key": (sidecar_flags(peer="AAAA"), "key", "AAAA"),
    "peer too long a key": (sidecar_flags(peer=KEY[:-1] + "AA="), "key"),
    "peer twice": (sidecar_flags(peer=[KEY, f"{KEY} may=mirror"]), "--peer", KEY, "other rights"),
    "service port 0": (sidecar_flags(service_port="0"), PORT_WORDS, "0"),
    "service port 65536": (sidecar_flags(service_port="65536"), PORT_WORDS, "65536"),
    "service port abc": (sidecar_flags(service_port="abc"), PORT_WORDS, "abc"),
    "service port empty": (sidecar_flags(service_port=""), PORT_WORDS),
    "service port negative": (
        ["kl-sidecar", "run", *sidecar_flags(service_port=None)[2:], "--service-port=-1"],
        PORT_WORDS,
    ),
    "original's port out of range": (sidecar_flags(service_port="8080:127.0.0.1:70000"), PORT_WORDS, "70000"),
    "the same service port twice": (sidecar_flags(service_port=["8080", "8080"], divert="listen=127.0.0.1"), "8080"),
    "one address for two ports": (sidecar_flags(service_port=["8080", "8081"]), "--divert"),
    "unknown way to divert": (sidecar_flags(divert="magic"), "--divert", "magic"),
    "listening port out of range": (sidecar_flags(divert="listen=127.0.0.1:65536"), PORT_WORDS, "65536"),
    "listening address without a host": (sidecar_flags(listen_tcp=":1"), ":1"),
    "listening address no address": (sidecar_flags(listen_tcp="nowhere"), "nowhere"),
    "tunnel port out of range": (sidecar_flags(listen_tcp="127.0.0.1:99999"), PORT_WORDS, "99999"),
    "linger no time": (sidecar_flags(linger="soon"), "--linger", "soon"),
    "linger without a unit": (sidecar_flags(linger="8"), "--linger"),
    "linger negative": (["kl-sidecar", "run", *sidecar_flags()[2:], "--linger=-1s"], "--linger"),
    "linger beyond all numbers": (sidecar_flags(linger="99999999999999999999h"), "--linger"),
    "dead-after too short": (sidecar_flags(dead_after="500ms"), "--dead-after"),
    "idle without ephemeral": (sidecar_flags(idle="30m"), "--idle", "--ephemeral"),
    "node address neither": (sidecar_flags(node_address="router"), "router", "gateway"),
    "memory no size": (sidecar_flags(memory="32"), "--memory", "32"),
    "memory too little": (sidecar_flags(memory="7m"), "--memory", "8m"),
    "metrics port out of range": (sidecar_flags(metrics="127.0.0.1:65536"), PORT_WORDS, "65536"),
    "unknown flag": ([*sidecar_flags(), "--nonsense"], "--nonsense"),
    "unknown command": (["kl-sidecar", "walk"], "walk"),
}
WORKSPACE_USAGE = {
    "no sidecar": (workspace_flags(sidecar=None), "--sidecar"),
    "no map": (workspace_flags(map=None), "--map"),
    "sidecar without a key": (workspace_flags(sidecar="tcp:127.0.0.1:1"), "--sidecar"),
    "sidecar with a bad key": (workspace_flags(sidecar="xyz@tcp:127.0.0.1:1"), "key", "xyz"),
    "sidecar with an unknown carrier": (workspace_flags(sidecar=f"{KEY}@pigeon:127.0.0.1:1"), "pigeon"),
    "sidecar without a port": (workspace_flags(sidecar=f"{KEY}@tcp:127.0.0.1"), "127.0.0.1"),
    "sidecar port 0": (workspace_flags(sidecar=f"{KEY}@tcp:127.0.0.1:0"), PORT_WORDS),
    "sidecar port 65536": (workspace_flags(sidecar=f"{KEY}@tcp:127.0.0.1:65536"), PORT_WORDS, "65536"),
    "map 0": (workspace_flags(map="0:3000"), PORT_WORDS),
    "map to 0": (workspace_flags(map="8080:0"), PORT_WORDS),
    "map to 65536": (workspace_flags(map="8080:65536"), PORT_WORDS, "65536"),
    "map abc": (workspace_flags(map="abc"), PORT_WORDS, "abc"),
    "map too many parts": (workspace_flags(map="1:2:3:4"), "1:2:3:4"),
    "map the same port twice": (workspace_flags(map=["8080:3000", "8080:3001"]), "8080"),
    "drain no time": (workspace_flags(drain="a while"), "--drain", "a while"),
    "drain too long": (workspace_flags(drain="11m"), "--drain"),
    "unknown choice": (workspace_flags(on_unavailable="shrug"), "shrug"),
    "unknown flag": ([*workspace_flags(), "--nonsense"], "--nonsense"),
}


@pytest.mark.parametrize("arguments", SIDECAR_USAGE.values(), ids=SIDECAR_USAGE.keys())
def test_wrong_usage_of_the_sidecar(refuse, arguments):
    flags, *words = arguments
    refuse(flags, WRONG_USAGE, *words)


@pytest.mark.parametrize("arguments", WORKSPACE_USAGE.values(), ids=WORKSPACE_USAGE.keys())
def test_wrong_usage_of_the_workspace(refuse, arguments):
    flags, *words = arguments
    refuse(flags, WRONG_USAGE, *words)


@pytest.fixture
def taken():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize("flag", ["listen_tcp", "divert", "metrics"])
def test_taken_port(refuse, taken, flag):
    value = f"listen={taken}" if flag == "divert" else taken
    refuse(sidecar_flags(**{flag: value}), FAILED, taken, "in use")


def loose(path):
    return write_secret(path, KeyPair().private, mode=0o644), ("chmod 600", "0600")


def loose_for_the_group(path):
    return write_secret(path, KeyPair().private, mode=0o640), ("chmod 600", "0600")


def missing(path):
    return path, ("no such file", "doesn't exist", "does not exist", "not found")


def linked(path):
    target = write_secret(path.with_suffix(".real"), KeyPair().private)
    path.symlink_to(target)
    return path, "link"


def a_folder(path):
    path.mkdir(mode=0o700)
    return path, "regular file"


def a_pipe(path):
    os.mkfifo(path, 0o600)
    return path, "regular file"


def of_another_user(path):
    if os.geteuid():
        pytest.skip("only root can give a file away")
    write_secret(path, KeyPair().private)
    os.chown(path, 65534, 65534)
    return path, "own"


def no_key(path):
    return write_secret(path, "correct horse battery staple"), "key"


def cut_short(path):
    return write_secret(path, KeyPair().private[:20]), "key"


def empty(path):
    return write_secret(path, ""), "key"


def endless(path):
    return write_secret(path, KeyPair().private + "\n" + "x" * 1_000_000), "key"


FILES = [
    loose,
    loose_for_the_group,
    missing,
    linked,
    a_folder,
    a_pipe,
    of_another_user,
    no_key,
    cut_short,
    empty,
    endless,
]


@pytest.mark.parametrize("flags", [sidecar_flags, workspace_flags], ids=["sidecar", "workspace"])
@pytest.mark.parametrize("flag", ["private_key_file", "preshared_key_file"])
@pytest.mark.parametrize("make", FILES)
def test_key_file_that_is_not_as_it_must_be(refuse, folder, flags, flag, make):
    path, word = make(folder / "secret.key")
    said = refuse(flags(**{flag: path}), FAILED, str(path), word)
    if path.is_file() and (content := path.read_text().strip()):
        assert content[:20] not in said, "a key file's content belongs in no message"


def test_missing_peers_file(refuse, folder):
    path = folder / "peers"
    refuse(sidecar_flags(peer=None, peers_file=path), FAILED, path.name)


@pytest.mark.parametrize("agent", ["kl-sidecar", "kl-workspace"])
def test_help_and_version_are_no_errors(processes, binaries, agent):
    for arguments in (["--help"], ["run", "--help"], ["--version"]):
        process = processes.start(agent, [binaries / agent, *arguments])
        assert process.wait(30) == 0
        process.first_line(5)


def test_sidecar_without_a_tunnel_of_its_own_port_is_told_so(refuse):
    said = refuse(sidecar_flags(listen_tcp=None), WRONG_USAGE, "--listen-tcp")
    assert said


def test_a_free_port_is_free_for_both(binaries, processes):
    """The same port for tunnel and service can't work, and says so."""
    port = free_port()
    process = processes.start(
        "kl-sidecar",
        [
            binaries / "kl-sidecar",
            *sidecar_flags(listen_tcp=f"127.0.0.1:{port}", divert=f"listen=127.0.0.1:{port}")[1:],
        ],
    )
    assert process.wait(30) in (FAILED, WRONG_USAGE)
    assert str(port) in process.log()


FULL = "kl: the output can't be written: no space left on device. Make room there, or send it elsewhere, and ask again.\n"


@pytest.mark.parametrize(
    "arguments",
    [("env", "list"), ("env", "list", "-o", "json"), ("env", "list", "-o", "yaml"), ("version",), ("--help",),
     ("completion", "bash"), ("env", "status")],
)
def test_output_that_nobody_can_keep(binaries, folder, arguments):
    """What was lost on a full disk isn't success; a reader who has gone away is nobody's failure."""
    environment = {**os.environ, "KL_HOME": str(folder / "home")}
    with open("/dev/full", "w", encoding="utf-8") as full:
        ran = subprocess.run([binaries / "kl", *arguments], env=environment, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (ran.returncode, ran.stderr) == (1, FULL)
    reads, writes = os.pipe()
    os.close(reads)
    ran = subprocess.run([binaries / "kl", *arguments], env=environment, stdout=writes, stderr=subprocess.PIPE, text=True)
    os.close(writes)
    assert (ran.returncode, ran.stderr) == (0, "")
