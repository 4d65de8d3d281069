"""A service's two agents, wired up: public port → sidecar → tunnel → workspace → local server; behind, the original."""

from .agents import Sidecar, Workspace, endpoint
from .keys import KeyPair
from .ports import address, free_port

SERVICE = 8080


class Pair:
    """The agents of one service. Clients connect to `public`; what is given as `line` stands in the tunnel's way."""

    def __init__(self, processes, binaries, folder, *, original, local, host="127.0.0.1", sidecar=(), workspace=()):
        self.processes, self.binaries, self.host = processes, binaries, host
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.sidecar_key, self.workspace_key = KeyPair(), KeyPair()
        self.sidecar_key_file = self.sidecar_key.write(folder / "sidecar.key")
        self.workspace_key_file = self.workspace_key.write(folder / "workspace.key")
        self.original, self.local = original, local
        self.sidecar_arguments, self.workspace_arguments = list(sidecar), list(workspace)
        self.public = (host, free_port())
        self.tunnel = (host, free_port())
        self.dialled = self.tunnel
        self.sidecar = self.workspace = None

    def start(self, line=None):
        self.start_sidecar()
        if line:
            self.dialled = line.listen_address
        self.start_workspace()
        return self

    def start_sidecar(self, **options):
        self.sidecar = Sidecar(self.processes, self.binaries, self.sidecar_flags(), **options)
        return self.sidecar

    def start_workspace(self, **options):
        self.workspace = Workspace(self.processes, self.binaries, self.workspace_flags(), **options)
        return self.workspace

    def sidecar_flags(self):
        return [
            *("--private-key-file", self.sidecar_key_file),
            *("--peer", self.workspace_key.public),
            *("--listen-tcp", address(*self.tunnel)),
            *("--service-port", f"{SERVICE}:{address(*self.original)}"),
            *("--divert", f"listen={address(*self.public)}"),
            *self.sidecar_arguments,
        ]

    def workspace_flags(self):
        return [
            *("--private-key-file", self.workspace_key_file),
            *("--sidecar", endpoint(self.sidecar_key.public, *self.dialled)),
            *("--map", f"{SERVICE}:{address(*self.local)}"),
            *self.workspace_arguments,
        ]
