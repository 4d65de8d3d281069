"""All nodes of a cluster: which pods run where, what is there of images, and what the API server asks of a kubelet."""

import hashlib
import itertools
import os
import pathlib
import shutil
import sys
import threading

from . import failures, pod_rules
from .api import suffix
from .kubelet import PodRun, dial_error
from .node import NodeNetwork, variables

ORIGINAL_IMAGE = "kl-test-original:1"
# What a container runtime says of a command that its image lacks.
NOT_THERE = (
    "Internal error occurred: error executing command in container: failed to exec in container: failed to start exec: OCI runtime "
    'exec failed: exec failed: unable to start container process: exec: "{0}": executable file not found in $PATH'
)
ORIGINAL = pathlib.Path(__file__).with_name("original.py")
# All that it needs.
PROGRAMS = [ORIGINAL, ORIGINAL.with_name("grpc.py")]


class Nodes:
    """One network for all nodes; a node is a name whose kubelet may be away."""

    def __init__(self, store, folder, binaries, names=("node-1",)):
        self.store, self.folder, self.binaries, self.names = store, pathlib.Path(folder), binaries.resolve(), list(names)
        self.network = NodeNetwork()
        # Names of nodes whose kubelets don't run: what is asked of their pods has no effect.
        self.away = set()
        self.absent_images = set()
        self.is_closing = False
        self.errors = []
        self._pods = {}
        self._lock = threading.Lock()
        self._turn = itertools.count()
        self._node_port = itertools.count(30_100)
        # Where new pods aren't given a node.
        self.is_scheduling = True
        self.store.listeners.append(self._see)
        for name in self.names:
            self.store.create("nodes", self._node(name))

    def _node(self, name):
        info = {
            "architecture": os.uname().machine.replace("x86_64", "amd64"),
            "operatingSystem": "linux",
            "kubeletVersion": "v1.36.2",
        }
        info |= {
            "containerRuntimeVersion": "containerd://2.1.9",
            "osImage": "Debian GNU/Linux 13 (trixie)",
            "kernelVersion": os.uname().release,
        }
        addresses = [{"type": "InternalIP", "address": self.network.address}, {"type": "Hostname", "address": name}]
        ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "kubelet is posting ready status"}
        labels = {"kubernetes.io/hostname": name, "kubernetes.io/arch": info["architecture"], "kubernetes.io/os": "linux"}
        status = {"addresses": addresses, "conditions": [ready], "nodeInfo": info}
        return {"metadata": {"name": name, "labels": labels}, "spec": {}, "status": status}

    # What comes of changes

    def _see(self, event):
        """A listener of the store: starts and wakes the threads of pods."""
        if event.key[0] != "pods":
            return
        pod = event.after or event.before
        with self._lock:
            run = self._pods.get(pod["metadata"]["uid"])
            if event.after and run is None and pod["spec"].get("nodeName") and not self.is_closing:
                run = self._pods[pod["metadata"]["uid"]] = PodRun(self, pod, self.folder / f"{event.key[2]}-{suffix()}")
                run.start()
            if event.after is None:
                self._pods.pop(pod["metadata"]["uid"], None)
        if run and not _is_status_alone(event):
            run.wake()

    def run_of(self, pod):
        with self._lock:
            return self._pods.get(pod["metadata"]["uid"])

    def wake_all(self):
        with self._lock:
            runs = list(self._pods.values())
        for run in runs:
            run.wake()

    def fill_in(self, resource, found):
        """What a server and a scheduler write into a new object."""
        spec, metadata = found.setdefault("spec", {}), found["metadata"]
        if resource == "namespaces":
            metadata.setdefault("labels", {})["kubernetes.io/metadata.name"] = metadata["name"]
            spec.setdefault("finalizers", ["kubernetes"])
            found["status"] = {"phase": "Active"}
        elif resource == "services":
            self._fill_in_service(spec)
            found["status"] = {"loadBalancer": {}}
        elif resource == "pods":
            for key, value in (("restartPolicy", "Always"), ("terminationGracePeriodSeconds", 30), ("dnsPolicy", "ClusterFirst"),
                               ("serviceAccountName", "default"), ("securityContext", {}), ("enableServiceLinks", True)):  # fmt: skip
                spec.setdefault(key, value)
            for container in spec["containers"]:
                pod_rules.with_defaults(container)
            found["status"] = {"phase": "Pending", "qosClass": "BestEffort"}
            if self.is_scheduling:
                spec.setdefault("nodeName", self.names[next(self._turn) % len(self.names)])

    def _fill_in_service(self, spec):
        kind = spec.setdefault("type", "ClusterIP")
        if kind != "ExternalName":
            address = spec.setdefault("clusterIP", self.network.service_address())
            spec["clusterIPs"] = [address]
            spec |= {"ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack", "internalTrafficPolicy": "Cluster"}
        spec.setdefault("sessionAffinity", "None")
        for port in spec.get("ports", []):
            port.setdefault("protocol", "TCP")
            port.setdefault("targetPort", port["port"])
            if kind in ("NodePort", "LoadBalancer"):
                port.setdefault("nodePort", next(self._node_port))

    # Images

    def has_image(self, image):
        known = image == ORIGINAL_IMAGE or "kl-sidecar" in image
        return known and image not in self.absent_images

    @staticmethod
    def image_identity(image):
        return "sha256:" + hashlib.sha256(image.encode()).hexdigest()

    def command(self, container):
        """The words that a container runs, by its image and specification."""
        entry = ["/kl-sidecar"] if "kl-sidecar" in container["image"] else ["/original"]
        return self.words(container.get("command") or entry) + container.get("args", [])

    @staticmethod
    def _original():
        return [sys.executable, "-B", "-S", "-E", str(ORIGINAL)]

    def words(self, command):
        """A command by the paths of its image, in those of this machine."""
        here = {"/kl-sidecar": [str(self.binaries / "kl-sidecar")], "/original": self._original()}
        return here.get(command[0], command[:1]) + command[1:]

    # What the API server asks of a kubelet

    def _container(self, pod, name):
        """The run of a container that is meant, or the failure that a kubelet answers with."""
        if pod["spec"].get("nodeName") in self.away:
            raise dial_error(self)
        run = self.run_of(pod)
        return run.runs.get(name) if run else None

    def exec_command(self, pod, name, command):
        container = self._container(pod, name)
        if container is None or not container.is_running:
            raise failures.PlainFailure(500, f'container not found ("{name}")')
        if shutil.which(self.words(command)[0]) is None:
            raise failures.internal(NOT_THERE.format(command[0]))
        return container.command_inside(self.words(command))

    @staticmethod
    def variables(pod):
        return variables(pod["metadata"]["name"])

    def is_running(self, pod, name):
        container = self._container(pod, name)
        return container is not None and container.is_running

    def log_file(self, pod, name):
        container = self._container(pod, name)
        if container is None:
            run = self.run_of(pod)
            reason = (run.waiting.get(name, {}) if run else {}).get("reason", "ContainerCreating")
            pulls = reason in ("ErrImagePull", "ImagePullBackOff")
            text = "trying and failing to pull image" if pulls else reason
            raise failures.bad_request(f'container "{name}" in pod "{pod["metadata"]["name"]}" is waiting to start: {text}')
        return container.log

    def close(self):
        self.is_closing = True
        with self._lock:
            runs = list(self._pods.values())
        for run in runs:
            run.wake()
        for run in runs:
            run.join(30)
        self.network.close()


def _is_status_alone(event):
    before, after = event.before, event.after
    if before is None or after is None or before["spec"] != after["spec"]:
        return False
    return before["metadata"].get("deletionTimestamp") == after["metadata"].get("deletionTimestamp")
