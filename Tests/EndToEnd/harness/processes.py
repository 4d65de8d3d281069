"""Programs that a test starts: their output is kept, and none outlives the test."""

import contextlib
import os
import pathlib
import resource
import signal
import subprocess
import threading
import time

from .waiting import NotSeen, eventually


def kill_whole(pid):
    """kill -9 of a process that isn't this one's child; when it returns, all its sockets are closed.

    A first thread that has ended shows no descriptor any more, while others still hold them open: what comes in then is
    taken by nobody.
    """
    os.kill(pid, signal.SIGKILL)
    eventually(f"process {pid} is gone", lambda: not _threads(pid), 1)


def freeze_whole(pid):
    """SIGSTOP; when it returns, no thread runs any more: one on another processor goes on for a moment."""
    os.kill(pid, signal.SIGSTOP)
    eventually(f"process {pid} has stopped", lambda: all(_is_stopped(pid, thread) for thread in _threads(pid)), 1)


def _is_stopped(pid, thread):
    with contextlib.suppress(OSError, IndexError):
        stat = pathlib.Path(f"/proc/{pid}/task/{thread}/stat").read_bytes()
        return stat.rpartition(b")")[2].split()[0] == b"T"
    return True


def _threads(pid):
    """The threads of a process that live. The first one stays, ended, until the process is reaped."""
    try:
        threads = [int(name) for name in os.listdir(f"/proc/{pid}/task")]
        state = pathlib.Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0]
    except (OSError, IndexError):
        return []
    return [] if threads == [pid] and state in (b"Z", b"X") else threads


class Process:
    """A program in a process group of its own. Its standard error is a file; its standard output is kept as lines."""

    def __init__(
        self, name, arguments, log, *, user=None, descriptors=None, directory=None, environment=None, pass_descriptors=()
    ):
        self.name = name
        self.arguments = [str(argument) for argument in arguments]
        self.log_path = pathlib.Path(log)
        self.lines = []
        self._changed = threading.Condition()
        self._ended_output = False

        def limit():
            if descriptors:
                resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))

        with open(self.log_path, "ab") as log_file:
            self.child = subprocess.Popen(
                self.arguments,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log_file,
                text=True,
                errors="replace",
                start_new_session=True,
                user=user,
                group=None if user is None else user,
                extra_groups=None if user is None else [],
                cwd=directory,
                env={**os.environ, **(environment or {})},
                preexec_fn=limit if descriptors else None,
                pass_fds=pass_descriptors,
            )
        self.pid = self.child.pid
        threading.Thread(target=self._read_output, daemon=True).start()

    def _read_output(self):
        for line in self.child.stdout:
            with self._changed:
                self.lines.append(line.rstrip("\n"))
                self._changed.notify_all()
        with self._changed:
            self._ended_output = True
            self._changed.notify_all()

    def first_line(self, deadline):
        """The first line of standard output; fails if the program ends or the deadline passes before it."""
        until = time.monotonic() + deadline
        with self._changed:
            while not self.lines:
                left = until - time.monotonic()
                if self._ended_output or left <= 0:
                    why = "ended" if self._ended_output else f"{deadline:g} s passed"
                    raise NotSeen(f"{self.name}: {why} before it printed a line.\n{self.log()}")
                self._changed.wait(left)
            return self.lines[0]

    def log(self):
        """What it has written to standard error."""
        return self.log_path.read_text(errors="replace")

    @property
    def is_running(self):
        return self.child.poll() is None

    def signal(self, number):
        self.child.send_signal(number)

    def wait(self, deadline):
        """Its exit code, negative for a signal."""
        try:
            return self.child.wait(deadline)
        except subprocess.TimeoutExpired:
            raise NotSeen(f"{self.name}: still runs after {deadline:g} s.\n{self.log()}") from None

    def stop(self, deadline=30):
        """Asks it to end (SIGTERM), and returns its exit code. All that it has printed is in `lines` then."""
        self.signal(signal.SIGTERM)
        code = self.wait(deadline)
        with self._changed:
            # One that it has started may keep its output open.
            self._changed.wait_for(lambda: self._ended_output, 2)
        return code

    def kill(self):
        """SIGKILL, and waits until the kernel has closed all that it had open."""
        self.signal(signal.SIGKILL)
        self.wait(30)

    def resident_mib(self, field="VmRSS"):
        """Its resident memory now (VmRSS) or at its highest (VmHWM)."""
        for line in pathlib.Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1]) / 1024
        raise NotSeen(f"{self.name}: no {field}, it has ended.\n{self.log()}")

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def end_group(self, number):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)


class Processes:
    """All that one test has started, with a folder for their logs."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.all = []

    def start(self, name, arguments, **options):
        log = self.folder / f"{len(self.all):02}-{name}.log"
        process = Process(name, arguments, log, **options)
        self.all.append(process)
        return process

    def end_all(self):
        """Ends every process and its descendants: asked first, then not asked."""
        running = [process for process in reversed(self.all) if process.is_running]
        for process in running:
            process.end_group(signal.SIGCONT)
            process.end_group(signal.SIGTERM)
        until = time.monotonic() + 3
        while any(process.is_running for process in running) and time.monotonic() < until:
            time.sleep(0.01)
        for process in self.all:
            # Also where the leader has ended: what it started may live on in its group.
            process.end_group(signal.SIGKILL)
        for process in self.all:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.child.wait(5)

    def logs(self, tail=60):
        """The end of every log, for the report of a test that failed."""
        parts = []
        for process in self.all:
            lines = process.log().splitlines()
            code = process.child.poll()
            state = "runs" if code is None else f"ended with {code}"
            parts.append(f"--- {process.name} ({state}): {' '.join(process.arguments)}")
            parts += process.lines[:5] + (["…"] if len(lines) > tail else []) + lines[-tail:]
        return "\n".join(parts)
