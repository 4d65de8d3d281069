"""A terminal that a program runs in: keys go in, and what a person would see comes out."""

import contextlib
import os
import pty
import signal
import termios
import time
import unicodedata

import pexpect
import pyte

from .waiting import NotSeen, eventually

ENTER, TAB, ESCAPE, BACKSPACE = "\r", "\t", "\x1b", "\x7f"
UP, DOWN, RIGHT, LEFT = "\x1b[A", "\x1b[B", "\x1b[C", "\x1b[D"
PAGE_UP, PAGE_DOWN, HOME, END = "\x1b[5~", "\x1b[6~", "\x1b[H", "\x1b[F"


def control(letter):
    return chr(ord(letter.upper()) & 0x1F)


class _Screen(pyte.HistoryScreen):
    """pyte, but lines leave at the top only where the cursor would leave at the bottom, as in xterm."""

    def resize(self, lines=None, columns=None):
        lines, columns = lines or self.lines, columns or self.columns
        row, column = self.cursor.y, self.cursor.x
        while row >= lines:
            self.cursor.y = self.lines - 1
            self.index()
            row -= 1
        # pyte would take lines away at the top.
        for below in range(lines, self.lines):
            self.buffer.pop(below, None)
        self.lines = lines
        super().resize(lines, columns)
        self.cursor.y, self.cursor.x = row, min(column, columns - 1)


class Terminal:
    """A program in a terminal of its own, of which it is the session's leader.

    With stdout, a path, its standard output goes there, as after `program > file`.
    """

    def __init__(self, arguments, rows=24, columns=80, *, environment=None, directory=None, stdout=None):
        arguments = [str(argument) for argument in arguments]
        if stdout:
            arguments = ["/bin/sh", "-c", 'out=$1; shift; exec "$@" >"$out"', "sh", str(stdout), *arguments]
        inherited = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS", "LINES")}
        self.screen = _Screen(columns, rows, history=10_000)
        self._stream = pyte.ByteStream(self.screen)
        # All that the program has written.
        self.written = b""
        self.child = pexpect.spawn(
            arguments[0],
            arguments[1:],
            dimensions=(rows, columns),
            cwd=directory,
            env={**inherited, "TERM": "xterm-256color", "LC_ALL": "C.UTF-8", **(environment or {})},
            timeout=None,
            use_poll=True,
            # Where the tests run under nohup(1) it is ignored, which a program inherits.
            preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
        )
        # pexpect waits before each key, for programs that aren't ready; here that is part of what is tested.
        self.child.delaybeforesend = None

    def send(self, *keys):
        """Text, or names from above; all at once."""
        self.child.send("".join(keys).encode())

    def send_bytes(self, data):
        self.child.send(data)

    def signal(self, number):
        os.kill(self.child.pid, number)

    def resize(self, rows, columns):
        self._take()
        self.screen.resize(rows, columns)
        self.child.setwinsize(rows, columns)

    @property
    def lines(self):
        """The rows as they are now, without blanks at their ends, and without blank rows at the bottom."""
        self._take()
        lines = [unicodedata.normalize("NFC", line.rstrip()) for line in self.screen.display]
        while lines and not lines[-1]:
            lines.pop()
        return lines

    @property
    def history(self):
        """The rows that went out at the top."""
        self._take()
        rows = self.screen.history.top
        return ["".join(row[column].data for column in range(max(row, default=-1) + 1)).rstrip() for row in rows]

    @property
    def text(self):
        return "\n".join(self.lines)

    @property
    def shows_cursor(self):
        self._take()
        return not self.screen.cursor.hidden

    @property
    def colors(self):
        """Of all that is on the screen."""
        self._take()
        cells = (cell for row in self.screen.buffer.values() for cell in row.values())
        return {color for cell in cells for color in (cell.fg, cell.bg)} - {"default"}

    @property
    def is_as_before(self):
        """Whether its settings are those that a terminal has at the start."""
        ends = pty.openpty()
        try:
            return termios.tcgetattr(self.child.child_fd) == termios.tcgetattr(ends[0])
        finally:
            for end in ends:
                os.close(end)

    def wait_for(self, what, aim=0.5):
        """Waits until a text is on the screen, or a function of this terminal says yes; returns the text."""
        check = what if callable(what) else lambda terminal: what in terminal.text
        named = "a terminal shows what it should"
        try:
            eventually(named, lambda: check(self) or None, aim)
        except NotSeen as error:
            wanted = "a state" if callable(what) else repr(what)
            raise NotSeen(f"{error}\nwanted: {wanted}\nthe screen:\n{self.text}") from None
        return self.text

    def wait_for_lines(self, lines, aim=0.5):
        """Waits until the screen is exactly this."""
        try:
            self.wait_for(lambda terminal: terminal.lines == lines, aim)
        except NotSeen as error:
            raise NotSeen("{}\nwanted:\n{}".format(error, "\n".join(lines))) from None

    def wait_end(self, deadline=10):
        """Its exit code, negative for a signal."""
        until = time.monotonic() + deadline
        while self._take(0.05) and time.monotonic() < until:
            pass
        with contextlib.suppress(pexpect.ExceptionPexpect):
            while self.child.isalive() and time.monotonic() < until:
                time.sleep(0.005)
        if self.child.isalive():
            raise NotSeen(f"{self.child.command}: still runs after {deadline:g} s. The screen:\n{self.text}")
        return self.child.exitstatus if self.child.signalstatus is None else -self.child.signalstatus

    def close(self):
        """The terminal goes away; what still runs in it ends."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.child.pid, signal.SIGCONT)
        with contextlib.suppress(pexpect.ExceptionPexpect):
            self.child.close(force=True)

    def _take(self, wait=0.0):
        """Applies what the program has written; false once there is no more to come."""
        while True:
            try:
                data = self.child.read_nonblocking(1 << 16, timeout=wait)
            except pexpect.TIMEOUT:
                return True
            except (pexpect.EOF, ValueError, OSError):
                return False
            self.written += data
            self._stream.feed(data)
            wait = 0
