"""Pickers and prompts in a real terminal: search, several ports, mistakes, resizes, Ctrl-C at each step."""

import os
import pathlib
import random
import signal
import subprocess
import time

import pytest
from harness.terminal import BACKSPACE, DOWN, END, ENTER, ESCAPE, LEFT, PAGE_DOWN, TAB, Terminal, control

SCREENS = pathlib.Path(__file__).resolve().parents[1] / "InteractiveTests/Screens"
CANCELLED, NO_TERMINAL, INTERRUPTED = 1, 2, 130
SERVICE, PORTS = "Select service to intercept:", "Select ports (TAB to toggle):"


def stored(name, title):
    """A screen that the unit tests compare with too."""
    for section in (SCREENS / f"{name}.txt").read_text().split("== ")[1:]:
        head, *lines = section.rstrip("\n").split("\n")
        if head.startswith(f"{title} ("):
            return lines
    raise AssertionError(f"no screen '{title}' in {name}.txt")


@pytest.fixture
def trial(binaries):
    return binaries / "picker-trial"


@pytest.fixture
def open_terminal(trial, closing, folder):
    """Opens a terminal with the trial in it, and standard output in a file."""

    def open_one(*arguments, **options):
        terminal = closing(Terminal([trial, *arguments], stdout=folder / "out", **options))
        terminal.out = folder / "out"
        return terminal

    return open_one


def expect_gone(terminal):
    """Nothing of a question is left, and the terminal is as it was."""
    assert terminal.lines == []
    assert terminal.shows_cursor
    assert terminal.is_as_before


def test_the_screens_are_those_that_are_stored(open_terminal):
    terminal = open_terminal("services", 200)
    terminal.wait_for_lines(stored("services", "at first"))
    terminal.send(DOWN * 8)
    terminal.wait_for_lines(stored("services", "eight rows down"))
    terminal.send(PAGE_DOWN * 2)
    terminal.wait_for_lines(stored("services", "two pages down"))
    terminal.send(PAGE_DOWN * 30)
    terminal.wait_for_lines(stored("services", "at the end"))
    terminal.resize(8, 30)
    terminal.wait_for_lines(stored("services", "narrow"))
    terminal.resize(3, 10)
    terminal.wait_for_lines(stored("services", "tiny"))
    terminal.resize(1, 10)
    terminal.wait_for_lines(stored("services", "one row"))
    terminal.resize(100, 250)
    terminal.wait_for_lines(stored("services", "large"))
    terminal.send(ENTER)
    assert terminal.wait_end() == 0
    expect_gone(terminal)
    assert terminal.out.read_text() == "Überweisung-16\n"


def test_search(open_terminal):
    terminal = open_terminal("services", 200)
    terminal.send("gate 88")
    terminal.wait_for_lines(stored("searches", "two words"))
    terminal.send(control("u"), "支払 92")
    terminal.wait_for_lines(stored("searches", "wide characters"))
    terminal.resize(3, 10)
    terminal.wait_for_lines(stored("searches", "the same, tiny"))
    terminal.resize(24, 80)
    terminal.send(control("w"))
    terminal.wait_for_lines(stored("searches", "without the last word"))
    terminal.send(control("u"), "Üb")
    terminal.wait_for_lines(stored("searches", "a capital"))
    terminal.send("x")
    terminal.wait_for_lines(stored("searches", "nothing found"))
    terminal.send(ENTER, BACKSPACE * 3, "bil", ENTER)
    terminal.wait_for_lines(stored("searches", "a service that can't be chosen"))
    terminal.send(control("u"), "orders 3", control("n"), control("p"), ENTER)
    assert terminal.wait_end() == 0
    expect_gone(terminal)
    assert terminal.out.read_text() == "orders.v2-3\n"


def test_several_ports_and_mistakes(open_terminal):
    terminal = open_terminal("ports", 3)
    terminal.wait_for(PORTS)
    terminal.send(TAB, DOWN, TAB)
    terminal.wait_for("3/3 · 2 selected")
    terminal.send(ENTER)
    terminal.wait_for("Service port 8080 → Workspace port [8080]:")
    terminal.send("99999", ENTER)
    terminal.wait_for("✗ '99999' isn't a port number. Enter one between 1 and 65535.")
    terminal.send("30x0", LEFT * 2, "\x1b[3~", END, "0", ENTER)
    terminal.wait_for("[8082]:")
    terminal.send(ENTER)
    assert terminal.wait_end() == 0
    assert terminal.lines == [
        "Map selected ports to workspace ports:",
        "  Service port 8080 → Workspace port [8080]: 3000",
        "  Service port 8082 → Workspace port [8082]: 8082",
    ]
    assert terminal.is_as_before
    assert terminal.out.read_text() == "8080:3000 8082:8082\n"


def test_one_port_is_no_question(open_terminal):
    terminal = open_terminal("ports", 1)
    terminal.wait_for("[8080]:")
    terminal.send(ENTER)
    assert terminal.wait_end() == 0
    assert terminal.lines == [
        "Service 'api-server' has 1 port: 8080 (auto-selected)",
        "Map selected ports to workspace ports:",
        "  Service port 8080 → Workspace port [8080]: 8080",
    ]


