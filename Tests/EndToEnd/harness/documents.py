"""Shell commands as the documents have them, run as a reader would: block after block in one shell."""

import os
import pathlib
import re
import shutil
import signal
import subprocess
import time

from .waiting import NotSeen

ROOT = pathlib.Path(__file__).resolve().parents[3]
DEADLINE = 120


class Block:
    """A block of commands, and what the document says that it prints; None where it says nothing."""

    def __init__(self, commands, expected):
        self.commands, self.expected = commands, expected


def blocks(document, heading):
    """The ```sh blocks under a heading. A block without a language that follows one is what it prints."""
    text = (ROOT / document).read_text()
    level = heading.split(" ")[0]
    section = re.search(rf"^{re.escape(heading)}\n(.*?)(?=^#{{1,{len(level)}}} |\Z)", text, re.MULTILINE | re.DOTALL)
    assert section, f"{document} has no heading '{heading}'"
    found = []
    for language, body in re.findall(r"^```(\w*)\n(.*?)^```$", section.group(1), re.MULTILINE | re.DOTALL):
        if language == "sh":
            found.append(Block(body, None))
        elif language == "" and found:
            found[-1].expected = body
    assert found, f"'{heading}' in {document} has no blocks of commands"
    return found


class Reader:
    """Somebody with a clone, who has built it, and pastes what a document says."""

    def __init__(self, binaries, folder, ports):
        self.folder = pathlib.Path(folder)
        self.ports = {str(number): str(free) for number, free in ports.items()}
        (self.folder / "tmp").mkdir()
        (self.folder / "clone").mkdir()
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("KL_", "XDG_"))}
        self.environment = {
            **kept,
            "PATH": f"{binaries}:{os.environ['PATH']}",
            "KL_HOME": str(self.folder / "home"),
            "TMPDIR": str(self.folder / "tmp"),
            "NO_COLOR": "1",
            "KL_DAEMON_IDLE_SECONDS": "1",
        }

    def with_ports(self, text):
        return re.sub(r"\d+", lambda match: self.ports.get(match.group(), match.group()), text)

    def run(self, wanted):
        """What each block printed, on both outputs together."""
        mark = "=== end of a block ==="
        script = "".join(f"{self.with_ports(block.commands)}\necho '{mark}'\n" for block in wanted)
        log = self.folder / "said.txt"
        with open(log, "wb") as said:
            # As pasted, but that the first failure ends it. Its programs may outlive it, so no pipe is waited for.
            shell = subprocess.Popen(
                ["bash", "-e", "-o", "pipefail", "-c", script],
                cwd=self.folder / "clone",
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,
            )
            try:
                code = shell.wait(DEADLINE)
            except subprocess.TimeoutExpired:
                code = f"none within {DEADLINE} s"
                os.killpg(shell.pid, signal.SIGKILL)
                shell.wait()
        text = log.read_text(errors="replace")
        if code != 0:
            raise NotSeen(f"the commands' exit code was {code}\n{text}")
        # What the shell itself says of a job that was ended.
        text = re.sub(r"^bash: line \d+: +\d+ (Killed|Terminated) .*\n", "", text, flags=re.MULTILINE)
        return text.split(mark + "\n")[: len(wanted)]

    def left(self):
        """Processes that the commands started and that still run, waited for a moment."""
        until = time.monotonic() + 10
        while (found := self._processes()) and time.monotonic() < until:
            time.sleep(0.05)
        return found

    def end(self):
        for pid in self._processes():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        shutil.rmtree(self.folder / "tmp", ignore_errors=True)

    def _processes(self):
        mine = f"TMPDIR={self.folder / 'tmp'}".encode()
        found = {}
        for entry in pathlib.Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and mine in (entry / "environ").read_bytes().split(b"\0"):
                    found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                pass
        return found


def pattern(expected):
    """What a document says is printed, where times, names, keys and folders are examples."""
    parts = []
    for line in expected.splitlines():
        line = re.escape(line.rstrip())
        line = re.sub(r"(\\ ){2,}", r"\\ +", line)
        line = line.replace("…", r"\S*")
        line = re.sub(r"\d+\\\.\d+(?=\\ m?s\b)", r"\\d+\\.\\d+", line)
        line = re.sub(r"\b\d+s\b", r"\\d+s", line)
        # Connections, open (total): the sidecar tells its counts once a second.
        line = re.sub(r"\d+\\ \\\(\d+\\\)", r"\\d+\\ \\(\\d+\\)", line)
        line = re.sub(r"ada@thinkpad", r"\\S+@\\S+", line)
        line = re.sub(r"127\\\.0\\\.0\\\.1:40123", r"127\\.0\\.0\\.1:\\d+", line)
        line = re.sub(r"peer\\ \S*?,", r"peer\\ \\S+,", line)
        # Both ways are tried at once, and on a busy machine the byte stream may be there first.
        line = re.sub(r"tunnel\\ up:\\ udp", r"tunnel\\ up:\\ (udp|tcp)", line)
        line = re.sub(r"udp(?=\\ \+?\\d\+\\\.\\d\+\\ ms)", r"(udp|tcp)", line)
        parts.append(line)
    return re.compile("\n".join(parts) + "\n")
