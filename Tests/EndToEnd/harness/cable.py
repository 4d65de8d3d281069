"""A service's network and a client's, joined by a cable, and a pair of agents of which the sidecar diverts in the service's."""

from .agents import Sidecar, Workspace, endpoint
from .keys import KeyPair
from .machine import Machine


class Cable:
    """Its ends are `eth0` at the service and `v0` at the client, whose addresses end in 2 and in 1. Each network has the
    IPv4 addresses `10.NUMBER.0.0/24` for all its numbers, and an IPv6 network of the first."""

    def __init__(self, *numbers):
        self.service, self.client = Machine(), Machine()
        self.client.run("ip", "link", "add", "v0", "type", "veth", "peer", "name", "eth0", "netns", self.service.pid)
        for machine, device, last in ((self.service, "eth0", 2), (self.client, "v0", 1)):
            for number in numbers:
                machine.run("ip", "address", "add", f"10.{number}.0.{last}/24", "dev", device)
            machine.run("ip", "address", "add", f"fd6b:6c00:{numbers[0]}::{last}/64", "dev", device, "nodad")
            machine.run("ip", "link", "set", device, "up")

    def rules(self):
        return self.service.run("nft", "-s", "list", "ruleset")

    def close(self):
        self.service.close()
        self.client.close()


class RedirectingAgents:
    """A sidecar in the namespace of a machine, which redirects there, and a workspace that is the only one it accepts."""

    def __init__(self, processes, binaries, folder, service):
        self.processes, self.binaries, self.service = processes, binaries, service
        self.keys = {name: KeyPair() for name in ("sidecar", "workspace")}
        self.files = {name: key.write(folder / f"{name}.key") for name, key in self.keys.items()}

    def start_sidecar(self, *ports, flags=()):
        """For these service ports, as the flag has them."""
        arguments = ["--private-key-file", self.files["sidecar"], "--peer", self.keys["workspace"].public]
        arguments += ["--netns", f"pid:{self.service.pid}", "--listen-tcp", "127.0.0.1:0", "--divert", "redirect"]
        arguments += [word for port in ports for word in ("--service-port", str(port))]
        self.sidecar = Sidecar(self.processes, self.binaries, [*arguments, *flags])
        return self.sidecar

    def start_workspace(self, *mappings, flags=()):
        there = endpoint(self.keys["sidecar"].public, *self.sidecar.tunnel)
        arguments = ["--private-key-file", self.files["workspace"], "--sidecar", there]
        arguments += [word for mapping in mappings for word in ("--map", mapping)]
        self.workspace = Workspace(self.processes, self.binaries, [*arguments, *flags])
        return self.workspace
