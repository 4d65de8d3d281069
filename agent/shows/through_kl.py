"""What a developer does with `kl`, step by step, while a client asks the service without a rest."""

import time

from harness.cli import ComposeProject, Developer
from harness.processes import kill_whole
from harness.waiting import NotSeen, eventually
from harness.web import WebServer

from .client import STEP_DEADLINE, Client, command, seen, step

SERVICE = "api-server"


class Show:
    """What agent/demo shows."""

    def __init__(self, binaries, folder):
        self.project = ComposeProject(binaries, folder / "project", [SERVICE])
        self.developer = Developer(binaries, folder / "home", self.project.folder)

    def logs(self):
        return self.project.logs() + self.developer.logs()

    def end(self):
        self.developer.end()
        self.project.down(self.developer)

    def run(self):
        published, own = self.project.services[SERVICE]
        mine = WebServer("workspace")
        mapping = f"{published}:{mine.address[1]}"

        step(1, f"A compose file has one service, {SERVICE}: it listens on {own}, and its clients use {published}.")
        self.kl("env", "connect", "demo")
        client = Client(self.project.address(SERVICE))
        client.first_answer(SERVICE, time.monotonic())
        seen("the environment answers")

        def start():
            took = self.switch(client, "workspace", "intercept", "start", SERVICE, "--port", mapping)
            seen("the workspace answers", f"{took:.2f} s after start was typed")

        step(2, f"A developer runs a server of their own, on port {mine.address[1]}, and intercepts the service.")
        start()
        # The sidecar tells its counts once a second.
        time.sleep(1.5)
        self.kl("intercept", "list")

        step(3, "The workspace daemon is killed, as by a crash. Nobody tells the sidecar.")
        daemon = self.developer.daemon()
        if daemon is None:
            raise NotSeen("the workspace daemon doesn't run")
        with client.between_requests:
            # A request under way at this moment would be lost with the daemon; between two nothing may be.
            command(f"kill -9 {daemon}")
            began = time.monotonic()
            # Until it is gone its sockets take what nobody reads any more.
            kill_whole(daemon)
        took = client.first_answer(SERVICE, began) - began
        seen("the environment answers", f"{took:.2f} s later; the request that came meanwhile waited")
        self.kl("intercept", "list")

        step(4, "The intercept is started again.")
        start()
        time.sleep(0.5)

        step(5, "The intercept is stopped.")
        took = self.switch(client, SERVICE, "intercept", "stop", SERVICE)
        seen("the environment answers", f"{took:.2f} s after stop was typed")

        client.stop()
        step(6, "The environment is taken down.")
        self.kl("env", "disconnect")
        self.kl("env", "down")
        eventually("the daemon has ended", lambda: self.developer.daemon() is None, 1)
        eventually("no process of the environment runs", lambda: not self.project.processes(), 1)
        client.report({SERVICE: "environment", "workspace": "workspace"})

    def kl(self, *arguments):
        """Runs it, and shows what a person sees."""
        command(" ".join(["kl", *arguments]))
        ran = self.developer.ok(*arguments)
        show(ran.out + ran.error)

    def switch(self, client, name, *arguments):
        """Runs it, and returns how long after that this server answered for the first time."""
        command(" ".join(["kl", *arguments]))
        began = time.monotonic()
        ran = self.developer.begin(*arguments)
        took = client.first_answer(name, began) - began
        out, error = ran.communicate(timeout=STEP_DEADLINE)
        if ran.returncode != 0:
            raise NotSeen(f"kl {' '.join(arguments)} ended with {ran.returncode}\n{out}{error}")
        show(out + error)
        return took


def show(text):
    for line in text.splitlines():
        print(f"     {line}", flush=True)