def test_intercept_to_stop(open_terminal):
    terminal = open_terminal("stop")
    terminal.wait_for_lines(
        ["Select intercept to stop:", "  2/2", "▌ api-server (Active) - 8080 → 3000", "  billing (Degraded)"]
    )
    terminal.send(control("j"), ENTER)
    assert terminal.wait_end() == 0
    assert terminal.out.read_text() == "billing\n"


def test_what_is_typed_ahead_answers_the_next_question(open_terminal):
    """A search before the program runs, and then all other keys at once."""
    terminal = open_terminal("start", 3)
    terminal.send("支払")
    terminal.wait_for(f"{SERVICE} 支払")
    terminal.send(ENTER, TAB, TAB, ENTER, "3000", ENTER, "x", ENTER, "3001", ENTER)
    assert terminal.wait_end() == 0
    assert terminal.out.read_text() == "支払い-サービス 8082:3000 9082:3001\n"


# The keys that lead to each question, and what is then on the screen.
STEPS = {
    "service": ("", SERVICE),
    "search": ("api", "17/200"),
    "ports": ("支払" + ENTER, PORTS),
    "first port": ("支払" + ENTER + TAB + TAB + ENTER, "[8082]:"),
    "mistake": ("支払" + ENTER + ENTER + "x" + ENTER, "✗ 'x' isn't"),
    "second port": ("支払" + ENTER + TAB + TAB + ENTER + ENTER, "[9082]:"),
}


@pytest.mark.parametrize(("key", "code"), [(control("c"), INTERRUPTED), (ESCAPE, CANCELLED)], ids=["Ctrl-C", "Esc"])
@pytest.mark.parametrize("step", STEPS)
def test_leaving_at_each_step(open_terminal, step, key, code):
    keys, shown = STEPS[step]
    terminal = open_terminal("start", 200)
    terminal.wait_for(SERVICE)
    terminal.send(keys)
    terminal.wait_for(shown)
    terminal.send(key)
    assert terminal.wait_end() == code
    assert terminal.is_as_before
    assert terminal.shows_cursor
    assert not any(text in terminal.text for text in (SERVICE, PORTS, "✗"))
    assert terminal.out.read_text() == ""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_a_signal_that_ends_it(open_terminal, number):
    terminal = open_terminal("services", 200)
    terminal.wait_for(SERVICE)
    assert not terminal.is_as_before
    terminal.signal(number)
    # Swift's runtime may have a handler for SIGQUIT, which writes a backtrace and returns.
    assert terminal.wait_end() in ((-number, INTERRUPTED) if number == signal.SIGQUIT else (-number,))
    assert terminal.is_as_before
    assert terminal.shows_cursor
    assert SERVICE not in terminal.text


def test_an_interrupt_from_outside(open_terminal):
    terminal = open_terminal("services", 200)
    terminal.wait_for(SERVICE)
    terminal.signal(signal.SIGINT)
    assert terminal.wait_end() == INTERRUPTED
    expect_gone(terminal)


def test_an_exit_from_another_thread(open_terminal):
    terminal = open_terminal("exit")
    terminal.wait_for(SERVICE)
    assert terminal.wait_end() == 7
    expect_gone(terminal)


def test_the_terminal_goes_away(open_terminal):
    terminal = open_terminal("services", 200)
    terminal.wait_for(SERVICE)
    terminal.child.ptyproc.fileobj.close()
    until = time.monotonic() + 10
    while terminal.child.isalive() and time.monotonic() < until:
        time.sleep(0.01)
    assert not terminal.child.isalive()


class TestInAShell:
    """What a shell with job control does with it."""

    @pytest.fixture
    def shell(self, closing):
        terminal = closing(
            Terminal(["/bin/bash", "--norc", "--noprofile", "-i"], environment={"PS1": "$ ", "HISTFILE": "/dev/null"})
        )
        terminal.wait_for("$")
        return terminal

    @pytest.mark.parametrize("by", ["key", "signal"])
    def test_stopped_and_continued(self, shell, trial, by):
        shell.send(f"{trial} services 200", ENTER)
        shell.wait_for(SERVICE)
        shell.send("web")
        shell.wait_for("▌ web")
        if by == "key":
            shell.send(control("z"))
        else:
            os.kill(self.child_of(shell), signal.SIGTSTP)
        shell.wait_for("Stopped")
        # The shell has its terminal, and nothing of the question is left.
        assert SERVICE not in shell.text
        assert shell.shows_cursor
        shell.send("echo se''en", ENTER)
        shell.wait_for("\nseen")
        shell.send("fg", ENTER)
        shell.wait_for(f"{SERVICE} web")
        shell.send(DOWN, ENTER)
        shell.wait_for("\nweb-1\n$")
        assert SERVICE not in shell.text

    def test_stopped_by_what_nobody_can_handle(self, shell, trial):
        shell.send(f"{trial} services 200", ENTER)
        shell.wait_for(SERVICE)
        os.kill(self.child_of(shell), signal.SIGSTOP)
        shell.wait_for("Stopped")
        shell.send("fg", ENTER)
        shell.wait_for(lambda terminal: terminal.text.count(SERVICE) == 2)
        shell.send("web", ENTER)
        shell.wait_for("\nweb\n$")

    @pytest.mark.parametrize("rows", [24, 16, 10, 3])
    def test_what_was_there_stays(self, shell, trial, rows):
        for line in range(30):
            shell.send(f"echo line {line}", ENTER)
        shell.wait_for("\nline 29\n$")
        shell.send(f"clear; echo be''fore; {trial} services 200; echo af''ter", ENTER)
        shell.wait_for(SERVICE)
        shell.resize(rows, 40)
        shell.send("web-1")
        shell.wait_for("▌ web-1 ")
        shell.send(ENTER)
        shell.wait_for("\nafter\n$")
        assert (shell.history + shell.lines)[-4:] == ["before", "web-1", "after", "$"]

    @staticmethod
    def child_of(shell):
        return int(subprocess.run(["pgrep", "-P", str(shell.child.pid)], capture_output=True, check=True).stdout)


