"""The show of agent/demo, which builds the agents first and says where they are."""

import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "Tests/EndToEnd"))

from harness.agents import Sidecar, Workspace, endpoint  # noqa: E402
from harness.load import ask  # noqa: E402
from harness.ports import address, free_port  # noqa: E402
from harness.processes import Processes  # noqa: E402
from harness.waiting import NotSeen  # noqa: E402
from harness.web import WebServer  # noqa: E402

# A switch takes a second at most, but this machine may be busy; past this something is wrong.
STEP_DEADLINE = 60
SHOW_DEADLINE = 300


class Client(threading.Thread):
    """Asks the service again and again, each time on a new connection, and notes who answered and when."""

    def __init__(self, service):
        super().__init__(daemon=True)
        self.service = service
        self.answers = []  # (when it was asked, when it was answered, by whom or why not)
        self.between_requests = threading.Lock()
        self._stopping = False
        self.start()

    def run(self):
        while not self._stopping:
            with self.between_requests:
                asked = time.monotonic()
                try:
                    who = ask(self.service, STEP_DEADLINE)
                except (OSError, ValueError) as error:
                    who = f"nobody: {error}"
                self.answers.append((asked, time.monotonic(), who))
            time.sleep(0.003)

    def stop(self):
        self._stopping = True
        self.join(STEP_DEADLINE)

    def first_answer(self, name, since):
        """When a request sent after this moment was answered by that server for the first time."""
        until = time.monotonic() + STEP_DEADLINE
        seen = 0
        while time.monotonic() < until:
            for asked, answered, who in self.answers[seen:]:
                seen += 1
                if asked >= since and who == name:
                    return answered
            time.sleep(0.001)
        raise NotSeen(f"the {name} did not answer within {STEP_DEADLINE} s")

    def summary(self):
        names = [who for _, _, who in self.answers]
        return {name: names.count(name) for name in dict.fromkeys(names)}


def step(number, text):
    print(f"\n{number}. {text}", flush=True)


def command(text):
    print(f"   $ {text}", flush=True)


def seen(text, detail=""):
    print(f"   ✓ {text:<48}{detail}", flush=True)


def make_keys(binaries, folder, name):
    """A key pair made by `kl`, as a person would; the private key's file and the public key."""
    private = subprocess.run([binaries / "kl", "genkey"], check=True, capture_output=True, text=True).stdout
    path = folder / f"{name}.key"
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(private)
    public = subprocess.run(
        [binaries / "kl", "pubkey"], input=private, check=True, capture_output=True, text=True
    ).stdout
    return path, public.strip()


def show(binaries, folder, processes):
    sidecar_key, sidecar_public = make_keys(binaries, folder, "sidecar")
    workspace_key, workspace_public = make_keys(binaries, folder, "workspace")
    original, mine = WebServer("environment"), WebServer("workspace")
    service = ("127.0.0.1", free_port())

    step(1, f"A web server is the original service, on port {original.address[1]}. A sidecar stands in front of it.")
    command(f"kl-sidecar run --service-port 8080:{address(*original.address)} --divert listen={address(*service)} …")
    sidecar = Sidecar(
        processes,
        binaries,
        [
            *("--private-key-file", sidecar_key, "--peer", workspace_public, "--listen-tcp", "127.0.0.1:0"),
            *("--service-port", f"8080:{address(*original.address)}", "--divert", f"listen={address(*service)}"),
        ],
    )
    client = Client(service)
    client.first_answer("environment", time.monotonic())
    seen(f"who asks port {service[1]} is answered by the environment")

    def start_workspace():
        place = endpoint(sidecar_public, *sidecar.tunnel)
        command(f"kl-workspace run --sidecar {place} --map 8080:{mine.address[1]} …")
        began = time.monotonic()
        flags = ["--private-key-file", workspace_key, "--sidecar", place, "--map", f"8080:{mine.address[1]}"]
        agent = Workspace(processes, binaries, flags)
        took = client.first_answer("workspace", began) - began
        seen("the workspace answers", f"{took:.2f} s after its agent was started, tunnel included")
        return agent

    step(2, f"A developer runs a server of their own, on port {mine.address[1]}, and the workspace agent.")
    workspace = start_workspace()
    time.sleep(0.5)

    step(3, "The workspace agent is killed, as by a crash. Nobody tells the sidecar.")
    with client.between_requests:
        # A request under way at this moment would be lost with the agent; between two nothing may be.
        command(f"kill -9 {workspace.process.pid}")
        began = time.monotonic()
        workspace.kill()
    took = client.first_answer("environment", began) - began
    seen("the environment answers", f"{took:.2f} s later; the request that came meanwhile waited")
    time.sleep(0.5)

    step(4, "The workspace agent is started again.")
    workspace = start_workspace()
    time.sleep(0.5)

    step(5, "The intercept is stopped.")
    command(f"kill {workspace.process.pid}")
    began = time.monotonic()
    workspace.process.signal(signal.SIGTERM)
    took = client.first_answer("environment", began) - began
    seen("the environment answers", f"{took:.2f} s later")
    if (code := workspace.process.wait(STEP_DEADLINE)) != 0:
        raise NotSeen(f"the workspace agent ended with {code}\n{workspace.process.log()}")
    seen("the workspace agent has ended by itself")

    client.stop()
    if (code := sidecar.stop(STEP_DEADLINE)) != 0:
        raise NotSeen(f"the sidecar ended with {code}\n{sidecar.process.log()}")
    counts = client.summary()
    known = {"environment", "workspace"}
    failed = sum(count for name, count in counts.items() if name not in known)
    answered = ", ".join(f"{counts.get(name, 0)} by the {name}" for name in sorted(known))
    longest = max(done - asked for asked, done, _ in client.answers)
    print(f"\n{len(client.answers)} requests: {answered}, {failed} failed. The longest took {longest:.2f} s.")
    if failed:
        raise NotSeen("; ".join(name for name in counts if name not in known))


def end(number, _):
    raise KeyboardInterrupt if number != signal.SIGALRM else NotSeen(f"the demo was not done in {SHOW_DEADLINE} s")


def main():
    binaries = pathlib.Path(sys.argv[1]).resolve()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM):
        signal.signal(number, end)
    signal.alarm(SHOW_DEADLINE)
    folder = pathlib.Path(tempfile.mkdtemp(prefix="kl-demo-"))
    processes = Processes(folder / "logs")
    try:
        show(binaries, folder, processes)
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    except (NotSeen, OSError, subprocess.SubprocessError) as error:
        print(f"\n   ✗ {error}\n\n{processes.logs()}", file=sys.stderr)
        return 1
    finally:
        signal.alarm(0)
        # A second Ctrl-C must not keep the first from cleaning up.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        processes.end_all()
        shutil.rmtree(folder, ignore_errors=True)
    print("Everything was seen as it should be. Nothing is left running.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
