"""Containers: processes in a pod's network, each with mounts and process numbers of its own."""

import contextlib
import os
import pathlib
import signal
import subprocess
import threading
import time
import uuid

from .node import variables
from .store import now

# Read-only, as an image may be. Places that are mounts of their own stay as they are.
START = """
mount -o remount,bind,ro / || exit 125
exec "$@"
"""


class Container:
    """One run of a container. Its output is a file; `on_end` is called when it has ended."""

    def __init__(self, sandbox, name, command, log, pod_name, *, capabilities=None, tells_log=False, on_end=lambda: None):
        self.name, self.log = name, pathlib.Path(log)
        self.identity = "containerd://" + uuid.uuid4().hex * 2
        self.started_at, self.ended_at, self.code, self.reason = now(), None, None, None
        self._rights = []
        if capabilities is not None:
            kept = ",".join(["-all", *(f"+{name.lower()}" for name in capabilities)])
            self._rights = ["setpriv", "--bounding-set", kept, "--inh-caps", "-all", "--no-new-privs", "--"]
        self._tells_log = tells_log
        own = ["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--mount-proc", "--"]
        with open(self.log, "ab") as output:
            self._outer = subprocess.Popen(
                [*sandbox.inside, *own, "sh", "-c", START, "sh", *self._rights, *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=variables(pod_name),
                start_new_session=True,
            )
        self._first = None
        self._on_end = on_end
        threading.Thread(target=self._wait, daemon=True).start()

    def _wait(self):
        code = self._outer.wait()
        self.code = 128 - code if code < 0 else code
        self._mend_code()
        self.reason = self.reason or ("Completed" if self.code == 0 else "Error")
        self.ended_at = now()
        self._on_end()

    def _mend_code(self):
        """unshare(1) can't end by SIGKILL itself, as it would after another signal: it says so, in the log, and ends with 1."""
        said = b"unshare: sigprocmask unblock failed: Invalid argument\n"
        written = self.log.read_bytes()
        if self.code == 1 and written.endswith(said):
            self.code = 128 + signal.SIGKILL
            os.truncate(self.log, len(written) - len(said))

    @property
    def is_running(self):
        return self.ended_at is None

    @property
    def pid(self):
        """Of its first process, as the test's machine numbers it; None once it has ended."""
        until = time.monotonic() + 10
        while self._first is None and self.is_running and time.monotonic() < until:
            self._first = _below(_below(self._outer.pid))
            if self._first is None:
                time.sleep(0.002)
        return self._first if self.is_running else None

    def command_inside(self, command):
        """What runs a command as `exec` does: with this container's mounts, processes, network and rights."""
        return ["nsenter", f"--target={self.pid}", "--mount", "--net", "--pid", "--", *self._rights, *command]

    def signal(self, number):
        """To its first process, from outside. The kernel drops what that one has no handler for, but for SIGKILL."""
        if pid := self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def kill(self, reason=None):
        self.reason = reason or self.reason
        self.signal(signal.SIGKILL)

    def state(self):
        if self.is_running:
            return {"running": {"startedAt": self.started_at}}
        ended = {"exitCode": self.code, "reason": self.reason, "startedAt": self.started_at, "finishedAt": self.ended_at}
        if self.code and self._tells_log and (text := self._last_words()):
            ended["message"] = text
        return {"terminated": {**ended, "containerID": self.identity}}

    def _last_words(self):
        """As with terminationMessagePolicy FallbackToLogsOnError."""
        return self.log.read_bytes()[-2048:].decode(errors="replace") if self.log.exists() else ""


def _below(pid):
    """The only child of a process; None while there is none."""
    if pid is None:
        return None
    with contextlib.suppress(OSError, IndexError):
        return int(pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])
    return None
