"""The small cluster: everything of it is in this process and its children, and ends with them."""

import copy
import json
import pathlib
import tempfile

import yaml

from . import access
from .cluster import Cluster
from .controllers import Controllers
from .nodes import ORIGINAL_IMAGE, Nodes
from .server import Server
from .store import Store

NAMESPACE = "demo"


class SmallCluster(Cluster):
    """Started when made; to be closed. `api.faults` and `api.streams` are for faults, `nodes` for what happens to nodes."""

    is_small = True

    def __init__(self, folder, binaries, nodes=("node-1",)):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="cluster-", dir=folder))
        self.store = Store()
        self.nodes = Nodes(self.store, self.folder / "pods", pathlib.Path(binaries), nodes)
        self.server = Server(self.store, self.nodes, self.folder)
        self.api = self.server.api
        self.controllers = Controllers(self.store, self.api, self.nodes.network)
        self.controllers.start()
        self.server.start()
        for name in ("default", "kube-system"):
            self._create_namespace(name, {})
        self._create_namespace(NAMESPACE, {})
        super().__init__(self._write_kubeconfig(self.api.access.users["kubernetes-admin"]), NAMESPACE)

    def _create_namespace(self, name, labels):
        found = {"metadata": {"name": name, "labels": dict(labels)}}
        self.nodes.fill_in("namespaces", found)
        self.store.create("namespaces", found)

    def create_namespace(self, name, **labels):
        """Labels by the short name of Pod Security's: enforce="baseline"."""
        self._create_namespace(name, {f"pod-security.kubernetes.io/{key}": value for key, value in labels.items()})

    def in_namespace(self, name):
        """This cluster's Services and pods in another namespace."""
        other = copy.copy(self)
        other.namespace = name
        return other

    def _write_kubeconfig(self, user, name="small", namespace=NAMESPACE):
        path = self.folder / f"{user.name}.kubeconfig"
        cluster = {"server": self.server.url, "certificate-authority": str(self.folder / "ca.crt")}
        context = {"cluster": name, "user": user.name, "namespace": namespace}
        whole = {"apiVersion": "v1", "kind": "Config", "current-context": name, "preferences": {}}
        whole["clusters"] = [{"name": name, "cluster": cluster}]
        whole["contexts"] = [{"name": name, "context": context}]
        whole["users"] = [{"name": user.name, "user": {"token": user.token}}]
        path.touch(mode=0o600)
        path.write_text(yaml.safe_dump(whole))
        return path

    def user(self, name, rules, namespaces=(NAMESPACE,)):
        """Somebody with a Role of these rules; returns their kubeconfig."""
        user = self.api.access.add(access.User(name, rules, namespaces, role=name))
        return self._write_kubeconfig(user, namespace=(namespaces or [NAMESPACE])[0])

    def expire(self, name, is_expired=True):
        """The login of a user ends, or is valid again."""
        self.api.access.users[name].is_expired = is_expired

    def user_name(self, name):
        return name

    def image(self):
        return {"image": ORIGINAL_IMAGE}

    # What happens to it

    def lose_node(self, name="node-1"):
        """Its kubelet is away: what is asked of its pods has no effect; what runs there goes on."""
        self.nodes.away.add(name)

    def find_node(self, name="node-1"):
        self.nodes.away.discard(name)
        self.nodes.wake_all()

    def lose_sandbox(self, pod):
        self._run(pod).lose_sandbox()

    def kill_container(self, pod, container, reason=None):
        """SIGKILL to its first process; `reason`: OOMKilled, say."""
        self._run(pod).runs[container].kill(reason)

    def process_of(self, pod, container):
        return self._run(pod).runs[container].pid

    def probed(self, pod, container="app"):
        """How often the kubelet has asked whether it is ready."""
        return self._run(pod).probed.get(container, 0)

    def network_of(self, pod):
        """The machine of a pod: commands run in its network by `machine.run`."""
        return self._run(pod).sandbox

    def log_of(self, pod, container):
        return self._run(pod).runs[container].log.read_text(errors="replace")

    def _run(self, pod):
        return self.nodes.run_of(self.store.get("pods", self.namespace, pod))

    def logs(self):
        """For the report of a test that failed."""
        parts = [f"errors: {self.nodes.errors} {self.controllers.errors}"]
        for log in sorted(self.folder.glob("pods/*/*.log")):
            parts.append(f"--- {log.parent.name}/{log.name}\n{log.read_text(errors='replace')[-2000:]}")
        asked = [json.dumps(request) for request in self.api.requests[-40:]]
        return "\n".join([*parts, "--- the last requests", *asked])

    def close(self):
        self.controllers.close()
        self.server.close()
        self.nodes.close()