def test_an_escape_sequence_in_two_pieces(open_terminal):
    terminal = open_terminal("services", 200)
    terminal.wait_for(SERVICE)
    terminal.send("\x1b[")
    time.sleep(0.2)
    terminal.send("B")
    terminal.wait_for("▌ billing")
    # Half of a character, and the other half.
    terminal.send_bytes("支".encode()[:2])
    time.sleep(0.1)
    terminal.send_bytes("支".encode()[2:])
    terminal.wait_for(f"{SERVICE} 支")


def test_a_paste_answers_nothing(open_terminal):
    terminal = open_terminal("services", 200)
    terminal.wait_for(SERVICE)
    terminal.send("\x1b[200~web\rbilling\n\x1b[201~")
    terminal.wait_for(f"{SERVICE} web billing")
    terminal.send(control("c"))
    assert terminal.wait_end() == INTERRUPTED
    assert b"\x1b[?2004h" in terminal.written
    assert terminal.written.rindex(b"\x1b[?2004l") > terminal.written.rindex(b"\x1b[?2004h")


def test_no_color(open_terminal):
    colored = open_terminal("services", 200)
    colored.send("web")
    colored.wait_for("▌ web")
    assert colored.colors
    plain = open_terminal("services", 200, environment={"NO_COLOR": "1"})
    plain.send("web")
    plain.wait_for("▌ web")
    assert not plain.colors


def test_where_nobody_can_be_asked(trial, open_terminal):
    dumb = open_terminal("services", 200, columns=200, environment={"TERM": "dumb"})
    assert dumb.wait_end() == NO_TERMINAL
    sentence = "picker-trial: there is no terminal to ask on. Give what is missing as arguments (see --help)."
    assert dumb.lines == [sentence]
    assert b"\x1b" not in dumb.written
    done = subprocess.run([trial, "services", "200"], stdin=subprocess.DEVNULL, capture_output=True, timeout=10)
    assert (done.returncode, done.stdout, done.stderr.decode()) == (NO_TERMINAL, b"", sentence + "\n")


@pytest.mark.parametrize("seed", range(5))
def test_garbage(open_terminal, seed):
    """Whatever is typed, and however the window is pulled, Ctrl-C ends it and the terminal is as before."""
    source = random.Random(seed)
    terminal = open_terminal("start", 200)
    terminal.wait_for(SERVICE)
    for _ in range(30):
        if not terminal.child.isalive():
            break
        # Without what would leave: ETX, EOT, BEL, Ctrl-Z, and a lone ESC.
        data = bytes(source.choice([*range(32, 256), 9, 13, 14, 16, 21, 23]) for _ in range(source.randrange(200)))
        terminal.send_bytes(data.replace(b"\x1b", b"") + source.choice([b"", b"\x1b[A", b"\x1b[5~", b"\x1b[999999X"]))
        terminal.resize(source.randrange(1, 50), source.randrange(1, 200))
    if terminal.child.isalive():
        terminal.resize(24, 80)
        terminal.send(control("c"))
    assert terminal.wait_end() in (0, INTERRUPTED)
    assert terminal.is_as_before
    assert terminal.shows_cursor


def test_progress(closing, trial, folder):
    terminal = closing(Terminal([trial, "progress", "400"]))
    turning = set()
    terminal.wait_for(lambda terminal: turning.add(terminal.text) or "waiting for the tunnel" in terminal.text)
    assert len([text for text in turning if "starting the sidecar" in text]) >= 3
    assert terminal.wait_end() == 0
    done = [
        "  ✓ sidecar running next to api-server                       0.2 s",
        "! nothing is listening on localhost:3000 yet",
        "  ✗ the tunnel didn't come up",
    ]
    assert terminal.lines == done
    # Elsewhere these lines and nothing else.
    plain = subprocess.run([trial, "progress", "10"], capture_output=True, text=True, timeout=10)
    assert plain.stderr.splitlines() == done
