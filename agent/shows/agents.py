"""The two agents by themselves, as a script or another program would start them."""

import os
import signal
import subprocess
import time

from harness.agents import Sidecar, Workspace, endpoint
from harness.ports import address, free_port
from harness.processes import Processes
from harness.waiting import NotSeen
from harness.web import WebServer

from .client import STEP_DEADLINE, Client, command, seen, step


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


class Show:
    """What agent/demo --agents shows."""

    def __init__(self, binaries, folder):
        self.binaries, self.folder = binaries, folder
        self.processes = Processes(folder / "logs")

    def logs(self):
        return self.processes.logs()

    def end(self):
        self.processes.end_all()

    def run(self):
        binaries, folder, processes = self.binaries, self.folder, self.processes
        sidecar_key, sidecar_public = make_keys(binaries, folder, "sidecar")
        workspace_key, workspace_public = make_keys(binaries, folder, "workspace")
        original, mine = WebServer("environment"), WebServer("workspace")
        service = ("127.0.0.1", free_port())

        at = address(*original.address)
        step(1, f"A web server is the original service, at {at}. A sidecar stands in front of it.")
        command(f"kl-sidecar run --service-port 8080:{at} --divert listen={address(*service)} …")
        sidecar = Sidecar(
            processes,
            binaries,
            [
                *("--private-key-file", sidecar_key, "--peer", workspace_public, "--listen-tcp", "127.0.0.1:0"),
                *("--service-port", f"8080:{at}", "--divert", f"listen={address(*service)}"),
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
        client.report({"environment": "environment", "workspace": "workspace"})
